//! The programs as people and scripts run them: every test starts real processes on real files.

mod access;
mod codes;
mod damage;
mod forget;
mod look;
mod round_trip;
mod streams;
mod trouble;
