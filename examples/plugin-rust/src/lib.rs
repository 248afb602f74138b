//! A provider that hands each envelope to a worker beside the program. One that goes further away differs in `submit`.

use std::{ops::ControlFlow, time::Duration};

use async_trait::async_trait;
use outboard_core::{
    ComputeProvider, NanoUsd, Result, Task, TaskId,
    provider::{Cancelled, Capabilities, Health, PriceModel, ProviderInfo, TaskSummary},
    task::{Revision, TaskState},
};
use outboard_plugin::{HostHandle, ProviderPlugin, Tasks, export_provider, message::Claims};
use outboard_protocol::Envelope;
use serde::Deserialize;

#[derive(Debug)]
struct Beside {
    host: HostHandle,
    info: ProviderInfo,
    capabilities: Capabilities,
    price: PriceModel,
    tasks: Tasks,
}

/// What the user may write to `config`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    per_hour_nano_usd: NanoUsd,
    device: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { per_hour_nano_usd: NanoUsd::ZERO, device: "a worker beside this program".into() }
    }
}

impl ProviderPlugin for Beside {
    type Config = Config;

    fn create(config: Config, host: HostHandle) -> Result<Self> {
        let id = String::from("beside");
        let claims = Claims {
            cancels: true,
            lists: true,
            reports_progress: true,
            max_concurrent_tasks: Some(1),
            ..Claims::default()
        };
        let as_of = "as configured".into();
        Ok(Self {
            host,
            info: ProviderInfo { id: id.clone(), kind: id, device: config.device, region: None },
            capabilities: claims.capabilities(&[]),
            price: PriceModel { per_hour: config.per_hour_nano_usd, as_of, ..PriceModel::free("per_hour_nano_usd") },
            tasks: Tasks::default(),
        })
    }
}

#[async_trait]
impl ComputeProvider for Beside {
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
        Ok(Health::Ready)
    }

    async fn submit(&self, task: &Task) -> Result<TaskId> {
        let host = self.host;
        let envelope = Envelope::new(task.clone(), Duration::from_secs(600), Duration::from_secs(120));
        self.tasks.submit(task, move |running| {
            host.run_worker(&envelope, |event| {
                event.into_iter().for_each(|event| running.observe(event));
                if running.is_stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
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

export_provider!(Beside);
