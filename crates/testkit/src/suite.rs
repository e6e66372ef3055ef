//! The suite of sinks as one call of a test.

use std::sync::Arc;

use backup_conformance::CaseFailure;
use backup_core::Sink;

use crate::clock::context;

/// Runs every case of the suite, each on a sink of its own.
///
/// `make` makes a sink on a place that is empty and that no other sink made by it shares. The
/// runtime should have several threads, so that races are races.
///
/// # Panics
/// When a case is not passed; the message names all of them.
pub async fn sink_suite(make: impl Fn() -> Arc<dyn Sink>) {
    let failures = check_sink(make).await;
    let text: String = failures
        .iter()
        .map(|failure| format!("\n  {failure}"))
        .collect();
    assert!(
        failures.is_empty(),
        "the sink fails {} cases:{text}",
        failures.len()
    );
}

/// Runs every case of the suite, each on a sink of its own (see [`sink_suite`]), and tells which
/// ones were not passed.
pub async fn check_sink(make: impl Fn() -> Arc<dyn Sink>) -> Vec<CaseFailure> {
    backup_conformance::check_sink(make, &context()).await
}
