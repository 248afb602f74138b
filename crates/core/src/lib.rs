#![doc = include_str!("../README.md")]

pub mod blob;
pub mod code;
pub mod duration;
pub mod environment;
pub mod error;
pub mod finding;
pub mod job;
pub mod layer;
pub mod money;
pub mod observation;
pub mod provider;
pub mod shorthand;
pub mod task;

pub use blob::{BlobStore, Digest};
pub use code::Code;
pub use environment::Environment;
pub use error::{Error, ErrorKind, Result, Retry};
pub use job::Job;
pub use layer::Layer;
pub use money::NanoUsd;
pub use observation::Observation;
pub use provider::{ComputeProvider, ComputeProviderExt};
pub use task::{Event, Task, TaskId};
