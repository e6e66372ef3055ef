//! Which ranges of a file were settled: written, or found to be right and kept.
//!
//! A file that is restored in place over old content must read as zeros wherever the snapshot has
//! a hole, although nobody writes there. What was neither written nor kept is such a hole.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of offsets as ranges that neither touch nor overlap.
#[derive(Debug, Default)]
pub(super) struct Covered(BTreeMap<u64, u64>);

impl Covered {
    pub(super) fn add(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let Range { mut start, mut end } = range;
        while let Some((&from, &to)) = self.0.range(..=end).next_back() {
            if to < start {
                break;
            }
            start = start.min(from);
            end = end.max(to);
            self.0.remove(&from);
        }
        self.0.insert(start, end);
    }

    /// The ranges, ascending.
    pub(super) fn ranges(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().map(|(&from, &to)| from..to)
    }

    /// The ranges of the first `size` bytes that were never added.
    pub(super) fn gaps(&self, size: u64) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut at = 0;
        for (&from, &to) in self.0.range(..size) {
            if at < from {
                gaps.push(at..from);
            }
            at = to;
        }
        if at < size {
            gaps.push(at..size);
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn gaps_are_what_was_never_added(
            added in proptest::collection::vec((0_u64..64, 0_u64..16), 0..12), size in 0_u64..80
        ) {
            let mut covered = Covered::default();
            let mut plain = [false; 96];
            for (start, length) in added {
                covered.add(start..start + length);
                for offset in start..start + length {
                    plain[usize::try_from(offset).unwrap()] = true;
                }
            }
            let mut in_gap = [false; 96];
            for offset in covered.gaps(size).into_iter().flatten() {
                in_gap[usize::try_from(offset).unwrap()] = true;
            }
            for offset in 0..96 {
                let want = offset < usize::try_from(size).unwrap() && !plain[offset];
                prop_assert_eq!(in_gap[offset], want, "{}", offset);
            }
            let touching = covered.0.iter().zip(covered.0.keys().skip(1));
            prop_assert!(touching.into_iter().all(|((_, end), next)| end < next));
        }
    }
}
