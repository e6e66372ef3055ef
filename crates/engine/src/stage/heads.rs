//! The lineage heads of a run, which stand in the lineage directory in the order of their names, and
//! those are hashes: they are collected until the end. Beyond some megabytes they go to a file in the
//! cache, in sorted runs, sealed as all that is cached.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use backup_format::seal::{ObjectKeyring, ObjectKind};
use backup_format::wire::{Put, Take};

use crate::error::{EngineError, Result};

/// Bytes that are collected in memory.
const IN_MEMORY: usize = 8 << 20;
/// Plain bytes of a frame of the file.
const FRAME: usize = 64 << 10;
/// What an entry takes beside its bytes.
const ENTRY: usize = 64;

/// The name of a stream and its head, encoded.
pub(super) type NamedHead = ([u8; 16], Vec<u8>);

/// Where runs go that do not fit in memory.
#[derive(Debug)]
pub(super) struct Scratch {
    /// The folder; the file has no name there.
    pub(super) folder: PathBuf,
    /// What seals it.
    pub(super) ring: ObjectKeyring,
}

/// Collects heads.
#[derive(Debug)]
pub(super) struct Heads {
    scratch: Option<Scratch>,
    limit: usize,
    open: Vec<NamedHead>,
    bytes: usize,
    /// Whether what comes stays in memory.
    stays: bool,
    file: Option<File>,
    written: u64,
    /// Where each sorted run ends in the file.
    ends: Vec<u64>,
}

impl Heads {
    /// Nothing so far. Without a scratch folder all is kept in memory.
    pub(super) const fn new(scratch: Option<Scratch>) -> Self {
        Self::with_limit(scratch, IN_MEMORY)
    }

    const fn with_limit(scratch: Option<Scratch>, limit: usize) -> Self {
        Self {
            scratch,
            limit,
            open: Vec::new(),
            bytes: 0,
            stays: false,
            file: None,
            written: 0,
            ends: Vec::new(),
        }
    }

    /// Adds a head.
    pub(super) fn push(&mut self, name: [u8; 16], head: Vec<u8>) {
        self.bytes += head.len() + ENTRY;
        self.open.push((name, head));
        if self.bytes >= self.limit && !self.stays && self.spill().is_none() {
            // No room on the disk.
            self.stays = true;
        }
    }

    /// Writes what is in memory as a sorted run.
    fn spill(&mut self) -> Option<()> {
        let scratch = self.scratch.as_ref()?;
        if self.file.is_none() {
            self.file = Some(tempfile::tempfile_in(&scratch.folder).ok()?);
        }
        let file = self.file.as_ref()?;
        self.open.sort_unstable();
        let mut at = self.written;
        let mut frame = Vec::with_capacity(FRAME + 4096);
        let mut write = |frame: &mut Vec<u8>| -> Option<()> {
            let sealed = scratch.ring.seal(ObjectKind::Cache, frame).ok()?;
            frame.clear();
            let length = u32::try_from(sealed.len()).ok()?.to_le_bytes();
            file.write_all_at(&length, at).ok()?;
            file.write_all_at(&sealed, at + 4).ok()?;
            at += 4 + sealed.len() as u64;
            Some(())
        };
        for (name, head) in &self.open {
            frame.extend_from_slice(name);
            frame.put_bytes(head);
            if frame.len() >= FRAME {
                write(&mut frame)?;
            }
        }
        if !frame.is_empty() {
            write(&mut frame)?;
        }
        self.written = at;
        self.ends.push(at);
        self.open.clear();
        self.bytes = 0;
        Some(())
    }

    /// Hands all heads over in ascending order of name; of those with one name the first.
    ///
    /// # Errors
    /// [`EngineError::Damaged`] when the file cannot be read back; those of `take`.
    pub(super) fn drain(mut self, mut take: impl FnMut(&NamedHead) -> Result<()>) -> Result<()> {
        self.open.sort_unstable();
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let mut runs: Vec<Run<'_>> = starts
            .zip(&self.ends)
            .filter_map(|(at, end)| {
                Some(Run {
                    file: self.file.as_ref()?,
                    ring: &self.scratch.as_ref()?.ring,
                    at,
                    end: *end,
                    plain: Vec::new(),
                    read: 0,
                })
            })
            .collect();
        if runs.len() != self.ends.len() {
            return Err(unreadable("its file is gone"));
        }
        let mut open = self.open.into_iter();
        let mut next = |from: usize| match runs.get_mut(from) {
            Some(run) => run.next(),
            None => Ok(open.next()),
        };
        let mut heap = BinaryHeap::new();
        for from in 0..=self.ends.len() {
            heap.extend(next(from)?.map(|head| Reverse((head, from))));
        }
        let mut last = None;
        while let Some(Reverse((head, from))) = heap.pop() {
            if last != Some(head.0) {
                take(&head)?;
                last = Some(head.0);
            }
            heap.extend(next(from)?.map(|head| Reverse((head, from))));
        }
        Ok(())
    }
}

fn unreadable(why: impl ToString) -> EngineError {
    EngineError::damaged("the scratch file of lineages in the cache", why)
}

/// A sorted run of the file.
struct Run<'a> {
    file: &'a File,
    ring: &'a ObjectKeyring,
    at: u64,
    end: u64,
    plain: Vec<u8>,
    read: usize,
}

impl Run<'_> {
    fn next(&mut self) -> Result<Option<NamedHead>> {
        if self.read >= self.plain.len() {
            if self.at >= self.end {
                return Ok(None);
            }
            self.frame()?;
        }
        let mut take = Take::new(self.plain.get(self.read..).unwrap_or_default());
        let wrong = |error| EngineError::wire("the scratch file of lineages", &error);
        let name = take.array().map_err(wrong)?;
        let head = take.bytes().map_err(wrong)?.to_vec();
        self.read = self.plain.len() - take.left();
        Ok(Some((name, head)))
    }

    fn frame(&mut self) -> Result<()> {
        let mut length = [0u8; 4];
        self.file
            .read_exact_at(&mut length, self.at)
            .map_err(unreadable)?;
        let length = u32::from_le_bytes(length);
        let end = self.at + 4 + u64::from(length);
        if end > self.end {
            return Err(unreadable("a frame is too long"));
        }
        let mut sealed = vec![0; length as usize];
        self.file
            .read_exact_at(&mut sealed, self.at + 4)
            .map_err(unreadable)?;
        self.plain = self
            .ring
            .open(ObjectKind::Cache, &sealed)
            .map_err(unreadable)?;
        (self.at, self.read) = (end, 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use backup_core::RepoId;

    use super::*;

    fn scratch(folder: PathBuf) -> Option<Scratch> {
        let ring = ObjectKeyring::new(RepoId([1; 16]), &[2; 32]);
        Some(Scratch { folder, ring })
    }

    fn named(number: u32) -> NamedHead {
        let mut name = [0; 16];
        name.copy_from_slice(&blake3::hash(&number.to_le_bytes()).as_bytes()[..16]);
        let length = (number % 300) as usize;
        (name, vec![number as u8; length])
    }

    fn drained(heads: Heads) -> Vec<NamedHead> {
        let mut out = Vec::new();
        heads
            .drain(|head| {
                out.push(head.clone());
                Ok(())
            })
            .unwrap();
        out
    }

    #[test]
    fn heads_come_back_in_order_whether_they_fit_in_memory_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut wanted: Vec<_> = (0..5000).map(named).collect();
        wanted.sort_unstable();
        let missing = scratch(dir.path().join("missing"));
        for (scratch, limit, runs) in [
            (scratch(dir.path().to_owned()), 100_000, 10..12),
            (scratch(dir.path().to_owned()), IN_MEMORY, 0..1),
            (missing, 100_000, 0..1),
            (None, 100_000, 0..1),
        ] {
            let mut heads = Heads::with_limit(scratch, limit);
            let mut most = 0;
            for number in (0..5000).chain(0..10) {
                let (name, head) = named(number);
                heads.push(name, head);
                most = most.max(heads.bytes);
            }
            // As if the disk were full from here on.
            heads.stays = true;
            assert!(runs.contains(&heads.ends.len()), "{}", heads.ends.len());
            assert!(heads.ends.is_empty() || most < limit + 1000);
            (0..900)
                .map(named)
                .for_each(|(name, head)| heads.push(name, head));
            assert!(drained(heads) == wanted);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "no name");
    }

    #[test]
    fn what_cannot_be_read_back_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut heads = Heads::with_limit(scratch(dir.path().to_owned()), 10_000);
        for number in 0..5000 {
            let (name, head) = named(number);
            heads.push(name, head);
        }
        let file = heads.file.as_ref().unwrap();
        file.write_all_at(&[1; 50], heads.written / 2).unwrap();
        heads.drain(|_| Ok(())).unwrap_err();
    }
}
