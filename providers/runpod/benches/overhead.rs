//! What the provider adds to a request of RunPod's job API: `cargo bench -p outboard-runpod`.
//!
//! The same requests, with the same bodies, go to the stand-in bare and through the provider.

#![allow(clippy::unwrap_used, missing_docs)]

use std::time::{Duration, Instant};

use outboard_core::{
    ComputeProvider, Layer, Task, TaskId,
    job::Loss,
    task::{Architecture, EvaluateTask, Operation, Revision},
};
use outboard_runpod::{Config, EndpointConfig, RunPodProvider};
use outboard_store::{FolderStore, transport};
use outboard_testbed::{
    RunPod,
    runpod::{EndpointSettings, Settings},
};

const KEY: &str = "rpa_bench";
const TIMES: usize = 200;

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

#[tokio::main]
async fn main() {
    let runpod = RunPod::start(Settings::one(KEY, EndpointSettings::new("ep1", None))).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = FolderStore::open(folder.path()).unwrap();
    let config = Config {
        api_key: Some(KEY.into()),
        endpoints: vec![EndpointConfig { id: "ep1".into(), gpu: "L4".into(), weight: 1 }],
        base_url: runpod.direct_url(),
        ..Config::default()
    };
    let provider = RunPodProvider::new(&config, store.clone(), None).unwrap();
    let (data, weights) = (store.write(&[7; 100_000]).unwrap(), store.write(&[8; 10_000]).unwrap());
    let task = |n: usize| {
        let model = Architecture { layers: vec![Layer::Relu], input: vec![3] };
        let operation = Operation::Evaluate(EvaluateTask { model, weights, data, loss: Loss::Mse });
        let limit = Some(Duration::from_secs(60));
        Task { key: n.to_string(), job: "bench".into(), attempt: n.to_string(), operation, limit }
    };

    let (mut ids, mut submits): (Vec<TaskId>, _) = (Vec::new(), Vec::new());
    for n in 0..TIMES {
        let (task, began) = (task(n), Instant::now());
        ids.push(provider.submit(&task).await.unwrap());
        submits.push(began.elapsed());
    }
    let body = runpod.seen("run")[0].body.clone();
    let client = transport::client(true).build().unwrap();
    let bearer = format!("Bearer {KEY}");
    let mut bare_submits = Vec::new();
    for _ in 0..TIMES {
        let began = Instant::now();
        let request = client.post(format!("{}/ep1/run", runpod.direct_url())).header("authorization", &bearer);
        request
            .header("content-type", "application/json")
            .body(body.clone())
            .send()
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap();
        bare_submits.push(began.elapsed());
    }
    let (mut looks, mut bare_looks) = (Vec::new(), Vec::new());
    for id in &ids {
        let began = Instant::now();
        provider.wait(id, Revision(0), Duration::ZERO).await.unwrap();
        looks.push(began.elapsed());
    }
    for id in &ids {
        let job = id.0.split('/').nth(1).unwrap();
        let began = Instant::now();
        let request = client.get(format!("{}/ep1/status/{job}", runpod.direct_url()));
        request.header("authorization", &bearer).send().await.unwrap().bytes().await.unwrap();
        bare_looks.push(began.elapsed());
    }
    for (what, through, bare) in [("submit", submits, bare_submits), ("look", looks, bare_looks)] {
        let (through, bare) = (median(through), median(bare));
        println!("{what}: {through:.2} ms, bare {bare:.2} ms: {:.2} ms more ({TIMES} times, median)", through - bare);
    }
}
