//! What a restore that was broken off had finished: after a power loss it is compared, after a kill it is
//! its user's.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::support::given::*;
use crate::support::*;
use backup_core::{EntryKind, Outcome};
use backup_source_files::Overwrite;

/// What stands in the target folder until nothing is left unfinished.
const MARKER: &str = ".backstay-unfinished";

fn names(folder: &Path) -> BTreeSet<String> {
    let listed = fs::read_dir(folder).unwrap();
    listed
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// As if power had been lost: on another mount nothing is known of what was in memory.
fn lose_power(to: &Path) {
    let lines = fs::read_to_string(to.join(MARKER)).unwrap();
    let at = lines.find("\nmount ").unwrap() + 1;
    let file = fs::File::options()
        .write(true)
        .open(to.join(MARKER))
        .unwrap();
    let line = format!("mount {:>31}\n", "0123456789abcdef");
    file.write_all_at(line.as_bytes(), at as u64).unwrap();
}

#[test]
fn what_a_power_loss_took_after_it_was_finished_is_restored_again() {
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("to");
    let stored = [
        made_up(b"lost", EntryKind::File, &[7; 5000]),
        made_up(b"mine", EntryKind::File, &[8; 5000]),
        made_up(b"unfinished", EntryKind::File, &[9; 5000]),
    ];
    let never = into(&to, Overwrite::Never);
    let half = |path: &backup_core::EntryPath| match path.to_string().as_str() {
        "unfinished" => Pumping::Half,
        _ => Pumping::Whole,
    };
    let _ = restore_with(never.clone(), &stored, Outcome::Abandoned, half).unwrap();
    lose_power(&to);
    // What the file system did not write is gone; name, mode and time are there.
    let lost = fs::File::options()
        .write(true)
        .open(to.join("lost"))
        .unwrap();
    let time = lost.metadata().unwrap().modified().unwrap();
    lost.set_len(0).unwrap();
    lost.set_modified(time).unwrap();
    // This one was changed by its user, who wants to keep it.
    put(&to.join("mine"), "mine");
    let again = restore(never, &stored);
    assert!(again.errors.is_empty(), "{:?}", again.errors);
    assert_eq!(fs::read(to.join("lost")).unwrap(), [7; 5000]);
    assert_eq!(fs::read_to_string(to.join("mine")).unwrap(), "mine");
    assert_eq!(fs::read(to.join("unfinished")).unwrap(), [9; 5000]);
    assert_eq!(names(&to).len(), 3);
}

/// A kill takes nothing that was written: what differs from the snapshot then was changed by its user,
/// whatever time it has.
#[test]
fn what_its_user_changed_after_a_kill_stays_even_if_it_kept_its_time() {
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("to");
    let stored = [
        made_up(b"mine", EntryKind::File, &[8; 5000]),
        made_up(b"unfinished", EntryKind::File, &[9; 5000]),
    ];
    let never = into(&to, Overwrite::Never);
    let half = |path: &backup_core::EntryPath| match path.to_string().as_str() {
        "unfinished" => Pumping::Half,
        _ => Pumping::Whole,
    };
    for _ in 0..2 {
        let _ = restore_with(never.clone(), &stored, Outcome::Abandoned, half).unwrap();
        if has_mounts(&to) {
            let file = fs::File::options()
                .write(true)
                .open(to.join("mine"))
                .unwrap();
            let time = file.metadata().unwrap().modified().unwrap();
            file.write_all_at(b"an edit", 100).unwrap();
            file.set_modified(time).unwrap();
        }
    }
    if !has_mounts(&to) {
        eprintln!("skipped: this kernel does not number mounts");
        return;
    }
    let again = restore(never, &stored);
    assert!(again.errors.is_empty(), "{:?}", again.errors);
    let mine = fs::read(to.join("mine")).unwrap();
    assert_eq!(&mine[100..107], b"an edit");
    assert_eq!(fs::read(to.join("unfinished")).unwrap(), [9; 5000]);
    assert_eq!(names(&to).len(), 2);
}

fn has_mounts(to: &Path) -> bool {
    let lines = fs::read_to_string(to.join(MARKER)).unwrap();
    let mount = lines.lines().find(|line| line.starts_with("mount "));
    mount.is_some_and(|line| !line.ends_with(" -"))
}

/// Even after a power loss: nobody finished a file after the time that was kept for that.
#[test]
fn what_its_user_changed_long_after_a_power_loss_stays_even_if_it_kept_its_time() {
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("to");
    let stored = [
        made_up(b"mine", EntryKind::File, &[8; 5000]),
        made_up(b"unfinished", EntryKind::File, &[9; 5000]),
    ];
    let never = into(&to, Overwrite::Never);
    let half = |path: &backup_core::EntryPath| match path.to_string().as_str() {
        "unfinished" => Pumping::Half,
        _ => Pumping::Whole,
    };
    let _ = restore_with(never.clone(), &stored, Outcome::Abandoned, half).unwrap();
    lose_power(&to);
    // The restore was killed that much earlier.
    let lines = fs::read_to_string(to.join(MARKER)).unwrap();
    let at = lines.find("\nuntil ").unwrap() + 1;
    let since = lines.lines().next().unwrap().split_whitespace().nth(1);
    let marker = fs::File::options()
        .write(true)
        .open(to.join(MARKER))
        .unwrap();
    let line = format!("until {:>31}\n", since.unwrap());
    marker.write_all_at(line.as_bytes(), at as u64).unwrap();
    let file = fs::File::options()
        .write(true)
        .open(to.join("mine"))
        .unwrap();
    let time = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(b"an edit", 100).unwrap();
    file.set_modified(time).unwrap();
    let again = restore(never, &stored);
    assert!(again.errors.is_empty(), "{:?}", again.errors);
    assert_eq!(&fs::read(to.join("mine")).unwrap()[100..107], b"an edit");
}
