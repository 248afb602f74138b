//! Tables for people.

use super::Printer;

/// Prints rows with aligned columns; those in `right` to the right.
pub(crate) fn print<const N: usize>(printer: &Printer, table: &[[String; N]], right: &[usize]) {
    lines(table, right).into_iter().for_each(|line| printer.line(line));
}

/// The line of each row, with aligned columns; those in `right` to the right.
pub(crate) fn lines<const N: usize>(table: &[[String; N]], right: &[usize]) -> Vec<String> {
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let line = |row: &[String; N]| {
        let cells = row.iter().enumerate().map(|(i, cell)| match right.contains(&i) {
            true => format!("{cell:>width$}", width = width(i)),
            false => format!("{cell:<width$}", width = width(i)),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    table.iter().map(line).collect()
}
