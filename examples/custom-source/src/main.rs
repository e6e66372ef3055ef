//! A source of one's own.
fn main() {}
