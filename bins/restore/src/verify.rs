//! Comparing what was restored with what the snapshot says of it.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;

use backstay::core::{EntryKind, EntryPath, Finding, FindingKind, Severity};
use backstay::engine::view::{Seen, ViewEntry};
use backstay::engine::{RestoreJob, SnapshotView};
use backstay::integrity::digest::ContentHasher;
use backup_terminal::{Console, Exit, Outcome, text};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, readlinkat, statat};
use serde_json::json;

use crate::descent::Descent;

/// So many differences are kept; further ones are counted.
const MOST_FINDINGS: usize = 10_000;

/// What differs, in bounded memory: in a folder that is another one nothing may be as it was saved.
#[derive(Debug, Default)]
struct Differences {
    kept: Vec<Finding>,
    left_out: u64,
    /// How many of all could only not be looked at.
    unread: u64,
}

impl Differences {
    fn add(&mut self, finding: Finding) {
        self.unread += u64::from(finding.kind == FindingKind::Unreadable);
        if self.kept.len() < MOST_FINDINGS {
            self.kept.push(finding);
        } else {
            self.left_out += 1;
        }
    }

    fn count(&self) -> u64 {
        self.kept.len() as u64 + self.left_out
    }

    /// Whether anything differs, or is lost in the snapshot.
    fn are_there(&self) -> bool {
        self.count() > self.unread
    }
}

/// Why an entry counts as it does: something differs, or nobody knows.
struct Why(FindingKind, String);

impl Why {
    fn differs(detail: impl Into<String>) -> Self {
        Self(FindingKind::Mismatch, detail.into())
    }

    /// A permission that is missing says nothing of what is there; anything else may be a damaged disk.
    fn unread(what: &str, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::PermissionDenied {
            let detail = format!(
                "{what} by this user ({error}), so it was not compared; that is no damage: run it again \
                 with --verify as root, or as whoever may read it"
            );
            return Self(FindingKind::Unreadable, detail);
        }
        Self::differs(format!("{what}: {error}"))
    }
}

/// Reads everything that a restore was to write, and compares kinds, links and SHA-256. What the target
/// could not take is among what the restore `told`, which is no word on the repository: it is not told as
/// damage for being missing.
pub(crate) async fn compare(
    console: &mut Console,
    view: &SnapshotView<'_>,
    job: &RestoreJob,
    told: &[Finding],
) -> Outcome {
    let Some(folder) = &job.folder else {
        return Ok(Exit::Ok);
    };
    let not_made = told
        .iter()
        .filter(|one| one.kind == FindingKind::Unreadable);
    let not_made: HashSet<&str> = not_made.map(|one| one.subject.as_str()).collect();
    let mut findings = Differences::default();
    let (mut entries, mut bytes) = (0u64, 0u64);
    let mut descent = Descent::new(folder);
    let mut walk = view.entries(job.component, &job.below);
    while let Some(seen) = walk.step(&console.cx).await? {
        let entry = match seen {
            Seen::Entry(entry) => entry,
            Seen::Lost(lost) => {
                findings.add(lost.finding(view));
                continue;
            }
        };
        if console.cx.cancel.is_cancelled() {
            return Err(backstay::engine::EngineError::Cancelled.into());
        }
        let passes = job
            .filter
            .as_ref()
            .is_none_or(|filter| filter(&entry.path, &entry));
        let Some(below) =
            below(&entry.path, &job.strip).filter(|below| passes && !below.is_empty())
        else {
            continue;
        };
        entries += 1;
        bytes += entry.record.size;
        let is_not_made = || {
            let path = EntryPath::from_slashed(&below);
            path.is_ok_and(|path| not_made.contains(format!("/{path}").as_str()))
        };
        let wrong =
            tokio::task::block_in_place(|| differs(&mut descent, &below, &entry, is_not_made));
        if let Some(Why(kind, why)) = wrong {
            let subject = text::path(&folder.join(OsStr::from_bytes(&below)));
            let severity = match kind {
                FindingKind::Unreadable => Severity::Warning,
                _ => Severity::Error,
            };
            findings.add(Finding::new(severity, kind, subject, why));
        }
    }
    let has_findings = console.findings(&findings.kept, findings.left_out)?;
    let ending = match (findings.are_there(), has_findings) {
        (true, _) => Exit::Damage,
        (false, true) => Exit::Findings,
        (false, false) => Exit::Ok,
    };
    console.record(
        "compared",
        json!({ "entries": entries, "bytes": bytes, "findings": findings.count() }),
    )?;
    if console.talks() {
        let (entries, bytes) = (
            text::plural(entries, "entry", "entries"),
            text::bytes(bytes),
        );
        let word = match ending {
            Exit::Damage => "and found differences",
            Exit::Findings => "as saved, but for what could not be made or read",
            _ => "kinds, links and content as saved",
        };
        console.line(format!("  compared {entries}, {bytes}: {word}"))?;
    }
    Ok(ending)
}

/// A path below the folder of the restore; nothing for what does not lie there.
fn below(path: &EntryPath, strip: &EntryPath) -> Option<Vec<u8>> {
    if !path.starts_with(strip) {
        return None;
    }
    let slashed = path.to_slashed();
    let rest = slashed.get(strip.as_stored().len()..)?;
    Some(rest.strip_prefix(b"/").unwrap_or(rest).to_vec())
}

/// In what way the file system differs from the snapshot, if it does.
fn differs(
    descent: &mut Descent,
    below: &[u8],
    entry: &ViewEntry,
    is_not_made: impl FnOnce() -> bool,
) -> Option<Why> {
    let (folder, name) = match below.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => below.split_at(slash),
        None => (&[][..], below),
    };
    let name = name.strip_prefix(b"/").unwrap_or(name);
    let looked = descent.go_to(folder).and_then(|folder| {
        let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok((folder, stat))
    });
    let (folder, stat) = match looked {
        Ok(looked) => looked,
        Err(error) if error.kind() == io::ErrorKind::NotFound && is_not_made() => {
            let detail = "it could not be made, as the restore said, so it was not compared; that is no damage";
            return Some(Why(FindingKind::Unreadable, detail.to_owned()));
        }
        Err(error) => return Some(Why::unread("it cannot be looked at", &error)),
    };
    let kind = FileType::from_raw_mode(stat.st_mode);
    let saved_kind = FileType::from_raw_mode(entry.record.meta.kind.type_bits());
    if kind != saved_kind {
        return Some(Why::differs("it is of another kind than the saved one"));
    }
    if let EntryKind::Symlink(target) = &entry.record.meta.kind {
        let found = readlinkat(folder, name, Vec::new());
        let same = found.is_ok_and(|found| found.as_bytes() == target.as_slice());
        return (!same).then(|| Why::differs("it links to something else than the saved one"));
    }
    if kind != FileType::RegularFile {
        return None;
    }
    let (found, wanted) = (stat.st_size, entry.record.size);
    if u64::try_from(found) != Ok(wanted) {
        let why = format!("it has {found} bytes, and the saved one had {wanted}");
        return Some(Why::differs(why));
    }
    let wanted = entry.record.sha256?;
    match hash(folder, name) {
        Ok(found) if found == wanted => None,
        Ok(_) => Some(Why::differs("its SHA-256 is not that of the saved one")),
        Err(error) => Some(Why::unread("it cannot be read", &error)),
    }
}

fn hash(folder: &OwnedFd, name: &[u8]) -> io::Result<[u8; 32]> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = File::from(openat(folder, name, flags, Mode::empty())?);
    let mut hasher = ContentHasher::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hasher.finish().0);
        }
        hasher.update(buffer.get(..count).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_all_counted_and_few_are_kept() {
        let mut found = Differences::default();
        for number in 0..MOST_FINDINGS + 3 {
            let (kind, subject) = (FindingKind::Mismatch, number.to_string());
            found.add(Finding::new(Severity::Error, kind, subject, "it differs"));
        }
        assert_eq!(found.kept.len(), MOST_FINDINGS);
        assert_eq!(
            (found.left_out, found.count()),
            (3, MOST_FINDINGS as u64 + 3)
        );
    }
}
