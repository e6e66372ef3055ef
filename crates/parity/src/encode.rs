//! Making a sidecar.

use reed_solomon_simd::ReedSolomonEncoder;
use sha2::{Digest, Sha256};

use crate::ParityError;
use crate::layout::{Amount, Cut, Head, Share, check_of};

/// So much of each shard is worked on at once: with 1,024 shards four megabytes. Less costs more calls, more
/// does not stay in the processor's caches.
pub(crate) const SLICE: usize = 4096;

/// The sidecar of an object.
///
/// # Errors
/// [`ParityError::Length`] for an object that is empty or has more than [`crate::MAX_OBJECT`] bytes.
pub fn encode(object: &[u8], share: Share) -> Result<Vec<u8>, ParityError> {
    encode_known(object, Sha256::digest(object).into(), share)
}

/// The same for an object whose SHA-256 is known already, such as a pack.
///
/// # Errors
/// As [`encode`].
pub fn encode_known(object: &[u8], digest: [u8; 32], share: Share) -> Result<Vec<u8>, ParityError> {
    build(object, digest, Amount::Share(share))
}

/// A sidecar with which an object comes back of which nothing is left: for objects that are small and that
/// everything depends on. It is a little longer than the object.
///
/// # Errors
/// As [`encode`].
pub fn encode_whole(object: &[u8]) -> Result<Vec<u8>, ParityError> {
    build(object, Sha256::digest(object).into(), Amount::Whole)
}

fn build(object: &[u8], digest: [u8; 32], amount: Amount) -> Result<Vec<u8>, ParityError> {
    let cut = Cut::new(object.len(), amount)?;
    let mut out = vec![0; cut.sidecar()];
    let at = cut.recovery_at();
    let slice = cut.shard.min(SLICE);
    let mut code = ReedSolomonEncoder::new(cut.data, cut.recovery, slice)?;
    let mut filled = vec![0; slice];
    for start in (0..cut.shard).step_by(slice) {
        for number in 0..cut.data {
            let part = cut.part(object, number);
            match part.get(start..start + slice) {
                Some(part) => code.add_original_shard(part)?,
                None => {
                    let part = part.get(start..).unwrap_or_default();
                    let (head, tail) = filled.split_at_mut(part.len());
                    head.copy_from_slice(part);
                    tail.fill(0);
                    code.add_original_shard(&filled)?;
                }
            }
        }
        let made = code.encode()?;
        for (number, recovery) in made.recovery_iter().enumerate() {
            let at = at + number * cut.shard + start;
            out[at..at + slice].copy_from_slice(recovery);
        }
    }
    let recovery = out[at..at + cut.recovery * cut.shard].chunks_exact(cut.shard);
    let head = Head {
        cut,
        digest,
        data: (0..cut.data)
            .map(|number| cut.check_part(object, number))
            .collect(),
        recovery: recovery.map(check_of).collect(),
    };
    let head = head.encode();
    out[..head.len()].copy_from_slice(&head);
    let end = at + cut.recovery * cut.shard;
    out[end..end + head.len()].copy_from_slice(&head);
    out[end + head.len()..].copy_from_slice(&(head.len() as u32).to_le_bytes());
    Ok(out)
}
