//! Every command of both programs with a key of every role: what it may do, and how it is refused what it
//! may not. The table is that of `docs/keys.md`, and is compared with it.

use std::fs;
use std::path::{Path, PathBuf};

use backup_tests::{Place, Run};

const ROLES: [&str; 5] = ["full", "writer", "reader", "maintenance", "verifier"];

const ALL: &str = "FWRMV";

/// One row: the command as the page spells it, its arguments, the roles that may (by their first
/// letters), and which keys the refusal names.
type Row = (
    &'static str,
    &'static [&'static str],
    &'static str,
    &'static str,
);

const ROWS: [Row; 45] = [
    (
        "snapshot save",
        &["save", "DATA"],
        "FW",
        "use a writer or full key",
    ),
    (
        "snapshot save --dry-run",
        &["save", "DATA", "--dry-run"],
        "FW",
        "use a writer or full key",
    ),
    ("snapshot list", &["list"], ALL, ""),
    ("snapshot show", &["show", "latest"], ALL, ""),
    ("snapshot stats", &["stats"], ALL, ""),
    (
        "snapshot analyze",
        &["analyze", "latest"],
        "FR",
        "use a reader or full key",
    ),
    ("snapshot verify", &["verify"], ALL, ""),
    (
        "snapshot verify --level checksum",
        &["verify", "--level", "checksum"],
        ALL,
        "",
    ),
    (
        "snapshot verify --level full",
        &["verify", "--level", "full"],
        ALL,
        "",
    ),
    ("snapshot ledger list", &["ledger", "list"], ALL, ""),
    ("snapshot ledger verify", &["ledger", "verify"], ALL, ""),
    (
        "snapshot ledger accept --dry-run",
        &["ledger", "accept", "--dry-run"],
        "FM",
        "use a maintenance or full key",
    ),
    (
        "snapshot ledger accept",
        &["ledger", "accept"],
        "FM",
        "use a maintenance or full key",
    ),
    (
        "snapshot hold",
        &["hold", "latest"],
        "FWM",
        "use a writer, maintenance or full key",
    ),
    (
        "snapshot release",
        &["release", "latest"],
        "FM",
        "use a maintenance or full key",
    ),
    (
        "snapshot copy --dry-run",
        &["copy", "--to", "OUT", "--dry-run"],
        "FWM",
        "use a writer, maintenance or full key",
    ),
    (
        "snapshot copy",
        &["copy", "--to", "OUT"],
        "FWM",
        "use a writer, maintenance or full key",
    ),
    (
        "snapshot sync",
        &["sync", "--to", "OUT"],
        "FWM",
        "use a writer, maintenance or full key",
    ),
    (
        "snapshot sync --remove-vanished",
        &["sync", "--to", "OUT", "--remove-vanished"],
        "FM",
        "use a maintenance or full key",
    ),
    (
        "snapshot forget --dry-run",
        &["forget", "--keep-last", "1", "--dry-run"],
        "FM",
        "use a maintenance or full key",
    ),
    (
        "snapshot forget",
        &["forget", "--keep-last", "1"],
        "FM",
        "use a maintenance or full key",
    ),
    (
        "snapshot prune --dry-run",
        &["prune", "--dry-run"],
        "FM",
        "use a maintenance or full key",
    ),
    (
        "snapshot prune",
        &["prune"],
        "FM",
        "use a maintenance or full key",
    ),
    (
        "snapshot repair --dry-run",
        &["repair", "--dry-run"],
        "FM",
        "use a maintenance or full key",
    ),
    (
        "snapshot repair",
        &["repair"],
        "FM",
        "use a maintenance or full key",
    ),
    (
        "snapshot prune --reseal --dry-run",
        &["prune", "--reseal", "--dry-run"],
        "F",
        "use a full key",
    ),
    (
        "snapshot prune --reseal",
        &["prune", "--reseal"],
        "F",
        "use a full key",
    ),
    ("snapshot key list", &["key", "list"], ALL, ""),
    (
        "snapshot key add",
        &[
            "key",
            "add",
            "--new-key-file",
            "added",
            "--role",
            "verifier",
        ],
        "F",
        "use a full key",
    ),
    (
        "snapshot key sheet",
        &["key", "sheet", "--recovery-sheet", "further"],
        "F",
        "use a full key",
    ),
    (
        "snapshot key remove",
        &["key", "remove", "VERIFIER"],
        "F",
        "use a full key",
    ),
    (
        "snapshot key rotate --dry-run",
        &[
            "key",
            "rotate",
            "--new-key-file",
            "rotated",
            "--recovery-sheet",
            "sheet2",
            "--dry-run",
        ],
        "F",
        "use a full key",
    ),
    (
        "snapshot key rotate",
        &[
            "key",
            "rotate",
            "--new-key-file",
            "rotated",
            "--recovery-sheet",
            "sheet2",
        ],
        "F",
        "use a full key",
    ),
    ("restore list", &["list"], ALL, ""),
    (
        "restore ls",
        &["ls", "latest"],
        "FR",
        "use a reader or full key",
    ),
    (
        "restore find",
        &["find", "a"],
        "FR",
        "use a reader or full key",
    ),
    (
        "restore cat",
        &["cat", "FILE"],
        "FR",
        "use a reader or full key",
    ),
    (
        "restore run --dry-run",
        &["run", "latest", "--to", "OUT", "--dry-run"],
        "FR",
        "use a reader or full key",
    ),
    (
        "restore run",
        &["run", "latest", "--to", "OUT"],
        "FR",
        "use a reader or full key",
    ),
    (
        "restore run --verify",
        &["run", "latest", "--to", "OUT", "--verify"],
        "FR",
        "use a reader or full key",
    ),
    (
        "restore warm",
        &["warm", "latest"],
        "FR",
        "use a reader or full key",
    ),
    (
        "restore diff",
        &["diff", "latest", "latest"],
        "FR",
        "use a reader or full key",
    ),
    (
        "restore sums",
        &["sums", "latest"],
        "FR",
        "use a reader or full key",
    ),
    (
        "restore prove",
        &["prove", "FILE"],
        "FR",
        "use a reader or full key",
    ),
    (
        "restore prove -o",
        &["prove", "FILE", "-o", "PROOF"],
        "FR",
        "use a reader or full key",
    ),
];

/// A repository with two snapshots, and a key file of each role; that of the full one is `key`.
fn with_keys() -> Place {
    let place = Place::new();
    for content in ["content", "changed content"] {
        place.write("a", content);
        let _ = place.save().ok();
    }
    for role in &ROLES[1..] {
        let add = ["key", "add", "--new-key-file", role, "--role", role];
        let _ = Run::of(&mut place.snapshot(add)).ok();
    }
    fs::copy(place.path("key"), place.path("full")).unwrap();
    place
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, to).unwrap();
        }
    }
}

/// Everything in the repository but the records of the ledger: those who may look leave some.
fn without_ledger(place: &Place) -> Vec<PathBuf> {
    let mut all = place.objects("");
    all.retain(|path| !path.starts_with(place.repo().join("ledger")));
    all
}

#[test]
fn every_role_may_do_what_the_table_says_and_hears_otherwise_which_key_may() {
    let place = with_keys();
    let keys = Run::of(&mut place.snapshot(["key", "list", "--json"])).ok();
    let keys = keys.of_type("key");
    let verifier = keys.iter().find(|key| key["role"] == "verifier").unwrap();
    let verifier = verifier["id"].as_str().unwrap();
    let file = format!("latest:{}", place.data().join("a").display());
    fs::rename(place.repo(), place.path("kept")).unwrap();
    for role in ROLES {
        copy(&place.path("kept"), &place.repo());
        let letter = role[..1].to_ascii_uppercase();
        for (number, (name, args, may, hint)) in ROWS.iter().enumerate() {
            let out = format!("out-{role}-{number}");
            let proof = format!("proof-{role}-{number}");
            let args = args.iter().map(|arg| match *arg {
                "DATA" => place.data().display().to_string(),
                "FILE" => file.clone(),
                "VERIFIER" => verifier.to_owned(),
                "OUT" => out.clone(),
                "PROOF" => proof.clone(),
                // Files that are made have names of their own.
                "added" | "further" | "rotated" | "sheet2" => format!("{arg}-{role}"),
                other => other.to_owned(),
            });
            let mut command = match name.split_once(' ').unwrap().0 {
                "snapshot" => place.snapshot(args),
                _ => place.restore(args),
            };
            command
                .args(["--key-file", role])
                .env("BACKSTAY_CACHE_DIR", place.path(format!("cache-{role}")))
                .env("BACKSTAY_STATE_DIR", place.path(format!("state-{role}")));
            let before = without_ledger(&place);
            let run = Run::of(&mut command);
            if may.contains(&letter) {
                assert_eq!(run.code, 0, "{role}: {name}\n{}", run.err);
            } else {
                assert_eq!(run.code, 12, "{role}: {name}\n{}{}", run.text(), run.err);
                assert!(run.err.contains(role), "{role}: {name}\n{}", run.err);
                assert!(run.err.contains(hint), "{role}: {name}\n{}", run.err);
                assert!(run.out.is_empty(), "{role}: {name}\n{}", run.text());
                assert_eq!(without_ledger(&place), before, "{role}: {name}");
                assert!(!place.path(&out).exists(), "{role}: {name}");
            }
            // Saved by who may, with the key of before: what follows goes on with the new one.
            if role == "full" && *name == "snapshot key rotate" {
                fs::copy(place.path("rotated-full"), place.path("full")).unwrap();
            }
        }
        fs::remove_dir_all(place.repo()).unwrap();
    }
}

#[test]
fn the_page_has_the_same_table() {
    let page = include_str!("../../../docs/keys.md");
    let rows: Vec<(String, String)> = page
        .lines()
        .filter_map(|line| {
            let (name, marks) = line.strip_prefix("| `")?.split_once("` | ")?;
            let cells: Vec<&str> = marks.split('|').map(str::trim).collect();
            // Behind the last bar there is nothing.
            let (_, marks) = cells.split_last()?;
            let may = marks.iter().zip(ALL.chars());
            let may = may
                .filter(|(mark, _)| **mark == "yes")
                .map(|(_, letter)| letter);
            (marks.len() == ROLES.len()).then(|| (name.to_owned(), may.collect()))
        })
        .collect();
    let wanted: Vec<(String, String)> = ROWS
        .iter()
        .map(|(name, _, may, _)| ((*name).to_owned(), (*may).to_owned()))
        .collect();
    assert_eq!(rows, wanted);
}
