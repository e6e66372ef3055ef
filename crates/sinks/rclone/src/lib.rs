//! Anything that rclone reaches as a tier: OneDrive, Google Drive, Dropbox, WebDAV, SMB, and what else it knows.
//!
//! The object `data/ab/cdef` is the file `data/ab/cdef` below the path of the remote, so any other tool that reaches the
//! remote can copy or check it.
//!
//! # The child
//! With the first call a sink starts one `rclone`, of its own, which speaks two ways:
//!
//! | way | what for | why |
//! |---|---|---|
//! | `serve restic --stdio`: HTTP/2 over its standard input and output | the bytes of puts | it is told their number, so that nothing is spooled on a disk before it is sent; and rclone ends by itself when this program does, however that ends |
//! | its remote control, HTTP on a port of the loopback interface behind a password made for this child alone | all else: reads, listings, names, hashes, deletions, room | it says what went wrong in words, and lists with whole paths |
//!
//! Secrets are in rclone's own configuration and in the environment of the child, which is that of this process without
//! what would change how rclone works; none is an argument.
//!
//! # What a put does
//! It sends the object to a temporary name, `.tmp/` and 32 random hexadecimal digits, asks for its size and, where the
//! remote has one that is known here, for its hash (or reads it back, see `check`), and then has it moved to its name.
//! A create looks before whether there is an object of that name. That is not one step, so two hosts that create one
//! object at the same time may both be told that they did; the sink says so (`SinkCaps::atomic_create`).
//!
//! # What is there after a crash
//! Under the key stands nothing (or what stood there before), or the whole object. What a killed put leaves is its
//! temporary file; no listing shows it, and `tidy` removes it. On a remote that cannot move over a file rclone deletes
//! the old one before: a replacement that is killed in between leaves nothing.
//!
//! # When rclone or a connection breaks off
//! rclone tries again what its remotes say can be tried again. If it ends, it is started anew and the call is made
//! again. If the answer to a move was lost, the object is read and compared before anybody is told of a conflict.

mod check;
mod child;
mod control;
mod fault;
mod items;
mod log;
mod place;
mod sink;
mod tier;
mod verdict;
mod write;

pub use place::FromLocationError;
pub use sink::{MAX_PUT_BYTES, RcloneSink, register};
