//! What the end-to-end tests stand on: the built programs, a place for each test, and trees of files
//! that can be compared in every detail.

pub mod place;
pub mod programs;
pub mod tree;

pub use place::Place;
pub use programs::{Run, restore, snapshot};
pub use tree::{Node, read_tree};
