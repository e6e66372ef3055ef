//! A part of a file, read at any position: an archive that is not packed, or one that lies in another.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use super::headers::damaged;

/// A part of a file.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    file: Arc<File>,
    start: u64,
    length: u64,
}

impl Span {
    /// All of a file.
    pub(crate) fn whole(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        Ok(Self {
            file: Arc::new(file),
            start: 0,
            length,
        })
    }

    /// A part of this one; what would be behind its end is left out.
    pub(crate) fn part(&self, start: u64, length: u64) -> Self {
        let start = start.min(self.length);
        Self {
            file: Arc::clone(&self.file),
            start: self.start + start,
            length: length.min(self.length - start),
        }
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let left = self.length.saturating_sub(position);
        let most = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let Some(buffer) = buffer.get_mut(..most).filter(|buffer| !buffer.is_empty()) else {
            return Ok(0);
        };
        match self.file.read_at(buffer, self.start + position)? {
            0 => Err(damaged("it was cut off while it was read")),
            read => Ok(read),
        }
    }

    /// Reads it from a position on.
    pub(crate) fn reader(&self, position: u64) -> SpanReader {
        SpanReader {
            span: self.clone(),
            position,
        }
    }
}

/// Reads a part of a file.
#[derive(Debug)]
pub(crate) struct SpanReader {
    span: Span,
    position: u64,
}

impl SpanReader {
    /// Goes on; says whether all that is passed over is there.
    pub(crate) fn pass(&mut self, bytes: u64) -> bool {
        let next = self.position.checked_add(bytes);
        self.position = next.unwrap_or(u64::MAX);
        next.is_some_and(|next| next <= self.span.length)
    }
}

impl Read for SpanReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.span.read_at(buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn nothing_outside_of_a_part_is_read() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let whole = Span::whole(file).unwrap();
        let of = |span: &Span, position| {
            let mut text = String::new();
            span.reader(position).read_to_string(&mut text).unwrap();
            text
        };
        let part = whole.part(2, 5);
        assert_eq!(of(&part, 0), "23456");
        assert_eq!(of(&part, 4), "6");
        assert_eq!(of(&part, 9), "");
        assert_eq!(of(&part.part(3, 99), 0), "56");
        assert_eq!(of(&whole.part(99, 1), 0), "");
        assert!(part.reader(0).pass(5) && !part.reader(0).pass(6));
    }
}
