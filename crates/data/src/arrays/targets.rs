//! What an array of targets means.

use outboard_core::{error::Result, job::Loss};
use outboard_protocol::{Target, TargetColumn, Values};

use super::{Array, Numbers, Place};
use crate::labels::{Labels, Role};

const WHOLE: &str = "save whole numbers: `y.astype(\"int64\")`; or use `loss = \"mse\"` if they are quantities";
const ONE_CLASS: &str = "save the number of its class for each row, such as `y.argmax(axis=1)`";

/// The targets of a job.
pub(super) fn of_job(array: Array, name: &str, loss: &Loss, place: &Place<'_>) -> Result<(TargetColumn, Target)> {
    let outputs: usize = array.shape.iter().product();
    let name = name.to_string();
    match loss {
        Loss::CrossEntropy { .. } | Loss::BceWithLogits { .. } if outputs == 1 => {
            let role = if loss.is_classification() { Role::Class } else { Role::Side };
            let integers = whole(array, role == Role::Side, place)?;
            let mut labels = Labels::new(role);
            let numbers = number(&integers, &mut labels, place)?;
            labels.into_target(name, &numbers).map_err(|e| e.at("file", place.path.display()))
        }
        Loss::CrossEntropy { .. } => {
            Err(place.refuse(format!("each row has {outputs} targets, but `cross_entropy` needs one")).hint(ONE_CLASS))
        }
        Loss::BceWithLogits { .. } => {
            let names = names(&name, outputs);
            Ok((TargetColumn::Labels { names }, zero_or_one(array, place)?))
        }
        Loss::Mse | Loss::L1 | Loss::Huber { .. } => {
            let target = match outputs {
                1 => TargetColumn::Number { name },
                _ => TargetColumn::Numbers { names: names(&name, outputs) },
            };
            Ok((target, Target::Values { outputs, values: floats(array, place)? }))
        }
    }
}

/// The targets of a later file.
pub(super) fn of_schema(array: Array, target: &TargetColumn, place: &Place<'_>) -> Result<Target> {
    let outputs: usize = array.shape.iter().product();
    let needed = target.names().len();
    if outputs != needed {
        return Err(place
            .refuse(format!("each row has {outputs} targets, but the training data has {needed}"))
            .hint("save targets of the same shape"));
    }
    let of_classes = |role: Role, classes: &[String], array| {
        let integers = whole(array, role == Role::Side, place)?;
        Ok(role.targets(&number(&integers, &mut Labels::known(role, classes), place)?))
    };
    match target {
        TargetColumn::Classes { classes, .. } => of_classes(Role::Class, classes, array),
        TargetColumn::Binary { classes, .. } => of_classes(Role::Side, classes, array),
        TargetColumn::Labels { .. } => zero_or_one(array, place),
        TargetColumn::Number { .. } | TargetColumn::Numbers { .. } => {
            Ok(Target::Values { outputs, values: floats(array, place)? })
        }
    }
}

/// Names of the columns of an array.
fn names(array: &str, columns: usize) -> Vec<String> {
    (0..columns).map(|i| format!("{array}[{i}]")).collect()
}

/// The targets as whole numbers; floats are taken where they are allowed and all of them are whole.
fn whole(array: Array, floats_allowed: bool, place: &Place<'_>) -> Result<Values<i64>> {
    match array.numbers {
        Numbers::Integers(integers) => Ok(integers),
        Numbers::Bytes(bytes) => place.scratch.gather(bytes.iter().copied().map(i64::from)),
        Numbers::Floats(floats) if floats_allowed => match floats.iter().position(|x| x.fract() != 0.0) {
            None => place.scratch.gather(floats.iter().map(|x| *x as i64)),
            Some(at) => Err(place.refuse(format!("{} is no class", floats[at])).at("row", at + 1).hint(WHOLE)),
        },
        Numbers::Floats(_) => Err(place.refuse("the targets are floats, but classes are whole numbers").hint(WHOLE)),
    }
}

fn number(integers: &[i64], labels: &mut Labels, place: &Place<'_>) -> Result<Vec<u32>> {
    let number = |(i, integer): (usize, &i64)| {
        labels.number(&integer.to_string()).map_err(|(what, hint)| place.refuse(what).at("row", i + 1).hint(hint))
    };
    integers.iter().enumerate().map(number).collect()
}

fn floats(array: Array, place: &Place<'_>) -> Result<Values<f32>> {
    match array.numbers {
        Numbers::Floats(floats) => Ok(floats),
        Numbers::Integers(integers) => place.scratch.gather(integers.iter().map(|x| *x as f32)),
        Numbers::Bytes(bytes) => place.scratch.gather(bytes.iter().copied().map(f32::from)),
    }
}

/// Labels that apply or don't.
fn zero_or_one(array: Array, place: &Place<'_>) -> Result<Target> {
    let outputs: usize = array.shape.iter().product();
    let values = floats(array, place)?;
    match values.iter().position(|x| *x != 0.0 && *x != 1.0) {
        None => Ok(Target::Values { outputs, values }),
        Some(at) => Err(place
            .refuse(format!("{} is neither 0 nor 1", values[at]))
            .at("row", at / outputs + 1)
            .at("number", at % outputs + 1)
            .hint("save 1 where a label applies, else 0; or use `loss = \"mse\"` for quantities")),
    }
}
