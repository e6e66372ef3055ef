//! A slice reads its share of the bytes, and all slices together cover everything.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::repository::Sizes;
use crate::verify::choice::home;

const SLICES: u32 = 10;

/// Small chunks and packs, so that little data makes many of them.
async fn world() -> World {
    let mut sizes = Sizes::default();
    sizes.chunks.min = 16 << 10;
    sizes.chunks.target = 32 << 10;
    sizes.chunks.max = 64 << 10;
    sizes.bundle_limit = 4 << 10;
    let mut world = World::empty(InitRequest {
        sizes,
        ..InitRequest::default()
    })
    .await;
    world.repo.pack_into(64 << 10, 16 << 10);
    world
}

/// A thousand files of about a kilobyte.
async fn small() -> World {
    let world = world().await;
    for number in 0..1000u64 {
        let length = 800 + number as usize % 500;
        world.write(&format!("small{number:04}"), &noise(number, length));
    }
    world.save().await;
    world
}

/// Small files, some of a few chunks, one of many packs in two versions that begin alike, one without content, and
/// one that is a hole.
async fn mixed() -> World {
    let world = world().await;
    for number in 0..200u64 {
        world.write(&format!("small{number:04}"), &noise(number, 1000));
    }
    for number in 0..12u64 {
        let length = 20_000 + 9_000 * number as usize;
        world.write(&format!("medium{number:02}"), &noise(5000 + number, length));
    }
    let mut large = noise(9000, 400 << 10);
    world.write("large", &large);
    world.write("empty", &[]);
    world.write("hole", &vec![0; 100_000]);
    world.save().await;
    let end = large.len() - 100;
    large[end..].fill(7);
    world.write("large", &large);
    world.save().await;
    world
}

/// A content, with its chunks.
type Content = (Extents, [u8; 32]);

impl World {
    /// Every content of every snapshot, each once.
    async fn contents(&self) -> BTreeMap<[u8; 16], Content> {
        let mut out = BTreeMap::new();
        for head in self.heads().await {
            let view = SnapshotView::open(&self.repo, head).unwrap();
            let mut walk = view.all();
            while let Some(entry) = walk.next(&self.cx).await.unwrap() {
                if let Some(sha256) = entry.record.sha256 {
                    let extents = view.extents(&self.cx, &entry.record).await.unwrap();
                    out.insert(fingerprint(&extents, &sha256), (extents, sha256));
                }
            }
        }
        out
    }

    fn places(&self, extents: &Extents) -> Vec<Place> {
        let index = self.repo.index();
        let places = extents.as_slice().iter().filter_map(|extent| match extent {
            Extent::Data { chunk, .. } => index.find(chunk),
            Extent::Zero { .. } => None,
        });
        places.collect()
    }

    async fn share(&self, sample: Sample) -> VerifyOutcome {
        let level = VerifyLevel::FullRead;
        let done = verify(&self.repo, &self.cx, None, level, sample).await;
        done.unwrap()
    }

    /// What the packs of a sample come to.
    fn packs_of_sample(&self, sample: Sample) -> u64 {
        let packs = self.repo.index().packs();
        let taken = packs.iter().filter(|(id, _)| sample.takes(&id.0));
        taken.map(|(_, facts)| facts.size).sum()
    }
}

fn slices(of: u32) -> impl Iterator<Item = Sample> {
    (1..=of).map(move |n| Sample::Slice { n, of })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_small_files_a_slice_or_a_sample_reads_its_packs_and_nothing_else() {
    let world = small().await;
    let whole = world.share(Sample::All).await;
    assert_eq!(
        (whole.report.findings, whole.hashed.contents),
        (vec![], 1000)
    );
    let packs = world.repo.index().packs().len();
    assert!(packs >= 10, "{packs} packs");
    let (mut contents, mut bytes, mut chunks) = (0, 0, 0);
    for sample in slices(SLICES) {
        let done = world.share(sample).await;
        assert_eq!(done.report.findings, []);
        assert_eq!(
            done.report.bytes,
            world.packs_of_sample(sample),
            "{sample:?}"
        );
        contents += done.hashed.contents;
        bytes += done.report.bytes;
        chunks += done.report.chunks;
    }
    assert_eq!(contents, 1000, "each content in one slice");
    assert_eq!((bytes, chunks), (whole.report.bytes, whole.report.chunks));
    for seed in 0..8 {
        let sample = Sample::Share {
            seed,
            percent: 20.0,
        };
        let done = world.share(sample).await;
        assert_eq!(done.report.bytes, world.packs_of_sample(sample), "{seed}");
        let is_any = done.report.bytes > 0;
        assert!(is_any || done.hashed.contents == 0, "{seed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_damaged_chunk_of_small_files_is_found_by_one_slice() {
    const OF: u32 = 3;
    let world = small().await;
    let contents = world.contents().await;
    // One chunk of each pack.
    let places = contents.values().flat_map(|one| world.places(&one.0));
    let victims: BTreeMap<PackId, Place> = places.map(|place| (place.pack, place)).collect();
    for (pack, place) in victims {
        world.flip(&place);
        for sample in slices(OF) {
            let told = text(&world.share(sample).await.report);
            let is_told = told.contains(&format!("in pack {pack}"));
            assert_eq!(is_told, sample.takes(&pack.0), "{sample:?}: {told}");
        }
        world.flip(&place);
    }
}

/// However files lie in packs: each chunk and each content is covered, and what is read twice is at most what lies
/// in several packs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slices_cover_files_of_several_packs_once_and_find_each_damage_where_it_belongs() {
    let world = mixed().await;
    let contents = world.contents().await;
    let whole = world.share(Sample::All).await;
    assert_eq!(whole.report.findings, []);
    assert_eq!(whole.hashed.contents, contents.len() as u64);
    let packs_of = |one: &Content| {
        let places = world.places(&one.0);
        places
            .iter()
            .map(|place| place.pack)
            .collect::<BTreeSet<_>>()
    };
    let spans = contents.values().filter(|one| packs_of(one).len() > 1);
    let spans: u64 = spans
        .flat_map(|one| world.places(&one.0))
        .map(|place| u64::from(place.located.stored))
        .sum();
    assert!(spans > 400 << 10, "{spans} bytes lie in several packs");
    let (mut hashed, mut bytes, mut read) = (0, 0, 0);
    for sample in slices(SLICES) {
        let done = world.share(sample).await;
        assert_eq!((done.report.findings, done.hashed.left), (vec![], 0));
        assert!(done.report.bytes >= world.packs_of_sample(sample));
        hashed += done.hashed.contents;
        bytes += done.report.bytes;
        read += world.packs_of_sample(sample);
    }
    assert_eq!(hashed, whole.hashed.contents);
    assert_eq!(read, whole.report.bytes, "each pack in one slice");
    assert!(bytes <= read + spans, "{bytes}, {read} and {spans}");
    // Every chunk of the large file, and one of each pack.
    let large = world.content("large").await;
    let places = contents.values().flat_map(|one| world.places(&one.0));
    let victims: BTreeMap<PackId, Place> = places.map(|place| (place.pack, place)).collect();
    let victims = victims.into_values().chain(world.places(&large.0));
    let index = world.repo.index();
    for place in victims {
        let at = (place.pack, place.located.offset);
        world.flip(&place);
        for sample in slices(3) {
            let told = text(&world.share(sample).await.report);
            let is_it = |one: &Place| (one.pack, one.located.offset) == at;
            let needs = |one: &&Content| world.places(&one.0).iter().any(is_it);
            let mut users = contents.values().filter(needs);
            let is_due = sample.takes(&place.pack.0)
                || users.any(|(extents, sha256)| {
                    let home = home(&index, extents, sha256).unwrap();
                    sample.takes(&home.0)
                });
            let is_told = told.contains(&format!("in pack {}", place.pack));
            assert_eq!(is_told, is_due, "{sample:?}: {told}");
        }
        world.flip(&place);
    }
}

/// Versions of a large file begin alike: they are not all hashed in the slice of their beginning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_content_goes_with_one_of_its_own_packs_and_versions_go_with_many() {
    let world = mixed().await;
    let index = world.repo.index();
    for (extents, sha256) in world.contents().await.into_values() {
        let packs: Vec<_> = world.places(&extents).iter().map(|one| one.pack).collect();
        match home(&index, &extents, &sha256) {
            Some(pack) => assert!(packs.contains(&pack)),
            None => assert!(packs.is_empty()),
        }
    }
    let (large, _) = world.content("large").await;
    let all: BTreeSet<_> = world.places(&large).iter().map(|one| one.pack).collect();
    let versions = (0..2000u64).map(|number| *blake3::hash(&number.to_le_bytes()).as_bytes());
    let homes: BTreeSet<_> = versions
        .filter_map(|sha256| home(&index, &large, &sha256))
        .collect();
    assert!(all.len() > 3);
    assert_eq!(homes, all);
}
