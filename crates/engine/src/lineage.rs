//! Finding what the parent snapshot has of a stream: in the state of the last run, or else in the
//! snapshot's lineage directory and, where the key may read it, in its manifest.

use std::sync::Arc;

use async_recursion::async_recursion as boxed;
use backup_core::OpContext;
use backup_format::chunk::PieceCut;
use backup_format::extent::{Content, Extents, MAX_EXTENTS};
use backup_format::lineage::{LineageHead, Pieces};
use backup_format::page::TreeRoot;
use backup_format::record::Record;
use backup_format::seal::BlobKind;
use backup_format::wire::Take;

use crate::error::{EngineError, Result};
use crate::index_set::IndexSet;
use crate::past::Past;
use crate::repository::Repository;
use crate::state::StateEntry;
use crate::tree::TreeReader;

/// The trees of a snapshot to build on that this run looks into.
#[derive(Debug, Clone, Copy, Default)]
pub struct ParentTrees {
    /// Its lineage directory.
    pub lineage: Option<TreeRoot>,
    /// Its manifest, where the key may read it and a source builds on it by its own knowledge.
    pub manifest: Option<TreeRoot>,
}

/// Looks up lineages for a run.
#[derive(Debug)]
pub struct Lineages<'a> {
    repo: &'a Repository,
    /// What the run may name.
    index: Arc<IndexSet>,
    parent: ParentTrees,
    key: [u8; 32],
}

/// The content of an entry as a snapshot has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inherited {
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256, where it is known.
    pub sha256: Option<[u8; 32]>,
    /// What its record names.
    pub content: Content,
    /// Where its content lies.
    pub extents: Extents,
    /// Its lineage, if it has one.
    pub lineage: Option<LineageHead>,
}

impl Inherited {
    /// What the local state of the snapshot says.
    ///
    /// # Errors
    /// [`EngineError::Damaged`] when it says nothing that makes sense.
    pub fn of_state(state: &StateEntry) -> Result<Self> {
        let wrong = |error| EngineError::wire("the local state", &error);
        let record = state.decoded()?;
        let extents = match &record.content {
            Content::Inline(extents) => extents.clone(),
            Content::Spilled(_) => {
                Extents::decode_within(&mut Take::new(&state.extents), MAX_EXTENTS)
                    .map_err(wrong)?
            }
        };
        let lineage = match state.lineage.as_slice() {
            [] => None,
            stored => Some(decode(stored)?),
        };
        Self::of_record(record, extents, lineage)
    }

    fn of_record(record: Record, extents: Extents, lineage: Option<LineageHead>) -> Result<Self> {
        if extents.length() != record.size {
            let why = "its length is not the file's";
            return Err(EngineError::damaged("a list of extents", why));
        }
        Ok(Self {
            size: record.size,
            sha256: record.sha256,
            lineage: lineage.filter(|head| head.content == record.content),
            content: record.content,
            extents,
        })
    }
}

impl<'a> Lineages<'a> {
    /// Lineages of a run that builds on these trees and may name what this index knows.
    ///
    /// # Errors
    /// [`EngineError::Key`] for a key that cannot write.
    pub fn new(repo: &'a Repository, index: Arc<IndexSet>, parent: ParentTrees) -> Result<Self> {
        let key = blake3::keyed_hash(repo.keys().cut_key()?, b"backstay v1 stream name");
        Ok(Self {
            repo,
            index,
            parent,
            key: *key.as_bytes(),
        })
    }

    /// The name of a stream in the lineage directory: a keyed hash of its key in the manifest, so
    /// that whoever may read lineages learns no paths.
    #[must_use]
    pub fn stream_name(&self, key: &[u8]) -> [u8; 16] {
        let mut out = [0u8; 16];
        out.copy_from_slice(&blake3::keyed_hash(&self.key, key).as_bytes()[..16]);
        out
    }

    /// What the trees have of the entry with this key in the manifest.
    ///
    /// # Errors
    /// [`EngineError::Damaged`], [`EngineError::Missing`], errors of the tier.
    pub(crate) async fn inherited(&self, cx: &OpContext, key: &[u8]) -> Result<Option<Inherited>> {
        let head = self.head(cx, key).await;
        if let Some(root) = self.parent.manifest {
            let tree = TreeReader::new(self.repo, root, BlobKind::Page);
            let Some(stored) = tree.get(cx, key).await? else {
                return Ok(None);
            };
            let record = Record::decode(&stored)
                .map_err(|error| EngineError::wire("a record of the manifest", &error))?;
            if !record.meta.kind.has_content() {
                return Ok(None);
            }
            let extents = resolve(self.repo, cx, &record.content).await?;
            // The content is whole without its lineage.
            let head = head.ok().flatten();
            return Inherited::of_record(record, extents, head).map(Some);
        }
        let Some(head) = head? else {
            return Ok(None);
        };
        Ok(Some(Inherited {
            size: head.size,
            sha256: None,
            content: head.content.clone(),
            extents: resolve(self.repo, cx, &head.content).await?,
            lineage: Some(head),
        }))
    }

    async fn head(&self, cx: &OpContext, key: &[u8]) -> Result<Option<LineageHead>> {
        let Some(root) = self.parent.lineage else {
            return Ok(None);
        };
        let tree = TreeReader::new(self.repo, root, BlobKind::Lineage);
        let stored = tree.get(cx, &self.stream_name(key)).await?;
        stored.map(|stored| decode(&stored)).transpose()
    }

    /// The past of the stream with this key in the manifest.
    ///
    /// # Errors
    /// [`EngineError::Damaged`], [`EngineError::Missing`], errors of the tier.
    pub(crate) async fn past(
        &self,
        cx: &OpContext,
        key: &[u8],
        known: Option<&StateEntry>,
    ) -> Result<Option<Past>> {
        let inherited = match known {
            Some(state) => Inherited::of_state(state)?,
            None => match self.inherited(cx, key).await? {
                Some(inherited) => inherited,
                None => return Ok(None),
            },
        };
        let (extents, index) = (&inherited.extents, &*self.index);
        let Some(mut head) = inherited.lineage else {
            return Ok(Some(Past::new(None, Pieces::default(), extents, index)));
        };
        // Where the content lies is known without the pieces; nothing can be compared with it then.
        let (head, pieces) = match self.pieces(cx, &head, extents).await {
            Ok(pieces) => {
                if !has_layers(index, &head) {
                    // What they say is known, and stored anew as a base.
                    head.layers.clear();
                }
                (Some(head), pieces)
            }
            Err(_) => (None, Pieces::default()),
        };
        Ok(Some(Past::new(head, pieces, extents, index)))
    }

    async fn pieces(
        &self,
        cx: &OpContext,
        head: &LineageHead,
        extents: &Extents,
    ) -> Result<Pieces> {
        let mut pieces = Pieces::default();
        for layer in &head.layers {
            let mut bytes = Vec::new();
            for part in &layer.parts {
                bytes.extend(self.repo.read_blob(cx, BlobKind::Lineage, part).await?);
            }
            pieces = Pieces::apply(&pieces, &bytes, head.cut)
                .map_err(|error| EngineError::wire("a lineage layer", &error))?;
        }
        let size: u64 = match head.cut {
            PieceCut::Pages(_) => head.size,
            PieceCut::Content(_) => pieces.lengths.iter().map(|length| u64::from(*length)).sum(),
        };
        let fits = pieces.digests.len() as u64 == head.pieces
            && size == head.size
            && extents.length() == head.size;
        if fits {
            Ok(pieces)
        } else {
            let why = "its parts do not fit together";
            Err(EngineError::damaged("a lineage", why))
        }
    }
}

/// Whether an index has all layers of a lineage.
pub(crate) fn has_layers(index: &IndexSet, head: &LineageHead) -> bool {
    let mut parts = head.layers.iter().flat_map(|layer| &layer.parts);
    parts.all(|part| index.find(part).is_some())
}

fn decode(stored: &[u8]) -> Result<LineageHead> {
    LineageHead::decode(stored).map_err(|error| EngineError::wire("a lineage head", &error))
}

/// The extents of a content, its spills read.
///
/// # Errors
/// [`EngineError::Damaged`], [`EngineError::Missing`], errors of the tier.
#[boxed]
pub async fn resolve(repo: &Repository, cx: &OpContext, content: &Content) -> Result<Extents> {
    match content {
        Content::Inline(extents) => Ok(extents.clone()),
        Content::Spilled(spills) => {
            let mut out = Extents::default();
            for id in spills {
                let bytes = repo.read_blob(cx, BlobKind::Lineage, id).await?;
                let mut take = Take::new(&bytes);
                let part = Extents::decode(&mut take).and_then(|part| take.end().map(|()| part));
                part.and_then(|part| out.extend(&part))
                    .map_err(|error| EngineError::wire("a list of extents", &error))?;
            }
            Ok(out)
        }
    }
}
