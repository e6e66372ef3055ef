//! The first saves into a repository that is not there yet.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Stdio};

use backup_tests::{Place, Run};

fn start_save(place: &Place, name: &str) -> Child {
    let mut command = place.snapshot(["save", "--json", "--name", name]);
    command.arg(place.data());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[test]
fn first_saves_at_once_all_succeed_with_the_repository_that_one_of_them_makes() {
    for _ in 0..8 {
        let place = Place::empty();
        place.write("file", "content");
        let names = ["one", "two", "three"];
        let saves: Vec<Child> = names.iter().map(|name| start_save(&place, name)).collect();
        let mut made = 0;
        for save in saves {
            let run = Run::from(save.wait_with_output().unwrap()).ok();
            assert_eq!(run.of_type("saved").len(), 1);
            made += run.of_type("repository").len();
        }
        assert_eq!(made, 1, "one of them makes the repository");
        let listed = Run::of(&mut place.restore(["list", "--json"])).ok();
        assert_eq!(listed.of_type("snapshot").len(), names.len());
        let _ = place.verify().ok();
    }
}

#[test]
fn a_first_save_leaves_a_key_file_of_its_owner_and_nothing_half_written_beside_it() {
    let place = Place::empty();
    place.write("file", "content");
    let mut save = place.snapshot(["save", "--key-file", "keys/here"]);
    let _ = Run::of(save.arg(place.data())).ok();
    let mut names: Vec<_> = fs::read_dir(place.path("keys"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["here", "here.recovery.txt"]);
    for name in names {
        let mode = fs::metadata(place.path("keys").join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

/// It may be the wrong folder; what is there is left alone.
#[test]
fn a_folder_of_other_files_becomes_a_repository_with_a_warning() {
    let make = |place: &Place| {
        Run::of(&mut place.snapshot(["init", "--recovery-sheet", "sheet", "--quiet"]))
    };
    let told = "holds other files (a, b, c and others)";
    for saves in [false, true] {
        let place = Place::empty();
        place.write("file", "content");
        for name in [
            ".snapshot",
            "lost+found",
            "@eaDir",
            "System Volume Information",
        ] {
            fs::create_dir_all(place.repo().join(name)).unwrap();
        }
        for name in ["a", "b", "c", "d"] {
            fs::write(place.repo().join(name), name).unwrap();
        }
        let run = if saves { place.save() } else { make(&place) };
        let run = run.ok().says(told);
        assert!(
            run.err.contains(place.repo().to_str().unwrap()),
            "{}",
            run.err
        );
        assert_eq!(fs::read(place.repo().join("a")).unwrap(), b"a");
        // Once it is there it is one's own.
        let again = place.save().ok();
        assert!(!again.err.contains("other files"), "{}", again.err);
    }
    // What a NAS puts into a share is nobody's, and so are the keys of this very repository.
    let place = Place::empty();
    for name in [
        ".hidden",
        "lost+found",
        "@eaDir",
        "System Volume Information",
    ] {
        fs::create_dir_all(place.repo().join(name)).unwrap();
    }
    let mut init = place.snapshot(["init", "--recovery-sheet", "repo/sheet", "--quiet"]);
    let run = Run::of(init.args(["--key-file", "repo/key"])).ok();
    assert_eq!(run.err, "");
}

fn rename(place: &Place, from: &str, to: &str) {
    fs::rename(place.path(from), place.path(to)).unwrap();
}

#[test]
fn an_init_that_was_killed_before_the_repository_was_there_is_not_in_the_way() {
    // As it is left by a kill behind the key slots: no config, and files without their names.
    let place = Place::new();
    rename(&place, "key", "key.unfinished");
    rename(&place, "sheet", "sheet.unfinished");
    for object in ["config", "ledger", "parity"] {
        fs::remove_dir_all(place.repo().join(object)).unwrap();
    }
    let init = ["init", "--recovery-sheet", "sheet"];
    let _ = Run::of(&mut place.snapshot(init)).ok();
    let _ = Run::of(&mut place.snapshot(["save", "data"])).ok();
    let _ = place.verify().ok();
    let names: Vec<_> = fs::read_dir(place.path(""))
        .unwrap()
        .map(|f| f.unwrap().file_name())
        .collect();
    assert!(
        !names
            .iter()
            .any(|name| name.to_str().unwrap().contains("unfinished")),
        "{names:?}"
    );
    // The slots that were left open nothing, and are named.
    let list = Run::of(&mut place.snapshot(["key", "list"])).ok().text();
    assert_eq!(list.matches("of another repository").count(), 2);
}

#[test]
fn a_key_file_of_a_repository_that_was_made_gets_its_name_from_the_next_run() {
    let place = Place::new();
    rename(&place, "key", "key.unfinished");
    let _ = Run::of(&mut place.snapshot(["save", "data"]))
        .ok()
        .says("broken off");
    assert!(place.path("key").exists() && !place.path("key.unfinished").exists());
    let _ = Run::of(&mut place.snapshot(["list"])).ok();
}

#[test]
fn a_repository_that_was_made_where_another_was_before_is_known_to_the_next_run_though_its_making_was_killed()
 {
    let place = Place::new();
    let _ = Run::of(&mut place.snapshot(["save", "data"])).ok();
    let mut known = fs::read_dir(place.path("state/known")).unwrap();
    let known = known.next().unwrap().unwrap().path();
    let of_the_first = fs::read(&known).unwrap();
    fs::remove_dir_all(place.repo()).unwrap();
    for name in ["key", "sheet"] {
        fs::remove_file(place.path(name)).unwrap();
    }
    let init = ["init", "--recovery-sheet", "sheet"];
    let _ = Run::of(&mut place.snapshot(init)).ok();
    // As it is left by a kill behind the config: what this host remembers is of the first repository still.
    fs::write(&known, &of_the_first).unwrap();
    rename(&place, "key", "key.unfinished");
    let _ = Run::of(&mut place.snapshot(["save", "data"]))
        .ok()
        .says("broken off");
    assert!(fs::read(&known).unwrap() != of_the_first);
    // Whose key has its name is not believed like that.
    fs::write(&known, &of_the_first).unwrap();
    let _ = Run::of(&mut place.snapshot(["list"])).ends(13);
}
