//! The small objects by which sessions and collectors of garbage know of each other. No snapshot needs
//! that of a session, but one that is damaged tells that the tier loses what was written to it; and
//! without what is condemned or judged nobody can go on.

use std::collections::BTreeSet;

use backup_core::{ErrorKind, Event, Finding, FindingKind, ObjectKey, Severity};
use backup_format::collect::SessionMark;
use backup_format::layout;
use backup_format::seal::ObjectKind;
use backup_format::session::Session;
use bytes::Bytes;
use futures::TryStreamExt;

use super::Run;
use crate::collect::open;
use crate::contested;
use crate::error::{EngineError, Result};
use crate::presence::alone_in;
use crate::repository::{Repository, get_within, name};

/// Whether the format gives a name.
type IsKnown = fn(&ObjectKey) -> bool;

/// Whether a session, its end or its revocation is named so.
fn is_session(key: &ObjectKey) -> bool {
    layout::session_id(key).is_some()
        || layout::session_done_id(key).is_some()
        || layout::session_revoked_id(key).is_some()
}

fn is_generation(key: &ObjectKey) -> bool {
    layout::condemned_number(key).is_some() || layout::dead_number(key).is_some()
}

/// What is wrong with an object of a session; nothing where all is well.
pub(crate) fn check_session(repo: &Repository, key: &ObjectKey, sealed: &[u8]) -> Result<()> {
    let (named, found) = if let Some(named) = layout::session_id(key) {
        let plain = repo.ring().open(ObjectKind::Session, sealed);
        let plain = plain.map_err(|error| EngineError::sealed(key, &error))?;
        let session = Session::decode(&plain).map_err(|error| EngineError::damaged(key, error))?;
        (named, session.id)
    } else {
        let done = layout::session_done_id(key).map(|id| (id, ObjectKind::SessionDone));
        let revoked = layout::session_revoked_id(key).map(|id| (id, ObjectKind::SessionRevoked));
        let Some((named, kind)) = done.or(revoked) else {
            return Ok(());
        };
        let mark = open(repo, key, kind, sealed, SessionMark::decode)?;
        (named, mark.session)
    };
    if named == found {
        Ok(())
    } else {
        let why = format!("it is that of session {found}");
        Err(EngineError::damaged(key, why))
    }
}

impl Run<'_> {
    /// Sessions with their marks, verdicts, and what was condemned. From here on nothing is looked for
    /// in dead packs.
    pub(super) async fn sessions(&mut self, takes_all: bool) -> Result<()> {
        let repo = self.repo;
        for key in self.named("sessions/", is_session).await? {
            let limit = ObjectKind::Session.max_sealed();
            if let Some(sealed) = self.small(&key, limit).await?
                && let Err(error) = check_session(repo, &key, &sealed)
            {
                self.found_object(FindingKind::Damaged, key.as_str(), &error.to_string());
            }
        }
        let is_verdict = |key: &ObjectKey| layout::verdict_id(key).is_some();
        for key in self.named("verdicts/", is_verdict).await? {
            let limit = ObjectKind::Verdict.max_sealed();
            if let Some(sealed) = self.small(&key, limit).await?
                && let Err(error) = repo.open_verdict(&key, &sealed)
            {
                let so = "snapshots of its session cannot be read as long as it is there";
                let why = format!("{error}; {so}");
                self.found_object(FindingKind::Damaged, key.as_str(), &why);
            }
        }
        let mut dead = BTreeSet::new();
        let generations = self.named("gc/", is_generation).await?;
        let decided: BTreeSet<u32> = generations.iter().filter_map(layout::dead_number).collect();
        for key in generations {
            let limit = ObjectKind::Dead.max_sealed();
            let Some(sealed) = self.small(&key, limit).await? else {
                continue;
            };
            match repo.open_generation(&key, &sealed) {
                Ok(list) if layout::dead_number(&key).is_some() => dead.extend(list.packs),
                Ok(_) => {}
                Err(error) => {
                    // What was condemned is asked for only until it is decided.
                    let so = match layout::condemned_number(&key) {
                        Some(number) if decided.contains(&number) => {
                            "it was decided, and nobody needs it any more"
                        }
                        Some(_) => "nothing can be saved as long as it is there",
                        None => {
                            "until it is decided anew, nothing is built on what its generation condemned"
                        }
                    };
                    let why = format!("{error}; {so}");
                    self.found_object(FindingKind::Damaged, key.as_str(), &why);
                }
            }
        }
        // A decision that calls dead what snapshots use is a lie, and hides nothing.
        let indexed = repo.index().pack_sizes();
        let doubtful = dead.iter().filter(|id| indexed.contains_key(*id));
        let contested = contested::contested(repo, self.cx, &doubtful.copied().collect()).await?;
        let there = contested::there(repo, self.cx, &contested).await?;
        for finding in contested::findings(repo, self.cx, &there).await? {
            self.cx.tell(Event::Found(&finding));
            self.report.findings.push(finding);
        }
        let gone = contested.keys().filter(|id| !there.contains_key(*id));
        // Of chosen snapshots it is told what they miss, where they are looked at.
        let gone: std::collections::BTreeSet<_> = gone.filter(|_| takes_all).copied().collect();
        if !gone.is_empty() {
            // What lay there may be in others since the index was read.
            repo.refresh_index(self.cx).await?;
        }
        for (id, (is_meta, chunks)) in alone_in(&repo.index(), &gone) {
            let why = format!(
                "it is not on the tier; snapshots use it, and {chunks} of its chunks are in no other pack, though it is called dead below gc/"
            );
            let key = name(layout::pack(id, is_meta))?;
            self.found(FindingKind::Missing, key.as_str(), &why);
        }
        self.contested = there.into_keys().collect();
        dead.retain(|id| !self.contested.contains(id));
        if !dead.is_empty() {
            // What lay in dead packs may be in others since the index was read.
            repo.pass_over(dead);
            repo.refresh_index(self.cx).await?;
        }
        Ok(())
    }

    async fn named(&self, folder: &str, is_known: IsKnown) -> Result<Vec<ObjectKey>> {
        let listed = self.repo.sink().list(self.cx, folder, None);
        let listed: Vec<_> = listed.try_collect().await?;
        let keys = listed.into_iter().map(|meta| meta.key);
        Ok(keys.filter(is_known).collect())
    }

    /// The bytes of a small object; nothing if it is gone, or if it is said already that it cannot be
    /// read.
    async fn small(&mut self, key: &ObjectKey, limit: usize) -> Result<Option<Bytes>> {
        match get_within(self.cx, &**self.repo.sink(), key, limit).await {
            Ok(sealed) => {
                self.report.objects += 1;
                Ok(Some(sealed))
            }
            Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) if error.is_damage() => {
                self.found_object(FindingKind::Damaged, key.as_str(), &error.to_string());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Names that the format does not give, where only few objects lie. A newer program may have
    /// written them, so they are no damage.
    pub(super) async fn unknown_names(&mut self) -> Result<()> {
        let folders: [(&str, IsKnown); 6] = [
            ("config/", |key| layout::config_number(key).is_some()),
            ("keys/", layout::is_slot),
            ("index/", layout::is_index),
            ("sessions/", is_session),
            ("verdicts/", |key| layout::verdict_id(key).is_some()),
            ("gc/", is_generation),
        ];
        for (folder, is_known) in folders {
            let listed: Vec<_> = self
                .repo
                .sink()
                .list(self.cx, folder, None)
                .try_collect()
                .await?;
            let mut others = listed.iter().filter(|meta| !is_known(&meta.key));
            let Some(first) = others.next() else { continue };
            let detail = match others.count() {
                0 => "this Backstay does not know what it is, and passes over it".to_owned(),
                more => format!(
                    "this Backstay does not know what it and {more} more below {folder} are, and passes over them"
                ),
            };
            let (kind, key) = (FindingKind::Skipped, first.key.as_str());
            let finding = Finding::new(Severity::Note, kind, key, detail);
            self.cx.tell(Event::Found(&finding));
            self.report.findings.push(finding);
        }
        Ok(())
    }
}
