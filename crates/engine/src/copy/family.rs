//! What makes the other tier a repository of the same family: the configs and key slots, which travel as they are.

use std::path::PathBuf;
use std::sync::Arc;

use async_recursion::async_recursion as boxed;
use backup_core::{ErrorKind, Finding, FindingKind, ObjectKey, OpContext, PutMode, Severity, Sink};
use backup_format::config::Operation;
use backup_format::keys::KeyFile;
use backup_format::layout;
use backup_integrity::ledger::RecordOutcome;
use bytes::Bytes;
use futures::TryStreamExt as _;

use super::{CopyJob, CopyReport};
use crate::beside::{self, Ended};
use crate::cold;
use crate::configs::First;
use crate::error::{EngineError, Result};
use crate::ledger::{Chain, LedgerDraft, record_operation};
use crate::patient::PatientSink;
use crate::repository::{Repository, name, put_new};
use crate::slots::{added_note, id_of};
use crate::unlock::{Unlock, is_of_another};

/// What is at the place that is to be copied to.
#[derive(Debug)]
pub enum Found {
    /// No repository: [`make`] makes one of it.
    Nothing,
    /// One of the same family, open.
    Same(Box<Repository>),
}

/// Looks what is at a place; changes nothing.
///
/// # Errors
/// [`EngineError::OtherFamily`] when it is another repository; those of [`Repository::open`]; errors of the tier.
#[boxed]
pub async fn found(
    from: &Repository,
    cx: &OpContext,
    sink: Arc<dyn Sink>,
    cache_dir: Option<PathBuf>,
) -> Result<Found> {
    let patient: Arc<dyn Sink> = Arc::new(PatientSink::new(sink.clone()));
    let said = match First::read(cx, &*patient).await {
        Ok(first) => first.repo(),
        Err(EngineError::NoRepository(_)) => return Ok(Found::Nothing),
        Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => {
            return Ok(Found::Nothing);
        }
        Err(error) => return Err(error),
    };
    if let Some(other) = said.filter(|other| *other != from.id()) {
        return Err(EngineError::OtherFamily {
            place: sink.info().location,
            found: other,
            wanted: from.id(),
        });
    }
    let keys = KeyFile::Keys(Box::new(from.keys().clone()));
    let unlock = Unlock::KeyFile(keys);
    let opened = Repository::open(cx, sink, &unlock, cache_dir, Operation::Write).await?;
    Ok(Found::Same(Box::new(opened)))
}

/// Reads a config or a key slot, from its sidecar where it is damaged.
async fn small(from: &Repository, cx: &OpContext, key: &ObjectKey) -> Result<Bytes> {
    match beside::read_own(from, cx, key).await {
        Err(error) if beside::is_loss(&error) => {
            let mended = beside::mended(cx, &**from.sink(), key).await?;
            let mended = mended.filter(|bytes| beside::check(from, key, bytes).is_ok());
            mended.ok_or(error)
        }
        read => read,
    }
}

/// The key slots that go with a repository, those too of which a sidecar alone is left; what nothing makes whole stays
/// where it is.
async fn slots(from: &Repository, cx: &OpContext) -> Result<Vec<(ObjectKey, Bytes)>> {
    let there = from.slots(cx).await?;
    let mut lost = Vec::new();
    let mut beside = from.sink().list(cx, "parity/keys/", None);
    while let Some(meta) = beside.try_next().await? {
        let key = layout::small_parity_of(&meta.key);
        lost.extend(key.filter(|key| layout::is_slot(key) && !there.contains_key(key)));
    }
    if !lost.is_empty() {
        let ended = Ended::read_copy(from, cx).await?;
        lost.retain(|key| !ended.has(key));
    }
    let own = there.into_iter();
    let own = own.filter(|(_, slot)| !is_of_another(slot, Some(from.id())));
    let mut out = Vec::new();
    for key in own.map(|(key, _)| key).chain(lost) {
        // Without a slot the other place does not open with its key, so what went wrong on the way alone is no reason.
        let read = match small(from, cx, &key).await {
            Err(error) if beside::is_loss(&error) => small(from, cx, &key).await,
            read => read,
        };
        match read {
            Ok(bytes) => out.push((key, bytes)),
            Err(error) if beside::is_loss(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(out)
}

/// Makes a repository of the same family at a place where nothing is: key slots first, `config/0` with which it exists
/// behind them. What a run that was killed lacks, the next copy brings.
///
/// # Errors
/// [`EngineError::RepositoryExists`] when somebody else has made another meanwhile; errors of the tiers.
#[boxed]
pub async fn make(
    from: &Repository,
    cx: &OpContext,
    sink: Arc<dyn Sink>,
    cache_dir: Option<PathBuf>,
) -> Result<Repository> {
    let patient = PatientSink::new(sink.clone());
    let place = cold::claim(cx, &patient).await?;
    if let Err(error) = put_roots(from, cx, &patient, place).await {
        if !Repository::exists(cx, &patient).await.unwrap_or(true) {
            cold::let_go(cx, &patient, place).await;
        }
        return Err(error);
    }
    match found(from, cx, sink, cache_dir).await? {
        Found::Same(made) => Ok(*made),
        Found::Nothing => Err(EngineError::Missing {
            object: "config/0".into(),
            why: "it was just written: the tier does not keep what it takes".into(),
        }),
    }
}

/// Writes key slots, then configs.
async fn put_roots(
    from: &Repository,
    cx: &OpContext,
    sink: &PatientSink,
    place: Option<[u8; 16]>,
) -> Result<()> {
    for (key, bytes) in slots(from, cx).await? {
        put_new(cx, sink, &key, bytes).await?;
    }
    for number in 0..=from.config().number {
        put_new(
            cx,
            sink,
            &name(layout::config(number))?,
            config(from, cx, number, place).await?,
        )
        .await?;
    }
    Ok(())
}

/// A config as it is to be at the other place, where packs may lie otherwise.
async fn config(
    from: &Repository,
    cx: &OpContext,
    number: u32,
    place: Option<[u8; 16]>,
) -> Result<Bytes> {
    let bytes = small(from, cx, &name(layout::config(number))?).await?;
    cold::config_for(bytes, number, from.keys(), place)
}

/// Brings configs and key slots that the other tier lacks, and says what of them differs.
pub(super) async fn bring_roots(
    from: &Repository,
    to: &mut Repository,
    cx: &OpContext,
    job: &CopyJob,
    report: &mut CopyReport,
) -> Result<()> {
    configs(from, to, cx, report).await?;
    let to = &*to;
    // Where there are snapshots and no record, somebody has taken the ledger away.
    let is_new = Chain::read(to, cx).await?.is_empty() && to.snapshot_keys(cx).await?.is_empty();
    let there = to.slots(cx).await?;
    let ended = Ended::read_copy(to, cx).await?;
    let mut added = Vec::new();
    for (key, bytes) in slots(from, cx).await? {
        let is_there = there.contains_key(&key);
        if ended.has(&key) || (is_there && !is_new) {
            continue;
        }
        if !is_there {
            put_new(cx, &**to.sink(), &key, bytes.clone()).await?;
        }
        beside::put_or_note(to, cx, &key, &bytes).await;
        added.push(key);
    }
    if is_new || !added.is_empty() {
        let draft = LedgerDraft {
            op: if is_new { "init" } else { "key" },
            snapshot: None,
            root: None,
            counts: Vec::new(),
            outcome: RecordOutcome::Ok,
            note: added_note(added.iter().map(|key| (id_of(key), "copied"))),
        };
        let findings = record_operation(to, cx, &job.host, &job.user, draft).await?;
        report.findings.extend(findings);
    }
    let gone = Ended::read_copy(from, cx).await?;
    for key in there.keys().filter(|key| gone.has_slot(id_of(key))) {
        let detail = "this key slot was removed from the repository that is copied from, and still opens this one: `snapshot key remove` takes it away here too";
        let (severity, kind) = (Severity::Warning, FindingKind::Mismatch);
        let subject = format!("{key} at {}", to.location());
        report
            .findings
            .push(Finding::new(severity, kind, subject, detail));
    }
    Ok(())
}

/// Brings the configs behind the last that both have, unless the other tier has one of its own there.
async fn configs(
    from: &Repository,
    to: &mut Repository,
    cx: &OpContext,
    report: &mut CopyReport,
) -> Result<()> {
    let (ours, theirs) = (from.config().number, to.config().number);
    let place = to.config().cold_place();
    let parity = name(layout::parity(&name(layout::config(0))?))?;
    let has_sidecar = to.parity().is_none() || to.sink().head(cx, &parity).await.is_ok();
    for number in 0..=ours {
        let key = name(layout::config(number))?;
        if number > theirs {
            let bytes = config(from, cx, number, place).await?;
            match to
                .sink()
                .put(cx, &key, bytes.clone(), PutMode::Create)
                .await
            {
                Ok(_) => beside::put_or_note(to, cx, &key, &bytes).await,
                // Somebody is as fast; what they say is looked at by the next copy.
                Err(error) if error.kind == ErrorKind::Conflict => break,
                Err(error) => return Err(error.into()),
            }
            continue;
        }
        if number > 0 || !has_sidecar {
            let bytes = config(from, cx, number, place).await?;
            let same = small(to, cx, &key).await? == bytes;
            if !same {
                differ(from, to, report);
                return Ok(());
            }
            if !has_sidecar {
                beside::put_or_note(to, cx, &key, &bytes).await;
            }
        }
    }
    to.renew_config(cx).await?;
    if theirs > ours {
        differ(from, to, report);
    }
    Ok(())
}

/// Tiers may well want different parity. That their keys were rotated apart is another matter.
fn differ(from: &Repository, to: &Repository, report: &mut CopyReport) {
    if from.config().recipients == to.config().recipients {
        return;
    }
    let detail = format!(
        "its recipients are not those of {}: the keys of one of the two were rotated by themselves. What is copied is read with the keys that it was saved with; rotate where you save, and copy from there",
        from.location()
    );
    let (severity, kind) = (Severity::Warning, FindingKind::Mismatch);
    let subject = format!("config at {}", to.location());
    report
        .findings
        .push(Finding::new(severity, kind, subject, detail));
}
