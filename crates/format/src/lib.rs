//! The repository format, version 1: pure functions between values and bytes.
//!
//! No I/O, no clock; randomness only for keys and nonces. Everything read here is untrusted: a
//! decoder never panics and never allocates more than its input could fill.
//!
//! A stream is cut into pieces and gathered into chunks ([`chunk`]); chunks are sealed ([`seal`])
//! into packs ([`pack`]), found again through runs of the index ([`index`]); entries are records
//! ([`record`]) whose content is a list of extents ([`extent`]), kept in trees of pages ([`page`]);
//! what a writer needs to build on a parent is its lineage ([`lineage`]); a snapshot object
//! ([`snapshot`]) names the roots and is the only commit point; [`refs`] say what it uses.
//! [`layout`] names the objects on a tier. `docs/format.md` states every byte.

// Lengths are checked against the limits of the format (16 MiB for blobs, 512 MiB for packs) before
// they are narrowed; the limits stand beside each cast's type.
#![allow(clippy::cast_possible_truncation)]

pub mod chunk;
pub mod collect;
pub mod config;
pub mod extent;
pub mod extra;
pub mod index;
pub mod keys;
pub mod layout;
pub mod lineage;
pub mod pack;
pub mod page;
pub mod record;
pub mod refs;
pub mod seal;
pub mod session;
pub mod snapshot;
pub mod wire;
