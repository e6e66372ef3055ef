//! Comparing what was restored with what the snapshot says of it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use backstay::core::{EntryKind, EntryPath, Finding, FindingKind, Severity};
use backstay::engine::view::{Seen, ViewEntry};
use backstay::engine::{RestoreJob, SnapshotView};
use backstay::integrity::digest::ContentHasher;
use backup_terminal::{Console, Exit, Outcome, text};
use serde_json::json;

/// Reads everything that a restore was to write, and compares kinds, links and SHA-256.
pub(crate) async fn compare(
    console: &mut Console,
    view: &SnapshotView<'_>,
    job: &RestoreJob,
) -> Outcome {
    let Some(folder) = &job.folder else {
        return Ok(Exit::Ok);
    };
    let mut findings = Vec::new();
    let (mut entries, mut bytes) = (0u64, 0u64);
    let mut walk = view.entries(job.component, &job.below);
    while let Some(seen) = walk.step(&console.cx).await? {
        let entry = match seen {
            Seen::Entry(entry) => entry,
            Seen::Lost(lost) => {
                findings.push(lost.finding(view));
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
        let path = folder.join(OsStr::from_bytes(&below));
        entries += 1;
        bytes += entry.record.size;
        let wrong = tokio::task::block_in_place(|| differs(&path, &entry));
        if let Some(why) = wrong {
            let subject = text::path(&path);
            findings.push(Finding::new(
                Severity::Error,
                FindingKind::Mismatch,
                subject,
                why,
            ));
        }
    }
    let is_wrong = console.findings(&findings, 0)?;
    console.record(
        "compared",
        json!({ "entries": entries, "bytes": bytes, "findings": findings.len() }),
    )?;
    if console.talks() {
        let (entries, bytes) = (
            text::plural(entries, "entry", "entries"),
            text::bytes(bytes),
        );
        let word = if is_wrong {
            "and found differences"
        } else {
            "kinds, links and content as saved"
        };
        console.line(format!("  compared {entries}, {bytes}: {word}"))?;
    }
    Ok(if is_wrong { Exit::Damage } else { Exit::Ok })
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
fn differs(path: &Path, entry: &ViewEntry) -> Option<String> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) => return Some(format!("it cannot be looked at: {error}")),
    };
    let kind = meta.file_type();
    let is_same_kind = match &entry.record.meta.kind {
        EntryKind::File | EntryKind::Stream | EntryKind::Disk => kind.is_file(),
        EntryKind::Directory => kind.is_dir(),
        EntryKind::Symlink(_) => kind.is_symlink(),
        EntryKind::Fifo => kind.is_fifo(),
        EntryKind::Socket => kind.is_socket(),
        EntryKind::CharDevice { .. } => kind.is_char_device(),
        EntryKind::BlockDevice { .. } => kind.is_block_device(),
    };
    if !is_same_kind {
        return Some("it is of another kind than the saved one".into());
    }
    if let EntryKind::Symlink(target) = &entry.record.meta.kind {
        let same = fs::read_link(path).is_ok_and(|found| found.as_os_str().as_bytes() == target);
        return (!same).then(|| "it links to something else than the saved one".into());
    }
    if !kind.is_file() {
        return None;
    }
    if meta.len() != entry.record.size {
        let (found, wanted) = (meta.len(), entry.record.size);
        return Some(format!(
            "it has {found} bytes, and the saved one had {wanted}"
        ));
    }
    let wanted = entry.record.sha256?;
    match hash(path) {
        Ok(found) if found == wanted => None,
        Ok(_) => Some("its SHA-256 is not that of the saved one".into()),
        Err(error) => Some(format!("it cannot be read: {error}")),
    }
}

fn hash(path: &Path) -> std::io::Result<[u8; 32]> {
    let flags = rustix::fs::OFlags::NOFOLLOW.bits();
    let flags = i32::try_from(flags).unwrap_or(0);
    let mut file: File = fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
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
