//! RunPod's stand-in with RunPod's own worker SDK, and users whose jobs run there.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::{fs, path::PathBuf, sync::OnceLock, time::Duration};

use outboard_e2e::User;
use outboard_testbed::{
    RunPod,
    runpod::{EndpointSettings, Settings, WorkerCommand},
};
use tempfile::TempDir;

#[path = "../../../../crates/store/tests/common/mod.rs"]
pub mod s3;

pub const KEY: &str = "rpa_0123456789abcdef-e2e";
/// Names a Python with the packages of `tests/requirements.txt`; `cargo xtask test runpod` sets it.
const PYTHON: &str = "OUTBOARD_RUNPOD_PYTHON";

pub fn python(test: &str) -> Option<PathBuf> {
    let python = std::env::var_os(PYTHON).map(PathBuf::from);
    if python.is_none() {
        println!("skipped: {test}: {PYTHON} is not set; `cargo xtask test runpod` sets it");
    }
    python
}

/// The stand-in, with a bucket or without.
pub struct Platform {
    pub runpod: RunPod,
    pub server: Option<s3::Server>,
    endpoints: Vec<String>,
    _folder: TempDir,
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
        let folder = tempfile::tempdir().unwrap();
        let worker = concat!(env!("CARGO_MANIFEST_DIR"), "/../testbed/python/envelope_worker.py");
        let command = WorkerCommand {
            program: python,
            args: vec![worker.into()],
            env: vec![
                ("OUTBOARD_RUN_ENVELOPE".into(), env!("CARGO_BIN_EXE_e2e-envelope").into()),
                ("OUTBOARD_WORKER_STORE".into(), folder.path().join("worker").to_str().unwrap().into()),
            ],
            log: std::env::var_os("OUTBOARD_RUNPOD_LOG").map(Into::into),
        };
        let endpoint = |id: &&str| {
            let mut endpoint = EndpointSettings::new(id, Some(command.clone()));
            adjust(&mut endpoint);
            endpoint
        };
        let settings = Settings { api_key: KEY.into(), speed, endpoints: ids.iter().map(endpoint).collect() };
        let endpoints = ids.iter().map(ToString::to_string).collect();
        Self { runpod: RunPod::start(settings).await.unwrap(), server, endpoints, _folder: folder }
    }

    /// `outboard.toml` for it.
    pub fn toml(&self, more: &str) -> String {
        let endpoints: Vec<_> =
            self.endpoints.iter().map(|id| format!("{{ id = \"{id}\", gpu = \"RTX 4090\" }}")).collect();
        let store = self.server.as_ref().map_or_else(String::new, |server| {
            format!(
                "[store]\nurl = \"s3://data/jobs/1\"\nendpoint = \"http://{}\"\naccess_key_id = \"KEY\"\n\
                 secret_access_key = \"s3cret\"\n",
                server.address
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
    MODEL.get_or_init(|| {
        let user = User::new();
        user.job(&LONG);
        let done = user.run(&["train", "job.toml", "--output", "out"]);
        assert_eq!(done.code, 0, "{}", done.stderr);
        model(&user)
    })
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
