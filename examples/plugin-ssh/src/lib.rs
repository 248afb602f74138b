//! Workers over SSH: a machine that you can log in to, with the program `outboard` on it, is a provider.
//!
//! ```toml
//! [plugins.box]
//! path = "liboutboard_ssh.so"
//! config = { command = ["ssh", "-oBatchMode=yes", "me@box"] }
//! ```

mod remote;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use outboard_core::{
    ComputeProvider, Event, NanoUsd, Result, Task, TaskId,
    provider::{Cancelled, Capabilities, Health, PriceModel, ProviderInfo, TaskSummary},
    task::{Revision, TaskState},
};
use outboard_plugin::{HostHandle, ProviderPlugin, Running, Tasks, export_provider, message::Claims};
use outboard_protocol::{
    Envelope, TaskResult,
    envelope::{Ending, Failure},
};
use outboard_worker::Supervisor;
use serde::Deserialize;
use tokio::{runtime::Handle, time::sleep};

use remote::Remote;

/// How often a task is asked whether to go on.
const ASKING: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Ssh {
    host: HostHandle,
    info: ProviderInfo,
    capabilities: Capabilities,
    price: PriceModel,
    remote: Arc<Remote>,
    supervisor: Arc<Supervisor>,
    tasks: Tasks,
}

/// What the user may write to `config`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// What runs a command line on the machine: `["ssh", "me@box"]`.
    command: Vec<String>,
    /// The program there.
    #[serde(default = "outboard")]
    program: String,
    /// A folder there, for blobs; without spaces.
    #[serde(default = "folder")]
    folder: String,
    /// What an hour costs.
    #[serde(default)]
    per_hour_nano_usd: NanoUsd,
}

fn outboard() -> String {
    "outboard".into()
}

fn folder() -> String {
    ".cache/outboard-worker".into()
}

impl ProviderPlugin for Ssh {
    type Config = Config;

    fn create(config: Config, host: HostHandle) -> Result<Self> {
        let remote = Remote::new(config.command, config.folder)?;
        let supervisor = Supervisor::new(remote.task_program(&config.program));
        let claims = Claims {
            cancels: true,
            lists: true,
            reports_progress: true,
            max_concurrent_tasks: Some(1),
            ..Claims::default()
        };
        let (id, as_of) = (String::from("ssh"), "as configured".into());
        Ok(Self {
            host,
            info: ProviderInfo { id: id.clone(), kind: id, device: remote.to_string(), region: None },
            capabilities: claims.capabilities(&[]),
            price: PriceModel { per_hour: config.per_hour_nano_usd, as_of, ..PriceModel::free("per_hour_nano_usd") },
            remote: Arc::new(remote),
            supervisor: Arc::new(supervisor),
            tasks: Tasks::default(),
        })
    }
}

#[async_trait]
impl ComputeProvider for Ssh {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn price(&self) -> Result<PriceModel> {
        Ok(self.price.clone())
    }

    async fn health(&self) -> Result<Health> {
        Ok(match self.remote.probe() {
            Ok(()) => Health::Ready,
            Err(error) => Health::Unavailable(error.to_string()),
        })
    }

    async fn submit(&self, task: &Task) -> Result<TaskId> {
        let envelope = Envelope::new(task.clone(), Duration::from_secs(600), Duration::from_secs(120));
        let (host, remote, supervisor) = (self.host, self.remote.clone(), self.supervisor.clone());
        let runtime = Handle::current();
        self.tasks.submit(task, move |running| {
            for digest in envelope.task.operation.needs() {
                remote.put(&host, &digest)?;
            }
            let mut result = runtime.block_on(run(&supervisor, &envelope, &host, &remote, running));
            if let Ending::Finished(outcome) = &result.ended
                && let Some(Err(error)) = outcome.blob().map(|digest| remote.get(&host, &digest))
            {
                result.ended = Ending::Failed(Failure::from(&error));
            }
            Ok(result)
        })
    }

    async fn wait(&self, id: &TaskId, seen: Revision, limit: Duration) -> Result<TaskState> {
        self.tasks.wait(id, seen, limit).await
    }

    async fn cancel(&self, id: &TaskId) -> Result<Cancelled> {
        self.tasks.cancel(id).await
    }

    async fn list(&self) -> Result<Vec<TaskSummary>> {
        Ok(self.tasks.list())
    }
}

async fn run(
    supervisor: &Supervisor,
    envelope: &Envelope,
    host: &HostHandle,
    remote: &Remote,
    running: &Running,
) -> TaskResult {
    let stop = async {
        while !running.is_stopped() {
            sleep(ASKING).await;
        }
    };
    let observe = |event| {
        // A checkpoint counts once it is here.
        if let Event::Checkpoint(checkpoint) = &event
            && remote.get(host, &checkpoint.digest).is_err()
        {
            return;
        }
        running.observe(event);
    };
    supervisor.run(envelope, stop, observe).await
}

export_provider!(Ssh);
