//! What to save: roots and what to leave out.

use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// What a [`crate::FilesSource`] saves. Every field but `roots` may be left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FilesConfig {
    /// Files and folders to save. Each is stored under its absolute path, so that several can
    /// stand in one snapshot; one that is given twice or lies in another is saved once, and never
    /// left out by an exclude or a file system border of the other. One that is a symbolic link
    /// is saved as a link, unless a slash at its end says that the folder behind it is meant (as
    /// GNU tar and restic do). Links above a root are followed.
    pub roots: Vec<PathBuf>,
    /// The folder that relative roots count from: absolute. Not needed when all are absolute.
    pub base: PathBuf,
    /// Lines in the syntax of gitignore, as if they stood in a `.gitignore` at the top of each
    /// root: without a slash (but at the end) they match at any depth, with one they count from
    /// the root. A line that begins with a slash and leads into one of the roots is read as an
    /// absolute path instead. A later line wins, `!` takes back.
    pub excludes: Vec<String>,
    /// Files of such lines; relative ones count from `base`.
    pub exclude_files: Vec<PathBuf>,
    /// Names of files, such as `.gitignore`, whose lines count for the folder that they stand in
    /// and all below. Lines of `excludes` go before them, deeper files before higher ones.
    pub ignore_files: Vec<String>,
    /// Leaves out the content of folders that hold a `CACHEDIR.TAG` with the signature of the
    /// [Cache Directory Tagging Specification](https://bford.info/cachedir/), but for the tag.
    pub exclude_caches: bool,
    /// Leaves out the content of folders that hold something of one of these names, but for that.
    pub exclude_if_present: Vec<String>,
    /// Folders that are left out with all that is in them, such as the one that the snapshot is
    /// written to. Each is known by its device and inode, which are looked up when the capture
    /// begins, so it is found by whatever path the walk comes to it; one that is not there then
    /// leaves nothing out. A root is not left out.
    pub left_out: Vec<PathBuf>,
    /// Does not go down into other file systems; the folder that one is mounted on is saved empty.
    pub one_file_system: bool,
    /// Leaves out regular files of more bytes than this.
    pub exclude_larger_than: Option<u64>,
    /// Leaves out regular files of fewer bytes than this.
    pub exclude_smaller_than: Option<u64>,
    /// Leaves out regular files last modified longer ago than this.
    pub exclude_older_than: Option<SignedDuration>,
    /// Leaves out regular files last modified more recently than this.
    pub exclude_newer_than: Option<SignedDuration>,
    /// Saves extended attributes, and with them POSIX ACLs and file capabilities.
    pub xattrs: bool,
    /// Saves names of users and groups beside their numbers.
    pub owner_names: bool,
    /// Threads that read folders ahead; 0 chooses. One walks alone.
    pub threads: usize,
}

impl Default for FilesConfig {
    fn default() -> Self {
        Self {
            roots: Vec::new(),
            base: PathBuf::new(),
            excludes: Vec::new(),
            exclude_files: Vec::new(),
            ignore_files: Vec::new(),
            exclude_caches: false,
            exclude_if_present: Vec::new(),
            left_out: Vec::new(),
            one_file_system: false,
            exclude_larger_than: None,
            exclude_smaller_than: None,
            exclude_older_than: None,
            exclude_newer_than: None,
            xattrs: true,
            owner_names: true,
            threads: 0,
        }
    }
}

impl FilesConfig {
    /// Saves these roots and leaves nothing out.
    #[must_use]
    pub fn of_roots(roots: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        Self {
            roots: roots.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }
}

/// The limits of a configuration on size and age, at one time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileLimits {
    larger: Option<u64>,
    smaller: Option<u64>,
    older: Option<(i64, i64)>,
    newer: Option<(i64, i64)>,
}

impl FileLimits {
    pub(crate) fn at(config: &FilesConfig, now: Timestamp) -> Self {
        let before = |age: SignedDuration| {
            let then = now.saturating_sub(age).unwrap_or(Timestamp::MIN);
            let nanos = then.as_nanosecond();
            let second = i64::try_from(nanos.div_euclid(1_000_000_000)).unwrap_or(i64::MIN);
            (
                second,
                i64::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0),
            )
        };
        Self {
            larger: config.exclude_larger_than,
            smaller: config.exclude_smaller_than,
            older: config.exclude_older_than.map(before),
            newer: config.exclude_newer_than.map(before),
        }
    }

    /// Whether any limit is set.
    pub(crate) const fn any(&self) -> bool {
        self.larger.is_some()
            || self.smaller.is_some()
            || self.older.is_some()
            || self.newer.is_some()
    }

    /// Whether a regular file of this size and time of last change is left out.
    pub(crate) fn leave_out(&self, size: u64, mtime: (i64, i64)) -> bool {
        self.larger.is_some_and(|limit| size > limit)
            || self.smaller.is_some_and(|limit| size < limit)
            || self.older.is_some_and(|limit| mtime < limit)
            || self.newer.is_some_and(|limit| mtime > limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_field_is_an_error_and_left_out_fields_have_defaults() {
        let config: FilesConfig =
            serde_json::from_str(r#"{"roots":["/etc"],"exclude_older_than":"PT1H"}"#).unwrap();
        assert_eq!(config.roots, [PathBuf::from("/etc")]);
        assert_eq!(
            config.exclude_older_than,
            Some(SignedDuration::from_hours(1))
        );
        assert!(config.xattrs && !config.one_file_system);
        assert!(serde_json::from_str::<FilesConfig>(r#"{"root":["/etc"]}"#).is_err());
    }

    #[test]
    fn limits_leave_out_by_size_and_age() {
        let config = FilesConfig {
            exclude_larger_than: Some(100),
            exclude_smaller_than: Some(10),
            exclude_older_than: Some(SignedDuration::from_secs(60)),
            exclude_newer_than: Some(SignedDuration::from_secs(5)),
            ..FilesConfig::default()
        };
        let limits = FileLimits::at(&config, Timestamp::from_second(1000).unwrap());
        for (size, second, out) in [
            (50, 970, false),
            (100, 970, false),
            (101, 970, true),
            (10, 970, false),
            (9, 970, true),
            (50, 940, false),
            (50, 939, true),
            (50, 995, false),
            (50, 996, true),
        ] {
            assert_eq!(limits.leave_out(size, (second, 0)), out, "{size} {second}");
        }
    }
}
