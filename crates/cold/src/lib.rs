//! A tier made of two: packs of content on the **cold** one, where keeping is cheap and reading is slow or dear, all the
//! rest on the **hot** one. What is listed, looked up and compared lies on the hot one, so saves, listings and prunes
//! read nothing of the cold one; a restore reads packs there, which may have to be warmed first.
//!
//! [`ColdSink`] stands behind any two sinks and does no I/O of its own: each call goes to the side that the object's
//! name says ([`Side::of`]), a listing of what may lie on both to both. Which of the two an object belongs to follows
//! from its name alone, so what lies on the wrong side is not seen.
//!
//! That a repository is kept like this stands in its config (`docs/format.md`, 3): whoever opens it with the one place
//! and not the other is told so before anything is written or believed lost.

mod side;
mod sink;

pub use side::Side;
pub use sink::{ColdSink, JoinError};
