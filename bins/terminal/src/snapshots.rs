//! Naming snapshots and listing them.

use std::collections::{BTreeSet, HashSet};

use backstay::core::{EntryPath, Finding, FindingKind, HostId, Severity, SnapshotId, SnapshotMeta};
use backstay::engine::EngineError;
use backstay::engine::hold::Holds;
use backstay::engine::ledger::{Rivals, gone};
use backstay::engine::repository::{Repository, SnapshotHead, UnreadSnapshot};
use backstay::engine::select::{rivals, rivals_of_none, select};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde_json::{Value, json};

use crate::console::Console;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::table::{Align, Table};
use crate::text;

/// So many of the names that there are stand beside one that no snapshot has.
const MOST_NAMED: usize = 10;

/// Which snapshots are meant.
#[derive(Debug, Clone, Default, Args)]
pub struct Filter {
    /// Only snapshots of this name
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub name: Option<String>,
    /// Only snapshots of this host
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// Only snapshots that carry this tag; several: those that carry all of them
    #[arg(long = "tag", value_name = "TAG", value_parser = NonEmptyStringValueParser::new())]
    pub tags: Vec<String>,
}

impl Filter {
    /// Whether a snapshot passes.
    #[must_use]
    pub fn takes(&self, meta: &SnapshotMeta) -> bool {
        self.name.as_ref().is_none_or(|name| *name == meta.name)
            && self.host.as_ref().is_none_or(|host| *host == meta.host.0)
            && self.tags.iter().all(|tag| meta.tags.contains(tag))
    }

    /// What there is to say where this, and a label, let none of the snapshots pass: a job whose name has a typo
    /// would do nothing for ever. Nothing where there are no snapshots: it may run before the first save.
    #[must_use]
    pub fn unmatched(&self, label: Option<&str>, metas: &[&SnapshotMeta]) -> Vec<Finding> {
        let has_label = |meta: &SnapshotMeta| label.is_none() || meta.label.as_deref() == label;
        let passes = |meta: &&SnapshotMeta| self.takes(meta) && has_label(meta);
        if metas.is_empty() || metas.iter().any(passes) {
            return Vec::new();
        }
        let of = |option, wanted: Option<&str>, of_one: fn(&SnapshotMeta) -> Vec<&str>| {
            let there = metas.iter().flat_map(|meta| of_one(meta)).collect();
            wanted.and_then(|wanted| none_has(option, wanted, &there))
        };
        let mut out: Vec<Finding> = [
            of("--name", self.name.as_deref(), |meta| vec![&meta.name]),
            of("--host", self.host.as_deref(), |meta| vec![&meta.host.0]),
            of("--label", label, |meta| {
                meta.label.iter().map(String::as_str).collect()
            }),
        ]
        .into_iter()
        .flatten()
        .collect();
        out.extend(self.tags.iter().filter_map(|tag| {
            of("--tag", Some(tag), |meta| {
                meta.tags.iter().map(String::as_str).collect()
            })
        }));
        if out.is_empty() {
            let detail = "each matches some snapshots, and none has all of them; `snapshot list` shows what there is";
            out.push(unmatched("the filters", detail));
        }
        out
    }
}

/// That no snapshot has what an option asks for, if so, and what they have instead.
fn none_has(option: &str, wanted: &str, there: &BTreeSet<&str>) -> Option<Finding> {
    if there.contains(wanted) {
        return None;
    }
    let mut shown: Vec<String> = there
        .iter()
        .take(MOST_NAMED)
        .map(|one| text::name(one))
        .collect();
    if there.len() > shown.len() {
        shown.push(format!("{} more", there.len() - shown.len()));
    }
    let detail = match &shown[..] {
        [] => "no snapshot has it, nor any other".to_owned(),
        _ => format!("no snapshot has it; there are {}", shown.join(", ")),
    };
    Some(unmatched(
        &format!("{option} {}", text::name(wanted)),
        &detail,
    ))
}

fn unmatched(subject: &str, detail: &str) -> Finding {
    Finding::new(Severity::Warning, FindingKind::Skipped, subject, detail)
}

/// Clocks that are well may be apart by less.
const MOST_AHEAD: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

/// A snapshot and a path in it, as written on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotPath {
    /// Which snapshot.
    pub snapshot: String,
    /// The path, if one is named.
    pub path: Option<EntryPath>,
}

/// Takes `SNAP` or `SNAP:/PATH` apart: the path begins at the first `:/`, so that names of lines
/// may hold colons.
///
/// # Errors
/// [`crate::Exit::Usage`] for a path that cannot be in a snapshot.
pub fn parse_snapshot_path(text: &std::ffi::OsStr) -> Outcome<SnapshotPath> {
    use std::os::unix::ffi::OsStrExt as _;
    let bytes = text.as_bytes();
    let at = bytes.windows(2).position(|pair| pair == b":/");
    let (name, rest) = bytes.split_at(at.unwrap_or(bytes.len()));
    let snapshot = String::from_utf8(name.to_vec()).map_err(|_| {
        Failure::usage(
            format!("`{}` names no snapshot", text::escape(name)),
            "write an id, latest, latest:NAME, latest:HOST:NAME or a time",
        )
    })?;
    let path = match rest.get(1..) {
        None => None,
        Some(path) => Some(parse_entry_path(path)?),
    };
    Ok(SnapshotPath { snapshot, path })
}

/// Reads a path in a snapshot.
///
/// # Errors
/// [`crate::Exit::Usage`].
pub fn parse_entry_path(path: &[u8]) -> Outcome<EntryPath> {
    EntryPath::from_slashed(path).map_err(|error| {
        Failure::usage(
            error.to_string(),
            "write the path from the root, without . and ..",
        )
    })
}

/// The snapshots of a repository.
#[derive(Debug)]
pub struct Snapshots {
    /// Those that can be read, oldest first.
    pub heads: Vec<SnapshotHead>,
    /// Those that cannot.
    pub unread: Vec<UnreadSnapshot>,
}

impl Snapshots {
    /// The one of those that are there that a text means.
    fn one(&self, spec: &str) -> Outcome<&SnapshotHead> {
        let read = text::snapshot_spec(spec)?;
        select(&self.heads, &self.unread, &read).map_err(|error| named_as_given(error, spec).into())
    }

    /// Their ids.
    fn ids(&self) -> HashSet<SnapshotId> {
        let read = self.heads.iter().map(|head| head.meta.id);
        read.chain(self.unread.iter().map(|one| one.id)).collect()
    }

    /// What there is to say of those that cannot be read.
    #[must_use]
    pub fn damage(&self) -> Vec<Finding> {
        self.unread.iter().map(UnreadSnapshot::finding).collect()
    }
}

impl Console {
    /// All snapshots.
    ///
    /// # Errors
    /// Those of the tier.
    pub async fn all(&self, repo: &Repository) -> Outcome<Snapshots> {
        let (heads, unread) = repo.nearest_heads(&self.cx).await?;
        Ok(Snapshots { heads, unread })
    }

    /// All snapshots, each with whether it is held: by a hold on the tier, or by the word of the ledger
    /// where somebody took that away.
    ///
    /// # Errors
    /// Those of the tier.
    pub async fn all_and_holds(&self, repo: &Repository) -> Outcome<(Snapshots, Holds)> {
        let mut all = self.all(repo).await?;
        let holds = Holds::read(repo, &self.cx).await?;
        for head in &mut all.heads {
            head.meta.held = holds.has(head.meta.id);
        }
        Ok((all, holds))
    }

    /// The one snapshot that a text means.
    ///
    /// # Errors
    /// Those of [`Console::chosen`]; errors of the tier.
    pub async fn head(&self, repo: &Repository, spec: &str) -> Outcome<SnapshotHead> {
        let all = self.all(repo).await?;
        Ok(self.one(repo, &all, spec).await?.clone())
    }

    /// The snapshots that texts mean, each once.
    ///
    /// # Errors
    /// [`crate::Exit::Failed`] when none or several are meant by one text, [`crate::Exit::Damage`]
    /// when that may be one that cannot be read or is gone, [`crate::Exit::Usage`] for a time that no
    /// calendar has.
    pub async fn chosen<'a>(
        &self,
        repo: &Repository,
        all: &'a Snapshots,
        specs: &[String],
    ) -> Outcome<Vec<&'a SnapshotHead>> {
        let mut out: Vec<&SnapshotHead> = Vec::new();
        for spec in specs {
            let head = self.one(repo, all, spec).await?;
            if !out.iter().any(|other| other.meta.id == head.meta.id) {
                out.push(head);
            }
        }
        Ok(out)
    }

    /// Which is the newest goes by what the hosts say that the time is.
    fn warn_of_time(&self, head: &SnapshotHead) {
        let (now, time) = (self.cx.clock.now(), head.meta.time);
        let bound = now
            .saturating_add(MOST_AHEAD)
            .unwrap_or(jiff::Timestamp::MAX);
        if time > bound {
            self.warn(&format!(
                "snapshot {} is taken for the newest since it is dated {}, later than this machine's clock: that of the host which saved it was ahead, or this one is slow; `snapshot list` shows the others, and an id chooses one",
                head.meta.id,
                text::time(time)
            ));
        }
    }

    async fn one<'a>(
        &self,
        repo: &Repository,
        all: &'a Snapshots,
        spec: &str,
    ) -> Outcome<&'a SnapshotHead> {
        let read = text::snapshot_spec(spec)?;
        let head = all.one(spec);
        let rivals = match &head {
            Ok(head) => rivals(&read, head),
            Err(failure) if failure.exit == Exit::Failed => rivals_of_none(&read),
            Err(_) => None,
        };
        if let Ok(head) = &head
            && read.starts_with("latest")
        {
            self.warn_of_time(head);
        }
        let Some(rivals) = rivals else {
            return head;
        };
        match gone(repo, &self.cx, &rivals, &all.ids()).await {
            Ok(None) => head,
            Ok(Some(gone)) => {
                let spec = spec.to_owned();
                Err(EngineError::Gone { spec, gone }.into())
            }
            Err(_) if self.cx.cancel.is_cancelled() => Err(EngineError::Cancelled.into()),
            // What can be restored must not wait for a ledger that cannot be read.
            Err(error) => {
                self.note(&format!(
                    "the ledger cannot be read, so it is not known whether a newer snapshot is missing: {error}"
                ));
                head
            }
        }
    }

    /// What a list has to say beside the snapshots that it shows: which cannot be read, and which the ledger
    /// knows, nobody forgot, and are gone. [`Console::all_and_holds`] has read the ledger for the holds
    /// already, so this asks the tier for those alone that it did not list.
    ///
    /// # Errors
    /// Those of the tier.
    pub async fn not_shown(
        &self,
        repo: &Repository,
        all: &Snapshots,
        holds: &Holds,
    ) -> Outcome<Vec<Finding>> {
        let mut out = all.damage();
        let gone = holds.gone(repo, &self.cx, &all.ids()).await?;
        out.extend(gone.iter().map(|gone| {
            let detail = format!(
                "the ledger knows it, recorded {} by {}, nobody forgot it, and it is gone from the tier; `snapshot repair` puts its object back from its sidecar, or fetches it from another copy of the repository (--from); `snapshot forget {} --force` gives it up",
                text::time(gone.recorded),
                text::escape(gone.host.0.as_bytes()),
                gone.id,
            );
            let subject = format!("snapshot {}", gone.id);
            Finding::new(Severity::Error, FindingKind::Missing, subject, detail)
        }));
        Ok(out)
    }

    /// What there is to say of snapshots that cannot be read, and of a repository that has none though its
    /// ledger knows some.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`].
    pub async fn damage(&self, repo: &Repository, all: &Snapshots) -> Outcome<Vec<Finding>> {
        let mut out = all.damage();
        if all.heads.is_empty() && all.unread.is_empty() {
            out.extend(self.missing(repo, all, None).await?);
        }
        Ok(out)
    }

    /// What there is to say of snapshots that the ledger knows, of this host or of all, that nobody forgot, and that are
    /// gone.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`].
    pub async fn missing(
        &self,
        repo: &Repository,
        all: &Snapshots,
        host: Option<HostId>,
    ) -> Outcome<Option<Finding>> {
        let rivals = Rivals {
            host,
            ..Rivals::ALL
        };
        match gone(repo, &self.cx, &rivals, &all.ids()).await {
            Ok(gone) => Ok(gone.map(|gone| {
                let others = if all.heads.is_empty() { ", like all others" } else { "" };
                let detail = format!(
                    "the ledger knows it, nobody forgot it, and it is gone from the tier{others}; `snapshot ledger verify` names all of them; `snapshot repair` puts their objects back from their sidecars, or fetches them from another copy of the repository (--from); `snapshot forget ID --force` gives one up"
                );
                let subject = format!("snapshot {}", gone.id);
                Finding::new(Severity::Error, FindingKind::Missing, subject, detail)
            })),
            Err(_) if self.cx.cancel.is_cancelled() => Err(EngineError::Cancelled.into()),
            Err(error) => {
                self.note(&format!(
                    "the ledger cannot be read, so it is not known whether snapshots are missing: {error}"
                ));
                Ok(None)
            }
        }
    }

    /// Writes a list of snapshots.
    ///
    /// # Errors
    /// Output that cannot be written.
    pub fn snapshots<'a>(
        &mut self,
        metas: impl IntoIterator<Item = &'a SnapshotMeta>,
    ) -> Outcome<()> {
        let mut table = Table::new(&[
            ("ID", Align::Left),
            ("TIME", Align::Left),
            ("HOST", Align::Left),
            ("NAME", Align::Left),
            ("ENTRIES", Align::Right),
            ("SIZE", Align::Right),
            ("ADDED", Align::Right),
            ("TAGS", Align::Left),
        ]);
        let mut shown = 0u64;
        for meta in metas {
            self.record("snapshot", meta_members(meta))?;
            shown += 1;
            table.row([
                meta.id.short(),
                text::time(meta.time),
                text::escape(meta.host.0.as_bytes()),
                text::name(&meta.name),
                text::count(meta.stats.entries),
                text::bytes(meta.stats.bytes),
                text::bytes(meta.stats.bytes_added),
                marks(meta),
            ]);
        }
        if self.json() {
            return Ok(());
        }
        if shown == 0 {
            self.note("there are no such snapshots");
            return Ok(());
        }
        self.line(table.render())
    }
}

/// The error with the text that was given, not with the time that was read from it.
fn named_as_given(error: EngineError, given: &str) -> EngineError {
    match error {
        EngineError::NoSnapshot(_) => EngineError::NoSnapshot(given.to_owned()),
        EngineError::Unsure { id, why, .. } => EngineError::Unsure {
            spec: given.to_owned(),
            id,
            why,
        },
        other => other,
    }
}

/// Tags, and what else there is to say of a snapshot in one column.
#[must_use]
pub fn marks(meta: &SnapshotMeta) -> String {
    let mut out: Vec<String> = meta
        .tags
        .iter()
        .map(|tag| text::escape(tag.as_bytes()))
        .collect();
    if let Some(label) = &meta.label {
        out.push(format!("[{}]", text::escape(label.as_bytes())));
    }
    if meta.held {
        out.push("held".into());
    }
    if meta.partial {
        out.push("partial".into());
    }
    if meta.findings > 0 {
        out.push(text::plural(meta.findings, "finding", "findings"));
    }
    out.join(" ")
}

/// The members of a snapshot's JSON line.
#[must_use]
pub fn meta_members(meta: &SnapshotMeta) -> Value {
    let stats = &meta.stats;
    json!({
        "id": meta.id.to_string(),
        "short_id": meta.id.short(),
        "time": meta.time.to_string(),
        "host": meta.host.0,
        "name": meta.name,
        "tags": meta.tags,
        "label": meta.label,
        "held": meta.held,
        "partial": meta.partial,
        "findings": meta.findings,
        "parent": meta.parent.map(|parent| parent.to_string()),
        "entries": stats.entries,
        "files": stats.files,
        "bytes": stats.bytes,
        "unchanged": stats.unchanged,
        "bytes_read": stats.bytes_read,
        "bytes_new": stats.bytes_new,
        "bytes_added": stats.bytes_added,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (String, Option<String>) {
        let parsed = parse_snapshot_path(std::ffi::OsStr::new(text)).unwrap();
        (parsed.snapshot, parsed.path.map(|path| path.to_string()))
    }

    #[test]
    fn a_path_begins_with_a_slash_and_a_line_may_hold_colons() {
        let path = |text: &str| Some(text.to_owned());
        assert_eq!(parse("latest"), ("latest".into(), None));
        assert_eq!(parse("latest:etc"), ("latest:etc".into(), None));
        assert_eq!(parse("latest:/etc"), ("latest".into(), path("etc")));
        assert_eq!(
            parse("latest:etc:/etc/hosts"),
            ("latest:etc".into(), path("etc/hosts"))
        );
        assert_eq!(parse("01ARZ3ND:/a:/b"), ("01ARZ3ND".into(), path("a:/b")));
        assert_eq!(
            parse("2026-11-21T10:00:00Z"),
            ("2026-11-21T10:00:00Z".into(), None)
        );
        assert_eq!(parse("latest:/"), ("latest".into(), path("")));
        assert!(parse_snapshot_path(std::ffi::OsStr::new("latest:/a/../b")).is_err());
    }
}
