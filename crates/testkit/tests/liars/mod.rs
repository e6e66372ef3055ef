//! Sinks with one fault each, to see that the suite notices.

use async_trait::async_trait;
use backup_core::{
    ByteRange, ErrorKind, KeyRange, ObjectKey, ObjectMeta, OpContext, PutMode, Sink, SinkError,
    SinkInfo, Warmth,
};
use backup_testkit::MemSink;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};

/// What a sink does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    CreateReplaces,
    RaceHasManyWinners,
    ShortSpan,
    SuffixOfAll,
    PrefixIsText,
    AfterIsIgnored,
    DeleteMinds,
    EmptyIsAbsent,
    ListsTwice,
    TogetherIsLess,
    NoVersions,
    AnyVersion,
    IgnoresCancel,
    Torn,
}

/// Each with the case that has to catch it.
pub(crate) const ALL: [(Lie, &str); 14] = [
    (Lie::CreateReplaces, "a_create_never_replaces"),
    (Lie::RaceHasManyWinners, "a_racing_create_has_one_winner"),
    (Lie::ShortSpan, "more_than_is_there_is_an_error"),
    (Lie::SuffixOfAll, "a_suffix_is_the_end_of_the_object"),
    (Lie::PrefixIsText, "a_prefix_is_whole_parts"),
    (Lie::AfterIsIgnored, "after_leaves_out_what_comes_before"),
    (Lie::DeleteMinds, "deleting_twice_is_success"),
    (Lie::EmptyIsAbsent, "an_empty_object_is_an_object"),
    (Lie::ListsTwice, "a_prefix_is_whole_parts"),
    (
        Lie::TogetherIsLess,
        "ranges_are_listed_together_as_one_by_one",
    ),
    (Lie::NoVersions, "versions_are_there_where_they_are_claimed"),
    (
        Lie::AnyVersion,
        "a_conditional_replace_needs_the_right_version",
    ),
    (Lie::IgnoresCancel, "a_cancelled_operation_does_nothing"),
    (Lie::Torn, "a_large_object_is_whole"),
];

#[derive(Debug)]
pub(crate) struct Liar {
    inner: MemSink,
    lie: Lie,
}

impl Liar {
    pub(crate) fn new(lie: Lie) -> Self {
        Self {
            inner: MemSink::new(),
            lie,
        }
    }

    fn cx(&self, cx: &OpContext) -> OpContext {
        let mut cx = cx.clone();
        if self.lie == Lie::IgnoresCancel {
            cx.cancel = backup_core::context::CancellationToken::new();
        }
        cx
    }
}

#[async_trait]
impl Sink for Liar {
    fn info(&self) -> SinkInfo {
        self.inner.info()
    }

    async fn put(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        mut body: Bytes,
        mut mode: PutMode,
    ) -> Result<ObjectMeta, SinkError> {
        match self.lie {
            Lie::CreateReplaces if mode == PutMode::Create => mode = PutMode::Replace,
            Lie::RaceHasManyWinners if mode == PutMode::Create => {
                let there = self.inner.head(cx, key).await.is_ok();
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                if !there {
                    mode = PutMode::Replace;
                }
            }
            Lie::AnyVersion if matches!(mode, PutMode::ReplaceIf(_)) => mode = PutMode::Replace,
            Lie::Torn => body.truncate(32 << 20),
            _ => {}
        }
        let mut meta = self.inner.put(&self.cx(cx), key, body, mode).await?;
        if self.lie == Lie::NoVersions {
            meta.version = None;
        }
        Ok(meta)
    }

    async fn get(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        range: ByteRange,
    ) -> Result<Bytes, SinkError> {
        let cx = self.cx(cx);
        match (self.lie, range) {
            (Lie::SuffixOfAll, ByteRange::Suffix(_)) => self.inner.get(&cx, key, ByteRange::Full),
            (Lie::ShortSpan, ByteRange::Span { offset, length }) => {
                let all = self.inner.get(&cx, key, ByteRange::Full).await?;
                let start = usize::try_from(offset).unwrap().min(all.len());
                let end = usize::try_from(offset.saturating_add(length))
                    .unwrap()
                    .min(all.len());
                return Ok(all.slice(start..end));
            }
            _ => self.inner.get(&cx, key, range),
        }
        .await
    }

    async fn head(&self, cx: &OpContext, key: &ObjectKey) -> Result<ObjectMeta, SinkError> {
        let meta = self.inner.head(cx, key).await?;
        if self.lie == Lie::EmptyIsAbsent && meta.size == 0 {
            return Err(SinkError::new(ErrorKind::NotFound, "head", key.as_str()));
        }
        Ok(meta)
    }

    fn list(
        &self,
        cx: &OpContext,
        prefix: &str,
        after: Option<&ObjectKey>,
    ) -> BoxStream<'static, Result<ObjectMeta, SinkError>> {
        let cx = self.cx(cx);
        match self.lie {
            Lie::PrefixIsText => self.inner.list(&cx, prefix.trim_end_matches('/'), after),
            Lie::AfterIsIgnored => self.inner.list(&cx, prefix, None),
            Lie::ListsTwice => {
                let once = self.inner.list(&cx, prefix, after);
                once.chain(self.inner.list(&cx, prefix, after)).boxed()
            }
            _ => self.inner.list(&cx, prefix, after),
        }
    }

    fn list_together(
        &self,
        cx: &OpContext,
        ranges: &[KeyRange],
    ) -> Option<BoxStream<'static, Result<ObjectMeta, SinkError>>> {
        let asked = match self.lie {
            Lie::TogetherIsLess => ranges.get(..1)?,
            _ => return None,
        };
        self.inner.list_together(&self.cx(cx), asked)
    }

    async fn delete(&self, cx: &OpContext, key: &ObjectKey) -> Result<(), SinkError> {
        if self.lie == Lie::DeleteMinds {
            self.inner.head(cx, key).await?;
        }
        self.inner.delete(&self.cx(cx), key).await
    }

    async fn warm(&self, cx: &OpContext, keys: &[ObjectKey]) -> Result<Warmth, SinkError> {
        self.inner.warm(cx, keys).await
    }
}
