//! The programs as people and scripts run them: every test starts real processes on real files.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot be set up has failed"
)]

mod absent;
mod access;
mod analyze;
mod audit;
mod beside;
mod check_tier;
mod codes;
mod cold;
mod copy;
mod covered;
mod damage;
mod deep;
mod export;
mod faults;
mod files;
mod first;
mod forget;
mod gone;
mod holds;
mod import;
mod keys;
mod killed;
mod ledger;
mod limits;
mod look;
mod lost;
mod lost_pages;
mod names;
mod nearest;
mod object;
mod overwrite;
mod prune;
mod rclone;
mod repair;
mod roles;
mod room;
mod round_trip;
mod salvage;
mod sftp;
mod streams;
mod sync;
mod terminal;
mod together;
mod trouble;
mod unread;
mod usage;
mod wrong_sum;
