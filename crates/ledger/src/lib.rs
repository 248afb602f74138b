#![doc = include_str!("../README.md")]

mod clock;
mod correct;
mod database;
mod failure;
mod ledger;
mod moves;
mod observations;
mod queries;
mod records;
mod reserve;
mod schema;

pub use ledger::Ledger;
pub use records::{
    Attempt, Cap, Correction, CostRow, Expired, GroupBy, JobFilter, JobRow, Left, Refusal, Reservation, Reserved,
    Scope, Settled, Settlement, Span, Spent, State,
};
