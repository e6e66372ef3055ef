//! The stages of a snapshot: `plan → capture → chunk → seal → store → commit → record`.
//!
//! Each stage's output can only be made by that stage, so the compiler checks the order. Capture to
//! store run as one stream: entries come from the source in order of path ([`capture`]), are read
//! and cut on several threads and put together again in order ([`chunk`]), sealed and stored behind
//! it (see [`crate::store`]).

pub mod capture;
pub mod chunk;
pub mod commit;
pub mod plan;
pub mod record;
pub mod seal;
pub mod store;

mod assemble;
mod bundles;
mod checkpoint;
mod counts;
mod former;
mod hashing;
mod heads;
mod links;
mod parent;
mod parts;
mod racy;
mod read;
mod segments;
mod stream;
mod track;
mod waiting;

pub use assemble::canonical;
pub use checkpoint::CheckpointRule;
pub(crate) use checkpoint::SIGN_OF_LIFE;
pub use track::PieceLimit;
