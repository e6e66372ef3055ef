//! What `restore run --salvage` tells of what is lost.
//!
//! A damaged repository can cost any number of files, so what is told of each goes into a file at once:
//! into the report that was asked for, or into one without a name.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, LineWriter, Seek as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use backstay::core::{Clock, EntryPath};
use backstay::engine::restore::{Loss, Salvage, Salvaged};
use backup_terminal::console::{finding_members, json_line};
use backup_terminal::{Console, Exit, Failure, Outcome, text};
use serde_json::{Value, json};

use crate::look::bytes_members;

/// What was told so far.
#[derive(Debug)]
struct Told {
    lines: LineWriter<File>,
    /// Files of which a part is kept, and of which nothing is.
    files: (u64, u64),
    lost_bytes: u64,
    /// Why it could not be written down.
    trouble: Option<io::Error>,
}

/// Takes down what a restore could not have.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    path: Option<PathBuf>,
    told: Arc<Mutex<Told>>,
}

impl Report {
    /// Writes into a new file, or into one without a name.
    pub(crate) fn new(path: Option<&Path>) -> Outcome<Self> {
        let file = match path {
            Some(path) => File::options()
                .read(true)
                .write(true)
                .create_new(true)
                // It names files that not everybody may know of.
                .mode(0o600)
                .open(path)
                .map_err(|error| {
                    Failure::new(
                        Exit::Failed,
                        format!("the report {}: {error}", text::path(path)),
                        "name a file that is not there yet, in a folder that may be written to",
                    )
                })?,
            None => tempfile::tempfile()?,
        };
        let told = Told {
            lines: LineWriter::new(file),
            files: (0, 0),
            lost_bytes: 0,
            trouble: None,
        };
        Ok(Self {
            path: path.map(Path::to_owned),
            told: Arc::new(Mutex::new(told)),
        })
    }

    /// What a restore into a folder is to tell it to.
    pub(crate) fn of_folder(&self, folder: &Path, clock: &Arc<dyn Clock>) -> Salvage {
        let (report, folder, clock) = (self.clone(), folder.to_owned(), clock.clone());
        Arc::new(move |loss| report.tell(loss, &folder, &clock.now().to_string()))
    }

    fn tell(&self, loss: &Loss, folder: &Path, now: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let line = match loss {
            Loss::Page(finding) => json_line(now, "finding", finding_members(finding)),
            Loss::Content(lost) => {
                let (kept, gone) = &mut told.files;
                *if lost.kept_as.is_some() { kept } else { gone } += 1;
                told.lost_bytes = told.lost_bytes.saturating_add(lost.lost_bytes());
                json_line(now, "salvaged", members(lost, folder))
            }
        };
        let written = told.lines.write_all(line.as_bytes());
        told.trouble = told.trouble.take().or(written.err());
    }

    /// Tells all of it, and sees that the report is on the disk.
    pub(crate) fn end(&self, console: &mut Console) -> Outcome {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let written = told.trouble.take().map_or(Ok(()), Err);
        let written = written
            .and_then(|()| told.lines.flush())
            .and_then(|()| told.lines.get_ref().sync_all());
        if let Err(error) = written {
            let place = self
                .path
                .as_deref()
                .map_or_else(|| "of what is lost".to_owned(), text::path);
            return Err(Failure::new(
                Exit::Failed,
                format!("the report {place} could not be written: {error}"),
                "what could be had is restored; make room and run the command again",
            ));
        }
        if console.json() {
            let mut lines = told.lines.get_ref();
            lines.rewind()?;
            for line in BufReader::new(lines).lines() {
                let line = line?;
                // The findings are told by the restore itself.
                if line.contains("\"type\":\"salvaged\"") {
                    console.raw(format!("{line}\n").as_bytes())?;
                }
            }
        }
        let (kept, gone) = told.files;
        if kept + gone == 0 {
            return Ok(Exit::Ok);
        }
        if console.talks() {
            console.line(format!(
                "  salvaged {} in part (their names end in .backstay-partial), and {} not at all; {} are lost",
                text::plural(kept, "file", "files"),
                text::count(gone),
                text::bytes(told.lost_bytes),
            ))?;
            console.line(match &self.path {
                Some(path) => format!("  which bytes: {}", text::path(path)),
                None => "  which bytes: --report FILE writes it down".to_owned(),
            })?;
        }
        Ok(Exit::Findings)
    }
}

fn members(lost: &Salvaged, folder: &Path) -> Value {
    let place = |path: &EntryPath| folder.join(OsStr::from_bytes(&path.to_slashed()));
    let path = place(&lost.path);
    let mut out = serde_json::Map::new();
    for (name, value) in bytes_members(path.as_os_str().as_bytes()) {
        out.insert(name.into(), value);
    }
    let kept_as = lost.kept_as.as_ref().map(place);
    let ranges: Vec<_> = lost
        .lost
        .iter()
        .map(|range| json!([range.start, range.end]))
        .collect();
    out.insert("size".into(), lost.size.into());
    out.insert("lost_bytes".into(), lost.lost_bytes().into());
    out.insert("lost".into(), ranges.into());
    let kept = kept_as.as_ref().map(|path| path.to_string_lossy());
    out.insert("kept_as".into(), json!(kept));
    out.insert("why".into(), lost.why.as_str().into());
    Value::Object(out)
}
