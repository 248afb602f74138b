//! All crates, built in one go.
//!
//! Cargo builds a dependency once for each set of features, and a package alone asks for other features than all of them
//! together. So that the suites share one build, everything is built together, and each suite runs its own programs.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Suite, outcome::Outcome, output::CargoTests};
use crate::{command, workspace::Workspace};

/// Everything, with what only some suites need.
pub(super) const EVERYTHING: &str = "--workspace --features \
     outboard-data/tokenizers,outboard-store/s3,outboard-worker/lambda,outboard-conformance/lambda";

/// A test program.
#[derive(Debug, PartialEq, Eq)]
struct Program {
    path: PathBuf,
    /// The folder of its package, where it runs.
    package: PathBuf,
    /// A file in the package's `tests`, or its library, or a program of its own.
    target: String,
}

/// Runs the suite's programs, with what `adjust` adds to each.
pub(super) fn run(workspace: &Workspace, suite: Suite, adjust: impl Fn(&mut Command)) -> Result<Outcome> {
    run_where(workspace, |package, target| suite_of(package, target) == suite, adjust)
}

/// Runs the programs of some packages and targets, with what `adjust` adds to each.
pub(super) fn run_where(
    workspace: &Workspace,
    is_meant: impl Fn(&Path, &str) -> bool,
    adjust: impl Fn(&mut Command),
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for program in build(workspace)? {
        let package = program.package.strip_prefix(&workspace.root).context("a package outside the workspace")?;
        if !is_meant(package, &program.target) {
            continue;
        }
        println!("{}: {}", package.display(), program.target);
        let mut tests = Command::new(&program.path);
        tests.arg("--show-output").current_dir(&program.package).env("CARGO_MANIFEST_DIR", &program.package);
        adjust(&mut tests);
        outcome.add(cargo_tests(&mut tests)?);
    }
    Ok(outcome)
}

/// The tests in the documentation of all crates.
pub(super) fn documentation(workspace: &Workspace) -> Result<Outcome> {
    cargo_tests(&mut workspace.cargo(&format!("test --no-fail-fast --doc {EVERYTHING}")))
}

/// Runs tests that print as Rust's do.
pub(super) fn cargo_tests(command: &mut Command) -> Result<Outcome> {
    let mut tests = CargoTests::default();
    let status = command::lines(command, |line| {
        if tests.line(line) {
            println!("{line}");
        }
    })?;
    Ok(tests.finish(status.success()))
}

/// Where a test program belongs. What nobody claims is in `unit`, so that none is forgotten.
fn suite_of(package: &Path, target: &str) -> Suite {
    match (package.to_str(), target) {
        (Some("crates/ledger"), _) => Suite::Ledger,
        (Some("crates/store"), "bucket") | (Some("crates/worker"), "courier") => Suite::Store,
        (Some("tests/conformance" | "tests/e2e"), target) if target.starts_with("runpod") => Suite::Runpod,
        (Some("tests/conformance" | "tests/e2e"), target) if target.starts_with("aws") => Suite::Aws,
        (Some("tests/conformance" | "tests/e2e" | "crates/runtime"), target) if target.starts_with("cuda") => {
            Suite::Cuda
        }
        (Some("tests/e2e"), _) => Suite::E2e,
        _ => Suite::Unit,
    }
}

/// Where the programs lie that are no tests, with the libraries for other languages, and `examples`.
pub(super) fn folder(workspace: &Workspace) -> Result<PathBuf> {
    build(workspace)?;
    Ok(workspace.target.join("debug"))
}

/// Builds what is not built yet.
fn build(workspace: &Workspace) -> Result<Vec<Program>> {
    let mut cargo =
        workspace.cargo(&format!("build --quiet --lib --bin runpod-testbed --examples --tests {EVERYTHING}"));
    let output = cargo
        .arg("--message-format=json-render-diagnostics")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "the tests don't build");
    String::from_utf8(output.stdout)?.lines().filter_map(|line| program(line).transpose()).collect()
}

/// The test program that a line of cargo's tells of, if it does.
fn program(line: &str) -> Result<Option<Program>> {
    let message: Value = serde_json::from_str(line)?;
    let (Some(path), Some(true)) = (message["executable"].as_str(), message["profile"]["test"].as_bool()) else {
        return Ok(None);
    };
    let manifest = message["manifest_path"].as_str().context("cargo names no manifest")?;
    let package = Path::new(manifest).parent().context("a manifest without a folder")?;
    let target = message["target"]["name"].as_str().context("cargo names no target")?;
    Ok(Some(Program { path: path.into(), package: package.into(), target: target.into() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_program_has_its_suite() {
        let suite = |package: &str, target: &str| suite_of(Path::new(package), target);
        assert_eq!(suite("crates/ledger", "attempts"), Suite::Ledger);
        assert_eq!(suite("crates/store", "bucket"), Suite::Store);
        assert_eq!(suite("crates/store", "outboard_store"), Suite::Unit);
        assert_eq!(suite("tests/e2e", "runpod_drills"), Suite::Runpod);
        assert_eq!(suite("tests/conformance", "aws_lambda"), Suite::Aws);
        assert_eq!(suite("crates/runtime", "cuda_curves"), Suite::Cuda);
        assert_eq!(suite("tests/conformance", "cpu"), Suite::Unit);
        assert_eq!(suite("tests/e2e", "resume"), Suite::E2e);
    }

    #[test]
    fn only_test_programs_are_run() {
        let line = |test: bool, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/w/crates/store/Cargo.toml","target":{{"name":"bucket"}},"profile":{{"test":{test}}},"executable":{executable}}}"#
            )
        };
        let found = Program { path: "/t/b".into(), package: "/w/crates/store".into(), target: "bucket".into() };
        assert_eq!(program(&line(true, r#""/t/b""#)).unwrap(), Some(found));
        assert_eq!(program(&line(false, r#""/t/b""#)).unwrap(), None);
        assert_eq!(program(&line(true, "null")).unwrap(), None);
        assert_eq!(program(r#"{"reason":"build-finished","success":true}"#).unwrap(), None);
    }
}
