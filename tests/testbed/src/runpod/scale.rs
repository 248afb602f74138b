//! Workers start and end, and are billed meanwhile.

use std::{
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use super::{
    Shared,
    settings::{Fate, Scaler},
    state::{Endpoint, Status, Worker, WorkerPhase},
};

/// How long a crashed worker is left before it is started again.
const AGAIN: Duration = Duration::from_secs(10);
/// Longest time after which things are looked at again.
const LONGEST: Duration = Duration::from_secs(5);

/// What the workers that are gone have cost.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Meter {
    pub(crate) bill: Bill,
    /// Of all jobs that have ended.
    pub(crate) execution: Duration,
}

/// What the workers of an endpoint cost: from the start of their container to the end of their idle time-out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bill {
    /// Workers that were billed.
    pub workers: u32,
    /// Seconds, rounded up for each worker.
    pub seconds: u64,
    /// Of those, how long containers and models started.
    pub start: Duration,
    /// Of those, how long jobs ran.
    pub execution: Duration,
    /// Dollars, in billionths.
    pub nano_usd: u64,
}

impl Bill {
    fn add(&mut self, worker: &Worker, now: Duration, nano_usd_per_second: u64) {
        let Some(from) = worker.billed_from else { return };
        let seconds = now.saturating_sub(from).as_millis().div_ceil(1000);
        let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
        self.workers += 1;
        self.seconds += seconds;
        self.start += worker.ready.unwrap_or(now).saturating_sub(from);
        self.nano_usd += seconds * nano_usd_per_second;
    }
}

/// Lets time pass.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut changes = shared.changes.subscribe();
    loop {
        changes.borrow_and_update();
        let now = shared.now();
        let mut next = now + LONGEST;
        let mut starts = Vec::new();
        {
            let mut state = shared.state();
            for endpoint in state.endpoints.values_mut() {
                let jobs = endpoint.pass_jobs(now);
                let workers = endpoint.pass_workers(now);
                next = [jobs, workers].into_iter().flatten().fold(next, Duration::min);
                let id = endpoint.settings.id.clone();
                starts.extend(endpoint.due_to_start().into_iter().map(|worker| (id.clone(), worker)));
            }
        }
        for (endpoint, worker) in starts {
            start(&shared, &endpoint, &worker);
        }
        // Long polls look at what time has changed; this loop has seen it.
        shared.changed();
        changes.borrow_and_update();
        let rest = shared.real(next.saturating_sub(shared.now())).max(Duration::from_millis(1));
        let _ = tokio::time::timeout(rest, changes.changed()).await;
    }
}

impl Endpoint {
    fn desired(&self, now: Duration) -> usize {
        let live: Vec<_> = self.jobs.values().filter(|job| !job.is_over() && !job.policy.low_priority).collect();
        let wanted = match self.settings.scaler {
            _ if live.is_empty() => 0,
            Scaler::RequestCount(each) => live.len().div_ceil(each.max(1)),
            Scaler::QueueDelay(delay) => {
                let late = |job: &&&super::state::Job| job.status == Status::InQueue && now >= job.submitted + delay;
                let running = live.iter().filter(|job| job.status == Status::InProgress).count();
                (running + usize::from(live.iter().any(|job| late(&job)))).max(1)
            }
        };
        wanted.clamp(self.settings.workers_min, self.settings.workers_max)
    }

    /// What is due for workers; when the next thing is.
    fn pass_workers(&mut self, now: Duration) -> Option<Duration> {
        if self.settings.worker.is_none() && self.fate == Fate::Well {
            return None;
        }
        let desired = self.desired(now);
        let own = self.workers.values().filter(|worker| !worker.is_foreign).count();
        if self.fate != Fate::NoCapacity {
            for _ in own..desired {
                let id = self.name("worker");
                let phase = match self.fate {
                    Fate::Throttled => WorkerPhase::Throttled,
                    _ => WorkerPhase::Pulling(now + self.settings.image_pull),
                };
                self.workers.insert(id, Worker::new(phase));
            }
        }
        let mut next: Option<Duration> = None;
        let mut at = |time: Duration| next = Some(next.map_or(time, |next| next.min(time)));
        let mut gone = Vec::new();
        let mut left = self.workers.len();
        for (id, worker) in &mut self.workers {
            match (worker.phase, self.fate) {
                (WorkerPhase::Throttled, fate) if fate != Fate::Throttled => {
                    worker.phase = WorkerPhase::Pulling(now + self.settings.image_pull);
                    at(now);
                }
                (WorkerPhase::Pulling(until), _) if until <= now => {
                    worker.billed_from = Some(now);
                    worker.phase = WorkerPhase::Starting(now + self.settings.cold_start);
                    at(now + self.settings.cold_start);
                }
                (WorkerPhase::Starting(until), Fate::CrashLoop) if until <= now => {
                    self.meter.bill.add(worker, now, self.settings.nano_usd_per_second);
                    worker.billed_from = None;
                    worker.phase = WorkerPhase::Unhealthy(now + AGAIN);
                    at(now + AGAIN);
                }
                (WorkerPhase::Unhealthy(until), _) if until <= now && desired > 0 => {
                    *worker = Worker::new(WorkerPhase::Pulling(now));
                    at(now);
                }
                (WorkerPhase::Pulling(until) | WorkerPhase::Starting(until) | WorkerPhase::Unhealthy(until), _)
                    if until > now =>
                {
                    at(until);
                }
                // The SDK only says that it wants to be ended: the platform does it.
                (WorkerPhase::Idle(_), _) if !worker.is_foreign && worker.is_leaving => {
                    gone.push(id.clone());
                    left -= 1;
                }
                (WorkerPhase::Idle(since), _) if !worker.is_foreign && left > self.settings.workers_min => {
                    let end = since + self.settings.idle_timeout;
                    if end > now {
                        at(end);
                    } else if worker.stops.is_empty() {
                        gone.push(id.clone());
                        left -= 1;
                    }
                }
                _ => {}
            }
        }
        for id in gone {
            if let Some(worker) = self.workers.remove(&id) {
                self.meter.bill.add(&worker, now, self.settings.nano_usd_per_second);
                if let Some(pid) = worker.pid {
                    self.gone.push(pid);
                    signal("TERM", &pid.to_string());
                }
            }
        }
        next
    }

    /// Workers whose process is due.
    fn due_to_start(&self) -> Vec<String> {
        let is_due = |worker: &Worker| matches!(worker.phase, WorkerPhase::Starting(_)) && worker.pid.is_none();
        if self.fate == Fate::CrashLoop {
            return Vec::new();
        }
        self.workers.iter().filter(|(_, worker)| is_due(worker)).map(|(id, _)| id.clone()).collect()
    }

    pub(crate) fn running_pids(&self) -> Vec<u32> {
        let running = self.workers.values().filter(|worker| worker.phase == WorkerPhase::Running);
        running.filter_map(|worker| worker.pid).collect()
    }

    pub(crate) fn bill(&self, now: Duration) -> Bill {
        let mut bill = self.meter.bill;
        self.workers.values().for_each(|worker| bill.add(worker, now, self.settings.nano_usd_per_second));
        let taken = self.jobs.values().filter(|job| !job.is_over()).filter_map(|job| job.taken);
        bill.execution = self.meter.execution + taken.map(|taken| now.saturating_sub(taken)).sum::<Duration>();
        bill
    }

    /// Kills every worker, with what it has started.
    pub(crate) fn end_all(&mut self) {
        let live = self.workers.values_mut().filter_map(|worker| worker.pid.take());
        for pid in live.chain(self.gone.drain(..)) {
            signal("KILL", &format!("-{pid}"));
        }
    }

    /// The process of a worker is gone.
    fn ended(&mut self, id: &str, now: Duration) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        self.meter.bill.add(worker, now, self.settings.nano_usd_per_second);
        self.gone.extend(worker.pid);
        // Its jobs stay as they are: nobody is told.
        let mut dead = Worker::new(WorkerPhase::Unhealthy(now + AGAIN));
        dead.jobs = std::mem::take(&mut worker.jobs);
        *worker = dead;
    }
}

impl Worker {
    fn new(phase: WorkerPhase) -> Self {
        Self {
            phase,
            pid: None,
            billed_from: None,
            ready: None,
            jobs: Vec::new(),
            stops: Vec::new(),
            is_foreign: false,
            is_leaving: false,
        }
    }

    /// One that somebody else has started.
    pub(crate) fn foreign(now: Duration) -> Self {
        Self { is_foreign: true, billed_from: Some(now), ready: Some(now), ..Self::new(WorkerPhase::Idle(now)) }
    }
}

/// Starts a worker's process.
fn start(shared: &Arc<Shared>, endpoint: &str, id: &str) {
    let mut state = shared.state();
    let Some(endpoint_state) = state.endpoints.get_mut(endpoint) else { return };
    let now = shared.now();
    let Some(worker) = endpoint_state.workers.get_mut(id) else { return };
    match worker.phase {
        WorkerPhase::Starting(until) if until <= now => {}
        _ => return,
    }
    let Some(given) = &endpoint_state.settings.worker else { return };
    let base = format!("http://{}/v2/{endpoint}", shared.address);
    let gpu = endpoint_state.settings.gpu.replace(' ', "%20");
    let mut command = tokio::process::Command::new(&given.program);
    command
        .args(&given.args)
        .env("RUNPOD_WEBHOOK_GET_JOB", format!("{base}/job-take/$ID?gpu={gpu}"))
        .env("RUNPOD_WEBHOOK_POST_OUTPUT", format!("{base}/job-done/$RUNPOD_POD_ID/$ID?gpu={gpu}"))
        .env("RUNPOD_WEBHOOK_POST_STREAM", format!("{base}/job-stream/$RUNPOD_POD_ID/$ID?gpu={gpu}"))
        .env("RUNPOD_WEBHOOK_PING", format!("{base}/ping/$RUNPOD_POD_ID"))
        .env("RUNPOD_AI_API_KEY", &shared.key)
        .env("RUNPOD_POD_ID", id)
        .env("RUNPOD_POD_HOSTNAME", id)
        .env("RUNPOD_ENDPOINT_ID", endpoint)
        .env("RUNPOD_PING_INTERVAL", "10000")
        .env("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS", "true")
        .env("RUNPOD_SKIP_GPU_CHECK", "true")
        .envs(given.env.iter().map(|(name, value)| (name, value)))
        // As in a container.
        .stdin(Stdio::null());
    let log = given.log.as_ref().and_then(|path| std::fs::File::options().create(true).append(true).open(path).ok());
    match log.and_then(|log| Some((log.try_clone().ok()?, log))) {
        Some((out, err)) => command.stdout(out).stderr(err),
        None => command.stdout(Stdio::null()).stderr(Stdio::null()),
    };
    #[cfg(unix)]
    command.process_group(0);
    let Ok(mut child) = command.spawn() else { return endpoint_state.ended(id, now) };
    worker.pid = child.id();
    worker.phase = WorkerPhase::Booting;
    let (shared, endpoint, id, pid) = (shared.clone(), endpoint.to_string(), id.to_string(), child.id());
    tokio::spawn(async move {
        let _ = child.wait().await;
        let now = shared.now();
        if let Some(endpoint) = shared.state().endpoints.get_mut(&endpoint)
            && endpoint.workers.get(&id).is_some_and(|worker| worker.pid == pid)
        {
            endpoint.ended(&id, now);
        }
        shared.changed();
    });
}

/// Sends a signal to a process, or to a group of them.
pub(crate) fn signal(name: &str, target: &str) {
    // What is gone already needs none.
    let _ = Command::new("kill").args([&format!("-{name}"), "--", target]).stderr(Stdio::null()).status();
}
