//! The engine on tiers that fail: killed before and behind every change, out of space, with answers
//! lost and repeated. Whatever happens, nothing that was committed is lost, and the next run makes
//! good what is missing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot be set up has failed"
)]

mod crash;
mod ledger;
mod local;
mod restores;
mod space;
mod weather;
mod world;
