//! A tier that locks what is put: what is in use stays locked as long as somebody prunes now and then, and what is not in
//! use goes once its time is over.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use backup_core::{FindingKind, ObjectKey, OpContext, Sink};
use backup_engine::Repository;
use backup_engine::prune::{Locked, PruneReport};
use backup_testkit::{Fault, FaultSink, LockedSink, Op, Rule, TestClock};
use jiff::{SignedDuration, Timestamp};

use crate::pruned::{forget_one, history, job, maintenance, prune_with};
use crate::world::World;

const DAY: SignedDuration = SignedDuration::from_hours(24);

/// A repository on a tier that locks for thirty days, its clock, and a host that prunes it.
struct Vault {
    world: World,
    clock: TestClock,
    tier: LockedSink,
    state: tempfile::TempDir,
}

impl Vault {
    async fn new() -> Self {
        let mut world = World::new().await;
        let clock = TestClock::default();
        world.cx = OpContext::new(Arc::new(clock.clone()));
        let lock = Duration::from_hours(30 * 24);
        let tier = LockedSink::new(Arc::new(world.mem.clone()), lock).keeping_versions();
        let state = tempfile::tempdir().unwrap();
        Self {
            world,
            clock,
            tier,
            state,
        }
    }

    async fn at(&self, sink: Arc<dyn Sink>, state: &Path) -> Repository {
        let keys = maintenance(&self.world);
        let repo = self.world.open_at(sink, &keys, None).await;
        repo.keep_ledger_in(Some(state.to_owned()))
    }

    async fn prune_at(&self, sink: Arc<dyn Sink>) -> PruneReport {
        let repo = self.at(sink, self.state.path()).await;
        prune_with(&repo, &self.world.cx, &job()).await.unwrap()
    }

    async fn prune(&self) -> Option<Locked> {
        let report = self.prune_at(Arc::new(self.tier.clone())).await;
        assert_eq!(report.findings, []);
        report.locked
    }

    fn now(&self) -> Timestamp {
        self.world.cx.clock.now()
    }

    /// The objects that are not locked for so many days more.
    fn locked_for_less(&self, days: i32) -> BTreeSet<ObjectKey> {
        let wanted = self.now() + days * DAY;
        let objects = self.world.mem.objects();
        let is_locked = |key: &&ObjectKey| self.tier.locked_until(key) >= Some(wanted);
        objects
            .keys()
            .filter(|key| !is_locked(key))
            .cloned()
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_use_is_locked_again_before_its_lock_ends() {
    let vault = Vault::new().await;
    let (_, saved) = history(&vault.world, 3).await;
    // They were put before the tier locked anything.
    assert!(!vault.locked_for_less(0).is_empty());
    let locked = vault.prune().await.unwrap();
    assert_eq!(locked.until, vault.now() + 30 * DAY);
    assert_eq!(vault.locked_for_less(30), [].into());
    // But for the record of the prune itself, which its put locks.
    let objects = vault.world.mem.objects().len() as u64;
    assert_eq!(locked.objects, objects - 1);
    // Half of the time is not over.
    vault.clock.advance(14 * DAY);
    assert_eq!(vault.prune().await, None);
    vault.clock.advance(DAY);
    assert_eq!(vault.prune().await.unwrap().until, vault.now() + 30 * DAY);
    assert_eq!(vault.locked_for_less(30), [].into());
    // What nobody uses any more goes, once its time is over.
    vault.clock.advance(31 * DAY);
    forget_one(&vault.world, saved[0].0.meta.id).await;
    let report = vault.prune_at(Arc::new(vault.tier.clone())).await;
    assert!(report.deleted_packs > 0 && report.locked.is_some());
    assert_eq!(vault.locked_for_less(30), [].into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_locked_is_told_and_tried_again() {
    let vault = Vault::new().await;
    let _ = history(&vault.world, 2).await;
    let rule = Rule::new(Fault::full()).on(&[Op::Lock]).under("data/");
    let sink = FaultSink::new(Arc::new(vault.tier.clone()), 1).with(rule);
    let report = vault.prune_at(Arc::new(sink)).await;
    assert_eq!(report.locked, None);
    let found: Vec<_> = report.findings.iter().map(|found| found.kind).collect();
    assert_eq!(found, [FindingKind::Degraded]);
    assert!(report.findings[0].detail.contains("30 days"));
    assert!(vault.prune().await.is_some());
    assert_eq!(vault.prune().await, None);
    // Another host knows nothing of it.
    let other = tempfile::tempdir().unwrap();
    let repo = vault.at(Arc::new(vault.tier.clone()), other.path()).await;
    let report = prune_with(&repo, &vault.world.cx, &job()).await.unwrap();
    assert!(report.locked.is_some());
}
