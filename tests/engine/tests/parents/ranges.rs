//! Random disks over generations against a model: ranges of every alignment, in streams cut in every
//! way, with caches that are there, of another snapshot, or lost.

use std::ops::Range;

use backup_core::StreamProfile;
use backup_engine::snapshot::PieceLimit;
use proptest::prelude::*;

use crate::source::{Habits, ModelSource};
use crate::world::{World, noise};

#[derive(Debug, Clone)]
enum Change {
    Write(prop::sample::Index, usize, u64),
    Zero(prop::sample::Index, usize),
    /// As it was in an earlier generation.
    Back(prop::sample::Index, usize, prop::sample::Index),
    Resize(usize),
}

#[derive(Debug, Clone)]
struct Generation {
    changes: Vec<Change>,
    unit: usize,
    cache: &'static str,
    tells_size: bool,
    bodies: bool,
    /// All is read and compared with the past.
    forgets: bool,
}

fn generation() -> impl Strategy<Value = Generation> {
    let length = 1usize..150_000;
    let change = prop_oneof![
        6 => (any::<prop::sample::Index>(), length.clone(), 0u64..9)
            .prop_map(|(at, length, seed)| Change::Write(at, length, seed)),
        2 => (any::<prop::sample::Index>(), length.clone())
            .prop_map(|(at, length)| Change::Zero(at, length)),
        4 => (any::<prop::sample::Index>(), length, any::<prop::sample::Index>())
            .prop_map(|(at, length, when)| Change::Back(at, length, when)),
        1 => (900_000usize..2_500_000).prop_map(Change::Resize),
    ];
    (
        prop::collection::vec(change, 0..8),
        prop::sample::select(vec![512usize, 4096, 65_536, 100_001]),
        prop::sample::select(vec!["one", "one", "one", "two", "lost"]),
        any::<bool>(),
        any::<bool>(),
        prop::bool::weighted(0.3),
    )
        .prop_map(
            |(changes, unit, cache, tells_size, bodies, forgets)| Generation {
                changes,
                unit,
                cache,
                tells_size,
                bodies,
                forgets,
            },
        )
}

fn profile() -> impl Strategy<Value = StreamProfile> {
    prop::sample::select(vec![
        StreamProfile::Pages(4096),
        StreamProfile::Pages(65_536),
        StreamProfile::Content,
        StreamProfile::Auto,
    ])
}

fn apply(disk: &mut Vec<u8>, change: &Change, earlier: &[Vec<u8>]) {
    let range = |at: &prop::sample::Index, length: usize, disk: &[u8]| -> Range<usize> {
        let at = at.index(disk.len());
        at..(at + length).min(disk.len())
    };
    match change {
        Change::Write(at, length, seed) => {
            let range = range(at, *length, disk);
            let bytes = noise(*seed, range.len());
            disk[range].copy_from_slice(&bytes);
        }
        Change::Zero(at, length) => {
            let range = range(at, *length, disk);
            disk[range].fill(0);
        }
        Change::Back(at, length, when) if !earlier.is_empty() => {
            let earlier = when.get(earlier);
            let range = range(at, *length, disk);
            let range = range.start.min(earlier.len())..range.end.min(earlier.len());
            disk[range.clone()].copy_from_slice(&earlier[range]);
        }
        Change::Back(..) => {}
        Change::Resize(length) => {
            let grown = length.saturating_sub(disk.len());
            disk.extend(noise(disk.len() as u64, grown));
            disk.truncate(*length);
        }
    }
}

async fn run(profile: StreamProfile, wanted: u64, generations: &[Generation]) {
    let mut world = World::new().await;
    world.job.pieces = PieceLimit { wanted };
    let mut source = ModelSource::default();
    source.now.insert("disk".into(), noise(99, 1_500_000));
    source.now.insert("small".into(), noise(98, 3000));
    let mut earlier = Vec::new();
    for (number, generation) in generations.iter().enumerate() {
        let disk = source.now.get_mut("disk").unwrap();
        for change in &generation.changes {
            apply(disk, change, &earlier);
        }
        earlier.push(disk.clone());
        source.habits = Habits {
            unit: generation.unit,
            profile,
            tells_size: generation.tells_size,
            bodies: generation.bodies,
            forgets: generation.forgets,
            ..Habits::default()
        };
        let cache = match generation.cache {
            "lost" => format!("lost {number}"),
            cache => cache.to_owned(),
        };
        let report = world.save(&source, &world.keys, &cache).await;
        assert_eq!(report.findings, []);
    }
    world.verify().await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn every_generation_comes_back(
        profile in profile(),
        wanted in prop::sample::select(vec![2 << 20, 64u64, 16]),
        generations in prop::collection::vec(generation(), 2..8),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .build()
            .unwrap();
        runtime.block_on(run(profile, wanted, &generations));
    }
}
