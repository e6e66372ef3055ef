//! The engine on tiers that fail: killed before and behind every change, out of space, with answers
//! lost and repeated; and on entries that go wrong, operations that end midway. Whatever happens, nothing that was committed is lost, and the next run makes
//! good what is missing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot be set up has failed"
)]

mod collected;
mod copies;
mod crash;
mod damage;
mod entries;
mod given;
mod heirs;
mod kinds;
mod ledger;
mod local;
mod lost_records;
mod lost_snapshots;
mod midway;
mod moved;
mod nearest;
mod operations;
mod repacked;
mod repair;
mod replaced;
mod restores;
mod revoked;
mod rotten;
mod scattered;
mod small;
mod space;
mod stays;
mod stops;
mod unindexed;
mod unmended;
mod untold;
mod weather;
mod world;
