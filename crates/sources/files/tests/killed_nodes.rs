//! What a restore that was killed leaves of links, pipes, sockets, devices, and files that have the mode of what
//! is unfinished, and what the next one makes of it.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that runs itself and tells itself where"
)]

#[path = "files/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::support::disks::{Disk, Kind, NO_DISKS};
use crate::support::given::*;
use crate::support::traced::{can_trace, traced};
use crate::support::*;
use backup_core::{EntryKind, Owner};
use backup_source_files::{Overwrite, Ownership};

/// Where a process of this program is to restore to, what does so, and whether it overwrites.
const TO: &str = "BACKSTAY_TEST_TO";
const TEST: &str = "restores_where_it_is_told";
const ALWAYS: &str = "BACKSTAY_TEST_ALWAYS";

/// The user that entries belong to.
const OWNER: u32 = 1234;

fn wanted() -> Vec<Stored> {
    let mut kinds = vec![
        (
            "link",
            EntryKind::Symlink(b"where it leads".to_vec()),
            0o777,
        ),
        ("pipe", EntryKind::Fifo, 0o666),
        // What this one is to have is what else says that something is unfinished.
        ("pipe 1600", EntryKind::Fifo, 0o1600),
        ("socket", EntryKind::Socket, 0o755),
        // The same of files.
        ("file 1600", EntryKind::File, 0o1600),
        ("empty 1600", EntryKind::File, 0o1600),
    ];
    if is_root() {
        let device = EntryKind::CharDevice { major: 1, minor: 3 };
        kinds.push(("device", device, 0o644));
    }
    let made = |(name, kind, mode): &(&str, EntryKind, u32)| {
        let content: &[u8] = match *name {
            "file 1600" => b"saved",
            _ => b"",
        };
        let mut stored = made_up(name.as_bytes(), kind.clone(), content);
        stored.entry.meta.mode = *mode;
        stored.entry.meta.owner = Some(Owner {
            uid: OWNER,
            gid: 2345,
            user: None,
            group: None,
        });
        if is_root() {
            stored.entry.meta.xattrs = vec![(b"trusted.of".to_vec(), b"the snapshot".to_vec())];
        }
        stored
    };
    let mut all: Vec<_> = kinds.iter().map(made).collect();
    all.sort_by(|one, other| one.entry.path.cmp(&other.entry.path));
    all
}

fn config(to: &Path, overwrite: Overwrite) -> backup_source_files::FilesTargetConfig {
    backup_source_files::FilesTargetConfig {
        owner: Ownership::Number,
        ..into(to, overwrite)
    }
}

/// What the process does that is killed.
#[test]
fn restores_where_it_is_told() {
    if let Ok(to) = env::var(TO) {
        let overwrite = match env::var(ALWAYS) {
            Ok(_) => Overwrite::Always,
            Err(_) => Overwrite::Never,
        };
        restore(config(Path::new(&to), overwrite), &wanted());
    }
}

/// The calls between the making of one and the last that is done to it.
const CALLS: [&str; 10] = [
    "symlinkat",
    "mknodat",
    "openat",
    "utimensat",
    "fchownat",
    "lsetxattr,setxattr",
    "chmod,fchmodat",
    "renameat",
    "pwrite64",
    "unlinkat",
];

/// One point of so many is tried, another one in each run, unless `BACKSTAY_POINTS=all`.
const OF: usize = 3;

/// What stands in the place of entries.
const OTHER: &[u8] = b"something else";

/// How a folder is that is restored into.
fn begin(to: &Path, is_there: bool) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir(to).unwrap();
    for stored in wanted().iter().filter(|_| is_there) {
        put(&to.join(os(&stored.entry.path.to_slashed())), OTHER);
    }
}

fn entries_in(to: &Path) -> BTreeMap<PathBuf, State> {
    let mut all = tree(to);
    all.remove(Path::new(""));
    all
}

#[test]
fn killed_at_any_call_the_next_run_finishes_links_pipes_sockets_and_devices() {
    if !can_trace() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let log = temp.path().join("log");
    let handing = temp.path().join("handing");
    fs::create_dir(&handing).unwrap();
    // It takes from the owner of what is made in it.
    let default = acl(&[(1, 4, !0), (4, 4, !0), (0x20, 0, !0)]);
    let hands_on = set_xattr(&handing, "system.posix_acl_default", &default);
    let mut places = vec![temp.path().to_owned()];
    places.extend(hands_on.then_some(handing));
    let disk = Disk::new(Kind::NoBirths, temp.path());
    places.extend(disk.as_ref().map(|disk| disk.path().to_owned()));
    if disk.is_none() {
        eprintln!("{NO_DISKS}");
    }
    let all = std::env::var("BACKSTAY_POINTS").is_ok_and(|points| points == "all");
    let step = if all { 1 } else { OF };
    let skipped = std::process::id() as usize % step;
    let mut tried = 0;
    for place in places {
        let to = place.join("to");
        for is_there in [false, true] {
            let run = |options: &[&str]| {
                let mut command = traced(TEST, options);
                if is_there {
                    command.env(ALWAYS, "1");
                }
                command.env(TO, &to).status().unwrap().success()
            };
            begin(&to, is_there);
            assert!(run(&["/dev/null", "--trace=none"]));
            let whole = entries_in(&to);
            assert_eq!(whole.len(), wanted().len());
            for call in CALLS {
                begin(&to, is_there);
                let trace = format!("--trace={call}");
                assert!(run(&[log.to_str().unwrap(), &trace]));
                let lines = fs::read_to_string(&log).unwrap();
                let is_call = |line: &&str| line.contains('(') && !line.contains("resumed");
                let count = lines.lines().filter(is_call).count();
                // The first are those of the loader.
                let first = match call {
                    "openat" => count.saturating_sub(60),
                    _ => 0,
                };
                for point in (first + 1 + skipped..=count).step_by(step) {
                    begin(&to, is_there);
                    let inject = format!("--inject={call}:signal=KILL:when={point}");
                    if run(&["/dev/null", &trace, &inject]) {
                        continue;
                    }
                    tried += 1;
                    std::thread::sleep(std::time::Duration::from_millis(10));
                    let what = format!("{to:?} {is_there}, killed at {call} {point} of {count}");
                    let left: Vec<_> = tree(&to)
                        .into_iter()
                        .map(|one| (one.0, one.1.mode))
                        .collect();
                    // What stands there yet stays with `never`.
                    let overwrite = match is_there {
                        false => Overwrite::Never,
                        true => Overwrite::IfNewer,
                    };
                    if is_there {
                        for stored in wanted() {
                            let path = to.join(os(&stored.entry.path.to_slashed()));
                            if state(&path).content == OTHER {
                                fs::remove_file(path).unwrap();
                            }
                        }
                    }
                    let again = restore(config(&to, overwrite), &wanted());
                    assert!(again.errors.is_empty(), "{what}: {:?}", again.errors);
                    assert_eq!(entries_in(&to), whole, "{what} {left:?}");
                }
            }
        }
    }
    println!("{tried} points");
}

/// What its user did to one that was finished, or put in its place, is theirs.
#[test]
fn what_its_user_changed_of_a_finished_one_stays() {
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("to");
    fs::create_dir(&to).unwrap();
    let at = |name: &str| to.join(name);
    // These were there before, and look like what is made.
    rustix::fs::symlinkat("where it leads", rustix::fs::CWD, at("link")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(30));
    let half = |path: &backup_core::EntryPath| match path.to_string().as_str() {
        "x" => Pumping::Half,
        _ => Pumping::Whole,
    };
    let mut stored = wanted();
    stored.push(made_up(b"x", EntryKind::File, b"unfinished"));
    let config = config(&to, Overwrite::Never);
    let broken = restore_with(
        config.clone(),
        &stored,
        backup_core::Outcome::BrokenOff,
        half,
    );
    assert!(broken.unwrap().errors.is_empty());
    assert!(at(".backstay-unfinished").exists());
    let set = |name: &str, mode| fs::set_permissions(at(name), fs::Permissions::from_mode(mode));
    set("pipe", 0o600).unwrap();
    set("pipe 1600", 0o640).unwrap();
    fs::remove_file(at("socket")).unwrap();
    rustix::fs::symlinkat("elsewhere", rustix::fs::CWD, at("socket")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(30));
    let names = ["link", "pipe", "pipe 1600", "socket"];
    let before = names.map(|name| state(&at(name)));
    let again = restore(config, &stored);
    assert!(again.errors.is_empty(), "{:?}", again.errors);
    assert_eq!(names.map(|name| state(&at(name))), before);
    assert!(!at(".backstay-unfinished").exists());
}
