//! `restore list`, `ls` and `find`.

use std::os::unix::ffi::OsStrExt as _;

use backstay::core::{EntryKind, EntryPath, Finding, FindingKind, Severity};
use backstay::engine::SnapshotView;
use backstay::engine::repository::{Repository, SnapshotHead};
use backstay::engine::view::ViewEntry;
use backstay::format::config::Operation;
use backstay::integrity::merkle::MerkleRoot;
use backup_terminal::{
    Console, Exit, Failure, Look, Outcome, SnapshotPath, parse_snapshot_path, text,
};
use globset::{GlobBuilder, GlobMatcher};
use serde_json::{Value, json};

use crate::cli::{FindArgs, ListArgs, LsArgs};
use crate::losses::Losses;
use crate::place;

/// Lists snapshots.
pub(crate) async fn list(console: &mut Console, args: &ListArgs) -> Outcome {
    let repo = console.open(Operation::Read).await?;
    let (all, holds) = console.all_and_holds(&repo).await?;
    let damage = console.not_shown(&repo, &all, &holds).await?;
    let metas = all.heads.iter().map(|head| &head.meta);
    console.snapshots(metas.filter(|meta| args.filter.takes(meta)))?;
    console.findings(&damage, 0)?;
    Ok(if damage.is_empty() {
        Exit::Ok
    } else {
        Exit::Damage
    })
}

/// Lists entries.
pub(crate) async fn ls(console: &mut Console, args: &LsArgs) -> Outcome {
    let wanted = parse_snapshot_path(&args.snapshot)?;
    let repo = console.open(Operation::Read).await?;
    let view = place::open(console, &repo, &wanted.snapshot).await?;
    let mut losses = Losses::default();
    let done = list_entries(console, &view, &wanted, args, &mut losses).await;
    let looked = Look::at("ls", &view, losses.seen());
    console.record_look(&repo, looked, &done).await;
    done
}

async fn list_entries(
    console: &mut Console,
    view: &SnapshotView<'_>,
    wanted: &SnapshotPath,
    args: &LsArgs,
    losses: &mut Losses,
) -> Outcome {
    for part in place::parts(console, view, wanted).await? {
        let depth = part.path.components().count();
        let is_folder = part
            .entry
            .as_ref()
            .is_none_or(|entry| entry.record.meta.kind == EntryKind::Directory);
        let mut walk = view.entries(part.component, &part.path);
        while let Some(entry) = losses.next(console, view, &mut walk).await? {
            let level = entry.path.components().count();
            if is_folder && level == depth {
                continue;
            }
            if !args.recursive && entry.record.meta.kind == EntryKind::Directory {
                walk.skip_below(&entry);
            }
            write_entry(console, view, &entry, args.long)?;
        }
    }
    losses.tell(console)
}

/// Finds entries by name.
pub(crate) async fn find(console: &mut Console, args: &FindArgs) -> Outcome {
    let glob = GlobBuilder::new(args.pattern.trim_matches('/'))
        .literal_separator(true)
        .build()
        .map_err(|error| Failure::usage(error.to_string(), "write a glob such as '*.conf'"))?
        .compile_matcher();
    let repo = console.open(Operation::Read).await?;
    let all = console.all(&repo).await?;
    let chosen: Vec<&SnapshotHead> = if args.snapshots.is_empty() {
        let takes = |head: &&SnapshotHead| args.filter.takes(&head.meta);
        all.heads.iter().filter(takes).collect()
    } else {
        console.chosen(&repo, &all, &args.snapshots).await?
    };
    let mut search = Search::new(glob, args);
    let damage = console.damage(&repo, &all).await?;
    let done = search_all(console, &repo, &mut search, &chosen, damage).await;
    let looked = Look {
        op: "find",
        snapshot: match chosen[..] {
            [one] => Some((one.meta.id, MerkleRoot(one.outer.merkle_root))),
            _ => None,
        },
        counts: vec![
            ("snapshots", chosen.len() as u64),
            ("entries", search.losses.seen()),
        ],
        note: String::new(),
    };
    console.record_look(&repo, looked, &done).await;
    done
}

async fn search_all(
    console: &mut Console,
    repo: &Repository,
    search: &mut Search<'_>,
    chosen: &[&SnapshotHead],
    damage: Vec<Finding>,
) -> Outcome {
    let mut hurt = Vec::new();
    for head in chosen {
        match search.one(console, repo, head).await {
            Ok(()) => {}
            Err(Failure {
                exit: Exit::Damage,
                what,
                ..
            }) => {
                let subject = format!("snapshot {}", head.meta.id);
                hurt.push(Finding::new(
                    Severity::Error,
                    FindingKind::Damaged,
                    subject,
                    what,
                ));
            }
            Err(failure) => return Err(failure),
        }
    }
    let is_none_whole = !hurt.is_empty() && hurt.len() == chosen.len();
    let is_any_unread = !damage.is_empty();
    hurt.extend(damage);
    console.findings(&hurt, 0)?;
    let ending = search.losses.tell(console)?;
    if search.found == 0 {
        console.note("nothing was found");
    }
    Ok(if is_none_whole || is_any_unread {
        Exit::Damage
    } else if hurt.is_empty() {
        ending
    } else {
        Exit::Findings
    })
}

/// A search through snapshots.
struct Search<'a> {
    glob: GlobMatcher,
    args: &'a FindArgs,
    found: u64,
    losses: Losses,
}

impl<'a> Search<'a> {
    fn new(glob: GlobMatcher, args: &'a FindArgs) -> Self {
        Self {
            glob,
            args,
            found: 0,
            losses: Losses::default(),
        }
    }

    /// Searches a snapshot. It fails with [`Exit::Damage`] where nothing more of it can be read.
    async fn one(
        &mut self,
        console: &mut Console,
        repo: &Repository,
        head: &SnapshotHead,
    ) -> Outcome<()> {
        let view = SnapshotView::open(repo, head.clone())?;
        let mut walk = view.all();
        let mut is_first = true;
        while let Some(entry) = self.losses.next(console, &view, &mut walk).await? {
            let subject = if self.args.pattern.trim_end_matches('/').contains('/') {
                entry.path.to_slashed()
            } else {
                entry.path.name().unwrap_or_default().to_vec()
            };
            if !self.glob.is_match(std::ffi::OsStr::from_bytes(&subject)) {
                continue;
            }
            self.found += 1;
            if is_first {
                let meta = view.meta();
                let (name, time) = (text::name(&meta.name), text::time(meta.time));
                console.line(format!("{}  {time}  {name}", meta.id.short()))?;
                is_first = false;
            }
            if !console.json() {
                console.raw(b"  ")?;
            }
            write_entry(console, &view, &entry, self.args.long)?;
        }
        Ok(())
    }
}

fn write_entry(
    console: &mut Console,
    view: &SnapshotView<'_>,
    entry: &ViewEntry,
    long: bool,
) -> Outcome<()> {
    if console.json() {
        return console.record("entry", entry_members(view, entry));
    }
    let path = show_path(&entry.path);
    if !long {
        return console.line(path);
    }
    let (meta, size) = (&entry.record.meta, entry.record.size);
    let (user, group) = owner(entry);
    let mut line = format!(
        "{} {user:>8} {group:>8} {size:>12} {} {path}",
        mode(&meta.kind, meta.mode),
        text::file_time(meta.mtime),
    );
    if let EntryKind::Symlink(target) = &meta.kind {
        line.push_str(" -> ");
        line.push_str(&text::escape(target));
    }
    console.line(line)
}

fn owner(entry: &ViewEntry) -> (String, String) {
    let Some(owner) = &entry.record.meta.owner else {
        return ("-".into(), "-".into());
    };
    let name = |name: &Option<std::sync::Arc<str>>, number: u32| match name {
        Some(name) => text::escape(name.as_bytes()),
        None => number.to_string(),
    };
    (name(&owner.user, owner.uid), name(&owner.group, owner.gid))
}

/// A path with the slash in front with which it can be named.
pub(crate) fn show_path(path: &EntryPath) -> String {
    format!("/{}", text::escape(&path.to_slashed()))
}

/// The name of a kind in JSON lines.
pub(crate) const fn kind_name(kind: &EntryKind) -> &'static str {
    match kind {
        EntryKind::File => "file",
        EntryKind::Directory => "directory",
        EntryKind::Symlink(_) => "symlink",
        EntryKind::Fifo => "fifo",
        EntryKind::Socket => "socket",
        EntryKind::CharDevice { .. } => "char-device",
        EntryKind::BlockDevice { .. } => "block-device",
        EntryKind::Stream => "stream",
        EntryKind::Disk => "disk",
    }
}

fn mode(kind: &EntryKind, mode: u32) -> String {
    let first = match kind {
        EntryKind::File | EntryKind::Stream | EntryKind::Disk => '-',
        EntryKind::Directory => 'd',
        EntryKind::Symlink(_) => 'l',
        EntryKind::Fifo => 'p',
        EntryKind::Socket => 's',
        EntryKind::CharDevice { .. } => 'c',
        EntryKind::BlockDevice { .. } => 'b',
    };
    let mut out = String::from(first);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        out.push(if bits & 4 != 0 { 'r' } else { '-' });
        out.push(if bits & 2 != 0 { 'w' } else { '-' });
        out.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    out
}

/// The members of a path: as text, and where it is not UTF-8 its bytes as well.
pub(crate) fn path_members(path: &EntryPath) -> Vec<(&'static str, Value)> {
    let mut bytes = b"/".to_vec();
    bytes.extend(path.to_slashed());
    bytes_members(&bytes)
}

/// The members of a path that is given from its slash on.
pub(crate) fn bytes_members(bytes: &[u8]) -> Vec<(&'static str, Value)> {
    let mut out = vec![("path", String::from_utf8_lossy(bytes).into())];
    if std::str::from_utf8(bytes).is_err() {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        out.push(("path_hex", hex.into()));
    }
    out
}

fn entry_members(view: &SnapshotView<'_>, entry: &ViewEntry) -> Value {
    let record = &entry.record;
    let meta = &record.meta;
    let mut out = json!({
        "snapshot": view.meta().id.to_string(),
        "component": view.component_name(entry.component),
        "kind": kind_name(&meta.kind),
        "mode": format!("{:04o}", meta.mode),
        "size": record.size,
        "mtime": meta.mtime.seconds,
        "mtime_nanos": meta.mtime.nanos,
        "uid": meta.owner.as_ref().map(|owner| owner.uid),
        "gid": meta.owner.as_ref().map(|owner| owner.gid),
        "user": meta.owner.as_ref().and_then(|owner| owner.user.as_deref()),
        "group": meta.owner.as_ref().and_then(|owner| owner.group.as_deref()),
        "sha256": record.sha256.map(|digest| backstay::integrity::digest::ContentDigest(digest).to_string()),
    });
    if let Value::Object(members) = &mut out {
        for (name, value) in path_members(&entry.path) {
            members.insert(name.into(), value);
        }
        if let EntryKind::Symlink(target) = &meta.kind {
            members.insert("target".into(), String::from_utf8_lossy(target).into());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_shown_as_ls_shows_them() {
        assert_eq!(mode(&EntryKind::File, 0o644), "-rw-r--r--");
        assert_eq!(mode(&EntryKind::Directory, 0o1777), "drwxrwxrwt");
        assert_eq!(mode(&EntryKind::File, 0o6755), "-rwsr-sr-x");
        assert_eq!(mode(&EntryKind::File, 0o4644), "-rwSr--r--");
    }
}
