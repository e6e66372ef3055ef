//! A repository beside a model of it: whatever is changed, saved, copied to another tier and back, forgotten, held, pruned and
//! restored in whatever order, on tiers that die in the middle too and that lose objects of snapshots, what the model has
//! comes back bit for bit, and nothing else is there.
//!
//! A sequence follows from its seed, which is shown with all steps when one fails. `BACKSTAY_SEQUENCES`
//! says how many are played (of 50 steps each), `BACKSTAY_SEED` with which one to begin.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use backup_core::{
    Finding, FindingKind, ObjectKey, Sample, Severity, Sink, SnapshotId, Source, VerifyLevel,
};
use backup_engine::hold::{hold, holds, release};
use backup_engine::ledger::verify_ledger;
use backup_engine::prune::{self, PruneJob, Unused};
use backup_engine::repair::{self, RepairJob};
use backup_engine::repository::SnapshotHead;
use backup_engine::{ForgetPlan, Repository, forget, snapshot, verify};
use backup_format::layout;
use backup_parity::Share;
use backup_testkit::{Crash, FaultSink, MemSink};

use crate::copied::{ids, is_forgotten, is_made, try_to_copy};
use crate::source::{Disks, ModelSource};
use crate::world::{World, host, noise};

/// Steps of a sequence.
const STEPS: usize = 50;
/// Sequences in a run that nobody asked for more of.
const SEQUENCES: u64 = 40;

/// Dice that fall the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, sides: usize) -> usize {
        usize::try_from(self.roll()).unwrap() % sides.max(1)
    }
}

struct Model {
    world: World,
    dice: Dice,
    source: ModelSource,
    /// What there must be.
    alive: BTreeMap<SnapshotId, Disks>,
    held: BTreeSet<SnapshotId>,
    /// Snapshots that were forgotten here; those that are there still by a forget that was killed.
    forgotten: BTreeSet<SnapshotId>,
    /// A second tier of the same family, and what there must be and was forgotten.
    other: World,
    there: BTreeMap<SnapshotId, Disks>,
    forgotten_there: BTreeSet<SnapshotId>,
    seed: u64,
    steps: Vec<String>,
}

impl Drop for Model {
    #[allow(clippy::print_stdout, reason = "what a test that fails says")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!(
                "BACKSTAY_SEED={} BACKSTAY_SEQUENCES=1 fails at the last of",
                self.seed
            );
            for (number, step) in self.steps.iter().enumerate() {
                println!("{:3} {step}", number + 1);
            }
        }
    }
}

type Step = for<'a> fn(&'a mut Model) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

macro_rules! steps {
    ($($weight:literal $name:ident;)*) => {
        /// What can happen, and how often of a hundred. An operation that is new gets a line here.
        const ALL: &[(usize, &str, Step)] =
            &[$(($weight, stringify!($name), |model| Box::pin(model.$name()))),*];
    };
}

steps! {
    26 change;
    20 save;
    8 save_and_die;
    9 forget_one;
    3 forget_and_die;
    4 hold_one;
    3 release_one;
    9 prune_some;
    4 prune_and_die;
    10 restore_one;
    3 lose_and_repair;
    3 lose_a_snapshot;
    2 look;
    2 lose_the_caches;
    8 copy_there;
    3 copy_back;
    3 forget_there;
    4 prune_there;
}

const CACHES: [&str; 2] = ["one", "two"];

impl Model {
    async fn new(seed: u64) -> Self {
        let world = match seed % 2 {
            0 => World::new().await,
            _ => World::with_tables().await,
        };
        // Some have sidecars, by which a snapshot comes back without another tier.
        if (seed / 2).is_multiple_of(2) {
            let mut repo = world.open(&world.keys, None).await;
            let set = repair::set_share(&mut repo, &world.cx, Some(Share::USUAL));
            set.await.unwrap();
        }
        let mut model = Self {
            other: world.empty(),
            world,
            forgotten: BTreeSet::new(),
            there: BTreeMap::new(),
            forgotten_there: BTreeSet::new(),
            dice: Dice(seed),
            source: ModelSource::default(),
            alive: BTreeMap::new(),
            held: BTreeSet::new(),
            seed,
            steps: Vec::new(),
        };
        let disk = noise(seed, 96 << 10);
        model.source.now.insert("disk".into(), disk);
        model
    }

    async fn step(&mut self) {
        let sum: usize = ALL.iter().map(|(weight, ..)| weight).sum();
        let mut roll = self.dice.below(sum);
        for (weight, name, step) in ALL {
            if roll < *weight {
                self.steps.push((*name).to_owned());
                return step(self).await;
            }
            roll -= weight;
        }
    }

    fn say(&mut self, more: impl std::fmt::Debug) {
        if let Some(step) = self.steps.last_mut() {
            *step += &format!(" {more:?}");
        }
    }

    /// One of those that are there.
    fn any(&mut self) -> Option<SnapshotId> {
        let number = self.dice.below(self.alive.len());
        let id = self.alive.keys().nth(number).copied();
        self.say(id);
        id
    }

    fn cache(&mut self) -> Option<&'static str> {
        CACHES.get(self.dice.below(3)).copied()
    }

    async fn repo(&self) -> Repository {
        self.world.open(&self.world.keys, None).await
    }

    async fn change(&mut self) {
        for _ in 0..=self.dice.below(3) {
            let seed = self.dice.roll();
            let number = self.dice.below(4);
            match self.dice.below(6) {
                0 => {
                    let disk = self.source.now.get_mut("disk").unwrap();
                    let pages = disk.len() / 4096;
                    for change in 0..4 {
                        let at = (seed as usize + change * 7) % pages * 4096;
                        disk[at..at + 4096].copy_from_slice(&noise(seed + change as u64, 4096));
                    }
                }
                1 => {
                    let disk = self.source.now.get_mut("disk").unwrap();
                    let length = 4096 * (1 + seed as usize % 40);
                    disk.resize(length, 0);
                }
                2 => {
                    self.source.now.remove(&format!("small-{number}"));
                }
                3 => {
                    let size = seed as usize % 60_000;
                    let name = format!("file-{number}");
                    self.source.now.insert(name, noise(seed, size));
                }
                // What was there once may come again.
                4 => {
                    let name = format!("again-{number}");
                    self.source.now.insert(name, noise(seed % 3, 9000));
                }
                _ => {
                    let size = seed as usize % 3000;
                    let name = format!("small-{number}");
                    self.source.now.insert(name, noise(seed, size));
                }
            }
        }
    }

    async fn save(&mut self) {
        let cache = self.cache();
        self.say(cache);
        let cache = cache.map(|name| self.world.cache(name));
        let repo = self.world.open(&self.world.keys, cache.as_deref()).await;
        let source: Arc<dyn Source> = Arc::new(self.source.clone());
        let report = snapshot(&repo, &self.world.cx, source, &self.world.job).await;
        let report = report.unwrap();
        assert_eq!(report.findings, []);
        self.alive.insert(report.meta.id, self.source.now.clone());
    }

    /// A tier that dies at one of its next changes.
    fn dying(&mut self, most: usize) -> FaultSink {
        let mem = self.world.mem.clone();
        self.dying_on(mem, most)
    }

    fn dying_on(&mut self, mem: MemSink, most: usize) -> FaultSink {
        let sink = FaultSink::new(Arc::new(mem), self.seed);
        let at = 1 + self.dice.below(most) as u64;
        let crash = [Crash::Before, Crash::After][self.dice.below(2)];
        self.say((at, crash));
        sink.crash_at(at, crash);
        sink
    }

    async fn save_and_die(&mut self) {
        let cache = self.cache();
        self.say(cache);
        let cache = cache.map(|name| self.world.cache(name));
        let sink = self.dying(14);
        let (world, keys) = (&self.world, &self.world.keys);
        let repo = world.open_at(Arc::new(sink), keys, cache.as_deref()).await;
        let source: Arc<dyn Source> = Arc::new(self.source.clone());
        let ended = snapshot(&repo, &world.cx, source, &world.job).await;
        let there = self.there().await;
        let ids = there.iter().map(|head| head.meta.id);
        let new: Vec<_> = ids.filter(|id| !self.alive.contains_key(id)).collect();
        let ended = ended.map(|report| report.meta.id);
        match (ended, &new[..]) {
            // A run that says that it succeeded has its snapshot; one that does not may have it too.
            (Ok(said), [id]) => assert_eq!(said, *id),
            (Err(_), [_] | []) => {}
            (ended, new) => panic!("{ended:?} with {new:?}"),
        }
        for id in new {
            self.alive.insert(id, self.source.now.clone());
        }
    }

    async fn there(&self) -> Vec<SnapshotHead> {
        let (heads, errors) = self.repo().await.heads(&self.world.cx).await.unwrap();
        assert!(errors.is_empty(), "{errors:?}");
        heads
    }

    async fn plan(&self, id: SnapshotId) -> ForgetPlan {
        let heads = self.there().await;
        let metas = heads.into_iter().map(|head| head.meta);
        ForgetPlan::by_id(metas.filter(|meta| meta.id == id).collect())
    }

    async fn forget_one(&mut self) {
        let Some(id) = self.any() else { return };
        let (repo, plan) = (self.repo().await, self.plan(id).await);
        let done = forget(&repo, &self.world.cx, &plan, &host(), "").await;
        let is_held = self.held.contains(&id);
        assert_eq!(done.unwrap().removed, u64::from(!is_held));
        if !is_held {
            self.alive.remove(&id);
            self.forgotten.insert(id);
        }
    }

    async fn forget_and_die(&mut self) {
        let Some(id) = self.any() else { return };
        let plan = self.plan(id).await;
        let sink = self.dying(4);
        let (world, keys) = (&self.world, &self.world.keys);
        let repo = world.open_at(Arc::new(sink), keys, None).await;
        let _ = forget(&repo, &world.cx, &plan, &host(), "").await;
        let is_there = self.there().await.iter().any(|head| head.meta.id == id);
        assert!(is_there || !self.held.contains(&id));
        // That it is recorded comes first.
        let is_recorded = is_forgotten(&self.world, id).await;
        assert!(is_there || is_recorded);
        if is_recorded {
            self.forgotten.insert(id);
        }
        if !is_there {
            self.alive.remove(&id);
        }
    }

    async fn hold_one(&mut self) {
        let Some(id) = self.any() else { return };
        let repo = self.repo().await;
        let done = hold(&repo, &self.world.cx, id, (&host(), ""), "").await;
        assert_eq!(done.unwrap().changed, self.held.insert(id));
        // What goes is recorded as staying.
        self.forgotten.remove(&id);
    }

    async fn release_one(&mut self) {
        let Some(id) = self.any() else { return };
        let repo = self.repo().await;
        let done = release(&repo, &self.world.cx, id, (&host(), ""), "").await;
        assert_eq!(done.unwrap().changed, self.held.remove(&id));
    }

    fn job(&mut self) -> PruneJob {
        PruneJob {
            max_unused: match self.dice.below(3) {
                0 => Unused::Unlimited,
                1 => Unused::Percent(20.0),
                _ => Unused::Bytes(0),
            },
            max_repack: (self.dice.below(2) == 0).then_some(100_000),
            max_drop: 1.0,
            wait: Duration::ZERO,
            // Who died is waited for, or not.
            patience: match self.dice.below(3) {
                0 => Duration::from_hours(24),
                _ => Duration::ZERO,
            },
            ..PruneJob::new(host())
        }
    }

    async fn prune_some(&mut self) {
        let job = self.job();
        self.prune_with(job).await;
    }

    /// Waits for nobody.
    async fn prune_fully(&mut self) {
        let job = PruneJob {
            patience: Duration::ZERO,
            ..self.job()
        };
        self.prune_with(job).await;
    }

    async fn prune_with(&mut self, job: PruneJob) {
        self.say((job.max_unused, job.max_repack, job.patience));
        let repo = self.repo().await;
        let plan = prune::plan(&repo, &self.world.cx, &job).await.unwrap();
        let report = prune::prune(&repo, &self.world.cx, plan, &job).await;
        let report = report.unwrap();
        assert_eq!(report.findings, []);
        assert!(report.waits_for.is_empty() || !job.patience.is_zero());
    }

    /// Some of the index and of the refs is lost, and a repair makes it anew. One that dies is ended by the next.
    async fn lose_and_repair(&mut self) {
        let objects = self.world.mem.objects().into_keys();
        let made_of_others = |key: &ObjectKey| {
            let families = ["index/", "refs/"];
            families.iter().any(|one| key.as_str().starts_with(one))
        };
        let objects: Vec<_> = objects.filter(made_of_others).collect();
        for _ in 0..=self.dice.below(3) {
            let number = self.dice.below(objects.len());
            if let Some(key) = objects.get(number) {
                let was_there = self.world.mem.lose(key);
                self.say((key, was_there));
            }
        }
        self.repair(false).await;
    }

    /// The object of a snapshot is lost, with its refs and its sidecar or without. It comes back: by a repair, from its
    /// sidecar or from the other tier; or with a copy of it.
    async fn lose_a_snapshot(&mut self) {
        let Some(id) = self.any() else { return };
        let key = layout::snapshot(id).unwrap();
        let sidecar = layout::parity(&key).unwrap();
        let has_sidecar = self.world.mem.objects().contains_key(&sidecar);
        let is_copied = self.there.contains_key(&id);
        // A forget that was killed has recorded that it goes: its loss ends that.
        let is_going = self.forgotten.contains(&id);
        if (!has_sidecar || is_going) && !is_copied {
            return;
        }
        let (without_sidecar, without_refs) = (self.dice.below(2) == 0, self.dice.below(3) == 0);
        let by_copy = is_copied && self.dice.below(2) == 0;
        self.say((
            has_sidecar,
            is_copied,
            without_sidecar,
            without_refs,
            by_copy,
        ));
        assert!(self.world.mem.lose(&key));
        if is_copied && has_sidecar && without_sidecar {
            assert!(self.world.mem.lose(&sidecar));
        }
        for refs in self.world.mem.objects().into_keys() {
            let is_of_it = layout::refs_id(&refs).is_some_and(|(of, _)| of == id);
            if is_of_it && without_refs {
                assert!(self.world.mem.lose(&refs));
            }
        }
        if !by_copy {
            self.repair(is_copied).await;
        }
        // Of one whose run was killed before it was recorded nobody knows.
        if !ids(&self.world).await.contains(&id) {
            assert!(is_copied);
            let brought = try_to_copy(&self.other, &self.world, None, Some(id), true).await;
            assert_eq!(brought.unwrap(), []);
        }
        self.world.check_id(&self.alive[&id], id).await;
    }

    /// A repair that dies is ended by the next.
    async fn repair(&mut self, with_other: bool) {
        let sink = self.dying(8);
        let (world, keys) = (&self.world, &self.world.keys);
        let mut others = Vec::new();
        if with_other {
            others.push(self.other.open(&self.other.keys, None).await);
        }
        let dying = world.open_at(Arc::new(sink), keys, None).await;
        for (repo, is_dying) in [(dying, true), (self.repo().await, false)] {
            let job = RepairJob::new(&repo, host());
            let plan = repair::plan(&repo, &world.cx, &job, &others).await;
            match repair::repair(&repo, &world.cx, plan.unwrap(), &job, &others).await {
                Ok(report) => assert_eq!(report.findings, []),
                Err(error) => assert!(is_dying, "{error}"),
            }
        }
    }

    async fn prune_and_die(&mut self) {
        let job = self.job();
        self.say((job.max_unused, job.max_repack, job.patience));
        let sink = self.dying(24);
        let (world, keys) = (&self.world, &self.world.keys);
        let repo = world.open_at(Arc::new(sink), keys, None).await;
        let plan = prune::plan(&repo, &world.cx, &job).await.unwrap();
        let _ = prune::prune(&repo, &world.cx, plan, &job).await;
    }

    async fn restore_one(&mut self) {
        let Some(id) = self.any() else { return };
        self.world.check_id(&self.alive[&id], id).await;
    }

    /// What is there is what the model has, no more and no less.
    async fn look(&mut self) {
        let there = self.there().await;
        let there: BTreeSet<_> = there.iter().map(|head| head.meta.id).collect();
        let wanted: BTreeSet<_> = self.alive.keys().copied().collect();
        assert_eq!(there, wanted);
        let held = holds(&self.repo().await, &self.world.cx).await.unwrap();
        assert!(self.held.is_subset(&held), "{held:?}");
    }

    /// Copies some of what is here to the other tier, or all; may die on the way.
    async fn copy_there(&mut self) {
        let again = self.dice.below(4) == 0;
        let only = (self.dice.below(3) == 0).then(|| self.any()).flatten();
        let mut sink = None;
        if self.dice.below(3) == 0 {
            let mem = self.other.mem.clone();
            sink = Some(self.dying_on(mem, 20));
        }
        self.say((again, only, sink.is_some()));
        let is_dying = sink.is_some();
        let ended = try_to_copy(&self.world, &self.other, sink, only, again).await;
        assert!(ended.is_ok() || is_dying, "{ended:?}");
        if !is_made(&self.other).await {
            assert!(ended.is_err());
            return;
        }
        let there = ids(&self.other).await;
        for id in there.difference(&self.there.keys().copied().collect()) {
            assert!(again || !self.forgotten_there.contains(id));
            self.there.insert(*id, self.alive[id].clone());
            self.forgotten_there.remove(id);
        }
        if ended.is_ok_and(|findings| findings.is_empty()) {
            for id in self
                .alive
                .keys()
                .filter(|id| only.is_none_or(|only| only == **id))
            {
                assert!(self.there.contains_key(id) || !again && self.forgotten_there.contains(id));
            }
        }
    }

    /// Copies what is on the other tier back.
    async fn copy_back(&mut self) {
        if !is_made(&self.other).await {
            return;
        }
        let again = self.dice.below(2) == 0;
        self.say(again);
        let ended = try_to_copy(&self.other, &self.world, None, None, again).await;
        let findings = ended.unwrap();
        if !findings.is_empty() {
            // What a forget that was killed has left is in the way, and a prune takes it out of it.
            let skipped = |one: &Finding| one.kind == FindingKind::Skipped;
            assert!(findings.iter().all(skipped), "{findings:?}");
            self.prune_fully().await;
            let ended = try_to_copy(&self.other, &self.world, None, None, again).await;
            assert_eq!(ended.unwrap(), []);
        }
        let here = ids(&self.world).await;
        for id in here.difference(&self.alive.keys().copied().collect()) {
            assert!(again || !self.forgotten.contains(id));
            self.alive.insert(*id, self.there[id].clone());
            self.forgotten.remove(id);
        }
        for id in self.there.keys() {
            assert!(self.alive.contains_key(id) || !again && self.forgotten.contains(id));
        }
    }

    async fn forget_there(&mut self) {
        let number = self.dice.below(self.there.len());
        let Some(id) = self.there.keys().nth(number).copied() else {
            return;
        };
        self.say(id);
        let repo = self.other.open(&self.other.keys, None).await;
        let (heads, _) = repo.heads(&self.other.cx).await.unwrap();
        let metas = heads.into_iter().map(|head| head.meta);
        let plan = ForgetPlan::by_id(metas.filter(|meta| meta.id == id).collect());
        let done = forget(&repo, &self.other.cx, &plan, &host(), "").await;
        assert_eq!(done.unwrap().removed, 1);
        self.there.remove(&id);
        self.forgotten_there.insert(id);
    }

    /// Prunes the other tier; may die on the way.
    async fn prune_there(&mut self) {
        if !is_made(&self.other).await {
            return;
        }
        let job = self.job();
        let is_dying = self.dice.below(3) == 0;
        let mem = self.other.mem.clone();
        let sink: Arc<dyn Sink> = match is_dying {
            true => Arc::new(self.dying_on(mem, 24)),
            false => Arc::new(mem),
        };
        let other = &self.other;
        let repo = other.open_at(sink, &other.keys, None).await;
        let plan = prune::plan(&repo, &other.cx, &job).await.unwrap();
        let done = prune::prune(&repo, &other.cx, plan, &job).await;
        assert!(is_dying || done.unwrap().findings.is_empty());
    }

    async fn lose_the_caches(&mut self) {
        for cache in CACHES {
            let _ = std::fs::remove_dir_all(self.world.cache(cache));
        }
    }

    /// All of it, at the end.
    async fn check_all(&mut self) {
        self.steps.push("check_all".into());
        self.look().await;
        is_whole(&self.world, &self.alive).await;
        if is_made(&self.other).await {
            is_whole(&self.other, &self.there).await;
        }
    }
}

/// Everything that there must be on a tier is there, and nothing is wrong with it.
async fn is_whole(world: &World, wanted: &BTreeMap<SnapshotId, Disks>) {
    for (id, disks) in wanted {
        world.check_id(disks, *id).await;
    }
    let repo = world.open(&world.keys, None).await;
    let done = verify(&repo, &world.cx, None, VerifyLevel::FullRead, Sample::All);
    let mut findings = done.await.unwrap().report.findings;
    // A save that was killed behind its snapshot has put no sidecar beside it.
    findings.retain(|one| one.severity > Severity::Note && one.subject != "parity/");
    assert_eq!(findings, []);
    let mut ledger = verify_ledger(&repo, &world.cx).await.unwrap();
    ledger
        .findings
        .retain(|finding| finding.severity > Severity::Note);
    assert_eq!(ledger.findings, []);
}

async fn play(seed: u64) -> usize {
    let mut model = Model::new(seed).await;
    for _ in 0..STEPS {
        model.step().await;
    }
    model.check_all().await;
    model.alive.len()
}

#[allow(
    clippy::disallowed_methods,
    reason = "a test that is told how long to run"
)]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn a_repository_is_what_its_model_says() {
    let sequences = number("BACKSTAY_SEQUENCES").unwrap_or(SEQUENCES);
    let first = backup_testkit::seed();
    println!("{sequences} sequences from BACKSTAY_SEED={first} on");
    let (next, alive) = (AtomicU64::new(first), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut runtime = tokio::runtime::Builder::new_multi_thread();
                let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + sequences {
                        break;
                    }
                    alive.fetch_add(runtime.block_on(play(seed)), Ordering::Relaxed);
                }
            });
        }
    });
    let alive = alive.into_inner();
    println!("{alive} snapshots were there at their ends");
    assert!(alive > 0);
}
