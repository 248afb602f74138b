#![doc = include_str!("../README.md")]

pub mod atomic;
pub mod folder;
pub mod incoming;
pub mod records;

pub use folder::FolderStore;
pub use incoming::Incoming;
pub use records::Records;
