//! Further names of a file: the first one that was stored lends them its content, as long as the
//! walk saw the same file at both. They may be far apart, so what is remembered of a file is small:
//! for nearly all of them about a hundred bytes.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::num::NonZeroU64;

use backup_core::{Body, ChunkId, Fingerprint, StreamProfile};
use backup_format::extent::{Content, Extent, Extents};

/// A further name of a file, with what it takes to read it by itself.
#[derive(Debug)]
pub(super) struct Link {
    /// The number that all names of the file share.
    pub(super) group: u64,
    /// Its content.
    pub(super) body: Body,
    /// How to cut it.
    pub(super) profile: StreamProfile,
}

/// What a name leaves for those that follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    /// Whether it may be another by now without its fingerprint showing it.
    pub(super) is_racy: bool,
    pub(super) size: u64,
    pub(super) sha256: Option<[u8; 32]>,
    pub(super) place: Place,
    pub(super) extents: Vec<u8>,
}

/// Where the content lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Content(Content),
    Bundle {
        number: u32,
        offset: u32,
        length: u32,
    },
}

/// A content that is one stretch of a bundle or of another chunk.
#[derive(Debug)]
struct Small {
    sha256: [u8; 32],
    state: Option<NonZeroU64>,
    /// Of the bundle, or the place in the list of chunks.
    number: u32,
    offset: u32,
    length: u32,
    is_in_bundle: bool,
    is_racy: bool,
}

/// What was stored of files with several names, by the number of their group.
#[derive(Debug, Default)]
pub(super) struct Links {
    small: HashMap<u64, Small>,
    large: HashMap<u64, Box<(Option<NonZeroU64>, Stored)>>,
    chunks: Vec<ChunkId>,
    states: RandomState,
}

impl Links {
    /// Remembers a name that was stored by itself. `state` is that of the file in which it was read,
    /// if it kept still.
    pub(super) fn remember(&mut self, group: u64, state: Option<Fingerprint>, stored: Stored) {
        let state = self.mark(state);
        let Some(small) = self.small(state, &stored) else {
            self.small.remove(&group);
            self.large.insert(group, Box::new((state, stored)));
            return;
        };
        self.large.remove(&group);
        self.small.insert(group, small);
    }

    /// Of a state nothing is asked but whether it is another.
    fn mark(&self, state: Option<Fingerprint>) -> Option<NonZeroU64> {
        let hash = self.states.hash_one(state?);
        Some(NonZeroU64::new(hash).unwrap_or(NonZeroU64::MIN))
    }

    fn small(&mut self, state: Option<NonZeroU64>, stored: &Stored) -> Option<Small> {
        let sha256 = stored.sha256.filter(|_| stored.extents.is_empty())?;
        let (number, offset, length, is_in_bundle) = match &stored.place {
            Place::Bundle {
                number,
                offset,
                length,
            } => (*number, *offset, *length, true),
            Place::Content(Content::Inline(extents)) => {
                let [
                    Extent::Data {
                        chunk,
                        offset,
                        length,
                    },
                ] = extents.as_slice()
                else {
                    return None;
                };
                // Neighbours lie in the same bundle.
                if self.chunks.last() != Some(chunk) {
                    self.chunks.push(*chunk);
                }
                let number = u32::try_from(self.chunks.len() - 1).ok()?;
                (number, *offset, *length, false)
            }
            Place::Content(Content::Spilled(_)) => return None,
        };
        (u64::from(length) == stored.size).then_some(Small {
            sha256,
            state,
            number,
            offset,
            length,
            is_in_bundle,
            is_racy: stored.is_racy,
        })
    }

    /// What was stored of the file.
    pub(super) fn get(&self, group: u64) -> Option<Stored> {
        let Some(small) = self.small.get(&group) else {
            return self.large.get(&group).map(|large| large.1.clone());
        };
        let (number, offset, length) = (small.number, small.offset, small.length);
        let place = if small.is_in_bundle {
            Place::Bundle {
                number,
                offset,
                length,
            }
        } else {
            let chunk = *self.chunks.get(number as usize)?;
            let mut extents = Extents::default();
            extents.push(Extent::Data {
                chunk,
                offset,
                length,
            });
            Place::Content(Content::Inline(extents))
        };
        Some(Stored {
            is_racy: small.is_racy,
            size: u64::from(length),
            sha256: Some(small.sha256),
            place,
            extents: Vec::new(),
        })
    }

    /// Whether what was stored is the content of a further name, which the walk saw in `state`. It
    /// is not if no earlier name could be stored, if the file was changed between the two, or if
    /// its number went to another file meanwhile.
    pub(super) fn hold(&self, link: &Link, state: Option<Fingerprint>) -> bool {
        let cannot_tell = state.is_none() || matches!(link.body, Body::None | Body::Unchanged);
        let small = self.small.get(&link.group).map(|small| small.state);
        let stored = small.or_else(|| self.large.get(&link.group).map(|large| large.0));
        stored.is_some_and(|stored| cannot_tell || stored == self.mark(state))
    }
}

#[cfg(test)]
mod tests {
    use backup_core::FileTime;

    use super::*;

    fn stored(lengths: &[u32], sha256: Option<[u8; 32]>) -> Stored {
        let mut extents = Extents::default();
        for (number, length) in (0u8..).zip(lengths) {
            extents.push(Extent::Data {
                chunk: ChunkId([number; 32]),
                offset: 7,
                length: *length,
            });
        }
        Stored {
            is_racy: false,
            size: extents.length(),
            sha256,
            place: Place::Content(Content::Inline(extents)),
            extents: Vec::new(),
        }
    }

    fn bundled(is_racy: bool) -> Stored {
        Stored {
            is_racy,
            size: 5,
            sha256: Some([6; 32]),
            place: Place::Bundle {
                number: 3,
                offset: 4,
                length: 5,
            },
            extents: Vec::new(),
        }
    }

    fn state(inode: u64) -> Option<Fingerprint> {
        let time = FileTime::default();
        Some(Fingerprint {
            size: 5,
            mtime: time,
            ctime: time,
            inode,
        })
    }

    #[test]
    fn what_is_remembered_comes_back_and_the_last_counts() {
        let mut links = Links::default();
        let given = [
            stored(&[10], Some([1; 32])),
            bundled(false),
            bundled(true),
            stored(&[10, 20], Some([2; 32])),
            stored(&[10], None),
            stored(&[], Some([3; 32])),
        ];
        for (group, link) in (0u64..).zip(&given) {
            links.remember(group, state(1), stored(&[99], None));
            links.remember(group, state(2), bundled(false));
            links.remember(group, state(group), link.clone());
        }
        let body = || Body::Bytes(bytes::Bytes::new());
        for (group, wanted) in (0u64..).zip(&given) {
            assert_eq!(links.get(group).as_ref(), Some(wanted));
            let link = Link {
                group,
                body: body(),
                profile: StreamProfile::Auto,
            };
            assert!(links.hold(&link, state(group)) && links.hold(&link, None));
            assert!(!links.hold(&link, state(group + 1)));
        }
        assert_eq!(links.get(9), None);
        assert_eq!((links.small.len(), links.large.len()), (3, 3));
    }

    /// The table doubles when it is full, so a place of it is about half as large again.
    #[test]
    fn a_small_content_takes_about_a_hundred_bytes() {
        assert!(size_of::<(u64, Small)>() <= 64);
    }
}
