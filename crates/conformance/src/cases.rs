//! The cases of the suite, and the table of them.

mod caps;
mod list;
mod object;
mod put;

use std::future::Future;
use std::pin::Pin;

use backup_core::SinkCaps;

use crate::bench::{Bench, Checked};

type Run = for<'a> fn(&'a Bench) -> Pin<Box<dyn Future<Output = Checked> + Send + 'a>>;

/// One question that is put to a sink.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: Run,
    /// Whether the sink claims the capability that the case is about. Where it does not, the case sees
    /// that it is refused.
    pub(crate) is_claimed: fn(SinkCaps) -> bool,
}

/// Writes the table of cases; `if` names the capability that a case is about.
macro_rules! cases {
    ($($name:ident $(if $capability:ident)?),* $(,)?) => {
        pub(super) const CASES: &[$crate::cases::Case] = &[$($crate::cases::Case {
            name: stringify!($name),
            run: |bench| Box::pin($name(bench)),
            is_claimed: |_caps| true $(&& _caps.$capability)?,
        }),*];
    };
}
use cases;

/// All cases.
pub(crate) fn all() -> impl Iterator<Item = &'static Case> {
    [object::CASES, put::CASES, list::CASES, caps::CASES]
        .into_iter()
        .flatten()
}
