//! The output of a command, or standard input, as one stream.
//!
//! [`CommandSource`] runs a program and hands over what it writes to its standard output as one
//! entry. Only when the program ends well does the capture: one that fails, is killed, or is not
//! read to its end makes [`backup_core::Capture::close`] fail, and so there is no snapshot.
//! [`StdinSource`] does the same with any reader that it is handed.
//!
//! A stream is restored as a regular file, by the target for files.

mod capture;
mod command;
mod config;
mod process;
mod pump;
mod register;
mod stdin;
mod tail;

pub use command::CommandSource;
pub use config::CommandConfig;
pub use register::register;
pub use stdin::StdinSource;

/// The kind that manifests name, and the scheme of locations.
pub const KIND: &str = "command";

/// Name of the attribute of the entry that holds the command, for people.
pub const COMMAND_ATTR: &str = "command";
