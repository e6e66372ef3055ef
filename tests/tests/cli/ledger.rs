//! The ledger: what its check says of what.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use backup_tests::{Place, Run};

/// A place with so many records: those of the repository and of snapshots.
fn with_records(count: usize) -> Place {
    let place = Place::new();
    while place.objects("ledger").len() < count {
        let _ = place.pipe("x", b"x").ok();
    }
    assert_eq!(place.objects("ledger").len(), count);
    place
}

/// The findings of a check, worst first: severity, subject, detail.
fn found(place: &Place, code: i32) -> Vec<(String, String, String)> {
    let run = Run::of(&mut place.snapshot(["ledger", "verify", "--json"])).ends(code);
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    run.of_type("finding")
        .iter()
        .map(|line| {
            (
                text(&line["severity"]),
                text(&line["subject"]),
                text(&line["detail"]),
            )
        })
        .collect()
}

#[test]
fn a_record_that_is_gone_is_named_and_intact_ones_are_not_accused() {
    let place = with_records(10);
    fs::remove_file(&place.objects("ledger")[4]).unwrap();
    let only = |found: Vec<(String, String, String)>| match &found[..] {
        [(severity, subject, detail)] => {
            assert_eq!(severity, "error");
            (subject.clone(), detail.clone())
        }
        other => panic!("{other:?}"),
    };
    let (subject, detail) = only(found(&place, 13));
    assert_eq!(subject, "ledger record 5");
    assert_eq!(detail, "record 5 is not there");
    // Without a copy that tells of it, the snapshot of the record is told apart from one whose run
    // was killed.
    fs::remove_dir_all(place.path("cache")).unwrap();
    let without = found(&place, 13);
    assert_eq!(without.len(), 2, "{without:?}");
    assert_eq!(without[0].1, "ledger record 5");
    let note = &without[1];
    assert_eq!(note.0, "note");
    assert!(note.2.contains("missing or damaged"), "{note:?}");
}

#[test]
fn the_copy_tells_of_an_end_that_was_cut_off() {
    let place = with_records(6);
    for path in &place.objects("ledger")[4..] {
        fs::remove_file(path).unwrap();
    }
    let found = found(&place, 13);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].2.contains("records 5 to 6"), "{found:?}");
}

#[test]
fn a_record_that_does_not_open_is_one_finding_and_the_first_that_is_shown() {
    let place = with_records(25);
    let victim = place.objects("ledger").remove(3);
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&victim, b"something else").unwrap();
    let whole = found(&place, 13);
    assert_eq!(whole.len(), 1, "{whole:?}");
    assert_eq!(whole[0].1, "ledger record 4");
    assert!(whole[0].2.contains("ledger/000000000004"), "{whole:?}");
    fs::remove_dir_all(place.path("cache")).unwrap();
    let shown = Run::of(&mut place.snapshot(["ledger", "verify", "-v"])).ends(13);
    let first = shown.err.lines().next().unwrap_or_default();
    assert!(first.contains("ledger record 4"), "{}", shown.err);
}
