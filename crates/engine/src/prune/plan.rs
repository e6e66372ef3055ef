//! Which packs go, and which are worth being written anew.

use std::collections::BTreeSet;

use backup_core::PackId;

use super::survey::{Pack, Survey};
use super::{PruneJob, PruneNumbers, Unused};
use crate::repository::Sizes;

/// Of a pack that is used by more than this, in hundredths, nothing would be gained.
const WELL_USED: u64 = 95;
/// A pack of less than a quarter of the size that packs are made is small.
const SMALL: usize = 4;
/// So many small packs are laid together; fewer stay, so that each save does not have all copied again
/// that the last ones left.
const LEAST_SMALL: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Chosen {
    pub(super) numbers: PruneNumbers,
    /// Packs that nothing uses.
    pub(super) condemned: BTreeSet<PackId>,
    /// Packs to be written anew, the most wasteful first.
    pub(super) victims: Vec<PackId>,
}

/// Chooses; the same for the same survey. With `rests` packs of content are not read, so none is written anew.
pub(super) fn choose(survey: &Survey, job: &PruneJob, sizes: &Sizes, rests: bool) -> Chosen {
    let mut out = Chosen::default();
    let numbers = &mut out.numbers;
    numbers.snapshots = survey.snapshots.len() as u64;
    let mut partly = Vec::new();
    let mut in_use = 0;
    for (id, pack) in &survey.packs {
        numbers.packs += 1;
        numbers.bytes += pack.size;
        // What no refs name of it may be all that is left of a lost pack.
        if survey.elsewhere.spared.contains(id) {
            in_use += pack.size;
            continue;
        }
        if !survey.marks.contains_key(id) {
            numbers.unused_packs += 1;
            numbers.unused_bytes += pack.size;
            out.condemned.insert(*id);
            continue;
        }
        in_use += pack.used;
        let is_whole = survey.marks.get(id).is_some_and(|usage| usage.is_whole());
        if !is_whole && pack.used < pack.size {
            let waste = pack.size - pack.used;
            numbers.partly_used_packs += 1;
            numbers.wasted_bytes += waste;
            if !survey.absent.contains_key(id)
                && !survey.disputed.contains_key(id)
                && pack.used.saturating_mul(100) <= pack.size.saturating_mul(WELL_USED)
            {
                if rests && !pack.is_meta {
                    numbers.cold_packs += 1;
                    numbers.cold_bytes += waste;
                } else {
                    partly.push((pack.used, pack.size, *id));
                }
            }
        }
    }
    for id in survey.absent.keys() {
        if survey.marks.contains_key(id) {
            numbers.missing_packs += 1;
        } else if !survey.elsewhere.spared.contains(id) {
            // Its name goes from the index by the same steps as if there were something to delete.
            out.condemned.insert(*id);
        }
    }
    let dead = survey.dead.difference(&survey.elsewhere.spared);
    out.condemned.extend(dead);
    let allowed = match job.max_unused {
        Unused::Bytes(bytes) => bytes,
        Unused::Percent(percent) => share(in_use, percent),
        Unused::Unlimited => u64::MAX,
    };
    // Least is copied for what is given back where the smallest part is used.
    partly.sort_by(|a, b| {
        let (one, two) = (
            u128::from(a.0) * u128::from(b.1),
            u128::from(b.0) * u128::from(a.1),
        );
        one.cmp(&two).then(a.2.cmp(&b.2))
    });
    let mut left = numbers.wasted_bytes - numbers.cold_bytes;
    let mut read = 0;
    choose_older(survey, job, (&mut read, &mut left), &mut out);
    let numbers = &mut out.numbers;
    for (used, size, id) in partly {
        if left <= allowed {
            break;
        }
        if survey.older.contains(&id) {
            continue;
        }
        if job.max_repack.is_some_and(|most| read + size > most) {
            continue;
        }
        read += size;
        left = left.saturating_sub(size - used);
        numbers.repacked_packs += 1;
        numbers.copied_bytes += used;
        numbers.repack_gain += size - used;
        out.victims.push(id);
    }
    if job.max_unused != Unused::Unlimited {
        for (is_meta, target) in [(false, sizes.data_pack), (true, sizes.meta_pack)] {
            if rests && !is_meta {
                continue;
            }
            let limit = (target / SMALL) as u64;
            choose_small(survey, job, is_meta, limit, &mut read, &mut out);
        }
    }
    out
}

/// Chooses what older keys can read, if that is to be sealed anew: it is written anew however much of it
/// is used.
fn choose_older(
    survey: &Survey,
    job: &PruneJob,
    (read, left): (&mut u64, &mut u64),
    out: &mut Chosen,
) {
    let numbers = &mut out.numbers;
    for id in &survey.older {
        let Some(pack) = survey.packs.get(id).filter(|_| is_movable(survey, id)) else {
            continue;
        };
        numbers.older_packs += 1;
        numbers.older_bytes += pack.size;
        if job.max_repack.is_some_and(|most| *read + pack.size > most) {
            continue;
        }
        *read += pack.size;
        let gain = pack.size.saturating_sub(pack.used);
        *left = left.saturating_sub(gain);
        numbers.resealed_packs += 1;
        numbers.resealed_bytes += pack.size;
        numbers.copied_bytes += pack.used;
        numbers.repack_gain += gain;
        out.victims.push(*id);
    }
}

/// Whether a pack is used and there, and nobody disputes what lies in it, so that what is used of it can
/// be copied.
fn is_movable(survey: &Survey, id: &PackId) -> bool {
    survey.marks.contains_key(id)
        && !survey.absent.contains_key(id)
        && !survey.disputed.contains_key(id)
        && !survey.elsewhere.spared.contains(id)
}

/// Chooses small packs of a kind, the smallest first, if there are many.
fn choose_small(
    survey: &Survey,
    job: &PruneJob,
    is_meta: bool,
    limit: u64,
    read: &mut u64,
    out: &mut Chosen,
) {
    let chosen: BTreeSet<_> = out.victims.iter().copied().collect();
    let is_small = |(id, pack): &(&PackId, &Pack)| {
        pack.is_meta == is_meta
            && pack.size < limit
            && is_movable(survey, id)
            && !survey.older.contains(*id)
            && !chosen.contains(*id)
    };
    let mut small: Vec<_> = survey.packs.iter().filter(is_small).collect();
    small.sort_by_key(|(id, pack)| (pack.size, **id));
    let fits = |(_, pack): &(&PackId, &Pack)| {
        *read += pack.size;
        job.max_repack.is_none_or(|most| *read <= most)
    };
    let mut small: Vec<_> = small.into_iter().take_while(fits).collect();
    // One that is larger than the rest together stays: it would be copied again for each few that come.
    let mut sum: u64 = small.iter().map(|(_, pack)| pack.size).sum();
    while let Some((_, last)) = small.pop_if(|(_, last)| last.size > sum - last.size) {
        sum -= last.size;
    }
    if small.len() < LEAST_SMALL {
        return;
    }
    let numbers = &mut out.numbers;
    for (id, pack) in small {
        numbers.small_packs += 1;
        numbers.copied_bytes += pack.used;
        numbers.repack_gain += pack.size.saturating_sub(pack.used);
        out.victims.push(*id);
    }
}

/// So many hundredths of a number of bytes.
fn share(bytes: u64, percent: f64) -> u64 {
    let share = bytes as f64 * percent.max(0.0) / 100.0;
    if share >= u64::MAX as f64 {
        u64::MAX
    } else {
        share as u64
    }
}
