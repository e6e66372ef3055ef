use backup_core::{FileTime, Fingerprint, RepoId};
use backup_format::wire::Take;
use proptest::prelude::*;

use super::*;

fn ring() -> ObjectKeyring {
    ObjectKeyring::new(RepoId([1; 16]), &[2; 32])
}

fn entry(n: u32, size: u64) -> StateEntry {
    let time = FileTime {
        seconds: 1,
        nanos: 2,
    };
    StateEntry {
        key: format!("{n:08}").into_bytes(),
        fingerprint: Some(Fingerprint {
            size,
            mtime: time,
            ctime: time,
            inode: 3,
        }),
        record: vec![7; 200],
        lineage: vec![8; 3],
        extents: Vec::new(),
    }
}

fn write_all(paths: &StatePaths, entries: &[StateEntry], snapshot: u128) {
    let mut writer = StateWriter::new(paths.clone(), ring());
    writer.differs();
    entries.iter().for_each(|entry| writer.push(entry));
    writer.finish(SnapshotId(snapshot));
}

#[test]
fn what_a_run_wrote_the_next_one_reads() {
    let dir = tempfile::tempdir().unwrap();
    let paths = StatePaths::new(&dir.path().join("job"));
    let entries: Vec<_> = (0..10_000).map(|n| entry(n, 5)).collect();
    write_all(&paths, &entries, 9);
    let mut reader = StateReader::open(&paths, &ring());
    assert_eq!(
        (reader.parent, reader.resumes),
        (Some(SnapshotId(9)), false)
    );
    for wanted in entries.iter().step_by(7) {
        assert_eq!(reader.seek(&wanted.key).complete.as_ref(), Some(wanted));
    }
    assert!(reader.has_passed_over());
    assert_eq!(reader.seek(b"zzz").newest(), None);
}

#[test]
fn a_killed_run_is_taken_up_from_its_mark() {
    let dir = tempfile::tempdir().unwrap();
    let paths = StatePaths::new(&dir.path().join("job"));
    write_all(&paths, &[entry(1, 5), entry(2, 5), entry(3, 5)], 9);
    let mut writer = StateWriter::new(paths.clone(), ring());
    writer.differs();
    writer.push(&entry(1, 6));
    writer.mark();
    writer.push(&entry(2, 6));
    drop(writer);
    let mut reader = StateReader::open(&paths, &ring());
    assert!(reader.resumes);
    let known = reader.seek(b"00000001");
    assert_eq!(known.complete, Some(entry(1, 5)), "as the snapshot has it");
    assert_eq!(known.newest(), Some(entry(1, 6)));
    let known = reader.seek(b"00000002");
    assert_eq!(known.newest(), Some(entry(2, 5)), "behind the mark");
}

#[test]
fn a_run_that_changes_late_keeps_what_was_before() {
    let dir = tempfile::tempdir().unwrap();
    let paths = StatePaths::new(&dir.path().join("job"));
    write_all(&paths, &[entry(1, 5), entry(2, 5), entry(3, 5)], 9);
    let mut writer = StateWriter::new(paths.clone(), ring());
    assert!(writer.same() && writer.same());
    writer.differs();
    assert!(!writer.same());
    writer.push(&entry(3, 6));
    writer.finish(SnapshotId(10));
    let mut reader = StateReader::open(&paths, &ring());
    assert_eq!(reader.seek(b"00000002").newest(), Some(entry(2, 5)));
    assert_eq!(reader.seek(b"00000003").newest(), Some(entry(3, 6)));
    assert_eq!(reader.parent, Some(SnapshotId(10)));
}

#[test]
fn a_state_is_never_in_the_place_of_one_with_another_name() {
    let dir = tempfile::tempdir().unwrap();
    let paths = StatePaths::new(&dir.path().join("job"));
    write_all(&paths, &[entry(1, 5)], 9);
    // What cannot be removed stands for a run that is killed before it renames.
    let name = fs::read(&paths.parent).unwrap();
    fs::remove_file(&paths.parent).unwrap();
    fs::create_dir(&paths.parent).unwrap();
    write_all(&paths, &[entry(1, 6)], 10);
    fs::remove_dir(&paths.parent).unwrap();
    fs::write(&paths.parent, name).unwrap();
    let mut reader = StateReader::open(&paths, &ring());
    assert_eq!(reader.parent, Some(SnapshotId(9)));
    assert_eq!(reader.seek(b"00000001").newest(), Some(entry(1, 5)));
}

#[test]
fn a_run_without_changes_names_only_the_state_that_it_has_read() {
    let dir = tempfile::tempdir().unwrap();
    let paths = StatePaths::new(&dir.path().join("job"));
    write_all(&paths, &[entry(1, 5)], 9);
    let mut writer = StateWriter::new(paths.clone(), ring());
    assert!(writer.same());
    write_all(&paths, &[entry(1, 6)], 10);
    writer.finish(SnapshotId(11));
    assert_eq!(paths.parent(&ring()), Some(SnapshotId(10)));
    let mut writer = StateWriter::new(paths.clone(), ring());
    assert!(writer.same());
    writer.finish(SnapshotId(12));
    assert_eq!(paths.parent(&ring()), Some(SnapshotId(12)));
}

#[test]
fn of_two_runs_at_once_one_keeps_a_state() {
    let dir = tempfile::tempdir().unwrap();
    let paths = StatePaths::new(&dir.path().join("job"));
    let mut first = StateWriter::new(paths.clone(), ring());
    first.differs();
    first.push(&entry(1, 5));
    let mut second = StateWriter::new(paths.clone(), ring());
    second.differs();
    second.push(&entry(2, 6));
    second.finish(SnapshotId(10));
    first.finish(SnapshotId(9));
    let mut reader = StateReader::open(&paths, &ring());
    assert_eq!(reader.parent, Some(SnapshotId(9)));
    assert_eq!(reader.seek(b"00000001").newest(), Some(entry(1, 5)));
}

#[test]
fn a_damaged_state_ends_early_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let paths = StatePaths::new(&dir.path().join("job"));
    let entries: Vec<_> = (0..10_000).map(|n| entry(n, 5)).collect();
    write_all(&paths, &entries, 9);
    let mut bytes = fs::read(&paths.complete).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&paths.complete, bytes).unwrap();
    let mut reader = StateReader::open(&paths, &ring());
    assert_eq!(
        reader.seek(&entries[0].key).newest().as_ref(),
        Some(&entries[0])
    );
    assert_eq!(reader.seek(&entries[9999].key).newest(), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_a_state_file_holds_only_true_entries_are_read(
        at: prop::sample::Index, noise in prop::collection::vec(any::<u8>(), 1..40), cut: bool
    ) {
        let dir = tempfile::tempdir().unwrap();
        let paths = StatePaths::new(&dir.path().join("job"));
        let entries: Vec<_> = (0..6000).map(|n| entry(n, 5)).collect();
        write_all(&paths, &entries, 9);
        let mut bytes = fs::read(&paths.complete).unwrap();
        let at = at.index(bytes.len());
        if cut {
            bytes.truncate(at);
        }
        // Over what is there, or behind where it was cut.
        let end = bytes.len().min(at + noise.len());
        bytes.splice(at..end, noise);
        fs::write(&paths.complete, &bytes).unwrap();
        let mut reader = StateReader::open(&paths, &ring());
        for wanted in &entries {
            let Some(found) = reader.seek(&wanted.key).newest() else { break };
            prop_assert_eq!(&found, wanted);
        }
        fs::write(&paths.mark, &bytes[..bytes.len().min(8)]).unwrap();
        fs::write(&paths.parent, &bytes).unwrap();
        prop_assert_eq!(StateReader::open(&paths, &ring()).parent, None);
    }

    #[test]
    fn any_bytes_are_entries_or_refused(bytes: Vec<u8>, at: prop::sample::Index, value: u8) {
        let mut stored = Vec::new();
        entry(1, 5).encode(&mut stored);
        let at = at.index(stored.len());
        stored[at] = value;
        for bytes in [bytes, stored] {
            if let Ok(read) = StateEntry::decode(&mut Take::new(&bytes)) {
                let mut again = Vec::new();
                read.encode(&mut again);
                prop_assert_eq!(StateEntry::decode(&mut Take::new(&again)).unwrap(), read);
            }
        }
    }
}

fn sizes(paths: &StatePaths) -> Vec<u64> {
    let ring = ring();
    let all = paths.last_complete(&ring);
    all.map(|entry| entry.fingerprint.unwrap().size).collect()
}

#[test]
fn a_run_leaves_the_state_of_one_under_way_alone() {
    let dir = tempfile::tempdir().unwrap();
    let paths = StatePaths::new(&dir.path().join("job"));
    write_all(&paths, &[entry(1, 5), entry(2, 5)], 9);
    let mut one = StateWriter::new(paths.clone(), ring());
    one.differs();
    one.push(&entry(1, 100));
    one.mark();
    let reader = StateReader::open(&paths, &ring());
    assert!(!reader.resumes, "it takes up what another goes on with");
    let mut two = StateWriter::new(paths.clone(), ring());
    two.differs();
    two.push(&entry(1, 200));
    two.mark();
    one.push(&entry(2, 100));
    one.finish(SnapshotId(10));
    two.finish(SnapshotId(11));
    assert_eq!(paths.parent(&ring()), Some(SnapshotId(10)));
    assert_eq!(sizes(&paths), [100, 100]);
}

#[test]
fn what_another_run_put_there_is_not_taken_for_what_was_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let paths = StatePaths::new(&dir.path().join("job"));
    write_all(&paths, &[entry(1, 5), entry(2, 5), entry(3, 5)], 9);
    let mut one = StateWriter::new(paths.clone(), ring());
    assert!(one.same() && one.same());
    write_all(&paths, &[entry(1, 77), entry(2, 77), entry(3, 77)], 10);
    one.differs();
    one.push(&entry(3, 6));
    one.finish(SnapshotId(11));
    assert_eq!(paths.parent(&ring()), Some(SnapshotId(10)));
    assert_eq!(sizes(&paths), [77, 77, 77]);
}
