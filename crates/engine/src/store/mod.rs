//! Storing blobs: deduplicated against the index and against what this session stored already,
//! compressed, sealed and checked on the processor's threads, laid into packs, written to the tier.
//!
//! Blobs come from any thread through [`BlobStore::put`]; the queue before the sealing threads, the
//! open packs and the packs under way are bounded, so whoever puts waits when the tier is slow. A
//! failure anywhere stops everything: the first error is kept and returned to all.

mod pending;
mod session;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use backup_core::{CancellationToken, ChunkId, Event, ObjectKey, OpContext, PackId, Sink, Stage};
use backup_format::index::{MAX_ENTRIES, RunBuilder};
use backup_format::layout;
use backup_format::pack::{PackBlob, PackBuilder};
use backup_format::seal::{BlobCodec, BlobKind, ObjectKeyring, ObjectKind, blob_id};
use backup_parity::Share;
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use tokio::runtime::Handle;

use crate::error::{EngineError, Result};
use crate::index_set::IndexSet;
use crate::parity::put_pack;
use crate::repository::{Repository, Sizes, name, put_new};

pub use pending::Pending;
pub use session::{Session, random};

/// A pack that is on the tier.
#[derive(Debug, Clone)]
pub struct StoredPack {
    /// Its name.
    pub id: PackId,
    /// Its size in bytes.
    pub size: u64,
    /// What is in it.
    pub blobs: Vec<PackBlob>,
}

struct Job {
    kind: BlobKind,
    id: ChunkId,
    raw: Vec<u8>,
}

/// A pack that takes no more blobs.
struct FullPack {
    builder: PackBuilder,
    is_meta: bool,
}

/// Of the memory that the run may take, what one sealing thread and one storing thread need: tables
/// and buffers for a chunk and its copies, a chunk that waits, a pack under way.
const SHARE: usize = 48 << 20;

/// So many packs wait to be filled again, at most.
const MOST_ROOMS: usize = 2;

/// What all threads of a store share.
struct Shared {
    cx: OpContext,
    handle: Handle,
    sink: Arc<dyn Sink>,
    ring: ObjectKeyring,
    session: Session,
    sizes: Sizes,
    parity: Option<Share>,
    id_key: [u8; 32],
    index: Arc<IndexSet>,
    seen: Vec<Mutex<HashSet<[u8; 16]>>>,
    open: [Mutex<PackBuilder>; 2],
    /// The room of packs that are stored, for those that come: what the kernel gives anew it has to clear first.
    rooms: Mutex<Vec<Vec<u8>>>,
    pending: Pending,
    failure: Mutex<Option<EngineError>>,
    stop: CancellationToken,
    fresh: Mutex<Vec<StoredPack>>,
    /// After so many bytes of packs an index run is written.
    index_bytes: u64,
    stored: Mutex<Vec<StoredPack>>,
    bytes_new: AtomicU64,
    bytes_added: AtomicU64,
}

/// Stores blobs of one session.
pub struct BlobStore {
    shared: Arc<Shared>,
    jobs: Option<Sender<Job>>,
    uploads: Option<Sender<FullPack>>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for BlobStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlobStore({:?})", self.shared.session.id)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BlobStore {
    /// Starts the threads of a store, which writes an index run whenever that many bytes of packs
    /// are in none. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// [`EngineError::Key`] for a key that cannot write; [`EngineError::NoThread`] when the system
    /// refuses threads.
    pub fn start(
        repo: &Repository,
        cx: &OpContext,
        session: Session,
        index: Arc<IndexSet>,
        (level, index_bytes): (i32, u64),
    ) -> Result<Self> {
        let sizes = repo.sizes();
        // A cancelled run stops putting and then makes safe what it has put: its store goes on until
        // that is done.
        let stop = CancellationToken::new();
        let mut own = cx.clone();
        own.cancel = stop.clone();
        let shared = Arc::new(Shared {
            cx: own,
            handle: Handle::current(),
            sink: repo.sink().clone(),
            ring: repo.ring().clone(),
            session,
            sizes,
            parity: repo.parity(),
            id_key: *repo.keys().id_key()?,
            index,
            seen: (0..64).map(|_| Mutex::default()).collect(),
            // Room is taken when the first blob comes: many runs store nothing.
            open: [
                Mutex::new(PackBuilder::new(0)),
                Mutex::new(PackBuilder::new(0)),
            ],
            rooms: Mutex::default(),
            pending: Pending::default(),
            failure: Mutex::default(),
            stop,
            fresh: Mutex::default(),
            index_bytes,
            stored: Mutex::default(),
            bytes_new: AtomicU64::new(0),
            bytes_added: AtomicU64::new(0),
        });
        let within_budget = |threads: usize| threads.min(cx.limits.memory_bytes / SHARE).max(1);
        let cpus = within_budget(cpu_threads(cx));
        let (jobs, job_source) = bounded::<Job>(cpus);
        let uploaders = within_budget(repo.connections(cx).clamp(1, 8));
        let (uploads, upload_source) = bounded::<FullPack>(0);
        let mut store = Self {
            shared,
            jobs: Some(jobs),
            uploads: Some(uploads.clone()),
            threads: Vec::new(),
        };
        for number in 0..cpus {
            let (shared, source) = (store.shared.clone(), job_source.clone());
            let uploads = uploads.clone();
            store.spawn(format!("seal-{number}"), move || {
                seal_loop(&shared, level, &source, &uploads);
            })?;
        }
        // Should a thread be refused, the store ends: nobody may wait at this sender then.
        drop(uploads);
        for number in 0..uploaders {
            let (shared, source) = (store.shared.clone(), upload_source.clone());
            store.spawn(format!("store-{number}"), move || {
                upload_loop(&shared, &source)
            })?;
        }
        Ok(store)
    }

    fn spawn(&mut self, name: String, run: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = std::thread::Builder::new().name(name).spawn(run);
        let thread = thread.map_err(EngineError::NoThread)?;
        self.threads.push(thread);
        Ok(())
    }

    /// Whether a chunk is in the repository or on its way there.
    #[must_use]
    pub fn has(&self, id: &ChunkId) -> bool {
        let prefix = id.prefix();
        self.shared.index.find(id).is_some() || lock(self.shared.shard(&prefix)).contains(&prefix)
    }

    /// The index that is deduplicated against.
    #[must_use]
    pub fn index(&self) -> &IndexSet {
        &self.shared.index
    }

    /// Stores a blob unless it is there, and says its id.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`] when any thread has failed.
    pub fn put(&self, kind: BlobKind, raw: Vec<u8>) -> Result<ChunkId> {
        let id = blob_id(&self.shared.id_key, kind, &raw);
        if self.shared.index.find(&id).is_some() {
            return Ok(id);
        }
        let prefix = id.prefix();
        if !lock(self.shared.shard(&prefix)).insert(prefix) {
            return Ok(id);
        }
        self.shared
            .bytes_new
            .fetch_add(raw.len() as u64, Ordering::Relaxed);
        self.shared.pending.add(1);
        let sent = self
            .jobs
            .as_ref()
            .map(|jobs| jobs.send(Job { kind, id, raw }));
        if !matches!(sent, Some(Ok(()))) {
            self.shared.pending.done(1);
        }
        self.check()?;
        Ok(id)
    }

    /// Whether to go on.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`] when any thread has failed; [`BlobStore::reason`] says why.
    pub fn check(&self) -> Result<()> {
        if self.shared.stop.is_cancelled() {
            Err(EngineError::Cancelled)
        } else {
            Ok(())
        }
    }

    /// What ended the work: the first failure of any thread where that is why others hear
    /// `Cancelled`, else the error as it is. For whoever hands it on to the caller; the failure is
    /// told once.
    #[must_use]
    pub fn reason(&self, error: EngineError) -> EngineError {
        if !matches!(error, EngineError::Cancelled) {
            return error;
        }
        lock(&self.shared.failure).take().unwrap_or(error)
    }

    /// Ends the store's work with an error from outside.
    pub fn fail(&self, error: EngineError) {
        self.shared.fail(error);
    }

    /// Waits until all that was put is on the tier and in an index run.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`] when any thread has failed; the failure of an index run itself.
    pub fn flush(&self) -> Result<()> {
        self.shared.pending.wait(&self.shared.stop);
        self.check()?;
        for (number, open) in self.shared.open.iter().enumerate() {
            let builder = std::mem::replace(&mut *lock(open), PackBuilder::new(0));
            if !builder.is_empty() {
                let uploads = self.uploads.as_ref().ok_or(EngineError::Cancelled)?;
                self.shared.send_pack(builder, number == 1, uploads);
            }
        }
        self.shared.pending.wait(&self.shared.stop);
        self.check()?;
        self.shared.write_runs(&self.shared.cx)
    }

    /// Ends the store: everything is on the tier and indexed. Returns all packs of the session.
    ///
    /// # Errors
    /// The first failure of any thread.
    pub fn finish(mut self) -> Result<Vec<StoredPack>> {
        let ended = self.flush().and_then(|()| self.close());
        ended.map_err(|error| self.reason(error))?;
        Ok(std::mem::take(&mut *lock(&self.shared.stored)))
    }

    /// Plain bytes of the blobs that were new, and bytes that were added to the tier.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        let get = |value: &AtomicU64| value.load(Ordering::Relaxed);
        (get(&self.shared.bytes_new), get(&self.shared.bytes_added))
    }

    fn close(&mut self) -> Result<()> {
        self.jobs = None;
        self.uploads = None;
        let mut panicked = false;
        for thread in self.threads.drain(..) {
            panicked |= thread.join().is_err();
        }
        if panicked {
            return Err(EngineError::Panicked("the store"));
        }
        self.check().inspect_err(|_| {
            // What is on the tier is made known all the same: on a full disk there is room for an
            // index run where there was none for a pack. If this fails too, it is stored again.
            let mut cx = self.shared.cx.clone();
            cx.cancel = CancellationToken::new();
            // On a thread of its own: an abandoned store may be dropped where nobody may wait.
            let shared = &self.shared;
            std::thread::scope(|scope| drop(scope.spawn(|| shared.write_runs(&cx)).join()));
        })
    }
}

impl Drop for BlobStore {
    fn drop(&mut self) {
        // An abandoned store must not leave threads that wait for ever.
        if !self.threads.is_empty() {
            self.shared.stop.cancel();
            let _ = self.close();
        }
    }
}

/// Threads for work that keeps a processor busy.
#[must_use]
pub fn cpu_threads(cx: &OpContext) -> usize {
    match cx.limits.cpu_threads {
        0 => std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
        given => given,
    }
}

impl Shared {
    fn shard(&self, prefix: &[u8; 16]) -> &Mutex<HashSet<[u8; 16]>> {
        &self.seen[usize::from(prefix[15]) % self.seen.len()]
    }

    fn fail(&self, error: EngineError) {
        lock(&self.failure).get_or_insert(error);
        self.stop.cancel();
        self.pending.wake();
    }

    fn add(&self, job: &Job, sealed: &[u8], uploads: &Sender<FullPack>) {
        let is_meta = job.kind.is_meta();
        let target = if is_meta {
            self.sizes.meta_pack
        } else {
            self.sizes.data_pack
        };
        let mut open = lock(&self.open[usize::from(is_meta)]);
        if open.is_full_for(sealed.len(), target) {
            let full = std::mem::replace(&mut *open, PackBuilder::new(0));
            // Sent while the open pack is locked: when the tier is slow, the other threads wait with
            // a blob each, not with a pack each.
            self.send_pack(full, is_meta, uploads);
        }
        if open.is_empty() {
            let room = (!is_meta).then(|| lock(&self.rooms).pop()).flatten();
            let room = room.unwrap_or_default();
            *open = PackBuilder::in_room_of(room, target + (1 << 16));
        }
        open.push(job.kind, job.id, job.raw.len(), sealed);
    }

    /// Keeps the room of a pack of content that nobody holds any more.
    fn keep_room(&self, bytes: Bytes, is_meta: bool) {
        let mut rooms = lock(&self.rooms);
        if !is_meta && bytes.is_unique() && rooms.len() < MOST_ROOMS {
            rooms.push(Vec::from(bytes));
        }
    }

    fn send_pack(&self, builder: PackBuilder, is_meta: bool, uploads: &Sender<FullPack>) {
        self.pending.add(1);
        if uploads.send(FullPack { builder, is_meta }).is_err() {
            self.pending.done(1);
        }
    }

    fn put_object(&self, cx: &OpContext, key: &ObjectKey, body: Bytes) -> Result<()> {
        if cx.cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        self.handle.block_on(put_new(cx, &*self.sink, key, body))
    }

    fn upload(&self, full: FullPack) -> Result<()> {
        let FullPack { builder, is_meta } = full;
        let pack = builder
            .finish(&self.ring, &[self.session.wrap()])
            .map_err(EngineError::Seal)?;
        let key = name(layout::pack(pack.id, is_meta))?;
        let size = pack.bytes.len() as u64;
        if self.cx.cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        let bytes = Bytes::from(pack.bytes);
        let put = put_pack(
            &self.cx,
            &*self.sink,
            (&key, pack.id),
            bytes.clone(),
            self.parity,
        );
        let added = self.handle.block_on(put)?;
        self.keep_room(bytes, is_meta);
        self.bytes_added.fetch_add(added, Ordering::Relaxed);
        self.cx.tell(Event::Advanced {
            stage: Stage::Store,
            entries: 1,
            bytes: size,
        });
        let mut fresh = lock(&self.fresh);
        fresh.push(StoredPack {
            id: pack.id,
            size,
            blobs: pack.blobs,
        });
        let unindexed: u64 = fresh.iter().map(|pack| pack.size).sum();
        drop(fresh);
        // What no index run knows is stored again after a kill: one file can take hours. The first
        // runs come sooner, so that it is never more than half.
        let known = self
            .bytes_added
            .load(Ordering::Relaxed)
            .saturating_sub(unindexed);
        if unindexed >= known.clamp(self.index_bytes / 8, self.index_bytes) {
            self.write_runs(&self.cx)
        } else {
            Ok(())
        }
    }

    /// Writes index runs for all packs that are on the tier and in no run yet.
    fn write_runs(&self, cx: &OpContext) -> Result<()> {
        let fresh = std::mem::take(&mut *lock(&self.fresh));
        let mut builder = RunBuilder::default();
        let write = |builder: RunBuilder| -> Result<()> {
            let plain = builder.finish(&[self.session.wrap()]);
            let sealed = self
                .ring
                .seal(ObjectKind::IndexRun, &plain)
                .map_err(EngineError::Seal)?;
            let key = name(layout::index(&sealed))?;
            self.bytes_added
                .fetch_add(sealed.len() as u64, Ordering::Relaxed);
            self.put_object(cx, &key, sealed.into())
        };
        for pack in &fresh {
            if builder.len() + pack.blobs.len() > MAX_ENTRIES {
                write(std::mem::take(&mut builder))?;
            }
            builder
                .add_pack(pack.id, pack.size, &pack.blobs)
                .map_err(|error| EngineError::Invalid(error.to_string()))?;
        }
        if !builder.is_empty() {
            write(builder)?;
        }
        lock(&self.stored).extend(fresh);
        Ok(())
    }
}

/// A job or a pack that a thread works on. However that ends it is no longer under way, and nobody
/// waits for it; a panic fails the store.
struct UnderWay<'a>(&'a Shared);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(EngineError::Panicked("the store"));
        }
        self.0.pending.done(1);
    }
}

fn seal_loop(shared: &Shared, level: i32, source: &Receiver<Job>, uploads: &Sender<FullPack>) {
    let mut codec = match BlobCodec::new(level) {
        Ok(codec) => Some(codec),
        Err(error) => {
            shared.fail(EngineError::Seal(error));
            None
        }
    };
    let mut sealed = Vec::new();
    // After a failure the queue is still drained, so that nobody waits at it.
    for job in source {
        let _job = UnderWay(shared);
        if let Some(codec) = codec.as_mut().filter(|_| !shared.stop.is_cancelled()) {
            let key = shared.session.key_of(job.kind);
            match codec.seal(key, job.kind, &job.id, &job.raw, &mut sealed) {
                Ok(()) => shared.add(&job, &sealed, uploads),
                Err(error) => shared.fail(EngineError::Seal(error)),
            }
        }
    }
}

fn upload_loop(shared: &Shared, source: &Receiver<FullPack>) {
    for pack in source {
        let _pack = UnderWay(shared);
        if !shared.stop.is_cancelled()
            && let Err(error) = shared.upload(pack)
        {
            shared.fail(error);
        }
    }
}
