//! A table that stays at the bottom of a terminal while log lines scroll by above it.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The terminal. Clones are the same one.
#[derive(Clone, Default)]
pub(super) struct Screen {
    table: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    text: String,
    /// How many lines of it are on the terminal.
    drawn: usize,
}

impl Screen {
    /// Whether there is a terminal to draw on.
    pub(super) fn is_terminal() -> bool {
        io::stdout().is_terminal()
    }

    /// Draws `table` in place of the one before.
    pub(super) fn draw(&self, table: &str) {
        let mut current = self.lock();
        current.text = fitting(table, size());
        // Whoever closes the terminal ends the process by other means.
        let _ = current.redraw(b"");
    }

    /// Leaves the table where it is; what follows is written below.
    pub(super) fn finish(&self) {
        let mut current = self.lock();
        current.drawn = 0;
        current.text.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Log lines are written above the table.
impl Write for Screen {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut table = self.lock();
        if table.text.is_empty() {
            return io::stderr().write(line);
        }
        table.redraw(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

impl Table {
    fn redraw(&mut self, above: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::new();
        if self.drawn > 0 {
            // To the first line of the table, whatever was typed below it, and clear from there.
            write!(bytes, "\r\x1b[{}A\x1b[J", self.drawn)?;
        }
        bytes.extend_from_slice(above);
        bytes.extend_from_slice(self.text.as_bytes());
        self.drawn = self.text.lines().count();
        let mut out = io::stdout().lock();
        out.write_all(&bytes)?;
        out.flush()
    }
}

/// Columns and lines of the terminal.
fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}

/// What fits of `table`: a line that wraps, or one that scrolls away, could not be drawn over.
fn fitting(table: &str, (columns, lines): (usize, usize)) -> String {
    let total = table.lines().count();
    let shown = if total < lines {
        total
    } else {
        lines.saturating_sub(2)
    };
    let mut text: String = table
        .lines()
        .take(shown)
        .map(|line| line.chars().take(columns).chain(['\n']).collect::<String>())
        .collect();
    if shown < total {
        let more: String = format!("… and {} more", total - shown)
            .chars()
            .take(columns)
            .collect();
        text.push_str(&more);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_cut_to_the_terminal() {
        assert_eq!(fitting("abc\nd\n", (80, 24)), "abc\nd\n");
        assert_eq!(fitting("abcdef\nd\n", (3, 24)), "abc\nd\n");
        assert_eq!(fitting("1\n2\n3\n4\n5\n", (80, 4)), "1\n2\n… and 3 more\n");
    }
}
