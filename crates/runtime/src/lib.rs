#![doc = include_str!("../README.md")]

pub mod client;
pub mod config;
mod describe;
mod document;
mod job_file;
pub mod metrics;
mod nearest;
mod record;
mod registry;

pub use client::{Client, Evaluation, Prediction, Predictions, Removed, Run, RunEvent, Started};
pub use config::Config;
pub use describe::{Description, LayerRow, describe};
pub use job_file::{parse_job, read_job, write_job};
pub use metrics::Quality;
pub use outboard_core::{Error, ErrorKind, Event, Job, NanoUsd, Result, task};
pub use outboard_store::atomic::write as write_file;
pub use record::{Report, Status, Summary};
