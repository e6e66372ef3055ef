//! The rules of the house, so that a test can hold the workspace to them.
//!
//! Which crate may depend on which ([`edges`]), what source files look like ([`sources`]), what the
//! pages under `docs/` may claim ([`pages`]). Each rule takes a [`Workspace`] and returns what
//! breaks it, in words; a rule that is kept returns nothing. The tests run every rule on this
//! workspace, where nothing may be broken, and on small made-up ones, where each rule must speak.

pub mod edges;
pub mod pages;
pub mod sources;
mod workspace;

pub use workspace::{Package, ReadError, Workspace};
