//! Objects that are damaged in every way, and what their parity makes of them.
#![allow(clippy::unwrap_used, reason = "a test")]

use backup_parity::{ParityError, Share, Sidecar, encode, encode_whole};
use proptest::prelude::*;

fn object(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut out);
    out
}

/// Bytes of a shard, as the layout's page states it.
fn shard_of(length: usize) -> usize {
    length.div_ceil(1024).next_power_of_two().max(512)
}

fn mended(object: &[u8], sidecar: &[u8]) -> Result<Vec<u8>, ParityError> {
    Sidecar::read(sidecar)?.mend(&[object])
}

/// Spoils one byte in each of these shards.
fn spoil(object: &mut [u8], shards: impl IntoIterator<Item = usize>) {
    let shard = shard_of(object.len());
    for number in shards {
        let at = (number * shard + number % shard).min(object.len() - 1);
        object[at] ^= 0x40;
    }
}

#[test]
fn what_is_whole_is_found_whole() {
    for length in [1, 511, 512, 513, 5000, 1 << 20, (1 << 20) + 1, 3_000_017] {
        let object = object(1, length);
        let bytes = encode(&object, Share::USUAL).unwrap();
        let sidecar = Sidecar::read(&bytes).unwrap();
        assert!(sidecar.is_whole(), "{length}");
        assert_eq!(sidecar.length(), length);
        assert_eq!(sidecar.look(&[&object]).damaged, 0);
        assert_eq!(sidecar.mend(&[&object]).unwrap(), object);
        // Whatever follows it is not of it.
        let longer = [&object[..], b"more"].concat();
        assert_eq!(sidecar.mend(&[&longer]).unwrap(), object);
    }
}

#[test]
fn a_run_of_the_share_is_made_good_wherever_it_begins() {
    for length in [20_000, 300_000, (1 << 20) + 1, 5_000_000] {
        let whole = object(2, length);
        let sidecar = encode(&whole, Share::USUAL).unwrap();
        let run = length * 6 / 100;
        for begin in (0..=length - run)
            .step_by((length / 37).max(1))
            .chain([length - run])
        {
            let mut object = whole.clone();
            object[begin..begin + run].fill(0);
            assert!(
                mended(&object, &sidecar).unwrap() == whole,
                "{length} from {begin}"
            );
        }
    }
}

#[test]
fn what_is_cut_off_is_made_good_and_so_are_scattered_sectors() {
    let whole = object(3, 3 << 20);
    let sidecar = encode(&whole, Share::USUAL).unwrap();
    let cut = whole.len() - whole.len() / 20;
    assert!(mended(&whole[..cut], &sidecar).unwrap() == whole);
    // Sectors of 512 bytes, as many as there are shards that can be made good.
    let strength = Sidecar::read(&sidecar).unwrap().strength();
    let mut object = whole.clone();
    let step = whole.len() / strength / 512 * 512;
    for sector in 0..strength {
        object[sector * step..][..512].fill(0xff);
    }
    assert!(mended(&object, &sidecar).unwrap() == whole);
}

#[test]
fn beyond_the_limit_it_is_refused_and_said_so() {
    let whole = object(4, 1 << 20);
    let bytes = encode(&whole, Share::USUAL).unwrap();
    let strength = Sidecar::read(&bytes).unwrap().strength();
    assert_eq!(strength, 63);
    let mut object = whole.clone();
    spoil(&mut object, (0..strength).map(|number| number * 16));
    assert!(mended(&object, &bytes).unwrap() == whole);
    spoil(&mut object, [1023]);
    let refused = mended(&object, &bytes);
    let beyond = ParityError::Beyond {
        damaged: 64,
        shards: 1024,
        spare: 63,
    };
    assert_eq!(refused, Err(beyond));
    assert!(matches!(
        mended(b"", &bytes),
        Err(ParityError::Beyond { .. })
    ));
}

#[test]
fn two_copies_that_are_both_damaged_make_up_for_each_other() {
    let whole = object(5, 1 << 20);
    let bytes = encode(&whole, Share::USUAL).unwrap();
    let sidecar = Sidecar::read(&bytes).unwrap();
    let (mut one, mut other) = (whole.clone(), whole.clone());
    one[..600_000].fill(0);
    other[590_000..].fill(0);
    assert!(sidecar.mend(&[&one]).is_err() && sidecar.mend(&[&other]).is_err());
    assert!(sidecar.mend(&[&one, &other]).unwrap() == whole);
    one.truncate(500_000);
    other[400_000..450_000].fill(1);
    assert!(sidecar.mend(&[&other, &one, b""]).is_err());
}

#[test]
fn damage_to_the_parity_itself_is_known_and_takes_only_from_its_strength() {
    let whole = object(6, 1 << 20);
    let bytes = encode(&whole, Share::USUAL).unwrap();
    // Recovery shards begin behind the head.
    let head = 64 + 8 * (1024 + 63 + 1);
    let mut worn = bytes.clone();
    for number in 0..20 {
        worn[head + number * 1024] ^= 1;
    }
    let sidecar = Sidecar::read(&worn).unwrap();
    assert!(!sidecar.is_whole());
    assert_eq!(sidecar.look(&[&whole]).spare, 43);
    let mut object = whole.clone();
    spoil(&mut object, 500..543);
    assert!(sidecar.mend(&[&object]).unwrap() == whole);
    spoil(&mut object, [543]);
    assert!(sidecar.mend(&[&object]).is_err());
    // Either head is enough.
    let (mut first, mut second) = (bytes.clone(), bytes.clone());
    first[..head].fill(0);
    second.truncate(bytes.len() - head);
    for worn in [&first, &second] {
        let sidecar = Sidecar::read(worn).unwrap();
        assert!(!sidecar.is_whole());
        let mut object = whole.clone();
        object[100_000..150_000].fill(0);
        assert!(sidecar.mend(&[&object]).unwrap() == whole);
    }
    first.truncate(bytes.len() - 5);
    assert!(Sidecar::read(&first).is_err());
}

#[test]
fn the_parity_of_another_object_makes_nothing_of_this_one() {
    let sidecar = encode(&object(7, 50_000), Share::USUAL).unwrap();
    let other = object(8, 50_000);
    assert!(matches!(
        mended(&other, &sidecar),
        Err(ParityError::Beyond { .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_run_of_five_hundredths_is_made_good(
        seed: u64, length in 1usize..400_000, at: prop::sample::Index, percent in 5u8..20
    ) {
        let whole = object(seed, length);
        let sidecar = encode(&whole, Share::new(percent).unwrap()).unwrap();
        let run = length / 20;
        let begin = at.index(length - run + 1);
        let mut object = whole.clone();
        object[begin..begin + run].iter_mut().for_each(|byte| *byte = !*byte);
        prop_assert!(mended(&object, &sidecar).unwrap() == whole);
    }

    #[test]
    fn scattered_damage_is_made_good_up_to_the_limit_and_refused_beyond(
        seed: u64, length in 1usize..300_000, picks in prop::collection::vec(any::<prop::sample::Index>(), 0..60)
    ) {
        let whole = object(seed, length);
        let sidecar = encode(&whole, Share::USUAL).unwrap();
        let sidecar = Sidecar::read(&sidecar).unwrap();
        let mut object = whole.clone();
        let picks = picks.iter().map(|pick| pick.index(length));
        for at in picks.collect::<std::collections::BTreeSet<_>>() {
            object[at] ^= 1;
        }
        let shard = shard_of(length);
        let damaged = object.chunks(shard).zip(whole.chunks(shard)).filter(|(a, b)| a != b).count();
        let condition = sidecar.look(&[&object]);
        prop_assert_eq!(condition.damaged, damaged);
        prop_assert_eq!(condition.is_mendable(), damaged <= sidecar.strength());
        match sidecar.mend(&[&object]) {
            Ok(mended) => prop_assert!(condition.is_mendable() && mended == whole),
            Err(error) => {
                let is_beyond = matches!(error, ParityError::Beyond { .. });
                prop_assert!(is_beyond && !condition.is_mendable());
            }
        }
    }

    #[test]
    fn a_sidecar_that_is_damaged_never_makes_something_else(
        seed: u64, length in 1usize..60_000,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..200),
        keep: prop::sample::Index, holes in prop::collection::vec(any::<prop::sample::Index>(), 0..8)
    ) {
        let whole = object(seed, length);
        let mut bytes = encode(&whole, Share::USUAL).unwrap();
        for (at, value) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        let mut object = whole.clone();
        holes.iter().for_each(|at| object[at.index(length)] ^= 0x11);
        for end in [bytes.len(), keep.index(bytes.len() + 1)] {
            if let Ok(sidecar) = Sidecar::read(&bytes[..end]) {
                let _ = sidecar.is_whole();
                if let Ok(mended) = sidecar.mend(&[&object]) {
                    prop_assert!(mended == whole);
                }
            }
        }
    }
}

/// Nothing of the object is needed, nor any one shard of the sidecar; and what is left of both adds up.
#[test]
fn a_small_object_comes_back_of_which_nothing_is_left() {
    for length in [1, 300, 512, 700, 2_600, 70_000, 600_000] {
        let whole = object(9, length);
        let sidecar = encode_whole(&whole).unwrap();
        let shard = shard_of(length);
        let shards = length.div_ceil(shard);
        assert_eq!(mended(b"", &sidecar).unwrap(), whole, "{length}");
        let head = 64 + 8 * (2 * shards + 2);
        for number in 0..=shards {
            let mut sidecar = sidecar.clone();
            sidecar[head + number * shard + 7] ^= 1;
            assert_eq!(mended(b"", &sidecar).unwrap(), whole, "{length}: {number}");
        }
        // Both of them cut off.
        let cut = |bytes: &[u8]| bytes[..bytes.len() * 2 / 3].to_vec();
        assert_eq!(mended(&cut(&whole), &cut(&sidecar)).unwrap(), whole);
        let mut second = sidecar.clone();
        second[head..].fill(0);
        assert_eq!(mended(&whole, &second).unwrap(), whole);
        assert!(mended(b"", &second).is_err());
    }
}
