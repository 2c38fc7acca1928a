//! Tables with aligned columns, as kubectl prints them.

use std::io::{self, Write};

/// Between two columns.
const GAP: &str = "   ";

/// Prints rows below each other. The widths only grow, so rows that are printed later fit too.
#[derive(Debug, Default)]
pub(crate) struct Table {
    widths: Vec<usize>,
}

impl Table {
    /// Prints rows. The first one may be a header.
    pub(crate) fn print(&mut self, out: &mut impl Write, rows: &[Vec<String>]) -> io::Result<()> {
        for row in rows {
            self.widths.resize(self.widths.len().max(row.len()), 0);
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        for row in rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&self.widths) {
                if !line.is_empty() {
                    line.push_str(GAP);
                }
                line.push_str(&format!("{cell:<width$}"));
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|cell| (*cell).to_owned()).collect()
    }

    #[test]
    fn columns_are_aligned_and_stay_as_wide() {
        let (mut table, mut out) = (Table::default(), Vec::new());
        table
            .print(
                &mut out,
                &[
                    row(&["NAME", "N"]),
                    row(&["grün", ""]),
                    row(&["längest", "1"]),
                ],
            )
            .unwrap();
        table.print(&mut out, &[row(&["a", "22"])]).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "NAME      N\ngrün\nlängest   1\na         22\n");
    }
}
