//! Evidence: what lets somebody believe a backup without believing whoever shows it.
//!
//! - [`digest`]: SHA-256 of content, and the lines that `sha256sum -c` checks.
//! - [`canonical`]: the one encoding of an entry that is hashed into a snapshot's root.
//! - [`merkle`]: the root over all entries of a snapshot, and proofs that one of them is below it.
//! - [`statement`]: what a host says about a snapshot and signs.
//! - [`sign`]: HMAC-SHA256 and Ed25519 signatures by a host's keys.
//! - [`proof`]: a small file that proves one entry to somebody who has neither the repository nor
//!   a key.
//! - [`ledger`]: the hash-chained record of everything that was done.
//!
//! Everything here but [`ledger::LedgerCopy`] is pure: bytes in, bytes out. Every encoding is
//! defined byte for byte where it stands and held by test vectors; format version 1 is read for
//! ever.

#[macro_use]
mod hexbytes;
pub mod canonical;
pub mod digest;
pub mod ledger;
pub mod merkle;
pub mod proof;
pub mod sign;
pub mod statement;
mod wire;

pub use hexbytes::HexError;
