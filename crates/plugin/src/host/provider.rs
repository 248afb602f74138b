//! The provider that a plugin is.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use outboard_core::{
    ComputeProvider, Digest, Event, Task, TaskId,
    error::{Error, ErrorKind, Result, Retry},
    provider::{Cancelled, Capabilities, Health, PriceModel, ProviderInfo, TaskSummary},
    task::{Checkpoint, Outcome, Phase, Revision, TaskState},
};
use outboard_protocol::{Envelope, PROTOCOL_VERSION, Position, TaskResult, envelope::Ending};
use outboard_store::FolderStore;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::timeout;

use super::{
    Isolation, Place, PluginConfig,
    callbacks::{Callbacks, runtime},
    child::Child,
    library::Instance,
    trust,
};
use crate::message::{self, Answer, Cancel, Claims, Info, Nothing, Price, State, Submit, Summary, Wait};

/// A worker that would start a task later than this after it was handed over refuses it.
const START_WITHIN: Duration = Duration::from_secs(600);

/// A task without an event or a finished batch for this long counts as hung.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long a task may run whose `submit` got no answer, where nothing bounds it.
const ASSUMED_TASK_TIME: Duration = Duration::from_secs(3600);

/// A provider from a dynamic library.
#[derive(Debug)]
pub struct PluginProvider {
    info: ProviderInfo,
    capabilities: Capabilities,
    store: FolderStore,
    call_timeout: Duration,
    plugin: Plugin,
}

#[derive(Debug)]
enum Plugin {
    Here(Arc<Instance>),
    Child(Box<Child>),
}

impl PluginProvider {
    /// Loads a plugin; `id` is the name under which it is configured.
    ///
    /// # Errors
    /// `InvalidConfig` where the file isn't to be trusted, or the plugin refuses its configuration;
    /// `PluginIncompatible`.
    pub fn load(id: &str, config: &PluginConfig, place: &Place) -> Result<Self> {
        let runtime = runtime()?;
        // A thread of its own: this one may belong to a runtime.
        let load = || runtime.block_on(Self::load_there(id, config, place));
        std::thread::scope(|scope| scope.spawn(load).join())
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Unexpected, "loading a plugin failed").with_provider(id)))
    }

    async fn load_there(id: &str, config: &PluginConfig, place: &Place) -> Result<Self> {
        let named = |error: Error| error.with_provider(id);
        let path = trust::check(config, &place.folder).map_err(named)?;
        let limit = config.call_timeout;
        let plugin = match config.isolation {
            Isolation::None => {
                let callbacks = Callbacks::new(id, place.store.clone(), place.worker.clone());
                Plugin::Here(Instance::create(path, &config.config, callbacks, limit).await.map_err(named)?)
            }
            Isolation::Process => Plugin::Child(Box::new(Child::new(id, path, config, place.server.clone()))),
        };
        let kind = "plugin".to_string();
        let info = ProviderInfo { id: id.into(), kind, device: String::new(), region: None };
        let capabilities = Claims::default().capabilities(&outboard_engine::LAYERS);
        let mut new = Self { info, capabilities, store: place.store.clone(), call_timeout: limit, plugin };
        let Info { kind, device, region } = new.call("info", &Nothing, Duration::ZERO).await?;
        new.info = ProviderInfo { id: id.into(), kind, device, region };
        let claims: Claims = new.call("capabilities", &Nothing, Duration::ZERO).await?;
        new.capabilities = claims.capabilities(&outboard_engine::LAYERS);
        Ok(new)
    }

    /// An operation, with a deadline.
    async fn call<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        request: &impl Serialize,
        besides: Duration,
    ) -> Result<T> {
        let named = |error: Error| error.with_provider(&self.info.id).with_operation(operation);
        let limit = self.call_timeout.saturating_add(besides);
        let request = outboard_protocol::envelope::encode(request).map_err(named)?;
        let answer = match &self.plugin {
            Plugin::Here(instance) => timeout(limit, instance.clone().call(operation, request)).await,
            Plugin::Child(child) => timeout(limit, child.call(operation, request)).await,
        };
        let Ok(answer) = answer else {
            if let Plugin::Child(child) = &self.plugin {
                // What hangs is ended; the next call has a new process.
                child.kill();
            }
            let message = format!("the plugin `{}` gave no answer within {limit:?}", self.info.id);
            return Err(named(
                Error::new(ErrorKind::Timeout, message)
                    .hint(format!("ask its author; a longer `plugins.{}.call_timeout` may help", self.info.id)),
            ));
        };
        match serde_json::from_slice(&answer.map_err(named)?) {
            Ok(Answer::Ok(value)) => Ok(value),
            Ok(Answer::Error(failure)) => Err(named(failure.into())),
            Err(e) => Err(self.lied(operation, &format!("its answer cannot be read: {e}"))),
        }
    }

    /// The plugin did what it must not.
    fn lied(&self, operation: &'static str, what: &str) -> Error {
        let id = &self.info.id;
        Error::new(ErrorKind::Unexpected, format!("the plugin `{id}` doesn't keep to its interface: {what}"))
            .with_retry(Retry::Other)
            .with_provider(id)
            .with_operation(operation)
            .hint("tell its author what `outboard plugin check` says")
    }
}

/// The events, with the last checkpoint only: what it has overtaken may be gone from the store.
fn last_checkpoint(events: &mut Vec<Event>) -> Option<Checkpoint> {
    let checkpoint = |event: &Event| if let Event::Checkpoint(checkpoint) = event { Some(*checkpoint) } else { None };
    let last = events.iter().rev().find_map(checkpoint);
    events.retain(|event| checkpoint(event).is_none_or(|checkpoint| Some(checkpoint) == last));
    last
}

/// What can't be true of a state, where a job would go on from a checkpoint that isn't one.
fn impossible(store: &FolderStore, told: Option<Checkpoint>, result: Option<&TaskResult>) -> Option<String> {
    let mut outcome = None;
    if let Some(result) = result {
        if result.protocol != PROTOCOL_VERSION {
            return Some(format!("a result of protocol version {}, not {PROTOCOL_VERSION}", result.protocol));
        }
        if let Ending::Finished(finished) = &result.ended {
            outcome = Some(finished);
        }
    }
    let missing = |digest: &Digest| format!("it names the blob {digest}, which it didn't put into the store");
    let ended_at = match outcome {
        Some(Outcome::Train { checkpoint, .. }) => Some(*checkpoint),
        Some(Outcome::Predict { outputs }) if !store.path(outputs).is_file() => return Some(missing(outputs)),
        _ => None,
    };
    told.filter(|told| Some(*told) != ended_at).into_iter().chain(ended_at).find_map(|checkpoint| {
        if !store.path(&checkpoint.digest).is_file() {
            return Some(missing(&checkpoint.digest));
        }
        let named = checkpoint.at();
        match store.map(&checkpoint.digest).and_then(|bytes| Position::read(&bytes)) {
            Ok(position) if (position.epoch, position.step_in_epoch) == named => None,
            Ok(position) => Some(format!(
                "it names a checkpoint of epoch {}, batch {}, but that blob is one of epoch {}, batch {}",
                named.0, named.1, position.epoch, position.step_in_epoch
            )),
            Err(error) => Some(format!("it names a checkpoint, but {error}")),
        }
    })
}

#[async_trait]
impl ComputeProvider for PluginProvider {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn price(&self) -> Result<PriceModel> {
        self.call::<Price>("price", &Nothing, Duration::ZERO).await.map(Into::into)
    }

    async fn health(&self) -> Result<Health> {
        self.call::<message::Health>("health", &Nothing, Duration::ZERO).await.map(Into::into)
    }

    async fn submit(&self, task: &Task) -> Result<TaskId> {
        if let Some(missing) = task.operation.needs().into_iter().find(|digest| !self.store.path(digest).is_file()) {
            let error = Error::new(ErrorKind::NotFound, format!("the store has no blob {missing}"));
            return Err(error.with_provider(&self.info.id).with_operation("submit").hint("start the job again"));
        }
        let request = Submit {
            attempt: task.attempt.clone(),
            key: task.key.clone(),
            envelope: Envelope::new(task.clone(), START_WITHIN, PATIENCE),
        };
        let until = task.limit.or(self.capabilities.max_task_time).unwrap_or(ASSUMED_TASK_TIME);
        let until = until.saturating_add(START_WITHIN);
        self.call("submit", &request, Duration::ZERO).await.map_err(|error| match error.kind() {
            // It may have been accepted.
            ErrorKind::Timeout => error.with_retry(Retry::Unknown { until }),
            _ => error,
        })
    }

    async fn wait(&self, id: &TaskId, seen: Revision, limit: Duration) -> Result<TaskState> {
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let mut state: State = self.call("wait", &Wait { id: id.clone(), seen: seen.0, limit_ms }, limit).await?;
        let told = last_checkpoint(&mut state.state.events);
        let store = self.store.clone();
        // It reads a blob.
        let (state, wrong) = blocking::unblock(move || {
            let wrong = impossible(&store, told, state.result());
            (state, wrong)
        })
        .await;
        if let Some(what) = wrong {
            return Err(self.lied("wait", &what));
        }
        let mut state = TaskState::from(state);
        if let Phase::Failed(error) = state.phase {
            state.phase = Phase::Failed(error.with_provider(&self.info.id));
        }
        Ok(state)
    }

    async fn cancel(&self, id: &TaskId) -> Result<Cancelled> {
        self.call::<message::Cancelled>("cancel", &Cancel { id: id.clone() }, Duration::ZERO).await.map(Into::into)
    }

    async fn list(&self) -> Result<Vec<TaskSummary>> {
        let tasks: Vec<Summary> = self.call("list", &Nothing, Duration::ZERO).await?;
        Ok(tasks.into_iter().map(Into::into).collect())
    }
}
