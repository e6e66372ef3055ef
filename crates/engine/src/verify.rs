//! Verification by levels, sampled or in slices.
//!
//! *Metadata*: the heads are signed and whole, every page of every manifest opens, the Merkle root
//! over all entries is the signed one, every chunk that is named is in the index, every pack of the
//! index is on the tier with its size. *Checksum*: the bytes of the packs hash to their names.
//! *Full read*: every blob opens and hashes to its id, and so every extent; and the SHA-256 of every
//! file is that of its content. A damaged object is named with the snapshots and paths it hurts.

use std::collections::{HashMap, HashSet};

use backup_core::{
    ByteRange, ChunkId, ErrorKind, Event, Finding, FindingKind, OpContext, PackId, Sample,
    Severity, Stage, VerifyLevel, VerifyReport,
};
use backup_format::extent::Extent;
use backup_format::layout;
use backup_format::pack::{FOOTER, header_length, read_tail};
use backup_format::refs::Refs;
use backup_format::seal::{BlobCodec, BlobKind, ObjectKind};
use backup_integrity::digest::{ContentDigest, ContentHasher};
use backup_integrity::merkle::SnapshotTreeBuilder;
use futures::{StreamExt, TryStreamExt};

use crate::error::{EngineError, Result};
use crate::index_set::PackFacts;
use crate::repository::{Repository, SnapshotHead, name};
use crate::stage::canonical;
use crate::view::{ContentReader, SnapshotView, check_signatures};

/// Paths that are named for one damaged object.
const MOST_PATHS: usize = 20;

/// What a verification found.
#[derive(Debug, Clone)]
pub struct VerifyOutcome {
    /// Counts and findings.
    pub report: VerifyReport,
    /// Snapshots that were looked at.
    pub snapshots: u64,
    /// Whether manifests could be read with this key, or only the objects around them.
    pub read_manifests: bool,
    /// Snapshots whose signature holds, but of which this key cannot tell whether it is their
    /// host's: it does not hold the keys of that host.
    pub foreign: u64,
}

/// Verifies snapshots (all, if none are named) and the packs that the index knows.
///
/// # Errors
/// Errors of the tier as a whole; what is wrong with data is in the findings.
pub async fn verify(
    repo: &Repository,
    cx: &OpContext,
    snapshots: Option<Vec<SnapshotHead>>,
    level: VerifyLevel,
    sample: Sample,
) -> Result<VerifyOutcome> {
    let mut run = Run {
        repo,
        cx,
        report: VerifyReport::default(),
        bad_packs: HashMap::new(),
        bad_chunks: HashMap::new(),
    };
    let heads = match snapshots {
        Some(heads) => heads,
        None => {
            let (heads, errors) = repo.heads(cx).await?;
            for error in errors {
                run.found(FindingKind::Damaged, "a snapshot", &error.to_string());
            }
            heads
        }
    };
    run.around(&heads).await?;
    run.packs(level, sample).await?;
    let read_manifests = repo.keys().identities().is_ok();
    let mut foreign = 0;
    for head in &heads {
        if cx.cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        match check_signatures(repo, head) {
            Ok(true) => {}
            Ok(false) => foreign += 1,
            Err(error) => run.found(
                FindingKind::Mismatch,
                &format!("snapshot {}", head.meta.id),
                &error.to_string(),
            ),
        }
        if read_manifests {
            run.manifest(head, level, sample).await?;
        }
    }
    Ok(VerifyOutcome {
        report: run.report,
        snapshots: heads.len() as u64,
        read_manifests,
        foreign,
    })
}

struct Run<'a> {
    repo: &'a Repository,
    cx: &'a OpContext,
    report: VerifyReport,
    bad_packs: HashMap<PackId, String>,
    bad_chunks: HashMap<[u8; 16], String>,
}

/// What was found out about one pack.
struct PackCheck {
    id: PackId,
    bytes: u64,
    chunks: u64,
    whole: Option<(FindingKind, String)>,
    chunk_faults: Vec<(ChunkId, String)>,
}

impl Run<'_> {
    fn found(&mut self, kind: FindingKind, subject: &str, detail: &str) {
        let finding = Finding::new(Severity::Error, kind, subject, detail);
        self.cx.tell(Event::Found(&finding));
        self.report.findings.push(finding);
    }

    /// What lies around manifests and packs: index runs, key slots, and the refs of snapshots.
    async fn around(&mut self, heads: &[SnapshotHead]) -> Result<()> {
        for (key, error) in self.repo.take_damaged_runs() {
            self.found(FindingKind::Damaged, key.as_str(), &error.to_string());
        }
        for (key, slot) in self.repo.slots(self.cx).await? {
            self.report.objects += 1;
            if let Err(error) = slot {
                self.found(FindingKind::Damaged, key.as_str(), &error.to_string());
            }
        }
        for head in heads {
            let key = name(layout::refs(head.meta.id))?;
            self.report.objects += 1;
            let sealed = match self.repo.sink().get(self.cx, &key, ByteRange::Full).await {
                Ok(sealed) => sealed,
                Err(error) if error.kind == ErrorKind::NotFound => {
                    self.found(FindingKind::Missing, key.as_str(), "it is not on the tier");
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let opened = self.repo.ring().open(ObjectKind::Refs, &sealed);
            let refs = opened
                .map_err(|error| error.to_string())
                .and_then(|plain| Refs::decode(&plain).map_err(|error| error.to_string()));
            match refs {
                Ok(refs) if refs.snapshot == head.meta.id => {}
                Ok(refs) => {
                    let why = format!("it is that of snapshot {}", refs.snapshot);
                    self.found(FindingKind::Mismatch, key.as_str(), &why);
                }
                Err(why) => self.found(FindingKind::Damaged, key.as_str(), &why),
            }
        }
        Ok(())
    }

    async fn packs(&mut self, level: VerifyLevel, sample: Sample) -> Result<()> {
        let packs = self.repo.index().packs();
        let mut on_tier: HashMap<String, u64> = HashMap::new();
        for prefix in ["data/", "meta/"] {
            let mut list = self.repo.sink().list(self.cx, prefix, None);
            while let Some(meta) = list.try_next().await? {
                on_tier.insert(meta.key.to_string(), meta.size);
            }
        }
        let mut chosen = Vec::new();
        for (id, facts) in packs {
            let key = name(layout::pack(id, facts.is_meta))?;
            self.report.objects += 1;
            match on_tier.get(key.as_str()) {
                None => self.bad_pack(
                    id,
                    FindingKind::Missing,
                    key.as_str(),
                    "it is not on the tier",
                ),
                Some(size) if *size != facts.size => {
                    let why = format!("it has {size} bytes instead of {}", facts.size);
                    self.bad_pack(id, FindingKind::Damaged, key.as_str(), &why);
                }
                Some(_) if sample.takes(&id.0) => chosen.push((id, facts)),
                Some(_) => {}
            }
        }
        if level < VerifyLevel::Checksum {
            return Ok(());
        }
        let total: u64 = chosen.iter().map(|(_, facts)| facts.size).sum();
        self.cx.tell(Event::Entered {
            stage: Stage::Verify,
            entries: Some(chosen.len() as u64),
            bytes: Some(total),
        });
        let width = self.repo.connections(self.cx).clamp(2, 8);
        let (repo, cx) = (self.repo, self.cx);
        let reads = repo.keys().can_read();
        let mut checks = futures::stream::iter(chosen)
            .map(|(id, facts)| check_pack(repo, cx, id, facts, level, reads))
            .buffer_unordered(width.min(cx.limits.memory_bytes / (32 << 20)).max(1));
        let mut done = Vec::new();
        while let Some(check) = checks.next().await {
            let check = check?;
            cx.tell(Event::Advanced {
                stage: Stage::Verify,
                entries: 1,
                bytes: check.bytes,
            });
            done.push(check);
        }
        drop(checks);
        for check in done {
            self.report.bytes += check.bytes;
            self.report.chunks += check.chunks;
            if let Some((kind, why)) = check.whole {
                self.bad_pack(check.id, kind, &format!("pack {}", check.id), &why);
            }
            for (chunk, why) in check.chunk_faults {
                self.found(
                    FindingKind::Damaged,
                    &format!("chunk {chunk} in pack {}", check.id),
                    &why,
                );
                self.bad_chunks.insert(chunk.prefix(), why);
            }
        }
        Ok(())
    }

    fn bad_pack(&mut self, id: PackId, kind: FindingKind, subject: &str, why: &str) {
        self.found(kind, subject, why);
        self.bad_packs.insert(id, why.to_owned());
    }

    async fn manifest(
        &mut self,
        head: &SnapshotHead,
        level: VerifyLevel,
        sample: Sample,
    ) -> Result<()> {
        let subject = format!("snapshot {}", head.meta.id);
        let checked = self.walk(head, level, sample).await;
        match checked {
            Ok(Some(why)) => self.found(FindingKind::Mismatch, &subject, &why),
            Ok(None) => {}
            Err(error) if error.is_damage() => {
                self.found(FindingKind::Damaged, &subject, &error.to_string());
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Reads every entry of a snapshot; says what does not match of the whole.
    async fn walk(
        &mut self,
        head: &SnapshotHead,
        level: VerifyLevel,
        sample: Sample,
    ) -> Result<Option<String>> {
        let view = SnapshotView::open(self.repo, head.clone())?;
        let index = self.repo.index();
        let mut tree = SnapshotTreeBuilder::new(view.salt());
        let mut canonical_bytes = Vec::new();
        let mut hurt: Vec<String> = Vec::new();
        let mut seen: HashSet<ChunkId> = HashSet::new();
        let mut walk = view.all();
        while let Some(entry) = walk.next(self.cx).await? {
            self.report.entries += 1;
            canonical_bytes.clear();
            canonical(
                view.component_name(entry.component),
                &entry.path,
                &entry.record,
            )
            .encode(&mut canonical_bytes)
            .map_err(|error| EngineError::damaged(&entry.path, error))?;
            tree.push(&canonical_bytes);
            if !entry.record.meta.kind.has_content() {
                continue;
            }
            let extents = match view.extents(self.cx, &entry.record).await {
                Ok(extents) => extents,
                Err(error) if error.is_damage() => {
                    hurt.push(format!("{} ({error})", entry.path));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let mut bad = None;
            for extent in extents.as_slice() {
                let Extent::Data { chunk, .. } = extent else {
                    continue;
                };
                match index.find(chunk) {
                    None => bad = Some(format!("chunk {chunk} is in no index run")),
                    Some(place) => {
                        if seen.insert(*chunk) {
                            self.report.chunks += u64::from(level < VerifyLevel::FullRead);
                        }
                        bad = bad
                            .or_else(|| self.bad_packs.get(&place.pack).cloned())
                            .or_else(|| self.bad_chunks.get(&chunk.prefix()).cloned());
                    }
                }
            }
            if bad.is_none()
                && level >= VerifyLevel::FullRead
                && let Some(wanted) = entry.record.sha256
                && sample.takes(&wanted)
                && needs_reading(&extents)
            {
                bad = self.compare(extents, wanted).await?;
            }
            if let Some(why) = bad {
                hurt.push(format!("{} ({why})", entry.path));
            }
        }
        if !hurt.is_empty() {
            let shown = hurt
                .iter()
                .take(MOST_PATHS)
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join("; ");
            let more = hurt.len().saturating_sub(MOST_PATHS);
            let more = if more > 0 {
                format!("; and {more} more")
            } else {
                String::new()
            };
            let count = hurt.len();
            let detail = format!("{count} entries cannot be restored whole: {shown}{more}");
            self.found(
                FindingKind::Damaged,
                &format!("snapshot {}", head.meta.id),
                &detail,
            );
        }
        let made = tree.finish();
        if made.root != view.root() || made.leaf_count != head.outer.leaves {
            return Ok(Some(
                "the Merkle root over its entries is not the signed one".into(),
            ));
        }
        Ok(None)
    }

    async fn compare(
        &mut self,
        extents: backup_format::extent::Extents,
        wanted: [u8; 32],
    ) -> Result<Option<String>> {
        let mut reader = ContentReader::new(self.repo, extents);
        let mut hasher = ContentHasher::new();
        loop {
            match reader.next(self.cx).await {
                Ok(Some(bytes)) => hasher.update(&bytes),
                Ok(None) => break,
                Err(error) if error.is_damage() => return Ok(Some(error.to_string())),
                Err(error) => return Err(error),
            }
        }
        let same = hasher.finish().0 == wanted;
        Ok((!same).then(|| "its content does not hash to its SHA-256".to_owned()))
    }
}

/// Whether the content of a file is to be hashed: always; that chunks are whole does not yet say
/// that the extents are those of the file.
const fn needs_reading(_extents: &backup_format::extent::Extents) -> bool {
    true
}

async fn check_pack(
    repo: &Repository,
    cx: &OpContext,
    id: PackId,
    facts: PackFacts,
    level: VerifyLevel,
    reads: bool,
) -> Result<PackCheck> {
    let key = name(layout::pack(id, facts.is_meta))?;
    let mut check = PackCheck {
        id,
        bytes: 0,
        chunks: 0,
        whole: None,
        chunk_faults: Vec::new(),
    };
    let bytes = match repo.sink().get(cx, &key, ByteRange::Full).await {
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
    check.bytes = bytes.len() as u64;
    let work = || {
        if ContentDigest::of(&bytes).0 != id.0 {
            check.whole = Some((
                FindingKind::Damaged,
                "its bytes do not hash to its name".into(),
            ));
        }
        if level >= VerifyLevel::FullRead {
            open_all(repo, &bytes, reads, &mut check)
        } else {
            Ok(())
        }
    };
    tokio::task::block_in_place(work)?;
    Ok(check)
}

fn open_all(repo: &Repository, bytes: &[u8], reads: bool, check: &mut PackCheck) -> Result<()> {
    let tail = (|| {
        let footer = bytes.len().checked_sub(FOOTER)?;
        let length = header_length(bytes.get(footer..)?).ok()?;
        read_tail(repo.ring(), bytes.get(footer.checked_sub(length)?..)?).ok()
    })();
    let Some(tail) = tail else {
        let why = "its end does not open".to_owned();
        check.whole.get_or_insert((FindingKind::Damaged, why));
        return Ok(());
    };
    for wrap in &tail.sessions {
        repo.learn_wrap(wrap.session, wrap.wrap.clone());
    }
    let mut codec = BlobCodec::new(3).map_err(EngineError::Seal)?;
    let mut plain = Vec::new();
    for blob in tail.blobs {
        // Without a reader's key only what everybody reads can be opened.
        if !reads && blob.kind != BlobKind::Lineage {
            continue;
        }
        check.chunks += 1;
        let (start, length) = (blob.offset as usize, blob.stored as usize);
        let sealed = bytes.get(start..start + length).unwrap_or_default();
        let opened = repo.open_blob(
            &mut codec,
            blob.kind,
            &blob.id,
            blob.raw as usize,
            sealed,
            &mut plain,
        );
        match opened {
            Ok(()) => {}
            Err(error) if error.is_damage() => {
                check.chunk_faults.push((blob.id, error.to_string()));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
