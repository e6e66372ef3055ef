//! Reading trees of pages from a repository.

use backup_core::{ChunkId, OpContext};
use backup_format::page::{Step, TreeCursor, TreeRoot};
use backup_format::seal::BlobKind;

use crate::error::{EngineError, Result};
use crate::lost::LostPage;
use crate::repository::Repository;

/// Reads one tree.
#[derive(Debug, Clone, Copy)]
pub struct TreeReader<'a> {
    repo: &'a Repository,
    root: TreeRoot,
    kind: BlobKind,
}

/// A walk over entries of a tree in ascending order of key.
#[derive(Debug)]
pub struct Walk<'a> {
    reader: TreeReader<'a>,
    cursor: TreeCursor,
    // Pages that were asked for, where somebody wants to know.
    noted: Option<Vec<ChunkId>>,
}

/// What a walk that goes on behind damage comes upon.
#[derive(Debug)]
pub enum Met {
    /// An entry: key and value.
    Entry(Vec<u8>, Vec<u8>),
    /// A page that cannot be read. The walk goes on behind it.
    Lost(Box<LostPage>),
}

impl<'a> TreeReader<'a> {
    /// A reader of the tree with this root, whose pages are blobs of this kind.
    #[must_use]
    pub const fn new(repo: &'a Repository, root: TreeRoot, kind: BlobKind) -> Self {
        Self { repo, root, kind }
    }

    /// A walk of the entries whose key is at least `from`.
    #[must_use]
    pub fn walk(self, from: &[u8]) -> Walk<'a> {
        Walk {
            cursor: TreeCursor::new(&self.root, from),
            reader: self,
            noted: None,
        }
    }

    /// The value of one key.
    ///
    /// # Errors
    /// [`EngineError::Damaged`], [`EngineError::Missing`], errors of the tier.
    pub async fn get(self, cx: &OpContext, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let found = self.walk(key).next(cx).await?;
        Ok(found
            .filter(|(found, _)| found == key)
            .map(|(_, value)| value))
    }
}

impl Walk<'_> {
    /// From now on notes the pages that it comes to.
    pub fn note_pages(&mut self) {
        self.noted.get_or_insert_default();
    }

    /// The pages that it came to since this was asked last, those that cannot be read among them.
    pub fn noted_pages(&mut self) -> Vec<ChunkId> {
        self.noted.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The next entry: key and value.
    ///
    /// # Errors
    /// [`EngineError::Damaged`], [`EngineError::Missing`], errors of the tier,
    /// [`EngineError::Cancelled`].
    pub async fn next(&mut self, cx: &OpContext) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        match self.step(cx).await? {
            Some(Met::Entry(key, value)) => Ok(Some((key, value))),
            Some(Met::Lost(lost)) => Err(lost.why),
            None => Ok(None),
        }
    }

    /// The next entry, or a page that cannot be read, behind which the walk goes on.
    ///
    /// # Errors
    /// Damage of the root page, behind which nothing comes; errors of the tier,
    /// [`EngineError::Cancelled`].
    pub async fn step(&mut self, cx: &OpContext) -> Result<Option<Met>> {
        loop {
            let wrong = |error| EngineError::wire("a page of the manifest", &error);
            match self.cursor.step().map_err(wrong)? {
                Step::Entry(key, value) => return Ok(Some(Met::Entry(key, value))),
                Step::End => return Ok(None),
                Step::Need(id) => {
                    if cx.cancel.is_cancelled() {
                        return Err(EngineError::Cancelled);
                    }
                    if let Some(noted) = &mut self.noted {
                        noted.push(id);
                    }
                    let read = self.reader.repo.read_blob(cx, self.reader.kind, &id).await;
                    let supplied = read.and_then(|page| self.cursor.supply(&page).map_err(wrong));
                    let Err(why) = supplied else {
                        continue;
                    };
                    if !why.is_damage() {
                        return Err(why);
                    }
                    let Some(gap) = self.cursor.pass_over() else {
                        return Err(why);
                    };
                    return Ok(Some(Met::Lost(Box::new(LostPage { gap, why }))));
                }
            }
        }
    }

    /// Passes over everything below the entry with this key.
    pub fn skip_below(&mut self, key: &[u8]) {
        self.cursor.skip_below(&self.reader.root, key);
    }
}
