//! What the source of files is told on the command line.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use backup_tests::{Place, Run, read_tree};

/// Saves the folder with more arguments, and gives the names that are in the snapshot below it.
fn saved_names(place: &Place, args: &[&str]) -> Vec<String> {
    let mut save = place.snapshot(["save", "--json"]);
    let _ = Run::of(save.arg(place.data()).args(args)).ok();
    let wanted = format!("latest:{}", place.data().display());
    let listed = Run::of(&mut place.restore(["ls", "-R", "--json", &wanted])).ok();
    let below = format!("{}/", place.data().display());
    let names = listed.of_type("entry").into_iter().map(|entry| {
        let path = entry["path"].as_str().unwrap().to_owned();
        path.strip_prefix(&below).unwrap().to_owned()
    });
    names.collect()
}

#[test]
fn size_and_age_leave_files_out() {
    let place = Place::new();
    place.write("small", vec![1; 100]);
    place.write("large", vec![1; 5000]);
    place.write("old", vec![1; 100]);
    let now = fs::metadata(place.data().join("small")).unwrap().modified();
    let long_ago = now.unwrap() - Duration::from_secs(100 * 24 * 3600);
    let old = File::options().write(true).open(place.data().join("old"));
    old.unwrap().set_modified(long_ago).unwrap();
    let names = |args: &[&str]| saved_names(&place, args);
    assert_eq!(names(&["--exclude-larger-than", "4K"]), ["old", "small"]);
    assert_eq!(names(&["--exclude-smaller-than", "101"]), ["large"]);
    assert_eq!(names(&["--exclude-older-than", "99d"]), ["large", "small"]);
    assert_eq!(names(&["--exclude-newer-than", "99d"]), ["old"]);
    assert_eq!(
        names(&[
            "--exclude-older-than",
            "101d",
            "--exclude-larger-than",
            "1M"
        ]),
        ["large", "old", "small"]
    );
    let mut wrong = place.snapshot(["save", "data", "--exclude-older-than", "soon"]);
    let _ = Run::of(&mut wrong).ends(2).says("is not a span");
}

#[test]
fn excludes_follow_gitignore() {
    let place = Place::new();
    for name in [
        "a.log",
        "keep.log",
        "sub/b.log",
        "sub/c",
        "build/x",
        "src/build/y",
    ] {
        place.write(name, name);
    }
    place.write("sub/.gitignore", "c\n");
    fs::write(place.path("lines"), "*.log\n!keep.log\n").unwrap();
    assert_eq!(
        saved_names(
            &place,
            &[
                "--exclude-file",
                "lines",
                "--exclude",
                "/build",
                "--ignore-file",
                ".gitignore"
            ]
        ),
        [
            "keep.log",
            "src",
            "src/build",
            "src/build/y",
            "sub",
            "sub/.gitignore"
        ]
    );
    let mut missing = place.snapshot(["save", "data", "--exclude-file", "no-such"]);
    let _ = Run::of(&mut missing).ends(2).says("no-such");
}

#[test]
fn several_roots_stand_in_one_snapshot_under_their_own_paths() {
    let place = Place::new();
    place.write("one/a", "a");
    fs::create_dir(place.path("two")).unwrap();
    fs::write(place.path("two/b"), "b").unwrap();
    let mut save = place.snapshot(["save", "--json", "data/one", "two"]);
    let _ = Run::of(&mut save).ok();
    let _ = Run::of(&mut place.restore(["run", "latest", "--to", "out"])).ok();
    let below = |path: std::path::PathBuf| {
        let whole = place.path("out").join(path.strip_prefix("/").unwrap());
        fs::read(whole).unwrap()
    };
    assert_eq!(below(place.data().join("one/a")), b"a");
    assert_eq!(below(place.path("two/b")), b"b");
    let _ = Run::of(&mut place.snapshot(["save", "data/one", "no-such-root"])).ends(1);
}

#[test]
fn a_file_that_changed_behind_its_times_is_found_by_reading_again() {
    let place = Place::new();
    place.write("file", "before");
    let _ = place.save().ok();
    let mut again = place.snapshot(["save", "--json", "--reread"]);
    let again = Run::of(again.arg(place.data())).ok().of_type("saved");
    assert_eq!(
        (&again[0]["unchanged"], &again[0]["bytes_read"]),
        (&0.into(), &6.into())
    );
}

#[test]
fn another_file_system_is_left_out_on_request() {
    let place = Place::new();
    place.write("here", "1");
    let mount = place.data().join("mounted");
    fs::create_dir(&mount).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(&mount)
        .stderr(Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("skipped: a file system cannot be mounted here");
        return;
    }
    fs::write(mount.join("there"), "2").unwrap();
    let all = saved_names(&place, &[]);
    let one = saved_names(&place, &["--one-file-system"]);
    let _ = Command::new("umount").arg(&mount).status();
    assert_eq!(all, ["here", "mounted", "mounted/there"]);
    assert_eq!(one, ["here", "mounted"]);
}

#[test]
fn files_that_change_and_vanish_meanwhile_harm_nothing_else() {
    let place = Place::new();
    for number in 0..200 {
        place.write(format!("steady/{number:03}"), vec![7; 20_000]);
        place.write(format!("vanishing/{number:03}"), "soon gone");
    }
    place.write("growing", vec![1; 4 << 20]);
    let mut save = place.snapshot(["save", "--json"]);
    let child = save
        .arg(place.data())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    for number in 0..200 {
        let _ = fs::remove_file(place.data().join(format!("vanishing/{number:03}")));
        let growing = File::options()
            .append(true)
            .open(place.data().join("growing"));
        std::io::Write::write_all(&mut growing.unwrap(), b"more").unwrap();
    }
    let run = Run::from(child.wait_with_output().unwrap());
    assert!(run.code == 0 || run.code == 3, "{run:?}");
    for finding in run.of_type("finding") {
        let kind = finding["kind"].as_str().unwrap();
        assert!(
            ["vanished", "changed-while-read"].contains(&kind),
            "{finding}"
        );
    }
    let _ = place.verify().ok();
    let _ = place.bring_back("out").ok();
    let back = read_tree(&place.path("out/steady")).unwrap();
    assert_eq!(back.len(), 200);
    assert!(back.values().all(|node| node.content == vec![7; 20_000]));
}

#[test]
fn a_url_saves_what_the_path_saves_with_its_options() {
    let place = Place::new();
    place.write("a.txt", "a");
    place.write("b.tmp", "b");
    let url = format!("files://{}?exclude=*.tmp", place.data().display());
    let saved = Run::of(&mut place.snapshot(["save", "--json", &url])).ok();
    assert_eq!(saved.of_type("saved")[0]["files"], 1);
    let both = ["save", &url, "data"];
    let _ = Run::of(&mut place.snapshot(both)).ends(2);
    let _ = Run::of(&mut place.snapshot(["save", &url, "--exclude", "x"])).ends(2);
    let command = "command:///bin/echo?name=greeting&arg1=hello";
    let _ = Run::of(&mut place.snapshot(["save", command])).ok();
    let cat = Run::of(&mut place.restore(["cat", "latest:/greeting"])).ok();
    assert_eq!(cat.out, b"hello\n");
}

#[test]
fn the_repository_and_the_cache_are_left_out_whatever_the_folder_is_called() {
    for name in [
        &b"plain"[..],
        // Bytes that are no UTF-8, and signs that mean something to a line of excludes.
        b"by\xfftes",
        b"a b/[x]*/!x ",
    ] {
        let place = Place::empty();
        let folder = place.data().join(OsStr::from_bytes(name));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("file"), "1").unwrap();
        let here = |mut command: Command| {
            command.current_dir(&folder).env("BACKSTAY_REPO", "repo");
            Run::of(command.env("BACKSTAY_CACHE_DIR", "cache")).ok()
        };
        for round in 0..3 {
            place.wait_for_a_tick();
            let saved = here(place.snapshot(["save", "--json", "."])).of_type("saved");
            let read = saved[0]["bytes_read"].as_u64().unwrap();
            assert_eq!(read, u64::from(round == 0), "round {round}");
        }
        let listed = here(place.restore(["ls", "-R", "--json", "latest"])).of_type("entry");
        let paths: Vec<_> = (listed.iter())
            .map(|entry| entry["path"].as_str().unwrap())
            .collect();
        assert!(
            paths.iter().any(|path| path.ends_with("/file")),
            "{paths:?}"
        );
        let is_own = |path: &&str| path.contains("/repo") || path.contains("/cache/");
        assert!(!paths.iter().any(is_own), "{paths:?}");
    }
}

#[test]
fn of_a_folder_that_caches_lie_in_only_the_caches_are_left_out() {
    let place = Place::new();
    place.write("caches/of/somebody/else", "1");
    let cache = place.data().join("caches");
    let mut save = place.snapshot(["save"]);
    let _ = Run::of(save.arg(place.data()).env("BACKSTAY_CACHE_DIR", &cache)).ok();
    let mut ours = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap());
    let ours = ours.find(|entry| entry.file_name() != "of").unwrap();
    let tag = fs::read_to_string(ours.path().join("CACHEDIR.TAG")).unwrap();
    assert!(tag.starts_with("Signature: 8a477f597d28d172789f06886806bc55"));
    let names = saved_names(&place, &[]);
    // Those of this repository, wherever they lie, and no other run's.
    assert!(
        names.contains(&"caches/of/somebody/else".to_owned()),
        "{names:?}"
    );
    let mut save = place.snapshot(["save", "--json"]);
    let _ = Run::of(save.arg(place.data()).env("BACKSTAY_CACHE_DIR", &cache)).ok();
    let wanted = format!("latest:{}", place.data().display());
    let listed = Run::of(&mut place.restore(["ls", "-R", "--json", &wanted])).ok();
    let entries = listed.of_type("entry");
    let paths: Vec<_> = (entries.iter())
        .map(|entry| entry["path"].as_str().unwrap())
        .collect();
    assert!(
        !paths.iter().any(|path| path.contains("CACHEDIR.TAG")),
        "{paths:?}"
    );
    assert!(
        paths.iter().any(|path| path.ends_with("/else")),
        "{paths:?}"
    );
}
