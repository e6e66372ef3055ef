//! Backup and restore from another program: `example-embed REPOSITORY FOLDER TARGET` makes the
//! repository if it is not there, saves the folder, and restores the snapshot into the target.
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use backstay::core::{HostId, RestoreMode};
use backstay::engine::{
    InitRequest, Repository, RestoreJob, SnapshotJob, SnapshotView, Unlock, prepare, restore,
    snapshot,
};
use backstay::format::{config::Operation, keys::KeyFile};
use backstay::sink_local::LocalSink;
use backstay::source_files::{FilesConfig, FilesSource, FilesTarget, FilesTargetConfig};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (repository, folder) = args
        .next()
        .zip(args.next())
        .context("REPOSITORY FOLDER TARGET")?;
    let target = args.next().context("REPOSITORY FOLDER TARGET")?;
    // The engine does not ask where it was started.
    let folder = std::path::absolute(folder)?;
    let target = std::path::absolute(target)?;
    let (cx, host) = (backstay::context(), HostId("example".into()));
    let repo = open_or_make(&cx, &repository).await?;

    let source = Arc::new(FilesSource::new(FilesConfig::of_roots([&folder])));
    let saved = snapshot(
        &repo,
        &cx,
        source,
        &SnapshotJob::new("example", host.clone()),
    )
    .await?;
    println!(
        "saved {} ({} bytes added)",
        saved.meta.id, saved.meta.stats.bytes_added
    );

    repo.reload_index(&cx).await?;
    let (heads, _) = repo.heads(&cx).await?;
    let newest = heads.last().context("no snapshot")?.clone();
    let view = SnapshotView::open(&repo, newest)?;
    let into = Arc::new(FilesTarget::new(FilesTargetConfig::of_folder(&target)));
    let job = RestoreJob::whole(RestoreMode::Files, Some(target), host);
    let restored = restore(&view, &cx, into, &job).await?;
    println!(
        "restored {} entries, {} findings",
        restored.entries,
        restored.report.findings.len()
    );
    Ok(())
}

/// The key file lies beside the repository here; keep yours somewhere else.
async fn open_or_make(cx: &backstay::core::OpContext, place: &Path) -> anyhow::Result<Repository> {
    let key_file = place.with_extension("key");
    let sink = Arc::new(LocalSink::new(place));
    if key_file.exists() {
        let unlock = Unlock::KeyFile(KeyFile::parse(&std::fs::read(key_file)?)?);
        return Ok(Repository::open(cx, sink, &unlock, None, Operation::Write).await?);
    }
    let prepared = prepare(
        cx,
        &InitRequest {
            key_file: true,
            ..InitRequest::default()
        },
    )?;
    // Nobody else may read it, from its first byte on.
    let key = prepared.key_file.as_ref().context("no key")?;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(key_file)?;
    file.write_all(key.as_bytes())?;
    file.sync_all()?;
    std::fs::create_dir_all(place)?;
    Ok(prepared.create(cx, sink, None).await?)
}
