//! Text for a person: bounded, in lines, with columns that line up.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{Display, Write as _};

/// The most text that one command answers with, in bytes. As hexadecimal digits it fits a packet,
/// with room for the lines that say what is left out.
pub(super) const LIMIT_BYTES: usize = 60 * 1024;

/// The longest line that is added without regard to the limit, in characters: it may repeat what was
/// typed.
const LAST_LINE_CHARS: usize = 512;

/// What a command has to say.
#[derive(Debug, Default)]
pub(super) struct Output {
    text: String,
    is_full: bool,
}

impl Output {
    /// Adds a line, or leaves it out if there is no room for it. Returns whether it was added.
    ///
    /// After one line was left out all later ones are, so that what is there has no holes.
    pub(super) fn line(&mut self, line: impl Display) -> bool {
        let undo_len = self.text.len();
        if !self.is_full {
            // Writing to a string cannot fail.
            let _ = writeln!(self.text, "{line}");
            self.is_full = self.text.len() > LIMIT_BYTES;
        }
        if self.is_full {
            self.text.truncate(undo_len);
        }
        !self.is_full
    }

    /// Adds the last line whether there is room or not: how to see what was left out.
    pub(super) fn rest(&mut self, hint: impl Display) {
        self.last_line(format_args!("... {hint}"));
    }

    /// Adds a last line whether there is room or not. One that is too long is cut.
    pub(super) fn last_line(&mut self, line: impl Display) {
        self.is_full = false;
        let line = format!("{line}");
        let end = line.char_indices().nth(LAST_LINE_CHARS);
        let (shown, mark) = match end.and_then(|(end, _)| line.get(..end)) {
            Some(cut) => (cut, "..."),
            None => (line.as_str(), ""),
        };
        let _ = writeln!(self.text, "{shown}{mark}");
    }

    /// Returns the text.
    pub(super) fn finish(mut self) -> String {
        if self.is_full {
            self.rest("the rest is left out; ask for less at a time");
        }
        self.text
    }
}

/// Rows of cells, whose columns are made as wide as their longest cell.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Creates a table with a row of titles, which is left out if it is empty. A column of which
    /// only the title is filled is left out too.
    pub(super) fn new(titles: &[&str]) -> Self {
        let titles = titles.iter().map(|title| String::from(*title)).collect();
        Self {
            rows: Vec::from([titles]),
        }
    }

    /// Returns whether there is no row but the titles.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.len() <= 1
    }

    /// Adds a row. Cells past the last title are dropped.
    pub(super) fn row<const COUNT: usize>(&mut self, cells: [String; COUNT]) {
        self.rows.push(cells.into());
    }

    /// Writes the rows, as many as there is room for.
    pub(super) fn write(&self, out: &mut Output) {
        let widths = self.widths();
        let has_titles = self
            .rows
            .first()
            .is_some_and(|titles| !titles.concat().is_empty());
        for row in self.rows.iter().skip(usize::from(!has_titles)) {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                if let Some(width) = width {
                    let _ = write!(line, "{cell:width$}  ");
                }
            }
            out.line(line.trim_end());
        }
    }

    /// Returns the width of each column, or `None` for one that is empty.
    fn widths(&self) -> Vec<Option<usize>> {
        let Some((titles, rows)) = self.rows.split_first() else {
            return Vec::new();
        };
        let width = |(column, title): (usize, &String)| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            let longest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
            (longest > 0).then(|| longest.max(title.chars().count()))
        };
        titles.iter().enumerate().map(width).collect()
    }
}

/// Writes cells side by side in columns of equal width, as many in a line as fit.
pub(super) fn columns(cells: &[String], out: &mut Output) {
    const LINE_CHARS: usize = 100;
    let longest = cells.iter().map(|cell| cell.chars().count()).max();
    let width = longest.unwrap_or(0).saturating_add(2);
    let count = LINE_CHARS.checked_div(width).unwrap_or(1).max(1);
    for row in cells.chunks(count) {
        let mut line = String::new();
        for cell in row {
            let _ = write!(line, "{cell:width$}");
        }
        out.line(line.trim_end());
    }
}
