//! Sealing and opening: chunks of compressible and of random content, pack headers.

#![allow(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has failed"
)]

use backup_core::{ChunkId, RepoId, SessionId};
use backup_format::pack::{PackBuilder, read_tail};
use backup_format::seal::{BlobCodec, BlobKey, BlobKind, ObjectKeyring, blob_id};
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};

const REPO: RepoId = RepoId([1; 16]);
const CHUNK: usize = 2 << 20;
const BLOBS: usize = 2000;

fn main() {
    divan::main();
}

fn key() -> BlobKey {
    BlobKey::of_session(REPO, SessionId(5), &[9; 32])
}

fn noise(length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut out);
    out
}

/// Words drawn from 2,048: compressible, as text is.
fn words(length: usize) -> Vec<u8> {
    let vocabulary = noise(16 << 10);
    let draws = noise(length);
    let mut out = Vec::with_capacity(length + 16);
    for draw in draws.as_chunks::<2>().0 {
        let at = usize::from(u16::from_le_bytes(*draw)) % (vocabulary.len() / 8) * 8;
        out.extend_from_slice(&vocabulary[at..at + 7]);
        out.push(b' ');
        if out.len() >= length {
            break;
        }
    }
    out.truncate(length);
    out
}

fn content(kind: &str) -> Vec<u8> {
    match kind {
        "random" => noise(CHUNK),
        _ => words(CHUNK),
    }
}

/// Compressed at the level that is used by default, sealed, opened again and compared.
#[divan::bench(args = ["words", "random"])]
fn seal(bencher: Bencher<'_, '_>, kind: &str) {
    let (raw, id) = (content(kind), ChunkId([2; 32]));
    let (key, mut codec, mut out) = (key(), BlobCodec::new(3).unwrap(), Vec::new());
    bencher.counter(BytesCount::of_slice(&raw)).bench_local(|| {
        codec
            .seal(&key, BlobKind::Data, &id, black_box(&raw), &mut out)
            .unwrap()
    });
}

/// Opened and decompressed.
#[divan::bench(args = ["words", "random"])]
fn open(bencher: Bencher<'_, '_>, kind: &str) {
    let (raw, id) = (content(kind), ChunkId([2; 32]));
    let (key, mut codec) = (key(), BlobCodec::new(3).unwrap());
    let (mut sealed, mut out) = (Vec::new(), Vec::new());
    codec
        .seal(&key, BlobKind::Data, &id, &raw, &mut sealed)
        .unwrap();
    bencher.counter(BytesCount::of_slice(&raw)).bench_local(|| {
        codec
            .open(
                &key,
                BlobKind::Data,
                &id,
                raw.len(),
                black_box(&sealed),
                &mut out,
            )
            .unwrap();
    });
}

/// The id of a chunk.
#[divan::bench]
fn id(bencher: Bencher<'_, '_>) {
    let raw = noise(CHUNK);
    bencher
        .counter(BytesCount::of_slice(&raw))
        .bench_local(|| blob_id(&[3; 32], BlobKind::Data, black_box(&raw)));
}

fn filled() -> PackBuilder {
    let mut pack = PackBuilder::new(BLOBS * 64);
    for n in 0..BLOBS {
        let id = *blake3::hash(&n.to_le_bytes()).as_bytes();
        pack.push(BlobKind::Page, ChunkId(id), 2000, &[7; 64]);
    }
    pack
}

/// A pack of 2,000 small blobs ended: header, footer, SHA-256.
#[divan::bench]
fn pack_end(bencher: Bencher<'_, '_>) {
    let ring = ObjectKeyring::new(REPO, &[3; 32]);
    bencher
        .counter(ItemsCount::new(BLOBS))
        .with_inputs(filled)
        .bench_local_values(|pack| pack.finish(&ring, &[]).unwrap());
}

/// Its end read.
#[divan::bench]
fn pack_tail(bencher: Bencher<'_, '_>) {
    let ring = ObjectKeyring::new(REPO, &[3; 32]);
    let pack = filled().finish(&ring, &[]).unwrap();
    bencher
        .counter(ItemsCount::new(BLOBS))
        .bench_local(|| read_tail(&ring, black_box(&pack.bytes)).unwrap());
}
