//! A folder on a local disk, or on a NAS that is mounted, as a tier.
//!
//! The object `data/ab/cdef` is the file `data/ab/cdef` below the root; there is nothing else to
//! know about the layout, so any tool can copy, check or repair it. Folders are made when they are
//! first needed, with mode 0700, files with mode 0600, whatever the umask.
//!
//! # What a put does
//! 1. It writes a temporary file, `.tmp-` and 32 random hexadecimal digits, in the folder in which
//!    the object will stand (so that the two are on one file system), and syncs it.
//! 2. It closes the file and asks for its size again.
//! 3. It gives the file its name. A replacement is a `rename(2)`. A create has to be refused when
//!    the name is taken, even if two hosts try at once; see [`CreateBy`] for the ways to do that
//!    and the order in which they are tried.
//! 4. It syncs the folder. Where the folder itself is new, or was never synced by this sink, the
//!    folder above is synced too.
//!
//! # What is there after a crash
//! Whatever happens, and on every way: under the key stands nothing (or what stood there before),
//! or the whole object. A put that was acknowledged is durable. What a killed put leaves is its
//! temporary file; it is no object, no listing shows it, and [`LocalSink::sweep_temporaries`]
//! removes it (as `tidy`, which the engine calls when it forgets). No way ever gives a name to a file that has not been written and synced, so an
//! empty file under a key is an empty object and not the rest of something else.
//!
//! Deletes are synced as well: of two objects that are deleted one after the other, a power cut
//! never brings back the first alone.
//!
//! # What is not followed
//! The root may be a symbolic link. Below it no link is followed, neither as a folder nor as an
//! object: whoever can write to the folder must not be able to point the backup elsewhere.

mod create_by;
mod fault;
mod folder;
mod mount;
mod place;
mod read;
mod sink;
mod walk;
mod write;

pub use create_by::CreateBy;
pub use place::{FromLocationError, register};
pub use sink::{LocalSink, MAX_PUT_BYTES, Swept};
