//! Saves, lists, forgets and verifies snapshots.
fn main() {}
