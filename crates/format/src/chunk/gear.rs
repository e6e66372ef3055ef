//! Content-defined cutting with a keyed gear hash, in the shape of FastCDC (Xia et al., "The Design
//! of Fast Content-Defined Chunking for Data Deduplication Based Storage Systems", IEEE TPDS 2020):
//! skip the minimum, a stricter mask before the wanted size and a looser one behind it, two bytes a
//! step. The table comes from the repository's key, so cut points tell nothing to who lacks it.
//!
//! The cut points are part of the format: the vectors below are frozen.

/// Sizes of content-defined pieces, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PieceSizes {
    /// No piece but the last of a stream is smaller.
    pub min: usize,
    /// The wanted size, a power of two.
    pub average: usize,
    /// No piece is larger.
    pub max: usize,
}

impl PieceSizes {
    /// Sizes around an average: a quarter of it at least, eight times it at most.
    #[must_use]
    pub const fn around(average: usize) -> Self {
        Self {
            min: average / 4,
            average,
            max: average * 8,
        }
    }

    /// The same for another average, in proportion; but no piece is larger than a blob.
    #[must_use]
    pub fn scaled(&self, average: usize) -> Self {
        let max = self.max * average / self.average;
        Self {
            // Cutting takes two bytes a step.
            min: (self.min * average / self.average) & !1,
            average,
            max: max.min(crate::seal::MAX_RAW),
        }
    }
}

/// A gear table: 256 random 64-bit numbers, and the same shifted by one.
#[derive(Clone)]
pub struct Gear {
    table: Box<[u64; 256]>,
    shifted: Box<[u64; 256]>,
}

impl std::fmt::Debug for Gear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gear")
    }
}

/// Bits by which the two masks differ from the exact number for the average ("normalised
/// chunking" of level 2).
const NORMALISATION: u32 = 2;

impl Gear {
    /// The table of a repository: the first 2,048 bytes of the extendable output of
    /// `BLAKE3 keyed(cut key, "backstay v1 gear")`, as little-endian numbers.
    #[must_use]
    pub fn new(cut_key: &[u8; 32]) -> Self {
        let mut bytes = [0u8; 2048];
        blake3::Hasher::new_keyed(cut_key)
            .update(b"backstay v1 gear")
            .finalize_xof()
            .fill(&mut bytes);
        let mut table = Box::new([0u64; 256]);
        let mut shifted = Box::new([0u64; 256]);
        let (words, _) = bytes.as_chunks::<8>();
        for ((slot, double), word) in table.iter_mut().zip(shifted.iter_mut()).zip(words) {
            *slot = u64::from_le_bytes(*word);
            *double = *slot << 1;
        }
        Self { table, shifted }
    }

    /// Length of the first piece of `data`. `data` must hold at least `sizes.max` bytes unless it
    /// is the rest of the stream; for empty data the length is 0.
    #[must_use]
    pub fn cut(&self, data: &[u8], sizes: &PieceSizes) -> usize {
        if data.len() <= sizes.min {
            return data.len();
        }
        let end = data.len().min(sizes.max);
        let centre = end.min(sizes.average);
        let bits = sizes.average.ilog2();
        let strict = mask(bits + NORMALISATION);
        let loose = mask(bits.saturating_sub(NORMALISATION));
        let mut hash = 0u64;
        // Both phases begin on an even offset, so a pair never straddles them.
        let start = sizes.min & !1;
        let middle = centre & !1;
        if let Some(at) = self.scan(data, start, middle, strict, &mut hash) {
            return at;
        }
        self.scan(data, middle.max(start), end & !1, loose, &mut hash)
            .unwrap_or(end)
    }

    fn scan(
        &self,
        data: &[u8],
        from: usize,
        to: usize,
        mask: u64,
        hash: &mut u64,
    ) -> Option<usize> {
        let double = mask << 1;
        let mut value = *hash;
        let span = data.get(from..to)?;
        for (step, pair) in span.as_chunks::<2>().0.iter().enumerate() {
            value = (value << 2).wrapping_add(self.shifted[usize::from(pair[0])]);
            if value & double == 0 {
                return Some(from + step * 2 + 1);
            }
            value = value.wrapping_add(self.table[usize::from(pair[1])]);
            if value & mask == 0 {
                return Some(from + step * 2 + 2);
            }
        }
        *hash = value;
        None
    }
}

/// `bits` ones, the highest at bit 62: high bits of a gear hash depend on the most bytes, and the
/// doubled mask must still fit.
const fn mask(bits: u32) -> u64 {
    ((1u64 << bits) - 1) << (63 - bits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut out = vec![0u8; length];
        blake3::Hasher::new()
            .update(&seed.to_le_bytes())
            .finalize_xof()
            .fill(&mut out);
        out
    }

    fn cuts(gear: &Gear, mut data: &[u8], sizes: &PieceSizes) -> Vec<usize> {
        let mut out = Vec::new();
        while !data.is_empty() {
            let length = gear.cut(data, sizes);
            out.push(length);
            data = &data[length..];
        }
        out
    }

    #[test]
    fn cut_points_of_version_1_never_move() {
        let gear = Gear::new(&[1; 32]);
        let sizes = PieceSizes::around(8192);
        let lengths = cuts(&gear, &noise(1, 100_000), &sizes);
        assert_eq!(lengths, FROZEN, "the cut points are part of the format");
    }

    const FROZEN: &[usize] = &[
        10665, 12247, 8279, 6869, 8931, 3664, 11946, 8355, 8383, 16514, 4147,
    ];

    #[test]
    fn an_insertion_moves_only_the_cuts_around_it() {
        let gear = Gear::new(&[1; 32]);
        let sizes = PieceSizes::around(8192);
        let data = noise(2, 1 << 20);
        let mut changed = data.clone();
        changed.splice(500_000..500_000, [1, 2, 3]);
        let ends = |lengths: Vec<usize>| {
            lengths
                .into_iter()
                .scan(0, |at, length| {
                    *at += length;
                    Some(*at)
                })
                .collect::<Vec<_>>()
        };
        let before = ends(cuts(&gear, &data, &sizes));
        let after = ends(cuts(&gear, &changed, &sizes));
        let kept = before
            .iter()
            .filter(|&&end| after.contains(&if end > 500_000 { end + 3 } else { end }))
            .count();
        assert!(kept + 4 >= before.len(), "{kept} of {}", before.len());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn pieces_keep_to_their_sizes_and_give_the_data_back(seed: u64, length in 0usize..300_000) {
            let gear = Gear::new(&[3; 32]);
            let sizes = PieceSizes::around(8192);
            let lengths = cuts(&gear, &noise(seed, length), &sizes);
            prop_assert_eq!(lengths.iter().sum::<usize>(), length);
            for (at, &piece) in lengths.iter().enumerate() {
                prop_assert!(piece <= sizes.max);
                prop_assert!(piece > sizes.min || at + 1 == lengths.len());
            }
        }
    }

    #[test]
    fn the_average_is_near_the_wanted_one() {
        let gear = Gear::new(&[4; 32]);
        let lengths = cuts(&gear, &noise(5, 32 << 20), &PieceSizes::around(8192));
        let average = (32 << 20) / lengths.len();
        assert!((7000..11_000).contains(&average), "{average}");
    }
}
