//! Repositories, keys and places.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use backup_tests::{Place, Run};

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn init_makes_a_key_that_only_its_owner_reads_and_never_overwrites_one() {
    let place = Place::empty();
    let run = Run::of(&mut place.snapshot(["init"])).ok();
    assert!(run.text().contains("BACKSTAY RECOVERY SHEET"));
    assert_eq!(mode(&place.path("key")), 0o600);
    let key = fs::read(place.path("key")).unwrap();
    let again = Run::of(&mut place.snapshot(["init"])).ends(11);
    assert!(again.err.contains("already"));
    let other = Run::of(place.snapshot(["init", "--repo"]).arg(place.path("other"))).ends(11);
    assert!(other.err.contains("opens repository"), "{}", other.err);
    assert_eq!(fs::read(place.path("key")).unwrap(), key);
    assert!(!place.path("other").exists());
}

#[test]
fn no_secret_shows_in_any_output() {
    let place = Place::new();
    place.write("a", "a");
    let key = fs::read_to_string(place.path("key")).unwrap();
    let secret = key
        .lines()
        .last()
        .unwrap()
        .split_whitespace()
        .last()
        .unwrap()
        .split('-')
        .next()
        .unwrap()
        .to_owned();
    let saved = Run::of(place.snapshot(["save", "-vv"]).arg(place.data())).ok();
    let listed = Run::of(&mut place.snapshot(["key", "list", "-vv"])).ok();
    for run in [saved, listed] {
        assert!(!run.text().contains(&secret) && !run.err.contains(&secret));
    }
}

#[test]
fn a_key_file_that_others_may_read_is_warned_of() {
    let place = Place::new();
    fs::set_permissions(place.path("key"), fs::Permissions::from_mode(0o644)).unwrap();
    let _ = Run::of(&mut place.snapshot(["list"]))
        .ok()
        .says("chmod 600");
}

#[test]
fn the_wrong_passphrase_and_the_wrong_key_open_nothing() {
    let place = Place::empty();
    fs::write(place.path("good"), "correct horse\n").unwrap();
    fs::write(place.path("bad"), "incorrect horse\n").unwrap();
    let with = |command: &str, file: &str| {
        let mut run = place.snapshot([command, "--passphrase-file", file, "--json"]);
        Run::of(run.env_remove("BACKSTAY_KEY_FILE"))
    };
    let _ = with("init", "good").ok();
    assert!(!place.path("key").exists());
    let _ = with("list", "good").ok();
    let wrong = with("list", "bad").ends(12);
    assert!(wrong.err.contains("\"code\":12"), "{}", wrong.err);
    let _ = with("list", "no-such-file").ends(14);
    let elsewhere = Place::new();
    let mut list = place.snapshot(["list", "--key-file"]);
    let _ = Run::of(list.arg(elsewhere.path("key"))).ends(12);
    fs::write(place.path("junk"), "hello\n").unwrap();
    let _ = Run::of(&mut place.snapshot(["list", "--key-file", "junk"])).ends(14);
}

#[test]
fn the_recovery_code_opens_the_repository() {
    let place = Place::new();
    place.write("a", "precious");
    let _ = place.save().ok();
    let sheet = fs::read_to_string(place.path("sheet")).unwrap();
    let code: Vec<&str> = sheet
        .lines()
        .map(str::trim)
        .filter(|line| {
            line.matches('-').count() >= 5
                && line.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        })
        .collect();
    fs::write(place.path("typed"), code.join("\n")).unwrap();
    fs::set_permissions(place.path("typed"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(place.path("key")).unwrap();
    let _ =
        Run::of(&mut place.restore(["run", "latest", "--key-file", "typed", "--to", "out"])).ok();
}

#[test]
fn without_a_repository_the_code_is_10_and_without_a_key_14() {
    let place = Place::empty();
    for command in [
        &["list"][..],
        &["verify"],
        &["forget", "--keep-last", "1"],
        &["show", "latest"],
    ] {
        let _ = Run::of(&mut place.snapshot(command))
            .ends(10)
            .says("there is no repository at");
    }
    let _ = Run::of(&mut place.restore(["run", "latest", "--to", "out"])).ends(10);
    assert!(!place.path("out").exists());
    let made = Place::new();
    let _ = Run::of(made.snapshot(["list"]).env_remove("BACKSTAY_KEY_FILE")).ends(14);
}

#[test]
fn save_makes_a_missing_repository_with_a_key_in_the_users_configuration() {
    let place = Place::empty();
    place.write("a", "a");
    let save = || {
        let mut save = place.snapshot(["save"]);
        Run::of(save.arg(place.data()).env_remove("BACKSTAY_KEY_FILE"))
    };
    let first = save().ok();
    assert!(
        first.err.contains("made repository") && first.err.contains("recovery sheet"),
        "{}",
        first.err
    );
    let second = save().ok();
    assert!(!second.err.contains("made repository"));
    let keys = place.path(".config/backstay/keys");
    let mut names: Vec<_> = fs::read_dir(&keys)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    assert_eq!(names.len(), 2);
    assert!(names.iter().all(|path| mode(path) == 0o600));
    // The disk is not mounted: nothing must be made in its place.
    fs::rename(place.repo(), place.path("away")).unwrap();
    let _ = save().ends(10).says("mounted");
    assert!(!place.repo().exists());
}

#[test]
fn keys_are_added_used_and_removed() {
    let place = Place::new();
    place.write("a", "content");
    let _ = place.save().ok();
    fs::write(place.path("words"), "reading only\n").unwrap();
    let add = [
        "key",
        "add",
        "--passphrase-file-new",
        "words",
        "--role",
        "reader",
        "--json",
    ];
    let added = Run::of(&mut place.snapshot(add))
        .ok()
        .of_type("key-added")
        .remove(0);
    let as_reader = |mut command: std::process::Command| {
        Run::of(
            command
                .args(["--passphrase-file", "words"])
                .env_remove("BACKSTAY_KEY_FILE"),
        )
    };
    let _ = as_reader(place.restore(["run", "latest", "--to", "out"])).ok();
    let mut save = place.snapshot(["save"]);
    save.arg(place.data());
    let _ = as_reader(save).ends(12);
    let add = ["key", "add", "--new-key-file", "writer", "--role", "writer"];
    let _ = Run::of(&mut place.snapshot(add)).ok();
    let _ = Run::of(
        place
            .snapshot(["save", "--key-file", "writer"])
            .arg(place.data()),
    )
    .ok();
    let _ = Run::of(&mut place.restore(["run", "latest", "--to", "out2", "--key-file", "writer"]))
        .ends(12);
    let id = added["id"].as_str().unwrap();
    let _ = Run::of(&mut place.snapshot(["key", "remove", id])).ok();
    let _ = as_reader(place.restore(["list"])).ends(12);
    let keys = Run::of(&mut place.snapshot(["key", "list", "--json"]))
        .ok()
        .of_type("key");
    let full: Vec<&str> = keys
        .iter()
        .filter(|key| key["role"] == "full")
        .map(|key| key["id"].as_str().unwrap())
        .collect();
    assert_eq!(full.len(), 2);
    let own = opened_slot(&place);
    let other = full.iter().find(|id| **id != own).unwrap();
    let _ = Run::of(&mut place.snapshot(["key", "remove", other])).ok();
    // The last way in cannot be removed.
    let _ = Run::of(&mut place.snapshot(["key", "remove", &own, "--force"]))
        .ends(11)
        .says("last full key");
    let _ = Run::of(&mut place.snapshot(["list"])).ok();
}

/// The id of the slot that the key file of the place opens.
fn opened_slot(place: &Place) -> String {
    let keys = Run::of(&mut place.snapshot(["key", "list", "--json"])).ok();
    let mut keys = keys.of_type("key");
    keys.retain(|key| key["is_this"] == true);
    assert_eq!(keys.len(), 1);
    keys[0]["id"].as_str().unwrap().to_owned()
}

#[test]
fn the_way_in_is_not_removed_while_nothing_shows_that_there_is_another() {
    let place = Place::new();
    let add = ["key", "add", "--new-key-file", "second"];
    let _ = Run::of(&mut place.snapshot(add)).ok();
    let own = opened_slot(&place);
    let _ = Run::of(&mut place.snapshot(["key", "remove", &own]))
        .ends(11)
        .says("--force");
    // Who opens with the other one has shown that it opens.
    let mut with_second = place.snapshot(["key", "remove", &own, "--key-file"]);
    let _ = Run::of(with_second.arg(place.path("second"))).ok();
    let _ = Run::of(&mut place.snapshot(["list"])).ends(12);
}

#[test]
fn a_slot_of_another_repository_is_no_way_in_and_is_named() {
    let (place, other) = (Place::new(), Place::new());
    for slot in other.objects("keys") {
        let name = slot.file_name().unwrap().to_owned();
        fs::copy(&slot, place.repo().join("keys").join(name)).unwrap();
    }
    let verified = Run::of(&mut place.snapshot(["verify", "--json"])).ok();
    let named = verified.of_type("finding");
    assert_eq!(
        named
            .iter()
            .filter(|line| line["kind"] == "mismatch")
            .count(),
        2
    );
    let list = Run::of(&mut place.snapshot(["key", "list"])).ok();
    assert_eq!(list.text().matches("of another repository").count(), 2);
    // They count for nothing: of its own two one may go, and then the other one must stay.
    let own = opened_slot(&place);
    let theirs: Vec<_> = other.objects("keys");
    let recovery = place.objects("keys").into_iter().find(|slot| {
        let name = slot.file_name().unwrap();
        name != own.as_str() && !theirs.iter().any(|their| their.file_name() == Some(name))
    });
    let recovery = recovery.unwrap().file_name().unwrap().to_owned();
    let _ = Run::of(place.snapshot(["key", "remove"]).arg(recovery)).ok();
    let _ = Run::of(&mut place.snapshot(["key", "remove", &own, "--force"]))
        .ends(11)
        .says("last full key");
    let _ = Run::of(&mut place.snapshot(["list"])).ok();
}

#[test]
fn slots_that_the_same_passphrase_opens_for_another_repository_are_passed_over() {
    let place = Place::empty();
    fs::write(place.path("words"), "correct horse\n").unwrap();
    let run = |args: &[&str]| {
        let mut run = place.snapshot(args);
        run.args(["--passphrase-file", "words"])
            .env_remove("BACKSTAY_KEY_FILE");
        Run::of(&mut run)
    };
    let _ = run(&["init"]).ok();
    for number in 0..3 {
        let name = format!("other{number}");
        let _ = run(&["init", "--repo", &name]).ok();
        for slot in fs::read_dir(place.path(&name).join("keys")).unwrap() {
            let slot = slot.unwrap();
            fs::copy(
                slot.path(),
                place.repo().join("keys").join(slot.file_name()),
            )
            .unwrap();
        }
    }
    let _ = run(&["list"]).ok();
}

#[test]
fn what_is_not_there_cannot_be_saved_or_restored() {
    let place = Place::new();
    place.write("a", "a");
    let _ = Run::of(&mut place.snapshot(["save", "/no/such/path"]))
        .ends(1)
        .says("/no/such/path");
    assert!(
        Run::of(&mut place.snapshot(["list", "--json"]))
            .ok()
            .lines()
            .is_empty()
    );
    let _ = Run::of(&mut place.restore(["run", "latest", "--to", "out"]))
        .ends(1)
        .says("no snapshot matches");
    let _ = place.save().ok();
    let _ = Run::of(&mut place.restore(["run", "latest:/no/such", "--to", "out"]))
        .ends(1)
        .says("/no/such");
    assert!(!place.path("out").exists());
}

#[test]
fn a_config_that_somebody_without_the_key_changed_is_damage_and_not_the_work_of_a_newer_program() {
    let place = Place::new();
    place.write("a", "a");
    let config = place.objects("config").remove(0);
    let mut bytes = fs::read(&config).unwrap();
    // Behind the eight bytes that every config begins with stands its version.
    bytes[8] = 2;
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&config, bytes).unwrap();
    fs::remove_file(place.objects("parity/config").remove(0)).unwrap();
    let before = place.objects("");
    let _ = place.save().ends(13);
    let list = Run::of(&mut place.snapshot(["list"])).ends(13);
    assert!(list.err.contains("without the key"), "{}", list.err);
    assert_eq!(place.objects(""), before);
}

#[test]
fn a_repository_that_cannot_be_made_leaves_no_key_behind() {
    let place = Place::empty();
    let mut init = place.snapshot([
        "init",
        "--repo",
        "/proc/backup",
        "--recovery-sheet",
        "sheet",
    ]);
    let _ = Run::of(&mut init).ends(1).says("cannot be made");
    place.write("a", "a");
    fs::write(place.path("file"), "").unwrap();
    let below_a_file = ["init", "--repo", "file/repo", "--recovery-sheet", "sheet"];
    assert_ne!(Run::of(&mut place.snapshot(below_a_file)).code, 0);
    let mut save = place.snapshot(["save", "data", "--repo", "file/repo"]);
    let _ = Run::of(save.env_remove("BACKSTAY_KEY_FILE"));
    let left = fs::read_dir(place.path("")).unwrap();
    let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    left.retain(|name| name != "data" && name != "file" && name != ".config");
    assert!(left.is_empty(), "{left:?}");
    let keys = fs::read_dir(place.path(".config/backstay/keys"));
    assert_eq!(keys.map_or(0, Iterator::count), 0);
}

#[test]
fn a_quiet_save_still_tells_of_the_key_it_made() {
    let place = Place::empty();
    place.write("a", "a");
    let save = || {
        let mut save = place.snapshot(["save", "--quiet", "data"]);
        Run::of(save.env_remove("BACKSTAY_KEY_FILE")).ok()
    };
    let first = save();
    assert!(first.err.contains(".key") && first.err.contains(".recovery.txt"));
    assert_eq!(first.text().lines().count(), 1, "the id alone");
    assert_eq!(save().err, "");
}

#[test]
fn every_variable_stands_for_its_option() {
    let place = Place::empty();
    fs::write(place.path("words"), "correct horse\n").unwrap();
    place.write("a", "a");
    let run = |args: &[&str]| {
        let mut run = place.snapshot(args);
        run.env_remove("BACKSTAY_KEY_FILE")
            .env("BACKSTAY_PASSPHRASE_FILE", place.path("words"));
        Run::of(&mut run)
    };
    let _ = run(&["init"]).ok();
    let _ = run(&["save", "data"]).ok();
    let _ = run(&["list"]).ok();
    assert!(place.path("cache").is_dir() && !place.path(".cache").exists());
    assert!(place.path("state").is_dir() && !place.path(".local").exists());
    assert!(!place.path("key").exists());
}

#[test]
fn what_a_reader_cannot_check_is_said() {
    let place = Place::new();
    place.write("a", "a");
    let _ = place.save().ok();
    let add = ["key", "add", "--new-key-file", "reader", "--role", "reader"];
    let _ = Run::of(&mut place.snapshot(add)).ok();
    let with = |args: &[&str]| Run::of(place.snapshot(args).args(["--key-file", "reader"])).ok();
    let ledger = with(&["ledger", "verify"]).text();
    assert!(ledger.contains("only the chain was checked"), "{ledger}");
    let shown = with(&["show", "latest", "--json"])
        .of_type("snapshot")
        .remove(0);
    // That it is the host's is certified, and needs no key of the host.
    assert_eq!(shown["signature"], "valid");
    let restore = |args: &[&str]| Run::of(place.restore(args).args(["--key-file", "reader"])).ok();
    let mut findings = restore(&["run", "latest", "--to", "out", "--json"]).of_type("finding");
    findings.retain(|finding| finding["subject"] != "the ledger");
    assert_eq!(findings, [] as [serde_json::Value; 0]);
}

#[test]
fn another_repository_in_the_place_of_one_is_refused() {
    let place = Place::empty();
    let words = place.path("words");
    fs::write(&words, "correct horse battery staple\n").unwrap();
    fs::set_permissions(&words, fs::Permissions::from_mode(0o600)).unwrap();
    let run = |args: &[&str]| {
        let mut run = place.snapshot(args);
        run.env_remove("BACKSTAY_KEY_FILE")
            .env("BACKSTAY_PASSPHRASE_FILE", place.path("words"));
        Run::of(&mut run)
    };
    let _ = run(&["init"]).ok();
    let _ = run(&["list"]).ok();
    fs::rename(place.path("repo"), place.path("ours")).unwrap();
    let _ = run(&["init", "--repo", "other"]).ok();
    fs::rename(place.path("other"), place.path("repo")).unwrap();
    let refused = run(&["save", "data"])
        .ends(13)
        .says("not the one that was there");
    let line = refused.err.split('`').nth(1).unwrap();
    let known = fs::read_dir(place.path("state/known")).unwrap();
    let files = known.map(|file| file.unwrap().path());
    let named = |file: &std::path::PathBuf| refused.err.contains(file.to_str().unwrap());
    let file = files.into_iter().find(named).unwrap();
    assert_eq!(mode(&file), 0o600);
    let before = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{before}{line}\n")).unwrap();
    let _ = run(&["list"]).ok();
}

#[test]
fn samples_and_slices_are_said_and_thirty_slices_are_everything() {
    let place = Place::new();
    for number in 0..40u32 {
        place.write(format!("{number}"), vec![number as u8; 3000]);
        let _ = place.save().ok();
    }
    let read = |args: &[&str]| {
        let mut verify = place.snapshot(["verify", "--level", "full", "--json"]);
        let line = Run::of(verify.args(args))
            .ok()
            .of_type("verified")
            .remove(0);
        line["bytes_read"].as_u64().unwrap()
    };
    let all = read(&[]);
    let parts: u64 = (1..=5)
        .map(|part| read(&["--slice", &format!("{part}/5")]))
        .sum();
    assert_eq!(parts, all);
    assert!(read(&["--sample", "20%"]) < all);
    let said = Run::of(&mut place.snapshot(["verify", "--level", "full", "--slice", "2/5"]));
    assert!(said.ok().text().contains("slice 2 of 5"));
    for wrong in [
        ["--slice", "6/5"],
        ["--slice", "0/5"],
        ["--sample", "0%"],
        ["--level", "x"],
    ] {
        let _ = Run::of(place.snapshot(["verify"]).args(wrong)).ends(2);
    }
}

#[test]
fn a_sample_at_a_level_that_reads_no_content_is_refused() {
    let place = Place::new();
    for share in [["--sample", "5%"], ["--slice", "1/30"]] {
        let _ = Run::of(place.snapshot(["verify"]).args(share))
            .ends(2)
            .says("--level");
        let _ = Run::of(
            place
                .snapshot(["verify", "--level", "checksum"])
                .args(share),
        )
        .ok();
    }
}

#[test]
fn a_folder_that_cannot_be_kept_is_said_once() {
    let place = Place::new();
    place.write("file", "content");
    std::fs::write(place.path("blocked"), "").unwrap();
    for what in ["cache", "state"] {
        let option = format!("--{what}-dir");
        let save = |folder: &str| {
            let mut save = place.snapshot(["save", &option, folder]);
            Run::of(save.arg(place.data())).ok().err
        };
        let said = format!("{what} folder");
        assert_eq!(save(&format!("blocked/{what}")).matches(&said).count(), 1);
        assert!(!save(what).contains("warning"));
    }
}

#[test]
fn a_passphrase_file_that_others_may_read_is_said() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::empty();
    let file = place.path("passphrase");
    std::fs::write(&file, "correct horse").unwrap();
    let init = |mode: u32, repo: &str| {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let mut init = place.snapshot(["init", "--repo", repo, "--passphrase-file"]);
        Run::of(init.arg(&file).env_remove("BACKSTAY_KEY_FILE"))
            .ok()
            .err
    };
    assert!(init(0o644, "a").contains("chmod 600"));
    assert!(!init(0o600, "b").contains("chmod 600"));
}

#[test]
fn the_key_of_a_repository_is_found_however_its_folder_is_reached() {
    let place = Place::empty();
    place.write("file", "content");
    std::os::unix::fs::symlink(".", place.path("link")).unwrap();
    let mut save = place.snapshot(["save", "--repo", "link/repo"]);
    let _ = Run::of(save.arg(place.data()).env_remove("BACKSTAY_KEY_FILE")).ok();
    let whole = place.repo().display().to_string();
    let url = format!("file://{whole}");
    for repo in ["repo", "./link/link/repo", &whole, &url, "link/repo/"] {
        let mut list = place.snapshot(["list", "--json", "--repo", repo]);
        let run = Run::of(list.env_remove("BACKSTAY_KEY_FILE")).ok();
        assert_eq!(run.of_type("snapshot").len(), 1, "{repo}");
    }
}

#[test]
fn of_several_slots_for_one_passphrase_the_full_one_counts() {
    let place = Place::new();
    place.write("file", "content");
    let passphrase = place.path("passphrase");
    fs::write(&passphrase, "one for all").unwrap();
    fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o600)).unwrap();
    for role in ["reader", "full"] {
        let add = [
            "key",
            "add",
            "--passphrase-file-new",
            "passphrase",
            "--role",
            role,
        ];
        let _ = Run::of(&mut place.snapshot(add)).ok();
    }
    let save = ["save", "data", "--passphrase-file", "passphrase"];
    let _ = Run::of(place.snapshot(save).env_remove("BACKSTAY_KEY_FILE")).ok();
}

#[test]
fn a_folder_with_other_things_in_it_can_become_a_repository() {
    let place = Place::empty();
    for other in ["data/holiday.jpg", "config/app.toml"] {
        let path = place.repo().join(other);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "somebody else's").unwrap();
    }
    let _ = Run::of(&mut place.snapshot(["list"])).ends(10);
    place.write("file", "content");
    let _ = Run::of(&mut place.snapshot(["init", "--recovery-sheet", "sheet"])).ok();
    let _ = Run::of(&mut place.snapshot(["save", "data"])).ok();
    let _ = place.verify().ok();
}

#[test]
fn a_key_that_could_not_be_added_leaves_no_file() {
    let place = Place::new();
    let keys = place.repo().join("keys");
    fs::rename(&keys, place.path("kept")).unwrap();
    fs::write(&keys, "no folder").unwrap();
    let add = ["key", "add", "--new-key-file", "second"];
    // The key file in use holds the keys themselves, so the repository opens without slots.
    let ended = Run::of(&mut place.snapshot(add));
    assert_ne!(ended.code, 0, "{}", ended.err);
    assert!(!place.path("second").exists());
    fs::remove_file(&keys).unwrap();
    fs::rename(place.path("kept"), &keys).unwrap();
    let _ = Run::of(&mut place.snapshot(add)).ok();
}
