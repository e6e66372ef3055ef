//! Whether a server keeps the promise of a create. It is tried, not believed: some servers overwrite in silence,
//! some refuse to be asked. What came of it is remembered in a file of this host, so that it is tried once a month
//! and not in each run. Nothing that must be safe rests on it (see `SinkCaps::atomic_create`).

use std::fs;
use std::path::PathBuf;

use jiff::Timestamp;

/// The object that it is tried with: its name is none of a key, so that no listing shows it.
pub(crate) const TRIAL: &str = ".backstay-create";

/// What stands in that object.
pub(crate) const TRIAL_TEXT: &str = "Backstay puts this object twice to find out whether this server refuses to overwrite. It may be deleted.\n";

/// After so many seconds a server may have learnt something.
const LASTS: i64 = 30 * 24 * 3600;

/// What a server does with a put that must not overwrite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Creates {
    /// It refuses if there is an object.
    Exclusive,
    /// It overwrites, or refuses to be asked: it is looked first whether there is an object.
    Overwriting,
}

impl Creates {
    const fn word(self) -> &'static str {
        match self {
            Self::Exclusive => "exclusive",
            Self::Overwriting => "overwriting",
        }
    }
}

/// The file in which it is remembered.
#[derive(Debug, Clone)]
pub(crate) struct Memory(Option<PathBuf>);

impl Memory {
    /// That of a place, in a folder.
    pub(crate) fn of(folder: Option<&PathBuf>, place: &str) -> Self {
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() || "-.".contains(c) {
                c
            } else {
                '_'
            }
        };
        let name: String = place.chars().map(plain).take(200).collect();
        Self(folder.map(|folder| folder.join("tiers").join(format!("{name}.create"))))
    }

    /// What was found out, and when, in seconds since 1970. The place stands in the file too: two places may have one name for it.
    fn read(&self, place: &str) -> Option<(Creates, i64)> {
        let text = fs::read_to_string(self.0.as_ref()?).ok()?;
        let mut lines = text.lines();
        if lines.next() != Some(place) {
            return None;
        }
        let (word, time) = lines.next()?.split_once(' ')?;
        let known = [Creates::Exclusive, Creates::Overwriting];
        let creates = known.into_iter().find(|known| known.word() == word)?;
        Some((creates, time.parse().ok()?))
    }

    /// What was found out.
    pub(crate) fn recall(&self, place: &str) -> Option<Creates> {
        Some(self.read(place)?.0)
    }

    /// What was found out and is not too long ago.
    pub(crate) fn recall_fresh(&self, place: &str, now: Timestamp) -> Option<Creates> {
        let (creates, time) = self.read(place)?;
        let age = now.as_second().saturating_sub(time);
        (0..LASTS).contains(&age).then_some(creates)
    }

    /// Keeps what was found out. Where that fails it is tried anew next time.
    pub(crate) fn keep(&self, place: &str, creates: Creates, now: Timestamp) {
        let Some(path) = &self.0 else {
            return;
        };
        let text = format!("{place}\n{} {}\n", creates.word(), now.as_second());
        let _ = path.parent().map(fs::create_dir_all);
        let beside = path.with_extension(format!("tmp{}", std::process::id()));
        if fs::write(&beside, text).is_ok() {
            let _ = fs::rename(&beside, path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_out_lasts_for_a_month_and_for_its_place_alone() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().to_owned();
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let later = |seconds| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        let memory = Memory::of(Some(&folder), "s3://a/b");
        assert_eq!(memory.recall_fresh("s3://a/b", now), None);
        memory.keep("s3://a/b", Creates::Exclusive, now);
        let fresh = |after| memory.recall_fresh("s3://a/b", later(after));
        assert_eq!(fresh(LASTS - 1), Some(Creates::Exclusive));
        assert_eq!((fresh(LASTS), fresh(-1)), (None, None));
        assert_eq!(memory.recall("s3://a/b"), Some(Creates::Exclusive));
        // Both have one file name.
        let other = Memory::of(Some(&folder), "s3://a_b");
        assert_eq!(other.recall("s3://a_b"), None);
        assert_eq!(Memory::of(None, "x").recall("x"), None);
    }
}
