//! Reading single blobs: found by the index, opened, and checked against their ids.

use backup_core::{ByteRange, ChunkId, ErrorKind, OpContext};
use backup_format::seal::{BlobCodec, BlobKind, blob_id};

use crate::error::{EngineError, Result};
use crate::index_set::Place;
use crate::repository::Repository;

impl Repository {
    /// Opens a sealed blob and checks it against its id.
    ///
    /// # Errors
    /// [`EngineError::Damaged`].
    pub fn open_blob(
        &self,
        codec: &mut BlobCodec,
        kind: BlobKind,
        id: &ChunkId,
        raw: usize,
        sealed: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let damaged = |why: String| EngineError::damaged(format!("chunk {id}"), why);
        let session =
            backup_format::seal::blob_session(sealed).map_err(|e| damaged(e.to_string()))?;
        // Before it authenticates, what a blob says of its session may be damage as well.
        let key = self.session_key(session).map_err(|error| match error {
            EngineError::Missing { .. } => {
                damaged(format!("it names session {session}, whose key nothing has"))
            }
            other => other,
        })?;
        codec
            .open(&key, kind, id, raw, sealed, out)
            .map_err(|e| damaged(e.to_string()))?;
        if blob_id(self.keys().id_key()?, kind, out) != *id {
            return Err(damaged("its content does not hash to its id".into()));
        }
        Ok(())
    }

    /// Reads one blob, wherever it lies: its pack may have been deleted since the index was read, and
    /// the blob be in another.
    ///
    /// # Errors
    /// [`EngineError::Missing`], [`EngineError::Damaged`], errors of the tier.
    pub async fn read_blob(&self, cx: &OpContext, kind: BlobKind, id: &ChunkId) -> Result<Vec<u8>> {
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

    async fn read_place(
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
        let sealed = self.sink().get(cx, &key, range).await;
        let sealed = sealed.map_err(|error| match error.kind {
            ErrorKind::NotFound => EngineError::Missing {
                object: key.to_string(),
                why: format!("it holds chunk {id}"),
            },
            _ => error.into(),
        })?;
        let mut codec = BlobCodec::opener().map_err(EngineError::Seal)?;
        let (mut out, raw) = (Vec::new(), place.located.raw as usize);
        self.open_blob(&mut codec, kind, id, raw, &sealed, &mut out)?;
        Ok(out)
    }
}
