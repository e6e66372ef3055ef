//! Files with holes in archives: where they have data, in the four forms that GNU tar has for it (its old one,
//! and 0.0, 0.1 and 1.0 in pax records), and their content.

use std::io::{self, Read};

use tar::GnuSparseHeader;

use super::headers::{BLOCK, Blocks, Headers, Raw, damaged, decimal};
use super::pump::{Pass, Piece};
use super::span::Span;

/// The most ranges of data that a file may have: they are kept while it is read, 16 bytes each.
pub(crate) const MOST_EXTENTS: usize = 1 << 20;
/// Longest number in a map.
const MOST_DIGITS: usize = 20;

/// A range of a file that has data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// Where the content of a member stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    /// Where its bytes begin in the archive.
    pub(crate) data: u64,
    /// Bytes of the file.
    pub(crate) size: u64,
    /// The ranges that are there, one behind another; nothing for a file without holes.
    pub(crate) extents: Option<Vec<Extent>>,
}

/// Ranges of a header of old GNU tar.
pub(crate) fn old_map(ranges: &[GnuSparseHeader]) -> io::Result<Vec<Extent>> {
    let ranges = ranges.iter().filter(|range| !range.is_empty());
    let read = |range: &GnuSparseHeader| {
        Ok(Extent {
            offset: range.offset()?,
            length: range.length()?,
        })
    };
    ranges.map(read).collect()
}

/// Where the content of a member stands. What its holes are and is not understood says why. Afterwards nothing of the
/// member is read any more.
pub(crate) fn content<B: Blocks>(
    headers: &mut Headers<B>,
    raw: &mut Raw,
) -> io::Result<Result<Content, &'static str>> {
    let plain = Content {
        data: raw.data,
        size: raw.stored,
        extents: None,
    };
    let is_pax = raw
        .records
        .iter()
        .any(|(key, _)| key.starts_with(b"GNU.sparse."));
    let (size, extents) = if let Some(extents) = raw.map.take() {
        let size = raw
            .header
            .as_gnu()
            .and_then(|header| header.real_size().ok());
        (size, Some(extents))
    } else if !is_pax {
        return Ok(Ok(plain));
    } else if raw.number(b"GNU.sparse.major") == Some(1) {
        let extents = map_in_front(headers)?;
        (raw.number(b"GNU.sparse.realsize"), extents)
    } else if raw.record(b"GNU.sparse.major").is_none() {
        let size = raw.number(b"GNU.sparse.size");
        (size, map_in_records(raw))
    } else {
        return Ok(Err("it has holes in a form that is not known yet"));
    };
    let (Some(size), Some(extents)) = (size, extents) else {
        return Ok(Err("what is said of its holes makes no sense"));
    };
    if extents.len() > MOST_EXTENTS {
        return Ok(Err("it has more holes than can be read"));
    }
    let data = headers.at();
    let there = (raw.data + raw.stored).saturating_sub(data);
    Ok(match is_map_of(&extents, size, there) {
        true => Ok(Content {
            data,
            size,
            extents: Some(extents),
        }),
        false => Err("what is said of its holes does not match its content"),
    })
}

/// Whether ranges ascend, lie within the file, and have as many bytes as there are.
fn is_map_of(extents: &[Extent], size: u64, there: u64) -> bool {
    let (mut end, mut sum) = (0u64, 0u64);
    for extent in extents {
        let next = extent.offset.checked_add(extent.length);
        let Some(next) = next.filter(|next| extent.offset >= end && *next <= size) else {
            return false;
        };
        end = next;
        // No more than `end`.
        sum += extent.length;
    }
    sum == there
}

/// The ranges of the forms 0.0 (a pair of records for each) and 0.1 (all in one record).
fn map_in_records(raw: &Raw) -> Option<Vec<Extent>> {
    let mut numbers = Vec::new();
    if let Some(map) = raw.record(b"GNU.sparse.map") {
        let parts = map.split(|byte| *byte == b',');
        let parts = parts.filter(|part| !part.is_empty());
        numbers = parts.map(decimal).collect::<Option<_>>()?;
    } else {
        for (key, value) in &raw.records {
            let is_even = numbers.len() % 2 == 0;
            match key.as_slice() {
                b"GNU.sparse.offset" if is_even => numbers.push(decimal(value)?),
                b"GNU.sparse.numbytes" if !is_even => numbers.push(decimal(value)?),
                b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => return None,
                _ => {}
            }
        }
    }
    if numbers.len() % 2 != 0 {
        return None;
    }
    let pairs = numbers.chunks_exact(2);
    let extent = |pair: &[u64]| match pair {
        [offset, length] => Some(Extent {
            offset: *offset,
            length: *length,
        }),
        _ => None,
    };
    pairs.map(extent).collect()
}

/// The ranges of the form 1.0: in front of the content, numbers in lines, in whole blocks. Nothing where they are none.
fn map_in_front<B: Blocks>(headers: &mut Headers<B>) -> io::Result<Option<Vec<Extent>>> {
    let mut lines = Lines {
        headers,
        block: [0; BLOCK as usize],
        used: BLOCK as usize,
    };
    let Some(count) = lines.number()? else {
        return Ok(None);
    };
    let Some(count) = usize::try_from(count)
        .ok()
        .filter(|count| *count <= MOST_EXTENTS)
    else {
        return Ok(None);
    };
    let mut out = Vec::new();
    for _ in 0..count {
        let (Some(offset), Some(length)) = (lines.number()?, lines.number()?) else {
            return Ok(None);
        };
        out.push(Extent { offset, length });
    }
    Ok(Some(out))
}

/// Numbers in lines.
struct Lines<'l, B> {
    headers: &'l mut Headers<B>,
    block: [u8; BLOCK as usize],
    used: usize,
}

impl<B: Blocks> Lines<'_, B> {
    fn number(&mut self) -> io::Result<Option<u64>> {
        let mut digits = Vec::new();
        loop {
            if self.used == self.block.len() {
                if self.headers.read(&mut self.block)? < self.block.len() {
                    return Ok(None);
                }
                self.used = 0;
            }
            let Some(&byte) = self.block.get(self.used) else {
                return Ok(None);
            };
            self.used += 1;
            match byte {
                b'\n' => return Ok(decimal(&digits)),
                _ if digits.len() < MOST_DIGITS => digits.push(byte),
                _ => return Ok(None),
            }
        }
    }
}

impl Content {
    /// Whether the bytes of the file stand in the archive as they are.
    pub(crate) const fn is_plain(&self) -> bool {
        self.extents.is_none()
    }

    /// Hands over data and holes in order, until nobody wants more.
    pub(crate) fn pass_on(&self, archive: &Span, pass: Pass<'_>) -> io::Result<()> {
        let Some(extents) = &self.extents else {
            let mut reader = archive.part(self.data, self.size).reader(0);
            pass(Piece::Data(&mut reader))?;
            return Ok(());
        };
        let (mut at, mut data) = (0, self.data);
        for extent in extents {
            if extent.offset > at && !pass(Piece::Hole(extent.offset - at))? {
                return Ok(());
            }
            let mut reader = archive.part(data, extent.length).reader(0);
            if !pass(Piece::Data(&mut reader))? {
                return Ok(());
            }
            data += extent.length;
            at = extent.offset + extent.length;
        }
        if self.size > at {
            pass(Piece::Hole(self.size - at))?;
        }
        Ok(())
    }

    /// Reads it, holes as zeros.
    pub(crate) fn reader<'r>(&'r self, archive: &'r Span) -> Box<dyn Read + 'r> {
        let Some(extents) = &self.extents else {
            return Box::new(archive.part(self.data, self.size).reader(0));
        };
        Box::new(Filled {
            archive,
            extents: extents.iter(),
            now: None,
            data: self.data,
            at: 0,
            size: self.size,
        })
    }
}

/// Reads a file with holes as zeros.
struct Filled<'r> {
    archive: &'r Span,
    extents: std::slice::Iter<'r, Extent>,
    now: Option<Extent>,
    /// Where the data of that range, or of the next, stand.
    data: u64,
    at: u64,
    size: u64,
}

impl Read for Filled<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Some ranges are empty.
        while self
            .now
            .is_none_or(|now| self.at >= now.offset + now.length)
        {
            self.data += self.now.map_or(0, |now| now.length);
            self.now = self.extents.next().copied();
            if self.now.is_none() {
                break;
            }
        }
        let (is_hole, until) = match self.now {
            Some(now) if self.at >= now.offset => (false, now.offset + now.length),
            Some(now) => (true, now.offset),
            None => (true, self.size),
        };
        let most = usize::try_from(until - self.at).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        let Some(part) = buffer.get_mut(..most).filter(|part| !part.is_empty()) else {
            return Ok(0);
        };
        if is_hole {
            part.fill(0);
            self.at += most as u64;
            return Ok(most);
        }
        let into = self.now.map_or(0, |now| self.at - now.offset);
        let read = Read::read(&mut self.archive.reader(self.data + into), part)?;
        if read == 0 {
            return Err(damaged("it ends within the content of a member"));
        }
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn extent(offset: u64, length: u64) -> Extent {
        Extent { offset, length }
    }

    #[test]
    fn only_maps_that_ascend_and_match_the_content_are_taken() {
        let of = |extents: &[(u64, u64)], size, there| {
            let extents: Vec<_> = extents.iter().map(|&(at, len)| extent(at, len)).collect();
            is_map_of(&extents, size, there)
        };
        assert!(of(&[], 10, 0));
        assert!(of(&[(0, 4), (4, 1), (9, 1), (10, 0)], 10, 6));
        assert!(!of(&[(0, 4)], 10, 3));
        assert!(!of(&[(4, 4), (0, 1)], 10, 5));
        assert!(!of(&[(4, 4), (7, 1)], 10, 5));
        assert!(!of(&[(9, 2)], 10, 2));
        assert!(!of(&[(u64::MAX, 1)], u64::MAX, 1));
    }

    #[test]
    fn holes_read_as_zeros() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"..abcde..").unwrap();
        let archive = Span::whole(file).unwrap();
        for (extents, size, wanted) in [
            (vec![(2, 3), (5, 0), (7, 2)], 10, &b"\0\0abc\0\0de\0"[..]),
            (vec![(0, 2), (2, 3)], 5, b"abcde"),
            (vec![(0, 0), (1, 5)], 6, b"\0abcde"),
            (vec![], 3, b"\0\0\0"),
        ] {
            let extents = extents.into_iter().map(|(at, len)| extent(at, len));
            let content = Content {
                data: 2,
                size,
                extents: Some(extents.collect()),
            };
            let mut found = Vec::new();
            content.reader(&archive).read_to_end(&mut found).unwrap();
            assert_eq!(found, wanted);
            let mut passed = Vec::new();
            content
                .pass_on(&archive, &mut |piece| {
                    match piece {
                        Piece::Data(reader) => {
                            reader.read_to_end(&mut passed)?;
                        }
                        Piece::Hole(bytes) => {
                            let bytes = usize::try_from(bytes).unwrap();
                            passed.resize(passed.len() + bytes, 0);
                        }
                    }
                    Ok(true)
                })
                .unwrap();
            assert_eq!(passed, wanted);
        }
    }
}
