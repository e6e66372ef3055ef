//! What index runs say of packs, where they do not say the same, or not what the pack says itself.
//!
//! Whoever holds the index key can add a run that says anything of any pack. Slots of a pack are numbered by what a run
//! says of it; by two runs that differ, one slot has two numbers, and which of them is right only the end of the
//! pack tells. So of such a pack all slots count as used, and it is not written anew; a prune reads its end and
//! leaves out what that refutes. A repair, which reads packs whole, compares with their ends what all runs say of them.

use std::collections::{BTreeMap, HashMap};

use backup_core::{ChunkId, Finding, FindingKind, OpContext, PackId, Severity};
use backup_format::index::{IndexRun, Located, PackRef};
use backup_format::layout;
use backup_format::pack::{MAX_BLOBS, PackBlob};

use crate::error::{EngineError, Result};
use crate::index_set::{IndexSet, Part};
use crate::pack_end::read_end;
use crate::repository::{Repository, name};
use crate::store::random;

/// Packs that are named one by one.
const MOST_NAMED: usize = 20;

/// What tells one run's word of a pack from another's.
pub(crate) type Digest = [u8; 32];

/// The digest of what a run says of a pack; its blobs in their order.
pub(crate) fn digest_of(pack: &PackRef, blobs: &[([u8; 16], Located)]) -> Digest {
    let of_blobs = blobs.iter().map(|(prefix, at)| {
        let kind = at.kind as u32;
        (*prefix, [at.offset, at.stored, at.raw, kind])
    });
    digest(pack.size, of_blobs)
}

/// The digest of what a run would say that was made of the end of a pack.
fn digest_of_end(size: u64, blobs: &[PackBlob]) -> Digest {
    let prefix = |id: &ChunkId| id.prefix();
    let of_blobs = blobs.iter().map(|blob| {
        let kind = blob.kind as u32;
        (prefix(&blob.id), [blob.offset, blob.stored, blob.raw, kind])
    });
    digest(size, of_blobs)
}

fn digest(size: u64, blobs: impl Iterator<Item = ([u8; 16], [u32; 4])>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&size.to_le_bytes());
    for (prefix, numbers) in blobs {
        hasher.update(&prefix);
        for number in numbers {
            hasher.update(&number.to_le_bytes());
        }
    }
    hasher.finalize().into()
}

/// The blobs of some packs of a run, pack by pack, each in the order in which they lie.
pub(crate) fn blobs_of(
    run: &IndexRun,
    is_wanted: impl Fn(&PackRef) -> bool,
) -> Vec<([u8; 16], Located)> {
    let wanted: Vec<bool> = run.packs.iter().map(is_wanted).collect();
    let is_in = |at: &Located| wanted.get(at.pack as usize) == Some(&true);
    let mut blobs: Vec<_> = run.iter().filter(|(_, at)| is_in(at)).collect();
    blobs.sort_unstable_by_key(|(prefix, at)| (at.pack, at.offset, *prefix));
    blobs
}

/// What a part of the index says of a pack, its blobs taken in any order: a table has them by their ids.
///
/// It is a sum, so its key is drawn anew each time and told to nobody: whoever knew it could choose blobs that sum up to
/// what others do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Claim {
    blobs: usize,
    sum: u128,
}

impl Claim {
    const fn new() -> Self {
        Self { blobs: 0, sum: 0 }
    }

    fn add(&mut self, key: &[u8; 32], pack: &PackRef, prefix: &[u8; 16], at: &Located) {
        let mut hasher = blake3::Hasher::new_keyed(key);
        hasher.update(prefix);
        for number in [at.offset, at.stored, at.raw, at.kind as u32] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(&pack.size.to_le_bytes());
        let mut value = [0; 16];
        hasher.finalize_xof().fill(&mut value);
        self.blobs += 1;
        self.sum = self.sum.wrapping_add(u128::from_le_bytes(value));
    }
}

/// The packs that have several numbers in an index, each by the beginning of its id.
fn named_twice(index: &IndexSet) -> Vec<u64> {
    let packs = index.parts().iter().flat_map(Part::packs);
    let mut ids: Vec<u64> = packs.map(|(_, pack)| short(&pack.id)).collect();
    ids.sort_unstable();
    let groups = ids.chunk_by(|a, b| a == b);
    let twice = groups.filter(|ids| ids.len() > 1);
    twice.filter_map(|ids| ids.first().copied()).collect()
}

fn short(id: &PackId) -> u64 {
    let (first, _) = id.0.split_first_chunk().unwrap_or((&[0; 8], &[]));
    u64::from_le_bytes(*first)
}

/// What an index says of a pack.
#[derive(Debug, Clone, Copy)]
struct Said {
    /// What one of its runs says.
    claim: Claim,
    /// Whether all that say anything say that.
    is_one: bool,
    /// Whether one names it and nothing in it.
    is_empty_too: bool,
    /// The most blobs that any gives it.
    most: usize,
}

/// What an index says of the packs that are wanted. Of a table that is broken it is not all ([`IndexSet::check`]).
fn said(
    index: &IndexSet,
    key: &[u8; 32],
    is_wanted: impl Fn(&PackRef) -> bool,
) -> HashMap<PackId, Said> {
    let mut out: HashMap<PackId, Said> = HashMap::new();
    for part in index.parts() {
        let mut claims: Vec<Option<Claim>> = vec![None; part.pack_numbers()];
        let mut is_any = false;
        for (number, _) in part.packs().filter(|(_, pack)| is_wanted(pack)) {
            if let Some(claim) = claims.get_mut(number as usize) {
                (*claim, is_any) = (Some(Claim::new()), true);
            }
        }
        if !is_any {
            continue;
        }
        for (prefix, located) in part.iter() {
            if let Some(Some(claim)) = claims.get_mut(located.pack as usize)
                && let Some(pack) = part.pack(located.pack)
            {
                claim.add(key, &pack, &prefix, &located);
            }
        }
        for (number, claim) in (0u32..).zip(claims) {
            let Some((pack, claim)) = part.pack(number).zip(claim) else {
                continue;
            };
            let (is_one, is_empty_too, most) = (true, false, 0);
            let known = out.entry(pack.id).or_insert(Said {
                claim,
                is_one,
                is_empty_too,
                most,
            });
            if claim.blobs == 0 {
                known.is_empty_too = true;
                continue;
            }
            // One that says nothing in it is no word.
            if known.claim.blobs == 0 {
                known.claim = claim;
            }
            known.is_one &= known.claim == claim;
            known.most = known.most.max(claim.blobs);
        }
    }
    out
}

/// The packs of which the index says different things, with the most slots that it gives each. Of a table that is
/// broken it is not all ([`IndexSet::check`]).
///
/// Memory: eight bytes for each pack while they are looked through, and some hundred for each that is named several
/// times.
///
/// # Errors
/// [`EngineError::Seal`] when the system gives no randomness.
pub(crate) fn disputed(index: &IndexSet) -> Result<BTreeMap<PackId, u32>> {
    let twice = named_twice(index);
    if twice.is_empty() {
        return Ok(BTreeMap::new());
    }
    let is_twice = |pack: &PackRef| twice.binary_search(&short(&pack.id)).is_ok();
    let said = said(index, &random()?, is_twice);
    let disputed = said.into_iter().filter(|(_, said)| !said.is_one);
    // Refs have no more slots than a pack may have.
    let most = |said: Said| u32::try_from(said.most.min(MAX_BLOBS)).unwrap_or(u32::MAX);
    Ok(disputed.map(|(id, said)| (id, most(said))).collect())
}

/// What an index says of all packs, for whoever has them at hand.
///
/// Memory: some hundred bytes for each pack.
pub(crate) struct Claims {
    key: [u8; 32],
    said: HashMap<PackId, Said>,
}

impl Claims {
    /// Of a table that is broken it is not all ([`IndexSet::check`]).
    ///
    /// # Errors
    /// [`EngineError::Seal`] when the system gives no randomness.
    pub(crate) fn of(index: &IndexSet) -> Result<Self> {
        let key = random()?;
        let said = said(index, &key, |_| true);
        Ok(Self { key, said })
    }

    /// Whether all runs that name a pack say exactly what its end says; the pack must be whole.
    pub(crate) fn agree(&self, id: PackId, size: u64, blobs: &[PackBlob]) -> bool {
        let Some(said) = self.said.get(&id) else {
            return true;
        };
        let (mut own, pack) = (Claim::new(), PackRef { id, size });
        for blob in blobs {
            let at = Located {
                entry: 0,
                pack: 0,
                kind: blob.kind,
                offset: blob.offset,
                stored: blob.stored,
                raw: blob.raw,
            };
            own.add(&self.key, &pack, &blob.id.prefix(), &at);
        }
        said.is_one && !said.is_empty_too && said.claim == own
    }
}

/// What the ends of disputed packs say of them, as far as they can be read.
///
/// # Errors
/// Errors of the tier.
pub(crate) async fn settled(
    repo: &Repository,
    cx: &OpContext,
    disputed: &BTreeMap<PackId, u32>,
) -> Result<HashMap<PackId, Digest>> {
    let mut out = HashMap::new();
    for id in disputed.keys() {
        for is_meta in [false, true] {
            if cx.cancel.is_cancelled() {
                return Err(EngineError::Cancelled);
            }
            match read_end(repo, cx, &name(layout::pack(*id, is_meta))?).await {
                Ok(Some((end, size))) => {
                    out.insert(*id, digest_of_end(size, &end.blobs));
                }
                Ok(None) => {}
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(out)
}

/// What is to be said of disputed packs.
pub(crate) fn findings(disputed: &BTreeMap<PackId, u32>) -> Vec<Finding> {
    let of_one = |id: &PackId| {
        let detail = "index runs say different things of it, so one of them is false: damage does not do that, whoever holds a key of this repository did; all of the pack counts as used, and it is not written anew; the prune itself reads its end and takes what is false out of the index";
        let (severity, kind) = (Severity::Error, FindingKind::Mismatch);
        Finding::new(severity, kind, format!("pack {id}"), detail)
    };
    let mut out: Vec<_> = disputed.keys().take(MOST_NAMED).map(of_one).collect();
    if let Some(more) = disputed
        .len()
        .checked_sub(MOST_NAMED)
        .filter(|more| *more > 0)
    {
        let detail = format!("index runs say different things of {more} more packs");
        let (severity, kind) = (Severity::Error, FindingKind::Mismatch);
        out.push(Finding::new(severity, kind, "the index", detail));
    }
    out
}
