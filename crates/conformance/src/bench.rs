//! What cases are written with: a sink under test, and the questions that they put to it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use backup_core::{
    ByteRange, ErrorKind, KeyRange, ObjectKey, ObjectMeta, OpContext, PutMode, Sink, SinkError,
    Warmth,
};
use bytes::Bytes;
use futures::TryStreamExt;

/// What a case answers: nothing, or what was wrong.
pub(crate) type Checked = Result<(), String>;

/// Fails the case, with a reason, when a condition does not hold.
macro_rules! ensure {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err(format!($($why)+));
        }
    };
}
pub(crate) use ensure;

/// A sink under test with the calls that cases make of it.
pub(crate) struct Bench {
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) cx: OpContext,
    /// The longest key that there is room for, in bytes.
    pub(crate) longest_key: usize,
}

impl Bench {
    pub(crate) async fn put(
        &self,
        key: &str,
        body: impl Into<Bytes> + Send,
    ) -> Result<ObjectMeta, String> {
        self.put_as(key, body, PutMode::Create)
            .await
            .map_err(|error| told(&error))
    }

    pub(crate) async fn put_as(
        &self,
        key: &str,
        body: impl Into<Bytes> + Send,
        mode: PutMode,
    ) -> Result<ObjectMeta, SinkError> {
        self.sink
            .put(&self.cx, &named(key), body.into(), mode)
            .await
    }

    pub(crate) async fn get(&self, key: &str, range: ByteRange) -> Result<Bytes, SinkError> {
        if self.sink.info().caps.cold {
            while let Warmth::ReadyIn(wait) = self.sink.warm(&self.cx, &[named(key)]).await? {
                tokio::time::sleep(wait).await;
            }
        }
        self.sink.get(&self.cx, &named(key), range).await
    }

    /// Holds when the object is just this.
    pub(crate) async fn holds(&self, key: &str, body: &[u8]) -> Checked {
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
    pub(crate) async fn lacks(&self, key: &str) -> Checked {
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
    pub(crate) async fn lists(
        &self,
        prefix: &str,
        after: Option<&str>,
        wanted: &[&str],
    ) -> Checked {
        let range = KeyRange {
            prefix: prefix.to_owned(),
            after: after.map(named),
        };
        self.shows(&[range], false, wanted).await
    }

    /// The same of several ranges that are listed together, where the sink does that.
    pub(crate) async fn lists_together(&self, ranges: &[KeyRange], wanted: &[&str]) -> Checked {
        self.shows(ranges, true, wanted).await
    }

    async fn shows(&self, ranges: &[KeyRange], together: bool, wanted: &[&str]) -> Checked {
        let wanted: BTreeSet<&str> = wanted.iter().copied().collect();
        let mut left = self.sink.info().caps.settle;
        loop {
            let mut found = Vec::new();
            if together {
                let Some(listing) = self.sink.list_together(&self.cx, ranges) else {
                    return Ok(());
                };
                match listing.try_collect::<Vec<_>>().await {
                    Ok(listed) => found.extend(listed),
                    // It is listed one by one then.
                    Err(error) if error.kind == ErrorKind::Unsupported => return Ok(()),
                    Err(error) => return Err(told(&error)),
                }
            } else {
                for range in ranges {
                    let listing = self
                        .sink
                        .list(&self.cx, &range.prefix, range.after.as_ref());
                    let listed = listing.try_collect::<Vec<_>>().await;
                    found.extend(listed.map_err(|error| told(&error))?);
                }
            }
            let names: BTreeSet<&str> = found.iter().map(|meta| meta.key.as_str()).collect();
            ensure!(
                names.len() == found.len(),
                "list {ranges:?} names an object twice"
            );
            if names == wanted {
                return Ok(());
            }
            ensure!(
                !left.is_zero(),
                "list {ranges:?}: {:?} too many, {:?} missing",
                names.difference(&wanted).collect::<Vec<_>>(),
                wanted.difference(&names).collect::<Vec<_>>()
            );
            let nap = left.min(Duration::from_secs(1));
            tokio::time::sleep(nap).await;
            left -= nap;
        }
    }

    pub(crate) async fn listing(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<Vec<ObjectMeta>, String> {
        let after = after.map(named);
        let listing = self.sink.list(&self.cx, prefix, after.as_ref());
        listing.try_collect().await.map_err(|error| told(&error))
    }
}

pub(crate) fn named(key: &str) -> ObjectKey {
    match ObjectKey::new(key) {
        Ok(key) => key,
        Err(error) => panic!("the suite uses a bad key: {error}"),
    }
}

pub(crate) fn told(error: &SinkError) -> String {
    format!("{error} ({:?})", error.kind)
}

pub(crate) fn differs(found: &[u8], wanted: &[u8]) -> String {
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

pub(crate) fn expect_kind<T: fmt::Debug>(
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
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&crate::dice::step(&mut state).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
