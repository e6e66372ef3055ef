//! What is used of a pack that the tier that is copied from has lost, or has damaged: a save may have stored it anew in other
//! packs, and a repair have set the pack aside, of which not all is damaged.
//!
//! By what the index says of chunks alone nothing is carried: whoever may write to it can say anything. So this takes a key
//! that reads content, and each chunk is opened before it travels.

use std::collections::{BTreeMap, BTreeSet};

use backup_core::{ErrorKind, ObjectKey, PackId};
use backup_format::layout;
use backup_format::pack::{MAX_PACK, PackBlob, PackBuilder, PackHeader};
use backup_format::refs::PackUse;
use backup_format::seal::{BlobCodec, blob_session};
use bytes::Bytes;

use super::packs::Placed;
use super::session::Shipment;
use crate::data_keys::{SealedBlob, WrapSet};
use crate::error::{EngineError, Result};
use crate::index_set::IndexSet;
use crate::pack_end::{end_of, header_of};
use crate::parity::read_all_there_is;
use crate::repair::{Chunk, is_told, used_chunks};
use crate::repository::name;

/// What is gathered of a pack, to be laid into a new one.
struct Gathered<'a> {
    shipment: &'a Shipment<'a>,
    left: BTreeSet<Chunk>,
    builder: PackBuilder,
    wraps: WrapSet,
    plain: Vec<u8>,
}

impl Shipment<'_> {
    /// Sees to it that the other tier has what is used of a pack that cannot be had; `failed` says why that is so.
    ///
    /// # Errors
    /// `failed`, with what is lacking, if not all of it is anywhere, or no index run tells what it held;
    /// [`EngineError::IndexCache`]; errors of the tiers.
    pub(super) async fn scattered(
        &self,
        usage: &PackUse,
        key: &ObjectKey,
        failed: EngineError,
    ) -> Result<(Placed, u64, u64)> {
        if !self.from.keys().can_read() {
            return Err(failed);
        }
        // Here it is concluded from what it does not say that nothing more is needed.
        let index = self.from.proven_index(self.cx).await?;
        let uses = BTreeMap::from([(usage.pack, usage.clone())]);
        let used = used_chunks(&index, &uses).remove(&usage.pack);
        let (used, is_told) = (used.unwrap_or_default(), is_told(&index, usage));
        index.check()?;
        if !is_told {
            let slots = usage.slots;
            return Err(and_more(
                failed,
                &format!(
                    "refs say that it held {slots} chunks, and no index run tells so many of it, so nobody knows what is to be looked for in other packs; `snapshot repair` with a full key finds out which snapshots are whole without it"
                ),
            ));
        }
        if used.is_empty() {
            return Err(failed);
        }
        let is_there = |(prefix, kind): &&Chunk| {
            let mut places = self.index.places(prefix);
            places.any(|place| place.located.kind == *kind)
        };
        let (there, left): (BTreeSet<Chunk>, BTreeSet<Chunk>) = used.iter().partition(is_there);
        let mut gathered = Gathered {
            shipment: self,
            left,
            builder: PackBuilder::new(0),
            wraps: WrapSet::default(),
            plain: Vec::new(),
        };
        gathered.take_of_packs(&index, usage.pack).await?;
        gathered.take_of_remains(key).await?;
        if !gathered.left.is_empty() {
            let (lacking, all) = (gathered.left.len(), used.len());
            let more = format!(
                "of {all} chunks of it that are used, {lacking} are whole in no other pack, nor in aside/"
            );
            return Err(and_more(failed, &more));
        }
        let is_meta = key.as_str().starts_with("meta/");
        let (builder, sessions) = (gathered.builder, gathered.wraps.to_vec());
        let elsewhere = there.into_iter().map(|(prefix, _)| prefix).collect();
        self.put_new(builder, sessions, is_meta, elsewhere).await
    }
}

/// Adds to an error of loss or damage what else there is to say.
fn and_more(failed: EngineError, more: &str) -> EngineError {
    match failed {
        EngineError::Missing { object, why } => EngineError::Missing {
            object,
            why: format!("{why}; {more}"),
        },
        EngineError::Damaged { object, why } => EngineError::Damaged {
            object,
            why: format!("{why}; {more}"),
        },
        other => other,
    }
}

impl Gathered<'_> {
    /// Takes what other packs have.
    async fn take_of_packs(&mut self, index: &IndexSet, lost: PackId) -> Result<()> {
        let from = self.shipment.from;
        let mut packs: BTreeMap<(PackId, bool), BTreeSet<Chunk>> = BTreeMap::new();
        for chunk in &self.left {
            let (prefix, kind) = chunk;
            let places = index.places(prefix);
            for place in places.filter(|at| at.located.kind == *kind && at.pack != lost) {
                let pack = (place.pack, kind.is_meta());
                packs.entry(pack).or_default().insert(*chunk);
            }
        }
        for ((id, is_meta), chunks) in packs {
            if chunks.is_disjoint(&self.left) {
                continue;
            }
            let key = name(layout::pack(id, is_meta))?;
            let bytes = match self.shipment.fetch(&key, id).await {
                Ok(bytes) => bytes,
                Err(error) if error.is_damage() => continue,
                Err(error) => return Err(error),
            };
            match end_of(from, &key, &bytes) {
                Ok(end) => self.take(&bytes, &end)?,
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes what is whole of the pack itself, where it should be or set aside.
    async fn take_of_remains(&mut self, key: &ObjectKey) -> Result<()> {
        let (from, cx) = (self.shipment.from, self.shipment.cx);
        for at in [key.clone(), name(layout::aside(key))?] {
            if self.left.is_empty() {
                return Ok(());
            }
            let bytes = match read_all_there_is(cx, &**from.sink(), &at, MAX_PACK).await {
                Ok(bytes) => bytes,
                Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => continue,
                Err(error) if error.is_damage() => continue,
                Err(error) => return Err(error),
            };
            match header_of(from, &at, &bytes) {
                Ok(end) => self.take(&bytes, &end)?,
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes those blobs that are lacking and that are what their ids say.
    fn take(&mut self, bytes: &Bytes, end: &PackHeader) -> Result<()> {
        for blob in &end.blobs {
            let chunk = (blob.id.prefix(), blob.kind);
            let start = blob.offset as usize;
            let sealed = bytes.get(start..start.saturating_add(blob.stored as usize));
            let Some(sealed) = sealed.filter(|_| self.left.contains(&chunk)) else {
                continue;
            };
            if !self.is_right(blob, sealed, end)? {
                continue;
            }
            let session = blob_session(sealed).map_err(EngineError::Seal)?;
            for wrap in end.sessions.iter().filter(|wrap| wrap.session == session) {
                self.wraps.add(wrap);
            }
            self.builder
                .push(blob.kind, blob.id, blob.raw as usize, sealed);
            self.left.remove(&chunk);
        }
        Ok(())
    }

    fn is_right(&mut self, blob: &PackBlob, sealed: &[u8], end: &PackHeader) -> Result<bool> {
        let described = SealedBlob {
            kind: blob.kind,
            id: &blob.id,
            raw: blob.raw as usize,
            sealed,
        };
        let (from, plain) = (self.shipment.from, &mut self.plain);
        let opened = tokio::task::block_in_place(|| {
            let mut codec = BlobCodec::opener().map_err(EngineError::Seal)?;
            from.open_knowing(&mut codec, &described, &end.sessions, plain)
        });
        match opened {
            Ok(()) => Ok(true),
            Err(error) if error.is_damage() => Ok(false),
            Err(error) => Err(error),
        }
    }
}
