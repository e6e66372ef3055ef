//! What a restore keeps of files whose content cannot be had whole.
//!
//! By default a file of which a part is lost fails. Whoever has nothing else than a damaged repository
//! may want what is left of it: then the parts that can be had are handed to the target, which keeps
//! them where nobody takes them for the file, and each range that is lost is told.

use std::ops::Range;
use std::sync::Arc;

use backup_core::{EntryOutcome, EntryPath, EntryWriter, Finding, FindingKind, TargetError};

use super::fetch::Workers;
use super::window::FileJob;

/// Something that a restore could not have.
#[derive(Debug, Clone)]
pub enum Loss {
    /// Content of a file, or all of it.
    Content(Salvaged),
    /// A page of the manifest, and with it entries that nobody can name.
    Page(Finding),
}

/// A file of whose content a part is lost.
#[derive(Debug, Clone)]
pub struct Salvaged {
    /// Its path below the place of the restore.
    pub path: EntryPath,
    /// Its size in bytes.
    pub size: u64,
    /// What of it is lost, in bytes from its start: ascending ranges that neither touch nor overlap.
    pub lost: Vec<Range<u64>>,
    /// Where the rest is, with zeros in these ranges; `None`: nothing was kept.
    pub kept_as: Option<EntryPath>,
    /// Why it is lost.
    pub why: String,
}

impl Salvaged {
    /// How many bytes are lost.
    #[must_use]
    pub fn lost_bytes(&self) -> u64 {
        length(&self.lost)
    }

    /// What is said of it.
    pub(super) fn finding(&self, kind: FindingKind) -> Finding {
        let rest = match &self.kept_as {
            Some(kept) => format!("; the rest is in /{kept}, with zeros in their place"),
            None => String::new(),
        };
        let detail = format!(
            "{} of {} bytes are lost: {}{rest}",
            self.lost_bytes(),
            self.size,
            self.why
        );
        Finding::entry(kind, &self.path, detail)
    }
}

/// Is told of everything that a restore could not have, from several threads.
pub type Salvage = Arc<dyn Fn(&Loss) + Send + Sync>;

/// The ranges that were lost of a file, in order, and why.
type Told = (Vec<Range<u64>>, FindingKind, String);

/// What of a file was lost so far.
#[derive(Debug, Default)]
pub(super) struct Lost {
    ranges: Vec<Range<u64>>,
    why: Option<(FindingKind, String)>,
}

impl Lost {
    pub(super) fn add(&mut self, range: Range<u64>, kind: FindingKind, why: &str) {
        self.why.get_or_insert_with(|| (kind, why.to_owned()));
        match self.ranges.last_mut() {
            // Parts mostly come in order.
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.ranges.push(range),
        }
    }

    /// The ranges in order, and why they are lost; nothing if none is.
    pub(super) fn take(&mut self) -> Option<Told> {
        let (kind, why) = self.why.take()?;
        let mut ranges = std::mem::take(&mut self.ranges);
        ranges.sort_by_key(|range| range.start);
        ranges.dedup_by(|next, last| {
            let touches = next.start <= last.end;
            if touches {
                last.end = last.end.max(next.end);
            }
            touches
        });
        Some((ranges, kind, why))
    }
}

impl Workers<'_> {
    /// Lets the target keep what there is of a file.
    pub(super) fn salvage(
        &self,
        job: &FileJob,
        writer: EntryWriter,
        (lost, kind, why): Told,
    ) -> Result<(), TargetError> {
        let entry = &job.entry;
        // Zeros alone are no part of it.
        let kept_as = if length(&lost) < job.data {
            self.restore.finish_in_part(self.cx, entry, writer, &lost)
        } else {
            let failed = EntryOutcome::Failed;
            let ended = self.restore.finish(self.cx, entry, writer, failed);
            ended.map(|()| None)
        };
        let (kept_as, error) = match kept_as {
            Ok(kept_as) => (kept_as, None),
            Err(error) => (None, Some(error)),
        };
        self.lost(
            kind,
            Salvaged {
                path: entry.path.clone(),
                size: entry.size,
                lost,
                kept_as,
                why,
            },
        );
        error.map_or(Ok(()), Err)
    }

    /// Tells of a file of which a part is lost.
    pub(super) fn lost(&self, kind: FindingKind, lost: Salvaged) {
        self.found(lost.finding(kind));
        self.tell_loss(|| Loss::Content(lost));
    }

    /// Tells whoever wants to know it of a loss.
    pub(super) fn tell_loss(&self, loss: impl FnOnce() -> Loss) {
        if let Some(salvage) = &self.salvage {
            salvage(&loss());
        }
    }

    /// Whether what is left of files is to be kept.
    pub(super) const fn salvages(&self) -> bool {
        self.salvage.is_some()
    }
}

/// The bytes of ranges that do not overlap.
fn length(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_told_in_order_and_as_few_as_possible() {
        let mut lost = Lost::default();
        assert!(lost.take().is_none());
        for range in [40..50, 50..60, 0..10, 20..30, 10..20, 90..100] {
            lost.add(range, FindingKind::Damaged, "first");
        }
        lost.add(70..80, FindingKind::Missing, "second");
        let (ranges, kind, why) = lost.take().unwrap();
        assert_eq!(ranges, [0..30, 40..60, 70..80, 90..100]);
        assert_eq!((kind, why.as_str()), (FindingKind::Damaged, "first"));
        assert_eq!(length(&ranges), 70);
        // One in another takes nothing off it.
        for range in [0..50, 10..20, 50..60] {
            lost.add(range, FindingKind::Missing, "third");
        }
        let (ranges, ..) = lost.take().unwrap();
        assert_eq!(ranges.as_slice(), std::slice::from_ref(&(0..60)));
    }
}
