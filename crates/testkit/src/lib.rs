//! What the tests of every crate share; a development dependency, never shipped.
//!
//! - [`sink_suite`]: what any [`backup_core::Sink`] must do, as one call;
//! - [`MemSink`]: a tier in memory, the model of the contract;
//! - [`TestClock`]: a clock that a test sets;
//! - [`context`]: surroundings for an operation under test.

mod clock;
mod dice;
mod mem;
pub mod suite;

pub use clock::{TestClock, context};
pub use mem::MemSink;
pub use suite::{CaseFailure, check_sink, sink_suite};
