//! What is refused with a word on what to do, and what is left unsaid.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use backup_tests::{Place, Run};

fn saved() -> Place {
    let place = Place::new();
    place.write("file", "content");
    let _ = place.save().ok();
    place
}

#[test]
fn the_time_that_a_list_shows_names_its_snapshot() {
    let place = saved();
    let time = Run::of(&mut place.snapshot(["list", "--json"]))
        .ok()
        .of_type("snapshot")[0]["time"]
        .as_str()
        .unwrap()
        .to_owned();
    let listed = Run::of(&mut place.snapshot(["list"])).ok().text();
    let shown = format!("{} {}", &time[..10], &time[11..19]);
    assert!(listed.contains(&shown), "{listed}");
    for spec in [shown.as_str(), &time[..10], &time[..16], &time[..19], &time] {
        let _ = Run::of(&mut place.restore(["ls", spec])).ok();
    }
    let _ = Run::of(&mut place.restore(["ls", "2020-01-01"])).ends(1);
    for wrong in ["2026-02-30", "2026-11-25T25:00", "2026-13-01T10:00:00Z"] {
        let _ = Run::of(&mut place.restore(["ls", wrong]))
            .ends(2)
            .says("no time");
    }
}

#[test]
fn names_that_cannot_be_signed_or_shown_are_usage_errors() {
    let place = saved();
    for name in [
        "x".repeat(1500),
        "two\nlines".into(),
        "bell\u{7}".into(),
        String::new(),
    ] {
        let mut save = place.snapshot(["save", "data", "--name", &name]);
        let _ = Run::of(&mut save).ends(2);
    }
    let _ = place.pipe(&"x".repeat(256), b"content").ends(2).says("255");
    let _ = place.pipe(&"x".repeat(255), b"content").ok();
}

#[test]
fn a_line_of_excludes_that_means_nothing_is_not_passed_over_in_silence() {
    let place = saved();
    let save = |args: &[&str]| Run::of(place.snapshot(["save", "data", "--json"]).args(args));
    let _ = save(&["--exclude", "[bad"]).ends(2).says("[bad");
    let _ = save(&["--exclude-file", "nonexist"])
        .ends(2)
        .says("--exclude-file");
    fs::write(place.path("lines"), "*.tmp\n[bad\n").unwrap();
    place.write("a.tmp", "left out");
    for dry in [
        &["--exclude-file", "lines"][..],
        &["--exclude-file", "lines", "--dry-run"],
    ] {
        let run = save(dry).ends(3);
        let found = run.of_type("finding").remove(0);
        assert_eq!(found["kind"], "degraded");
        assert!(
            found["subject"].as_str().unwrap().ends_with("lines:2"),
            "{found}"
        );
    }
    let listed = Run::of(&mut place.restore(["ls", "latest", "-R"]))
        .ok()
        .text();
    assert!(!listed.contains("a.tmp"), "{listed}");
}

#[test]
fn what_goes_wrong_says_what_to_do() {
    let place = saved();
    fs::write(place.path("there"), "").unwrap();
    let file = format!("latest:{}", place.data().join("file").display());
    let _ = Run::of(&mut place.restore(["prove", &file, "-o", "there"]))
        .ends(11)
        .says("another name");
    let _ = Run::of(&mut place.snapshot(["key", "add", "--new-key-file", "there"]))
        .ends(11)
        .says("another name");
    let _ = Run::of(&mut place.restore(["ls", "latest:data/file"]))
        .ends(1)
        .says("begins with a slash");
    let _ = Run::of(&mut place.restore(["run", "latest", "--to", "there/below"]))
        .ends(11)
        .says("name a folder with --to");
    let add = ["key", "add", "--new-key-file", "reader", "--role", "reader"];
    let _ = Run::of(&mut place.snapshot(add)).ok();
    for more in [&["save", "data"][..], &["save", "data", "--dry-run"]] {
        let _ = Run::of(place.snapshot(more).args(["--key-file", "reader"]))
            .ends(12)
            .says("may not save");
    }
    let both = ["list", "--key-file", "key", "--passphrase-file", "there"];
    let _ = Run::of(&mut place.snapshot(both))
        .ends(2)
        .says("--passphrase-file");
}

#[test]
fn a_host_is_taken_only_for_a_key_that_signs_for_one() {
    let place = Place::new();
    for role in ["reader", "verifier", "full"] {
        let add = ["key", "add", "--new-key-file", "new", "--role", role];
        let _ = Run::of(place.snapshot(add).args(["--host", "h1"]))
            .ends(2)
            .says("leave out --host");
    }
    assert!(!place.path("new").exists());
    let add = ["key", "add", "--new-key-file", "new", "--role", "writer"];
    let _ = Run::of(place.snapshot(add).args(["--host", "h1"])).ok();
}

#[test]
fn quiet_commands_say_nothing_when_all_is_well() {
    let place = saved();
    for args in [
        &["verify"][..],
        &["verify", "--level", "full"],
        &["ledger", "verify"],
        &["hold", "latest"],
        &["release", "latest"],
        &["forget", "--keep-last", "1"],
    ] {
        let run = Run::of(place.snapshot(args).arg("--quiet")).ok();
        assert_eq!(
            (run.text().as_str(), run.err.as_str()),
            ("", ""),
            "{args:?}"
        );
        let run = Run::of(place.snapshot(args).args(["--quiet", "--json"])).ok();
        assert!(!run.lines().is_empty(), "{args:?}");
    }
}

#[test]
fn a_repository_in_the_folder_that_is_saved_is_not_saved_into_itself() {
    let place = Place::new();
    place.write("file", "content");
    let url = format!("files://{}?exclude=cache", place.path("").display());
    let by_path = ["save", "--exclude", "cache", "."];
    let by_parent = ["save", "--exclude", "cache", "data/.."];
    for save in [&by_path[..], &by_path, &["save", &url], &by_parent] {
        let _ = Run::of(&mut place.snapshot(save)).ok().says("is left out");
        let mut list = place.restore(["ls", "latest", "-R"]);
        let listed = Run::of(&mut list).ok().text();
        assert!(
            listed.contains("/data/file") && !listed.contains("/repo"),
            "{listed}"
        );
    }
}

#[test]
fn a_restore_says_how_many_entries_did_not_get_their_owner() {
    let place = saved();
    let is_root =
        fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
    if !is_root {
        return;
    }
    let file = place.data().join("file");
    std::os::unix::fs::chown(&file, Some(12345), Some(12345)).unwrap();
    let _ = place.save().ok();
    // Everything belongs to somebody else than the one who restores.
    fs::set_permissions(place.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    open_to_all(&place.repo());
    open_to_all(&place.path("cache"));
    let mut restore = place.restore(["run", "latest", "--verify", "--to", "out"]);
    fs::create_dir(place.path("out")).unwrap();
    std::os::unix::fs::chown(place.path("out"), Some(12345), Some(12345)).unwrap();
    std::os::unix::fs::chown(place.path("key"), Some(12345), Some(12345)).unwrap();
    std::os::unix::process::CommandExt::uid(&mut restore, 12345);
    std::os::unix::process::CommandExt::gid(&mut restore, 12345);
    let run = Run::of(&mut restore).ok();
    assert!(
        run.text().contains("did not get their owner"),
        "{}",
        run.text()
    );
    assert!(!run.text().contains("all as saved"), "{}", run.text());
}

fn open_to_all(path: &std::path::Path) {
    let Ok(meta) = path.symlink_metadata() else {
        return;
    };
    let mode = if meta.is_dir() { 0o777 } else { 0o666 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        open_to_all(&entry.path());
    }
}
