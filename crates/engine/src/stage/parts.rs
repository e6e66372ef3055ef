//! Where the stretches of a stream lie, while its last chunks are still open; and spills.

use backup_core::ChunkId;
use backup_format::extent::{Content, Extent, Extents, INLINE, MAX_EXTENTS, MAX_LIST, spill_span};
use backup_format::seal::BlobKind;

use crate::error::{EngineError, Result};
use crate::store::BlobStore;

/// Where a stretch of the stream lies; the chunk of the last ones may still be open.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    Known(Extent),
    Open {
        chunk: u32,
        offset: u32,
        length: u32,
    },
}

/// The stretches of a stream in order.
#[derive(Debug, Default)]
pub(super) struct Parts(Vec<Part>);

impl Parts {
    /// Appends a part, melting it into the last where they adjoin: streams have many pieces.
    pub(super) fn push(&mut self, part: Part) {
        match (self.0.last_mut(), part) {
            (
                Some(Part::Known(Extent::Zero { length })),
                Part::Known(Extent::Zero { length: more }),
            ) => {
                *length += more;
            }
            (
                Some(Part::Known(Extent::Data {
                    chunk,
                    offset,
                    length,
                })),
                Part::Known(Extent::Data {
                    chunk: next,
                    offset: at,
                    length: more,
                }),
            ) if *chunk == next && offset.checked_add(*length) == Some(at) => *length += more,
            (
                Some(Part::Open {
                    chunk,
                    offset,
                    length,
                }),
                Part::Open {
                    chunk: next,
                    offset: at,
                    length: more,
                },
            ) if *chunk == next && offset.checked_add(*length) == Some(at) => *length += more,
            _ => self.0.push(part),
        }
    }

    /// The extents, now that the chunks have their ids.
    ///
    /// # Errors
    /// [`EngineError::Panicked`] when a chunk has none.
    pub(super) fn into_extents(self, chunks: &[ChunkId]) -> Result<Extents> {
        let mut extents = Extents::default();
        for part in self.0 {
            extents.push(match part {
                Part::Known(extent) => extent,
                Part::Open {
                    chunk,
                    offset,
                    length,
                } => {
                    let chunk = chunks.get(chunk as usize).copied();
                    let chunk = chunk.ok_or(EngineError::Panicked("the stream cutter"))?;
                    Extent::Data {
                        chunk,
                        offset,
                        length,
                    }
                }
            });
        }
        Ok(extents)
    }
}

/// What a record names for these extents: themselves, or spills that are stored here.
///
/// # Errors
/// Failures of the store.
pub(super) fn spill(extents: &Extents, store: &BlobStore) -> Result<Content> {
    if extents.as_slice().len() <= INLINE {
        return Ok(Content::Inline(extents.clone()));
    }
    if extents.as_slice().len() > MAX_EXTENTS {
        return Err(too_many());
    }
    let span = spill_span(extents.length());
    let mut ids = Vec::new();
    let mut open = Extents::default();
    let mut put = |open: &mut Extents| -> Result<()> {
        let mut bytes = Vec::new();
        std::mem::take(open).encode(&mut bytes);
        ids.push(store.put(BlobKind::Lineage, bytes)?);
        Ok(())
    };
    for extent in extents.as_slice() {
        let mut rest = *extent;
        if open.as_slice().len() + 2 > MAX_LIST {
            return Err(too_many());
        }
        loop {
            let room = span - open.length();
            if rest.len() <= room {
                open.push(rest);
                break;
            }
            let (head, tail) = split(rest, room);
            open.push(head);
            put(&mut open)?;
            rest = tail;
        }
    }
    if open.length() > 0 {
        put(&mut open)?;
    }
    Ok(Content::Spilled(ids))
}

/// A source that says of every few bytes by themselves that they are unchanged; no list that was
/// written would be read again.
fn too_many() -> EngineError {
    EngineError::Invalid("a stream is in more ranges than a snapshot can list".into())
}

/// Both parts of an extent; `at` is within it.
fn split(extent: Extent, at: u64) -> (Extent, Extent) {
    match extent {
        Extent::Zero { length } => (
            Extent::Zero { length: at },
            Extent::Zero {
                length: length - at,
            },
        ),
        Extent::Data {
            chunk,
            offset,
            length,
        } => {
            let at = u32::try_from(at).unwrap_or(length).min(length);
            (
                Extent::Data {
                    chunk,
                    offset,
                    length: at,
                },
                Extent::Data {
                    chunk,
                    offset: offset + at,
                    length: length - at,
                },
            )
        }
    }
}
