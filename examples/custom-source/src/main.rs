//! Saves a store, loses it, and has it back.
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use std::sync::Arc;

use anyhow::Context as _;
use backstay::core::{HostId, Location, Registry, RestoreMode};
use backstay::engine::{
    InitRequest, RestoreJob, SnapshotJob, SnapshotView, prepare, restore, snapshot,
};
use backstay::sink_local::LocalSink;
use example_custom_source::{Buckets, KvStore, register};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let store = KvStore::default();
    store.set("colours", "sky", "blue");
    store.set("colours", "grass", "green");
    store.set("sizes", "elephant", "large");
    let before = store.freeze();

    let mut registry = Registry::empty();
    register(&mut registry, &store)?;
    let place: Location = "kv:///".parse()?;

    let folder = tempfile::tempdir()?;
    let (cx, host) = (backstay::context(), HostId("example".into()));
    let keys = prepare(
        &cx,
        &InitRequest {
            key_file: true,
            ..InitRequest::default()
        },
    )?;
    let repo = keys
        .create(&cx, Arc::new(LocalSink::new(folder.path())), None)
        .await?;

    let job = SnapshotJob::new("store", host.clone());
    let saved = snapshot(&repo, &cx, registry.open_source(&place)?, &job).await?;
    println!(
        "saved {} with {} buckets",
        saved.meta.id, saved.meta.stats.entries
    );

    store.replace(Buckets::new());
    println!("lost everything: {} buckets", store.freeze().len());

    repo.reload_index(&cx).await?;
    let (heads, _) = repo.heads(&cx).await?;
    let view = SnapshotView::open(&repo, heads.last().context("no snapshot")?.clone())?;
    let job = RestoreJob::whole(RestoreMode::Replace, None, host);
    let restored = restore(&view, &cx, registry.open_target(&place)?, &job).await?;
    println!("restored {} buckets", restored.report.written);
    anyhow::ensure!(
        store.freeze() == before,
        "what came back is not what was saved"
    );
    Ok(())
}
