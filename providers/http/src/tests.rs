use std::time::Duration;

use outboard_core::{
    BlobStore, Digest, Layer, Task,
    task::{Architecture, Operation, PredictTask},
};
use outboard_store::FolderStore;
use tempfile::TempDir;

use crate::{
    Config, HttpProvider, WorkerConfig,
    stand_in::{StandIn, TOKEN},
};

mod submit;
mod wait;
mod workers;

/// A client with its own store.
struct Client {
    provider: HttpProvider,
    store: FolderStore,
    _folder: TempDir,
}

const DATA: &[u8] = &[7; 100_000];
const WEIGHTS: &[u8] = b"weights";

impl Client {
    fn new(urls: &[&str]) -> Self {
        Self::with_token(urls, TOKEN)
    }

    fn of(workers: &[StandIn]) -> Self {
        Self::new(&workers.iter().map(|worker| &*worker.url).collect::<Vec<_>>())
    }

    fn with_token(urls: &[&str], token: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderStore::open(folder.path()).unwrap();
        for bytes in [DATA, WEIGHTS] {
            store.write(bytes).unwrap();
        }
        let worker =
            |url: &&str| WorkerConfig { url: (*url).into(), token: Some(token.into()), ..WorkerConfig::default() };
        let config = Config {
            workers: urls.iter().map(worker).collect(),
            request_timeout: Duration::from_millis(500),
            ..Config::default()
        };
        Self { provider: HttpProvider::new(&config, store.clone()).unwrap(), store, _folder: folder }
    }

    async fn holds(&self, digest: &Digest) -> bool {
        self.store.has(digest).await.unwrap()
    }
}

fn task(key: &str, attempt: u32) -> Task {
    task_on(key, attempt, Digest::of(DATA), Digest::of(WEIGHTS))
}

fn task_on(key: &str, attempt: u32, data: Digest, weights: Digest) -> Task {
    let model = Architecture { layers: vec![Layer::Relu], input: vec![3] };
    let operation = Operation::Predict(PredictTask { model, weights, data });
    Task { key: key.into(), job: "job".into(), attempt: format!("{key}#{attempt}"), operation, limit: None }
}

/// An address at which nothing listens: that of a port which was free just now.
fn nowhere() -> String {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", free.local_addr().unwrap())
}
