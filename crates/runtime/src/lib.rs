#![doc = include_str!("../README.md")]

pub mod client;
pub mod config;
pub mod deploy;
mod describe;
pub mod doctor;
mod document;
mod job_file;
pub mod metrics;
mod nearest;
mod record;
mod registry;

pub use client::{
    Budgets, Client, Evaluation, JobDetails, JobPlan, Prediction, Predictions, Providers, Reaped, Reconciled, Removed,
    Run, RunEvent, Started,
};
pub use config::Config;
pub use describe::{Description, LayerRow, describe};
pub use job_file::{parse_job, read_job, write_job};
pub use metrics::Quality;
pub use outboard_core::{Code, Error, ErrorKind, Event, Job, NanoUsd, Result, code, finding, provider, task};
pub use outboard_ledger as ledger;
pub use outboard_plugin as plugin;
pub use outboard_router as router;
pub use outboard_store::atomic::write as write_file;
pub use record::{Move, Report, Status, Summary};
pub use registry::place as plugin_place;
