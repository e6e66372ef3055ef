//! Restoring into a folder that is not empty.

use std::fs;

use backup_tests::{Place, Run};

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
        let (wanted, to) = (below(&place), place.data().display().to_string());
        let run = ["run", &wanted, "--to", &to, "--delete", "--json"];
        let restored = Run::of(&mut place.restore(run)).ok().of_type("restored");
        assert_eq!(restored[0]["deleted"], 1, "{filter:?}");
        for name in ["a/keep", "a/skip/s", "a/x.tmp", "all/keep"] {
            assert!(
                place.data().join(name).exists(),
                "{name} is gone with {filter:?}"
            );
        }
        assert!(!place.data().join("all/other").exists());
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
