//! Saves a folder into a repository that is one file.
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use backstay::core::{HostId, Registry};
use backstay::engine::{InitRequest, SnapshotJob, prepare, snapshot};
use backstay::source_files::{FilesConfig, FilesSource};
use example_custom_sink::register;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = std::env::args_os()
        .nth(1)
        .map(PathBuf::from)
        .context("usage: FOLDER")?;
    // The engine does not ask where it was started.
    let folder = std::path::absolute(folder)?;
    let scratch = tempfile::tempdir()?;
    let file = scratch.path().join("repository.bks");

    let mut registry = Registry::empty();
    register(&mut registry)?;
    let sink = registry.open_sink(&format!("onefile:{}", file.display()).parse()?)?;

    let cx = backstay::context();
    let keys = prepare(
        &cx,
        &InitRequest {
            key_file: true,
            ..InitRequest::default()
        },
    )?;
    let repo = keys.create(&cx, sink, None).await?;
    let source = Arc::new(FilesSource::new(FilesConfig::of_roots([folder])));
    let job = SnapshotJob::new("one file", HostId("example".into()));
    let saved = snapshot(&repo, &cx, source, &job).await?;
    let size = std::fs::metadata(&file)?.len();
    println!(
        "{} entries in a file of {size} bytes",
        saved.meta.stats.entries
    );
    Ok(())
}
