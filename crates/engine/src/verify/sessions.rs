//! The objects in which sessions announced themselves. No snapshot needs one, but one that is damaged
//! tells that the tier loses what was written to it.

use backup_core::{ErrorKind, Event, Finding, FindingKind, ObjectKey, Severity};
use backup_format::layout;
use backup_format::seal::ObjectKind;
use backup_format::session::Session;
use futures::TryStreamExt;

use super::Run;
use crate::error::{EngineError, Result};
use crate::repository::{get_within, name};

/// Whether the format gives a name.
type IsKnown = fn(&ObjectKey) -> bool;

/// Whether a session or its end is named so.
fn is_session(key: &ObjectKey) -> bool {
    let id = key.as_str().strip_suffix(".done");
    let id = id.and_then(|id| ObjectKey::new(id).ok());
    layout::session_id(id.as_ref().unwrap_or(key)).is_some()
}

impl Run<'_> {
    pub(super) async fn sessions(&mut self) -> Result<()> {
        let sink = self.repo.sink();
        let listed: Vec<_> = sink.list(self.cx, "sessions/", None).try_collect().await?;
        for meta in listed {
            let key = meta.key;
            if layout::session_id(&key).is_none() {
                continue;
            }
            let limit = ObjectKind::Session.max_sealed();
            let sealed = match get_within(self.cx, &**sink, &key, limit).await {
                Ok(sealed) => sealed,
                Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => continue,
                Err(error) if error.is_damage() => {
                    self.found(FindingKind::Damaged, key.as_str(), &error.to_string());
                    continue;
                }
                Err(error) => return Err(error),
            };
            self.report.objects += 1;
            let opened = self.repo.ring().open(ObjectKind::Session, &sealed);
            let session = opened
                .map_err(|error| error.to_string())
                .and_then(|plain| Session::decode(&plain).map_err(|error| error.to_string()));
            match session {
                Ok(session) if name(layout::session(session.id))? == key => {}
                Ok(session) => {
                    let why = format!("it is that of session {}", session.id);
                    self.found(FindingKind::Mismatch, key.as_str(), &why);
                }
                Err(why) => {
                    let why = format!("{why}; no snapshot needs it");
                    self.found(FindingKind::Damaged, key.as_str(), &why);
                }
            }
        }
        Ok(())
    }

    /// Names that the format does not give, where only few objects lie. A newer program may have
    /// written them, so they are no damage.
    pub(super) async fn unknown_names(&mut self) -> Result<()> {
        let folders: [(&str, IsKnown); 4] = [
            ("config/", |key| layout::config_number(key).is_some()),
            ("keys/", layout::is_slot),
            ("index/", layout::is_index),
            ("sessions/", is_session),
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
