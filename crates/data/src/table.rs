//! The cells as numbers, and data sets made of them.

use std::path::PathBuf;

use outboard_core::{
    error::{Error, Result},
    job::Window,
};
use outboard_protocol::{Dataset, Feature, Inputs, Scaling, Schema, Target, TargetColumn, Values};
use outboard_store::Scratch;

use crate::{
    MOST_ROWS, MOST_VALUES,
    columns::{Cells, Column},
    labels::Role,
    source::Source,
    text,
    wording::cut,
};

/// The cells of a file, row after row: the values of numbers, the numbers of labels. Targets come last, if they were
/// read.
#[derive(Debug)]
pub(crate) struct Table {
    path: PathBuf,
    rows: usize,
    width: usize,
    targets: usize,
    cells: Values<f64>,
    /// For each column of labels, the place of each of its numbers once they are in order.
    places: Vec<Vec<u32>>,
    /// The tokens of each row, where those are what is learned from.
    tokens: Option<Values<f32>>,
    /// How much each row counts, where the job says.
    weights: Option<Values<f32>>,
    scratch: Scratch,
}

impl Table {
    /// Reads these columns of every row; `feature` is a text, if that is what is learned from, `weight` says how much rows
    /// count.
    pub(crate) fn read(
        source: &Source,
        features: &mut [Column],
        targets: &mut [Column],
        mut weight: Option<Column>,
        feature: Option<&Feature>,
        scratch: &Scratch,
    ) -> Result<Self> {
        let width = features.len() + targets.len();
        let mut cells = scratch.list();
        let mut weights = weight.as_ref().map(|_| scratch.list());
        let mut values = Vec::with_capacity(width);
        let rows = source.for_each_row(|row| {
            for column in features.iter_mut().chain(targets.iter_mut()) {
                values.push(column.value(row)?);
            }
            cells.extend(&values)?;
            values.clear();
            if let (Some(weight), Some(weights)) = (&mut weight, &mut weights) {
                weights.push(weight.value(row)? as f32)?;
            }
            Ok(())
        })?;
        let tokens = feature.map(|feature| text::read(source, feature, scratch)).transpose()?.flatten();
        let table = Self {
            path: source.path().to_path_buf(),
            rows,
            width,
            targets: targets.len(),
            cells: cells.finish()?,
            places: vec![Vec::new(); width],
            tokens,
            weights: weights.map(|weights| weights.finish()).transpose()?,
            scratch: scratch.clone(),
        };
        table.values(rows, width)?;
        Ok(table)
    }

    /// Number of columns.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// A row, from 0; labels are in the order in which they came.
    pub(crate) fn row(&self, row: u32) -> &[f64] {
        &self.cells[row as usize * self.width..][..self.width]
    }

    /// Puts the labels of each column in the order of the protocol. The columns are those that were read.
    pub(crate) fn sort_labels(&mut self, features: Vec<Column>, targets: Vec<Column>) -> Result<Sorted> {
        let columns = features.into_iter().chain(targets).enumerate().map(|(place, column)| self.sort(place, column));
        let mut features = columns.collect::<Result<Vec<_>>>()?;
        let targets = features.split_off(self.width - self.targets);
        Ok(Sorted { features, targets })
    }

    /// How many rows a data set can have: stretches of the file where there is a window.
    pub(crate) fn samples(&self, window: Option<Window>, labelled: bool) -> Result<usize> {
        let Some(window) = window else { return Ok(self.rows) };
        let span = window.length.saturating_add(if labelled { window.horizon } else { 0 });
        match self.rows.checked_sub(span) {
            Some(spare) => Ok(spare / window.stride + 1),
            None => Err(Error::invalid(format!("the file has {} rows, but a window takes {span}", self.rows))
                .at("file", self.path.display())
                .hint("add rows to the file, or make `data.window.length` smaller")),
        }
    }

    fn sort(&mut self, place: usize, column: Column) -> Result<SortedColumn> {
        let name = column.name;
        let labels = match column.cells {
            Cells::Numbers(_) | Cells::Weights => return Ok(SortedColumn { name, kind: Sort::Numbers }),
            Cells::ZeroOrOne => return Ok(SortedColumn { name, kind: Sort::ZeroOrOne }),
            Cells::Labels(labels) => labels,
        };
        let role = labels.role();
        let (labels, places) =
            labels.sorted().map_err(|e| e.at("file", self.path.display()).at("column", cut(&name)))?;
        self.places[place] = places;
        Ok(SortedColumn { name, kind: Sort::Labels(role, labels) })
    }

    /// Some rows as a data set; with a window, some stretches of the file.
    pub(crate) fn dataset(&self, schema: &Schema, samples: &[u32]) -> Result<Dataset> {
        let width = schema.features.iter().map(Feature::width).sum();
        let Some(window) = schema.window else {
            self.values(samples.len(), width)?;
            return Ok(Dataset {
                shape: vec![width],
                x: self.inputs(schema, samples.iter().copied())?,
                y: self.targets(schema, samples)?,
                weights: self.row_weights(samples)?,
            });
        };
        self.values(samples.len(), window.length.saturating_mul(width))?;
        let start = |sample: &u32| *sample as usize * window.stride;
        let rows = samples.iter().flat_map(|sample| start(sample)..start(sample) + window.length);
        let last = |sample| (start(sample) + window.length - 1 + window.horizon) as u32;
        let last: Vec<u32> = samples.iter().map(last).collect();
        Ok(Dataset {
            shape: vec![window.length, width],
            x: self.inputs(schema, rows.map(|row| row as u32))?,
            y: self.targets(schema, &last)?,
            weights: self.row_weights(&last)?,
        })
    }

    /// The features of these rows.
    fn inputs(&self, schema: &Schema, rows: impl Iterator<Item = u32>) -> Result<Inputs> {
        let (mut all, mut x) = (self.scratch.list(), Vec::new());
        for row in rows {
            x.clear();
            self.append(schema, row, &mut x)?;
            all.extend(&x)?;
        }
        all.finish().map(Inputs::Floats)
    }

    /// Adds the features of a row.
    fn append(&self, schema: &Schema, row: u32, x: &mut Vec<f32>) -> Result<()> {
        let cells = self.row(row);
        for (i, feature) in schema.features.iter().enumerate() {
            match feature {
                Feature::Numeric { name, offset, scale } => {
                    let cell = cells[i];
                    let value = Scaling { offset: *offset, scale: *scale }.apply(cell);
                    if !value.is_finite() {
                        return Err(self.out_of_range(row, name, cell));
                    }
                    x.push(value);
                }
                Feature::Categorical { categories, .. } => {
                    let start = x.len();
                    x.resize(start + categories.len(), 0.0);
                    x[start + self.placed(i, cells[i]) as usize] = 1.0;
                }
                Feature::Text { max_length, .. } => {
                    let tokens = self.tokens.as_deref().unwrap_or_default();
                    x.extend(tokens.iter().skip(row as usize * max_length).take(*max_length));
                }
                // Of files that are no tables.
                Feature::Array { .. } | Feature::Image { .. } => {}
            }
        }
        Ok(())
    }

    /// A cell of this column as it counts: a label by its place.
    fn placed(&self, column: usize, cell: f64) -> f64 {
        self.places[column].get(cell as usize).map_or(cell, |place| f64::from(*place))
    }

    fn row_weights(&self, rows: &[u32]) -> Result<Option<Values<f32>>> {
        let Some(weights) = &self.weights else { return Ok(None) };
        self.scratch.gather(rows.iter().map(|row| weights[*row as usize])).map(Some)
    }

    fn targets(&self, schema: &Schema, rows: &[u32]) -> Result<Target> {
        let columns = self.width - self.targets..self.width;
        let cells =
            rows.iter().flat_map(|row| columns.clone().map(|column| self.placed(column, self.row(*row)[column])));
        Ok(match &schema.target {
            _ if self.targets == 0 => Target::None,
            TargetColumn::Classes { .. } => Target::Classes(self.scratch.gather(cells.map(|cell| cell as i64))?),
            _ => Target::Values { outputs: self.targets, values: self.scratch.gather(cells.map(|cell| cell as f32))? },
        })
    }

    /// `rows * width`, within bounds.
    fn values(&self, rows: usize, width: usize) -> Result<usize> {
        let values = rows.checked_mul(width).filter(|values| *values <= MOST_VALUES && rows <= MOST_ROWS);
        values.ok_or_else(|| {
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
    targets: Vec<SortedColumn>,
}

#[derive(Debug)]
struct SortedColumn {
    name: String,
    kind: Sort,
}

#[derive(Debug)]
enum Sort {
    Numbers,
    Labels(Role, Vec<String>),
    ZeroOrOne,
}

impl Sorted {
    /// The schema; there is a scaling for each column. `text` is what is learned from, if that is no column of these.
    pub(crate) fn into_schema(self, scalings: &[Scaling], text: Option<Feature>, window: Option<Window>) -> Schema {
        let feature = |(column, scaling): (SortedColumn, &Scaling)| match column.kind {
            Sort::Labels(_, categories) => Feature::Categorical { name: column.name, categories },
            _ => Feature::Numeric { name: column.name, offset: scaling.offset, scale: scaling.scale },
        };
        let mut targets = self.targets;
        let target = match targets.len() {
            1 => of_one(targets.remove(0)),
            _ => {
                let labels = targets.iter().all(|target| matches!(target.kind, Sort::ZeroOrOne));
                let names = targets.into_iter().map(|target| target.name).collect();
                if labels { TargetColumn::Labels { names } } else { TargetColumn::Numbers { names } }
            }
        };
        let features = self.features.into_iter().zip(scalings).map(feature).chain(text).collect();
        Schema { features, target, window }
    }
}

fn of_one(SortedColumn { name, kind }: SortedColumn) -> TargetColumn {
    match kind {
        Sort::Numbers => TargetColumn::Number { name },
        Sort::ZeroOrOne => TargetColumn::Labels { names: vec![name] },
        Sort::Labels(role, classes) => match (role, classes.as_slice()) {
            (Role::Side, [zero, one]) => TargetColumn::Binary { name, classes: [zero.clone(), one.clone()] },
            _ => TargetColumn::Classes { name, classes },
        },
    }
}
