//! `outboard doctor env`: this machine beside the place where a provider's tasks run.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use outboard_core::{
    ComputeProvider, Environment, Error, ErrorKind, NanoUsd, Result, code,
    task::{Operation, OperationKind, Outcome},
};
use outboard_store::FolderStore;
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use super::{
    apart,
    differences::{Fact, facts},
    known, providers,
};
use crate::{
    Config,
    client::trial::{self, Done},
    config::Sources,
    registry,
};

/// What says that tasks run in Python.
const PYTHON: &str = "library.python";

/// The longest time in which Python loads PyTorch.
const LOADING: Duration = Duration::from_secs(60);

/// The worker for PyTorch's own account, without the rest of it: what it needs first.
const SOURCES: [(&str, &str); 4] = [
    ("outboard_worker", include_str!("../../../../providers/runpod/worker/src/outboard_worker/__init__.py")),
    ("outboard_worker.preflight", include_str!("../../../../providers/runpod/worker/src/outboard_worker/preflight.py")),
    ("outboard_worker.memory", include_str!("../../../../providers/runpod/worker/src/outboard_worker/memory.py")),
    (
        "outboard_worker.environment",
        include_str!("../../../../providers/runpod/worker/src/outboard_worker/environment.py"),
    ),
];

/// What is to be compared with this machine.
#[derive(Clone, Debug)]
pub struct Place {
    /// Where a task is run.
    pub provider: String,
    /// The Python of this machine that has its PyTorch; `python3` if unset.
    pub python: Option<PathBuf>,
    /// What the task may cost at most.
    pub most: NanoUsd,
}

/// This machine beside another.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// What the task ran on.
    pub device: String,
    /// All facts, by name.
    pub facts: Vec<Fact>,
    /// What could not be compared, and why.
    pub notes: Vec<String>,
    /// What the task is charged.
    pub cost: NanoUsd,
}

/// A provider that could be compared with this machine.
#[derive(Debug)]
pub struct Comparable {
    config: Config,
    store: FolderStore,
    provider: Arc<dyn ComputeProvider>,
    place: Place,
}

impl Place {
    /// Makes the provider; no task is run.
    ///
    /// # Errors
    /// `InvalidRequest` for a provider that there isn't; those of the configuration; `Unsupported` where it runs no such
    /// task.
    pub async fn open(self, sources: &Sources) -> Result<Comparable> {
        let config = Config::load(sources)?;
        let known = known(&config, std::slice::from_ref(&self.provider))?;
        if let Some(unused) = known.iter().find(|known| !known.is_used) {
            let message = format!("the provider `{}` is not set up, or not enabled", unused.id);
            let error = Error::new(ErrorKind::InvalidConfig, message).or_code(code::NOT_SET_UP);
            return Err(error.hint(providers::how(&unused.key)));
        }
        let store = FolderStore::open(&config.home)?;
        let (id, all, folder) = (self.provider.clone(), config.clone(), store.clone());
        // A plugin may block while it is loaded.
        let provider = apart(move || registry::provider(&all, &id, &folder)).await?;
        if !provider.capabilities().operations.contains(&OperationKind::Describe) {
            let message = format!("the provider `{}` runs no task that describes its place", self.provider);
            return Err(Error::new(ErrorKind::Unsupported, message)
                .hint("let the plugin name `describe` among its operations, or use a newer one"));
        }
        Ok(Comparable { config, store, provider, place: self })
    }
}

impl Comparable {
    /// Runs a task there, and compares what it tells with this machine.
    ///
    /// # Errors
    /// `BudgetExceeded`; why the provider can't take the task; the task's own.
    pub async fn compare(self) -> Result<Comparison> {
        let Self { config, store, provider, place } = self;
        let device = provider.info().device.clone();
        let task = |_: &str| Ok((Operation::Describe, 0));
        let done = trial::one(&config, &store, provider, place.most, task).await;
        let Done { state, cost } = done.map_err(|error| match error.kind() {
            ErrorKind::BudgetExceeded => error.hint(trial::DEARER),
            _ => of_an_old_worker(error),
        })?;
        let Outcome::Describe(there) = state.outcome().map_err(of_an_old_worker)? else {
            return Err(Error::new(ErrorKind::Unexpected, "the worker did something else than to describe its place"));
        };
        let mut here = apart(|| outboard_engine::describe(&outboard_engine::Cpu)).await;
        let mut notes = Vec::new();
        if there.get(PYTHON).is_some() {
            match python(place.python.as_deref(), &config.home).await {
                Ok(told) => notes.extend(join(&mut here, &told)),
                Err(why) => {
                    notes.push(format!("{why}: its libraries are not compared; name a Python with `--python PATH`"))
                }
            }
        } else if place.python.is_some() {
            notes.push("tasks don't run in Python there: `--python` is of no use".into());
        }
        Ok(Comparison { device, facts: facts(&here, &there), notes, cost })
    }
}

/// A worker that was built before this program can't read what it is asked, or doesn't know it.
fn of_an_old_worker(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Unsupported | ErrorKind::CorruptPayload => error.hint(format!(
            "update the worker to the version of this program, {}: an older one can't describe its place",
            env!("CARGO_PKG_VERSION")
        )),
        _ => error,
    }
}

/// Adds what Python tells. Its libraries are those that count for programs in Python.
fn join(here: &mut Environment, told: &Environment) -> Option<String> {
    for (name, value) in told.iter() {
        if name.starts_with("library.") || here.get(name).is_none() {
            here.state(name, value);
        }
    }
    let has_torch = told.get("library.torch").is_some();
    (!has_torch).then(|| "the Python here has no PyTorch that loads; name another one with `--python PATH`".into())
}

/// What this machine's Python tells, or why it doesn't.
async fn python(program: Option<&Path>, folder: &Path) -> Result<Environment, String> {
    let program = program.unwrap_or(Path::new("python3"));
    let shown = program.display();
    let mut child = Command::new(program)
        .arg("-")
        // Nothing of the user's lies there that could pass for a library.
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("there is no Python `{shown}` here that runs ({error})"))?;
    let mut input = child.stdin.take().ok_or("no input")?;
    let ended = timeout(LOADING, async {
        // What it doesn't read it says itself why.
        let _ = input.write_all(script().as_bytes()).await;
        drop(input);
        child.wait_with_output().await
    });
    let output = match ended.await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(format!("`{shown}` can't be waited for ({error})")),
        Err(_) => return Err(format!("`{shown}` was not done after {LOADING:?}")),
    };
    let last = |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().next_back().unwrap_or_default().to_string();
    if !output.status.success() {
        return Err(format!("`{shown}` failed with {} ({})", output.status, last(&output.stderr)));
    }
    let facts: BTreeMap<String, String> = serde_json::from_str(&last(&output.stdout))
        .map_err(|error| format!("`{shown}` said something that can't be read ({error})"))?;
    let mut found = Environment::default();
    facts.iter().for_each(|(name, value)| found.state(name, value));
    Ok(found)
}

/// The modules, one after another, as a program that is read from standard input.
fn script() -> String {
    // What is JSON here is Python too.
    let sources = serde_json::json!(SOURCES);
    format!(
        "import json, sys, types\n\
         sys.path[:] = [path for path in sys.path if path]\n\
         for name, text in {sources}:\n\
         \x20   module = sys.modules[name] = types.ModuleType(name)\n\
         \x20   exec(compile(text, name, 'exec'), module.__dict__)\n\
         print()\n\
         print(json.dumps(module.describe()))\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_python_that_does_not_tell_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let why = python(Some(Path::new("no-such-python")), folder.path()).await.unwrap_err();
        assert!(why.starts_with("there is no Python `no-such-python` here that runs ("), "{why}");
        #[cfg(unix)]
        {
            let why = python(Some(Path::new("false")), folder.path()).await.unwrap_err();
            assert!(why.starts_with("`false` failed with exit status: 1"), "{why}");
            let why = python(Some(Path::new("cat")), folder.path()).await.unwrap_err();
            assert!(why.starts_with("`cat` said something that can't be read ("), "{why}");
        }
    }

    #[test]
    fn libraries_are_pythons_and_the_rest_is_the_programs() {
        let of = |facts: &[(&str, &str)]| {
            let mut found = Environment::default();
            facts.iter().for_each(|(name, value)| found.state(*name, value));
            found
        };
        let mut here = of(&[("library.glibc", "2.36"), ("cpu.cores", "4")]);
        let told = of(&[("library.glibc", "2.39"), ("cpu.cores", "2"), ("gpu.0.memory", "1")]);
        let note = join(&mut here, &told).unwrap();
        assert_eq!(note, "the Python here has no PyTorch that loads; name another one with `--python PATH`");
        assert_eq!(here, of(&[("library.glibc", "2.39"), ("cpu.cores", "4"), ("gpu.0.memory", "1")]));
        assert_eq!(join(&mut here, &of(&[("library.torch", "2.13.0")])), None);
    }

    /// Two programs in two languages tell the same.
    #[test]
    fn the_worker_for_pytorch_tells_the_same_variables_and_facts() {
        use outboard_machine::{environment::FEATURES, variables};
        let text = SOURCES[3].1;
        let words = variables::NAMES.iter().chain(&variables::PREFIXES).chain(&variables::SECRET).chain(&FEATURES);
        for word in words.chain([&variables::PROXY]) {
            assert!(text.contains(&format!("\"{word}\"")), "{word}");
        }
        let here = outboard_machine::environment();
        for (name, _) in here.iter().filter(|(name, _)| !name.starts_with("env.") && !name.starts_with("limit.")) {
            assert!(text.contains(&format!("\"{name}\"")) || name.starts_with("gpu."), "{name}");
        }
    }
}
