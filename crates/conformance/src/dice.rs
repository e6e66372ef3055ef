//! Reproducible chance: SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
//! generators", OOPSLA 2014), so that a printed seed replays a run.

/// The next number; moves the state on.
#[must_use]
pub fn step(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::step;

    #[test]
    fn a_seed_gives_the_published_sequence() {
        // First outputs of the reference implementation (xoshiro.di.unimi.it/splitmix64.c).
        let mut state = 1_234_567;
        let numbers = [step(&mut state), step(&mut state), step(&mut state)];
        assert_eq!(
            numbers,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }
}
