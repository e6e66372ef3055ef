//! Looking into snapshots, and what can be handed to others.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Stdio};

use backup_tests::{Place, Run, restore};
use serde_json::Value;

fn check_sums(place: &Place, folder: &str, sums: &[u8]) -> bool {
    let mut child = Command::new("sha256sum")
        .args(["-c", "--strict", "--quiet"])
        .current_dir(place.path(folder))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(sums).unwrap();
    child.wait().unwrap().success()
}

#[test]
fn sums_are_what_sha256sum_checks() {
    let place = Place::new();
    place.write("a/b", "one");
    place.write(OsStr::from_bytes(b"new\nline \xff"), "two");
    place.write("-", "three");
    let _ = place.save().ok();
    let _ = place.bring_back("out").ok();
    let wanted = format!("latest:{}", place.data().display());
    let sums = Run::of(&mut place.restore(["sums", &wanted])).ok().out;
    assert_eq!(sums.iter().filter(|byte| **byte == b'\n').count(), 3);
    assert!(check_sums(&place, "out", &sums));
    fs::write(place.path("out/a/b"), "ONE").unwrap();
    assert!(!check_sums(&place, "out", &sums));
}

#[test]
fn a_proof_convinces_without_repository_or_key_and_nothing_else_does() {
    let place = Place::new();
    for number in 0..3000 {
        place.write(format!("many/{number}"), "");
    }
    place.write("contract", "signed and sealed");
    let _ = place.save().ok();
    let wanted = format!("latest:{}/contract", place.data().display());
    let _ = Run::of(&mut place.restore(["prove", &wanted, "-o", "proof"])).ok();
    let _ = Run::of(&mut place.restore(["prove", &wanted, "-o", "proof"])).ends(11);
    let show = Run::of(&mut place.snapshot(["show", "latest", "--json"]))
        .ok()
        .of_type("snapshot")
        .remove(0);
    let key = show["public_key"].as_str().unwrap().to_owned();
    let check = |proof: &str, file: &str, key: &str| {
        let mut check = restore();
        check.current_dir(place.path("")).args([
            "check-proof",
            proof,
            "--file",
            file,
            "--public-key",
            key,
            "--json",
        ]);
        Run::of(&mut check)
    };
    let proven = check("proof", "data/contract", &key)
        .ok()
        .of_type("proven")
        .remove(0);
    assert_eq!(
        (&proven["trusted"], &proven["content_compared"]),
        (&true.into(), &true.into())
    );
    let _ = check("proof", "data/many/1", &key).ends(13);
    let other = "00".repeat(32);
    let _ = check("proof", "data/contract", &other).ends(12);
    let text = fs::read_to_string(place.path("proof")).unwrap();
    let mut document: Value = serde_json::from_str(&text).unwrap();
    let entry = document["entry"]
        .as_str()
        .unwrap()
        .replace("636f6e7472616374", "636f6e7472616375");
    document["entry"] = entry.into();
    fs::write(place.path("forged"), document.to_string()).unwrap();
    let _ = check("forged", "data/contract", &key).ends(13);
    let _ = check("no-such-proof", "data/contract", &key).ends(1);
}

#[test]
fn entries_are_listed_and_found_with_names_that_cannot_harm_a_terminal() {
    let place = Place::new();
    place.write("folder/inner/deep.conf", "x");
    place.write(OsStr::from_bytes(b"folder/evil\x1b[2J\nname \xff"), "y");
    let _ = place.save().ok();
    let folder = format!("latest:{}/folder", place.data().display());
    let plain = Run::of(&mut place.restore(["ls", &folder])).ok().text();
    assert_eq!(plain.lines().count(), 2, "{plain}");
    assert!(
        !plain.contains('\x1b') && plain.contains("evil\\u{1b}[2J\\nname \\xff"),
        "{plain}"
    );
    let deep = Run::of(&mut place.restore(["ls", "-R", "-l", &folder]))
        .ok()
        .text();
    assert!(
        deep.contains("-rw-r--r--") && deep.contains("deep.conf"),
        "{deep}"
    );
    let json = Run::of(&mut place.restore(["ls", &folder, "--json"]))
        .ok()
        .of_type("entry");
    let evil = json.iter().find(|entry| entry["kind"] == "file").unwrap();
    assert!(
        evil["path_hex"]
            .as_str()
            .unwrap()
            .ends_with("206e616d6520ff")
            || evil["path_hex"].as_str().unwrap().ends_with("6e616d6520ff")
    );
    let find = |pattern: &str| {
        Run::of(&mut place.restore(["find", pattern, "--json"]))
            .ok()
            .of_type("entry")
            .len()
    };
    assert_eq!(find("*.conf"), 1);
    assert_eq!(find("*.none"), 0);
    assert_eq!(find("/**/inner/*"), 1);
}

#[test]
fn a_diff_names_what_was_added_removed_and_changed() {
    let place = Place::new();
    for name in ["same", "content", "mode", "gone"] {
        place.write(name, name);
    }
    let first = place.save().ok().of_type("saved").remove(0)["id"]
        .as_str()
        .unwrap()
        .to_owned();
    place.write("content", "changed");
    place.write("new", "new");
    fs::remove_file(place.data().join("gone")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(place.data().join("mode"), mode).unwrap();
    let _ = place.save().ok();
    let run = Run::of(&mut place.restore(["diff", &first, "latest", "--json"])).ok();
    let mut changes: Vec<(String, String)> = run
        .of_type("change")
        .iter()
        .filter(|line| line["kind"] == "file")
        .map(|line| {
            let path = line["path"].as_str().unwrap();
            (
                line["change"].as_str().unwrap().to_owned(),
                path.rsplit('/').next().unwrap().to_owned(),
            )
        })
        .collect();
    changes.sort();
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(
        changes,
        [
            pair("added", "new"),
            pair("content", "content"),
            pair("metadata", "mode"),
            pair("removed", "gone")
        ]
    );
    let text = Run::of(&mut place.restore(["diff", &first, "latest"]))
        .ok()
        .text();
    assert!(
        text.contains("1 added (3 B), 1 removed (4 B), 1 changed"),
        "{text}"
    );
}

#[test]
fn snapshots_are_named_by_id_part_of_it_name_and_time() {
    let place = Place::new();
    let first = place.pipe("a", b"1").ok().of_type("saved").remove(0);
    let second = place.pipe("b", b"2").ok().of_type("saved").remove(0);
    let id = |line: &Value| line["id"].as_str().unwrap().to_owned();
    let show = |spec: &str| {
        let run = Run::of(&mut place.snapshot(["show", spec, "--json"])).ok();
        run.of_type("snapshot").remove(0)["id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(show("latest"), id(&second));
    assert_eq!(show("latest:a"), id(&first));
    assert_eq!(show(first["short_id"].as_str().unwrap()), id(&first));
    assert_eq!(show(&id(&first).to_lowercase()), id(&first));
    assert_eq!(show(first["time"].as_str().unwrap()), id(&first));
    let _ = Run::of(&mut place.snapshot(["show", "2001-01-01T00:00:00Z"])).ends(1);
    let _ = Run::of(&mut place.snapshot(["show", "latest:no"])).ends(1);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let place = Place::new();
    for number in 0..5000 {
        place.write(format!("a-rather-long-name-of-a-file-{number}"), "");
    }
    let _ = place.save().ok();
    let mut ls = place.restore(["ls", "-R", "latest"]);
    let mut child = ls
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = Run::from(child.wait_with_output().unwrap()).ok();
    assert_eq!(ended.err, "");
}

/// The types of JSON lines and their members are those of the page.
#[test]
#[allow(
    clippy::too_many_lines,
    reason = "every command there is, one after another"
)]
fn every_json_line_is_documented() {
    let page = include_str!("../../../docs/json.md");
    let place = Place::empty();
    fs::write(place.path("words"), "words\n").unwrap();
    let mut lines = Run::of(&mut place.snapshot(["init", "--json"]))
        .ok()
        .lines();
    place.write("a/b", "content");
    std::os::unix::fs::symlink("b", place.data().join("a/c")).unwrap();
    let mut dry = place.snapshot(["save", "--json", "--dry-run"]);
    lines.extend(Run::of(dry.arg(place.data())).ok().lines());
    lines.extend(place.save().ok().lines());
    place.write("a/b", "other content");
    lines.extend(place.save().ok().lines());
    let wanted = format!("latest:{}", place.data().display());
    let file = format!("{wanted}/a/b");
    for args in [
        &["list"][..],
        &["show", "latest"],
        &["analyze", "latest"],
        &["stats"],
        &["verify"],
        &["ledger", "verify"],
        &["ledger", "list"],
        &["ledger", "accept"],
        &["copy", "--to", "second"],
        &["key", "list"],
        &["key", "sheet", "--recovery-sheet", "sheet"],
        &["key", "rotate", "--new-key-file", "next", "--dry-run"],
        &["key", "add", "--passphrase-file-new", "words"],
        &["hold", "latest"],
        &["release", "latest"],
        &["forget", "--keep-last", "1"],
        &["sync", "--to", "second"],
    ] {
        lines.extend(Run::of(place.snapshot(args).arg("--json")).ok().lines());
    }
    let kept = Run::of(&mut place.snapshot(["list", "--json"])).ok();
    let kept = kept.of_type("snapshot").remove(0)["id"]
        .as_str()
        .unwrap()
        .to_owned();
    place.write("a/new", "new");
    let _ = place.save().ok();
    let without_new = format!("{kept}:{}", place.data().display());
    for args in [
        &["list"][..],
        &["ls", "-R", &wanted],
        &["find", "b"],
        &["sums", &wanted],
        &["diff", &kept, "latest"],
        &["prove", &file, "-o", "proof"],
        &["check-proof", "proof"],
        &["run", &without_new, "--to", "data", "--delete", "--dry-run"],
        &["run", &wanted, "--to", "out", "--verify"],
    ] {
        lines.extend(Run::of(place.restore(args).arg("--json")).ok().lines());
    }
    let failed = Run::of(&mut place.restore(["cat", "latest:/no", "--json"])).ends(1);
    lines.extend(
        failed
            .err
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()),
    );
    let key = lines.iter().find(|line| line["type"] == "key-added");
    let id = key.unwrap()["id"].as_str().unwrap().to_owned();
    let mut empty = place.snapshot(["save", "--stdin", "empty", "--json"]);
    lines.extend(Run::of(&mut empty).ends(3).lines());
    let mut remove = place.snapshot(["key", "remove", &id, "--json"]);
    lines.extend(Run::of(&mut remove).ok().lines());
    for args in [
        &["export", "latest", "--to", "exports", "--dry-run"][..],
        &["export", "latest", "--to", "exports"],
    ] {
        lines.extend(Run::of(place.restore(args).arg("--json")).ok().lines());
    }
    fs::write(place.path("old.sql"), "a dump").unwrap();
    for args in [
        &["import", "old.sql", "--dry-run"][..],
        &["import", "old.sql"],
        &["import", "old.sql"],
    ] {
        lines.extend(Run::of(place.snapshot(args).arg("--json")).ok().lines());
    }
    for args in [
        &["prune", "--json", "--dry-run"][..],
        &["prune", "--json"],
        &["check-tier", "--speed", "1M", "--json"],
    ] {
        lines.extend(Run::of(&mut place.snapshot(args)).ok().lines());
    }
    fs::remove_file(&place.objects("parity")[0]).unwrap();
    let dry = Run::of(&mut place.snapshot(["repair", "--json", "--dry-run"]));
    lines.extend(dry.ends(3).lines());
    lines.extend(
        Run::of(&mut place.snapshot(["repair", "--json"]))
            .ok()
            .lines(),
    );
    lines.extend(salvaged(&place, &without_new));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(place.path("key"), mode).unwrap();
    let warned = Run::of(&mut place.snapshot(["list", "--json"])).ok().err;
    lines.extend(
        warned
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()),
    );
    lines.extend(damaged(&place));
    lines.extend(lost_records());
    lines.extend(crate::object::lines_of_a_list());
    lines.extend(crate::nearest::lines_of_a_fallback());
    lines.extend(crate::cold::lines_of_warming());
    assert_documented(&lines, page);
}

/// What would be accepted of a ledger that lost a record, and before that of one whose end this host alone knows.
fn lost_records() -> Vec<Value> {
    let place = Place::new();
    for content in ["one", "two", "three"] {
        place.write("a", content);
        let _ = place.save().ok();
    }
    let dry = ["ledger", "accept", "--dry-run", "--json"];
    fs::remove_file(place.objects("ledger").pop().unwrap()).unwrap();
    // Somebody who has not seen that record goes on in its place.
    let mut other = place.snapshot(["hold", "latest"]);
    let _ = Run::of(other.args(["--state-dir", "other"]));
    let mut lines = Run::of(&mut place.snapshot(dry)).ok().lines();
    fs::remove_dir_all(place.path("state")).unwrap();
    fs::remove_file(place.objects("ledger").remove(1)).unwrap();
    lines.extend(Run::of(&mut place.snapshot(dry)).ok().lines());
    lines
}

/// The lines of a verification when all content is lost.
fn damaged(place: &Place) -> Vec<Value> {
    for pack in place.objects("data") {
        fs::remove_file(pack).unwrap();
    }
    Run::of(&mut place.snapshot(["verify", "--json"]))
        .ends(13)
        .lines()
}

/// The lines of a restore of what is left when all content is lost.
fn salvaged(place: &Place, wanted: &str) -> Vec<Value> {
    for pack in place.objects("data") {
        fs::remove_file(pack).unwrap();
    }
    let mut salvage = place.restore(["run", wanted, "--to", "rest", "--salvage", "--json"]);
    Run::of(&mut salvage).ends(3).lines()
}

/// Sees that lines and page name the same types, and that the page has every member.
fn assert_documented(lines: &[Value], page: &str) {
    let seen: std::collections::BTreeSet<&str> = lines
        .iter()
        .filter_map(|line| line["type"].as_str())
        .collect();
    let documented: std::collections::BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'))
        .collect();
    assert_eq!(
        seen, documented,
        "types that commands write, and those on the page"
    );
    for line in lines {
        assert_eq!(line["v"], 1, "{line}");
        let kind = line["type"].as_str().unwrap();
        let section = page
            .split("\n### ")
            .find(|section| section.starts_with(&format!("`{kind}`")));
        let section = section.unwrap_or_else(|| panic!("`{kind}` is not on the page"));
        for member in line.as_object().unwrap().keys() {
            let common = ["v", "t", "type"].contains(&member.as_str());
            assert!(
                common || section.contains(&format!("`{member}`")),
                "`{member}` of `{kind}` is not on the page"
            );
        }
    }
}

#[test]
fn a_diff_below_a_path_that_is_in_neither_snapshot_says_so() {
    let place = Place::new();
    place.write("file", "one");
    let ids: Vec<String> = (0..2)
        .map(|_| {
            place.save().ok().of_type("saved")[0]["id"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    let diff =
        |path: &std::path::Path| Run::of(place.restore(["diff", &ids[0], &ids[1]]).arg(path));
    let _ = diff("/nope".as_ref())
        .ends(1)
        .says("/nope is in neither snapshot");
    let _ = diff(&place.data()).ok();
    let _ = diff(&place.data().join("file")).ok();
    let _ = diff("/".as_ref()).ok();
}
