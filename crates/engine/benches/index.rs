//! Looking chunks up in indexes of 1,000,000 entries, as one run and as sixteen.

#![allow(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has failed"
)]

use std::sync::Arc;

use backup_core::{ChunkId, PackId};
use backup_engine::index_set::IndexSet;
use backup_format::index::{IndexRun, RunBuilder};
use backup_format::pack::PackBlob;
use backup_format::seal::BlobKind;
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};

const ENTRIES: u64 = 1_000_000;
const IN_PACK: u64 = 1000;
const LOOK_UPS: u64 = 10_000;

fn main() {
    divan::main();
}

fn id(number: u64) -> ChunkId {
    ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn plain(from: u64, to: u64) -> Vec<u8> {
    let mut run = RunBuilder::default();
    for pack in (from..to).step_by(IN_PACK as usize) {
        let blob = |number: u64| PackBlob {
            kind: BlobKind::Data,
            id: id(number),
            offset: 0,
            stored: 1000,
            raw: 2000,
        };
        let blobs: Vec<_> = (pack..to.min(pack + IN_PACK)).map(blob).collect();
        run.add_pack(PackId(*id(!pack).as_bytes()), 1 << 20, &blobs)
            .unwrap();
    }
    run.finish(&[])
}

fn index(runs: u64) -> IndexSet {
    let share = ENTRIES.div_ceil(runs);
    let run = |number| plain(number * share, ENTRIES.min((number + 1) * share));
    let runs = (0..runs).map(|number| Arc::new(IndexRun::parse(run(number)).unwrap()));
    let index = IndexSet::new(runs.collect());
    assert_eq!(index.len() as u64, ENTRIES);
    index
}

/// Ten thousand chunks that are there.
#[divan::bench(args = [1, 16])]
fn known(bencher: Bencher<'_, '_>, runs: u64) {
    bench_find(bencher, runs, ENTRIES / LOOK_UPS, true);
}

/// Ten thousand chunks that are not.
#[divan::bench(args = [1, 16])]
fn unknown(bencher: Bencher<'_, '_>, runs: u64) {
    bench_find(bencher, runs, ENTRIES, false);
}

fn bench_find(bencher: Bencher<'_, '_>, runs: u64, stride: u64, there: bool) {
    let index = index(runs);
    let first = if there { 0 } else { ENTRIES };
    let ids: Vec<_> = (0..LOOK_UPS).map(|n| id(first + n * stride)).collect();
    bencher.counter(ItemsCount::new(ids.len())).bench_local(|| {
        let found = black_box(&ids).iter().filter(|id| index.find(id).is_some());
        assert_eq!(found.count(), if there { ids.len() } else { 0 });
    });
}

/// A run of a million entries read and checked.
#[divan::bench]
fn parse(bencher: Bencher<'_, '_>) {
    let bytes = plain(0, ENTRIES);
    bencher
        .counter(ItemsCount::new(ENTRIES))
        .with_inputs(|| bytes.clone())
        .bench_local_values(|bytes| IndexRun::parse(bytes).unwrap());
}
