//! Sets owners, attributes, times and modes, in the order that keeps each: a change of owner
//! clears setuid bits and file capabilities, so it comes first; the mode comes last, because as
//! long as it is that of [`MARK_FILE`] or [`MARK_DIR`], an entry counts as unfinished.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use backup_core::{EntryKind, EntryMeta, EntryPath, Finding, FindingKind, Owner, Severity};
use nix::unistd::{Group, User};
use rustix::fs::{
    AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chmod, chownat, fchmod,
    fchown, fgetxattr, flistxattr, fremovexattr, fsetxattr, fstat, futimens, getxattr, listxattr,
    removexattr, setxattr, statat, utimensat,
};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};
use serde::{Deserialize, Serialize};

use super::config::{FilesTargetConfig, Ownership};
use super::keeps::{FileSystems, Keeps, time_off};
use crate::findings::Findings;

/// The mode of a regular file that is not finished. The sticky bit means nothing on a file, so
/// nobody else has it; the kernel sets it with the creation, at no cost; and only the last step of
/// finishing takes it away. A restore that is killed leaves such files, and the next one knows
/// them again.
pub(super) const MARK_FILE: u32 = 0o1600;

/// The same where the snapshot has that mode itself.
pub(super) const OTHER_MARK_FILE: u32 = 0o1700;

/// The mode of a folder that is not finished.
pub(super) const MARK_DIR: u32 = 0o1700;

/// The mode that an entry which is no folder has until it is finished: not the one that it gets then, so
/// that a finished one is told from it.
pub(super) fn mark_of(meta: &EntryMeta) -> u32 {
    if is_final(meta, MARK_FILE) {
        OTHER_MARK_FILE
    } else {
        MARK_FILE
    }
}

/// Whether a finished entry may have a mode. It loses bits that need its owner, if it does not get that.
pub(super) fn is_final(meta: &EntryMeta, mode: u32) -> bool {
    let finals = [meta.mode & 0o7777, mode_without_acl(meta)];
    finals
        .iter()
        .any(|full| mode & 0o1777 == full & 0o1777 && mode & !full & 0o6000 == 0)
}

/// The attribute that holds the ACL of an entry.
const ACCESS_ACL: &str = "system.posix_acl_access";

/// The mode of an entry without its ACL. With an ACL the mode shows the mask in the place of the group's rights:
/// the owning group has those of an entry of its own, as far as the mask lets it.
fn mode_without_acl(meta: &EntryMeta) -> u32 {
    let mode = meta.mode & 0o7777;
    let acl = (meta.xattrs.iter()).find(|(name, _)| name == ACCESS_ACL.as_bytes());
    let Some((_, acl)) = acl else { return mode };
    // Of what is no ACL the group gets nothing.
    let of_group = rights_of_group(acl).unwrap_or(0) << 3;
    mode & !0o070 | mode & of_group & 0o070
}

/// The rights of the owning group in an ACL: behind its version a tag, rights and an id for each entry.
fn rights_of_group(acl: &[u8]) -> Option<u32> {
    const OWNING_GROUP: u16 = 4;
    let entries = acl.strip_prefix(&2_u32.to_le_bytes())?;
    let (entries, _) = entries.as_chunks::<8>();
    entries.iter().find_map(|&[tag, tag_high, rights, _, ..]| {
        let is_it = u16::from_le_bytes([tag, tag_high]) == OWNING_GROUP;
        is_it.then_some(rights.into())
    })
}

/// What was quietly not done, counted.
#[derive(Debug, Default)]
struct Counts {
    owners: AtomicU64,
    owners_not_kept: AtomicU64,
    modes_not_kept: AtomicU64,
    times_not_kept: AtomicU64,
    coarse_times: AtomicU64,
    privileged_xattrs: AtomicU64,
    unsupported_xattrs: AtomicU64,
    set_id_bits: AtomicU64,
}

/// Sets metadata; used by many threads.
#[derive(Debug)]
pub(super) struct Applier {
    ownership: Ownership,
    xattrs: bool,
    root: bool,
    /// Whom what this process creates belongs to.
    own: (u32, u32),
    systems: Arc<FileSystems>,
    users: Mutex<HashMap<String, Option<u32>>>,
    groups: Mutex<HashMap<String, Option<u32>>>,
    counts: Counts,
}

/// Something that metadata is set on.
pub(super) enum Object<'a> {
    /// An open file or folder.
    Open(BorrowedFd<'a>),
    /// A link, device, pipe or socket: a descriptor that is only a reference to it (`O_PATH`),
    /// and its folder and name, which are not followed.
    Node {
        node: BorrowedFd<'a>,
        folder: BorrowedFd<'a>,
        name: &'a CString,
    },
}

/// What is known of an object before its metadata is set.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Before {
    /// Whom it belongs to; `None`: not known.
    pub(super) owner: Option<(u32, u32)>,
    /// Whether it may have attributes that the snapshot's entry does not have.
    pub(super) xattrs: bool,
    /// Whether it is new and may have got an ACL from its folder.
    pub(super) inherits: bool,
    /// Whether its mode says until it is finished that it is not; or a note does.
    pub(super) marked: bool,
}

impl Applier {
    pub(super) fn new(config: &FilesTargetConfig, systems: Arc<FileSystems>) -> Self {
        Self {
            ownership: config.owner,
            xattrs: config.xattrs,
            root: geteuid().is_root(),
            own: (geteuid().as_raw(), getegid().as_raw()),
            systems,
            users: Mutex::default(),
            groups: Mutex::default(),
            counts: Counts::default(),
        }
    }

    /// What is known of an object that this process has just created in a folder that hands on
    /// neither its group nor a default ACL.
    pub(super) const fn created(&self) -> Before {
        Before {
            owner: Some(self.own),
            xattrs: false,
            inherits: false,
            marked: true,
        }
    }

    /// Sets everything. What cannot be set becomes a finding; the entry counts as restored.
    pub(super) fn apply(
        &self,
        object: &Object<'_>,
        path: &EntryPath,
        meta: &EntryMeta,
        before: Before,
        findings: &Findings,
    ) {
        let trouble = |what: &str, cause: io::Error| {
            let finding = Finding::entry(
                FindingKind::Metadata,
                path,
                format!("{what} could not be set: {cause}"),
            );
            findings.add(Finding {
                severity: Severity::Warning,
                ..finding
            });
        };
        let odd = match object {
            Object::Open(fd) => self.systems.odd_at(fd),
            Object::Node { node, .. } => self.systems.odd_at(node),
        };
        let (keeps, owner) = match odd {
            Some((keeps, stat)) => (Some(keeps), Some((stat.st_uid, stat.st_gid))),
            None => (None, before.owner),
        };
        let is_link = matches!(meta.kind, EntryKind::Symlink(_));
        let is_node = matches!(object, Object::Node { .. });
        let is_marked = before.marked && !(is_node && keeps.is_some_and(|keeps| !keeps.modes));
        let is_marked = is_marked && !is_link;
        // Before the owner: what has its time and the mark belongs to the restore, whoever owns it. What
        // has no mark is known for unfinished by its time, so it gets that last.
        if is_marked && let Err(cause) = set_mtime(object, meta, keeps.is_some()) {
            trouble("its time", cause.into());
        }
        let owned = self
            .set_owner(object, meta, owner, keeps.as_ref())
            .unwrap_or_else(|cause| {
                trouble("its owner", cause);
                false
            });
        let mut has_acl = false;
        if self.xattrs {
            has_acl = self.set_xattrs(object, meta, before.xattrs, &trouble);
        } else if before.inherits {
            // With the mode it would give others more than the snapshot does.
            remove_acls(object);
        }
        let set_time = || match set_mtime(object, meta, keeps.is_some()) {
            Ok(()) if has_time(object, meta) => {}
            Ok(()) => trouble("its time", io::Error::other(FAR_TIME)),
            Err(cause) => trouble("its time", cause.into()),
        };
        if is_marked {
            set_time();
        }
        let mode = self.mode_to_set(object, meta, owned, has_acl);
        if !is_link {
            match set_mode(object, mode) {
                Ok(()) => {}
                Err(_) if keeps.is_some_and(|keeps| !keeps.modes) => {}
                Err(cause) => trouble("its mode", cause.into()),
            }
        }
        if !is_marked {
            set_time();
        }
        if let Some(keeps) = keeps.filter(|_| !is_link) {
            self.count_lost(object, meta, mode, &keeps);
        }
    }

    /// Counts what a file system did not keep of what it was given.
    fn count_lost(&self, object: &Object<'_>, meta: &EntryMeta, mode: u32, keeps: &Keeps) {
        let stat = match object {
            Object::Open(fd) => fstat(fd),
            Object::Node { node, .. } => fstat(node),
        };
        let Ok(stat) = stat else { return };
        let count = |count: &AtomicU64| count.fetch_add(1, Ordering::Relaxed);
        if !keeps.modes && stat.st_mode & 0o7777 != mode {
            count(&self.counts.modes_not_kept);
        }
        match time_off(&stat, meta.mtime) {
            0 => 0,
            off if (0..=keeps.time_step).contains(&off) => count(&self.counts.coarse_times),
            _ => count(&self.counts.times_not_kept),
        };
    }

    /// A setuid bit belongs to the owner it was given for and to nobody else, and a mask to its ACL.
    fn mode_to_set(
        &self,
        object: &Object<'_>,
        meta: &EntryMeta,
        owned: bool,
        has_acl: bool,
    ) -> u32 {
        let mode = if has_acl {
            meta.mode & 0o7777
        } else {
            mode_without_acl(meta)
        };
        if owned || meta.kind == EntryKind::Directory || mode & 0o6000 == 0 {
            return mode;
        }
        let mode_kept = mode & !self.lost_set_id_bits(object, meta);
        if mode_kept != mode {
            self.counts.set_id_bits.fetch_add(1, Ordering::Relaxed);
        }
        mode_kept
    }

    /// The setuid and setgid bits that would give what was saved for one owner or group to another. Nobody
    /// may have set an owner, and it is the saved one all the same: whoever restores made the file.
    fn lost_set_id_bits(&self, object: &Object<'_>, meta: &EntryMeta) -> u32 {
        let (Some(saved), Some((user, group))) = (&meta.owner, owner_of(object)) else {
            return 0o6000;
        };
        let wanted = match self.ownership {
            Ownership::Number => (saved.uid, saved.gid),
            Ownership::Name | Ownership::None => self.by_name(saved),
        };
        let (is_user, is_group) = (user == wanted.0, group == wanted.1);
        // Of a program that only its group may run, another group must not get the rights of the owner.
        let is_for_group = meta.mode & 0o011 == 0o010;
        let of_user = if is_user && (is_group || !is_for_group) {
            0
        } else {
            0o4000
        };
        of_user | if is_user && is_group { 0 } else { 0o2000 }
    }

    /// Whom something is to belong to, if anybody is said.
    pub(super) fn wanted_owner(&self, meta: &EntryMeta) -> Option<(u32, u32)> {
        let saved = meta.owner.as_ref()?;
        match self.ownership {
            Ownership::None => None,
            Ownership::Number => Some((saved.uid, saved.gid)),
            Ownership::Name => Some(self.by_name(saved)),
        }
    }

    /// Returns whether the object belongs now to whom it should.
    fn set_owner(
        &self,
        object: &Object<'_>,
        meta: &EntryMeta,
        now: Option<(u32, u32)>,
        keeps: Option<&Keeps>,
    ) -> io::Result<bool> {
        let Some(wanted) = self.wanted_owner(meta) else {
            return Ok(false);
        };
        let now = now.or_else(|| owner_of(object));
        if now == Some(wanted) {
            return Ok(true);
        }
        if !self.root {
            self.counts.owners.fetch_add(1, Ordering::Relaxed);
            return Ok(false);
        }
        if keeps.is_some_and(|keeps| !keeps.owners) {
            self.counts.owners_not_kept.fetch_add(1, Ordering::Relaxed);
            return Ok(false);
        }
        // All ones means "leave as it is" to the kernel and is nobody's number.
        if wanted.0 == u32::MAX || wanted.1 == u32::MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (user, group) = (Some(Uid::from_raw(wanted.0)), Some(Gid::from_raw(wanted.1)));
        match object {
            Object::Open(fd) => fchown(fd, user, group)?,
            Object::Node { node, .. } => chownat(node, c"", user, group, AtFlags::EMPTY_PATH)?,
        }
        Ok(true)
    }

    fn by_name(&self, saved: &Owner) -> (u32, u32) {
        let known = |table: &Mutex<HashMap<String, Option<u32>>>,
                     name: Option<&str>,
                     look_up: fn(&str) -> Option<u32>| {
            let name = name?;
            let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(found) = table.get(name) {
                return *found;
            }
            *table
                .entry(name.to_owned())
                .or_insert_with(|| look_up(name))
        };
        let user = known(&self.users, saved.user.as_deref(), |name| {
            User::from_name(name)
                .ok()
                .flatten()
                .map(|user| user.uid.as_raw())
        });
        let group = known(&self.groups, saved.group.as_deref(), |name| {
            Group::from_name(name)
                .ok()
                .flatten()
                .map(|group| group.gid.as_raw())
        });
        (user.unwrap_or(saved.uid), group.unwrap_or(saved.gid))
    }

    /// Returns whether it has its ACL.
    fn set_xattrs(
        &self,
        object: &Object<'_>,
        meta: &EntryMeta,
        clean: bool,
        trouble: &dyn Fn(&str, io::Error),
    ) -> bool {
        let mut has_acl = false;
        if clean {
            remove_other_xattrs(object, meta);
        }
        // An ACL may take from the owner what the setting of others needs.
        let is_acl = |(name, _): &&(Vec<u8>, Vec<u8>)| name.starts_with(b"system.");
        let (acls, others) = (meta.xattrs.iter()).partition::<Vec<_>, _>(is_acl);
        for (name, value) in others.into_iter().chain(acls) {
            if !self.root && is_privileged(name) {
                self.counts
                    .privileged_xattrs
                    .fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let shown = || format!("attribute {}", String::from_utf8_lossy(name));
            let Ok(name) = CString::new(name.as_slice()) else {
                trouble(&shown(), io::ErrorKind::InvalidInput.into());
                continue;
            };
            let set = match object {
                Object::Open(fd) => fsetxattr(fd, &*name, value, XattrFlags::empty()),
                Object::Node { node, .. } => {
                    setxattr(through_proc(*node), &*name, value, XattrFlags::empty())
                }
            };
            let is_acl = name.to_bytes() == ACCESS_ACL.as_bytes();
            match set {
                Ok(()) => has_acl |= is_acl,
                Err(Errno::NOTSUP) => {
                    self.counts
                        .unsupported_xattrs
                        .fetch_add(1, Ordering::Relaxed);
                }
                // Who may not write into a file of theirs may not set what it has already, either.
                Err(Errno::ACCESS) if has_xattr(object, &name, value) => has_acl |= is_acl,
                Err(cause) => trouble(&shown(), cause.into()),
            }
        }
        has_acl
    }

    /// What was quietly not done, as one finding each.
    pub(super) fn report(&self, findings: &Findings) {
        let counted = [
            (
                &self.counts.owners,
                Severity::Note,
                "entries did not get their owner: that needs root",
            ),
            (
                &self.counts.owners_not_kept,
                Severity::Warning,
                "entries did not get their owner: this file system does not let it be set",
            ),
            (
                &self.counts.modes_not_kept,
                Severity::Warning,
                "entries did not get their mode: this file system does not keep it",
            ),
            (
                &self.counts.times_not_kept,
                Severity::Warning,
                "entries did not get their time: this file system does not keep it",
            ),
            (
                &self.counts.coarse_times,
                Severity::Note,
                "entries have a time that is up to two seconds too early: this file system keeps no \
                 finer ones",
            ),
            (
                &self.counts.privileged_xattrs,
                Severity::Note,
                "attributes of the namespaces security and trusted were not set: that needs root",
            ),
            (
                &self.counts.set_id_bits,
                Severity::Warning,
                "setuid or setgid bits were left out, since the owner or group they are meant for was not set",
            ),
            (
                &self.counts.unsupported_xattrs,
                Severity::Warning,
                "attributes were lost: this file system does not have them",
            ),
        ];
        for (count, severity, what) in counted {
            let number = count.load(Ordering::Relaxed);
            if number > 0 {
                let detail = format!("{number} {what}");
                findings.add(Finding::new(
                    severity,
                    FindingKind::Metadata,
                    "metadata",
                    detail,
                ));
            }
        }
    }
}

fn owner_of(object: &Object<'_>) -> Option<(u32, u32)> {
    let stat = match object {
        Object::Open(fd) => fstat(fd),
        Object::Node { node, .. } => fstat(node),
    };
    stat.ok().map(|stat| (stat.st_uid, stat.st_gid))
}

fn is_privileged(name: &[u8]) -> bool {
    name.starts_with(b"security.") || name.starts_with(b"trusted.")
}

/// The way to an object through a descriptor that is only a reference to it.
pub(super) fn through_proc(node: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", node.as_raw_fd())
}

/// Removes what the snapshot's entry does not have: an ACL that was inherited from the folder, or
/// attributes of what stood there before. What cannot be removed (the label of a security module)
/// is the system's own and stays.
fn remove_other_xattrs(object: &Object<'_>, meta: &EntryMeta) {
    let mut names = vec![0; 64 << 10];
    let listed = match object {
        Object::Open(fd) => flistxattr(fd, &mut *names),
        Object::Node { node, .. } => listxattr(through_proc(*node), &mut *names),
    };
    let Ok(length) = listed else {
        return;
    };
    for name in names
        .get(..length)
        .unwrap_or_default()
        .split(|&byte| byte == 0)
    {
        let known = meta.xattrs.iter().any(|(saved, _)| saved == name);
        if !name.is_empty() && !known {
            let _ = match object {
                Object::Open(fd) => fremovexattr(fd, name),
                Object::Node { node, .. } => removexattr(through_proc(*node), name),
            };
        }
    }
}

fn has_xattr(object: &Object<'_>, name: &CStr, value: &[u8]) -> bool {
    let mut found = vec![0; value.len() + 1];
    let length = match object {
        Object::Open(fd) => fgetxattr(fd, name, &mut *found),
        Object::Node { node, .. } => getxattr(through_proc(*node), name, &mut *found),
    };
    length.is_ok_and(|length| found.get(..length) == Some(value))
}

/// Removes the ACLs that something got from its folder.
fn remove_acls(object: &Object<'_>) {
    for name in [ACCESS_ACL, "system.posix_acl_default"] {
        let _ = match object {
            Object::Open(fd) => fremovexattr(fd, name),
            Object::Node { node, .. } => removexattr(through_proc(*node), name),
        };
    }
}

/// What is said of a time that a file system has changed.
const FAR_TIME: &str =
    "the file system keeps no time so far away, and took the nearest that it does";

/// Sets the time of the last change of content; on an `odd` file system that of the last access, too:
/// some programs set none of the two if one of them is to stay.
fn set_mtime(object: &Object<'_>, meta: &EntryMeta, odd: bool) -> Result<(), Errno> {
    // More nanoseconds than a second has would be read by the kernel as "now" or "leave".
    let nanos = meta.mtime.nanos.min(999_999_999);
    let mtime = Timespec {
        tv_sec: meta.mtime.seconds,
        tv_nsec: nanos.into(),
    };
    let omitted = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_OMIT,
    };
    let times = Timestamps {
        last_access: if odd { mtime } else { omitted },
        last_modification: mtime,
    };
    match object {
        Object::Open(fd) => futimens(fd, &times),
        Object::Node { folder, name, .. } => {
            utimensat(folder, name.as_c_str(), &times, AtFlags::SYMLINK_NOFOLLOW)
        }
    }
}

/// Whether something got its time. File systems take one that they cannot keep, and keep the last or first that they can;
/// none has fewer than those of 31 bits.
fn has_time(object: &Object<'_>, meta: &EntryMeta) -> bool {
    let wanted = meta.mtime.seconds;
    if (0..1 << 31).contains(&wanted) {
        return true;
    }
    let stat = match object {
        Object::Open(fd) => fstat(fd),
        Object::Node { folder, name, .. } => {
            statat(folder, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW)
        }
    };
    stat.is_ok_and(|stat| stat.st_mtime == wanted)
}

fn set_mode(object: &Object<'_>, mode: u32) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(mode);
    match object {
        Object::Open(fd) => fchmod(fd.as_fd(), mode),
        Object::Node { node, .. } => chmod(through_proc(*node), mode),
    }
}
