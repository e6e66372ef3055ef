//! What else lies in a folder that is to become a repository.
//!
//! A folder of other files may be the wrong one, and is a bad place in any case: whoever copies or clears
//! one of the two takes the other with it. But it is no reason to refuse: nothing of what is there is
//! touched, and shares and disks are seldom empty. What systems, NAS and file managers put into their
//! roots is not told of, nor what is hidden.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::access::NewKeys;
use crate::console::Console;
use crate::surroundings::absolute;
use crate::text;
use crate::unfinished::unfinished;

/// Entries that are looked at in a folder: one may have millions.
const MOST_LOOKED_AT: usize = 10_000;
/// Names that are told.
const MOST_NAMED: usize = 3;
/// What systems put into the root of a disk without being asked.
const OF_SYSTEMS: [&str; 6] = [
    "lost+found",
    "System Volume Information",
    "RECYCLER",
    "desktop.ini",
    "Thumbs.db",
    "aquota.user",
];
/// Folders of snapshots, indexes and waste bins that a NAS or a file manager keeps begin so, and hidden ones:
/// `.snapshot`, `@eaDir`, `#recycle`, `~snapshot`, `$RECYCLE.BIN`.
const BEGINNINGS: &[u8] = b".@#~$";
/// Where an `init` that was killed before there was a repository left a key slot that opens nothing.
const SLOTS: &str = "keys";

impl Console {
    /// What there is to say of other files in the folders that a repository with these keys is about to be made
    /// in, if they are of this host.
    pub(crate) fn others(&self, keys: &NewKeys) -> Vec<String> {
        let own = keys.recovery_sheet.iter().chain(&keys.key_file);
        let own: Vec<_> = own.map(|path| absolute(&unfinished(path))).collect();
        let marker = self.location().ok();
        let marker = marker.as_ref().and_then(|place| place.option("marker"));
        let folders = self.folder().into_iter().chain(self.cold_folder());
        let told = folders.filter_map(|folder| {
            let is_own = |name: &OsStr| {
                own.iter().any(|path| *path == folder.join(name))
                    || marker.is_some_and(|marker| name == marker)
            };
            told(&folder, is_own)
        });
        told.collect()
    }
}

fn told(folder: &Path, is_own: impl Fn(&OsStr) -> bool) -> Option<String> {
    // What is wrong with the folder whoever makes the repository says.
    let entries = std::fs::read_dir(folder)
        .ok()?
        .take(MOST_LOOKED_AT)
        .flatten();
    let names = entries.map(|entry| entry.file_name());
    let others: BTreeSet<_> = names
        .filter(|name| !is_own(name) && !is_of_system(name))
        .collect();
    let shown = others.iter().take(MOST_NAMED);
    let mut shown: Vec<String> = shown.map(|name| text::escape(name.as_bytes())).collect();
    if shown.is_empty() {
        return None;
    }
    if others.len() > shown.len() {
        shown.push("others".into());
    }
    let last = shown.pop().unwrap_or_default();
    let names = match shown.is_empty() {
        true => last,
        false => format!("{} and {last}", shown.join(", ")),
    };
    Some(format!(
        "{} holds other files ({names}): they are left alone, and the repository lies among them; if that is not meant, make it in a folder of its own",
        text::path(folder)
    ))
}

fn is_of_system(name: &OsStr) -> bool {
    let first = name.as_bytes().first();
    first.is_none_or(|first| BEGINNINGS.contains(first))
        || name == SLOTS
        || OF_SYSTEMS
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_somebody_are_told_and_those_of_systems_are_not() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path();
        let of_systems = [
            ".snapshot",
            "@eaDir",
            "#recycle",
            "$RECYCLE.BIN",
            "lost+found",
            "System Volume Information",
            "keys",
        ];
        for name in of_systems {
            std::fs::create_dir(folder.join(name)).unwrap();
        }
        std::fs::write(folder.join("mine"), "").unwrap();
        assert_eq!(told(folder, |name| name == "mine"), None);
        for name in ["b", "a\nc"] {
            std::fs::write(folder.join(name), "").unwrap();
        }
        let all = told(folder, |_| false).unwrap();
        assert!(all.contains("(a\\nc, b and mine)"), "{all}");
        std::fs::write(folder.join("z"), "").unwrap();
        let all = told(folder, |_| false).unwrap();
        assert!(all.contains("b, mine and others)"), "{all}");
        assert_eq!(told(&folder.join("none"), |_| false), None);
    }
}
