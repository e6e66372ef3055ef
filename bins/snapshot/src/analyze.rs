//! `snapshot analyze`.

use backstay::core::{EntryPath, Finding, Severity};
use backstay::engine::SnapshotView;
use backstay::engine::analyze::{self, Analysis, Changed, ChunkBytes, Counted, Kind, Large};
use backstay::format::config::Operation;
use backup_terminal::{Align, Console, Exit, Failure, Look, Outcome, Table, text};
use serde_json::{Map, Value, json};

use crate::cli::AnalyzeArgs;

/// Explains what a snapshot takes.
pub(crate) async fn analyze(console: &mut Console, args: &AnalyzeArgs) -> Outcome {
    let repo = console.open(Operation::Read).await?;
    let head = console.head(&repo, &args.snapshot).await?;
    let view = SnapshotView::open(&repo, head)?;
    let cx = console.cx.clone();
    let found = analyze::analyze(&view, &cx, usize::from(args.top)).await;
    console.end_progress();
    let found = found.map_err(Failure::from);
    let entries = |found: &Analysis| found.components.iter().map(|one| one.entries).sum::<u64>();
    let looked = Look::at("analyze", &view, found.as_ref().map_or(0, entries));
    let done = found.as_ref().map(ending).map_err(Clone::clone);
    console.record_look(&repo, looked, &done).await;
    let found = found?;
    let _ = console.findings(&found.findings, 0)?;
    console.record("analysis", members(&view, &found))?;
    show(console, &view, &found)?;
    Ok(ending(&found))
}

/// How it ends.
fn ending(found: &Analysis) -> Exit {
    let serious = |finding: &Finding| finding.severity > Severity::Note;
    match found.findings.iter().any(serious) {
        true => Exit::Findings,
        false => Exit::Ok,
    }
}

/// Bytes of content, and bytes of it that are holes.
fn source(found: &Analysis) -> (u64, u64) {
    let sum = |of: fn(&analyze::ComponentUse) -> u64| found.components.iter().map(of).sum();
    (sum(|one| one.bytes), sum(|one| one.holes))
}

/// How many times smaller, to two places; nothing if there is nothing.
fn ratio(large: u64, small: u64) -> Option<f64> {
    let ratio = (small > 0).then(|| large as f64 / small as f64);
    ratio.map(|ratio| (ratio * 100.0).round() / 100.0)
}

fn members(view: &SnapshotView<'_>, found: &Analysis) -> Value {
    let (bytes, holes) = source(found);
    let components = found.components.iter().map(|one| {
        json!({
            "component": one.name,
            "kind": one.kind,
            "entries": one.entries,
            "files": one.files,
            "bytes": one.bytes,
            "holes": one.holes,
            "stored": one.stored,
            "unique": one.unique,
        })
    });
    let sharing = found.sharing.iter().map(|one| {
        json!({
            "snapshot": one.snapshot.id.to_string(),
            "time": one.snapshot.time.to_string(),
            "host": one.snapshot.host.0,
            "name": one.snapshot.name,
            "stored": one.stored,
        })
    });
    json!({
        "snapshot": view.meta().id.to_string(),
        "bytes": bytes,
        "holes": holes,
        "dedup_ratio": ratio(bytes - holes.min(bytes), found.content.raw),
        "compression_ratio": ratio(found.content.raw, found.content.stored),
        "content": chunk_members(&found.content),
        "description": chunk_members(&found.description),
        "components": components.collect::<Vec<_>>(),
        "files": large_members(view, &found.files),
        "folders": large_members(view, &found.folders),
        "changes": found.changed.as_ref().map(|changed| changed_members(view, changed)),
        "sharing": sharing.collect::<Vec<_>>(),
        "sharing_count": found.sharing_count,
    })
}

fn chunk_members(bytes: &ChunkBytes) -> Value {
    json!({
        "chunks": bytes.chunks,
        "raw": bytes.raw,
        "stored": bytes.stored,
        "unique": bytes.unique,
        "new": bytes.new,
        "packs": bytes.packs,
        "pack_bytes": bytes.pack_bytes,
        "unique_packs": bytes.unique_packs,
    })
}

/// The members of a path, with those of what it is of before.
fn path_members(component: &str, path: &EntryPath) -> Map<String, Value> {
    let bytes = [b"/", &path.to_slashed()[..]].concat();
    let mut out = Map::new();
    out.insert("component".into(), component.into());
    out.insert("path".into(), String::from_utf8_lossy(&bytes).into());
    if std::str::from_utf8(&bytes).is_err() {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        out.insert("path_hex".into(), hex.into());
    }
    out
}

fn large_members(view: &SnapshotView<'_>, large: &[Large]) -> Vec<Value> {
    let members = |one: &Large| {
        let mut out = path_members(view.component_name(one.component), &one.path);
        for (name, bytes) in [
            ("size", one.taken.size),
            ("holes", one.taken.holes),
            ("stored", one.taken.stored),
            ("unique", one.taken.unique),
            ("new", one.taken.new),
        ] {
            out.insert(name.into(), bytes.into());
        }
        Value::Object(out)
    };
    large.iter().map(members).collect()
}

const fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Added => "added",
        Kind::Removed => "removed",
        Kind::Changed => "changed",
    }
}

fn changed_members(view: &SnapshotView<'_>, changed: &Changed) -> Value {
    let counted = |one: Counted| json!({ "entries": one.entries, "bytes": one.bytes });
    let largest = changed.largest.iter().map(|one| {
        let mut out = path_members(view.component_name(one.component), &one.path);
        out.insert("change".into(), word(one.kind).into());
        out.insert("size".into(), one.sizes.0.into());
        out.insert("old_size".into(), one.sizes.1.into());
        out.insert("bytes".into(), one.bytes.into());
        out.insert("stored".into(), one.stored.into());
        Value::Object(out)
    });
    json!({
        "parent": changed.parent.to_string(),
        "added": counted(changed.added),
        "removed": counted(changed.removed),
        "changed": counted(changed.changed),
        "largest": largest.collect::<Vec<_>>(),
    })
}

fn times(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2} ×"))
}

fn show(console: &mut Console, view: &SnapshotView<'_>, found: &Analysis) -> Outcome<()> {
    let (bytes, holes) = source(found);
    let (content, description) = (&found.content, &found.description);
    let stored = content.stored + description.stored;
    let unique = content.unique + description.unique;
    console.line(format!(
        "{} of {}",
        view.meta().id,
        text::name(&view.meta().name)
    ))?;
    let holes = match holes {
        0 => String::new(),
        holes => format!(", {} of them holes", text::bytes(holes)),
    };
    let lines = [
        ("content", format!("{}{holes}", text::bytes(bytes))),
        (
            "stored",
            format!(
                "{}: {} of content, {} of what describes it",
                text::bytes(stored),
                text::bytes(content.stored),
                text::bytes(description.stored)
            ),
        ),
        (
            "smaller by",
            format!(
                "{} by deduplication, {} by compression",
                times(ratio(
                    source(found).0 - source(found).1.min(bytes),
                    content.raw
                )),
                times(ratio(content.raw, content.stored))
            ),
        ),
        (
            "unique",
            format!(
                "{}: forgetting it and pruning gives back about so much",
                text::bytes(unique)
            ),
        ),
        (
            "lies in",
            format!(
                "{} of {}; no other snapshot uses {}",
                text::plural(content.packs + description.packs, "pack", "packs"),
                text::bytes(content.pack_bytes + description.pack_bytes),
                text::count(content.unique_packs + description.unique_packs)
            ),
        ),
        (
            "shares with",
            text::plural(found.sharing_count, "other snapshot", "other snapshots"),
        ),
    ];
    for (name, value) in lines {
        console.line(format!("  {name:<12}{value}"))?;
    }
    show_components(console, found)?;
    show_large(console, found)?;
    if let Some(changed) = &found.changed {
        show_changes(console, changed)?;
    }
    show_sharing(console, found)
}

fn show_components(console: &mut Console, found: &Analysis) -> Outcome<()> {
    if found.components.len() < 2 {
        return Ok(());
    }
    let mut table = table(&["COMPONENT", "SIZE", "STORED", "UNIQUE"]);
    for one in &found.components {
        let [size, stored, unique] = [one.bytes, one.stored, one.unique].map(text::bytes);
        table.row([text::name(&one.name), size, stored, unique]);
    }
    console.line(table.render())
}

fn show_large(console: &mut Console, found: &Analysis) -> Outcome<()> {
    for (title, large) in [
        ("LARGEST FILES", &found.files),
        ("LARGEST FOLDERS", &found.folders),
    ] {
        if large.is_empty() {
            continue;
        }
        let mut table = table(&[title, "SIZE", "STORED", "UNIQUE"]);
        for one in large {
            let [size, stored, unique] =
                [one.taken.size, one.taken.stored, one.taken.unique].map(text::bytes);
            table.row([shown(&one.path), size, stored, unique]);
        }
        console.line(table.render())?;
    }
    Ok(())
}

fn show_sharing(console: &mut Console, found: &Analysis) -> Outcome<()> {
    if found.sharing.is_empty() {
        return Ok(());
    }
    let mut table = table(&["SHARES WITH", "NAME", "TIME", "STORED"]);
    for one in &found.sharing {
        let meta = &one.snapshot;
        table.row([
            meta.id.short(),
            text::name(&meta.name),
            text::time(meta.time),
            text::bytes(one.stored),
        ]);
    }
    console.line(table.render())
}

fn show_changes(console: &mut Console, changed: &Changed) -> Outcome<()> {
    let counted = |one: Counted, word: &str| {
        let entries = text::plural(one.entries, "entry", "entries");
        format!("{entries} {word} ({})", text::bytes(one.bytes))
    };
    console.line(format!(
        "  since {}: {}, {}, {}",
        changed.parent.short(),
        counted(changed.added, "added"),
        counted(changed.removed, "removed"),
        counted(changed.changed, "changed"),
    ))?;
    if changed.largest.is_empty() {
        return Ok(());
    }
    let mut table = table(&["LARGEST CHANGES", "", "BYTES", "STORED"]);
    for one in &changed.largest {
        let [bytes, stored] = [one.bytes, one.stored].map(text::bytes);
        table.row([shown(&one.path), word(one.kind).to_owned(), bytes, stored]);
    }
    console.line(table.render())
}

fn table(names: &[&str; 4]) -> Table {
    let right = |number: usize| match number {
        0 => Align::Left,
        _ => Align::Right,
    };
    let columns: Vec<_> = (names.iter().enumerate())
        .map(|(number, name)| (*name, right(number)))
        .collect();
    Table::new(&columns)
}

fn shown(path: &EntryPath) -> String {
    format!("/{}", text::escape(&path.to_slashed()))
}
