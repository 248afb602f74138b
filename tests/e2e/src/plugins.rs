//! The example plugins, built as their authors would.

use std::{
    env::consts::{DLL_PREFIX, DLL_SUFFIX},
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::repository;

/// Runs `make` in a folder.
///
/// # Panics
/// Where it fails.
pub fn make(folder: &Path, args: &[&str]) {
    finished(Command::new("make").arg("-C").arg(folder).args(args));
}

/// The example in C, built into `folder`.
///
/// # Panics
/// Where it can't be built.
#[must_use]
pub fn c_example(folder: &Path, flags: &[&str]) -> PathBuf {
    let out = format!("OUT={}", folder.display());
    make(&repository().join("examples/plugin-c"), &[&[out.as_str()], flags].concat());
    folder.join("libbeside.so")
}

/// An example in Rust, copied into `folder`, which is the user's alone.
///
/// # Panics
/// Where it can't be built.
#[must_use]
pub fn rust_example(folder: &Path, name: &str) -> PathBuf {
    let library = folder.join(format!("lib{name}.so"));
    let copied =
        fs::copy(built(name), &library).and_then(|_| fs::set_permissions(&library, fs::Permissions::from_mode(0o755)));
    copied.unwrap_or_else(|e| panic!("{name}: {e}"));
    library
}

/// The library in `TEST_PLUGINS`, or a build of its own.
fn built(name: &str) -> PathBuf {
    if let Some(folder) = std::env::var_os("TEST_PLUGINS") {
        return Path::new(&folder).join(format!("{DLL_PREFIX}{}{DLL_SUFFIX}", name.replace('-', "_")));
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from(env!("CARGO")));
    let built = finished(Command::new(cargo).current_dir(repository()).args([
        "build",
        "--quiet",
        "--package",
        name,
        "--message-format=json-render-diagnostics",
    ]));
    let mut artifacts = built.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let example = artifacts
        .rfind(|artifact| artifact["package_id"].as_str().is_some_and(|id| id.contains(&format!("#{name}@"))))
        .unwrap_or_else(|| panic!("cargo built no {name}"));
    example["filenames"][0].as_str().unwrap_or_default().into()
}

/// The standard output of a command that succeeds.
fn finished(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
