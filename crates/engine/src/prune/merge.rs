//! One index run of many, without what is dead. A merged run is there before those in it go, and
//! nobody deletes a run but who has made one that holds all of it.

use std::collections::{BTreeMap, HashMap};

use backup_core::{OpContext, PackId, SessionId};
use backup_format::index::{Located, MAX_ENTRIES, RunBuilder};
use backup_format::layout;
use backup_format::pack::SessionWrap;
use backup_format::seal::ObjectKind;

use crate::error::{EngineError, Result};
use crate::index_set::KnownRun;
use crate::repository::{Repository, name, put_new};

/// More small runs than this are merged.
const MOST_RUNS: usize = 12;
/// A run of fewer entries is small: of a large index only what came since is written anew.
const SMALL: usize = MAX_ENTRIES / 2;

/// Merges the small runs of the index if there are many, and those that name packs that are dead. One run at a time is
/// in memory, beside what is written.
pub(super) async fn merge(repo: &Repository, cx: &OpContext) -> Result<()> {
    repo.refresh_index(cx).await?;
    let dead = repo.collection(cx).await?.dead;
    let mut runs = repo.known_runs();
    let small = runs.iter().filter(|run| run.len() < SMALL).count();
    let names_dead = |run: &KnownRun| run.names_any(&dead);
    if small <= MOST_RUNS && !runs.iter().any(names_dead) {
        return Ok(());
    }
    runs.retain(|run| run.len() < SMALL || names_dead(run));
    let mut writer = Writer {
        repo,
        cx,
        run: RunBuilder::default(),
        wraps: BTreeMap::new(),
    };
    // What all runs know of a pack stays: one of them may have been made by somebody who lies, and the
    // others must not go for its sake.
    let mut known: HashMap<PackId, Vec<[u8; 32]>> = HashMap::new();
    let mut merged = Vec::new();
    for known_run in &runs {
        let run = match repo.known_run(cx, known_run).await {
            Ok(run) => run,
            // It stays as it is: a repair makes it anew.
            Err(error) if error.is_damage() => continue,
            Err(error) => return Err(error),
        };
        merged.extend(known_run.key());
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
    for key in merged {
        repo.sink().delete(cx, key).await?;
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
    let sealed = repo.ring().seal(ObjectKind::IndexRun, &run.finish(wraps));
    let sealed = sealed.map_err(EngineError::Seal)?;
    let key = name(layout::index(&sealed))?;
    put_new(cx, &**repo.sink(), &key, sealed.into()).await
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
        put_run(self.repo, self.cx, run, &wraps).await
    }
}
