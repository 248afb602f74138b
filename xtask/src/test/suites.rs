//! The suites that run other programs.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Suite, outcome::Outcome, output::PythonTests, programs};
use crate::{
    command, libtorch, postgres, python, tools,
    workspace::{WORKER, Workspace},
};

/// Where the tests of the Python package lie.
pub(super) const PYTHON_TESTS: &str = "tests/python";

/// The crash that needs libraries of its own.
const RANDOM_DEVICE: &str = "tests/python/test_random_device.py";

/// A build of the program from scratch should take no longer.
const BUILD_GOAL_SECONDS: f64 = 120.0;

/// The example jobs, and what they must reach on held-out rows.
const JOBS: [(&str, Bound); 5] = [
    ("digits", Bound::Accuracy(0.95)),
    ("images", Bound::Accuracy(0.93)),
    ("text", Bound::Accuracy(0.68)),
    ("regression", Bound::Loss(2600.0)),
    ("series", Bound::Loss(800.0)),
];

/// What a job must reach.
#[derive(Clone, Copy, Debug)]
enum Bound {
    /// At least this share of right answers.
    Accuracy(f64),
    /// At most this loss.
    Loss(f64),
}

pub(super) fn format(workspace: &Workspace) -> Result<Outcome> {
    component(workspace, "fmt", "rustfmt")?;
    check(&mut workspace.cargo("fmt --all --check"))
}

pub(super) fn clippy(workspace: &Workspace) -> Result<Outcome> {
    component(workspace, "clippy", "clippy")?;
    check(&mut workspace.cargo(&format!("clippy --quiet --all-targets {} -- -D warnings", programs::EVERYTHING)))
}

pub(super) fn docs(workspace: &Workspace) -> Result<Outcome> {
    check(workspace.cargo("doc --quiet --workspace --no-deps").env("RUSTDOCFLAGS", "-D warnings"))
}

pub(super) fn dependencies(workspace: &Workspace) -> Result<Outcome> {
    const FORBIDDEN: [&str; 4] = ["tch", "torch-sys", "openssl", "openssl-sys"];
    let tree = command::stdout(&mut workspace.cargo("tree --quiet --edges normal --target all --prefix none"))?;
    let problems: Vec<_> = FORBIDDEN
        .into_iter()
        .filter(|name| tree.lines().any(|line| line.split(' ').next() == Some(name)))
        .map(|name| format!("the default build depends on {name}: see `cargo tree --target all --invert {name}`"))
        .collect();
    Ok(Outcome::problems(&problems))
}

/// All tests that no other suite claims.
pub(super) fn unit(workspace: &Workspace) -> Result<Outcome> {
    let mut outcome = programs::run(workspace, Suite::Unit, |_| {})?;
    outcome.add(programs::documentation(workspace)?);
    Ok(outcome)
}

/// On the server that is named, or else on one of our own. Where there can be none, the tests that need it are skipped.
pub(super) fn ledger(workspace: &Workspace) -> Result<Outcome> {
    const SERVER: &str = "TEST_POSTGRES";
    if env::var_os(SERVER).is_some() {
        return programs::run(workspace, Suite::Ledger, |_| {});
    }
    let server = postgres::Server::start(workspace)?;
    let url = server.as_ref().map_or("", |server| &server.url);
    programs::run(workspace, Suite::Ledger, |tests| {
        tests.env(SERVER, url);
    })
}

pub(super) fn e2e(workspace: &Workspace, thorough: bool) -> Result<Outcome> {
    let program = workspace.program()?;
    let plugins = programs::folder(workspace)?;
    programs::run(workspace, Suite::E2e, |tests| {
        tests.env("TEST_OUTBOARD_BIN", &program).env("TEST_PLUGINS", &plugins);
        counts(tests, thorough);
    })
}

pub(super) fn store(workspace: &Workspace) -> Result<Outcome> {
    let server = tools::S3_SERVER.install(workspace)?;
    programs::run(workspace, Suite::Store, |tests| {
        tests.env("TEST_S3_SERVER", &server);
    })
}

pub(super) fn tokenizers(workspace: &Workspace) -> Result<Outcome> {
    let python = python::interpreter(workspace)?;
    programs::run_where(
        workspace,
        |package, _| package == Path::new("crates/data"),
        |tests| {
            tests.arg("tokenizers").env("TEST_PYTHON", &python);
        },
    )
}

pub(super) fn runpod(workspace: &Workspace, thorough: bool) -> Result<Outcome> {
    let server = tools::S3_SERVER.install(workspace)?;
    let python = python::interpreter(workspace)?;
    let program = workspace.program()?;
    programs::run(workspace, Suite::Runpod, |tests| {
        // They mostly wait: for workers, for replies that don't come, for the end of a patience.
        tests
            .args(["--test-threads", "6"])
            .env("TEST_S3_SERVER", &server)
            .env("TEST_RUNPOD_PYTHON", &python)
            .env("TEST_RUNPOD_WORKER", workspace.root.join(WORKER).join("src"))
            .env("TEST_OUTBOARD_BIN", &program);
        counts(tests, thorough);
    })
}

/// Elsewhere than on Linux the emulators don't run, and the tests that need them are skipped. What npm has to fetch takes
/// long: it is for `thorough`.
pub(super) fn aws(workspace: &Workspace, thorough: bool) -> Result<Outcome> {
    let mut peers = vec![
        ("TEST_S3_SERVER", tools::S3_SERVER.install(workspace)?),
        ("TEST_OUTBOARD_BIN", workspace.program()?),
        ("TEST_LAMBDA_BOOTSTRAP", programs::folder(workspace)?.join("conformance-bootstrap")),
    ];
    if cfg!(target_os = "linux") {
        peers.push(("TEST_LAMBDA_RIE", tools::LAMBDA_RIE.install(workspace)?));
        peers.push(("TEST_CARGO_LAMBDA", tools::CARGO_LAMBDA.install(workspace)?));
        if thorough {
            let serverless = tools::SERVERLESS_OFFLINE.install(workspace)?;
            peers.extend(serverless.map(|folder| ("TEST_SERVERLESS_OFFLINE", folder)));
        }
    }
    programs::run(workspace, Suite::Aws, |tests| {
        tests.envs(peers.iter().cloned());
        counts(tests, thorough);
    })
}

/// Drills run about a tenth of their counts, unless `thorough`.
fn counts(tests: &mut Command, thorough: bool) {
    if thorough {
        tests.env("TEST_THOROUGH", "1");
    }
}

/// The example programs of the library and the example jobs, each with an empty `OUTBOARD_HOME`.
pub(super) fn examples(workspace: &Workspace) -> Result<Outcome> {
    let scratch = workspace.target.join("xtask-examples");
    let _ = fs::remove_dir_all(&scratch);
    fs::create_dir_all(&scratch)?;

    let mut outcome = Outcome::default();
    let programs = programs::folder(workspace)?.join("examples");
    for example in rust_examples(&workspace.root.join("crates/runtime/examples"))? {
        println!("example {example}");
        let program = programs.join(&example).with_extension(env::consts::EXE_EXTENSION);
        outcome.add(check(workspace.command(program).env("OUTBOARD_HOME", scratch.join(example)))?);
    }
    for (name, bound) in JOBS {
        println!("outboard train examples/{name}.toml");
        let job = workspace.root.join(format!("examples/{name}.toml"));
        let mut train = Command::new(workspace.program()?);
        train.arg("train").arg(job).arg("--json").current_dir(&scratch).env("OUTBOARD_HOME", scratch.join(name));
        outcome.add(judge(bound, &command::stdout(&mut train)?)?);
    }
    Ok(outcome)
}

pub(super) fn vectors(workspace: &Workspace) -> Result<Outcome> {
    check(python::python(workspace)?.args(["tests/vectors/generate.py", "--check"]))
}

/// The worker on libtorch is a workspace of its own, so that the suites before don't meet it.
pub(super) fn cuda(workspace: &Workspace) -> Result<Outcome> {
    let cargo = |subcommand: &str| libtorch::cargo(workspace, subcommand);
    let mut outcome = check(workspace.cargo("fmt --check --manifest-path").arg(libtorch::MANIFEST))?;
    outcome.add(check(cargo("clippy --quiet --all-targets")?.args(["--", "-D", "warnings"]))?);
    outcome.add(check(cargo("doc --quiet --no-deps")?.env("RUSTDOCFLAGS", "-D warnings"))?);
    outcome.add(programs::cargo_tests(cargo("test --no-fail-fast")?.args(["--", "--show-output"]))?);
    command::run(&mut cargo("build --quiet --bin outboard-cuda-worker")?)?;
    let worker = workspace.target.join("debug/outboard-cuda-worker").with_extension(env::consts::EXE_EXTENSION);
    outcome.add(programs::run(workspace, Suite::Cuda, |tests| {
        tests.env("TEST_CUDA_WORKER", &worker);
    })?);
    Ok(outcome)
}

pub(super) fn python(workspace: &Workspace) -> Result<Outcome> {
    pytest(workspace, &[PYTHON_TESTS, &format!("--ignore={RANDOM_DEVICE}")])
}

/// Where the Python is missing for which those libraries were built, the tests that need them are skipped.
pub(super) fn random_device(workspace: &Workspace) -> Result<Outcome> {
    let mut tests = python::python(workspace)?;
    if python::RANDOM_DEVICE.has_python() {
        tests.env("TEST_RANDOM_DEVICE_PYTHON", python::RANDOM_DEVICE.interpreter(workspace)?);
    }
    python_tests(&mut tests, &[RANDOM_DEVICE])
}

/// What is checked of all Python, and the tests of the worker for PyTorch.
pub(super) fn worker(workspace: &Workspace) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for ruff in [&["check", "--no-cache", "."][..], &["format", "--no-cache", "--check", "."]] {
        outcome.add(check(python::python(workspace)?.args(["-m", "ruff"]).args(ruff))?);
    }
    let mut types = python::python(workspace)?;
    outcome.add(check(types.args(["-m", "mypy"]).current_dir(workspace.root.join(WORKER)))?);
    outcome.add(pytest(workspace, &[WORKER])?);
    Ok(outcome)
}

/// Tests with the real program and RunPod's stand-in.
fn pytest(workspace: &Workspace, what: &[&str]) -> Result<Outcome> {
    let program = workspace.program()?;
    let testbed = programs::folder(workspace)?.join("runpod-testbed").with_extension(env::consts::EXE_EXTENSION);
    let mut python = python::python(workspace)?;
    python_tests(python.env("TEST_OUTBOARD_BIN", program).env("TEST_RUNPOD_TESTBED_BIN", testbed), what)
}

fn python_tests(python: &mut Command, what: &[&str]) -> Result<Outcome> {
    let mut tests = PythonTests::default();
    python.args(["-m", "pytest", "-q", "-r", "s", "-p", "no:cacheprovider"]).args(what);
    let status = command::lines(python, |line| {
        println!("{line}");
        tests.line(line);
    })?;
    Ok(tests.finish(status.success()))
}

/// The time is printed, not judged: the machine may be busy.
pub(super) fn build_time(workspace: &Workspace) -> Result<Outcome> {
    let target = workspace.target.join("build-time");
    let _ = fs::remove_dir_all(&target);
    let mut build = workspace.cargo("build --quiet --release --package outboard-cli --target-dir");
    let start = Instant::now();
    let outcome = check(build.arg(&target))?;
    let seconds = start.elapsed().as_secs_f64();
    let verdict = if seconds <= BUILD_GOAL_SECONDS { "met" } else { "missed" };
    println!("a clean release build takes {seconds:.0} s; the goal of {BUILD_GOAL_SECONDS} s is {verdict}");
    fs::remove_dir_all(target)?;
    Ok(outcome)
}

/// One check: the command succeeds.
fn check(command: &mut Command) -> Result<Outcome> {
    Ok(Outcome::check(command::status(command)?.success()))
}

/// Installs a component of the toolchain where it is missing.
fn component(workspace: &Workspace, subcommand: &str, component: &str) -> Result<()> {
    if command::stdout(workspace.cargo(subcommand).arg("--version")).is_ok() {
        return Ok(());
    }
    command::run(Command::new("rustup").args(["component", "add", component]))
        .with_context(|| format!("install {component} for this toolchain"))
}

/// The names of the examples in `folder`, if there is one.
fn rust_examples(folder: &Path) -> Result<Vec<String>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let paths: Vec<PathBuf> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    let sources = paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let mut names: Vec<_> = sources.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    Ok(names)
}

/// Judges the last line of the program's `--json` output.
fn judge(bound: Bound, output: &str) -> Result<Outcome> {
    let line = output.lines().rfind(|line| !line.trim().is_empty()).context("the program printed nothing")?;
    println!("{line}");
    let result: Value = serde_json::from_str(line)?;
    let metric = |name: &str| result["metrics"][name].as_f64();
    let mut problems = Vec::new();
    if result["status"] != "succeeded" {
        problems.push(format!("status is {}", result["status"]));
    }
    match bound {
        Bound::Accuracy(least) => {
            let accuracy = metric("validation_accuracy").unwrap_or_default();
            if accuracy < least {
                problems.push(format!("the validation accuracy {accuracy} is below {least}"));
            }
        }
        Bound::Loss(most) => {
            let loss = metric("validation_loss").unwrap_or(f64::INFINITY);
            if loss > most {
                problems.push(format!("the validation loss {loss} is above {most}"));
            }
        }
    }
    Ok(Outcome::problems(&problems))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_judged_by_the_last_line() {
        let judged = |bound: Bound, last: &str| judge(bound, &format!("{{\"epoch\":1}}\n{last}\n\n"));
        let passes = |last: &str| judged(Bound::Accuracy(0.95), last).unwrap().passes();
        assert!(passes(r#"{"status":"succeeded","metrics":{"validation_accuracy":0.97}}"#));
        assert!(!passes(r#"{"status":"succeeded","metrics":{"validation_accuracy":0.9}}"#));
        assert!(!passes(r#"{"status":"failed","metrics":{"validation_accuracy":0.97}}"#));
        assert!(!passes(r#"{"status":"succeeded","metrics":null}"#));
        let passes = |last: &str| judged(Bound::Loss(2.0), last).unwrap().passes();
        assert!(passes(r#"{"status":"succeeded","metrics":{"validation_loss":1.5}}"#));
        assert!(!passes(r#"{"status":"succeeded","metrics":{"validation_loss":2.5}}"#));
        assert!(!passes(r#"{"status":"succeeded","metrics":null}"#));
        assert!(judged(Bound::Loss(2.0), "done").is_err());
        assert!(judge(Bound::Loss(2.0), "\n").is_err());
    }
}
