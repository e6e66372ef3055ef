//! Backup and restore from another program.
fn main() {}
