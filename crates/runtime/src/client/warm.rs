//! Keeps the worker of the last task while the client does something else, where that is cheaper than another start.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use outboard_core::{
    ComputeProvider, ComputeProviderExt, Layer, NanoUsd, Result, Retry, Task,
    code::{self, Code},
    error::Error,
    finding::Finding,
    layer,
    provider::PriceModel,
    task::{Architecture, Operation, PredictTask, TaskState},
};
use outboard_ledger::{Cap, Ledger, Reservation, Reserved, Settlement};
use outboard_protocol::{Checkpoint, Dataset, Position, Target, initial};
use outboard_router::Between;
use outboard_store::FolderStore;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{Client, dispatch::billed_time};

/// Longest time of a request that does nothing.
const LIMIT: Duration = Duration::from_secs(5);
/// How long it is waited for once the gap is over, and then for the end of its cancellation.
const PATIENCE: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(30)];
/// How long its reservation holds where nobody settles it.
const HELD: Duration = Duration::from_secs(3600);
/// How long before the idle time-out it is sent: the way there takes a while.
const AHEAD: Duration = Duration::from_secs(2);

/// What was done between the tasks of a job to keep workers that were idle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Requests that did nothing.
    pub requests: u32,
    /// What they cost.
    pub cost: NanoUsd,
    /// The longest gap between two tasks, in seconds.
    pub longest_gap: f64,
    /// For how long the provider keeps an idle worker by itself, in seconds; zero where it doesn't, or bills nothing.
    pub idle: f64,
    /// Requests for which a budget had no room.
    pub refused: u32,
}

impl Kept {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.cost = NanoUsd(self.cost.0.saturating_add(other.cost.0));
        self.longest_gap = self.longest_gap.max(other.longest_gap);
        self.idle = other.idle;
        self.refused += other.refused;
    }
}

/// A worker that has nothing to do, and what keeping it takes.
#[derive(Debug)]
pub(super) struct IdleWorker {
    pub(super) ledger: Ledger,
    pub(super) store: FolderStore,
    pub(super) caps: Vec<Cap>,
    pub(super) provider: Arc<dyn ComputeProvider>,
    pub(super) price: PriceModel,
    pub(super) between: Between,
    /// Since when.
    pub(super) since: Instant,
    pub(super) job: String,
    /// Attempts of the job so far.
    pub(super) attempts: usize,
}

/// Between a job's id and the rest of a key: the task only kept a worker.
const KEEPING: &str = "/keep/";

/// Whether a task of this key only kept a worker.
pub(super) fn is_keeping(key: &str) -> bool {
    key.contains(KEEPING)
}

/// What became of one request.
enum Asked {
    /// It kept the worker, which is idle again since then.
    Answered(NanoUsd, Instant),
    /// A budget has no room for it.
    Refused,
    /// It failed; what it cost at most.
    Failed(NanoUsd),
}

impl IdleWorker {
    /// Does `work` and keeps the worker meanwhile, as long as that is worth it. A request that is under way when
    /// the work is done is waited for, so that the next task doesn't find the worker busy.
    pub(super) async fn during<T>(self, kept: &mut Kept, work: impl Future<Output = T>) -> T {
        let over = Notify::new();
        let work = async {
            let done = work.await;
            over.notify_one();
            done
        };
        let (done, asked) = tokio::join!(work, self.keep(&over));
        kept.add(Kept {
            longest_gap: self.since.elapsed().as_secs_f64(),
            idle: self.between.idle.as_secs_f64(),
            ..asked
        });
        done
    }

    /// Sends requests, each just before the idle time-out, until `over`, or as long as it is worth it.
    async fn keep(&self, over: &Notify) -> Kept {
        let mut kept = Kept::default();
        let Between { idle, until, .. } = self.between;
        let mut since = self.since;
        loop {
            let due = since + idle - AHEAD.min(idle / 4);
            let is_worth_it = due.duration_since(self.since) < until && until > idle;
            // One that comes too late would start a worker.
            let is_late = Instant::now() > since + idle;
            if !is_worth_it || is_late {
                return kept;
            }
            tokio::select! {
                biased;
                () = over.notified() => return kept,
                () = tokio::time::sleep_until(due.into()) => {}
            }
            match self.ask(kept.requests, over).await {
                Ok(Asked::Answered(cost, idle_since)) => {
                    kept.add(Kept { requests: 1, cost, ..Kept::default() });
                    since = idle_since;
                }
                Ok(Asked::Refused) => {
                    kept.refused += 1;
                    return kept;
                }
                Ok(Asked::Failed(cost)) => {
                    kept.add(Kept { requests: 1, cost, ..Kept::default() });
                    return kept;
                }
                Err(error) => {
                    tracing::warn!(job = self.job, %error, "the worker could not be kept warm");
                    return kept;
                }
            }
        }
    }

    /// One request: reserved, handed over, settled.
    async fn ask(&self, number: u32, over: &Notify) -> Result<Asked> {
        let key = format!("{}{KEEPING}{}.{}", self.job, self.attempts, number + 1);
        let limit = self.provider.capabilities().max_task_time.map_or(LIMIT, |most| most.min(LIMIT));
        let task = Task {
            attempt: key.clone(),
            key: key.clone(),
            job: self.job.clone(),
            operation: nothing(&self.store)?,
            limit: Some(limit),
        };
        let worst = self.price.worst(limit);
        let bytes = serde_json::to_vec(&task)
            .map_err(|e| Error::new(outboard_core::ErrorKind::Unexpected, "a task cannot be encoded").because(e))?;
        let reservation = Reservation {
            attempt: key.clone(),
            job: self.job.clone(),
            sweep: None,
            task_key: key.clone(),
            provider: self.provider.info().id.clone(),
            local: false,
            amount: worst,
            expires_at: SystemTime::now() + HELD,
            submitting: Some(bytes),
        };
        if let Reserved::Refused(refusal) = self.ledger.reserve(&reservation, &self.caps).await? {
            tracing::info!(job = self.job, ?refusal, "the budget has no room to keep the worker warm");
            return Ok(Asked::Refused);
        }
        let id = match self.provider.submit(&task).await {
            Ok(id) => id,
            Err(error) => {
                tracing::info!(attempt = key, %error, "the worker could not be kept warm");
                if matches!(error.retry(), Retry::Unknown { .. }) {
                    self.ledger.assume(&key).await?;
                    return Ok(Asked::Failed(worst));
                }
                self.ledger.release(&key).await?;
                return Ok(Asked::Failed(NanoUsd::ZERO));
            }
        };
        let handed = Instant::now();
        self.ledger.accepted(&key, &id.0).await?;
        let stop = async {
            over.notified().await;
            // The work waits for nobody else.
            over.notify_one();
            tokio::time::sleep(PATIENCE[0]).await;
        };
        let followed = self.provider.follow(&id, stop, |_| {});
        let longest = limit + PATIENCE[1] + self.price.overhead;
        let state = match tokio::time::timeout(longest, followed).await {
            Ok(Ok(state)) => state,
            Ok(Err(_)) | Err(_) => {
                self.ledger.assume(&key).await?;
                return Ok(Asked::Failed(worst));
            }
        };
        let Some(usage) = &state.usage else {
            self.ledger.assume(&key).await?;
            return Ok(Asked::Failed(worst));
        };
        let billed = billed_time(usage);
        let cost = self.price.cost(billed);
        let outcome = "kept the worker".to_string();
        let settlement = Settlement { cost, billed: Some(billed), outcome, is_assumed: false };
        self.ledger.settle(&key, &settlement, None).await?;
        tracing::info!(attempt = key, %cost, "kept the worker warm");
        let idle_since = idle_since(handed, &state);
        Ok(match state.outcome() {
            Ok(_) => Asked::Answered(cost, idle_since),
            Err(_) => Asked::Failed(cost),
        })
    }
}

/// When the worker of an ended task had nothing to do any more.
pub(super) fn idle_since(handed: Instant, state: &TaskState) -> Instant {
    let timings = state.usage.unwrap_or_default().timings;
    let queue = Duration::try_from_secs_f64(timings.queue).unwrap_or_default();
    (handed + queue + timings.running()).min(Instant::now())
}

/// What every worker can do, and nobody needs: the outputs of a tiny model for one row.
fn nothing(store: &FolderStore) -> Result<Operation> {
    let model = Architecture { layers: vec![Layer::Linear { out: 1, bias: true }], input: vec![1] };
    let plan = layer::plan(&model.layers, &model.input)?;
    let tensors = initial::weights(&plan, 0).into_iter().map(|(name, t)| (format!("model.{name}"), t)).collect();
    let weights = Checkpoint { position: Position::start("warm", 0), tensors }.encode()?;
    let y = Target::Classes(std::iter::once(0).collect());
    let data = Dataset { shape: vec![1], x: std::iter::once(0.0).collect(), y, weights: None }.encode()?;
    Ok(Operation::Predict(PredictTask { model, weights: store.write(&weights)?, data: store.write(&data)? }))
}

impl Client {
    /// What keeping a provider's workers warm would come to, in words. None where nothing is known of it.
    ///
    /// # Errors
    /// Those of the ledger.
    pub(crate) async fn warmth(&self, id: &str) -> Result<Option<Finding>> {
        const CODE: Code = code::RUNPOD_WARM;
        let known = self.providers().await?.enabled;
        let Some(candidate) = known.iter().find(|candidate| candidate.id == id) else { return Ok(None) };
        let Some(warmth) = outboard_router::Warmth::of(candidate, &self.config.router.terms()) else { return Ok(None) };
        let start = candidate.learned.cold_start;
        let basis = if start.observations == 0 { "as assumed" } else { "as measured" };
        let between = warmth.between(&candidate.gaps, u32::try_from(candidate.gaps.len()).unwrap_or(u32::MAX));
        let told = format!(
            "a start takes {:.1} s ({basis}): for gaps of up to {:.0} s between tasks a worker is cheaper kept warm; {between}",
            start.value,
            between.break_even.as_secs_f64(),
        );
        Ok(Some(match between.longer {
            None => Finding::pass(CODE, id, told),
            Some(longer) => {
                let remedy = format!(
                    "set the endpoint's idle time-out to {longer:?}, and `providers.runpod.idle_timeout = \"{longer:?}\"` with it"
                );
                Finding::warn(CODE, id, told, remedy)
            }
        }))
    }
}
