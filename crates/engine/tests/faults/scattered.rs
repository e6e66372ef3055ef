//! Copies from a tier that has lost a pack, or has it damaged: what is whole of it, there, aside or in other packs, travels;
//! what is not is named.

use std::sync::Arc;

use backup_core::ObjectKey;
use backup_engine::Repository;
use backup_format::layout;
use backup_testkit::MemSink;

use crate::copies::copy_all;
use crate::repair::mend;
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
