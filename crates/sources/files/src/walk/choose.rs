//! Which names become entries, and which folders are gone down into.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use backup_core::{Finding, FindingKind, Severity};
use rustix::fs::{AtFlags, FileType, Stat, statat};

use super::listing::Listing;
use super::{Pending, Shared, WalkDir, meta};
use crate::CONTENT_LEFT_OUT;
use crate::config::FilesConfig;
use crate::exclude::{CACHE_TAG, IgnoreNode, has_cache_signature, is_left_out};
use crate::roots::{RootContext, Wanted};
use crate::target::UNFINISHED;

/// What is known of a name when its fate is decided.
pub(super) struct Seen<'a> {
    pub(super) name: &'a CStr,
    /// Its kind as listed.
    pub(super) listed: FileType,
    /// Its whole path with slashes.
    pub(super) slashed: &'a [u8],
    pub(super) stat: &'a Stat,
    /// Its place in the tree of roots, if it is a root or leads to one.
    pub(super) wanted: Option<&'a Arc<Wanted>>,
    /// Whether `stat` is of what a link leads to.
    pub(super) follow: bool,
}

/// What becomes of a name.
pub(super) enum Fate {
    /// It is left out.
    Out,
    /// It should lead to a root and is not a folder.
    Misplaced,
    /// It is an entry, and nothing below it is looked at; if it is a folder, why.
    Entry(Option<&'static str>),
    /// It is a folder to be gone down into.
    Down(Box<Pending>),
}

/// Whether a link in this place of the tree of roots is followed: above roots, and for a root
/// that asks for it.
pub(super) fn follows(wanted: &Wanted) -> bool {
    !wanted.below.is_empty() || wanted.root.as_ref().is_none_or(|root| root.follow)
}

/// Whether the lines of the excludes and ignore files leave a name out.
pub(super) fn excluded(dir: &WalkDir, slashed: &[u8], is_dir: bool) -> bool {
    let Some(root) = &dir.root else { return false };
    is_left_out(root, dir.ignores.as_ref(), slashed, is_dir)
}

/// Decides what becomes of a name in a folder.
pub(super) fn fate(shared: &Shared, dir: &Arc<WalkDir>, seen: &Seen<'_>) -> Fate {
    let kind = FileType::from_raw_mode(seen.stat.st_mode);
    let is_dir = kind == FileType::Directory;
    if let Some(wanted) = seen.wanted {
        return fate_of_wanted(shared, dir, seen, wanted, is_dir);
    }
    if dir.passage || (seen.listed == FileType::Unknown && excluded(dir, seen.slashed, is_dir)) {
        return Fate::Out;
    }
    if is_dir && shared.left_out.has(seen.stat) {
        return Fate::Out;
    }
    if crosses(shared, dir, seen.stat) {
        return if is_dir {
            Fate::Entry(Some(CONTENT_LEFT_OUT))
        } else {
            Fate::Out
        };
    }
    if is_dir {
        return Fate::Down(pending(dir, seen));
    }
    if dir.limited && beyond_limits(shared, seen.stat) {
        return Fate::Out;
    }
    Fate::Entry(None)
}

/// Whether the limits on size and age leave out a file; counts it.
fn beyond_limits(shared: &Shared, stat: &Stat) -> bool {
    let nanos = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    let out = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && shared
            .limits
            .leave_out(meta::size(stat), (stat.st_mtime, nanos));
    if out {
        shared.limited.fetch_add(1, Ordering::Relaxed);
    }
    out
}

/// The path of a folder with slashes, to which names are appended.
fn slashed_base(dir: &WalkDir) -> Vec<u8> {
    let mut slashed = dir.path.to_slashed();
    if !slashed.is_empty() {
        slashed.push(b'/');
    }
    slashed
}

/// Whether a name is a root or leads to one, and so is never left out.
fn is_wanted(dir: &WalkDir, name: &[u8]) -> bool {
    dir.wanted
        .as_ref()
        .is_some_and(|wanted| wanted.below.contains_key(name))
}

/// Drops from a listing what the lines leave out, as far as the kinds are listed; that saves the
/// `stat`, too. Returns whether there was any.
pub(super) fn drop_excluded(dir: &WalkDir, listing: &mut Listing) -> bool {
    let has_lines = |root: &Arc<RootContext>| !root.excludes.is_empty() || dir.ignores.is_some();
    if !dir.root.as_ref().is_some_and(has_lines) {
        return false;
    }
    let mut slashed = slashed_base(dir);
    let base = slashed.len();
    listing.keep_kinds(|name, kind| {
        if kind == FileType::Unknown || is_wanted(dir, name.to_bytes()) {
            return true;
        }
        slashed.truncate(base);
        slashed.extend_from_slice(name.to_bytes());
        !excluded(dir, &slashed, kind == FileType::Directory)
    })
}

/// Drops from a listing the file that a restore into the folder keeps while it is under way: no
/// restore could bring it back, and what is saved beside it is half of something.
pub(super) fn drop_own(shared: &Shared, dir: &WalkDir, listing: &mut Listing) {
    let own = UNFINISHED.to_bytes();
    if !listing.contains(own) || is_wanted(dir, own) {
        return;
    }
    listing.keep(|name| name != own);
    let subject = format!("/{}", dir.path);
    let detail = "a restore into it is under way or was broken off, so not all in it is whole; run \
                  that restore again";
    let finding = Finding::new(Severity::Warning, FindingKind::Degraded, subject, detail);
    shared.findings.add(finding);
}

/// Whether what is left out of a folder shows only in a `stat` of each name.
pub(super) fn needs_stat(shared: &Shared, dir: &WalkDir, listing: &Listing) -> bool {
    shared.limits.any()
        || shared.config.one_file_system
        || shared.left_out.lies_in(dir.handle.id())
        || listing.has_unknown_kinds()
}

/// Drops from a listing what is left out for what it is, for its size or age, for its file system (a file can be
/// mounted, too), or by lines where the kind is not listed. Returns whether there was any. A name without a `stat` stays: whoever makes its entry
/// reports it.
pub(super) fn drop_by_stat(
    shared: &Shared,
    fd: &OwnedFd,
    dir: &WalkDir,
    listing: &mut Listing,
) -> bool {
    let mut slashed = slashed_base(dir);
    let base = slashed.len();
    let mut failed = false;
    let has_left_out = shared.left_out.lies_in(dir.handle.id());
    let dropped = listing.keep_kinds(|name, kind| {
        let is_passed = kind == FileType::Directory && !has_left_out;
        if is_passed || is_wanted(dir, name.to_bytes()) {
            return true;
        }
        let Ok(stat) = statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) else {
            failed = true;
            return true;
        };
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        slashed.truncate(base);
        slashed.extend_from_slice(name.to_bytes());
        let by_line = kind == FileType::Unknown && excluded(dir, &slashed, is_dir);
        // A folder that is mounted there is an entry without content.
        let by_mount = !is_dir && crosses(shared, dir, &stat);
        let by_itself = is_dir && shared.left_out.has(&stat);
        !by_line && !by_mount && !by_itself && !beyond_limits(shared, &stat)
    });
    dropped || failed
}

/// A root is never left out, and neither is the way to it.
fn fate_of_wanted(
    shared: &Shared,
    dir: &Arc<WalkDir>,
    seen: &Seen<'_>,
    wanted: &Arc<Wanted>,
    is_dir: bool,
) -> Fate {
    let link_in_root = !dir.passage && seen.follow && seen.listed == FileType::Symlink;
    if link_in_root && wanted.root.as_ref().is_none_or(|root| !root.follow) {
        let subject = format!("/{}", String::from_utf8_lossy(seen.slashed));
        let detail = "it is a symbolic link and on the way to a root, so it is stored as a folder";
        let kind = FindingKind::Degraded;
        shared
            .findings
            .add(Finding::new(Severity::Warning, kind, subject, detail));
    }
    match (&wanted.root, is_dir) {
        (Some(_), false) => Fate::Entry(None),
        (None, false) => Fate::Misplaced,
        (Some(root), true) => {
            let mut down = pending(dir, seen);
            down.root = Some(Arc::clone(root));
            down.device = seen.stat.st_dev;
            down.passage = false;
            Fate::Down(down)
        }
        (None, true) => {
            let mut down = pending(dir, seen);
            down.passage = dir.passage
                || link_in_root
                || crosses(shared, dir, seen.stat)
                || shared.left_out.has(seen.stat)
                || excluded(dir, seen.slashed, true);
            if down.passage {
                down.root = None;
            }
            Fate::Down(down)
        }
    }
}

/// Whether a name stands on another file system than its root, and that matters.
fn crosses(shared: &Shared, dir: &WalkDir, stat: &Stat) -> bool {
    shared.config.one_file_system && stat.st_dev != dir.device
}

/// The folder below another, in the same root.
fn pending(dir: &Arc<WalkDir>, seen: &Seen<'_>) -> Box<Pending> {
    Box::new(Pending {
        parent: Arc::clone(dir),
        name: seen.name.to_owned(),
        root: dir.root.clone(),
        device: dir.device,
        wanted: seen
            .wanted
            .filter(|wanted| !wanted.below.is_empty())
            .cloned(),
        passage: dir.passage,
        follow: seen.follow,
    })
}

/// If a folder is tagged as not worth saving, keeps its tags (and what leads to roots) only.
pub(super) fn keep_tags_only(
    config: &FilesConfig,
    fd: &OwnedFd,
    dir: &WalkDir,
    listing: &mut Listing,
) -> bool {
    let mut tags: Vec<&[u8]> = config
        .exclude_if_present
        .iter()
        .map(String::as_bytes)
        .filter(|name| listing.contains(name))
        .collect();
    let cache_tag = CACHE_TAG.to_bytes();
    if config.exclude_caches && listing.contains(cache_tag) && has_cache_signature(fd) {
        tags.push(cache_tag);
    }
    if tags.is_empty() {
        return false;
    }
    listing.keep(|name| tags.contains(&name) || is_wanted(dir, name));
    true
}

/// Takes in the ignore files that stand in a folder.
pub(super) fn add_ignore_files(
    shared: &Shared,
    fd: &OwnedFd,
    dir: &mut WalkDir,
    listing: &Listing,
) {
    for name in &shared.config.ignore_files {
        if !listing.contains(name.as_bytes()) {
            continue;
        }
        let path = format!("{}/{name}", dir.path);
        let subject = format!("/{}", path.trim_start_matches('/'));
        let warn = |detail: String| {
            let kind = FindingKind::Degraded;
            let subject = subject.clone();
            shared
                .findings
                .add(Finding::new(Severity::Warning, kind, subject, detail));
        };
        let base_len = dir.path.to_slashed().len();
        match IgnoreNode::read(fd, name, base_len, dir.ignores.clone()) {
            Ok((node, wrong)) => {
                dir.ignores = Some(Arc::new(node));
                for line in wrong.iter().take(10) {
                    warn(format!(
                        "a line of it is no pattern and was passed over: {line}"
                    ));
                }
            }
            Err(cause) => warn(format!(
                "it could not be read, so it leaves nothing out: {cause}"
            )),
        }
    }
}
