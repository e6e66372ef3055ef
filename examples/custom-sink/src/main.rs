//! A sink of one's own.
fn main() {}
