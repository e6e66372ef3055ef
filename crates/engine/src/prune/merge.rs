//! One index run of many, without what is dead. A merged run is there before those in it go, and
//! nobody deletes a run but who has made one that holds all of it.

use std::collections::{BTreeMap, HashMap};

use backup_core::{ErrorKind, ObjectKey, OpContext, PackId, SessionId};
use backup_format::index::{Located, MAX_ENTRIES, RunBuilder};
use backup_format::layout;
use backup_format::pack::SessionWrap;
use backup_format::seal::ObjectKind;

use super::repack::not_kept;
use crate::collect::settle;
use crate::error::{EngineError, Result};
use crate::repository::{Repository, name, put_new};

/// More runs than this are merged.
const MOST_RUNS: usize = 12;

/// Merges the index if it has many runs, or names packs that are dead.
pub(super) async fn merge(repo: &Repository, cx: &OpContext) -> Result<()> {
    repo.refresh_index(cx).await?;
    let dead = repo.collection(cx).await?.dead;
    let runs = repo.loaded_runs();
    let names_dead = runs
        .iter()
        .any(|(_, run)| run.packs.iter().any(|pack| dead.contains(&pack.id)));
    if runs.len() <= MOST_RUNS && !names_dead {
        return Ok(());
    }
    let mut writer = Writer {
        repo,
        cx,
        run: RunBuilder::default(),
        wraps: BTreeMap::new(),
    };
    // What all runs know of a pack stays: one of them may have been made by somebody who lies, and the
    // others must not go for its sake.
    let mut known: HashMap<PackId, Vec<[u8; 32]>> = HashMap::new();
    for (_, run) in &runs {
        let mut blobs: Vec<_> = run.iter().collect();
        blobs.sort_unstable_by_key(|(prefix, at)| (at.pack, at.offset, *prefix));
        for blobs in blobs.chunk_by(|a, b| a.1.pack == b.1.pack) {
            let Some((_, first)) = blobs.first() else {
                continue;
            };
            let Some(pack) = run.packs.get(first.pack as usize) else {
                continue;
            };
            let digest = digest_of(blobs);
            let seen = known.entry(pack.id).or_default();
            if dead.contains(&pack.id) || seen.contains(&digest) {
                continue;
            }
            seen.push(digest);
            if writer.run.len() + blobs.len() > MAX_ENTRIES {
                writer.write().await?;
            }
            writer.run.add_known(*pack, blobs.iter().copied());
            // Which sessions a pack holds blobs of, only its end says: all of the run's stay.
            for wrap in &run.sessions {
                let wraps = &mut writer.wraps;
                wraps.entry(wrap.session).or_insert_with(|| wrap.clone());
            }
        }
    }
    writer.write().await?;
    for (key, _) in runs {
        repo.sink().delete(cx, &key).await?;
        repo.cache().remove(key.as_str());
    }
    repo.refresh_index(cx).await?;
    Ok(())
}

/// What tells one run's word of a pack from another's.
fn digest_of(blobs: &[([u8; 16], Located)]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for (prefix, at) in blobs {
        hasher.update(prefix);
        for number in [at.offset, at.stored, at.raw, at.kind as u32] {
            hasher.update(&number.to_le_bytes());
        }
    }
    hasher.finalize().into()
}

/// Writes an index run.
pub(crate) async fn put_run(
    repo: &Repository,
    cx: &OpContext,
    run: RunBuilder,
    wraps: &[SessionWrap],
) -> Result<()> {
    write_run(repo, cx, run, wraps).await.map(drop)
}

/// The same, where others go for its sake: looks whether the tier has it.
///
/// # Errors
/// [`EngineError::Unprunable`] if it has a part of it alone; [`EngineError::OtherPrune`] if it is not there, since
/// another prune may have merged it with others already; errors of the tier.
pub(super) async fn put_kept_run(
    repo: &Repository,
    cx: &OpContext,
    run: RunBuilder,
    wraps: &[SessionWrap],
) -> Result<()> {
    let (key, size) = write_run(repo, cx, run, wraps).await?;
    settle(repo, cx).await;
    match repo.sink().head(cx, &key).await {
        Ok(meta) if meta.size == size => Ok(()),
        Ok(meta) => {
            // A part of it is no run: it would be told as damage until somebody repairs it.
            repo.sink().delete(cx, &key).await?;
            let is = meta.size;
            Err(not_kept(&format!("{key} has {is} bytes instead of {size}")))
        }
        Err(error) if error.kind == ErrorKind::NotFound => {
            let why = "it has merged what this one has just added to the index, or the tier has not kept it; nothing is lost";
            Err(EngineError::OtherPrune(why.into()))
        }
        Err(error) => Err(error.into()),
    }
}

async fn write_run(
    repo: &Repository,
    cx: &OpContext,
    run: RunBuilder,
    wraps: &[SessionWrap],
) -> Result<(ObjectKey, u64)> {
    let sealed = repo.ring().seal(ObjectKind::IndexRun, &run.finish(wraps));
    let sealed = sealed.map_err(EngineError::Seal)?;
    let (key, size) = (name(layout::index(&sealed))?, sealed.len() as u64);
    put_new(cx, &**repo.sink(), &key, sealed.into()).await?;
    Ok((key, size))
}

struct Writer<'a> {
    repo: &'a Repository,
    cx: &'a OpContext,
    run: RunBuilder,
    wraps: BTreeMap<SessionId, SessionWrap>,
}

impl Writer<'_> {
    async fn write(&mut self) -> Result<()> {
        let run = std::mem::take(&mut self.run);
        if run.is_empty() {
            return Ok(());
        }
        let wraps: Vec<_> = self.wraps.values().cloned().collect();
        self.wraps.clear();
        put_kept_run(self.repo, self.cx, run, &wraps).await
    }
}
