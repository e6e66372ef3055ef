//! What there is to import at a path: an export or a folder of exports, an archive, a dump, or a folder of
//! these.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use backup_core::{EntryPath, Finding, FindingKind, OpContext, Severity};
use backup_engine::EngineError;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::date::{DateFrom, of_name};
use super::item::{Item, Original, Place, What, component_path, name_below_data};
use super::packed::{Held, look_into, shown};
use super::packing::{Packing, encrypted_with, read_full};
use crate::error::{ExportError, Result, at};
use crate::metadata::{self, Metadata};
use crate::stop::is_stopped;
use crate::{place, sums};

/// How deep folders are gone down into.
const MOST_DEEP: usize = 16;
/// Ends of names of packed files; what is left is the name of what is in them.
const PACKED: [&str; 5] = [".gz", ".zst", ".zstd", ".gzip", ".tgz"];
/// Ends of names of files that go with dumps and are none.
const BESIDE: [&str; 7] = [
    "SUMS",
    ".sha256",
    ".sha256sum",
    ".sha512",
    ".md5",
    ".log",
    ".sig",
];

/// What there is to import.
#[derive(Debug, Default)]
pub struct Scan {
    /// Things, the oldest first.
    pub items: Vec<Item>,
    /// What cannot be imported, and why.
    pub findings: Vec<Finding>,
}

/// Finds what there is to import at a path; only reads. `zone` is that of dates in names.
///
/// Archives are gone through as far as it takes to see whether they hold exports; blocks.
///
/// # Errors
/// [`ExportError::File`] when the path cannot be read at all; [`ExportError::Invalid`] for what nothing can be read
/// from twice, such as a pipe.
pub fn scan(cx: &OpContext, path: &Path, date_from: DateFrom, zone: &TimeZone) -> Result<Scan> {
    let mut scanner = Scanner {
        cx,
        date_from,
        zone,
        out: Scan::default(),
    };
    let found = fs::metadata(path).map_err(at("read", path))?;
    if found.is_dir() {
        scanner.folder(path, 0)?;
    } else if found.is_file() {
        scanner.file(path)?;
    } else {
        let shown = path.display();
        return Err(ExportError::Invalid(format!(
            "{shown} is neither a file nor a folder; for what a program yields there is `snapshot save --stdin`"
        )));
    }
    let mut out = scanner.out;
    out.items
        .sort_by(|a, b| (a.time, &a.path).cmp(&(b.time, &b.path)));
    Ok(out)
}

struct Scanner<'s> {
    cx: &'s OpContext,
    date_from: DateFrom,
    zone: &'s TimeZone,
    out: Scan,
}

impl Scanner<'_> {
    fn found(&mut self, kind: FindingKind, path: &Path, why: impl Into<String>) {
        let severity = match kind {
            FindingKind::Skipped => Severity::Warning,
            _ => Severity::Error,
        };
        let subject = path.display().to_string();
        self.out
            .findings
            .push(Finding::new(severity, kind, subject, why));
    }

    fn folder(&mut self, folder: &Path, depth: usize) -> Result<()> {
        if self.cx.cancel.is_cancelled() {
            return Err(EngineError::Cancelled.into());
        }
        if self.whole_folder(folder) {
            return Ok(());
        }
        if depth > MOST_DEEP {
            self.found(FindingKind::Skipped, folder, "it lies too deep");
            return Ok(());
        }
        let listed: io::Result<Vec<fs::DirEntry>> =
            fs::read_dir(folder).and_then(|entries| entries.collect());
        let mut listed = listed.map_err(at("list", folder))?;
        listed.sort_by_key(fs::DirEntry::file_name);
        for entry in listed {
            let (path, name) = (entry.path(), entry.file_name());
            let kind = entry.file_type().map_err(at("look at", &path))?;
            if name.as_bytes().starts_with(b".") || name == place::LATEST && kind.is_symlink() {
                continue;
            }
            let ended = if kind.is_dir() {
                self.folder(&path, depth + 1)
            } else if kind.is_file() {
                self.file(&path)
            } else {
                self.found(
                    FindingKind::Skipped,
                    &path,
                    "it is neither a file nor a folder",
                );
                Ok(())
            };
            match ended {
                Err(error @ ExportError::Engine(_)) => return Err(error),
                Err(error) => self.found(FindingKind::Unreadable, &path, error.to_string()),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Takes a folder that is an export, or a part of one; says whether it is.
    fn whole_folder(&mut self, folder: &Path) -> bool {
        let kind = |name: &str| {
            let found = folder.join(name).symlink_metadata();
            found.ok().map(|found| found.is_file())
        };
        let said = Metadata::read(folder);
        match (kind(metadata::NAME), kind(sums::NAME)) {
            (Some(true), Some(true)) => {}
            // Its files are no dumps.
            (Some(_), Some(_)) => {
                let (one, other) = (metadata::NAME, sums::NAME);
                let why = format!("{one} or {other} is no file: take another copy of this export");
                self.found(FindingKind::Damaged, folder, why);
                return true;
            }
            (Some(_), None) if said.is_ok() => {
                self.part(folder);
                return true;
            }
            _ => return false,
        }
        let place = Place::Folder(folder.to_path_buf());
        let items = said.and_then(|said| self.export(&place, &said));
        if let Err(error) = items {
            self.found(FindingKind::Damaged, folder, error.to_string());
        }
        true
    }

    fn part(&mut self, path: &Path) {
        let why = format!(
            "it is a part of an export: {} is missing. Take another copy of it, or give a folder in `data` of it for \
             what it is",
            sums::NAME
        );
        self.found(FindingKind::Damaged, path, why);
    }

    /// An export: each of its components.
    fn export(&mut self, place: &Place, said: &Metadata) -> Result<()> {
        let shown = place.shown();
        let wrong = |why: String| ExportError::NotWhole {
            path: shown.clone(),
            why,
        };
        let safe = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
        if ![&said.id, &said.name, &said.host]
            .into_iter()
            .all(|text| safe(text))
        {
            let why = "its metadata have an empty name, or control characters in one";
            return Err(wrong(why.into()));
        }
        if let Some(program) = &said.encryption {
            let why = format!(
                "it is encrypted: decrypt the file in data with {program}, and import that"
            );
            self.found(FindingKind::Skipped, &shown, why);
            return Ok(());
        }
        let mut items = Vec::new();
        for component in &said.components {
            let Some(name) = name_below_data(&component.path) else {
                let path = &component.path;
                let why = format!("its metadata name a component outside of data: {path:?}");
                return Err(wrong(why));
            };
            let path = match place {
                Place::Folder(folder) => component_path(folder, name)?,
                Place::InArchive { .. } => shown.join(&component.path),
            };
            let what = match said.layout.as_str() {
                "tree" => What::Tree,
                "tar" => What::Archive(Packing::None),
                "tar.gz" => What::Archive(Packing::Gzip),
                "tar.zst" => What::Archive(Packing::Zstd),
                other => return Err(wrong(format!("its layout {other:?} is not known"))),
            };
            items.push(Item {
                path,
                what,
                name: said.name.clone(),
                time: said.time,
                original: Some(Original {
                    export: place.clone(),
                    below_data: name.to_owned(),
                    id: said.id.clone(),
                    component: component.name.clone(),
                    host: said.host.clone(),
                    tags: said.tags.clone(),
                    label: said.label.clone(),
                    origin: component.origin.clone(),
                    is_one_of_many: said.components.len() > 1,
                }),
            });
        }
        self.out.items.append(&mut items);
        Ok(())
    }

    /// Takes an archive that holds exports, or a part of one; says whether it did.
    fn exports_in(&mut self, path: &Path, packing: Packing) -> Result<bool> {
        let cancel = &self.cx.cancel;
        match look_into(path, packing, &|| cancel.is_cancelled()) {
            Ok(Held::Other) => return Ok(false),
            Ok(Held::Part(below)) => self.part(&shown(path, &below)),
            Ok(Held::OnlyLink) => {
                let why = "it holds the link to an export and not the export: pack the folder that it leads to";
                self.found(FindingKind::Damaged, path, why);
            }
            Ok(Held::Exports { exports, beside }) => {
                for (below, said) in exports {
                    let place = Place::InArchive {
                        file: path.to_path_buf(),
                        packing,
                        below,
                    };
                    let path = place.shown();
                    let said = said.map_err(|why| ExportError::NotWhole {
                        path: path.clone(),
                        why,
                    });
                    if let Err(error) = said.and_then(|said| self.export(&place, &said)) {
                        self.found(FindingKind::Damaged, &path, error.to_string());
                    }
                }
                for name in beside {
                    let why = "it lies beside exports and is no part of one";
                    self.found(FindingKind::Skipped, &shown(path, &name), why);
                }
            }
            Err(error) if is_stopped(&error) => return Err(EngineError::Cancelled.into()),
            Err(error) => {
                let why = format!("the archive cannot be read: {error}");
                self.found(FindingKind::Damaged, path, why);
            }
        }
        Ok(true)
    }

    fn file(&mut self, path: &Path) -> Result<()> {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if BESIDE.iter().any(|end| name.ends_with(end)) {
            return Ok(());
        }
        let (begin, changed) = begin_of(path).map_err(at("read", path))?;
        if let Some(program) = encrypted_with(&begin, &name) {
            let why =
                format!("it is encrypted: decrypt it with {program}, and import what comes out");
            self.found(FindingKind::Skipped, path, why);
            return Ok(());
        }
        let packing = Packing::of(&begin);
        if packing == Packing::None && PACKED.iter().any(|end| name.ends_with(end)) {
            let why = "its name says that it is compressed, and its content is not: it was cut off, or is something else".to_owned();
            self.found(FindingKind::Damaged, path, why);
            return Ok(());
        }
        let is_archive = match is_archive(path, packing) {
            Ok(is_archive) => is_archive,
            Err(error) => {
                let why = format!("it cannot be unpacked: {error}");
                self.found(FindingKind::Damaged, path, why);
                return Ok(());
            }
        };
        if is_archive && self.exports_in(path, packing)? {
            return Ok(());
        }
        let Named { line, inner, at } = named(&name, packing, self.zone);
        let time = match self.date_from {
            DateFrom::Name => at.unwrap_or(changed),
            DateFrom::File => changed,
        };
        let what = if is_archive {
            What::Archive(packing)
        } else {
            let entry = EntryPath::from_slashed(inner.as_bytes());
            let entry = entry.map_err(|why| at_path(path, &why))?;
            What::Dump(packing, entry)
        };
        self.out.items.push(Item {
            path: path.to_path_buf(),
            what,
            name: line,
            time,
            original: None,
        });
        Ok(())
    }
}

fn at_path(path: &Path, why: &dyn std::fmt::Display) -> ExportError {
    ExportError::File {
        op: "import",
        path: path.to_path_buf(),
        source: io::Error::other(why.to_string()),
    }
}

/// The first bytes of a file, and the time of its last change.
fn begin_of(path: &Path) -> io::Result<(Vec<u8>, Timestamp)> {
    let file = File::open(path)?;
    let changed = Timestamp::try_from(file.metadata()?.modified()?).map_err(io::Error::other)?;
    let mut begin = Vec::new();
    file.take(64).read_to_end(&mut begin)?;
    Ok((begin, changed))
}

/// Whether what a file holds, unpacked, begins as an archive does.
fn is_archive(path: &Path, packing: Packing) -> io::Result<bool> {
    let mut block = [0; 512];
    let mut reader = packing.open(Box::new(File::open(path)?))?;
    let filled = read_full(&mut *reader, &mut block)?;
    Ok(filled == block.len() && block.get(257..262) == Some(b"ustar"))
}

/// What the name of a dump tells.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    /// The name of the snapshot.
    line: String,
    /// The name of what is in the file, without a date: that of dumps of one thing is the same.
    inner: String,
    at: Option<Timestamp>,
}

fn named(name: &str, packing: Packing, zone: &TimeZone) -> Named {
    let mut inner = name.to_owned();
    let packed = PACKED.iter().find(|end| inner.ends_with(**end));
    if let Some(end) = packed.filter(|_| packing != Packing::None) {
        inner.truncate(inner.len() - end.len());
    }
    let dated = of_name(&inner, zone);
    if let Some(dated) = &dated {
        inner.replace_range(dated.place.clone(), "");
    }
    if inner.is_empty() || inner.starts_with('.') {
        inner.insert_str(0, "dump");
    }
    let line: String = inner
        .chars()
        .filter(|letter| !letter.is_control())
        .collect();
    let stem = PathBuf::from(&line);
    let stem = stem
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned());
    Named {
        line: stem.unwrap_or(line),
        inner,
        at: dated.map(|dated| dated.at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dumps_of_one_thing_have_one_name() {
        for (name, line, inner) in [
            ("shop-2026-01-31.sql.gz", "shop", "shop.sql"),
            ("shop.sql.gz", "shop", "shop.sql"),
            ("20260131T120000Z.dump.gz", "dump", "dump.dump"),
            ("shop_2026-01-31.gz", "shop", "shop"),
            ("all-2026-01-31.tar.gz", "all", "all.tar"),
        ] {
            let found = named(name, Packing::Gzip, &TimeZone::UTC);
            assert_eq!(
                (found.line.as_str(), found.inner.as_str()),
                (line, inner),
                "{name}"
            );
        }
    }
}
