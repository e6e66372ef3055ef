//! What lies on this machine: a cache that is cut off or damaged costs time, never data.

use std::fs;
use std::sync::Arc;

use backup_engine::ledger::verify_ledger;

use crate::world::{Memory, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_is_damaged_or_cut_off_costs_time_only() {
    let world = World::with_snapshot().await;
    type Harm = fn(&mut Vec<u8>);
    let ways: [(&str, Harm); 3] = [
        ("flipped", |bytes| {
            let middle = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(middle) {
                *byte ^= 1;
            }
        }),
        ("cut off", |bytes| bytes.truncate(bytes.len() / 2)),
        ("empty", Vec::clear),
    ];
    for (what, harm) in ways {
        let case = world.case(Memory::Kept);
        let mut left = vec![case.cache().unwrap()];
        let mut harmed = 0;
        while let Some(path) = left.pop() {
            if path.is_dir() {
                left.extend(
                    fs::read_dir(path)
                        .unwrap()
                        .map(|entry| entry.unwrap().path()),
                );
            } else if !path.ends_with("ledger.jsonl") {
                let mut bytes = fs::read(&path).unwrap();
                harm(&mut bytes);
                fs::write(path, bytes).unwrap();
                harmed += 1;
            }
        }
        assert!(harmed >= 4, "{harmed}");
        let repo = world.open(Arc::new(case.mem.clone()), case.cache());
        let repo = repo.await.unwrap();
        let (heads, errors) = repo.heads(&world.cx).await.unwrap();
        assert_eq!((heads.len(), errors.len()), (1, 0), "{what}: {errors:?}");
        world.make_good(&case, what).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_the_ledger_that_was_cut_off_is_completed_and_no_false_alarm() {
    let world = World::with_snapshot().await;
    let whole = world.case(Memory::Kept);
    world.make_good(&whole, "one more").await;
    let copy = |case: &crate::world::Case| {
        let repo = fs::read_dir(case.state().unwrap()).unwrap().next().unwrap();
        repo.unwrap().path().join("ledger.jsonl")
    };
    let length = fs::read(copy(&whole)).unwrap().len();
    for cut in [0, 1, length / 4, length / 2, length - 1] {
        let what = format!("cut off at {cut} of {length}");
        fs::write(copy(&whole), &fs::read(copy(&whole)).unwrap()[..cut]).unwrap();
        let repo = world.open(Arc::new(whole.mem.clone()), whole.cache());
        let repo = repo.await.unwrap();
        world.save(&repo).await.unwrap();
        let ledger = verify_ledger(&repo, &world.cx).await.unwrap();
        assert_eq!(ledger.findings, [], "{what}");
        assert_eq!(ledger.copied, ledger.report.records, "{what}");
    }
}
