//! The room of a tier, looked at before it is written to: on small file systems.

use std::fs;

use backup_tests::{Place, Run};

use crate::copy::{OTHER, copy, other, packs, restored, three};
use crate::trouble::{Small, noise};

#[test]
fn a_save_warns_while_there_is_room() {
    let place = Place::empty();
    let Some(_small) = Small::mount(&place.repo(), "8m") else {
        eprintln!("skipped: a file system cannot be mounted here");
        return;
    };
    let _ = Run::of(&mut place.snapshot(["init"])).ok();
    let save = |full: &str| {
        let mut save = place.snapshot(["save"]);
        save.env("BACKSTAY_WARN_FULL", full);
        Run::of(save.arg(place.data())).ok().err
    };
    place.write("a", noise(1, 4 << 20));
    assert!(!save("50").contains("of the room"));
    // By now half of it is used.
    let told = save("50");
    assert!(
        told.contains("% of the room at") && told.contains("forget --prune"),
        "{told}"
    );
    assert!(!save("80").contains("of the room"));
    assert!(!save("100").contains("of the room"));
}

#[test]
fn a_copy_that_does_not_fit_is_not_begun() {
    let (place, known) = three();
    let there = place.path(OTHER);
    let Some(_small) = Small::mount(&there, "6m") else {
        eprintln!("skipped: a file system cannot be mounted here");
        return;
    };
    let run = Run::of(&mut copy(&place, &[])).ends(1);
    let _ = run.says("are free at").says("--despite-room");
    assert!(packs(&there).is_empty());
    let _ = Run::of(&mut copy(&place, &["--dry-run"])).ends(1);
    // One of them goes in, and makes it fuller than it should be.
    let oldest = known.keys().next().unwrap();
    let mut one = copy(&place, &[oldest, "--warn-full", "60"]);
    let _ = Run::of(&mut one).ok().says("will be used");
    assert!(restored(&place, oldest) == known[oldest]);
    // Whoever insists gets as far as it goes, and nothing is lost.
    let _ = Run::of(&mut copy(&place, &["--despite-room"])).ends(1);
    assert!(restored(&place, oldest) == known[oldest]);
    let _ = Run::of(&mut other(&place, &["verify", "--level", "full"])).ok();
}

/// Where the disk is not mounted, its mount point is a folder of another one.
#[test]
fn a_disk_without_its_marker_is_neither_written_to_nor_read() {
    let (place, known) = three();
    let mount = place.path("mount");
    fs::create_dir(&mount).unwrap();
    let there = format!("file://{}?marker=.backup-disk", mount.display());
    let is_empty = || fs::read_dir(&mount).unwrap().next().is_none();
    for args in [
        &["copy", "--to", &there][..],
        &["sync", "--to", &there],
        &["save", "--repo", &there, "data"],
        &[
            "init",
            "--repo",
            &there,
            "--key-file",
            "key-2",
            "--recovery-sheet",
            "sheet-2",
        ],
    ] {
        let run = Run::of(&mut place.snapshot(args)).ends(1);
        let _ = run.says(".backup-disk");
        assert!(is_empty(), "{args:?}");
    }
    fs::write(mount.join(".backup-disk"), "").unwrap();
    let _ = Run::of(&mut place.snapshot(["copy", "--to", &there])).ok();
    let newest = known.keys().last().unwrap();
    let wanted = format!("{newest}:{}", place.data().display());
    let run = |out: &str| {
        let more = ["--repo", &there, "--also-from", "repo"];
        Run::of(place.restore(["run", &wanted, "--to", out]).args(more))
            .ok()
            .err
    };
    assert!(!run("with").contains("nothing is read"));
    fs::remove_file(mount.join(".backup-disk")).unwrap();
    assert!(run("without").contains(".backup-disk"));
}
