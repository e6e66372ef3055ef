//! A repository that is made with its key file, and what a run that was killed on the way leaves.
#![cfg(feature = "sink-local")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backstay::engine::{EngineError, Repository};
use backstay::sink_local::LocalSink;
use backstay::{KeyedError, context, open_or_make};

struct Place {
    temp: tempfile::TempDir,
    key: PathBuf,
}

impl Place {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let key = temp.path().join("key");
        Self { temp, key }
    }

    fn unfinished(&self) -> PathBuf {
        self.temp.path().join("key.unfinished")
    }

    async fn open(&self) -> Result<Repository, KeyedError> {
        let sink = LocalSink::new(self.temp.path().join("repo")).making_root(true);
        open_or_make(&context(), Arc::new(sink), &self.key).await
    }
}

fn exists(path: &Path) -> bool {
    path.exists()
}

#[tokio::test]
async fn it_is_made_once_and_opened_after_that() {
    let place = Place::new();
    let made = place.open().await.unwrap().id();
    let mode = fs::metadata(&place.key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!exists(&place.unfinished()));
    assert_eq!(place.open().await.unwrap().id(), made);
}

#[tokio::test]
async fn a_run_that_was_killed_on_the_way_is_taken_up() {
    let place = Place::new();
    // Before the repository was made; the key was written in part, or wholly.
    let other = Place::new();
    let _ = other.open().await.unwrap();
    let whole = fs::read(&other.key).unwrap();
    for left in [&whole[..0], &whole[..whole.len() / 2], &whole[..]] {
        let _ = fs::remove_dir_all(place.temp.path().join("repo"));
        let _ = fs::remove_file(&place.key);
        fs::write(place.unfinished(), left).unwrap();
        let _ = place.open().await.unwrap();
        assert!(exists(&place.key) && !exists(&place.unfinished()));
    }
    // Behind that.
    let made = place.open().await.unwrap().id();
    fs::rename(&place.key, place.unfinished()).unwrap();
    assert_eq!(place.open().await.unwrap().id(), made);
    assert!(exists(&place.key) && !exists(&place.unfinished()));
}

#[tokio::test]
async fn one_whose_key_file_is_gone_stays_as_it_is() {
    let place = Place::new();
    let made = place.open().await.unwrap().id();
    let away = place.temp.path().join("away");
    fs::rename(&place.key, &away).unwrap();
    let refused = place.open().await.unwrap_err();
    let is_refused = matches!(
        refused,
        KeyedError::Engine(EngineError::RepositoryExists(_))
    );
    assert!(is_refused, "{refused}");
    assert!(!exists(&place.key) && !exists(&place.unfinished()));
    fs::rename(&away, &place.key).unwrap();
    assert_eq!(place.open().await.unwrap().id(), made);
    // A key file without its repository makes none.
    fs::rename(
        place.temp.path().join("repo"),
        place.temp.path().join("moved"),
    )
    .unwrap();
    let refused = place.open().await.unwrap_err();
    assert!(
        matches!(refused, KeyedError::Engine(EngineError::NoRepository(_))),
        "{refused}"
    );
}
