//! What the command-line programs share: common options, keys, output for people and for programs,
//! progress, signals and exit codes. The environment is read here ([`surroundings`]) and nowhere
//! else.

pub mod access;
pub mod audit;
mod cold;
pub mod console;
pub mod exit;
pub mod extras;
pub mod failure;
mod known;
mod limits;
pub mod memory;
mod nearest;
pub mod options;
mod other_place;
mod others;
mod plain;
pub mod progress;
pub mod secrets;
pub mod snapshots;
pub mod start;
pub mod surroundings;
pub mod table;
pub mod text;
mod traffic;
pub mod unfinished;

pub use audit::{Look, signer};
pub use console::Console;
pub use exit::Exit;
pub use failure::{Failure, Outcome};
pub use options::Common;
pub use other_place::OtherPlace;
pub use snapshots::{Filter, SnapshotPath, Snapshots, parse_entry_path, parse_snapshot_path};
pub use start::start;
pub use table::{Align, Table};
