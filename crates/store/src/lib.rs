#![doc = include_str!("../README.md")]

pub mod atomic;
#[cfg(feature = "s3")]
pub mod bucket;
pub mod encoding;
pub mod folder;
#[cfg(feature = "s3")]
pub mod following;
pub mod incoming;
pub mod inline;
#[allow(unsafe_code)] // Files that don't change any more are mapped.
mod mapped;
#[cfg(feature = "transfer")]
mod reach;
pub mod records;
#[cfg(feature = "transfer")]
mod refused;
pub mod scratch;
#[cfg(feature = "s3")]
pub mod task_log;
#[cfg(feature = "transfer")]
pub mod transfer;
#[cfg(feature = "transfer")]
pub mod transport;
#[cfg(feature = "transfer")]
pub mod upload;

#[cfg(feature = "s3")]
pub use bucket::{Bucket, BucketConfig};
pub use encoding::{Sink, Source};
pub use folder::FolderStore;
#[cfg(feature = "s3")]
pub use following::{Following, Stage};
pub use incoming::Incoming;
#[cfg(feature = "transfer")]
pub use reach::{reach, reach_address};
pub use records::Records;
pub use scratch::{List, Scratch};
#[cfg(feature = "s3")]
pub use task_log::TaskLog;
#[cfg(feature = "transfer")]
pub use transfer::Transfer;
#[cfg(feature = "transfer")]
pub use upload::Upload;
