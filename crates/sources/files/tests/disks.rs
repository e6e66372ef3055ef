//! Restores to file systems that keep no modes or owners: a FAT stick, a share, a folder that belongs
//! to one user whoever writes.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that runs itself and tells itself where"
)]

#[path = "files/support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::disks::{Disk, KINDS, Kind, NO_DISKS};
use crate::support::given::*;
use crate::support::traced::{can_trace, traced};
use crate::support::*;
use backup_core::{EntryKind, EntryWriter, Severity, Target as _};
use backup_source_files::{FilesTarget, FilesTargetConfig, Overwrite};

/// Where a process of this program is to restore to, and what does so.
const TO: &str = "BACKSTAY_TEST_TO";
const TEST: &str = "restores_where_it_is_told";

/// A time of which FAT, with its steps of two seconds, loses all that it can.
const TIME: i64 = 1_000_000_001;

fn text(number: usize, length: usize) -> Vec<u8> {
    let signs =
        (0..length).map(|at| b'a' + u8::try_from((number * 7 + at * 13 + at / 97) % 26).unwrap());
    signs.collect()
}

/// Files in folders, of which some come in parts and one has a hole.
fn wanted() -> Vec<Stored> {
    let mut all = Vec::new();
    for folder in ["a", "b", "b/c"] {
        all.push(made_up(folder.as_bytes(), EntryKind::Directory, b""));
        for number in 0..3 {
            let path = format!("{folder}/file {number}");
            let content = text(number, 1 + 20_000 * number);
            let mut stored = made_up(path.as_bytes(), EntryKind::File, &content);
            let parts = content.chunks(15_000).enumerate();
            stored.data =
                (parts.map(|(part, bytes)| (part as u64 * 15_000, bytes.to_vec()))).collect();
            if number == 2 {
                stored.data.remove(1);
            }
            all.push(stored);
        }
    }
    for stored in &mut all {
        // FAT and exFAT have no times before 1980.
        stored.entry.meta.mtime.seconds = TIME;
    }
    all.sort_by(|one, other| one.entry.path.cmp(&other.entry.path));
    all
}

fn content(stored: &Stored) -> Vec<u8> {
    let mut content = vec![0; usize::try_from(stored.entry.size).unwrap()];
    for (at, bytes) in &stored.data {
        let at = usize::try_from(*at).unwrap();
        content[at..at + bytes.len()].copy_from_slice(bytes);
    }
    content
}

fn at(to: &Path, stored: &Stored) -> PathBuf {
    to.join(os(&stored.entry.path.to_slashed()))
}

/// Everything is there, byte for byte, and nothing else.
fn is_whole(to: &Path, stored: &[Stored], what: &str) {
    let there: BTreeSet<_> = tree(to).into_keys().map(|path| to.join(path)).collect();
    let mut wanted: BTreeSet<_> = stored.iter().map(|stored| at(to, stored)).collect();
    wanted.insert(to.join(""));
    assert_eq!(there, wanted, "{what}");
    for stored in stored {
        let path = at(to, stored);
        if stored.entry.meta.kind == EntryKind::File {
            assert!(
                fs::read(&path).unwrap() == content(stored),
                "{what}: {path:?}"
            );
            let time = fs::metadata(&path).unwrap().modified().unwrap();
            let wanted = std::time::UNIX_EPOCH
                + std::time::Duration::new(stored.entry.meta.mtime.seconds.unsigned_abs(), 7);
            let off = wanted.duration_since(time).unwrap();
            assert!(off.as_millis() < 2000, "{what}: {path:?} {time:?}");
        }
    }
}

/// Begins all of them, writes some of each, and gets no further.
fn broken_off(config: &FilesTargetConfig, stored: &[Stored]) {
    let cx = context();
    let target = FilesTarget::new(config.clone());
    let plan = block_on(target.plan(&cx, &request(&config.folder))).unwrap();
    let restore = block_on(target.begin(&cx, plan)).unwrap();
    for stored in stored {
        if let EntryWriter::Positional(writer) = restore.start(&cx, &stored.entry).unwrap() {
            let (at, bytes) = &stored.data[0];
            writer
                .write_at(*at, &bytes[..bytes.len().div_ceil(2)])
                .unwrap();
        }
    }
}

/// What the process does that is killed.
#[test]
fn restores_where_it_is_told() {
    if let Ok(to) = env::var(TO) {
        restore(into(Path::new(&to), Overwrite::Never), &wanted());
    }
}

/// The calls that change something.
const CALLS: [&str; 9] = [
    "pwrite64",
    "openat",
    "renameat",
    "renameat2",
    "unlinkat",
    "ftruncate",
    "mkdirat",
    "utimensat",
    "syncfs",
];

/// So many calls of a kind are tried, unless `BACKSTAY_POINTS=all`.
const MOST: usize = 6;

#[test]
fn killed_at_any_change_on_any_disk_the_next_run_restores_all_of_it() {
    if !can_trace() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let (log, stored) = (temp.path().join("log"), wanted());
    let mut tried = 0;
    let disks = Disk::all(temp.path());
    if disks.len() < KINDS.len() {
        eprintln!("{NO_DISKS}");
    }
    for disk in disks {
        let to = disk.path().join("to");
        for call in CALLS {
            let _ = fs::remove_dir_all(&to);
            let trace = format!("--trace={call}");
            let ran = traced(TEST, &[log.to_str().unwrap(), &trace])
                .env(TO, &to)
                .status();
            assert!(ran.unwrap().success(), "{:?}", disk.kind);
            is_whole(&to, &stored, "not killed");
            let lines = fs::read_to_string(&log).unwrap();
            // A call that is interrupted by another thread has two lines.
            let begins = |line: &&str| line.contains(&format!("{call}("));
            let of_restore = |line: &&str| call != "openat" || line.contains("O_RDWR");
            let count = lines.lines().filter(begins).count();
            let first = lines
                .lines()
                .filter(begins)
                .position(|line| of_restore(&line));
            let first = first.unwrap_or(count);
            let all = env::var("BACKSTAY_POINTS").is_ok_and(|points| points == "all");
            let step = if all {
                1
            } else {
                (count - first).div_ceil(MOST).max(1)
            };
            for point in (first + 1..=count).step_by(step) {
                let what = format!("{:?}, killed at {call} {point} of {count}", disk.kind);
                let _ = fs::remove_dir_all(&to);
                let inject = format!("--inject={call}:signal=KILL:when={point}");
                let ran = traced(TEST, &["/dev/null", &trace, &inject])
                    .env(TO, &to)
                    .status();
                tried += usize::from(!ran.unwrap().success());
                let again = restore(into(&to, Overwrite::Never), &stored);
                assert!(again.errors.is_empty(), "{what}: {:?}", again.errors);
                let bad = |finding: &&backup_core::Finding| finding.severity == Severity::Error;
                let bad: Vec<_> = again.report.findings.iter().filter(bad).collect();
                assert!(bad.is_empty(), "{what}: {bad:?}");
                is_whole(&to, &stored, &what);
            }
        }
    }
    println!("{tried} points");
}

#[test]
fn what_was_broken_off_is_found_again_behind_a_mount_that_numbers_files_anew() {
    let temp = tempfile::tempdir().unwrap();
    let disks = Disk::all(temp.path());
    if disks.len() < KINDS.len() {
        eprintln!("{NO_DISKS}");
    }
    for mut disk in disks {
        for there in [false, true] {
            let what = format!("{:?}, {there}", disk.kind);
            let to = disk.path().join(format!("to {there}"));
            let stored = wanted();
            let mut config = into(&to, Overwrite::Never);
            if there {
                // Every file has another content already.
                for stored in &stored {
                    let path = at(&to, stored);
                    match stored.entry.meta.kind {
                        EntryKind::Directory => fs::create_dir_all(path).unwrap(),
                        _ => put(&path, "old"),
                    }
                }
                config.overwrite = Overwrite::Always;
            }
            broken_off(&config, &stored);
            disk.again();
            let again = restore(config, &stored);
            assert!(again.errors.is_empty(), "{what}: {:?}", again.errors);
            is_whole(&to, &stored, &what);
        }
    }
}

#[test]
fn what_was_broken_off_in_place_is_finished_whatever_the_disk_keeps() {
    let temp = tempfile::tempdir().unwrap();
    let disks = Disk::all(temp.path());
    if disks.len() < KINDS.len() {
        eprintln!("{NO_DISKS}");
    }
    for disk in disks {
        let to = disk.path().join("to");
        let stored: Vec<_> = (wanted().into_iter())
            .filter(|stored| stored.entry.meta.kind == EntryKind::File)
            .collect();
        for stored in &stored {
            put(&at(&to, stored), text(9, 70_000));
        }
        let mut config = into(&to, Overwrite::Always);
        config.in_place = true;
        broken_off(&config, &stored);
        // Another part is restored meanwhile: the rest is not forgotten.
        let config = into(&to, Overwrite::Never);
        let part = restore(config.clone(), &stored[..1]);
        assert!(part.errors.is_empty(), "{:?}: {:?}", disk.kind, part.errors);
        let told = |path: &str| part.report.findings.iter().any(|one| one.subject == path);
        assert!(told("/b/c/file 2"), "{:?}", part.report.findings);
        let again = restore(config, &stored);
        assert!(
            again.errors.is_empty(),
            "{:?}: {:?}",
            disk.kind,
            again.errors
        );
        for stored in &stored {
            let is_right = fs::read(at(&to, stored)).unwrap() == content(stored);
            assert!(is_right, "{:?}: {:?}", disk.kind, stored.entry.path);
        }
        assert!(!to.join(".backstay-unfinished").exists());
    }
}

#[test]
fn what_a_disk_does_not_keep_is_told_once_and_not_for_each_file() {
    let temp = tempfile::tempdir().unwrap();
    let disks = Disk::all(temp.path());
    if disks.len() < KINDS.len() {
        eprintln!("{NO_DISKS}");
    }
    for disk in disks {
        let to = disk.path().join("to");
        let file = |number: usize| {
            let mut stored = made_up(format!("{number}").as_bytes(), EntryKind::File, b"saved");
            stored.entry.meta.mode = 0o4640;
            stored.entry.meta.owner = Some(backup_core::Owner {
                uid: 1234,
                gid: 2345,
                user: None,
                group: None,
            });
            stored.entry.meta.mtime.seconds = TIME;
            stored.entry.meta.xattrs = vec![(b"user.mime".to_vec(), b"text".to_vec())];
            stored
        };
        let stored: Vec<_> = (0..40).map(file).collect();
        let restored = restore(into(&to, Overwrite::Never), &stored);
        assert!(restored.errors.is_empty(), "{:?}", restored.errors);
        assert_eq!(restored.report.written, 40);
        let findings: Vec<_> = (restored.report.findings.iter())
            .map(|one| (one.severity, format!("{}: {}", one.subject, one.detail)))
            .collect();
        assert!(findings.len() < 7, "{:?}: {findings:?}", disk.kind);
        let says = |word: &str| {
            let warnings = findings.iter().filter(|one| one.0 == Severity::Warning);
            warnings.filter(|one| one.1.contains(word)).count()
        };
        let owners = usize::from(!matches!(disk.kind, Kind::NoModes | Kind::NoBirths));
        assert_eq!(
            says("40 entries did not get their owner"),
            owners,
            "{findings:?}"
        );
        let modes = usize::from(!matches!(disk.kind, Kind::OneOwner | Kind::NoBirths));
        assert_eq!(
            says("40 entries did not get their mode"),
            modes,
            "{findings:?}"
        );
        is_whole(&to, &stored, "told");
    }
}

#[test]
fn a_disk_with_coarse_times_gets_nothing_twice() {
    let temp = tempfile::tempdir().unwrap();
    let disks = Disk::all(temp.path());
    if disks.len() < KINDS.len() {
        eprintln!("{NO_DISKS}");
    }
    for disk in disks {
        let to = disk.path().join("to");
        let stored = wanted();
        restore(into(&to, Overwrite::IfNewer), &stored);
        let again = restore(into(&to, Overwrite::IfNewer), &stored);
        assert!(again.errors.is_empty(), "{:?}", again.errors);
        assert_eq!(
            (again.bytes, again.report.written),
            (0, 0),
            "{:?}",
            disk.kind
        );
        is_whole(&to, &stored, "twice");
        // What is older by more than a step gives way.
        put(&at(&to, &stored[2]), "old");
        set_mtime(&at(&to, &stored[2]), TIME - 4, 0);
        let again = restore(into(&to, Overwrite::IfNewer), &stored);
        assert_eq!(again.report.written, 1, "{:?}", disk.kind);
        is_whole(&to, &stored, "older");
    }
}

#[test]
fn links_and_names_that_a_disk_does_not_have_are_told_of_each() {
    let temp = tempfile::tempdir().unwrap();
    for kind in KINDS {
        let Some(disk) = Disk::new(kind, temp.path()) else {
            eprintln!("{NO_DISKS}");
            continue;
        };
        let to = disk.path().join("to");
        let named = |name: &str, content: &[u8]| made_up(name.as_bytes(), EntryKind::File, content);
        let mut link = made_up(b"link", EntryKind::Symlink(b"name".to_vec()), b"");
        link.entry.meta.mode = 0o777;
        let mut stored = vec![
            named("NAME", b"large"),
            link,
            named("name", b"small"),
            named("of two 1", b"of two"),
            named("of two 2", b"of two"),
            named("what?", b"a sign"),
        ];
        for one in &mut stored[3..5] {
            one.entry.meta.link_group = Some(7);
        }
        for round in 0..2 {
            let restored = restore(into(&to, Overwrite::Never), &stored);
            let mut bad: BTreeSet<_> = (restored.errors.iter())
                .map(|error| (error.subject.clone(), error.to_string()))
                .collect();
            bad.extend(
                (restored.report.findings.iter())
                    .filter(|finding| finding.severity == Severity::Error)
                    .map(|finding| (finding.subject.clone(), finding.detail.clone())),
            );
            let subjects: Vec<_> = bad
                .iter()
                .map(|one| one.0.trim_start_matches('/'))
                .collect();
            match kind {
                // Whichever of the two comes later.
                Kind::Fat | Kind::ExFat => {
                    let some = [["NAME", "link", "what?"], ["link", "name", "what?"]];
                    let is_one = some.iter().any(|some| subjects == *some);
                    assert!(is_one, "{kind:?} {round} {bad:?}");
                }
                _ => assert!(bad.is_empty(), "{kind:?} {round} {bad:?}"),
            }
            for one in &stored {
                let name = String::from_utf8(one.entry.path.to_slashed()).unwrap();
                if !subjects.contains(&&*name) && name != "link" {
                    assert_eq!(
                        fs::read(to.join(&name)).unwrap(),
                        content(one),
                        "{kind:?} {name}"
                    );
                }
            }
            let degraded = |one: &&backup_core::Finding| one.subject == "/of two 2";
            let degraded = restored.report.findings.iter().filter(degraded).count();
            let is_linked = crate::support::state(&to.join("of two 1")).links == 2;
            assert_eq!(
                degraded,
                usize::from(round == 0 && !is_linked),
                "{kind:?} {round}"
            );
            assert!(!to.join(".backstay-unfinished").exists());
        }
    }
}
