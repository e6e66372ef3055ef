//! Checking packs whole: their name, their end, and the blobs that nobody has opened yet.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use backup_core::{ChunkId, ErrorKind, Event, FindingKind, OpContext, PackId, Stage, VerifyLevel};
use backup_format::layout;
use backup_format::pack::{FOOTER, PackBlob, header_length, read_tail};
use backup_format::seal::{BlobCodec, BlobKind};
use backup_integrity::digest::ContentDigest;
use tokio::runtime::Handle;

use super::content::Known;
use super::parts::lock;
use crate::error::{EngineError, Result};
use crate::index_set::{IndexSet, PackFacts, Place};
use crate::repository::{Repository, name};

/// What was found out about one pack.
pub(super) struct PackCheck {
    pub(super) id: PackId,
    pub(super) bytes: u64,
    pub(super) chunks: u64,
    pub(super) whole: Option<(FindingKind, String)>,
    pub(super) faults: Vec<(ChunkId, String)>,
}

/// Checks packs, several at once.
pub(super) struct PackPass<'a> {
    pub(super) repo: &'a Repository,
    pub(super) cx: &'a OpContext,
    pub(super) level: VerifyLevel,
    /// What is not to be done again.
    pub(super) known: &'a Known,
}

pub(super) fn wrong_name() -> (FindingKind, String) {
    let why = "its bytes do not hash to its name";
    (FindingKind::Damaged, why.to_owned())
}

/// Whether a place of the index is that of a blob that a pack's end names.
pub(super) fn is_at(place: &Place, pack: PackId, blob: &PackBlob) -> bool {
    place.pack == pack
        && place.located.kind == blob.kind
        && (
            place.located.offset,
            place.located.stored,
            place.located.raw,
        ) == (blob.offset, blob.stored, blob.raw)
}

/// The blobs that the end of a pack names; the data keys it brings are made known.
pub(super) fn open_tail(
    repo: &Repository,
    bytes: &[u8],
) -> Result<Vec<PackBlob>, (FindingKind, String)> {
    let tail = (|| {
        let footer = bytes.len().checked_sub(FOOTER)?;
        let length = header_length(bytes.get(footer..)?).ok()?;
        read_tail(repo.ring(), bytes.get(footer.checked_sub(length)?..)?).ok()
    })();
    let tail = tail.ok_or((FindingKind::Damaged, "its end does not open".to_owned()))?;
    for wrap in &tail.sessions {
        repo.learn_wrap(wrap.session, wrap.wrap.clone());
    }
    Ok(tail.blobs)
}

impl PackPass<'_> {
    /// Checks these packs; what was read before of one is not hashed again.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`]; errors of keys. What is wrong with a pack is in its check.
    pub(super) fn run(&self, packs: Vec<(PackId, PackFacts)>) -> Result<Vec<PackCheck>> {
        let width = self.repo.connections(self.cx).clamp(2, 8);
        let width = width.min(self.cx.limits.memory_bytes / (32 << 20)).max(1);
        let index = self.repo.index();
        let todo = Mutex::new(packs.into_iter());
        let done = Mutex::new(Ok(Vec::new()));
        let handle = Handle::current();
        let work = || {
            let mut codec = BlobCodec::new(3).map_err(EngineError::Seal)?;
            let mut plain = Vec::new();
            loop {
                let next = lock(&todo).next();
                let Some((id, facts)) = next else {
                    return Ok(());
                };
                if self.cx.cancel.is_cancelled() {
                    return Err(EngineError::Cancelled);
                }
                let check = self.check(&handle, &index, id, facts, &mut codec, &mut plain)?;
                match &mut *lock(&done) {
                    Ok(done) => done.push(check),
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
                        let mut done = lock(&done);
                        if done.is_ok() {
                            *done = Err(error);
                        }
                    }
                });
            }
        });
        done.into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn check(
        &self,
        handle: &Handle,
        index: &IndexSet,
        id: PackId,
        facts: PackFacts,
        codec: &mut BlobCodec,
        plain: &mut Vec<u8>,
    ) -> Result<PackCheck> {
        let was_read = self.known.packs.get(&id).is_some_and(|seen| seen.is_read);
        let mut check = PackCheck {
            id,
            bytes: 0,
            chunks: 0,
            whole: None,
            faults: Vec::new(),
        };
        let key = name(layout::pack(id, facts.is_meta))?;
        let got = self.repo.sink().get(self.cx, &key, facts.whole());
        let got = handle.block_on(got);
        let bytes = match got {
            Ok(bytes) => bytes,
            Err(error) => {
                let kind = match error.kind {
                    ErrorKind::NotFound => FindingKind::Missing,
                    _ => FindingKind::Unreadable,
                };
                check.whole = Some((kind, error.to_string()));
                return Ok(check);
            }
        };
        if !was_read {
            check.bytes = bytes.len() as u64;
            check.whole = (ContentDigest::of(&bytes).0 != id.0).then(wrong_name);
        }
        if self.level >= VerifyLevel::FullRead {
            match open_tail(self.repo, &bytes) {
                Ok(blobs) => {
                    for blob in blobs {
                        self.blob(index, &mut check, &bytes, &blob, codec, plain)?;
                    }
                }
                Err(fault) => {
                    check.whole.get_or_insert(fault);
                }
            }
        }
        if !was_read {
            self.cx.tell(Event::Advanced {
                stage: Stage::Verify,
                entries: 1,
                bytes: check.bytes,
            });
        }
        Ok(check)
    }

    fn blob(
        &self,
        index: &IndexSet,
        check: &mut PackCheck,
        bytes: &[u8],
        blob: &PackBlob,
        codec: &mut BlobCodec,
        plain: &mut Vec<u8>,
    ) -> Result<()> {
        // Without a reader's key only what everybody reads can be opened.
        if !self.repo.keys().can_read() && blob.kind != BlobKind::Lineage {
            return Ok(());
        }
        let was_opened = blob.kind == BlobKind::Data
            && self.known.opened.contains(&blob.id.prefix())
            && index
                .find(&blob.id)
                .is_some_and(|place| is_at(&place, check.id, blob));
        if was_opened {
            return Ok(());
        }
        check.chunks += 1;
        let (start, length) = (blob.offset as usize, blob.stored as usize);
        let end = start.saturating_add(length);
        let sealed = bytes.get(start..end).unwrap_or_default();
        let raw = blob.raw as usize;
        match self
            .repo
            .open_blob(codec, blob.kind, &blob.id, raw, sealed, plain)
        {
            Ok(()) => Ok(()),
            Err(error) if error.is_damage() => {
                check.faults.push((blob.id, error.to_string()));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
