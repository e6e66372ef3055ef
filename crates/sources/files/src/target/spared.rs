//! What a restore must leave alone: what it works with itself, and what is mounted in its folder.
//!
//! The repository that is restored from may lie in the target folder, with its key beside it. A
//! snapshot does not have it, so to a mirror it is one more name to be deleted, and with it all
//! that there is to restore from. What is spared is known by device and inode, so it is found under
//! whatever name the target folder has it; a link that leads to it is spared, too, since without it
//! the repository would be gone from where its owner looks for it.
//!
//! What is mounted there is another file system, or a part of this one that has its place elsewhere
//! (a bind mount, as containers have them): device and inode do not tell that from what is in the
//! folder, the number of the mount does.

use std::collections::HashSet;
use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use backup_core::{EntryPath, ErrorKind, Finding, FindingKind, Severity, TargetError};
use rustix::fs::{AtFlags, FileType, Stat, StatxFlags, statat, statx};

use super::config::{FilesTargetConfig, Overwrite};
use super::conflict;
use super::fate::Fate;
use crate::findings::Findings;
use crate::handle::{DirId, id_of};

/// How many links a path is followed through, as many as the kernel follows.
const MOST_LINKS: usize = 40;

/// What is to be left alone.
#[derive(Debug)]
pub(super) struct Spared {
    /// The protected files, folders, and links that lead to them.
    own: HashSet<DirId>,
    /// The folders above them.
    above: HashSet<DirId>,
    /// The file system of the target folder.
    device: u64,
    /// The mount that it is reached through, if the system says.
    mount: Option<u64>,
    /// What the report has a word on already.
    told: Mutex<HashSet<EntryPath>>,
}

fn id_of_meta(meta: &fs::Metadata) -> DirId {
    (meta.dev(), meta.ino())
}

fn id(stat: &Stat) -> DirId {
    (stat.st_dev, stat.st_ino)
}

impl Spared {
    /// Finds out what the paths are at this moment. One that cannot be reached cannot be lost either.
    pub(super) fn new(protected: &[PathBuf]) -> Self {
        let mut spared = Self {
            own: HashSet::new(),
            above: HashSet::new(),
            device: 0,
            mount: None,
            told: Mutex::default(),
        };
        for path in protected {
            spared.protect(path);
        }
        spared
    }

    /// Spares also what is on another file system than the target folder, or mounted in it.
    ///
    /// # Errors
    /// What the system says of the folder.
    pub(super) fn around(mut self, top: &OwnedFd) -> io::Result<Self> {
        self.device = id_of(top)?.0;
        self.mount = mount_of_folder(top);
        Ok(self)
    }

    /// Whether something is not of the mount that the target folder is of.
    fn is_elsewhere(&self, device: u64, mount: Option<u64>) -> bool {
        let mounts = mount.zip(self.mount);
        device != self.device || mounts.is_some_and(|(one, other)| one != other)
    }

    fn protect(&mut self, path: &Path) {
        let mut next = Vec::from_iter(std::path::absolute(path));
        for _ in 0..MOST_LINKS {
            let Some(path) = next.pop() else { break };
            self.note_above(&path);
            for part in path.ancestors() {
                let Ok(target) = fs::read_link(part) else {
                    continue;
                };
                if let Ok(link) = fs::symlink_metadata(part) {
                    self.own.insert(id_of_meta(&link));
                }
                next.push(part.parent().unwrap_or(part).join(target));
            }
        }
        if let Ok(real) = path.canonicalize() {
            self.own
                .extend(real.metadata().map(|meta| id_of_meta(&meta)));
            self.note_above(&real);
        }
    }

    fn note_above(&mut self, path: &Path) {
        let above = path.ancestors().skip(1);
        let there = above.filter_map(|folder| folder.metadata().ok());
        self.above.extend(there.map(|meta| id_of_meta(&meta)));
    }

    /// Refuses a restore that may change what is there if it goes into a folder that is protected or
    /// lies in one that is.
    pub(super) fn check_folder(&self, config: &FilesTargetConfig) -> Result<(), TargetError> {
        if !config.delete && config.overwrite == Overwrite::Never {
            return Ok(());
        }
        let folder = &config.folder;
        let real = folder.canonicalize().unwrap_or_else(|_| folder.clone());
        let mut there = real.ancestors().filter_map(|part| part.metadata().ok());
        if there.any(|meta| self.own.contains(&id_of_meta(&meta))) {
            let subject = folder.display().to_string();
            return Err(
                TargetError::new(ErrorKind::Conflict, "restore into", subject).because(
                    "this restore itself uses that folder: it holds the repository, its key, or \
                     what this host keeps of it; restore into another one",
                ),
            );
        }
        Ok(())
    }

    /// Whether something is protected itself.
    pub(super) fn is_own(&self, id: DirId) -> bool {
        self.own.contains(&id)
    }

    /// What of a name in a folder is protected itself.
    pub(super) fn own_in(&self, folder: &OwnedFd, name: &CStr) -> io::Result<Option<Stat>> {
        // No more than this is asked of every entry.
        if self.above.is_empty() || !self.above.contains(&id_of(folder)?) {
            return Ok(None);
        }
        let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).ok();
        Ok(stat.filter(|stat| self.own.contains(&id(stat))))
    }

    /// Sees that what is to make room for an entry holds nothing that is protected.
    pub(super) fn may_clear(
        &self,
        stat: &Stat,
        fate: Fate,
        path: &EntryPath,
    ) -> Result<(), TargetError> {
        let is_held = self.own.contains(&id(stat)) || self.above.contains(&id(stat));
        if fate == Fate::Cleared && is_held {
            return Err(conflict(
                path,
                "what stands in its place is or holds what this restore itself uses: the \
                 repository, its key, or what this host keeps of it",
            ));
        }
        Ok(())
    }

    /// Whether a name that is no folder must not be deleted.
    pub(super) fn is_kept(&self, folder: &OwnedFd, name: &CStr, stat: &Stat) -> bool {
        self.is_elsewhere(stat.st_dev, mount_of(folder, name)) || self.own.contains(&id(stat))
    }

    /// Whether an open folder must not be deleted, nor what is in it.
    pub(super) fn is_folder_kept(&self, folder: &OwnedFd, stat: &Stat) -> bool {
        self.is_elsewhere(stat.st_dev, mount_of_folder(folder)) || self.own.contains(&id(stat))
    }

    /// Says, once, that something that was to be deleted is kept.
    pub(super) fn tell_kept(&self, stat: &Stat, path: &EntryPath, findings: &Findings) {
        let (severity, what) = if self.own.contains(&id(stat)) {
            // Nobody can have meant it.
            (
                Severity::Note,
                "it is not deleted: this restore itself uses it (the repository, its key, or what \
                 this host keeps of it)",
            )
        } else if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            (Severity::Error, self.mounted_there(stat.st_dev))
        } else {
            (
                Severity::Error,
                "it is not deleted: it is mounted there, or on another file system",
            )
        };
        self.tell(severity, path, what, findings);
    }

    /// What is said of a folder that something is mounted on.
    fn mounted_there(&self, device: u64) -> &'static str {
        if device == self.device {
            return "nothing in it is deleted: a folder that has its place elsewhere is mounted there";
        }
        "nothing in it is deleted: another file system is mounted there"
    }

    /// Whether nothing is to be deleted in an open folder that the snapshot has. The report says why,
    /// once.
    pub(super) fn passes(
        &self,
        folder: &OwnedFd,
        path: &EntryPath,
        findings: &Findings,
    ) -> io::Result<bool> {
        let id = id_of(folder)?;
        if self.is_elsewhere(id.0, mount_of_folder(folder)) {
            // What is there is as it should be, as far as it was restored.
            self.tell(Severity::Note, path, self.mounted_there(id.0), findings);
            return Ok(true);
        }
        Ok(self.own.contains(&id))
    }

    /// Says that an entry of the snapshot and all below it was not restored.
    pub(super) fn tell_unrestored(&self, path: &EntryPath, findings: &Findings) {
        let what = "what stands there stays as it is, with all in it: this restore itself uses it \
                    (the repository, its key, or what this host keeps of it)";
        self.tell(Severity::Warning, path, what, findings);
    }

    fn tell(&self, severity: Severity, path: &EntryPath, what: &str, findings: &Findings) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.insert(path.clone()) {
            let finding = Finding::entry(FindingKind::Skipped, path, what);
            findings.add(Finding {
                severity,
                ..finding
            });
        }
    }
}

/// The mount that a name in a folder is reached through; an empty name is the folder.
fn mount_of(folder: impl AsFd, name: &CStr) -> Option<u64> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT;
    let found = statx(folder, name, flags, StatxFlags::MNT_ID).ok()?;
    let is_said = found.stx_mask & StatxFlags::MNT_ID.bits() != 0;
    is_said.then_some(found.stx_mnt_id)
}

/// The mount that an open folder is reached through. Linux before 5.8 says it in `/proc` only; of a
/// name that is no folder it need not be asked there, since none that is mounted can be deleted.
fn mount_of_folder(folder: &OwnedFd) -> Option<u64> {
    mount_of(folder, c"").or_else(|| {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", folder.as_raw_fd())).ok()?;
        mount_in(&info)
    })
}

/// The number of the mount in what `/proc` says of a descriptor.
fn mount_in(info: &str) -> Option<u64> {
    let said = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    said?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_a_mount_lead_to_the_same() {
        let temp = tempfile::tempdir().unwrap();
        let folder = OwnedFd::from(fs::File::open(temp.path()).unwrap());
        let info = format!("/proc/self/fdinfo/{}", folder.as_raw_fd());
        let said = mount_in(&fs::read_to_string(info).unwrap());
        assert!(said.is_some());
        assert_eq!(mount_of_folder(&folder), said);
    }
}
