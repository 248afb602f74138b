#![doc = include_str!("../README.md")]

pub mod atomic;
pub mod folder;

pub use folder::FolderStore;
