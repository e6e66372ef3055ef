//! The operations of the engine, each as one line of a table: what is tried with one of them is tried
//! with all.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use backup_core::{Finding, OpContext, Sample, Severity, Sink, SnapshotId, VerifyLevel};
use backup_engine::hold::{hold, holds, release};
use backup_engine::ledger::verify_ledger;
use backup_engine::prune::{self, PruneJob, Unused};
use backup_engine::repair::{self, RepairJob};
use backup_engine::repository::{SnapshotHead, UnreadSnapshot};
use backup_engine::{ForgetPlan, Repository, Result, forget, verify};
use backup_format::layout;
use backup_parity::Share;

use crate::copies;
use crate::world::{Case, Memory, World, host, noise, read};

/// What there is before an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ground {
    /// No snapshot, and files.
    Fresh,
    /// A snapshot, and files that have changed since.
    Changed,
    /// Two snapshots, and no file has changed since the second.
    Unchanged,
    /// A snapshot, and one of the files of now.
    Extra,
    /// A snapshot that is held, and files that have changed since.
    Held,
    /// A snapshot, and an older one that was forgotten and that it has much of.
    Garbage,
    /// A snapshot, files that have changed since, and a copy that has a snapshot of these too.
    Behind,
    /// A snapshot with parity, files that have changed since, and something of each kind harmed: a repair is
    /// needed before there is what there should be.
    Harmed,
}

/// What an operation says that it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    Nothing,
    /// These are all snapshots, so many.
    Shown(usize),
    Saved(SnapshotId),
    Forgot(SnapshotId),
    Held(SnapshotId),
    Released(SnapshotId),
}

/// An operation that came to its end.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) claim: Claim,
    /// What it found wrong; notes do not count.
    pub(crate) findings: Vec<Finding>,
}

impl Done {
    pub(crate) fn new(claim: Claim, mut findings: Vec<Finding>, repo: &Repository) -> Self {
        for noticed in repo.notices().findings() {
            if findings.iter().all(|one| one.subject != noticed.subject) {
                findings.push(noticed);
            }
        }
        findings.retain(|finding| finding.severity > Severity::Note);
        Self { claim, findings }
    }
}

/// Where an operation runs: it sees the repository through `sink`, the truth is in the case.
#[derive(Clone, Copy)]
pub(crate) struct Run<'a> {
    pub(crate) world: &'a World,
    pub(crate) case: &'a Case,
    pub(crate) sink: &'a Arc<dyn Sink>,
    pub(crate) cx: &'a OpContext,
}

type Ending<'a> = Pin<Box<dyn Future<Output = Result<Done>> + 'a>>;

pub(crate) struct Operation {
    pub(crate) name: &'static str,
    pub(crate) ground: Ground,
    /// Whether it changes nothing on the tier, not even the ledger.
    pub(crate) only_reads: bool,
    run: for<'a> fn(Run<'a>) -> Ending<'a>,
}

macro_rules! operations {
    ($($name:literal: $ground:ident, $only_reads:literal, $run:expr;)*) => {
        /// All operations. One that is new gets a line here.
        pub(crate) const OPERATIONS: &[Operation] = &[$(Operation {
            name: $name,
            ground: Ground::$ground,
            only_reads: $only_reads,
            run: |run| Box::pin($run(run)),
        }),*];
    };
}

operations! {
    "first save": Fresh, false, save;
    "save": Changed, false, save;
    "save of nothing new": Unchanged, false, save;
    "list": Changed, true, list;
    "restore": Changed, false, restore;
    "verify": Changed, true, |run| verify_at(run, VerifyLevel::Metadata);
    "verify checksums": Changed, true, |run| verify_at(run, VerifyLevel::Checksum);
    "verify all": Changed, true, |run| verify_at(run, VerifyLevel::FullRead);
    "forget": Extra, false, forget_last;
    "hold": Changed, false, hold_first;
    "release": Held, false, release_first;
    "prune": Garbage, false, prune_all;
    "ledger verify": Changed, true, check_ledger;
    "repair": Harmed, false, repair_all;
    "copy": Behind, false, copies::copy_here;
    "copy away": Changed, false, copies::copy_away;
}

impl Operation {
    /// Runs it; it must come to an end.
    pub(crate) async fn run(&self, run: Run<'_>) -> Result<Done> {
        let ended = tokio::time::timeout(Duration::from_secs(60), (self.run)(run));
        let name = self.name;
        ended
            .await
            .unwrap_or_else(|_| panic!("{name} does not come to an end"))
    }
}

/// The worlds of all grounds.
pub(crate) async fn grounds() -> BTreeMap<Ground, World> {
    let mut worlds = BTreeMap::new();
    for ground in OPERATIONS.iter().map(|operation| operation.ground) {
        if let Entry::Vacant(place) = worlds.entry(ground) {
            place.insert(world(ground).await);
        }
    }
    worlds
}

/// The world of a ground.
pub(crate) async fn world(ground: Ground) -> World {
    let mut world = match ground {
        Ground::Fresh => World::new().await,
        Ground::Harmed => {
            World::with_parity(Some(Share::USUAL))
                .await
                .and_snapshot()
                .await
        }
        _ => World::with_snapshot().await,
    };
    match ground {
        Ground::Fresh | Ground::Changed => {}
        Ground::Unchanged => world.keep_one_more().await,
        Ground::Extra => {
            world.keep_one_more().await;
            world.saved.pop();
        }
        Ground::Held => {
            let repo = open(&world).await;
            let id = heads(&repo, &world.cx).await[0].meta.id;
            let held = hold(&repo, &world.cx, id, (&host(), "me"), "").await;
            assert!(held.unwrap().changed);
        }
        Ground::Garbage => {
            world.keep_one_more().await;
            let repo = open(&world).await;
            let plan = ForgetPlan::by_id(vec![heads(&repo, &world.cx).await[0].meta.clone()]);
            let done = forget(&repo, &world.cx, &plan, &host(), "me").await;
            assert_eq!(done.unwrap().removed, 1);
            world.forget_oldest();
            world.write("new", &noise(1003, 900_000));
        }
        Ground::Harmed => harm_all_kinds(&world),
        Ground::Behind => world = world.and_ahead().await,
    }
    world
}

/// Harms no more than can be mended: the largest pack at one place, a snapshot, all index runs and all refs.
fn harm_all_kinds(world: &World) {
    let objects = world.mem.objects();
    let packs = objects.iter().filter(|(key, _)| layout::is_pack(key));
    let (pack, _) = packs.max_by_key(|(_, body)| body.len()).unwrap();
    for key in objects.keys() {
        let is = |family: &str| key.as_str().starts_with(family);
        let did = match () {
            () if key == pack => world.mem.damage(key, |bytes| {
                let length = bytes.len();
                bytes[length / 3..length / 3 + length / 20].fill(0xa5);
            }),
            () if is("snap/") => world.mem.damage(key, |bytes| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }),
            () if is("index/") || is("refs/") => world.mem.lose(key),
            () => true,
        };
        assert!(did, "{key}");
    }
}

async fn open(world: &World) -> Repository {
    let sink = Arc::new(world.mem.clone());
    world.open(sink, Some(world.cache())).await.unwrap()
}

async fn heads(repo: &Repository, cx: &OpContext) -> Vec<SnapshotHead> {
    let (heads, errors) = repo.heads(cx).await.unwrap();
    assert!(errors.is_empty(), "{errors:?}");
    heads
}

impl Run<'_> {
    pub(crate) async fn open(self) -> Result<Repository> {
        let cache = self.case.cache();
        self.world.open_in(self.cx, self.sink.clone(), cache).await
    }

    /// The repository as it is.
    pub(crate) async fn truth(self) -> Repository {
        let sink = Arc::new(self.case.mem.clone());
        self.world.open(sink, None).await.unwrap()
    }

    /// The ids of the snapshots that are there.
    pub(crate) async fn ids(self) -> Vec<SnapshotId> {
        let repo = self.truth().await;
        let heads = heads(&repo, &self.world.cx).await;
        heads.iter().map(|head| head.meta.id).collect()
    }

    /// What is claimed is so.
    pub(crate) async fn holds_true(self, claim: Claim, what: &str) {
        let held = holds(&self.truth().await, &self.world.cx).await.unwrap();
        let ids = self.ids().await;
        let is_so = match claim {
            Claim::Nothing => true,
            Claim::Shown(count) => count == ids.len(),
            Claim::Saved(id) => ids.contains(&id),
            Claim::Forgot(id) => !ids.contains(&id),
            Claim::Held(id) => held.contains(&id),
            Claim::Released(id) => !held.contains(&id),
        };
        assert!(is_so, "{what}: {claim:?} is not so");
    }
}

/// The snapshots with what keeps others from being read.
pub(crate) async fn looked(
    repo: &Repository,
    cx: &OpContext,
) -> Result<(Vec<SnapshotHead>, Vec<Finding>)> {
    let (heads, unread) = repo.heads(cx).await?;
    let told = unread.iter().map(UnreadSnapshot::finding);
    Ok((heads, told.collect()))
}

async fn save(run: Run<'_>) -> Result<Done> {
    let repo = run.open().await?;
    let report = run.world.save_in(run.cx, &repo).await?;
    Ok(Done::new(
        Claim::Saved(report.meta.id),
        report.findings,
        &repo,
    ))
}

async fn list(run: Run<'_>) -> Result<Done> {
    let repo = run.open().await?;
    let (heads, told) = looked(&repo, run.cx).await?;
    Ok(Done::new(Claim::Shown(heads.len()), told, &repo))
}

/// Restores all that was saved; what comes back is right, or named.
async fn restore(run: Run<'_>) -> Result<Done> {
    let repo = run.open().await?;
    let (heads, mut told) = looked(&repo, run.cx).await?;
    let shown = Claim::Shown(heads.len());
    for head in heads {
        let out = tempfile::tempdir().unwrap();
        let id = head.meta.id;
        let done = run.world.try_to_restore(&repo, run.cx, head, out.path());
        let findings = match done.await {
            Ok(done) => done.report.findings,
            Err(error) if error.is_damage() => {
                let kind = backup_core::FindingKind::Damaged;
                let subject = format!("snapshot {id}");
                vec![Finding::new(
                    Severity::Error,
                    kind,
                    subject,
                    error.to_string(),
                )]
            }
            Err(error) => return Err(error),
        };
        let mut back = read(out.path());
        // What a restore that ended early was writing has no name yet.
        back.retain(|name, _| !name.to_string_lossy().starts_with(".backstay-unfinished"));
        assert!(
            run.world.saved.contains(&back) || !findings.is_empty(),
            "a snapshot came back wrong and nothing is said"
        );
        for (name, content) in &back {
            let is_named = findings
                .iter()
                .any(|finding| finding.subject.contains(&*name.to_string_lossy()));
            let mut known = run.world.saved.iter();
            let is_known = known.any(|files| files.get(name) == Some(content));
            assert!(is_known || is_named, "{} is wrong", name.display());
        }
        told.extend(findings);
    }
    Ok(Done::new(shown, told, &repo))
}

async fn verify_at(run: Run<'_>, level: VerifyLevel) -> Result<Done> {
    let repo = run.open().await?;
    let done = verify(&repo, run.cx, None, level, Sample::All).await?;
    Ok(Done::new(Claim::Nothing, done.report.findings, &repo))
}

async fn forget_last(run: Run<'_>) -> Result<Done> {
    let repo = run.open().await?;
    let (heads, mut told) = looked(&repo, run.cx).await?;
    if heads.len() <= run.world.saved.len() {
        // What was to be forgotten is not shown: nobody forgets another one instead.
        return Ok(Done::new(Claim::Nothing, told, &repo));
    }
    let meta = heads[heads.len() - 1].meta.clone();
    let id = meta.id;
    let plan = ForgetPlan::by_id(vec![meta]);
    let done = forget(&repo, run.cx, &plan, &host(), "me").await?;
    told.extend(done.findings);
    Ok(Done::new(Claim::Forgot(id), told, &repo))
}

async fn hold_first(run: Run<'_>) -> Result<Done> {
    let repo = run.open().await?;
    let (heads, mut told) = looked(&repo, run.cx).await?;
    let Some(head) = heads.first() else {
        return Ok(Done::new(Claim::Nothing, told, &repo));
    };
    let id = head.meta.id;
    let done = hold(&repo, run.cx, id, (&host(), "me"), "why").await?;
    told.extend(done.findings);
    Ok(Done::new(Claim::Held(id), told, &repo))
}

async fn release_first(run: Run<'_>) -> Result<Done> {
    let repo = run.open().await?;
    let (heads, mut told) = looked(&repo, run.cx).await?;
    let Some(head) = heads.first() else {
        return Ok(Done::new(Claim::Nothing, told, &repo));
    };
    let id = head.meta.id;
    let done = release(&repo, run.cx, id, (&host(), "me"), "why").await?;
    told.extend(done.findings);
    Ok(Done::new(Claim::Released(id), told, &repo))
}

/// A prune that gives all back and waits for nobody.
pub(crate) fn thorough() -> PruneJob {
    PruneJob {
        max_unused: Unused::Bytes(0),
        max_drop: 1.0,
        wait: Duration::ZERO,
        patience: Duration::ZERO,
        ..PruneJob::new(host())
    }
}

async fn prune_all(run: Run<'_>) -> Result<Done> {
    let repo = run.open().await?;
    let plan = prune::plan(&repo, run.cx, &thorough()).await?;
    let mut told = plan.findings.clone();
    let report = prune::prune(&repo, run.cx, plan, &thorough()).await?;
    assert_eq!(report.waits_for, [], "it waits for nobody");
    told.extend(report.findings);
    Ok(Done::new(Claim::Nothing, told, &repo))
}

/// Mends all that can be mended.
async fn repair_all(run: Run<'_>) -> Result<Done> {
    // What lies in a cache would hide what is damaged on the tier.
    let repo = run.world.open_in(run.cx, run.sink.clone(), None).await?;
    let job = RepairJob::new(&repo, host());
    let plan = repair::plan(&repo, run.cx, &job, &[]).await?;
    let report = repair::repair(&repo, run.cx, plan, &job, &[]).await?;
    // What was noticed is what was mended.
    repo.notices().clear();
    Ok(Done::new(Claim::Nothing, report.findings, &repo))
}

/// Mends what has to be mended before there is what there should be, behind an operation that did not do so.
pub(crate) async fn mend_ground(ground: Ground, run: Run<'_>, what: &str) {
    if ground == Ground::Harmed {
        let done = repair_all(run).await;
        let done = done.unwrap_or_else(|error| panic!("{what}: {error}"));
        // What a tier that lies has made of the records of this and of its sessions, nothing mends.
        let is_record = |one: &Finding| {
            ["ledger", "sessions/"]
                .iter()
                .any(|of| one.subject.starts_with(of))
        };
        let left: Vec<_> = done
            .findings
            .into_iter()
            .filter(|one| !is_record(one))
            .collect();
        assert_eq!(left, [], "{what}");
    }
}

async fn check_ledger(run: Run<'_>) -> Result<Done> {
    let repo = run.open().await?;
    let check = verify_ledger(&repo, run.cx).await?;
    Ok(Done::new(Claim::Nothing, check.findings, &repo))
}

/// All that nothing uses can be given back, and behind it there is nothing to be given back.
pub(crate) async fn reclaims(world: &World, case: &Case, what: &str) {
    for is_first in [true, false] {
        let sink = Arc::new(case.mem.clone());
        let repo = world.open(sink, None).await.unwrap();
        let plan = prune::plan(&repo, &world.cx, &thorough()).await;
        let plan = plan.unwrap_or_else(|error| panic!("{what}: {error}"));
        let report = prune::prune(&repo, &world.cx, plan, &thorough()).await;
        let report = report.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(
            (&report.waits_for[..], &report.findings[..]),
            (&[][..], &[][..]),
            "{what}"
        );
        let work = (report.deleted_packs, report.written_packs);
        assert!(is_first || work == (0, 0), "{what}: {work:?} were left");
        world.check(case, what).await;
    }
}

/// With what a run remembers.
pub(crate) const MEMORIES: [Memory; 2] = [Memory::Kept, Memory::Lost];
