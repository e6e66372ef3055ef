//! From header to header of an archive, with what stands in front of them: pax records, long names of GNU tar.
//! Nothing is taken on trust: every header has its checksum, extensions have a bounded length, and content that
//! a header tells of must be there.

use std::io::{self, Read};

use tar::{EntryType, GnuExtSparseHeader, Header};

use super::packing::read_full;
use super::span::SpanReader;
use super::sparse::{Extent, MOST_EXTENTS, old_map};
use crate::stop::Stop;

/// Bytes of a block.
pub(crate) const BLOCK: u64 = 512;
/// Longest extension in front of a header: names, attributes. What is longer is no archive that a
/// program made.
const MOST_EXTENSION: u64 = 4 << 20;

/// Where an archive comes from.
pub(crate) trait Blocks {
    /// Fills a buffer as far as there is something.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Passes over bytes; says whether all of them are there.
    fn pass(&mut self, bytes: u64) -> io::Result<bool>;
}

impl Blocks for SpanReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_full(self, buffer)
    }

    fn pass(&mut self, bytes: u64) -> io::Result<bool> {
        Ok(Self::pass(self, bytes))
    }
}

/// An archive that can only be read from its beginning on.
pub(crate) struct Flow<'f> {
    pub(crate) reader: &'f mut dyn Read,
    pub(crate) stop: Stop<'f>,
}

impl Blocks for Flow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_full(self.reader, buffer)
    }

    fn pass(&mut self, bytes: u64) -> io::Result<bool> {
        let mut part = Read::take(&mut *self.reader, bytes);
        Ok(crate::stop::copy(&mut part, &mut io::sink(), self.stop)? == bytes)
    }
}

/// A header, and what stands in front of it.
#[derive(Debug)]
pub(crate) struct Raw {
    /// Where it begins, with what stands in front.
    pub(crate) start: u64,
    pub(crate) header: Header,
    /// The records of an extended header, in their order.
    pub(crate) records: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) long_name: Option<Vec<u8>>,
    pub(crate) long_link: Option<Vec<u8>>,
    /// Where its content begins.
    pub(crate) data: u64,
    /// Bytes of its content in the archive.
    pub(crate) stored: u64,
    /// Where a file has data, in the form of old GNU tar.
    pub(crate) map: Option<Vec<Extent>>,
}

impl Raw {
    /// The last record of a keyword.
    pub(crate) fn record(&self, key: &[u8]) -> Option<&[u8]> {
        let mut found = self.records.iter().rev().filter(|(name, _)| name == key);
        found.next().map(|(_, value)| value.as_slice())
    }

    /// The last record of a keyword, as a number.
    pub(crate) fn number(&self, key: &[u8]) -> Option<u64> {
        decimal(self.record(key)?)
    }

    /// The name of the member.
    pub(crate) fn name(&self) -> Vec<u8> {
        let whole = || {
            self.record(b"GNU.sparse.name")
                .or_else(|| self.record(b"path"))
        };
        match (&self.long_name, whole()) {
            (Some(name), _) => name.clone(),
            (None, Some(name)) => name.to_vec(),
            (None, None) => self.header.path_bytes().into_owned(),
        }
    }

    /// Whether it is a file with content of its own, in whatever form.
    pub(crate) fn is_file(&self) -> bool {
        let is_old_folder = || self.name().ends_with(b"/");
        match self.header.entry_type() {
            EntryType::GNUSparse => true,
            EntryType::Regular | EntryType::Continuous => !is_old_folder(),
            _ => false,
        }
    }

    /// Whether it is a folder.
    pub(crate) fn is_folder(&self) -> bool {
        match self.header.entry_type() {
            EntryType::Directory => true,
            EntryType::Regular | EntryType::Continuous => self.name().ends_with(b"/"),
            _ => false,
        }
    }
}

/// A number in decimal digits.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok()?;
    is_number.then(|| text.parse().ok()).flatten()
}

/// Goes from header to header.
pub(crate) struct Headers<B> {
    blocks: B,
    /// Where it stands.
    at: u64,
    /// What is left of the content of the last member, and of the zeros behind it.
    left: u64,
    padding: u64,
}

impl<B: Blocks> Headers<B> {
    /// Begins at a position of the archive that the blocks stand at.
    pub(crate) const fn new(blocks: B, at: u64) -> Self {
        Self {
            blocks,
            at,
            left: 0,
            padding: 0,
        }
    }

    pub(crate) const fn at(&self) -> u64 {
        self.at
    }

    /// The next member; nothing at the end. Afterwards its content can be read.
    pub(crate) fn next(&mut self) -> io::Result<Option<Raw>> {
        self.finish()?;
        let mut start = self.at;
        let mut records = Vec::new();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            let mut block = [0; BLOCK as usize];
            let read = self.blocks.read(&mut block)?;
            // Some programs write no blocks of zeros behind the last member.
            if read == 0 || block.iter().all(|byte| *byte == 0) {
                if self.at == start {
                    return Ok(None);
                }
                return Err(damaged("it ends behind an extension of a header"));
            }
            if read < block.len() {
                return Err(damaged("it ends within a header"));
            }
            let header = Header::from_byte_slice(&block);
            check(header)?;
            self.at += BLOCK;
            let size = header.entry_size()?;
            match header.entry_type() {
                EntryType::XHeader if records.is_empty() => {
                    records = read_records(&self.extension(size)?)?;
                }
                EntryType::GNULongName if long_name.is_none() => {
                    long_name = Some(text(self.extension(size)?));
                }
                EntryType::GNULongLink if long_link.is_none() => {
                    long_link = Some(text(self.extension(size)?));
                }
                EntryType::XHeader | EntryType::GNULongName | EntryType::GNULongLink => {
                    return Err(damaged("a header has two extensions of one kind"));
                }
                EntryType::XGlobalHeader => {
                    if self.at != start + BLOCK {
                        return Err(damaged("a header of all members is amid those of one"));
                    }
                    self.extension(size)?;
                    // It belongs to no member: the next one begins behind it.
                    start = self.at;
                }
                kind => {
                    let mut raw = Raw {
                        start,
                        header: header.clone(),
                        records,
                        long_name,
                        long_link,
                        data: self.at,
                        stored: 0,
                        map: None,
                    };
                    if kind == EntryType::GNUSparse {
                        raw.map = Some(self.maps(&raw.header)?);
                        raw.data = self.at;
                    }
                    // Of links, devices and folders some programs say a size and write no content.
                    if !matches!(kind.as_byte(), b'1'..=b'6') {
                        let told = raw.record(b"size");
                        raw.stored = match told.map(decimal) {
                            None => size,
                            Some(Some(size)) => size,
                            Some(None) => return Err(damaged("a size is no number")),
                        };
                    }
                    self.begin(raw.stored)?;
                    return Ok(Some(raw));
                }
            }
        }
    }

    /// Reads on in the content of the member.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        let wanted = buffer.get_mut(..most).unwrap_or_default();
        let read = self.blocks.read(wanted)?;
        if read < most {
            return Err(damaged("it ends within the content of a member"));
        }
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }

    /// All of the content of the member, if it is not longer than that.
    pub(crate) fn read_whole(&mut self, most: u64) -> io::Result<Option<Vec<u8>>> {
        if self.left > most {
            return Ok(None);
        }
        let mut out = vec![0; usize::try_from(self.left).unwrap_or(0)];
        self.read(&mut out)?;
        Ok(Some(out))
    }

    /// A content of so many bytes begins.
    fn begin(&mut self, bytes: u64) -> io::Result<()> {
        let blocks = bytes.div_ceil(BLOCK).checked_mul(BLOCK);
        let fits = blocks.and_then(|bytes| self.at.checked_add(bytes));
        let (Some(blocks), Some(_)) = (blocks, fits) else {
            return Err(damaged("a size is too large"));
        };
        self.left = bytes;
        self.padding = blocks - bytes;
        Ok(())
    }

    /// Passes over what is left of a content. All of it must be there; zeros behind the last one need not.
    fn finish(&mut self) -> io::Result<()> {
        let (left, padding) = (self.left, self.padding);
        (self.left, self.padding) = (0, 0);
        if left > 0 && !self.blocks.pass(left)? {
            return Err(damaged("it ends within the content of a member"));
        }
        if padding > 0 {
            self.blocks.pass(padding)?;
        }
        self.at += left + padding;
        Ok(())
    }

    fn extension(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > MOST_EXTENSION {
            return Err(damaged("an extension of a header is too long"));
        }
        self.begin(size)?;
        let content = self.read_whole(size)?.unwrap_or_default();
        self.finish()?;
        Ok(content)
    }

    /// The blocks behind a header of old GNU tar that say where a file has data.
    fn maps(&mut self, header: &Header) -> io::Result<Vec<Extent>> {
        let Some(header) = header.as_gnu() else {
            return Err(damaged("a file has holes in a form that is none"));
        };
        let mut map = old_map(&header.sparse)?;
        let mut is_more = header.is_extended();
        while is_more {
            let mut block = GnuExtSparseHeader::new();
            if self.blocks.read(block.as_mut_bytes())? < block.as_bytes().len() {
                return Err(damaged("it ends within a header"));
            }
            self.at += BLOCK;
            is_more = block.is_extended();
            // What has too many is left out; its map is gone through all the same.
            if map.len() <= MOST_EXTENTS {
                map.extend(old_map(block.sparse())?);
            }
        }
        Ok(map)
    }
}

/// A name, without the zero that ends it.
fn text(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// The records of an extended header: each its length in decimal digits, a space, a keyword, `=`, a value that
/// may hold anything, a line break.
fn read_records(bytes: &[u8]) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let malformed = || damaged("an extended header is no list of records");
    let mut out = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() && rest.first() != Some(&0) {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let length = rest.get(..digits).and_then(decimal);
        let length = length.and_then(|length| usize::try_from(length).ok());
        let record = length.and_then(|length| Some((rest.get(..length)?, rest.get(length..)?)));
        let (record, behind) = record.ok_or_else(malformed)?;
        let body = record
            .get(digits..)
            .and_then(|body| body.strip_prefix(b" "))
            .and_then(|body| body.strip_suffix(b"\n"))
            .ok_or_else(malformed)?;
        let equals = body.iter().position(|byte| *byte == b'=');
        let (key, value) = body.split_at(equals.ok_or_else(malformed)?);
        out.push((key.to_vec(), value.get(1..).unwrap_or_default().to_vec()));
        rest = behind;
    }
    Ok(out)
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

pub(crate) fn damaged(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_told_apart_by_their_lengths_whatever_is_in_them() {
        let read = |text: &[u8]| read_records(text);
        let pair = |key: &[u8], value: &[u8]| (key.to_vec(), value.to_vec());
        assert_eq!(
            read(b"9 path=a\n17 x=12 path=b\n\n\n\0\0").unwrap(),
            [pair(b"path", b"a"), pair(b"x", b"12 path=b\n\n")]
        );
        assert_eq!(read(b"").unwrap(), []);
        for wrong in [
            &b"path=a\n"[..],
            b"11 path=a\n",
            b"8 path=a\n",
            b"9 path:a\n",
            b"99999999999999999999999 path=a\n",
            b"2 ",
            b" path=a\n",
        ] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
