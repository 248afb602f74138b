//! Brings what was charged in line with what providers have billed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use outboard_core::{Error, ErrorKind, NanoUsd, Result};
use outboard_ledger::{Attempt, Correction, State};
use outboard_runpod::{Account, Billed};

use super::Client;

const DAY: Duration = Duration::from_secs(86_400);

/// How long after a day its bill may still grow. RunPod doesn't say; its records are by the hour.
const LAG: Duration = Duration::from_secs(6 * 3600);

/// What became of the charges of one account and day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reconciled {
    /// The provider.
    pub provider: String,
    /// What was billed there: the endpoint.
    pub account: String,
    /// The day, UTC.
    pub day: String,
    /// What was charged before.
    pub charged: NanoUsd,
    /// What was billed, and is charged now, unless `left` says why not.
    pub billed: NanoUsd,
    /// Of that, what no task explains.
    pub found: NanoUsd,
    /// Tasks whose charge was a guess, and isn't any more.
    pub settled: usize,
    /// Why it was left as it is.
    pub left: Option<String>,
}

/// The attempts of one endpoint and day.
#[derive(Debug, Default)]
struct Place {
    settled: Vec<(String, NanoUsd)>,
    assumed: Vec<(String, NanoUsd)>,
    found: NanoUsd,
    live: usize,
}

impl Client {
    /// Reads the bills of the days from `from` on and before `to`, and charges what they say: guesses become what they
    /// cost, estimates their share of the bill, and what no task explains is added. Doing so again changes nothing. Days
    /// whose bill may still grow are left as they are, unless `all`.
    ///
    /// # Errors
    /// `InvalidConfig` where no provider that tells bills is set up; those of the provider and of the ledger.
    pub async fn reconcile(&self, from: SystemTime, to: SystemTime, all: bool) -> Result<Vec<Reconciled>> {
        let config = &self.config.providers.runpod;
        if !config.is_used() {
            return Err(Error::new(ErrorKind::InvalidConfig, "no provider is set up that tells what it billed")
                .at("key", "providers.runpod.api_key")
                .hint("set it; other providers are charged by what they measure"));
        }
        let now = SystemTime::now();
        let first = midnight(from);
        let days =
            std::iter::successors(Some(first), |day| Some(*day + DAY)).take_while(|day| *day < to && *day <= now);
        let days: Vec<SystemTime> = days.collect();
        let Some(last) = days.last() else { return Ok(Vec::new()) };
        let bills = Account::new(config)?.bills(&name(first), &name(*last + DAY)).await?;
        let mut done = Vec::new();
        for day in days {
            let is_final = all || now.duration_since(day).is_ok_and(|age| age >= DAY + LAG);
            done.extend(self.reconcile_day(day, &bills, is_final).await?);
        }
        Ok(done)
    }

    async fn reconcile_day(&self, day: SystemTime, bills: &[Billed], is_final: bool) -> Result<Vec<Reconciled>> {
        const PROVIDER: &str = "runpod";
        let (ledger, today) = (self.ledger().await?, name(day));
        let attempts = ledger.attempts_on(PROVIDER, day, day + DAY).await?;
        let (mut accounts, mut nowhere) = sorted(&attempts);
        let ours = self.config.providers.runpod.endpoints.iter().map(|endpoint| &endpoint.id);
        let known: BTreeSet<&String> = ours.chain(accounts.keys()).collect();
        let bills = bills.iter().filter(|bill| bill.day == today && known.contains(&bill.endpoint));
        let bills: BTreeMap<String, NanoUsd> = bills.map(|bill| (bill.endpoint.clone(), bill.amount)).collect();
        for endpoint in bills.keys() {
            accounts.entry(endpoint.clone()).or_default();
        }
        let mut done = Vec::new();
        for (endpoint, account) in accounts {
            let billed = bills.get(&endpoint).copied().unwrap_or_default();
            let before = [&account.settled, &account.assumed].into_iter().flatten().map(|(_, charged)| *charged);
            let before: NanoUsd = before.chain([account.found]).sum();
            let live = account.live + nowhere.live;
            let left = match live {
                _ if !is_final => Some("its bill may still grow".to_string()),
                0 => None,
                1 => Some("a task still runs".into()),
                n => Some(format!("{n} tasks still run")),
            };
            let mut row = Reconciled {
                provider: PROVIDER.into(),
                account: endpoint.clone(),
                day: today.clone(),
                charged: before,
                billed,
                found: account.found,
                settled: 0,
                left,
            };
            if row.left.is_none() {
                let (mut charges, rest) = apportioned(&account.settled, &account.assumed, billed);
                row.settled = account.assumed.len();
                // What may have run anywhere ran where there is more on the bill than is known.
                let lost = std::mem::take(&mut nowhere.assumed);
                let sum: NanoUsd = lost.iter().map(|(_, charged)| *charged).sum();
                let given = rest.min(sum);
                if given > NanoUsd::ZERO {
                    charges.extend(scaled(&lost, given));
                    row.settled += lost.len();
                    row.charged = [row.charged, sum].into_iter().sum();
                } else {
                    nowhere.assumed = lost;
                }
                row.found = rest.saturating_sub(given);
                let unexplained = row.found;
                ledger
                    .correct(&Correction { charges, unexplained, ..Correction::new(PROVIDER, &endpoint, day) })
                    .await?;
            }
            let amounts = [row.charged, row.billed, row.found];
            if amounts.iter().any(|amount| *amount > NanoUsd::ZERO) || row.settled > 0 {
                done.push(row);
            }
        }
        if nowhere.live == 0 && is_final && !nowhere.assumed.is_empty() {
            // No endpoint has anything on its bill that isn't explained: they didn't run.
            let charges: Vec<_> = nowhere.assumed.iter().map(|(id, _)| (id.clone(), NanoUsd::ZERO)).collect();
            let settled = charges.len();
            let charged = nowhere.assumed.iter().map(|(_, charged)| *charged).sum();
            ledger.correct(&Correction { charges, ..Correction::new(PROVIDER, "nowhere", day) }).await?;
            done.push(Reconciled {
                provider: PROVIDER.into(),
                account: "(not known)".into(),
                day: today,
                charged,
                billed: NanoUsd::ZERO,
                found: NanoUsd::ZERO,
                settled,
                left: None,
            });
        }
        Ok(done)
    }
}

/// By endpoint; and those of which nobody knows where they ran.
fn sorted(attempts: &[Attempt]) -> (BTreeMap<String, Place>, Place) {
    let (mut accounts, mut nowhere) = (BTreeMap::<String, Place>::new(), Place::default());
    for attempt in attempts {
        let place = attempt.task_id.as_deref().and_then(|id| id.split('/').next());
        let account = match place {
            Some(endpoint) => accounts.entry(endpoint.into()).or_default(),
            None => &mut nowhere,
        };
        let entry = (attempt.id.clone(), attempt.charged);
        match attempt.state {
            _ if attempt.id.starts_with("bill-") => account.found = attempt.charged,
            State::Settled => account.settled.push(entry),
            State::Assumed => account.assumed.push(entry),
            State::Reserved | State::Submitting | State::Accepted => account.live += 1,
            State::Released => {}
        }
    }
    (accounts, nowhere)
}

/// New charges that come to what was billed, as far as the old ones explain it; and the rest.
fn apportioned(
    settled: &[(String, NanoUsd)],
    assumed: &[(String, NanoUsd)],
    billed: NanoUsd,
) -> (Vec<(String, NanoUsd)>, NanoUsd) {
    let sum = |charges: &[(String, NanoUsd)]| charges.iter().map(|(_, charged)| *charged).sum::<NanoUsd>();
    let known = billed.min(sum(settled));
    let rest = billed.saturating_sub(known);
    let guessed = rest.min(sum(assumed));
    let charges = scaled(settled, known).into_iter().chain(scaled(assumed, guessed)).collect();
    (charges, rest.saturating_sub(guessed))
}

/// The same charges in proportion, so that they come to `total` exactly.
fn scaled(charges: &[(String, NanoUsd)], total: NanoUsd) -> Vec<(String, NanoUsd)> {
    let sum: u128 = charges.iter().map(|(_, charged)| u128::from(charged.0)).sum();
    let mut before = 0_u128;
    let upto = |part: u128| u128::from(total.0) * part / sum.max(1);
    let scale = |(id, charged): &(String, NanoUsd)| {
        let from = upto(before);
        before += u128::from(charged.0);
        (id.clone(), NanoUsd(u64::try_from(upto(before) - from).unwrap_or(u64::MAX)))
    };
    charges.iter().map(scale).collect()
}

fn midnight(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs() / DAY.as_secs() * DAY.as_secs())
}

/// `2026-03-01`.
fn name(day: SystemTime) -> String {
    humantime::format_rfc3339_seconds(day).to_string()[..10].to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charges(amounts: &[u64]) -> Vec<(String, NanoUsd)> {
        amounts.iter().enumerate().map(|(n, amount)| (n.to_string(), NanoUsd(*amount))).collect()
    }

    fn amounts(charges: &[(String, NanoUsd)]) -> Vec<u64> {
        charges.iter().map(|(_, charged)| charged.0).collect()
    }

    #[test]
    fn charges_come_to_the_bill_exactly() {
        for (settled, assumed, billed, expected, rest) in [
            // Estimates were too high: each gets its share, and nothing of the guesses was billed.
            (&[7, 7, 7][..], &[10][..], 20, &[6, 7, 7, 0][..], 0),
            // Guesses are what is left of the bill.
            (&[10], &[30, 10], 30, &[10, 15, 5], 0),
            // More was billed than all of them explain.
            (&[10], &[5], 18, &[10, 5], 3),
            (&[], &[], 9, &[], 9),
            (&[0], &[], 9, &[0], 9),
            (&[u64::MAX], &[], 5, &[5], 0),
        ] {
            let (new, left) = apportioned(&charges(settled), &charges(assumed), NanoUsd(billed));
            assert_eq!((amounts(&new), left.0), (expected.to_vec(), rest), "{settled:?} {assumed:?} {billed}");
            assert_eq!(amounts(&new).iter().sum::<u64>() + left.0, billed);
        }
    }

    #[test]
    fn days_begin_at_midnight() {
        let time = humantime::parse_rfc3339("2026-03-01T12:34:56Z").unwrap();
        assert_eq!((name(midnight(time)), midnight(midnight(time))), ("2026-03-01".into(), midnight(time)));
    }
}
