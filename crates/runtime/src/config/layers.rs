//! What sets the keys, in layers: each one overrides those before it.

use std::{
    env, fmt, io,
    path::{Path, PathBuf},
};

use figment::{
    Figment, Metadata, Profile, Provider,
    value::{Dict, Map, Value},
};
use outboard_core::{Error, ErrorKind, Result, error::IoContext};
use serde::Deserialize;

use crate::{
    document::{self, Key, Misfit, Problem, Step, is_secret, line_of, lookup},
    nearest::{listed, nearest},
};

const DEFAULTS: &str = include_str!("../../../../config/default.toml");
const FILE: &str = "outboard.toml";
const PREFIX: &str = "OUTBOARD_";

/// Variables of ours that aren't keys: `OUTBOARD_LOG` stands in for `--log`.
const RESERVED: [&str; 1] = ["OUTBOARD_LOG"];

/// The settings of the worker for PyTorch, which may share a machine with this program.
const WORKERS: &str = "OUTBOARD_WORKER_";

/// Where the configuration is read from.
#[derive(Clone, Default)]
pub struct Sources {
    /// `outboard.toml` is looked for here, then upwards.
    pub directory: PathBuf,
    /// Names and values. Of them, `OUTBOARD_*` that aren't empty and `HOME` count.
    pub environment: Vec<(String, String)>,
    /// `KEY=VALUE`, as given to `--set`; later ones win.
    pub overrides: Vec<String>,
}

/// Without values, which may be secrets.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("directory", &self.directory)
            .field("environment", &self.environment.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("overrides", &self.overrides.len())
            .finish()
    }
}

impl Sources {
    /// Those of this process.
    ///
    /// # Errors
    /// `InvalidConfig` if the working directory is gone, or one of our variables isn't UTF-8.
    pub fn from_process(overrides: Vec<String>) -> Result<Self> {
        let directory = env::current_dir().doing("find", Path::new("the working directory")).map_err(as_config)?;
        let mut environment = Vec::new();
        for (name, value) in env::vars_os() {
            let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
            let value = value.into_string().map_err(|_| {
                Error::new(ErrorKind::InvalidConfig, format!("{name} is not UTF-8"))
                    .at("variable", name)
                    .hint("set it to plain text, or unset it")
            })?;
            environment.push((name.to_string(), value));
        }
        if let Some(home) = env::home_dir().and_then(|home| home.into_os_string().into_string().ok()) {
            environment.push(("HOME".into(), home));
        }
        Ok(Self { directory, environment, overrides })
    }

    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.iter().find(|(n, value)| n == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }
}

/// A configuration file.
#[derive(Debug)]
pub(super) struct ConfigFile {
    pub(super) path: PathBuf,
    text: String,
}

/// What set a key.
#[derive(Debug)]
pub(super) enum Origin {
    Default,
    File(ConfigFile),
    Variable { name: String, key: Key },
    Set { key: Key },
}

/// As in [`Setting::origin`](super::Setting::origin).
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(file) => file.path.display().fmt(f),
            Self::Variable { name, .. } => write!(f, "environment {name}"),
            Self::Set { .. } => f.write_str("--set"),
        }
    }
}

impl Origin {
    /// `error`, with where `key` is set.
    pub(super) fn locate(&self, error: Error, key: &Key) -> Error {
        let error = match self {
            Self::Default => error.at("file", "config/default.toml"),
            Self::File(file) => match line_of(&file.text, key.steps()) {
                Some(line) => error.at("file", file.path.display()).at("line", line),
                None => error.at("file", file.path.display()),
            },
            Self::Variable { name, .. } => error.at("variable", name),
            Self::Set { key } => error.at("flag", format!("--set {key}")),
        };
        error.at("key", key)
    }

    /// The one key that this sets, if it is one.
    fn only_key(&self) -> Option<&Key> {
        match self {
            Self::Variable { key, .. } | Self::Set { key } => Some(key),
            Self::Default | Self::File(_) => None,
        }
    }
}

/// The key that a variable sets. Its name can't have the hyphens that a key may.
fn variable_key(path: &str, defaults: &Dict) -> Key {
    let path = path.to_lowercase();
    let mut table = Some(defaults);
    let step = |part: &str| {
        let has = |name: &str| table.is_some_and(|table| table.contains_key(name));
        let hyphened = part.replace('_', "-");
        let name = if !has(part) && has(&hyphened) { hyphened } else { part.to_string() };
        table = table.and_then(|table| table.get(&name)).and_then(Value::as_dict);
        Step::Name(name)
    };
    path.split("__").map(step).collect()
}

struct Layer {
    origin: Origin,
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.to_string())
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

/// All layers, lowest first, and what they come to.
pub(super) struct Layers {
    defaults: Layer,
    others: Vec<Layer>,
    merged: Dict,
}

impl Layers {
    pub(super) fn read(sources: &Sources) -> Result<Self> {
        let values = document::parse(DEFAULTS, Path::new("config/default.toml"), ErrorKind::InvalidConfig)?;
        let defaults = Layer { origin: Origin::Default, values };
        let mut others = Vec::new();
        if let Some(file) = find_file(&sources.directory)? {
            let values = document::parse(&file.text, &file.path, ErrorKind::InvalidConfig)?;
            others.push(Layer { origin: Origin::File(file), values });
        }
        let mut variables: Vec<_> = sources
            .environment
            .iter()
            .filter(|(name, value)| {
                !value.is_empty() && !RESERVED.contains(&name.as_str()) && !name.starts_with(WORKERS)
            })
            .filter_map(|(name, value)| Some((name, name.strip_prefix(PREFIX)?, value)))
            .collect();
        variables.sort();
        for (name, path, value) in variables {
            let key = variable_key(path, &defaults.values);
            let values = single(&key, read_value(&key, value, &defaults.values));
            others.push(Layer { origin: Origin::Variable { name: name.clone(), key }, values });
        }
        for text in &sources.overrides {
            let (key, value) = text.split_once('=').ok_or_else(|| no_value(text))?;
            let key: Key = key.trim().split('.').map(|part| Step::Name(part.trim().into())).collect();
            let values = single(&key, read_value(&key, value, &defaults.values));
            others.push(Layer { origin: Origin::Set { key }, values });
        }
        let merged = others.iter().fold(Figment::from(&defaults), Figment::merge).extract().map_err(|error| {
            Error::new(ErrorKind::InvalidConfig, "the configuration can't be merged").because(error)
        })?;
        Ok(Self { defaults, others, merged })
    }

    pub(super) fn merged(&self) -> &Dict {
        &self.merged
    }

    /// What set `key`, or what is around it.
    pub(super) fn origin(&self, key: &Key) -> &Origin {
        let holds = |layer: &&Layer| lookup(&layer.values, key.steps()).is_some();
        match self.others.iter().rev().find(holds) {
            Some(layer) => &layer.origin,
            None if key.steps().is_empty() || holds(&&self.defaults) => &self.defaults.origin,
            None => self.origin(&key.parent()),
        }
    }

    /// Every value that isn't a table, by key.
    pub(super) fn leaves(&self) -> Vec<(Key, &Value)> {
        let mut all = Vec::new();
        collect(&Key::default(), &self.merged, &mut all);
        all.retain(|(_, value)| !is_table(value));
        all
    }

    /// The error for a value that doesn't fit.
    pub(super) fn refuse(&self, misfit: &Misfit) -> Error {
        let origin = self.origin(&misfit.key);
        let error = |message| Error::new(ErrorKind::InvalidConfig, message);
        if let Problem::UnknownKey { allowed } = misfit.problem {
            let key = origin.only_key().unwrap_or(&misfit.key);
            let hint = self.nearest_key(misfit, key, allowed, origin);
            return origin.locate(error(format!("unknown key `{key}`")), key).hint(hint);
        }
        let default = lookup(&self.defaults.values, misfit.key.steps())
            .filter(|value| !is_table(value))
            .map(|value| format!("{} = {}", misfit.key.name(), document::displayed(&misfit.key, value)));
        origin.locate(error(misfit.message()), &misfit.key).hint(misfit.hint(default.as_deref()))
    }

    /// What to write for `key`, which is unknown from `misfit.key` on.
    fn nearest_key(&self, misfit: &Misfit, key: &Key, allowed: &[&str], origin: &Origin) -> String {
        let mut known = Vec::new();
        collect(&Key::default(), &self.defaults.values, &mut known);
        let known: Vec<String> = known.iter().map(|(key, _)| key.to_string()).collect();

        let (level, parent) = (misfit.key.steps().len(), misfit.key.parent());
        let sibling = nearest(misfit.key.name(), allowed.iter().copied()).map(|name| {
            let below = key.steps().iter().skip(level).cloned();
            parent.steps().iter().cloned().chain([Step::Name(name.into())]).chain(below).collect::<Key>().to_string()
        });
        let elsewhere = || known.iter().find(|known| known.ends_with(&format!(".{key}"))).cloned();
        // Below the top, what keys have in common is no sign of a slip.
        let similar = || {
            let all = known.iter().filter(|_| level == 1).map(String::as_str);
            nearest(&key.to_string(), all).map(str::to_string)
        };
        let shown = |key: String| match origin {
            Origin::Variable { .. } => format!("{PREFIX}{}", key.replace('.', "__").replace('-', "_").to_uppercase()),
            _ => key,
        };
        match sibling.or_else(elsewhere).or_else(similar) {
            Some(meant) => format!("write `{}`", shown(meant)),
            None => {
                let all = allowed.iter().map(|name| shown(parent.join(Step::Name((*name).into())).to_string()));
                format!("the keys here are {}", listed(all.collect::<Vec<_>>().iter().map(String::as_str)))
            }
        }
    }
}

fn is_table(value: &Value) -> bool {
    match value {
        Value::Dict(..) => true,
        Value::Array(_, array) => array.iter().any(|element| element.as_dict().is_some()),
        _ => false,
    }
}

/// Every table and value below `key`, also those in lists of tables.
fn collect<'v>(key: &Key, table: &'v Dict, all: &mut Vec<(Key, &'v Value)>) {
    for (name, value) in table {
        let key = key.join(Step::Name(name.clone()));
        if let Some(table) = value.as_dict() {
            collect(&key, table, all);
        }
        for (index, element) in value.as_array().into_iter().flatten().enumerate() {
            if let Some(table) = element.as_dict() {
                collect(&key.join(Step::Index(index)), table, all);
            }
        }
        all.push((key, value));
    }
}

/// A document that holds one value.
fn single(key: &Key, value: Value) -> Dict {
    let nested = key.names().rev().fold(value, |inner, name| Dict::from([(name.to_string(), inner)]).into());
    nested.into_dict().unwrap_or_default()
}

/// TOML, or else text. What is text by default, or secret, stays text though it looks like a number.
fn read_value(key: &Key, text: &str, defaults: &Dict) -> Value {
    let is_text = is_secret(key) || lookup(defaults, key.steps()).is_some_and(|value| value.as_str().is_some());
    let value = toml::de::ValueDeserializer::parse(text).and_then(<Value as Deserialize>::deserialize);
    value.ok().filter(|value| !is_text || value.as_str().is_some()).unwrap_or_else(|| text.into())
}

/// The file that counts, or the one to make.
pub(super) fn file(sources: &Sources) -> Result<PathBuf> {
    let found = find_file(&sources.directory)?;
    Ok(found.map_or_else(|| sources.directory.join(FILE), |file| file.path))
}

/// `outboard.toml` in `directory` or the nearest folder above it.
fn find_file(directory: &Path) -> Result<Option<ConfigFile>> {
    for folder in directory.ancestors() {
        let path = folder.join(FILE);
        match path.symlink_metadata() {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            _ => {
                let text = document::read_text(&path, ErrorKind::InvalidConfig).map_err(as_config)?;
                return Ok(Some(ConfigFile { path, text }));
            }
        }
    }
    Ok(None)
}

/// The same error, as one of the configuration.
fn as_config(error: Error) -> Error {
    match error.kind() {
        ErrorKind::InvalidConfig => error,
        _ => Error::new(ErrorKind::InvalidConfig, error.to_string()).hint(error.advice().unwrap_or("check the path")),
    }
}

/// Only what can be a key is repeated: the rest may be a secret.
fn no_value(text: &str) -> Error {
    let key = text.split(|c: char| !(c.is_ascii_alphanumeric() || "._-".contains(c))).next().unwrap_or_default();
    Error::new(ErrorKind::InvalidConfig, format!("`--set {key}` has no value"))
        .at("flag", format!("--set {key}"))
        .hint("write `--set KEY=VALUE`, such as `--set checkpoint.every=30s`")
}
