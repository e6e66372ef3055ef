//! The last bytes of what a program says on its standard error.

use std::collections::VecDeque;

/// How much is kept.
pub(crate) const KEPT: usize = 8 << 10;

/// A window over the end of a text of any length.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    bytes: VecDeque<u8>,
    cut: bool,
}

impl Tail {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        let useful = bytes
            .get(bytes.len().saturating_sub(KEPT)..)
            .unwrap_or_default();
        let too_many = (self.bytes.len() + useful.len()).saturating_sub(KEPT);
        self.cut |= too_many > 0 || useful.len() < bytes.len();
        self.bytes.drain(..too_many);
        self.bytes.extend(useful);
    }

    /// As text, on lines of its own; empty when nothing was said.
    pub(crate) fn text(&self) -> String {
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_end();
        if self.cut {
            format!("…{text}")
        } else {
            text.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_is_kept_however_it_comes() {
        for step in [1, 7, KEPT - 1, KEPT, 3 * KEPT] {
            let said: Vec<u8> = (0..3 * KEPT).map(|at| b"abcdefghijk"[at % 11]).collect();
            let mut tail = Tail::default();
            said.chunks(step).for_each(|part| tail.add(part));
            let text = tail.text();
            let kept = text.strip_prefix('…').unwrap();
            assert_eq!(kept.as_bytes(), &said[said.len() - KEPT..], "{step}");
        }
        let mut short = Tail::default();
        short.add(b"two\nlines\n");
        assert_eq!(short.text(), "two\nlines");
    }
}
