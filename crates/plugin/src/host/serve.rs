//! The process of a plugin: what its host says on standard input, and what is answered on standard output.

use std::{
    io::{BufRead, Write},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use outboard_core::error::{Error, ErrorKind, Result};
use outboard_store::FolderStore;
use outboard_worker::TaskProgram;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};

use super::{
    PluginConfig,
    callbacks::Callbacks,
    library::{Instance, misbehaved},
    trust,
};
use crate::message::Answer;

/// The first line.
#[derive(Clone, Deserialize, Serialize)]
pub(super) struct Setup {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) blake3: Option<String>,
    pub(super) config: Map<String, Value>,
}

/// Without what may be secret.
impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup").field("name", &self.name).field("path", &self.path).finish_non_exhaustive()
    }
}

/// All other lines.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Call {
    pub(super) number: u64,
    pub(super) operation: String,
    pub(super) request: Box<RawValue>,
}

/// An answer; the first line has none but says whether the plugin is ready, as an [`Answer`].
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Return {
    pub(super) number: u64,
    pub(super) answer: Box<RawValue>,
}

/// Loads the plugin that the first line names and answers calls until the input ends. What the plugin itself writes to
/// standard output goes to standard error.
///
/// # Errors
/// Where the pipes fail. That the plugin can't be loaded is told to the host.
pub async fn serve(store: FolderStore, worker: TaskProgram) -> Result<()> {
    let mut out = own_output()?;
    let mut lines = std::io::stdin().lock().lines();
    let first = lines.next().transpose().map_err(pipe)?.unwrap_or_default();
    let instance = match start(&first, store, worker).await {
        Ok(instance) => instance,
        Err(error) => return say(&mut out, &Answer::<()>::Error((&error).into())),
    };
    say(&mut out, &Answer::Ok(()))?;
    let out = Arc::new(Mutex::new(out));
    for line in lines {
        let line = line.map_err(pipe)?;
        let (instance, out) = (instance.clone(), out.clone());
        std::thread::Builder::new()
            .name("plugin-call".into())
            .spawn(move || answer(&line, &instance, &out))
            .map_err(pipe)?;
    }
    // Calls that still run are of no use to anyone.
    std::process::exit(0)
}

async fn start(first: &str, store: FolderStore, worker: TaskProgram) -> Result<Arc<Instance>> {
    let setup: Setup = serde_json::from_str(first).map_err(|e| {
        Error::invalid(format!("the first line cannot be read: {e}")).hint("this command is for outboard itself")
    })?;
    let config = PluginConfig { blake3: setup.blake3, ..PluginConfig::new(setup.path) };
    // Once more, as time has passed.
    let path = trust::check(&config, "/".as_ref())?;
    let callbacks = Callbacks::new(&setup.name, store, worker);
    Instance::create(path, &setup.config, callbacks, Duration::MAX).await
}

fn answer(line: &str, instance: &Instance, out: &Mutex<impl Write>) {
    let Ok(Call { number, operation, request }) = serde_json::from_str(line) else {
        eprintln!("a call cannot be read");
        return;
    };
    let answer = instance.call_here(operation.as_bytes(), request.get().as_bytes());
    let answer = answer.and_then(|bytes| {
        let unreadable = |e: String| misbehaved(format!("the plugin's answer cannot be read: {e}"));
        let text = String::from_utf8(bytes).map_err(|e| unreadable(e.to_string()))?;
        // One line, whatever the plugin writes.
        let value: &RawValue = serde_json::from_str(&text).map_err(|e| unreadable(e.to_string()))?;
        let text = if text.contains('\n') {
            let value: Value = serde_json::from_str(value.get()).map_err(|e| unreadable(e.to_string()))?;
            value.to_string()
        } else {
            value.get().into()
        };
        RawValue::from_string(text).map_err(|e| unreadable(e.to_string()))
    });
    let answer = answer.or_else(|error| serde_json::value::to_raw_value(&Answer::<()>::Error((&error).into())));
    let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
    let said = answer
        .map_err(std::io::Error::other)
        .and_then(|answer| say(&mut *out, &Return { number, answer }).map_err(std::io::Error::other));
    if let Err(error) = said {
        eprintln!("an answer cannot be given: {error}");
    }
}

fn say(out: &mut impl Write, message: &impl Serialize) -> Result<()> {
    let mut line = outboard_protocol::envelope::encode(message)?;
    line.push(b'\n');
    out.write_all(&line).and_then(|()| out.flush()).map_err(pipe)
}

/// Standard output, for answers alone.
#[cfg(unix)]
fn own_output() -> Result<impl Write + Send + 'static> {
    let own = rustix::io::dup(rustix::stdio::stdout()).map_err(|e| pipe(e.into()))?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr()).map_err(|e| pipe(e.into()))?;
    Ok(std::fs::File::from(own))
}

#[cfg(not(unix))]
fn own_output() -> Result<impl Write + Send + 'static> {
    Ok(std::io::stdout())
}

fn pipe(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Unexpected, "the pipes to the host fail").because(error)
}
