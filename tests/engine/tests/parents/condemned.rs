//! What is left out comes from the parent, but not from packs that are being collected: what lies
//! there is read after all, or written down anew.

use std::collections::BTreeSet;

use backup_core::PackId;
use backup_engine::Repository;
use backup_format::collect::PackList;
use backup_format::layout;
use backup_format::refs::Refs;
use backup_format::seal::ObjectKind;

use crate::source::ModelSource;
use crate::world::{World, host, noise};

fn plant(world: &World, repo: &Repository, packs: &BTreeSet<PackId>, is_dead: bool) {
    let list = PackList {
        generation: 0,
        packs: packs.clone(),
    };
    let (key, kind) = if is_dead {
        (layout::dead(0), ObjectKind::Dead)
    } else {
        (layout::condemned(0), ObjectKind::Condemned)
    };
    let sealed = repo.ring().seal(kind, &list.encode()).unwrap();
    world.mem.plant(key.unwrap(), sealed);
}

/// Two disks in several packs, one of them in so many ranges that they are spilled, and small ones.
async fn saved(
    world: &World,
    source: &mut ModelSource,
    cache: &str,
    keys: &backup_format::keys::KeySet,
) {
    source.now.insert("a-small".into(), noise(1, 5000));
    source.now.insert("b-disk".into(), noise(2, 3 << 20));
    source.now.insert("c-disk".into(), noise(3, 2 << 20));
    world.save(source, keys, cache).await;
    let disk = source.now.get_mut("b-disk").unwrap();
    for at in 0..40 {
        disk[at * 65536..at * 65536 + 4096].copy_from_slice(&noise(50 + at as u64, 4096));
    }
    world.save(source, keys, cache).await;
    source.now.get_mut("c-disk").unwrap()[8192..9000].copy_from_slice(&noise(9, 808));
    world.save(source, keys, cache).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_out_is_in_no_pack_that_is_condemned() {
    let mut number = 0;
    let (mut inherited, mut count) = (0, 1);
    while number <= count {
        for is_writer in [false, true] {
            for cache in ["one", "lost"] {
                let world = World::new().await;
                let keys = if is_writer {
                    world.writer(&host())
                } else {
                    world.keys.clone()
                };
                let mut source = ModelSource::default();
                saved(&world, &mut source, "one", &keys).await;
                let repo = world.open(&world.keys, None).await;
                // By their places in the index: names are random.
                let mut packs: Vec<_> = repo.index().packs().into_iter().collect();
                packs.sort_by_key(|(_, facts)| (facts.is_meta, facts.size));
                count = packs.len();
                let chosen = packs.iter().enumerate();
                let chosen = chosen.filter(|(at, _)| *at == number || number == count);
                let condemned: BTreeSet<PackId> = chosen.map(|(_, (id, _))| *id).collect();
                plant(&world, &repo, &condemned, false);
                source.now.get_mut("c-disk").unwrap()[20_000..21_000]
                    .copy_from_slice(&noise(8, 1000));
                let report = world.try_to_save(&source, &keys, cache).await.unwrap();
                inherited += report.meta.stats.unchanged;
                let sealed = &world.mem.objects()[&layout::refs(report.meta.id).unwrap()];
                let plain = repo.ring().open(ObjectKind::Refs, sealed).unwrap();
                let refs = Refs::decode(&plain).unwrap();
                let what = format!("pack {number} of {count}, {cache}, writer: {is_writer}");
                assert!(
                    refs.packs
                        .iter()
                        .all(|pack| !condemned.contains(&pack.pack)),
                    "{what}"
                );
                // Every session has come to its end, that of a run that was repeated too.
                let objects = world.mem.objects();
                let mut sessions = objects.keys().filter_map(layout::session_id);
                assert!(
                    sessions.all(|id| objects.contains_key(&layout::session_done(id).unwrap()))
                );
                plant(&world, &repo, &condemned, true);
                for pack in &condemned {
                    let lost = [false, true]
                        .map(|meta| world.mem.lose(&layout::pack(*pack, meta).unwrap()));
                    assert_ne!(lost, [false; 2]);
                }
                world.check(&source.now, &report).await;
                // The next one goes on from there.
                world.save(&source, &keys, cache).await;
            }
        }
        number += 1;
    }
    assert!(
        count >= 6 && inherited > 0,
        "{count} packs, {inherited} entries"
    );
}
