#![doc = include_str!("../README.md")]

pub mod checks;
pub mod devices;
pub mod disk;
pub mod environment;
mod libraries;
pub mod memory;
pub mod variables;

pub use environment::environment;

/// A root of a file system with these files.
#[cfg(test)]
fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = root.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    root
}
