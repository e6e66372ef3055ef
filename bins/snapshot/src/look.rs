//! `snapshot list`, `show` and `stats`.

use std::collections::BTreeMap;

use backstay::core::ObjectMeta;
use backstay::engine::SnapshotView;
use backstay::engine::hold::Holds;
use backstay::engine::repository::Repository;
use backstay::format::config::Operation;
use backup_terminal::snapshots::{marks, meta_members};
use backup_terminal::{Align, Console, Exit, Look, Outcome, Table, text};
use futures::StreamExt as _;
use serde_json::json;

use crate::cli::{ListArgs, ShowArgs};

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

/// Shows a snapshot.
pub(crate) async fn show(console: &mut Console, args: &ShowArgs) -> Outcome {
    let repo = console.open(Operation::Read).await?;
    let head = console.head(&repo, &args.snapshot).await?;
    let mut meta = head.meta.clone();
    meta.held = Holds::read(&repo, &console.cx).await?.has(meta.id);
    let checked = backstay::engine::view::check_signatures(&repo, &head);
    let root = backstay::integrity::merkle::MerkleRoot(head.outer.merkle_root);
    let key = backstay::integrity::sign::PublicKey(head.object.public_key);
    let signed = match &checked {
        Ok(()) => "valid",
        Err(_) => "INVALID",
    };
    let mut members = meta_members(&meta);
    let mut lines = vec![
        ("snapshot", meta.id.to_string()),
        ("name", text::name(&meta.name)),
        ("host", text::escape(meta.host.0.as_bytes())),
        ("time", text::time(meta.time)),
        (
            "entries",
            format!(
                "{} ({})",
                text::count(meta.stats.entries),
                text::plural(meta.stats.files, "file", "files")
            ),
        ),
        ("size", text::bytes(meta.stats.bytes)),
        ("unchanged", text::count(meta.stats.unchanged)),
        ("read", text::bytes(meta.stats.bytes_read)),
        ("new", text::bytes(meta.stats.bytes_new)),
        ("added", text::bytes(meta.stats.bytes_added)),
        (
            "parent",
            meta.parent
                .map_or("none".into(), |parent| parent.to_string()),
        ),
        ("marks", marks(&meta)),
        ("root", root.to_string()),
        ("signed by", key.to_string()),
        ("signature", signed.to_owned()),
    ];
    let mut findings = Vec::new();
    // Keys that may not read know the head alone.
    if let Ok(view) = SnapshotView::open(&repo, head) {
        let (program, user) = view.made_by();
        lines.push((
            "made by",
            format!(
                "{} as {}",
                text::escape(program.as_bytes()),
                text::escape(user.as_bytes())
            ),
        ));
        for component in view.components() {
            let origin: Vec<String> = component
                .origin
                .iter()
                .map(|origin| text::escape(origin.as_bytes()))
                .collect();
            lines.push((
                "content",
                format!("{}: {}", component.kind, origin.join(", ")),
            ));
        }
        findings = view.findings();
        if let Some(members) = members.as_object_mut() {
            members.insert("program".into(), program.into());
            members.insert("user".into(), user.into());
            members.insert("components".into(), json!(view.components()));
        }
        let looked = Look::at("show", &view, 0);
        console.record_look(&repo, looked, &Ok(Exit::Ok)).await;
    }
    if let Some(members) = members.as_object_mut() {
        members.insert("root".into(), root.to_string().into());
        members.insert("public_key".into(), key.to_string().into());
        members.insert(
            "signature".into(),
            if checked.is_ok() { "valid" } else { "invalid" }.into(),
        );
    }
    console.record("snapshot", members)?;
    for (name, value) in lines.into_iter().filter(|(_, value)| !value.is_empty()) {
        console.line(format!("{name:<10} {value}"))?;
    }
    console.findings(&findings, 0)?;
    checked?;
    Ok(Exit::Ok)
}

/// Shows sizes and counts.
pub(crate) async fn stats(console: &mut Console) -> Outcome {
    let repo = console.open(Operation::Read).await?;
    let all = console.all(&repo).await?;
    let (heads, damage) = (&all.heads, console.damage(&repo, &all).await?);
    let objects = objects(console, &repo).await?;
    let total: u64 = objects.values().map(|(_, bytes)| bytes).sum();
    let saved: u64 = heads.iter().map(|head| head.meta.stats.bytes).sum();
    let mut table = Table::new(&[
        ("OBJECTS", Align::Left),
        ("COUNT", Align::Right),
        ("SIZE", Align::Right),
    ]);
    for (prefix, (count, bytes)) in &objects {
        table.row([prefix.clone(), text::count(*count), text::bytes(*bytes)]);
    }
    let kinds: BTreeMap<&String, _> = objects
        .iter()
        .map(|(prefix, (count, bytes))| (prefix, json!({ "count": count, "bytes": bytes })))
        .collect();
    console.record(
        "stats",
        json!({
            "id": repo.id().to_string(),
            "location": repo.location(),
            "snapshots": heads.len(),
            "bytes_saved": saved,
            "chunks": repo.index().len(),
            "bytes_stored": total,
            "objects": kinds,
        }),
    )?;
    console.line(format!("repository {} at {}", repo.id(), repo.location()))?;
    console.line(format!(
        "{} of {} in all, in {} of storage; {}",
        text::plural(heads.len() as u64, "snapshot", "snapshots"),
        text::bytes(saved),
        text::bytes(total),
        text::plural(repo.index().len() as u64, "chunk", "chunks"),
    ))?;
    console.line(table.render())?;
    console.findings(&damage, 0)?;
    Ok(if damage.is_empty() {
        Exit::Ok
    } else {
        Exit::Damage
    })
}

async fn objects(console: &Console, repo: &Repository) -> Outcome<BTreeMap<String, (u64, u64)>> {
    let mut out: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut list = repo.sink().list(&console.cx, "", None);
    while let Some(meta) = list.next().await {
        let ObjectMeta { key, size, .. } = meta?;
        let prefix = key.as_str().split('/').next().unwrap_or_default();
        let (count, bytes) = out.entry(prefix.to_owned()).or_default();
        *count += 1;
        *bytes += size;
    }
    Ok(out)
}
