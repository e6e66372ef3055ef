//! The collection of garbage as a model whose every state a checker visits.
//!
//! Writers, collectors, repackers, mergers of the index, a reader, a tidier and whoever forgets snapshots share a
//! tier that can create, read, list and delete, and nothing else. Each step of the model is one operation
//! on it, and any actor may take the next one: so an actor that is killed, sleeps for a month or
//! has a wrong clock is one that takes no step for a while, or never again. A list is read page by page,
//! and what is created or deleted meanwhile is seen or not. What is meant by each step, and what the
//! checker found, stands in `docs/design/0002-garbage-collection.md`.
//!
//! [`Rules`] are what the safety rests on, each a switch; [`Scope`] says who takes part; [`check`] visits
//! every state and tells what it [`Found`].

mod check;
mod collector;
mod merger;
mod model;
mod reader;
mod repacker;
mod rules;
mod tidier;
mod tier;
mod writer;

pub use check::{Found, Way, check, shortest};
pub use model::{LOST, REACHED, Scope, UNMARKED, UNREAD, VOID};
pub use rules::Rules;
