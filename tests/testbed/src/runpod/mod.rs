//! RunPod serverless on loopback: the job API, the protocol of its workers, scaling, billing, and what goes wrong there.
//!
//! Shapes, limits and times are those of RunPod's documentation of 2026-08 and of its SDK 1.12.0, which both the
//! client's and the worker's side are tested with. What isn't documented (bodies of errors, say) is left plain.
//!
//! # Layout
//!
//! - this module: the stand-in, and what a test does with it
//! - `settings`: endpoints, workers, what goes wrong
//! - `state`: jobs, workers, what happens as time passes
//! - `scale`: workers start and end
//! - `client`: the job API
//! - `worker`: what workers ask and tell
//! - `rest`: endpoints, workers, prices
//! - `gate`: what every request passes: keys, limits, scripted replies

mod client;
mod gate;
mod rest;
mod scale;
mod settings;
mod state;
mod worker;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, extract::DefaultBodyLimit, middleware};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use self::state::State;
pub use self::{
    scale::Bill,
    settings::{EndpointSettings, Fate, Scaler, Settings, Trouble, WorkerCommand},
};
use crate::{Link, Proxy, Weather};

/// The stand-in. It ends, with all its workers, when dropped.
#[derive(Debug)]
pub struct RunPod {
    shared: Arc<Shared>,
    proxy: Proxy,
    tasks: Vec<JoinHandle<()>>,
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Such as `run`, `status`, `job-take`.
    pub operation: String,
    /// Path and query.
    pub path: String,
    /// The body.
    pub body: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) key: String,
    /// Where workers and clients without a network between come in.
    pub(crate) address: SocketAddr,
    began: Instant,
    speed: f64,
    /// Seconds by which the clock in replies is wrong.
    pub(crate) skew: AtomicI64,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

impl Shared {
    /// The platform's time since it began.
    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed().mul_f64(self.speed)
    }

    /// How long a time of the platform takes here.
    pub(crate) fn real(&self, time: Duration) -> Duration {
        time.div_f64(self.speed)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something happened: whoever waits looks again.
    pub(crate) fn changed(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    /// Waits until `look` finds something, at most for `limit` of the platform's time.
    pub(crate) async fn until<T>(
        &self,
        limit: Duration,
        mut look: impl FnMut(&mut State, Duration) -> Option<T>,
    ) -> Option<T> {
        let mut changes = self.changes.subscribe();
        let deadline = tokio::time::Instant::now() + self.real(limit);
        loop {
            changes.borrow_and_update();
            let found = look(&mut self.state(), self.now());
            if found.is_some() {
                self.changed();
                return found;
            }
            match tokio::time::timeout_at(deadline, changes.changed()).await {
                Ok(Ok(())) => {}
                _ => return None,
            }
        }
    }
}

impl RunPod {
    /// Begins to listen.
    ///
    /// # Errors
    /// Where there is no port.
    pub async fn start(settings: Settings) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            key: settings.api_key,
            address,
            began: Instant::now(),
            speed: settings.speed,
            skew: AtomicI64::new(0),
            state: Mutex::new(State::new(settings.endpoints)),
            changes: watch::channel(0).0,
        });
        let app = Router::new()
            .merge(client::routes())
            .merge(worker::routes())
            .merge(rest::routes())
            .layer(middleware::from_fn_with_state(shared.clone(), gate::pass))
            .layer(DefaultBodyLimit::disable())
            .with_state(shared.clone());
        let serving = tokio::spawn(async move {
            // It ends with the test.
            let _ = axum::serve(listener, app).await;
        });
        let passing = tokio::spawn(scale::run(shared.clone()));
        let proxy = Proxy::start(address, Weather::fair()).await?;
        Ok(Self { shared, proxy, tasks: vec![serving, passing] })
    }

    /// The base of the job API, through a network that may fail.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}/v2", self.proxy.address())
    }

    /// The base of the REST API, version 2.
    #[must_use]
    pub fn rest_url(&self) -> String {
        format!("http://{}/rest/v2", self.proxy.address())
    }

    /// The base of the REST API, version 1.
    #[must_use]
    pub fn manage_url(&self) -> String {
        format!("http://{}/rest/v1", self.proxy.address())
    }

    /// The base of the job API, with nothing between.
    #[must_use]
    pub fn direct_url(&self) -> String {
        format!("http://{}/v2", self.shared.address)
    }

    /// What happens on the network from here on.
    pub fn weather(&self, weather: Weather) {
        self.proxy.set(weather);
    }

    /// How slow the network is from here on.
    pub fn slow(&self, link: Link) {
        self.proxy.slow(link);
    }

    /// Bytes on the network so far, both ways.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let (there, back) = self.proxy.bytes();
        there + back
    }

    /// Exchanges on the network so far.
    #[must_use]
    pub fn exchanges(&self) -> usize {
        self.proxy.exchanges()
    }

    /// Faults that exchanges met, by name.
    #[must_use]
    pub fn met(&self) -> BTreeMap<&'static str, usize> {
        self.proxy.met()
    }

    /// The next request for `operation` (such as `run` or `job-done`) meets this; further ones after those scripted before.
    pub fn script(&self, operation: &'static str, trouble: Trouble) {
        self.shared.state().script.push_back((operation, trouble));
    }

    /// What happens to workers of an endpoint from here on.
    pub fn set_fate(&self, endpoint: &str, fate: Fate) {
        if let Some(endpoint) = self.shared.state().endpoints.get_mut(endpoint) {
            endpoint.fate = fate;
        }
        self.shared.changed();
    }

    /// What happens to workers of endpoints that are made from here on.
    pub fn set_new_fate(&self, fate: Fate) {
        self.shared.state().new_fate = fate;
    }

    /// Replies tell a time that is wrong by so many seconds.
    pub fn set_skew(&self, seconds: i64) {
        self.shared.skew.store(seconds, Ordering::Relaxed);
    }

    /// The requests for an operation so far; all where it is empty.
    #[must_use]
    pub fn seen(&self, operation: &str) -> Vec<Seen> {
        let state = self.shared.state();
        state.seen.iter().filter(|seen| operation.is_empty() || seen.operation == operation).cloned().collect()
    }

    /// How often jobs of an endpoint were handed to a worker.
    #[must_use]
    pub fn executions(&self, endpoint: &str) -> u32 {
        self.shared.state().endpoints.get(endpoint).map_or(0, |endpoint| endpoint.executions)
    }

    /// Jobs of an endpoint that wait or run.
    #[must_use]
    pub fn live_jobs(&self, endpoint: &str) -> usize {
        let state = self.shared.state();
        state.endpoints.get(endpoint).map_or(0, |endpoint| endpoint.jobs.values().filter(|job| !job.is_over()).count())
    }

    /// Workers of an endpoint, in whatever state.
    #[must_use]
    pub fn workers(&self, endpoint: &str) -> usize {
        self.shared.state().endpoints.get(endpoint).map_or(0, |endpoint| endpoint.workers.len())
    }

    /// What the workers of an endpoint cost so far.
    #[must_use]
    pub fn bill(&self, endpoint: &str) -> Bill {
        let now = self.shared.now();
        self.shared.state().endpoints.get(endpoint).map_or_else(Bill::default, |endpoint| endpoint.bill(now))
    }

    /// Sends a signal (`KILL`, `ABRT`) to the workers that run a job: to the process alone, not to what it started.
    /// How many there were.
    pub fn signal_running(&self, endpoint: &str, signal: &str) -> usize {
        let pids = self.running(endpoint);
        pids.iter().for_each(|pid| scale::signal(signal, &pid.to_string()));
        pids.len()
    }

    /// Sends a signal to the workers that run a job, and to what they started: as when a container dies. How many there
    /// were.
    pub fn signal_containers(&self, endpoint: &str, signal: &str) -> usize {
        let pids = self.running(endpoint);
        pids.iter().for_each(|pid| scale::signal(signal, &format!("-{pid}")));
        pids.len()
    }

    fn running(&self, endpoint: &str) -> Vec<u32> {
        self.shared.state().endpoints.get(endpoint).map_or_else(Vec::new, |endpoint| endpoint.running_pids())
    }

    /// Waits until `enough` holds of what was handed to workers of an endpoint.
    pub async fn until_executions(&self, endpoint: &str, enough: u32) {
        let long = Duration::from_secs(60).mul_f64(self.shared.speed);
        let look = |state: &mut State, _| (state.endpoints.get(endpoint)?.executions >= enough).then_some(());
        self.shared.until(long, look).await;
    }
}

impl Drop for RunPod {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        for endpoint in self.shared.state().endpoints.values_mut() {
            endpoint.end_all();
        }
    }
}
