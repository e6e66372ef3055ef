//! The walk: all entries of all roots in ascending order of path, in bounded memory, as fast as
//! the kernel hands out metadata.
//!
//! Work comes in [`Task`]s: *scan* a folder (open, list, sort, `stat` the first names) or *stat*
//! the next names of a large one. A task is placed by the path of the first entry that it will
//! yield, and the queue is sorted by that place, so whoever takes the first task of the queue
//! works on what is needed soonest. One thread, the *emitter* ([`emit`]), goes through the results
//! in order and hands batches over; what it needs next and nobody has begun, it does itself.
//! The other threads work ahead, as long as what lies ready stays below a bound. So the order
//! never depends on timing, nobody waits for a thread that waits, and there is no recursion.

mod choose;
mod emit;
mod left_out;
pub(crate) mod listing;
pub(crate) mod meta;
mod scan;
mod xattr;

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{self, AtomicBool, AtomicU64};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use backup_core::{Entry, EntryPath};
use rustix::fs::{Mode, OFlags, open};
use tokio::sync::mpsc;

use crate::config::{FileLimits, FilesConfig};
use crate::content::Opener;
use crate::exclude::IgnoreNode;
use crate::findings::Findings;
use crate::handle::{DirHandle, HandleCache};
use crate::roots::{RootContext, Wanted};
use left_out::LeftOut;
use listing::Listing;
use scan::Walker;

/// Entries that one task stats.
const STAT_BATCH: usize = 256;

/// Entries that are handed over at once.
const HANDED_OVER: usize = 512;

/// Batches that wait to be fetched.
const WAITING: usize = 4;

/// Memory of results that nobody has asked for yet, above which no work is begun ahead.
const AHEAD_BYTES: usize = 12 << 20;

/// What to do when nothing else is said: the emitter and one that works ahead for every two
/// processors, since a walk that is not bound by a slow disk is bound by the kernel.
fn default_threads() -> usize {
    thread::available_parallelism()
        .map_or(2, |number| number.get())
        .clamp(2, 4)
}

/// A folder of the walk.
#[derive(Debug)]
struct WalkDir {
    handle: Arc<DirHandle>,
    path: EntryPath,
    /// The root that it lies in; `None` above the roots.
    root: Option<Arc<RootContext>>,
    /// Device of the root, for [`FilesConfig::one_file_system`].
    device: u64,
    ignores: Option<Arc<IgnoreNode>>,
    /// Where it stands in the tree of roots, if roots lie below.
    wanted: Option<Arc<Wanted>>,
    /// Whether only what leads to roots is taken of it.
    passage: bool,
    /// Whether the limits on size and age are still to be applied to its files.
    limited: bool,
}

/// A folder that is to be scanned.
#[derive(Debug)]
struct Pending {
    parent: Arc<WalkDir>,
    name: CString,
    root: Option<Arc<RootContext>>,
    device: u64,
    wanted: Option<Arc<Wanted>>,
    passage: bool,
    follow: bool,
}

#[derive(Debug)]
enum Work {
    /// The folder that everything begins at.
    Top,
    Scan(Box<Pending>),
    Stat {
        dir: Arc<WalkDir>,
        listing: Arc<Listing>,
        range: Range<usize>,
    },
}

/// Something to be done, placed by the path of the first entry that it will yield.
#[derive(Debug)]
struct Task {
    place: EntryPath,
    work: Mutex<Option<Work>>,
    done: Mutex<Option<Scanned>>,
}

impl Task {
    fn new(place: EntryPath, work: Work) -> Arc<Self> {
        Arc::new(Self {
            place,
            work: Mutex::new(Some(work)),
            done: Mutex::new(None),
        })
    }

    fn take_work(&self) -> Option<Work> {
        self.work
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    fn result(&self) -> MutexGuard<'_, Option<Scanned>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PartialEq for Task {
    fn eq(&self, other: &Self) -> bool {
        self.place == other.place
    }
}
impl Eq for Task {}
impl PartialOrd for Task {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Task {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place.cmp(&other.place)
    }
}

/// What a task found.
#[derive(Debug, Default)]
struct Scanned {
    entries: Vec<Entry>,
    /// Folders among the entries, by index, with the task that scans them.
    children: Vec<(usize, Arc<Task>)>,
    /// The rest of a large folder.
    more: Vec<Arc<Task>>,
    /// Why the snapshot does not have all that is in the folder.
    content: Option<&'static str>,
    /// Memory that it takes.
    bytes: usize,
}

#[derive(Debug, Default)]
struct Queue {
    tasks: BTreeSet<Arc<Task>>,
    /// Memory of results that were made ahead and not asked for yet.
    ahead: usize,
    /// Threads that wait for work.
    idle: usize,
    stop: bool,
}

/// What all threads of a walk share.
#[derive(Debug)]
pub(crate) struct Shared {
    config: FilesConfig,
    limits: FileLimits,
    left_out: LeftOut,
    handles: Arc<HandleCache>,
    opener: Arc<Opener>,
    findings: Findings,
    limited: AtomicU64,
    first_device: u64,
    wanted: Arc<Wanted>,
    queue: Mutex<Queue>,
    work: Condvar,
    ready: Condvar,
    finished: AtomicBool,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.queue().stop = true;
        self.work.notify_all();
        self.ready.notify_all();
    }

    /// Takes in what a task made: its own further tasks, and whether it was made ahead.
    fn enqueue(&self, queue: &mut Queue, scanned: &Scanned) {
        let before = queue.tasks.len();
        queue
            .tasks
            .extend(scanned.children.iter().map(|(_, task)| Arc::clone(task)));
        queue.tasks.extend(scanned.more.iter().map(Arc::clone));
        let new = queue.tasks.len() - before;
        for _ in 0..new.min(queue.idle) {
            self.work.notify_one();
        }
    }

    /// Works on a task that was taken out of the queue for nobody in particular.
    fn work_ahead(&self, walker: &mut Walker, task: &Task) {
        let scanned = walker.run(task);
        let mut queue = self.queue();
        self.enqueue(&mut queue, &scanned);
        queue.ahead += scanned.bytes;
        *task.result() = Some(scanned);
        drop(queue);
        self.ready.notify_one();
    }
}

/// Stops the walk when a thread of it ends other than by its end, so that nobody waits for it.
struct StopOnDrop<'a>(&'a Shared);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// A walk under way. Dropping it stops its threads.
#[derive(Debug)]
pub(crate) struct Walk {
    shared: Arc<Shared>,
    batches: mpsc::Receiver<Vec<Entry>>,
}

impl Walk {
    /// Starts to walk.
    pub(crate) fn start(
        config: FilesConfig,
        limits: FileLimits,
        wanted: Wanted,
        first_device: u64,
    ) -> io::Result<Self> {
        let threads = if config.threads == 0 {
            default_threads()
        } else {
            config.threads
        };
        let top: OwnedFd = open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let top = DirHandle::top(top)?;
        let handles = Arc::new(HandleCache::for_this_process());
        let opener = Opener {
            handles: Arc::clone(&handles),
            wanted: meta::Wanted {
                owner_names: config.owner_names,
                xattrs: config.xattrs,
                first_device,
            },
        };
        let shared = Arc::new(Shared {
            left_out: LeftOut::find(&config.base, &config.left_out),
            config,
            limits,
            handles,
            opener: Arc::new(opener),
            findings: Findings::default(),
            limited: AtomicU64::new(0),
            first_device,
            wanted: Arc::new(wanted),
            queue: Mutex::default(),
            work: Condvar::new(),
            ready: Condvar::new(),
            finished: AtomicBool::new(false),
        });
        let (sender, batches) = mpsc::channel(WAITING);
        let walk = Self {
            shared: Arc::clone(&shared),
            batches,
        };
        for _ in 1..threads {
            let shared = Arc::clone(&shared);
            let top = Arc::clone(&top);
            spawn(move || work_ahead(&shared, top))?;
        }
        spawn(move || {
            let _stop = StopOnDrop(&shared);
            emit::emit(&shared, top, &sender);
        })?;
        Ok(walk)
    }

    /// The next entries; empty at the end.
    ///
    /// Fails when the walk came to an end before its end.
    pub(crate) async fn next(&mut self) -> io::Result<Vec<Entry>> {
        match self.batches.recv().await {
            Some(batch) => Ok(batch),
            None if self.shared.finished.load(atomic::Ordering::Acquire) => Ok(Vec::new()),
            None => Err(io::Error::other("the walk broke off")),
        }
    }

    pub(crate) fn findings(&self) -> &Findings {
        &self.shared.findings
    }

    /// How many files the limits on size and age left out.
    pub(crate) fn limited(&self) -> u64 {
        self.shared.limited.load(atomic::Ordering::Relaxed)
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

fn spawn(run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new()
        .name("walk".into())
        .spawn(run)
        .map(drop)
}

/// The life of a thread that works ahead.
fn work_ahead(shared: &Arc<Shared>, top: Arc<DirHandle>) {
    let _stop = StopOnDrop(shared);
    let mut walker = Walker::new(shared, top);
    let mut queue = shared.queue();
    while !queue.stop {
        let task = if queue.ahead < AHEAD_BYTES {
            queue.tasks.pop_first()
        } else {
            None
        };
        if let Some(task) = task {
            drop(queue);
            shared.work_ahead(&mut walker, &task);
            queue = shared.queue();
        } else {
            queue.idle += 1;
            queue = shared
                .work
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }
}
