//! A session on the tier: that it began, whether somebody took it for dead, that it came to its end.
//! Whoever is about to name packs, a writer or a prune that copies some, announces one first.

use std::time::Duration;

use backup_core::{CancellationToken, ErrorKind, HostId, OpContext, PutMode, SessionId};
use backup_format::collect::SessionMark;
use backup_format::index::RunBuilder;
use backup_format::layout;
use backup_format::pack::SessionWrap;
use backup_format::seal::ObjectKind;
use backup_format::session as wire;

use crate::error::{EngineError, Result};
use crate::repository::{Repository, name};
use crate::store::random;

/// How long a run that failed tries to say so: where the tier does not answer, nobody can wait for it.
const FAREWELL: Duration = Duration::from_secs(10);

/// A session that is announced on the tier.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Announced {
    /// Its id.
    pub(crate) id: SessionId,
}

/// A session at work makes an index run without packs from time to time, as long as this lives.
#[derive(Debug)]
pub(crate) struct Alive(tokio::task::JoinHandle<()>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Announced {
    /// Gives a sign of life after each such time: new index runs are what collectors of garbage go by, and whoever
    /// reads for days what it knows already makes no others. One that cannot be written is left out.
    pub(crate) fn keep_alive(
        self,
        repo: &Repository,
        cx: &OpContext,
        wrap: Vec<u8>,
        every: Duration,
    ) -> Alive {
        let (sink, ring, cx) = (repo.sink().clone(), repo.ring().clone(), cx.clone());
        let session = self.id;
        let plain = RunBuilder::default().finish(&[SessionWrap { session, wrap }]);
        Alive(tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = cx.cancel.cancelled() => return,
                    () = tokio::time::sleep(every) => {}
                }
                // Each is sealed anew, so it has a name of its own.
                let Ok(sealed) = ring.seal(ObjectKind::IndexRun, &plain) else {
                    return;
                };
                if let Ok(key) = layout::index(&sealed) {
                    let _ = sink.put(&cx, &key, sealed.into(), PutMode::Create).await;
                }
            }
        }))
    }

    /// Announces a session; `wrap` is its wrapped data key, empty if it seals nothing new.
    ///
    /// # Errors
    /// Errors of the tier.
    pub(crate) async fn begin(
        repo: &Repository,
        cx: &OpContext,
        host: &HostId,
        wrap: Vec<u8>,
    ) -> Result<Self> {
        let started_ms = u64::try_from(cx.clock.now().as_millisecond()).unwrap_or(0);
        let id = SessionId::from_parts(started_ms, random()?);
        let announced = wire::Session {
            id,
            host: host.clone(),
            started_ms,
            wrapped_dek: wrap,
        };
        let sealed = repo.ring().seal(ObjectKind::Session, &announced.encode()?);
        let body = sealed.map_err(EngineError::Seal)?.into();
        let key = name(layout::session(id))?;
        repo.sink().put(cx, &key, body, PutMode::Create).await?;
        Ok(Self { id })
    }

    /// Whether a collector of garbage took it for dead. Who has put that there does not matter.
    ///
    /// # Errors
    /// Errors of the tier.
    pub(crate) async fn is_revoked(self, repo: &Repository, cx: &OpContext) -> Result<bool> {
        let revoked = name(layout::session_revoked(self.id))?;
        match repo.sink().head(cx, &revoked).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Says on the tier that the session has come to its end: from here on it names nothing that
    /// it has not named yet. Whoever calls it is certain that nothing of the session is under way any
    /// more from which a snapshot may come, and that it was not taken for dead.
    ///
    /// # Errors
    /// Errors of the tier.
    pub(crate) async fn end(self, repo: &Repository, cx: &OpContext) -> Result<()> {
        let done = name(layout::session_done(self.id))?;
        let mark = SessionMark { session: self.id };
        let sealed = repo.ring().seal(ObjectKind::SessionDone, &mark.encode());
        let body = sealed.map_err(EngineError::Seal)?.into();
        repo.sink().put(cx, &done, body, PutMode::Create).await?;
        Ok(())
    }

    /// Ends the session of a run that came to nothing, so that nobody waits for it. That it cannot be
    /// told changes nothing; and it is told of a run that was called off too.
    pub(crate) async fn end_of_failed(self, repo: &Repository, cx: &OpContext) {
        let mut cx = cx.clone();
        cx.cancel = CancellationToken::new();
        let _ = tokio::time::timeout(FAREWELL, self.end(repo, &cx)).await;
    }
}
