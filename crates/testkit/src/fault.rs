//! Sinks that fail on purpose: a wrapper around any sink, the rules by which it fails, and the
//! point at which it dies for good.

mod rule;
mod sink;
mod state;

pub use rule::{Crash, Fault, Injected, Rule, When, seed};
pub use sink::FaultSink;
