//! Reading single blobs: found by the index, opened, and checked against their ids.

use std::cell::RefCell;

use backup_core::{ByteRange, ChunkId, ErrorKind, OpContext};
use backup_format::keys::KeyError;
use backup_format::layout;
use backup_format::seal::{BlobCodec, BlobKind};

use crate::data_keys::SealedBlob;
use crate::error::{EngineError, Result};
use crate::index_set::Place;
use crate::repository::{Repository, name};

thread_local! {
    /// Making one costs as much as opening a page.
    static OPENER: RefCell<Option<BlobCodec>> = const { RefCell::new(None) };
}

/// Works with this thread's opener.
fn with_opener<T>(work: impl FnOnce(&mut BlobCodec) -> Result<T>) -> Result<T> {
    let kept = OPENER.take();
    let mut codec = match kept {
        Some(codec) => codec,
        None => BlobCodec::opener().map_err(EngineError::Seal)?,
    };
    let done = work(&mut codec);
    OPENER.set(Some(codec));
    done
}

impl Repository {
    /// Opens a sealed blob and checks it against its id.
    ///
    /// # Errors
    /// [`EngineError::Damaged`]; [`EngineError::Key`] for a key that cannot read it.
    pub fn open_blob(
        &self,
        codec: &mut BlobCodec,
        kind: BlobKind,
        id: &ChunkId,
        raw: usize,
        sealed: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let blob = SealedBlob {
            kind,
            id,
            raw,
            sealed,
        };
        self.open_knowing(codec, &blob, &[], out)
    }

    /// Reads one blob, wherever it lies: its pack may have been deleted since the index was read, and
    /// the blob be in another; and there may be copies to be asked ([`Repository::also_from`]).
    ///
    /// # Errors
    /// [`EngineError::Missing`], [`EngineError::Damaged`], errors of the tier.
    pub async fn read_blob(&self, cx: &OpContext, kind: BlobKind, id: &ChunkId) -> Result<Vec<u8>> {
        match self.has_others() {
            true => self.read_nearest(cx, kind, id).await,
            false => self.read_own_blob(cx, kind, id).await,
        }
    }

    /// The same on this tier alone.
    pub(crate) async fn read_own_blob(
        &self,
        cx: &OpContext,
        kind: BlobKind,
        id: &ChunkId,
    ) -> Result<Vec<u8>> {
        loop {
            let index = self.index();
            let mut ended = EngineError::Missing {
                object: format!("chunk {id}"),
                why: self.why_unknown(),
            };
            let places: Vec<Place> = index.places(&id.prefix()).collect();
            for place in places {
                match self.read_place(cx, kind, id, &place).await {
                    Err(error) if error.is_damage() => {
                        // Of damage and loss, damage is told.
                        if matches!(ended, EngineError::Missing { .. }) {
                            ended = error;
                        }
                    }
                    read => return read,
                }
            }
            let is_missing = matches!(ended, EngineError::Missing { .. });
            if !is_missing || !self.look_again(cx, &index).await? {
                return Err(ended);
            }
        }
    }

    /// Reads a blob from one place.
    ///
    /// # Errors
    /// As [`Repository::read_blob`].
    pub(crate) async fn read_place(
        &self,
        cx: &OpContext,
        kind: BlobKind,
        id: &ChunkId,
        place: &Place,
    ) -> Result<Vec<u8>> {
        let key = Self::pack_key(place)?;
        let (offset, length) = (
            u64::from(place.located.offset),
            u64::from(place.located.stored),
        );
        let range = ByteRange::Span { offset, length };
        let mut at = key.clone();
        let mut got = self.sink().get(cx, &at, range).await;
        if matches!(&got, Err(error) if error.kind == ErrorKind::NotFound) {
            // A damaged pack that a repair took out of the way: not all of it need be damaged.
            at = name(layout::aside(&key))?;
            got = self.sink().get(cx, &at, range).await;
        }
        let sealed = got.map_err(|error| match error.kind {
            ErrorKind::NotFound => EngineError::Missing {
                object: key.to_string(),
                why: format!("it holds chunk {id}"),
            },
            _ => error.into(),
        })?;
        let blob = SealedBlob {
            kind,
            id,
            raw: place.located.raw as usize,
            sealed: &sealed,
        };
        let mut out = Vec::new();
        let opened = with_opener(|codec| self.open_knowing(codec, &blob, &[], &mut out));
        match opened {
            Err(EngineError::Damaged { .. } | EngineError::Key(KeyError::Outdated { .. })) => {
                self.open_by_end(cx, &at, &blob, &mut out).await?;
            }
            opened => opened?,
        }
        Ok(out)
    }
}
