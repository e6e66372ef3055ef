//! What an archive holds: the place of each member by its path. Archives hold members in any order, and a
//! capture hands them over in ascending order, so the headers are gone through once before. Some 100 bytes
//! are kept for each member.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use backup_core::{EntryPath, Finding, FindingKind, Severity};
use tar::{EntryType, GnuExtSparseHeader, Header, PaxExtensions};

use super::decode::{Member, member};

/// Bytes of a block.
const BLOCK: u64 = 512;
/// Longest extension in front of a header: names, attributes. What is longer is no archive that a
/// program made.
const MOST_EXTENSION: u64 = 4 << 20;
/// Findings that are kept word by word.
const MOST_FINDINGS: usize = 1000;

/// A member and where its first header stands.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) path: EntryPath,
    pub(crate) start: u64,
    /// Of another name of a file: the path of that file, then where it stands.
    link_to: Option<Box<EntryPath>>,
    pub(crate) content: u64,
}

/// The members of an archive in the order of their paths.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) places: Vec<Place>,
    /// Files that have other names.
    pub(crate) linked: HashSet<u64>,
    pub(crate) findings: Vec<Finding>,
}

impl Index {
    /// Goes through an archive that is not packed.
    pub(crate) fn read(file: &Arc<File>, stop: &dyn Fn() -> bool) -> io::Result<Self> {
        let mut index = Self::default();
        let mut headers = Headers { file, next: 0 };
        while let Some(start) = headers.next()? {
            if stop() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            match member(file, start)? {
                Ok(member) => index.add(start, &member),
                Err((name, why)) => index.left_out(&name, why),
            }
        }
        index.order();
        Ok(index)
    }

    fn add(&mut self, start: u64, member: &Member) {
        let path = match inside(&member.name) {
            // The folder that everything lies in has no name.
            Ok(path) if path.is_root() => return,
            Ok(path) => path,
            Err(why) => return self.left_out(&member.name, why),
        };
        let link_to = match member.link_to.as_deref().map(inside) {
            None => None,
            Some(Ok(to)) => Some(Box::new(to)),
            Some(Err(why)) => return self.left_out(&member.name, why),
        };
        // Arguments that overlap put a file in twice: the second time as another name of itself.
        if link_to.as_deref() == Some(&path) {
            return;
        }
        self.places.push(Place {
            path,
            start,
            link_to,
            content: start,
        });
    }

    /// Puts members into the order of their paths. Of several of one path the last counts, as it does for
    /// whoever unpacks them.
    fn order(&mut self) {
        let key = |place: &Place| (place.path.clone(), std::cmp::Reverse(place.start));
        self.places.sort_by_cached_key(key);
        self.places
            .dedup_by(|later, first| later.path == first.path);
        let mut lost = Vec::new();
        let targets: Vec<Option<u64>> =
            self.places.iter().map(|place| self.target(place)).collect();
        for (place, target) in self.places.iter_mut().zip(targets) {
            match target {
                Some(target) => {
                    place.content = target;
                    if place.link_to.is_some() {
                        self.linked.insert(target);
                    }
                }
                None => lost.push(place.path.clone()),
            }
        }
        if lost.is_empty() {
            return;
        }
        let is_lost: HashSet<EntryPath> = lost.iter().cloned().collect();
        self.places.retain(|place| !is_lost.contains(&place.path));
        for path in lost {
            let why = "it is another name of a file that is not in the archive".to_owned();
            self.left_out(&path.to_slashed(), why);
        }
    }

    /// Where the content of a member stands; nothing where it is that of a file that is not there.
    fn target(&self, place: &Place) -> Option<u64> {
        let Some(to) = &place.link_to else {
            return Some(place.start);
        };
        let at = self
            .places
            .binary_search_by(|other| other.path.cmp(to))
            .ok()?;
        let target = self.places.get(at)?;
        target.link_to.is_none().then_some(target.start)
    }

    fn left_out(&mut self, name: &[u8], why: String) {
        if self.findings.len() < MOST_FINDINGS {
            let subject = String::from_utf8_lossy(name).escape_debug().to_string();
            let (severity, kind) = (Severity::Warning, FindingKind::Skipped);
            self.findings
                .push(Finding::new(severity, kind, subject, why));
        }
    }
}

/// The path of a name: `./` and slashes in front do not count, and none may lead out.
fn inside(name: &[u8]) -> Result<EntryPath, String> {
    let mut path = EntryPath::root();
    for part in name.split(|byte| *byte == b'/') {
        if part.is_empty() || part == b"." {
            continue;
        }
        let pushed = path.push(part);
        pushed.map_err(|error| format!("it would leave its folder, or is no path: {error}"))?;
    }
    Ok(path)
}

/// Goes from header to header.
struct Headers<'f> {
    file: &'f Arc<File>,
    next: u64,
}

impl Headers<'_> {
    /// Where the next member begins, with what stands in front of its header; nothing at the end.
    fn next(&mut self) -> io::Result<Option<u64>> {
        let mut start = self.next;
        let mut size_before = None;
        loop {
            let mut block = [0; BLOCK as usize];
            let read = self.read(&mut block, self.next)?;
            // Some programs write no blocks of zeros behind the last member.
            if read == 0 || block.iter().all(|byte| *byte == 0) {
                if self.next == start {
                    return Ok(None);
                }
                return Err(damaged("it ends behind an extension of a header"));
            }
            if read < block.len() {
                return Err(damaged("it ends within a header"));
            }
            let header = Header::from_byte_slice(&block);
            check(header)?;
            self.next += BLOCK;
            let kind = header.entry_type();
            let size = header.entry_size()?;
            if is_extension(kind) {
                if size > MOST_EXTENSION {
                    return Err(damaged("an extension of a header is too long"));
                }
                if kind == EntryType::XHeader {
                    size_before = self.size(size)?;
                }
                let is_of_all = kind == EntryType::XGlobalHeader;
                let is_first = self.next == start + BLOCK;
                if is_of_all && !is_first {
                    return Err(damaged("a header of all members is amid those of one"));
                }
                self.pass(size)?;
                if is_of_all {
                    // It belongs to no member: the next one begins behind it.
                    start = self.next;
                }
                continue;
            }
            if kind == EntryType::GNUSparse
                && header.as_gnu().is_some_and(tar::GnuHeader::is_extended)
            {
                self.pass_maps()?;
            }
            self.pass(size_before.unwrap_or(size))?;
            return Ok(Some(start));
        }
    }

    fn read(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, position + filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        Ok(filled)
    }

    /// Passes over content. All of it must be there.
    fn pass(&mut self, size: u64) -> io::Result<()> {
        let blocks = size.div_ceil(BLOCK).checked_mul(BLOCK);
        let next = blocks.and_then(|bytes| self.next.checked_add(bytes));
        let end = self.next.checked_add(size);
        let (Some(next), Some(end)) = (next, end) else {
            return Err(damaged("a size is too large"));
        };
        if end > self.file.metadata()?.len() {
            return Err(damaged("it ends within the content of a member"));
        }
        self.next = next;
        Ok(())
    }

    /// The size that an extended header says, if it says one.
    fn size(&self, length: u64) -> io::Result<Option<u64>> {
        let mut records = vec![0; usize::try_from(length).unwrap_or(0)];
        let read = self.read(&mut records, self.next)?;
        records.truncate(read);
        for record in PaxExtensions::new(&records) {
            let record = record?;
            if record.key_bytes() == b"size" {
                let text = std::str::from_utf8(record.value_bytes()).unwrap_or_default();
                let size = text.parse().map_err(|_| damaged("a size is no number"))?;
                return Ok(Some(size));
            }
        }
        Ok(None)
    }

    /// Passes over the blocks that say where a file has holes.
    fn pass_maps(&mut self) -> io::Result<()> {
        loop {
            let mut map = GnuExtSparseHeader::new();
            if self.read(map.as_mut_bytes(), self.next)? < 512 {
                return Err(damaged("it ends within a header"));
            }
            self.next += BLOCK;
            if !map.is_extended() {
                return Ok(());
            }
        }
    }
}

fn is_extension(kind: EntryType) -> bool {
    matches!(
        kind,
        EntryType::XHeader
            | EntryType::XGlobalHeader
            | EntryType::GNULongName
            | EntryType::GNULongLink
    )
}

/// Sees that a block is a header.
fn check(header: &Header) -> io::Result<()> {
    let bytes = header.as_bytes();
    let (before, after) = (bytes.get(..148), bytes.get(156..));
    let all = before.into_iter().chain(after).flatten();
    let sum = all.map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32;
    if header.cksum()? == sum {
        Ok(())
    } else {
        Err(damaged("a header does not have its checksum"))
    }
}

fn damaged(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_out_of_the_archive() {
        let of = |name: &str| inside(name.as_bytes()).map(|path| path.to_string());
        assert_eq!(of("./a/./b/"), Ok("a/b".into()));
        assert_eq!(of("/etc/passwd"), Ok("etc/passwd".into()));
        assert!(of("../a").is_err());
        assert!(of("a/../../b").is_err());
        assert_eq!(of("./"), Ok(String::new()));
    }
}
