//! Filters, quotes, scores: which provider gets the next task.

use crate::{
    Action, Budget, Candidate, Demand, Policy, Quote, Reason, Terms,
    filter::refuse,
    length,
    plan::{Choice, Plan, Row, Verdict},
    quote::quote,
};

/// Decides where the next task runs and for how long, at `now` (milliseconds since 1970, UTC).
///
/// The same data gives the same plan, in whatever order the candidates come.
#[must_use]
pub fn decide(candidates: &[Candidate], demand: &Demand, budget: &Budget, now: u64) -> Plan {
    let crossed = budget.crossed();
    let prefer_cheaper = crossed.iter().any(|crossed| crossed.threshold.action == Action::PreferCheaper);
    let policy = if prefer_cheaper { Policy::Cheapest } else { demand.terms.policy };
    let terms = Terms { policy, ..demand.terms };
    let has_remote = candidates.iter().any(|candidate| candidate.enabled && !candidate.is_local);

    let mut possible: Vec<(Score, &Candidate, Quote)> = Vec::with_capacity(candidates.len());
    let mut excluded: Vec<Row> = Vec::new();
    for candidate in candidates {
        let reason = refuse(candidate, demand, has_remote, &crossed, now);
        let price = match &candidate.price {
            Ok(price) => price,
            Err(why) => {
                let reason = reason.unwrap_or_else(|| Reason::PriceUnknown(why.clone()));
                excluded.push(Row::new(candidate, None, Verdict::Excluded(reason)));
                continue;
            }
        };
        let (epochs, too_much) = length::epochs(candidate, price, demand, budget);
        let quote = quote(candidate, price, demand, epochs);
        match reason.or(too_much).or_else(|| too_slow(&quote, demand)) {
            Some(reason) => excluded.push(Row::new(candidate, Some(quote), Verdict::Excluded(reason))),
            None => possible.push((Score::new(&quote, &terms), candidate, quote)),
        }
    }
    possible.sort_by(|(a, one, _), (b, other, _)| (a, &one.id).cmp(&(b, &other.id)));
    excluded.sort_by(|a, b| a.provider.cmp(&b.provider));

    let choice = possible.first().map(|(_, candidate, quote)| Choice {
        provider: candidate.id.clone(),
        epochs: quote.epochs,
        limit: quote.limit,
        worst_cost: quote.worst_cost,
    });
    let verdict = |rank| if rank == 0 { Verdict::Chosen } else { Verdict::Possible { rank: rank + 1 } };
    let possible = possible.into_iter().enumerate();
    let rows = possible.map(|(rank, (_, candidate, quote))| Row::new(candidate, Some(quote), verdict(rank)));
    Plan { rows: rows.chain(excluded).collect(), choice, policy, crossed, epochs_left: demand.epochs_left.max(1) }
}

fn too_slow(quote: &Quote, demand: &Demand) -> Option<Reason> {
    let left = demand.deadline_left?;
    let expected = quote.expected_time;
    let late = expected > left || left.is_zero();
    late.then_some(Reason::TooSlow { seconds: expected.as_secs_f64(), left: left.as_secs_f64() })
}

/// What the policy goes by, then what decides among equals. Less is better. In whole nano-dollars and milliseconds, so
/// that rounding of floats decides nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Score(u128, u128);

impl Score {
    pub(crate) fn new(quote: &Quote, terms: &Terms) -> Self {
        const MILLIS_PER_HOUR: u128 = 3_600_000;
        let (cost, time) = (u128::from(quote.expected_cost.0), quote.expected_time.as_millis());
        match terms.policy {
            Policy::Cheapest => Self(cost, time),
            Policy::Fastest => Self(time, cost),
            Policy::Balanced => {
                let worth = u128::from(terms.value_of_time.0).saturating_mul(time) / MILLIS_PER_HOUR;
                Self(cost.saturating_add(worth), cost)
            }
        }
    }
}

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;
