//! Files and folders: capture and restore.
//!
//! [`FilesSource`] walks folders ([`FilesConfig`] says which and what to leave out) and hands over
//! every kind of thing that a Linux file system holds, with all of its metadata: regular files,
//! directories, symbolic and hard links, devices, pipes, sockets, owners by number and name, times
//! to the nanosecond, extended attributes and with them POSIX ACLs and file capabilities, names of
//! any bytes. Content is not read here: the engine's readers open what they need.
//!
//! [`FilesTarget`] is the way back into a folder ([`FilesTargetConfig`] says how).
//!
//! An entry's path is the absolute path of the file, so `/etc/hosts` is `etc/hosts`; the folders
//! on the way to a root are entries too, with their own metadata and [`CONTENT_ATTR`] set to
//! [`CONTENT_ANCESTOR`].

mod config;
mod content;
mod exclude;
mod findings;
mod handle;
mod register;
mod roots;
mod source;
mod target;
mod walk;

pub use config::FilesConfig;
pub use findings::MAX_FINDINGS;
pub use register::{config_of, register};
pub use roots::without_parents;
pub use source::FilesSource;
pub use target::{FilesTarget, FilesTargetConfig, Holes, Overwrite, Ownership};

/// The kind that manifests name, and the scheme of locations.
pub const KIND: &str = "files";

/// Name of the attribute of a directory whose content is not, or not wholly, in the snapshot. A
/// restore that deletes what the snapshot does not have deletes nothing in such a directory.
pub const CONTENT_ATTR: &str = "content";

/// Attribute of a regular file that says whether it had holes: [`ALLOCATED_WHOLE`] or [`ALLOCATED_PART`]. Without it a
/// restore leaves holes where nothing is written.
pub const ALLOCATED_ATTR: &str = "allocated";

/// Value of [`ALLOCATED_ATTR`]: all of it lay on the disk, zeros too, as that of a swap file must. It is said of files of
/// 64 KiB or more.
pub const ALLOCATED_WHOLE: &str = "whole";

/// Value of [`ALLOCATED_ATTR`]: 4 KiB or more of it did not lie on the disk. A restore leaves holes wherever the content
/// is zero.
pub const ALLOCATED_PART: &str = "part";

/// Value of [`CONTENT_ATTR`]: it stands above a root, and only the way to roots was taken.
pub const CONTENT_ANCESTOR: &str = "ancestor";

/// Value of [`CONTENT_ATTR`]: left out on request (a tag in it, another file system).
pub const CONTENT_LEFT_OUT: &str = "left-out";

/// Value of [`CONTENT_ATTR`]: it could not be read.
pub const CONTENT_UNREADABLE: &str = "unreadable";
