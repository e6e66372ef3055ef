//! Checking the ledger: against itself, this host's copy, and the snapshots that are there.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

use async_recursion::async_recursion as boxed;
use backup_core::{
    ErrorKind, Finding, FindingKind, HostId, ObjectKey, OpContext, Severity, SnapshotId,
};
use backup_format::layout;
use backup_integrity::ledger::{
    AcceptedRecords, Expect, LedgerKeys, LedgerReport, LedgerVerifier, Line, LineHash, Op, RawLine,
};
use backup_integrity::merkle::MerkleRoot;
use backup_integrity::sign::HmacKey;
use futures::{StreamExt as _, TryStreamExt as _};

use super::accept::{accept_key, is_beginning};
use super::chain::Chain;
use super::holes::is_filled;
use super::sight::Keys;
use super::tier;
use crate::error::{EngineError, Result};
use crate::hold::Holds;
use crate::remedy::remedy;
use crate::repository::{Repository, SnapshotHead, name};
use crate::slots::KnownSlots;
use crate::view::check_signatures;

/// Lines of a damaged copy that are named one by one.
const MOST_DAMAGED: usize = 100;

/// The number of the first record of a ledger that was begun anew.
const FIRST_OF_NEW: u64 = 2;

/// What is said of a record that differs from this host's copy.
const NOT_THE_COPY: &str = "it is not what this host's copy says; put it back from another copy of the repository, and believe nothing that it says until then; if the tier was set back on purpose and has gone its own way since, `snapshot ledger accept` shows what only this host's copy knows, and goes on with the tier";

/// What a check of the ledger found.
#[derive(Debug, Clone)]
pub struct LedgerCheck {
    /// The chain itself.
    pub report: LedgerReport,
    /// Findings of the chain, of the copy, and of the snapshots against it; the worst first.
    pub findings: Vec<Finding>,
    /// Lines of this host's copy.
    pub copied: u64,
    /// Whether no record is missing, damaged or false: only then does it mean anything that there is
    /// none about a snapshot.
    pub is_whole: bool,
    /// Whether that is so once what the tier has lost is taken from this host's copy.
    pub is_filled: bool,
    /// Whether this host's copy has lines that are no records, and the tier has all others, and a ledger that is whole:
    /// then the copy can be written anew from that.
    pub is_copy_to_be_mended: bool,
}

/// Checks the ledger: its chain, its signatures, this host's copy, and whether it knows all
/// snapshots, each with the root that it has, and all holds. For snapshots as they lie on the tier, open the repository
/// without a cache.
///
/// Memory: some 50 bytes for each record of the copy, and 100 for each snapshot that the ledger tells of.
///
/// # Errors
/// Errors of the tier; what is wrong with the ledger is in the findings.
#[boxed]
pub async fn verify_ledger(repo: &Repository, cx: &OpContext) -> Result<LedgerCheck> {
    let key_of = |host: &HostId| key_of(repo, host);
    let mut verifier = verifier(repo, &key_of);
    let mut copy = LocalCopy::read(repo);
    let mut told = Told::new(repo);
    let mut differing = Vec::new();
    let mut last = 0;
    let numbers = tier::numbers(repo, cx, 0).await?;
    let mut lines = Box::pin(tier::lines(repo, cx, numbers));
    while let Some((seq, found)) = lines.try_next().await? {
        last = seq;
        let line = match found {
            Ok(line) => line,
            Err(why) => {
                verifier.damaged(seq, why);
                continue;
            }
        };
        verifier.push_at(seq, &line);
        if Line::parse(&line).is_ok_and(|line| line.head().seq == seq) {
            // What is left of the copy in the end is what the tier has lost.
            let copied = copy.lines.remove(&seq);
            if copied.is_some_and(|copied| copied != LineHash::of(&line)) {
                let subject = name(layout::ledger(seq))?.to_string();
                differing.push(mismatch(subject, NOT_THE_COPY));
            }
            told.take(&line);
        }
    }
    // What is gone from the tier or damaged there counts by the copy.
    copy.lost(|line| told.take(line));
    let mut report = verifier.finish();
    if report.more_findings > 0 {
        report = once_more(repo, cx, report.accepted).await?;
    }
    let mut findings: Vec<Finding> = report.findings.iter().map(|one| one.to_finding()).collect();
    findings.extend(unnamed(&report));
    findings.extend(copy.beyond(last));
    let is_tier_whole = copy.lines.is_empty()
        && differing.is_empty()
        && findings.iter().all(|one| one.severity == Severity::Note);
    findings.extend(copy.damage(is_tier_whole));
    // If not, a record that would clear a suspicion may be among those that are lost.
    let is_copy_damaged = !copy.damaged.is_empty();
    let is_whole = findings
        .iter()
        .all(|finding| finding.severity == Severity::Note);
    let is_empty = last == 0 && copy.count == 0;
    let is_robbed = is_empty && !repo.snapshot_keys(cx).await?.is_empty();
    let is_filled = !is_robbed && (is_whole || differing.is_empty() && is_filled(repo, cx).await?);
    findings.extend(differing);
    findings.extend(
        std::mem::take(&mut told.slots)
            .differences(repo, cx)
            .await?,
    );
    if is_robbed {
        let detail = "there are snapshots and not a single record: whoever may write to the tier has taken the ledger away; copy `ledger/` here from another copy of the repository; if there is none, `snapshot ledger accept` begins a new one";
        findings.push(mismatch("ledger".into(), detail));
    }
    told.is_accepted |= report.accepted.by(1).is_some();
    told.has_holes = !report.accepted.is_empty();
    if told.is_begun_anew && !told.is_accepted {
        // Nothing fits there but what says that.
        findings.retain(|one| one.subject != "ledger record 1");
        let detail = "it was begun anew by somebody who found snapshots and not a single record: whoever may write to the tier has taken away what was before it; `snapshot ledger list` of another copy of the repository tells what that was; look whether all snapshots are there that should be, then `snapshot ledger accept` says that it is known";
        findings.push(mismatch("ledger".into(), detail));
    }
    findings.extend(snapshots(repo, cx, told, last, is_whole).await?);
    findings.extend(Holds::check(repo, cx).await?);
    if is_whole && !is_empty {
        // What was seen to be sound is what a later check compares with.
        Chain::read(repo, cx).await?;
    }
    findings.sort_by_key(|finding| Reverse(finding.severity));
    Ok(LedgerCheck {
        report,
        findings,
        copied: copy.count,
        is_whole,
        is_filled,
        is_copy_to_be_mended: is_tier_whole && is_copy_damaged,
    })
}

fn key_of(repo: &Repository, host: &HostId) -> Option<HmacKey> {
    let key = repo.keys().ledger_key(host).ok()?;
    Some(HmacKey::new(*key.expose()))
}

/// A check of the chain that has seen nothing.
fn verifier<'a>(
    repo: &Repository,
    key_of: &'a (dyn Fn(&HostId) -> Option<HmacKey> + Sync),
) -> LedgerVerifier<'a> {
    let expect = Expect {
        head: None,
        repo: Some(repo.id()),
    };
    let verifier = LedgerVerifier::new(LedgerKeys::ByHost(key_of), expect);
    verifier.accept_by(accept_key(repo))
}

/// Checks the chain once more, which had more findings than are kept: now it is known which of them are accepted.
async fn once_more(
    repo: &Repository,
    cx: &OpContext,
    accepted: AcceptedRecords,
) -> Result<LedgerReport> {
    let key_of = |host: &HostId| key_of(repo, host);
    let mut verifier = verifier(repo, &key_of).knowing(accepted);
    let numbers = tier::numbers(repo, cx, 0).await?;
    let mut lines = Box::pin(tier::lines(repo, cx, numbers));
    while let Some((seq, found)) = lines.try_next().await? {
        match found {
            Ok(line) => verifier.push_at(seq, &line),
            Err(why) => verifier.damaged(seq, why),
        }
    }
    Ok(verifier.finish())
}

/// What is wrong with the chain beyond what is named one by one.
pub(super) fn unnamed(report: &LedgerReport) -> Option<Finding> {
    let more = report.more_findings;
    let detail = format!(
        "{more} more things are wrong with it than are named one by one; once these are mended or accepted, it names the next"
    );
    (more > 0).then(|| mismatch("ledger".into(), detail))
}

fn mismatch(subject: String, detail: impl Into<String>) -> Finding {
    Finding::new(Severity::Error, FindingKind::Mismatch, subject, detail)
}

/// What the records say of snapshots.
struct Told<'a> {
    keys: Keys<'a>,
    slots: KnownSlots,
    /// With the root that the first record of each says.
    made: HashMap<SnapshotId, Option<MerkleRoot>>,
    forgotten: HashSet<SnapshotId>,
    /// Whether record 2 continues none.
    is_begun_anew: bool,
    /// Whether there is a record 1, or it is accepted as lost.
    is_accepted: bool,
    /// Whether records are accepted as lost.
    has_holes: bool,
    accept_key: Option<HmacKey>,
}

impl<'a> Told<'a> {
    fn new(repo: &'a Repository) -> Self {
        Self {
            keys: Keys::new(repo),
            slots: KnownSlots::default(),
            made: HashMap::new(),
            forgotten: HashSet::new(),
            is_begun_anew: false,
            is_accepted: false,
            has_holes: false,
            accept_key: accept_key(repo),
        }
    }

    fn take(&mut self, line: &[u8]) {
        let Ok(line) = Line::parse(line) else { return };
        // Whoever opens the ledger can write a record in the name of any host: what the host did not
        // sign clears nobody.
        if self.keys.genuine(&line) == Some(false) {
            return;
        }
        let record = line.record();
        self.is_accepted |= is_beginning(record, self.accept_key.as_ref());
        self.is_begun_anew |= record.seq == FIRST_OF_NEW && record.prev == LineHash::NONE;
        self.slots.take(record);
        let Some(snapshot) = record.snapshot else {
            return;
        };
        if record.arrived().is_some() {
            self.made.entry(snapshot).or_insert(record.root);
        }
        match record.stays() {
            Some((_, false)) => drop(self.forgotten.insert(snapshot)),
            Some((_, true)) => drop(self.forgotten.remove(&snapshot)),
            None => {}
        }
    }

    /// Takes of a later record only that a snapshot came to its end.
    fn take_end(&mut self, line: &[u8]) {
        let Ok(line) = Line::parse(line) else { return };
        let record = line.record();
        if record.op == Op::FORGET
            && self.keys.genuine(&line) != Some(false)
            && let Some(snapshot) = record.snapshot
        {
            self.forgotten.insert(snapshot);
        }
    }
}

/// This host's copy of the ledger, by the numbers of its records: it may lack some, where they were
/// gone from the tier when it was made.
struct LocalCopy<'a> {
    repo: &'a Repository,
    lines: BTreeMap<u64, LineHash>,
    last: u64,
    count: u64,
    /// Places of lines that are no records.
    damaged: Vec<u64>,
}

impl<'a> LocalCopy<'a> {
    fn read(repo: &'a Repository) -> Self {
        let mut out = Self {
            repo,
            lines: BTreeMap::new(),
            last: 0,
            count: 0,
            damaged: Vec::new(),
        };
        out.each(|out, line| {
            out.count += 1;
            match Line::parse(line) {
                Ok(line) => {
                    let head = line.head();
                    out.lines.insert(head.seq, head.hash);
                    out.last = out.last.max(head.seq);
                }
                Err(_) if out.damaged.len() < MOST_DAMAGED => out.damaged.push(out.count),
                Err(_) => {}
            }
        });
        out
    }

    /// Goes over the lines that were written whole.
    fn each(&mut self, mut take: impl FnMut(&mut Self, &[u8])) {
        let copied = self.repo.ledger_copy().and_then(|copy| copy.lines().ok());
        let Some(mut lines) = copied.flatten() else {
            return;
        };
        while let Ok(Some(line)) = lines.next_line() {
            if let RawLine::Whole(line) = line {
                take(self, line);
            }
        }
    }

    /// The lines of records that the tier has lost.
    fn lost(&mut self, mut take: impl FnMut(&[u8])) {
        if self.lines.is_empty() {
            return;
        }
        self.each(|copy, line| {
            let seq = Line::parse(line).map(|line| line.head().seq);
            if seq.is_ok_and(|seq| copy.lines.contains_key(&seq)) {
                take(line);
            }
        });
    }

    /// The records behind the last one on the tier.
    fn beyond(&self, last: u64) -> Option<Finding> {
        let end = self.last;
        let first = last.checked_add(1).filter(|first| *first <= end)?;
        let what = match end - last {
            1 => format!("record {first}"),
            many => format!("records {first} to {end} ({many} of them)"),
        };
        let detail = format!(
            "by this host's copy it had {what}: gone from the end; put the objects back from another copy of the repository, or let `snapshot repair` put back what this host keeps of them (ledger.jsonl in its state folder); if that does not fit, since the tier has gone another way, `snapshot ledger accept` shows it and goes on with the tier"
        );
        Some(mismatch("ledger".into(), detail))
    }

    fn damage(&self, is_tier_whole: bool) -> impl Iterator<Item = Finding> {
        let remedy = match is_tier_whole {
            true => {
                "`snapshot repair` writes it anew from the ledger on the tier, which has all else that is in it"
            }
            false => {
                "once nothing else is wrong with the ledger, `snapshot repair` writes it anew from the tier"
            }
        };
        self.damaged.iter().map(move |place| {
            let detail = format!("line {place} of it is not a record; {remedy}");
            let subject = "this host's copy of the ledger";
            Finding::new(Severity::Error, FindingKind::Damaged, subject, detail)
        })
    }
}

/// Compares the snapshots that are there with those that the records tell of.
async fn snapshots(
    repo: &Repository,
    cx: &OpContext,
    mut told: Told<'_>,
    last: u64,
    is_whole: bool,
) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let keys = repo.snapshot_keys(cx).await?;
    let judged = repo.judged(cx).await?;
    let mut heads = futures::stream::iter(keys)
        .map(|(id, key)| async move {
            let head = repo.head(cx, id, &key).await;
            (id, key, head)
        })
        .buffered(repo.connections(cx));
    while let Some((id, key, head)) = heads.next().await {
        match (told.made.remove(&id), head) {
            (Some(root), Ok(head)) => {
                findings.extend(told.forgotten.contains(&id).then(|| still_there(&key, id)));
                findings.extend(other_root(&key, root, &head));
            }
            (Some(_), Err(error)) if error.is_damage() => {
                let (severity, kind) = (Severity::Error, FindingKind::Damaged);
                let hint = remedy(kind, key.as_str());
                let detail =
                    format!("its root cannot be compared with its record: {error}; {hint}");
                findings.push(Finding::new(severity, kind, key.as_str(), detail));
            }
            // Listed, and gone by now.
            (root, Err(EngineError::Sink(error))) if error.kind == ErrorKind::NotFound => {
                if let Some(root) = root {
                    told.made.insert(id, root);
                }
            }
            (Some(_), Err(error)) => return Err(error),
            (None, Ok(head))
                if repo
                    .is_void(cx, &judged, &head)
                    .await
                    .is_ok_and(|void| void) => {}
            (None, head) => {
                findings.push(unknown(repo, &key, head, (is_whole, told.has_holes)));
            }
        }
    }
    if told.made.keys().any(|id| !told.forgotten.contains(id)) {
        // It may have been forgotten between the look into the ledger and the one at the tier; that was
        // recorded before it went.
        let numbers = tier::numbers(repo, cx, last).await?;
        let mut lines = Box::pin(tier::lines(repo, cx, numbers));
        while let Some((_, found)) = lines.try_next().await? {
            if let Ok(line) = found {
                told.take_end(&line);
            }
        }
    }
    let missing = told.made.into_keys();
    let mut missing: Vec<_> = missing.filter(|id| !told.forgotten.contains(id)).collect();
    missing.sort();
    let nobody = if is_whole {
        "nobody forgot it"
    } else {
        "none of the records that are left says that it was forgotten"
    };
    findings.extend(missing.into_iter().map(|id| {
        let detail = format!(
            "the ledger knows it, {nobody}, and it is gone from the tier; `snapshot repair` puts its object back from its sidecar, or fetches it from another copy of the repository (--from); if there is neither, `snapshot forget {id} --force` gives it up"
        );
        let (severity, kind) = (Severity::Error, FindingKind::Missing);
        Finding::new(severity, kind, format!("snapshot {id}"), detail)
    }));
    Ok(findings)
}

/// What is to be said of a snapshot that is there, and the last record that says whether it stays says that it was forgotten.
fn still_there(key: &ObjectKey, id: SnapshotId) -> Finding {
    let detail = format!(
        "by the ledger it was forgotten, and it is there: a `snapshot forget` is under way or was cut short, or somebody has put its object back, and a prune may have taken what it uses; `snapshot verify {id}` tells whether it is whole; `snapshot forget {id}` ends it, `snapshot hold {id}` records that it stays"
    );
    Finding::new(Severity::Note, FindingKind::Degraded, key.as_str(), detail)
}

/// A snapshot that was put in the place of another has another root: each has a salt of its own.
fn other_root(
    key: &ObjectKey,
    recorded: Option<MerkleRoot>,
    head: &SnapshotHead,
) -> Option<Finding> {
    let root = MerkleRoot(head.outer.merkle_root);
    let detail = match recorded {
        Some(recorded) if recorded == root => return None,
        Some(recorded) => format!(
            "its root is {root}, and the ledger recorded it with {recorded}: it is not the snapshot that was made; put its object back from another copy of the repository, or restore another snapshot"
        ),
        None => "the ledger recorded it without a root, so nothing tells whether it is the snapshot that was made".into(),
    };
    Some(mismatch(key.to_string(), detail))
}

/// What is to be said of a snapshot that the ledger does not know.
fn unknown(
    repo: &Repository,
    key: &ObjectKey,
    head: Result<SnapshotHead>,
    (is_whole, has_holes): (bool, bool),
) -> Finding {
    let signed = head.and_then(|head| check_signatures(repo, &head).map(|()| head));
    let (detail, kind) = match signed {
        Err(error) => {
            let detail = format!("the ledger does not know this snapshot: {error}");
            return mismatch(key.to_string(), detail);
        }
        Ok(_) if !is_whole => (
            "the ledger does not know this snapshot: its record may be among those that are missing or damaged".into(),
            FindingKind::Degraded,
        ),
        Ok(head) if head.object.brought_by.is_some() => (
            "the ledger does not know this snapshot: the copy that brought it ended before it was recorded; the next `snapshot copy` to this place records it".into(),
            FindingKind::Degraded,
        ),
        Ok(head) if has_holes => (
            format!(
                "the ledger does not know this snapshot: its record may be among those that are lost; the next `snapshot save` on {} records it anew",
                head.meta.host
            ),
            FindingKind::Degraded,
        ),
        // Nobody but its host can have made it; a run that is killed comes to this.
        Ok(head) => (
            format!(
                "the ledger does not know this snapshot: its run ended before it was recorded; the next `snapshot save` on {} records it",
                head.meta.host
            ),
            FindingKind::Degraded,
        ),
    };
    Finding::new(Severity::Note, kind, key.as_str(), detail)
}
