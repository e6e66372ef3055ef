//! Cutting streams into pieces, and gathering pieces and small files into chunks.

use backup_format::chunk::gear::PieceSizes;
use backup_format::chunk::{ChunkSizes, CutKeys, Gatherer, MOST_PIECES, PieceCut};
use divan::counter::BytesCount;
use divan::{Bencher, black_box};

const CHUNKS: ChunkSizes = ChunkSizes {
    min: 1 << 20,
    target: 2 << 20,
    max: 4 << 20,
};
const PIECE: usize = 8192;
const DATA: usize = 32 << 20;

fn main() {
    divan::main();
}

fn noise(length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut out);
    out
}

/// Content-defined pieces of about 8 KiB: their ends alone.
#[divan::bench]
fn gear(bencher: Bencher<'_, '_>) {
    let (keys, data) = (CutKeys::new(&[1; 32]), noise(DATA));
    let sizes = PieceSizes::around(PIECE);
    bencher
        .counter(BytesCount::of_slice(&data))
        .bench_local(|| {
            let mut rest = black_box(&data[..]);
            while !rest.is_empty() {
                rest = &rest[keys.gear().cut(rest, &sizes)..];
            }
        });
}

/// Digests of pieces.
#[divan::bench]
fn digest(bencher: Bencher<'_, '_>) {
    let (keys, data) = (CutKeys::new(&[1; 32]), noise(DATA));
    bencher
        .counter(BytesCount::of_slice(&data))
        .bench_local(|| {
            for piece in black_box(&data[..]).chunks(PIECE) {
                black_box(keys.digest(piece));
            }
        });
}

/// Pages of a database or image laid together, their digests known.
#[divan::bench]
fn gather(bencher: Bencher<'_, '_>) {
    bench_gather(bencher, PIECE);
}

/// Small files of 3 KiB laid together into bundles, their digests known.
#[divan::bench]
fn bundle(bencher: Bencher<'_, '_>) {
    bench_gather(bencher, 3 << 10);
}

fn bench_gather(bencher: Bencher<'_, '_>, piece: usize) {
    let (keys, data) = (CutKeys::new(&[1; 32]), noise(DATA));
    let pieces: Vec<_> = data.chunks(piece).map(|p| (p, keys.digest(p))).collect();
    bencher
        .counter(BytesCount::of_slice(&data))
        .bench_local(|| {
            let mut open = Gatherer::new(CHUNKS);
            for (piece, digest) in black_box(&pieces) {
                if open.is_full_for(piece.len()) {
                    black_box(open.take());
                }
                if open.push(piece, digest).1 {
                    black_box(open.take());
                }
            }
        });
}

/// What decides how a stream is cut.
#[divan::bench]
fn choose(bencher: Bencher<'_, '_>) {
    let head = noise(64 << 10);
    bencher.bench_local(|| {
        let profile = backup_format::chunk::sniff(1 << 30, black_box(&head));
        PieceCut::choose(profile, 1 << 30, &head, MOST_PIECES)
    });
}
