//! Parity beside packs; that of small objects is in [`crate::beside`]. A sidecar follows its pack onto the tier and goes behind it, so one without its
//! pack is of one that was deleted. Nothing that reads snapshots needs it: it is there for
//! [`crate::repair`]. What is in it says [`backup_parity`].

use async_recursion::async_recursion as boxed;
use backup_core::{
    ByteRange, ErrorKind, ObjectKey, OpContext, PackId, PutMode, Retry, Sink, SinkError,
};
use backup_format::config::ConfigError;
use backup_format::layout;
use backup_parity::layout::MAX_SIDECAR;
use backup_parity::{Share, encode_known};
use bytes::Bytes;

use crate::beside;
use crate::error::{EngineError, Result};
use crate::repository::{Repository, get_within, name, put_new};

impl Repository {
    /// How much parity is put beside packs, if any is.
    #[must_use]
    pub fn parity(&self) -> Option<Share> {
        Share::new(self.config().parity()?).ok()
    }
}

/// The sidecar of a pack.
pub(crate) fn sidecar(pack: &ObjectKey, id: PackId, bytes: &[u8], share: Share) -> Result<Bytes> {
    let made = encode_known(bytes, id.0, share).map_err(|why| EngineError::Parity {
        object: pack.to_string(),
        why,
    })?;
    Ok(made.into())
}

/// Puts a new pack on the tier, and behind it its sidecar if there is to be one. Returns the bytes of
/// both.
pub(crate) async fn put_pack(
    cx: &OpContext,
    sink: &dyn Sink,
    (key, id): (&ObjectKey, PackId),
    bytes: Bytes,
    share: Option<Share>,
) -> Result<u64> {
    let made = share
        .map(|share| sidecar(key, id, &bytes, share))
        .transpose()?;
    let mut size = bytes.len() as u64;
    put_new(cx, sink, key, bytes).await?;
    if let Some(made) = made {
        size += made.len() as u64;
        put_new(cx, sink, &name(layout::parity(key))?, made).await?;
    }
    Ok(size)
}

/// Reads the sidecar of a pack; `None` where there is none.
pub(crate) async fn read_sidecar(
    cx: &OpContext,
    sink: &dyn Sink,
    pack: &ObjectKey,
) -> Result<Option<Bytes>> {
    match read_all_there_is(cx, sink, &name(layout::parity(pack))?, MAX_SIDECAR).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// So much is asked for at once of an object that cannot be read whole.
const STRETCH: u64 = 64 << 10;

/// Reads an object of at most so many bytes. Where a disk has bad sectors, zeros stand for what it does not
/// give.
pub(crate) async fn read_all_there_is(
    cx: &OpContext,
    sink: &dyn Sink,
    key: &ObjectKey,
    limit: usize,
) -> Result<Bytes> {
    let failed = match get_within(cx, sink, key, limit).await {
        Ok(bytes) => return Ok(bytes),
        // What may pass by itself says nothing of the object.
        Err(EngineError::Sink(error))
            if error.kind != ErrorKind::NotFound && error.retry == Retry::Never =>
        {
            error
        }
        // What is longer than it may be is of no use behind that.
        Err(error) if !error.is_damage() => return Err(error),
        Err(_) => return Ok(get_span(cx, sink, key, 0, limit as u64).await?),
    };
    if cx.cancel.is_cancelled() {
        return Err(EngineError::Cancelled);
    }
    let size = sink.head(cx, key).await?.size.min(limit as u64);
    let mut out = Vec::new();
    let mut is_any = false;
    let mut at = 0;
    while at < size {
        let length = STRETCH.min(size - at);
        match get_span(cx, sink, key, at, length).await {
            Ok(bytes) => {
                out.extend_from_slice(&bytes);
                is_any = true;
            }
            Err(_) if cx.cancel.is_cancelled() => return Err(EngineError::Cancelled),
            Err(_) => {}
        }
        at += length;
        out.resize(usize::try_from(at).unwrap_or(limit), 0);
    }
    // Not a byte of it: the tier does not answer, which says nothing of the object.
    if is_any {
        Ok(out.into())
    } else {
        Err(failed.into())
    }
}

async fn get_span(
    cx: &OpContext,
    sink: &dyn Sink,
    key: &ObjectKey,
    offset: u64,
    length: u64,
) -> Result<Bytes, SinkError> {
    sink.get(cx, key, ByteRange::Span { offset, length }).await
}

/// Sets how much parity writers put beside packs from now on, in the next config; `None`: none. What is there already
/// is not touched: [`crate::repair`] adds what is missing.
///
/// # Errors
/// [`EngineError::Key`] for a key whose holder may not; errors of the tier.
#[boxed]
pub async fn set_share(repo: &mut Repository, cx: &OpContext, share: Option<Share>) -> Result<()> {
    repo.keys().may_forget()?;
    loop {
        repo.renew_config(cx).await?;
        if repo.parity() == share {
            return Ok(());
        }
        let invalid = |error: ConfigError| EngineError::Invalid(error.to_string());
        let mut next = repo.config().next().map_err(invalid)?;
        next.set_parity(share.map(Share::percent));
        let bytes = Bytes::from(next.seal(repo.keys()).map_err(invalid)?);
        let key = name(layout::config(next.number))?;
        match repo
            .sink()
            .put(cx, &key, bytes.clone(), PutMode::Create)
            .await
        {
            Ok(_) if share.is_some() => beside::put(cx, &**repo.sink(), &key, &bytes).await?,
            Ok(_) => {}
            // Somebody else wrote one: the next is made of theirs.
            Err(error) if error.kind == ErrorKind::Conflict => {}
            Err(error) => return Err(error.into()),
        }
    }
}
