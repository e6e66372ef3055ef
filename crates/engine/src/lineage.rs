//! Finding the past of a stream: in the state of the last run, or else in the parent snapshot's
//! lineage directory.

use backup_core::OpContext;
use backup_format::extent::{Content, Extents, MAX_EXTENTS};
use backup_format::lineage::{LineageHead, Pieces};
use backup_format::page::TreeRoot;
use backup_format::seal::BlobKind;
use backup_format::wire::Take;

use crate::error::{EngineError, Result};
use crate::past::Past;
use crate::repository::Repository;
use crate::state::StateEntry;
use crate::tree::TreeReader;

/// Looks up lineages for a run.
#[derive(Debug)]
pub struct Lineages<'a> {
    repo: &'a Repository,
    parent: Option<TreeRoot>,
    key: [u8; 32],
}

impl<'a> Lineages<'a> {
    /// Lineages of a run that builds on a parent with this lineage directory.
    ///
    /// # Errors
    /// [`EngineError::Key`] for a key that cannot write.
    pub fn new(repo: &'a Repository, parent: Option<TreeRoot>) -> Result<Self> {
        let key = blake3::keyed_hash(repo.keys().cut_key()?, b"backstay v1 stream name");
        Ok(Self {
            repo,
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
        let (head, extents) = match known {
            Some(state) if state.lineage.is_empty() => return Ok(None),
            Some(state) => {
                let head = decode(&state.lineage)?;
                let extents = match &head.content {
                    Content::Inline(extents) => extents.clone(),
                    Content::Spilled(_) => {
                        Extents::decode_within(&mut Take::new(&state.extents), MAX_EXTENTS)
                            .map_err(|error| EngineError::wire("the local state", &error))?
                    }
                };
                (head, extents)
            }
            None => {
                let Some(root) = self.parent else {
                    return Ok(None);
                };
                let name = self.stream_name(key);
                let tree = TreeReader::new(self.repo, root, BlobKind::Lineage);
                let Some(stored) = tree.get(cx, &name).await? else {
                    return Ok(None);
                };
                let head = decode(&stored)?;
                let extents = resolve(self.repo, cx, &head.content).await?;
                (head, extents)
            }
        };
        let mut pieces = Pieces::default();
        for layer in &head.layers {
            let mut bytes = Vec::new();
            for part in &layer.parts {
                bytes.extend(self.repo.read_blob(cx, BlobKind::Lineage, part).await?);
            }
            pieces = Pieces::apply(&pieces, &bytes, head.cut)
                .map_err(|error| EngineError::wire("a lineage layer", &error))?;
        }
        if pieces.digests.len() as u64 != head.pieces || extents.length() != head.size {
            return Err(EngineError::damaged(
                "a lineage",
                "its parts do not fit together",
            ));
        }
        Ok(Some(Past::new(head, pieces, &extents, &self.repo.index())))
    }
}

fn decode(stored: &[u8]) -> Result<LineageHead> {
    LineageHead::decode(stored).map_err(|error| EngineError::wire("a lineage head", &error))
}

/// The extents of a content, its spills read.
///
/// # Errors
/// [`EngineError::Damaged`], [`EngineError::Missing`], errors of the tier.
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
