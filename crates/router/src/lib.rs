#![doc = include_str!("../README.md")]

mod breaker;
mod budget;
mod candidate;
mod config;
mod decide;
mod demand;
mod failure;
mod filter;
#[cfg(test)]
mod fixture;
mod history;
mod learned;
mod length;
mod plan;
mod poison;
mod prior;
mod quote;
mod reason;
mod survey;
mod warm;
mod words;

pub use breaker::{Breaker, BreakerSettings, Pause};
pub use budget::{Action, Budget, CapLeft, Crossed, Threshold};
pub use candidate::Candidate;
pub use config::{BudgetConfig, ProviderBudget, RouterConfig};
pub use decide::decide;
pub use demand::{Demand, Flops, Policy, Terms, flops};
pub use failure::{Failure, Next, Origin, Patience, after};
pub use history::History;
pub use learned::{Estimate, Learned};
pub use plan::{Choice, Plan, Row, Verdict};
pub use prior::Priors;
pub use quote::{Phases, Quote, quote};
pub use reason::{Filled, OverBudget, Reason};
pub use survey::survey;
pub use warm::{Between, Warm, Warmth};
