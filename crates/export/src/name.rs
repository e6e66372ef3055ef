//! What exports are called: names that every file system and every shell takes.

use std::collections::BTreeSet;

use backup_core::SnapshotMeta;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Longest part of a name that comes from outside.
const MOST_LETTERS: usize = 100;

/// A name without anything that a file system, a shell or a web server takes for more than a letter.
pub(crate) fn plain(name: &str) -> String {
    let letter = |letter: char| match letter {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '.' => letter,
        _ => '_',
    };
    let mut out: String = name.chars().map(letter).take(MOST_LETTERS).collect();
    // A dot in front hides it, a dash makes it look like an option.
    if out.starts_with(['.', '-']) || out.is_empty() {
        out.insert(0, '_');
    }
    out
}

/// The folder of the export of a snapshot: its name, its time in UTC, the short form of its id.
#[must_use]
pub fn folder_name(meta: &SnapshotMeta) -> String {
    let time = meta.time.strftime("%Y%m%dT%H%M%SZ");
    format!("{}-{time}-{}", plain(&meta.name), meta.id.short())
}

/// The folder of archives that a time belongs to, in UTC: `archives/2026/Q1`.
#[must_use]
pub fn quarter(time: Timestamp) -> String {
    let date = time.to_zoned(TimeZone::UTC).date();
    format!("archives/{}/Q{}", date.year(), (date.month() + 2) / 3)
}

/// Names of the components below `data`, each of its own, also where the file system takes names that differ only in
/// case for one.
pub(crate) fn of_components<'n>(names: impl Iterator<Item = &'n str>) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let distinct = |name: &str| {
        let name = plain(name);
        let mut own = name.clone();
        let mut number = 1;
        while !taken.insert(own.to_ascii_lowercase()) {
            number += 1;
            own = format!("{name}-{number}");
        }
        own
    };
    names.map(distinct).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_outside_stay_in_their_folder() {
        assert_eq!(plain("../../etc"), "_.._.._etc");
        assert_eq!(plain("-rf"), "_-rf");
        assert_eq!(plain(""), "_");
        assert_eq!(plain("a b\n\u{e4}/c"), "a_b___c");
        assert_eq!(
            of_components(["a", "a", "a-2"].into_iter()),
            ["a", "a-2", "a-2-2"]
        );
        assert_eq!(of_components(["a", "A"].into_iter()), ["a", "A-2"]);
    }

    #[test]
    fn quarters_begin_in_january_april_july_and_october() {
        let of = |text: &str| quarter(text.parse().unwrap());
        assert_eq!(of("2026-03-31T23:59:59Z"), "archives/2026/Q1");
        assert_eq!(of("2026-04-01T00:00:00Z"), "archives/2026/Q2");
        assert_eq!(of("2026-12-31T00:00:00Z"), "archives/2026/Q4");
    }
}
