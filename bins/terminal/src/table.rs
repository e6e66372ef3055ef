//! Tables for people: aligned columns, two spaces between them, no lines.

use comfy_table::{CellAlignment, ContentArrangement};

/// On which side a column is flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Left: words.
    Left,
    /// Right: numbers.
    Right,
}

/// A table. Cells must be escaped by whoever fills them.
#[derive(Debug)]
pub struct Table {
    inner: comfy_table::Table,
}

impl Table {
    /// A table with these columns.
    #[must_use]
    pub fn new(columns: &[(&str, Align)]) -> Self {
        let mut inner = comfy_table::Table::new();
        inner
            .load_preset(comfy_table::presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(columns.iter().map(|(name, _)| *name));
        let last = columns.len().saturating_sub(1);
        for (number, (_, align)) in columns.iter().enumerate() {
            if let Some(column) = inner.column_mut(number) {
                column.set_padding((0, if number == last { 0 } else { 2 }));
                column.set_cell_alignment(match align {
                    Align::Left => CellAlignment::Left,
                    Align::Right => CellAlignment::Right,
                });
            }
        }
        Self { inner }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.inner.add_row(cells);
    }

    /// The table as text without spaces at the ends of lines and without a last line end.
    #[must_use]
    pub fn render(&self) -> String {
        let text = self.inner.to_string();
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_tail() {
        let mut table = Table::new(&[
            ("NAME", Align::Left),
            ("SIZE", Align::Right),
            ("X", Align::Left),
        ]);
        table.row(["a".into(), "1,234".into(), String::new()]);
        table.row(["longer".into(), "5".into(), "y".into()]);
        assert_eq!(
            table.render(),
            "NAME     SIZE  X\na       1,234\nlonger      5  y"
        );
    }
}
