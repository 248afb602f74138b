//! Which columns are read, and as what: from a job, or from a schema.

use std::collections::HashSet;

use outboard_core::{
    error::{Error, Result},
    job::{Data, Loss},
};
use outboard_protocol::{Feature, Schema, TargetColumn};

use crate::{
    labels::{Labels, Role},
    source::{Row, Source},
    wording::{cut, list, nearest, shown},
};

const FEATURE_HINT: &str = "fix the cell, or list the column in `data.categorical` or `data.exclude`";
const TARGET_HINT: &str = "fix the cell, or use `loss = \"cross_entropy\"` if the column holds classes";
const LABEL_HINT: &str = "write 1 where the label applies, else 0";
const WEIGHT_HINT: &str = "write how much the row counts, such as 1; leave out rows that don't count";
const ROW_HINT: &str = "fix the cell, or remove the row";
const TRAINED_HINT: &str = "fix the cell: the training data has numbers in this column";

/// A column to read.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) cells: Cells,
    position: usize,
}

/// What the cells of a column are.
#[derive(Debug)]
pub(crate) enum Cells {
    /// Numbers; with what to try where one isn't.
    Numbers(&'static str),
    /// Texts.
    Labels(Labels),
    /// Whether a label applies: 1, or 0.
    ZeroOrOne,
    /// How much a row counts: more than 0.
    Weights,
}

/// The feature columns and the targets that a job names.
pub(crate) fn of_job(data: &Data, loss: &Loss, source: &Source) -> Result<(Vec<Column>, Vec<Column>)> {
    let targets = targets_of_job(data, loss, source)?;
    if let Some(text) = &data.text {
        named(source, text, "data.text")?;
        return Ok((Vec::new(), targets));
    }
    let exclude = names(source, &data.exclude, "data.exclude")?;
    let categorical = names(source, &data.categorical, "data.categorical")?;
    let feature = |name: &String| {
        Ok(Column {
            name: name.clone(),
            cells: match categorical.contains(name.as_str()) {
                true => Cells::Labels(Labels::new(Role::Category)),
                false => Cells::Numbers(FEATURE_HINT),
            },
            position: named(source, name, "data.features")?,
        })
    };
    let features = chosen(data, &exclude, source)?.into_iter().map(feature).collect::<Result<_>>()?;
    Ok((features, targets))
}

fn targets_of_job(data: &Data, loss: &Loss, source: &Source) -> Result<Vec<Column>> {
    let names = data.targets();
    let refuse = |what: String, hint: &str| Err(source.refuse(what).at("key", "data.target").hint(hint));
    if names.is_empty() {
        return refuse("`data.target` is missing".into(), "add `target = \"label\"` under `[data]`");
    }
    if let Some((_, twice)) = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)) {
        return refuse(format!("{} is in `data.target` twice", shown(twice)), "take it out once");
    }
    let cells = || match loss {
        Loss::CrossEntropy { .. } => Cells::Labels(Labels::new(Role::Class)),
        Loss::BceWithLogits { .. } if names.len() > 1 => Cells::ZeroOrOne,
        Loss::BceWithLogits { .. } => Cells::Labels(Labels::new(Role::Side)),
        Loss::Mse | Loss::L1 | Loss::Huber { .. } => Cells::Numbers(TARGET_HINT),
    };
    if loss.is_classification() && names.len() > 1 {
        return refuse(
            format!("`cross_entropy` has one target, but `data.target` names {}", names.len()),
            "name one column, or use `loss = \"bce_with_logits\"` where several labels may apply to a row",
        );
    }
    let column = |name: &String| {
        Ok(Column { name: name.clone(), cells: cells(), position: named(source, name, "data.target")? })
    };
    names.iter().map(column).collect()
}

/// The column that says how much each row counts, if the job names one.
pub(crate) fn weights_of_job(data: &Data, source: &Source) -> Result<Option<Column>> {
    let Some(name) = &data.weight else { return Ok(None) };
    Ok(Some(Column { name: name.clone(), cells: Cells::Weights, position: named(source, name, "data.weight")? }))
}

/// The feature columns that a model was trained with, and its targets if the file is `labelled`.
pub(crate) fn of_schema(schema: &Schema, labelled: bool, source: &Source) -> Result<(Vec<Column>, Vec<Column>)> {
    let column = |name: &str, cells| {
        let position = source.position(name).ok_or_else(|| lacking(source, name, schema))?;
        Ok(Column { name: name.to_string(), cells, position })
    };
    let known = |role, labels: &[String]| Cells::Labels(Labels::known(role, labels));
    let feature = |feature: &Feature| match feature {
        Feature::Numeric { name, .. } => Some(column(name, Cells::Numbers(TRAINED_HINT))),
        Feature::Categorical { name, categories } => Some(column(name, known(Role::Category, categories))),
        // Read apart.
        Feature::Text { .. } | Feature::Array { .. } | Feature::Image { .. } => None,
    };
    let target = |name: &String| {
        let cells = match &schema.target {
            TargetColumn::Number { .. } | TargetColumn::Numbers { .. } => Cells::Numbers(TRAINED_HINT),
            TargetColumn::Classes { classes, .. } => known(Role::Class, classes),
            TargetColumn::Binary { classes, .. } => known(Role::Side, classes),
            TargetColumn::Labels { .. } => Cells::ZeroOrOne,
        };
        column(name, cells)
    };
    let targets = if labelled { schema.target.names() } else { &[] };
    Ok((
        schema.features.iter().filter_map(feature).collect::<Result<_>>()?,
        targets.iter().map(target).collect::<Result<_>>()?,
    ))
}

impl Column {
    /// A cell as a number: its value, or the number of its label.
    pub(crate) fn value(&mut self, row: &Row<'_>) -> Result<f64> {
        let text = row.text(self.position, &self.name)?;
        match &mut self.cells {
            Cells::Numbers(hint) => number(text, hint),
            Cells::Labels(labels) => labels.number(text).map(f64::from),
            Cells::ZeroOrOne => match text.parse() {
                Ok(value @ (0.0 | 1.0)) => Ok(value),
                _ => Err((format!("{} is neither 0 nor 1", shown(text)), LABEL_HINT)),
            },
            Cells::Weights => number(text, WEIGHT_HINT).and_then(|value| match value as f32 > 0.0 {
                true => Ok(value),
                false => Err((format!("{} is not above 0", shown(text)), WEIGHT_HINT)),
            }),
        }
        .map_err(|(what, hint)| row.refuse_cell(&self.name, what).hint(hint))
    }
}

/// A cell's value; else what is wrong with it, and what to try.
fn number<'a>(text: &str, hint: &'a str) -> Result<f64, (String, &'a str)> {
    // Most cells of some files are small integers, which are quicker to read as such.
    match text.parse::<u32>().map(f64::from).or_else(|_| text.parse::<f64>()) {
        // Within f32 here, no sum in the fit can overflow later.
        Ok(value) if (value as f32).is_finite() => Ok(value),
        Ok(value) if value.is_nan() => Err((format!("{} is not a number", shown(text)), ROW_HINT)),
        Ok(_) if text.contains(['i', 'I']) => Err((format!("{} is not finite", shown(text)), ROW_HINT)),
        Ok(_) => Err((format!("{} is too large for a 32-bit float", shown(text)), "use a larger unit for the column")),
        Err(_) if text.replacen(',', ".", 1).parse::<f64>().is_ok() => {
            Err((format!("{} is not a number", shown(text)), "write decimals with a point"))
        }
        Err(_) => Err((format!("{} is not a number", shown(text)), hint)),
    }
}

/// Where the column is that the job names in `key`.
fn named(source: &Source, name: &str, key: &'static str) -> Result<usize> {
    source.position(name).ok_or_else(|| {
        source
            .refuse(format!("`{key}` names {}, but the file has no such column", shown(name)))
            .at("column", cut(name))
            .at("key", key)
            .hint(match nearest(name, source.names()) {
                Some(nearest) => format!("use {}", shown(nearest)),
                None => format!("use one of its columns: {}", columns(source)),
            })
    })
}

/// A file without a column that the model needs.
fn lacking(source: &Source, name: &str, schema: &Schema) -> Error {
    let needed: HashSet<_> =
        schema.features.iter().map(Feature::name).chain(schema.target.names().iter().map(String::as_str)).collect();
    let spare: Vec<_> = source.names().iter().filter(|name| !needed.contains(name.as_str())).cloned().collect();
    source
        .refuse(format!("the training data has a column {}, but this file has not", shown(name)))
        .at("column", cut(name))
        .hint(match nearest(name, &spare) {
            Some(nearest) => format!("rename {} in its header, or add the column", shown(nearest)),
            None => format!("add the column to those it has: {}", columns(source)),
        })
}

fn columns(source: &Source) -> String {
    list(source.names().iter().map(String::as_str))
}

/// The names that `key` lists, each a column of the file.
fn names<'a>(source: &Source, names: &'a [String], key: &'static str) -> Result<HashSet<&'a str>> {
    names.iter().map(|name| named(source, name, key).map(|_| name.as_str())).collect()
}

/// The names of the feature columns, in order.
fn chosen<'a>(data: &'a Data, exclude: &HashSet<&str>, source: &'a Source) -> Result<Vec<&'a String>> {
    let features: Vec<_> = match &data.features {
        Some(features) => {
            let refuse = |name: &str, what: &str, hint: &str| {
                Err(source.refuse(format!("{} {what}", shown(name))).at("column", cut(name)).hint(hint))
            };
            let mut seen = HashSet::new();
            for name in features {
                named(source, name, "data.features")?;
                // What came before is known where a series is predicted from its own past.
                if data.targets().contains(name) && data.window.is_none() {
                    let what = "is the target, so it can't be in `data.features`";
                    return refuse(name, what, "take it out of `data.features`, or name another `data.target`");
                }
                if exclude.contains(name.as_str()) {
                    return refuse(name, "is in `data.features` and in `data.exclude`", "take it out of one of them");
                }
                if !seen.insert(name) {
                    return refuse(name, "is in `data.features` twice", "take it out once");
                }
            }
            features.iter().collect()
        }
        None => {
            let is_target = |name: &str| data.targets().iter().any(|target| target == name);
            let is_weight = |name: &str| data.weight.as_deref() == Some(name);
            let is_left_out = |name: &str| exclude.contains(name) || is_weight(name);
            let is_feature = |name: &str| !is_left_out(name) && (data.window.is_some() || !is_target(name));
            if let Some(position) = source.position("").filter(|_| is_feature("")) {
                return Err(source.refuse(format!("column {} has no name", position + 1)).hint(
                    "name it in the header, or, where it only counts rows, leave it out with `data.exclude = [\"\"]`",
                ));
            }
            source.names().iter().filter(|name| is_feature(name)).collect()
        }
    };
    if features.is_empty() {
        return Err(source
            .refuse("no column is left to learn from")
            .hint("list fewer columns in `data.exclude`, or some in `data.features`"));
    }
    Ok(features)
}
