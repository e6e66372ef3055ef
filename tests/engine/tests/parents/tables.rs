//! An index that is too large for memory lies in files of the cache. They may be lost, damaged or outdated at any time,
//! and what was saved is whole all the same.

use std::fs;
use std::path::PathBuf;

use backup_core::{Sample, VerifyLevel};
use backup_engine::prune::{self, PruneJob, PruneNumbers};
use backup_engine::verify;

use crate::source::ModelSource;
use crate::world::{World, host, noise};

/// The tables in a cache.
fn tables(world: &World, cache: &str) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let mut folders = vec![world.cache(cache)];
    while let Some(folder) = folders.pop() {
        for file in fs::read_dir(folder).into_iter().flatten() {
            let path = file.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "table") {
                out.push(path);
            }
        }
    }
    out
}

/// Flips a bit of what chunks are looked up in; the file still opens.
fn damage(table: &PathBuf, at: usize) {
    let mut bytes = fs::read(table).unwrap();
    bytes[at] ^= 1;
    fs::write(table, bytes).unwrap();
}

/// Some disks, saved twice, with an index in tables.
async fn saved() -> (World, ModelSource) {
    let world = World::with_tables().await;
    let mut source = ModelSource::default();
    for number in 0..12 {
        source
            .now
            .insert(format!("disk-{number}"), noise(number, 300_000));
    }
    let _ = world.save(&source, &world.keys, "one").await;
    source.now.insert("disk-3".into(), noise(99, 300_000));
    let _ = world.save(&source, &world.keys, "one").await;
    assert!(!tables(&world, "one").is_empty());
    (world, source)
}

async fn plan(world: &World) -> PruneNumbers {
    let repo = world.open(&world.keys, Some(&world.cache("one"))).await;
    let plan = prune::plan(&repo, &world.cx, &PruneJob::new(host())).await;
    plan.unwrap().numbers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_save_that_meets_a_damaged_page_goes_its_way_again() {
    let (mut damaged, mut again) = (0, 0);
    for at in [0, 300, 600, 900] {
        let (mut reread, mut source) = saved().await;
        // Read in full, so that every chunk is asked for.
        reread.job.reread = true;
        source.now.insert("disk-4".into(), noise(98, 300_000));
        let there = tables(&reread, "one");
        for table in &there {
            damage(table, at);
        }
        damaged += there.len();
        let report = reread.save(&source, &reread.keys, "one").await;
        assert_eq!(report.findings, []);
        again += there.iter().filter(|table| !table.exists()).count();
        reread.verify().await;
        // Nothing is stored twice for it: the index has as many chunks as there are different ones.
        let repo = reread.open(&reread.keys, None).await;
        let mut seen = std::collections::BTreeSet::new();
        for part in repo.index().parts() {
            part.iter()
                .for_each(|(prefix, _)| assert!(seen.insert(prefix)));
        }
    }
    assert!(damaged >= 4 && again == damaged, "{again} of {damaged}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_concludes_from_what_is_missing_reads_the_index_anew() {
    let (world, _) = saved().await;
    let wanted = plan(&world).await;
    assert_eq!(wanted.missing_packs, 0);
    for table in tables(&world, "one") {
        damage(&table, 40);
    }
    assert_eq!(plan(&world).await, wanted);
    let there = tables(&world, "one");
    assert!(!there.is_empty());
    there.iter().for_each(|table| damage(table, 40));
    let repo = world.open(&world.keys, Some(&world.cache("one"))).await;
    let done = verify(&repo, &world.cx, None, VerifyLevel::FullRead, Sample::All).await;
    assert_eq!(done.unwrap().report.findings, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_are_lost_torn_or_outdated_are_made_anew() {
    let (world, mut source) = saved().await;
    let old: Vec<_> = tables(&world, "one")
        .iter()
        .map(|table| (table.clone(), fs::read(table).unwrap()))
        .collect();
    for round in 0..3 {
        let there = tables(&world, "one");
        assert!(!there.is_empty());
        for table in there {
            match round {
                0 => fs::remove_file(table).unwrap(),
                1 => fs::write(&table, &fs::read(&table).unwrap()[..500]).unwrap(),
                _ => {
                    fs::remove_file(table).unwrap();
                    old.iter()
                        .for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
                }
            }
        }
        source
            .now
            .insert("disk-5".into(), noise(200 + round, 300_000));
        let report = world.save(&source, &world.keys, "one").await;
        assert_eq!(
            (report.findings.len(), report.meta.stats.unchanged),
            (0, 11)
        );
    }
    world.verify().await;
}

/// The sealed copies of runs are not needed beside tables, and another place of the repository has its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_a_table_is_in_the_cache_once() {
    let (world, _) = saved().await;
    let table = tables(&world, "one").pop().unwrap();
    let repository = table.parent().unwrap().parent().unwrap();
    let copies = fs::read_dir(repository.join("index"));
    assert_eq!(copies.map_or(0, Iterator::count), 0);
}
