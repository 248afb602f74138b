//! What is refused in a job before anything is done for it.

use std::{collections::BTreeSet, time::Duration};

use super::{Augment, ClassWeights, Data, Format, Job, Loss, Normalize, Optimizer, Schedule, Train, Validation};
use crate::{
    error::{Error, Result},
    layer::{Layer, Planned},
};

impl Job {
    /// Checks every value that has a range of its own.
    ///
    /// # Errors
    /// `InvalidRequest`, naming the key, what it is, and what would be right.
    pub fn check(&self) -> Result<()> {
        self.train.check()?;
        self.data.check()?;
        if let Some(input) = &self.model.input
            && (input.is_empty() || input.contains(&0))
        {
            let found = format!("{input:?}");
            return Err(wrong("model.input", found, "sizes of at least 1, such as [1, 28, 28]"));
        }
        let has_tokens = matches!(self.model.layers.first(), Some(Layer::Embedding { .. }));
        if has_tokens && self.data.text.is_none() && self.data.normalize != Normalize::None {
            return Err(Error::invalid("`embedding` takes whole numbers, but `data.normalize` would scale them")
                .at("key", "data.normalize")
                .hint("set `normalize = \"none\"` under [data]"));
        }
        if self.limits.deadline == Some(Duration::ZERO) {
            return Err(wrong("limits.deadline", "0s", "a time above zero, such as \"10m\""));
        }
        Ok(())
    }
}

fn wrong(key: &'static str, value: impl std::fmt::Display, right: &str) -> Error {
    Error::invalid(format!("`{key}` is {value}, but must be {right}")).at("key", key).hint(format!("set it to {right}"))
}

impl Data {
    fn check(&self) -> Result<()> {
        if let Some(Validation::Fraction(f)) = self.validation
            && !(f > 0.0 && f < 1.0)
        {
            return Err(wrong("data.validation", f, "a share of the rows between 0 and 1, such as 0.2"));
        }
        let is_table = self.format.or_else(|| Format::of_name(&self.train)).is_some_and(Format::is_table);
        if is_table && self.targets().is_empty() {
            let what =
                if self.target.is_some() { "`data.target` is an empty list" } else { "`data.target` is missing" };
            return Err(Error::invalid(what).at("key", "data.target").hint("add `target = \"label\"` under `[data]`"));
        }
        if let Some(window) = &self.window {
            for (key, n) in [
                ("data.window.length", window.length),
                ("data.window.horizon", window.horizon),
                ("data.window.stride", window.stride),
            ] {
                if n == 0 {
                    return Err(wrong(key, 0, "at least 1"));
                }
            }
        }
        if self.max_length == Some(0) {
            return Err(wrong("data.max_length", 0, "at least 1, such as 256"));
        }
        if let Some(size) = self.images.and_then(|images| images.size)
            && !size.iter().all(|n| (1..=MOST_PIXELS).contains(n))
        {
            let found = format!("{size:?}");
            return Err(wrong("data.images.size", found, "height and width from 1 to 8192, such as [32, 32]"));
        }
        Ok(())
    }
}

/// Height and width that images may be resized to.
const MOST_PIXELS: usize = 8192;

impl Train {
    /// Checks every value that has a range of its own.
    ///
    /// # Errors
    /// `InvalidRequest`, naming the key, what it is, and what would be right.
    pub fn check(&self) -> Result<()> {
        if self.epochs == 0 {
            return Err(wrong("train.epochs", 0, "at least 1"));
        }
        if self.batch_size == 0 {
            return Err(wrong("train.batch_size", 0, "at least 1"));
        }
        let above_zero = |key, value: f64| match value > 0.0 && value.is_finite() {
            true => Ok(()),
            false => Err(wrong(key, value, "a number above 0")),
        };
        let not_negative = |key, value: f64| match value >= 0.0 && value.is_finite() {
            true => Ok(()),
            false => Err(wrong(key, value, "a number of at least 0")),
        };
        let share = |key, value: f64| match (0.0..1.0).contains(&value) {
            true => Ok(()),
            false => Err(wrong(key, value, "at least 0 and below 1")),
        };
        match &self.optimizer {
            Optimizer::Sgd { lr, momentum, dampening, weight_decay, nesterov } => {
                above_zero("train.optimizer.lr", *lr)?;
                share("train.optimizer.momentum", *momentum)?;
                not_negative("train.optimizer.dampening", *dampening)?;
                not_negative("train.optimizer.weight_decay", *weight_decay)?;
                if *nesterov && (*momentum == 0.0 || *dampening != 0.0) {
                    return Err(wrong(
                        "train.optimizer.nesterov",
                        true,
                        "false, or have momentum above 0 and no dampening",
                    ));
                }
            }
            Optimizer::Adam { lr, betas, eps, weight_decay } | Optimizer::AdamW { lr, betas, eps, weight_decay } => {
                above_zero("train.optimizer.lr", *lr)?;
                betas.iter().try_for_each(|beta| share("train.optimizer.betas", *beta))?;
                not_negative("train.optimizer.eps", *eps)?;
                not_negative("train.optimizer.weight_decay", *weight_decay)?;
            }
        }
        match &self.schedule {
            Schedule::Constant => {}
            Schedule::Step { every, gamma } => {
                if *every == 0 {
                    return Err(wrong("train.schedule.every", 0, "at least 1"));
                }
                above_zero("train.schedule.gamma", *gamma)?;
            }
            Schedule::Cosine { min_lr } => not_negative("train.schedule.min_lr", *min_lr)?,
        }
        if let Some(c) = self.clip_norm {
            above_zero("train.clip_norm", c)?;
        }
        if let Some(c) = self.clip_value {
            above_zero("train.clip_value", c)?;
        }
        match &self.loss {
            Loss::CrossEntropy { label_smoothing, class_weights } => {
                share("train.loss.label_smoothing", *label_smoothing)?;
                let weights = class_weights.as_ref().and_then(ClassWeights::each);
                for weight in weights.into_iter().flatten() {
                    not_negative("train.loss.class_weights", f64::from(*weight))?;
                }
                if weights.is_some_and(|w| w.iter().all(|w| *w == 0.0)) {
                    return Err(wrong("train.loss.class_weights", "all zero", "above 0 for at least one class"));
                }
            }
            Loss::Huber { delta } => above_zero("train.loss.delta", *delta)?,
            Loss::BceWithLogits { positive_weight } => above_zero("train.loss.positive_weight", *positive_weight)?,
            Loss::Mse | Loss::L1 => {}
        }
        if let Some(early) = &self.early_stopping {
            if early.patience == 0 {
                return Err(wrong("train.early_stopping.patience", 0, "at least 1"));
            }
            not_negative("train.early_stopping.min_delta", early.min_delta)?;
        }
        Ok(())
    }

    /// Checks that every name in `freeze` is one of the model's, and that something is left to train.
    ///
    /// # Errors
    /// `InvalidRequest`, with the names that exist.
    pub fn check_freeze(&self, plan: &[Planned]) -> Result<()> {
        let trainable = plan.iter().flat_map(|l| &l.parameters).filter(|p| p.is_trainable());
        let names: Vec<&str> = trainable.map(|p| p.name.as_str()).collect();
        let layers: BTreeSet<&str> =
            names.iter().flat_map(|name| name.match_indices('.').map(|(end, _)| &name[..end])).collect();
        for frozen in &self.freeze {
            if !names.contains(&frozen.as_str()) && !layers.contains(frozen.as_str()) {
                return Err(Error::invalid(format!(
                    "`{frozen}` in `train.freeze` names no layer or parameter of the model"
                ))
                .at("key", "train.freeze")
                .hint(format!("use a layer ({}) or a parameter ({})", quoted(layers), quoted(names))));
            }
        }
        if names.is_empty() {
            return Err(Error::invalid("the model has no parameter to train")
                .at("key", "model.layers")
                .hint("add a layer with weights, such as `{ type = \"linear\", out = 10 }`"));
        }
        if names.iter().all(|name| self.is_frozen(name)) {
            return Err(Error::invalid("every parameter is frozen, so there is nothing to train")
                .at("key", "train.freeze")
                .hint("leave at least one layer out of it"));
        }
        Ok(())
    }

    /// Checks that every batch of `rows` training rows has enough values for the model's batch norms.
    ///
    /// # Errors
    /// `InvalidRequest` where a batch norm would meet a single value for each channel.
    pub fn check_batch_norms(&self, plan: &[Planned], rows: usize) -> Result<()> {
        let last = if self.drop_last { 0 } else { rows % self.batch_size };
        if self.batch_size > 1 && rows > 1 && last != 1 {
            return Ok(());
        }
        let Some(layer) = plan.iter().find_map(single_value_norm) else { return Ok(()) };
        let (name, kind, batch) = (&layer.name, layer.layer.kind(), self.batch_size);
        let what = "needs more than one row in a batch";
        Err(match self.batch_size {
            1 => Error::invalid(format!("layer {name} ({kind}) {what}, but `batch_size` is 1"))
                .at("key", "train.batch_size")
                .hint("set `batch_size` to at least 2, with `drop_last = true` if one row is left over"),
            _ => Error::invalid(format!(
                "layer {name} ({kind}) {what}, but {rows} training rows in batches of {batch} leave one over"
            ))
            .at("key", "train.drop_last")
            .hint("set `drop_last = true` under [train], or another `batch_size`"),
        })
    }
}

impl Train {
    /// Checks that rows of this shape are images where images are to be changed.
    ///
    /// # Errors
    /// `InvalidRequest` where they aren't, or the changes make no sense.
    pub fn check_augment(&self, input: &[usize]) -> Result<()> {
        let refuse = |what: String, hint: &str| Err(Error::invalid(what).at("key", "train.augment").hint(hint));
        let moves = |change: &Augment| match change {
            Augment::Flip => None,
            Augment::Crop(n) | Augment::Shift(n) => Some(*n as usize),
        };
        match input {
            _ if self.augment.is_empty() => Ok(()),
            _ if self.augment.len() > 16 => refuse("`train.augment` lists more than 16 changes".into(), "list fewer"),
            [_, height, width] => match self.augment.iter().filter_map(moves).find(|n| *n >= *height.min(width)) {
                Some(n) => refuse(
                    format!("`train.augment` moves images of {height} by {width} pixels by up to {n}"),
                    "use a smaller number, such as 2",
                ),
                None => Ok(()),
            },
            _ => refuse(
                format!("`train.augment` changes images, but a row is {input:?}"),
                "take it out, or set `model.input = [channels, height, width]`",
            ),
        }
    }
}

/// A batch norm with one value for each channel in a row.
fn single_value_norm(layer: &Planned) -> Option<&Planned> {
    match layer.layer {
        Layer::BatchNorm1d(_) | Layer::BatchNorm2d(_) if layer.input[1..].iter().product::<usize>() == 1 => Some(layer),
        _ => layer.body.iter().find_map(single_value_norm),
    }
}

fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}
