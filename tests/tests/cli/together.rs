//! Real processes of several hosts at work at once in one repository, with clocks that jump while they run, and
//! with kills: hosts that save what they share with each other, and one that forgets and prunes, at times without
//! waiting for anybody. Whatever was saved and not forgotten restores bit for bit.
//!
//! `BACKSTAY_TOGETHER` says how often each host saves.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backup_tests::{Node, Place, Run, read_tree};

use crate::trouble::noise;

type Tree = BTreeMap<PathBuf, Node>;

const HOSTS: [&str; 3] = ["ash", "elm", "fir"];

/// Where the library lies that lies about the time (`faketime` sets the same; it does so once, for a whole run).
pub(crate) const LIBRARY: &str = "/usr/$LIB/faketime/libfaketimeMT.so.1";

/// Numbers from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 = (self.0)
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// One who works with the repository: with a cache, a copy of the ledger and a clock of its own.
struct Host<'a> {
    name: &'a str,
    place: &'a Place,
    dice: Dice,
}

impl Host<'_> {
    fn data(&self) -> PathBuf {
        self.place.path(format!("data-{}", self.name))
    }

    fn clock(&self) -> PathBuf {
        clock_of(self.place, self.name)
    }

    fn snapshot(&self, args: &[&str]) -> Command {
        let mut command = self.place.snapshot(args);
        command
            .env(
                "BACKSTAY_CACHE_DIR",
                self.place.path(format!("cache-{}", self.name)),
            )
            .env(
                "BACKSTAY_STATE_DIR",
                self.place.path(format!("state-{}", self.name)),
            );
        command
    }

    /// Runs it with the clock of this host, and kills it in one of four cases. That it was killed is none.
    fn run(&mut self, mut command: Command, may_be_killed: bool) -> Option<Run> {
        command
            .env("LD_PRELOAD", LIBRARY)
            .env("FAKETIME_TIMESTAMP_FILE", self.clock())
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        if !may_be_killed || self.dice.below(4) > 0 {
            return Some(Run::of(&mut command));
        }
        let nap = Duration::from_millis(self.dice.below(400));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(nap);
        child.kill().unwrap();
        let _ = child.wait().unwrap();
        None
    }

    /// Another choice of what all hosts share, so that one may need again what another has just left.
    fn change(&mut self) {
        let data = self.data();
        let _ = fs::remove_dir_all(&data);
        fs::create_dir(&data).unwrap();
        for part in 0..10u64 {
            if self.dice.below(3) == 0 {
                let content = noise(part, 40_000 + 9_000 * part as usize);
                fs::write(data.join(format!("{part}")), content).unwrap();
            }
        }
        fs::write(data.join("own"), noise(self.dice.below(1 << 30), 20_000)).unwrap();
    }
}

fn clock_of(place: &Place, name: &str) -> PathBuf {
    place.path(format!("clock-{name}"))
}

/// Sets a clock. By a rename: nobody reads a half of it.
fn set(clock: &Path, seconds: i64) {
    let new = clock.with_extension("new");
    fs::write(&new, format!("{seconds:+}\n")).unwrap();
    fs::rename(new, clock).unwrap();
}

/// What a host has saved.
#[derive(Default)]
struct Saved {
    /// Snapshots of which it was told that they are there.
    whole: BTreeMap<String, Tree>,
    /// What was saved by those that were killed: whether it is there, nobody knows.
    tried: Vec<Tree>,
    /// Saves that were taken for dead, and said so.
    revoked: u64,
}

fn save_again_and_again(mut host: Host<'_>, rounds: u64) -> Saved {
    let mut saved = Saved::default();
    for _ in 0..rounds {
        host.change();
        let now = read_tree(&host.data()).unwrap();
        let mut save = host.snapshot(&["save", "--json", "--reread", "--name", "shared"]);
        save.args(["--host", host.name]).arg(host.data());
        let Some(run) = host.run(save, true) else {
            saved.tried.push(now);
            continue;
        };
        if run.code == 0 || run.code == 3 {
            let line = run.of_type("saved").remove(0);
            let id = line["id"].as_str().unwrap().to_owned();
            saved.whole.insert(id, now);
        } else {
            // It says so, and is none of those that are said to be there.
            assert!(run.err.contains("taken for dead"), "{}: {run:?}", host.name);
            saved.revoked += 1;
        }
    }
    saved
}

/// Forgets and prunes until it is told to stop. The ids of what it has forgotten, and how many packs were deleted.
fn collect(mut host: Host<'_>, stop: &AtomicBool) -> (Vec<String>, u64) {
    let (mut forgotten, mut deleted) = (Vec::new(), 0);
    // On a slow machine the others are done before anything can be deleted: so it goes on by itself.
    let mut alone = 0;
    while !stop.load(Ordering::Relaxed) || (deleted == 0 && alone < 30) {
        alone += u32::from(stop.load(Ordering::Relaxed));
        // By their ids: rules believe no clock that the ledger knows to be wrong.
        let list = host.snapshot(&["list", "--json"]);
        let listed = host.run(list, false).unwrap();
        assert_eq!(listed.code, 0, "{listed:?}");
        for line in listed.of_type("snapshot") {
            let id = line["id"].as_str().unwrap();
            if host.dice.below(2) > 0 {
                continue;
            }
            let forget = host.snapshot(&["forget", id, "--force", "--json"]);
            let run = host.run(forget, false).unwrap();
            assert!([0, 3].contains(&run.code), "{run:?}");
            forgotten.push(id.to_owned());
        }
        let mut prune = host.snapshot(&["prune", "--json", "--force", "--max-unused", "0"]);
        match host.dice.below(2) {
            0 => prune.args(["--wait", "1"]),
            _ => prune.args(["--wait", "0", "--revoke-after", "0"]),
        };
        if let Some(run) = host.run(prune, true) {
            assert!([0, 3, 75].contains(&run.code), "{run:?}");
            let lines = run.of_type("pruned");
            deleted += (lines.iter())
                .filter_map(|line| line["deleted_packs"].as_u64())
                .sum::<u64>();
        }
    }
    (forgotten, deleted)
}

#[allow(
    clippy::disallowed_methods,
    reason = "a test that is told how long to run"
)]
fn told(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// A program that tells the time, under the library.
fn can_lie(place: &Place) -> bool {
    let clock = clock_of(place, "nobody");
    set(&clock, -40 * 365 * 86_400);
    let year = Command::new("date")
        .arg("+%Y")
        .env("LD_PRELOAD", LIBRARY)
        .env("FAKETIME_TIMESTAMP_FILE", &clock)
        .output();
    year.is_ok_and(|year| year.stdout.starts_with(b"19"))
}

#[test]
fn hosts_with_clocks_that_jump_lose_nothing_to_each_other() {
    let place = Place::new();
    if !can_lie(&place) {
        eprintln!("skipped: there is no libfaketime here");
        return;
    }
    let rounds = told("BACKSTAY_TOGETHER").unwrap_or(6);
    let seed = backup_testkit::seed();
    println!("BACKSTAY_SEED={seed}");
    let host = |name: &'static str, number: u64| {
        set(&clock_of(&place, name), 0);
        Host {
            name,
            place: &place,
            dice: Dice(seed.wrapping_mul(31).wrapping_add(number)),
        }
    };
    let (stop, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let (saved, (forgotten, deleted)) = std::thread::scope(|scope| {
        let savers: Vec<_> = (HOSTS.into_iter().zip(1..))
            .map(|(name, number)| host(name, number))
            .map(|host| scope.spawn(move || save_again_and_again(host, rounds)))
            .collect();
        let keeper = host("oak", 9);
        let keeper = scope.spawn(|| collect(keeper, &stop));
        scope.spawn(|| {
            let mut dice = Dice(seed);
            while !done.load(Ordering::Relaxed) {
                for name in HOSTS.into_iter().chain(["oak"]) {
                    let hours = dice.below(24 * 20) as i64 - 240;
                    set(&clock_of(&place, name), hours * 3600);
                }
                std::thread::sleep(Duration::from_millis(70));
            }
        });
        let saved: Vec<_> = savers.into_iter().map(|saver| saver.join()).collect();
        stop.store(true, Ordering::Relaxed);
        let kept = keeper.join();
        done.store(true, Ordering::Relaxed);
        let saved: Vec<Saved> = saved.into_iter().map(|one| one.unwrap()).collect();
        (saved, kept.unwrap())
    });
    all_is_there(&place, &saved, &forgotten);
    let revoked: u64 = saved.iter().map(|one| one.revoked).sum();
    let whole: usize = saved.iter().map(|one| one.whole.len()).sum();
    println!(
        "{whole} saved, {revoked} taken for dead, {} forgotten, {deleted} packs deleted",
        forgotten.len()
    );
    assert!(whole > 0 && deleted > 0, "{whole} saved, {deleted} deleted");
}

fn all_is_there(place: &Place, saved: &[Saved], forgotten: &[String]) {
    let listed = Run::of(&mut place.snapshot(["list", "--json"])).ok();
    let there: Vec<_> = (listed.of_type("snapshot").iter())
        .map(|line| {
            let text = |name: &str| line[name].as_str().unwrap().to_owned();
            (text("id"), text("host"))
        })
        .collect();
    for id in saved.iter().flat_map(|one| one.whole.keys()) {
        let is_there = there.iter().any(|(one, _)| one == id);
        assert!(is_there != forgotten.contains(id), "{id}: {is_there}");
    }
    for (id, host) in &there {
        let out = place.path("back");
        let _ = fs::remove_dir_all(&out);
        let wanted = format!("{id}:{}", place.path(format!("data-{host}")).display());
        let _ = Run::of(&mut place.restore(["run", &wanted, "--to", "back"])).ok();
        let back = read_tree(&out).unwrap();
        let number = HOSTS.iter().position(|name| name == host).unwrap();
        let is_itself = match saved[number].whole.get(id) {
            Some(tree) => back == *tree,
            None => saved[number].tried.contains(&back),
        };
        assert!(is_itself, "{id} of {host} is not what was saved");
    }
    // Whoever comes next mends what the killed have left, and everything is as if nobody had been.
    place.write("file", "content");
    let _ = place.save().ok();
    let prune = ["prune", "--force", "--wait", "0", "--revoke-after", "0"];
    let _ = Run::of(&mut place.snapshot(prune)).ok();
    // A save that was killed behind its snapshot has made no sidecar of it.
    let _ = Run::of(&mut place.snapshot(["repair"])).ok();
    let verified = place.verify();
    assert_eq!(verified.code, 0, "{}\n{}", verified.text(), verified.err);
    let _ = Run::of(&mut place.snapshot(["ledger", "verify"])).ok();
}
