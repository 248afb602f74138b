//! Endpoints, workers, what goes wrong.

use std::{path::PathBuf, time::Duration};

/// What the stand-in is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The key that clients and workers must show.
    pub api_key: String,
    /// How much faster its time passes than ours.
    pub speed: f64,
    /// The endpoints.
    pub endpoints: Vec<EndpointSettings>,
}

impl Settings {
    /// One endpoint, at the speed of our time.
    #[must_use]
    pub fn one(api_key: &str, endpoint: EndpointSettings) -> Self {
        Self { api_key: api_key.into(), speed: 1.0, endpoints: vec![endpoint] }
    }
}

/// An endpoint.
#[derive(Clone, Debug)]
pub struct EndpointSettings {
    /// Its id.
    pub id: String,
    /// What its workers have.
    pub gpu: String,
    /// What a second of a worker costs, in billionths of a dollar.
    pub nano_usd_per_second: u64,
    /// Workers that are always there.
    pub workers_min: usize,
    /// Workers at most.
    pub workers_max: usize,
    /// How long a worker without a job is kept, and billed.
    pub idle_timeout: Duration,
    /// How long a job may run that says nothing of it.
    pub execution_timeout: Duration,
    /// Until an image is there: not billed.
    pub image_pull: Duration,
    /// From there to the start of the worker's process: billed.
    pub cold_start: Duration,
    /// When workers are added.
    pub scaler: Scaler,
    /// How a worker is started. None: somebody else starts them.
    pub worker: Option<WorkerCommand>,
}

impl EndpointSettings {
    /// An endpoint with RunPod's defaults, at the price of an RTX 4090, whose workers start at once.
    #[must_use]
    pub fn new(id: &str, worker: Option<WorkerCommand>) -> Self {
        Self {
            id: id.into(),
            gpu: "NVIDIA GeForce RTX 4090".into(),
            nano_usd_per_second: 310_000,
            workers_min: 0,
            workers_max: 3,
            idle_timeout: Duration::from_secs(5),
            execution_timeout: Duration::from_secs(600),
            image_pull: Duration::ZERO,
            cold_start: Duration::ZERO,
            scaler: Scaler::RequestCount(1),
            worker,
        }
    }
}

/// When workers are added.
#[derive(Clone, Copy, Debug)]
pub enum Scaler {
    /// One, and another once a job has waited for this long.
    QueueDelay(Duration),
    /// One for so many jobs.
    RequestCount(usize),
}

/// How a worker is started.
#[derive(Clone, Debug)]
pub struct WorkerCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables besides those of the platform.
    pub env: Vec<(String, String)>,
    /// Where its output goes.
    pub log: Option<PathBuf>,
}

/// What happens to the workers of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// They start.
    Well,
    /// Their process dies as soon as it has started, again and again.
    CrashLoop,
    /// Their host has no capacity for them.
    Throttled,
    /// There are none.
    NoCapacity,
}

/// What happens to one request.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// This comes back, and nothing is done.
    Reply {
        /// The status.
        status: u16,
        /// Headers.
        headers: Vec<(&'static str, String)>,
        /// The body.
        body: String,
    },
    /// It is done this much later.
    Slow(Duration),
    /// For `status`: the job seems to be in this state.
    Status(&'static str),
    /// For `job-done`: the result is taken and lost.
    LoseResult,
    /// For `job-take`: the job that is handed out stays in the queue too.
    Twice,
}

impl Trouble {
    /// A reply of this status and body.
    #[must_use]
    pub fn reply(status: u16, body: &str) -> Self {
        Self::Reply { status, headers: Vec::new(), body: body.into() }
    }
}
