//! What the collection of garbage and the sessions of writers tell each other: small objects beside
//! `sessions/`, and the lists of packs of a generation. The protocol is in
//! `docs/design/0002-garbage-collection.md`.
//!
//! | object | kind | plaintext |
//! |---|---|---|
//! | `sessions/<ulid>.done` | `SessionDone` | `1 ‖ session(16) ‖ extra` |
//! | `sessions/<ulid>.revoked` | `SessionRevoked` | `1 ‖ session(16) ‖ extra` |
//! | `verdicts/<ulid of the session>` | `Verdict` | `1 ‖ session(16) ‖ varint snapshots { snapshot(16) } ‖ extra` |
//! | `gc/<n>` | `Condemned` | `1 ‖ varint n ‖ varint packs { pack(32) } ‖ extra` |
//! | `gc/<n>.done` | `Dead` | as of `Condemned` |
//!
//! Snapshots and packs ascend strictly.

use std::collections::BTreeSet;

use backup_core::{PackId, SessionId, SnapshotId};

use crate::extra::{self, Extra};
use crate::wire::{Put as _, Take, WireError};

/// Most snapshots that a verdict names.
pub const MAX_VERDICT: usize = 4096;

/// Says of a session that it ended, or that it is revoked; the kind of the object says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionMark {
    /// The session.
    pub session: SessionId,
}

/// Which snapshots of a session count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The session.
    pub session: SessionId,
    /// The only ones of its snapshots that count; at most [`MAX_VERDICT`].
    pub snapshots: BTreeSet<SnapshotId>,
}

/// Packs that a generation condemns, or calls dead; the kind of the object says which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackList {
    /// The number of the generation.
    pub generation: u32,
    /// The packs.
    pub packs: BTreeSet<PackId>,
}

fn begin<'a>(plain: &'a [u8], what: &'static str) -> Result<Take<'a>, WireError> {
    let mut take = Take::new(plain);
    match take.u8()? {
        1 => Ok(take),
        found => Err(WireError::Version {
            what,
            found: u32::from(found),
            known: 1,
        }),
    }
}

fn end(mut take: Take<'_>, what: &'static str) -> Result<(), WireError> {
    extra::take(&mut take, what)?;
    take.end()
}

/// So many ids of `N` bytes, strictly ascending.
fn take_ids<const N: usize, T: Ord>(
    take: &mut Take<'_>,
    most: usize,
    of: impl Fn([u8; N]) -> T,
) -> Result<BTreeSet<T>, WireError> {
    let count = take.count(N)?;
    if count > most {
        return Err(WireError::Range("a number of ids"));
    }
    let mut ids = Vec::with_capacity(count);
    for _ in 0..count {
        let id = of(take.array()?);
        if ids.last().is_some_and(|last| *last >= id) {
            return Err(WireError::Range("the order of ids"));
        }
        ids.push(id);
    }
    Ok(ids.into_iter().collect())
}

impl SessionMark {
    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![1];
        out.extend_from_slice(&self.session.to_bytes());
        extra::put(&mut out, &Extra::new());
        out
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(plain: &[u8]) -> Result<Self, WireError> {
        const WHAT: &str = "mark of a session";
        let mut take = begin(plain, WHAT)?;
        let session = SessionId::from_bytes(take.array()?);
        end(take, WHAT)?;
        Ok(Self { session })
    }
}

impl Verdict {
    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![1];
        out.extend_from_slice(&self.session.to_bytes());
        out.put_varint(self.snapshots.len() as u64);
        for snapshot in &self.snapshots {
            out.extend_from_slice(&snapshot.to_bytes());
        }
        extra::put(&mut out, &Extra::new());
        out
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(plain: &[u8]) -> Result<Self, WireError> {
        const WHAT: &str = "verdict";
        let mut take = begin(plain, WHAT)?;
        let session = SessionId::from_bytes(take.array()?);
        let snapshots = take_ids(&mut take, MAX_VERDICT, SnapshotId::from_bytes)?;
        end(take, WHAT)?;
        Ok(Self { session, snapshots })
    }
}

impl PackList {
    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![1];
        out.put_varint(u64::from(self.generation));
        out.put_varint(self.packs.len() as u64);
        for pack in &self.packs {
            out.extend_from_slice(&pack.0);
        }
        extra::put(&mut out, &Extra::new());
        out
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(plain: &[u8]) -> Result<Self, WireError> {
        const WHAT: &str = "list of packs";
        let mut take = begin(plain, WHAT)?;
        let generation = u32::try_from(take.varint()?);
        let generation = generation.map_err(|_| WireError::Range("a generation"))?;
        let packs = take_ids(&mut take, usize::MAX, PackId)?;
        end(take, WHAT)?;
        Ok(Self { generation, packs })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            session: [u8; 16], generation: u32,
            snapshots in prop::collection::btree_set(any::<[u8; 16]>(), 0..5),
            packs in prop::collection::btree_set(any::<[u8; 32]>(), 0..5),
        ) {
            let session = SessionId::from_bytes(session);
            let mark = SessionMark { session };
            prop_assert_eq!(SessionMark::decode(&mark.encode()), Ok(mark));
            let snapshots = snapshots.into_iter().map(SnapshotId::from_bytes).collect();
            let verdict = Verdict { session, snapshots };
            prop_assert_eq!(Verdict::decode(&verdict.encode()), Ok(verdict));
            let packs = packs.into_iter().map(PackId).collect();
            let list = PackList { generation, packs };
            prop_assert_eq!(PackList::decode(&list.encode()), Ok(list));
        }

        #[test]
        fn any_bytes_are_read_or_refused(mut bytes: Vec<u8>) {
            if let Some(version) = bytes.first_mut() {
                *version = 1;
            }
            if let Ok(mark) = SessionMark::decode(&bytes) {
                prop_assert!(mark.encode().len() <= bytes.len());
            }
            if let Ok(verdict) = Verdict::decode(&bytes) {
                prop_assert!(verdict.encode().len() <= bytes.len());
            }
            if let Ok(list) = PackList::decode(&bytes) {
                prop_assert!(list.encode().len() <= bytes.len());
            }
        }
    }

    #[test]
    fn ids_out_of_order_or_twice_are_refused() {
        let list = |first: u8, second: u8| {
            let plain = [&[1, 7, 2][..], &[first; 32], &[second; 32], &[0]].concat();
            PackList::decode(&plain)
        };
        assert_eq!(
            list(3, 4).map(|list| (list.generation, list.packs.len())),
            Ok((7, 2))
        );
        assert!(list(4, 3).is_err() && list(4, 4).is_err());
    }

    #[test]
    fn other_versions_and_mandatory_additions_are_refused() {
        let session = SessionId(9);
        let mut plain = SessionMark { session }.encode();
        let end = plain.len() - 1;
        plain.truncate(end);
        let known = [&plain[..], b"\x01\x01a\x00"].concat();
        assert!(SessionMark::decode(&known).is_ok());
        let unknown = [&plain[..], b"\x01\x02!a\x00"].concat();
        assert!(matches!(
            SessionMark::decode(&unknown),
            Err(WireError::Needs { .. })
        ));
        plain[0] = 2;
        assert!(matches!(
            SessionMark::decode(&plain),
            Err(WireError::Version { .. })
        ));
    }
}
