//! What would be done, and with what: nothing here spends or starts anything.

use outboard_core::{Job, Result, layer::Planned, task::OperationKind};
use outboard_protocol::{Dataset, Target, envelope::now};
use outboard_router::{Budget, Candidate, CapLeft, Crossed, Demand, Flops, Plan, flops};

use super::{
    Client, blocking,
    caps::Caps,
    check::{Checked, check},
    dispatch::{Dispatcher, demand},
};

/// A job that was not started, with the decision on its first task.
#[derive(Clone, Debug, PartialEq)]
pub struct JobPlan {
    /// Training rows.
    pub rows: u64,
    /// Held-out rows.
    pub validation_rows: u64,
    /// Elements of all parameters.
    pub parameters: u64,
    /// Epochs.
    pub epochs: u32,
    /// The decision.
    pub plan: Plan,
    /// What providers can't promise, as they are configured.
    pub notes: Vec<String>,
}

/// The providers, as the router sees them.
#[derive(Clone, Debug, PartialEq)]
pub struct Providers {
    /// Those that are enabled.
    pub enabled: Vec<Candidate>,
    /// The keys of the others, such as `providers.http`, and why each is not used.
    pub disabled: Vec<(String, String)>,
    /// When they were asked: milliseconds since 1970, UTC.
    pub now: u64,
    /// What they can't promise, as they are configured.
    pub notes: Vec<String>,
}

/// The budgets that hold for every job.
#[derive(Clone, Debug, PartialEq)]
pub struct Budgets {
    /// What is left under each.
    pub caps: Vec<CapLeft>,
    /// Thresholds that are crossed.
    pub crossed: Vec<Crossed>,
}

impl Client {
    /// Where the first task of a job would run, and why. Reads the job's data.
    ///
    /// # Errors
    /// `InvalidRequest`, `NotFound` for what is wrong with the job or its data.
    pub async fn plan(&self, job: Job) -> Result<JobPlan> {
        let (routing, limits) = (job.routing.clone(), job.limits.clone());
        let (epochs, scratch) = (job.train.epochs, self.store.scratch());
        let rows = blocking(move || check(&job, &scratch)).await?;
        let mut dispatcher =
            Dispatcher::new(self, self.providers.clone(), "plan", limits.max_cost_usd, routing).await?;
        let needed = first_demand(&rows, epochs)?;
        let needed = Demand { deadline_left: limits.deadline, terms: dispatcher.terms(), ..needed };
        Ok(JobPlan {
            rows: rows.train.rows() as u64,
            validation_rows: rows.validation.as_ref().map_or(0, |rows| rows.rows() as u64),
            parameters: parameters(&rows.plan),
            epochs,
            plan: dispatcher.plan(&needed).await?,
            notes: crate::registry::notes(&self.config),
        })
    }

    /// The providers: state, price, what was learned of them.
    ///
    /// # Errors
    /// Those of the ledger.
    pub async fn providers(&self) -> Result<Providers> {
        let mut dispatcher =
            Dispatcher::new(self, self.providers.clone(), "providers", None, Default::default()).await?;
        let disabled = crate::registry::disabled(&self.config);
        let notes = crate::registry::notes(&self.config);
        Ok(Providers { enabled: dispatcher.candidates().await?, disabled, now: now(), notes })
    }

    /// The budgets, and what is left of them.
    ///
    /// # Errors
    /// Those of the ledger.
    pub async fn budgets(&self) -> Result<Budgets> {
        let config = &self.config.budget;
        let caps = Caps::all(config, &self.providers).left(self.ledger().await?).await?;
        let budget = Budget { caps, thresholds: config.thresholds.clone() };
        let crossed = budget.crossed();
        Ok(Budgets { caps: budget.caps, crossed })
    }
}

fn parameters(plan: &[Planned]) -> u64 {
    plan.iter().flat_map(|layer| &layer.parameters).map(|parameter| parameter.len() as u64).sum()
}

fn first_demand(checked: &Checked, epochs: u32) -> Result<Demand> {
    let Checked { train, validation, model, plan, .. } = checked;
    let Flops { forward, training } = flops(&model.layers, &model.input)?;
    let rows = |data: &Dataset| data.rows() as u64;
    let data = bytes(train) + validation.as_ref().map_or(0, bytes);
    let weights = 4 * parameters(plan);
    let held_out = validation.as_ref().map_or(0, rows);
    Ok(Demand {
        layers: model.layers.iter().map(|layer| layer.kind().to_string()).collect(),
        epochs_left: epochs,
        flops_per_epoch: rows(train).saturating_mul(training).saturating_add(held_out.saturating_mul(forward)),
        bytes_down: data + weights,
        // The optimizer's state comes along.
        bytes_up: 3 * weights,
        largest_payload: data.max(3 * weights),
        ..demand(OperationKind::Train, Default::default())
    })
}

/// As it travels.
fn bytes(data: &Dataset) -> u64 {
    let targets = match &data.y {
        Target::Classes(classes) => 8 * classes.len(),
        Target::Values { values, .. } => 4 * values.len(),
        _ => 0,
    };
    (4 * data.x.len() + targets) as u64
}
