//! What may be spent.

use outboard_core::NanoUsd;
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::reason::OverBudget;

/// The caps that apply to a job, and what happens as they fill.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Budget {
    /// The caps.
    pub caps: Vec<CapLeft>,
    /// What happens as they fill.
    pub thresholds: Vec<Threshold>,
}

/// A cap and what has been used of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapLeft {
    /// What it caps, as it reads in "the day's budget": `job`, `sweep`, `day`, `month`.
    pub name: String,
    /// The provider that it holds for; all if unset.
    pub provider: Option<String>,
    /// The limit: none is no limit, zero allows only what is free.
    pub limit: Option<NanoUsd>,
    /// What was charged.
    pub charged: NanoUsd,
    /// What live reservations hold.
    pub reserved: NanoUsd,
}

/// What happens when a budget is used up to a share.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Threshold {
    /// The share: above 0, at most 1.
    #[serde(deserialize_with = "share")]
    pub at: f64,
    /// What happens.
    #[serde(rename = "do")]
    pub action: Action,
}

/// What a threshold does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Says so.
    Warn,
    /// Chooses as [`Policy::Cheapest`](crate::Policy::Cheapest) does.
    PreferCheaper,
    /// Leaves out what doesn't run on the user's own machine.
    LocalOnly,
    /// Starts no task anywhere.
    Stop,
}

/// A threshold that was crossed.
#[derive(Clone, Debug, PartialEq)]
pub struct Crossed {
    /// The threshold.
    pub threshold: Threshold,
    /// The fullest cap.
    pub cap: String,
    /// The share of it that is used; infinite where a limit of zero is.
    pub share: f64,
}

impl CapLeft {
    /// What a further task may cost at most; none where there is no limit.
    #[must_use]
    pub fn left(&self) -> Option<NanoUsd> {
        Some(self.limit?.saturating_sub(self.used()))
    }

    fn used(&self) -> NanoUsd {
        [self.charged, self.reserved].into_iter().sum()
    }

    /// Nothing of nothing is no use at all: a limit of zero fills nothing, it allows nothing that costs.
    fn share(&self) -> Option<f64> {
        let (limit, used) = (self.limit?, self.used());
        Some(if used == NanoUsd::ZERO { 0.0 } else { used.0 as f64 / limit.0 as f64 })
    }

    fn holds_for(&self, provider: &str) -> bool {
        self.provider.as_deref().is_none_or(|own| own == provider)
    }
}

impl Budget {
    /// The cap that leaves `provider` the least; none where nothing limits it.
    #[must_use]
    pub fn tightest(&self, provider: &str) -> Option<&CapLeft> {
        let caps = self.caps.iter().filter(|cap| cap.limit.is_some() && cap.holds_for(provider));
        caps.min_by_key(|cap| cap.left())
    }

    /// That `cap`, the tightest of them, doesn't allow `provider` to spend `asked`.
    pub(crate) fn refusal(&self, cap: &CapLeft, provider: &str, asked: NanoUsd) -> OverBudget {
        let mut caps = self.caps.iter().filter(|cap| cap.holds_for(provider));
        OverBudget {
            cap: cap.name.clone(),
            limit: cap.limit.unwrap_or_default(),
            charged: cap.charged,
            reserved: cap.reserved,
            asked,
            may_wait: caps.all(|cap| cap.limit.is_none_or(|limit| asked <= limit.saturating_sub(cap.charged))),
        }
    }

    /// The thresholds that are crossed. They act on the fullest of the caps that hold for all providers.
    #[must_use]
    pub fn crossed(&self) -> Vec<Crossed> {
        let shares = self.caps.iter().filter(|cap| cap.provider.is_none()).filter_map(|cap| Some((cap, cap.share()?)));
        let Some((cap, share)) = shares.max_by(|a, b| a.1.total_cmp(&b.1)) else { return Vec::new() };
        let crossed = self.thresholds.iter().filter(|threshold| share >= threshold.at);
        crossed.map(|&threshold| Crossed { threshold, cap: cap.name.clone(), share }).collect()
    }
}

fn share<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
    match f64::deserialize(d)? {
        share if share > 0.0 && share <= 1.0 => Ok(share),
        other => Err(de::Error::custom(format!("{other} is not a share above 0 and at most 1, such as 0.8"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cap(name: &str, limit: Option<u64>, charged: u64, reserved: u64) -> CapLeft {
        CapLeft {
            name: name.into(),
            provider: None,
            limit: limit.map(NanoUsd),
            charged: NanoUsd(charged),
            reserved: NanoUsd(reserved),
        }
    }

    #[test]
    fn none_is_no_limit_and_zero_leaves_nothing() {
        assert_eq!(cap("day", None, 7, 7).left(), None);
        assert_eq!(cap("day", Some(0), 0, 0).left(), Some(NanoUsd::ZERO));
        assert_eq!(cap("day", Some(10), 3, 4).left(), Some(NanoUsd(3)));
        assert_eq!(cap("day", Some(10), u64::MAX, 4).left(), Some(NanoUsd::ZERO), "overdrawn");
    }

    #[test]
    fn the_tightest_cap_is_what_holds() {
        let mut own = cap("month", Some(5), 3, 0);
        own.provider = Some("runpod".into());
        let budget = Budget { caps: vec![cap("day", None, 0, 0), cap("job", Some(9), 2, 1), own], thresholds: vec![] };
        assert_eq!(budget.tightest("runpod").unwrap().name, "month");
        assert_eq!(budget.tightest("http").unwrap().name, "job");
        assert_eq!(Budget::default().tightest("http"), None);
    }

    #[test]
    fn thresholds_act_on_the_fullest_cap() {
        let thresholds = [(0.5, Action::Warn), (0.8, Action::PreferCheaper), (1.0, Action::Stop)]
            .map(|(at, action)| Threshold { at, action });
        let crossed = |caps: &[CapLeft]| {
            let budget = Budget { caps: caps.to_vec(), thresholds: thresholds.to_vec() };
            budget.crossed().into_iter().map(|c| (c.threshold.action, c.cap, c.share)).collect::<Vec<_>>()
        };
        assert_eq!(crossed(&[]), []);
        assert_eq!(crossed(&[cap("day", None, 9, 9), cap("job", Some(0), 0, 0)]), [], "nothing of nothing");
        assert_eq!(crossed(&[cap("job", Some(0), 1, 0)]).len(), 3, "more than nothing");
        assert_eq!(
            crossed(&[cap("day", Some(10), 3, 1), cap("job", Some(10), 4, 4)]),
            [(Action::Warn, "job".into(), 0.8), (Action::PreferCheaper, "job".into(), 0.8)]
        );
    }
}
