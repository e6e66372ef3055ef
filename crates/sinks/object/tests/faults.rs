//! What the sink does when the server, the network, the key or the clock is not as it should be: it tries again where
//! that can help, and says what to do where it cannot.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use backup_core::context::{Event, Observer};
use backup_core::{
    ByteRange, ErrorKind, KeyRange, ObjectKey, ObjectMeta, PutMode, Retry, Sink, SinkError,
};
use backup_object_server::{ACCESS_KEY, Conditions, Fault, Rule, SECRET_KEY, Server};
use backup_sink_object::{ObjectSink, Surroundings};
use backup_testkit::context;
use bytes::Bytes;
use futures::TryStreamExt as _;
use jiff::SignedDuration;

mod stage;

use stage::{key, open, put, told};

/// A sink whose server keeps conditions, as it has found out.
async fn ready(server: &Server) -> ObjectSink {
    let sink = open(&server.location("p"));
    put(&sink, "there", "0123456789").await.unwrap();
    let _ = server.take_asked();
    sink
}

async fn get(sink: &ObjectSink, name: &str) -> Result<Bytes, SinkError> {
    sink.get(&context(), &key(name), ByteRange::Full).await
}

async fn names(sink: &ObjectSink, prefix: &str) -> Result<Vec<String>, SinkError> {
    let listed = sink.list(&context(), prefix, None);
    listed
        .map_ok(|meta| meta.key.as_str().to_owned())
        .try_collect()
        .await
}

#[tokio::test]
async fn a_storm_of_refusals_is_sat_out() {
    let server = Server::start();
    let sink = ready(&server).await;
    server.fail(Rule::of(Fault::busy()).times(12));
    let puts = (0..6).map(|number| {
        let sink = sink.clone();
        async move { put(&sink, &format!("storm/{number}"), "x").await }
    });
    for answer in futures::future::join_all(puts).await {
        answer.unwrap();
    }
    assert_eq!(names(&sink, "storm/").await.unwrap().len(), 6);
    let traffic = sink.traffic().unwrap();
    assert_eq!((traffic.failed, traffic.puts), (12, 2 + 1 + 6 + 12));
}

#[tokio::test]
async fn every_kind_of_call_is_tried_again() {
    let server = Server::start();
    let sink = ready(&server).await;
    let busy = || Fault::busy();
    let inner = || Fault::answer(500, "InternalError", "We encountered an internal error.");
    for fault in [busy(), inner(), Fault::Cut, Fault::LoseAnswer] {
        for call in 0..5 {
            server.heal();
            server.fail(Rule::of(fault.clone()).times(1));
            let cx = context();
            match call {
                0 => assert_eq!(&get(&sink, "there").await.unwrap()[..], b"0123456789"),
                1 => assert_eq!(sink.head(&cx, &key("there")).await.unwrap().size, 10),
                2 => assert_eq!(names(&sink, "").await.unwrap(), ["there"]),
                3 => {
                    let body = Bytes::from_static(b"0123456789");
                    let name = key("there");
                    let put = sink.put(&cx, &name, body, PutMode::Replace);
                    assert_eq!(put.await.unwrap().size, 10);
                }
                _ => sink.delete(&cx, &key("not-there")).await.unwrap(),
            }
        }
    }
}

#[tokio::test]
async fn a_create_whose_answer_is_lost_is_a_conflict_and_the_object_is_whole() {
    let server = Server::start();
    let sink = ready(&server).await;
    server.fail(Rule::of(Fault::LoseAnswer).on("PUT").times(1));
    told(
        put(&sink, "new", "mine").await,
        ErrorKind::Conflict,
        &["already"],
    );
    assert_eq!(&get(&sink, "new").await.unwrap()[..], b"mine");
}

#[tokio::test]
async fn a_read_that_breaks_off_goes_on_where_it_was() {
    let server = Server::start();
    let sink = ready(&server).await;
    let body: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
    server.store("p/large", body.clone());
    server.fail(Rule::of(Fault::CutBody(70_000)).on("GET").times(2));
    assert!(get(&sink, "large").await.unwrap() == body);
    let asked = server.take_asked();
    assert_eq!(asked.len(), 3);
    assert_eq!(
        asked[2].header("range").map(|range| &range[..6]),
        Some("bytes=")
    );
}

#[tokio::test]
async fn what_stays_broken_is_told_once_and_not_tried_again_above() {
    let server = Server::start();
    let sink = ready(&server).await.trying_again(2);
    server.fail(Rule::of(Fault::busy()));
    let error = get(&sink, "there").await.unwrap_err();
    assert_eq!(error.retry, Retry::Never);
    told(
        Err::<(), _>(error),
        ErrorKind::Unavailable,
        &["too busy (SlowDown)", "connections="],
    );
    assert_eq!(server.take_asked().len(), 3);
    server.heal();
    server.fail(Rule::of(Fault::Cut));
    told(
        get(&sink, "there").await,
        ErrorKind::Unavailable,
        &["broke off", "network"],
    );
}

#[tokio::test]
async fn a_server_that_is_silent_is_given_up_in_time() {
    let server = Server::start();
    let location = format!("{}&timeout=1", server.location("p"));
    let sink = open(&location).trying_again(0);
    put(&sink, "there", "x").await.unwrap();
    server.fail(Rule::of(Fault::Wait(Duration::from_secs(20))));
    let begin = Instant::now();
    let answer = get(&sink, "there").await;
    assert!(begin.elapsed() < Duration::from_secs(5));
    told(
        answer,
        ErrorKind::Unavailable,
        &["no answer within 1 seconds"],
    );
}

#[tokio::test]
async fn a_cancelled_call_ends_while_the_server_is_slow() {
    let server = Server::start();
    let sink = ready(&server).await;
    server.fail(Rule::of(Fault::Wait(Duration::from_secs(20))));
    let cx = context();
    let cancel = cx.cancel.clone();
    let begin = Instant::now();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        cancel.cancel();
    });
    let name = key("there");
    let answer = sink.get(&cx, &name, ByteRange::Full).await;
    assert_eq!(answer.unwrap_err().kind, ErrorKind::Cancelled);
    let cx = context();
    let cancel = cx.cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        cancel.cancel();
    });
    let listed: Result<Vec<_>, _> = sink.list(&cx, "", None).try_collect().await;
    assert_eq!(listed.unwrap_err().kind, ErrorKind::Cancelled);
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn an_unknown_address_is_told_soon() {
    // Nobody listens on a port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let sink = open(&format!("s3://bucket/p?endpoint=http://{address}"));
    let begin = Instant::now();
    told(
        get(&sink, "there").await,
        ErrorKind::Unavailable,
        &[
            &format!("http://{address} cannot be reached"),
            "refused",
            "check the address",
        ],
    );
    assert!(begin.elapsed() < Duration::from_secs(10));
}

/// The sink of somebody with these keys.
fn with(server: &Server, id: &'static str, secret: &'static str) -> ObjectSink {
    let location = server.location("p").parse().unwrap();
    ObjectSink::new(&location, stage::with_keys(id, secret)).unwrap()
}

#[tokio::test]
async fn wrong_keys_are_told_apart_and_never_shown() {
    let server = Server::start();
    let denied = ErrorKind::Denied;
    let wrong = with(&server, ACCESS_KEY, "some-wrong-secret");
    let words = [
        "the secret is not that of the access key",
        "AWS_SECRET_ACCESS_KEY",
    ];
    told(get(&wrong, "x").await, denied, &words);
    told(names(&wrong, "").await, denied, &words);
    let head = wrong.head(&context(), &key("x")).await;
    told(
        head,
        denied,
        &[
            "either the secret is wrong, or the key lacks rights",
            "`bucket`",
        ],
    );
    let unknown = with(&server, "AKIANOBODY", SECRET_KEY);
    told(
        get(&unknown, "x").await,
        denied,
        &["does not know the access key"],
    );
    let error = get(&wrong, "x").await.unwrap_err();
    let shown = format!(
        "{error:?} {error} {wrong:?} {:?} {:?}",
        wrong.info(),
        stage::around()
    );
    assert!(
        !shown.contains("some-wrong-secret") && !shown.contains(SECRET_KEY),
        "{shown}"
    );
    let location = server.location("p").parse().unwrap();
    let none = ObjectSink::new(&location, Surroundings::none()).unwrap();
    told(
        get(&none, "x").await,
        denied,
        &["there are no credentials", "credentials=FILE"],
    );
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_no_missing_object() {
    let server = Server::start();
    let sink = open(&format!("s3://nowhere/p?endpoint={}", server.endpoint()));
    let words = [
        "there is no bucket `nowhere`",
        "aws --endpoint-url",
        "s3 mb s3://nowhere",
    ];
    told(get(&sink, "x").await, ErrorKind::Invalid, &words);
    told(names(&sink, "").await, ErrorKind::Invalid, &words);
    told(put(&sink, "x", "y").await, ErrorKind::Invalid, &words);
    let deleted = sink.delete(&context(), &key("x")).await;
    told(deleted, ErrorKind::Invalid, &words);
}

#[tokio::test]
async fn each_refusal_has_its_remedy() {
    let server = Server::start();
    let sink = ready(&server).await;
    let region = Fault::Answer {
        status: 301,
        code: "PermanentRedirect",
        message: "The bucket you are attempting to access must be addressed using the specified endpoint.",
        headers: vec![("x-amz-bucket-region", "eu-west-3".to_owned())],
    };
    let locked = "Access Denied because object protected by object lock.";
    let cases: [(Fault, ErrorKind, &[&str]); 9] = [
        (
            Fault::answer(403, "RequestTimeTooSkewed", "The difference is too large."),
            ErrorKind::Denied,
            &["look at the clock", "timedatectl"],
        ),
        (
            Fault::answer(403, "AccessDenied", "Access Denied"),
            ErrorKind::Denied,
            &[
                "access denied (AccessDenied)",
                "`bucket`",
                "AWS_ACCESS_KEY_ID",
            ],
        ),
        (
            Fault::answer(403, "QuotaExceeded", "The quota is exceeded"),
            ErrorKind::NoSpace,
            &["quota", "snapshot prune"],
        ),
        (
            Fault::answer(507, "XMinioStorageFull", "no room"),
            ErrorKind::NoSpace,
            &["no room"],
        ),
        (region, ErrorKind::Invalid, &["`region=eu-west-3`"]),
        (
            Fault::answer(400, "AuthorizationHeaderMalformed", "<Region>eu-1</Region>"),
            ErrorKind::Invalid,
            &["another region"],
        ),
        (
            Fault::answer(403, "AccessDenied", locked),
            ErrorKind::Denied,
            &["locked against deletion", "a prune behind that time"],
        ),
        (
            Fault::answer(400, "ExpiredToken", "The token has expired"),
            ErrorKind::Denied,
            &["has expired", "get a new one"],
        ),
        (
            Fault::answer(418, "Teapot", "I am \u{1b}[31ma teapot"),
            ErrorKind::Invalid,
            &["418 Teapot", "tiers-s3.md"],
        ),
    ];
    for (fault, kind, words) in cases {
        server.heal();
        server.fail(Rule::of(fault));
        let body = Bytes::from_static(b"x");
        let answer = sink
            .put(&context(), &key("a"), body, PutMode::Replace)
            .await;
        assert!(!format!("{answer:?}").contains('\u{1b}'));
        told(answer, kind, words);
        let deleted = sink.delete(&context(), &key("a")).await;
        told(deleted, kind, words);
    }
    let _ = server.take_asked();
}

#[tokio::test]
async fn whether_a_server_overwrites_is_found_out_once_and_remembered() {
    let memory = tempfile::tempdir().unwrap();
    for (conditions, tried) in [
        (Conditions::Kept, 2),
        (Conditions::Ignored, 2),
        (Conditions::Refused, 1),
    ] {
        let server = Server::start();
        server.keep_conditions(conditions);
        let location = server.location("p").parse().unwrap();
        let make = || {
            let around = stage::around().remembering(Some(memory.path().to_owned()));
            ObjectSink::new(&location, around).unwrap()
        };
        let is_kept = conditions == Conditions::Kept;
        let sink = make();
        assert!(!sink.info().caps.atomic_create, "nothing is claimed before");
        put(&sink, "a", "first").await.unwrap();
        let looks = usize::from(!is_kept);
        assert_eq!(
            server.take_asked().len(),
            tried + looks + 1,
            "{conditions:?}"
        );
        assert_eq!(sink.info().caps.atomic_create, is_kept);
        told(
            put(&sink, "a", "second").await,
            ErrorKind::Conflict,
            &["already"],
        );
        // Another run asks nothing more of the server.
        let again = make();
        assert_eq!(again.info().caps.atomic_create, is_kept);
        let _ = server.take_asked();
        put(&again, "b", "x").await.unwrap();
        assert_eq!(server.take_asked().len(), looks + 1);
        assert_eq!(names(&again, "").await.unwrap(), ["a", "b"]);
        assert_eq!(&get(&again, "a").await.unwrap()[..], b"first");
    }
}

#[tokio::test]
async fn strangers_in_the_bucket_are_passed_over() {
    let server = Server::start();
    let sink = ready(&server).await;
    let strangers = [
        "p/a//b",
        "p/../up",
        "p/folder/",
        "p/a b",
        "p/x<&>y",
        "p/.hidden",
        "px/data",
        "other",
        "p",
    ];
    for stranger in strangers {
        server.store(stranger, "x");
    }
    server.store("p/z/last", "x");
    assert_eq!(names(&sink, "").await.unwrap(), ["there", "z/last"]);
    let root = open(&server.location(""));
    assert_eq!(
        names(&root, "").await.unwrap(),
        ["other", "p", "p/there", "p/z/last", "px/data"]
    );
}

#[tokio::test]
async fn a_long_listing_comes_whole_and_from_where_it_is_asked_for() {
    let server = Server::start();
    let sink = ready(&server).await;
    let all: Vec<String> = (0..2345).map(|number| format!("n/{number:05}")).collect();
    for name in &all {
        server.store(&format!("p/{name}"), "x");
    }
    assert_eq!(names(&sink, "n/").await.unwrap(), all);
    assert_eq!(server.take_asked().len(), 3);
    let after = ObjectKey::new("n/01999").unwrap();
    let found: Vec<_> = sink
        .list(&context(), "n/", Some(&after))
        .try_collect()
        .await
        .unwrap();
    assert_eq!(found.len(), 345);
    assert_eq!(server.take_asked().len(), 1);
}

#[tokio::test]
async fn storage_class_and_lock_stand_in_the_puts_that_they_are_for() {
    let server = Server::start();
    let options = "&storage_class=STANDARD_IA&object_lock=30d";
    let sink = open(&format!("{}{options}", server.location("p")));
    put(&sink, "data/ab/c", "x").await.unwrap();
    put(&sink, "snap/1", "x").await.unwrap();
    let _ = get(&sink, "snap/1").await.unwrap();
    let asked = server.take_asked();
    let of = |path: &str, method: &str| {
        let found = asked
            .iter()
            .find(|one| one.path.ends_with(path) && one.method == method);
        found.unwrap().clone()
    };
    let data = of("/p/data/ab/c", "PUT");
    assert_eq!(data.header("x-amz-storage-class"), Some("STANDARD_IA"));
    assert_eq!(data.header("x-amz-object-lock-mode"), Some("GOVERNANCE"));
    let until = data.header("x-amz-object-lock-retain-until-date").unwrap();
    let until: jiff::Timestamp = until.parse().unwrap();
    let days = until.duration_since(context().clock.now()).as_hours();
    assert!((30 * 24..=30 * 24 + 1).contains(&days), "{days} hours");
    assert!(data.header("x-amz-checksum-sha256").is_some());
    assert_eq!(data.header("x-amz-sdk-checksum-algorithm"), Some("SHA256"));
    let snap = of("/p/snap/1", "PUT");
    assert_eq!(snap.header("x-amz-storage-class"), None);
    assert!(snap.header("x-amz-object-lock-mode").is_some());
    assert_eq!(
        of("/p/snap/1", "GET").header("x-amz-object-lock-mode"),
        None
    );
    let signed = data.header("authorization").unwrap();
    assert!(signed.contains("x-amz-object-lock-mode"), "{signed}");
}

#[tokio::test]
async fn a_server_that_knows_no_end_of_an_object_is_asked_for_its_size() {
    let server = Server::start();
    let sink = ready(&server).await;
    server.fail(Rule::of(Fault::answer(200, "", "")).on("GET").times(1));
    let (cx, there) = (context(), key("there"));
    let end = sink.get(&cx, &there, ByteRange::Suffix(3)).await;
    assert_eq!(end.unwrap(), "789");
    let asked = server.take_asked();
    let asked: Vec<_> = asked.iter().map(|one| one.method.as_str()).collect();
    assert_eq!(asked, ["GET", "HEAD", "GET"]);
}

#[tokio::test]
async fn a_lock_is_made_longer_and_one_that_lasts_stays() {
    let server = Server::start();
    let sink = open(&format!("{}&object_lock=30d", server.location("p")));
    let cx = context();
    put(&sink, "snap/1", "x").await.unwrap();
    let until = || server.locked_until("p/snap/1").unwrap();
    let (day, put_until, now) = (24 * 3600, until(), cx.clock.now());
    let later = now + 10 * SignedDuration::from_hours(24);
    sink.extend_lock(&cx, &key("snap/1"), later).await.unwrap();
    let longer = until();
    assert!((10 * day..=10 * day + 3600).contains(&(longer - put_until)));
    // Of an hour ago, as of a host whose client is new: that which lasts longer stays, and it is asked which does.
    let _ = server.take_asked();
    sink.extend_lock(&cx, &key("snap/1"), now).await.unwrap();
    assert_eq!(until(), longer);
    let asked = server.take_asked();
    let asked: Vec<_> = asked
        .iter()
        .map(|one| (one.method.as_str(), one.query.as_str(), one.status))
        .collect();
    assert_eq!(
        asked,
        [("PUT", "retention", 403), ("GET", "retention", 200)]
    );
    // What nobody locked is locked from now on; what is gone is no matter of locks.
    server.store("p/snap/2", "x");
    sink.extend_lock(&cx, &key("snap/2"), now).await.unwrap();
    let days = (server.locked_until("p/snap/2").unwrap() - now.as_second()) / day;
    assert_eq!(days, 30);
    let gone = sink.extend_lock(&cx, &key("snap/3"), now).await;
    told(gone, ErrorKind::NotFound, &["snap/3"]);
    let unlocked = open(&server.location("p"));
    assert_eq!(unlocked.info().caps.lock, None);
    assert_eq!(sink.info().caps.lock, Some(Duration::from_hours(30 * 24)));
    let _ = server.take_asked();
    unlocked
        .extend_lock(&cx, &key("snap/1"), later)
        .await
        .unwrap();
    assert_eq!(server.take_asked(), []);
}

#[tokio::test]
async fn where_locks_may_not_be_set_it_is_said_which_rights_are_missing() {
    let server = Server::start();
    let sink = open(&format!("{}&object_lock=30d", server.location("p")));
    put(&sink, "snap/1", "x").await.unwrap();
    let denied = Fault::answer(403, "AccessDenied", "Access Denied");
    server.fail(Rule::of(denied).on("PUT").at("retention"));
    let later = context().clock.now() + SignedDuration::from_hours(24);
    let answer = sink.extend_lock(&context(), &key("snap/1"), later).await;
    let words = ["s3:PutObjectRetention", "snap/1", "docs/tiers-s3.md"];
    told(answer, ErrorKind::Denied, &words);
}

#[derive(Debug, Default)]
struct Notes(std::sync::Mutex<Vec<String>>);

impl Observer for Notes {
    fn on(&self, event: Event<'_>) {
        if let Event::Note(text) = event {
            self.0.lock().unwrap().push(text.to_owned());
        }
    }
}

#[tokio::test]
async fn a_bucket_that_keeps_versions_is_told_once() {
    let server = Server::start();
    let sink = ready(&server).await;
    let notes = Arc::new(Notes::default());
    let mut cx = context();
    cx.observer = notes.clone();
    sink.delete(&cx, &key("a")).await.unwrap();
    assert!(notes.0.lock().unwrap().is_empty());
    server.fail(Rule::of(Fault::Add("x-amz-delete-marker", "true")).on("DELETE"));
    for name in ["b", "c"] {
        sink.delete(&cx, &key(name)).await.unwrap();
    }
    let notes = notes.0.lock().unwrap();
    assert_eq!(notes.len(), 1);
    assert!(notes[0].contains("lifecycle rule"), "{notes:?}");
}

#[tokio::test]
async fn each_call_is_one_request() {
    let server = Server::start();
    let sink = ready(&server).await;
    let cx = context();
    put(&sink, "one", "x").await.unwrap();
    let _ = get(&sink, "one").await.unwrap();
    let part = ByteRange::Span {
        offset: 2,
        length: 3,
    };
    let found = sink.get(&cx, &key("there"), part).await.unwrap();
    assert_eq!(&found[..], b"234");
    let end = sink.get(&cx, &key("there"), ByteRange::Suffix(4)).await;
    assert_eq!(&end.unwrap()[..], b"6789");
    let _ = sink.head(&cx, &key("one")).await.unwrap();
    let _ = names(&sink, "").await.unwrap();
    sink.delete(&cx, &key("one")).await.unwrap();
    let methods: Vec<_> = server
        .take_asked()
        .into_iter()
        .map(|asked| asked.method)
        .collect();
    assert_eq!(
        methods,
        ["PUT", "GET", "GET", "GET", "HEAD", "GET", "DELETE"]
    );
}

/// What an unchanged save looks at: folders that lie apart, and the versions by which it knows objects again.
#[tokio::test]
async fn folders_that_lie_apart_are_listed_with_one_request() {
    let server = Server::start();
    let sink = ready(&server).await;
    let cx = context();
    let mut versions = Vec::new();
    for name in ["config/0", "data/ab/1", "gc/0", "index/1", "keys/1"] {
        let body = Bytes::from(name);
        let put = sink.put(&cx, &key(name), body, PutMode::Create).await;
        versions.push((name.to_owned(), put.unwrap().version.unwrap()));
    }
    let _ = server.take_asked();
    let ranges = ["keys/", "config/", "index/"].map(KeyRange::below);
    let listing = sink.list_together(&cx, &ranges).unwrap();
    let listed: Vec<ObjectMeta> = listing.try_collect().await.unwrap();
    assert_eq!(server.take_asked().len(), 1);
    let mut listed: Vec<_> = listed
        .into_iter()
        .map(|meta| (meta.key.to_string(), meta.version.unwrap()))
        .collect();
    listed.sort_by(|(one, _), (other, _)| one.cmp(other));
    versions.retain(|(name, _)| !name.starts_with("data/") && !name.starts_with("gc/"));
    assert_eq!(listed, versions);
    for (name, version) in versions {
        let head = sink.head(&cx, &key(&name)).await.unwrap();
        assert_eq!(head.version, Some(version));
    }
    let denied = Fault::answer(403, "AccessDenied", "Access Denied");
    server.fail(Rule::of(denied).on("GET"));
    let listing = sink.list_together(&cx, &ranges).unwrap();
    let listed: Result<Vec<ObjectMeta>, _> = listing.try_collect().await;
    told(listed, ErrorKind::Denied, &["config/", "AccessDenied"]);
}
