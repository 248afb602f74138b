//! Whole jobs, from the file to the last epoch, beside the curve that PyTorch follows (`tests/vectors/curves`).

use std::path::Path;

use outboard::{Client, Config, config::Sources, read_job, task::Epoch};
use serde_json::Value;

/// Trains the job of this name, and judges its curve.
pub(crate) async fn follows(name: &str, overrides: &[String]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/curves");
    let right: Value = serde_json::from_slice(&std::fs::read(folder.join(format!("{name}.json"))).unwrap()).unwrap();
    let home = tempfile::tempdir().unwrap();
    let environment = vec![("OUTBOARD_HOME".to_string(), home.path().to_str().unwrap().to_string())];
    let sources = Sources { directory: home.path().into(), environment, overrides: overrides.to_vec() };
    let client = Client::new(Config::load(&sources).unwrap()).unwrap();
    let mut job = read_job(&folder.join(format!("{name}.toml"))).unwrap();
    job.output = Some(home.path().join("out"));
    let report = client.train(job).await.unwrap();

    let numbers =
        |key: &str| -> Vec<f64> { right[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect() };
    let close = |what: &str, found: fn(&Epoch) -> f64, right: Vec<f64>, tolerance: Vec<f64>| {
        assert_eq!(report.history.len(), right.len());
        for ((epoch, right), tolerance) in report.history.iter().zip(right).zip(tolerance) {
            let found = found(epoch);
            assert!((found - right).abs() <= tolerance, "{name}: {what} of epoch {}: {found} and {right}", epoch.epoch);
        }
    };
    close("loss", |e| e.loss, numbers("loss"), numbers("tolerance"));
    close(
        "validation loss",
        |e| e.validation_loss.unwrap(),
        numbers("validation_loss"),
        numbers("validation_tolerance"),
    );
    // A row or two may lie on the border between two classes.
    let few = |rows: f64| vec![2.5 / rows; right["accuracy"].as_array().unwrap().len()];
    close("accuracy", |e| e.accuracy.unwrap(), numbers("accuracy"), few(1438.0));
    close("validation accuracy", |e| e.validation_accuracy.unwrap(), numbers("validation_accuracy"), few(359.0));
}
