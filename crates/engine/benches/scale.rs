//! What a large repository costs, without the disk that it would need: an index of 100 million chunks, a
//! prune that marks as many for ten snapshots, a manifest of ten million files.
//!
//! `cargo bench -p backup-engine --bench scale -- index|prune|manifest [COUNT [IN_PACK]]`. The index needs 70 bytes of
//! disk for each chunk (in the folder for temporary files), the others gigabytes of memory; without a name nothing is
//! done. What the tier itself takes is not counted.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that cannot be set up has failed"
)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use backup_core::{
    Body, ByteRange, Capture, CaptureMode, CapturePlan, CaptureReport, CaptureRequest, ChunkId,
    Consistency, ConsistentPoint, Entry, EntryKind, EntryMeta, EntryPath, FileTime, Fingerprint,
    HostId, ObjectKey, ObjectMeta, OpContext, OpenContent, Outcome, PackId, PutMode, Sample, Sink,
    SinkError, SinkInfo, SizeHint, Source, SourceCaps, SourceError, SourceInfo, StreamProfile,
    VerifyLevel, Warmth,
};
use backup_engine::index_set::IndexSet;
use backup_engine::prune::{self, PruneJob};
use backup_engine::usage::Usage;
use backup_engine::{
    InitRequest, Repository, SnapshotJob, SnapshotView, Unlock, prepare, snapshot, verify,
};
use backup_format::config::Operation;
use backup_format::index::{MAX_ENTRIES, RunBuilder};
use backup_format::keys::keyfile::KeyFile;
use backup_format::layout;
use backup_format::pack::PackBlob;
use backup_format::refs::{PackUse, Refs};
use backup_format::seal::{BlobKind, ObjectKind};
use backup_sink_local::LocalSink;
use backup_testkit::{MemSink, TestClock};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use jiff::SignedDuration;
use tokio::runtime::Runtime;

/// Chunks of 64 KiB in a pack of 16 MiB, unless others are asked for.
const IN_PACK: u64 = 256;
const PACK_BYTES: u64 = 16 << 20;
const SNAPSHOTS: u64 = 10;

fn main() {
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let part = words.next().unwrap_or_default();
    if part == "opened" {
        return opened(Path::new(&words.next().unwrap()));
    }
    let mut number = || words.next().map(|count| count.parse().unwrap());
    let (count, in_pack) = (number(), number().unwrap_or(IN_PACK));
    match part.as_str() {
        "index" => index(count.unwrap_or(100_000_000), in_pack),
        "prune" => prunes(count.unwrap_or(100_000_000), in_pack),
        "manifest" => manifest(count.unwrap_or(10_000_000)),
        _ => println!("nothing done: name index, prune or manifest"),
    }
}

fn chunk(number: u64) -> ChunkId {
    ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn pack(number: u64) -> PackId {
    PackId(*chunk(!number).as_bytes())
}

/// The plaintext of a run of the packs `from..to`.
fn plain((from, to): (u64, u64), in_pack: u64) -> Vec<u8> {
    let mut run = RunBuilder::default();
    for number in from..to {
        let blob = |slot: u64| PackBlob {
            kind: BlobKind::Data,
            id: chunk(number * in_pack + slot),
            offset: (slot << 10) as u32,
            stored: 60_000,
            raw: 65_536,
        };
        let blobs: Vec<_> = (0..in_pack).map(blob).collect();
        run.add_pack(pack(number), PACK_BYTES, &blobs).unwrap();
    }
    run.finish(&[])
}

/// The packs of each run of a repository with so many packs.
fn runs(packs: u64, in_pack: u64) -> impl Iterator<Item = (u64, u64)> {
    let most = MAX_ENTRIES as u64 / in_pack;
    (0..packs.div_ceil(most)).map(move |run| (run * most, packs.min((run + 1) * most)))
}

/// Bytes of memory that this process has now, and has had at most.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib << 10
    };
    (of("VmRSS:"), of("VmHWM:"))
}

/// Lets the most memory count from now on; says how much there is.
fn from_now_on() -> u64 {
    fs::write("/proc/self/clear_refs", "5").unwrap();
    memory().0
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

fn each(span: Duration, count: u64) -> String {
    format!("{:.3} µs each", span.as_secs_f64() * 1e6 / count as f64)
}

/// Time on the clock, and on the processor for this thread.
#[derive(Debug, Clone, Copy, Default)]
struct Spent {
    clock: Duration,
    cpu: Duration,
}

impl Spent {
    fn cpu() -> Duration {
        let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
    }

    /// What this takes comes to it.
    fn add<T>(&mut self, run: impl FnOnce() -> T) -> T {
        let (clock, cpu) = (Instant::now(), Self::cpu());
        let done = run();
        self.cpu += Self::cpu().saturating_sub(cpu);
        self.clock += clock.elapsed();
        done
    }

    fn each(self, count: u64) -> String {
        let cpu = self.cpu.as_secs_f64() * 1e6 / count as f64;
        format!("{}, {cpu:.3} of CPU", each(self.clock, count))
    }
}

fn rate(span: Duration, count: u64) -> String {
    format!(
        "{:.1} million a second",
        count as f64 / span.as_secs_f64() / 1e6
    )
}

/// The index of a repository: what it takes to read it for the first time and again, what it takes of memory, and what
/// a look-up costs. Each reading is a process of its own, so that nothing freed counts as memory in use.
fn index(chunks: u64, in_pack: u64) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("tier")).unwrap();
    Runtime::new().unwrap().block_on(async {
        let (cx, packs) = (context(), chunks / in_pack);
        let sink: Arc<dyn Sink> = Arc::new(LocalSink::new(dir.path().join("tier")));
        let request = InitRequest {
            key_file: true,
            ..InitRequest::default()
        };
        let prepared = prepare(&cx, &request).unwrap();
        fs::write(
            dir.path().join("key"),
            prepared.key_file.as_ref().unwrap().as_bytes(),
        )
        .unwrap();
        let repo = prepared.create(&cx, sink.clone(), None).await.unwrap();
        let mut bytes = 0;
        for run in runs(packs, in_pack) {
            let sealed = repo
                .ring()
                .seal(ObjectKind::IndexRun, &plain(run, in_pack))
                .unwrap();
            bytes += sealed.len() as u64;
            let key = layout::index(&sealed).unwrap();
            sink.put(&cx, &key, sealed.into(), PutMode::Create)
                .await
                .unwrap();
        }
        println!(
            "{} index runs of {} on the tier",
            runs(packs, in_pack).count(),
            mib(bytes)
        );
    });
    for what in ["for the first time", "again"] {
        println!("read {what}:");
        let mut reader = Command::new(std::env::current_exe().unwrap());
        let status = reader.arg("opened").arg(dir.path()).status();
        assert!(status.unwrap().success());
    }
    let cached = files(&dir.path().join("cache"));
    println!(
        "cache: {}, {:.1} bytes a chunk",
        mib(cached),
        cached as f64 / chunks as f64
    );
}

fn opened(dir: &Path) {
    Runtime::new().unwrap().block_on(async {
        let cx = context();
        let sink: Arc<dyn Sink> = Arc::new(LocalSink::new(dir.join("tier")));
        let key = KeyFile::parse(&fs::read(dir.join("key")).unwrap()).unwrap();
        let unlock = Unlock::KeyFile(key);
        let before = from_now_on();
        let begun = Instant::now();
        let cache = Some(dir.join("cache"));
        let opened = Repository::open(&cx, sink, &unlock, cache, Operation::Read).await;
        let repo = opened.unwrap();
        println!(
            "  opened in {:?}; memory at most {}",
            begun.elapsed(),
            mib(memory().1)
        );
        let index = repo.index();
        let (count, used) = (index.len() as u64, memory().0.saturating_sub(before));
        println!("  {count} chunks in {} parts", index.parts().len());
        println!(
            "  memory: {}, {:.2} bytes a chunk",
            mib(used),
            used as f64 / count as f64
        );
        look_ups(&index, count);
    });
}

/// Bytes of all files below a folder.
fn files(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let bytes = entries.map(|entry| match entry.metadata().unwrap() {
        meta if meta.is_dir() => files(&entry.path()),
        meta => meta.len(),
    });
    bytes.sum()
}

fn look_ups(index: &IndexSet, count: u64) {
    const LOOK_UPS: u64 = 5_000_000;
    for round in ["after opening", "again"] {
        for (what, first, wanted) in [("known", 0, LOOK_UPS), ("unknown", 1 << 40, 0)] {
            let ids: Vec<_> = (0..LOOK_UPS)
                .map(|number| chunk(first + number.wrapping_mul(0x9E37_79B9) % count))
                .collect();
            let mut spent = Spent::default();
            let found = spent.add(|| ids.iter().filter(|id| index.find(id).is_some()).count());
            println!("  {what} chunks, {round}: {}", spent.each(LOOK_UPS));
            assert_eq!(found as u64, wanted);
        }
    }
    twice(index, count);
    let mut usage = Usage::new(index);
    let ids: Vec<_> = (0..LOOK_UPS).map(|number| chunk(number % count)).collect();
    let begun = Instant::now();
    assert!(ids.iter().all(|id| usage.mark(index, id)));
    println!("  marked by id: {}", rate(begun.elapsed(), LOOK_UPS));
}

/// A few thousand chunks that are there, each asked for twice, as a save does; a million in all.
fn twice(index: &IndexSet, count: u64) {
    const LOOK_UPS: u64 = 1 << 20;
    let ids: Vec<_> = (0..LOOK_UPS)
        .map(|number| chunk((number * 64 + 63) % count))
        .collect();
    let (mut first, mut again) = (Spent::default(), Spent::default());
    for some in ids.chunks(4096) {
        for spent in [&mut first, &mut again] {
            let found = spent.add(|| some.iter().all(|id| index.find(id).is_some()));
            assert!(found);
        }
    }
    println!(
        "  known chunks, for the first time: {}",
        first.each(LOOK_UPS)
    );
    println!("  known chunks, at once again: {}", again.each(LOOK_UPS));
}

/// A tier with packs that are listed and not there, beside what is really there.
#[derive(Debug)]
struct Hollow {
    mem: MemSink,
    /// None as long as the repository is made.
    packs: Arc<AtomicU64>,
}

#[async_trait]
impl Sink for Hollow {
    fn info(&self) -> SinkInfo {
        self.mem.info()
    }

    async fn put(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        body: Bytes,
        mode: PutMode,
    ) -> Result<ObjectMeta, SinkError> {
        self.mem.put(cx, key, body, mode).await
    }

    async fn get(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        range: ByteRange,
    ) -> Result<Bytes, SinkError> {
        self.mem.get(cx, key, range).await
    }

    async fn head(&self, cx: &OpContext, key: &ObjectKey) -> Result<ObjectMeta, SinkError> {
        self.mem.head(cx, key).await
    }

    fn list(
        &self,
        cx: &OpContext,
        prefix: &str,
        after: Option<&ObjectKey>,
    ) -> BoxStream<'static, Result<ObjectMeta, SinkError>> {
        let there = self.mem.list(cx, prefix, after);
        if prefix != "data/" {
            return there;
        }
        let hollow = (0..self.packs.load(Ordering::Relaxed)).map(|number| {
            Ok(ObjectMeta {
                key: layout::pack(pack(number), false).unwrap(),
                size: PACK_BYTES,
                version: None,
            })
        });
        there.chain(stream::iter(hollow)).boxed()
    }

    async fn delete(&self, cx: &OpContext, key: &ObjectKey) -> Result<(), SinkError> {
        self.mem.delete(cx, key).await
    }

    async fn warm(&self, cx: &OpContext, keys: &[ObjectKey]) -> Result<Warmth, SinkError> {
        self.mem.warm(cx, keys).await
    }
}

fn context() -> OpContext {
    let clock = TestClock::at_text("2100-01-01T00:00:00Z").ticking(SignedDuration::from_secs(1));
    OpContext::new(Arc::new(clock))
}

async fn repository(cx: &OpContext, sink: Arc<dyn Sink>, cache: PathBuf) -> Repository {
    let request = InitRequest {
        key_file: true,
        ..InitRequest::default()
    };
    let prepared = prepare(cx, &request).unwrap();
    prepared.create(cx, sink, Some(cache)).await.unwrap()
}

/// The plan of a prune: the index is read, ten snapshots mark, what is used of each pack is summed up.
fn prunes(chunks: u64, in_pack: u64) {
    let cache = tempfile::tempdir().unwrap();
    Runtime::new().unwrap().block_on(async {
        let (cx, mem) = (context(), MemSink::new());
        let packs = chunks / in_pack;
        let listed = Arc::new(AtomicU64::new(0));
        let sink = Hollow {
            mem: mem.clone(),
            packs: listed.clone(),
        };
        let repo = repository(&cx, Arc::new(sink), cache.path().to_owned()).await;
        listed.store(packs, Ordering::Relaxed);
        for run in runs(packs, in_pack) {
            let sealed = repo.ring().seal(ObjectKind::IndexRun, &plain(run, in_pack));
            let sealed = sealed.unwrap();
            mem.plant(layout::index(&sealed).unwrap(), sealed);
        }
        let before = from_now_on();
        let begun = Instant::now();
        repo.reload_index(&cx).await.unwrap();
        let span = begun.elapsed();
        let (now, most) = memory();
        let with_index = now.saturating_sub(before);
        println!(
            "index read for the first time in {span:?}; memory {} more, at most {} more",
            mib(with_index),
            mib(most.saturating_sub(before))
        );
        let mut marks = 0;
        let mut ids: Vec<u64> = (0..packs).collect();
        ids.sort_unstable_by_key(|number| pack(*number));
        for number in 0..SNAPSHOTS {
            let job = SnapshotJob::new("many", HostId("host".into()));
            let source = Arc::new(Files { count: 1 });
            let saved = snapshot(&repo, &cx, source, &job).await.unwrap();
            // Three quarters of the slots of nine tenths of the packs.
            let of_pack = |at: &u64| {
                let used =
                    (0..in_pack as u32).filter(|slot| !(slot + number as u32).is_multiple_of(4));
                PackUse::new(pack(*at), in_pack as u32, used)
            };
            let uses: Vec<_> = ids
                .iter()
                .filter(|at| !(*at + number).is_multiple_of(10))
                .map(of_pack)
                .collect();
            marks += uses.len() as u64 * in_pack * 3 / 4;
            let key = layout::refs(saved.meta.id).unwrap();
            let own = repo
                .ring()
                .open(ObjectKind::Refs, &mem.objects()[&key])
                .unwrap();
            let mut all = Refs::decode(&own).unwrap();
            all.packs.extend(uses);
            all.packs.sort_unstable_by_key(|use_of| use_of.pack);
            let sealed = repo.ring().seal(ObjectKind::Refs, &all.encode());
            mem.plant(key, sealed.unwrap());
        }
        let begun = Instant::now();
        repo.reload_index(&cx).await.unwrap();
        println!("index read again in {:?}", begun.elapsed());
        let before = from_now_on();
        let begun = Instant::now();
        let plan = prune::plan(&repo, &cx, &PruneJob::new(HostId("host".into())))
            .await
            .unwrap();
        let span = begun.elapsed();
        let (after, most) = memory();
        println!("{:?}", plan.numbers);
        println!(
            "{marks} marks of {SNAPSHOTS} snapshots, planned in {span:?}: {}",
            rate(span, marks)
        );
        println!(
            "memory: before it {}, of which the index {}; the plan {} more, at most {} more",
            mib(before),
            mib(with_index),
            mib(after.saturating_sub(before)),
            mib(most.saturating_sub(before)),
        );
    });
}

/// Empty files, a thousand in a folder.
#[derive(Debug)]
struct Files {
    count: u64,
}

#[derive(Debug)]
struct FilesCapture {
    next: u64,
    count: u64,
    content: Arc<Empty>,
    point: ConsistentPoint,
}

#[derive(Debug)]
struct Empty(tempfile::NamedTempFile);

const TIME: FileTime = FileTime {
    seconds: 1_700_000_000,
    nanos: 1,
};

fn state(number: u64) -> Fingerprint {
    Fingerprint {
        size: 0,
        mtime: TIME,
        ctime: TIME,
        inode: number,
    }
}

impl OpenContent for Empty {
    fn open(&self) -> io::Result<File> {
        File::open(self.0.path())
    }

    fn fingerprint(&self, _file: &File) -> io::Result<Fingerprint> {
        Ok(state(0))
    }
}

fn path(number: u64) -> EntryPath {
    let name = format!("folder-{:07}/file-{:04}", number / 1000, number % 1000);
    EntryPath::from_slashed(name.as_bytes()).unwrap()
}

#[async_trait]
impl Source for Files {
    fn info(&self) -> SourceInfo {
        SourceInfo {
            kind: "many",
            origin: Vec::new(),
            versions: BTreeMap::new(),
            caps: SourceCaps {
                incremental: false,
                max_open_entries: 1,
                best_consistency: Consistency::Crash,
            },
        }
    }

    async fn plan(&self, _: &OpContext, _: &CaptureRequest) -> Result<CapturePlan, SourceError> {
        Ok(CapturePlan {
            mode: CaptureMode::Full { why: "all".into() },
            entries: Vec::new(),
            total: SizeHint::default(),
            notes: Vec::new(),
            token: Bytes::new(),
        })
    }

    async fn begin(&self, cx: &OpContext, _: CapturePlan) -> Result<Box<dyn Capture>, SourceError> {
        Ok(Box::new(FilesCapture {
            next: 0,
            count: self.count,
            content: Arc::new(Empty(tempfile::NamedTempFile::new().unwrap())),
            point: ConsistentPoint {
                at: cx.clock.now(),
                consistency: Consistency::Crash,
                position: None,
            },
        }))
    }
}

#[async_trait]
impl Capture for FilesCapture {
    fn point(&self) -> &ConsistentPoint {
        &self.point
    }

    async fn next_entries(&mut self, _: &OpContext) -> Result<Vec<Entry>, SourceError> {
        let end = self.count.min(self.next + 1000);
        let entries = (self.next..end).map(|number| {
            let mut meta = EntryMeta::stream(TIME);
            meta.kind = EntryKind::File;
            Entry {
                path: path(number),
                meta,
                fingerprint: Some(state(0)),
                size: Some(0),
                profile: StreamProfile::Auto,
                body: Body::File(self.content.clone()),
            }
        });
        let entries = entries.collect();
        self.next = end;
        Ok(entries)
    }

    async fn close(&mut self, _: &OpContext) -> Result<CaptureReport, SourceError> {
        Ok(CaptureReport::default())
    }

    async fn settle(self: Box<Self>, _: &OpContext, _: Outcome) -> Result<(), SourceError> {
        Ok(())
    }
}

/// A manifest: saved, saved again unchanged, looked into, walked, verified.
fn manifest(files: u64) {
    Runtime::new().unwrap().block_on(async {
        let (cx, mem) = (context(), MemSink::new());
        let cache = tempfile::tempdir().unwrap();
        let request = InitRequest {
            key_file: true,
            ..InitRequest::default()
        };
        let made = prepare(&cx, &request).unwrap();
        let folder = Some(cache.path().to_owned());
        let repo = made
            .create(&cx, Arc::new(mem.clone()), folder)
            .await
            .unwrap();
        let job = SnapshotJob::new("many", HostId("host".into()));
        for what in ["first", "unchanged"] {
            repo.reload_index(&cx).await.unwrap();
            let begun = Instant::now();
            let source = Arc::new(Files { count: files });
            let saved = snapshot(&repo, &cx, source, &job).await.unwrap();
            assert_eq!(saved.meta.stats.entries, files);
            let span = begun.elapsed();
            let stored: usize = mem.objects().values().map(Bytes::len).sum();
            println!(
                "{what} save of {files} files in {span:?} ({}); memory {} with the tier's {}",
                rate(span, files),
                mib(memory().1),
                mib(stored as u64)
            );
        }
        repo.reload_index(&cx).await.unwrap();
        let head = repo.heads(&cx).await.unwrap().0.pop().unwrap();
        let view = SnapshotView::open(&repo, head).unwrap();
        const LOOK_UPS: u64 = 1000;
        let begun = Instant::now();
        for number in 0..LOOK_UPS {
            let at = number.wrapping_mul(0x9E37_79B9) % files;
            view.entry(&cx, 0, &path(at)).await.unwrap();
        }
        println!("an entry by its path: {}", each(begun.elapsed(), LOOK_UPS));
        let begun = Instant::now();
        let mut walk = view.all();
        let mut count = 0;
        while walk.next(&cx).await.unwrap().is_some() {
            count += 1;
        }
        assert_eq!(count, files);
        println!("all walked: {}", rate(begun.elapsed(), files));
        let begun = Instant::now();
        let done = verify(&repo, &cx, None, VerifyLevel::Metadata, Sample::All).await;
        assert_eq!(done.unwrap().report.findings, []);
        println!(
            "two snapshots verified in {:?}; memory at most {}",
            begun.elapsed(),
            mib(memory().1)
        );
    });
}
