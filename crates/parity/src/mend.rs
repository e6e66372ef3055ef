//! Reading a sidecar, and making an object whole with it. Both may be damaged, in any way.

use reed_solomon_simd::ReedSolomonDecoder;
use sha2::{Digest, Sha256};

use crate::ParityError;
use crate::encode::SLICE;
use crate::layout::{Head, check_of};

/// A sidecar that was read; its shards may be damaged all the same.
#[derive(Debug, Clone)]
pub struct Sidecar<'a> {
    head: Head,
    bytes: &'a [u8],
}

/// How an object looks to its sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Data shards that are damaged or missing.
    pub damaged: usize,
    /// All data shards.
    pub shards: usize,
    /// Recovery shards that are whole.
    pub spare: usize,
}

impl Condition {
    /// Whether it can be made whole.
    #[must_use]
    pub const fn is_mendable(&self) -> bool {
        self.damaged <= self.spare
    }
}

/// Where a data shard is whole.
#[derive(Debug, Clone, Copy)]
struct Found {
    copy: usize,
}

impl<'a> Sidecar<'a> {
    /// Reads a sidecar, by either of its heads.
    ///
    /// # Errors
    /// [`ParityError::Damaged`], [`ParityError::Newer`].
    pub fn read(bytes: &'a [u8]) -> Result<Self, ParityError> {
        let (head, _) = Head::find(bytes)?;
        Ok(Self { head, bytes })
    }

    /// The SHA-256 of the object that it is of.
    #[must_use]
    pub const fn digest(&self) -> &[u8; 32] {
        &self.head.digest
    }

    /// The length of that object in bytes.
    #[must_use]
    pub const fn length(&self) -> usize {
        self.head.cut.length
    }

    /// How many damaged data shards it could make good when it was new.
    #[must_use]
    pub const fn strength(&self) -> usize {
        self.head.cut.recovery
    }

    /// Whether every byte of it is as it was written.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.head.frames(self.bytes) && self.recovery().all(|shard| shard.is_some())
    }

    /// The recovery shards, those that are damaged left out.
    fn recovery(&self) -> impl Iterator<Item = Option<&'a [u8]>> + '_ {
        let cut = self.head.cut;
        // Of a sidecar that lost its first head the bytes still lie where they lay.
        self.head
            .recovery
            .iter()
            .enumerate()
            .map(move |(number, check)| {
                let at = cut.recovery_at() + number * cut.shard;
                let shard = self.bytes.get(at..at + cut.shard)?;
                (check_of(shard) == *check).then_some(shard)
            })
    }

    /// For each data shard a copy that has it whole.
    fn find(&self, copies: &[&[u8]]) -> Vec<Option<Found>> {
        let cut = self.head.cut;
        let whole = |number: usize| {
            let check = self.head.data.get(number)?;
            let is_whole = |copy: &&[u8]| {
                // What is behind the end of a copy is no zeros, it is lost.
                let wanted = cut.shard.min(cut.length - number * cut.shard);
                cut.part(copy, number).len() == wanted && cut.check_part(copy, number) == *check
            };
            let copy = copies.iter().position(is_whole)?;
            Some(Found { copy })
        };
        (0..cut.data).map(whole).collect()
    }

    /// How much of an object is damaged, whose bytes these are or were; several copies that are all
    /// damaged make up for each other.
    #[must_use]
    pub fn look(&self, copies: &[&[u8]]) -> Condition {
        let found = self.find(copies);
        Condition {
            damaged: found.iter().filter(|found| found.is_none()).count(),
            shards: found.len(),
            spare: self.recovery().flatten().count(),
        }
    }

    /// Makes an object whole. What comes out has the SHA-256 that the sidecar names.
    ///
    /// # Errors
    /// [`ParityError::Beyond`]; [`ParityError::Mismatch`].
    pub fn mend(&self, copies: &[&[u8]]) -> Result<Vec<u8>, ParityError> {
        let cut = self.head.cut;
        let found = self.find(copies);
        let damaged = found.iter().filter(|found| found.is_none()).count();
        let spare: Vec<(usize, &[u8])> = self
            .recovery()
            .enumerate()
            .filter_map(|(number, shard)| Some((number, shard?)))
            .collect();
        if damaged > spare.len() {
            return Err(ParityError::Beyond {
                damaged,
                shards: cut.data,
                spare: spare.len(),
            });
        }
        let mut out = vec![0; cut.data * cut.shard];
        for (number, found) in found.iter().enumerate() {
            let copy = found.and_then(|found| copies.get(found.copy));
            if let Some(copy) = copy {
                let part = cut.part(copy, number);
                out[number * cut.shard..][..part.len()].copy_from_slice(part);
            }
        }
        if damaged > 0 {
            // More than are needed would only be work.
            self.restore(&mut out, &found, &spare[..damaged])?;
        }
        out.truncate(cut.length);
        if <[u8; 32]>::from(Sha256::digest(&out)) != self.head.digest {
            return Err(ParityError::Mismatch);
        }
        Ok(out)
    }

    /// Fills in the data shards that were not found.
    fn restore(
        &self,
        out: &mut [u8],
        found: &[Option<Found>],
        spare: &[(usize, &[u8])],
    ) -> Result<(), ParityError> {
        let cut = self.head.cut;
        let slice = cut.shard.min(SLICE);
        let mut code = ReedSolomonDecoder::new(cut.data, cut.recovery, slice)?;
        for start in (0..cut.shard).step_by(slice) {
            for (number, _) in found
                .iter()
                .enumerate()
                .filter(|(_, found)| found.is_some())
            {
                let at = number * cut.shard + start;
                code.add_original_shard(number, &out[at..at + slice])?;
            }
            for (number, shard) in spare {
                code.add_recovery_shard(*number, &shard[start..start + slice])?;
            }
            let made = code.decode()?;
            for (number, shard) in made.restored_original_iter() {
                let at = number * cut.shard + start;
                out[at..at + slice].copy_from_slice(shard);
            }
        }
        Ok(())
    }
}
