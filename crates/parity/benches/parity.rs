//! How fast sidecars are made, and objects mended.
#![allow(clippy::unwrap_used, reason = "a measurement")]

use backup_parity::{Share, Sidecar, encode};
use divan::counter::BytesCount;
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

fn object(length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut out);
    out
}

const SIZES: [usize; 3] = [64 << 10, 4 << 20, 16 << 20];

#[divan::bench(args = SIZES)]
fn make(bencher: Bencher<'_, '_>, size: usize) {
    let object = object(size);
    bencher
        .counter(BytesCount::new(size))
        .bench_local(|| encode(black_box(&object), Share::USUAL).unwrap());
}

/// The largest run that is always made good.
#[divan::bench(args = SIZES)]
fn mend_a_twentieth(bencher: Bencher<'_, '_>, size: usize) {
    let mut object = object(size);
    let sidecar = encode(&object, Share::USUAL).unwrap();
    object[size / 3..size / 3 + size / 20].fill(0);
    bencher.counter(BytesCount::new(size)).bench_local(|| {
        let sidecar = Sidecar::read(black_box(&sidecar)).unwrap();
        sidecar.mend(&[&object]).unwrap()
    });
}

#[divan::bench(args = SIZES)]
fn look(bencher: Bencher<'_, '_>, size: usize) {
    let object = object(size);
    let sidecar = encode(&object, Share::USUAL).unwrap();
    bencher.counter(BytesCount::new(size)).bench_local(|| {
        let sidecar = Sidecar::read(black_box(&sidecar)).unwrap();
        sidecar.look(&[&object])
    });
}
