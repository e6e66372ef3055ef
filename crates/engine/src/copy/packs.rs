//! Packs on their way to the other tier.
//!
//! A pack that the other tier has under its name stays as it is. Of one that it lacks, the end is read first: what is used
//! of it may be there in other packs, since prunes write packs anew. If not, the pack travels as a whole and keeps its
//! name, once it was seen to hash to it; unless its name may not come again there (`gc/` has condemned it), or little of
//! it is needed: then what is lacking is laid into a new pack, each blob sealed as it is.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use backup_core::{ChunkId, ErrorKind, Event, ObjectKey, OpContext, PackId, SnapshotId, Stage};
use backup_format::index::MAX_ENTRIES;
use backup_format::layout;
use backup_format::pack::{MAX_PACK, PackBlob, PackBuilder, PackHeader, SessionWrap};
use backup_format::refs::PackUse;
use backup_format::seal::{ObjectKind, blob_session};
use bytes::Bytes;
use futures::StreamExt;

use super::session::{Fresh, Shipment, index_of, lock};
use crate::data_keys::WrapSet;
use crate::error::{EngineError, Result};
use crate::pack_end::{end_of, read_end};
use crate::parity::{put_pack, sidecar};
use crate::refs::Sum;
use crate::repair::{at_once, digest};
use crate::repository::{get_within, name, put_new};
use crate::usage::Usage;

/// What a snapshot needs of one pack, on the other tier.
pub(super) struct Placed {
    uses: Vec<PackUse>,
    /// Chunks that lie in other packs there, by the halves of their ids that the index has.
    elsewhere: Vec<[u8; 16]>,
}

impl Shipment<'_> {
    /// Whether a pack may be named: it is there, and the index of the other tier knows it.
    pub(super) fn is_here(&self, id: &PackId) -> bool {
        lock(&self.here).known.contains(id)
    }

    /// Sees to it that the other tier has all that these refs name; gives what names it there.
    ///
    /// # Errors
    /// [`EngineError::Missing`] for a pack that is gone, [`EngineError::Damaged`]; errors of the tiers.
    pub(super) async fn send(&mut self, snapshot: SnapshotId, sum: Sum) -> Result<Sum> {
        let mut out = Sum::default();
        let mut elsewhere = Vec::new();
        let mut wanted = Vec::new();
        for (id, usage) in sum.0 {
            if !lock(&self.here).known.contains(&id) {
                wanted.push(usage);
            } else if let Some(slots) = self.disputed.get(&id) {
                let slots = usage.slots.max(*slots);
                out.0.insert(id, PackUse::new(id, slots, 0..slots));
            } else {
                out.0.insert(id, usage);
            }
        }
        let facts = self.from.index().packs();
        let this = &*self;
        let mut sending = futures::stream::iter(wanted)
            .map(|usage| {
                let is_meta = facts.get(&usage.pack).map(|facts| facts.is_meta);
                this.pack(usage, is_meta)
            })
            .buffer_unordered(at_once(self.to, self.cx));
        let mut sent = (0, 0);
        let mut placed = Vec::new();
        let mut failed = None;
        while let Some(one) = sending.next().await {
            match one {
                Ok((one, packs, bytes)) => {
                    sent = (sent.0 + packs, sent.1 + bytes);
                    placed.push(one);
                }
                Err(error) => {
                    // Those that are under way come to their end first.
                    self.has_failed.store(true, Ordering::Relaxed);
                    failed.get_or_insert(error);
                }
            }
        }
        drop(sending);
        self.has_failed.store(false, Ordering::Relaxed);
        self.packs += sent.0;
        self.bytes += sent.1;
        if let Some(error) = failed {
            return Err(error);
        }
        let cx = self.cx;
        if self.write_run(cx).await? {
            self.to.refresh_index(cx).await?;
            self.index = index_of(self.to, &self.avoided, &lock(&self.here));
        }
        for one in placed {
            for usage in one.uses {
                match out.0.get_mut(&usage.pack) {
                    Some(known) => known.absorb(&usage),
                    None => drop(out.0.insert(usage.pack, usage)),
                }
            }
            elsewhere.extend(one.elsewhere);
        }
        if !elsewhere.is_empty() {
            let mut usage = Usage::new(&self.index);
            for prefix in &elsewhere {
                let Some(place) = self.index.places(prefix).next() else {
                    return Err(EngineError::Missing {
                        object: format!("chunk {}", layout::hex(prefix)),
                        why: format!("the index of {} knew it a moment ago", self.to.location()),
                    });
                };
                usage.mark_place(&place);
            }
            out.add(usage.refs(snapshot, &self.index, &[])?);
            self.index.check()?;
        }
        Ok(out)
    }

    /// Sees to it that the other tier has what is used of a pack; how many packs and bytes that took.
    async fn pack(&self, usage: PackUse, is_meta: Option<bool>) -> Result<(Placed, u64, u64)> {
        if self.cx.cancel.is_cancelled() || self.has_failed.load(Ordering::Relaxed) {
            return Err(EngineError::Cancelled);
        }
        let id = usage.pack;
        let loose = lock(&self.here).loose.contains_key(&id);
        if loose && self.take_up(id).await? {
            let uses = vec![usage];
            return Ok((
                Placed {
                    uses,
                    elsewhere: Vec::new(),
                },
                0,
                0,
            ));
        }
        let key = self.key_of(id, is_meta).await?;
        if !self.index.is_empty() {
            // One whose end is damaged is looked at as a whole.
            if let Ok(Some((end, _))) = read_end(self.from, self.cx, &key).await {
                let used = used(&usage, &end);
                if self.lacking(&used).is_empty() {
                    let elsewhere = used.iter().map(|(_, blob)| blob.id.prefix()).collect();
                    self.cx.tell(Event::Advanced {
                        stage: Stage::Copy,
                        entries: 1,
                        bytes: 0,
                    });
                    return Ok((
                        Placed {
                            uses: Vec::new(),
                            elsewhere,
                        },
                        0,
                        0,
                    ));
                }
            }
        }
        let bytes = match self.fetch(&key, id).await {
            Ok(bytes) => bytes,
            // What is used of it may be whole in other places.
            Err(error) if error.is_damage() => return self.scattered(&usage, &key, error).await,
            Err(error) => return Err(error),
        };
        let end = end_of(self.from, &key, &bytes)?;
        let used = used(&usage, &end);
        let lacking = self.lacking(&used);
        let size = bytes.len() as u64;
        let needed: u64 = lacking.iter().map(|blob| u64::from(blob.stored)).sum();
        let is_free = !self.avoided.contains(&id) && !lock(&self.here).odd.contains(&id);
        // Of small packs a large part is no blob.
        let held: u64 = end.blobs.iter().map(|blob| u64::from(blob.stored)).sum();
        let sent = if is_free && needed * 2 >= held {
            let added = self.put(&key, id, bytes, &end.blobs, &end).await?;
            let slots = u32::try_from(end.blobs.len()).unwrap_or(u32::MAX);
            let uses = vec![PackUse::new(id, slots, used.iter().map(|(slot, _)| *slot))];
            (
                Placed {
                    uses,
                    elsewhere: Vec::new(),
                },
                1,
                added,
            )
        } else {
            self.put_part(&key, &bytes, &end, (&used, &lacking)).await?
        };
        self.cx.tell(Event::Advanced {
            stage: Stage::Copy,
            entries: 1,
            bytes: size,
        });
        Ok(sent)
    }

    /// Takes a pack up that lies on the other tier and that no index run names, if it is what its name says.
    async fn take_up(&self, id: PackId) -> Result<bool> {
        for is_meta in [false, true] {
            let key = name(layout::pack(id, is_meta))?;
            let bytes = match get_within(self.cx, &**self.to.sink(), &key, MAX_PACK).await {
                Ok(bytes) => bytes,
                Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => continue,
                Err(error) if error.is_damage() => break,
                Err(error) => return Err(error),
            };
            if digest(&bytes).await? != id.0 {
                break;
            }
            let Ok(end) = end_of(self.to, &key, &bytes) else {
                break;
            };
            if let Some(share) = self.to.parity() {
                // Killed between the two.
                let made = sidecar(&key, id, &bytes, share)?;
                let at = name(layout::parity(&key))?;
                put_new(self.cx, &**self.to.sink(), &at, made).await?;
            }
            self.add(&key, (id, bytes.len() as u64), &end.blobs, &end.sessions)
                .await?;
            return Ok(true);
        }
        let mut here = lock(&self.here);
        here.loose.remove(&id);
        here.odd.insert(id);
        Ok(false)
    }

    /// Under which name a pack lies: one that the index does not know may be in either folder.
    async fn key_of(&self, id: PackId, is_meta: Option<bool>) -> Result<ObjectKey> {
        if let Some(is_meta) = is_meta {
            return name(layout::pack(id, is_meta));
        }
        for is_meta in [false, true] {
            let key = name(layout::pack(id, is_meta))?;
            match self.from.sink().head(self.cx, &key).await {
                Ok(_) => return Ok(key),
                Err(error) if error.kind == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(gone(&name(layout::pack(id, false))?))
    }

    /// A pack of the tier that is copied from, once it was seen to hash to its name.
    pub(super) async fn fetch(&self, key: &ObjectKey, id: PackId) -> Result<Bytes> {
        // It may have been damaged on the way only.
        for _ in 0..2 {
            match get_within(self.cx, &**self.from.sink(), key, MAX_PACK).await {
                Ok(bytes) if digest(&bytes).await? == id.0 => return Ok(bytes),
                Ok(_) => {}
                Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => {
                    return Err(gone(key));
                }
                Err(error) => return Err(error),
            }
        }
        let why = "its bytes do not hash to its name";
        Err(EngineError::damaged(key, why))
    }

    fn lacking(&self, used: &[(u32, PackBlob)]) -> Vec<PackBlob> {
        let lacks = |blob: &PackBlob| self.index.find(&blob.id).is_none();
        let blobs = used.iter().map(|(_, blob)| *blob);
        blobs.filter(lacks).collect()
    }

    async fn put(
        &self,
        key: &ObjectKey,
        id: PackId,
        bytes: Bytes,
        blobs: &[PackBlob],
        end: &PackHeader,
    ) -> Result<u64> {
        let size = bytes.len() as u64;
        let (sink, share) = (&**self.to.sink(), self.to.parity());
        let added = put_pack(self.cx, sink, (key, id), bytes, share).await?;
        self.add(key, (id, size), blobs, &end.sessions).await?;
        Ok(added)
    }

    /// Lays what is lacking of a pack into a new one.
    async fn put_part(
        &self,
        key: &ObjectKey,
        bytes: &Bytes,
        end: &PackHeader,
        (used, lacking): (&[(u32, PackBlob)], &[PackBlob]),
    ) -> Result<(Placed, u64, u64)> {
        let wraps: WrapSet = end.sessions.iter().collect();
        let mut own = WrapSet::default();
        let mut builder = PackBuilder::new(0);
        for blob in lacking {
            let start = blob.offset as usize;
            let sealed = bytes.get(start..start + blob.stored as usize);
            let none = || EngineError::damaged(key, "a blob lies beyond its end");
            let sealed = sealed.ok_or_else(none)?;
            let session = blob_session(sealed).map_err(|error| EngineError::sealed(key, &error))?;
            wraps.of(session).iter().for_each(|wrap| {
                own.add(wrap);
            });
            builder.push(blob.kind, blob.id, blob.raw as usize, sealed);
        }
        let there: BTreeSet<ChunkId> = lacking.iter().map(|blob| blob.id).collect();
        let elsewhere = used.iter().map(|(_, blob)| blob.id);
        let elsewhere = elsewhere.filter(|id| !there.contains(id));
        let elsewhere = elsewhere.map(|id| id.prefix()).collect();
        let is_meta = key.as_str().starts_with("meta/");
        self.put_new(builder, own.to_vec(), is_meta, elsewhere)
            .await
    }

    /// Puts a new pack there, if there is anything in it; `elsewhere` lies in others there.
    pub(super) async fn put_new(
        &self,
        builder: PackBuilder,
        sessions: Vec<SessionWrap>,
        is_meta: bool,
        elsewhere: Vec<[u8; 16]>,
    ) -> Result<(Placed, u64, u64)> {
        if builder.is_empty() {
            return Ok((
                Placed {
                    uses: Vec::new(),
                    elsewhere,
                },
                0,
                0,
            ));
        }
        let pack = builder.finish(self.to.ring(), &sessions);
        let pack = pack.map_err(EngineError::Seal)?;
        let at = name(layout::pack(pack.id, is_meta))?;
        let header = PackHeader {
            sessions,
            blobs: Vec::new(),
        };
        let bytes = pack.bytes.into();
        let added = self.put(&at, pack.id, bytes, &pack.blobs, &header).await?;
        let slots = u32::try_from(pack.blobs.len()).unwrap_or(u32::MAX);
        let uses = vec![PackUse::new(pack.id, slots, 0..slots)];
        Ok((Placed { uses, elsewhere }, 1, added))
    }

    /// Notes a pack that is on the other tier now; writes an index run when much is in none.
    async fn add(
        &self,
        key: &ObjectKey,
        (id, size): (PackId, u64),
        blobs: &[PackBlob],
        sessions: &[SessionWrap],
    ) -> Result<()> {
        let full = {
            let mut fresh = lock(&self.fresh);
            let full =
                (fresh.run.len() + blobs.len() > MAX_ENTRIES).then(|| std::mem::take(&mut *fresh));
            fresh
                .run
                .add_pack(id, size, blobs)
                .map_err(|error| EngineError::wire(key, &error))?;
            sessions.iter().for_each(|wrap| {
                fresh.wraps.add(wrap);
            });
            fresh.bytes += size;
            let is_due = fresh.bytes >= self.job.index_bytes;
            full.or_else(|| is_due.then(|| std::mem::take(&mut *fresh)))
        };
        if let Some(full) = full {
            self.put_run(self.cx, full).await?;
        }
        let mut here = lock(&self.here);
        here.loose.remove(&id);
        here.known.insert(id);
        here.absent.remove(&id);
        Ok(())
    }

    async fn put_run(&self, cx: &OpContext, fresh: Fresh) -> Result<()> {
        let plain = fresh.run.finish(&fresh.wraps.to_vec());
        let sealed = self.to.ring().seal(ObjectKind::IndexRun, &plain);
        let sealed: Bytes = sealed.map_err(EngineError::Seal)?.into();
        let key = name(layout::index(&sealed))?;
        put_new(cx, &**self.to.sink(), &key, sealed).await
    }

    /// Writes an index run of the packs that are in none; says whether there were any, now or before.
    pub(super) async fn write_run(&mut self, cx: &OpContext) -> Result<bool> {
        let fresh = std::mem::take(&mut *lock(&self.fresh));
        if fresh.run.is_empty() {
            return Ok(false);
        }
        self.put_run(cx, fresh).await?;
        Ok(true)
    }
}

/// The blobs of a pack that are used, with their slots; all where nobody can tell which are meant.
fn used(usage: &PackUse, end: &PackHeader) -> Vec<(u32, PackBlob)> {
    let is_told = usage.slots as usize == end.blobs.len();
    let blobs = (0u32..).zip(end.blobs.iter().copied());
    blobs
        .filter(|(slot, _)| !is_told || usage.has(*slot))
        .collect()
}

/// A pack that is not there any more, or never was.
fn gone(key: &ObjectKey) -> EngineError {
    EngineError::Missing {
        object: key.to_string(),
        why: "it is not on the tier".into(),
    }
}
