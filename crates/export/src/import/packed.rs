//! Exports that were put into an archive, one or a whole folder of them. An archive is gone through once to see
//! whether it holds exports, and that ends soon where it does not; each export is checked as one in a folder is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use backup_core::{EntryKind, EntryPath};
use tar::EntryType;

use super::below::strip;
use super::decode::member;
use super::headers::{Blocks, Flow, Headers, Raw, damaged};
use super::index::inside;
use super::opened::Opened;
use super::packing::Packing;
use super::span::Span;
use crate::error::{ExportError, Result, at};
use crate::metadata::{self, Metadata};
use crate::stop::{Stop, digest_of, stopped};
use crate::{place, sums};

/// So much that belongs to no export may lie beside exports; with more it is an archive like any other.
const MOST_BESIDE: usize = 16;
/// The most exports in one archive, and the most folders that are remembered until it is known whether they are
/// some.
const MOST_EXPORTS: usize = 4096;
const MOST_TOPS: usize = 65_536;
/// The folder of an export that its content lies in.
const DATA: &[u8] = b"data";

/// What an archive holds, as far as exports go.
#[derive(Debug)]
pub(crate) enum Held {
    /// Exports, by their folders, with what they say of themselves; and what lies beside them.
    Exports {
        exports: Vec<(EntryPath, Result<Metadata, String>)>,
        beside: Vec<EntryPath>,
    },
    /// A folder that says to be an export, and has no `SHA256SUMS`.
    Part(EntryPath),
    /// Nothing but the link to the newest export.
    OnlyLink,
    /// Something else.
    Other,
}

/// Where something in an archive lies, for people.
pub(crate) fn shown(archive: &Path, below: &EntryPath) -> PathBuf {
    match below.is_root() {
        true => archive.to_path_buf(),
        false => archive.join(below.to_string()),
    }
}

/// Looks into an archive in a file.
pub(crate) fn look_into(file: &Path, packing: Packing, stop: Stop<'_>) -> io::Result<Held> {
    let opened = File::open(file)?;
    if packing == Packing::None {
        return look(Span::whole(opened)?.reader(0), stop);
    }
    let mut reader = packing.open(Box::new(opened))?;
    look(
        Flow {
            reader: &mut *reader,
            stop,
        },
        stop,
    )
}

fn look<B: Blocks>(blocks: B, stop: Stop<'_>) -> io::Result<Held> {
    let mut headers = Headers::new(blocks, 0);
    let mut seen = Looked::default();
    while let Some(raw) = headers.next()? {
        if stop() {
            return Err(stopped());
        }
        if !seen.take(&mut headers, &raw)? {
            return Ok(Held::Other);
        }
    }
    Ok(seen.held())
}

/// What was seen of an archive so far.
#[derive(Debug, Default)]
struct Looked {
    said: BTreeMap<EntryPath, Result<Metadata, String>>,
    exports: usize,
    sums: BTreeSet<EntryPath>,
    /// Folders that something lies in `data` of; of one path only the lowest.
    tops: BTreeSet<EntryPath>,
    beside: Vec<EntryPath>,
    has_link: bool,
}

impl Looked {
    /// Takes a member in; says whether the archive may still be one of exports.
    fn take<B: Blocks>(&mut self, headers: &mut Headers<B>, raw: &Raw) -> io::Result<bool> {
        // Of what leads out of the archive is told by whoever reads it.
        let Ok(path) = inside(&raw.name()) else {
            return Ok(true);
        };
        let (Some(folder), Some(name)) = (path.parent(), path.name()) else {
            return Ok(true);
        };
        if raw.is_folder() || is_hidden(&path) {
            return Ok(true);
        }
        if raw.is_file() && name == sums::NAME.as_bytes() {
            self.sums.insert(folder);
        } else if raw.is_file() && name == metadata::NAME.as_bytes() {
            let said = match headers.read_whole(metadata::MOST_BYTES)? {
                Some(text) => Metadata::parse(&text),
                None => Err("it is too long".into()),
            };
            self.exports += usize::from(said.is_ok());
            if self.exports > MOST_EXPORTS {
                return Err(damaged(
                    "it has more exports than are taken from one archive",
                ));
            }
            self.said.insert(folder, said);
        } else if name == place::LATEST.as_bytes() && raw.header.entry_type() == EntryType::Symlink
        {
            self.has_link = true;
        } else if let Some(top) = top_of(&path) {
            self.tops.insert(top);
        } else {
            self.beside.push(path);
        }
        Ok(self.beside.len() <= MOST_BESIDE && self.tops.len() <= MOST_TOPS)
    }

    fn held(mut self) -> Held {
        // What an export holds may have exports in it; these are content.
        let mut exports: Vec<EntryPath> = Vec::new();
        for (folder, said) in &self.said {
            let is_content = exports.iter().any(|above| folder.starts_with(above));
            // Other programs have files of these names too, though hardly with such a folder beside them.
            let has_data = || self.tops.iter().any(|top| top.starts_with(folder));
            if !is_content && self.sums.contains(folder) && (said.is_ok() || has_data()) {
                exports.push(folder.clone());
            }
        }
        if exports.is_empty() {
            let is_bare = self.said.is_empty() && self.beside.is_empty() && self.tops.is_empty();
            if is_bare && self.has_link {
                return Held::OnlyLink;
            }
            let mut parts = self.said.into_iter().filter(|(_, said)| said.is_ok());
            return parts
                .next()
                .map_or(Held::Other, |(part, _)| Held::Part(part));
        }
        let is_of_one = |path: &EntryPath| exports.iter().any(|it| path.starts_with(it));
        self.beside.extend(self.tops);
        self.beside.retain(|path| !is_of_one(path));
        if self.beside.len() > MOST_BESIDE {
            return Held::Other;
        }
        let mut said = self.said;
        let of = |folder: EntryPath| Some((folder.clone(), said.remove(&folder)?));
        Held::Exports {
            exports: exports.into_iter().filter_map(of).collect(),
            beside: self.beside,
        }
    }
}

/// Whether a path lies in a hidden folder of ours: an export that was under way.
fn is_hidden(path: &EntryPath) -> bool {
    let begins = [place::BUILDING, place::SWITCHING].map(str::as_bytes);
    path.components()
        .any(|part| begins.iter().any(|begin| part.starts_with(begin)))
}

/// The lowest folder whose `data` a path is, or lies in.
fn top_of(path: &EntryPath) -> Option<EntryPath> {
    let mut top = Some(path.clone());
    while let Some(now) = top.filter(|now| !now.is_root()) {
        if now.name() == Some(DATA) {
            return now.parent();
        }
        top = now.parent();
    }
    None
}

/// Sees that an export in an archive is whole: its files have their sums, and there are no others.
pub(crate) fn check(opened: &Opened, below: &EntryPath, stop: Stop<'_>) -> Result<()> {
    let shown = shown(&opened.file, below);
    let wrong = |why: String| ExportError::NotWhole {
        path: shown.clone(),
        why,
    };
    if let Some(finding) = opened.index.findings.first() {
        let (what, why) = (&finding.subject, &finding.detail);
        return Err(wrong(format!("{what} cannot be read: {why}")));
    }
    let join = |name: &str| {
        below
            .join(name.as_bytes())
            .map_err(|why| wrong(why.to_string()))
    };
    let sums_path = join(sums::NAME)?;
    let content = opened.content(&sums_path).map_err(at("read", &shown))?;
    let range = opened.index.below(below);
    let mut named = vec![false; range.len()];
    let lines = BufReader::new(content.reader(&opened.archive));
    sums::each_line(lines, &shown, &mut |digest, name| {
        let name_shown = String::from_utf8_lossy(name).into_owned();
        let path = inside(&[&below.to_slashed()[..], b"/", name].concat());
        let path = path.map_err(|why| wrong(format!("{name_shown}: {why}")))?;
        let found = opened.content(&path).and_then(|content| {
            let digest = digest_of(content.reader(&opened.archive), stop)?;
            Ok(digest.0)
        });
        match found {
            Ok(found) if found == digest => {}
            Ok(_) => return Err(wrong(format!("{name_shown} does not have its SHA-256"))),
            Err(error) if crate::stop::is_stopped(&error) => {
                return Err(at("read", &shown)(error));
            }
            Err(error) => return Err(wrong(format!("{name_shown} cannot be read: {error}"))),
        }
        let number = opened.index.find(&path);
        let number = number.and_then(|number| number.checked_sub(range.start));
        if let Some(named) = number.and_then(|number| named.get_mut(number)) {
            *named = true;
        }
        Ok(())
    })?;
    let unnamed = range.zip(named).filter(|(_, is_named)| !is_named);
    let unnamed = unnamed.filter_map(|(number, _)| opened.index.places.get(number));
    for place in unnamed.filter(|place| place.path != sums_path) {
        let found = member(&opened.archive, place.content).map_err(at("read", &shown))?;
        let kind = found.ok().map(|found| found.meta.kind);
        let depth = strip(&place.path, below).map_or(0, |path| path.components().count());
        match kind {
            Some(EntryKind::Directory) => {}
            Some(EntryKind::File) => {
                let name = &place.path;
                return Err(wrong(format!(
                    "{name} is there, and {} does not name it",
                    sums::NAME
                )));
            }
            // Further below it is content.
            _ if depth <= 2 => {
                let name = &place.path;
                return Err(wrong(format!("{name} is {}", sums::NO_PART)));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive of empty files, but for what exports say of themselves.
    fn archive(names: &[&str]) -> Vec<u8> {
        let mut out = tar::Builder::new(Vec::new());
        for name in names {
            let mut header = tar::Header::new_ustar();
            let text = match name.ends_with("metadata.json") {
                true => metadata::tests::EXAMPLE,
                false => "",
            };
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            if name.ends_with("latest") {
                header.set_entry_type(EntryType::Symlink);
            }
            out.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
        out.into_inner().unwrap()
    }

    fn held(names: &[&str]) -> Held {
        let archive = archive(names);
        let reader = &mut &archive[..];
        look(
            Flow {
                reader,
                stop: &|| false,
            },
            &|| false,
        )
        .unwrap()
    }

    fn exports(names: &[&str]) -> Option<(Vec<String>, Vec<String>)> {
        match held(names) {
            Held::Exports { exports, beside } => Some((
                exports
                    .into_iter()
                    .map(|(path, _)| path.to_string())
                    .collect(),
                beside.into_iter().map(|path| path.to_string()).collect(),
            )),
            _ => None,
        }
    }

    #[test]
    fn exports_are_found_wherever_they_lie_in_an_archive_and_in_whatever_order() {
        let of = |exports: &[&str], beside: &[&str]| {
            let owned = |all: &[&str]| all.iter().map(|&one| one.to_owned()).collect();
            Some((owned(exports), owned(beside)))
        };
        assert_eq!(
            exports(&["./data/files/a", "./SHA256SUMS", "./metadata.json"]),
            of(&[""], &[])
        );
        assert_eq!(
            exports(&[
                "data/x/latest",
                "data/x/one/data/files/data/b",
                "data/x/one/metadata.json",
                "data/x/one/SHA256SUMS",
                "data/x/.backstay-export-1/data/c",
                "data/x/two/metadata.json",
                "data/x/two/SHA256SUMS",
                "data/x/two/data/files.tar",
            ]),
            of(&["data/x/one", "data/x/two"], &[])
        );
        // An export in an export is content; what lies beside one is named.
        assert_eq!(
            exports(&[
                "x/data/files/y/metadata.json",
                "x/data/files/y/SHA256SUMS",
                "x/metadata.json",
                "x/SHA256SUMS",
                "x/added",
                "README",
            ]),
            of(&["x"], &["README"])
        );
    }

    #[test]
    fn other_archives_are_none_of_exports_and_parts_of_one_are_told() {
        assert!(matches!(held(&["a", "data/b"]), Held::Other));
        assert!(matches!(held(&["x/SHA256SUMS", "x/data/b"]), Held::Other));
        assert!(matches!(held(&[]), Held::Other));
        assert!(matches!(held(&["exports/latest"]), Held::OnlyLink));
        assert!(matches!(held(&["exports/latest", "a"]), Held::Other));
        let Held::Part(part) = held(&["x/metadata.json", "x/data/b"]) else {
            panic!("it is a part of one");
        };
        assert_eq!(part.to_string(), "x");
        let many: Vec<String> = (0..20).map(|number| format!("home/{number}")).collect();
        let mut names: Vec<&str> = many.iter().map(String::as_str).collect();
        names.extend(["x/metadata.json", "x/SHA256SUMS"]);
        assert!(matches!(held(&names), Held::Other));
    }
}
