//! The conformance suite: what any [`Sink`] must do, whatever it is made of.
//!
//! What the suite asks for follows from the contract in [`backup_core::sink`] and from what the sink
//! says that it can do: a capability that is claimed is tried, and one that is not claimed must be
//! refused properly.
//!
//! There are two ways in. A test of a sink calls [`check_sink`], which gives each case a sink on a
//! place of its own. A program that is to try a tier which is in use calls [`check_tier`]: all happens in
//! a fresh folder of the tier ([`below`]), which is taken away behind it, and the tier's speed
//! is measured as well ([`speed`]).

pub mod below;
mod bench;
mod cases;
pub mod dice;
pub mod speed;
mod tier;

use std::sync::Arc;

use backup_core::{ObjectKey, OpContext, Sink};

use bench::Bench;
pub use tier::{CaseReport, CheckFailure, TierReport, Verdict, check_tier};

/// A case that a sink did not pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{case}: {what}")]
pub struct CaseFailure {
    /// The name of the case.
    pub case: &'static str,
    /// What went otherwise than it should.
    pub what: String,
}

/// Runs every case of the suite, each on a sink of its own, and tells which ones were not passed.
///
/// `make` makes a sink on a place that is empty and that no other sink made by it shares. The
/// runtime should have several threads, so that races are races.
pub async fn check_sink(make: impl Fn() -> Arc<dyn Sink>, cx: &OpContext) -> Vec<CaseFailure> {
    let mut failures = Vec::new();
    for case in cases::all() {
        let bench = Bench {
            sink: make(),
            cx: cx.clone(),
            longest_key: ObjectKey::MAX_BYTES,
        };
        if let Err(what) = (case.run)(&bench).await {
            let case = case.name;
            failures.push(CaseFailure { case, what });
        }
    }
    failures
}
