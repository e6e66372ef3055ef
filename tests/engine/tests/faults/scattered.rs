//! Copies from a tier that has lost a pack, or has it damaged: what is whole of it, there, aside or in other packs, travels;
//! what is not is named.

use std::sync::Arc;

use backup_core::ObjectKey;
use backup_engine::Repository;
use backup_format::index::RunBuilder;
use backup_format::layout;
use backup_format::seal::ObjectKind;
use backup_testkit::MemSink;

use crate::copies::copy_all;
use crate::repair::{mend, of_kind};
use crate::world::{Case, Memory, World, noise};

/// Files that are a chunk each.
const SIZES: [usize; 2] = [300_000, 500_000];

/// Three snapshots: of two files whose chunks lie in one pack, and twice of the second and something else.
async fn ground() -> World {
    let mut world = World::empty_with_parity(None).await;
    world.write("first", &noise(1, SIZES[0]));
    world.write("second", &noise(2, SIZES[1]));
    world.keep_one_more().await;
    world.remove("first");
    for number in [3, 4] {
        world.write("other", &noise(number, 200_000));
        world.keep_one_more().await;
    }
    world
}

async fn open(world: &World, mem: &MemSink) -> Repository {
    world.open(Arc::new(mem.clone()), None).await.unwrap()
}

/// The pack of the first files, and where the chunks begin and end that hold them.
async fn pack_of(world: &World) -> (ObjectKey, [std::ops::Range<usize>; 2]) {
    let repo = open(world, &world.mem).await;
    let index = repo.index();
    let mut found = Vec::new();
    for part in index.parts() {
        for (_, at) in part.iter() {
            for size in SIZES.iter().filter(|size| **size == at.raw as usize) {
                let id = part.pack(at.pack).unwrap().id;
                let start = at.offset as usize;
                found.push((*size, id, start..start + at.stored as usize));
            }
        }
    }
    found.sort_by_key(|one| one.0);
    let [first, second] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!(first.1, second.1, "they lie in one pack");
    let key = layout::pack(first.1, false).unwrap();
    (key, [first.2.clone(), second.2.clone()])
}

/// Which of the snapshots are on the other tier, and are themselves; and what was said.
async fn copied(world: &World, case: &Case, to: &MemSink) -> (Vec<usize>, String) {
    let from = open(world, &case.mem).await;
    let done = copy_all(&from, &world.cx, Arc::new(to.clone()), |_| {}).await;
    let told = format!("{:?}", done.unwrap().1.findings);
    let there = open(world, to).await;
    let (heads, unread) = there.heads(&world.cx).await.unwrap();
    assert!(unread.is_empty(), "{unread:?}");
    let mut out = Vec::new();
    for head in heads {
        let back = world.restore(&there, head).await;
        out.push(world.saved.iter().position(|one| *one == back).unwrap());
    }
    (out, told)
}

fn spoil(case: &Case, key: &ObjectKey, at: usize) {
    assert!(case.mem.damage(key, |bytes| bytes[at] ^= 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_whole_of_a_damaged_pack_travels_and_what_is_not_is_named() {
    let world = ground().await;
    let (key, [first, second]) = pack_of(&world).await;
    for (chunk, wanted) in [(&first, vec![1, 2]), (&second, vec![])] {
        for is_aside in [false, true] {
            let what = format!("{chunk:?}, aside {is_aside}");
            let case = world.case(Memory::Lost);
            spoil(&case, &key, chunk.start.midpoint(chunk.end));
            if is_aside {
                mend(&world, &case, &[]).await;
                assert!(!case.mem.objects().contains_key(&key), "{what}");
            }
            let to = MemSink::new();
            let (there, told) = copied(&world, &case, &to).await;
            assert_eq!(there, wanted, "{what}: {told}");
            assert_eq!(
                told.matches("whole in no other pack").count(),
                3 - wanted.len()
            );
            assert!(told.contains(key.as_str()), "{told}");
            assert!(!to.objects().contains_key(&key), "{what}");
            // A second run finds what the first has brought.
            let (again, _) = copied(&world, &case, &to).await;
            assert_eq!(again, wanted, "{what}");
        }
    }
}

/// The pack is gone or damaged, and a save has stored anew what was lost of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_stored_anew_travels_for_the_snapshots_that_name_the_lost_pack() {
    let mut world = ground().await;
    let (key, [first, _]) = pack_of(&world).await;
    world.write("first", &noise(1, SIZES[0]));
    for is_gone in [true, false] {
        let case = world.case(Memory::Lost);
        if is_gone {
            assert!(case.mem.lose(&key));
        } else {
            spoil(&case, &key, first.start + 99);
            mend(&world, &case, &[]).await;
        }
        let repo = open(&world, &case.mem).await;
        world.save(&repo).await.unwrap();
        let kept = world.saved.len();
        world.saved.push(world.files());
        let to = MemSink::new();
        let (there, told) = copied(&world, &case, &to).await;
        assert_eq!((there, told.as_str()), (vec![0, 1, 2, 3], "[]"));
        assert!(!to.objects().contains_key(&key));
        world.check(&Case::of(to), "the copy").await;
        world.saved.truncate(kept);
    }
}

/// Of the lost pack the index says that it held less than refs say: then nobody knows what is lacking.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_travels_for_a_lost_pack_of_which_the_index_tells_too_little() {
    let mut world = ground().await;
    let (key, _) = pack_of(&world).await;
    let case = world.case(Memory::Lost);
    assert!(case.mem.lose(&key));
    let repo = open(&world, &case.mem).await;
    world.save(&repo).await.unwrap();
    world.saved.push(world.files());
    let repo = open(&world, &case.mem).await;
    let index = repo.index();
    for run in of_kind(&case, layout::is_index) {
        assert!(case.mem.lose(&run));
    }
    let lost = layout::pack_id(&key).unwrap();
    for part in index.parts() {
        let mut run = RunBuilder::default();
        for (number, pack) in part.packs() {
            let blobs = part.iter().filter(|(_, at)| at.pack == number);
            let blobs = blobs.filter(|(_, at)| pack.id != lost || at.raw as usize == SIZES[1]);
            run.add_known(pack, blobs.collect::<Vec<_>>());
        }
        let sessions: Vec<_> = part.sessions().cloned().collect();
        let run = run.finish(&sessions);
        let sealed = repo.ring().seal(ObjectKind::IndexRun, &run).unwrap();
        case.mem.plant(layout::index(&sealed).unwrap(), sealed);
    }
    let (there, told) = copied(&world, &case, &MemSink::new()).await;
    assert_eq!(there, [2], "{told}");
    assert_eq!(told.matches("no index run tells so many").count(), 3);
}

/// A table of the index in the cache that is damaged denies what it has: it is read anew before anything is concluded from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_stored_anew_travels_also_where_the_index_in_the_cache_is_damaged() {
    let mut world = ground().await;
    let (key, _) = pack_of(&world).await;
    world.write("first", &noise(1, SIZES[0]));
    let case = world.case(Memory::Lost);
    assert!(case.mem.lose(&key));
    world.save(&open(&world, &case.mem).await).await.unwrap();
    world.saved.push(world.files());
    let cache = tempfile::tempdir().unwrap();
    let in_tables = async || {
        let sink = Arc::new(case.mem.clone());
        let repo = world.open(sink, Some(cache.path().to_owned())).await;
        let repo = repo.unwrap();
        repo.keep_in_memory(0);
        repo.reload_index(&world.cx).await.unwrap();
        repo
    };
    drop(in_tables().await);
    let files = crate::world::read(cache.path()).into_iter();
    let tables = files.filter(|(name, _)| name.extension().is_some_and(|end| end == "table"));
    let tables: Vec<_> = tables.collect();
    assert!(!tables.is_empty());
    for (name, mut bytes) in tables {
        bytes[40] ^= 1;
        std::fs::write(cache.path().join(name), bytes).unwrap();
    }
    let from = in_tables().await;
    let to = MemSink::new();
    let done = copy_all(&from, &world.cx, Arc::new(to.clone()), |_| {}).await;
    assert_eq!(done.unwrap().1.findings, []);
    world.check(&Case::of(to), "the copy").await;
}
