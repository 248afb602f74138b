//! Everything about a job that can be known before it runs.

use std::{fs, path::Path};

use outboard_core::{
    Error, Result, code,
    error::IoContext,
    job::{ClassWeights, Job, Loss},
    layer::{self, Layer, Planned},
    task::Architecture,
};
use outboard_data::{Training, read_training};
use outboard_protocol::{Dataset, Feature, Schema, Target, TargetColumn, Tensors, tensors};
use outboard_store::Scratch;

use crate::nearest::listed;

/// A job that was found right, with its data.
pub(super) struct Checked {
    pub(super) schema: Schema,
    pub(super) train: Dataset,
    pub(super) validation: Option<Dataset>,
    pub(super) model: Architecture,
    pub(super) plan: Vec<Planned>,
    /// With class weights as numbers.
    pub(super) loss: Loss,
}

/// Reads the job's data and checks what goes together.
pub(super) fn check(job: &Job, scratch: &Scratch) -> Result<Checked> {
    examine(job, scratch).map_err(|error| error.or_code(code::JOB))
}

fn examine(job: &Job, scratch: &Scratch) -> Result<Checked> {
    job.check()?;
    let Training { schema, train, validation } = read_training(&job.data, &job.train.loss, job.train.seed, scratch)?;
    let (train, validation) = match &job.model.input {
        Some(input) => (train.shaped(input)?, validation.map(|data| data.shaped(input)).transpose()?),
        None => (train, validation),
    };
    let model = Architecture { layers: job.model.layers.clone(), input: train.shape.clone() };
    let plan = layer::plan(&model.layers, &model.input)?;
    check_outputs(&plan, &schema)?;
    check_vocabulary(&model.layers, &schema)?;
    let mut loss = job.train.loss.clone();
    if let (Loss::CrossEntropy { class_weights: Some(weights), .. }, Target::Classes(classes)) = (&mut loss, &train.y)
        && weights.each().is_none()
    {
        *weights = ClassWeights::balanced(classes, schema.target.outputs());
    }
    check_class_weights(&loss, &schema)?;
    job.train.check_freeze(&plan)?;
    check_batches(job, train.rows())?;
    job.train.check_batch_norms(&plan, train.rows())?;
    job.train.check_augment(&model.input)?;
    for data in std::iter::once(&train).chain(&validation) {
        data.check_tokens(&job.model.layers)?;
    }
    Ok(Checked { schema, train, validation, model, plan, loss })
}

/// The last layer must give what the target and the loss need.
fn check_outputs(plan: &[Planned], schema: &Schema) -> Result<()> {
    let Some(last) = plan.last() else { return Ok(()) };
    let (found, needed) = (&last.output, schema.target.outputs());
    if *found == [needed] {
        return Ok(());
    }
    let (index, kind) = (last.index, last.layer.kind());
    let why = match (&schema.target, schema.target.names()) {
        (TargetColumn::Classes { name, .. }, _) => format!("`{name}` has {needed} classes"),
        (_, [column]) => format!("`{column}` needs 1 output"),
        (_, columns) => format!("there are {} targets", columns.len()),
    };
    // The layer to be changed is the last one that has outputs of its own.
    let linear = plan.iter().rev().find(|layer| layer.layer.kind() == "linear").map(|layer| layer.index);
    let hint = match linear {
        Some(linear) => format!("set `out = {needed}` in layer {linear} (linear)"),
        None => format!("end the model with {{ type = \"linear\", out = {needed} }}"),
    };
    let shape = if let [n] = found[..] {
        format!("{n} {}", if n == 1 { "output" } else { "outputs" })
    } else {
        format!("{found:?}")
    };
    Err(Error::invalid(format!("layer {index} ({kind}), the last, gives {shape}, but {why}"))
        .at("key", format!("model.layers[{index}]"))
        .hint(hint))
}

/// The embedding must have a vector for each token of the tokenizer, not only for those that the texts hold.
fn check_vocabulary(layers: &[Layer], schema: &Schema) -> Result<()> {
    let (Some(Layer::Embedding { tokens, .. }), [Feature::Text { tokenizer: Some(tokenizer), .. }]) =
        (layers.first(), &schema.features[..])
    else {
        return Ok(());
    };
    let needed = tokenizer.tokens + 1;
    if *tokens >= needed {
        return Ok(());
    }
    let what = format!(
        "the tokenizer has {} tokens, and 0 stands for none, but layer 0 (embedding) has {tokens}",
        tokenizer.tokens
    );
    Err(Error::invalid(what).at("key", "model.layers[0].tokens").hint(format!("set `tokens = {needed}`")))
}

/// Each class has a weight, where any has.
fn check_class_weights(loss: &Loss, schema: &Schema) -> Result<()> {
    let (Loss::CrossEntropy { class_weights: Some(weights), .. }, TargetColumn::Classes { name, classes }) =
        (loss, &schema.target)
    else {
        return Ok(());
    };
    let (found, needed) = (weights.each().map_or(0, <[f32]>::len), classes.len());
    if found == needed {
        return Ok(());
    }
    let noun = if found == 1 { "weight" } else { "weights" };
    let mut order = listed(classes.iter().take(10).map(String::as_str));
    if needed > 10 {
        order += &format!(" and {} more", needed - 10);
    }
    Err(Error::invalid(format!("`train.loss.class_weights` has {found} {noun}, but `{name}` has {needed} classes"))
        .at("key", "train.loss.class_weights")
        .hint(format!("give one weight for each class, in this order: {order}")))
}

fn check_batches(job: &Job, rows: usize) -> Result<()> {
    if job.train.steps_per_epoch(rows) > 0 {
        return Ok(());
    }
    let batch = job.train.batch_size;
    Err(Error::invalid(format!("with `drop_last`, {rows} training rows make no batch of {batch}"))
        .at("key", "train.batch_size")
        .hint(format!("set batch_size to at most {rows}, or drop_last to false")))
}

/// Weights to start from; each must have the name and shape that the model gives it.
pub(super) fn read_weights(path: &Path, plan: &[Planned]) -> Result<Tensors> {
    let at = |e: Error| e.or_code(code::MODEL).at("file", path.display()).at("key", "model.weights");
    let bytes = fs::read(path).doing("read", path).map_err(at)?;
    let mut found = tensors::decode(&bytes).map_err(|e| {
        at(e).hint("save a state dict with safetensors.torch.save_file; pickles (.pt, .pth) are not read")
    })?;
    let parameters: Vec<_> = plan.iter().flat_map(|layer| &layer.parameters).collect();
    let mut weights = Tensors::new();
    let names = found.keys().cloned().collect::<Vec<_>>().join(", ");
    for parameter in &parameters {
        let Some(tensor) = found.remove(&parameter.name) else {
            return Err(at(Error::invalid(format!(
                "the file has no tensor `{}` of shape {:?}",
                parameter.name, parameter.shape
            )))
            .hint(format!("it has {names}; rename them to match the model's layers")));
        };
        if tensor.shape != parameter.shape {
            let (name, found, right) = (&parameter.name, &tensor.shape, &parameter.shape);
            return Err(at(Error::invalid(format!(
                "tensor `{name}` has shape {found:?}, but the model needs {right:?}"
            )))
            .hint("change the model's layers, or start from other weights"));
        }
        if let Some(i) = tensor.data.iter().position(|x| !x.is_finite()) {
            return Err(at(Error::invalid(format!(
                "tensor `{}` has {} at element {i}",
                parameter.name, tensor.data[i]
            )))
            .hint("start from weights that are finite numbers"));
        }
        weights.insert(parameter.name.clone(), tensor);
    }
    if let Some(extra) = found.keys().next() {
        return Err(at(Error::invalid(format!("the file has a tensor `{extra}` that the model doesn't"))).hint(
            format!("the model has {}", parameters.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ")),
        ));
    }
    Ok(weights)
}
