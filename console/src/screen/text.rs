//! The text on a screen: rows of coloured characters, including rows that have left the screen.
//! Independent of pixels.

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use vte::{Params, Parser, Perform};

/// Maximum number of rows kept after they have left the screen at the top.
const SCROLLBACK: usize = 2000;
/// Columns between tab stops.
const TAB: usize = 8;
/// Byte that scrolls the view to older rows. It is not part of any text.
pub const SCROLL_BACK: u8 = 0x0e;
/// Byte that scrolls the view back to newer rows.
pub const SCROLL_FORWARD: u8 = 0x0f;

/// A character and its colour. Colours 0 to 7 are those of ECMA-48, 8 to 15 their bright versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The character shown.
    pub character: char,
    /// The colour, 0 to 15.
    pub color: u8,
}

/// The colour of plain text.
pub const PLAIN: u8 = 7;
const BLANK: Cell = Cell { character: ' ', color: PLAIN };
/// Distance from a colour to its bright version.
const BRIGHT: u8 = 8;

/// The contents of a terminal of fixed size.
pub struct Text {
    parser: Parser,
    page: Page,
}

/// Rows of cells with a cursor.
struct Page {
    columns: usize,
    rows: usize,
    /// All rows kept. The last `rows` of them are the page; the earlier ones have left it.
    lines: VecDeque<Vec<Cell>>,
    /// Row and column in the page. The column can be one past the last.
    cursor: (usize, usize),
    color: u8,
    bold: bool,
    /// Number of rows by which the view is above the page.
    back: usize,
    /// Whether each row of the view has changed.
    changed: Vec<bool>,
}

impl Text {
    /// Creates a blank terminal.
    pub fn new(columns: usize, rows: usize) -> Self {
        let lines = core::iter::repeat_n(vec![BLANK; columns], rows).collect();
        let changed = vec![true; rows];
        let page = Page { columns, rows, lines, cursor: (0, 0), color: PLAIN, bold: false, back: 0, changed };
        Self { parser: Parser::new(), page }
    }

    /// Processes bytes as a terminal does. Any byte that does not scroll the view returns it to the
    /// page.
    pub fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                SCROLL_BACK => self.page.scroll_view(true),
                SCROLL_FORWARD => self.page.scroll_view(false),
                _ => {
                    if self.page.back > 0 {
                        self.page.back = 0;
                        self.page.changed.fill(true);
                    }
                    self.parser.advance(&mut self.page, &[byte]);
                }
            }
        }
    }

    /// Calls `each` with the number and the cells of each row that has changed since the last call.
    pub fn take_changed(&mut self, mut each: impl FnMut(usize, &[Cell])) {
        let page = &mut self.page;
        let first = page.lines.len() - page.rows - page.back;
        for row in 0..page.rows {
            if core::mem::take(&mut page.changed[row]) {
                each(row, &page.lines[first + row]);
            }
        }
    }

    /// Returns the row and column of the cursor if the view shows it.
    pub fn cursor(&self) -> Option<(usize, usize)> {
        let (row, column) = self.page.cursor;
        (self.page.back == 0).then_some((row, column.min(self.page.columns - 1)))
    }
}

impl Page {
    fn scroll_view(&mut self, back: bool) {
        let step = self.rows / 2;
        let kept = self.lines.len() - self.rows;
        self.back = if back { (self.back + step).min(kept) } else { self.back.saturating_sub(step) };
        self.changed.fill(true);
    }

    fn row(&mut self, row: usize) -> &mut Vec<Cell> {
        self.changed[row] = true;
        let first = self.lines.len() - self.rows;
        &mut self.lines[first + row]
    }

    fn line_feed(&mut self) {
        self.changed[self.cursor.0] = true;
        self.cursor.1 = 0;
        if self.cursor.0 + 1 < self.rows {
            self.cursor.0 += 1;
            self.changed[self.cursor.0] = true;
            return;
        }
        // Once enough rows are kept, the memory of the oldest is reused.
        let full = self.lines.len() >= self.rows + SCROLLBACK;
        let mut line = if full { self.lines.pop_front().unwrap_or_default() } else { Vec::new() };
        line.clear();
        line.resize(self.columns, BLANK);
        self.lines.push_back(line);
        self.changed.fill(true);
    }

    fn clear(&mut self) {
        for row in 0..self.rows {
            self.row(row).fill(BLANK);
        }
    }

    fn move_to(&mut self, row: usize, column: usize) {
        self.changed[self.cursor.0] = true;
        self.cursor = (row.min(self.rows - 1), column.min(self.columns - 1));
        self.changed[self.cursor.0] = true;
    }

    fn set_color(&mut self, parameters: &Params) {
        for parameter in parameters {
            match parameter.first().copied().unwrap_or(0) {
                0 => (self.color, self.bold) = (PLAIN, false),
                1 => self.bold = true,
                22 => self.bold = false,
                color @ 30..=37 => self.color = (color - 30) as u8,
                39 => self.color = PLAIN,
                color @ 90..=97 => self.color = (color - 90) as u8 + BRIGHT,
                _ => {}
            }
        }
    }
}

impl Perform for Page {
    fn print(&mut self, character: char) {
        if self.cursor.1 == self.columns {
            self.line_feed();
        }
        let (row, column) = self.cursor;
        let color = if self.bold { self.color | BRIGHT } else { self.color };
        self.row(row)[column] = Cell { character, color };
        self.cursor.1 += 1;
    }

    fn execute(&mut self, byte: u8) {
        let (row, column) = self.cursor;
        match byte {
            b'\n' => self.line_feed(),
            b'\r' => self.move_to(row, 0),
            b'\t' => self.move_to(row, (column / TAB + 1) * TAB),
            0x08 => self.move_to(row, column.saturating_sub(1)),
            _ => {}
        }
    }

    fn csi_dispatch(&mut self, parameters: &Params, _: &[u8], _: bool, action: char) {
        let number = |index: usize| {
            let given = parameters.iter().nth(index).and_then(|parameter| parameter.first().copied());
            usize::from(given.unwrap_or(0))
        };
        let (row, column) = self.cursor;
        match action {
            'K' => {
                let column = column.min(self.columns);
                self.row(row)[column..].fill(BLANK);
            }
            'J' if number(0) == 2 => self.clear(),
            'H' => self.move_to(number(0).saturating_sub(1), number(1).saturating_sub(1)),
            'C' => self.move_to(row, column + number(0).max(1)),
            'D' => self.move_to(row, column.saturating_sub(number(0).max(1))),
            'm' => self.set_color(parameters),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::String;

    use super::*;

    fn shown(text: &mut Text) -> Vec<String> {
        text.page.changed.fill(true);
        let mut rows = Vec::new();
        text.take_changed(|_, cells| {
            let line: String = cells.iter().map(|cell| cell.character).collect();
            rows.push(line.trim_end().into());
        });
        rows
    }

    #[test]
    fn lines_wrap_and_scroll_and_come_back() {
        let mut text = Text::new(5, 3);
        text.write(b"one\ntwo\nthree4\n");
        assert_eq!(shown(&mut text), ["three", "4", ""]);
        text.write(&[SCROLL_BACK, SCROLL_BACK, SCROLL_BACK]);
        assert_eq!(shown(&mut text), ["one", "two", "three"]);
        assert_eq!(text.cursor(), None);
        text.write(b"x");
        assert_eq!(shown(&mut text), ["three", "4", "x"]);
        assert_eq!(text.cursor(), Some((2, 1)));
    }

    #[test]
    fn an_editors_sequences_do_what_they_say() {
        let mut text = Text::new(20, 2);
        text.write(b"\raero> abc\x1b[K\x1b[2Dx\x1b[31mred\x1b[0m");
        assert_eq!(shown(&mut text)[0], "aero> axred");
        let mut colors = Vec::new();
        text.page.changed.fill(true);
        text.take_changed(|row, cells| {
            if row == 0 {
                colors = cells[7..11].iter().map(|cell| cell.color).collect();
            }
        });
        assert_eq!(colors, [PLAIN, 1, 1, 1]);
        text.write(b"\x1b[2J\x1b[H!");
        assert_eq!(shown(&mut text), ["!", ""]);
    }

    #[test]
    fn only_what_has_changed_is_painted() {
        let mut text = Text::new(10, 4);
        text.take_changed(|_, _| {});
        text.write(b"a");
        let mut rows = Vec::new();
        text.take_changed(|row, _| rows.push(row));
        assert_eq!(rows, [0]);
    }

    #[test]
    fn noise_changes_no_size() {
        let mut text = Text::new(7, 3);
        let mut state = 1u32;
        for _ in 0..100_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            text.write(&[(state >> 24) as u8]);
        }
        text.write(b"\x1b[65535;65535H\x1b[65535D\x1b[65535C\x1b[K");
        assert_eq!(text.page.lines.iter().filter(|line| line.len() != 7).count(), 0);
        assert!(text.page.lines.len() <= 3 + SCROLLBACK);
    }
}
