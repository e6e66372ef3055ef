//! Plain exports: a snapshot as files that people without Backstay can read, and the way back.
//!
//! [`export::export`] builds a folder beside its place and gives it its name when it is whole: the
//! components of the snapshot as trees or archives, `metadata.json`, `SHA256SUMS`. Archives go through
//! one pipe, `entries → headers and chunks → compress → encrypt → hash → file`, a few blocks at a time.
//! Trees are restored by the engine into whatever [`backup_core::Target`] the caller hands in.
//!
//! [`import`] reads such exports, archives and dumps of other tools as [`backup_core::Source`]s.
//! `docs/export.md` says what an export looks like.

pub mod error;
pub mod export;
pub mod import;
pub mod metadata;
pub mod sums;
pub mod wrap;

mod archive;
mod folded;
mod header;
mod name;
mod pipe;
mod place;
mod previous;
mod stop;
mod tree;

pub use error::{ExportError, Result};
pub use export::{ExportJob, ExportOutcome, ExportPlan, Layout, export, plan};
pub use metadata::Metadata;
pub use name::{folder_name, quarter};
pub use place::{LATEST, Latest};
pub use wrap::Wrap;
