//! Restoring into a folder that is not empty.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use backup_tests::{Place, Run, read_tree};

use crate::trouble::Small;

use crate::trouble::noise;

fn below(place: &Place) -> String {
    format!("latest:{}", place.data().display())
}

fn fill(place: &Place) {
    for name in ["a.conf", "b.txt", "sub/c.conf", "sub/deep/d.txt"] {
        place.write(name, name);
    }
    let _ = place.save().ok();
    let _ = place.bring_back("out").ok();
    fs::write(place.path("out/sub/extra.txt"), "not in the snapshot").unwrap();
}

#[test]
fn delete_makes_the_folder_as_it_was_saved() {
    let place = Place::new();
    fill(&place);
    fs::create_dir_all(place.path("out/other/folder")).unwrap();
    fs::write(place.path("out/other/folder/x"), "x").unwrap();
    let run = ["run", &below(&place), "--to", "out", "--delete", "--json"];
    let restored = Run::of(&mut place.restore(run)).ok().of_type("restored");
    assert_eq!(restored[0]["deleted"], 4);
    assert!(!place.path("out/other").exists() && !place.path("out/sub/extra.txt").exists());
    assert!(place.path("out/sub/deep/d.txt").exists());
}

/// The paths that the lines of a dry run name.
fn named(lines: &[serde_json::Value]) -> BTreeSet<PathBuf> {
    let path = |line: &serde_json::Value| {
        let Some(hex) = line["path_hex"].as_str() else {
            return PathBuf::from(line["path"].as_str().unwrap());
        };
        let digits = hex.as_bytes().chunks(2).map(|two| {
            let two = std::str::from_utf8(two).unwrap();
            u8::from_str_radix(two, 16).unwrap()
        });
        PathBuf::from(OsStr::from_bytes(&digits.collect::<Vec<_>>()))
    };
    let paths: BTreeSet<_> = lines.iter().map(path).collect();
    assert_eq!(paths.len(), lines.len(), "something is named twice");
    paths
}

/// Everything below a folder by its whole path, and when the folder itself was changed.
fn all_below(folder: &Path) -> (BTreeSet<PathBuf>, std::time::SystemTime) {
    let names = read_tree(folder).unwrap().into_keys();
    let changed = fs::metadata(folder).unwrap().modified().unwrap();
    (names.map(|name| folder.join(name)).collect(), changed)
}

/// Restores with `--delete`, first as a dry run: that changes nothing and names exactly what the
/// restore then deletes. Both end with the code. Says what it is.
fn rehearsed(place: &Place, to: &Path, more: &[&str], code: i32) -> BTreeSet<PathBuf> {
    let wanted = below(place);
    let mut run = place.restore(["run", &wanted, "--delete", "--json", "--to"]);
    run.arg(to).args(more);
    let (before, nodes) = (all_below(to), read_tree(to).unwrap());
    let dry = Run::of(run.arg("--dry-run")).ends(code);
    assert!(all_below(to) == before && read_tree(to).unwrap() == nodes);
    let mut run = place.restore(["run", &wanted, "--delete", "--json", "--to"]);
    let restored = Run::of(run.arg(to).args(more)).ends(code);
    let after = all_below(to).0;
    let gone: BTreeSet<_> = before.0.difference(&after).cloned().collect();
    let count = gone.len();
    assert_eq!(named(&dry.of_type("deletion")), gone);
    assert_eq!(dry.of_type("plan")[0]["deletions"], count);
    assert_eq!(restored.of_type("restored")[0]["deleted"], count);
    gone
}

#[test]
fn a_dry_run_names_exactly_what_delete_then_deletes() {
    for overwrite in ["never", "if-newer", "always"] {
        let place = Place::new();
        fill(&place);
        let (out, outside) = (place.path("out"), place.path("outside"));
        fs::create_dir_all(out.join("other/folder/empty")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("victim"), "not in the target").unwrap();
        std::os::unix::fs::symlink(&outside, out.join("sub/link")).unwrap();
        for name in [&b"other/folder/two\nlines"[..], b"\xff", b"sub/deep/z"] {
            fs::write(out.join(OsStr::from_bytes(name)), "x").unwrap();
        }
        let gone = rehearsed(&place, &out, &["--overwrite", overwrite], 0);
        assert_eq!(gone.len(), 8, "{gone:?}");
        assert!(gone.contains(&out.join("sub/extra.txt")));
        assert!(outside.join("victim").exists() && out.join("sub/deep/d.txt").exists());
        // What was restored once is not deleted by the next.
        assert!(rehearsed(&place, &out, &[], 0).is_empty());
    }
}

#[test]
fn a_dry_run_names_what_is_in_a_folder_that_gives_way_to_a_file() {
    let place = Place::new();
    fill(&place);
    let out = place.path("out");
    for name in ["b.txt", "sub/c.conf"] {
        fs::remove_file(out.join(name)).unwrap();
    }
    fs::create_dir_all(out.join("b.txt/deep")).unwrap();
    fs::write(out.join("b.txt/deep/file"), "x").unwrap();
    fs::create_dir_all(out.join("sub/c.conf")).unwrap();
    let gone = rehearsed(&place, &out, &["--overwrite", "always"], 0);
    let names = ["b.txt/deep", "b.txt/deep/file", "sub/extra.txt"];
    assert_eq!(gone, names.map(|name| out.join(name)).into());
    assert_eq!(fs::read(out.join("b.txt")).unwrap(), b"b.txt");
}

#[test]
fn a_dry_run_of_delete_names_nothing_where_the_restore_would_delete_nothing() {
    let place = Place::new();
    fill(&place);
    let out = place.path("out");
    fs::remove_dir_all(out.join("sub/deep")).unwrap();
    fs::write(out.join("sub/deep"), "not a folder").unwrap();
    for overwrite in ["never", "if-newer"] {
        assert!(rehearsed(&place, &out, &["--overwrite", overwrite], 3).is_empty());
        assert!(out.join("sub/extra.txt").exists());
    }
    let dry = [
        "run",
        &below(&place),
        "--to",
        "out",
        "--delete",
        "--dry-run",
    ];
    let _ = Run::of(&mut place.restore(dry))
        .ends(3)
        .says("/sub/deep")
        .says("nothing would be deleted");
    // Without a folder there is nothing to delete, and none is made.
    let dry = [
        "run",
        &below(&place),
        "--to",
        "new",
        "--delete",
        "--dry-run",
    ];
    let shown = Run::of(&mut place.restore(dry)).ok().text();
    assert!(shown.ends_with("and delete 0 entries there\n"), "{shown}");
    assert!(!place.path("new").exists());
}

#[test]
fn a_dry_run_and_delete_stop_alike_at_another_file_system() {
    // In a folder that the snapshot does not have, and in one where it has a file.
    for (folder, and_others) in [("other", true), ("b.txt", false)] {
        let place = Place::new();
        fill(&place);
        let out = place.path("out");
        let _ = fs::remove_file(out.join(folder));
        let Some(mounted) = Small::mount(&out.join(folder).join("mounted"), "1m") else {
            eprintln!("skipped: a file system cannot be mounted here");
            return;
        };
        for name in ["a", "mounted/file", "z"] {
            fs::write(out.join(folder).join(name), "x").unwrap();
        }
        let gone = rehearsed(&place, &out, &["--overwrite", "always"], 3);
        assert_eq!(gone.contains(&out.join("sub/extra.txt")), and_others);
        assert!(out.join(folder).join("mounted/file").exists());
        drop(mounted);
    }
}

#[test]
fn what_would_be_deleted_is_shown_one_on_each_line() {
    let place = Place::new();
    fill(&place);
    fs::write(place.path("out/sub/two\nlines"), "x").unwrap();
    let dry = [
        "run",
        &below(&place),
        "--to",
        "out",
        "--delete",
        "--dry-run",
    ];
    let shown = Run::of(&mut place.restore(dry)).ok().text();
    let out = place.path("out").canonicalize().unwrap();
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines.len(), 3, "{shown}");
    assert_eq!(lines[0], format!("delete {}/sub/extra.txt", out.display()));
    assert_eq!(
        lines[1],
        format!("delete {}/sub/two\\nlines", out.display())
    );
    assert!(lines[2].ends_with("and delete 2 entries there"), "{shown}");
    // Without `--delete` there is no word of it.
    let dry = ["run", &below(&place), "--to", "out", "--dry-run"];
    let shown = Run::of(&mut place.restore(dry)).ok().text();
    assert!(!shown.contains("delete"), "{shown}");
}

#[test]
fn the_mark_of_a_restore_that_was_broken_off_is_not_named_as_deleted() {
    let place = Place::new();
    fill(&place);
    let mark = place.path("out/.backstay-unfinished");
    fs::write(&mark, "").unwrap();
    let run = ["run", &below(&place), "--to", "out", "--delete", "--json"];
    let dry = Run::of(place.restore(run).arg("--dry-run")).ok();
    let wanted = BTreeSet::from([place.path("out/sub/extra.txt")]);
    assert_eq!(named(&dry.of_type("deletion")), wanted);
    let restored = Run::of(&mut place.restore(run)).ok().of_type("restored");
    assert_eq!(restored[0]["deleted"], 1);
    assert!(!mark.exists());
}

#[test]
fn delete_spares_what_the_save_left_out() {
    let filters: [&[&str]; 4] = [
        &["--exclude", "skip", "--exclude", "*.tmp"],
        &["--exclude-larger-than", "4K", "--exclude", "skip"],
        &["--exclude-smaller-than", "4", "--exclude", "skip"],
        &["--exclude-newer-than", "1h", "--exclude", "skip"],
    ];
    for filter in filters {
        let place = Place::new();
        for (name, content) in [
            ("a/keep", "content".to_owned()),
            ("all/keep", "content".to_owned()),
            ("a/skip/s", "content".to_owned()),
            (
                "a/x.tmp",
                "x".repeat(if filter.contains(&"4") { 1 } else { 8192 }),
            ),
        ] {
            place.write(name, content);
            if !(name == "a/x.tmp" && filter.contains(&"1h")) {
                let file = fs::File::options()
                    .write(true)
                    .open(place.data().join(name))
                    .unwrap();
                let long_ago =
                    std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
                file.set_modified(long_ago).unwrap();
            }
        }
        let _ = Run::of(
            place
                .snapshot(["save", &place.data().display().to_string()])
                .args(filter),
        )
        .ok();
        fs::write(place.data().join("all/other"), "not in the snapshot").unwrap();
        let gone = rehearsed(&place, &place.data(), &[], 0);
        let wanted = BTreeSet::from([place.data().join("all/other")]);
        assert_eq!(gone, wanted, "{filter:?}");
        for name in ["a/keep", "a/skip/s", "a/x.tmp", "all/keep"] {
            assert!(
                place.data().join(name).exists(),
                "{name} is gone with {filter:?}"
            );
        }
    }
}

#[test]
fn delete_never_goes_with_a_selection() {
    let place = Place::new();
    fill(&place);
    for selection in [["--include", "*.conf"], ["--exclude", "sub"]] {
        let wanted = below(&place);
        let run = ["run", &wanted, "--to", "out", "--delete"];
        let _ = Run::of(place.restore(run).args(selection))
            .ends(2)
            .says("--delete does not go with");
        for name in [
            "a.conf",
            "b.txt",
            "sub/c.conf",
            "sub/deep/d.txt",
            "sub/extra.txt",
        ] {
            assert!(place.path("out").join(name).exists(), "{name} is gone");
        }
    }
}

#[test]
fn an_include_that_matches_nothing_is_a_failure() {
    let place = Place::new();
    fill(&place);
    let run = [
        "run",
        &below(&place),
        "--to",
        "new",
        "--include",
        "*.nothing",
    ];
    let _ = Run::of(&mut place.restore(run)).ends(1).says("--include");
    let _ = Run::of(place.restore(run).arg("--dry-run")).ends(1);
    let wrong = ["run", &below(&place), "--to", "new", "--include", "["];
    let _ = Run::of(&mut place.restore(wrong)).ends(2);
}

#[test]
fn if_newer_replaces_what_is_older_than_the_saved_one() {
    let place = Place::new();
    fill(&place);
    let set = |name: &str, seconds: u64| {
        let path = place.path("out").join(name);
        fs::write(&path, "mine").unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(time).unwrap();
    };
    set("a.conf", 1_000_000);
    set("b.txt", 4_000_000_000);
    let run = [
        "run",
        &below(&place),
        "--to",
        "out",
        "--overwrite",
        "if-newer",
    ];
    let _ = Run::of(&mut place.restore(run)).ok();
    assert_eq!(fs::read(place.path("out/a.conf")).unwrap(), b"a.conf");
    assert_eq!(fs::read(place.path("out/b.txt")).unwrap(), b"mine");
}

/// Yesterday's image over today's: where it has zeros, nothing of today's may stay.
#[test]
fn zeros_of_the_snapshot_replace_what_is_there() {
    let place = Place::new();
    let mut image = noise(1, 4 << 20);
    image[1 << 20..2 << 20].fill(0);
    image[(3 << 20) + 4096..].fill(0);
    place.write("image", &image);
    place.write("zeros", vec![0; 300_000]);
    let hole = fs::File::create(place.data().join("hole")).unwrap();
    hole.set_len(1 << 20).unwrap();
    let _ = place.save().ok();
    for overwrite in ["always", "if-newer"] {
        fs::create_dir_all(place.path("out")).unwrap();
        for (name, length) in [("image", 4 << 20), ("zeros", 300_000), ("hole", 1 << 20)] {
            let path = place.path("out").join(name);
            fs::write(&path, noise(2, length)).unwrap();
            let file = fs::File::options().write(true).open(path).unwrap();
            let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
            file.set_modified(long_ago).unwrap();
        }
        let wanted = below(&place);
        let run = ["run", &wanted, "--to", "out", "--overwrite", overwrite];
        let _ = Run::of(place.restore(run).arg("--verify")).ok();
        for name in ["image", "zeros", "hole"] {
            let is_same = fs::read(place.path("out").join(name)).unwrap()
                == fs::read(place.data().join(name)).unwrap();
            assert!(is_same, "{name} with --overwrite {overwrite}");
        }
    }
}

#[test]
fn content_that_is_there_already_is_not_fetched_again() {
    let place = Place::new();
    place.write("large", vec![5; 3 << 20]);
    place.write("small", "small");
    let _ = place.save().ok();
    let _ = place.bring_back("out").ok();
    let wanted = below(&place);
    let run = [
        "run",
        &wanted,
        "--to",
        "out",
        "--overwrite",
        "always",
        "--json",
    ];
    let again = Run::of(&mut place.restore(run)).ok().of_type("restored");
    assert_eq!(again[0]["bytes_fetched"], 0, "{}", again[0]);
    // What `--verify` finds different it says, with a code of its own.
    fs::write(place.path("out/small"), "SMALL").unwrap();
    let check = ["run", &wanted, "--to", "out", "--verify", "--json"];
    let found = Run::of(&mut place.restore(check))
        .ends(13)
        .of_type("finding");
    assert!(found[0]["subject"].as_str().unwrap().ends_with("out/small"));
}

#[test]
fn a_dry_run_says_what_is_there_already() {
    let place = Place::new();
    fill(&place);
    fs::remove_file(place.path("out/b.txt")).unwrap();
    fs::create_dir_all(place.path("out/b.txt/below")).unwrap();
    fs::remove_file(place.path("out/a.conf")).unwrap();
    let wanted = below(&place);
    let plan = |overwrite: &str, code: i32| {
        let run = [
            "run",
            &wanted,
            "--to",
            "out",
            "--dry-run",
            "--json",
            "--overwrite",
        ];
        let run = Run::of(place.restore(run).arg(overwrite)).ends(code);
        let plan = run.of_type("plan").remove(0);
        let number = |name: &str| plan[name].as_u64().unwrap();
        (number("entries"), number("kept"), number("replaced"))
    };
    let before = read_tree(&place.path("out")).unwrap();
    // The folder itself, two folders and four files, one of which is missing.
    assert_eq!(plan("never", 0), (7, 6, 0));
    // A folder that is not empty stands in the place of another.
    assert_eq!(plan("always", 3), (7, 0, 5));
    assert!(read_tree(&place.path("out")).unwrap() == before);
    let run = ["run", &wanted, "--to", "out", "--dry-run"];
    let said = Run::of(&mut place.restore(run)).ok().text();
    let wanted = "of which 6 are there already and stay, and 0 are replaced where it differs";
    assert!(said.contains(wanted), "{said}");
}

#[test]
fn days_and_times_of_this_host_name_snapshots() {
    let place = Place::new();
    let saved = place.pipe("x", b"x").ok().of_type("saved").remove(0);
    let time = saved["time"].as_str().unwrap();
    let (day, rest) = time.split_once('T').unwrap();
    let minute: String = rest.chars().take(8).collect();
    let show = |spec: &str| Run::of(&mut place.snapshot(["show", spec, "--json"]));
    let id = |run: Run| run.ok().of_type("snapshot").remove(0)["id"].clone();
    assert_eq!(id(show(day)), saved["id"]);
    // A time means the end of what is written of it; the zone of the tests is UTC.
    assert_eq!(id(show(&format!("{day} {minute}"))), saved["id"]);
    let _ = show(&format!("{day} {minute}.000000001")).ends(1);
    let mut later = place.snapshot(["show", &format!("{day}T{minute}"), "--json"]);
    assert_eq!(id(Run::of(later.env("TZ", "UTC+3"))), saved["id"]);
    let _ = show("2001-01-01").ends(1).says("`2001-01-01`");
}

#[test]
fn an_interrupted_restore_ends_with_130_and_is_completed_by_the_next_one() {
    use rustix::process::{Pid, Signal, kill_process};
    use std::process::Stdio;
    let place = Place::new();
    let mut state = 1u64;
    for number in 0..16 {
        let content: Vec<u8> = (0..1_500_000)
            .flat_map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                state.to_le_bytes()
            })
            .collect();
        place.write(format!("{number}"), content);
    }
    let _ = place.save().ok();
    let run = ["run", &below(&place), "--to", "out"];
    for signal in [Signal::INT, Signal::TERM] {
        let mut restore = place.restore(run);
        let child = restore
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(250));
        kill_process(Pid::from_child(&child), signal).unwrap();
        let ended = Run::from(child.wait_with_output().unwrap());
        if ended.code == 0 {
            break; // Too fast a machine: there was nothing left to interrupt.
        }
        let _ = ended.ends(130).says("interrupted");
    }
    let _ = Run::of(place.restore(run).arg("--verify")).ok();
}

#[test]
fn delete_keeps_the_repository_and_all_that_opens_it() {
    let place = Place::new();
    fill(&place);
    let data = place.data();
    fs::write(data.join("extra"), "not in the snapshot").unwrap();
    let in_use = ["repo", "key", "cache", "state"];
    for name in in_use {
        fs::rename(place.path(name), data.join(name)).unwrap();
    }
    let run = |more: &[&str]| {
        let mut run = place.restore(["run", &below(&place), "--delete", "--to"]);
        run.arg(&data).args(["--overwrite", "always"]).args(more);
        run.env("BACKSTAY_REPO", data.join("repo"))
            .env("BACKSTAY_KEY_FILE", data.join("key"))
            .env("BACKSTAY_CACHE_DIR", data.join("cache"))
            .env("BACKSTAY_STATE_DIR", data.join("state"));
        Run::of(&mut run).ok()
    };
    let dry = run(&["--dry-run", "--json"]);
    let named = named(&dry.of_type("deletion"));
    assert_eq!(named, BTreeSet::from([data.join("extra")]));
    let restored = run(&[]).text();
    for name in in_use {
        assert!(restored.contains(&format!("/{name}: it is not deleted")));
    }
    assert!(!data.join("extra").exists());
    // Everything that a restore needs is there still.
    assert_eq!(run(&["--json"]).of_type("restored")[0]["deleted"], 0);
}

#[test]
fn delete_takes_nothing_from_another_file_system_that_the_snapshot_has_a_folder_for() {
    let place = Place::new();
    fill(&place);
    let out = place.path("out");
    let _ = fs::remove_dir_all(out.join("sub"));
    let Some(_mounted) = Small::mount(&out.join("sub"), "1m") else {
        eprintln!("skipped: a file system cannot be mounted here");
        return;
    };
    for name in ["extra.txt", "deep/extra.txt", "more/extra.txt"] {
        let name = out.join("sub").join(name);
        fs::create_dir_all(name.parent().unwrap()).unwrap();
        fs::write(name, "precious").unwrap();
    }
    fs::write(out.join("extra.txt"), "x").unwrap();
    let gone = rehearsed(&place, &out, &["--overwrite", "always"], 0);
    assert_eq!(gone, BTreeSet::from([out.join("extra.txt")]));
    // What the snapshot has came back there, and the mount point is named once.
    assert!(out.join("sub/deep/d.txt").exists());
    let run = ["run", &below(&place), "--to", "out", "--delete", "--json"];
    let findings = Run::of(&mut place.restore(run)).ok().of_type("finding");
    assert_eq!(
        (findings.len(), &findings[0]["subject"]),
        (1, &"/sub".into())
    );
}

#[test]
fn a_file_of_somebody_who_chose_the_name_of_the_mark_stays() {
    let place = Place::new();
    fill(&place);
    let own = place.path("out/.backstay-unfinished");
    fs::write(&own, "my own words").unwrap();
    let run = ["run", &below(&place), "--to", "out"];
    let refused = Run::of(&mut place.restore(run)).ends(1);
    let _ = refused.says("move it away");
    assert_eq!(fs::read(&own).unwrap(), b"my own words");
}

/// What is above what was chosen is in the way of nothing and stays as it is.
#[test]
fn folders_above_what_was_chosen_stay_as_they_are() {
    let place = Place::new();
    place.write("srv/www/site/page", "1");
    let mode = |path: &str, mode| {
        fs::set_permissions(place.path(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("data/srv", 0o700);
    mode("data/srv/www/site", 0o750);
    let _ = place.save().ok();
    fs::create_dir_all(place.path("out/srv/www/site")).unwrap();
    mode("out/srv", 0o755);
    let seen = |path: &str| {
        let meta = fs::metadata(place.path(path)).unwrap();
        (meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec())
    };
    let before = seen("out/srv");
    for overwrite in ["if-newer", "always"] {
        let run = [
            "run",
            &below(&place),
            "--to",
            "out",
            "--include",
            "site",
            "--overwrite",
            overwrite,
        ];
        let _ = Run::of(&mut place.restore(run)).ok();
        assert_eq!(seen("out/srv"), before, "{overwrite}");
    }
    assert_eq!(seen("out/srv/www/site").0, 0o750);
    // One that is not there is made as it was saved.
    let run = ["run", &below(&place), "--to", "new", "--include", "site"];
    let _ = Run::of(&mut place.restore(run)).ok();
    assert_eq!(seen("new/srv"), seen("data/srv"));
}
