//! One index run of many, without what is dead. A merged run is there before those in it go, and
//! nobody deletes a run but who has made one that holds all of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use backup_core::{ObjectKey, OpContext, PackId, SessionId};
use backup_format::index::{MAX_ENTRIES, RunBuilder};
use backup_format::layout;
use backup_format::pack::SessionWrap;
use backup_format::seal::ObjectKind;

use super::kept::{self, Kept, Written, not_kept, sha256};
use crate::claims::{self, Digest, blobs_of, digest_of};
use crate::collect::settle;
use crate::data_keys::{MOST_WRAP_BYTES, MOST_WRAPS, WrapSet};
use crate::error::{EngineError, Result};
use crate::index_set::KnownRun;
use crate::repository::{Repository, name, put_new};

/// More small runs than this are merged.
const MOST_RUNS: usize = 12;
/// A run of fewer entries is small: of a large index only what came since is written anew.
const SMALL: usize = MAX_ENTRIES / 2;

/// Merges the small runs of the index if there are many, and those that name packs that are dead, by decisions that are
/// known to be true, or of which something is refuted. One run at a time is in memory, beside what is written.
pub(super) async fn merge(
    repo: &Repository,
    cx: &OpContext,
    dead: &BTreeSet<PackId>,
) -> Result<()> {
    repo.refresh_index(cx).await?;
    let mut runs = repo.known_runs();
    let truth = Truth::find(repo, cx, &mut runs).await?;
    let small = runs.iter().filter(|run| run.len() < SMALL).count();
    let names_dead = |run: &KnownRun| run.names_any(dead);
    if small <= MOST_RUNS && truth.is_empty() && !runs.iter().any(names_dead) {
        return Ok(());
    }
    runs.retain(|run| run.len() < SMALL || names_dead(run) || truth.is_in(run));
    let mut writer = Writer {
        repo,
        cx,
        run: RunBuilder::default(),
        wraps: WrapSet::default(),
        kept: BTreeMap::new(),
    };
    // What all runs know of a pack stays, but for what the end of the pack refutes: one of them may have been made by
    // somebody who lies, and the others must not go for its sake.
    let mut known: HashMap<PackId, Vec<Digest>> = HashMap::new();
    let mut merged = Vec::new();
    for known_run in &runs {
        let run = match repo.known_run(cx, known_run).await {
            Ok(run) => run,
            // It stays as it is: a repair makes it anew. But what it said of a pack may be why others do not count.
            Err(error) if error.is_damage() && !truth.is_in(known_run) => continue,
            Err(error) => return Err(error),
        };
        merged.extend(known_run.key());
        let blobs = blobs_of(&run, |_| true);
        // Which sessions a pack holds blobs of, only its end says: all of the run's stay.
        let (mut are_said, mut are_kept) = (false, false);
        for blobs in blobs.chunk_by(|a, b| a.1.pack == b.1.pack) {
            let Some((_, first)) = blobs.first() else {
                continue;
            };
            let Some(pack) = run.packs.get(first.pack as usize) else {
                continue;
            };
            let digest = digest_of(pack, blobs);
            let seen = known.entry(pack.id).or_default();
            let mut is_told = seen.contains(&digest);
            if is_told {
                // The same word without the keys of sessions must not take the place of that which has them.
                are_kept = are_kept || writer.has_all(&run.sessions);
                is_told = are_kept;
            }
            if dead.contains(&pack.id) || is_told || truth.refutes(&pack.id, &digest) {
                continue;
            }
            seen.push(digest);
            let has_room = are_said || writer.has_room(&run.sessions);
            if writer.run.len() + blobs.len() > MAX_ENTRIES || !has_room {
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
    for key in merged {
        repo.sink().delete(cx, key).await?;
        repo.cache().remove(key.as_str());
    }
    repo.refresh_index(cx).await?;
    Ok(())
}

/// Which word of disputed packs is true: that which their ends say, and some run too.
struct Truth {
    packs: BTreeSet<PackId>,
    right: HashMap<PackId, Digest>,
}

impl Truth {
    /// Looks into the ends of disputed packs, and which runs say the same. Those runs that name such packs and cannot
    /// be read are taken away: they stay as they are.
    async fn find(repo: &Repository, cx: &OpContext, runs: &mut Vec<KnownRun>) -> Result<Self> {
        let disputed = claims::disputed(&repo.index())?;
        let settled = claims::settled(repo, cx, &disputed).await?;
        let packs: BTreeSet<_> = settled.keys().copied().collect();
        let mut right = HashMap::new();
        let mut left = Vec::with_capacity(runs.len());
        for known in std::mem::take(runs) {
            if known.names_any(&packs) {
                let run = match repo.known_run(cx, &known).await {
                    Ok(run) => run,
                    Err(error) if error.is_damage() => continue,
                    Err(error) => return Err(error),
                };
                let blobs = blobs_of(&run, |pack| packs.contains(&pack.id));
                for blobs in blobs.chunk_by(|a, b| a.1.pack == b.1.pack) {
                    let number = blobs.first().map(|(_, at)| at.pack as usize);
                    let Some(pack) = number.and_then(|number| run.packs.get(number)) else {
                        continue;
                    };
                    let digest = digest_of(pack, blobs);
                    if settled.get(&pack.id) == Some(&digest) {
                        right.insert(pack.id, digest);
                    }
                }
            }
            left.push(known);
        }
        *runs = left;
        let packs = right.keys().copied().collect();
        Ok(Self { packs, right })
    }

    fn is_empty(&self) -> bool {
        self.packs.is_empty()
    }

    /// Whether a run says something of packs of which the truth is known.
    fn is_in(&self, run: &KnownRun) -> bool {
        run.names_any(&self.packs)
    }

    fn refutes(&self, pack: &PackId, digest: &Digest) -> bool {
        self.right.get(pack).is_some_and(|right| right != digest)
    }
}

/// Writes an index run; returns its name.
pub(crate) async fn put_run(
    repo: &Repository,
    cx: &OpContext,
    run: RunBuilder,
    wraps: &[SessionWrap],
) -> Result<ObjectKey> {
    let written = write_run(repo, cx, run, wraps).await?;
    Ok(written.key)
}

/// The same, where others go for its sake: reads it back.
///
/// # Errors
/// [`EngineError::Unprunable`] if it is not what was written; [`EngineError::OtherPrune`] if it is not there, since
/// another prune may have merged it with others already; errors of the tier.
pub(super) async fn put_kept_run(
    repo: &Repository,
    cx: &OpContext,
    run: RunBuilder,
    wraps: &[SessionWrap],
) -> Result<()> {
    let written = write_run(repo, cx, run, wraps).await?;
    settle(repo, cx).await;
    match kept::look(repo, cx, &written).await? {
        Kept::Whole => Ok(()),
        // It would be told as damage until somebody repairs it.
        Kept::Other(what) => {
            repo.sink().delete(cx, &written.key).await?;
            Err(not_kept(&what))
        }
        Kept::Absent => {
            let why = "it has merged what this one has just added to the index, or the tier has not kept it; nothing is lost";
            Err(EngineError::OtherPrune(why.into()))
        }
    }
}

async fn write_run(
    repo: &Repository,
    cx: &OpContext,
    run: RunBuilder,
    wraps: &[SessionWrap],
) -> Result<Written> {
    let sealed = repo.ring().seal(ObjectKind::IndexRun, &run.finish(wraps));
    let sealed = sealed.map_err(EngineError::Seal)?;
    let written = Written {
        key: name(layout::index(&sealed))?,
        sha256: sha256(&sealed),
        size: sealed.len() as u64,
    };
    put_new(cx, &**repo.sink(), &written.key, sealed.into()).await?;
    Ok(written)
}

struct Writer<'a> {
    repo: &'a Repository,
    cx: &'a OpContext,
    run: RunBuilder,
    /// What the run that is being made has of them.
    wraps: WrapSet,
    /// Which of them any run that was made has, by their digests; of each session no more than readers keep.
    kept: BTreeMap<SessionId, Vec<Digest>>,
}

impl Writer<'_> {
    /// Whether each of these data keys is in a run that was made, or is one too many.
    fn has_all(&self, wraps: &[SessionWrap]) -> bool {
        wraps.iter().all(|wrap| {
            let kept = self.kept.get(&wrap.session);
            kept.is_some_and(|kept| {
                kept.len() >= MOST_WRAPS || kept.contains(&digest_of_wrap(wrap))
            })
        })
    }

    /// Whether all of these data keys have room in the run that is being made.
    fn has_room(&self, wraps: &[SessionWrap]) -> bool {
        let is_new = |wrap: &&SessionWrap| !self.wraps.of(wrap.session).contains(wrap);
        let bytes = wraps.iter().filter(is_new).map(|wrap| wrap.wrap.len());
        self.wraps.bytes() == 0 || self.wraps.bytes() + bytes.sum::<usize>() <= MOST_WRAP_BYTES
    }

    /// Whatever data keys are said of a session stay: which one is true only a blob shows, and who merges may not open
    /// any. Those that are too many are in the ends of their packs.
    fn say(&mut self, wrap: &SessionWrap) {
        let is_one_too_many = self.wraps.of(wrap.session).len() >= MOST_WRAPS;
        let is_too_much = self.wraps.bytes() + wrap.wrap.len() > MOST_WRAP_BYTES;
        if is_one_too_many || is_too_much {
            return;
        }
        if self.wraps.add(wrap) {
            let (kept, digest) = (
                self.kept.entry(wrap.session).or_default(),
                digest_of_wrap(wrap),
            );
            if kept.len() < MOST_WRAPS && !kept.contains(&digest) {
                kept.push(digest);
            }
        }
    }

    async fn write(&mut self) -> Result<()> {
        let run = std::mem::take(&mut self.run);
        if run.is_empty() {
            return Ok(());
        }
        let wraps = std::mem::take(&mut self.wraps).to_vec();
        put_kept_run(self.repo, self.cx, run, &wraps).await
    }
}

fn digest_of_wrap(wrap: &SessionWrap) -> Digest {
    *blake3::hash(&wrap.wrap).as_bytes()
}
