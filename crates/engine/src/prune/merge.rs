//! One index run of many, without what is dead. A merged run is there before those in it go, and
//! nobody deletes a run but who has made one that holds all of it.

use std::collections::HashMap;

use backup_core::{ObjectKey, OpContext, PackId};
use backup_format::index::{Located, MAX_ENTRIES, RunBuilder};
use backup_format::layout;
use backup_format::pack::SessionWrap;
use backup_format::seal::ObjectKind;

use crate::data_keys::{MOST_WRAPS, WrapSet};
use crate::error::{EngineError, Result};
use crate::repository::{Repository, name, put_new};

/// More runs than this are merged.
const MOST_RUNS: usize = 12;
/// A run says wrapped data keys of so many bytes at most, so that it stays one that may be written.
const MOST_WRAP_BYTES: usize = 64 << 20;

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
        wraps: WrapSet::default(),
        wrap_bytes: 0,
    };
    // What all runs know of a pack stays: one of them may have been made by somebody who lies, and the
    // others must not go for its sake.
    let mut known: HashMap<PackId, Vec<[u8; 32]>> = HashMap::new();
    for (_, run) in &runs {
        let mut blobs: Vec<_> = run.iter().collect();
        blobs.sort_unstable_by_key(|(prefix, at)| (at.pack, at.offset, *prefix));
        // Which sessions a pack holds blobs of, only its end says: all of the run's stay.
        let mut are_said = false;
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
                are_said = false;
            }
            writer.run.add_known(*pack, blobs.iter().copied());
            if !are_said {
                run.sessions.iter().for_each(|wrap| writer.say(wrap));
                are_said = true;
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

/// Writes an index run; returns its name.
pub(crate) async fn put_run(
    repo: &Repository,
    cx: &OpContext,
    run: RunBuilder,
    wraps: &[SessionWrap],
) -> Result<ObjectKey> {
    let sealed = repo.ring().seal(ObjectKind::IndexRun, &run.finish(wraps));
    let sealed = sealed.map_err(EngineError::Seal)?;
    let key = name(layout::index(&sealed))?;
    put_new(cx, &**repo.sink(), &key, sealed.into()).await?;
    Ok(key)
}

struct Writer<'a> {
    repo: &'a Repository,
    cx: &'a OpContext,
    run: RunBuilder,
    wraps: WrapSet,
    wrap_bytes: usize,
}

impl Writer<'_> {
    /// Whatever data keys are said of a session stay: which one is true only a blob shows, and who merges may not open
    /// any. Those that are too many are in the ends of their packs.
    fn say(&mut self, wrap: &SessionWrap) {
        let is_one_too_many = self.wraps.of(wrap.session).len() >= MOST_WRAPS;
        let is_too_much = self.wrap_bytes + wrap.wrap.len() > MOST_WRAP_BYTES;
        if !is_one_too_many && !is_too_much && self.wraps.add(wrap) {
            self.wrap_bytes += wrap.wrap.len();
        }
    }

    async fn write(&mut self) -> Result<()> {
        let run = std::mem::take(&mut self.run);
        if run.is_empty() {
            return Ok(());
        }
        let wraps = std::mem::take(&mut self.wraps).to_vec();
        self.wrap_bytes = 0;
        put_run(self.repo, self.cx, run, &wraps).await.map(drop)
    }
}
