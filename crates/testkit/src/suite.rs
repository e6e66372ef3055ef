//! The conformance suite: what any [`Sink`] must do, whatever it is made of.
//!
//! A crate with a sink calls [`sink_suite`] in one test. What the suite asks for follows from the
//! contract in [`backup_core::sink`] and from what the sink says that it can do: a capability that
//! is claimed is tried, and one that is not claimed must be refused properly.

mod caps;
mod list;
mod object;
mod put;

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use backup_core::{
    ByteRange, ErrorKind, ObjectKey, ObjectMeta, OpContext, PutMode, Sink, SinkError, Warmth,
};
use bytes::Bytes;
use futures::TryStreamExt;

use crate::clock::context;

/// A case that a sink did not pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{case}: {what}")]
pub struct CaseFailure {
    /// The name of the case.
    pub case: &'static str,
    /// What went otherwise than it should.
    pub what: String,
}

/// What a case answers: nothing, or what was wrong.
type Checked = Result<(), String>;
type Case = for<'a> fn(&'a Bench) -> Pin<Box<dyn Future<Output = Checked> + Send + 'a>>;

/// Fails the case, with a reason, when a condition does not hold.
macro_rules! ensure {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err(format!($($why)+));
        }
    };
}
pub(crate) use ensure;

/// Writes cases and the table of them.
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        pub(super) const CASES: &[(&str, super::Case)] =
            &[$((stringify!($name), |bench| Box::pin($name(bench)))),*];
    };
}
pub(crate) use cases;

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
    let mut failures = Vec::new();
    for (case, run) in [object::CASES, put::CASES, list::CASES, caps::CASES].concat() {
        let bench = Bench {
            sink: make(),
            cx: context(),
        };
        if let Err(what) = run(&bench).await {
            failures.push(CaseFailure { case, what });
        }
    }
    failures
}

/// A sink under test with the calls that cases make of it.
struct Bench {
    sink: Arc<dyn Sink>,
    cx: OpContext,
}

impl Bench {
    async fn put(&self, key: &str, body: impl Into<Bytes> + Send) -> Result<ObjectMeta, String> {
        self.put_as(key, body, PutMode::Create)
            .await
            .map_err(|error| told(&error))
    }

    async fn put_as(
        &self,
        key: &str,
        body: impl Into<Bytes> + Send,
        mode: PutMode,
    ) -> Result<ObjectMeta, SinkError> {
        self.sink
            .put(&self.cx, &named(key), body.into(), mode)
            .await
    }

    async fn get(&self, key: &str, range: ByteRange) -> Result<Bytes, SinkError> {
        if self.sink.info().caps.cold {
            while let Warmth::ReadyIn(wait) = self.sink.warm(&self.cx, &[named(key)]).await? {
                tokio::time::sleep(wait).await;
            }
        }
        self.sink.get(&self.cx, &named(key), range).await
    }

    /// Holds when the object is just this.
    async fn holds(&self, key: &str, body: &[u8]) -> Checked {
        let found = self
            .get(key, ByteRange::Full)
            .await
            .map_err(|error| told(&error))?;
        ensure!(found == body, "get {key}: {}", differs(&found, body));
        let meta = self
            .sink
            .head(&self.cx, &named(key))
            .await
            .map_err(|error| told(&error))?;
        ensure!(
            meta.size == body.len() as u64,
            "head {key}: {meta:?}, put {} bytes",
            body.len()
        );
        ensure!(
            meta.key.as_str() == key,
            "head {key} answers for {}",
            meta.key
        );
        Ok(())
    }

    /// Holds when there is no such object.
    async fn lacks(&self, key: &str) -> Checked {
        let head = self.sink.head(&self.cx, &named(key)).await;
        expect_kind(head, ErrorKind::NotFound, &format!("head {key}"))?;
        for range in [
            ByteRange::Full,
            ByteRange::Suffix(4),
            ByteRange::Span {
                offset: 0,
                length: 0,
            },
        ] {
            let got = self.get(key, range).await;
            expect_kind(got, ErrorKind::NotFound, &format!("get {key} {range:?}"))?;
        }
        Ok(())
    }

    /// Holds when a listing shows these and no others, each once; waits for as long as the sink
    /// says that its listings may lag.
    async fn lists(&self, prefix: &str, after: Option<&str>, wanted: &[&str]) -> Checked {
        let wanted: BTreeSet<&str> = wanted.iter().copied().collect();
        let mut left = self.sink.info().caps.settle;
        loop {
            let found = self.listing(prefix, after).await?;
            let names: BTreeSet<&str> = found.iter().map(|meta| meta.key.as_str()).collect();
            ensure!(
                names.len() == found.len(),
                "list {prefix:?} names an object twice"
            );
            if names == wanted {
                return Ok(());
            }
            ensure!(
                !left.is_zero(),
                "list {prefix:?} after {after:?}: {:?} too many, {:?} missing",
                names.difference(&wanted).collect::<Vec<_>>(),
                wanted.difference(&names).collect::<Vec<_>>()
            );
            let nap = left.min(Duration::from_secs(1));
            tokio::time::sleep(nap).await;
            left -= nap;
        }
    }

    async fn listing(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectMeta>, String> {
        let after = after.map(named);
        let listing = self.sink.list(&self.cx, prefix, after.as_ref());
        listing.try_collect().await.map_err(|error| told(&error))
    }
}

fn named(key: &str) -> ObjectKey {
    match ObjectKey::new(key) {
        Ok(key) => key,
        Err(error) => panic!("the suite uses a bad key: {error}"),
    }
}

fn told(error: &SinkError) -> String {
    format!("{error} ({:?})", error.kind)
}

fn differs(found: &[u8], wanted: &[u8]) -> String {
    let same = found
        .iter()
        .zip(wanted)
        .take_while(|(found, wanted)| found == wanted)
        .count();
    format!(
        "{} bytes for {}, the same up to byte {same}",
        found.len(),
        wanted.len()
    )
}

fn expect_kind<T: fmt::Debug>(
    answer: Result<T, SinkError>,
    kind: ErrorKind,
    what: &str,
) -> Checked {
    match answer {
        Err(error) if error.kind == kind => Ok(()),
        Err(error) => Err(format!("{what}: {} instead of {kind:?}", told(&error))),
        Ok(answer) => {
            let mut answer = format!("{answer:?}");
            answer.truncate(answer.floor_char_boundary(200));
            Err(format!("{what}: {answer} instead of {kind:?}"))
        }
    }
}

/// Bytes that look like nothing and that differ with `seed`.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&crate::dice::step(&mut state).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
