//! The suite over the `aws-lambda` provider: our worker as a function in the emulators of AWS and of cargo-lambda, with a
//! bucket and without.

#![allow(missing_docs)]

use outboard_conformance::run_all;

mod lambda;

use lambda::{LambdaFixture, OF_AWS, OF_CARGO, TIMEOUT, emulator, remote::s3};

/// Nothing cancels an invocation, so that no task stays live for sure: the cases that need that don't apply.
const PASSED: usize = 27;
/// Without a bucket a restarted client and a lost reply are out of reach too.
const PASSED_INLINE: usize = 25;

#[tokio::test(flavor = "multi_thread")]
async fn with_a_bucket() {
    let Some(program) = emulator("with_a_bucket", OF_AWS) else { return };
    let Some(server) = s3::server("with_a_bucket") else { return };
    run_all(&LambdaFixture::of_aws(program, Some(server), TIMEOUT).await).await.assert_passed(PASSED);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_store() {
    let Some(program) = emulator("without_a_store", OF_AWS) else { return };
    run_all(&LambdaFixture::of_aws(program, None, TIMEOUT).await).await.assert_passed(PASSED_INLINE);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_several_machines() {
    let Some(program) = emulator("with_several_machines", OF_CARGO) else { return };
    let Some(server) = s3::server("with_several_machines") else { return };
    run_all(&LambdaFixture::of_cargo(program, Some(server), 2).await).await.assert_passed(PASSED);
}
