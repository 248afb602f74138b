//! The suite over the `http` provider with real workers, bare, in all wrappers, and with two workers.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{fs, net::SocketAddr, path::Path, sync::Arc};

use async_trait::async_trait;
use outboard_conformance::{Fixture, Possible, run_all};
use outboard_core::{ComputeProvider, Digest, NanoUsd};
use outboard_http::{Config, HttpProvider, WorkerConfig};
use outboard_store::FolderStore;
use outboard_testbed::{Fault, Proxy, Weather};
use outboard_worker::{Server, ServerConfig, TaskProgram, Token};
use outboard_wrappers::{Settings, standard};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};

const TOKEN: &str = "0123456789abcdef-conformance";

/// All but: unclaimed layers, unclaimed operations (it has all).
const PASSED: usize = 32;

struct HttpFixture {
    store: FolderStore,
    config: Config,
    first: SocketAddr,
    is_wrapped: bool,
    workers: Vec<JoinHandle<()>>,
    folder: TempDir,
}

impl HttpFixture {
    async fn new(workers: usize, is_wrapped: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut addresses = Vec::new();
        let mut running = Vec::new();
        for n in 0..workers {
            let (address, worker) = start_worker(&folder.path().join(format!("worker-{n}"))).await;
            addresses.push(address);
            running.push(worker);
        }
        Self {
            store: FolderStore::open(folder.path()).unwrap(),
            config: config(&addresses),
            first: addresses[0],
            is_wrapped,
            workers: running,
            folder,
        }
    }

    fn client(&self, config: &Config) -> Arc<dyn ComputeProvider> {
        let provider = Arc::new(HttpProvider::new(config, self.store.clone()).unwrap());
        if self.is_wrapped { standard(provider, &Settings::default()) } else { provider }
    }
}

impl Drop for HttpFixture {
    fn drop(&mut self) {
        self.workers.iter().for_each(JoinHandle::abort);
    }
}

fn config(workers: &[SocketAddr]) -> Config {
    let worker = |address: &SocketAddr| WorkerConfig {
        url: format!("http://{address}"),
        token: Some(TOKEN.into()),
        ..WorkerConfig::default()
    };
    let workers = workers.iter().map(worker).collect();
    Config { enabled: true, workers, usd_per_hour: NanoUsd(1), ..Config::default() }
}

async fn start_worker(store: &Path) -> (SocketAddr, JoinHandle<()>) {
    let args = ["--stdio", "--threads", "1", "--store"].map(Into::into).into_iter().chain([store.into()]).collect();
    let program = TaskProgram { program: env!("CARGO_BIN_EXE_conformance-worker").into(), args };
    let server = Server::start(ServerConfig::new(store.into(), Token::new(TOKEN).unwrap(), program)).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = async { server.run(listener, std::future::pending()).await.unwrap() };
    (address, tokio::spawn(serving))
}

#[async_trait]
impl Fixture for HttpFixture {
    async fn provider(&self) -> Arc<dyn ComputeProvider> {
        self.client(&self.config)
    }

    fn store(&self) -> &FolderStore {
        &self.store
    }

    fn numerics(&self) -> String {
        outboard_engine::numerics::class().into()
    }

    fn secrets(&self) -> Vec<String> {
        vec![TOKEN.into()]
    }

    fn remembers_tasks(&self) -> Possible<()> {
        Ok(())
    }

    fn corrupt(&self, blob: &Digest) -> Possible<()> {
        fs::write(self.folder.path().join("blobs").join(blob.to_string()), "damaged").unwrap();
        Ok(())
    }

    async fn losing_a_reply(&self) -> Possible<Arc<dyn ComputeProvider>> {
        let weather = Weather::fair().then("POST /v1/tasks", Fault::LoseReply);
        let proxy = Proxy::start(self.first, weather).await.unwrap();
        let client = self.client(&config(&[proxy.address()]));
        // It is needed for as long as the client, which nobody else sees the end of.
        std::mem::forget(proxy);
        Ok(client)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bare() {
    run_all(&HttpFixture::new(1, false).await).await.assert_passed(PASSED);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_all_wrappers() {
    run_all(&HttpFixture::new(1, true).await).await.assert_passed(PASSED);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers() {
    run_all(&HttpFixture::new(2, false).await).await.assert_passed(PASSED);
}
