//! Job files: TOML in, a checked [`Job`] with absolute paths out, and back.

use std::path::{Path, PathBuf, absolute};

use figment::value::Dict;
use outboard_core::{
    Error, ErrorKind, Job, Layer, Result, code,
    job::{Loss, Schedule, Validation},
};
use serde::de::DeserializeOwned;

use crate::document::{self, Key, Misfit, Problem, Step, fit, line_of, lookup};

/// What to write for a key that is missing or wrong.
const EXAMPLES: [(&str, &str); 27] = [
    ("model", "[model]"),
    ("model.layers", r#"layers = [{ type = "linear", out = 10 }]"#),
    ("model.layers.type", r#"type = "linear""#),
    ("model.layers.out", "out = 64"),
    ("model.layers.kernel", "kernel = 3"),
    ("model.layers.tokens", "tokens = 1000"),
    ("model.layers.heads", "heads = 4"),
    ("model.layers.layers", r#"layers = ["relu", { type = "linear", out = 64 }]"#),
    ("model.layers.layers.out", "out = 64"),
    ("model.input", "input = [1, 28, 28]"),
    ("data", "[data]"),
    ("data.train", r#"train = "data.csv""#),
    ("data.target", r#"target = "label""#),
    ("data.validation", "validation = 0.2"),
    ("data.format", r#"format = "csv""#),
    ("data.window", "window = { length = 24 }"),
    ("data.window.length", "length = 24"),
    ("data.images", "images = { size = [32, 32] }"),
    ("train", "[train]"),
    ("train.loss", r#"loss = "cross_entropy""#),
    ("train.epochs", "epochs = 20"),
    ("train.batch_size", "batch_size = 32"),
    ("train.optimizer.type", r#"type = "adam""#),
    ("train.optimizer.lr", "lr = 0.01"),
    ("train.schedule.every", "every = 10"),
    ("train.early_stopping.patience", "patience = 5"),
    ("limits.deadline", r#"deadline = "10m""#),
];

/// Reads a job file.
///
/// # Errors
/// `NotFound` and `InvalidRequest`, naming the file and what to do; else those of [`parse_job`].
pub fn read_job(path: &Path) -> Result<Job> {
    parse_job(&document::read_text(path, ErrorKind::InvalidRequest).map_err(|error| error.or_code(code::JOB))?, path)
}

/// Reads a job from the text of the file `path`, checks it, and makes its paths absolute: relative ones start at the
/// file's folder. Nothing has to exist there yet.
///
/// # Errors
/// `InvalidRequest`, naming the file, the line, the key, and what to write instead.
pub fn parse_job(text: &str, path: &Path) -> Result<Job> {
    parse(text, path).map_err(|error| error.or_code(code::JOB))
}

fn parse(text: &str, path: &Path) -> Result<Job> {
    let values = document::parse(text, path, ErrorKind::InvalidRequest)?;
    let locate = |error: Error, key: &Key| match line_of(text, key.steps()) {
        Some(line) => error.at("file", path.display()).at("line", line),
        None => error.at("file", path.display()),
    };
    let refuse = |misfit: Misfit| {
        let example = EXAMPLES.iter().find(|(key, _)| *key == misfit.key.pattern()).map(|(_, example)| *example);
        let around = if matches!(misfit.problem, Problem::Missing) { misfit.key.parent() } else { misfit.key.clone() };
        let error = Error::invalid(misfit.message()).at("key", &misfit.key).hint(misfit.hint(example));
        locate(error, &around)
    };
    let mut job: Job = fit(&values).map_err(refuse)?;
    let mut keys = Vec::new();
    layer_keys(&job.model.layers, "model.layers", &mut keys);
    let mut strays = keys
        .iter()
        .filter_map(|key| stray::<Layer>(&values, key))
        .chain(stray::<Loss>(&values, "train.loss"))
        .chain(stray::<Schedule>(&values, "train.schedule"));
    if let Some(misfit) = strays.next() {
        return Err(refuse(misfit));
    }
    job.check().map_err(|error| {
        let key = error.context().iter().find(|(what, _)| *what == "key").and_then(|(_, key)| key.parse().ok());
        locate(error, &key.unwrap_or_default())
    })?;
    resolve(&mut job, path).map_err(|(key, what)| {
        let error = Error::invalid(format!("`{key}` {what}")).at("key", key).hint("name a file, such as `data.csv`");
        locate(error, &key.parse().unwrap_or_default())
    })?;
    Ok(job)
}

/// Where each layer stands, those inside of layers included.
fn layer_keys(layers: &[Layer], list: &str, keys: &mut Vec<String>) {
    for (index, layer) in layers.iter().enumerate() {
        let key = format!("{list}[{index}]");
        layer_keys(layer.inner(), &format!("{key}.layers"), keys);
        keys.push(key);
    }
}

/// A key in a table whose `type` has none of its own, such as `relu`: there, serde lets every key pass.
fn stray<T: DeserializeOwned>(values: &Dict, key: &str) -> Option<Misfit> {
    let key: Key = key.parse().ok()?;
    let table = lookup(values, key.steps())?.as_dict()?;
    let stray = table.keys().find(|name| *name != "type")?;
    let with_any_key = Dict::from([("type".into(), table.get("type")?.clone()), (String::new(), true.into())]);
    let passes = fit::<T>(&with_any_key).is_ok();
    passes.then(|| Misfit { key: key.join(Step::Name(stray.clone())), problem: Problem::UnknownKey { allowed: &[] } })
}

/// Makes the job's paths absolute, or names the one that can't be.
fn resolve(job: &mut Job, file: &Path) -> Result<(), (&'static str, &'static str)> {
    let validation = match &mut job.data.validation {
        Some(Validation::File(path)) => Some(path),
        _ => None,
    };
    let paths: [(&str, Option<&mut PathBuf>); 7] = [
        ("data.train", Some(&mut job.data.train)),
        ("data.labels", job.data.labels.as_mut()),
        ("data.validation", validation),
        ("data.validation_labels", job.data.validation_labels.as_mut()),
        ("data.tokenizer", job.data.tokenizer.as_mut()),
        ("model.weights", job.model.weights.as_mut()),
        ("output", job.output.as_mut()),
    ];
    let folder = file.parent().unwrap_or(Path::new(""));
    for (key, path) in paths {
        let Some(path) = path else { continue };
        if path.as_os_str().is_empty() {
            return Err((key, "is empty"));
        }
        *path = absolute(folder.join(&*path)).map_err(|_| (key, "is relative, and the working directory is gone"))?;
    }
    Ok(())
}

/// Writes a job as TOML that [`parse_job`] reads back as the same job, if its paths are absolute.
///
/// # Errors
/// `InvalidRequest` for a path that isn't UTF-8, which TOML can't hold.
pub fn write_job(job: &Job) -> Result<String> {
    toml::to_string(job).map_err(|error| {
        Error::invalid("the job can't be written as TOML").because(error).hint("use paths that are UTF-8")
    })
}

#[cfg(test)]
mod tests;
