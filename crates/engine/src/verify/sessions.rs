//! The objects in which sessions announced themselves. No snapshot needs one, but one that is damaged
//! tells that the tier loses what was written to it.

use backup_core::{ByteRange, ErrorKind, FindingKind};
use backup_format::layout;
use backup_format::seal::ObjectKind;
use backup_format::session::Session;
use futures::TryStreamExt;

use super::Run;
use crate::error::Result;
use crate::repository::name;

impl Run<'_> {
    pub(super) async fn sessions(&mut self) -> Result<()> {
        let sink = self.repo.sink();
        let listed: Vec<_> = sink.list(self.cx, "sessions/", None).try_collect().await?;
        for meta in listed {
            let key = meta.key;
            // The mark of an end is not sealed: there is nothing in it to be checked.
            if key.as_str().ends_with(".done") {
                continue;
            }
            let sealed = match sink.get(self.cx, &key, ByteRange::Full).await {
                Ok(sealed) => sealed,
                Err(error) if error.kind == ErrorKind::NotFound => continue,
                Err(error) => return Err(error.into()),
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
}
