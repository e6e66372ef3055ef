//! How blobs are compressed: by the level that was asked for, or, at the default level, in the way
//! that suits what comes.
//!
//! zstd's strategies differ in what they are good at. On what shrinks to a twentieth (pages of a
//! database, mostly) its `fast` strategy is faster than `dfast` and smaller; on what hardly shrinks
//! (media) it is a fifth faster for a hundredth of size. On what shrinks even better (dumps) and
//! between the two (text, source code, programs) `dfast` earns its time. What comes next is nearly
//! always like what came last, so the last blob says which to take; measured in
//! `docs/design/0001-format-sizes.md`.

use std::io::Cursor;

use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

use super::{DEFAULT_LEVEL, SealError};

/// Behind a blob that was compressed to a share in one of these, the next is compressed quickly.
const QUICKLY: [std::ops::Range<f64>; 2] = [0.02..0.1, 0.6..f64::INFINITY];
/// Smaller blobs say little about what comes next, in bytes.
const TELLING: usize = 64 << 10;
/// Half of the tables that zstd takes for its level 3 on chunks of 2 MiB: they stay in the
/// processor's second cache beside the data.
const CLOSE_TABLES: [CParameter; 2] = [CParameter::HashLog(16), CParameter::ChainLog(15)];
/// The level whose strategy is `fast`, with tables of the same size.
const QUICK_LEVEL: i32 = 2;

/// Compresses blobs one after another.
pub(super) struct Compression {
    close: Compressor<'static>,
    /// At the default level.
    quick: Option<Compressor<'static>>,
    /// Compressed size of the last telling blob by its size.
    last: f64,
}

impl Compression {
    /// Compression at a zstd level.
    ///
    /// # Errors
    /// [`SealError::Compress`] for a level that zstd does not have.
    pub(super) fn new(level: i32) -> Result<Self, SealError> {
        let mut close = Compressor::new(level).map_err(not_compressed)?;
        let mut quick = None;
        if level == DEFAULT_LEVEL {
            for parameter in CLOSE_TABLES {
                close.set_parameter(parameter).map_err(not_compressed)?;
            }
            quick = Some(Compressor::new(QUICK_LEVEL).map_err(not_compressed)?);
        }
        Ok(Self {
            close,
            quick,
            last: 0.0,
        })
    }

    /// Compresses `raw` to the position of `out`; returns the compressed size.
    ///
    /// # Errors
    /// [`SealError::Compress`] when zstd fails.
    pub(super) fn compress(
        &mut self,
        raw: &[u8],
        out: &mut Cursor<&mut Vec<u8>>,
    ) -> Result<usize, SealError> {
        let with = match &mut self.quick {
            Some(quick) if QUICKLY.iter().any(|share| share.contains(&self.last)) => quick,
            _ => &mut self.close,
        };
        let size = with.compress_to_buffer(raw, out).map_err(not_compressed)?;
        if raw.len() >= TELLING {
            self.last = size as f64 / raw.len() as f64;
        }
        Ok(size)
    }
}

/// An error of zstd as ours.
pub(super) fn not_compressed(error: std::io::Error) -> SealError {
    SealError::Compress(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `share` of the bytes are noise, the others zero: noise in runs, as in real data.
    fn data(seed: u8, share: usize) -> Vec<u8> {
        let mut noise = vec![0u8; 1 << 20];
        blake3::Hasher::new()
            .update(&[seed])
            .finalize_xof()
            .fill(&mut noise);
        for block in noise.chunks_mut(1000) {
            let keep = block.len() * share / 100;
            block[keep..].fill(0);
        }
        noise
    }

    fn size(compression: &mut Compression, raw: &[u8]) -> usize {
        let mut out = Vec::with_capacity(zstd::zstd_safe::compress_bound(raw.len()));
        let size = compression
            .compress(raw, &mut Cursor::new(&mut out))
            .unwrap();
        assert_eq!(zstd::bulk::decompress(&out, raw.len()).unwrap(), raw);
        size
    }

    #[test]
    fn the_last_blob_chooses_how_the_next_is_compressed() {
        let text = data(1, 30);
        let alone = |level, tables: &[CParameter]| {
            let mut compressor = Compressor::new(level).unwrap();
            for &parameter in tables {
                compressor.set_parameter(parameter).unwrap();
            }
            compressor.compress(&text).unwrap().len()
        };
        let closely = alone(DEFAULT_LEVEL, &CLOSE_TABLES);
        let quickly = alone(QUICK_LEVEL, &[]);
        assert_ne!(
            closely, quickly,
            "the test needs data that tells them apart"
        );
        for (before, expected) in [(1, closely), (5, quickly), (30, closely), (80, quickly)] {
            let mut compression = Compression::new(DEFAULT_LEVEL).unwrap();
            let _ = size(&mut compression, &data(2, before));
            assert_eq!(size(&mut compression, &text), expected, "{before} % noise");
        }
    }

    #[test]
    fn small_blobs_change_nothing_and_a_level_asked_for_is_kept_to() {
        let text = data(1, 30);
        let mut compression = Compression::new(DEFAULT_LEVEL).unwrap();
        let before = size(&mut compression, &text);
        let _ = size(&mut compression, &vec![0; TELLING - 1]);
        assert_eq!(size(&mut compression, &text), before);
        let mut compression = Compression::new(1).unwrap();
        let before = size(&mut compression, &text);
        let _ = size(&mut compression, &data(2, 5));
        assert_eq!(size(&mut compression, &text), before);
    }
}
