//! Jobs, workers, what happens as time passes.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Seen,
    scale::Meter,
    settings::{EndpointSettings, Fate, Trouble},
};

/// How long a result is kept, after `run` and after `runsync`.
const KEPT: [Duration; 2] = [Duration::from_secs(30 * 60), Duration::from_secs(60)];

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) endpoints: BTreeMap<String, Endpoint>,
    /// As the REST API tells them.
    pub(crate) templates: Vec<Value>,
    /// Of endpoints that are made.
    pub(crate) new_fate: Fate,
    pub(crate) script: VecDeque<(&'static str, Trouble)>,
    pub(crate) seen: Vec<Seen>,
    /// Requests of the running ten seconds, by endpoint and operation.
    pub(crate) rates: BTreeMap<(String, String), (u64, u32)>,
}

#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) settings: EndpointSettings,
    /// Its name.
    pub(crate) title: String,
    /// Its template's id.
    pub(crate) template: String,
    pub(crate) fate: Fate,
    pub(crate) jobs: BTreeMap<String, Job>,
    pub(crate) queue: VecDeque<String>,
    pub(crate) workers: BTreeMap<String, Worker>,
    pub(crate) meter: Meter,
    /// Processes of workers that are gone: what they started may live on.
    pub(crate) gone: Vec<u32>,
    pub(crate) executions: u32,
    pub(crate) completed: u32,
    pub(crate) failed: u32,
    pub(crate) retried: u32,
    /// Names given so far.
    names: u32,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Policy {
    pub(crate) execution_timeout: Option<u64>,
    pub(crate) ttl: Option<u64>,
    pub(crate) low_priority: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    InQueue,
    InProgress,
    Completed,
    Failed,
    Cancelled,
    TimedOut,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::InQueue => "IN_QUEUE",
            Self::InProgress => "IN_PROGRESS",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
            Self::TimedOut => "TIMED_OUT",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) input: Value,
    pub(crate) policy: Policy,
    is_sync: bool,
    pub(crate) status: Status,
    pub(crate) submitted: Duration,
    pub(crate) taken: Option<Duration>,
    pub(crate) ended: Option<Duration>,
    pub(crate) worker: Option<String>,
    pub(crate) output: Option<Value>,
    pub(crate) error: Option<Value>,
    pub(crate) chunks: VecDeque<Value>,
}

impl Job {
    pub(crate) fn is_over(&self) -> bool {
        !matches!(self.status, Status::InQueue | Status::InProgress)
    }

    /// As `/status` tells it.
    pub(crate) fn body(&self, now: Duration) -> Value {
        let mut body = json!({ "id": self.id, "status": self.status.name() });
        let ms = |time: Duration| Value::from(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        if let Some(taken) = self.taken {
            body["delayTime"] = ms(taken.saturating_sub(self.submitted));
            body["workerId"] = self.worker.clone().into();
        }
        if let (Some(taken), true) = (self.taken, self.is_over()) {
            body["executionTime"] = ms(self.ended.unwrap_or(now).saturating_sub(taken));
        }
        if self.status == Status::Failed {
            body["input"] = self.input.clone();
        }
        if let Some(output) = &self.output {
            body["output"] = output.clone();
        }
        if let Some(error) = &self.error {
            body["error"] = error.clone();
        }
        body
    }
}

#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) phase: WorkerPhase,
    /// Of its process.
    pub(crate) pid: Option<u32>,
    /// Since when it is billed.
    pub(crate) billed_from: Option<Duration>,
    pub(crate) ready: Option<Duration>,
    pub(crate) jobs: Vec<String>,
    /// Jobs that it should stop, and wasn't told of yet.
    pub(crate) stops: Vec<String>,
    /// Started by somebody else.
    pub(crate) is_foreign: bool,
    /// Asked to be ended after its job.
    pub(crate) is_leaving: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WorkerPhase {
    /// The image is on its way, until then.
    Pulling(Duration),
    /// Its container starts; then the process does.
    Starting(Duration),
    /// Its process starts.
    Booting,
    Idle(Duration),
    Running,
    Throttled,
    /// Crashed; tried again then.
    Unhealthy(Duration),
}

impl WorkerPhase {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pulling(_) | Self::Starting(_) | Self::Booting => "INITIALIZING",
            Self::Idle(_) => "IDLE",
            Self::Running => "RUNNING",
            Self::Throttled => "THROTTLED",
            Self::Unhealthy(_) => "UNHEALTHY",
        }
    }
}

impl State {
    pub(crate) fn new(endpoints: Vec<EndpointSettings>) -> Self {
        let endpoint = |settings: EndpointSettings| (settings.id.clone(), Endpoint::new(settings));
        Self {
            endpoints: endpoints.into_iter().map(endpoint).collect(),
            templates: Vec::new(),
            new_fate: Fate::Well,
            script: VecDeque::new(),
            seen: Vec::new(),
            rates: BTreeMap::new(),
        }
    }
}

impl Endpoint {
    pub(crate) fn new(settings: EndpointSettings) -> Self {
        Self {
            title: settings.id.clone(),
            template: "template".into(),
            settings,
            fate: Fate::Well,
            jobs: BTreeMap::new(),
            queue: VecDeque::new(),
            workers: BTreeMap::new(),
            meter: Meter::default(),
            gone: Vec::new(),
            executions: 0,
            completed: 0,
            failed: 0,
            retried: 0,
            names: 0,
        }
    }

    pub(crate) fn name(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}{:08x}-{:04x}", fastrand::u32(..), self.names)
    }

    pub(crate) fn accept(&mut self, input: Value, policy: Policy, is_sync: bool, now: Duration) -> &Job {
        let id = self.name(if is_sync { "sync-" } else { "" }) + "-u1";
        let job = Job {
            id: id.clone(),
            input,
            policy,
            is_sync,
            status: Status::InQueue,
            submitted: now,
            taken: None,
            ended: None,
            worker: None,
            output: None,
            error: None,
            chunks: VecDeque::new(),
        };
        self.queue.push_back(id.clone());
        self.jobs.entry(id).or_insert(job)
    }

    /// Hands the next job to a worker.
    pub(crate) fn take(&mut self, worker: &str, now: Duration, is_twice: bool) -> Option<Value> {
        let id = self.queue.pop_front()?;
        if is_twice {
            self.queue.push_back(id.clone());
        }
        let job = self.jobs.get_mut(&id)?;
        job.status = Status::InProgress;
        job.taken = Some(now);
        job.worker = Some(worker.into());
        let body = json!({ "id": id, "input": job.input });
        self.executions += 1;
        if let Some(worker) = self.workers.get_mut(worker) {
            worker.jobs.push(id);
            worker.phase = WorkerPhase::Running;
        }
        Some(body)
    }

    /// A worker has nothing more to do with a job.
    pub(crate) fn release(&mut self, worker: &str, id: &str, now: Duration) {
        let Some(worker) = self.workers.get_mut(worker) else { return };
        let before = worker.jobs.len();
        worker.jobs.retain(|job| job != id);
        if worker.jobs.is_empty() && before > 0 && worker.phase == WorkerPhase::Running {
            worker.phase = WorkerPhase::Idle(now);
        }
    }

    /// Ends a job. Who runs it is told to stop.
    pub(crate) fn end(&mut self, id: &str, status: Status, now: Duration) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        job.status = status;
        job.ended = Some(now);
        let since = job.taken.map_or(Duration::ZERO, |taken| now.saturating_sub(taken));
        self.meter.execution += since;
        self.queue.retain(|queued| queued != id);
        self.stop(id);
    }

    fn stop(&mut self, id: &str) {
        for worker in self.workers.values_mut().filter(|worker| worker.jobs.iter().any(|job| job == id)) {
            worker.stops.push(id.into());
        }
    }

    /// What is due for jobs; when the next thing is.
    pub(crate) fn pass_jobs(&mut self, now: Duration) -> Option<Duration> {
        let ms = |given: Option<u64>, usual: Duration| given.map_or(usual, Duration::from_millis);
        let mut next: Option<Duration> = None;
        let (mut gone, mut late) = (Vec::new(), Vec::new());
        let mut due = |at: Duration| {
            if at > now {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
            at <= now
        };
        for (id, job) in &self.jobs {
            let ttl = job.submitted + ms(job.policy.ttl, Duration::from_secs(86_400));
            let end = match job.ended {
                Some(ended) => ended + KEPT[usize::from(job.is_sync)],
                None => ttl,
            };
            if due(end) {
                gone.push(id.clone());
            } else if let (Some(taken), Status::InProgress) = (job.taken, job.status)
                && due(taken + ms(job.policy.execution_timeout, self.settings.execution_timeout))
            {
                late.push(id.clone());
            }
        }
        for id in late {
            self.end(&id, Status::TimedOut, now);
            self.failed += 1;
        }
        for id in gone {
            self.stop(&id);
            self.queue.retain(|queued| *queued != id);
            self.jobs.remove(&id);
        }
        next
    }
}
