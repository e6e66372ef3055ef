//! Entries that cannot be stored as they should be, or that change without showing it.

use backup_core::{EntryKind, Finding, FindingKind, Owner, Severity};
use backup_format::extent::{Content, Extent};
use jiff::{SignedDuration, Timestamp};

use crate::given::{CHANGED, Given, Shelf};
use crate::world::{Files, noise, read};

fn files(of: &[(&str, &[u8])]) -> Files {
    of.iter()
        .map(|(name, content)| (name.into(), content.to_vec()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hard_link_whose_first_name_is_lost_has_its_content_now_and_later() {
    // One that goes into a bundle, and one that is cut.
    for content in [noise(1, 3_000), noise(2, 700_000)] {
        let shelf = Shelf::new().await;
        let other = noise(3, 2_000);
        let given = |name| Given::file(name, &content).linked(7);
        let tree = vec![
            given("a").lost(),
            Given::file("b", &other),
            given("c"),
            given("d"),
        ];
        for round in 0..2 {
            let report = shelf.save(tree.clone()).await;
            let told: Vec<_> = report.findings.iter().map(|one| &*one.subject).collect();
            assert_eq!(told, ["/a"], "round {round}");
            let wanted = files(&[("b", &other), ("c", &content), ("d", &content)]);
            assert!(shelf.restored().await == wanted, "round {round}");
        }
        // Nobody reads the first name, and the others are one file still.
        let tree = vec![given("a"), Given::file("b", &other), given("c"), given("d")];
        assert_eq!(shelf.save(tree).await.findings, []);
        let wanted = files(&[
            ("a", &content),
            ("b", &other),
            ("c", &content),
            ("d", &content),
        ]);
        assert!(shelf.restored().await == wanted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_another_file_by_now_has_its_own_content() {
    for length in [3_000, 700_000] {
        let shelf = Shelf::new().await;
        let (first, other) = (noise(1, length), noise(2, length));
        // Between the walk's looking at the one and the other the inode went to another file.
        let tree = vec![
            Given::file("a", &first).linked(7),
            Given::file("b", &first).linked(7),
            Given::file("c", &other).linked(7).later(5),
        ];
        for round in 0..2 {
            assert_eq!(shelf.save(tree.clone()).await.findings, []);
            for (entry, content) in shelf.entries().await.iter().zip([&first, &first, &other]) {
                let sha256 = backup_integrity::digest::ContentDigest::of(content).0;
                let found = entry.record.sha256;
                assert_eq!(found, Some(sha256), "round {round}, {}", entry.path);
            }
            let wanted = files(&[("a", &first), ("b", &first), ("c", &other)]);
            assert!(shelf.restored().await == wanted, "round {round}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_read_in_the_tick_of_its_change_is_read_again() {
    for length in [3_000, 700_000] {
        let (old, new) = (noise(1, length), noise(2, length));
        for (millis, is_read) in [(20, true), (2_000, false)] {
            let shelf = Shelf::new().await;
            let changed = Timestamp::constant(CHANGED, 1);
            let at = changed + SignedDuration::from_millis(millis);
            shelf.clock.set(at);
            let tree = |content| {
                vec![
                    Given::file("a", content).linked(3),
                    Given::file("b", content).linked(3),
                ]
            };
            shelf.save(tree(&old)).await;
            shelf.clock.advance(SignedDuration::from_hours(24));
            // It was changed in the same tick again: nothing but its content shows that. The first
            // name goes, so that what is known of the second counts.
            let report = shelf.save(tree(&new).split_off(1)).await;
            assert_eq!(report.meta.stats.unchanged, u64::from(!is_read), "{millis}");
            let content = if is_read { &new } else { &old };
            assert!(shelf.restored().await == files(&[("b", content)]));
            // What was read long behind its change is not read again.
            let report = shelf.save(tree(&new).split_off(1)).await;
            assert_eq!(report.meta.stats.unchanged, 1, "{millis}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_changed_between_walk_and_reading_is_looked_at_again() {
    for length in [3_000, 700_000] {
        let shelf = Shelf::new().await;
        let content = noise(1, length);
        let now = Given::file("a", &content).later(5);
        let mut then = Given::file("a", &content);
        (then.open_state, then.meta.mode) = (now.state, 0o400);
        shelf.save(vec![then]).await;
        let report = shelf.save(vec![now]).await;
        assert_eq!(report.meta.stats.unchanged, 0);
        assert_eq!(shelf.entries().await[0].record.meta.mode, 0o600);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_entry_that_is_too_large_does_not_cost_the_others() {
    let shelf = Shelf::new().await;
    let content = noise(1, 5_000);
    let mut attributes = Given::file("attributes", &content);
    attributes.meta.xattrs = vec![(b"user.a".to_vec(), noise(2, 17 << 20))];
    let mut page = Given::file("page", &content);
    page.meta.xattrs = vec![(b"user.a".to_vec(), noise(2, (16 << 20) - 1000))];
    let mut target = Given::file("target", b"");
    target.meta.kind = EntryKind::Symlink(vec![b'x'; 70_000]);
    let tree = vec![attributes, page, target, Given::file("z", &content)];
    for round in 0..2 {
        let report = shelf.save(tree.clone()).await;
        let told: Vec<_> = report
            .findings
            .iter()
            .map(|one| (&*one.subject, one.kind, one.severity))
            .collect();
        let wanted = [
            ("/attributes", FindingKind::Metadata, Severity::Warning),
            ("/page", FindingKind::Metadata, Severity::Warning),
            ("/target", FindingKind::Unreadable, Severity::Error),
        ];
        assert_eq!(told, wanted, "round {round}");
        let wanted = files(&[
            ("attributes", &content),
            ("page", &content),
            ("z", &content),
        ]);
        assert!(shelf.restored().await == wanted, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notes_are_told_and_make_no_record_of_findings() {
    for (severity, outcome, count) in [
        (Severity::Note, r#""outcome":"ok""#, 0),
        (Severity::Warning, r#""outcome":"findings""#, 1),
    ] {
        let shelf = Shelf::new().await;
        let finding = Finding::new(severity, FindingKind::Degraded, "the source", "why");
        let tree = vec![Given::file("a", b"a")];
        let report = shelf.try_to_save_with(tree, vec![finding.clone()]).await;
        let report = report.unwrap();
        assert_eq!(report.findings, [finding]);
        assert_eq!(report.meta.findings, count);
        let folders = std::fs::read_dir(shelf.cache.path()).unwrap();
        let mut copies = folders.map(|folder| folder.unwrap().path().join("ledger.jsonl"));
        let copy = copies.find(|copy| copy.exists()).unwrap();
        let ledger = std::fs::read_to_string(copy).unwrap();
        let last = ledger.lines().last().unwrap();
        assert!(last.contains(outcome), "{last}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_reader_would_take_is_a_finding_and_hides_nothing_behind_it() {
    let shelf = Shelf::new().await;
    let mut odd = Given::file("b", b"b");
    // As `stat` gives it: with the bits that say that it is a file.
    odd.meta.mode = 0o100_644;
    let tree = vec![Given::file("a", b"a"), odd, Given::file("c", b"c")];
    for round in 0..2 {
        let report = shelf.save(tree.clone()).await;
        let told: Vec<_> = report.findings.iter().map(|one| &*one.subject).collect();
        assert_eq!(told, ["/b"], "round {round}");
        let out = tempfile::tempdir().unwrap();
        shelf.try_to_restore(out.path()).await.unwrap();
        assert!(read(out.path()) == files(&[("a", b"a"), ("c", b"c")]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unchanged_files_have_the_owners_and_link_numbers_of_today() {
    for length in [3_000, 700_000, 3 << 20] {
        let shelf = Shelf::new().await;
        let content = noise(1, length);
        let given = |name, group, user: &str| {
            let mut file = Given::file(name, &content).linked(group);
            file.meta.owner = Some(Owner {
                uid: 4321,
                gid: 4321,
                user: Some(user.into()),
                group: None,
            });
            file
        };
        let tree = |group, user| vec![given("a", group, user), given("b", group, user)];
        shelf.save(tree(7, "alice")).await;
        // A device has another number, a user another name; no inode was touched.
        let report = shelf.save(tree(9, "alicia")).await;
        assert_eq!(report.meta.stats.bytes_read, 0, "it was read again");
        for entry in shelf.entries().await {
            let meta = &entry.record.meta;
            assert_eq!(meta.link_group, Some(9), "{}", entry.path);
            let user = meta.owner.as_ref().and_then(|owner| owner.user.as_deref());
            assert_eq!(user, Some("alicia"), "{}", entry.path);
        }
        let wanted = files(&[("a", &content), ("b", &content)]);
        assert!(shelf.restored().await == wanted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_findings_stop_no_backup() {
    let shelf = Shelf::new().await;
    let detail = "why ".repeat(15_000);
    let findings: Vec<Finding> = (0..300)
        .map(|number| {
            let subject = format!("/{number}");
            Finding::new(Severity::Error, FindingKind::Unreadable, subject, &detail)
        })
        .collect();
    let saved = shelf
        .try_to_save_with(vec![Given::file("a", b"a")], findings)
        .await
        .unwrap();
    assert_eq!(saved.meta.findings, 300);
    let kept: usize = saved.findings.iter().map(|one| one.detail.len()).sum();
    assert!((1 << 20..9 << 20).contains(&kept), "{kept} bytes");
    assert!(shelf.restored().await == files(&[("a", b"a")]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_that_wait_for_a_bundle_are_bounded_by_what_is_known_of_them() {
    let shelf = Shelf::new().await;
    let names: Vec<&'static str> = (0..600)
        .map(|number| &*format!("{number:04}").leak())
        .collect();
    let tree = names.iter().map(|name| {
        let mut file = Given::file(name, name.as_bytes());
        file.meta.xattrs = vec![(b"user.note".to_vec(), noise(1, 60_000))];
        file
    });
    shelf.save(tree.collect()).await;
    let mut chunks = std::collections::HashSet::new();
    for entry in shelf.entries().await {
        if let Content::Inline(extents) = &entry.record.content {
            chunks.extend(extents.as_slice().iter().filter_map(|extent| match extent {
                Extent::Data { chunk, .. } => Some(*chunk),
                Extent::Zero { .. } => None,
            }));
        }
    }
    assert!(chunks.len() > 1, "all wait for one bundle");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_files_beside_others_that_changed_are_stored_once_however_they_are_read_again() {
    let mut shelf = Shelf::new().await;
    let names: Vec<&'static str> = (0..200)
        .map(|number| &*format!("{number:04}").leak())
        .collect();
    let tree = |edited: usize, later: i64| -> Vec<Given> {
        let file = |(number, name): (usize, &&'static str)| {
            let number = if number % 10 == 0 {
                number + edited
            } else {
                number
            };
            Given::file(name, &noise(number as u64, 20_000)).later(later)
        };
        names.iter().enumerate().map(file).collect()
    };
    shelf.save(tree(0, 0)).await;
    let edited = shelf.save(tree(1000, 1)).await.meta.stats;
    assert!(
        edited.bytes_new < 700_000,
        "{} bytes are new",
        edited.bytes_new
    );
    let said = |what: &str, report: backup_engine::SnapshotReport| {
        let stats = report.meta.stats;
        assert_eq!(stats.bytes_read, 200 * 20_000, "{what}");
        // Pages of the manifest.
        assert!(
            stats.bytes_new < 100_000,
            "{what}: {} bytes are new",
            stats.bytes_new
        );
    };
    said("another mode", shelf.save(tree(1000, 2)).await);
    shelf.job.reread = true;
    said("read on request", shelf.save(tree(1000, 2)).await);
    shelf.job.reread = false;
    for lost in std::fs::read_dir(shelf.cache.path()).unwrap() {
        std::fs::remove_dir_all(lost.unwrap().path()).unwrap();
    }
    said("a lost cache", shelf.save(tree(1000, 2)).await);
    shelf.job.name = "moved".into();
    said("another name", shelf.save(tree(1000, 2)).await);
    shelf.restored().await;
}
