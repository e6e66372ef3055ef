//! A folder on any SSH server as a tier.
//!
//! The object `data/ab/cdef` is the file `data/ab/cdef` below the root, as on a local disk: any tool on the server can
//! copy, check or repair it, and the folder can be used as a local one there. Folders are made when they are first
//! needed, with mode 0700, files with mode 0600.
//!
//! SSH is spoken by `russh`; SFTP, version 3 with OpenSSH's extensions, is spoken here, since what counts on a long line
//! is what can be sent without waiting for an answer.
//!
//! # What goes over the line
//! Each line is one wait for the server; what stands in it goes out at once.
//!
//! | call | waits |
//! |---|---|
//! | put | make a temporary file, look whether the name is taken, open the folder · write all, `fsync`, close, ask for the size · link (or rename), remove the temporary name, `fsync` the folder |
//! | get | ask for the size, open · read all, close |
//! | head | ask for the size |
//! | list | for each level of folders: open · read names until there are no more, close |
//! | delete | remove, open the folder · `fsync` the folder |
//!
//! The first put on a connection whose server is not known to link needs one more.
//!
//! # What a put does
//! It writes a temporary file, `.tmp-` and 32 random hexadecimal digits, in the folder in which the object will stand,
//! syncs it and compares its size. Only then it gets its name: by `posix-rename@openssh.com` for a replacement, by
//! `hardlink@openssh.com` for a create, which has one winner on every server. A server that has no links gets the plain
//! rename of SFTP, which OpenSSH does not do over a file that is there; of others that is not known, and the sink says
//! so (`SinkCaps::atomic_create`). The folder is synced where the server opens folders as files, as OpenSSH on Linux
//! does; without `fsync@openssh.com` nothing is synced, and a power cut at the server may cost the last objects.
//!
//! # What is there after a crash
//! Under the key stands nothing (or what stood there before), or the whole object. What a killed put leaves is its
//! temporary file; no listing shows it, and `tidy` removes it.
//!
//! # When a connection breaks off
//! It is made again, a few times with pauses that grow, and the call is made again. If the answer to a link or rename
//! was lost, the object may be there: then it is read and compared before anybody is told of a conflict.
//! The temporary files of such calls are removed first on the next connection: a server that only hung may still carry
//! out what it was sent, and a file without its temporary name gets no other.

mod client;
mod config;
mod fault;
mod folder;
mod jump;
mod known_hosts;
mod login;
mod pool;
mod read;
mod session;
mod sink;
mod ssh;
mod surroundings;
mod walk;
mod wire;
mod write;

pub use config::FromLocationError;
pub use sink::{MAX_PUT_BYTES, SftpSink, register};
pub use surroundings::Surroundings;
