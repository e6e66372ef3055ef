//! What somebody reaches against others who has a writer's key and may create objects, and nothing else: a
//! prune deletes nothing that a snapshot uses, and says that somebody lied.

use std::collections::BTreeSet;

use backup_core::{
    Finding, FindingKind, HostId, ObjectKey, PackId, Sample, Severity, SnapshotId, VerifyLevel,
};
use backup_engine::ledger::first_seen;
use backup_engine::{ForgetPlan, prune, unsigned, verify};
use backup_format::collect::PackList;
use backup_format::index::RunBuilder;
use backup_format::keys::{KeySet, Role};
use backup_format::layout;
use backup_format::seal::ObjectKind;
use backup_format::snapshot::{Outer, SnapshotObject, decode, encode};
use backup_integrity::ledger::LineHash;
use backup_retention::{Count, KeepPolicy};
use jiff::tz::TimeZone;

use crate::pruned::{forget_one, history, job, leave_open, maintenance, prune, prune_with, stored};
use crate::world::{World, noise};

/// All packs on the tier.
fn packs(world: &World) -> BTreeSet<PackId> {
    let objects = world.mem.objects();
    objects.keys().filter_map(layout::pack_id).collect()
}

/// Somebody else's key writes below `gc/` that these packs are condemned and dead.
async fn call_dead(world: &World, packs: &BTreeSet<PackId>) {
    let bob = world.open(&world.writer(&HostId("bob".into())), None).await;
    let list = PackList {
        generation: 0,
        packs: packs.clone(),
    };
    for (kind, key) in [
        (ObjectKind::Condemned, layout::condemned(0)),
        (ObjectKind::Dead, layout::dead(0)),
    ] {
        let sealed = bob.ring().seal(kind, &list.encode()).unwrap();
        world.mem.plant(key.unwrap(), sealed);
    }
}

fn is_alarm(finding: &Finding) -> bool {
    finding.subject == "gc/0.done"
        && finding.severity == Severity::Error
        && finding.kind == FindingKind::Mismatch
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_calls_dead_what_snapshots_use_reaches_nothing_and_is_told_of() {
    let world = World::new().await;
    let (source, saved) = history(&world, 3).await;
    forget_one(&world, saved[0].0.meta.id).await;
    call_dead(&world, &packs(&world)).await;
    let repo = world.open(&maintenance(&world), None).await;
    let plan = prune::plan(&repo, &world.cx, &job()).await.unwrap();
    assert!(plan.findings.iter().any(is_alarm), "{:?}", plan.findings);
    let _ = prune::prune(&repo, &world.cx, plan, &job()).await.unwrap();
    for (report, disks) in &saved[1..] {
        world.check(disks, report).await;
    }
    // A verification names the lie, and calls nothing lost for its sake.
    let repo = world.open(&world.keys, None).await;
    let level = VerifyLevel::FullRead;
    let done = verify(&repo, &world.cx, None, level, Sample::All).await;
    let findings = done.unwrap().report.findings;
    assert!(findings.iter().any(is_alarm), "{findings:?}");
    assert!(findings.iter().all(is_alarm), "{findings:?}");
    // Whoever takes the lie away has a repository as before.
    world.mem.lose(&layout::dead(0).unwrap());
    let report = prune(&world, &job()).await;
    assert_eq!(report.findings, []);
    world.save(&source, &world.keys, "one").await;
    world.verify().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_called_dead_does_not_go_while_somebody_may_be_about_to_name_it() {
    let world = World::new().await;
    let (_, saved) = history(&world, 3).await;
    forget_one(&world, saved[0].0.meta.id).await;
    // It knows the index from before, and may build on all of it.
    let open = leave_open(&world, 2).await;
    call_dead(&world, &packs(&world)).await;
    let before = stored(&world);
    let index = world.open(&world.keys, None).await.index().packs();
    let repo = world.open(&maintenance(&world), None).await;
    let report = prune_with(&repo, &world.cx, &job()).await.unwrap();
    assert_eq!(report.deleted_packs, 0);
    assert!(stored(&world) >= before);
    let left = world.open(&world.keys, None).await.index().packs();
    assert!(
        index.keys().all(|id| left.contains_key(id)),
        "none is hidden"
    );
    world.mem.lose(&layout::session(open).unwrap());
    assert!(prune(&world, &job()).await.deleted_packs > 0);
    for (report, disks) in &saved[1..] {
        world.check(disks, report).await;
    }
}

/// An index run of somebody else's key that says of each pack that it holds one of its chunks, and no more.
async fn claim_little(world: &World) {
    let bob = world.open(&world.writer(&HostId("bob".into())), None).await;
    let mut run = RunBuilder::default();
    let mut known = BTreeSet::new();
    for part in bob.index().parts() {
        for (prefix, at) in part.iter() {
            let pack = part.pack(at.pack).unwrap();
            // The first of each pack by its id: mostly not the first in it.
            if known.insert(pack.id) {
                run.add_known(pack, [(prefix, at)]);
            }
        }
    }
    let plain = run.finish(&[]);
    let first = world.mem.objects().into_keys().find(layout::is_index);
    // Named to be asked before the others.
    loop {
        let sealed = bob.ring().seal(ObjectKind::IndexRun, &plain).unwrap();
        let key = layout::index(&sealed).unwrap();
        if Some(&key) < first.as_ref() {
            world.mem.plant(key, sealed);
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_false_index_run_takes_no_chunk_out_of_refs() {
    for cache in ["one", "two"] {
        lie_of_packs(World::new().await, cache).await;
    }
}

/// However the index is kept, and whether the false run comes to a table that is there or is in it with the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_false_index_run_takes_no_chunk_out_of_refs_where_it_is_in_a_table() {
    for cache in ["one", "two"] {
        lie_of_packs(World::with_tables().await, cache).await;
    }
}

async fn lie_of_packs(world: World, cache: &str) {
    let (mut source, saved) = history(&world, 3).await;
    claim_little(&world).await;
    source.now.insert("more".into(), noise(7, 9000));
    let last = world.save(&source, &world.keys, cache).await;
    for (report, _) in &saved {
        forget_one(&world, report.meta.id).await;
    }
    let mut told = Vec::new();
    for _ in 0..3 {
        let repo = world.open(&maintenance(&world), None).await;
        let plan = prune::plan(&repo, &world.cx, &job()).await.unwrap();
        told.push(plan.findings.len());
        let report = prune::prune(&repo, &world.cx, plan, &job()).await.unwrap();
        assert_eq!(report.findings, []);
        world.check(&source.now, &last).await;
    }
    // The ends of packs tell who is right, and what is false goes.
    assert!(told[0] > 0, "{told:?}");
    assert_eq!(told[1..], [0, 0]);
    // That refs name the whole of a pack of which too little was said is no more than a note.
    let repo = world.open(&world.keys, None).await;
    let level = VerifyLevel::FullRead;
    let done = verify(&repo, &world.cx, None, level, Sample::All).await;
    let mut findings = done.unwrap().report.findings;
    findings.retain(|finding| finding.severity > Severity::Note);
    assert_eq!(findings, []);
}

fn maintenance_of(world: &World, host: &str) -> KeySet {
    let host = HostId(host.into());
    world.keys.subset(Role::Maintenance, Some(&host)).unwrap()
}

/// Bob's key writes so many snapshots in the name of the host of the newest one, each with a record.
async fn forge_snapshots(world: &World, count: u8) -> Vec<SnapshotId> {
    let bob = world.open(&world.writer(&HostId("bob".into())), None).await;
    let heads = bob.heads(&world.cx).await.unwrap().0;
    let objects = world.mem.objects();
    let head = heads.last().unwrap();
    let outer: Outer = decode(&head.object.outer, "snapshot").unwrap();
    let number = |key: &ObjectKey| layout::ledger_number(key);
    let records = objects
        .iter()
        .filter_map(|(key, body)| Some((number(key)?, body)));
    let (mut seq, body) = records.max_by_key(|(seq, _)| *seq).unwrap();
    let plain = bob.ring().open(ObjectKind::Ledger, body).unwrap();
    let mut line = String::from_utf8(plain).unwrap();
    let mut made = Vec::new();
    for nth in 1..=count {
        let id = SnapshotId::from_parts(head.meta.id.millis() + u64::from(nth), [nth; 10]);
        let outer = Outer {
            id: id.to_bytes(),
            time: outer.time + i64::from(nth) * 1_000_000_000,
            ..outer.clone()
        };
        let object = SnapshotObject {
            outer: encode(&outer).unwrap(),
            ..head.object.clone()
        };
        let sealed = bob
            .ring()
            .seal(ObjectKind::Snapshot, &object.encode().unwrap());
        world
            .mem
            .plant(layout::snapshot(id).unwrap(), sealed.unwrap());
        seq += 1;
        let previous = LineHash::of(line.as_bytes()).to_string();
        let old: serde_json::Value = serde_json::from_str(&line).unwrap();
        let text = |name: &str| old[name].as_str().unwrap().to_owned();
        line = line
            .replace(&text("prev"), &previous)
            .replace(&text("snapshot"), &id.to_string())
            .replace(&text("hmac"), &"ab".repeat(32))
            .replace(&format!("\"seq\":{}", seq - 1), &format!("\"seq\":{seq}"));
        let sealed = bob
            .ring()
            .seal(ObjectKind::Ledger, line.as_bytes())
            .unwrap();
        world.mem.plant(layout::ledger(seq).unwrap(), sealed);
        made.push(id);
    }
    made
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_writes_in_the_name_of_another_pushes_nothing_out_of_its_place() {
    let world = World::new().await;
    let (_, saved) = history(&world, 3).await;
    let forged = forge_snapshots(&world, 3).await;
    let repo = world.open(&maintenance_of(&world, "boss"), None).await;
    let mut heads = repo.heads(&world.cx).await.unwrap().0;
    let told: BTreeSet<_> = unsigned(&repo, &heads).into_keys().collect();
    assert_eq!(told, forged.iter().copied().collect());
    let boss = HostId("boss".into());
    first_seen(&repo, &world.cx, &boss, &mut heads)
        .await
        .unwrap();
    let with_time = heads.iter().filter(|head| head.meta.first_seen.is_some());
    let with_time: Vec<_> = with_time.map(|head| head.meta.id).collect();
    let real: Vec<_> = saved.iter().map(|(report, _)| report.meta.id).collect();
    assert_eq!(with_time, real, "what is forged has no place");
    // They are looked at and stay, and the newest real one with them.
    let policy = KeepPolicy {
        last: Some(Count::AtMost(1)),
        ..KeepPolicy::default()
    };
    let (others, heads): (Vec<_>, Vec<_>) = heads
        .into_iter()
        .partition(|head| told.contains(&head.meta.id));
    let metas = heads.into_iter().map(|head| head.meta).collect();
    let now = world.cx.clock.now();
    let mut plan = ForgetPlan::by_policy(metas, &policy, now, &TimeZone::UTC, &BTreeSet::new());
    plan.leave_unsigned(others.into_iter().map(|head| head.meta));
    let going: Vec<_> = plan.forgotten().map(|meta| meta.id).collect();
    assert_eq!(going, real[..2]);
    assert_eq!(plan.decisions.len(), 6);
}
