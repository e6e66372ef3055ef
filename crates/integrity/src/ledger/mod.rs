//! The ledger: a hash-chained record of everything that was done to repositories.
//!
//! It is a sequence of JSON lines, one record each. Every record holds the SHA-256 of the line before
//! it and an HMAC by its host's key, so that a record that was changed, dropped, moved, copied,
//! cut off or slipped in is named by [`verify()`]. What a chain cannot tell by itself is whether
//! its end was cut off; for that the last record's number and hash ([`LedgerHead`]) must be kept
//! elsewhere and given to the check; a host that keeps a [`LedgerCopy`] has it there.
//!
//! # A line, version 1
//!
//! A JSON object without spaces, its members in this order, those marked `?` only where they
//! apply. Strings escape what JSON demands and nothing else. A line is at most
//! [`MAX_LINE_BYTES`] long and ends in one newline, which no hash covers.
//!
//! | member | what it is |
//! |---|---|
//! | `v` | `1` |
//! | `seq` | the record's number: 1, 2, 3, … |
//! | `time` | when, by the host's clock: RFC 3339, UTC |
//! | `op` | what was done: [`Op`] |
//! | `host`, `user` | who did it |
//! | `repo` | to which repository: 32 hexadecimal digits |
//! | `snapshot` ? | to which snapshot |
//! | `root` ? | the snapshot's Merkle root: 64 hexadecimal digits |
//! | `counts` | numbers by name, sorted by name |
//! | `outcome` | how it ended: [`RecordOutcome`] |
//! | `note` ? | a sentence for people |
//! | `prev` | SHA-256 of the line before, without its newline; 64 zeros in record 1 |
//! | `hmac` | HMAC-SHA256 under the host's key ([`crate::sign::Purpose::Ledger`]) of this line without this member, that is with `}` in the place of `,"hmac":"…"}` |
//!
//! A line of a higher `v`, or with members that are not these, is not read by this release; it
//! says so instead of guessing.

mod accept;
mod copy;
mod fill;
mod lines;
mod record;
mod report;
mod verify;
mod window;

pub use accept::{
    AcceptedRecords, LostRecords, MAX_ACCEPTED, NotLost, accept_note, accepted_by, is_sealed,
    seal_note,
};
pub use copy::{FreshCopy, LedgerCopy};
pub use fill::{Candidate, Row, fitting};
pub use lines::{Lines, RawLine};
pub use record::{
    Draft, LedgerHead, Line, LineError, LineHash, MAX_LINE_BYTES, Op, OpError, Record,
    RecordOutcome, append,
};
pub use report::{LedgerFault, LedgerFinding, LedgerReport, MAX_FINDINGS};
pub use verify::{Expect, LedgerKeys, LedgerVerifier, verify};

#[cfg(test)]
mod tests;
