//! A repository in a bucket: every command against a real server that checks signatures, and what is said when the
//! server does not do as it is asked.

use std::fs;
use std::path::Path;
use std::process::Command;

use backup_object_server::{ACCESS_KEY, Asked, Conditions, Fault, Rule, SECRET_KEY, Server};
use backup_tests::{Place, Run};
use serde_json::Value;

/// How many requests a save makes that finds nothing new; which they are, stands in the engine's test of requests.
const UNCHANGED: usize = 9;

/// A place whose repository is in a bucket.
struct Bucket {
    server: Server,
    place: Place,
}

impl Bucket {
    fn new() -> Self {
        let bucket = Self {
            server: Server::start(),
            place: Place::empty(),
        };
        let _ = bucket.snapshot(&["init", "--recovery-sheet", "sheet"]).ok();
        bucket
    }

    fn with(&self, mut command: Command) -> Command {
        command
            .env("BACKSTAY_REPO", self.server.location("backups/web1"))
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
}

fn requests(run: &Run) -> Value {
    let lines = run.of_type("traffic");
    assert_eq!(lines.len(), 1, "{}", run.text());
    lines[0].clone()
}

/// The lines of a command on a bucket.
pub(crate) fn lines_of_a_list() -> Vec<Value> {
    Bucket::new().snapshot(&["list", "--json"]).ok().lines()
}

/// A prune locks again what is left, and not each time.
#[test]
fn what_is_in_use_stays_locked() {
    let bucket = Bucket::new();
    let location = format!("{}&object_lock=30d", bucket.server.location("backups/web1"));
    let snapshot = |args: &[&str]| {
        let mut command = bucket.with(bucket.place.snapshot(args));
        Run::of(command.env("BACKSTAY_REPO", &location))
    };
    bucket.place.write("one", vec![7; 300_000]);
    let data = bucket.place.data();
    let _ = snapshot(&["save", data.to_str().unwrap()]).ok();
    // `init` was told of no lock.
    let until = |key: &str| bucket.server.locked_until(key);
    let unlocked = || {
        let objects = bucket.server.objects();
        let found = objects.into_keys().filter(|key| until(key).is_none());
        found.collect::<Vec<_>>()
    };
    let before = unlocked();
    assert!(
        before.iter().any(|key| key.contains("/config/")),
        "{before:?}"
    );
    assert!(
        !before.iter().any(|key| key.contains("/data/")),
        "{before:?}"
    );
    let pruned = |run: Run| run.of_type("pruned")[0].clone();
    let first = pruned(snapshot(&["prune", "--json"]).ok());
    let locked = first["locked_objects"].as_u64().unwrap();
    // All but its own record, and what a trial of the server left.
    assert_eq!(locked + 2, bucket.server.objects().len() as u64, "{first}");
    let left: Vec<_> = unlocked()
        .into_iter()
        .filter(|key| !key.ends_with("/.backstay-create"))
        .collect();
    assert_eq!(left, [] as [String; 0]);
    let told: jiff::Timestamp = first["locked_until"].as_str().unwrap().parse().unwrap();
    let objects = bucket.server.objects();
    let pack = objects.keys().find(|key| key.contains("/data/")).unwrap();
    assert!(until(pack).unwrap() >= told.as_second());
    let second = pruned(snapshot(&["prune", "--json"]).ok());
    assert_eq!(second["locked_objects"], Value::Null);
    // Asked for longer, it is due at once; where it may not, that is told.
    let longer = format!("{}&object_lock=60d", bucket.server.location("backups/web1"));
    let prune = || {
        let mut command = bucket.with(bucket.place.snapshot(["prune"]));
        Run::of(command.env("BACKSTAY_REPO", &longer))
    };
    let denied = Fault::answer(403, "AccessDenied", "Access Denied");
    bucket
        .server
        .fail(Rule::of(denied).on("PUT").at("retention").times(1));
    let _ = prune().ends(3).says("s3:PutObjectRetention");
    let run = prune().ok();
    assert!(
        run.text().contains("locked ") && run.text().contains(" until "),
        "{}",
        run.text()
    );
    let _ = snapshot(&["verify", "--level", "full"]).ok();
}

#[test]
fn a_repository_in_a_bucket_does_all_that_one_in_a_folder_does() {
    let bucket = Bucket::new();
    bucket.place.write("a/one", "1");
    bucket.place.write("two", vec![7; 300_000]);
    let _ = bucket.save().ok();
    bucket.place.write("three", "3");
    let _ = bucket.save().ok();
    let list = bucket.snapshot(&["list", "--json"]).ok();
    assert_eq!(list.of_type("snapshot").len(), 2);
    let _ = bucket.snapshot(&["verify", "--level", "full"]).ok();
    let data = bucket.place.data();
    let wanted = format!("latest:{}", data.display());
    let _ = bucket.restore(&["run", "--to", "back", &wanted]).ok();
    for (name, content) in [
        ("a/one", &b"1"[..]),
        ("two", &[7; 300_000]),
        ("three", b"3"),
    ] {
        let back = std::fs::read(bucket.place.path("back").join(name)).unwrap();
        assert!(back == content, "{name}");
    }
    let _ = bucket.snapshot(&["copy", "--to", "copied"]).ok();
    let _ = bucket.snapshot(&["forget", "--keep-last", "1"]).ok();
    let _ = bucket.snapshot(&["prune"]).ok();
    let _ = bucket.snapshot(&["verify", "--level", "full"]).ok();
    let list = bucket.snapshot(&["list", "--json"]).ok();
    assert_eq!(list.of_type("snapshot").len(), 1);
    let outside = |key: &&String| !key.starts_with("backups/web1/");
    let objects = bucket.server.objects();
    assert_eq!(objects.keys().filter(outside).count(), 0);
}

/// What a third save of a tree tells that finds nothing new, and what the server was asked. The folders above the tree are
/// entries of each snapshot too: where somebody else has made something in one of them, it is done once more.
fn unchanged(bucket: &Bucket, tree: &Path) -> (Value, Vec<Asked>) {
    let changed = |folder: &Path| fs::metadata(folder).unwrap().modified().unwrap();
    let above = || -> Vec<_> { tree.ancestors().skip(1).map(changed).collect() };
    let save = || bucket.snapshot(&["save", "--json", tree.to_str().unwrap()]);
    for _ in 0..20 {
        let before = above();
        for _ in 0..2 {
            let _ = save().ok();
        }
        let _ = bucket.server.take_asked();
        let told = requests(&save().ok());
        let asked = bucket.server.take_asked();
        if above() == before {
            return (told, asked);
        }
    }
    panic!("the folders above {tree:?} change all the time");
}

#[test]
fn an_unchanged_save_asks_little_of_a_bucket() {
    let bucket = Bucket::new();
    let apart = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let tree = apart.path().join("tree");
    fs::create_dir(&tree).unwrap();
    for number in 0..50 {
        fs::write(tree.join(number.to_string()), [number; 5000]).unwrap();
    }
    bucket.place.wait_for_a_tick();
    let (told, asked) = unchanged(&bucket, &tree);
    println!("unchanged {told}");
    for one in &asked {
        println!("{} {} {} {}", one.status, one.method, one.path, one.query);
    }
    assert_eq!(
        told["requests"],
        asked.len(),
        "the program counts as the server does"
    );
    assert_eq!(asked.len(), UNCHANGED);
    let of = |kind: &str| told[kind].as_u64().unwrap();
    assert_eq!((of("puts"), of("lists"), of("heads")), (5, 3, 1));
    assert_eq!((of("failed"), of("deletes")), (0, 0));
    // A server that overwrites is asked before each put whether there is something, and no more.
    bucket.server.keep_conditions(Conditions::Ignored);
    fs::remove_dir_all(bucket.place.path("cache/tiers")).unwrap();
    let (plain, _) = unchanged(&bucket, &tree);
    let plain_of = |kind: &str| plain[kind].as_u64().unwrap();
    assert_eq!(plain_of("heads"), of("heads") + plain_of("puts"), "{plain}");
    for kind in ["puts", "gets", "lists"] {
        assert_eq!(plain_of(kind), of(kind), "{plain}");
    }
    // Without its cache it reads what it does not remember.
    fs::remove_dir_all(bucket.place.path("cache")).unwrap();
    let _ = bucket.snapshot(&["save", tree.to_str().unwrap()]).ok();
    let _ = bucket.snapshot(&["verify"]).ok();
}

/// How a command is told that something is wrong, and nowhere a secret.
fn refused(run: Run, words: &[&str]) {
    assert!(run.code != 0, "{}", run.text());
    let all = format!("{}{}", run.text(), run.err);
    for word in words {
        assert!(all.contains(word), "no {word:?} in {all}");
    }
    assert!(
        !all.contains(SECRET_KEY) && !all.contains("wrong-secret"),
        "{all}"
    );
}

#[test]
fn keys_and_buckets_that_are_wrong_are_told_with_their_remedy() {
    let bucket = Bucket::new();
    let list = || bucket.with(bucket.place.snapshot(["list"]));
    let wrong = Run::of(list().env("AWS_SECRET_ACCESS_KEY", "wrong-secret"));
    refused(wrong, &["the secret is not that of the access key"]);
    let unknown = Run::of(list().env("AWS_ACCESS_KEY_ID", "AKIANOBODY"));
    refused(unknown, &["does not know the access key"]);
    let none = Run::of(
        list()
            .env_remove("AWS_ACCESS_KEY_ID")
            .env_remove("AWS_SECRET_ACCESS_KEY"),
    );
    refused(none, &["there are no credentials", "AWS_ACCESS_KEY_ID"]);
    let elsewhere = format!("s3://nowhere/x?endpoint={}", bucket.server.endpoint());
    let missing = Run::of(list().env("BACKSTAY_REPO", &elsewhere));
    refused(
        missing,
        &["there is no bucket `nowhere`", "s3 mb s3://nowhere"],
    );
    let mut init = bucket.with(bucket.place.snapshot(["init", "--recovery-sheet", "other"]));
    let init = Run::of(
        init.env("BACKSTAY_REPO", &elsewhere)
            .env("BACKSTAY_KEY_FILE", "other-key"),
    );
    refused(init, &["there is no bucket `nowhere`"]);
    assert!(
        !bucket.place.path("other-key").exists(),
        "a key of nothing was left"
    );
    let shown = format!(
        "{}&secret_access_key=wrong-secret",
        bucket.server.location("x")
    );
    refused(
        Run::of(list().env("BACKSTAY_REPO", shown)),
        &["credentials", "never stand in a location"],
    );
}

#[test]
fn a_profile_in_the_home_folder_is_enough() {
    let bucket = Bucket::new();
    let aws = bucket.place.path(".aws");
    std::fs::create_dir(&aws).unwrap();
    let text = format!(
        "[backup]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    );
    std::fs::write(aws.join("credentials"), text).unwrap();
    let mut list = bucket.with(bucket.place.snapshot(["list"]));
    list.env_remove("AWS_ACCESS_KEY_ID")
        .env_remove("AWS_SECRET_ACCESS_KEY");
    let location = format!("{}&profile=backup", bucket.server.location("backups/web1"));
    let _ = Run::of(list.env("BACKSTAY_REPO", location)).ok();
}

#[test]
fn a_save_sits_out_a_server_that_is_busy_and_cuts_connections() {
    let bucket = Bucket::new();
    bucket.place.write("one", vec![1; 3_000_000]);
    bucket
        .server
        .fail(Rule::of(Fault::busy()).every(4).times(8));
    bucket.server.fail(Rule::of(Fault::Cut).every(5).times(4));
    bucket
        .server
        .fail(Rule::of(Fault::LoseAnswer).on("PUT").every(2).times(2));
    let told = requests(&bucket.save().ok());
    assert!(told["failed"].as_u64().unwrap() >= 8, "{told}");
    bucket.server.heal();
    let _ = bucket.snapshot(&["verify", "--level", "full"]).ok();
}

#[test]
fn a_prune_of_locked_objects_ends_with_an_error_and_can_be_run_again() {
    let bucket = Bucket::new();
    bucket.place.write("one", vec![1; 100_000]);
    let _ = bucket.save().ok();
    bucket.place.write("one", vec![2; 100_000]);
    let _ = bucket.save().ok();
    let _ = bucket.snapshot(&["verify"]).ok();
    let message = "Access Denied because object protected by object lock.";
    bucket
        .server
        .fail(Rule::of(Fault::answer(403, "AccessDenied", message)).on("DELETE"));
    let forget = bucket.snapshot(&["forget", "--keep-last", "1"]);
    assert!(
        forget.code != 0 && forget.err.contains("locked against deletion"),
        "{}",
        forget.err
    );
    let _ = bucket.snapshot(&["verify", "--level", "full"]).ok();
    bucket.server.heal();
    let _ = bucket.snapshot(&["forget", "--keep-last", "1"]).ok();
    let _ = bucket.snapshot(&["prune"]).ok();
    let _ = bucket.snapshot(&["verify", "--level", "full"]).ok();
}

#[test]
fn buckets_of_one_name_on_two_servers_are_two_places() {
    let bucket = Bucket::new();
    bucket.place.write("one", "1");
    let _ = bucket.save().ok();
    let other = Server::start();
    let to = other.location("backups/web1");
    let _ = bucket.snapshot(&["copy", "--to", &to]).ok();
    let mut list = bucket.with(bucket.place.snapshot(["list", "--json"]));
    let list = Run::of(list.env("BACKSTAY_REPO", &to)).ok();
    assert_eq!(list.of_type("snapshot").len(), 1);
    let itself = bucket.server.location("backups/web1");
    let same = bucket.snapshot(&["copy", "--to", &itself]);
    refused(same, &["that of the repository itself"]);
    let sheet = std::fs::read_to_string(bucket.place.path("sheet")).unwrap();
    assert!(sheet.contains(&bucket.server.endpoint()), "{sheet}");
}

#[test]
fn a_tier_is_checked_in_a_bucket() {
    let bucket = Bucket::new();
    let checked = bucket.snapshot(&["check-tier", "--json"]).ok();
    let tier = checked.of_type("tier").remove(0);
    assert_eq!(
        (&tier["failed"], &tier["atomic_create"]),
        (&0.into(), &true.into()),
        "{tier}"
    );
}
