//! Offsets and scales of numeric columns (`docs/protocol.md`, section 3).

use outboard_core::job::Normalize;

use crate::table::Table;

/// How a column is scaled: `(x - offset) / scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scaling {
    pub(crate) offset: f64,
    pub(crate) scale: f64,
}

#[derive(Clone, Copy)]
struct Moments {
    mean: f64,
    min: f64,
    max: f64,
    squares: f64,
}

/// Fits every column to these rows. What it says of a column of labels means nothing.
pub(crate) fn fit(table: &Table, rows: &[u32], normalize: Normalize) -> Vec<Scaling> {
    let n = rows.len() as f64;
    let none = Moments { mean: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY, squares: 0.0 };
    let mut columns = vec![none; table.width()];
    for row in rows {
        for (m, x) in columns.iter_mut().zip(table.row(*row)) {
            m.mean += x;
            m.min = m.min.min(*x);
            m.max = m.max.max(*x);
        }
    }
    columns.iter_mut().for_each(|m| m.mean /= n);
    for row in rows {
        for (m, x) in columns.iter_mut().zip(table.row(*row)) {
            let from_mean = x - m.mean;
            m.squares += from_mean * from_mean;
        }
    }
    columns
        .into_iter()
        .map(|m| {
            let (offset, scale) = match normalize {
                Normalize::None => (0.0, 1.0),
                // Its mean is rounded, so its deviation may come out tiny instead of 0.
                _ if m.min == m.max => (m.min, 1.0),
                Normalize::Standard => (m.mean, (m.squares / n).sqrt()),
                Normalize::MinMax => (m.min, m.max - m.min),
            };
            // Differences this small have squares that vanish.
            Scaling { offset, scale: if scale == 0.0 { 1.0 } else { scale } }
        })
        .collect()
}
