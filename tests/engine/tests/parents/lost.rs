//! Packs that are lost while snapshots use them: whatever else holds their content stays for the sake of those.

use std::time::Duration;

use backup_core::Severity;
use backup_engine::prune::{self, PruneJob};

use crate::pruned::{all_is_whole, count, forget_one, job, leave_open, maintenance, prune, stored};
use crate::source::ModelSource;
use crate::world::{World, noise};

/// Packs are lost; the next save stores anew what they held, and is forgotten: nothing names what it stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_stored_anew_of_a_lost_pack_stays_for_those_who_need_it() {
    let world = World::new().await;
    let mut source = ModelSource::default();
    source.now.insert("disk".into(), noise(1, 3 << 20));
    for file in 0..6u64 {
        source
            .now
            .insert(format!("file-{file}"), noise(10 + file, 40_000));
    }
    let mut saved = vec![(
        world.save(&source, &world.keys, "one").await,
        source.now.clone(),
    )];
    let mut lost = 0;
    for key in world.mem.objects().into_keys() {
        if key.as_str().starts_with("data/") {
            world.mem.lose(&key);
            lost += 1;
        }
    }
    let plan = || async {
        let repo = world.open(&maintenance(&world), None).await;
        prune::plan(&repo, &world.cx, &job()).await.unwrap()
    };
    let severities = |plan: &prune::PrunePlan| -> Vec<_> {
        plan.findings.iter().map(|one| one.severity).collect()
    };
    assert_eq!(severities(&plan().await), vec![Severity::Error; lost]);
    let report = world
        .try_to_save(&source, &world.keys, "one")
        .await
        .unwrap();
    assert!(!report.findings.is_empty());
    let unnamed = report.meta.id;
    // A part of it is named by one that stays, which must not be all that is copied of it.
    source.now.remove("disk");
    let report = world
        .try_to_save(&source, &world.keys, "one")
        .await
        .unwrap();
    saved.push((report, source.now.clone()));
    forget_one(&world, unnamed).await;
    for _ in 0..2 {
        prune(&world, &job()).await;
        for (report, disks) in &saved {
            world.check(disks, report).await;
        }
        let plan = plan().await;
        assert_eq!(severities(&plan), vec![Severity::Warning; lost]);
        assert_eq!(plan.numbers.missing_packs, lost as u64);
    }
    // Once nothing needs the lost packs, what was spared for their sake goes too.
    let before = stored(&world);
    forget_one(&world, saved.remove(0).0.meta.id).await;
    prune(&world, &job()).await;
    all_is_whole(&world, &saved).await;
    assert!(stored(&world) < before);
    assert_eq!(severities(&plan().await), []);
}

/// What an earlier prune condemned stays as well, if a pack was lost since that it holds the content of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_condemned_stays_for_those_whose_pack_was_lost_since() {
    let world = World::new().await;
    let mut source = ModelSource::default();
    source.now.insert("disk".into(), noise(1, 3 << 20));
    let kept = world.save(&source, &world.keys, "one").await;
    let objects = world.mem.objects().into_iter();
    let first: Vec<_> = objects
        .filter(|(key, _)| key.as_str().starts_with("data/"))
        .collect();
    for (key, _) in &first {
        world.mem.lose(key);
    }
    let again = world
        .try_to_save(&source, &world.keys, "two")
        .await
        .unwrap();
    for (key, body) in &first {
        world.mem.plant(key.clone(), body.clone());
    }
    forget_one(&world, again.meta.id).await;
    let _ = leave_open(&world, 2).await;
    assert_eq!(prune(&world, &job()).await.waits_for.len(), 1);
    for (key, _) in &first {
        world.mem.lose(key);
    }
    let impatient = PruneJob {
        patience: Duration::ZERO,
        ..job()
    };
    assert!(prune(&world, &impatient).await.waits_for.is_empty());
    world.check(&source.now, &kept).await;
}

/// The same where there are many small packs, which are laid together: what no refs name of them would not be
/// copied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_stored_anew_of_a_lost_pack_is_not_left_behind_when_packs_are_laid_together() {
    let world = World::new().await;
    let mut source = ModelSource::default();
    for file in 0..6u64 {
        source
            .now
            .insert(format!("file-{file}"), noise(10 + file, 40_000));
    }
    let report = world.save(&source, &world.keys, "one").await;
    let first = (report, source.now.clone());
    for key in world.mem.objects().into_keys() {
        if key.as_str().starts_with("data/") {
            world.mem.lose(&key);
        }
    }
    let report = world.try_to_save(&source, &world.keys, "one").await;
    let unnamed = report.unwrap().meta.id;
    // What was stored anew is named in part from here on.
    for file in 1..6 {
        source.now.remove(&format!("file-{file}"));
    }
    let mut later = Vec::new();
    for round in 0..12u64 {
        source
            .now
            .insert(format!("new-{round}"), noise(100 + round, 30_000));
        let report = world.try_to_save(&source, &world.keys, "one").await;
        later.push((report.unwrap(), source.now.clone()));
    }
    forget_one(&world, unnamed).await;
    let (mut written, mut before) = (0, stored(&world));
    for _ in 0..2 {
        written += prune(&world, &job()).await.written_packs;
        for (report, disks) in later.iter().chain([&first]) {
            world.check(disks, report).await;
        }
    }
    let packs = count(&world, "data/");
    // Those that are spared, and one.
    assert!(written > 0 && packs <= 7, "{written}, {packs}");
    assert!(stored(&world) <= before + 20_000);
    before = stored(&world);
    forget_one(&world, first.0.meta.id).await;
    prune(&world, &job()).await;
    all_is_whole(&world, &later).await;
    // Five files of the lost pack.
    assert!(
        stored(&world) < before - 5 * 40_000,
        "{before}, {}",
        stored(&world)
    );
}
