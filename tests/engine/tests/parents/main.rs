//! Sources that build on a parent snapshot by their own knowledge: what they leave out comes from
//! the snapshot that they were told of, whatever the local cache remembers, and from no other.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot be set up has failed"
)]

mod caches;
mod condemned;
mod copied;
mod forged;
mod generations;
mod growth;
mod locked;
mod lost;
mod model;
mod planted;
mod pruned;
mod ranges;
mod source;
mod tables;
mod world;
