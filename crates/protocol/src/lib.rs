#![doc = include_str!("../README.md")]

pub mod augment;
pub mod checkpoint;
pub mod dataset;
pub mod envelope;
pub mod grant;
pub mod initial;
pub mod inline;
pub mod inputs;
pub mod model;
pub mod random;
pub mod tensors;
pub mod values;

pub use augment::Augmentation;
pub use checkpoint::{Best, Checkpoint, Position, Sums};
pub use dataset::{Dataset, Target};
pub use envelope::{Envelope, TaskResult};
pub use grant::{Encoding, Grant, GrantedBlob, SignedUrl, Stored, TaskProgress, TaskRecord};
pub use inline::{InlineBlob, InlineReply, InlineRequest};
pub use inputs::{Inputs, Scaling};
pub use model::{Feature, ModelFile, Schema, TargetColumn, Tokenizer};
pub use tensors::{Tensor, Tensors};
pub use values::Values;

/// The version of the training semantics and of the bytes that travel.
pub const PROTOCOL_VERSION: u32 = 1;
