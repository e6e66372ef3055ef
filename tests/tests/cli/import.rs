//! The way back: exports, archives and old dumps become snapshots.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use backup_tests::tree::read_tree;
use backup_tests::{Place, Run};
use serde_json::Value;

fn sh(line: &str, folder: &Path) -> Run {
    let mut command = Command::new("sh");
    command
        .args(["-ec", line])
        .current_dir(folder)
        .env("LC_ALL", "C");
    Run::of(command.stdin(Stdio::null()))
}

fn import(place: &Place, args: &[&str]) -> Run {
    Run::of(place.snapshot(["import", "--json"]).args(args))
}

fn snapshots(place: &Place) -> Vec<Value> {
    Run::of(&mut place.snapshot(["list", "--json"]))
        .ok()
        .of_type("snapshot")
}

fn dump(seed: u64) -> Vec<u8> {
    let row = |n: u64| {
        format!(
            "{n}\t{:016x}\t{}\n",
            n.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            n / seed
        )
    };
    (0..40_000).flat_map(|n| row(n).into_bytes()).collect()
}

#[test]
fn an_export_comes_back_as_the_snapshot_that_it_was_made_of() {
    let from = Place::new();
    from.write("file", "content");
    from.write("folder/other", vec![3u8; 100_000]);
    fs::hard_link(from.data().join("file"), from.data().join("second")).unwrap();
    symlink("file", from.data().join("link")).unwrap();
    let mut save = from.snapshot([
        "save", "--json", "--name", "site", "--tag", "release", "--label", "daily",
    ]);
    let saved = Run::of(save.arg(from.data()))
        .ok()
        .of_type("saved")
        .remove(0);
    for layout in ["tree", "tar", "tar.gz", "tar.zst"] {
        let exports = from.path(format!("exports-{layout}"));
        let mut run = from.restore(["export", "latest", "--layout", layout, "--to"]);
        let _ = Run::of(run.arg(&exports)).ok();
        let place = Place::new();
        let exports = exports.to_str().unwrap();
        let dry = import(&place, &[exports, "--dry-run"]).ok();
        assert_eq!(dry.of_type("import")[0]["time"], saved["time"]);
        assert!(snapshots(&place).is_empty());
        let _ = import(&place, &[exports]).ok();
        let found = snapshots(&place);
        assert_eq!(found.len(), 1, "{layout}");
        for member in ["time", "name", "host", "label", "files", "bytes"] {
            assert_eq!(found[0][member], saved[member], "{layout} {member}");
        }
        let tags = found[0]["tags"].to_string();
        assert!(
            tags.contains("release") && tags.contains("imported"),
            "{tags}"
        );
        let spec = format!("latest:{}", from.data().display());
        let _ = Run::of(&mut place.restore(["run", &spec, "--to", "back"])).ok();
        assert_eq!(
            read_tree(&place.path("back")).unwrap(),
            read_tree(&from.data()).unwrap(),
            "{layout}"
        );
        let again = import(&place, &[exports]).ok().of_type("imports").remove(0);
        assert_eq!(
            (again["imported"].as_u64(), again["there"].as_u64()),
            (Some(0), Some(1))
        );
        let _ = place.verify().ok();
    }
}

#[test]
fn an_export_that_was_changed_is_not_imported() {
    let from = Place::new();
    from.write("file", "content");
    let _ = from.save().ok();
    let _ = Run::of(&mut from.restore(["export", "latest", "--to", "exports"])).ok();
    let place = Place::new();
    let exports = from.path("exports");
    let latest = exports.join("latest");
    let added = latest.join("data/files/added");
    fs::write(&added, "by somebody").unwrap();
    let _ = import(&place, &[exports.to_str().unwrap()]).ends(3);
    fs::remove_file(added).unwrap();
    let saved = latest
        .join("data/files")
        .join(from.data().strip_prefix("/").unwrap());
    fs::write(saved.join("file"), "CONTENT").unwrap();
    let run = import(&place, &[exports.to_str().unwrap()]).ends(3);
    assert!(
        run.of_type("finding")[0]["detail"]
            .as_str()
            .unwrap()
            .contains("SHA-256")
    );
    assert!(snapshots(&place).is_empty());
}

#[test]
fn old_dumps_are_unpacked_each_with_its_date_and_share_what_they_have_in_common() {
    let place = Place::new();
    let old = place.path("old");
    fs::create_dir(&old).unwrap();
    for (name, seed) in [
        ("shop-2025-11-01.sql", 7),
        ("shop-2025-11-02.sql", 7),
        ("shop-2025-11-03.sql", 8),
    ] {
        fs::write(old.join(name), dump(seed)).unwrap();
    }
    fs::write(old.join("undated.dump"), "a dump without a date").unwrap();
    fs::write(old.join("cut-2025-11-04.sql"), dump(9)).unwrap();
    let _ = sh("gzip shop-2025-11-01.sql shop-2025-11-03.sql cut-2025-11-04.sql; zstd -q --rm shop-2025-11-02.sql; \
         truncate -s 100000 cut-2025-11-04.sql.gz; touch -d '2024-05-06 07:08:09 UTC' undated.dump; \
         sha256sum *.gz > SHA256SUMS", &old).ok();
    let run = import(&place, &["old"]).ends(3);
    let findings = run.of_type("finding");
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(
        findings[0]["subject"]
            .as_str()
            .unwrap()
            .ends_with("cut-2025-11-04.sql.gz")
    );
    let found = snapshots(&place);
    let times: Vec<_> = found
        .iter()
        .map(|one| one["time"].as_str().unwrap())
        .collect();
    assert_eq!(
        times,
        [
            "2024-05-06T07:08:09Z",
            "2025-11-01T00:00:00Z",
            "2025-11-02T00:00:00Z",
            "2025-11-03T00:00:00Z"
        ]
    );
    assert!(
        found[1..].iter().all(|one| one["name"] == "shop"),
        "{found:?}"
    );
    let size = |at: usize, member: &str| found[at][member].as_u64().unwrap();
    assert_eq!(size(1, "bytes"), dump(7).len() as u64);
    assert!(size(1, "bytes_new") > 1_000_000);
    // The second is the first, packed by another program: only where its pieces lie is new.
    assert!(size(2, "bytes_new") < 1000, "{:?}", found[2]);
    let third = found[3]["id"].as_str().unwrap();
    let cat = Run::of(&mut place.restore(["cat", &format!("{third}:/shop.sql")])).ok();
    assert!(cat.out == dump(8));
    // Another run imports nothing but what is new.
    let again = import(&place, &["old"])
        .ends(3)
        .of_type("imports")
        .remove(0);
    assert_eq!(
        (again["imported"].as_u64(), again["there"].as_u64()),
        (Some(0), Some(4))
    );
    fs::remove_file(old.join("cut-2025-11-04.sql.gz")).unwrap();
    let _ = import(&place, &["old"]).ok();
    let _ = place.verify().ok();
}

#[test]
fn retention_counts_what_this_host_imported_from_when_it_was_made() {
    let place = Place::new();
    fs::create_dir(place.path("old")).unwrap();
    for day in 1..=5 {
        fs::write(
            place.path(format!("old/shop-2025-11-0{day}.sql")),
            format!("dump {day}"),
        )
        .unwrap();
    }
    let _ = import(&place, &["old"]).ok();
    let decided = |args: &[&str]| {
        let mut forget = place.snapshot(["forget", "--dry-run", "--json"]);
        let lines = Run::of(forget.args(args)).ok().of_type("decision");
        let kept = lines.iter().filter(|line| line["verdict"] == "keep");
        (kept.count(), lines)
    };
    let (kept, lines) = decided(&["--keep-daily", "7"]);
    assert_eq!(kept, 5, "{lines:?}");
    assert_eq!(lines[0]["counted_from"], "2025-11-01T00:00:00Z");
    assert_eq!(decided(&["--keep-daily", "2"]).0, 2);
    assert_eq!(
        decided(&["--keep-last", "1", "--keep-tag", "imported"]).0,
        5
    );
    let records =
        Run::of(&mut place.snapshot(["ledger", "list", "--json", "--op", "snapshot"])).ok();
    let record = records.of_type("ledger-record").remove(0);
    assert!(
        record["note"].as_str().unwrap().contains("2025-11-01"),
        "{record}"
    );
    assert!(record["time"].as_str().unwrap() > "2026");
    let _ = Run::of(&mut place.snapshot(["ledger", "verify"])).ok();
}

#[test]
fn an_archive_of_gnu_tar_becomes_the_tree_that_it_holds_and_nothing_leads_out() {
    let place = Place::new();
    let top = place.path("");
    place.write("a", "content");
    place.write("b/c", vec![5u8; 3_000_000]);
    place.write(
        format!("{}/{}", "d".repeat(90), "f".repeat(150)),
        "long name",
    );
    fs::hard_link(place.data().join("a"), place.data().join("z")).unwrap();
    symlink("../../etc/passwd", place.data().join("b/link")).unwrap();
    let _ = sh(
        "touch -d '@1500000000.123456789' data/a; setfattr -n user.k -v v data/a || true; \
         truncate -s 5M data/holes; printf x >> data/holes",
        &top,
    )
    .ok();
    let wanted = read_tree(&place.data()).unwrap();
    for (number, how) in [
        "tar --format=posix --xattrs -cf 1.tar -C data .",
        "tar --format=posix --xattrs -czf 2.tgz -C data .",
        "tar --format=posix --xattrs --sort=name --zstd -cf 3.tar.zst -C data .",
    ]
    .iter()
    .enumerate()
    {
        let _ = sh(how, &top).ok();
        let file = how
            .split_whitespace()
            .find(|word| word.starts_with(char::is_numeric))
            .unwrap();
        let name = format!("archive-{number}");
        let _ = import(&place, &[file, "--name", &name]).ok();
        let out = format!("out-{number}");
        let spec = format!("latest:{name}");
        let _ = Run::of(&mut place.restore(["run", &spec, "--to", &out])).ok();
        let found = read_tree(&place.path(&out)).unwrap();
        for (path, node) in &wanted {
            let mut found = found[path].clone();
            found.data.clone_from(&node.data);
            assert_eq!(node, &found, "{how} {path:?}");
        }
        assert_eq!(wanted.len(), found.len());
    }
    // With holes in the form of old GNU tar, and with names that lead out.
    let _ = sh(
        "tar --format=gnu -S -cf sparse.tar -C data holes a; \
         tar -cf bad.tar --absolute-names --transform 's,^data/a$,../../out,' data/a data/b",
        &top,
    )
    .ok();
    let _ = import(&place, &["sparse.tar"]).ok();
    let holes = Run::of(&mut place.restore(["cat", "latest:sparse:/holes"]))
        .ok()
        .out;
    assert!(holes == fs::read(place.data().join("holes")).unwrap());
    let run = import(&place, &["bad.tar"]).ends(3);
    assert!(
        run.of_type("finding")[0]["subject"]
            .as_str()
            .unwrap()
            .contains("../../out")
    );
    // One that is cut off is named, and the others are imported all the same.
    let _ = sh(
        "mkdir some; cp 1.tar some/whole.tar; head -c 1000000 1.tar > some/cut.tar",
        &top,
    )
    .ok();
    fs::write(
        place.path("some/whole.tar"),
        [&fs::read(place.path("1.tar")).unwrap()[..], &[0; 512]].concat(),
    )
    .unwrap();
    let run = import(&place, &["some"]).ends(3);
    assert_eq!(run.of_type("imports")[0]["failed"], 1);
    assert_eq!(run.of_type("imported").len(), 1);
}

#[test]
fn what_is_encrypted_is_named_and_left() {
    let place = Place::new();
    fs::create_dir(place.path("old")).unwrap();
    fs::write(
        place.path("old/a.age"),
        "age-encryption.org/v1\n-> X25519 x\n",
    )
    .unwrap();
    fs::write(place.path("old/b.sql"), "a dump").unwrap();
    let run = import(&place, &["old"]).ends(3);
    assert!(
        run.of_type("finding")[0]["detail"]
            .as_str()
            .unwrap()
            .contains("decrypt")
    );
    assert_eq!(run.of_type("imported").len(), 1);
    let _ = import(&place, &["nothing-here"]).ends(1);
}

/// What `git archive` writes begins with a header of all members, and overlapping arguments name files twice.
#[test]
fn archives_with_headers_of_all_members_and_with_files_twice_are_whole() {
    let place = Place::new();
    let top = place.path("");
    place.write("a/one", "first");
    place.write("a/below/two", "second");
    let _ = sh(
        "cp -r data repo-1; cd repo-1; git init -q; git add .; \
         git -c user.name=a -c user.email=a@b commit -q -m a; git archive -o ../git.tar HEAD; \
         cd ..; tar -cf twice.tar -C data a a/below; head -c 1024 git.tar | grep -aq comment",
        &top,
    )
    .ok();
    for file in ["git.tar", "twice.tar"] {
        let _ = import(&place, &[file, "--name", file]).ok();
        let out = format!("out-{file}");
        let spec = format!("latest:{file}");
        let _ = Run::of(&mut place.restore(["run", &spec, "--to", &out])).ok();
        for (path, text) in [("a/one", "first"), ("a/below/two", "second")] {
            let found = fs::read_to_string(place.path(&out).join(path));
            assert_eq!(found.unwrap(), text, "{file}");
        }
    }
}

/// A database in which nothing happened has a dump for each day all the same.
#[test]
fn equal_dumps_of_several_days_are_a_snapshot_each_and_what_is_no_dump_is_named() {
    let place = Place::new();
    fs::create_dir(place.path("old")).unwrap();
    for day in 1..=3 {
        fs::write(place.path(format!("old/shop-2025-11-0{day}.sql")), "same").unwrap();
    }
    // The disk was full that night.
    fs::write(place.path("old/shop-2025-11-04.sql.gz"), "").unwrap();
    let run = import(&place, &["old"]).ends(3);
    let finding = run.of_type("finding").remove(0);
    assert!(
        finding["subject"]
            .to_string()
            .contains("shop-2025-11-04.sql.gz")
    );
    assert_eq!(snapshots(&place).len(), 3);
    let again = import(&place, &["old"])
        .ends(3)
        .of_type("imports")
        .remove(0);
    assert_eq!(
        (again["imported"].as_u64(), again["there"].as_u64()),
        (Some(0), Some(3))
    );
}
