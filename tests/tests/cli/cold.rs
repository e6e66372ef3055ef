//! Repositories whose packs of content lie at another place: in two folders, and in an archive that has to be asked.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use backup_object_server::{ACCESS_KEY, Fault, Rule, SECRET_KEY, Server};
use backup_tests::{Place, Run};
use serde_json::Value;

/// A repository at two places.
struct Split {
    place: Place,
    cold: String,
    server: Option<Server>,
}

impl Split {
    fn empty(cold: &str) -> Self {
        let place = Place::empty();
        let cold = place.path(cold).display().to_string();
        Self {
            place,
            cold,
            server: None,
        }
    }

    /// In two folders.
    fn new() -> Self {
        let split = Self::empty("cold");
        let _ = split.snapshot(&["init", "--recovery-sheet", "sheet"]).ok();
        split
    }

    /// In a folder, and the deep archive of a server.
    fn archived(options: &str) -> Self {
        let server = Server::start();
        let mut split = Self::empty("cold");
        split.cold = format!(
            "{}%26storage_class=DEEP_ARCHIVE{options}",
            server.location("packs")
        );
        split.server = Some(server);
        let _ = split.snapshot(&["init", "--recovery-sheet", "sheet"]).ok();
        split
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    fn both(&self) -> String {
        format!("{}?cold={}", self.place.repo().display(), self.cold)
    }

    fn with(&self, mut command: Command) -> Command {
        command
            .env("BACKSTAY_REPO", self.both())
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        command
    }

    fn snapshot(&self, args: &[&str]) -> Run {
        Run::of(&mut self.with(self.place.snapshot(args)))
    }

    fn restore(&self, args: &[&str]) -> Run {
        Run::of(&mut self.with(self.place.restore(args)))
    }

    fn save(&self) -> Run {
        let data = self.place.data();
        self.snapshot(&["save", "--json", data.to_str().unwrap()])
    }

    fn wanted(&self, below: &str) -> String {
        format!("latest:{}{below}", self.place.data().display())
    }

    /// What was asked for: the paths of the requests.
    fn requests(&self) -> Vec<String> {
        let asked = self.server().take_asked();
        let posts = asked.into_iter().filter(|one| one.method == "POST");
        posts.map(|one| one.path).collect()
    }
}

/// The files below a folder, with what is in them.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut out = BTreeMap::new();
    let mut todo = vec![folder.to_path_buf()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            match entry.path() {
                path if path.is_dir() => todo.push(path),
                path => drop(out.insert(path.clone(), fs::read(path).unwrap())),
            }
        }
    }
    out
}

/// The folders of the format that have something in them.
fn folders(root: &Path) -> Vec<String> {
    let mut out: Vec<_> = files(root)
        .into_keys()
        .map(|path| path.strip_prefix(root).unwrap().display().to_string())
        .map(|path| {
            let parts = if path.starts_with("parity/") { 2 } else { 1 };
            path.split('/').take(parts).collect::<Vec<_>>().join("/")
        })
        .collect();
    out.sort();
    out.dedup();
    out
}

fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

fn prints(run: &Run, words: &str) {
    assert!(run.text().contains(words), "no {words:?} in {}", run.text());
}

fn plan_of(run: &Run) -> Value {
    run.of_type("plan").remove(0)
}

#[test]
fn packs_of_content_lie_apart_and_every_command_finds_them() {
    let split = Split::new();
    split.place.write("a", noise(1, 300_000));
    let _ = split.save().ok();
    split.place.write("b", noise(2, 300_000));
    let _ = split.save().ok();
    let hot = folders(&split.place.repo());
    assert!(hot.contains(&"meta".to_owned()), "{hot:?}");
    let cold = folders(Path::new(&split.cold));
    assert_eq!(cold, ["cold", "data", "parity/data"]);
    for strange in &cold {
        assert!(!hot.contains(strange), "{strange} is on both sides");
    }
    let sheet = fs::read_to_string(split.place.path("sheet")).unwrap();
    assert!(sheet.contains(&split.both()), "{sheet}");
    let _ = split.snapshot(&["verify"]).ok();
    let _ = split
        .restore(&["run", "--to", "back", &split.wanted("")])
        .ok();
    for name in ["a", "b"] {
        let back = fs::read(split.place.path("back").join(name)).unwrap();
        assert!(
            back == fs::read(split.place.data().join(name)).unwrap(),
            "{name}"
        );
    }
    let stats = split
        .snapshot(&["stats", "--json"])
        .ok()
        .of_type("stats")
        .remove(0);
    assert_eq!(stats["location"], split.both().as_str());
    let _ = split.snapshot(&["forget", "--keep-last", "1"]).ok();
    let _ = split.snapshot(&["prune", "--repack-cold"]).ok();
    // Packs that are damaged are mended from parity, which lies beside them.
    let pack = files(&Path::new(&split.cold).join("data"))
        .into_keys()
        .next()
        .unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    bytes[1000] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let _ = split
        .snapshot(&["verify", "--level", "full", "--read-cold"])
        .ends(13);
    let _ = split.snapshot(&["repair", "--read-cold"]).ok();
    let _ = split
        .snapshot(&["verify", "--level", "full", "--read-cold"])
        .ok();
}

#[test]
fn a_place_that_is_not_named_or_named_wrongly_is_told_before_anything_happens() {
    let split = Split::new();
    split.place.write("a", noise(1, 300_000));
    let _ = split.save().ok();
    let (hot, cold) = (split.place.repo(), PathBuf::from(&split.cold));
    let before = (files(&hot), files(&cold));
    let data = split.place.data().display().to_string();
    let unnamed = |args: &[&str]| Run::of(&mut split.place.snapshot(args));
    for args in [
        &["list"][..],
        &["save", &data],
        &["verify"],
        &["prune"],
        &["repair"],
        &["copy", "--to", "elsewhere"],
        &["key", "rotate", "--new-key-file", "next"],
    ] {
        let _ = unnamed(args)
            .ends(2)
            .says("write ?cold=URL behind the place");
    }
    let mut run = split.place.restore(["run", "latest", "--to", "back"]);
    let _ = Run::of(&mut run).ends(2).says("?cold=URL");
    // The disk of packs is not there, or another one.
    fs::create_dir(split.place.path("other")).unwrap();
    for other in ["nowhere", "other"] {
        let place = format!(
            "{}?cold={}",
            hot.display(),
            split.place.path(other).display()
        );
        for args in [&["list"][..], &["prune"], &["save", &data]] {
            let mut command = split.place.snapshot(args);
            let run = Run::of(command.env("BACKSTAY_REPO", &place));
            let _ = run.ends(10).says("is not that place, or is not mounted");
        }
    }
    assert!(
        (files(&hot), files(&cold)) == before,
        "something was changed"
    );
    assert_eq!(files(&split.place.path("other")).len(), 0);
    assert!(!split.place.path("back").exists());
}

#[test]
fn no_second_repository_gets_where_another_keeps_its_packs() {
    let split = Split::new();
    let before = files(Path::new(&split.cold));
    let init = |place: &str, key: &str| {
        let sheet = format!("{key}.sheet");
        let mut command = split.place.snapshot(["init", "--recovery-sheet", &sheet]);
        Run::of(
            command
                .env("BACKSTAY_REPO", place)
                .env("BACKSTAY_KEY_FILE", key),
        )
    };
    let path = |name: &str| split.place.path(name).display().to_string();
    let _ = init(&format!("{}?cold={}", path("new"), split.cold), "k1")
        .ends(11)
        .says("a repository keeps its packs of content here");
    let _ = init(&split.cold, "k2").ends(11);
    let _ = init(&format!("{0}?cold={0}/packs", path("new")), "k3")
        .ends(2)
        .says("not apart");
    assert!(files(Path::new(&split.cold)) == before);
    for left in ["k1", "k2", "k3", "new", "k1.sheet", "k1.unfinished"] {
        assert!(!split.place.path(left).exists(), "{left}");
    }
    // A repository that has all at one place opens with no other.
    let plain = path("plain");
    let _ = init(&plain, "k4").ok();
    let mut command = split.place.snapshot(["list"]);
    let both = format!("{plain}?cold={}", path("empty"));
    let run = Run::of(
        command
            .env("BACKSTAY_REPO", both)
            .env("BACKSTAY_KEY_FILE", "k4"),
    );
    let _ = run.ends(2).says("leave `cold=` out");
    assert!(!split.place.path("empty").exists());
}

#[test]
fn what_is_in_an_archive_is_asked_for_and_then_restored() {
    let split = Split::archived("%26warm-days=3%26warm-tier=Standard");
    split.place.write("a", noise(1, 300_000));
    let _ = split.save().ok();
    split.place.write("b", noise(2, 300_000));
    let _ = split.save().ok();
    // Nothing of the content is read by what looks at the rest.
    for args in [&["verify"][..], &["list"], &["stats"], &["prune"]] {
        let _ = split.snapshot(args).ok();
    }
    let _ = split.restore(&["ls", "-R", &split.wanted("")]).ok();
    let _ = split
        .restore(&["run", "--to", "back", &split.wanted("")])
        .ends(1)
        .says("restore warm");
    let _ = split
        .restore(&["cat", &split.wanted("/a")])
        .ends(1)
        .says("restore warm");
    let ledger = split.snapshot(&["ledger", "list", "--json"]).ok();
    let failed = ledger.of_type("ledger-record").into_iter();
    let failed = failed.filter(|record| record["op"] == "restore");
    assert!(failed.clone().all(|record| record["outcome"] == "failed") && failed.count() > 0);
    let _ = split.requests();

    let dry = split
        .restore(&["warm", "--dry-run", "--json", &split.wanted("")])
        .ok();
    let plan = plan_of(&dry);
    assert_eq!(
        (&plan["packs"], &plan["cold_packs"], &plan["requests"]),
        (&2.into(), &2.into(), &2.into())
    );
    assert_eq!(split.requests(), [""; 0]);
    // A part takes what it needs.
    let one = split.restore(&["warm", "--json", &split.wanted("/a")]).ok();
    assert_eq!(plan_of(&one)["packs"], 1);
    assert_eq!(one.of_type("warmed")[0]["requested_packs"], 1);
    assert_eq!(one.of_type("warmed")[0]["ready_in_seconds"], 12 * 3600);
    assert_eq!(split.requests().len(), 1);
    let all = split.restore(&["warm", &split.wanted("")]).ok();
    prints(&all, "12 hours");
    assert_eq!(split.requests().len(), 1);
    let again = split.restore(&["warm", "--json", "latest"]).ok();
    assert_eq!(plan_of(&again)["warming_packs"], 2);
    assert_eq!(split.requests(), [""; 0]);
    let _ = split
        .restore(&["run", "--to", "back", &split.wanted("")])
        .ends(1);

    split.server().thaw();
    let ready = split.restore(&["warm", "--json", "latest"]).ok();
    assert_eq!(plan_of(&ready)["warm_packs"], 2);
    let _ = split
        .restore(&["run", "--to", "back", &split.wanted("")])
        .ok();
    for name in ["a", "b"] {
        let back = fs::read(split.place.path("back").join(name)).unwrap();
        assert!(
            back == fs::read(split.place.data().join(name)).unwrap(),
            "{name}"
        );
    }
    let ledger = split.snapshot(&["ledger", "list", "--json"]).ok();
    let warmed = ledger.of_type("ledger-record").into_iter();
    let warmed: Vec<_> = warmed.filter(|record| record["op"] == "warm").collect();
    assert_eq!(warmed.len(), 5, "{warmed:?}");
}

#[test]
fn a_wait_ends_when_all_can_be_read_and_can_be_interrupted() {
    let split = Split::archived("");
    split.place.write("a", noise(1, 300_000));
    let _ = split.save().ok();
    let mut waiting = split.with(split.place.restore(["warm", "latest", "--wait"]));
    let child = waiting
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let asked_at = std::time::Instant::now();
    while split.requests().is_empty() {
        assert!(
            asked_at.elapsed() < Duration::from_secs(60),
            "it asks for nothing"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let _ = Run::from(child.wait_with_output().unwrap()).ends(130);
    // It stays asked for.
    let dry = split
        .restore(&["warm", "latest", "--dry-run", "--json"])
        .ok();
    assert_eq!(plan_of(&dry)["warming_packs"], 1);
    split.server().freeze();
    split.server().thaw_after(2);
    let waited = split.restore(&["warm", "latest", "--wait", "--json"]).ok();
    assert_eq!(waited.of_type("warmed")[0]["waited"], true);
    let _ = split
        .restore(&["run", "--to", "back", &split.wanted("")])
        .ok();
}

#[test]
fn what_an_archive_refuses_is_told_with_what_to_do() {
    let split = Split::archived("%26warm-tier=Expedited");
    split.place.write("a", noise(1, 300_000));
    let _ = split.save().ok();
    let full = Fault::answer(
        503,
        "GlacierExpeditedRetrievalNotAvailable",
        "Glacier expedited retrievals are currently not available, please try again later",
    );
    split.server().fail(Rule::of(full).on("POST"));
    let _ = split
        .restore(&["warm", "latest"])
        .ends(1)
        .says("warm-tier=Standard");
    assert_eq!(split.requests().len(), 1, "it is not asked again and again");
    split.server().heal();
    // Once busy, once cut: asked again.
    split
        .server()
        .fail(Rule::of(Fault::busy()).on("POST").times(1));
    let deep = split.restore(&["warm", "latest"]).ends(2);
    let _ = deep.says("Expedited");
    let standard = split.both().replace("Expedited", "Standard");
    split
        .server()
        .fail(Rule::of(Fault::Cut).on("POST").times(1));
    let mut command = split.with(split.place.restore(["warm", "latest"]));
    let _ = Run::of(command.env("BACKSTAY_REPO", standard)).ok();
}

#[test]
fn a_prune_and_a_verification_leave_an_archive_in_peace() {
    let split = Split::archived("");
    for number in 0..4 {
        split
            .place
            .write(format!("{number}"), noise(number, 300_000));
    }
    let _ = split.save().ok();
    for number in 1..4 {
        fs::remove_file(split.place.data().join(number.to_string())).unwrap();
    }
    split.place.write("x", noise(9, 300_000));
    let _ = split.save().ok();
    split.place.write("y", noise(10, 300_000));
    let _ = split.save().ok();
    fs::remove_file(split.place.data().join("x")).unwrap();
    fs::remove_file(split.place.data().join("y")).unwrap();
    let _ = split.save().ok();
    let packs = || {
        let objects = split.server().objects().into_keys();
        objects
            .filter(|key| key.contains("packs/data/"))
            .collect::<Vec<_>>()
    };
    assert_eq!(packs().len(), 3);
    let _ = split.snapshot(&["forget", "--keep-last", "1"]).ok();
    let pruned = split.snapshot(&["prune", "--json"]).ok();
    // What nothing uses goes; what is used in part stays, and is not read.
    assert_eq!(packs().len(), 1);
    let plan = plan_of(&pruned);
    assert_eq!(
        (&plan["cold_packs"], &plan["repacked_packs"]),
        (&1.into(), &0.into())
    );
    assert!(plan["cold_bytes"].as_u64().unwrap() > 800_000, "{plan}");
    prints(&split.snapshot(&["prune"]).ok(), "kept cold");
    let _ = split
        .snapshot(&["prune", "--reseal"])
        .ends(2)
        .says("--repack-cold");
    let _ = split
        .snapshot(&["prune", "--repack-cold"])
        .ends(1)
        .says("restore warm");
    for args in [
        &["verify", "--level", "full"][..],
        &["verify", "--level", "checksum"],
        &["repair"],
    ] {
        let _ = split.snapshot(args).ends(2).says("--read-cold");
        let mut reading = args.to_vec();
        reading.push("--read-cold");
        // That it cannot be read is no damage.
        let _ = split.snapshot(&reading).ends(1).says("restore warm");
    }
    let _ = split.restore(&["warm", "latest"]).ok();
    split.server().thaw();
    let _ = split
        .snapshot(&["verify", "--level", "full", "--read-cold"])
        .ok();
    let _ = split.snapshot(&["repair", "--read-cold"]).ok();
    // What is written there cannot be read back, and nothing gives way to it.
    let _ = split
        .snapshot(&["prune", "--repack-cold"])
        .ends(2)
        .says("cannot be read back");
    let _ = split.snapshot(&["prune"]).ok();
    assert_eq!(packs().len(), 1);
    let _ = split.restore(&["warm", "latest"]).ok();
    split.server().thaw();
    let _ = split
        .restore(&["run", "--to", "back", &split.wanted("")])
        .ok();
    assert!(split.place.path("back/0").exists());
}

#[test]
fn copies_keep_their_packs_each_in_its_own_way() {
    let place = Place::new();
    place.write("a", noise(1, 300_000));
    let _ = place.save().ok();
    let path = |name: &str| place.path(name).display().to_string();
    let (cold, packs) = (
        format!("{}?cold={}", path("hot"), path("packs")),
        path("packs"),
    );
    let on = |repo: &str, args: &[&str]| {
        let mut command = place.snapshot(args);
        Run::of(command.env("BACKSTAY_REPO", repo))
    };
    let _ = Run::of(&mut place.snapshot(["copy", "--to", &cold])).ok();
    assert_eq!(folders(Path::new(&packs)), ["cold", "data", "parity/data"]);
    let _ = on(&path("hot"), &["list"]).ends(2).says("?cold=URL");
    // Two copies have one id, and share no place of packs all the same.
    let shared = format!("{}?cold={packs}", path("second"));
    let _ = Run::of(&mut place.snapshot(["copy", "--to", &shared])).ends(11);
    // What the source's config comes to say goes with it, and where packs lie stays.
    let rotate = [
        "key",
        "rotate",
        "--new-key-file",
        "next",
        "--recovery-sheet",
        "new-sheet",
    ];
    let _ = Run::of(&mut place.snapshot(rotate)).ok();
    place.write("b", noise(2, 300_000));
    let with_next = |repo: Option<&str>, args: &[&str]| {
        let mut command = place.snapshot(args);
        command.env("BACKSTAY_KEY_FILE", place.path("next"));
        if let Some(repo) = repo {
            command.env("BACKSTAY_REPO", repo);
        }
        Run::of(&mut command)
    };
    let data = place.data().display().to_string();
    let _ = with_next(None, &["save", &data]).ok();
    let _ = with_next(None, &["copy", "--to", &cold]).ok();
    let _ = with_next(Some(&path("hot")), &["list"]).ends(2);
    let _ = with_next(Some(&cold), &["verify", "--level", "full", "--read-cold"]).ok();
    // And back, to where all lies at one place.
    let _ = with_next(Some(&cold), &["copy", "--to", "plain"]).ok();
    let _ = with_next(Some(&path("plain")), &["verify", "--level", "full"]).ok();
    // Configs that are lost come from a copy that is kept otherwise.
    let hot = place.path("hot");
    for number in 0..2 {
        fs::remove_file(hot.join(format!("config/{number}"))).unwrap();
        let _ = fs::remove_file(hot.join(format!("parity/config/{number}")));
    }
    let _ = with_next(Some(&cold), &["repair", "--read-cold", "--from", "plain"]).ok();
    let _ = with_next(Some(&path("hot")), &["list"])
        .ends(2)
        .says("?cold=URL");
    let _ = with_next(Some(&cold), &["verify", "--level", "full", "--read-cold"]).ok();
}

#[test]
fn where_nothing_is_cold_nothing_is_asked_for() {
    let place = Place::new();
    place.write("a", "content");
    let _ = place.save().ok();
    let warm = Run::of(&mut place.restore(["warm", "latest", "--wait"])).ok();
    prints(&warm, "all of it can be read");
    let missing = Run::of(&mut place.restore(["warm", "latest:/no"]));
    let _ = missing.ends(1);
}

/// The lines of a command that warms.
pub(crate) fn lines_of_warming() -> Vec<Value> {
    let split = Split::archived("");
    split.place.write("a", noise(1, 300_000));
    let _ = split.save().ok();
    let mut lines = split
        .restore(&["warm", "latest", "--json", "--dry-run"])
        .ok()
        .lines();
    lines.extend(split.restore(&["warm", "latest", "--json"]).ok().lines());
    lines
}
