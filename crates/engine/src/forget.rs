//! Forgetting snapshots: by policy or by id. Their objects are deleted, and with them their names
//! for chunks; space comes back when the repository is pruned.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_recursion::async_recursion as boxed;
use backup_core::{
    Decision, ErrorKind, Finding, FindingKind, HostId, ObjectKey, OpContext, Reason,
    RetentionInput, RetentionPolicy, Severity, SnapshotId, SnapshotMeta, Verdict,
};
use backup_format::layout;
use backup_integrity::ledger::RecordOutcome;
use backup_retention::{decide_lines, decide_named};
use jiff::tz::TimeZone;

use crate::beside;
use crate::error::{EngineError, Result};
use crate::hold::Holds;
use crate::ledger::{Chain, LedgerDraft, record_operation};
use crate::refs::{self, Listed};
use crate::repository::{Repository, SnapshotHead, UnreadSnapshot, name};
use crate::view::check_signatures;

/// What would be forgotten and why; showing it is the dry run.
#[derive(Debug, Clone)]
pub struct ForgetPlan {
    /// Every snapshot that was looked at, with its verdict.
    pub decisions: Vec<(SnapshotMeta, Decision)>,
}

impl ForgetPlan {
    /// Decides by a policy, for each line of snapshots (same name and host) by itself; the guard rails
    /// of [`backup_retention::guard`] run behind it. Let [`crate::ledger::first_seen`] say first when the
    /// snapshots were made: what their writers claim may be wrong.
    /// `damaged` are those of which it is known that they cannot be restored whole
    /// ([`crate::verify::known_damaged`]): they take nothing from the guard rails.
    #[must_use]
    pub fn by_policy(
        snapshots: Vec<SnapshotMeta>,
        policy: &dyn RetentionPolicy,
        now: jiff::Timestamp,
        tz: &TimeZone,
        damaged: &BTreeSet<SnapshotId>,
    ) -> Self {
        let decided = decide_lines(
            policy,
            &RetentionInput {
                snapshots: &snapshots,
                now,
                tz,
            },
            damaged,
        );
        Self {
            decisions: snapshots.into_iter().zip(decided).collect(),
        }
    }

    /// Forgets just these, whatever any policy says; but none that is held.
    #[must_use]
    pub fn by_id(snapshots: Vec<SnapshotMeta>) -> Self {
        let named = snapshots.iter().map(|meta| meta.id).collect();
        let decided = decide_named(&snapshots, &named);
        Self {
            decisions: snapshots.into_iter().zip(decided).collect(),
        }
    }

    /// Adds snapshots on which no rule decides, since the hosts that they name did not sign them ([`unsigned`]).
    /// They stay.
    pub fn leave_unsigned(&mut self, snapshots: impl IntoIterator<Item = SnapshotMeta>) {
        let left = snapshots.into_iter().map(|meta| {
            let decision = Decision {
                id: meta.id,
                verdict: Verdict::Keep,
                reasons: vec![Reason::Unsigned],
            };
            (meta, decision)
        });
        self.decisions.extend(left);
    }

    /// The snapshots that would be forgotten.
    pub fn forgotten(&self) -> impl Iterator<Item = &SnapshotMeta> {
        let forget = |pair: &&(SnapshotMeta, Decision)| pair.1.verdict == Verdict::Forget;
        self.decisions.iter().filter(forget).map(|(meta, _)| meta)
    }
}

/// The snapshots that the hosts which they name did not sign, each with a finding. Whoever holds the index key can
/// write such a one, with a record of the ledger; whoever counts it lets it push others out of their places.
#[must_use]
pub fn unsigned(repo: &Repository, heads: &[SnapshotHead]) -> BTreeMap<SnapshotId, Finding> {
    let of_one = |head: &SnapshotHead| {
        let error = check_signatures(repo, head).err()?;
        let id = head.meta.id;
        let detail = format!(
            "{error}: somebody else made it, in the name of host {}; no rule counts it, and it stays; look into it if you like, and then `snapshot forget {id}`; whoever made it holds a key of this repository (docs/keys.md)",
            head.meta.host
        );
        let (severity, kind) = (Severity::Error, FindingKind::Mismatch);
        let subject = format!("snapshot {id}");
        Some((id, Finding::new(severity, kind, subject, detail)))
    };
    heads.iter().filter_map(of_one).collect()
}

/// No put takes that long.
const LEFT_BEHIND: Duration = Duration::from_secs(86_400);

/// What a plan came to.
#[derive(Debug)]
pub struct Forgotten {
    /// How many snapshots were removed.
    pub removed: u64,
    /// What is wrong with the ledger, as far as it was read for that, and what could not be tidied up.
    pub findings: Vec<Finding>,
}

/// Carries a plan out. Each snapshot is recorded in the ledger before it goes. One that came to be held
/// since the plan was made stays, and so does one that is held by the ledger alone, its hold being gone
/// from the tier: that is a finding.
///
/// # Errors
/// [`EngineError::Key`] for a key whose holder may not forget, or that cannot sign for the
/// host; errors of the tier; what was removed until then stays removed, and the ledger says so.
#[boxed]
pub async fn forget(
    repo: &Repository,
    cx: &OpContext,
    plan: &ForgetPlan,
    host: &HostId,
    user: &str,
) -> Result<Forgotten> {
    repo.keys().may_forget()?;
    let mut removed = 0;
    let held = Holds::read(repo, cx).await?;
    let going: Vec<_> = plan.forgotten().filter(|meta| !held.has(meta.id)).collect();
    let mut findings: Vec<Finding> = tidy(repo, cx).await.into_iter().collect();
    findings.extend(held.lost());
    findings.extend(held.unknown());
    let since = plan.forgotten().filter(|meta| held.has(meta.id));
    findings.extend(since.map(|meta| held_since(meta.id)));
    if going.is_empty() {
        // That it looked is recorded too: the records of who decides bound the times that others claim.
        if !plan.decisions.is_empty() {
            let draft = looked(plan.decisions.len());
            findings.extend(record_operation(repo, cx, host, user, draft).await?);
        }
        return Ok(Forgotten { removed, findings });
    }
    let mut chain = Chain::read(repo, cx).await?;
    let listed = refs::list(repo, cx).await?;
    for meta in going {
        if cx.cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        if is_held(repo, cx, meta.id).await? {
            findings.push(held_since(meta.id));
            continue;
        }
        let draft = LedgerDraft {
            op: "forget",
            snapshot: Some(meta.id),
            root: None,
            counts: vec![("entries", meta.stats.entries), ("bytes", meta.stats.bytes)],
            outcome: RecordOutcome::Ok,
            note: format!("{} of {}", meta.name, meta.time),
        };
        chain.append(host, user, draft).await?;
        // Whoever places a hold looks behind its record for one like that above. So either they see it,
        // or the hold is seen here.
        if is_held(repo, cx, meta.id).await? {
            chain.append(host, user, held_after_all(meta.id)).await?;
            findings.push(held_since(meta.id));
            continue;
        }
        let object = name(layout::snapshot(meta.id))?;
        remove(repo, cx, meta.id, &object, &listed).await?;
        removed += 1;
    }
    findings.extend(chain.into_findings());
    Ok(Forgotten { removed, findings })
}

/// What is said of one that was to be forgotten and came to be held meanwhile.
fn held_since(snapshot: SnapshotId) -> Finding {
    let detail = format!(
        "somebody placed a hold on it meanwhile, so it was not forgotten; `snapshot release {snapshot}` first, if it is to go"
    );
    let subject = format!("snapshot {snapshot}");
    Finding::new(Severity::Warning, FindingKind::Skipped, subject, detail)
}

/// The record that takes back that a snapshot is forgotten: it came to be held at that moment.
fn held_after_all(snapshot: SnapshotId) -> LedgerDraft {
    LedgerDraft {
        op: "hold",
        snapshot: Some(snapshot),
        root: None,
        counts: Vec::new(),
        outcome: RecordOutcome::Ok,
        note: "it came to be held while it was about to be forgotten, and stays".into(),
    }
}

/// The record of a run that forgot nothing.
fn looked(kept: usize) -> LedgerDraft {
    LedgerDraft {
        op: "forget",
        snapshot: None,
        root: None,
        counts: vec![("kept", kept as u64)],
        outcome: RecordOutcome::Ok,
        note: "nothing was to be forgotten".into(),
    }
}

/// Takes away what killed runs left on the tier that is no object. Whoever may delete snapshots may do
/// that; if it cannot be done, it only takes room.
async fn tidy(repo: &Repository, cx: &OpContext) -> Option<Finding> {
    let error = repo.sink().tidy(cx, LEFT_BEHIND).await.err()?;
    let detail = format!("what killed runs left there could not be removed: {error}");
    let (severity, kind) = (Severity::Note, FindingKind::Degraded);
    Some(Finding::new(severity, kind, "the tier", detail))
}

/// Forgets a snapshot that cannot be read, so that it does not stand in the way for ever. It is
/// recorded in the ledger before it goes; says what is wrong with the ledger, as far as it was read.
///
/// # Errors
/// [`EngineError::Invalid`] when it is held; [`EngineError::Key`] for a key whose holder may not
/// forget, or that cannot sign for the host; errors of the tier.
#[boxed]
pub async fn forget_unread(
    repo: &Repository,
    cx: &OpContext,
    unread: &UnreadSnapshot,
    host: &HostId,
    user: &str,
) -> Result<Vec<Finding>> {
    repo.keys().may_forget()?;
    if Holds::read(repo, cx).await?.has(unread.id) {
        let why = format!("snapshot {} is held, so it is not forgotten", unread.id);
        return Err(EngineError::Invalid(why));
    }
    let named = (unread.id, &unread.key, NOTE_OF_UNREAD);
    forget_named(repo, cx, named, host, user).await
}

/// What the ledger says of snapshots that were forgotten since they were lost.
pub(crate) const NOTE_OF_UNREAD: &str = "it could not be read";
/// The same of those that were gone.
pub(crate) const NOTE_OF_GONE: &str = "it was gone from the tier, and is given up";

/// Records that a snapshot is forgotten, and takes away what is left of it.
pub(crate) async fn forget_named(
    repo: &Repository,
    cx: &OpContext,
    (id, object, why): (SnapshotId, &ObjectKey, &str),
    host: &HostId,
    user: &str,
) -> Result<Vec<Finding>> {
    let draft = LedgerDraft {
        op: "forget",
        snapshot: Some(id),
        root: None,
        counts: Vec::new(),
        outcome: RecordOutcome::Ok,
        note: why.into(),
    };
    let mut findings = record_operation(repo, cx, host, user, draft).await?;
    if is_held(repo, cx, id).await? {
        let again = held_after_all(id);
        findings.extend(record_operation(repo, cx, host, user, again).await?);
        let why = format!("snapshot {id} came to be held meanwhile, so it stays");
        findings.push(Finding::new(
            Severity::Warning,
            FindingKind::Degraded,
            format!("snapshot {id}"),
            why,
        ));
        return Ok(findings);
    }
    let listed = refs::list(repo, cx).await?;
    remove(repo, cx, id, object, &listed).await?;
    Ok(findings)
}

/// Whether a hold was placed meanwhile.
async fn is_held(repo: &Repository, cx: &OpContext, id: SnapshotId) -> Result<bool> {
    match repo.sink().head(cx, &name(layout::hold(id))?).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Deletes a snapshot with what lies beside it, and behind it its refs. A prune that moves them at this moment may leave some; the
/// next one removes them.
async fn remove(
    repo: &Repository,
    cx: &OpContext,
    id: SnapshotId,
    object: &ObjectKey,
    listed: &Listed,
) -> Result<()> {
    beside::remove(cx, &**repo.sink(), object).await?;
    for key in listed.get(&id).into_iter().flatten() {
        repo.sink().delete(cx, key).await?;
    }
    repo.cache().remove(object.as_str());
    Ok(())
}
