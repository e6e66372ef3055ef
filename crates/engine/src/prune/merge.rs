//! One index run of many, without what is dead. A merged run is there before those in it go, and
//! nobody deletes a run but who has made one that holds all of it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use backup_core::{OpContext, PackId, SessionId};
use backup_format::index::{MAX_ENTRIES, RunBuilder};
use backup_format::layout;
use backup_format::pack::SessionWrap;
use backup_format::seal::ObjectKind;

use crate::claims::{self, Digest, blobs_of, digest_of};
use crate::error::{EngineError, Result};
use crate::repository::{Repository, name, put_new};

/// More runs than this are merged.
const MOST_RUNS: usize = 12;

/// Merges the index if it has many runs, or names packs that are dead, by decisions that are known to be true.
pub(super) async fn merge(
    repo: &Repository,
    cx: &OpContext,
    dead: &BTreeSet<PackId>,
) -> Result<()> {
    repo.refresh_index(cx).await?;
    let runs = repo.loaded_runs();
    let disputed = claims::disputed(&repo.index());
    let names_dead = runs
        .iter()
        .any(|(_, run)| run.packs.iter().any(|pack| dead.contains(&pack.id)));
    let settled = claims::settled(repo, cx, &disputed).await?;
    if runs.len() <= MOST_RUNS && !names_dead && settled.is_empty() {
        return Ok(());
    }
    let mut writer = Writer {
        repo,
        cx,
        run: RunBuilder::default(),
        wraps: BTreeMap::new(),
    };
    // What all runs know of a pack stays, but for what the end of the pack refutes: one of them may have been made by
    // somebody who lies, and the others must not go for its sake.
    let mut known: HashMap<PackId, Vec<Digest>> = HashMap::new();
    let mut right: HashSet<PackId> = HashSet::new();
    for (_, run) in runs.iter().filter(|_| !settled.is_empty()) {
        for blobs in blobs_of(run, |pack| settled.contains_key(&pack.id))
            .chunk_by(|a, b| a.1.pack == b.1.pack)
        {
            let pack = blobs
                .first()
                .and_then(|(_, at)| run.packs.get(at.pack as usize));
            right.extend(
                pack.filter(|pack| settled.get(&pack.id) == Some(&digest_of(pack, blobs)))
                    .map(|pack| pack.id),
            );
        }
    }
    let is_refuted =
        |id: &PackId, digest: &Digest| right.contains(id) && settled.get(id) != Some(digest);
    for (_, run) in &runs {
        let blobs = blobs_of(run, |_| true);
        for blobs in blobs.chunk_by(|a, b| a.1.pack == b.1.pack) {
            let Some((_, first)) = blobs.first() else {
                continue;
            };
            let Some(pack) = run.packs.get(first.pack as usize) else {
                continue;
            };
            let digest = digest_of(pack, blobs);
            let seen = known.entry(pack.id).or_default();
            if dead.contains(&pack.id) || is_refuted(&pack.id, &digest) {
                continue;
            }
            // Which sessions a pack holds blobs of, only its end says: all of the run's stay; also of a run that
            // says of the pack what another has said, which may lack them.
            for wrap in &run.sessions {
                let wraps = &mut writer.wraps;
                wraps.entry(wrap.session).or_insert_with(|| wrap.clone());
            }
            if seen.contains(&digest) {
                continue;
            }
            seen.push(digest);
            if writer.run.len() + blobs.len() > MAX_ENTRIES {
                writer.write().await?;
            }
            writer.run.add_known(*pack, blobs.iter().copied());
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
    /// Of all runs that were read so far: each run that is made has all of them.
    wraps: BTreeMap<SessionId, SessionWrap>,
}

impl Writer<'_> {
    async fn write(&mut self) -> Result<()> {
        let run = std::mem::take(&mut self.run);
        if run.is_empty() {
            return Ok(());
        }
        let wraps: Vec<_> = self.wraps.values().cloned().collect();
        put_run(self.repo, self.cx, run, &wraps).await
    }
}
