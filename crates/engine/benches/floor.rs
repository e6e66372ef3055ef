//! The least that a first backup and a restore of one file can take: each step that may not be left
//! out, alone, in one thread, over the content of a real file.
//!
//! `cargo bench -p backup-engine --bench floor -- FILE [FOLDER]`; what is written goes to the folder
//! (the system's temporary one), which needs room for the file and half of it. Nothing is overlapped
//! and nobody waits for anybody: seconds of one thread, so the sum by the number of processors is what
//! a program without any loss would take.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program for people, which says what it measured"
)]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use backup_core::{ChunkId, RepoId, SessionId};
use backup_format::chunk::CutKeys;
use backup_format::seal::{BlobCodec, BlobKey, BlobKind, blob_id};
use backup_integrity::digest::ContentHasher;

const PIECE: usize = 8 << 10;
const CHUNK: usize = 2 << 20;
const ID_KEY: [u8; 32] = [3; 32];

/// A sealed chunk and the runs of the file (position, length) that are in it.
struct Sealed {
    id: ChunkId,
    raw: usize,
    at: u64,
    length: usize,
    runs: Vec<(u64, usize)>,
}

/// Steps and what each took.
#[derive(Default)]
struct Steps(Vec<(&'static str, Duration)>);

impl Steps {
    fn time<T>(&mut self, name: &'static str, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let out = work();
        let took = start.elapsed();
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += took,
            None => self.0.push((name, took)),
        }
        out
    }

    fn print(&self, title: &str, processors: u32) {
        println!("{title}");
        for (name, took) in &self.0 {
            println!("  {:6.2} s  {name}", took.as_secs_f64());
        }
        let sum: Duration = self.0.iter().map(|(_, took)| *took).sum();
        println!(
            "  {:6.2} s  together; by {processors} processors: {:.2} s",
            sum.as_secs_f64(),
            sum.as_secs_f64() / f64::from(processors)
        );
    }
}

fn main() {
    let mut arguments = std::env::args_os()
        .skip(1)
        .filter(|argument| argument != "--bench");
    let Some(file) = arguments.next() else {
        println!("floor: name a file: cargo bench -p backup-engine --bench floor -- FILE [FOLDER]");
        return;
    };
    let folder = arguments.next().map_or_else(std::env::temp_dir, Into::into);
    let folder = tempfile::tempdir_in(folder).unwrap();
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
    let key = BlobKey::of_session(RepoId([1; 16]), SessionId(5), &[9; 32]);
    let packs = folder.path().join("packs");
    let sealed = back_up(Path::new(&file), &packs, &key, processors);
    restore(
        &sealed,
        &packs,
        &folder.path().join("restored"),
        &key,
        processors,
    );
}

/// Reads, hashes, digests, seals and writes the file.
fn back_up(file: &Path, packs: &Path, key: &BlobKey, processors: u32) -> Vec<Sealed> {
    let mut steps = Steps::default();
    let (mut input, mut output) = (File::open(file).unwrap(), File::create(packs).unwrap());
    let keys = CutKeys::new(&[7; 32]);
    let mut codec = BlobCodec::new(3).unwrap();
    let (mut hasher, mut pack_hasher) = (ContentHasher::new(), ContentHasher::new());
    let (mut block, mut chunk, mut blob) =
        (vec![0; 1 << 20], Vec::with_capacity(CHUNK), Vec::new());
    let (mut sealed, mut runs, mut written): (Vec<Sealed>, Vec<(u64, usize)>, u64) =
        (Vec::new(), Vec::new(), 0);
    let mut at = 0u64;
    loop {
        let mut count = 0;
        steps.time("read the file", || {
            while count < block.len() {
                match input.read(&mut block[count..]).unwrap() {
                    0 => break,
                    more => count += more,
                }
            }
        });
        steps.time("SHA-256 of the file", || hasher.update(&block[..count]));
        for piece in block[..count].chunks(PIECE) {
            if piece.iter().any(|byte| *byte != 0) {
                match runs.last_mut() {
                    Some((start, length)) if *start + *length as u64 == at => {
                        *length += piece.len()
                    }
                    _ => runs.push((at, piece.len())),
                }
                chunk.extend_from_slice(piece);
            }
            at += piece.len() as u64;
        }
        if chunk.len() > CHUNK - block.len() || count == 0 {
            steps.time("BLAKE3 of pieces and chunks", || {
                for piece in chunk.chunks(PIECE) {
                    std::hint::black_box(keys.digest(piece));
                }
                std::hint::black_box(blob_id(&ID_KEY, BlobKind::Data, &chunk));
            });
            let id = blob_id(&ID_KEY, BlobKind::Data, &chunk);
            blob.clear();
            steps.time("compress, encrypt, open again and compare", || {
                codec
                    .seal(key, BlobKind::Data, &id, &chunk, &mut blob)
                    .unwrap();
            });
            steps.time("SHA-256 of the packs", || pack_hasher.update(&blob));
            steps.time("write the packs", || output.write_all(&blob).unwrap());
            sealed.push(Sealed {
                id,
                raw: chunk.len(),
                at: written,
                length: blob.len(),
                runs: std::mem::take(&mut runs),
            });
            written += blob.len() as u64;
            chunk.clear();
        }
        if count == 0 {
            break;
        }
    }
    println!("{} bytes, {written} sealed", at);
    steps.print("a first backup", processors);
    sealed
}

/// Reads, opens, compares and writes what was sealed.
fn restore(sealed: &[Sealed], packs: &Path, restored: &Path, key: &BlobKey, processors: u32) {
    let mut steps = Steps::default();
    let (input, output) = (File::open(packs).unwrap(), File::create(restored).unwrap());
    let mut codec = BlobCodec::new(3).unwrap();
    let (mut blob, mut raw) = (Vec::new(), Vec::new());
    for chunk in sealed {
        blob.resize(chunk.length, 0);
        steps.time("read the packs", || {
            input.read_exact_at(&mut blob, chunk.at).unwrap();
        });
        steps.time("decrypt, decompress", || {
            codec
                .open(key, BlobKind::Data, &chunk.id, chunk.raw, &blob, &mut raw)
                .unwrap();
        });
        steps.time("BLAKE3 of the chunks", || {
            assert_eq!(blob_id(&ID_KEY, BlobKind::Data, &raw), chunk.id);
        });
        steps.time("write the file", || {
            let mut from = 0;
            for (at, length) in &chunk.runs {
                output.write_all_at(&raw[from..from + length], *at).unwrap();
                from += length;
            }
        });
    }
    steps.print("a restore", processors);
}
