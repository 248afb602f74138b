//! Many small jobs on our worker as a Lambda function: machines of cargo-lambda's emulator behind Lambda's own address.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use outboard::{Client, Config, Job, config::Sources, read_job};
use outboard_e2e::repository;
use outboard_testbed::lambda::{Emulator, Endpoint, FUNCTION, Function};
use tempfile::TempDir;

/// The function's program; `cargo xtask test aws` sets it.
pub const BOOTSTRAP: &str = "TEST_LAMBDA_BOOTSTRAP";
const OF_CARGO: &str = "TEST_CARGO_LAMBDA";

/// Machines of the function, and tasks that run at the same time.
pub const MACHINES: u32 = 4;
/// What AWS charges for a GB-second and a request in us-east-1, and the memory of the function.
const USD_PER_GB_SECOND: f64 = 0.000_016_666_7;
const USD_PER_REQUEST: f64 = 0.000_000_2;
const MEMORY_GB: f64 = 1769.0 / 1024.0;

/// A model with little to do: one epoch over these rows.
const ROWS: usize = 200;
const JOB: &str = "[model]\nlayers = [{ type = \"linear\", out = 16 }, { type = \"relu\" }, { type = \"linear\", out = 10 }]\n\
                   [data]\ntrain = \"few.csv\"\ntarget = \"label\"\n\
                   [train]\nloss = \"cross_entropy\"\noptimizer = { type = \"adam\", lr = 1e-3 }\nepochs = 1\nbatch_size = 64\n\
                   seed = 7\n";

pub fn named(test: &str, variable: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from);
    if named.is_none() {
        println!("skipped: {test}: {variable} is not set; `cargo xtask test aws` sets it");
    }
    named
}

pub fn function(program: &Path, folder: &Path) -> Function {
    Function { program: program.into(), folder: folder.into(), timeout: Duration::from_secs(60), env: Vec::new() }
}

/// The function, and a folder for clients.
pub struct Bed {
    pub endpoint: Endpoint,
    _emulator: Emulator,
    folder: TempDir,
}

impl Bed {
    pub async fn new(test: &str) -> Option<Self> {
        let (program, emulator) = (named(test, BOOTSTRAP)?, named(test, OF_CARGO)?);
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("function");
        fs::create_dir(&place).unwrap();
        let emulator = Emulator::of_cargo(&emulator, &function(&program, &place), MACHINES).unwrap();
        // More than may run at the same time would be refused, as by a function's reserved concurrency.
        let endpoint = Endpoint::start(&emulator, MACHINES as usize).await.unwrap();
        let digits = fs::read_to_string(repository().join("examples/data/digits.csv")).unwrap();
        let few: Vec<_> = digits.lines().take(ROWS + 1).collect();
        fs::write(folder.path().join("few.csv"), few.join("\n")).unwrap();
        fs::write(folder.path().join("job.toml"), JOB).unwrap();
        Some(Self { endpoint, _emulator: emulator, folder })
    }

    /// A client whose jobs run there and nowhere else.
    pub fn client(&self, day_usd: f64) -> Client {
        let home = self.folder.path().join("home").display().to_string();
        let overrides = [
            "providers.cpu.enabled=false".to_string(),
            "providers.aws-lambda.enabled=true".into(),
            "providers.aws-lambda.region=us-east-1".into(),
            "providers.aws-lambda.access_key_id=AKIDEXAMPLE".into(),
            "providers.aws-lambda.secret_access_key=secret".into(),
            format!("providers.aws-lambda.function={FUNCTION}"),
            "providers.aws-lambda.qualifier=".into(),
            format!("providers.aws-lambda.endpoint_url={}", self.endpoint.url()),
            format!("providers.aws-lambda.concurrency={MACHINES}"),
            format!("budget.day_usd={day_usd}"),
        ];
        let environment = vec![("OUTBOARD_HOME".to_string(), home)];
        let sources = Sources { directory: self.folder.path().into(), environment, overrides: overrides.to_vec() };
        Client::new(Config::load(&sources).unwrap()).unwrap()
    }

    pub fn job(&self, name: &str) -> Job {
        let mut job = read_job(&self.folder.path().join("job.toml")).unwrap();
        job.name = Some(name.into());
        job.output = Some(self.folder.path().join("out").join(name));
        job
    }

    /// What AWS would bill for all that has run.
    pub fn billed_usd(&self) -> f64 {
        self.endpoint.billed().as_secs_f64() * MEMORY_GB * USD_PER_GB_SECOND
            + self.endpoint.invocations() as f64 * USD_PER_REQUEST
    }
}
