//! Our worker as a Lambda function in an emulator, with a bucket or without, behind a network that may fail.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use outboard_aws_lambda::{AwsLambdaProvider, Config};
use outboard_conformance::{Fixture, Possible};
use outboard_core::{ComputeProvider, Digest, Error, TaskId, task::Phase};
use outboard_store::FolderStore;
use outboard_testbed::{
    Fault, Proxy, Weather,
    lambda::{Emulator, FUNCTION, Function},
};
use outboard_wrappers::standard;

#[path = "../remote/mod.rs"]
pub mod remote;

use remote::{Home, end, s3};

/// Name the emulators; `cargo xtask test aws` sets them.
pub const OF_AWS: &str = "TEST_LAMBDA_RIE";
pub const OF_CARGO: &str = "TEST_CARGO_LAMBDA";

const SECRET: &str = "s3cret";
/// The function's time-out, where none of the tests' own matters.
pub const TIMEOUT: Duration = Duration::from_secs(300);

pub fn emulator(test: &str, variable: &str) -> Option<PathBuf> {
    remote::named(test, variable, "aws")
}

fn function(home: &Home, timeout: Duration) -> Function {
    let place = home.folder.path().join("function");
    fs::create_dir_all(&place).unwrap();
    Function { program: env!("CARGO_BIN_EXE_conformance-bootstrap").into(), folder: place, timeout, env: Vec::new() }
}

/// For the function `function` at this address.
pub fn config(function: &str, url: String) -> Config {
    Config {
        enabled: true,
        region: Some("us-east-1".into()),
        access_key_id: Some("AKIDEXAMPLE".into()),
        secret_access_key: Some(SECRET.into()),
        function: function.into(),
        qualifier: String::new(),
        endpoint_url: Some(url),
        timeout: TIMEOUT,
        ..Config::default()
    }
}

pub struct LambdaFixture {
    pub lambda: Emulator,
    pub proxy: Proxy,
    pub home: Home,
    machines: u32,
}

impl LambdaFixture {
    pub async fn of_aws(program: PathBuf, server: Option<s3::Server>, timeout: Duration) -> Self {
        let home = Home::new(server);
        let lambda = Emulator::of_aws(&program, &function(&home, timeout)).unwrap();
        Self::new(lambda, home, 1).await
    }

    pub async fn of_cargo(program: PathBuf, server: Option<s3::Server>, machines: u32) -> Self {
        let home = Home::new(server);
        let lambda = Emulator::of_cargo(&program, &function(&home, TIMEOUT), machines).unwrap();
        Self::new(lambda, home, machines).await
    }

    async fn new(lambda: Emulator, home: Home, machines: u32) -> Self {
        let proxy = Proxy::start(lambda.address(), Weather::fair()).await.unwrap();
        Self { lambda, proxy, home, machines }
    }

    pub fn bare(&self) -> AwsLambdaProvider {
        let address = format!("http://{}", self.proxy.address());
        let config = Config { concurrency: self.machines, ..config(FUNCTION, address) };
        AwsLambdaProvider::new(&config, self.home.store.clone(), self.home.bucket()).unwrap()
    }

    fn client(&self) -> Arc<dyn ComputeProvider> {
        standard(Arc::new(self.bare()), &outboard_wrappers::Settings::default())
    }

    pub fn loses_a_reply(&self) {
        self.proxy.set(Weather::fair().then("POST /2015-03-31/functions/", Fault::LoseReply));
    }

    /// The process that runs the function, once it does.
    pub async fn process(&self) -> u32 {
        loop {
            if let Some(id) = self.lambda.processes().pop() {
                return id;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// The end of a task that must fail.
pub async fn failure(provider: &dyn ComputeProvider, id: &TaskId) -> Error {
    match end(provider, id).await.phase {
        Phase::Failed(error) => error,
        other => panic!("{other:?}"),
    }
}

#[async_trait]
impl Fixture for LambdaFixture {
    async fn provider(&self) -> Arc<dyn ComputeProvider> {
        self.client()
    }

    fn store(&self) -> &FolderStore {
        &self.home.store
    }

    fn numerics(&self) -> String {
        outboard_engine::numerics::class().into()
    }

    fn secrets(&self) -> Vec<String> {
        vec![SECRET.into()]
    }

    fn remembers_tasks(&self) -> Possible<()> {
        self.home.remembers_tasks()
    }

    fn corrupt(&self, blob: &Digest) -> Possible<()> {
        self.home.corrupt(blob)
    }

    async fn losing_a_reply(&self) -> Possible<Arc<dyn ComputeProvider>> {
        if self.home.server.is_none() {
            return Err("without a store nobody finds what was lost");
        }
        self.loses_a_reply();
        Ok(self.client())
    }
}
