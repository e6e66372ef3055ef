//! What there is to import at a path: an export or a folder of exports, an archive, a dump, or a folder of
//! these.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use backup_core::{EntryPath, Finding, FindingKind, Severity};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::date::{DateFrom, of_name};
use super::item::{Item, Original, What, component_path};
use super::packing::{Packing, encrypted_with, read_full};
use crate::error::{ExportError, Result, at};
use crate::metadata::{self, Metadata};
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
/// # Errors
/// [`ExportError::File`] when the path cannot be read at all.
pub fn scan(path: &Path, date_from: DateFrom, zone: &TimeZone) -> Result<Scan> {
    let mut scanner = Scanner {
        date_from,
        zone,
        out: Scan::default(),
    };
    let found = fs::metadata(path).map_err(at("read", path))?;
    if found.is_dir() {
        scanner.folder(path, 0)?;
    } else {
        scanner.file(path)?;
    }
    let mut out = scanner.out;
    out.items
        .sort_by(|a, b| (a.time, &a.path).cmp(&(b.time, &b.path)));
    Ok(out)
}

struct Scanner<'s> {
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
        let has = |name: &str| {
            folder
                .join(name)
                .symlink_metadata()
                .is_ok_and(|it| it.is_file())
        };
        if has(metadata::NAME) && has(sums::NAME) {
            if let Err(error) = self.export(folder) {
                self.found(FindingKind::Damaged, folder, error.to_string());
            }
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
            if let Err(error) = ended {
                self.found(FindingKind::Unreadable, &path, error.to_string());
            }
        }
        Ok(())
    }

    /// An export: each of its components.
    fn export(&mut self, folder: &Path) -> Result<()> {
        let said = Metadata::read(folder)?;
        let safe = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
        if ![&said.id, &said.name, &said.host]
            .into_iter()
            .all(|text| safe(text))
        {
            return Err(ExportError::NotWhole {
                path: folder.to_path_buf(),
                why: "its metadata have an empty name, or control characters in one".into(),
            });
        }
        if let Some(program) = &said.encryption {
            let why = format!(
                "it is encrypted: decrypt the file in data with {program}, and import that"
            );
            self.found(FindingKind::Skipped, folder, why);
            return Ok(());
        }
        for component in &said.components {
            let path = component_path(folder, &component.path)?;
            let what = match said.layout.as_str() {
                "tree" => What::Tree,
                "tar" => What::Archive(Packing::None),
                "tar.gz" => What::Archive(Packing::Gzip),
                "tar.zst" => What::Archive(Packing::Zstd),
                other => {
                    return Err(ExportError::NotWhole {
                        path: folder.to_path_buf(),
                        why: format!("its layout {other:?} is not known"),
                    });
                }
            };
            self.out.items.push(Item {
                path,
                what,
                name: said.name.clone(),
                time: said.time,
                original: Some(Original {
                    export: folder.to_path_buf(),
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
        Ok(())
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
    let mut reader = packing.open(File::open(path)?)?;
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
