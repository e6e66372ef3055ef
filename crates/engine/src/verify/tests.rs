use std::fs;
use std::sync::Arc;

use backup_core::{ByteRange, HostId, PutMode, SnapshotId};
use backup_format::extent::{Extent, Extents};
use backup_format::layout;
use backup_format::refs::{PackUse, Refs};
use backup_format::seal::ObjectKind;
use backup_source_files::{FilesConfig, FilesSource};
use backup_testkit::{MemSink, Op, RecordingSink, context};

use backup_core::Verifier as _;

use super::content::fingerprint;
use super::*;
use crate::index_set::Place;
use crate::init::{InitRequest, prepare};
use crate::snapshot::{SnapshotJob, snapshot};
use crate::view::SnapshotView;

struct World {
    dir: tempfile::TempDir,
    cx: OpContext,
    tier: MemSink,
    calls: Arc<RecordingSink>,
    repo: Repository,
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut out);
    out
}

impl World {
    /// A repository with one snapshot of two large files, `a` and `b`, and twenty small ones.
    async fn new() -> Self {
        Self::with(InitRequest::default()).await
    }

    /// The same with parity.
    async fn with_parity() -> Self {
        let parity = backup_parity::Share::new(6).ok();
        Self::with(InitRequest {
            parity,
            ..InitRequest::default()
        })
        .await
    }

    async fn with(request: InitRequest) -> Self {
        let world = Self::empty(request).await;
        world.write("a", &noise(1, 9 << 20));
        world.write("b", &noise(2, 3 << 20));
        for number in 0..20u64 {
            world.write(&format!("small{number:02}"), &noise(100 + number, 3000));
        }
        world.save().await;
        world
    }

    /// A repository without a snapshot.
    async fn empty(request: InitRequest) -> Self {
        let (dir, cx, tier) = (tempfile::tempdir().unwrap(), context(), MemSink::new());
        let calls = Arc::new(RecordingSink::new(Arc::new(tier.clone())));
        let request = InitRequest {
            key_file: true,
            ..request
        };
        let prepared = prepare(&cx, &request).unwrap();
        let repo = prepared.create(&cx, calls.clone(), None).await.unwrap();
        Self {
            dir,
            cx,
            tier,
            calls,
            repo,
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let tree = self.dir.path().join("tree");
        fs::create_dir_all(&tree).unwrap();
        fs::write(tree.join(name), bytes).unwrap();
    }

    async fn save(&self) -> SnapshotId {
        let config = FilesConfig::of_roots([self.dir.path().join("tree")]);
        let source = Arc::new(FilesSource::new(config));
        let job = SnapshotJob::new("test", HostId("host".into()));
        let report = snapshot(&self.repo, &self.cx, source, &job).await.unwrap();
        self.repo.reload_index(&self.cx).await.unwrap();
        report.meta.id
    }

    async fn heads(&self) -> Vec<SnapshotHead> {
        self.repo.heads(&self.cx).await.unwrap().0
    }

    /// The extents and the SHA-256 of a file in the newest snapshot.
    async fn content(&self, name: &str) -> (Extents, [u8; 32]) {
        let head = self.heads().await.pop().unwrap();
        let view = SnapshotView::open(&self.repo, head).unwrap();
        let mut walk = view.all();
        while let Some(entry) = walk.next(&self.cx).await.unwrap() {
            if entry.path.to_string().ends_with(&format!("/{name}")) {
                let extents = view.extents(&self.cx, &entry.record).await.unwrap();
                return (extents, entry.record.sha256.unwrap());
            }
        }
        panic!("no {name}");
    }

    /// Where the chunk with the last byte of a file lies.
    async fn last_chunk(&self, name: &str) -> (ChunkId, Place) {
        let (extents, _) = self.content(name).await;
        let Some(Extent::Data { chunk, .. }) = extents.as_slice().last().copied() else {
            panic!("{name} ends with a hole");
        };
        (chunk, self.repo.index().find(&chunk).unwrap())
    }

    fn flip(&self, place: &Place) {
        let key = Repository::pack_key(place).unwrap();
        let at = (place.located.offset + place.located.stored / 2) as usize;
        assert!(self.tier.damage(&key, |bytes| bytes[at] ^= 1));
    }

    async fn verify(&self, level: VerifyLevel, sample: Sample) -> VerifyReport {
        let done = verify(&self.repo, &self.cx, None, level, sample).await;
        done.unwrap().report
    }

    /// Reads these contents; says which are hurt.
    fn read(&self, files: &[(&str, Extents, [u8; 32])]) -> Vec<String> {
        let chosen = self.repo.index().packs();
        let (limit, memory) = (Limit::new(None, u64::MAX), self.memory());
        let read = tokio::task::block_in_place(|| {
            Contents::read(self.means(&limit, &memory), chosen, |feeder| {
                for (_, extents, wanted) in files {
                    assert_eq!(feeder.add(extents, *wanted)?, None);
                }
                Ok(())
            })
        });
        let ((), known) = read.unwrap();
        let is_wrong = |(_, extents, wanted): &&(&str, Extents, [u8; 32])| {
            known.wrong.contains_key(&fingerprint(extents, wanted))
        };
        let mut hurt: Vec<_> = files.iter().filter(is_wrong).collect();
        hurt.sort_by_key(|file| file.0);
        hurt.into_iter().map(|file| file.0.to_owned()).collect()
    }

    fn memory(&self) -> Mutex<Memory> {
        Mutex::new(Memory::open(&self.repo, &self.cx, None).unwrap())
    }

    fn means<'a>(&'a self, limit: &'a Limit, memory: &'a Mutex<Memory>) -> Means<'a> {
        Means {
            repo: &self.repo,
            cx: &self.cx,
            limit,
            memory,
        }
    }
}

fn text(report: &VerifyReport) -> String {
    let told = report.findings.iter();
    told.map(|finding| format!("{finding:?}\n")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_content_that_is_not_that_of_its_hash_is_hurt() {
    let world = World::new().await;
    let (a, hash_a) = world.content("a").await;
    let (b, hash_b) = world.content("b").await;
    let (small, hash_small) = world.content("small07").await;
    let mut turned = Extents::default();
    a.as_slice()
        .iter()
        .rev()
        .for_each(|extent| turned.push(*extent));
    assert_ne!(turned, a, "a has several extents");
    let short = a.slice(0, a.length() - 1);
    let files = [
        ("whole", a.clone(), hash_a),
        ("wrong hash", a, hash_b),
        ("turned", turned, hash_a),
        ("short", short, hash_a),
        ("also whole", b, hash_b),
        ("small", small.clone(), hash_small),
        ("small wrong", small, [0; 32]),
    ];
    let hurt = world.read(&files);
    assert_eq!(hurt, ["short", "small wrong", "turned", "wrong hash"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extent_outside_its_chunk_is_hurt() {
    let world = World::new().await;
    let (chunk, place) = world.last_chunk("b").await;
    let mut extents = Extents::default();
    extents.push(Extent::Data {
        chunk,
        offset: place.located.raw - 1,
        length: 2,
    });
    assert_eq!(world.read(&[("outside", extents, [0; 32])]), ["outside"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holes_are_hashed_as_zeros() {
    let world = World::new().await;
    let mut extents = Extents::default();
    extents.push(Extent::Zero { length: 3 << 20 });
    let zeros = backup_integrity::digest::ContentDigest::of(&vec![0; 3 << 20]).0;
    let files = [
        ("holes", extents.clone(), zeros),
        ("other", extents, [7; 32]),
    ];
    assert_eq!(world.read(&files), ["other"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_that_would_take_years_to_hash_can_be_called_off() {
    let world = World::new().await;
    let mut extents = Extents::default();
    extents.push(Extent::Zero { length: 1 << 62 });
    let cancel = world.cx.cancel.clone();
    let later = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(200));
        cancel.cancel();
    });
    let (limit, memory) = (Limit::new(None, u64::MAX), world.memory());
    let read = tokio::task::block_in_place(|| {
        Contents::read(world.means(&limit, &memory), HashMap::new(), |feeder| {
            feeder.add(&extents, [7; 32]).map(drop)
        })
    });
    assert!(matches!(read, Err(EngineError::Cancelled)));
    later.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_is_found_by_the_levels_that_read_it() {
    let world = World::new().await;
    world.write("twin of b", &noise(2, 3 << 20));
    world.save().await;
    for level in [
        VerifyLevel::Metadata,
        VerifyLevel::Checksum,
        VerifyLevel::FullRead,
    ] {
        let report = world.verify(level, Sample::All).await;
        assert_eq!(report.findings, [], "{level:?}");
    }
    let (chunk, place) = world.last_chunk("b").await;
    world.flip(&place);
    let report = world.verify(VerifyLevel::Metadata, Sample::All).await;
    assert_eq!(report.findings, [], "that level reads no content");
    let told = text(&world.verify(VerifyLevel::Checksum, Sample::All).await);
    assert!(told.contains(&format!("pack {}", place.pack)), "{told}");
    let told = text(&world.verify(VerifyLevel::FullRead, Sample::All).await);
    assert!(told.contains(&format!("pack {}", place.pack)), "{told}");
    assert!(told.contains(&format!("chunk {chunk} in pack")), "{told}");
    // Once in the first snapshot, and in the second it and its twin; nothing else.
    assert!(
        told.contains("1 entries cannot") && told.contains("2 entries cannot"),
        "{told}"
    );
    assert!(
        told.contains("/b (") && told.contains("/twin of b ("),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_that_is_gone_is_found_by_every_level() {
    let world = World::new().await;
    let (_, place) = world.last_chunk("b").await;
    assert!(world.tier.lose(&Repository::pack_key(&place).unwrap()));
    for level in [
        VerifyLevel::Metadata,
        VerifyLevel::Checksum,
        VerifyLevel::FullRead,
    ] {
        let told = text(&world.verify(level, Sample::All).await);
        assert!(
            told.contains("Missing") && told.contains("/b ("),
            "{level:?}: {told}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_slice_is_covered_once_and_together_they_find_what_is_damaged() {
    let world = World::new().await;
    let (chunk, place) = world.last_chunk("b").await;
    world.flip(&place);
    let mut named = 0;
    for n in 1..=4 {
        let report = world
            .verify(VerifyLevel::FullRead, Sample::Slice { n, of: 4 })
            .await;
        named += usize::from(text(&report).contains(&format!("chunk {chunk} in pack")));
    }
    // By the slice that has the pack, and by that which has the content if it is another.
    assert!((1..=2).contains(&named), "{named}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_file_of_the_snapshot_needs_is_opened_too() {
    let world = World::new().await;
    let (chunk, place) = world.last_chunk("b").await;
    fs::remove_file(world.dir.path().join("tree/b")).unwrap();
    let newest = world.save().await;
    world.flip(&place);
    let mut heads = world.heads().await;
    heads.retain(|head| head.meta.id == newest);
    let done = verify(
        &world.repo,
        &world.cx,
        Some(heads),
        VerifyLevel::FullRead,
        Sample::All,
    );
    let told = text(&done.await.unwrap().report);
    assert!(told.contains(&format!("chunk {chunk} in pack")), "{told}");
    assert!(!told.contains("cannot be restored"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_pack_is_fetched_once_and_every_chunk_is_counted_once() {
    let world = World::new().await;
    world.save().await;
    let packs = world.repo.index().packs();
    let data = packs.values().filter(|pack| !pack.is_meta).count();
    let blobs: u64 = packs.values().map(|pack| pack.blobs).sum();
    let bytes: u64 = packs.values().map(|pack| pack.size).sum();
    world.calls.forget();
    let report = world.verify(VerifyLevel::FullRead, Sample::All).await;
    assert_eq!(report.findings, []);
    assert_eq!(world.calls.count_under(Op::Get, "data/"), data);
    assert_eq!((report.chunks, report.bytes), (blobs, bytes));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn little_memory_and_one_thread_are_enough() {
    let mut world = World::new().await;
    world.cx.limits.memory_bytes = 1 << 20;
    world.cx.limits.cpu_threads = 1;
    let report = world.verify(VerifyLevel::FullRead, Sample::All).await;
    assert_eq!(report.findings, []);
    let (_, place) = world.last_chunk("b").await;
    world.flip(&place);
    let told = text(&world.verify(VerifyLevel::FullRead, Sample::All).await);
    assert!(told.contains("/b ("), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_verification_ends() {
    let world = World::new().await;
    world.cx.cancel.cancel();
    let done = verify(
        &world.repo,
        &world.cx,
        None,
        VerifyLevel::FullRead,
        Sample::All,
    )
    .await;
    assert!(done.is_err());
}

impl World {
    /// Changes the refs of the newest snapshot.
    async fn change_refs(&self, change: impl FnOnce(&mut Refs)) {
        let id = self.heads().await.pop().unwrap().meta.id;
        let key = layout::refs(id).unwrap();
        let sink = self.repo.sink();
        let sealed = sink.get(&self.cx, &key, ByteRange::Full).await.unwrap();
        let plain = self.repo.ring().open(ObjectKind::Refs, &sealed).unwrap();
        let mut refs = Refs::decode(&plain).unwrap();
        change(&mut refs);
        let sealed = self.repo.ring().seal(ObjectKind::Refs, &refs.encode());
        let put = sink.put(&self.cx, &key, sealed.unwrap().into(), PutMode::Replace);
        put.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_that_refs_do_not_name_is_damage_and_one_too_many_a_note() {
    let world = World::new().await;
    // It uses what the first one stored, but for the chunks of a file that is gone.
    fs::remove_file(world.dir.path().join("tree/b")).unwrap();
    world.save().await;
    let report = world.verify(VerifyLevel::Metadata, Sample::All).await;
    assert_eq!(report.findings, []);
    let mut names = Vec::new();
    world
        .change_refs(|refs| {
            let used = |pack: &PackUse| pack.used().map(|slot| (pack.pack, slot)).collect();
            names = refs
                .packs
                .iter()
                .map(used)
                .collect::<Vec<Vec<_>>>()
                .concat();
        })
        .await;
    assert!(names.len() > 5, "{names:?}");
    for (pack, slot) in names {
        let is_it = |one: &&mut PackUse| one.pack == pack;
        let drop_one = |refs: &mut Refs| {
            let pack = refs.packs.iter_mut().find(is_it).unwrap();
            let others: Vec<_> = pack.used().filter(|used| *used != slot).collect();
            *pack = PackUse::new(pack.pack, pack.slots, others);
        };
        world.change_refs(drop_one).await;
        let told = text(&world.verify(VerifyLevel::Metadata, Sample::All).await);
        assert!(
            told.contains("does not name 1 chunks") && told.contains(&pack.to_string()),
            "{pack} {slot}: {told}"
        );
        let name_again = |refs: &mut Refs| {
            let pack = refs.packs.iter_mut().find(is_it).unwrap();
            let used: Vec<_> = pack.used().chain([slot]).collect();
            *pack = PackUse::new(pack.pack, pack.slots, used);
        };
        world.change_refs(name_again).await;
    }
    let packs = world.repo.index().packs();
    world
        .change_refs(|refs| {
            let all = packs.iter().map(|(pack, facts)| {
                let slots = u32::try_from(facts.blobs).unwrap();
                PackUse::new(*pack, slots, 0..slots)
            });
            refs.packs = all.collect();
            refs.packs.sort_by_key(|one| one.pack);
        })
        .await;
    let report = world.verify(VerifyLevel::Metadata, Sample::All).await;
    assert_eq!(report.findings.len(), 1, "{}", text(&report));
    assert_eq!(report.findings[0].severity, Severity::Note);
    let told = text(&report);
    assert!(told.contains("that the snapshot does not use"), "{told}");
    world.change_refs(|refs| refs.packs.truncate(1)).await;
    let told = text(&world.verify(VerifyLevel::Metadata, Sample::All).await);
    assert!(told.contains("does not name"), "{told}");
}

mod covered;
mod media;
mod spread;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verifier_sees_of_a_snapshot_what_a_restore_would() {
    let world = World::new().await;
    let head = world.heads().await.pop().unwrap();
    let view = SnapshotView::open(&world.repo, head).unwrap();
    let metadata = EveryChunk::new(VerifyLevel::Metadata);
    let full = EveryChunk::new(VerifyLevel::FullRead);
    let report = full.verify(&world.cx, &view, Sample::All).await.unwrap();
    assert_eq!(report.findings, []);
    assert_eq!(
        report.bytes,
        (12 << 20) + 20 * 3000,
        "each chunk is read once"
    );
    let half = Sample::Slice { n: 1, of: 2 };
    let part = full.verify(&world.cx, &view, half).await.unwrap();
    assert!(part.chunks > 0 && part.chunks < report.chunks);
    let (chunk, place) = world.last_chunk("b").await;
    world.flip(&place);
    let told = metadata
        .verify(&world.cx, &view, Sample::All)
        .await
        .unwrap();
    assert_eq!(
        (told.findings, told.bytes),
        (Vec::new(), 0),
        "nothing is read for it"
    );
    let told = full.verify(&world.cx, &view, Sample::All).await.unwrap();
    assert_eq!(told.findings.len(), 1);
    assert_eq!(told.findings[0].kind, FindingKind::Damaged);
    assert_eq!(told.findings[0].subject, format!("chunk {chunk}"));
    world.tier.lose(&Repository::pack_key(&place).unwrap());
    let told = full.verify(&world.cx, &view, Sample::All).await.unwrap();
    assert!(
        told.findings
            .iter()
            .all(|one| one.kind == FindingKind::Missing)
    );
    assert!(!told.findings.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_that_no_content_needs_are_read_beside_the_walk() {
    let mut world = World::new().await;
    let folder = world.dir.path().join("cache");
    let job = || VerifyJob {
        memory: Some(folder.clone()),
        ..VerifyJob::new(VerifyLevel::FullRead)
    };
    let first = verify_job(&world.repo, &world.cx, job()).await.unwrap();
    assert_eq!((first.report.findings, first.hashed.left), (Vec::new(), 0));
    world.calls.forget();
    let later = verify_job(&world.repo, &world.cx, job()).await.unwrap();
    assert_eq!(
        (later.report.findings, later.hashed.contents),
        (Vec::new(), 0)
    );
    assert_eq!(later.report.chunks, first.report.chunks);
    let packs = world.repo.index().packs();
    let data = packs.values().filter(|pack| !pack.is_meta).count();
    assert_eq!(world.calls.count_under(Op::Get, "data/"), data, "each once");
    // What is damaged is told of whoever reads it.
    let (_, place) = world.last_chunk("a").await;
    world.flip(&place);
    world.cx.limits.cpu_threads = 1;
    let told = verify_job(&world.repo, &world.cx, job()).await.unwrap();
    assert!(
        text(&told.report).contains("/a ("),
        "{:?}",
        told.report.findings
    );
}
