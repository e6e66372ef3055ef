//! Restores snapshots and looks into them.
fn main() {}
