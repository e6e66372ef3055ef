//! What an archive holds: the place of each member by its path. Archives hold members in any order, and a
//! capture hands them over in ascending order, so the headers are gone through once before. Some 100 bytes
//! are kept for each member.

use std::collections::HashSet;
use std::io;
use std::ops::Range;

use backup_core::{EntryPath, Finding, FindingKind, Severity};

use super::decode::{Member, decode};
use super::headers::Headers;
use super::span::Span;
use crate::stop::{Stop, stopped};

/// Findings that are kept word by word.
const MOST_FINDINGS: usize = 1000;

/// A member and where its first header stands.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) path: EntryPath,
    pub(crate) start: u64,
    /// Of another name of a file: the path of that file.
    link_to: Option<Box<EntryPath>>,
    /// Where the member stands whose content it has.
    pub(crate) content: u64,
}

/// The members of an archive in the order of their paths.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) places: Vec<Place>,
    /// Files that have other names.
    pub(crate) linked: HashSet<u64>,
    pub(crate) findings: Vec<Finding>,
}

impl Index {
    /// Goes through an archive that is not packed.
    pub(crate) fn read(archive: &Span, stop: Stop<'_>) -> io::Result<Self> {
        let mut index = Self::default();
        let mut headers = Headers::new(archive.reader(0), 0);
        while let Some(raw) = headers.next()? {
            if stop() {
                return Err(stopped());
            }
            let start = raw.start;
            match decode(&mut headers, raw)? {
                Ok(member) => index.add(start, &member),
                Err((name, why)) => index.left_out(&name, why),
            }
        }
        index.order();
        Ok(index)
    }

    /// Where the members stand that lie below a folder.
    pub(crate) fn below(&self, folder: &EntryPath) -> Range<usize> {
        let from = self.places.partition_point(|place| place.path < *folder);
        let behind = self.places.get(from..).unwrap_or_default();
        let count = behind.partition_point(|place| place.path.starts_with(folder));
        let itself = behind.first().is_some_and(|place| place.path == *folder);
        from + usize::from(itself)..from + count
    }

    /// The number of the member of a path.
    pub(crate) fn find(&self, path: &EntryPath) -> Option<usize> {
        let found = self.places.binary_search_by(|place| place.path.cmp(path));
        found.ok()
    }

    fn add(&mut self, start: u64, member: &Member) {
        let path = match inside(&member.name) {
            // The folder that everything lies in has no name.
            Ok(path) if path.is_root() => return,
            Ok(path) => path,
            Err(why) => return self.left_out(&member.name, why),
        };
        let link_to = match member.link_to.as_deref().map(inside) {
            None => None,
            Some(Ok(to)) => Some(Box::new(to)),
            Some(Err(why)) => return self.left_out(&member.name, why),
        };
        // Arguments that overlap put a file in twice: the second time as another name of itself.
        if link_to.as_deref() == Some(&path) {
            return;
        }
        self.places.push(Place {
            path,
            start,
            link_to,
            content: start,
        });
    }

    /// Puts members into the order of their paths. Of several of one path the last counts, as it does for
    /// whoever unpacks them.
    fn order(&mut self) {
        self.places
            .sort_by(|a, b| (&a.path, a.start).cmp(&(&b.path, b.start)));
        let lost = self.resolve();
        // Now the last of each path is the first.
        self.places.reverse();
        self.places
            .dedup_by(|earlier, last| earlier.path == last.path);
        self.places.reverse();
        let (places, linked) = (&mut self.places, &mut self.linked);
        let mut left = Vec::new();
        places.retain(|place| {
            let is_lost = lost.contains(&place.start);
            if is_lost {
                left.push(place.path.clone());
            } else if place.link_to.is_some() {
                linked.insert(place.content);
            }
            !is_lost
        });
        for path in left {
            let why = "it is another name of a file that is not in the archive".to_owned();
            self.left_out(&path.to_slashed(), why);
        }
    }

    /// Finds what other names are names of: of what stood at that path when whoever unpacks comes to them, which may
    /// be replaced later on. Gives those that are names of nothing.
    fn resolve(&mut self) -> HashSet<u64> {
        let mut links: Vec<usize> = (0..self.places.len())
            .filter(|&at| self.places.get(at).is_some_and(|it| it.link_to.is_some()))
            .collect();
        // One that leads to another comes behind it, so that has been resolved.
        links.sort_by_key(|&at| self.places.get(at).map(|place| place.start));
        let mut lost = HashSet::new();
        for at in links {
            let target = self.places.get(at).and_then(|place| self.target(place));
            let content = target.filter(|target| !lost.contains(&target.start));
            let content = content.map(|target| target.content);
            let Some(place) = self.places.get_mut(at) else {
                continue;
            };
            match content {
                Some(content) => place.content = content,
                None => {
                    lost.insert(place.start);
                }
            }
        }
        lost
    }

    /// The member that a place is another name of.
    fn target(&self, place: &Place) -> Option<&Place> {
        let to = place.link_to.as_deref()?;
        let key = (to, place.start);
        let behind = self
            .places
            .partition_point(|other| (&other.path, other.start) < key);
        let before = behind.checked_sub(1).and_then(|at| self.places.get(at));
        let is_file = |other: &&Place| other.path == *to;
        if let Some(found) = before.filter(is_file) {
            return Some(found);
        }
        // Nothing could be unpacked there; what is not lost is taken all the same.
        let later = self.places.get(behind).filter(is_file);
        later.filter(|other| other.link_to.is_none())
    }

    fn left_out(&mut self, name: &[u8], why: String) {
        if self.findings.len() < MOST_FINDINGS {
            let subject = String::from_utf8_lossy(name).escape_debug().to_string();
            let (severity, kind) = (Severity::Warning, FindingKind::Skipped);
            self.findings
                .push(Finding::new(severity, kind, subject, why));
        }
    }
}

/// The path of a name: `./` and slashes in front do not count, and none may lead out.
pub(crate) fn inside(name: &[u8]) -> Result<EntryPath, String> {
    let mut path = EntryPath::root();
    for part in name.split(|byte| *byte == b'/') {
        if part.is_empty() || part == b"." {
            continue;
        }
        let pushed = path.push(part);
        pushed.map_err(|error| format!("it would leave its folder, or is no path: {error}"))?;
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_out_of_the_archive() {
        let of = |name: &str| inside(name.as_bytes()).map(|path| path.to_string());
        assert_eq!(of("./a/./b/"), Ok("a/b".into()));
        assert_eq!(of("/etc/passwd"), Ok("etc/passwd".into()));
        assert!(of("../a").is_err());
        assert!(of("a/../../b").is_err());
        assert_eq!(of("./"), Ok(String::new()));
    }

    fn place(start: u64, path: &str, link_to: Option<&str>) -> Place {
        let of = |path: &str| EntryPath::from_slashed(path.as_bytes()).unwrap();
        Place {
            path: of(path),
            start,
            link_to: link_to.map(|to| Box::new(of(to))),
            content: start,
        }
    }

    #[test]
    fn a_further_name_is_one_of_what_stood_there_when_it_was_made() {
        let mut index = Index {
            places: vec![
                place(1, "a", None),
                place(2, "b", Some("a")),
                place(3, "c", Some("b")),
                place(4, "a", None),
                place(5, "d", Some("a")),
                place(6, "b", None),
                place(7, "early", Some("late")),
                place(8, "late", None),
                place(9, "lost", Some("nothing")),
                place(10, "lost-too", Some("lost")),
            ],
            ..Index::default()
        };
        index.order();
        let found: Vec<_> = index
            .places
            .iter()
            .map(|place| (place.path.to_string(), place.content))
            .collect();
        let wanted = [
            ("a", 4),
            ("b", 6),
            ("c", 1),
            ("d", 4),
            ("early", 8),
            ("late", 8),
        ];
        assert_eq!(found, wanted.map(|(path, at)| (path.to_owned(), at)));
        assert_eq!(index.findings.len(), 2, "{:?}", index.findings);
        assert_eq!(index.linked, HashSet::from([1, 4, 8]));
    }

    #[test]
    fn what_lies_below_a_folder_is_a_range() {
        let paths = ["a", "a/b", "a/b/c", "a/b.c", "a/c", "b"];
        let mut index = Index {
            places: (0..)
                .zip(paths)
                .map(|(at, path)| place(at, path, None))
                .collect(),
            ..Index::default()
        };
        index.order();
        let of = |path: &str| {
            let range = index.below(&EntryPath::from_slashed(path.as_bytes()).unwrap());
            let places = &index.places[range];
            places
                .iter()
                .map(|it| it.path.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(of("a/b"), ["a/b/c"]);
        assert_eq!(of("a"), ["a/b", "a/b/c", "a/b.c", "a/c"]);
        assert_eq!(of(""), ["a", "a/b", "a/b/c", "a/b.c", "a/c", "b"]);
        assert_eq!(of("x"), [""; 0]);
    }
}
