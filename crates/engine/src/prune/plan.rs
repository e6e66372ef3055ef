//! Which packs go, and which are worth being written anew.

use std::collections::BTreeSet;

use backup_core::PackId;

use super::survey::Survey;
use super::{PruneJob, PruneNumbers, Unused};

/// Of a pack that is used by more than this, in hundredths, nothing would be gained.
const WELL_USED: u64 = 95;

#[derive(Debug, Default)]
pub(super) struct Chosen {
    pub(super) numbers: PruneNumbers,
    /// Packs that nothing uses.
    pub(super) condemned: BTreeSet<PackId>,
    /// Packs to be written anew, the most wasteful first.
    pub(super) victims: Vec<PackId>,
}

/// Chooses; the same for the same survey.
pub(super) fn choose(survey: &Survey, job: &PruneJob) -> Chosen {
    let mut out = Chosen::default();
    let numbers = &mut out.numbers;
    numbers.snapshots = survey.snapshots.len() as u64;
    let mut partly = Vec::new();
    let mut in_use = 0;
    for (id, pack) in &survey.packs {
        numbers.packs += 1;
        numbers.bytes += pack.size;
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
                && pack.used.saturating_mul(100) <= pack.size.saturating_mul(WELL_USED)
            {
                partly.push((pack.used, pack.size, *id));
            }
        }
    }
    for id in survey.absent.keys() {
        if survey.marks.contains_key(id) {
            numbers.missing_packs += 1;
        } else {
            // Its name goes from the index by the same steps as if there were something to delete.
            out.condemned.insert(*id);
        }
    }
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
    let mut left = numbers.wasted_bytes;
    let mut read = 0;
    for (used, size, id) in partly {
        if left <= allowed {
            break;
        }
        if job.max_repack.is_some_and(|most| read + size > most) {
            continue;
        }
        read += size;
        left -= size - used;
        numbers.repacked_packs += 1;
        numbers.copied_bytes += used;
        numbers.repack_gain += size - used;
        out.victims.push(id);
    }
    out
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
