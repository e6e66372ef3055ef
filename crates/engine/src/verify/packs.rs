//! Checking packs whole: their name, their end, and the blobs that no file needed.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use backup_core::{
    ChunkId, ErrorKind, Event, FindingKind, ObjectKey, OpContext, PackId, Stage, VerifyLevel,
};
use backup_format::keys::KeyError;
use backup_format::layout;
use backup_format::pack::PackBlob;
use backup_format::seal::{BlobCodec, BlobKind};
use backup_integrity::digest::ContentDigest;
use tokio::runtime::Handle;

use super::limit::Limit;
use super::memory::Memory;
use super::parity::{Looked, look};
use super::parts::lock;
use crate::data_keys::SealedBlob;
use crate::error::{EngineError, Result};
use crate::index_set::{IndexSet, PackFacts, Place};
use crate::pack_end::header_of;
use crate::repository::{Repository, name};

/// What was found out about a pack.
#[derive(Debug)]
pub(super) struct PackCheck {
    pub(super) id: PackId,
    pub(super) whole: Option<(FindingKind, String)>,
    pub(super) faults: Vec<(ChunkId, String)>,
}

/// What was found out about packs.
#[derive(Debug, Default)]
pub(super) struct PackSum {
    pub(super) bytes: u64,
    pub(super) chunks: u64,
    /// Those that are not what they should be.
    pub(super) bad: Vec<PackCheck>,
    /// What came of their parity.
    pub(super) parity: Vec<Looked>,
}

/// Checks packs, several at once.
pub(super) struct PackPass<'a> {
    pub(super) repo: &'a Repository,
    pub(super) cx: &'a OpContext,
    pub(super) index: Arc<IndexSet>,
    pub(super) level: VerifyLevel,
    pub(super) limit: &'a Limit,
    pub(super) memory: &'a Mutex<Memory>,
    /// Those with parity beside them.
    pub(super) protected: &'a HashMap<PackId, ObjectKey>,
}

pub(super) fn wrong_name() -> (FindingKind, String) {
    let why = "its bytes do not hash to its name";
    (FindingKind::Damaged, why.to_owned())
}

impl PackPass<'_> {
    /// Checks these packs in their order, as far as the limit goes.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`]; errors of keys. What is wrong with a pack is in its check.
    pub(super) fn run(&self, packs: Vec<(PackId, PackFacts)>) -> Result<PackSum> {
        let width = self.repo.connections(self.cx).clamp(2, 8);
        let width = width.min(self.cx.limits.memory_bytes / (32 << 20)).max(1);
        let todo = Mutex::new(packs.into_iter());
        let sum = Mutex::new(Ok(PackSum::default()));
        let handle = Handle::current();
        let work = || {
            let mut codec = BlobCodec::opener().map_err(EngineError::Seal)?;
            let mut plain = Vec::new();
            loop {
                if self.cx.cancel.is_cancelled() {
                    return Err(EngineError::Cancelled);
                }
                // At once, or another worker's pack may be let in instead of one that comes before it.
                let next = {
                    let mut todo = lock(&todo);
                    todo.next()
                        .filter(|(_, facts)| self.limit.takes_pack(facts.size))
                };
                let Some((id, facts)) = next else {
                    return Ok(());
                };
                let one = self.check(&handle, id, facts, &mut codec, &mut plain)?;
                match &mut *lock(&sum) {
                    Ok(sum) => {
                        sum.bytes += one.bytes;
                        sum.chunks += one.chunks;
                        sum.bad.extend(one.bad);
                        sum.parity.extend(one.parity);
                    }
                    Err(_) => return Ok(()),
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..width {
                scope.spawn(|| {
                    let worked = catch_unwind(AssertUnwindSafe(work));
                    let worked = worked.unwrap_or(Err(EngineError::Panicked("a verify worker")));
                    if let Err(error) = worked {
                        let mut sum = lock(&sum);
                        if sum.is_ok() {
                            *sum = Err(error);
                        }
                    }
                });
            }
        });
        sum.into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn check(
        &self,
        handle: &Handle,
        id: PackId,
        facts: PackFacts,
        codec: &mut BlobCodec,
        plain: &mut Vec<u8>,
    ) -> Result<PackSum> {
        let mut sum = PackSum::default();
        let mut check = PackCheck {
            id,
            whole: None,
            faults: Vec::new(),
        };
        let mut level = depth(self.repo, self.level);
        let key = name(layout::pack(id, facts.is_meta))?;
        let got = self.repo.sink().get(self.cx, &key, facts.whole());
        match handle.block_on(got) {
            Ok(bytes) => {
                sum.bytes = bytes.len() as u64;
                check.whole = (ContentDigest::of(&bytes).0 != id.0).then(wrong_name);
                if self.level >= VerifyLevel::FullRead {
                    let of = (self.repo, &*self.index);
                    let mut opened = open_blobs(of, (id, facts), &bytes, codec, plain, |_| false)?;
                    sum.chunks = opened.named;
                    if opened.closed > 0 {
                        level = level.min(VerifyLevel::Checksum);
                    }
                    let whole = opened.take_whole();
                    check.whole = check.whole.or(whole);
                    check.faults = opened.faults;
                }
            }
            Err(error) if error.kind == ErrorKind::Cold => return Err(error.into()),
            Err(error) => {
                let kind = match error.kind {
                    ErrorKind::NotFound => FindingKind::Missing,
                    _ => FindingKind::Unreadable,
                };
                check.whole = Some((kind, error.to_string()));
            }
        }
        let is_good = check.whole.is_none() && check.faults.is_empty();
        let mut memory = lock(self.memory);
        if is_good {
            memory.note_pack(&id, level);
        } else {
            memory.note_bad_pack(&id);
            sum.bad.push(check);
        }
        drop(memory);
        if let Some(pack) = self.protected.get(&id) {
            let looked = handle.block_on(look(self.repo, self.cx, pack, id))?;
            sum.parity.push(looked);
        }
        self.cx.tell(Event::Advanced {
            stage: Stage::Verify,
            entries: 1,
            bytes: sum.bytes,
        });
        Ok(sum)
    }
}

/// How deep packs are checked: without a reader's key, content cannot be opened.
pub(super) fn depth(repo: &Repository, level: VerifyLevel) -> VerifyLevel {
    if repo.keys().can_read() {
        level
    } else {
        level.min(VerifyLevel::Checksum)
    }
}

/// Whether this key opens blobs of a kind: content is for readers, lineage for writers too.
fn can_open(repo: &Repository, kind: BlobKind) -> bool {
    match kind {
        BlobKind::Lineage => repo.keys().lineage_key().is_ok() && repo.keys().id_key().is_ok(),
        BlobKind::Data | BlobKind::Page => repo.keys().can_read(),
    }
}

/// What the index says to lie in a pack, and its end does not have there.
fn not_there(index: &IndexSet, id: PackId, facts: PackFacts, blobs: &[PackBlob]) -> Vec<[u8; 16]> {
    let is_at = |place: &Place, blob: &PackBlob| {
        let located = place.located;
        place.pack == id
            && located.kind == blob.kind
            && (located.offset, located.stored, located.raw) == (blob.offset, blob.stored, blob.raw)
    };
    let there = blobs.iter().map(|blob| {
        let places = index.places(&blob.id.prefix());
        places.filter(|place| is_at(place, blob)).count() as u64
    });
    if there.sum::<u64>() == facts.blobs {
        return Vec::new();
    }
    // Whichever they are, none of them is looked for often.
    let by_offset: HashMap<u32, &PackBlob> = blobs.iter().map(|one| (one.offset, one)).collect();
    let mut out = Vec::new();
    for (number, part) in (0u32..).zip(index.parts()) {
        for (prefix, located) in part.iter() {
            let Some(pack) = part.pack(located.pack).map(|pack| pack.id) else {
                continue;
            };
            let place = Place {
                run: number,
                pack,
                located,
            };
            let blob = by_offset.get(&located.offset);
            let is_there =
                blob.is_some_and(|blob| blob.id.prefix() == prefix && is_at(&place, blob));
            if pack == id && !is_there {
                out.push(prefix);
            }
        }
    }
    out
}

/// What came of the blobs of a pack.
#[derive(Debug, Default)]
pub(super) struct Opened {
    /// Blobs that this key can open.
    pub(super) named: u64,
    /// Blobs that were sealed since the keys were rotated, for others than this one.
    pub(super) closed: u64,
    pub(super) whole: Option<(FindingKind, String)>,
    pub(super) faults: Vec<(ChunkId, String)>,
    /// The beginnings of the ids of chunks that the index says to be in it, and that are not.
    pub(super) not_there: Vec<[u8; 16]>,
}

impl Opened {
    /// What is wrong with the pack as a whole.
    pub(super) fn take_whole(&mut self) -> Option<(FindingKind, String)> {
        let count = self.not_there.len();
        let lies = (count > 0).then(|| {
            let why = format!(
                "the index says that it has {count} chunks that its end does not name there"
            );
            (FindingKind::Mismatch, why)
        });
        self.whole.take().or(lies)
    }
}

/// Opens every blob that a pack's end names and this key can open, but for those that are left out.
///
/// # Errors
/// Those of keys.
pub(super) fn open_blobs(
    (repo, index): (&Repository, &IndexSet),
    (id, facts): (PackId, PackFacts),
    bytes: &[u8],
    codec: &mut BlobCodec,
    plain: &mut Vec<u8>,
    is_left_out: impl Fn(&ChunkId) -> bool,
) -> Result<Opened> {
    let mut out = Opened::default();
    let key = name(layout::pack(id, facts.is_meta))?;
    let Ok(end) = header_of(repo, &key, bytes) else {
        out.whole = Some((FindingKind::Damaged, "its end does not open".to_owned()));
        return Ok(out);
    };
    out.not_there = not_there(index, id, facts, &end.blobs);
    for blob in &end.blobs {
        if !can_open(repo, blob.kind) {
            continue;
        }
        out.named += 1;
        if is_left_out(&blob.id) {
            continue;
        }
        let (start, length) = (blob.offset as usize, blob.stored as usize);
        let stop = start.saturating_add(length);
        let sealed = SealedBlob {
            kind: blob.kind,
            id: &blob.id,
            raw: blob.raw as usize,
            sealed: bytes.get(start..stop).unwrap_or_default(),
        };
        match repo.open_knowing(codec, &sealed, &end.sessions, plain) {
            Ok(()) => {}
            Err(error) if error.is_damage() => out.faults.push((blob.id, error.to_string())),
            Err(EngineError::Key(KeyError::Outdated { .. })) => {
                out.named -= 1;
                out.closed += 1;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(out)
}
