//! Keys: what the holder of each can do with everything that lies on the tier, slots that are changed,
//! and keys that are rotated, with the process killed at any change.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot be set up has failed"
)]

mod attack;
mod changes;
mod reseal;
mod roles;
mod rotation;
mod world;
mod wraps;
