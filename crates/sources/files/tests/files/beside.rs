//! What stands in the place of a file is there until the new one is whole.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Seek as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use crate::support::given::*;
use crate::support::*;
use backup_core::{EntryKind, ErrorKind, Outcome, Target as _};
use backup_source_files::{FilesConfig, FilesTarget, FilesTargetConfig, Overwrite};

const MARKER: &str = ".backstay-unfinished";
/// The bytes of its lines, before any note.
const HEADER: u64 = 10 * 38;
const OLD: &str = "old content, and all that there is of it";

/// The names in a folder.
fn names(folder: &Path) -> BTreeSet<String> {
    let listed = fs::read_dir(folder).unwrap();
    listed
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// What stands beside something in a folder.
fn beside(folder: &Path) -> std::path::PathBuf {
    let names = names(folder);
    let mut beside = names
        .iter()
        .filter(|name| name.starts_with(".backstay-new-"));
    let (Some(found), None) = (beside.next(), beside.next()) else {
        panic!("{names:?}");
    };
    folder.join(found)
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
    let beside = beside(&to);
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
fn a_file_of_that_name_that_is_nobodys_leftover_stays() {
    let temp = tempfile::tempdir().unwrap();
    let (to, stored) = old_and_new(temp.path());
    put(&to.join(".backstay-new-file"), "mine");
    let restored = restore(always(&to), &stored);
    assert!(restored.errors.is_empty(), "{:?}", restored.errors);
    assert_eq!(fs::read(to.join("file")).unwrap(), [7; 100_000]);
    let mine = fs::read_to_string(to.join(".backstay-new-file")).unwrap();
    assert_eq!(mine, "mine");
    assert_eq!(names(&to).len(), 2);
}

#[test]
fn entries_that_are_named_like_files_of_a_restore_come_back() {
    let temp = tempfile::tempdir().unwrap();
    let (to, mut stored) = old_and_new(temp.path());
    let mut beside = made_up(b".backstay-new-file", EntryKind::File, b"saved");
    beside.entry.meta.mode = 0o1600;
    stored.insert(0, beside);
    for _ in 0..2 {
        let restored = restore(always(&to), &stored);
        assert!(restored.errors.is_empty(), "{:?}", restored.errors);
        let beside = fs::read_to_string(to.join(".backstay-new-file")).unwrap();
        assert_eq!(beside, "saved");
        assert_eq!(fs::read(to.join("file")).unwrap(), [7; 100_000]);
        assert_eq!(names(&to).len(), 2);
    }
    let own = made_up(b".backstay-unfinished", EntryKind::File, b"saved");
    let refused = restore(always(&to), &[own]);
    let said = refused.errors[0].to_string();
    assert!(said.contains("a restore keeps a file of its own"), "{said}");
}

/// A restore that was killed while it wrote a file beside the old one.
fn killed(to: &Path, stored: &[Stored]) -> std::path::PathBuf {
    let _ = restore_with(always(to), stored, Outcome::Abandoned, |_| Pumping::Half).unwrap();
    assert!(to.join(MARKER).exists());
    beside(to)
}

/// Restores, with one more entry that cannot be had: the restore is not finished.
fn with_a_failure(config: FilesTargetConfig, stored: &[Stored]) {
    let mut stored = stored.to_vec();
    let damaged = made_up(b"damaged", EntryKind::File, b"damaged");
    let path = damaged.entry.path.clone();
    stored.push(damaged);
    let to = config.folder.clone();
    let restored = restore_with(config, &stored, Outcome::Committed, |entry| {
        if *entry == path {
            Pumping::Failed
        } else {
            Pumping::Whole
        }
    })
    .unwrap();
    assert!(restored.errors.is_empty(), "{:?}", restored.errors);
    assert!(to.join(MARKER).exists());
    fs::remove_file(to.join("damaged")).unwrap();
    later();
}

/// Nothing that comes is of the same time as what was.
fn later() {
    std::thread::sleep(std::time::Duration::from_millis(20));
}

#[test]
fn files_of_a_user_between_two_restores_stay_whatever_their_names() {
    let temp = tempfile::tempdir().unwrap();
    let (to, stored) = old_and_new(temp.path());
    let was = killed(&to, &stored);
    // The second one gives the file its name, and is not finished.
    with_a_failure(always(&to), &stored);
    put(&to.join("file"), OLD);
    let mine = [was.clone(), to.join(".backstay-new-file")];
    for path in &mine {
        put(path, "mine");
    }
    later();
    for again in 0..3 {
        let restored = restore(always(&to), &stored);
        assert!(restored.errors.is_empty(), "{:?}", restored.errors);
        assert_eq!(fs::read(to.join("file")).unwrap(), [7; 100_000]);
        for path in &mine {
            assert_eq!(fs::read_to_string(path).unwrap(), "mine", "{again}");
        }
        assert_eq!(names(&to).len(), 3);
        put(&to.join("file"), OLD);
    }
}

#[test]
fn what_replaced_a_leftover_is_nobodys_leftover() {
    let temp = tempfile::tempdir().unwrap();
    let (to, stored) = old_and_new(temp.path());
    for never in [false, true] {
        let was = killed(&to, &stored);
        put(&to.join("mine"), "mine");
        fs::rename(to.join("mine"), &was).unwrap();
        later();
        let overwrite = if never {
            Overwrite::Never
        } else {
            Overwrite::Always
        };
        let restored = restore(into(&to, overwrite), &stored);
        assert!(restored.errors.is_empty(), "{:?}", restored.errors);
        assert_eq!(fs::read_to_string(&was).unwrap(), "mine");
        fs::remove_file(was).unwrap();
        assert_eq!(names(&to), ["file".to_owned()].into());
        put(&to.join("file"), OLD);
    }
}

#[test]
fn a_power_loss_that_took_the_notes_leaves_nothing_beside() {
    let temp = tempfile::tempdir().unwrap();
    let (to, stored) = old_and_new(temp.path());
    let was = killed(&to, &stored);
    let marker = fs::File::options().write(true).open(to.join(MARKER));
    marker.unwrap().set_len(HEADER).unwrap();
    later();
    let restored = restore(always(&to), &stored);
    assert!(restored.errors.is_empty(), "{:?}", restored.errors);
    assert_eq!(names(&to), ["file".to_owned()].into());
    assert!(!was.exists());
}

#[test]
fn a_power_loss_that_took_the_notes_leaves_nothing_beside_whatever_its_name_and_nothing_of_others()
{
    let temp = tempfile::tempdir().unwrap();
    let (to, stored) = old_and_new(temp.path());
    let was = killed(&to, &stored);
    let name = was.file_name().unwrap().to_str().unwrap();
    // The first of the names is free again.
    let numbered = name.replace("-file", "-7-file");
    fs::rename(&was, to.join(&numbered)).unwrap();
    let other = name.replace("-file", "-other");
    put(&to.join(&other), "mine");
    let marker = fs::File::options().write(true).open(to.join(MARKER));
    marker.unwrap().set_len(HEADER).unwrap();
    later();
    let restored = restore(always(&to), &stored);
    assert!(restored.errors.is_empty(), "{:?}", restored.errors);
    assert_eq!(names(&to), ["file".to_owned(), other].into());
}

/// Then nobody knows the names of what stands beside others.
#[test]
fn a_power_loss_that_took_all_that_was_kept_leaves_nothing_beside_and_nothing_of_others() {
    // Nothing is in the file, or zeros are; and the next restore is killed, too, or not.
    for (zeros, twice) in [(0, false), (100, false), (0, true)] {
        let temp = tempfile::tempdir().unwrap();
        let (to, stored) = old_and_new(temp.path());
        let others = ["000000000001", "000000000002"].map(|token| {
            let name = format!(".backstay-new-{token}-mine");
            put(&to.join(&name), "mine");
            name
        });
        let marked = fs::Permissions::from_mode(0o1600);
        fs::set_permissions(to.join(&others[0]), marked).unwrap();
        later();
        let half = |_: &backup_core::EntryPath| Pumping::Half;
        let _ = restore_with(always(&to), &stored, Outcome::Abandoned, half).unwrap();
        let was = names(&to).into_iter().find(|name| name.ends_with("-file"));
        let was = to.join(was.unwrap());
        let marker = fs::File::options().write(true).open(to.join(MARKER));
        let marker = marker.unwrap();
        marker.set_len(0).unwrap();
        marker.set_len(zeros).unwrap();
        later();
        if twice {
            let other = made_up(b"other", EntryKind::File, b"half");
            let _ = restore_with(always(&to), &[other], Outcome::Abandoned, half).unwrap();
            assert!(was.exists());
            fs::remove_file(to.join("other")).unwrap();
            later();
        }
        let restored = restore(always(&to), &stored);
        assert!(restored.errors.is_empty(), "{:?}", restored.errors);
        let [one, two] = others.clone();
        assert_eq!(names(&to), ["file".to_owned(), one, two].into());
        assert_eq!(fs::read(to.join("file")).unwrap(), [7; 100_000]);
        assert!(!to.join(MARKER).exists());
    }
}

#[test]
fn entries_come_back_that_were_leftovers_when_they_were_saved() {
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("to");
    put(&to.join("x"), "old");
    let stored = [
        made_up(b".backstay-new-x", EntryKind::File, b"half"),
        made_up(b"x", EntryKind::File, b"new"),
    ];
    let newer = into(&to, Overwrite::IfNewer);
    with_a_failure(newer.clone(), &stored);
    assert_eq!(fs::read_to_string(to.join("x")).unwrap(), "old");
    set_mtime(&to.join("x"), 1000, 0);
    let restored = restore(newer, &stored);
    assert!(restored.errors.is_empty(), "{:?}", restored.errors);
    assert_eq!(fs::read_to_string(to.join("x")).unwrap(), "new");
    let half = fs::read_to_string(to.join(".backstay-new-x")).unwrap();
    assert_eq!(half, "half");
    assert_eq!(names(&to).len(), 2);
}

#[test]
fn an_entry_and_a_leftover_of_the_same_name_do_not_meet() {
    for first in [false, true] {
        for never in [false, true] {
            let temp = tempfile::tempdir().unwrap();
            let (to, mut stored) = old_and_new(temp.path());
            let was = killed(&to, &stored);
            let name = was.file_name().unwrap().as_encoded_bytes();
            let at = if first { 0 } else { stored.len() };
            stored.insert(at, made_up(name, EntryKind::File, b"saved"));
            later();
            let overwrite = if never {
                Overwrite::Never
            } else {
                Overwrite::Always
            };
            let restored = restore(into(&to, overwrite), &stored);
            assert!(restored.errors.is_empty(), "{:?}", restored.errors);
            assert_eq!(fs::read_to_string(&was).unwrap(), "saved");
            if never {
                stands_as_it_was(&to);
            } else {
                assert_eq!(fs::read(to.join("file")).unwrap(), [7; 100_000]);
            }
            assert_eq!(names(&to).len(), 2);
        }
    }
}

#[test]
fn what_a_killed_restore_left_beside_is_gone_after_the_next_one_whatever_that_restores() {
    type Change = fn(&mut FilesTargetConfig, &mut Vec<Stored>);
    let changes: [Change; 4] = [
        |config, _| config.in_place = true,
        |config, _| config.overwrite = Overwrite::Never,
        |config, _| config.overwrite = Overwrite::IfNewer,
        |_, stored| *stored = vec![made_up(b"other", EntryKind::File, b"x")],
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let temp = tempfile::tempdir().unwrap();
        let (to, mut stored) = old_and_new(temp.path());
        let beside = killed(&to, &stored);
        let mut config = always(&to);
        change(&mut config, &mut stored);
        let again = restore(config, &stored);
        assert!(again.errors.is_empty(), "{number}: {:?}", again.errors);
        assert!(!beside.exists() && !to.join(MARKER).exists(), "{number}");
    }
}

#[test]
fn nothing_of_somebody_else_is_taken_up() {
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let (to, stored) = old_and_new(temp.path());
    let beside = killed(&to, &stored);
    put(&to.join("planted"), "planted");
    for path in [&beside, &to.join("planted")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o1600)).unwrap();
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
    }
    let mut spy = fs::File::open(&beside).unwrap();
    let mut second = fs::File::open(to.join("planted")).unwrap();
    let mut both = stored.clone();
    both.push(made_up(b"planted", EntryKind::File, b"a secret"));
    let again = restore(always(&to), &both);
    assert!(again.errors.is_empty(), "{:?}", again.errors);
    let mut read = Vec::new();
    spy.read_to_end(&mut read).unwrap();
    second.read_to_end(&mut read).unwrap();
    let secret = read.windows(8).any(|part| part == b"a secret");
    assert!(!secret && read.len() < 100_000);
    assert_eq!(fs::metadata(to.join("file")).unwrap().uid(), 0);
    assert_eq!(fs::read(to.join("planted")).unwrap(), b"a secret");
}

#[test]
fn names_of_one_file_are_replaced_together_or_not_at_all() {
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("to");
    let linked = |name: &[u8], content: &[u8]| {
        let mut stored = made_up(name, EntryKind::File, content);
        stored.entry.meta.link_group = Some(7);
        stored
    };
    let stored = [
        linked(b"a", b"new"),
        linked(b"b", b"new"),
        linked(b"c", b"new"),
    ];
    put(&to.join("a"), "old");
    fs::hard_link(to.join("a"), to.join("b")).unwrap();
    put(&to.join("c"), "else");
    let content = |name: &str| fs::read_to_string(to.join(name)).unwrap();
    let failed = restore_with(always(&to), &stored, Outcome::Committed, |_| {
        Pumping::Failed
    })
    .unwrap();
    assert!(failed.errors.is_empty(), "{:?}", failed.errors);
    assert_eq!(
        (content("a"), content("b"), content("c")),
        ("old".into(), "old".into(), "else".into())
    );
    assert_eq!(names(&to).len(), 3, "{:?}", names(&to));
    let restored = restore(always(&to), &stored);
    assert!(restored.errors.is_empty(), "{:?}", restored.errors);
    let inode = |name: &str| fs::metadata(to.join(name)).unwrap().ino();
    assert_eq!(content("a"), "new");
    assert_eq!((inode("a"), inode("a")), (inode("b"), inode("c")));
    assert_eq!((restored.report.written, restored.report.skipped), (3, 0));
    // What is right is left alone, names and all.
    let before = inode("a");
    let again = restore(always(&to), &stored);
    assert_eq!((again.bytes, inode("a"), inode("c")), (0, before, before));
    assert_eq!((again.report.written, again.report.skipped), (0, 3));
    assert_eq!(names(&to).len(), 3);
}

#[test]
fn a_folder_with_a_broken_restore_is_saved_without_the_file_of_that_and_says_so() {
    let temp = tempfile::tempdir().unwrap();
    let (to, stored) = old_and_new(temp.path());
    let _ = killed(&to, &stored);
    let saved = capture(FilesConfig::of_roots([&to]));
    let names: Vec<_> = saved
        .entries
        .iter()
        .map(|entry| entry.path.to_string())
        .collect();
    assert!(
        !names.iter().any(|name| name.ends_with(MARKER)),
        "{names:?}"
    );
    assert!(
        names.iter().any(|name| name.ends_with("/file")),
        "{names:?}"
    );
    let findings = saved.report.findings;
    assert!(
        findings
            .iter()
            .any(|finding| finding.detail.contains("was broken off")),
        "{findings:?}"
    );
}

fn owned(mut stored: Stored, uid: u32) -> Stored {
    stored.entry.meta.owner = Some(backup_core::Owner {
        uid,
        gid: uid,
        user: None,
        group: None,
    });
    stored
}

#[test]
fn a_file_that_is_right_but_somebody_elses_or_linked_elsewhere_is_replaced() {
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("to");
    let stored = [
        owned(made_up(b"planted", EntryKind::File, b"right"), 0),
        owned(made_up(b"linked", EntryKind::File, b"right"), 0),
    ];
    put(&to.join("planted"), "right");
    std::os::unix::fs::chown(to.join("planted"), Some(65534), Some(65534)).unwrap();
    put(&temp.path().join("outside"), "right");
    fs::set_permissions(
        temp.path().join("outside"),
        fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    fs::hard_link(temp.path().join("outside"), to.join("linked")).unwrap();
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    let before = (inode(&to.join("planted")), inode(&to.join("linked")));
    let restored = restore(always(&to), &stored);
    assert!(restored.errors.is_empty(), "{:?}", restored.errors);
    assert_ne!(inode(&to.join("planted")), before.0);
    assert_ne!(inode(&to.join("linked")), before.1);
    let outside = fs::metadata(temp.path().join("outside")).unwrap();
    assert_eq!((outside.mode() & 0o7777, outside.nlink()), (0o600, 1));
    assert_eq!(fs::metadata(to.join("planted")).unwrap().uid(), 0);
}

#[test]
fn what_belongs_to_others_in_the_end_is_taken_up_as_well() {
    if !is_root() {
        return;
    }
    for in_place in [false, true] {
        let temp = tempfile::tempdir().unwrap();
        let (to, stored) = old_and_new(temp.path());
        std::os::unix::fs::chown(to.join("file"), Some(1000), Some(1000)).unwrap();
        let stored: Vec<_> = stored.into_iter().map(|one| owned(one, 1000)).collect();
        let config = FilesTargetConfig {
            in_place,
            ..always(&to)
        };
        let half = |_: &backup_core::EntryPath| Pumping::Half;
        let _ = restore_with(config, &stored, Outcome::Abandoned, half).unwrap();
        // Whatever the next one is asked for, nothing stays half written or beside.
        let again = restore(into(&to, Overwrite::Never), &stored);
        assert!(again.errors.is_empty(), "{:?}", again.errors);
        assert_eq!(names(&to), ["file".to_owned()].into(), "{in_place}");
        if in_place {
            assert_eq!(fs::read(to.join("file")).unwrap(), [7; 100_000]);
            let meta = fs::metadata(to.join("file")).unwrap();
            assert_eq!((meta.uid(), meta.mode() & 0o7777), (1000, 0o644));
        } else {
            stands_as_it_was(&to);
        }
    }
}

#[test]
fn many_names_that_begin_alike_are_replaced_at_once() {
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("to");
    let name = |number: usize| format!("{}{number:05}", "n".repeat(250));
    let mut stored = Vec::new();
    for number in 0..300 {
        put(&to.join(name(number)), "old");
        let content = format!("new {number}");
        stored.push(made_up(
            name(number).as_bytes(),
            EntryKind::File,
            content.as_bytes(),
        ));
    }
    let restored = restore(always(&to), &stored);
    assert!(restored.errors.is_empty(), "{:?}", restored.errors[0]);
    for number in 0..300 {
        let content = fs::read_to_string(to.join(name(number))).unwrap();
        assert_eq!(content, format!("new {number}"));
    }
    assert_eq!(names(&to).len(), 300);
}

#[test]
fn two_restores_into_one_folder_do_not_meet() {
    let temp = tempfile::tempdir().unwrap();
    let (to, _) = old_and_new(temp.path());
    let cx = context();
    let target = FilesTarget::new(always(&to));
    let plan = block_on(target.plan(&cx, &request(&to))).unwrap();
    let first = block_on(target.begin(&cx, plan.clone())).unwrap();
    let second = block_on(target.begin(&cx, plan.clone())).unwrap_err();
    assert_eq!(second.kind, ErrorKind::Conflict, "{second}");
    drop(first);
    assert!(block_on(target.begin(&cx, plan)).is_ok());
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
