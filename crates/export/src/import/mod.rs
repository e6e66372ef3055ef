//! The way back: exports, archives and dumps that lie in files, as sources of snapshots.
//!
//! [`scan::scan`] finds what there is at a path; [`item::Item`] says what a snapshot of it would be called, when it was
//! made, and by which mark one tells that it was imported before. [`dump::DumpSource`] reads one dump,
//! unpacked, so that it shares what it has in common with its neighbours; [`archive::ArchiveSource`] reads
//! an archive without unpacking it, also one that holds whole exports; [`below::Below`] takes the folder that a tree
//! lies in off its paths.

pub mod archive;
pub mod below;
pub mod date;
pub mod dump;
pub mod item;
pub mod scan;

mod decode;
mod headers;
mod index;
mod opened;
mod packed;
mod packing;
mod pump;
mod span;
mod sparse;

pub use archive::{ArchiveSource, Lies};
pub use below::Below;
pub use date::DateFrom;
pub use dump::DumpSource;
pub use item::{Archives, Item, What};
pub use opened::Opened;
pub use packing::Packing;
pub use scan::scan;

use backup_core::Consistency;
use jiff::Timestamp;

/// The kind of the sources of this module, as manifests name it.
pub const KIND: &str = "import";
/// What they are: read one after another, from files that keep still.
const CONSISTENCY: Consistency = Consistency::Crash;

/// A time of a file.
pub(crate) fn file_time(at: Timestamp) -> backup_core::FileTime {
    let nanos = at.as_nanosecond();
    backup_core::FileTime {
        seconds: i64::try_from(nanos.div_euclid(1_000_000_000)).unwrap_or(0),
        nanos: u32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0),
    }
}
