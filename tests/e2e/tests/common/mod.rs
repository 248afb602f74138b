//! RunPod's stand-in with RunPod's own worker SDK, and users whose jobs run there.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use outboard_e2e::User;
use outboard_testbed::{
    Proxy, RunPod, Weather,
    runpod::{EndpointSettings, Settings, WorkerCommand},
};
use tempfile::TempDir;

#[path = "../../../../crates/store/tests/common/mod.rs"]
pub mod s3;

pub const KEY: &str = "rpa_0123456789abcdef-e2e";
/// Names a Python with the packages of `tests/requirements.txt`; `cargo xtask test runpod` sets it.
const PYTHON: &str = "TEST_RUNPOD_PYTHON";

pub fn python(test: &str) -> Option<PathBuf> {
    let python = std::env::var_os(PYTHON).map(PathBuf::from);
    if python.is_none() {
        println!("skipped: {test}: {PYTHON} is not set; `cargo xtask test runpod` sets it");
    }
    python
}

/// The sources of the worker for PyTorch; `cargo xtask test runpod` names them.
const WORKER: &str = "TEST_RUNPOD_WORKER";

pub fn torch_worker(test: &str) -> Option<PathBuf> {
    let sources = std::env::var_os(WORKER).map(PathBuf::from);
    if sources.is_none() {
        println!("skipped: {test}: {WORKER} is not set; `cargo xtask test runpod` sets it");
    }
    sources
}

/// The stand-in, with a bucket or without.
pub struct Platform {
    pub runpod: RunPod,
    pub server: Option<s3::Server>,
    /// Between the bucket and all who use it, where there is one.
    pub network: Option<Proxy>,
    endpoints: Vec<String>,
    folder: TempDir,
}

impl Platform {
    /// One endpoint, `ep1`, with one worker at most.
    pub async fn new(python: PathBuf, server: Option<s3::Server>) -> Self {
        Self::with(python, server, 1.0, &["ep1"], |endpoint| {
            endpoint.workers_max = 1;
        })
        .await
    }

    pub async fn with(
        python: PathBuf,
        server: Option<s3::Server>,
        speed: f64,
        ids: &[&str],
        adjust: impl Fn(&mut EndpointSettings),
    ) -> Self {
        let worker = concat!(env!("CARGO_MANIFEST_DIR"), "/../testbed/python/envelope_worker.py");
        let env = [("TEST_RUN_ENVELOPE", env!("CARGO_BIN_EXE_e2e-envelope"))];
        Self::of(python, &[worker], &env, server, speed, ids, adjust).await
    }

    /// With the worker for PyTorch, on one endpoint with one worker at most, and a network before the bucket that may fail.
    pub async fn torch(
        python: PathBuf,
        sources: &Path,
        server: Option<s3::Server>,
        adjust: impl Fn(&mut EndpointSettings),
    ) -> Self {
        let env = [
            ("PYTHONPATH", sources.to_str().unwrap()),
            ("OUTBOARD_WORKER_DEVICE", "cpu"),
            ("OUTBOARD_WORKER_THREADS", "1"),
        ];
        let address = server.as_ref().map(|server| server.address);
        let one = |endpoint: &mut EndpointSettings| {
            endpoint.workers_max = 1;
            adjust(endpoint);
        };
        let platform = Self::of(python, &["-m", "outboard_worker"], &env, server, 1.0, &["ep1"], one).await;
        let network = match address {
            Some(address) => Some(Proxy::start(address, Weather::fair()).await.unwrap()),
            None => None,
        };
        Self { network, ..platform }
    }

    async fn of(
        program: PathBuf,
        args: &[&str],
        env: &[(&str, &str)],
        server: Option<s3::Server>,
        speed: f64,
        ids: &[&str],
        adjust: impl Fn(&mut EndpointSettings),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("worker");
        let env = env.iter().copied().chain([("OUTBOARD_WORKER_STORE", store.to_str().unwrap())]);
        let command = WorkerCommand {
            program,
            args: args.iter().map(ToString::to_string).collect(),
            env: env.map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            log: std::env::var_os("TEST_RUNPOD_LOG").map(Into::into),
        };
        let endpoint = |id: &&str| {
            let mut endpoint = EndpointSettings::new(id, Some(command.clone()));
            adjust(&mut endpoint);
            endpoint
        };
        let settings = Settings { api_key: KEY.into(), speed, endpoints: ids.iter().map(endpoint).collect() };
        let endpoints = ids.iter().map(ToString::to_string).collect();
        Self { runpod: RunPod::start(settings).await.unwrap(), server, network: None, endpoints, folder }
    }

    /// The id of the task process of the worker for PyTorch.
    pub fn task_process(&self) -> Option<u32> {
        let store = self.folder.path().join("worker");
        let is_it = |words: &[u8]| {
            let has = |word: &[u8]| words.split(|byte| *byte == 0).any(|part| part == word);
            has(b"--stdio") && has(store.as_os_str().as_encoded_bytes())
        };
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let mut found =
            processes.filter(|entry| fs::read(entry.path().join("cmdline")).is_ok_and(|words| is_it(&words)));
        found.find_map(|entry| entry.file_name().to_str()?.parse().ok())
    }

    /// `outboard.toml` for it.
    pub fn toml(&self, more: &str) -> String {
        let endpoints: Vec<_> =
            self.endpoints.iter().map(|id| format!("{{ id = \"{id}\", gpu = \"RTX 4090\" }}")).collect();
        let store = self.server.as_ref().map_or_else(String::new, |server| {
            format!(
                "[store]\nurl = \"s3://data/jobs/1\"\nendpoint = \"http://{}\"\naccess_key_id = \"KEY\"\n\
                 secret_access_key = \"s3cret\"\n",
                self.network.as_ref().map_or(server.address, Proxy::address)
            )
        });
        format!(
            "checkpoint.every = \"20ms\"\n{store}[providers.runpod]\napi_key = \"{KEY}\"\nendpoints = [{}]\n\
             base_url = \"{}\"\nrest_url = \"{}\"\nmanage_url = \"{}\"\nrequest_timeout = \"5s\"\nlost_patience = \"500ms\"\n\
             start_time = \"20s\"\n{more}",
            endpoints.join(", "),
            self.runpod.base_url(),
            self.runpod.rest_url(),
            self.runpod.manage_url(),
        )
    }

    /// A user whose jobs run there and nowhere else, unless a flag says so.
    pub fn user(&self, more: &str) -> User {
        let user = User::new();
        user.write("outboard.toml", &self.toml(&format!("{more}\n[providers.cpu]\nenabled = false\n")));
        user.job(&LONG);
        user
    }

    /// Workers that are there, and billed.
    pub fn workers(&self) -> usize {
        self.endpoints.iter().map(|id| self.runpod.workers(id)).sum()
    }

    /// What RunPod has billed, in nano-dollars.
    pub fn metered(&self) -> u64 {
        self.endpoints.iter().map(|id| self.runpod.bill(id).nano_usd).sum()
    }
}

/// Some seconds of training on one thread.
pub const EPOCHS: usize = 8;
pub const LONG: [(&str, &str); 3] = [
    ("out = 64", "out = 512 }, { type = \"dropout\", p = 0.2 }, { type = \"linear\", out = 256"),
    ("epochs = 20", "epochs = 8"),
    ("batch_size = 64", "batch_size = 2"),
];

/// The model of a run on this machine that nothing disturbs.
pub fn undisturbed() -> &'static [u8] {
    static MODEL: OnceLock<Vec<u8>> = OnceLock::new();
    MODEL.get_or_init(|| undisturbed_by(&LONG))
}

/// As [`undisturbed`], with these changes of the usual job.
pub fn undisturbed_by(changes: &[(&str, &str)]) -> Vec<u8> {
    let user = User::new();
    user.job(changes);
    let done = user.run(&["train", "job.toml", "--output", "out"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    model(&user)
}

pub fn model(user: &User) -> Vec<u8> {
    fs::read(user.path().join("out/model.safetensors")).unwrap()
}

/// What the ledger has charged, in nano-dollars.
pub fn charged(user: &User) -> u64 {
    let lines = user.run(&["costs", "--json"]).lines();
    let usd = lines.iter().filter(|line| line["event"] == "cost").filter_map(|line| line["charged_usd"].as_f64());
    (usd.sum::<f64>() * 1e9).round() as u64
}

/// Waits in slices until `done`, within a minute.
pub async fn until(mut done: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.unwrap();
}
