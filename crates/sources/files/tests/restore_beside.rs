//! What stands in the place of a file is there until the new one is whole.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Seek as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use backup_core::{EntryKind, ErrorKind, Outcome};
use backup_source_files::{FilesTargetConfig, Overwrite};
use support::given::*;
use support::*;

const OLD: &str = "old content, and all that there is of it";

/// The names in a folder.
fn names(folder: &Path) -> BTreeSet<String> {
    let listed = fs::read_dir(folder).unwrap();
    listed
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn always(to: &Path) -> FilesTargetConfig {
    into(to, Overwrite::Always)
}

/// A file of a snapshot that differs from [`OLD`], and the folder in which that stands.
fn old_and_new(temp: &Path) -> (std::path::PathBuf, Vec<Stored>) {
    let to = temp.join("to");
    put(&to.join("file"), OLD);
    fs::set_permissions(to.join("file"), fs::Permissions::from_mode(0o640)).unwrap();
    let new = made_up(b"file", EntryKind::File, &[7; 100_000]);
    (to, vec![new])
}

fn stands_as_it_was(to: &Path) {
    assert_eq!(fs::read_to_string(to.join("file")).unwrap(), OLD);
    let mode = fs::metadata(to.join("file")).unwrap().mode() & 0o7777;
    assert_eq!(mode, 0o640);
}

#[test]
fn a_file_that_cannot_be_had_leaves_the_old_one_as_it_was() {
    let temp = tempfile::tempdir().unwrap();
    let (to, stored) = old_and_new(temp.path());
    let failed = restore_with(always(&to), &stored, Outcome::Committed, |_| {
        Pumping::Failed
    })
    .unwrap();
    assert!(failed.errors.is_empty(), "{:?}", failed.errors);
    stands_as_it_was(&to);
    assert_eq!(names(&to), ["file".to_owned()].into());
}

#[test]
fn a_full_disk_leaves_the_old_file_as_it_was() {
    let temp = tempfile::tempdir().unwrap();
    let Some(_mounted) = Mounted::tmpfs(temp.path(), "size=64k") else {
        return;
    };
    let (to, stored) = old_and_new(temp.path());
    let full = restore(always(&to), &stored);
    assert_eq!(full.errors[0].kind, ErrorKind::NoSpace, "{:?}", full.errors);
    stands_as_it_was(&to);
    assert_eq!(names(&to), ["file".to_owned()].into());
}

#[test]
fn whoever_has_the_old_file_open_reads_it_to_its_end() {
    let temp = tempfile::tempdir().unwrap();
    let (to, stored) = old_and_new(temp.path());
    let mut reader = fs::File::open(to.join("file")).unwrap();
    let restored = restore(always(&to), &stored);
    assert!(restored.errors.is_empty(), "{:?}", restored.errors);
    let mut read = String::new();
    reader.rewind().unwrap();
    reader.read_to_string(&mut read).unwrap();
    assert_eq!(read, OLD);
    assert_eq!(fs::read(to.join("file")).unwrap(), [7; 100_000]);
    assert_eq!((restored.report.written, restored.report.skipped), (1, 0));
    assert_eq!(names(&to), ["file".to_owned()].into());
}

#[test]
fn what_is_the_same_is_not_written_again_and_gets_the_metadata() {
    let temp = tempfile::tempdir().unwrap();
    let (to, stored) = old_and_new(temp.path());
    fs::write(to.join("file"), [7; 100_000]).unwrap();
    let inode = fs::metadata(to.join("file")).unwrap().ino();
    let restored = restore(always(&to), &stored);
    assert!(restored.errors.is_empty(), "{:?}", restored.errors);
    let meta = fs::metadata(to.join("file")).unwrap();
    assert_eq!((restored.bytes, meta.ino()), (0, inode));
    assert_eq!(meta.mode() & 0o7777, stored[0].entry.meta.mode);
    assert_eq!((restored.report.written, restored.report.skipped), (0, 1));
}

#[test]
fn an_interrupted_replacement_is_taken_up_by_the_next_restore() {
    let temp = tempfile::tempdir().unwrap();
    let (to, stored) = old_and_new(temp.path());
    let cut = restore_with(always(&to), &stored, Outcome::Abandoned, |_| Pumping::Half).unwrap();
    assert!(cut.errors.is_empty(), "{:?}", cut.errors);
    stands_as_it_was(&to);
    let beside = to.join(".backstay-new-file");
    let inode = fs::metadata(&beside).unwrap().ino();
    // Whatever is right of what it left is kept.
    fs::write(&beside, [7; 100_000]).unwrap();
    let again = restore(always(&to), &stored);
    assert!(again.errors.is_empty(), "{:?}", again.errors);
    assert_eq!(again.bytes, 0);
    assert_eq!(fs::read(to.join("file")).unwrap(), [7; 100_000]);
    assert_eq!(fs::metadata(to.join("file")).unwrap().ino(), inode);
    assert_eq!(names(&to), ["file".to_owned()].into());
}

#[test]
fn a_file_of_somebody_else_beside_it_is_named_and_stays() {
    let temp = tempfile::tempdir().unwrap();
    let (to, stored) = old_and_new(temp.path());
    put(&to.join(".backstay-new-file"), "mine");
    let refused = restore(always(&to), &stored);
    let said = refused.errors[0].to_string();
    assert!(said.contains(".backstay-new-file is in the way"), "{said}");
    stands_as_it_was(&to);
    let mine = fs::read_to_string(to.join(".backstay-new-file")).unwrap();
    assert_eq!(mine, "mine");
}

#[test]
fn a_file_goes_in_place_only_when_asked_to() {
    let temp = tempfile::tempdir().unwrap();
    let (to, stored) = old_and_new(temp.path());
    let inode = fs::metadata(to.join("file")).unwrap().ino();
    let config = FilesTargetConfig {
        in_place: true,
        ..always(&to)
    };
    let restored = restore(config, &stored);
    assert!(restored.errors.is_empty(), "{:?}", restored.errors);
    assert_eq!(fs::read(to.join("file")).unwrap(), [7; 100_000]);
    assert_eq!(fs::metadata(to.join("file")).unwrap().ino(), inode);
}

#[test]
fn holes_and_what_was_kept_are_in_the_new_file() {
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("to");
    let mut old = vec![9; 700_000];
    old[400_000..600_000].fill(3);
    put(&to.join("file"), &old);
    let mut stored = made_up(b"file", EntryKind::File, &[]);
    stored.entry.size = 2_000_000;
    // The pump goes from the end to the start: one part is kept before the first difference.
    stored.data = vec![(100_000, vec![5; 1000]), (400_000, vec![3; 200_000])];
    let restored = restore(always(&to), &[stored]);
    assert!(restored.errors.is_empty(), "{:?}", restored.errors);
    assert_eq!(restored.bytes, 1000);
    let mut want = vec![0; 2_000_000];
    want[100_000..101_000].fill(5);
    want[400_000..600_000].fill(3);
    assert_eq!(fs::read(to.join("file")).unwrap(), want);
}
