//! Hands tasks over: decides where, reserves what that may cost, settles what it did cost.

mod settle;

pub(super) use settle::billed_time;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::{FutureExt, future::Shared};
use outboard_core::{
    ComputeProvider, Error, ErrorKind, NanoUsd, Result, Task, TaskId,
    job::Routing,
    provider::PriceModel,
    task::{Operation, OperationKind},
};
use outboard_ledger::{Attempt, JobRow, Ledger, Reservation, Reserved, State};
use outboard_protocol::envelope::now;
use outboard_router::{
    Between, Budget, Candidate, Choice, Demand, History, OverBudget, Plan, Reason, Terms, Verdict, decide, survey,
};

use super::{
    Client,
    caps::Caps,
    warm::{IdleWorker, is_keeping},
};
use crate::record::Status;

/// Time between two looks whether running tasks gave something back of a budget.
const BUDGET_POLL: Duration = Duration::from_millis(500);

/// Time until a provider that failed gets another chance, where no other one is left; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// How long a job waits at its beginning for a provider that says it can't take it: a network may fail for a moment.
pub(super) const START_PATIENCE: Duration = Duration::from_secs(5);

/// How much longer than its limit an attempt may take, queue and transfers included, until nobody waits for it.
const SLACK: Duration = Duration::from_secs(2 * 3600);

/// A task without a limit is free, and nobody waits for its reservation.
const NO_LIMIT: Duration = Duration::from_secs(30 * 86_400);

/// Completes when the user wants the job to stop, or its deadline has passed, which it tells.
pub(super) type Stop = Shared<std::pin::Pin<Box<dyn Future<Output = bool> + Send>>>;

/// Hands over the tasks of one job.
#[derive(Debug)]
pub(super) struct Dispatcher {
    client: Client,
    ledger: Ledger,
    providers: Vec<Arc<dyn ComputeProvider>>,
    job: String,
    routing: Routing,
    caps: Caps,
    /// How long it waits for a provider at most.
    pub(super) patience: Duration,
    pub(super) history: History,
    /// Attempts that the ledger has of this job.
    attempts: usize,
    /// The worker of the last task, while it may be there.
    idle: Option<IdleWorker>,
}

/// A task that is about to be handed over, or was.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) provider: Arc<dyn ComputeProvider>,
    pub(super) task: Task,
    /// Its name there, once it is known to be accepted.
    pub(super) id: Option<TaskId>,
    /// Whether an earlier process handed it over.
    pub(super) resumed: bool,
    price: PriceModel,
    began: Instant,
    /// When it was handed over, if this process did it.
    handed: Option<Instant>,
    /// What becomes of its worker after it.
    between: Option<Between>,
}

impl Flight {
    /// How long the task can have run, as far as it was watched from here; never beyond its limit.
    fn watched(&self) -> Duration {
        let limit = self.task.limit.unwrap_or(Duration::MAX);
        // Since when it ran an earlier process knew.
        if self.resumed { limit } else { self.began.elapsed().min(limit) }
    }
}

impl Dispatcher {
    pub(super) async fn new(
        client: &Client,
        providers: Vec<Arc<dyn ComputeProvider>>,
        job: &str,
        max_cost: Option<NanoUsd>,
        routing: Routing,
    ) -> Result<Self> {
        let caps = Caps::new(&client.config.budget, job, max_cost, &providers);
        Ok(Self {
            client: client.clone(),
            ledger: client.ledger().await?.clone(),
            providers,
            job: job.into(),
            routing,
            caps,
            patience: client.config.router.patience.time,
            history: History::default(),
            attempts: 0,
            idle: None,
        })
    }

    /// Notes the job, before its first task.
    pub(super) async fn begin(&self, name: &str, folder: &Path, max_cost: Option<NanoUsd>) -> Result<()> {
        let row = JobRow {
            id: self.job.clone(),
            name: name.into(),
            folder: folder.display().to_string(),
            created_at: SystemTime::now(),
            max_cost,
            sweep: None,
            status: Status::Running.name().into(),
        };
        self.ledger.start_job(&row).await
    }

    /// What the job's own keys change of the configured terms.
    pub(super) fn terms(&self) -> Terms {
        let configured = self.client.config.router.terms();
        Terms {
            policy: self.routing.policy.unwrap_or(configured.policy),
            value_of_time: self.routing.value_of_time_usd_per_hour.unwrap_or(configured.value_of_time),
            local_fallback: self.routing.local_fallback.unwrap_or(configured.local_fallback),
            ..configured
        }
    }

    /// The attempt that an earlier process left, where its end isn't known.
    pub(super) async fn resume(&mut self) -> Result<Option<Flight>> {
        let attempts = self.ledger.attempts(&self.job).await?;
        self.attempts = attempts.len();
        let (requests, attempts): (Vec<_>, Vec<_>) = attempts.into_iter().partition(|one| is_keeping(&one.task_key));
        for request in requests.iter().filter(|request| request.state.is_live()) {
            // Its process has ended. What can't be stopped is charged in full when its time is up.
            self.client.stop(request).await?;
        }
        let Some(Attempt { state, provider, task: Some(task), task_id, id, .. }) = attempts.into_iter().next_back()
        else {
            return Ok(None);
        };
        if !(state.is_live() || state == State::Assumed) {
            return Ok(None);
        }
        let Some(provider) = self.providers.iter().find(|known| known.info().id == provider) else {
            tracing::warn!(attempt = id, provider, "a task was left on a provider that is no longer configured");
            self.ledger.assume(&id).await?;
            return Ok(None);
        };
        let damaged =
            |e| Error::new(ErrorKind::CorruptPayload, "the ledger's copy of a task cannot be read").because(e);
        Ok(Some(Flight {
            price: provider.price().await?,
            provider: provider.clone(),
            task: serde_json::from_slice(&task).map_err(damaged)?,
            id: task_id.map(TaskId),
            resumed: true,
            began: Instant::now(),
            handed: None,
            between: None,
        }))
    }

    /// Providers as the router sees them.
    pub(super) async fn candidates(&mut self) -> Result<Vec<Candidate>> {
        let router = &self.client.config.router;
        let candidates = survey(&self.providers, router.survey_timeout).await;
        let at = now();
        let mut taught = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            let known = self.client.observed.of(&self.ledger, &candidate.id).await?;
            taught.push(candidate.taught(&known, at, &router.breaker));
        }
        Ok(taught)
    }

    /// Decides where the next task would run.
    pub(super) async fn plan(&mut self, demand: &Demand) -> Result<Plan> {
        self.plan_without(demand, &[]).await
    }

    async fn plan_without(&mut self, demand: &Demand, refused: &[(String, Reason)]) -> Result<Plan> {
        let (candidates, at) = (self.candidates().await?, now());
        let budget = Budget {
            caps: self.caps.left(&self.ledger).await?,
            thresholds: self.client.config.budget.thresholds.clone(),
        };
        let mut demand = Demand {
            pins: self.routing.providers.clone(),
            terms: self.terms(),
            poisoned: self.history.poison(),
            ..demand.clone()
        };
        demand.excluded.extend(self.routing.exclude.iter().map(|id| (id.clone(), Reason::ExcludedByJob)));
        demand.excluded.extend(self.history.excluded());
        demand.excluded.extend(refused.iter().cloned());
        let plan = decide(&candidates, &demand, &budget, at);
        let is_late = plan.choice.is_none() && demand.deadline_left.is_some_and(|left| !left.is_zero());
        if is_late {
            // Better late than never: the job stops at its deadline, with a checkpoint.
            let unbound = Demand { deadline_left: None, ..demand };
            return Ok(decide(&candidates, &unbound, &budget, at));
        }
        Ok(plan)
    }

    /// Decides, reserves and notes what is about to be handed over. Waits while running tasks may give back what they
    /// hold of a budget.
    pub(super) async fn dispatch(
        &mut self,
        demand: &Demand,
        operation: impl Fn(&Choice) -> (String, Operation) + Send,
        stop: &Stop,
        mut say: impl FnMut(String) + Send,
    ) -> Result<(Flight, Plan)> {
        let began = Instant::now();
        let mut refused = Vec::new();
        let mut has_said = false;
        loop {
            let plan = self.plan_without(demand, &refused).await?;
            let Some(choice) = plan.choice.clone() else {
                let waited = began.elapsed();
                let Some((pause, for_what)) = self.pause(&plan, waited, demand.deadline_left) else {
                    return Err(self.refusal(&plan));
                };
                if !has_said {
                    let reasons = self.refusal(&plan);
                    let reasons: Vec<_> = reasons.context().iter().map(|(id, why)| format!("{id}: {why}")).collect();
                    say(format!("waiting for {for_what}: {}", reasons.join("; ")));
                    has_said = true;
                }
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    _ = stop.clone() => return Err(Error::new(ErrorKind::Cancelled, "the job was stopped")),
                }
                self.ledger.expire().await?;
                refused.clear();
                continue;
            };
            match self.reserve(plan, choice, &operation).await? {
                Ok(reserved) => return Ok(reserved),
                Err(reason) => refused.push(reason),
            }
        }
    }

    /// How long to wait where no provider can have the task now, and what for. Never longer than the configured
    /// patience.
    fn pause(&mut self, plan: &Plan, waited: Duration, deadline: Option<Duration>) -> Option<(Duration, &'static str)> {
        if plan.may_wait() && waited < self.client.config.budget.wait {
            return Some((BUDGET_POLL, "what running tasks may give back of a budget"));
        }
        let left = self.patience.checked_sub(waited).filter(|left| !left.is_zero())?;
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.history.failures().count().min(10));
        let bound = doubled.min(LONGEST_PAUSE);
        if self.history.forgive() {
            return Some((bound.mul_f64(fastrand::f64()), "a provider that failed"));
        }
        // At its beginning a job that can't run is soon told so; later there is something to lose. A pause ends by itself,
        // and when is known: it is waited for unless that is too late.
        let is_begun = self.attempts > 0;
        let left = left.min(deadline.map_or(left, |deadline| deadline.saturating_sub(waited)));
        let in_time = |pause: &Duration| is_begun || *pause <= left;
        let pauses = plan.rows.iter().filter_map(|row| match &row.verdict {
            Verdict::Excluded(Reason::Paused { seconds, .. }) => {
                Duration::try_from_secs_f64(*seconds).ok().filter(in_time)
            }
            Verdict::Excluded(Reason::Unhealthy(_)) if is_begun || waited < START_PATIENCE => Some(FIRST_PAUSE),
            _ => None,
        });
        pauses.min().map(|pause| (pause.clamp(FIRST_PAUSE, LONGEST_PAUSE), "a provider that can't take it now"))
    }

    async fn reserve(
        &mut self,
        plan: Plan,
        choice: Choice,
        operation: &(impl Fn(&Choice) -> (String, Operation) + Send),
    ) -> Result<std::result::Result<(Flight, Plan), (String, Reason)>> {
        let provider = self.providers.iter().find(|provider| provider.info().id == choice.provider);
        let provider = provider
            .ok_or_else(|| Error::new(ErrorKind::Unexpected, "a provider was chosen that there isn't"))?
            .clone();
        let (name, operation) = operation(&choice);
        let key = format!("{}/{name}/{}", self.job, self.attempts + 1);
        let task =
            Task { attempt: key.clone(), key: key.clone(), job: self.job.clone(), operation, limit: choice.limit };
        let bytes = serde_json::to_vec(&task)
            .map_err(|e| Error::new(ErrorKind::Unexpected, "a task cannot be encoded").because(e))?;
        let reservation = Reservation {
            attempt: key.clone(),
            job: self.job.clone(),
            sweep: None,
            task_key: key,
            provider: choice.provider.clone(),
            local: choice.limit.is_none(),
            amount: choice.worst_cost,
            expires_at: SystemTime::now() + choice.limit.map_or(NO_LIMIT, |limit| limit.saturating_add(SLACK)),
            submitting: Some(bytes),
        };
        match self.ledger.reserve(&reservation, &self.caps.of(&choice.provider)).await? {
            Reserved::Granted { .. } => {
                self.attempts += 1;
                let price = provider.price().await?;
                tracing::info!(attempt = task.attempt, provider = choice.provider, worst = %choice.worst_cost, limit = ?choice.limit, "reserved");
                let row = plan.rows.iter().find(|row| row.provider == choice.provider);
                let between = row.and_then(|row| row.quote?.between);
                let began = Instant::now();
                let flight = Flight { provider, task, id: None, resumed: false, price, began, handed: None, between };
                Ok(Ok((flight, plan)))
            }
            Reserved::Refused(refusal) => {
                let over = OverBudget {
                    cap: self.caps.name(&refusal.cap),
                    limit: refusal.cap.limit,
                    charged: refusal.charged,
                    reserved: refusal.reserved,
                    asked: refusal.asked,
                    may_wait: refusal.frees_at.is_some(),
                };
                Ok(Err((choice.provider, Reason::OverBudget(over))))
            }
        }
    }

    /// Why there is no choice. Of a single provider its own failure says it best.
    fn refusal(&self, plan: &Plan) -> Error {
        match self.history.failures().last() {
            Some(failure) if self.providers.len() == 1 => failure.error.clone(),
            _ => plan.refusal(&self.history),
        }
    }

    /// Hands a task over, unless that was done before.
    pub(super) async fn submit(&self, flight: &mut Flight) -> Result<TaskId> {
        if let Some(id) = &flight.id {
            return Ok(id.clone());
        }
        let id = flight.provider.submit(&flight.task).await?;
        flight.id = Some(id.clone());
        flight.handed = Some(Instant::now());
        self.ledger.accepted(&flight.task.attempt, &id.0).await?;
        Ok(id)
    }

    /// The worker of the last task, which has nothing to do now. Nobody else gets it.
    pub(super) fn idle_worker(&mut self) -> Option<IdleWorker> {
        self.idle.take()
    }
}

/// A demand of which only the work is known yet; the dispatcher adds the job's keys and what failed.
pub(super) fn demand(operation: OperationKind, terms: Terms) -> Demand {
    Demand {
        operation,
        layers: Vec::new(),
        epochs_left: 1,
        flops_per_epoch: 0,
        bytes_down: 0,
        bytes_there: BTreeMap::new(),
        bytes_up: 0,
        largest_payload: 0,
        deadline_left: None,
        pins: Vec::new(),
        excluded: Vec::new(),
        poisoned: None,
        terms,
    }
}

/// A stop that never comes.
pub(super) fn never() -> Stop {
    (Box::pin(std::future::pending()) as std::pin::Pin<Box<dyn Future<Output = bool> + Send>>).shared()
}
