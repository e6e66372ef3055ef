//! `restore diff`.

use std::cmp::Ordering;

use backstay::core::EntryPath;
use backstay::engine::SnapshotView;
use backstay::engine::view::{Entries, ViewEntry};
use backstay::format::config::Operation;
use backup_terminal::{Console, Exit, Failure, Outcome, parse_entry_path, text};
use serde_json::{Value, json};

use crate::cli::DiffArgs;
use crate::look::{kind_name, path_members, show_path};
use crate::place;

/// How an entry differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Added,
    Removed,
    Kind,
    Content,
    Metadata,
}

impl Change {
    const fn letter(self) -> char {
        match self {
            Self::Added => '+',
            Self::Removed => '-',
            Self::Kind => 'T',
            Self::Content => 'M',
            Self::Metadata => 'm',
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Kind => "kind",
            Self::Content => "content",
            Self::Metadata => "metadata",
        }
    }
}

#[derive(Debug, Default)]
struct Totals {
    seen: u64,
    added: u64,
    removed: u64,
    changed: u64,
    metadata: u64,
    bytes_added: u64,
    bytes_removed: u64,
}

/// Shows what differs between two snapshots.
pub(crate) async fn diff(console: &mut Console, args: &DiffArgs) -> Outcome {
    use std::os::unix::ffi::OsStrExt as _;
    let below = match &args.path {
        Some(path) => parse_entry_path(path.as_bytes())?,
        None => EntryPath::root(),
    };
    let repo = console.open(Operation::Read).await?;
    let old = place::open(console, &repo, &args.old).await?;
    let new = place::open(console, &repo, &args.new).await?;
    let mut totals = Totals::default();
    let count = old.components().len().max(new.components().len());
    for component in 0..u8::try_from(count).unwrap_or(u8::MAX) {
        walk(console, (&old, &new), component, &below, &mut totals).await?;
    }
    if totals.seen == 0 && !below.is_root() {
        return Err(Failure::new(
            Exit::Failed,
            format!("{} is in neither snapshot", show_path(&below)),
            "`restore ls` lists what is in them; paths begin at the root",
        ));
    }
    console.record(
        "diff",
        json!({
            "old": old.meta().id.to_string(),
            "new": new.meta().id.to_string(),
            "added": totals.added,
            "removed": totals.removed,
            "changed": totals.changed,
            "metadata": totals.metadata,
            "bytes_added": totals.bytes_added,
            "bytes_removed": totals.bytes_removed,
        }),
    )?;
    if console.talks() {
        let number = text::count;
        console.line(format!(
            "{} added ({}), {} removed ({}), {} changed, {} with other metadata",
            number(totals.added),
            text::bytes(totals.bytes_added),
            number(totals.removed),
            text::bytes(totals.bytes_removed),
            number(totals.changed),
            number(totals.metadata),
        ))?;
    }
    Ok(Exit::Ok)
}

async fn walk(
    console: &mut Console,
    (old, new): (&SnapshotView<'_>, &SnapshotView<'_>),
    component: u8,
    below: &EntryPath,
    totals: &mut Totals,
) -> Outcome<()> {
    let mut sides: (Entries<'_>, Entries<'_>) =
        (old.entries(component, below), new.entries(component, below));
    let mut left = sides.0.next(&console.cx).await?;
    let mut right = sides.1.next(&console.cx).await?;
    loop {
        let order = match (&left, &right) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(left), Some(right)) => left.path.cmp(&right.path),
        };
        let (gone, come) = match order {
            Ordering::Less => (left.take(), None),
            Ordering::Greater => (None, right.take()),
            Ordering::Equal => (left.take(), right.take()),
        };
        if order != Ordering::Greater {
            left = sides.0.next(&console.cx).await?;
        }
        if order != Ordering::Less {
            right = sides.1.next(&console.cx).await?;
        }
        one(console, gone.as_ref(), come.as_ref(), totals)?;
    }
}

fn one(
    console: &mut Console,
    old: Option<&ViewEntry>,
    new: Option<&ViewEntry>,
    totals: &mut Totals,
) -> Outcome<()> {
    totals.seen += 1;
    let (entry, change) = match (old, new) {
        (Some(old), None) => {
            totals.removed += 1;
            totals.bytes_removed += old.record.size;
            (old, Change::Removed)
        }
        (None, Some(new)) => {
            totals.added += 1;
            totals.bytes_added += new.record.size;
            (new, Change::Added)
        }
        (Some(old), Some(new)) => {
            let Some(change) = change_of(old, new) else {
                return Ok(());
            };
            match change {
                Change::Metadata => totals.metadata += 1,
                _ => totals.changed += 1,
            }
            (new, change)
        }
        (None, None) => return Ok(()),
    };
    if console.json() {
        let mut members = json!({
            "change": change.name(),
            "kind": kind_name(&entry.record.meta.kind),
            "size": entry.record.size,
            "old_size": old.map(|old| old.record.size),
        });
        if let Value::Object(members) = &mut members {
            for (name, value) in path_members(&entry.path) {
                members.insert(name.into(), value);
            }
        }
        return console.record("change", members);
    }
    console.line(format!("{} {}", change.letter(), show_path(&entry.path)))
}

fn change_of(old: &ViewEntry, new: &ViewEntry) -> Option<Change> {
    let (old, new) = (&old.record, &new.record);
    if std::mem::discriminant(&old.meta.kind) != std::mem::discriminant(&new.meta.kind) {
        return Some(Change::Kind);
    }
    let same_content = old.size == new.size
        && match (old.sha256, new.sha256) {
            (Some(old), Some(new)) => old == new,
            _ => old.content == new.content,
        };
    if !same_content || old.meta.kind != new.meta.kind {
        return Some(Change::Content);
    }
    (old.meta != new.meta).then_some(Change::Metadata)
}
