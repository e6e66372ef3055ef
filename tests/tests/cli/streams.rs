//! Commands and standard input.

use std::fs;

use backup_tests::{Place, Run};

#[test]
fn the_same_stream_with_other_content_stores_the_other_content() {
    let place = Place::new();
    let _ = place.pipe("dump/shop.sql", b"first").ok();
    let _ = place.pipe("dump/shop.sql", b"second").ok();
    let cat = |spec: &str| Run::of(&mut place.restore(["cat", spec])).ok().out;
    assert_eq!(cat("latest:/dump/shop.sql"), b"second");
    let ids = Run::of(&mut place.snapshot(["list", "--json"]))
        .ok()
        .of_type("snapshot");
    assert_eq!(
        cat(&format!(
            "{}:/dump/shop.sql",
            ids[0]["id"].as_str().unwrap()
        )),
        b"first"
    );
    let _ = Run::of(&mut place.restore(["run", "latest", "--to", "out"])).ok();
    assert_eq!(
        fs::read(place.path("out/dump/shop.sql")).unwrap(),
        b"second"
    );
}

#[test]
fn a_large_stream_comes_back() {
    let place = Place::new();
    let content: Vec<u8> = (0..5_000_000u32)
        .flat_map(|n| (n / 3).to_le_bytes())
        .collect();
    let _ = place.pipe("large", &content).ok();
    assert!(
        Run::of(&mut place.restore(["cat", "latest:/large"]))
            .ok()
            .out
            == content
    );
    let mut changed = content.clone();
    changed[10_000_000] ^= 1;
    let second = place
        .pipe("large", &changed)
        .ok()
        .of_type("saved")
        .remove(0);
    assert!(
        second["bytes_added"].as_u64().unwrap() < 1_000_000,
        "{second}"
    );
    assert!(
        Run::of(&mut place.restore(["cat", "latest:/large"]))
            .ok()
            .out
            == changed
    );
    let _ = place.verify().ok();
}

#[test]
fn a_failing_command_makes_no_snapshot() {
    let place = Place::new();
    let save = |command: &str| Run::of(&mut place.snapshot(["save", "--command", command]));
    let run = save("echo something; echo why >&2; exit 3").ends(1);
    assert!(
        run.err.contains("exit status 3") && run.err.contains("why"),
        "{}",
        run.err
    );
    let _ = save("no-such-program-here").ends(1);
    let _ = save("false | cat").ends(1);
    assert!(
        Run::of(&mut place.snapshot(["list", "--json"]))
            .ok()
            .lines()
            .is_empty()
    );
    let _ = save("printf %s good").ok();
    assert_eq!(
        Run::of(&mut place.restore(["cat", "latest:/printf"]))
            .ok()
            .out,
        b"good"
    );
}

#[test]
fn names_that_would_leave_the_snapshot_are_refused() {
    let place = Place::new();
    for name in ["../x", "", "/", "a/../b"] {
        let _ = place.pipe(name, b"x").ends(2);
    }
}
