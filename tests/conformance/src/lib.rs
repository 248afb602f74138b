#![doc = include_str!("../README.md")]

mod cases;
pub mod fixture;
mod logs;
mod reference;
pub mod report;
mod sample;
mod suite;
mod watch;
mod witness;

pub use fixture::{Fixture, Possible};
pub use outboard_core::Digest;
pub use report::{Report, Verdict};

/// Runs every case on the providers of `fixture`.
pub async fn run_all(fixture: &dyn Fixture) -> Report {
    let suite = suite::Suite::new(fixture);
    let mut report = Report::default();
    for case in cases::CASES {
        report.cases.push((case.name, suite.run(case).await));
    }
    report
}
