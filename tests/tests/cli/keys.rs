//! Passphrases that are changed, slots that are replaced, keys that are rotated, sheets, and the program
//! `age` by itself.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use backup_tests::{Place, Run};

fn secret_file(place: &Place, name: &str, text: &str) -> PathBuf {
    let path = place.path(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn key_slots(place: &Place) -> Vec<serde_json::Value> {
    let list = Run::of(&mut place.snapshot(["key", "list", "--json"])).ok();
    list.of_type("key")
}

fn id_of(run: &Run) -> String {
    run.of_type("key-added")[0]["id"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// A command with a passphrase in the place of the key file.
fn with_words(mut command: Command, file: &str) -> Run {
    command
        .args(["--passphrase-file", file])
        .env_remove("BACKSTAY_KEY_FILE");
    Run::of(&mut command)
}

#[test]
fn a_passphrase_is_changed_and_the_old_one_opens_nothing() {
    let place = Place::empty();
    for (name, text) in [("old", "correct horse\n"), ("new", "battery staple\n")] {
        secret_file(&place, name, text);
    }
    let _ = with_words(place.snapshot(["init", "--label", "mine"]), "old").ok();
    let change = ["key", "passphrase", "--passphrase-file-new", "new"];
    let _ = with_words(place.snapshot(change), "old")
        .ok()
        .says("copy of the repository");
    let _ = with_words(place.snapshot(["list"]), "old").ends(12);
    let list = with_words(place.snapshot(["key", "list", "--json"]), "new").ok();
    let slots = list.of_type("key");
    let own: Vec<_> = slots
        .iter()
        .filter(|slot| slot["is_this"] == true)
        .collect();
    assert_eq!((slots.len(), own.len()), (2, 1));
    assert_eq!(
        (&own[0]["label"], &own[0]["role"]),
        (&"mine".into(), &"full".into())
    );
    let _ = with_words(place.snapshot(["ledger", "verify"]), "new").ok();
    // A wrong one changes nothing, and neither does an empty one.
    let _ = with_words(place.snapshot(change), "old").ends(12);
    secret_file(&place, "empty", "\n");
    let empty = ["key", "passphrase", "--passphrase-file-new", "empty"];
    let _ = with_words(place.snapshot(empty), "new").ends(14);
    let _ = with_words(place.snapshot(["list"]), "new").ok();
}

#[test]
fn there_is_no_passphrase_to_change_where_a_key_file_opened() {
    let place = Place::new();
    secret_file(&place, "new", "battery staple\n");
    let before = place.objects("keys");
    let change = ["key", "passphrase", "--passphrase-file-new", "new"];
    let _ = Run::of(&mut place.snapshot(change))
        .ends(2)
        .says("--passphrase-file");
    assert_eq!(place.objects("keys"), before);
}

#[test]
fn who_cannot_sign_changes_no_passphrase() {
    let place = Place::new();
    secret_file(&place, "words", "reading only\n");
    secret_file(&place, "new", "battery staple\n");
    let add = [
        "key",
        "add",
        "--passphrase-file-new",
        "words",
        "--role",
        "reader",
    ];
    let _ = Run::of(&mut place.snapshot(add)).ok();
    let before = place.objects("keys");
    let change = ["key", "passphrase", "--passphrase-file-new", "new"];
    let _ = with_words(place.snapshot(change), "words")
        .ends(12)
        .says("reader key");
    assert_eq!(place.objects("keys"), before);
}

#[test]
fn a_slot_gives_way_when_the_new_one_was_tried() {
    let place = Place::new();
    let add = |args: &[&str]| {
        let all = [&["key", "add", "--json"][..], args].concat();
        Run::of(&mut place.snapshot(all))
    };
    let old = id_of(&add(&["--new-key-file", "one", "--role", "reader"]).ok());
    let run = add(&[
        "--new-key-file",
        "two",
        "--role",
        "reader",
        "--replaces",
        &old[..8],
    ])
    .ok();
    assert_eq!(run.of_type("key-removed")[0]["id"], old.as_str());
    let with = |key: &str| Run::of(&mut place.snapshot(["list", "--key-file", key]));
    let _ = with("one").ends(12);
    let _ = with("two").ok();
    // What is not there is not replaced, and nothing is added then.
    let count = key_slots(&place).len();
    let _ = add(&["--new-key-file", "three", "--replaces", "0000"]).ends(1);
    assert!(!place.path("three").exists());
    // The last full keys do not give way to one that can do less.
    let recovery = key_slots(&place)
        .into_iter()
        .find(|slot| slot["label"] == "recovery sheet");
    let recovery = recovery.unwrap()["id"].as_str().unwrap().to_owned();
    let _ = Run::of(&mut place.snapshot(["key", "remove", &recovery])).ok();
    let own = key_slots(&place)
        .into_iter()
        .find(|slot| slot["is_this"] == true);
    let own = own.unwrap()["id"].as_str().unwrap().to_owned();
    let _ = add(&[
        "--new-key-file",
        "three",
        "--role",
        "writer",
        "--replaces",
        &own,
    ])
    .ends(11)
    .says("last full key");
    assert!(!place.path("three").exists());
    assert_eq!(key_slots(&place).len(), count - 1);
    // Nor to one that nobody may be able to open.
    let stranger = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";
    let _ = add(&["--recipient", stranger, "--replaces", &own])
        .ends(11)
        .says("last full key");
    assert_eq!(key_slots(&place).len(), count - 1);
    let _ = add(&["--new-key-file", "three", "--replaces", &own]).ok();
    let _ = with("three").ok();
    let _ = Run::of(&mut place.snapshot(["list"])).ends(12);
}

#[test]
fn removing_a_key_says_who_loses_access_and_what_it_can_still_open() {
    let place = Place::new();
    for (role, still) in [
        ("reader", "snapshot key rotate"),
        ("writer", "take their access to the tier"),
    ] {
        let add = [
            "key",
            "add",
            "--new-key-file",
            role,
            "--role",
            role,
            "--label",
            "Anna's",
            "--json",
        ];
        let id = id_of(&Run::of(&mut place.snapshot(add)).ok());
        let run = Run::of(&mut place.snapshot(["key", "remove", &id])).ok();
        assert!(
            run.err
                .contains(&format!("lost access: {role}, key-file, Anna's")),
            "{}",
            run.err
        );
        assert!(run.err.contains(still), "{}", run.err);
    }
}

/// The recovery code of a sheet, as somebody types it who has it before them.
fn typed(sheet: &str) -> String {
    let is_code = |line: &&str| {
        let line = line.trim();
        line.matches('-').count() >= 5
            && line.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    let lines: Vec<&str> = sheet.lines().filter(is_code).collect();
    assert_eq!(lines.len(), 2, "{sheet}");
    lines.join("\n")
}

/// With a key file in the place of the one in use.
fn with(mut command: Command, key: &str) -> Run {
    Run::of(command.args(["--key-file", key]))
}

/// A repository whose keys were rotated, with a snapshot from before and one from behind it, by a writer
/// whom nobody told.
fn rotated() -> (Place, String, String) {
    let place = Place::new();
    place.write("a", "before");
    let _ = place.save().ok();
    for role in ["writer", "reader"] {
        let add = ["key", "add", "--new-key-file", role, "--role", role];
        let _ = Run::of(&mut place.snapshot(add)).ok();
    }
    let rotate = [
        "key",
        "rotate",
        "--new-key-file",
        "new",
        "--recovery-sheet",
        "sheet2",
        "--json",
    ];
    let before = place.objects("");
    let dry = Run::of(place.snapshot(rotate).arg("--dry-run")).ok();
    assert_eq!(place.objects(""), before);
    assert!(!place.path("new").exists() && !place.path("sheet2").exists());
    assert_eq!(dry.of_type("rotated")[0]["generation"], 1);
    assert_eq!(dry.of_type("outdated").len(), 3, "key file, sheet, reader");
    let run = Run::of(&mut place.snapshot(rotate)).ok();
    assert_eq!(run.of_type("outdated").len(), 3);
    assert_eq!(place.objects("config").len(), 2);
    // The writer was told nothing.
    place.write("a", "after");
    let mut save = place.snapshot(["save", "--json"]);
    save.arg(place.data());
    let saved = with(save, "writer").ok();
    let later = saved.of_type("saved")[0]["id"].as_str().unwrap().to_owned();
    let list = with(place.restore(["list", "--json"]), "reader").ok();
    let earlier = list.of_type("snapshot")[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    (place, earlier, later)
}

#[test]
fn keys_are_rotated_and_older_ones_read_only_what_was_there() {
    let (place, earlier, later) = rotated();
    for key in ["reader", "key"] {
        let _ = with(place.restore(["ls", &earlier]), key).ok();
        let _ = with(place.restore(["ls", &later]), key)
            .ends(12)
            .says("rotated");
        let mut save = place.snapshot(["save"]);
        save.arg(place.data());
        let refused = with(save, key).ends(12);
        assert!(
            key == "reader" || refused.err.contains("rotated"),
            "{}",
            refused.err
        );
    }
    let add = ["key", "add", "--new-key-file", "never", "--role", "reader"];
    let _ = with(place.snapshot(add), "key").ends(12).says("rotated");
    assert!(!place.path("never").exists());
}

#[test]
fn the_keys_of_a_rotation_read_everything_and_are_the_ways_in_that_count() {
    let (place, earlier, later) = rotated();
    // The old sheet does not.
    secret_file(
        &place,
        "typed",
        &typed(&fs::read_to_string(place.path("sheet")).unwrap()),
    );
    secret_file(
        &place,
        "typed2",
        &typed(&fs::read_to_string(place.path("sheet2")).unwrap()),
    );
    for key in ["new", "typed2"] {
        for id in [&earlier, &later] {
            let _ = with(place.restore(["ls", id]), key).ok();
        }
    }
    let _ = with(place.restore(["ls", &later]), "typed").ends(12);
    let list = with(place.snapshot(["key", "list", "--json"]), "new").ok();
    let outdated = list
        .of_type("key")
        .iter()
        .filter(|key| key["outdated"] == true)
        .count();
    assert_eq!(outdated, 3);
    let checked = with(place.snapshot(["verify", "--level", "full"]), "new").ok();
    assert!(checked.text().contains("no damage"), "{}", checked.text());
    // A way in of before is none that counts: the two of now, then one.
    let full: Vec<String> = list
        .of_type("key")
        .iter()
        .filter(|key| key["role"] == "full" && key["outdated"] == false)
        .map(|key| key["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(full.len(), 2);
    let own = list
        .of_type("key")
        .iter()
        .find(|key| key["is_this"] == true)
        .unwrap()["id"]
        .clone();
    let other = full.iter().find(|id| own != id.as_str()).unwrap();
    let _ = with(place.snapshot(["key", "remove", other]), "new").ok();
    let _ = with(
        place.snapshot(["key", "remove", own.as_str().unwrap(), "--force"]),
        "new",
    )
    .ends(11)
    .says("last full key");
}

#[test]
fn a_rotation_takes_the_old_slots_away_if_it_is_told_to() {
    let place = Place::new();
    place.write("a", "a");
    let add = ["key", "add", "--new-key-file", "writer", "--role", "writer"];
    let _ = Run::of(&mut place.snapshot(add)).ok();
    let rotate = [
        "key",
        "rotate",
        "--new-key-file",
        "new",
        "--recovery-sheet",
        "sheet2",
        "--remove-old",
    ];
    let _ = Run::of(&mut place.snapshot(rotate)).ok();
    let _ = Run::of(&mut place.snapshot(["list"])).ends(12);
    let list = Run::of(&mut place.snapshot(["key", "list", "--json", "--key-file", "new"])).ok();
    let mut roles: Vec<_> = list
        .of_type("key")
        .iter()
        .map(|key| key["role"].to_string())
        .collect();
    roles.sort();
    assert_eq!(roles, ["\"full\"", "\"full\"", "\"writer\""]);
    let mut save = place.snapshot(["save", "--key-file", "writer"]);
    let _ = Run::of(save.arg(place.data())).ok();
    let _ = Run::of(&mut place.snapshot(["verify", "--key-file", "new"])).ok();
}

#[test]
fn a_rotation_that_cannot_be_carried_out_leaves_no_file_and_no_slot() {
    let place = Place::new();
    fs::write(place.path("there"), "mine").unwrap();
    let before = place.objects("");
    for args in [
        ["--new-key-file", "new", "--recovery-sheet", "there"],
        ["--new-key-file", "there", "--recovery-sheet", "sheet2"],
    ] {
        let mut rotate = place.snapshot(["key", "rotate"]);
        let _ = Run::of(rotate.args(args)).ends(11).says("there already");
    }
    assert!(!place.path("new").exists() && !place.path("sheet2").exists());
    assert_eq!(fs::read(place.path("there")).unwrap(), b"mine");
    assert_eq!(place.objects(""), before);
}

/// The commands of a sheet, as somebody carries them out who has nothing else.
fn commands_of(sheet: &str, program: &str) -> Vec<Vec<String>> {
    let joined = sheet.replace("\\\n", " ");
    let lines = joined.lines().map(str::trim);
    let lines = lines.filter_map(|line| line.strip_prefix(program)?.strip_prefix(' '));
    lines
        .map(|line| {
            line.split_whitespace()
                .map(|word| word.trim_matches('\'').to_owned())
                .collect()
        })
        .collect()
}

#[test]
fn everything_comes_back_by_what_is_printed_on_a_sheet() {
    let place = Place::new();
    place.write("below/a", "precious");
    place.write("b", vec![7; 300_000]);
    let _ = place.save().ok();
    let further = ["key", "sheet", "--recovery-sheet", "further"];
    let _ = Run::of(&mut place.snapshot(further)).ok();
    for name in ["sheet", "further"] {
        let sheet = fs::read_to_string(place.path(name)).unwrap();
        // Another machine: no key, no cache, no memory of the repository, no variable.
        let bare = Place::empty();
        let run = |mut command: Command, args: &[String]| {
            for variable in [
                "BACKSTAY_REPO",
                "BACKSTAY_KEY_FILE",
                "BACKSTAY_CACHE_DIR",
                "BACKSTAY_STATE_DIR",
            ] {
                command.env_remove(variable);
            }
            Run::of(command.args(args))
        };
        secret_file(&bare, "recovery.txt", &typed(&sheet));
        let restores = commands_of(&sheet, "restore");
        assert_eq!(restores.len(), 2, "{sheet}");
        for args in &restores {
            let _ = run(bare.restore([] as [&str; 0]), args).ok();
        }
        let back = bare
            .path("restored")
            .join(place.data().strip_prefix("/").unwrap());
        assert_eq!(fs::read(back.join("below/a")).unwrap(), b"precious");
        assert_eq!(fs::read(back.join("b")).unwrap(), vec![7; 300_000]);
        let added = commands_of(&sheet, "snapshot");
        assert_eq!(added.len(), 1, "{sheet}");
        let _ = run(bare.snapshot([] as [&str; 0]), &added[0]).ok();
        let repo = place.repo().display().to_string();
        let list = ["list", "--repo", &repo, "--key-file", "new.key"];
        let list: Vec<String> = list.map(str::to_owned).into();
        let _ = run(bare.snapshot([] as [&str; 0]), &list).ok();
    }
    // The first sheet was lost: it gives way.
    let first = key_slots(&place);
    let first = first
        .iter()
        .filter(|slot| slot["label"] == "recovery sheet");
    let oldest = first.min_by_key(|slot| slot["made"].to_string()).unwrap()["id"].clone();
    let more = ["key", "sheet", "--replaces", oldest.as_str().unwrap()];
    let shown = Run::of(&mut place.snapshot(more)).ok().text();
    secret_file(&place, "typed", &typed(&shown));
    let _ = Run::of(&mut place.snapshot(["list", "--key-file", "typed"])).ok();
}

/// Whether a program is there; `./test.sh` installs what is missing.
fn has_age() -> bool {
    let there = |program| Command::new(program).arg("--version").output().is_ok();
    there("age") && there("age-keygen")
}

/// An age identity in a file, as `age-keygen` makes it, and its recipient.
fn age_key(place: &Place, name: &str) -> String {
    let made = Command::new("age-keygen")
        .arg("-o")
        .arg(place.path(name))
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let text = fs::read_to_string(place.path(name)).unwrap();
    let recipient = text
        .lines()
        .find_map(|line| line.strip_prefix("# public key: "));
    recipient.unwrap().to_owned()
}

#[test]
fn age_alone_opens_a_recipient_slot() {
    if !has_age() {
        eprintln!("skipped: age is not installed");
        return;
    }
    let place = Place::new();
    place.write("a", "precious");
    let _ = place.save().ok();
    let recipients = ["anna", "ben", "cleo"].map(|name| age_key(&place, name));
    let add = |role: &str, who: &[&String], more: &[&str]| {
        let mut add = place.snapshot(["key", "add", "--json", "--role", role]);
        for recipient in who {
            add.args(["--recipient", recipient]);
        }
        Run::of(add.args(more)).ok()
    };
    let id = id_of(&add("reader", &[&recipients[0], &recipients[1]], &[]));
    let age = |who: &str, id: &str, out: &str| {
        let slot = place.repo().join("keys").join(id);
        let mut age = Command::new("age");
        age.arg("-d")
            .arg("-i")
            .arg(place.path(who))
            .arg("-o")
            .arg(place.path(out))
            .arg(slot);
        age.output().unwrap().status.success()
    };
    // What age gives is a key file; and it is what the program makes of the slot by itself.
    let restore = |key: &str, to: &str| {
        Run::of(&mut place.restore(["run", "latest", "--key-file", key, "--to", to]))
    };
    for who in ["anna", "ben"] {
        let (key, to) = (format!("{who}.key"), format!("out-{who}"));
        assert!(age(who, &id, &key));
        let text = fs::read_to_string(place.path(&key)).unwrap();
        assert!(
            text.contains("\nBACKSTAY-KEYS-1 ") && text.contains("holds the reader keys"),
            "{text}"
        );
        fs::set_permissions(place.path(&key), fs::Permissions::from_mode(0o600)).unwrap();
        // Without any slot: the keys themselves are in the file.
        fs::rename(place.repo().join("keys"), place.path("kept")).unwrap();
        let _ = restore(&key, &to).ok();
        fs::rename(place.path("kept"), place.repo().join("keys")).unwrap();
        let _ = restore(who, &format!("{to}-direct")).ok();
        let restored = |to: &str| {
            fs::read(
                place
                    .path(to)
                    .join(place.data().strip_prefix("/").unwrap())
                    .join("a"),
            )
        };
        assert_eq!(restored(&to).unwrap(), b"precious");
        assert_eq!(restored(&format!("{to}-direct")).unwrap(), b"precious");
    }
    assert!(!age("cleo", &id, "cleo.key"), "it is not sealed to her");
    // Sealed anew, to Anna and Cleo: Ben's identity opens nothing any more.
    let listed = Run::of(&mut place.snapshot(["key", "list", "--json"])).ok();
    let noted = listed.of_type("key");
    let noted = noted.iter().find(|key| key["id"] == id.as_str()).unwrap()["noted"].clone();
    let wanted = format!("reader key to {} {}", recipients[0], recipients[1]);
    assert_eq!(noted, wanted.as_str());
    let id = id_of(&add(
        "reader",
        &[&recipients[0], &recipients[2]],
        &["--replaces", &id],
    ));
    assert!(age("anna", &id, "again.key") && age("cleo", &id, "cleo.key"));
    assert!(!age("ben", &id, "ben-again.key"));
    let _ = restore("ben", "out-never").ends(12);
    // What he took out of the slot before is what a rotation is for.
    let _ = restore("ben.key", "out-still").ok();
    let rotate = [
        "key",
        "rotate",
        "--new-key-file",
        "new",
        "--recovery-sheet",
        "sheet2",
    ];
    let _ = Run::of(&mut place.snapshot(rotate)).ok();
    let mut save = place.snapshot(["save", "--key-file", "new"]);
    let _ = Run::of(save.arg(place.data())).ok();
    let _ = restore("ben.key", "out-gone").ends(12).says("rotated");
    let _ = restore("cleo.key", "out-gone").ends(12);
    // age's own file of several lines is a key file as well, and a wrong one opens nothing.
    let text = fs::read_to_string(place.path("anna")).unwrap();
    assert!(text.starts_with("# created"), "{text}");
}

#[test]
fn age_seals_a_slot_that_the_program_opens() {
    if !has_age() {
        eprintln!("skipped: age is not installed");
        return;
    }
    let place = Place::new();
    place.write("a", "precious");
    let _ = place.save().ok();
    let anna = age_key(&place, "anna");
    // A slot to another identity, opened by age, and sealed by age to Anna.
    let ben = age_key(&place, "ben");
    let add = ["key", "add", "--json", "--recipient", &ben];
    let id = id_of(&Run::of(&mut place.snapshot(add)).ok());
    let slot = place.repo().join("keys").join(id);
    let opened = Command::new("age")
        .arg("-d")
        .arg("-i")
        .arg(place.path("ben"))
        .arg(slot)
        .output()
        .unwrap();
    assert!(opened.status.success());
    fs::write(place.path("plain"), opened.stdout).unwrap();
    let sealed = Command::new("age")
        .args(["-r", &anna])
        .arg(place.path("plain"))
        .output()
        .unwrap();
    assert!(sealed.status.success());
    let sum = Command::new("sha256sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn();
    let mut sum = sum.unwrap();
    std::io::Write::write_all(sum.stdin.as_mut().unwrap(), &sealed.stdout).unwrap();
    let sum = String::from_utf8(sum.wait_with_output().unwrap().stdout).unwrap();
    let name = sum.split_whitespace().next().unwrap();
    fs::write(place.repo().join("keys").join(name), &sealed.stdout).unwrap();
    let mut list = place.snapshot(["list", "--json", "--key-file", "anna"]);
    assert_eq!(Run::of(&mut list).ok().of_type("snapshot").len(), 1);
}

#[test]
fn what_was_there_before_a_rotation_is_sealed_anew_for_the_newest_keys() {
    let (place, earlier, later) = rotated();
    let add = ["key", "add", "--new-key-file", "m", "--role", "maintenance"];
    let _ = with(place.snapshot(add), "new").ok();
    for (key, word) in [("m", "use a full key"), ("key", "rotated")] {
        let _ = with(place.snapshot(["prune", "--reseal"]), key)
            .ends(12)
            .says(word);
    }
    let before = place.objects("");
    let dry = ["prune", "--reseal", "--dry-run", "--json"];
    let planned = with(place.snapshot(dry), "new").ok();
    let planned = &planned.of_type("plan")[0];
    assert_eq!(place.objects(""), before);
    assert!(planned["older_packs"].as_u64().unwrap() >= 2, "{planned}");
    assert_eq!(planned["older_packs"], planned["resealed_packs"]);
    let people = with(place.snapshot(["prune", "--reseal", "--dry-run"]), "new");
    let people = people.ok().text();
    assert!(people.contains("older generations"), "{people}");
    let none = [
        "prune",
        "--reseal",
        "--dry-run",
        "--json",
        "--max-repack",
        "1",
    ];
    let none = with(place.snapshot(none), "new").ok();
    assert_eq!(none.of_type("plan")[0]["resealed_packs"], 0);
    let plain = with(place.snapshot(["prune", "--dry-run", "--json"]), "m").ok();
    assert!(plain.of_type("plan")[0]["older_packs"].is_null());
    let _ = with(place.restore(["ls", &earlier]), "reader").ok();
    let done = with(place.snapshot(["prune", "--reseal", "--json"]), "new").ok();
    let done = &done.of_type("pruned")[0];
    assert_eq!(done["resealed_packs"], planned["older_packs"]);
    for key in ["reader", "key"] {
        let refused = with(place.restore(["ls", &earlier]), key);
        let _ = refused.ends(12).says("rotated");
    }
    for (id, content) in [(&earlier, "before"), (&later, "after")] {
        let file = format!("{id}:{}", place.data().join("a").display());
        let cat = with(place.restore(["cat", &file]), "new").ok();
        assert_eq!(cat.text(), content);
    }
    let _ = with(place.snapshot(["verify", "--level", "full"]), "new").ok();
    let left = with(place.snapshot(dry), "new").ok();
    assert_eq!(left.of_type("plan")[0]["older_packs"], 0);
    // Who writes goes on as before.
    place.write("a", "later");
    let mut save = place.snapshot(["save"]);
    save.arg(place.data());
    let _ = with(save, "writer").ok();
    let _ = with(place.snapshot(["verify", "--level", "full"]), "new").ok();
}

/// Whoever can write to the tier can take away what says that older keys do not count any more. The ledger knows it.
#[test]
fn a_rotation_that_is_taken_away_and_a_removed_slot_that_is_back_are_told() {
    let (place, ..) = rotated();
    let _ = with(place.snapshot(["ledger", "verify"]), "new").ok();
    let reader = place.objects("keys");
    let before: Vec<_> = reader.iter().map(|slot| fs::read(slot).unwrap()).collect();
    let removed = (reader.iter()).position(|slot| {
        let id = slot.file_name().unwrap().to_str().unwrap();
        let remove = place.snapshot(["key", "remove", id]);
        with(remove, "new").code == 0
    });
    let removed = removed.unwrap();
    let _ = with(place.snapshot(["ledger", "verify"]), "new").ok();
    fs::write(&reader[removed], &before[removed]).unwrap();
    let _ = with(place.snapshot(["ledger", "verify"]), "new")
        .ends(13)
        .says("is there again");
    fs::remove_file(&reader[removed]).unwrap();
    for folder in ["config", "parity/config"] {
        let newest = place
            .objects(folder)
            .into_iter()
            .find(|path| path.ends_with("1"));
        fs::remove_file(newest.unwrap()).unwrap();
    }
    let _ = with(place.snapshot(["ledger", "verify"]), "new")
        .ends(13)
        .says("rotation to generation 1");
}
