//! What the sizes of the format cost and bring, on real data: a file or folder is saved, changed by a command, saved
//! again and read in full, into a repository of its own for each size.
//!
//! `cargo bench -p backup-engine --bench sizes -- bundle|piece|pack|pages PATH CHANGE`; repositories are made in the
//! folder for temporary files, one at a time. CHANGE is a shell command, called with `v1` before the first save and with
//! `v2` before the second: `'bench/state.py apply /tmp/bench-data/tree /tmp/bench-data/delta/tree'`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that cannot be set up has failed"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use backup_core::{Clock, HostId, OpContext, Sample, Source, VerifyLevel};
use backup_engine::repository::{Repository, Sizes};
use backup_engine::{InitRequest, SnapshotJob, prepare, snapshot, verify};
use backup_format::chunk::PieceSizes;
use backup_sink_local::LocalSink;
use backup_source_files::{FilesConfig, FilesSource};
use tokio::runtime::Runtime;

#[derive(Debug)]
struct WallClock;

impl Clock for WallClock {
    #[allow(
        clippy::disallowed_methods,
        reason = "files are compared with the time as it is"
    )]
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }
}

fn main() {
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let (Some(what), Some(path), Some(change)) = (words.next(), words.next(), words.next()) else {
        return println!(
            "nothing done: name bundle, piece, pack or pages, what is saved, and what changes it"
        );
    };
    let variants = variants(&what);
    if let Some(chosen) = words.next() {
        let chosen = variants.iter().find(|(kib, _)| kib.to_string() == chosen);
        let (kib, sizes) = chosen.unwrap();
        let measured = Measured::of(sizes, Path::new(&path), &change);
        return println!("| {kib} | {measured} |");
    }
    if variants.is_empty() {
        return println!("nothing done: there is no {what}");
    }
    println!(
        "| {what}, KiB | first: MiB | objects | CPU s | added by the change: MiB | CPU s | read in full: CPU s | cache: MiB | peak: MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (kib, _) in variants {
        // A process of its own, so that nothing that was freed counts; its memory is managed as the programs do it.
        let mut one = Command::new(std::env::current_exe().unwrap());
        one.args([&what, &path, &change, &kib.to_string()])
            .env("MALLOC_ARENA_MAX", "2")
            .env("MALLOC_MMAP_THRESHOLD_", (32 << 20).to_string())
            .env("MALLOC_TRIM_THRESHOLD_", (256 << 20).to_string());
        assert!(one.status().unwrap().success());
    }
}

/// The sizes to be compared, by what makes them differ, in KiB.
fn variants(what: &str) -> Vec<(usize, Sizes)> {
    let usual = Sizes::default();
    let with = |all: &[usize], set: &dyn Fn(&mut Sizes, usize)| {
        let one = |&kib: &usize| {
            let mut sizes = usual;
            set(&mut sizes, kib << 10);
            (kib, sizes)
        };
        all.iter().map(one).collect()
    };
    match what {
        "bundle" => with(&[0, 64, 128, 256, 512, 1024], &|sizes, size| {
            sizes.bundle_limit = size as u64;
        }),
        "piece" => with(&[4, 8, 16, 32], &|sizes, size| {
            sizes.pieces.content = PieceSizes::around(size);
            sizes.pieces.page = size as u32;
        }),
        "pack" => with(
            &[4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10],
            &|sizes, size| {
                sizes.data_pack = size;
            },
        ),
        "pages" => with(
            &[1 << 10, 2 << 10, 4 << 10, 8 << 10, 16 << 10],
            &|sizes, size| {
                sizes.meta_pack = size;
            },
        ),
        _ => Vec::new(),
    }
}

/// What one choice of sizes brought.
struct Measured {
    first: Below,
    first_cpu: Duration,
    added: u64,
    changed_cpu: Duration,
    read_cpu: Duration,
    cache: u64,
    peak: u64,
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        write!(
            f,
            "{:.1} | {} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.0}",
            mib(self.first.bytes),
            self.first.files,
            self.first_cpu.as_secs_f64(),
            mib(self.added),
            self.changed_cpu.as_secs_f64(),
            self.read_cpu.as_secs_f64(),
            mib(self.cache),
            mib(self.peak),
        )
    }
}

impl Measured {
    fn of(sizes: &Sizes, path: &Path, change: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (tier, cache) = (dir.path().join("tier"), dir.path().join("cache"));
        fs::create_dir(&tier).unwrap();
        let runtime = Runtime::new().unwrap();
        let cx = OpContext::new(Arc::new(WallClock));
        let request = InitRequest {
            key_file: true,
            sizes: *sizes,
            ..InitRequest::default()
        };
        let prepared = prepare(&cx, &request).unwrap();
        let sink = Arc::new(LocalSink::new(tier.clone()));
        let made = runtime.block_on(prepared.create(&cx, sink, Some(cache.clone())));
        let mut repo = made.unwrap();
        repo.pack_into(sizes.data_pack, sizes.meta_pack);

        fs::write("/proc/self/clear_refs", "5").unwrap();
        bring(change, "v1");
        let first_cpu = timed(|| runtime.block_on(save(&repo, &cx, path)));
        let first = Below::of(&tier);
        bring(change, "v2");
        let changed_cpu = timed(|| runtime.block_on(save(&repo, &cx, path)));
        let second = Below::of(&tier);
        let peak = peak();
        let read_cpu = timed(|| {
            let done = verify(&repo, &cx, None, VerifyLevel::FullRead, Sample::All);
            assert_eq!(runtime.block_on(done).unwrap().report.findings, []);
        });
        Self {
            added: second.bytes - first.bytes,
            first,
            first_cpu,
            changed_cpu,
            read_cpu,
            cache: Below::of(&cache).bytes,
            peak,
        }
    }
}

async fn save(repo: &Repository, cx: &OpContext, path: &Path) {
    let source: Arc<dyn Source> = Arc::new(FilesSource::new(FilesConfig::of_roots([path])));
    let job = SnapshotJob::new("sizes", HostId("host".into()));
    repo.reload_index(cx).await.unwrap();
    snapshot(repo, cx, source, &job).await.unwrap();
}

/// Lets the data be in a state. Files that changed a moment ago would be distrusted and read again.
fn bring(change: &str, state: &str) {
    let told = Command::new("sh")
        .args(["-c", &format!("{change} {state}")])
        .status();
    assert!(told.unwrap().success(), "{change} {state}");
    std::thread::sleep(Duration::from_secs(2));
}

/// Processor time of this process, of all threads, in whole hundredths of a second (proc(5), /proc/pid/stat 14 and 15).
fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let behind_name = stat.rsplit_once(')').unwrap().1;
    let ticks = behind_name.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(|count| count.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

fn timed(work: impl FnOnce()) -> Duration {
    let before = cpu();
    work();
    cpu() - before
}

/// The most memory since it was last let count anew, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = line
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    kib << 10
}

/// Files below a folder, and their bytes.
struct Below {
    files: u64,
    bytes: u64,
}

impl Below {
    fn of(folder: &Path) -> Self {
        let mut below = Self { files: 0, bytes: 0 };
        let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                let meta = entry.metadata().unwrap();
                if meta.is_dir() {
                    folders.push(entry.path());
                } else {
                    below.files += 1;
                    below.bytes += meta.len();
                }
            }
        }
        below
    }
}
