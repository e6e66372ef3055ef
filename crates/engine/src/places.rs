//! Where a host keeps what it knows of a repository, below its cache folder and its state folder.
//!
//! Copies of a repository on several tiers have one id and the same keys, but each has a history of its own: which of
//! its snapshots count, what its ledger says, which config is its newest. So the first place at which this host meets a
//! repository has the folder that is named after the repository, and each further one a folder that is named after
//! the place too.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use backup_core::RepoId;

use crate::cache::make_folder;

/// The file that says which place a folder is of.
const PLACE: &str = "place";

/// The folder of the repository at a location, below a folder of this host. Where nothing can be written it is that of
/// the first place.
pub(crate) fn folder_of(dir: &Path, repo: RepoId, location: &str) -> PathBuf {
    let place = digest(location);
    let first = dir.join(repo.to_string());
    if is_of(&first, &place) {
        first
    } else {
        dir.join(format!("{repo}-{place}"))
    }
}

/// A folder of this host is one place, however it is spelled.
fn digest(location: &str) -> String {
    let real = fs::canonicalize(location).map(|path| path.to_string_lossy().into_owned());
    let hash = blake3::hash(real.as_deref().unwrap_or(location).as_bytes());
    hash.to_hex().get(..16).unwrap_or_default().to_owned()
}

/// Whether a folder is of a place; of the first that asks from then on.
fn is_of(folder: &Path, place: &str) -> bool {
    let file = folder.join(PLACE);
    if make_folder(folder).is_err() {
        return true;
    }
    let mut new = fs::OpenOptions::new();
    match new.write(true).create_new(true).mode(0o600).open(&file) {
        Ok(mut file) => {
            let _ = writeln!(file, "{place}");
            true
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let said = fs::read_to_string(&file).unwrap_or_default();
            // One that was cut off is of nobody.
            said.trim() == place || said.trim().is_empty()
        }
        Err(_) => true,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_first_place_keeps_the_plain_folder_and_others_have_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (RepoId([1; 16]), RepoId([2; 16]));
        let first = folder_of(dir.path(), one, "s3://here");
        assert_eq!(first, dir.path().join(one.to_string()));
        let second = folder_of(dir.path(), one, "s3://there");
        assert!(second != first);
        assert_eq!(folder_of(dir.path(), one, "s3://here"), first);
        assert_eq!(folder_of(dir.path(), one, "s3://there"), second);
        let other = folder_of(dir.path(), two, "s3://there");
        assert_eq!(other, dir.path().join(two.to_string()));
    }

    #[test]
    fn a_folder_is_one_place_by_each_of_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, dir.path().join("link")).unwrap();
        let at = |name: &str| {
            let place = dir.path().join(name);
            folder_of(
                &dir.path().join("cache"),
                RepoId([1; 16]),
                place.to_str().unwrap(),
            )
        };
        assert_eq!(at("real"), at("link"));
        assert_eq!(at("real"), at("real/../link"));
        assert!(at("real") != at("other"));
    }
}
