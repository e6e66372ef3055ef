//! A writing session: everything it stores is sealed under one random data key, which is wrapped to
//! the repository's recipients. The session is announced on the tier before anything is stored.

use backup_core::{HostId, OpContext, SessionId};
use backup_format::keys::Secret;
use backup_format::pack::SessionWrap;
use backup_format::seal::{BlobKey, BlobKind, SealError};
use backup_format::session as wire;

use crate::announced::Announced;
use crate::error::{EngineError, Result};
use crate::repository::Repository;

/// The keys of a session under way.
#[derive(Debug, Clone)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    announced: Announced,
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
        let secret = Secret::random()?;
        let wrap = wire::wrap(&secret, &repo.recipients()?)?;
        let lineage = BlobKey::of_lineage(repo.id(), repo.keys().lineage_key()?);
        let announced = Announced::begin(repo, cx, host, wrap.clone()).await?;
        let id = announced.id;
        let data = BlobKey::of_session(repo.id(), id, secret.expose());
        repo.learn_wrap(id, &wrap);
        Ok(Self {
            id,
            announced,
            wrap,
            data,
            lineage,
        })
    }

    /// What the tier knows of it.
    pub(crate) const fn announced(&self) -> Announced {
        self.announced
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
