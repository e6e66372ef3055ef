//! The end of the ledger, and what goes behind it.

use std::collections::{HashMap, HashSet};

use backup_core::{
    CancellationToken, ErrorKind, Finding, FindingKind, HostId, OpContext, PutMode, Severity,
    SnapshotId,
};
use backup_format::layout;
use backup_format::seal::ObjectKind;
use backup_integrity::ledger::{
    AcceptedRecords, LedgerHead, Line, LineHash, Op, RawLine, append, seal_note,
};
use backup_integrity::sign::HmacKey;
use futures::TryStreamExt as _;

use super::accept::{accept_key, accepts};
use super::end::{self, LedgerSeen};
use super::tier::{self, Found};
use super::{LedgerDraft, evidence};
use crate::error::{EngineError, Result};
use crate::remedy::remedy;
use crate::repository::{Repository, name};

/// How often a record looks for its place when others write at the same time.
const ATTEMPTS: usize = 100;
/// A record that stands further behind the end than that continues nothing: whoever may write to the
/// tier could otherwise use up the numbers.
const MOST_GAP: u64 = 100_000;
/// Records that are added to the copy at once.
const BATCH: usize = 256;

/// The ledger's end as one operation knows it. Of the records before it only the snapshots that they
/// tell of are kept.
///
/// Damage stops nobody: a record that cannot be read is a finding, and the next one continues the last
/// that can.
pub(crate) struct Chain<'a> {
    repo: &'a Repository,
    cx: OpContext,
    /// The last record that could be read.
    last: Option<LedgerHead>,
    /// The number of the next record.
    next: u64,
    made: HashSet<SnapshotId>,
    /// Whether a snapshot stays, by the last record of it that says so.
    stays: HashMap<SnapshotId, bool>,
    /// What is wrong with the ledger, as far as it was read.
    findings: Vec<Finding>,
    /// The same of records that are there and are none, by their numbers.
    damaged: Vec<(u64, Finding)>,
    /// The records that are accepted as lost.
    accepted: AcceptedRecords,
    /// Whether what is read and written goes to this host's copy.
    copies: bool,
}

impl<'a> Chain<'a> {
    /// What this host's copy says, and what the tier has beyond it. What was done is recorded even if
    /// it is called off by now: it can no longer be undone.
    pub(crate) async fn read(repo: &'a Repository, cx: &OpContext) -> Result<Self> {
        let mut cx = cx.clone();
        cx.cancel = CancellationToken::new();
        Self::read_on(repo, cx, None).await
    }

    /// The same, by what was seen of the ledger some time ago, unless this host's copy has gone on since. What was
    /// appended meanwhile comes up when its place is taken.
    pub(crate) async fn read_seen(
        repo: &'a Repository,
        cx: &OpContext,
        seen: Option<LedgerSeen>,
    ) -> Result<Self> {
        let mut cx = cx.clone();
        cx.cancel = CancellationToken::new();
        Self::read_on(repo, cx, seen).await
    }

    async fn read_on(
        repo: &'a Repository,
        cx: OpContext,
        seen: Option<LedgerSeen>,
    ) -> Result<Self> {
        // A copy that cannot be read is as if there were none; the ledger itself is on the tier.
        let copy = repo.ledger_copy();
        let known = copy.and_then(|copy| copy.last().ok().flatten());
        let mut chain = Self::behind(repo, cx, known);
        let seen = seen.filter(|seen| seen.known == known);
        let is_as_put = seen.as_ref().is_some_and(|seen| seen.is_as_put(repo));
        let asked = known.filter(|_| !is_as_put);
        let (last, numbers) = tokio::join!(
            async {
                let asked = asked?;
                Some((asked, tier::read(repo, &chain.cx, asked.seq).await))
            },
            async {
                match seen {
                    Some(seen) => Ok(seen.behind()),
                    None => tier::numbers(repo, &chain.cx, chain.next.saturating_sub(1)).await,
                }
            }
        );
        if let Some((known, found)) = last {
            chain.still_there(known, found)?;
        }
        chain.take_up(numbers?).await?;
        Ok(chain)
    }

    /// What the tier has, whatever this host's copy says, which is left as it is.
    pub(super) async fn of_tier(repo: &'a Repository, cx: &OpContext) -> Result<Self> {
        let mut cx = cx.clone();
        cx.cancel = CancellationToken::new();
        let mut chain = Self::behind(repo, cx, None);
        chain.copies = false;
        chain.catch_up().await?;
        Ok(chain)
    }

    fn behind(repo: &'a Repository, cx: OpContext, known: Option<LedgerHead>) -> Self {
        Self {
            repo,
            cx,
            last: known,
            next: known.map_or(1, |head| head.seq.saturating_add(1)),
            made: HashSet::new(),
            stays: HashMap::new(),
            findings: Vec::new(),
            damaged: Vec::new(),
            accepted: AcceptedRecords::default(),
            copies: true,
        }
    }

    /// The number of the next record.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// Whether there is no record, and this host knows of none.
    pub(crate) const fn is_empty(&self) -> bool {
        self.next == 1
    }

    /// What is wrong with the ledger, as far as it was read.
    pub(crate) fn into_findings(self) -> Vec<Finding> {
        let (mut findings, accepted) = (self.findings, self.accepted);
        let damaged = self.damaged.into_iter();
        let news = damaged.filter(|(number, _)| accepted.by(*number).is_none());
        findings.extend(news.map(|(_, finding)| finding));
        findings
    }

    /// Those of some snapshots that no record tells of.
    pub(crate) fn unknown(&self, snapshots: &[SnapshotId]) -> Vec<SnapshotId> {
        let mut left: HashSet<SnapshotId> = snapshots.iter().copied().collect();
        left.retain(|id| !self.made.contains(id));
        let copied = self.repo.ledger_copy().and_then(|copy| copy.lines().ok());
        if let Some(mut lines) = copied.flatten() {
            while let (false, Ok(Some(line))) = (left.is_empty(), lines.next_line()) {
                if let RawLine::Whole(line) = line
                    && let Ok(line) = Line::parse(line)
                    && let Some(id) = made(&line)
                {
                    left.remove(&id);
                }
            }
        }
        let unknown = |id: &&SnapshotId| left.contains(id);
        snapshots.iter().filter(unknown).copied().collect()
    }

    /// Those of some snapshots that were forgotten by the last record that says whether they stay.
    pub(crate) fn forgotten(&self, snapshots: &[SnapshotId]) -> HashSet<SnapshotId> {
        let wanted: HashSet<SnapshotId> = snapshots.iter().copied().collect();
        let mut stays = HashMap::new();
        let copied = self.repo.ledger_copy().and_then(|copy| copy.lines().ok());
        if let Some(mut lines) = copied.flatten() {
            while let Ok(Some(line)) = lines.next_line() {
                if let RawLine::Whole(line) = line
                    && let Ok(line) = Line::parse(line)
                {
                    stays.extend(line.record().stays());
                }
            }
        }
        stays.extend(self.stays.iter().map(|(id, stays)| (*id, *stays)));
        let forgotten = stays
            .into_iter()
            .filter(|(id, stays)| !stays && wanted.contains(id));
        forgotten.map(|(id, _)| id).collect()
    }

    /// Whoever cuts the ledger's end off must not go unnoticed until somebody verifies.
    fn still_there(&mut self, known: LedgerHead, found: Result<Found>) -> Result<()> {
        let why = match found {
            Ok(Ok(line)) if LineHash::of(&line) == known.hash => return Ok(()),
            Ok(Ok(_)) => "it is not what this host's copy says",
            // That is no sign that anybody made the ledger anew.
            Ok(Err(why)) => {
                let subject = name(layout::ledger(known.seq))?.to_string();
                let (severity, kind) = (Severity::Warning, FindingKind::Damaged);
                self.findings
                    .push(Finding::new(severity, kind, subject, why));
                return Ok(());
            }
            Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => {
                "by this host's copy the ledger had it: it is gone from the tier"
            }
            Err(error) => return Err(error),
        };
        let subject = name(layout::ledger(known.seq))?.to_string();
        let finding = Finding::new(Severity::Error, FindingKind::Mismatch, subject, why);
        self.findings.push(finding);
        Ok(())
    }

    /// Reads what the tier has behind the end that is known.
    async fn catch_up(&mut self) -> Result<()> {
        let behind = self.next.saturating_sub(1);
        let numbers = tier::numbers(self.repo, &self.cx, behind).await?;
        self.take_up(numbers).await
    }

    /// Reads the records with these numbers.
    async fn take_up(&mut self, numbers: Vec<u64>) -> Result<()> {
        let (repo, cx) = (self.repo, self.cx.clone());
        let mut lines = Box::pin(tier::lines(repo, &cx, numbers));
        let mut fresh = Vec::new();
        while let Some((number, found)) = lines.try_next().await? {
            fresh.extend(self.take(number, found)?);
            if fresh.len() == BATCH {
                self.copy(&std::mem::take(&mut fresh));
            }
        }
        self.copy(&fresh);
        Ok(())
    }

    /// Takes up what lies under the number of a record.
    fn take(&mut self, number: u64, found: Found) -> Result<Option<Line>> {
        match tier::record(number, found).and_then(|line| self.believable(number, line)) {
            Ok(line) => {
                self.last = Some(line.head());
                self.next = number.saturating_add(1);
                self.learn(&line);
                Ok(Some(line))
            }
            Err(why) => {
                let subject = name(layout::ledger(number))?.to_string();
                let (severity, kind) = (Severity::Warning, FindingKind::Damaged);
                let detail = format!("{why}; {}", remedy(kind, &subject));
                let finding = Finding::new(severity, kind, subject, detail);
                self.damaged.push((number, finding));
                // One far away takes nobody's place yet.
                if number == self.next {
                    self.next = number.saturating_add(1);
                }
                Ok(None)
            }
        }
    }

    /// Every key that opens the ledger can write a record in the name of any host; which of them the
    /// host made itself, those can tell who have its key.
    fn believable(&self, number: u64, line: Line) -> std::result::Result<Line, String> {
        if number.saturating_sub(self.next) > MOST_GAP {
            return Err("it stands far behind the end of the ledger".into());
        }
        let host = &line.record().host;
        match self.repo.keys().ledger_key(host) {
            Ok(key) if line.verify_hmac(&HmacKey::new(*key.expose())).is_err() => {
                Err(format!("{host} did not write it: its HMAC is false"))
            }
            _ => Ok(line),
        }
    }

    fn learn(&mut self, line: &Line) {
        self.made.extend(made(line));
        self.stays.extend(line.record().stays());
        if line.record().op == Op::ACCEPT {
            let lost = accepts(line.record(), accept_key(self.repo).as_ref());
            self.accepted.add(&lost, line.head().seq);
        }
    }

    fn copy(&self, lines: &[Line]) {
        if let Some(copy) = self.repo.ledger_copy().filter(|_| self.copies) {
            // A copy that cannot be written is as if there were none; the programs say so.
            let _ = copy.extend(lines);
        }
    }

    /// Appends a record. That a snapshot was made it leaves out if somebody recorded it since the
    /// chain was read.
    ///
    /// # Errors
    /// [`EngineError::Key`] for a key that cannot sign for the host; errors of the tier.
    pub(crate) async fn append(
        &mut self,
        host: &HostId,
        user: &str,
        draft: LedgerDraft,
    ) -> Result<()> {
        self.append_as(host, user, draft, None).await
    }

    /// Appends a record that only those can write who may forget.
    ///
    /// # Errors
    /// As [`Chain::append`].
    pub(super) async fn append_sealed(
        &mut self,
        host: &HostId,
        user: &str,
        draft: LedgerDraft,
        seal: &HmacKey,
    ) -> Result<()> {
        self.append_as(host, user, draft, Some(seal)).await
    }

    async fn append_as(
        &mut self,
        host: &HostId,
        user: &str,
        draft: LedgerDraft,
        seal: Option<&HmacKey>,
    ) -> Result<()> {
        let repo = self.repo;
        let key = HmacKey::new(*repo.keys().ledger_key(host)?.expose());
        let draft = draft.signed_by(repo, &self.cx, host, user)?;
        let snapshot = draft.snapshot.filter(|_| draft.op == Op::SNAPSHOT);
        if self.last.is_none() && self.next == 1 && self.is_robbed(snapshot).await? {
            // What was there before must not be forgotten: its place stays empty until somebody says that it is known
            // (`accept_beginning`).
            self.next = 2;
        }
        for _ in 0..ATTEMPTS {
            if snapshot.is_some_and(|id| self.made.contains(&id)) {
                return Ok(());
            }
            let place = self.next;
            let (before, mut draft) = (self.before(), draft.clone());
            if let Some(seal) = seal {
                seal_note(&mut draft, before.as_ref(), seal);
            }
            let line = append(before.as_ref(), draft, &key).map_err(|error| evidence(&error))?;
            let sealed = repo.ring().seal(ObjectKind::Ledger, line.as_bytes());
            let body = sealed.map_err(EngineError::Seal)?.into();
            let key = name(layout::ledger(place))?;
            match repo.sink().put(&self.cx, &key, body, PutMode::Create).await {
                Ok(meta) => {
                    if self.copies {
                        end::remember(repo, line.head(), &meta);
                    }
                    self.last = Some(line.head());
                    self.next = place.saturating_add(1);
                    self.learn(&line);
                    self.copy(std::slice::from_ref(&line));
                    return Ok(());
                }
                Err(error) if error.kind == ErrorKind::Conflict => {}
                Err(error) => return Err(error.into()),
            }
            // Somebody was faster. A listing may not show it yet; the object itself is there.
            let found = tier::read(repo, &self.cx, place).await?;
            let taken = self.take(place, found)?;
            self.copy(taken.as_slice());
            self.catch_up().await?;
        }
        Err(EngineError::Evidence(
            "the ledger is written by too many at once".into(),
        ))
    }

    /// Whether there are snapshots, beside one that is recorded now: somebody has taken away the records of them.
    async fn is_robbed(&self, recorded: Option<SnapshotId>) -> Result<bool> {
        let keys = self.repo.snapshot_keys(&self.cx).await?;
        Ok(keys.iter().any(|(id, _)| Some(*id) != recorded))
    }

    /// What the next record continues: the last that can be read, under the number before its own.
    fn before(&self) -> Option<LedgerHead> {
        let seq = self.next.checked_sub(1).filter(|seq| *seq > 0)?;
        let hash = self.last.map_or(LineHash::NONE, |last| last.hash);
        Some(LedgerHead { seq, hash })
    }
}

/// The snapshot that a record says was made, or brought by a copy.
fn made(line: &Line) -> Option<SnapshotId> {
    line.record().arrived()
}
