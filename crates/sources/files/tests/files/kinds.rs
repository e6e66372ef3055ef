//! What stands in the place of an entry of another kind is there until that is whole.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::support::given::*;
use crate::support::*;
use backup_core::{EntryKind, ErrorKind, FileTime, Outcome};
use backup_source_files::{FilesTargetConfig, Overwrite};

type Stand = fn(&Path);

/// What may stand in the place of an entry.
const STANDS: [Stand; 4] = [
    |path| put(path, "old"),
    |path| symlink("/important/target", path).unwrap(),
    |path| fs::create_dir(path).unwrap(),
    |path| {
        let pipe = rustix::fs::FileType::Fifo;
        let mode = rustix::fs::Mode::from_raw_mode(0o640);
        rustix::fs::mknodat(rustix::fs::CWD, path, pipe, mode, 0).unwrap();
    },
];

fn always(to: &Path) -> FilesTargetConfig {
    into(to, Overwrite::Always)
}

/// All in a folder: kind and mode, inode, content.
fn seen(to: &Path) -> BTreeMap<PathBuf, (u32, u64, Vec<u8>)> {
    let listed = fs::read_dir(to).unwrap().map(|entry| entry.unwrap().path());
    listed
        .map(|path| {
            let stat = fs::symlink_metadata(&path).unwrap();
            let content = if stat.is_file() {
                fs::read(&path).unwrap()
            } else if stat.is_symlink() {
                let target = fs::read_link(&path).unwrap();
                target.into_os_string().into_encoded_bytes()
            } else {
                Vec::new()
            };
            (path, (stat.mode(), stat.ino(), content))
        })
        .collect()
}

/// The kind that something has.
fn kind_of(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o170_000
}

#[test]
fn a_full_disk_leaves_what_stands_in_the_place_of_a_file() {
    for stand in &STANDS[1..] {
        let temp = tempfile::tempdir().unwrap();
        let Some(_mounted) = Mounted::tmpfs(temp.path(), "size=120k") else {
            return;
        };
        let to = temp.path().join("to");
        fs::create_dir(&to).unwrap();
        stand(&to.join("f"));
        let before = seen(&to);
        let stored = [made_up(b"f", EntryKind::File, &[7; 300_000])];
        let full = restore(always(&to), &stored);
        assert_eq!(full.errors[0].kind, ErrorKind::NoSpace, "{:?}", full.errors);
        assert_eq!(seen(&to), before);
    }
}

#[test]
fn a_disk_without_inodes_leaves_what_stands_in_the_place_of_anything() {
    let entries = [
        EntryKind::Directory,
        EntryKind::Symlink(b"new".to_vec()),
        EntryKind::Fifo,
    ];
    for stand in STANDS {
        for entry in &entries {
            let temp = tempfile::tempdir().unwrap();
            let Some(_mounted) = Mounted::tmpfs(temp.path(), "size=1m,nr_inodes=40") else {
                return;
            };
            let to = temp.path().join("to");
            fs::create_dir(&to).unwrap();
            let place = to.join("f");
            stand(&place);
            let kind = kind_of(&place);
            let mut number = 0;
            while fs::File::create(temp.path().join(format!("{number}"))).is_ok() {
                number += 1;
            }
            let before = seen(&to);
            let stored = [made_up(b"f", entry.clone(), b"")];
            let full =
                restore_with(always(&to), &stored, Outcome::Committed, |_| Pumping::Whole).unwrap();
            let after = seen(&to);
            let is_same_kind = kind == 0o170_000 & entry.type_bits();
            if is_same_kind && !matches!(entry, EntryKind::Symlink(_)) {
                assert!(full.errors.is_empty(), "{:?}", full.errors);
                continue;
            }
            assert!(!full.errors.is_empty(), "{entry:?}");
            assert_eq!(after.get(&place), before.get(&place), "{entry:?}");
            for number in 0..3 {
                fs::remove_file(temp.path().join(format!("{number}"))).unwrap();
            }
            let restored = restore(always(&to), &stored);
            assert!(restored.errors.is_empty(), "{:?}", restored.errors);
            assert_eq!(kind_of(&place), 0o170_000 & entry.type_bits());
        }
    }
}

#[test]
fn content_that_cannot_be_had_leaves_what_stands_in_the_place_of_a_file() {
    for stand in &STANDS[1..] {
        let temp = tempfile::tempdir().unwrap();
        let to = temp.path().join("to");
        fs::create_dir(&to).unwrap();
        stand(&to.join("f"));
        let before = seen(&to);
        let stored = [made_up(b"f", EntryKind::File, &[7; 300_000])];
        let failed = |_: &_| Pumping::Failed;
        restore_with(always(&to), &stored, Outcome::Committed, failed).unwrap();
        assert_eq!(seen(&to), before);
        // Interrupted, the new file waits beside it.
        let half = |_: &_| Pumping::Half;
        restore_with(always(&to), &stored, Outcome::Abandoned, half).unwrap();
        let cut = seen(&to);
        assert!(before.iter().all(|(path, was)| cut.get(path) == Some(was)));
        let restored = restore(always(&to), &stored);
        assert!(restored.errors.is_empty(), "{:?}", restored.errors);
        assert_eq!(fs::read(to.join("f")).unwrap(), [7; 300_000]);
        assert_eq!(seen(&to).len(), 1);
    }
}

#[test]
fn a_folder_gives_way_to_a_file_only_if_all_of_it_may_go() {
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("to");
    put(&to.join("f/sub/mine"), "mine");
    let stored = [made_up(b"f", EntryKind::File, b"saved")];
    let refused = restore(always(&to), &stored);
    assert_eq!(refused.errors[0].kind, ErrorKind::Conflict);
    let deletes = FilesTargetConfig {
        delete: true,
        ..always(&to)
    };
    let failed = |_: &_| Pumping::Failed;
    restore_with(deletes.clone(), &stored, Outcome::Committed, failed).unwrap();
    assert_eq!(fs::read(to.join("f/sub/mine")).unwrap(), b"mine");
    let restored = restore(deletes, &stored);
    assert!(restored.errors.is_empty(), "{:?}", restored.errors);
    assert_eq!(fs::read(to.join("f")).unwrap(), b"saved");
    assert_eq!(restored.report.deleted, 2);
}

#[test]
fn everything_replaces_everything() {
    let entries = [
        EntryKind::Directory,
        EntryKind::File,
        EntryKind::Symlink(b"new".to_vec()),
        EntryKind::Fifo,
    ];
    for stand in STANDS {
        for entry in &entries {
            let temp = tempfile::tempdir().unwrap();
            let to = temp.path().join("to");
            fs::create_dir(&to).unwrap();
            stand(&to.join("f"));
            let stored = [made_up(b"f", entry.clone(), b"")];
            let restored = restore(always(&to), &stored);
            assert!(restored.errors.is_empty(), "{:?}", restored.errors);
            assert!(restored.report.findings.is_empty(), "{:?}", restored.report);
            assert_eq!(kind_of(&to.join("f")), 0o170_000 & entry.type_bits());
            if !matches!(entry, EntryKind::Symlink(_)) {
                let mode = fs::metadata(to.join("f")).unwrap().permissions().mode();
                assert_eq!(mode & 0o7777, 0o644);
            }
            assert_eq!(seen(&to).len(), 1);
        }
    }
}

#[test]
fn what_stands_in_the_place_of_a_further_name_stays_until_the_first_is_whole() {
    for stand in STANDS {
        let temp = tempfile::tempdir().unwrap();
        let to = temp.path().join("to");
        fs::create_dir(&to).unwrap();
        stand(&to.join("b"));
        let before = seen(&to);
        let linked = |name: &[u8]| {
            let mut stored = made_up(name, EntryKind::File, b"saved");
            stored.entry.meta.link_group = Some(7);
            stored
        };
        let stored = [linked(b"a"), linked(b"b")];
        let failed = |_: &_| Pumping::Failed;
        restore_with(always(&to), &stored, Outcome::Committed, failed).unwrap();
        assert_eq!(seen(&to).get(&to.join("b")), before.get(&to.join("b")));
        let restored = restore(always(&to), &stored);
        assert!(restored.errors.is_empty(), "{:?}", restored.errors);
        let inode = |name: &str| fs::metadata(to.join(name)).unwrap().ino();
        assert_eq!(inode("a"), inode("b"));
        assert_eq!(fs::read(to.join("b")).unwrap(), b"saved");
        assert_eq!(seen(&to).len(), 2);
    }
}

/// A file system that has no such time takes the nearest, and nobody is left to think that it is the saved one.
#[test]
fn a_time_that_a_file_system_cannot_keep_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("out");
    let far = |path: &[u8], kind: EntryKind, seconds| {
        let mut stored = made_up(path, kind, b"");
        stored.entry.meta.mtime = FileTime { seconds, nanos: 0 };
        stored
    };
    let link = EntryKind::Symlink(b"somewhere".to_vec());
    let stored = [
        far(b"file", EntryKind::File, 99_999_999_999),
        far(b"folder", EntryKind::Directory, 99_999_999_999),
        far(b"link", link, -9_999_999_999),
        far(b"old", EntryKind::File, -1),
        far(b"soon", EntryKind::File, 1 << 31),
    ];
    let restored = restore(into(&out, Overwrite::Never), &stored);
    for one in &stored {
        let path = out.join(os(&one.entry.path.to_slashed()));
        let is_kept = fs::symlink_metadata(path).unwrap().mtime() == one.entry.meta.mtime.seconds;
        let subject = format!("/{}", one.entry.path);
        let found = restored.report.findings.iter();
        let told = found.filter(|found| found.subject == subject).count();
        assert_eq!(told, usize::from(!is_kept), "{subject}");
    }
}
