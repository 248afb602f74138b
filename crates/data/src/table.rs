//! The cells as numbers, and data sets made of them.

use std::path::PathBuf;

use outboard_core::error::{Error, Result};
use outboard_protocol::{Dataset, Feature, Schema, Target, TargetColumn};

use crate::{
    columns::{Cells, Column},
    fit::Scaling,
    labels::Role,
    source::Source,
    wording::cut,
};

/// Numbers in a data set: 4 GiB of them.
const MOST_VALUES: usize = 1 << 30;

/// The cells of a file, row after row: the values of numbers, the numbers of labels. The target comes last, if it was
/// read.
#[derive(Debug)]
pub(crate) struct Table {
    path: PathBuf,
    rows: usize,
    width: usize,
    labelled: bool,
    cells: Vec<f64>,
}

impl Table {
    /// Reads these columns of every row.
    pub(crate) fn read(source: &Source, features: &mut [Column], mut target: Option<&mut Column>) -> Result<Self> {
        let width = features.len() + usize::from(target.is_some());
        let mut cells = Vec::new();
        let rows = source.for_each_row(|row| {
            for column in features.iter_mut().chain(target.as_deref_mut()) {
                cells.push(column.value(row)?);
            }
            Ok(())
        })?;
        let table = Self { path: source.path().to_path_buf(), rows, width, labelled: target.is_some(), cells };
        table.values(rows, width)?;
        Ok(table)
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// A row, from 0.
    pub(crate) fn row(&self, row: u32) -> &[f64] {
        &self.cells[row as usize * self.width..][..self.width]
    }

    /// Puts the labels of each column in the order of the protocol. The columns are those that were read.
    pub(crate) fn sort_labels(&mut self, features: Vec<Column>, target: Column) -> Result<Sorted> {
        let features = features.into_iter().enumerate().map(|(place, column)| self.sort(place, column));
        let features = features.collect::<Result<_>>()?;
        Ok(Sorted { features, target: self.sort(self.width - 1, target)? })
    }

    fn sort(&mut self, place: usize, column: Column) -> Result<SortedColumn> {
        let name = column.name;
        let Cells::Labels(labels) = column.cells else {
            return Ok(SortedColumn { name, labels: None });
        };
        let role = labels.role();
        let (labels, places) =
            labels.sorted().map_err(|e| e.at("file", self.path.display()).at("column", cut(&name)))?;
        for cell in self.cells.iter_mut().skip(place).step_by(self.width) {
            *cell = f64::from(places[*cell as usize]);
        }
        Ok(SortedColumn { name, labels: Some((role, labels)) })
    }

    /// Some rows as a data set.
    pub(crate) fn dataset(&self, schema: &Schema, rows: &[u32]) -> Result<Dataset> {
        let width = schema.features.iter().map(Feature::width).sum();
        let mut x = Vec::with_capacity(self.values(rows.len(), width)?);
        for row in rows {
            for (feature, cell) in schema.features.iter().zip(self.row(*row)) {
                match feature {
                    Feature::Numeric { name, offset, scale } => {
                        let value = ((cell - offset) / scale) as f32;
                        if !value.is_finite() {
                            return Err(self.out_of_range(*row, name, *cell));
                        }
                        x.push(value);
                    }
                    Feature::Categorical { categories, .. } => {
                        let start = x.len();
                        x.resize(start + categories.len(), 0.0);
                        x[start + *cell as usize] = 1.0;
                    }
                }
            }
        }
        Ok(Dataset { shape: vec![width], x, y: self.targets(schema, rows) })
    }

    fn targets(&self, schema: &Schema, rows: &[u32]) -> Target {
        let cells = rows.iter().filter_map(|row| self.row(*row).last());
        match &schema.target {
            _ if !self.labelled => Target::None,
            TargetColumn::Classes { .. } => Target::Classes(cells.map(|cell| *cell as i64).collect()),
            TargetColumn::Binary { .. } | TargetColumn::Number { .. } => {
                Target::Values { outputs: 1, values: cells.map(|cell| *cell as f32).collect() }
            }
        }
    }

    /// `rows * width`, within bounds.
    fn values(&self, rows: usize, width: usize) -> Result<usize> {
        rows.checked_mul(width).filter(|values| *values <= MOST_VALUES).ok_or_else(|| {
            Error::invalid(format!("{rows} rows with {width} inputs each are more than {MOST_VALUES} numbers"))
                .at("file", self.path.display())
                .hint("use fewer rows, or leave columns with many categories out with `data.exclude`")
        })
    }

    fn out_of_range(&self, row: u32, column: &str, cell: f64) -> Error {
        Error::invalid(format!("{cell:e} is too far from the values of the training rows to be scaled"))
            .at("file", self.path.display())
            .at("row", row + 1)
            .at("column", cut(column))
            .hint("fix the cell, or train with `normalize = \"none\"`")
    }
}

/// Columns whose labels are in order, but whose scaling isn't known yet.
#[derive(Debug)]
pub(crate) struct Sorted {
    features: Vec<SortedColumn>,
    target: SortedColumn,
}

#[derive(Debug)]
struct SortedColumn {
    name: String,
    labels: Option<(Role, Vec<String>)>,
}

impl Sorted {
    /// The schema; there is a scaling for each column.
    pub(crate) fn into_schema(self, scalings: &[Scaling]) -> Schema {
        let feature = |(column, scaling): (SortedColumn, &Scaling)| match column.labels {
            None => Feature::Numeric { name: column.name, offset: scaling.offset, scale: scaling.scale },
            Some((_, categories)) => Feature::Categorical { name: column.name, categories },
        };
        let name = self.target.name;
        let target = match self.target.labels {
            None => TargetColumn::Number { name },
            Some((role, classes)) => match (role, classes.as_slice()) {
                (Role::Side, [zero, one]) => TargetColumn::Binary { name, classes: [zero.clone(), one.clone()] },
                _ => TargetColumn::Classes { name, classes },
            },
        };
        Schema { features: self.features.into_iter().zip(scalings).map(feature).collect(), target }
    }
}
