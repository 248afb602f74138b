//! A decision with its reasons.

use std::{fmt, time::Duration};

use outboard_core::{Error, ErrorKind, NanoUsd};

use crate::{
    Action, Candidate, Crossed, History, Policy, Quote, Reason,
    failure::shared_code,
    words::{at_most, percent, time},
};

/// Where the next task runs, and what there is to say of each provider.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The chosen provider, the other possible ones from best to worst, then the excluded ones by id.
    pub rows: Vec<Row>,
    /// What to do; none where no provider is possible.
    pub choice: Option<Choice>,
    /// What the choice went by, after thresholds.
    pub policy: Policy,
    /// The thresholds of the budget that are crossed.
    pub crossed: Vec<Crossed>,
    /// Epochs left.
    pub epochs_left: u32,
}

/// What is said of one provider.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its id.
    pub provider: String,
    /// What it computes on.
    pub device: String,
    /// What it would take; none where its price is unknown.
    pub quote: Option<Quote>,
    /// What was decided.
    pub verdict: Verdict,
}

/// What was decided of one provider.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It gets the task.
    Chosen,
    /// It could have it.
    Possible {
        /// Its place among those that could, from 2.
        rank: usize,
    },
    /// It can't have it.
    Excluded(Reason),
}

/// What to hand over, and what to reserve for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The provider.
    pub provider: String,
    /// Epochs of the task, counted from where the job stands.
    pub epochs: u32,
    /// Its longest time.
    pub limit: Option<Duration>,
    /// What it costs at most.
    pub worst_cost: NanoUsd,
}

impl Row {
    pub(crate) fn new(candidate: &Candidate, quote: Option<Quote>, verdict: Verdict) -> Self {
        Self { provider: candidate.id.clone(), device: candidate.device.clone(), quote, verdict }
    }
}

impl Plan {
    /// Whether no provider is possible now, but one may be once running tasks give back what they hold of a budget.
    #[must_use]
    pub fn may_wait(&self) -> bool {
        self.choice.is_none() && self.reasons().any(|(_, reason)| reason.may_wait())
    }

    /// Why there is no choice: `BudgetExceeded` where nothing failed and a budget is in the way, `JobFailed` where the
    /// job would fail anywhere, else `AllProvidersFailed`. Names the cause of every provider.
    #[must_use]
    pub fn refusal(&self, history: &History) -> Error {
        let is = |matches: fn(&Reason) -> bool| self.reasons().any(|(_, reason)| matches(reason));
        let by_budget =
            |reason: &Reason| matches!(reason, Reason::OverBudget(_) | Reason::Stopped(_) | Reason::LocalOnly(_));
        let (kind, message) = if is(|reason| matches!(reason, Reason::Poisoned(_))) {
            (ErrorKind::JobFailed, "the job would fail on every provider")
        } else if !history.is_empty() {
            (ErrorKind::AllProvidersFailed, "every provider failed or can't take the task")
        } else if is(by_budget) {
            (ErrorKind::BudgetExceeded, "no provider fits the budget")
        } else {
            (ErrorKind::AllProvidersFailed, "no provider can take the task")
        };
        let mut error = Error::new(kind, message);
        // What was not to be tried is no cause; whatever else keeps a provider away is another one.
        let has_others = self.reasons().any(|(_, reason)| !matches!(reason, Reason::Failed(_)) && !reason.is_chosen());
        if kind == ErrorKind::AllProvidersFailed
            && !has_others
            && let Some(code) = shared_code(history.failures())
        {
            error = error.or_code(code);
        }
        for (provider, reason) in self.reasons() {
            error = error.at(provider.to_string(), reason);
        }
        let named = |provider: &str| self.rows.iter().any(|row| row.provider == provider);
        for failure in history.failures().filter(|failure| !named(&failure.provider)) {
            error = error.at(failure.provider.clone(), &failure.error);
        }
        let help = self
            .reasons()
            .filter(|(_, reason)| kind != ErrorKind::BudgetExceeded || by_budget(reason))
            .find_map(|(provider, reason)| reason.help(provider));
        error.hint(help.unwrap_or_else(|| "enable another provider under [providers]".into()))
    }

    fn reasons(&self) -> impl Iterator<Item = (&str, &Reason)> {
        self.rows.iter().filter_map(|row| match &row.verdict {
            Verdict::Excluded(reason) => Some((row.provider.as_str(), reason)),
            _ => None,
        })
    }
}

/// One line for each provider, its advice below, then what the budget has to say.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.provider.chars().count()).max().unwrap_or(0);
        let line = |f: &mut fmt::Formatter<'_>, provider: &str, verdict: &str, text: &str| {
            writeln!(f, "{provider:width$}  {verdict:8}  {text}")
        };
        for Row { provider, quote, verdict, .. } in &self.rows {
            let whole = quote.as_ref().map(whole);
            let whole = whole.as_deref().unwrap_or_default();
            match verdict {
                Verdict::Excluded(reason) => {
                    line(f, provider, "no", &reason.to_string())?;
                    if !whole.is_empty() && is_for_now(reason) {
                        line(f, "", "", &format!("would be {whole}"))?;
                    }
                    if let Some(help) = reason.help(provider) {
                        line(f, "", "", &format!("try: {help}"))?;
                    }
                }
                verdict => {
                    let word = if *verdict == Verdict::Chosen { "chosen" } else { "possible" };
                    line(f, provider, word, whole)?;
                    if let Some(quote) = quote {
                        line(f, "", "", &next(quote, self.epochs_left))?;
                        if let Some(between) = between(quote) {
                            line(f, "", "", &between)?;
                        }
                    }
                }
            }
        }
        self.crossed.iter().try_for_each(|crossed| writeln!(f, "{crossed}"))
    }
}

impl fmt::Display for Crossed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { threshold, cap, share } = self;
        let so = match threshold.action {
            Action::Warn => "",
            Action::PreferCheaper => ": the cheapest provider is chosen",
            Action::LocalOnly => ": only local providers are used",
            Action::Stop => ": nothing is started",
        };
        match share.is_finite() {
            true => write!(f, "{} of the {cap} budget is used{so}", percent(*share)),
            false => write!(f, "the {cap} budget is zero and something was spent{so}"),
        }
    }
}

/// Whether a provider could have the task some day, so that its quote means something.
fn is_for_now(reason: &Reason) -> bool {
    use Reason::*;
    !matches!(
        reason,
        Poisoned(_) | Operation { .. } | Layers(_) | PayloadTooLarge { .. } | TaskTooLong { .. } | TooSlow { .. }
    )
}

/// What all that is left is expected to take.
fn whole(quote: &Quote) -> String {
    let cost = match quote.expected_cost {
        NanoUsd::ZERO => "free".into(),
        cost => format!("about {}", at_most(cost)),
    };
    format!("{cost}, about {} for all that is left", time(quote.expected_time.as_secs_f64()))
}

/// What the next task is, and its bounds.
fn next(quote: &Quote, epochs_left: u32) -> String {
    let epochs = match (quote.epochs, epochs_left) {
        (1, 1) => "all of it".into(),
        (epochs, left) if epochs == left => format!("all {left} epochs"),
        (epochs, left) => format!("{epochs} of {left} epochs"),
    };
    let Some(limit) = quote.limit else { return format!("first task: {epochs}") };
    let limit = time(limit.as_secs_f64());
    match quote.worst_cost {
        NanoUsd::ZERO => format!("first task: {epochs} in at most {limit}"),
        worst => format!("first task: {epochs} in at most {limit}, for at most {}", at_most(worst)),
    }
}

/// What becomes of its worker between tasks.
fn between(quote: &Quote) -> Option<String> {
    let between = quote.between?;
    Some(match quote.tasks {
        1 => "between tasks: there is one task, and nothing to keep warm".into(),
        _ => format!("between tasks: {between}"),
    })
}

#[cfg(test)]
mod tests;
