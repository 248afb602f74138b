//! The distinct texts of a column, and their order.

use std::collections::HashMap;

use outboard_core::error::{Error, Result};
use outboard_protocol::{Target, TargetColumn};

use crate::wording::{list, shown};

/// Categories or classes that a column may have. One-hot columns take memory for each row and category.
const MOST_LABELS: usize = 10_000;
/// Distinct numbers with decimals above which a target is a quantity and not a class.
const MOST_DECIMAL_CLASSES: usize = 20;

const TOO_FINE: &str = "leave the column out with `data.exclude`, or, if it holds numbers, take it out of \
                        `data.categorical`";
const QUANTITY: &str = "use `loss = \"mse\"` if the column holds a quantity, else check `data.target`";
const TWO_LABELS: &str = "use `loss = \"cross_entropy\"` for several classes or `\"mse\"` for a quantity, \
                          else check `data.target`";

/// What the texts of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Values of a feature.
    Category,
    /// Any number of classes.
    Class,
    /// Two classes.
    Side,
}

/// The distinct texts of a column, by number.
#[derive(Debug)]
pub(crate) struct Labels {
    role: Role,
    numbers: HashMap<String, u32>,
    grows: bool,
}

impl Labels {
    /// None yet: texts are numbered as they come.
    pub(crate) fn new(role: Role) -> Self {
        Self { role, numbers: HashMap::new(), grows: true }
    }

    /// These and no others.
    pub(crate) fn known(role: Role, labels: &[String]) -> Self {
        Self { role, numbers: labels.iter().cloned().zip(0..).collect(), grows: false }
    }

    /// What the texts are.
    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// The number of a text; else what is wrong with it, and what to try.
    pub(crate) fn number(&mut self, text: &str) -> Result<u32, (String, &'static str)> {
        if let Some(number) = self.numbers.get(text) {
            return Ok(*number);
        }
        let noun = if self.role == Role::Category { "categories" } else { "classes" };
        if !self.grows {
            let mut labels: Vec<_> = self.numbers.iter().map(|(label, number)| (number, label.as_str())).collect();
            labels.sort_unstable();
            let labels = list(labels.into_iter().map(|(_, label)| label));
            let what = format!("{} is not one of the {noun} of the training data: {labels}", shown(text));
            return Err((what, "fix the cell, or train on data that has it too"));
        }
        if self.numbers.len() == MOST_LABELS {
            let hint = match self.role {
                Role::Category => TOO_FINE,
                Role::Class => QUANTITY,
                Role::Side => TWO_LABELS,
            };
            return Err((format!("{} is one too many: a column may have {MOST_LABELS} {noun}", shown(text)), hint));
        }
        let number = self.numbers.len() as u32;
        self.numbers.insert(text.to_string(), number);
        Ok(number)
    }

    /// The texts in the order of the protocol, and for each number the place in it.
    pub(crate) fn sorted(self) -> Result<(Vec<String>, Vec<u32>)> {
        let role = self.role;
        let mut labels: Vec<(String, u32)> = self.numbers.into_iter().collect();
        labels.sort_unstable();
        if role != Role::Category {
            sort_integers(&mut labels)?;
        }
        check_count(role, &labels)?;
        let mut places = vec![0; labels.len()];
        for ((_, number), place) in labels.iter().zip(0..) {
            places[*number as usize] = place;
        }
        Ok((labels.into_iter().map(|(label, _)| label).collect(), places))
    }
}

impl Labels {
    /// What these classes make of the target `name`, and of the rows that have these numbers.
    pub(crate) fn into_target(self, name: String, numbers: &[u32]) -> Result<(TargetColumn, Target)> {
        let role = self.role;
        let (classes, places) = self.sorted()?;
        let numbers: Vec<u32> = numbers.iter().map(|number| places[*number as usize]).collect();
        let column = match (role, classes.as_slice()) {
            (Role::Side, [zero, one]) => TargetColumn::Binary { name, classes: [zero.clone(), one.clone()] },
            _ => TargetColumn::Classes { name, classes },
        };
        Ok((column, role.targets(&numbers)))
    }
}

impl Role {
    /// Rows that have the classes of these numbers.
    pub(crate) fn targets(self, numbers: &[u32]) -> Target {
        match self {
            Self::Side => Target::Values { outputs: 1, values: numbers.iter().map(|class| *class as f32).collect() },
            Self::Class | Self::Category => Target::Classes(numbers.iter().copied().map(i64::from).collect()),
        }
    }
}

/// Sorts by value where every label is an integer.
fn sort_integers(labels: &mut [(String, u32)]) -> Result<()> {
    let value = |label: &str| label.parse::<i64>();
    if !labels.iter().all(|(label, _)| value(label).is_ok()) {
        return Ok(());
    }
    labels.sort_by_key(|(label, _)| value(label).unwrap_or_default());
    for pair in labels.windows(2) {
        let (a, b) = (&pair[0].0, &pair[1].0);
        if value(a) == value(b) {
            return Err(Error::invalid(format!("the labels {} and {} are the same number", shown(a), shown(b)))
                .hint("write each label in one way throughout the file"));
        }
    }
    Ok(())
}

fn check_count(role: Role, labels: &[(String, u32)]) -> Result<()> {
    let count = labels.len();
    let names = || list(labels.iter().map(|(label, _)| label.as_str()));
    match role {
        Role::Side if count != 2 => {
            Err(Error::invalid(format!("`bce_with_logits` needs two labels, but the column has {count}: {}", names()))
                .hint(if count < 2 { "add rows with another label, or check `data.target`" } else { TWO_LABELS }))
        }
        Role::Class if count < 2 => Err(Error::invalid(format!("every row has the same label, {}", names()))
            .hint("add rows with another label, or check `data.target`")),
        Role::Class if count > MOST_DECIMAL_CLASSES && are_decimals(labels) => {
            Err(Error::invalid(format!("{count} different labels with decimals are no classes: {}", names()))
                .hint(QUANTITY))
        }
        _ => Ok(()),
    }
}

/// Whether these are numbers, and some not whole.
fn are_decimals(labels: &[(String, u32)]) -> bool {
    let mut values = labels.iter().map(|(label, _)| label.parse::<f64>());
    values.clone().all(|value| value.is_ok()) && values.any(|value| value.is_ok_and(|v| v.fract() != 0.0))
}
