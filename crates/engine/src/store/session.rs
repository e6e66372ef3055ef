//! A writing session: everything it stores is sealed under one random data key, which is wrapped to
//! the repository's recipients. The session is announced on the tier before anything is stored.

use std::time::Duration;

use backup_core::{CancellationToken, HostId, OpContext, PutMode, SessionId};
use backup_format::collect::SessionMark;
use backup_format::keys::Secret;
use backup_format::layout;
use backup_format::pack::SessionWrap;
use backup_format::seal::{BlobKey, BlobKind, ObjectKind, SealError};
use backup_format::session as wire;

use crate::error::{EngineError, Result};
use crate::repository::{Repository, name};

/// How long a run that failed tries to say so: where the tier does not answer, nobody can wait for it.
const FAREWELL: Duration = Duration::from_secs(10);

/// The keys of a session under way.
#[derive(Debug, Clone)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    wrap: Vec<u8>,
    data: BlobKey,
    lineage: BlobKey,
}

impl Session {
    /// Draws a data key and announces the session on the tier.
    ///
    /// # Errors
    /// [`EngineError::Key`] for a key that cannot write; errors of the tier.
    pub async fn begin(repo: &Repository, cx: &OpContext, host: &HostId) -> Result<Self> {
        let millis = u64::try_from(cx.clock.now().as_millisecond()).unwrap_or(0);
        let id = SessionId::from_parts(millis, random()?);
        let secret = Secret::random()?;
        let wrap = wire::wrap(&secret, &repo.recipients()?)?;
        let data = BlobKey::of_session(repo.id(), id, secret.expose());
        let lineage = BlobKey::of_lineage(repo.id(), repo.keys().lineage_key()?);
        let announced = wire::Session {
            id,
            host: host.clone(),
            started_ms: millis,
            wrapped_dek: wrap.clone(),
        };
        let sealed = repo.ring().seal(ObjectKind::Session, &announced.encode()?);
        let key = name(layout::session(id))?;
        let body = sealed.map_err(EngineError::Seal)?.into();
        repo.sink().put(cx, &key, body, PutMode::Create).await?;
        repo.learn_wrap(id, wrap.clone());
        Ok(Self {
            id,
            wrap,
            data,
            lineage,
        })
    }

    /// Says on the tier that the session has come to its end: from here on it names nothing that
    /// it has not named yet. Whoever calls it is certain that nothing of the session is under way any
    /// more from which a snapshot may come, and that it was not taken for dead.
    ///
    /// # Errors
    /// Errors of the tier.
    pub async fn end(&self, repo: &Repository, cx: &OpContext) -> Result<()> {
        let done = name(layout::session_done(self.id))?;
        let mark = SessionMark { session: self.id };
        let sealed = repo.ring().seal(ObjectKind::SessionDone, &mark.encode());
        let body = sealed.map_err(EngineError::Seal)?.into();
        repo.sink().put(cx, &done, body, PutMode::Create).await?;
        Ok(())
    }

    /// Ends the session of a run that came to nothing, so that nobody waits for it. That it cannot be
    /// told changes nothing; and it is told of a run that was called off too.
    pub(crate) async fn end_of_failed(&self, repo: &Repository, cx: &OpContext) {
        let mut cx = cx.clone();
        cx.cancel = CancellationToken::new();
        let _ = tokio::time::timeout(FAREWELL, self.end(repo, &cx)).await;
    }

    /// The key for blobs of a kind.
    #[must_use]
    pub const fn key_of(&self, kind: BlobKind) -> &BlobKey {
        match kind {
            BlobKind::Lineage => &self.lineage,
            BlobKind::Data | BlobKind::Page => &self.data,
        }
    }

    /// The wrapped data key as packs and index runs carry it.
    #[must_use]
    pub fn wrap(&self) -> SessionWrap {
        SessionWrap {
            session: self.id,
            wrap: self.wrap.clone(),
        }
    }
}

/// Eighty random bits for an id.
///
/// # Errors
/// [`EngineError::Seal`] when the system gives no randomness.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut out = [0u8; N];
    aws_lc_rs::rand::fill(&mut out).map_err(|_| EngineError::Seal(SealError::Randomness))?;
    Ok(out)
}
