//! What the tests of every crate share; a development dependency, never shipped.
//!
//! - [`sink_suite`]: what any [`backup_core::Sink`] must do, as one call;
//!   the cases themselves are in [`backup_conformance`], for `snapshot check-tier` runs them too;
//! - [`MemSink`]: a tier in memory, the model of the contract;
//! - [`FaultSink`]: a tier that fails by rules, and dies at a chosen change;
//! - [`EventualSink`]: a tier that shows changes late;
//! - [`LockedSink`]: a tier whose objects cannot be deleted or replaced before their time;
//! - [`RecordingSink`]: a tier that writes down what is asked of it;
//! - [`TestClock`]: a clock that a test sets;
//! - [`context`]: surroundings for an operation under test.
//!
//! The wrappers take any sink and are sinks, so they can be stacked: what the tier was really
//! asked is written down by a [`RecordingSink`] below a [`FaultSink`], what the engine asked by one
//! above it.

mod clock;
mod eventual;
mod fault;
mod locked;
mod mem;
mod op;
mod recording;
mod suite;

pub use backup_conformance::CaseFailure;
pub use clock::{TestClock, context};
pub use eventual::{EventualSink, Lag};
pub use fault::{Crash, Fault, FaultSink, Injected, Rule, When, seed};
pub use locked::LockedSink;
pub use mem::MemSink;
pub use op::Op;
pub use recording::{Call, Outcome, RecordingSink};
pub use suite::{check_sink, sink_suite};
