//! Looking into a snapshot: its components and entries.

use async_recursion::async_recursion as boxed;
use backup_core::{
    ChunkId, ComponentMeta, ConsistentPoint, EntryPath, Finding, OpContext, SessionId, SnapshotMeta,
};
use backup_format::extent::Extents;
use backup_format::keys::is_certified;
use backup_format::pack::SessionWrap;
use backup_format::record::Record;
use backup_format::seal::{BlobCodec, BlobKind};
use backup_format::snapshot::{Inner, InnerComponent, Next, SnapshotObject};
use backup_integrity::merkle::MerkleRoot;
use backup_integrity::sign::{Ed25519Signature, HmacKey, HmacTag, PublicKey, Signatures};
use backup_integrity::statement::{
    SignedStatement, verify_statement_ed25519, verify_statement_hmac,
};
use bytes::Bytes;

use crate::data_keys::SealedBlob;
use crate::error::{EngineError, Result};
use crate::lineage::resolve;
use crate::lost::LostPage;
use crate::repository::{Repository, SnapshotHead};
use crate::tree::{Met, TreeReader, Walk};

/// A snapshot, opened for reading.
#[derive(Debug)]
pub struct SnapshotView<'a> {
    repo: &'a Repository,
    head: SnapshotHead,
    inner: Inner,
}

/// An entry of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewEntry {
    /// Number of its component.
    pub component: u8,
    /// Its path within the component.
    pub path: EntryPath,
    /// What the manifest says of it.
    pub record: Record,
}

/// What a walk that goes on behind damage comes upon.
#[derive(Debug)]
pub enum Seen {
    /// An entry.
    Entry(Box<ViewEntry>),
    /// A page that cannot be read, with entries of those that are walked. The walk goes on behind it.
    Lost(Box<LostPage>),
}

/// A walk over entries in order.
#[derive(Debug)]
pub struct Entries<'a> {
    walk: Option<Walk<'a>>,
    // Empty for everything.
    below: Vec<u8>,
}

impl<'a> SnapshotView<'a> {
    /// Opens a snapshot.
    ///
    /// # Errors
    /// [`EngineError::Key`] for a key that cannot read; [`EngineError::Damaged`].
    pub fn open(repo: &'a Repository, head: SnapshotHead) -> Result<Self> {
        let mut codec = BlobCodec::opener().map_err(EngineError::Seal)?;
        let mut plain = Vec::new();
        let (id, raw) = (head.object.inner_id, head.object.inner_raw as usize);
        let blob = SealedBlob {
            kind: BlobKind::Page,
            id: &id,
            raw,
            sealed: &head.object.inner,
        };
        // What it says itself, whatever index runs say of its session.
        let own = SessionWrap {
            session: SessionId::from_bytes(head.outer.session),
            wrap: head.outer.wrap.clone(),
        };
        repo.open_knowing(&mut codec, &blob, &[own], &mut plain)?;
        let inner = backup_format::snapshot::decode_part(&plain)
            .map_err(|error| EngineError::wire(format!("snapshot {}", head.meta.id), &error))?;
        repo.others.opened(head.meta.id);
        Ok(Self { repo, head, inner })
    }

    /// What is known of it.
    #[must_use]
    pub const fn meta(&self) -> &SnapshotMeta {
        &self.head.meta
    }

    /// Its head.
    #[must_use]
    pub const fn head(&self) -> &SnapshotHead {
        &self.head
    }

    /// The repository it lies in.
    #[must_use]
    pub const fn repository(&self) -> &'a Repository {
        self.repo
    }

    /// Its components in the order of their numbers.
    #[must_use]
    pub fn components(&self) -> Vec<ComponentMeta> {
        self.inner
            .components
            .iter()
            .map(InnerComponent::meta)
            .collect()
    }

    /// The name of a component.
    #[must_use]
    pub fn component_name(&self, number: u8) -> &str {
        self.inner
            .components
            .get(usize::from(number))
            .map_or("", |component| &component.name)
    }

    /// The salt of its Merkle leaves.
    #[must_use]
    pub const fn salt(&self) -> [u8; 32] {
        self.inner.salt
    }

    /// The program that wrote it and the user who ran it.
    #[must_use]
    pub fn made_by(&self) -> (&str, &str) {
        (&self.inner.program, &self.inner.user)
    }

    /// The findings that the manifest keeps.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        self.inner.findings(|json| serde_json::from_str(json).ok())
    }

    /// Its Merkle root.
    #[must_use]
    pub const fn root(&self) -> MerkleRoot {
        MerkleRoot(self.head.outer.merkle_root)
    }

    /// The statement that its host signed, the digest of the rest, and the signatures.
    ///
    /// # Errors
    /// [`EngineError::Damaged`] when the statement does not decode or contradicts the manifest.
    pub fn statement(&self) -> Result<(SignedStatement, [u8; 32], Signatures)> {
        statement_of(&self.head)
    }

    /// Checks the signatures, and that they are its host's.
    ///
    /// # Errors
    /// [`EngineError::Damaged`] when one does not match.
    pub fn check_signatures(&self) -> Result<()> {
        check_signatures(self.repo, &self.head)
    }

    /// All entries at or below a path, in order; the path itself first.
    #[must_use]
    pub fn entries(&self, component: u8, below: &EntryPath) -> Entries<'a> {
        let key = manifest_key(component, below);
        let root = self.head.outer.manifest;
        let walk = root.map(|root| TreeReader::new(self.repo, root, BlobKind::Page).walk(&key));
        Entries { walk, below: key }
    }

    /// Every entry of every component, in order.
    #[must_use]
    pub fn all(&self) -> Entries<'a> {
        let root = self.head.outer.manifest;
        let walk = root.map(|root| TreeReader::new(self.repo, root, BlobKind::Page).walk(&[]));
        Entries {
            walk,
            below: Vec::new(),
        }
    }

    /// One entry.
    ///
    /// # Errors
    /// [`EngineError::NoPath`] when it is not there; damage, also when nobody can tell whether it is
    /// there; errors of the tier.
    #[boxed]
    pub async fn entry(
        &self,
        cx: &OpContext,
        component: u8,
        path: &EntryPath,
    ) -> Result<ViewEntry> {
        match self.entries(component, path).step(cx).await? {
            Some(Seen::Entry(entry)) if entry.path == *path => Ok(*entry),
            Some(Seen::Lost(lost)) if lost.covers(component, path) => Err(lost.why),
            _ => Err(EngineError::NoPath {
                path: path.to_string(),
                snapshot: self.meta().id.short(),
            }),
        }
    }

    /// Where the content of an entry lies.
    ///
    /// # Errors
    /// Damage, errors of the tier.
    #[boxed]
    pub async fn extents(&self, cx: &OpContext, record: &Record) -> Result<Extents> {
        let extents = resolve(self.repo, cx, &record.content).await?;
        if extents.length() != record.size {
            return Err(EngineError::damaged(
                "a list of extents",
                "its length is not the file's",
            ));
        }
        Ok(extents)
    }
}

/// The key of an entry in a manifest: the component's number and the stored path.
#[must_use]
pub fn manifest_key(component: u8, path: &EntryPath) -> Vec<u8> {
    [&[component], path.as_stored()].concat()
}

impl Entries<'_> {
    /// From now on notes the pages of the manifest that it comes to.
    pub fn note_pages(&mut self) {
        if let Some(walk) = &mut self.walk {
            walk.note_pages();
        }
    }

    /// The pages that it came to since this was asked last, those that cannot be read among them.
    pub fn noted_pages(&mut self) -> Vec<ChunkId> {
        self.walk
            .as_mut()
            .map(Walk::noted_pages)
            .unwrap_or_default()
    }

    /// The next entry, of a walk that is of use only if it is whole.
    ///
    /// # Errors
    /// Damage, errors of the tier, [`EngineError::Cancelled`].
    pub async fn next(&mut self, cx: &OpContext) -> Result<Option<ViewEntry>> {
        match self.step(cx).await? {
            Some(Seen::Entry(entry)) => Ok(Some(*entry)),
            Some(Seen::Lost(lost)) => Err(lost.why),
            None => Ok(None),
        }
    }

    /// The next entry, or a page that cannot be read, behind which the walk goes on.
    ///
    /// # Errors
    /// Damage of the root page, behind which nothing comes; errors of the tier,
    /// [`EngineError::Cancelled`].
    pub async fn step(&mut self, cx: &OpContext) -> Result<Option<Seen>> {
        let Some(walk) = &mut self.walk else {
            return Ok(None);
        };
        let (key, value) = match walk.step(cx).await? {
            Some(Met::Entry(key, value)) => (key, value),
            Some(Met::Lost(lost)) if self.is_behind(&lost.gap.from) => {
                self.walk = None;
                return Ok(None);
            }
            Some(Met::Lost(lost)) => return Ok(Some(Seen::Lost(lost))),
            None => return Ok(None),
        };
        if self.is_behind(&key) {
            self.walk = None;
            return Ok(None);
        }
        let wrong = |why: &dyn std::fmt::Display| EngineError::damaged("the manifest", why);
        let (component, stored) = key.split_first().ok_or_else(|| wrong(&"an empty key"))?;
        let path = EntryPath::from_stored(stored).map_err(|error| wrong(&error))?;
        let record = Record::decode(&value).map_err(|error| wrong(&error))?;
        Ok(Some(Seen::Entry(Box::new(ViewEntry {
            component: *component,
            path,
            record,
        }))))
    }

    /// Whether a key lies behind everything that is walked.
    fn is_behind(&self, key: &[u8]) -> bool {
        let is_inside = key.starts_with(&self.below)
            && (self.below.len() <= 1 || key.get(self.below.len()).is_none_or(|byte| *byte == 0));
        key > self.below.as_slice() && !is_inside
    }

    /// Passes over everything below an entry that was just returned.
    pub fn skip_below(&mut self, entry: &ViewEntry) {
        if let Some(walk) = &mut self.walk
            && !entry.path.is_root()
        {
            walk.skip_below(&manifest_key(entry.component, &entry.path));
        }
    }
}

/// What a component of a snapshot left for the next capture of its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handover {
    /// The name of its source; see [`backup_format::snapshot::source_name`].
    pub source: [u8; 32],
    /// The point that its data stands for.
    pub point: ConsistentPoint,
    /// What the source left.
    pub cursor: Option<Bytes>,
}

/// What a component of a snapshot left for the next capture of its source, if there is one of that
/// name. Writers read it as well as readers: they may have lost everything but their key. This is
/// the one place that knows where in a snapshot it lies.
///
/// # Errors
/// [`EngineError::Key`] for a key that cannot read it; [`EngineError::Damaged`].
pub fn handover(
    repo: &Repository,
    head: &SnapshotHead,
    component: &str,
) -> Result<Option<Handover>> {
    let next = &head.object.next;
    let mut codec = BlobCodec::opener().map_err(EngineError::Seal)?;
    let mut plain = Vec::new();
    let (kind, raw) = (BlobKind::Lineage, next.raw as usize);
    repo.open_blob(&mut codec, kind, &next.id, raw, &next.sealed, &mut plain)?;
    let mut next: Next = backup_format::snapshot::decode_part(&plain)
        .map_err(|error| EngineError::wire(format!("snapshot {}", head.meta.id), &error))?;
    let left = next.components.remove(component);
    Ok(left.map(|left| Handover {
        source: left.source,
        point: left.point.point(),
        cursor: left.cursor.map(Bytes::from),
    }))
}

/// The statement of a head; see [`SnapshotView::statement`].
///
/// # Errors
/// [`EngineError::Damaged`].
pub fn statement_of(head: &SnapshotHead) -> Result<(SignedStatement, [u8; 32], Signatures)> {
    let object = format!("snapshot {}", head.meta.id);
    let statement = SignedStatement::decode(&head.object.statement)
        .map_err(|error| EngineError::damaged(&object, error))?;
    let agrees = statement.snapshot == head.meta.id
        && statement.host == head.meta.host
        && statement.name == head.meta.name
        && statement.time == head.meta.time
        && statement.root.as_bytes() == &head.outer.merkle_root
        && statement.leaf_count == head.outer.leaves
        && statement.bytes == head.meta.stats.bytes
        && statement.parent == head.meta.parent;
    if !agrees {
        return Err(EngineError::damaged(
            object,
            "its signed statement contradicts it",
        ));
    }
    let SnapshotObject {
        outer, inner, next, ..
    } = &head.object;
    let digest = SnapshotObject::digest(outer, inner, &next.sealed);
    let signatures = Signatures {
        hmac: HmacTag(head.object.hmac),
        ed25519: Ed25519Signature(joined(head.object.signature)),
        public_key: PublicKey(head.object.public_key),
    };
    Ok((statement, digest, signatures))
}

fn joined((low, high): ([u8; 32], [u8; 32])) -> [u8; 64] {
    let mut out = [0u8; 64];
    out[..32].copy_from_slice(&low);
    out[32..].copy_from_slice(&high);
    out
}

/// Checks the signatures of a head: that the Ed25519 key is its host's by the word of the repository's
/// authority, and the HMAC where these keys can.
///
/// # Errors
/// [`EngineError::Damaged`] when one does not match.
pub fn check_signatures(repo: &Repository, head: &SnapshotHead) -> Result<()> {
    let object = format!("snapshot {}", head.meta.id);
    let (statement, digest, signatures) = statement_of(head)?;
    if statement.repo != repo.id() {
        return Err(EngineError::damaged(
            object,
            "it belongs to another repository",
        ));
    }
    let bytes = &head.object.statement;
    verify_statement_ed25519(bytes, &digest, &signatures)
        .map_err(|error| EngineError::damaged(&object, error))?;
    let (authority, host) = (repo.keys().authority(), &head.meta.host);
    let certificate = joined(head.object.certificate);
    if !is_certified(
        authority,
        repo.id(),
        host,
        &head.object.public_key,
        &certificate,
    ) {
        return Err(EngineError::damaged(
            object,
            "it is signed with a key that is not its host's",
        ));
    }
    if let Ok(key) = repo.keys().ledger_key(host) {
        verify_statement_hmac(&HmacKey::new(*key.expose()), bytes, &digest, &signatures)
            .map_err(|error| EngineError::damaged(&object, error))?;
    }
    Ok(())
}

/// Reads the plain bytes of an extent list range by range, in order.
#[derive(Debug)]
pub struct ContentReader<'a> {
    repo: &'a Repository,
    extents: Extents,
    next: usize,
    zeros_done: u64,
    // The last chunk read: neighbouring extents often share one.
    last: Option<(backup_core::ChunkId, Vec<u8>)>,
}

impl<'a> ContentReader<'a> {
    /// A reader of that content.
    #[must_use]
    pub const fn new(repo: &'a Repository, extents: Extents) -> Self {
        Self {
            repo,
            extents,
            next: 0,
            zeros_done: 0,
            last: None,
        }
    }

    /// The next bytes; `None` at the end. Zeros come in parts of at most 1 MiB.
    ///
    /// # Errors
    /// Damage, errors of the tier.
    pub async fn next(&mut self, cx: &OpContext) -> Result<Option<Vec<u8>>> {
        use backup_format::extent::Extent;
        let Some(extent) = self.extents.as_slice().get(self.next).copied() else {
            return Ok(None);
        };
        match extent {
            Extent::Zero { length } => {
                let part = (length - self.zeros_done).min(1 << 20);
                self.zeros_done += part;
                if self.zeros_done == length {
                    self.zeros_done = 0;
                    self.next += 1;
                }
                Ok(Some(vec![0; usize::try_from(part).unwrap_or(0)]))
            }
            Extent::Data {
                chunk,
                offset,
                length,
            } => {
                self.next += 1;
                if self.last.as_ref().is_none_or(|(id, _)| *id != chunk) {
                    let bytes = self.repo.read_blob(cx, BlobKind::Data, &chunk).await?;
                    self.last = Some((chunk, bytes));
                }
                let bytes = self.last.as_ref().map_or(&[][..], |(_, bytes)| bytes);
                let part = bytes.get(offset as usize..offset as usize + length as usize);
                let part = part.ok_or_else(|| {
                    EngineError::damaged(format!("chunk {chunk}"), "an extent lies outside it")
                })?;
                Ok(Some(part.to_vec()))
            }
        }
    }
}
