//! What was covered is remembered, and over time everything is.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backup_core::{CancellationToken, Clock as _, Event, Observer, Stage};
use backup_testkit::TestClock;
use jiff::SignedDuration;

use super::*;

/// The same dice on every run of a test.
struct Seed(u64);

impl Seed {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

fn full(memory: &Path) -> VerifyJob {
    VerifyJob {
        memory: Some(memory.to_owned()),
        ..VerifyJob::new(VerifyLevel::FullRead)
    }
}

fn within(memory: &Path, bytes: u64) -> VerifyJob {
    VerifyJob {
        budget: Some(ReadBudget::Bytes(bytes)),
        ..full(memory)
    }
}

impl World {
    async fn run(&self, job: VerifyJob) -> VerifyOutcome {
        verify_job(&self.repo, &self.cx, job).await.unwrap()
    }

    /// A world with a pack of data and one of pages for each of so many saves more.
    async fn with_saves(count: u64) -> Self {
        let world = Self::new().await;
        for number in 0..count {
            world.save_more(number).await;
        }
        world
    }

    async fn save_more(&self, number: u64) {
        self.write("more", &noise(1000 + number, 200_000));
        self.save().await;
    }

    fn memory_file(&self, folder: &Path) -> PathBuf {
        let folder = folder.join(self.repo.id().to_string());
        let names = fs::read_dir(folder).unwrap().map(|one| one.unwrap().path());
        let mut files: Vec<_> = names.filter(|path| path.extension().is_none()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        files.remove(0)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_of_any_budget_cover_everything_whatever_comes_and_whatever_the_clock_says() {
    for seed in 0..4 {
        let mut dice = Seed(seed);
        let mut world = World::with_saves(6).await;
        let clock = TestClock::default();
        world.cx.clock = Arc::new(clock.clone());
        let folder = tempfile::tempdir().unwrap();
        let mut covered = 0;
        for round in 0.. {
            assert!(
                round < 60,
                "seed {seed}: {covered} packs are covered, and no more"
            );
            if round < 8 && dice.below(3) == 0 {
                world.save_more(100 + round).await;
            }
            clock.advance(SignedDuration::from_hours(
                i64::try_from(dice.below(200)).unwrap() - 100,
            ));
            let budget = 1 + dice.below(1 << 20);
            let done = world.run(within(folder.path(), budget)).await;
            assert_eq!(done.report.findings, [], "seed {seed}");
            let full = &done.coverage.full;
            assert!(
                full.ever.packs > covered || full.ever == done.coverage.all,
                "seed {seed}: what was checked already came before what never was"
            );
            covered = full.ever.packs;
            if round >= 8 && full.ever == done.coverage.all {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bit_that_flips_behind_a_run_is_found_within_one_cycle_and_told_of_until_it_is_mended() {
    let mut world = World::with_saves(4).await;
    let clock = TestClock::default();
    world.cx.clock = Arc::new(clock.clone());
    let folder = tempfile::tempdir().unwrap();
    let done = world.run(full(folder.path())).await;
    assert_eq!(done.coverage.full.ever, done.coverage.all);
    let (chunk, place) = world.last_chunk("b").await;
    world.flip(&place);
    let packs = done.coverage.all.packs;
    let mut found_in = None;
    for round in 1..=packs {
        clock.advance(SignedDuration::from_hours(-24));
        let done = world.run(within(folder.path(), 1)).await;
        if done.report.findings.is_empty() {
            continue;
        }
        found_in = Some(round);
        let told = text(&done.report);
        assert!(told.contains(&format!("chunk {chunk} in pack")), "{told}");
        assert!(told.contains("/b ("), "{told}");
        assert_eq!(done.coverage.damaged.packs, 1);
        break;
    }
    assert!(found_in.is_some(), "not in a whole cycle of {packs} packs");
    for job in [within(folder.path(), 1), full(folder.path())] {
        let told = text(&world.run(job).await.report);
        assert!(told.contains(&format!("chunk {chunk} in pack")), "{told}");
    }
    for n in 1..=3 {
        let sample = Sample::Slice { n, of: 3 };
        let job = VerifyJob {
            sample,
            ..full(folder.path())
        };
        let told = text(&world.run(job).await.report);
        assert!(told.contains("/b ("), "slice {n}: {told}");
    }
    world.flip(&place);
    let done = world.run(within(folder.path(), 1)).await;
    assert_eq!(done.report.findings, []);
    assert_eq!(done.coverage.damaged.packs, 0, "it came first, and is well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_content_is_hashed_once_and_again_if_asked() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let first = world.run(full(folder.path())).await;
    assert_eq!((first.hashed.contents, first.hashed.left), (22, 0));
    assert!(first.coverage.is_kept && first.coverage.whole_contents == 22);
    world.write("b", &noise(3, 3 << 20));
    world.save().await;
    let second = world.run(full(folder.path())).await;
    assert_eq!(second.hashed.contents, 1, "that of the new b alone");
    let third = world.run(full(folder.path())).await;
    assert_eq!(third.hashed.contents, 0);
    assert_eq!(
        third.report.chunks, second.report.chunks,
        "all is opened all the same"
    );
    let rehash = VerifyJob {
        rehash: true,
        ..full(folder.path())
    };
    assert_eq!(world.run(rehash).await.hashed.contents, 23);
    let without = world.run(VerifyJob::new(VerifyLevel::FullRead)).await;
    assert_eq!(without.hashed.contents, 23);
    assert!(!without.coverage.is_kept);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contents_of_forgotten_snapshots_are_forgotten() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    world.run(full(folder.path())).await;
    fs::remove_file(world.dir.path().join("tree/b")).unwrap();
    let first = world.heads().await.remove(0).meta.id;
    world.save().await;
    assert!(world.tier.lose(&layout::snapshot(first).unwrap()));
    let done = world.run(full(folder.path())).await;
    assert_eq!(done.coverage.whole_contents, 21, "without b");
    assert_eq!((done.coverage.snapshots, done.coverage.walked), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_much_for_one_run_is_left_and_a_wrong_content_is_told_of_every_time() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let (a, hash_a) = world.content("a").await;
    let (b, _) = world.content("b").await;
    let read = |most: u64| {
        let memory = Memory::open(&world.repo, &world.cx, Some(folder.path())).unwrap();
        let (limit, memory) = (Limit::new(None, most), Mutex::new(memory));
        let read = tokio::task::block_in_place(|| {
            Contents::read(world.means(&limit, &memory), HashMap::new(), |feeder| {
                let wrong = feeder.add(&b, [9; 32])?;
                Ok([wrong, feeder.add(&a, hash_a)?].map(|left| left.is_some()))
            })
        });
        lock(&memory).flush();
        let (left, known) = read.unwrap();
        (left, known.hashed, known.wrong.len())
    };
    assert_eq!(read(1), ([false, true], 1, 1));
    assert_eq!(
        read(1),
        ([false, false], 2, 1),
        "what is wrong takes no other's turn"
    );
    assert_eq!(read(1), ([false, false], 1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_memory_that_is_lost_cut_off_damaged_or_of_another_place_is_none() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let all = world.run(full(folder.path())).await.coverage.all.packs;
    let file = world.memory_file(folder.path());
    let whole = fs::read(&file).unwrap();
    let remembered = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        let memory = Memory::read_only(&world.repo, &world.cx, Some(folder.path())).unwrap();
        let packs = world.repo.index().packs();
        let known = packs.keys().filter(|id| memory.pack(id).full > 0);
        known.count() as u64
    };
    assert_eq!(remembered(&whole), all);
    let one_more = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    // In the first frame, which only says when the run began, and at the end.
    for at in [0, 2, 30, whole.len() - 1] {
        assert_eq!(remembered(&one_more(at)), 0, "{at}");
    }
    assert_eq!(remembered(&whole[..whole.len() - 1]), 0);
    assert_eq!(remembered(&[whole.as_slice(), &[9; 100]].concat()), all);
    // The next run writes behind what it understands.
    let done = world.run(full(folder.path())).await;
    assert_eq!(done.hashed.contents, 0);
    assert_eq!(remembered(&fs::read(&file).unwrap()), all);
    fs::remove_file(&file).unwrap();
    let done = world.run(full(folder.path())).await;
    assert_eq!(
        (done.hashed.contents, done.coverage.full.ever.packs),
        (22, all)
    );
    // Another repository's.
    let other = World::new().await;
    let strange = tempfile::tempdir().unwrap();
    other.run(full(strange.path())).await;
    let strange = fs::read(other.memory_file(strange.path())).unwrap();
    assert_eq!(remembered(&strange), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_runs_at_once_do_not_write_into_one_memory() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let kept = Memory::open(&world.repo, &world.cx, Some(folder.path())).unwrap();
    let done = world.run(full(folder.path())).await;
    assert!(!done.coverage.is_kept);
    assert_eq!(
        done.coverage.full.ever, done.coverage.all,
        "it knows what it did itself"
    );
    drop(kept);
    assert!(world.run(full(folder.path())).await.coverage.is_kept);
}

/// Cancels at the first pack.
#[derive(Debug)]
struct Stops(CancellationToken);

impl Observer for Stops {
    fn on(&self, event: Event<'_>) {
        if let Event::Advanced {
            stage: Stage::Verify,
            ..
        } = event
        {
            self.0.cancel();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_interrupted_keeps_what_it_covered() {
    let mut world = World::with_saves(8).await;
    world.cx.limits.memory_bytes = 1 << 20;
    let folder = tempfile::tempdir().unwrap();
    let mut before = 0;
    for _ in 0..2 {
        world.cx.observer = Arc::new(Stops(world.cx.cancel.clone()));
        let job = VerifyJob {
            level: VerifyLevel::Checksum,
            ..full(folder.path())
        };
        let done = verify_job(&world.repo, &world.cx, job).await;
        assert!(matches!(done, Err(EngineError::Cancelled)));
        world.cx.cancel = CancellationToken::new();
        let known = coverage(&world.repo, &world.cx, folder.path())
            .await
            .unwrap();
        let covered = known.checksum.ever.packs;
        assert!(
            covered > before && known.checksum.ever != known.all,
            "{covered}"
        );
        before = covered;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_that_is_over_is_enough_for_one_pack_and_one_manifest() {
    let world = World::with_saves(3).await;
    let folder = tempfile::tempdir().unwrap();
    let job = VerifyJob {
        budget: Some(ReadBudget::Time(Duration::ZERO)),
        ..full(folder.path())
    };
    for round in 1..=4 {
        let done = world.run(job.clone()).await;
        assert_eq!(done.report.findings, []);
        assert_eq!((done.walked, done.coverage.walked), (1, round));
        assert_eq!(done.coverage.full.ever.packs, round);
    }
}

/// How often parity of packs was read.
fn parity_of_packs(world: &World) -> usize {
    let below = ["parity/data/", "parity/meta/"];
    let reads = below.map(|prefix| world.calls.count_under(Op::Get, prefix));
    reads.iter().sum()
}

/// However short the time of each run: parity is looked at with its pack, or it would never come to its turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_that_is_over_is_enough_for_the_parity_of_the_packs_that_are_read() {
    for level in [VerifyLevel::Checksum, VerifyLevel::FullRead] {
        let world = World::with_parity().await;
        world.save_more(1).await;
        let folder = tempfile::tempdir().unwrap();
        let mut keys = world.tier.objects().into_keys();
        let victim = keys.rfind(|key| layout::parity_of(key).is_some()).unwrap();
        world.tier.damage(&victim, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        });
        let job = VerifyJob {
            level,
            budget: Some(ReadBudget::Time(Duration::ZERO)),
            ..full(folder.path())
        };
        let mut told = String::new();
        let packs = world.repo.index().packs().len();
        for _ in 0..packs {
            world.calls.forget();
            let done = world.run(job.clone()).await;
            assert_eq!(parity_of_packs(&world), 1, "{level:?}");
            told += &text(&done.report);
        }
        assert!(told.contains(victim.as_str()), "{level:?}: {told}");
        assert_eq!(told.matches("damaged in part").count(), 1, "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_packs_that_files_needed_parity_is_looked_at_as_long_as_there_is_time() {
    let world = World::with_parity().await;
    world.run(VerifyJob::new(VerifyLevel::FullRead)).await;
    assert_eq!(
        parity_of_packs(&world),
        world.repo.index().packs().len(),
        "each once"
    );
    let (limit, memory) = (
        Limit::new(Some(ReadBudget::Time(Duration::ZERO)), u64::MAX),
        world.memory(),
    );
    let mut run = Run::new(
        &world.repo,
        &world.cx,
        VerifyJob::new(VerifyLevel::FullRead),
        &limit,
        &memory,
    );
    let chosen = run.chosen(None, BTreeMap::new()).await.unwrap();
    let read = chosen.iter().map(|(id, _)| *id).collect();
    world.calls.forget();
    run.parity_of(&read).await.unwrap();
    assert_eq!(parity_of_packs(&world), 0, "there is no time left");
}

/// What was hashed is not what was opened, and the oldest of several looks counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_level_counts_what_was_covered_at_it_and_when() {
    let mut world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let clock = TestClock::at_text("2031-01-01T00:00:00Z");
    world.cx.clock = Arc::new(clock.clone());
    let hashed = VerifyJob {
        level: VerifyLevel::Checksum,
        ..full(folder.path())
    };
    world.run(hashed.clone()).await;
    let covered = async |world: &World| {
        let now = coverage(&world.repo, &world.cx, folder.path()).await;
        now.unwrap()
    };
    let now = covered(&world).await;
    assert_eq!((now.checksum.ever, now.full.ever.packs), (now.all, 0));
    assert_eq!(now.full.oldest, None);
    assert_eq!((now.walked, now.snapshots), (1, 1));
    let first = clock.now();
    clock.set("2031-01-03T00:00:00Z".parse().unwrap());
    // What was saved since is looked at, and of the rest a part.
    world.save_more(7).await;
    let now = covered(&world).await;
    assert!(now.checksum.ever.packs < now.all.packs);
    assert_eq!((now.walked, now.snapshots), (1, 2));
    world.run(within(folder.path(), 1)).await;
    let now = covered(&world).await;
    assert!((1..now.all.packs).contains(&now.full.ever.packs), "{now:?}");
    assert_eq!(now.full.oldest, Some(clock.now()));
    assert_eq!(now.checksum.oldest, Some(first));
    world.run(full(folder.path())).await;
    let now = covered(&world).await;
    assert_eq!((now.full.ever, now.checksum.ever), (now.all, now.all));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_clock_that_was_wrong_says_is_counted_as_covered_and_in_no_span() {
    let mut world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let clock = TestClock::at_text("2031-01-01T00:00:00Z");
    world.cx.clock = Arc::new(clock.clone());
    world.run(full(folder.path())).await;
    clock.set("2026-01-01T00:00:00Z".parse().unwrap());
    let now = coverage(&world.repo, &world.cx, folder.path())
        .await
        .unwrap();
    assert_eq!((now.full.ever, now.full.oldest), (now.all, None));
    assert!(now.full.within.iter().all(|(_, amount)| amount.packs == 0));
    clock.set("2031-01-06T00:00:00Z".parse().unwrap());
    let now = coverage(&world.repo, &world.cx, folder.path())
        .await
        .unwrap();
    let counts: Vec<_> = now
        .full
        .within
        .iter()
        .map(|(_, amount)| amount.packs)
        .collect();
    let all = now.all.packs;
    assert_eq!(counts, [0, all, all, all]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_object_is_named_with_the_snapshots_and_paths_that_it_hurts() {
    let mut world = World::new().await;
    let later = TestClock::at_text("2026-02-01T00:00:00Z");
    let later = later.ticking(SignedDuration::from_secs(1));
    world.cx.clock = Arc::new(later);
    let first = world.heads().await.remove(0).meta.id;
    fs::remove_file(world.dir.path().join("tree/b")).unwrap();
    world.save().await;
    world.write("twin of b", &noise(2, 3 << 20));
    let third = world.save().await;
    let (chunk, place) = world.last_chunk("twin of b").await;
    world.flip(&place);
    let root = world.dir.path().join("tree");
    let root = root.to_string_lossy();
    let path = |name: &str| format!("{root}/{name}");
    let folder = tempfile::tempdir().unwrap();
    for (level, budget) in [
        (VerifyLevel::FullRead, None),
        (VerifyLevel::FullRead, Some(ReadBudget::Bytes(1 << 30))),
        (VerifyLevel::Checksum, None),
        (VerifyLevel::Checksum, Some(ReadBudget::Bytes(1 << 30))),
    ] {
        let job = VerifyJob {
            level,
            budget,
            ..full(folder.path())
        };
        let done = world.run(job).await;
        let object = if level == VerifyLevel::FullRead {
            format!("chunk {chunk} in pack {}", place.pack)
        } else {
            format!("pack {}", place.pack)
        };
        let one = done.damage.iter().find(|one| one.object == object).unwrap();
        let of_b = |paths: &[(SnapshotId, String)]| {
            let mut of_b = paths.to_vec();
            of_b.retain(|(_, path)| path.ends_with("b"));
            of_b
        };
        let wanted = [(first, path("b")), (third, path("twin of b"))];
        if level == VerifyLevel::Checksum {
            // The pack holds all that was saved at first.
            assert_eq!(of_b(&one.paths).first(), wanted.first(), "{one:?}");
            assert!(one.paths.len() == 20 && one.path_count > 60, "{one:?}");
            assert_eq!(one.snapshot_count, 3);
            continue;
        }
        assert_eq!(of_b(&one.paths), wanted, "{:?}", done.damage);
        assert_eq!((one.path_count, one.snapshot_count), (2, 2));
        assert_eq!(one.snapshots, [first, third]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_does_not_grow_with_the_number_of_runs() {
    let world = World::with_saves(2).await;
    let folder = tempfile::tempdir().unwrap();
    let open = || Memory::open(&world.repo, &world.cx, Some(folder.path())).unwrap();
    let packs: Vec<_> = world.repo.index().packs().into_keys().collect();
    let mut largest = 0;
    for _ in 0..40 {
        let mut memory = open();
        for _ in 0..100 {
            packs
                .iter()
                .for_each(|id| memory.note_pack(id, VerifyLevel::FullRead));
        }
        memory.finish();
        largest = largest.max(
            fs::metadata(world.memory_file(folder.path()))
                .unwrap()
                .len(),
        );
    }
    let memory = open();
    assert!(packs.iter().all(|id| memory.pack(id).full == 40));
    assert!(largest < 400 << 10, "{largest} bytes");
    let written = 40 * 100 * packs.len() * 24;
    assert!(written > 500 << 10, "all of it would be more");
}

/// What is larger than the budget has its turn too, whatever comes new.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contents_larger_than_the_budget_are_hashed_one_in_each_run() {
    let world = World::with_saves(1).await;
    let folder = tempfile::tempdir().unwrap();
    let mut left = Vec::new();
    for number in 0..12 {
        let done = world.run(within(folder.path(), 1 << 20)).await;
        assert_eq!(done.report.findings, []);
        left.push((done.hashed.left, done.hashed.left_bytes >= 3 << 20));
        // It takes all that there is for contents, and comes first.
        world.write("more", &noise(3000 + number, 510_000));
        world.save().await;
    }
    let large = left.iter().filter(|one| one.1).count();
    assert!(left[0].1 && large <= 6 && !left[11].1, "{left:?}");
}

/// One that is gone, and one that is given up, keep nobody waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_content_that_does_not_come_to_its_end_lets_others_go_first() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = ([1; 16], [2; 16]);
    let open = || Memory::open(&world.repo, &world.cx, Some(folder.path())).unwrap();
    let mut memory = open();
    memory.note_left(one);
    memory.note_left(two);
    memory.finish();
    drop(memory);
    let mut due = Vec::new();
    for _ in 0..12 {
        let mut memory = open();
        let is_due = (memory.is_due(&one), memory.is_due(&two));
        due.push(is_due);
        memory.finish();
    }
    // One, then two, then nobody until eight runs are over.
    assert_eq!(due[..3], [(true, false), (false, true), (false, false)]);
    assert_eq!(
        due.iter().filter(|one| one.0 || one.1).count(),
        4,
        "{due:?}"
    );
    // Not met.
    let mut memory = open();
    memory.note_left([0; 16]);
    memory.finish();
    drop(memory);
    open().finish();
    assert!(!open().is_due(&[0; 16]));
}

/// A damaged pack that was set aside and hurts nobody any more, in this run and in those that come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_a_pack_was_damaged_is_forgotten_when_nobody_needs_it() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let open = || Memory::open(&world.repo, &world.cx, Some(folder.path())).unwrap();
    let (one, two) = (PackId([1; 32]), PackId([2; 32]));
    let mut memory = open();
    memory.note_bad_pack(&one);
    memory.note_bad_pack(&two);
    memory.forget_pack(&one);
    memory.finish();
    drop(memory);
    let mut memory = open();
    assert!(!memory.pack(&one).is_bad && memory.pack(&two).is_bad);
    memory.forget_pack(&two);
    memory.finish();
    drop(memory);
    assert!(!open().knows_damage());
}
