//! Retention: which snapshots stay and which may go, and why. Pure functions: no clock, no I/O,
//! the same answer for the same input in whatever order it comes.
//!
//! - [`KeepPolicy`]: the rules (last, hourly … yearly, within, tags, for ever) and what they mean;
//! - [`PolicySet`]: several of them side by side, each for the snapshots of one label;
//! - [`decide_lines`]: a policy over all snapshots of a repository, line by line;
//! - [`guard`]: what is never forgotten, whatever a policy says;
//! - [`decide_named`]: snapshots that a person names;
//! - [`newest_per`]: of each day, week, month … the newest, for whoever copies only some;
//! - [`VersionPolicy`]: the versions of one file.
//!
//! # The time of a snapshot
//! A snapshot counts from when it was made as far as the repository's ledger bears that out
//! ([`backup_core::SnapshotMeta::first_seen`]), if that is known, and from the time that its writer
//! claims otherwise; never from later than now. So a writer that is
//! compromised, or whose clock is wrong, can neither push good snapshots out of their slots by
//! dating its own back, nor let them fall out of a span by dating its own ahead.

mod count;
mod guard;
mod line;
mod lines;
mod newest;
mod policy;
mod rules;
mod slot;
mod span;
mod versions;

pub use count::{Count, ParseCountError};
pub use guard::guard;
pub use lines::{Line, decide_lines, decide_named, group_lines, last_good};
pub use newest::{NewestPer, ParseNewestPerError, newest_per};
pub use policy::{EmptyPolicy, KeepPolicy, PolicySet};
pub use slot::{Period, WeekStart};
pub use span::{ParseSpanError, Span};
pub use versions::{FileVersion, VersionPolicy};
