//! One look at several folders of a tier: one request where the tier can list them together, and all at once where it
//! cannot. It is handed to those who want a part of it, and is as fresh as the moment at which it was begun: each of
//! them says behind what that must be.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use backup_core::{ErrorKind, KeyRange, ObjectKey, ObjectMeta, OpContext, PackId, Sink, SinkError};
use backup_format::layout;
use futures::TryStreamExt as _;
use futures::stream::{self, BoxStream, StreamExt as _};

use crate::error::Result;

/// The folders of packs. Nobody else lies there.
const PACKS: [&str; 2] = ["data/", "meta/"];

/// What lies in some folders.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    objects: BTreeMap<ObjectKey, ObjectMeta>,
    packs: HashMap<PackId, u64>,
    asked: BTreeSet<String>,
    lags: bool,
    took: Duration,
}

type Listed = BoxStream<'static, Result<ObjectMeta, SinkError>>;

/// A look that nobody has waited for yet.
pub(crate) struct Looking<'a> {
    cx: &'a OpContext,
    sink: &'a dyn Sink,
    ranges: Vec<KeyRange>,
    listed: Listed,
    is_together: bool,
}

impl<'a> Looking<'a> {
    /// Begins a look at `ranges`; and at `beside` where that costs nothing, since the tier lists all of it together.
    pub(crate) fn begin(
        cx: &'a OpContext,
        sink: &'a dyn Sink,
        ranges: &[KeyRange],
        beside: Option<KeyRange>,
    ) -> Self {
        let (mut ranges, mut all) = (ranges.to_vec(), ranges.to_vec());
        all.extend(beside);
        let together = sink.list_together(cx, &all);
        let is_together = together.is_some();
        if is_together {
            ranges = all;
        }
        Self {
            cx,
            sink,
            listed: together.unwrap_or_else(|| one_by_one(cx, sink, &ranges)),
            ranges,
            is_together,
        }
    }

    /// Whether it is one listing.
    pub(crate) const fn is_together(&self) -> bool {
        self.is_together
    }

    /// What there is.
    ///
    /// # Errors
    /// Those of the tier.
    pub(crate) async fn end(mut self) -> Result<Listing> {
        let began = Instant::now();
        let asked = self.ranges.iter().map(|range| range.prefix.clone());
        let mut out = Listing {
            asked: asked.collect(),
            lags: may_lag(self.sink),
            ..Listing::default()
        };
        loop {
            match self.listed.try_next().await {
                Ok(Some(meta)) => out.add(meta),
                Ok(None) => break,
                // Its server turned out to be unable to: what it has shown it will show again.
                Err(error) if self.is_together && error.kind == ErrorKind::Unsupported => {
                    self.listed = one_by_one(self.cx, self.sink, &self.ranges);
                    self.is_together = false;
                }
                Err(error) => return Err(error.into()),
            }
        }
        out.took = began.elapsed();
        Ok(out)
    }
}

/// Whether listings of a tier may lag behind what was written there.
pub(crate) fn may_lag(sink: &dyn Sink) -> bool {
    !sink.info().caps.settle.is_zero()
}

/// A listing for each range, all of them at once.
fn one_by_one(cx: &OpContext, sink: &dyn Sink, ranges: &[KeyRange]) -> Listed {
    let lists = ranges
        .iter()
        .map(|range| sink.list(cx, &range.prefix, range.after.as_ref()));
    stream::select_all(lists).boxed()
}

impl Listing {
    /// Looks at some folders.
    ///
    /// # Errors
    /// Those of the tier.
    pub(crate) async fn read(cx: &OpContext, sink: &dyn Sink, folders: &[&str]) -> Result<Self> {
        let ranges: Vec<_> = folders.iter().copied().map(KeyRange::below).collect();
        Looking::begin(cx, sink, &ranges, None).end().await
    }

    fn add(&mut self, meta: ObjectMeta) {
        match layout::pack_id(&meta.key) {
            Some(id) => drop(self.packs.insert(id, meta.size)),
            None if is_below_packs(&meta.key) => {}
            None => drop(self.objects.insert(meta.key.clone(), meta)),
        }
    }

    /// Whether a folder was looked at.
    pub(crate) fn shows(&self, folder: &str) -> bool {
        self.asked.contains(folder)
    }

    /// Whether it may show what was: then nobody goes by what it tells of an object's version.
    pub(crate) const fn lags(&self) -> bool {
        self.lags
    }

    /// What lies in a folder, packs left out.
    pub(crate) fn below(&self, folder: &str) -> impl Iterator<Item = &ObjectMeta> {
        let objects = self.objects.values();
        objects.filter(move |meta| meta.key.as_str().starts_with(folder))
    }

    /// An object that was listed.
    pub(crate) fn find(&self, key: &ObjectKey) -> Option<&ObjectMeta> {
        self.objects.get(key)
    }

    /// The packs that there are, with their sizes.
    pub(crate) const fn packs(&self) -> &HashMap<PackId, u64> {
        &self.packs
    }

    /// How long the look took.
    pub(crate) const fn took(&self) -> Duration {
        self.took
    }
}

/// The folders of packs, as ranges.
pub(crate) fn ranges_of_packs() -> [KeyRange; 2] {
    PACKS.map(KeyRange::below)
}

fn is_below_packs(key: &ObjectKey) -> bool {
    PACKS.iter().any(|folder| key.as_str().starts_with(folder))
}
