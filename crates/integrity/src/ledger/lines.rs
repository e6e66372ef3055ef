//! Reading a ledger line by line, never holding more than one.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Take};

use super::record::MAX_LINE_BYTES;

/// The lines of a ledger as it stood when it was opened.
#[derive(Debug)]
pub struct Lines {
    from: BufReader<Take<File>>,
    line: Vec<u8>,
}

/// What stands between two newlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawLine<'a> {
    /// A line, without its newline. Of a line that is longer than any record may be, only as much
    /// is there as shows that.
    Whole(&'a [u8]),
    /// What follows the last newline: its writer was killed.
    Torn(&'a [u8]),
}

impl Lines {
    pub(super) fn new(file: File, length: u64) -> Self {
        let from = BufReader::with_capacity(256 << 10, file.take(length));
        Self {
            from,
            line: Vec::new(),
        }
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn next_line(&mut self) -> io::Result<Option<RawLine<'_>>> {
        self.line.clear();
        let mut any = false;
        loop {
            let buffer = self.from.fill_buf()?;
            if buffer.is_empty() {
                return Ok(any.then_some(RawLine::Torn(&self.line)));
            }
            any = true;
            let end = buffer.iter().position(|&byte| byte == b'\n');
            let piece = buffer.get(..end.unwrap_or(buffer.len())).unwrap_or(buffer);
            let room = (MAX_LINE_BYTES + 1)
                .saturating_sub(self.line.len())
                .min(piece.len());
            self.line
                .extend_from_slice(piece.get(..room).unwrap_or(piece));
            let used = piece.len() + usize::from(end.is_some());
            self.from.consume(used);
            if end.is_some() {
                return Ok(Some(RawLine::Whole(&self.line)));
            }
        }
    }
}
