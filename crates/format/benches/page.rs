//! Pages of manifests and the records in them.

#![allow(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has failed"
)]

use std::collections::HashMap;

use backup_core::{ChunkId, EntryKind, EntryMeta, FileTime};
use backup_format::extent::{Content, Extent, Extents};
use backup_format::page::{PageSizes, Step, TreeBuilder, TreeCursor, TreeError, TreeRoot};
use backup_format::record::Record;
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};

const ENTRIES: usize = 100_000;
const SIZES: PageSizes = PageSizes {
    min: 1 << 10,
    target: 2 << 10,
};

type Pages = HashMap<ChunkId, Vec<u8>>;

fn main() {
    divan::main();
}

fn record() -> Record {
    let mut meta = EntryMeta::stream(FileTime {
        seconds: 1_700_000_000,
        nanos: 5,
    });
    meta.kind = EntryKind::File;
    let mut extents = Extents::default();
    extents.push(Extent::Data {
        chunk: ChunkId([3; 32]),
        offset: 70_000,
        length: 4000,
    });
    Record {
        meta,
        size: 4000,
        sha256: Some([5; 32]),
        content: Content::Inline(extents),
    }
}

fn keys() -> Vec<Vec<u8>> {
    let name = |n: usize| format!("\0usr\0share\0folder{:04}\0file{n:06}", n / 100).into_bytes();
    (0..ENTRIES).map(name).collect()
}

fn encoded(record: &Record) -> Vec<u8> {
    let mut out = Vec::new();
    record.encode(&mut out);
    out
}

fn build(keys: &[Vec<u8>], value: &[u8], pages: &mut Pages) -> TreeRoot {
    let mut keep = |page: Vec<u8>| {
        let id = ChunkId(*blake3::hash(&page).as_bytes());
        pages.insert(id, page);
        Ok::<_, TreeError>(id)
    };
    let mut tree = TreeBuilder::new(SIZES);
    for key in keys {
        tree.push(key, value, &mut keep).unwrap();
    }
    tree.finish(&mut keep).unwrap().unwrap()
}

/// A record to bytes.
#[divan::bench]
fn record_encode(bencher: Bencher<'_, '_>) {
    let (record, mut out) = (record(), Vec::new());
    bencher.bench_local(|| {
        out.clear();
        black_box(&record).encode(&mut out);
    });
}

/// And back.
#[divan::bench]
fn record_decode(bencher: Bencher<'_, '_>) {
    let bytes = encoded(&record());
    bencher.bench_local(|| Record::decode(black_box(&bytes)).unwrap());
}

/// A manifest of 100,000 files, each page hashed with BLAKE3 as it ends.
#[divan::bench]
fn pages_encode(bencher: Bencher<'_, '_>) {
    let (keys, value) = (keys(), encoded(&record()));
    bencher
        .counter(ItemsCount::new(ENTRIES))
        .with_inputs(Pages::new)
        .bench_local_values(|mut pages| {
            build(&keys, &value, &mut pages);
            pages
        });
}

/// Read through, its pages in memory.
#[divan::bench]
fn pages_decode(bencher: Bencher<'_, '_>) {
    let mut pages = Pages::new();
    let root = build(&keys(), &encoded(&record()), &mut pages);
    bencher
        .counter(ItemsCount::new(ENTRIES))
        .bench_local(|| assert_eq!(walk(&root, &[], &pages, usize::MAX), ENTRIES));
}

/// One entry found in it.
#[divan::bench]
fn pages_seek(bencher: Bencher<'_, '_>) {
    let mut pages = Pages::new();
    let keys = keys();
    let root = build(&keys, &encoded(&record()), &mut pages);
    bencher.bench_local(|| assert_eq!(walk(&root, &keys[ENTRIES / 3], &pages, 1), 1));
}

/// How many entries a walk gives, of at most `most`.
fn walk(root: &TreeRoot, from: &[u8], pages: &Pages, most: usize) -> usize {
    let mut cursor = TreeCursor::new(root, from);
    let mut entries = 0;
    while entries < most {
        match cursor.step().unwrap() {
            Step::Need(id) => cursor.supply(&pages[&id]).unwrap(),
            Step::Entry(key, value) => {
                black_box((key, value));
                entries += 1;
            }
            Step::End => break,
        }
    }
    entries
}
