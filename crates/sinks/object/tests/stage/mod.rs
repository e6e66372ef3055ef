//! A server and sinks on it.
#![allow(dead_code, reason = "each test takes a part of it")]

use backup_core::{ErrorKind, ObjectKey, SinkError};
use backup_object_server::{ACCESS_KEY, SECRET_KEY};
use backup_sink_object::{ObjectSink, Surroundings};

/// The surroundings of somebody who has the key.
pub(crate) fn around() -> Surroundings {
    with_keys(ACCESS_KEY, SECRET_KEY)
}

pub(crate) fn with_keys(id: &'static str, secret: &'static str) -> Surroundings {
    Surroundings::of(move |name| match name {
        "AWS_ACCESS_KEY_ID" => Some(id.to_owned()),
        "AWS_SECRET_ACCESS_KEY" => Some(secret.to_owned()),
        _ => None,
    })
}

/// The sink of a location that remembers nothing.
pub(crate) fn open(location: &str) -> ObjectSink {
    ObjectSink::new(&location.parse().unwrap(), around()).unwrap()
}

pub(crate) fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

/// Creates an object.
pub(crate) async fn put(sink: &ObjectSink, name: &str, body: &str) -> Result<(), SinkError> {
    use backup_core::Sink as _;
    let cx = backup_testkit::context();
    let body = body.to_owned().into();
    let mode = backup_core::PutMode::Create;
    sink.put(&cx, &key(name), body, mode).await.map(|_| ())
}

/// An error of a kind that says all of this.
pub(crate) fn told<T: std::fmt::Debug>(
    answer: Result<T, SinkError>,
    kind: ErrorKind,
    words: &[&str],
) {
    let error = answer.unwrap_err();
    let text = error.to_string();
    assert_eq!(error.kind, kind, "{text}");
    for word in words {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
}
