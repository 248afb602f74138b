//! The provider against RunPod's stand-in, whose workers are driven by hand here.

mod answers;
mod handing;
mod waiting;

use std::{sync::Arc, time::Duration};

use outboard_core::{
    ComputeProvider, Digest, Error, Layer, Task, TaskId,
    job::Loss,
    task::{Architecture, EvaluateTask, Metrics, Operation, Outcome, Phase, Revision, TaskState, Timings},
};
use outboard_protocol::{InlineReply, InlineRequest, PROTOCOL_VERSION, TaskResult, envelope::Ending};
use outboard_store::FolderStore;
use outboard_testbed::{
    RunPod,
    runpod::{EndpointSettings, Settings},
};
use reqwest::Client;
use serde_json::{Value, json};

use crate::{Config, EndpointConfig, RunPodProvider};

const KEY: &str = "rpa_s3cret";
const ENDPOINT: &str = "ep1";
const LIMIT: Duration = Duration::from_secs(60);
/// No test takes that long, unless something hangs.
const LONG: Duration = Duration::from_secs(60);
const METRICS: Metrics = Metrics { loss: 0.5, accuracy: None, rows: 3 };

/// The stand-in, and a provider for it.
struct Bed {
    runpod: RunPod,
    provider: Arc<RunPodProvider>,
    config: Config,
    store: FolderStore,
    worker: Client,
    _folder: tempfile::TempDir,
}

impl Bed {
    /// One endpoint whose workers are driven by hand, with time that passes at this speed.
    async fn new(speed: f64, adjust: impl FnOnce(&mut Config)) -> Self {
        Self::with(speed, vec![EndpointSettings::new(ENDPOINT, None)], adjust).await
    }

    async fn with(speed: f64, endpoints: Vec<EndpointSettings>, adjust: impl FnOnce(&mut Config)) -> Self {
        let configured = endpoints.iter().map(|endpoint| EndpointConfig {
            id: endpoint.id.clone(),
            gpu: "RTX 4090".into(),
            weight: 1,
        });
        let mut config =
            Config { enabled: true, api_key: Some(KEY.into()), endpoints: configured.collect(), ..Config::default() };
        let runpod = RunPod::start(Settings { api_key: KEY.into(), speed, endpoints }).await.unwrap();
        (config.base_url, config.rest_url) = (runpod.base_url(), runpod.rest_url());
        config.manage_url = runpod.manage_url();
        adjust(&mut config);
        let folder = tempfile::tempdir().unwrap();
        let store = FolderStore::open(folder.path()).unwrap();
        let provider = Arc::new(RunPodProvider::new(&config, store.clone(), None).unwrap());
        let worker = outboard_store::transport::client(true).build().unwrap();
        Self { runpod, provider, config, store, worker, _folder: folder }
    }

    fn task(&self, key: &str) -> Task {
        let (data, weights) = (self.store.write(b"rows").unwrap(), self.store.write(b"weights").unwrap());
        let model = Architecture { layers: vec![Layer::Relu], input: vec![3] };
        let operation = Operation::Evaluate(EvaluateTask { model, weights, data, loss: Loss::Mse });
        Task { key: key.into(), job: "job".into(), attempt: format!("{key}#1"), operation, limit: Some(LIMIT) }
    }

    async fn submit(&self, key: &str) -> TaskId {
        self.provider.submit(&self.task(key)).await.unwrap()
    }

    fn url(&self, rest: &str) -> String {
        format!("{}/{ENDPOINT}/{rest}", self.runpod.direct_url())
    }

    /// Takes the next job, as the worker `w1`.
    async fn take(&self) -> Value {
        self.take_as("w1").await
    }

    async fn take_as(&self, worker: &str) -> Value {
        let url = self.url(&format!("job-take/{worker}?gpu=X&job_in_progress=0"));
        let reply = self.worker.get(url).header("authorization", KEY).send().await.unwrap();
        serde_json::from_slice(&reply.bytes().await.unwrap()).unwrap()
    }

    async fn post(&self, job: &Value, body: &Value) {
        self.post_as("w1", job, body).await;
    }

    async fn post_as(&self, worker: &str, job: &Value, body: &Value) {
        let url = self.url(&format!("job-done/{worker}/{}?gpu=X&isStream=false", job["id"].as_str().unwrap()));
        let request = self.worker.post(url).header("authorization", KEY).body(body.to_string());
        assert!(request.send().await.unwrap().status().is_success());
    }

    /// The workers of the endpoint.
    async fn workers(&self) -> Vec<String> {
        let list = self.worker.get(format!("{}/serverless/{ENDPOINT}/workers", self.runpod.rest_url()));
        let reply = list.header("authorization", format!("Bearer {KEY}")).send().await.unwrap();
        let list: Value = serde_json::from_slice(&reply.bytes().await.unwrap()).unwrap();
        list["workers"].as_array().unwrap().iter().map(|worker| worker["id"].as_str().unwrap().into()).collect()
    }

    /// Hands a job's outcome back.
    async fn finish(&self, job: &Value) {
        self.finish_as("w1", job).await;
    }

    async fn finish_as(&self, worker: &str, job: &Value) {
        let request: InlineRequest = serde_json::from_value(job["input"].clone()).unwrap();
        let output = reply(&request, Ending::Finished(Outcome::Evaluate(METRICS)));
        self.post_as(worker, job, &json!({ "output": output })).await;
    }

    async fn wait(&self, id: &TaskId, seen: Revision) -> Result<TaskState, Error> {
        tokio::time::timeout(LONG, self.provider.wait(id, seen, LONG)).await.unwrap()
    }

    /// The last state, though requests fail on the way.
    async fn end(&self, id: &TaskId) -> TaskState {
        let mut seen = Revision::default();
        loop {
            if let Ok(state) = self.wait(id, seen).await {
                seen = state.revision;
                if state.phase.is_final() {
                    return state;
                }
            }
        }
    }

    async fn failure(&self, id: &TaskId) -> Error {
        match self.end(id).await.phase {
            Phase::Failed(error) => error,
            other => panic!("{other:?}"),
        }
    }

    async fn assert_finishes(&self, id: &TaskId) {
        let phase = self.end(id).await.phase;
        assert!(matches!(&phase, Phase::Finished(Outcome::Evaluate(found)) if *found == METRICS), "{phase:?}");
    }
}

fn reply(request: &InlineRequest, ended: Ending) -> InlineReply {
    let task = &request.envelope.task;
    let result = TaskResult {
        protocol: PROTOCOL_VERSION,
        key: task.key.clone(),
        attempt: task.attempt.clone(),
        ended,
        timings: Timings { compute: 0.25, ..Timings::default() },
    };
    InlineReply { result, events: Vec::new(), blobs: Vec::new() }
}

fn digests(request: &InlineRequest) -> Vec<Digest> {
    request.blobs.iter().map(|blob| blob.digest).collect()
}
