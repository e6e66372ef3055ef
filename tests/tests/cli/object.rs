//! A repository in a bucket: every command against a real server that checks signatures, and what is said when the
//! server does not do as it is asked.

use std::process::Command;

use backup_object_server::{ACCESS_KEY, Conditions, Fault, Rule, SECRET_KEY, Server};
use backup_tests::{Place, Run};
use serde_json::Value;

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

#[test]
fn an_unchanged_save_asks_little_of_a_bucket() {
    let bucket = Bucket::new();
    for number in 0..50 {
        bucket
            .place
            .write(format!("d/{number}"), vec![number; 5000]);
    }
    bucket.place.wait_for_a_tick();
    let first = requests(&bucket.save().ok());
    let _ = bucket.server.take_asked();
    let again = bucket.save().ok();
    let told = requests(&again);
    let asked = bucket.server.take_asked();
    println!("first {first}\nunchanged {told}");
    for one in &asked {
        println!("{} {} {} {}", one.status, one.method, one.path, one.query);
    }
    assert_eq!(
        told["requests"],
        asked.len(),
        "the program counts as the server does"
    );
    assert!(asked.len() <= 10, "{} requests", asked.len());
}
