//! The engine: snapshots are made, looked into, restored, verified and forgotten here.
//!
//! [`Repository`] is an open repository; [`snapshot::snapshot`] makes a snapshot of a
//! [`backup_core::Source`], [`restore::restore`] writes one into a [`backup_core::Target`],
//! [`verify::verify`] looks whether it is what it should be, [`forget::forget`] removes snapshots,
//! [`view::SnapshotView`] looks into one, [`ledger`] keeps the record of it all. Processor work runs
//! on threads of its own, tiers and sources on tokio; everything in flight is bounded.
//!
//! The engine knows no plug-in: sources, targets and sinks come in through the contracts of
//! [`backup_core`].

pub mod analyze;
mod blobs;
pub mod cache;
pub mod cold;
pub mod copy;
pub mod error;
pub mod forget;
pub mod given_up;
mod heads;
pub mod hold;
pub mod index_set;
pub mod init;
pub mod known;
pub mod ledger;
pub mod lineage;
pub mod lost;
pub mod nearest;
pub mod prune;
pub mod repair;
pub mod repository;
pub mod restore;
pub mod rotate;
pub mod select;
pub mod slots;
pub mod snapshot;
pub mod stage;
pub mod state;
pub mod store;
pub mod tree;
pub mod usage;
pub mod verify;
pub mod view;
pub mod warm;

mod announced;
mod beside;
mod claims;
mod collect;
mod configs;
mod contested;
mod data_keys;
mod heirs;
mod listing;
mod pack_end;
mod parity;
mod past;
mod patient;
mod places;
mod presence;
mod refs;
mod remains;
mod remedy;
mod remembered;
mod unindexed;
mod unlock;

pub use beside::Notices;
pub use error::{EngineError, Result};
pub use forget::{ForgetPlan, Forgotten, forget, forget_unread, unsigned};
pub use given_up::{GivenUp, give_up, given_up};
pub use init::{InitRequest, Prepared, prepare};
pub use nearest::{Fallback, Fallbacks};
pub use repository::{Repository, Unlock};
pub use restore::{RestoreJob, RestoreOutcome, restore};
pub use snapshot::{SnapshotJob, SnapshotReport, snapshot};
pub use verify::{EveryChunk, VerifyJob, VerifyOutcome, verify, verify_job};
pub use view::SnapshotView;
