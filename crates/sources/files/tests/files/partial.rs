//! What there is of files of which a part is lost.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::support::given::*;
use crate::support::*;
use backup_core::{EntryKind, EntryPath, EntryWriter, Outcome, Target as _};
use backup_source_files::{FilesTarget, Overwrite};

fn names(folder: &Path) -> BTreeSet<String> {
    let listed = fs::read_dir(folder).unwrap();
    listed
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Restores an entry of which the second half is lost. Returns where the first is.
fn half(to: &Path, stored: &Stored) -> Option<EntryPath> {
    let cx = context();
    let target = FilesTarget::new(into(to, Overwrite::Always));
    let plan = block_on(target.plan(&cx, &request(to))).unwrap();
    let restore = block_on(target.begin(&cx, plan)).unwrap();
    let writer = restore.start(&cx, &stored.entry).unwrap();
    let (at, content) = &stored.data[0];
    let middle = content.len() / 2;
    if let EntryWriter::Positional(writer) = &writer {
        let mut there = vec![0; middle];
        let is_there = writer.read_at(*at, &mut there).unwrap() == middle;
        if writer.had_content() && is_there && there == content[..middle] {
            writer.keep(*at..middle as u64);
        } else {
            writer.write_at(*at, &content[..middle]).unwrap();
        }
    }
    let lost = middle as u64..content.len() as u64;
    let lost = std::slice::from_ref(&lost);
    let kept = restore.finish_in_part(&cx, &stored.entry, writer, lost);
    let _ = block_on(restore.close(&cx, Outcome::Abandoned)).unwrap();
    kept.unwrap()
}

#[test]
fn the_rest_never_takes_the_place_of_anything() {
    let mut whole = made_up(b"file", EntryKind::File, &[7; 100_000]);
    whole.entry.meta.mode = 0o4755;
    for (old, is_taken_up) in [(false, false), (true, false), (true, true)] {
        let temp = tempfile::tempdir().unwrap();
        let to = temp.path().join("to");
        fs::create_dir(&to).unwrap();
        if old {
            // As long, and with zeros where a part is lost: it is not what was saved all the same.
            let mut there = vec![7; 50_000];
            there.resize(100_000, 0);
            put(&to.join("file"), there);
        }
        if is_taken_up {
            let config = into(&to, Overwrite::Always);
            let begun = |_: &EntryPath| Pumping::Half;
            let stored = std::slice::from_ref(&whole);
            put(&to.join("file"), "old");
            let _ = restore_with(config, stored, Outcome::Abandoned, begun).unwrap();
            let is_beside = |name: &String| name.starts_with(".backstay-new-");
            assert!(names(&to).iter().any(is_beside));
        }
        let before = fs::read(to.join("file")).ok();
        let inode = |name: &str| fs::metadata(to.join(name)).ok().map(|meta| meta.ino());
        let there = inode("file");
        put(&to.join("file.backstay-partial"), "mine");
        let kept = half(&to, &whole).unwrap();
        assert_eq!(kept.to_string(), "file.backstay-partial-2");
        let mut wanted = vec![7; 50_000];
        wanted.resize(100_000, 0);
        let partial = to.join(kept.to_string());
        assert_eq!(fs::read(&partial).unwrap(), wanted);
        assert_eq!(fs::metadata(&partial).unwrap().mode() & 0o7777, 0o755);
        assert_eq!(fs::read(to.join("file")).ok(), before);
        assert_eq!(inode("file"), there);
        assert_eq!(fs::read(to.join("file.backstay-partial")).unwrap(), b"mine");
        let left = names(&to);
        assert_eq!(left.len(), if old { 3 } else { 2 }, "{left:?}");
    }
}

#[test]
fn a_long_name_gets_the_ending_all_the_same() {
    let temp = tempfile::tempdir().unwrap();
    let name = "\u{8cc7}".repeat(85);
    let stored = made_up(name.as_bytes(), EntryKind::File, &[7; 1000]);
    let kept = half(temp.path(), &stored).unwrap().to_string();
    assert!(
        kept.ends_with(".backstay-partial") && kept.len() > 230,
        "{kept}"
    );
    assert_eq!(names(temp.path()), [kept].into());
}
