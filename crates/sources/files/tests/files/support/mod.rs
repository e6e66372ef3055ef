//! What the tests of this crate share: a fixed clock, captures as values, a small pump from a
//! capture into a restore, and the whole state of a tree as one comparable value.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods
)]

pub mod disks;
pub mod given;
pub mod traced;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backup_core::{
    Body, CaptureReport, CaptureRequest, Clock, ComponentMeta, Consistency, ConsistentPoint, Entry,
    EntryOutcome, EntryPath, EntryWriter, HostId, OpContext, Outcome, RestoreEntry, RestoreMode,
    RestoreReport, RestoreRequest, SnapshotId, SnapshotMeta, SnapshotStats, Source, SourceError,
    Target, TargetError,
};
use backup_source_files::{FilesConfig, FilesSource, FilesTarget, FilesTargetConfig};
use jiff::Timestamp;
use rustix::fs::{
    AtFlags, CWD, Timespec, Timestamps, XattrFlags, lgetxattr, llistxattr, utimensat,
};
use sha2::{Digest as _, Sha256};

/// The second that the tests' clock stands at.
pub const NOW: i64 = 1_700_000_000;

#[derive(Debug)]
struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(NOW).unwrap()
    }
}

pub fn context() -> OpContext {
    OpContext::new(Arc::new(Fixed))
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs as the user `nobody`, in a thread of its own (Linux keeps credentials by thread), or as
/// who we are if that is not root.
pub fn as_nobody<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if is_root() {
                let group = rustix::process::Gid::from_raw(65_534);
                let user = rustix::process::Uid::from_raw(65_534);
                rustix::thread::set_thread_groups(&[]).unwrap();
                rustix::thread::set_thread_res_gid(group, group, group).unwrap();
                rustix::thread::set_thread_res_uid(user, user, user).unwrap();
            }
            run()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A folder for a great many files: in memory where there is such a place, since laying them out
/// on a disk would take longer than the test.
pub fn roomy_folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// Takes a chain of folders `d` in `d` away from its top, each with what else is in it: from the
/// bottom, and with `rm`, the kernel walks all of the rest for every one of them.
pub fn remove_chain(folder: &Path) {
    let (top, rest) = (folder.join("d"), folder.join("rest"));
    while top.exists() {
        let more = fs::rename(top.join("d"), &rest).is_ok();
        fs::remove_dir_all(&top).unwrap();
        if more {
            fs::rename(&rest, &top).unwrap();
        }
    }
}

pub fn entry_path(path: &Path) -> EntryPath {
    EntryPath::from_slashed(path.as_os_str().as_bytes()).unwrap()
}

pub struct Captured {
    pub entries: Vec<Entry>,
    pub report: CaptureReport,
}

impl Captured {
    /// The entry of an absolute path.
    pub fn entry(&self, path: &Path) -> &Entry {
        let wanted = entry_path(path);
        self.entries
            .iter()
            .find(|entry| entry.path == wanted)
            .expect("no such entry")
    }

    /// The paths below a folder, relative to it.
    pub fn below(&self, folder: &Path) -> Vec<String> {
        let folder = entry_path(folder);
        let skipped = folder.to_slashed().len() + 1;
        let below = |entry: &&Entry| entry.path.starts_with(&folder) && entry.path != folder;
        let text = |entry: &Entry| {
            String::from_utf8_lossy(&entry.path.to_slashed()[skipped..]).into_owned()
        };
        self.entries.iter().filter(below).map(text).collect()
    }

    pub fn findings(&self) -> Vec<String> {
        self.report
            .findings
            .iter()
            .map(ToString::to_string)
            .collect()
    }
}

pub async fn try_capture(config: FilesConfig) -> Result<Captured, SourceError> {
    let cx = context();
    let source = FilesSource::new(config);
    let plan = source.plan(&cx, &CaptureRequest::default()).await?;
    let mut capture = source.begin(&cx, plan).await?;
    let mut entries = Vec::new();
    loop {
        let batch = capture.next_entries(&cx).await?;
        if batch.is_empty() {
            break;
        }
        entries.extend(batch);
    }
    let report = capture.close(&cx).await?;
    capture.settle(&cx, Outcome::Committed).await?;
    assert!(
        entries.is_sorted_by(|a, b| a.path < b.path),
        "entries are not in order"
    );
    Ok(Captured { entries, report })
}

pub fn capture(config: FilesConfig) -> Captured {
    block_on(try_capture(config)).unwrap()
}

/// An entry of a snapshot with its content as ranges of data.
#[derive(Debug, Clone)]
pub struct Stored {
    pub entry: RestoreEntry,
    pub data: Vec<(u64, Vec<u8>)>,
}

/// Reads what a capture handed over, as an engine would, holes left out.
pub fn store(captured: &Captured) -> Vec<Stored> {
    let store_one = |entry: &Entry| {
        let (size, data) = match &entry.body {
            Body::File(open) => read_data(&open.open().unwrap()),
            _ => (0, Vec::new()),
        };
        let (path, meta) = (entry.path.clone(), entry.meta.clone());
        let sha256 = meta.kind.has_content().then(|| sha256_of(size, &data));
        Stored {
            entry: RestoreEntry {
                path,
                meta,
                size,
                sha256,
                whole: true,
                on_way: false,
            },
            data,
        }
    };
    captured.entries.iter().map(store_one).collect()
}

/// The SHA-256 of content, its holes included.
pub fn sha256_of(size: u64, data: &[(u64, Vec<u8>)]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    let zeros = [0; 64 << 10];
    let mut at = 0;
    let end = (size, Vec::new());
    for (offset, bytes) in data.iter().chain([&end]) {
        while at < *offset {
            let part = zeros.len().min(usize::try_from(offset - at).unwrap());
            hasher.update(&zeros[..part]);
            at += part as u64;
        }
        hasher.update(bytes);
        at += bytes.len() as u64;
    }
    hasher.finalize().into()
}

fn read_data(file: &File) -> (u64, Vec<(u64, Vec<u8>)>) {
    use rustix::fs::{SeekFrom, seek};
    let size = file.metadata().unwrap().len();
    let (mut at, mut data) = (0, Vec::new());
    while let Ok(start) = seek(file, SeekFrom::Data(at)) {
        let end = seek(file, SeekFrom::Hole(start)).unwrap();
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        file.read_exact_at(&mut bytes, start).unwrap();
        data.push((start, bytes));
        at = end;
    }
    (size, data)
}

/// The snapshot with `folder` as its root, as `SNAPSHOT:PATH` restores it.
pub fn rooted_at(stored: &[Stored], folder: &Path) -> Vec<Stored> {
    let folder = entry_path(folder);
    let skipped = folder.as_stored().len() + 1;
    let below = stored
        .iter()
        .filter(|stored| stored.entry.path.starts_with(&folder));
    let moved = |stored: &Stored| {
        let mut stored = stored.clone();
        let rest = stored
            .entry
            .path
            .as_stored()
            .get(skipped..)
            .unwrap_or_default()
            .to_vec();
        stored.entry.path = EntryPath::from_stored(&rest).unwrap();
        stored
    };
    below.map(moved).collect()
}

pub fn request(folder: &Path) -> RestoreRequest {
    let point = ConsistentPoint {
        at: Timestamp::UNIX_EPOCH,
        consistency: Consistency::Crash,
        position: None,
    };
    RestoreRequest {
        snapshot: SnapshotMeta {
            id: SnapshotId::from_bytes([1; 16]),
            name: "test".into(),
            host: HostId("host".into()),
            time: Timestamp::UNIX_EPOCH,
            first_seen: None,
            tags: Vec::new(),
            label: None,
            held: false,
            partial: false,
            findings: 0,
            parent: None,
            stats: SnapshotStats::default(),
        },
        component: ComponentMeta {
            name: "files".into(),
            kind: "files".into(),
            origin: Vec::new(),
            point,
            versions: BTreeMap::new(),
        },
        mode: RestoreMode::Files,
        folder: Some(folder.to_owned()),
    }
}

/// How the pump treats one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pumping {
    /// All is written and finished.
    Whole,
    /// The first half of the content is written and the entry never finished.
    Half,
    /// It is written and reported as failed.
    Failed,
}

pub struct Restored {
    pub report: RestoreReport,
    /// What could not be started or finished.
    pub errors: Vec<TargetError>,
    /// Bytes that were written.
    pub bytes: u64,
}

/// Restores as an engine does: starts in order, writes from the end to the start, finishes late
/// and on another thread, and compares content that is there before it writes.
pub fn restore_with(
    config: FilesTargetConfig,
    stored: &[Stored],
    outcome: Outcome,
    pumping: impl Fn(&EntryPath) -> Pumping,
) -> Result<Restored, TargetError> {
    let cx = context();
    let folder = config.folder.clone();
    let target = FilesTarget::new(config);
    let plan = block_on(target.plan(&cx, &request(&folder)))?;
    let restore = block_on(target.begin(&cx, plan))?;
    let (mut errors, mut bytes, mut late) = (Vec::new(), 0, Vec::new());
    for stored in stored {
        let how = pumping(&stored.entry.path);
        match restore.start(&cx, &stored.entry) {
            Err(cause) => errors.push(cause),
            Ok(writer) => {
                if let EntryWriter::Positional(writer) = &writer {
                    match write(writer.as_ref(), &stored.data, how) {
                        Ok(written) => bytes += written,
                        Err(cause) => {
                            errors.push(cause);
                            late.push((&stored.entry, Pumping::Failed));
                            continue;
                        }
                    }
                }
                late.push((&stored.entry, how));
            }
        }
    }
    std::thread::scope(|scope| {
        let finish = || {
            for (entry, how) in late.into_iter().rev() {
                let outcome = match how {
                    Pumping::Whole => EntryOutcome::Whole,
                    Pumping::Failed => EntryOutcome::Failed,
                    Pumping::Half => continue,
                };
                if let Err(cause) = restore.finish(&cx, entry, EntryWriter::None, outcome) {
                    errors.push(cause);
                }
            }
        };
        scope.spawn(finish).join().unwrap();
    });
    let report = block_on(restore.close(&cx, outcome))?;
    Ok(Restored {
        report,
        errors,
        bytes,
    })
}

fn write(
    writer: &dyn backup_core::PositionalWriter,
    data: &[(u64, Vec<u8>)],
    how: Pumping,
) -> Result<u64, TargetError> {
    let mut written = 0;
    for (offset, bytes) in data.iter().rev() {
        let bytes = if how == Pumping::Half {
            &bytes[..bytes.len() / 2]
        } else {
            bytes
        };
        if writer.had_content() {
            let mut there = vec![0; bytes.len()];
            let read = writer.read_at(*offset, &mut there)?;
            if there[..read] == *bytes {
                writer.keep(*offset..*offset + bytes.len() as u64);
                continue;
            }
        }
        writer.write_at(*offset, bytes)?;
        written += u64::try_from(bytes.len()).unwrap();
    }
    Ok(written)
}

/// Restores all of it. If that deletes, a rehearsal before named the same and failed at the same.
pub fn restore(config: FilesTargetConfig, stored: &[Stored]) -> Restored {
    let rehearsed = rehearse(&config, stored);
    let folder = config.folder.clone();
    let restored = restore_with(config, stored, Outcome::Committed, |_| Pumping::Whole).unwrap();
    let Some((named, failed)) = rehearsed else {
        return restored;
    };
    let went =
        |name: &&Vec<u8>| fs::symlink_metadata(folder.join(OsStr::from_bytes(name))).is_err();
    assert!(named.iter().all(|name| went(&name)), "{named:?}");
    assert_eq!(named.len() as u64, restored.report.deleted);
    let what = |error: &TargetError| (error.kind, error.subject.clone());
    let errors: Vec<_> = restored.errors.iter().map(what).collect();
    assert_eq!(failed.iter().map(what).collect::<Vec<_>>(), errors);
    restored
}

/// What a rehearsal names as deleted, and what would fail; nothing if it is not needed.
fn rehearse(
    config: &FilesTargetConfig,
    stored: &[Stored],
) -> Option<(BTreeSet<Vec<u8>>, Vec<TargetError>)> {
    let cx = context();
    let target = FilesTarget::new(config.clone());
    let plan = block_on(target.plan(&cx, &request(&config.folder))).unwrap();
    let mut rehearsal = block_on(target.rehearse(&cx, &plan)).unwrap()?;
    if !config.delete {
        return None;
    }
    let (mut named, mut failed) = (BTreeSet::new(), Vec::new());
    let mut name = |path: &EntryPath| assert!(named.insert(path.to_slashed()), "{path} twice");
    for stored in stored {
        failed.extend(rehearsal.see(&stored.entry, &mut name).err());
    }
    rehearsal.end(Outcome::Committed, &mut name).unwrap();
    Some((named, failed))
}

/// Everything that can be told of one thing in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, i64),
    pub rdev: u64,
    pub links: u64,
    pub content: Vec<u8>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

fn xattrs(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0; 65_536];
    let length = llistxattr(path, &mut *names).unwrap_or(0);
    let mut out = Vec::new();
    for name in names[..length]
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = vec![0; 65_536];
        let length = lgetxattr(path, name, &mut *value).unwrap();
        out.push((name.to_vec(), value[..length].to_vec()));
    }
    out.sort();
    out
}

pub fn state(path: &Path) -> State {
    let meta = fs::symlink_metadata(path).unwrap();
    let content = if meta.is_file() {
        fs::read(path).unwrap()
    } else if meta.is_symlink() {
        fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec()
    } else {
        Vec::new()
    };
    State {
        mode: meta.mode(),
        uid: meta.uid(),
        gid: meta.gid(),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        rdev: meta.rdev(),
        links: if meta.is_dir() { 0 } else { meta.nlink() },
        content,
        xattrs: xattrs(path),
    }
}

/// The state of everything below a folder, and of the folder itself under the empty path. Programs that are file systems
/// give a file that is removed while it is open such a name until whoever had it open is forgotten, which takes a moment.
pub fn tree(folder: &Path) -> BTreeMap<PathBuf, State> {
    let mut out = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(next) = todo.pop() {
        let path = if next.as_os_str().is_empty() {
            folder.to_owned()
        } else {
            folder.join(&next)
        };
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            let names = fs::read_dir(&path)
                .unwrap()
                .map(|entry| entry.unwrap().file_name());
            let names = names.filter(|name| !name.as_bytes().starts_with(b".fuse_hidden"));
            todo.extend(names.map(|name| next.join(name)));
        }
        out.insert(next, state(&path));
    }
    out
}

/// Writes a file, its folders before it.
pub fn put(path: &Path, content: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

pub fn set_mtime(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanos,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

pub fn set_xattr(path: &Path, name: &str, value: &[u8]) -> bool {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).is_ok()
}

pub fn os(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

/// What is mounted on a folder or a file, unmounted at the end. `None` where mounting is not
/// allowed.
pub struct Mounted(PathBuf);

impl Mounted {
    pub fn tmpfs(folder: &Path, options: &str) -> Option<Self> {
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]);
        Self::on(mount, folder)
    }

    /// A file system that has neither ACLs nor other attributes.
    pub fn ramfs(folder: &Path) -> Option<Self> {
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "ramfs", "ramfs"]);
        Self::on(mount, folder)
    }

    /// Something that is there once more on something else of its kind.
    pub fn bind(what: &Path, on: &Path) -> Option<Self> {
        let mut mount = std::process::Command::new("mount");
        mount.arg("--bind").arg(what);
        Self::on(mount, on)
    }

    fn on(mut mount: std::process::Command, folder: &Path) -> Option<Self> {
        mount.arg(folder).stderr(std::process::Stdio::null());
        let done = mount.status();
        done.is_ok_and(|status| status.success())
            .then(|| Self(folder.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
    }
}
