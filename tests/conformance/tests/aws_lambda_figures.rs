//! What a Lambda function of ours costs in time, beside one in Python with PyTorch, in AWS's emulator. Prints figures:
//!
//! ```sh
//! OUTBOARD_LAMBDA_RIE=.. OUTBOARD_LAMBDA_BOOTSTRAP=.. OUTBOARD_LAMBDA_PYTHON=.. \
//!     cargo test --package outboard-conformance --features lambda --test aws_lambda_figures -- --ignored --nocapture
//! ```

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use outboard_aws_lambda::{AwsLambdaProvider, Config};
use outboard_core::{ComputeProviderExt, Task};
use outboard_protocol::{Envelope, InlineReply, InlineRequest, envelope::encode};
use outboard_store::{FolderStore, inline::pack};
use outboard_testbed::lambda::{Emulator, FUNCTION, Function};

#[path = "../../../crates/worker/tests/common/mod.rs"]
mod jobs;

const STARTS: usize = 9;
const CALLS: usize = 101;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn emulator(rie: &Path, program: &Path, folder: &Path) -> Emulator {
    let timeout = Duration::from_secs(60);
    let function = Function { program: program.into(), folder: folder.into(), timeout, env: Vec::new() };
    Emulator::of_aws(rie, &function).unwrap()
}

/// Invokes the function by hand, with one client for all calls.
struct Bare<'a, F> {
    lambda: &'a Emulator,
    send: F,
}

/// A caller of a function.
fn bare(lambda: &Emulator) -> Bare<'_, impl AsyncFn(String, Vec<u8>) -> Vec<u8>> {
    let client = outboard_store::transport::client(true).build().unwrap();
    let send = async move |url: String, body: Vec<u8>| {
        client.post(url).body(body).send().await.unwrap().bytes().await.unwrap().to_vec()
    };
    Bare { lambda, send }
}

impl<F: AsyncFn(String, Vec<u8>) -> Vec<u8>> Bare<'_, F> {
    async fn invoke(&self, body: &[u8]) -> Vec<u8> {
        let url = format!("{}/2015-03-31/functions/{FUNCTION}/invocations", self.lambda.url());
        (self.send)(url, body.to_vec()).await
    }
}

/// The first invocation of fresh machines, and the later ones of one.
async fn measure(rie: &Path, program: &Path, body: &[u8], check: impl Fn(&[u8])) -> (Duration, Duration) {
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        let folder = tempfile::tempdir().unwrap();
        let lambda = emulator(rie, program, folder.path());
        let caller = bare(&lambda);
        let began = Instant::now();
        check(&caller.invoke(body).await);
        starts.push(began.elapsed());
    }
    let folder = tempfile::tempdir().unwrap();
    let lambda = emulator(rie, program, folder.path());
    let caller = bare(&lambda);
    caller.invoke(body).await;
    let mut calls = Vec::new();
    for _ in 0..CALLS {
        let began = Instant::now();
        check(&caller.invoke(body).await);
        calls.push(began.elapsed());
    }
    (median(starts), median(calls))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures"]
async fn figures() {
    let variable = |name: &str| PathBuf::from(std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set")));
    let (rie, program) = (variable("OUTBOARD_LAMBDA_RIE"), variable("OUTBOARD_LAMBDA_BOOTSTRAP"));
    let folder = tempfile::tempdir().unwrap();
    let store = FolderStore::open(&folder.path().join("client")).unwrap();
    // One step of a batch of 64.
    let job = jobs::Job { epochs: 1, rows: 64 };
    job.prepare(&store);
    let envelope = |key: &str| Envelope { ..job.envelope(key) };
    let blobs = job.operation().needs().iter().map(|digest| pack(&store, digest, usize::MAX / 2).unwrap()).collect();
    let body = encode(&InlineRequest { envelope: envelope("k"), blobs }).unwrap();
    let trains = |reply: &[u8]| {
        let reply: InlineReply = serde_json::from_slice(reply).unwrap();
        assert_eq!(reply.blobs.len(), 1, "{reply:?}");
    };
    let (start, call) = measure(&rie, &program, &body, trains).await;
    println!("ours: {start:.1?} from a machine's start to one step's checkpoint, {call:.2?} where it is warm");

    let place = folder.path().join("function");
    fs::create_dir(&place).unwrap();
    let lambda = emulator(&rie, &program, &place);
    let config = Config {
        region: Some("us-east-1".into()),
        access_key_id: Some("AKIDEXAMPLE".into()),
        secret_access_key: Some("secret".into()),
        function: FUNCTION.into(),
        qualifier: String::new(),
        endpoint_url: Some(lambda.url()),
        ..Config::default()
    };
    let provider = AwsLambdaProvider::new(&config, store, None).unwrap();
    let caller = bare(&lambda);
    let (mut by_hand, mut whole) = (Vec::new(), Vec::new());
    for n in 0..CALLS {
        // Each in turn, so that whatever else the machine does meets both.
        let began = Instant::now();
        caller.invoke(&body).await;
        by_hand.push(began.elapsed());
        let key = format!("k{n}");
        let task = Task { ..envelope(&key).task };
        let began = Instant::now();
        provider.run(&task, std::future::pending(), drop).await.unwrap();
        whole.push(began.elapsed());
    }
    let (by_hand, whole) = (median(by_hand), median(whole));
    println!("the provider: {whole:.2?} a task, the bare invocation {by_hand:.2?}");

    let python = variable("OUTBOARD_LAMBDA_PYTHON");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../testbed/python/lambda_torch.py");
    let program = folder.path().join("python");
    fs::write(&program, format!("#!/bin/sh\nexec {} {script}\n", python.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let (start, call) = measure(&rie, &program, b"{}", |reply| assert!(reply.starts_with(b"{\"loss\""))).await;
    println!("Python with PyTorch: {start:.1?} from a machine's start to one step, {call:.2?} where it is warm");
}
