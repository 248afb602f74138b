//! What a job may spend: the configured budgets, as the ledger and the router know them.

use std::sync::Arc;

use outboard_core::{ComputeProvider, NanoUsd, Result};
use outboard_ledger::{Cap, Ledger, Left, Scope, Span};
use outboard_router::{BudgetConfig, CapLeft};

/// The caps that hold for a job.
#[derive(Clone, Debug)]
pub(super) struct Caps(Vec<(&'static str, Cap)>);

impl Caps {
    pub(super) fn new(
        budget: &BudgetConfig,
        job: &str,
        max_cost: Option<NanoUsd>,
        providers: &[Arc<dyn ComputeProvider>],
    ) -> Self {
        let mut caps = Self::all(budget, providers);
        if let Some(limit) = max_cost.or(budget.job_usd) {
            caps.0.push(("job", Cap { scope: Span::Job(job.into()).into(), limit }));
        }
        caps
    }

    /// Those that hold for every job.
    pub(super) fn all(budget: &BudgetConfig, providers: &[Arc<dyn ComputeProvider>]) -> Self {
        let spans = |day: Option<NanoUsd>, month: Option<NanoUsd>| {
            [("day", Span::Day, day), ("month", Span::Month, month)]
                .into_iter()
                .filter_map(|(name, span, limit)| Some((name, Cap { scope: Scope::from(span), limit: limit? })))
        };
        let mut caps: Vec<_> = spans(budget.day_usd, budget.month_usd).collect();
        for provider in providers {
            let id = &provider.info().id;
            if let Some(own) = budget.providers.get(id) {
                let own = spans(own.day_usd, own.month_usd);
                caps.extend(own.map(|(name, cap)| (name, Cap { scope: cap.scope.on(id), ..cap })));
            }
        }
        Self(caps)
    }

    /// Those that a task on this provider counts under.
    pub(super) fn of(&self, provider: &str) -> Vec<Cap> {
        let holds = |cap: &&Cap| cap.scope.provider.as_deref().is_none_or(|own| own == provider);
        self.0.iter().map(|(_, cap)| cap).filter(holds).cloned().collect()
    }

    /// As it reads in "the day's budget".
    pub(super) fn name(&self, cap: &Cap) -> String {
        let name = self.0.iter().find(|(_, known)| known == cap).map_or("job", |(name, _)| name);
        match &cap.scope.provider {
            Some(provider) => format!("{name} ({provider})"),
            None => name.into(),
        }
    }

    /// What is left under each.
    pub(super) async fn left(&self, ledger: &Ledger) -> Result<Vec<CapLeft>> {
        let caps: Vec<Cap> = self.0.iter().map(|(_, cap)| cap.clone()).collect();
        let left = ledger.budget_left(&caps).await?;
        let entry = |Left { cap, spent, .. }: Left| CapLeft {
            name: self.name(&cap),
            provider: cap.scope.provider,
            limit: Some(cap.limit),
            charged: spent.charged,
            reserved: spent.reserved,
        };
        Ok(left.into_iter().map(entry).collect())
    }

    /// What a job was charged.
    pub(super) async fn spent(&self, ledger: &Ledger, job: &str) -> Result<NanoUsd> {
        Ok(ledger.spent(&Span::Job(job.into()).into()).await?.charged)
    }
}
