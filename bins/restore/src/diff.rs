//! `restore diff`.

use std::cmp::Ordering;

use backstay::core::EntryPath;
use backstay::engine::SnapshotView;
use backstay::engine::lost::LostPage;
use backstay::engine::view::{Entries, Seen, ViewEntry};
use backstay::format::config::Operation;
use backup_terminal::{Console, Exit, Failure, Look, Outcome, parse_entry_path, text};
use serde_json::{Value, json};

use crate::cli::DiffArgs;
use crate::look::{kind_name, path_members, show_path};
use crate::losses::Losses;
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

/// One of the two snapshots, on its way through a component.
struct Side<'v> {
    view: &'v SnapshotView<'v>,
    walk: Entries<'v>,
    next: Option<ViewEntry>,
    /// Pages that cannot be read: what the other snapshot has there may be in this one too.
    lost: Vec<LostPage>,
}

impl<'v> Side<'v> {
    fn new(view: &'v SnapshotView<'v>, component: u8, below: &EntryPath) -> Self {
        Self {
            view,
            walk: view.entries(component, below),
            next: None,
            lost: Vec::new(),
        }
    }

    /// Goes on to the next entry that can be read.
    async fn advance(&mut self, console: &Console, losses: &mut Losses) -> Outcome<()> {
        self.next = loop {
            match self.walk.step(&console.cx).await? {
                Some(Seen::Entry(entry)) => break Some(*entry),
                Some(Seen::Lost(lost)) => {
                    losses.add(self.view, &lost);
                    self.lost.push(*lost);
                }
                None => break None,
            }
        };
        Ok(())
    }

    /// Whether nobody knows if this snapshot has an entry that the other one has. The entries that
    /// are asked for come in order.
    fn may_have(&mut self, other: &ViewEntry) -> bool {
        let (component, path) = (other.component, &other.path);
        self.lost.retain(|lost| !lost.ends_before(component, path));
        self.lost.iter().any(|lost| lost.covers(component, path))
    }
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
    let done = compare(console, &old, &new, &below, &mut totals).await;
    let mut looked = Look::at("diff", &new, totals.seen);
    looked.note = format!("against {}", old.meta().id);
    console.record_look(&repo, looked, &done).await;
    done
}

async fn compare(
    console: &mut Console,
    old: &SnapshotView<'_>,
    new: &SnapshotView<'_>,
    below: &EntryPath,
    totals: &mut Totals,
) -> Outcome {
    let mut losses = Losses::default();
    let count = old.components().len().max(new.components().len());
    for component in 0..u8::try_from(count).unwrap_or(u8::MAX) {
        let (old, new) = (
            Side::new(old, component, below),
            Side::new(new, component, below),
        );
        walk(console, old, new, totals, &mut losses).await?;
    }
    let ending = losses.tell(console)?;
    // It may be among what cannot be read.
    if totals.seen == 0 && !below.is_root() && matches!(ending, Exit::Ok) {
        return Err(Failure::new(
            Exit::Failed,
            format!("{} is in neither snapshot", show_path(below)),
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
    Ok(ending)
}

async fn walk(
    console: &mut Console,
    mut old: Side<'_>,
    mut new: Side<'_>,
    totals: &mut Totals,
    losses: &mut Losses,
) -> Outcome<()> {
    old.advance(console, losses).await?;
    new.advance(console, losses).await?;
    loop {
        let order = match (&old.next, &new.next) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.path.cmp(&new.path),
        };
        let (gone, come) = match order {
            Ordering::Less => (old.next.take(), None),
            Ordering::Greater => (None, new.next.take()),
            Ordering::Equal => (old.next.take(), new.next.take()),
        };
        let is_unknown = match (&gone, &come) {
            (Some(gone), None) => new.may_have(gone),
            (None, Some(come)) => old.may_have(come),
            _ => false,
        };
        if order != Ordering::Greater {
            old.advance(console, losses).await?;
        }
        if order != Ordering::Less {
            new.advance(console, losses).await?;
        }
        if !is_unknown {
            one(console, gone.as_ref(), come.as_ref(), totals)?;
        }
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
