//! The bytes of a sidecar: `head ‖ recovery shards ‖ head ‖ length of the head u32`. The head is there twice, since
//! without it nothing else is of use. Numbers are little-endian.
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 8 | `BKSYPRTY` |
//! | 8 | 2 | version u16 = 1 |
//! | 10 | 2 | 0 |
//! | 12 | 4 | shard size `s` in bytes: a power of two |
//! | 16 | 8 | length of the object in bytes |
//! | 24 | 4 | data shards `k` |
//! | 28 | 4 | recovery shards `m` |
//! | 32 | 32 | SHA-256 of the object |
//! | 64 | 8k | check sums of the data shards |
//! | 64 + 8k | 8m | check sums of the recovery shards |
//! | 64 + 8k + 8m | 8 | check sum of the head up to here |
//!
//! A check sum is the first 8 bytes of BLAKE3 without key. It tells what was lost, not who did it: that the
//! mended object is the right one, its SHA-256 says.
//!
//! The shard size is the smallest power of two from 512 on with which there are at most 1,024 data shards.
//! With a share of `p` hundredths there are `⌈k·p/100⌉ + 1` recovery shards: one more than the share, so that a run
//! of `p` hundredths of the object's bytes is made good wherever it begins. A sidecar that is to bring back an object of
//! which nothing is left has `k + 1` recovery shards, at most 1,024: one more than are needed.

use crate::ParityError;

/// Largest object in bytes.
pub const MAX_OBJECT: usize = 512 << 20;
/// Most data shards.
pub(crate) const MAX_SHARDS: usize = 1024;
/// No sidecar has more bytes.
pub const MAX_SIDECAR: usize =
    MAX_SHARDS * MAX_SHARD + 2 * (FIXED + CHECK * (2 * MAX_SHARDS + 1)) + TRAILER;
const MIN_SHARD: usize = 512;
const MAX_SHARD: usize = MAX_OBJECT / MAX_SHARDS;
const MAGIC: &[u8; 8] = b"BKSYPRTY";
const VERSION: u16 = 1;
const FIXED: usize = 64;
pub(crate) const CHECK: usize = 8;
/// Length of the field behind the second head.
const TRAILER: usize = 4;

/// How much parity there is, in hundredths of what it protects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u8);

impl Share {
    /// What is usual: a run of 5 % is made good with room to spare.
    pub const USUAL: Self = Self(6);

    /// So many hundredths, from 1 to 50.
    ///
    /// # Errors
    /// [`ParityError::Share`].
    pub const fn new(percent: u8) -> Result<Self, ParityError> {
        match percent {
            1..=50 => Ok(Self(percent)),
            _ => Err(ParityError::Share),
        }
    }

    /// The hundredths.
    #[must_use]
    pub const fn percent(self) -> u8 {
        self.0
    }
}

/// How many recovery shards there are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Amount {
    /// So much that a part of the object is made good.
    Share(Share),
    /// So much that all of it is.
    Whole,
}

impl Amount {
    fn of(self, data: usize) -> usize {
        match self {
            Self::Share(share) => (data * usize::from(share.0)).div_ceil(100) + 1,
            Self::Whole => (data + 1).min(MAX_SHARDS),
        }
    }
}

pub(crate) type Check = [u8; CHECK];

pub(crate) fn check_of(bytes: &[u8]) -> Check {
    let mut out = [0; CHECK];
    out.copy_from_slice(&blake3::hash(bytes).as_bytes()[..CHECK]);
    out
}

/// How an object is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Bytes of the object.
    pub(crate) length: usize,
    /// Bytes of a shard.
    pub(crate) shard: usize,
    /// Data shards.
    pub(crate) data: usize,
    /// Recovery shards.
    pub(crate) recovery: usize,
}

impl Cut {
    pub(crate) fn new(length: usize, amount: Amount) -> Result<Self, ParityError> {
        if length == 0 || length > MAX_OBJECT {
            return Err(ParityError::Length(length as u64));
        }
        let shard = shard_of(length);
        let data = length.div_ceil(shard);
        Ok(Self {
            length,
            shard,
            data,
            recovery: amount.of(data),
        })
    }

    pub(crate) const fn head(&self) -> usize {
        FIXED + CHECK * (self.data + self.recovery + 1)
    }

    /// Where the recovery shards lie.
    pub(crate) const fn recovery_at(&self) -> usize {
        self.head()
    }

    /// Bytes of the whole sidecar.
    pub(crate) const fn sidecar(&self) -> usize {
        2 * self.head() + self.recovery * self.shard + TRAILER
    }

    /// The bytes of an object, whole or not, that a data shard is made of; all that is behind them is zeros.
    pub(crate) fn part<'a>(&self, object: &'a [u8], number: usize) -> &'a [u8] {
        let start = number * self.shard;
        let end = (start + self.shard).min(self.length).min(object.len());
        object.get(start..end).unwrap_or_default()
    }

    /// The check sum of a data shard of an object.
    pub(crate) fn check_part(&self, object: &[u8], number: usize) -> Check {
        let part = self.part(object, number);
        if part.len() == self.shard {
            return check_of(part);
        }
        let mut filled = part.to_vec();
        filled.resize(self.shard, 0);
        check_of(&filled)
    }
}

fn shard_of(length: usize) -> usize {
    length
        .div_ceil(MAX_SHARDS)
        .next_power_of_two()
        .max(MIN_SHARD)
}

/// What a head says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) cut: Cut,
    pub(crate) digest: [u8; 32],
    pub(crate) data: Vec<Check>,
    pub(crate) recovery: Vec<Check>,
}

impl Head {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.cut.head());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&(self.cut.shard as u32).to_le_bytes());
        out.extend_from_slice(&(self.cut.length as u64).to_le_bytes());
        out.extend_from_slice(&(self.cut.data as u32).to_le_bytes());
        out.extend_from_slice(&(self.cut.recovery as u32).to_le_bytes());
        out.extend_from_slice(&self.digest);
        for check in self.data.iter().chain(&self.recovery) {
            out.extend_from_slice(check);
        }
        let check = check_of(&out);
        out.extend_from_slice(&check);
        out
    }

    /// Reads a head at the beginning of bytes.
    fn decode(bytes: &[u8]) -> Result<Self, ParityError> {
        let short = ParityError::Damaged("its head is cut short");
        let fixed: &[u8; FIXED] = bytes.first_chunk().ok_or_else(|| short.clone())?;
        if !fixed.starts_with(MAGIC) {
            return Err(ParityError::Damaged("it does not begin like one"));
        }
        let number = |at: usize| {
            let mut four = [0; 4];
            four.copy_from_slice(&fixed[at..at + 4]);
            u32::from_le_bytes(four)
        };
        // The sums are asked first: what was damaged must not pass for the work of a newer program. Where
        // they are follows from numbers that were not checked yet, so these are bounded before.
        let (data, recovery) = (number(24) as usize, number(28) as usize);
        let bounded = (1..=MAX_SHARDS).contains(&data) && (1..=MAX_SHARDS).contains(&recovery);
        if !bounded {
            return Err(ParityError::Damaged("the number of its shards"));
        }
        let signed = FIXED + CHECK * (data + recovery);
        let (signed, rest) = bytes
            .split_at_checked(signed)
            .ok_or_else(|| short.clone())?;
        let check: &Check = rest.first_chunk().ok_or(short)?;
        if check_of(signed) != *check {
            return Err(ParityError::Damaged("its head does not have its check sum"));
        }
        let version = u16::from_le_bytes([fixed[8], fixed[9]]);
        if version != VERSION {
            return Err(ParityError::Newer(version));
        }
        let (shard, zero) = (number(12) as usize, [fixed[10], fixed[11]]);
        let length = u64::from(number(16)) | u64::from(number(20)) << 32;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let fits = length > 0
            && length <= MAX_OBJECT
            && shard.is_power_of_two()
            && (MIN_SHARD..=MAX_SHARD).contains(&shard)
            && length.div_ceil(shard) == data
            && zero == [0; 2];
        if !fits {
            return Err(ParityError::Damaged("its numbers do not fit each other"));
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(&fixed[32..64]);
        let (sums, _) = signed[FIXED..].as_chunks::<CHECK>();
        let (of_data, of_recovery) = sums.split_at(data);
        Ok(Self {
            cut: Cut {
                length,
                shard,
                data,
                recovery,
            },
            digest,
            data: of_data.to_vec(),
            recovery: of_recovery.to_vec(),
        })
    }

    /// The head of a sidecar: the first that is whole of the two, and whether it was the first.
    pub(crate) fn find(sidecar: &[u8]) -> Result<(Self, bool), ParityError> {
        let first = match Self::decode(sidecar) {
            Ok(head) => return Ok((head, true)),
            Err(error) => error,
        };
        let second = sidecar
            .split_last_chunk::<TRAILER>()
            .and_then(|(rest, length)| {
                let start = rest
                    .len()
                    .checked_sub(u32::from_le_bytes(*length) as usize)?;
                Self::decode(rest.get(start..)?).ok()
            });
        second.map(|head| (head, false)).ok_or(first)
    }

    /// Whether both heads and the end of a sidecar are as they were written.
    pub(crate) fn frames(&self, sidecar: &[u8]) -> bool {
        let head = self.encode();
        let end = [&head[..], &(head.len() as u32).to_le_bytes()].concat();
        sidecar.len() == self.cut.sidecar() && sidecar.starts_with(&head) && sidecar.ends_with(&end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Amount = Amount::Share(Share::USUAL);

    #[test]
    fn what_brings_all_back_has_as_many_shards_as_the_object_and_one() {
        let cut = |length| {
            let cut = Cut::new(length, Amount::Whole).unwrap();
            (cut.data, cut.recovery)
        };
        assert_eq!(cut(1), (1, 2));
        assert_eq!(cut(2_600), (6, 7));
        assert_eq!(cut(1 << 20), (1024, 1024));
        assert!(Cut::new(MAX_OBJECT, Amount::Whole).unwrap().sidecar() <= MAX_SIDECAR);
    }

    #[test]
    fn shards_are_as_the_format_says() {
        let cut = |length| {
            let cut = Cut::new(length, USUAL).unwrap();
            (cut.shard, cut.data, cut.recovery)
        };
        assert_eq!(cut(1), (512, 1, 2));
        assert_eq!(cut(10_000), (512, 20, 3));
        assert_eq!(cut(1 << 20), (1024, 1024, 63));
        assert_eq!(cut((1 << 20) + 1), (2048, 513, 32));
        assert_eq!(cut(16 << 20), (16_384, 1024, 63));
        assert_eq!(cut(MAX_OBJECT), (MAX_SHARD, 1024, 63));
        assert!(Cut::new(0, USUAL).is_err());
        assert!(Cut::new(MAX_OBJECT + 1, USUAL).is_err());
        assert!(Share::new(0).is_err() && Share::new(51).is_err());
    }

    #[test]
    fn of_a_full_pack_all_of_it_is_little_more_than_the_share() {
        for length in [16 << 20, (16 << 20) - 700_000, (16 << 20) + 2000, 4 << 20] {
            let cut = Cut::new(length, USUAL).unwrap();
            let share = cut.sidecar() as f64 / length as f64;
            assert!((0.06..0.066).contains(&share), "{share} of {length}");
        }
    }
}
