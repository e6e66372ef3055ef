//! Parity sidecars: what an object needs beside it so that it can be made whole when a part of it was
//! destroyed. Pure functions between bytes and bytes; no key is needed, and nothing is known of what is in
//! the object.
//!
//! An object is cut into *data shards* of equal size, the last one filled up with zeros. From these come
//! *recovery shards* by a Reed–Solomon code: whichever shards are lost, as many whole recovery shards as
//! there are damaged data shards make it whole again. The sidecar holds the recovery shards, and a check sum of every
//! shard of both kinds, so that damage is located and is no worse than absence: see [`layout`]. What comes
//! out of [`Sidecar::mend`] hashes to the SHA-256 that the sidecar names, or there is an error.
//!
//! The code works on each column of the shards by itself, so both ways go through an object in slices of
//! four megabytes: beside the object and its sidecar that is all the memory there is.

mod encode;
pub mod layout;
mod mend;

pub use encode::{encode, encode_known, encode_whole};
pub use layout::{MAX_OBJECT, Share};
pub use mend::{Condition, Sidecar};

/// Why something cannot be protected, or mended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParityError {
    /// There is no parity for objects of that length.
    #[error("there is no parity for an object of {0} bytes")]
    Length(u64),
    /// A share that cannot be one.
    #[error("a share of parity is from 1 to 50 percent")]
    Share,
    /// It is not a sidecar, or so damaged that it says nothing.
    #[error("the parity is damaged: {0}")]
    Damaged(&'static str),
    /// It was written by a version that came after this one.
    #[error("the parity has version {0}, this Backstay knows version 1")]
    Newer(u16),
    /// More is damaged than can be made good.
    #[error(
        "{damaged} of {shards} shards are damaged, and the parity that is whole makes good {spare}"
    )]
    Beyond {
        /// Data shards that are damaged or missing.
        damaged: usize,
        /// All data shards.
        shards: usize,
        /// Recovery shards that are whole.
        spare: usize,
    },
    /// All shards have their check sums, and yet the whole is another object: the sidecar does not belong
    /// to it.
    #[error("what the parity makes of it is not the object that it names")]
    Mismatch,
    /// The code refused, which for a sound layout it does not.
    #[error("Reed-Solomon: {0}")]
    Code(String),
}

impl From<reed_solomon_simd::Error> for ParityError {
    fn from(error: reed_solomon_simd::Error) -> Self {
        Self::Code(error.to_string())
    }
}
