//! Damage of every kind of object: it is named, and what it does not hurt comes back.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use backup_tests::{Place, Run, read_tree};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    Deleted,
    Truncated,
    Flipped,
    /// The byte that tells the version of sealed objects, which nothing authenticates before it is read.
    OfAnotherVersion,
    Swapped,
}

const HARMS: [Harm; 5] = [
    Harm::Deleted,
    Harm::Truncated,
    Harm::Flipped,
    Harm::OfAnotherVersion,
    Harm::Swapped,
];

pub(crate) fn overwrite(path: &Path, bytes: &[u8]) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
}

fn harm(victims: &[PathBuf], harm: Harm) -> Vec<String> {
    let victim = &victims[0];
    let mut bytes = fs::read(victim).unwrap();
    match harm {
        Harm::Deleted => fs::remove_file(victim).unwrap(),
        Harm::Truncated => overwrite(victim, &bytes[..bytes.len() / 2]),
        Harm::Flipped => {
            let middle = bytes.len() / 2;
            match bytes.get_mut(middle) {
                Some(byte) => *byte ^= 0x10,
                None => bytes.push(0x10),
            }
            overwrite(victim, &bytes);
        }
        Harm::OfAnotherVersion => {
            let at = 5.min(bytes.len() - 1);
            bytes[at] ^= 2;
            overwrite(victim, &bytes);
        }
        Harm::Swapped => {
            let other = fs::read(&victims[1]).unwrap();
            overwrite(victim, &other);
            overwrite(&victims[1], &bytes);
        }
    }
    let name = |path: &Path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.chars().take(16).collect::<String>()
    };
    let swapped = victims.get(1).filter(|_| harm == Harm::Swapped);
    std::iter::once(victim)
        .chain(swapped)
        .map(|path| name(path))
        .collect()
}

/// Two snapshots that share nothing, so that there are two objects of every kind and damage to one
/// leaves the other whole.
fn place() -> Place {
    let place = Place::new();
    for part in ["one", "two"] {
        let folder = place.data().join(part);
        let content = |number: usize| {
            let seed = if part == "one" { 1u64 } else { 2 };
            let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ number as u64;
            (0..40_000)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state as u8
                })
                .collect::<Vec<u8>>()
        };
        for number in 0..4 {
            place.write(format!("{part}/{number}"), content(number));
        }
        let large: Vec<u8> = (0..100).flat_map(|number| content(1000 + number)).collect();
        place.write(format!("{part}/large"), large);
        let _ = Run::of(
            place
                .snapshot(["save", "--name", part, "--json"])
                .arg(folder),
        )
        .ok();
    }
    place
}

fn verify(place: &Place) -> Run {
    Run::of(&mut place.snapshot(["verify", "--level", "full", "--json"]))
}

fn copy(from: &Place) -> Place {
    let to = Place::empty();
    for name in ["repo", "key", "data"] {
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .arg("-T")
            .arg(from.path(name))
            .arg(to.path(name))
            .status();
        assert!(copied.unwrap().success());
    }
    to
}

fn can_name(prefix: &str, way: Harm) -> bool {
    // Nothing names an index run: that one is gone shows in what it alone knew.
    (way, prefix) != (Harm::Deleted, "index")
}

/// Harms an object of a kind in each way: verification ends with 13 and names it.
fn is_named(prefix: &str) {
    is_named_in(&place(), prefix);
}

fn is_named_in(whole: &Place, prefix: &str) {
    for way in HARMS {
        let place = copy(whole);
        let victims = place.objects(prefix);
        // Without its slot the key opens nothing; nothing knows of a session but itself.
        let is_untold = way == Harm::Deleted && ["keys", "sessions"].contains(&prefix);
        // All holds have the same bytes.
        let changes_nothing = way == Harm::Swapped && (victims.len() < 2 || prefix == "holds");
        if changes_nothing || is_untold {
            continue;
        }
        let names = harm(&victims, way);
        let run = verify(&place);
        assert_eq!(
            run.code,
            13,
            "{prefix} {way:?}\n{}\n{}",
            run.text(),
            run.err
        );
        let told = format!("{}{}", run.text(), run.err);
        assert!(
            !can_name(prefix, way) || names.iter().any(|name| told.contains(name)),
            "{prefix} {way:?}: {names:?} are not named in\n{told}"
        );
    }
}

/// Harms an object of a kind in each way: the rest is restored, with exit code 3 or 0.
fn leaves_the_rest(prefix: &str) {
    let whole = place();
    for way in HARMS {
        let place = copy(&whole);
        let victims = place.objects(prefix);
        if way == Harm::Swapped && victims.len() < 2 {
            continue;
        }
        let _ = harm(&victims, way);
        let mut back = 0;
        for part in ["one", "two"] {
            let wanted = format!("latest:{part}");
            let run = Run::of(&mut place.restore(["run", &wanted, "--to", part, "--json"]));
            assert!(
                [0, 3, 13, 1].contains(&run.code),
                "{prefix} {way:?}\n{}",
                run.err
            );
            let data = whole.data();
            let data = data.strip_prefix("/").unwrap();
            let out = place.path(part).join(data).join(part);
            if run.code == 3 {
                assert!(!run.of_type("finding").is_empty(), "{prefix} {way:?}");
            }
            let Ok(tree) = read_tree(&out) else { continue };
            for (path, node) in tree {
                let good = fs::read(whole.data().join(part).join(&path)).unwrap();
                let is_whole = node.content == good;
                assert!(
                    is_whole || run.code != 0,
                    "{prefix} {way:?}: {path:?} is wrong without a word"
                );
                back += usize::from(is_whole);
            }
        }
        assert!(
            // Two that were swapped are both damaged.
            back >= 5 || way == Harm::Swapped,
            "{prefix} {way:?}: only {back} of 10 files came back"
        );
    }
}

#[test]
fn damaged_packs_of_content_are_named() {
    is_named("data");
}

#[test]
fn damaged_packs_of_manifests_are_named() {
    is_named("meta");
}

#[test]
fn damaged_index_runs_are_named() {
    is_named("index");
}

#[test]
fn damaged_snapshots_are_named() {
    is_named("snap");
}

#[test]
fn damaged_refs_are_named() {
    is_named("refs");
}

#[test]
fn damaged_key_slots_are_named() {
    is_named("keys");
}

#[test]
fn damaged_sessions_are_named() {
    is_named("sessions");
}

#[test]
fn damaged_holds_are_named() {
    let place = place();
    for part in ["latest:one", "latest:two"] {
        let _ = Run::of(&mut place.snapshot(["hold", part])).ok();
    }
    is_named_in(&place, "holds");
    // Exchanged for objects of another kind.
    let victims = [place.objects("holds"), place.objects("sessions")].map(|all| all[0].clone());
    let names = harm(&victims, Harm::Swapped);
    let run = verify(&place).ends(13);
    assert!(run.text().contains(&names[0]), "{}", run.text());
}

/// The id of the slot with a label.
fn slot_of(place: &Place, label: &str) -> String {
    let listed = Run::of(&mut place.snapshot(["key", "list", "--json"])).ok();
    let keys = listed.of_type("key");
    let slot = keys.iter().find(|key| key["label"] == label).unwrap();
    slot["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_key_slot_that_is_gone_is_named_unless_it_was_removed() {
    let place = Place::new();
    place.write("file", "content");
    let _ = place.save().ok();
    let _ = place.verify().ok();
    for (label, file) in [("one", "key-1"), ("two", "key-2")] {
        let mut add = place.snapshot(["key", "add", "--new-key-file", file, "--label", label]);
        let _ = Run::of(&mut add).ok();
    }
    let (made, first) = (slot_of(&place, "recovery sheet"), slot_of(&place, "one"));
    let _ = Run::of(&mut place.snapshot(["key", "remove", &slot_of(&place, "two")])).ok();
    let _ = place.verify().ok();
    for id in [made, first] {
        let place = copy(&place);
        fs::remove_file(place.repo().join("keys").join(&id)).unwrap();
        let run = place.verify().ends(13);
        let findings = run.of_type("finding");
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0]["kind"], "missing");
        assert_eq!(findings[0]["subject"], format!("keys/{id}"));
        let _ = Run::of(&mut place.snapshot(["ledger", "verify"]))
            .ends(13)
            .says(&id);
        let _ = Run::of(&mut place.snapshot(["key", "remove", &id])).ok();
        let _ = place.verify().ok();
    }
}

#[test]
fn the_key_slots_of_a_repository_that_the_first_save_made_are_known_too() {
    let place = Place::empty();
    place.write("file", "content");
    let _ = place.save().ok();
    let id = slot_of(&place, "recovery sheet");
    fs::remove_file(place.repo().join("keys").join(&id)).unwrap();
    let run = place.verify().ends(13);
    assert_eq!(run.of_type("finding")[0]["subject"], format!("keys/{id}"));
}

#[test]
fn damaged_content_leaves_the_rest() {
    leaves_the_rest("data");
}

#[test]
fn damaged_index_runs_leave_the_rest() {
    leaves_the_rest("index");
}

#[test]
fn damaged_snapshots_leave_the_rest() {
    leaves_the_rest("snap");
}

#[test]
fn damaged_refs_leave_everything() {
    leaves_the_rest("refs");
}

#[test]
fn a_damaged_configuration_opens_nothing() {
    let whole = place();
    for way in [Harm::Deleted, Harm::Truncated, Harm::Flipped] {
        let place = copy(&whole);
        let _ = harm(&place.objects("config"), way);
        // Its sidecar stands for it.
        let told = verify(&place).ends(13).text();
        assert!(told.contains("config/0"), "{told}");
        let _ = harm(&place.objects("parity/config"), Harm::Deleted);
        let run = verify(&place).ends(13);
        assert!(run.err.contains("config"), "{}", run.err);
    }
}

#[test]
fn a_changed_ledger_is_found() {
    let whole = place();
    for way in HARMS {
        let place = copy(&whole);
        let victims = place.objects("ledger");
        let _ = harm(&victims, way);
        let run = Run::of(&mut place.snapshot(["ledger", "verify", "--json"]));
        assert_eq!(run.code, 13, "{way:?}\n{}\n{}", run.text(), run.err);
    }
}

#[test]
fn verification_reads_the_repository_and_not_the_local_cache() {
    let place = place();
    let _ = verify(&place).ok();
    let _ = harm(&place.objects("snap"), Harm::Flipped);
    let _ = verify(&place).ends(13);
}

/// Harms all objects of a kind.
fn harm_all(place: &Place, prefix: &str, way: Harm) {
    for victim in place.objects(prefix) {
        if way != Harm::Flipped {
            let _ = harm(&[victim], way);
            continue;
        }
        // Wherever in the object what is needed lies, it is hit.
        let mut bytes = fs::read(&victim).unwrap();
        bytes.iter_mut().step_by(40).for_each(|byte| *byte ^= 0x10);
        overwrite(&victim, &bytes);
    }
}

/// What a command that needs a kind of object says when all objects of that kind are harmed: its
/// exit code, what it names, and a line that says what to do.
#[test]
fn what_cannot_be_read_is_an_error_with_a_code_a_name_and_a_remedy() {
    let whole = place();
    let file = format!("latest:one:{}", whole.data().join("one/large").display());
    let cat = ["cat", file.as_str()];
    let ls = ["ls", "latest:one"];
    // The command, and its codes when the objects are deleted and when they are damaged.
    let table: [(&str, &[&str], i32, i32); 9] = [
        ("config", &ls, 13, 13),
        ("keys", &ls, 12, 13),
        ("snap", &ls, 13, 13),
        ("index", &ls, 13, 13),
        ("meta", &ls, 13, 13),
        ("data", &cat, 13, 13),
        ("refs", &cat, 0, 0),
        ("sessions", &cat, 0, 0),
        ("ledger", &ls, 0, 0),
    ];
    for (prefix, command, deleted, damaged) in table {
        for way in [Harm::Deleted, Harm::Truncated, Harm::Flipped] {
            let place = copy(&whole);
            harm_all(&place, prefix, way);
            if ["config", "keys", "snap"].contains(&prefix) {
                harm_all(&place, &format!("parity/{prefix}"), Harm::Deleted);
            }
            let run = Run::of(&mut place.restore(command.iter().copied()));
            let code = if way == Harm::Deleted {
                deleted
            } else {
                damaged
            };
            let what = format!("{prefix} {way:?}\n{}\n{}", run.text(), run.err);
            assert_eq!(run.code, code, "{what}");
            assert!(!run.err.contains("panicked"), "{what}");
            if code == 0 {
                continue;
            }
            let is_named = run.err.contains(&format!("{prefix}/")) || run.err.contains("chunk ");
            assert!(is_named || way == Harm::Deleted, "{what}");
            assert!(run.err.trim_end().lines().count() >= 2, "no remedy: {what}");
        }
    }
}

#[test]
fn sessions_that_are_harmed_hurt_nothing() {
    let whole = place();
    for way in [Harm::Deleted, Harm::Truncated, Harm::Flipped] {
        let place = copy(&whole);
        assert!(
            place.objects("sessions").len() >= 4,
            "two begun and two done"
        );
        harm_all(&place, "sessions", way);
        let _ = place.save().ok();
        let _ = place.bring_back("out").ok();
    }
}

#[test]
fn the_configuration_and_keys_of_another_repository_open_nothing() {
    let (whole, other) = (place(), Place::new());
    let place = copy(&whole);
    let bytes = fs::read(&other.objects("config")[0]).unwrap();
    overwrite(&place.objects("config")[0], &bytes);
    // Its own sidecar stands for it.
    let told = verify(&place).ends(13).text();
    assert!(told.contains("config/0"), "{told}");
    let bytes = fs::read(&other.objects("parity/config")[0]).unwrap();
    overwrite(&place.objects("parity/config")[0], &bytes);
    let run = verify(&place);
    assert!([12, 13].contains(&run.code), "{}", run.err);
    let place = copy(&whole);
    harm_all(&place, "parity/keys", Harm::Deleted);
    for (mine, theirs) in place.objects("keys").iter().zip(other.objects("keys")) {
        overwrite(mine, &fs::read(theirs).unwrap());
    }
    let _ = verify(&place).ends(13).says("keys/");
}

#[test]
fn a_damaged_cache_hurts_nothing() {
    let place = place();
    let _ = Run::of(&mut place.restore(["ls", "latest:one"])).ok();
    let mut left = vec![place.path("cache")];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(
                fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else {
            let _ = harm(&[path], Harm::Flipped);
        }
    }
    let _ = Run::of(&mut place.restore(["ls", "latest:one"])).ok();
    let _ = place.save().ok();
    let _ = verify(&place).ok();
}

#[test]
fn a_restore_that_lacks_an_index_run_names_the_one_that_cannot_be_read() {
    let place = place();
    // The cache has it, and would hide that it is damaged.
    fs::remove_dir_all(place.path("cache")).unwrap();
    let mut names = Vec::new();
    for run in place.objects("index") {
        names.extend(harm(&[run], Harm::Flipped));
    }
    let run = Run::of(&mut place.restore(["run", "latest:two", "--to", "out"]));
    assert!([3, 13].contains(&run.code), "{run:?}");
    let is_named = names.iter().any(|name| run.err.contains(name));
    assert!(is_named && run.err.contains("snapshot verify"), "{run:?}");
}

#[test]
fn who_meets_damage_is_told_what_mends_it() {
    let place = place();
    // In the middle of the larger one lies content of the large file.
    let packs = place.objects("data");
    let size = |pack: &&PathBuf| fs::metadata(pack).unwrap().len();
    let largest = packs.iter().max_by_key(size).unwrap().clone();
    let _ = harm(&[largest], Harm::Flipped);
    let verified = Run::of(&mut place.snapshot(["verify", "--level", "full"])).ends(13);
    assert!(
        verified.text().contains("`snapshot repair --dry-run`"),
        "{verified:?}"
    );
    let mut told = 0;
    for part in ["one", "two"] {
        let wanted = format!("latest:{part}");
        let run = Run::of(&mut place.restore(["run", &wanted, "--to", part]));
        let is_told = run.text().contains("`snapshot repair --dry-run`");
        assert_eq!(is_told, run.code == 3, "{run:?}");
        told += usize::from(is_told);
    }
    assert_eq!(told, 1, "the other snapshot is whole");
}
