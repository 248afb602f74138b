//! Tables for people.

use super::Printer;

/// Prints rows with aligned columns; those in `right` to the right.
pub(crate) fn print<const N: usize>(printer: &Printer, table: &[[String; N]], right: &[usize]) {
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    for row in table {
        let cells = row.iter().enumerate().map(|(i, cell)| match right.contains(&i) {
            true => format!("{cell:>width$}", width = width(i)),
            false => format!("{cell:<width$}", width = width(i)),
        });
        printer.line(cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}
