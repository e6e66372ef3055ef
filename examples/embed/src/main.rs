//! Backup and restore from another program: `example-embed REPOSITORY FOLDER TARGET` makes the
//! repository if it is not there, saves the folder, and restores the snapshot into the target.
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use backstay::core::{HostId, RestoreMode};
use backstay::engine::{RestoreJob, SnapshotJob, SnapshotView, restore, snapshot};
use backstay::sink_local::LocalSink;
use backstay::source_files::{FilesConfig, FilesSource, FilesTarget, FilesTargetConfig};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // The engine does not ask where it was started.
    let args = std::env::args_os().skip(1).map(std::path::absolute);
    let args: Vec<PathBuf> = args.collect::<Result<_, _>>()?;
    let usage = |_| anyhow!("REPOSITORY FOLDER TARGET");
    let [place, folder, target] = args.try_into().map_err(usage)?;
    let (cx, host) = (backstay::context(), HostId("example".into()));

    // The key file lies beside the repository here; keep yours somewhere else.
    let sink = Arc::new(LocalSink::new(&place).making_root(true));
    let repo = backstay::open_or_make(&cx, sink, &place.with_extension("key")).await?;

    let source = Arc::new(FilesSource::new(FilesConfig::of_roots([&folder])));
    let job = SnapshotJob::new("example", host.clone());
    let saved = snapshot(&repo, &cx, source, &job).await?;
    let (id, added) = (saved.meta.id, saved.meta.stats.bytes_added);
    println!("saved {id} ({added} bytes added)");

    repo.reload_index(&cx).await?;
    let (mut heads, _) = repo.heads(&cx).await?;
    let view = SnapshotView::open(&repo, heads.pop().context("no snapshot")?)?;
    let into = Arc::new(FilesTarget::new(FilesTargetConfig::of_folder(&target)));
    let job = RestoreJob::whole(RestoreMode::Files, Some(target), host);
    let restored = restore(&view, &cx, into, &job).await?;
    let findings = restored.report.findings.len();
    println!("restored {} entries, {findings} findings", restored.entries);
    Ok(())
}
