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
    // With names that lead out.
    let _ = sh(
        "tar -cf bad.tar --absolute-names --transform 's,^data/a$,../../out,' data/a data/b",
        &top,
    )
    .ok();
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

/// Exports of two snapshots of a folder that has all that is hard to keep, as a layout.
fn exports(from: &Place, layout: &str) -> std::path::PathBuf {
    let to = from.path(format!("exports-{layout}"));
    for id in ["latest:one", "latest:two"] {
        let mut run = from.restore(["export", id, "--layout", layout, "--to"]);
        let _ = Run::of(run.arg(&to)).ok();
    }
    to
}

fn with_two_snapshots() -> Place {
    let from = Place::new();
    from.write("file", "content");
    from.write("data/large", dump(3));
    from.write(format!("line\nbreak-{}", "x".repeat(120)), "long name");
    fs::hard_link(from.data().join("file"), from.data().join("second")).unwrap();
    symlink("file", from.data().join("link")).unwrap();
    let _ = sh(
        "truncate -s 5M holes; printf x >> holes; setfattr -n user.k -v '1\n2=3' file || true",
        &from.data(),
    )
    .ok();
    for name in ["one", "two"] {
        from.write("which", name);
        let mut save = from.snapshot(["save", "--json", "--name", name, "--tag", "release"]);
        let _ = Run::of(save.arg(from.data())).ok();
    }
    from
}

#[test]
fn exports_that_were_packed_into_an_archive_come_back_as_they_are() {
    let from = with_two_snapshots();
    let wanted = read_tree(&from.data()).unwrap();
    for (layout, how) in [
        ("tree", "tar --format=posix -cf all.tar -C exports-tree ."),
        (
            "tree",
            "tar --format=posix --xattrs -S -czf all.tar -C exports-tree/latest .",
        ),
        ("tar", "tar --zstd -cf all.tar exports-tar"),
        ("tar.zst", "tar --format=gnu -cf all.tar exports-tar.zst"),
        (
            "tar.gz",
            "tar --format=gnu -S -czf all.tar exports-tar.gz/*-*/",
        ),
    ] {
        let _ = exports(&from, layout);
        let _ = sh(how, &from.path("")).ok();
        let archive = from.path("all.tar");
        let archive = archive.to_str().unwrap();
        let count = if how.contains("latest") { 1 } else { 2 };
        let place = Place::new();
        let dry = import(&place, &[archive, "--dry-run"]).ok();
        assert_eq!(dry.of_type("import").len(), count, "{how}");
        assert!(snapshots(&place).is_empty());
        let _ = import(&place, &[archive]).ok();
        let saved = Run::of(&mut from.snapshot(["list", "--json"])).ok();
        let saved = saved.of_type("snapshot");
        let found = snapshots(&place);
        assert_eq!(found.len(), count, "{how}");
        for (found, saved) in found.iter().rev().zip(saved.iter().rev()) {
            for member in ["time", "name", "host", "files", "bytes"] {
                assert_eq!(found[member], saved[member], "{how} {member}");
            }
            let tags = found["tags"].to_string();
            assert!(
                tags.contains("release") && tags.contains("imported"),
                "{tags}"
            );
        }
        let spec = format!("latest:two:{}", from.data().display());
        let _ = Run::of(&mut place.restore(["run", &spec, "--to", "back"])).ok();
        let back = read_tree(&place.path("back")).unwrap();
        assert_eq!(back.len(), wanted.len());
        for (path, node) in &wanted {
            let mut back = back[path].clone();
            back.data.clone_from(&node.data);
            // Not every way to pack an export keeps the attributes of its files.
            if layout == "tree" && !how.contains("xattrs") {
                back.xattrs.clone_from(&node.xattrs);
            }
            assert_eq!(node, &back, "{how} {path:?}");
        }
        let again = import(&place, &[archive]).ok().of_type("imports").remove(0);
        assert_eq!(again["there"].as_u64(), Some(count as u64), "{how}");
        fs::remove_dir_all(from.path(format!("exports-{layout}"))).unwrap();
    }
}

#[test]
fn an_export_that_was_changed_before_it_was_packed_is_not_imported() {
    let from = Place::new();
    from.write("file", "content");
    let _ = from.save().ok();
    let _ = Run::of(&mut from.restore(["export", "latest", "--to", "exports"])).ok();
    let top = from.path("");
    let file = format!("data/files{}/file", from.data().display());
    for (change, said) in [
        ("printf CONTENT > FILE", "SHA-256"),
        ("cp FILE FILE-added", "does not name it"),
        ("touch added", "does not name it"),
        ("rm FILE", "cannot be read"),
        ("ln -s files data/other", "a link"),
        ("mv data moved; ln -s moved data", "a link|cannot be read"),
        (
            "sed -i /metadata/d SHA256SUMS",
            "does not name metadata.json",
        ),
        ("rm SHA256SUMS", "part of an export"),
        (
            "sed -i 's/\"version\": 1/\"version\": 9/' metadata.json",
            "version 9",
        ),
    ] {
        let change = change.replace("FILE", &file);
        let line =
            format!("rm -rf x; cp -rL exports/latest x; cd x; {change}; cd ..; tar -cf x.tar x");
        let _ = sh(&line, &top).ok();
        let place = Place::new();
        for what in ["x", "x.tar"] {
            let run = import(&place, &[from.path(what).to_str().unwrap()]).ends(3);
            let findings = run.of_type("finding");
            let detail = findings[0]["detail"].as_str().unwrap();
            let is_said = said.split('|').any(|said| detail.contains(said));
            assert!(is_said, "{change}: {detail}");
            assert!(snapshots(&place).is_empty(), "{change}");
        }
    }
}

#[test]
fn what_is_neither_an_export_nor_a_file_is_refused() {
    let place = Place::new();
    let _ = sh(
        "mkfifo pipe; mkdir empty; ln -s x latest; tar -cf link.tar latest",
        &place.path(""),
    )
    .ok();
    let _ = import(&place, &["link.tar"]).ends(3);
    assert!(snapshots(&place).is_empty());
    let _ = import(&place, &["pipe"])
        .ends(2)
        .says("neither a file nor a folder");
    let _ = import(&place, &["empty"]).ends(2).says("nothing to import");
}

#[test]
fn files_with_holes_are_taken_in_every_form_that_gnu_tar_has() {
    let place = Place::new();
    place.write("small", "no holes");
    let _ = sh(
        "truncate -s 5M holes; printf x >> holes; truncate -s 9M holes; printf '%700000d' 1 >> holes; \
         truncate -s 1M few; printf y >> few; truncate -s 3000 one; printf z >> one; truncate -s 2M all; \
         for n in $(seq 60); do printf x >> many; truncate -s +128K many; done",
        &place.data(),
    )
    .ok();
    for how in [
        "--format=gnu",
        "--format=posix --sparse-version=0.0",
        "--format=posix --sparse-version=0.1",
        "--format=posix --sparse-version=1.0",
    ] {
        let line = format!("tar {how} --hole-detection=raw -S -cf sparse.tar -C data .");
        let _ = sh(&line, &place.path("")).ok();
        let line = how.replace("--", "").replace(' ', "-");
        let _ = import(&place, &["sparse.tar", "--name", &line]).ok();
        for name in ["holes", "few", "one", "all", "many", "small"] {
            let spec = format!("latest:{line}:/{name}");
            let cat = Run::of(&mut place.restore(["cat", &spec])).ok().out;
            assert!(
                cat == fs::read(place.data().join(name)).unwrap(),
                "{how} {name}"
            );
        }
    }
    // One whose map makes no sense is left, and the rest is taken.
    let _ = sh(
        "tar --format=posix --sparse-version=0.1 -S -cf bad.tar -C data holes small; \
         grep -aq 'sparse.map=[0-9]' bad.tar; sed -i 's/sparse.map=[0-9]/sparse.map=x/' bad.tar",
        &place.path(""),
    )
    .ok();
    let run = import(&place, &["bad.tar"]).ends(3);
    assert!(
        run.of_type("finding")[0]
            .to_string()
            .contains("makes no sense")
    );
    let small = Run::of(&mut place.restore(["cat", "latest:bad:/small"])).ok();
    assert_eq!(small.text(), "no holes");
}

#[test]
fn a_further_name_has_the_content_that_stood_there_when_it_was_packed() {
    let place = Place::new();
    place.write("a", "first");
    let data = place.data();
    fs::hard_link(data.join("a"), data.join("b")).unwrap();
    fs::hard_link(data.join("a"), data.join("c")).unwrap();
    let _ = sh(
        "tar -cf links.tar -C data a b c; rm data/a; printf second > data/a; tar -rf links.tar -C data a; \
         mkdir out; tar -xf links.tar -C out",
        &place.path(""),
    )
    .ok();
    let _ = import(&place, &["links.tar"]).ok();
    let _ = Run::of(&mut place.restore(["run", "latest:links", "--to", "back"])).ok();
    let texts = |folder: &str| {
        ["a", "b", "c"].map(|name| fs::read_to_string(place.path(folder).join(name)).unwrap())
    };
    assert_eq!(texts("out"), ["second", "first", "first"]);
    assert_eq!(texts("back"), texts("out"));
}

#[test]
fn what_the_key_may_not_import_is_named_and_the_rest_is_imported() {
    let from = Place::new();
    from.write("file", "content");
    for host in ["alpha", "beta"] {
        let mut save = from.snapshot(["save", "--json", "--host", host]);
        let saved = Run::of(save.arg(from.data()))
            .ok()
            .of_type("saved")
            .remove(0);
        let mut run = from.restore(["export", saved["id"].as_str().unwrap(), "--to", "exports"]);
        let _ = Run::of(&mut run).ok();
    }
    let exports = from.path("exports");
    let place = Place::new();
    let add = [
        "key",
        "add",
        "--new-key-file",
        "beta",
        "--role",
        "writer",
        "--host",
        "beta",
    ];
    let _ = Run::of(&mut place.snapshot(add)).ok();
    let mut run = place.snapshot(["import", "--json", "--key-file", "beta"]);
    let run = Run::of(run.arg(&exports)).ends(3);
    assert_eq!(run.of_type("imported").len(), 1);
    let finding = run.of_type("finding").remove(0);
    assert!(
        finding["detail"].as_str().unwrap().contains("alpha"),
        "{finding}"
    );
    assert_eq!(run.of_type("imports")[0]["failed"], 1);
    // What was asked for, and not by one export, the key cannot do at all.
    let mut run = place.snapshot(["import", "--key-file", "beta", "--host", "gamma"]);
    let _ = Run::of(run.arg(&exports)).ends(12);
}

#[test]
fn an_import_ends_soon_when_it_is_interrupted_amid_a_large_file() {
    use rustix::process::{Pid, Signal, kill_process};
    use std::time::{Duration, Instant};
    let place = Place::new();
    // Which is read whole before anything is imported.
    let _ = sh("truncate -s 200G large.dump", &place.path("")).ok();
    let mut run = place.snapshot(["import", "large.dump"]);
    let mut child = run
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(3));
    assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let begun = Instant::now();
    let ended = loop {
        match child.try_wait().unwrap() {
            Some(ended) => break ended.code(),
            None if begun.elapsed() > Duration::from_secs(10) => {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("it goes on");
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    assert_eq!(ended, Some(130));
    assert!(snapshots(&place).is_empty());
}
