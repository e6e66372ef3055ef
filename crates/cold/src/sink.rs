//! The two as one sink.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backup_core::{
    ByteRange, KeyRange, ObjectKey, ObjectMeta, OpContext, PutMode, Room, Sink, SinkCaps,
    SinkError, SinkInfo, Temperature, Traffic, Warmth,
};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use jiff::Timestamp;

use crate::side::Side;

/// Why two places cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// They are one place, or one lies in the other.
    #[error(
        "the packs would lie at {cold}, which is not apart from {hot}: name behind `cold=` a place that neither holds the other nor lies in it"
    )]
    NotApart {
        /// The one place.
        hot: String,
        /// The other.
        cold: String,
    },
    /// One of the two is made of two already.
    #[error("{0} is made of two places already")]
    Nested(String),
}

/// Packs of content on one tier, all the rest on another. See the [crate's page](crate).
#[derive(Debug, Clone)]
pub struct ColdSink {
    hot: Arc<dyn Sink>,
    cold: Arc<dyn Sink>,
}

impl ColdSink {
    /// One sink of two.
    ///
    /// # Errors
    /// [`JoinError`].
    pub fn new(hot: Arc<dyn Sink>, cold: Arc<dyn Sink>) -> Result<Self, JoinError> {
        let (one, other) = (hot.info(), cold.info());
        for info in [&one, &other] {
            if info.is_split {
                return Err(JoinError::Nested(info.location.clone()));
            }
        }
        let (hot_at, cold_at) = (one.location, other.location);
        if is_within(&hot_at, &cold_at) || is_within(&cold_at, &hot_at) {
            return Err(JoinError::NotApart {
                hot: hot_at,
                cold: cold_at,
            });
        }
        Ok(Self { hot, cold })
    }

    fn at(&self, side: Side) -> &Arc<dyn Sink> {
        match side {
            Side::Hot => &self.hot,
            Side::Cold => &self.cold,
        }
    }

    fn side_of(&self, key: &ObjectKey) -> &Arc<dyn Sink> {
        self.at(Side::of(key.as_str()))
    }
}

/// Whether a place is another, or lies in it. What stands behind the `?` of a bucket says on which server it is.
fn is_within(inner: &str, outer: &str) -> bool {
    let (inner, inner_at) = inner.split_once('?').unwrap_or((inner, ""));
    let (outer, outer_at) = outer.split_once('?').unwrap_or((outer, ""));
    let outer = outer.trim_end_matches('/');
    let below = inner.trim_end_matches('/').strip_prefix(outer);
    inner_at == outer_at && below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
}

/// Both places as one location, which can be read back.
fn joined(hot: &str, cold: &str) -> String {
    let sign = if hot.contains('?') { '&' } else { '?' };
    let mut out = format!("{hot}{sign}cold=");
    for letter in cold.chars() {
        match letter {
            '%' | '&' => {
                // Writing to a text does not fail.
                let _ = write!(out, "%{:02X}", u32::from(letter));
            }
            letter => out.push(letter),
        }
    }
    out
}

fn both(hot: &SinkCaps, cold: &SinkCaps) -> SinkCaps {
    SinkCaps {
        atomic_create: hot.atomic_create && cold.atomic_create,
        replace_if: hot.replace_if && cold.replace_if,
        max_put_bytes: hot.max_put_bytes.min(cold.max_put_bytes),
        cold: true,
        // Neither is asked for more at once than it wants.
        connections: hot.connections.min(cold.connections),
        settle: hot.settle.max(cold.settle),
        // A side that locks nothing has nothing to extend.
        lock: match (hot.lock, cold.lock) {
            (Some(hot), Some(cold)) => Some(hot.min(cold)),
            (one, other) => one.or(other),
        },
    }
}

fn sum(one: Traffic, other: Traffic) -> Traffic {
    Traffic {
        lists: one.lists + other.lists,
        heads: one.heads + other.heads,
        gets: one.gets + other.gets,
        puts: one.puts + other.puts,
        deletes: one.deletes + other.deletes,
        others: one.others + other.others,
        failed: one.failed + other.failed,
        sent_bytes: one.sent_bytes + other.sent_bytes,
        received_bytes: one.received_bytes + other.received_bytes,
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Sink for ColdSink {
    fn info(&self) -> SinkInfo {
        let (hot, cold) = (self.hot.info(), self.cold.info());
        SinkInfo {
            scheme: hot.scheme,
            location: joined(&hot.location, &cold.location),
            caps: both(&hot.caps, &cold.caps),
            is_split: true,
        }
    }

    /// Another medium on either side is another medium.
    fn medium(&self) -> Option<String> {
        match (self.hot.medium(), self.cold.medium()) {
            (None, None) => None,
            (hot, cold) => Some(format!(
                "{}|{}",
                hot.unwrap_or_default(),
                cold.unwrap_or_default()
            )),
        }
    }

    fn traffic(&self) -> Option<Traffic> {
        match (self.hot.traffic(), self.cold.traffic()) {
            (Some(hot), Some(cold)) => Some(sum(hot, cold)),
            (hot, cold) => hot.or(cold),
        }
    }

    async fn put(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        body: Bytes,
        mode: PutMode,
    ) -> Result<ObjectMeta, SinkError> {
        self.side_of(key).put(cx, key, body, mode).await
    }

    async fn get(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        range: ByteRange,
    ) -> Result<Bytes, SinkError> {
        self.side_of(key).get(cx, key, range).await
    }

    async fn head(&self, cx: &OpContext, key: &ObjectKey) -> Result<ObjectMeta, SinkError> {
        self.side_of(key).head(cx, key).await
    }

    /// What lies on the wrong side is left out: a get of it would not find it.
    fn list(
        &self,
        cx: &OpContext,
        prefix: &str,
        after: Option<&ObjectKey>,
    ) -> BoxStream<'static, Result<ObjectMeta, SinkError>> {
        let on = |side| {
            let listed = self.at(side).list(cx, prefix, after);
            let is_here = move |found: &Result<ObjectMeta, SinkError>| {
                let is_here = match found {
                    Ok(meta) => Side::of(meta.key.as_str()) == side,
                    Err(_) => true,
                };
                std::future::ready(is_here)
            };
            listed.filter(is_here)
        };
        match Side::below(prefix) {
            Some(side) => on(side).boxed(),
            None => on(Side::Hot).chain(on(Side::Cold)).boxed(),
        }
    }

    /// Each side lists its own together; one range alone it lists in any case.
    fn list_together(
        &self,
        cx: &OpContext,
        ranges: &[KeyRange],
    ) -> Option<BoxStream<'static, Result<ObjectMeta, SinkError>>> {
        let mut own = [Vec::new(), Vec::new()];
        for range in ranges {
            match Side::below(&range.prefix)? {
                Side::Hot => own[0].push(range.clone()),
                Side::Cold => own[1].push(range.clone()),
            }
        }
        let mut listed = Vec::new();
        for (sink, own) in [&self.hot, &self.cold].into_iter().zip(&own) {
            match own.as_slice() {
                [] => {}
                [one] => listed.push(sink.list(cx, &one.prefix, one.after.as_ref())),
                many => listed.push(sink.list_together(cx, many)?),
            }
        }
        Some(stream::select_all(listed).boxed())
    }

    async fn delete(&self, cx: &OpContext, key: &ObjectKey) -> Result<(), SinkError> {
        self.side_of(key).delete(cx, key).await
    }

    async fn temperature(&self, cx: &OpContext, key: &ObjectKey) -> Result<Temperature, SinkError> {
        self.side_of(key).temperature(cx, key).await
    }

    async fn warm(&self, cx: &OpContext, keys: &[ObjectKey]) -> Result<Warmth, SinkError> {
        let mut out = Warmth::Ready;
        for side in [Side::Hot, Side::Cold] {
            let here = keys.iter().filter(|key| Side::of(key.as_str()) == side);
            let here: Vec<_> = here.cloned().collect();
            if here.is_empty() {
                continue;
            }
            out = match (self.at(side).warm(cx, &here).await?, out) {
                (Warmth::ReadyIn(one), Warmth::ReadyIn(other)) => Warmth::ReadyIn(one.max(other)),
                (Warmth::ReadyIn(wait), _) | (_, Warmth::ReadyIn(wait)) => Warmth::ReadyIn(wait),
                (Warmth::Ready, Warmth::Ready) => Warmth::Ready,
            };
        }
        Ok(out)
    }

    async fn tidy(&self, cx: &OpContext, older_than: Duration) -> Result<u64, SinkError> {
        let hot = self.hot.tidy(cx, older_than).await?;
        Ok(hot + self.cold.tidy(cx, older_than).await?)
    }

    async fn extend_lock(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        from: Timestamp,
    ) -> Result<(), SinkError> {
        self.side_of(key).extend_lock(cx, key, from).await
    }

    /// That of the cold side: nearly all that is written goes there.
    async fn room(&self, cx: &OpContext) -> Result<Option<Room>, SinkError> {
        self.cold.room(cx).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_within_another_is_not_apart_from_it() {
        for (inner, outer) in [
            ("/srv/a", "/srv/a"),
            ("/srv/a/cold", "/srv/a"),
            ("s3://b/p?endpoint=https://h", "s3://b?endpoint=https://h"),
        ] {
            assert!(is_within(inner, outer), "{inner} {outer}");
        }
        for (inner, outer) in [
            ("/srv/ab", "/srv/a"),
            ("s3://b?endpoint=https://h", "s3://b?endpoint=https://i"),
            ("/srv/a", "/srv/a/cold"),
        ] {
            assert!(!is_within(inner, outer), "{inner} {outer}");
        }
    }

    #[test]
    fn both_places_are_shown_so_that_they_can_be_read_back() {
        let hot = "s3://b/p?endpoint=https://h";
        let cold = "s3://c/50%?endpoint=https://h&region=x";
        let shown: backup_core::Location = joined(hot, cold).parse().unwrap();
        assert_eq!(shown.option("cold"), Some(cold));
        assert_eq!(shown.option("endpoint"), Some("https://h"));
        let shown: backup_core::Location = joined("/srv/a", "/srv/b").parse().unwrap();
        assert_eq!(
            (shown.path(), shown.option("cold")),
            ("/srv/a", Some("/srv/b"))
        );
    }
}
