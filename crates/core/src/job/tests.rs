use super::*;

const JOB: &str = r#"
[model]
layers = [{ type = "linear", out = 64 }, "relu", { type = "linear", out = 10 }]
[data]
train = "digits.csv"
target = "label"
validation = 0.2
[train]
loss = "cross_entropy"
optimizer = { type = "adam", lr = 1e-3 }
epochs = 20
[limits]
max_cost_usd = 0.50
deadline = "10m"
"#;

fn job() -> Job {
    toml::from_str(JOB).unwrap()
}

fn refusal(change: impl FnOnce(&mut Job)) -> String {
    let mut job = job();
    change(&mut job);
    job.check().unwrap_err().to_string()
}

#[test]
fn short_forms_mean_the_same_and_a_job_reads_back() {
    let job = job();
    assert_eq!(job.model.layers[1], Layer::Relu);
    assert_eq!(job.train.optimizer, Optimizer::default());
    assert_eq!(job.limits.max_cost_usd, Some(NanoUsd(500_000_000)));
    assert_eq!(job.limits.deadline, Some(Duration::from_secs(600)));
    job.check().unwrap();
    let again: Job = toml::from_str(&toml::to_string(&job).unwrap()).unwrap();
    assert_eq!(job, again);
}

#[test]
fn refuses_values_out_of_range_with_what_would_be_right() {
    assert_eq!(refusal(|j| j.train.epochs = 0), "`train.epochs` is 0, but must be at least 1");
    assert_eq!(refusal(|j| j.train.batch_size = 0), "`train.batch_size` is 0, but must be at least 1");
    for lr in [-0.1, 0.0, f64::NAN, f64::INFINITY] {
        let sgd = Optimizer::Sgd { lr, momentum: 0.0, dampening: 0.0, weight_decay: 0.0, nesterov: false };
        assert_eq!(
            refusal(|j| j.train.optimizer = sgd),
            format!("`train.optimizer.lr` is {lr}, but must be a number above 0")
        );
    }
    assert_eq!(
        refusal(|j| j.data.validation = Some(Validation::Fraction(1.0))),
        "`data.validation` is 1, but must be a share of the rows between 0 and 1, such as 0.2"
    );
    assert_eq!(
        refusal(|j| j.train.early_stopping = Some(EarlyStopping { patience: 0, min_delta: 0.0 })),
        "`train.early_stopping.patience` is 0, but must be at least 1"
    );
}

#[test]
fn freezing_matches_whole_names() {
    let mut train = job().train;
    train.freeze = vec!["1".into(), "2.bias".into()];
    let frozen: Vec<_> = ["1.weight", "10.weight", "2.weight", "2.bias"].map(|name| train.is_frozen(name)).into();
    assert_eq!(frozen, [true, false, false, true]);
    let plan = crate::layer::plan(&job().model.layers, &[4]).unwrap();
    let error = train.check_freeze(&plan).unwrap_err();
    assert_eq!(error.to_string(), "`1` in `train.freeze` names no layer or parameter of the model");
    train.freeze = vec!["0".into(), "2".into()];
    assert_eq!(
        train.check_freeze(&plan).unwrap_err().to_string(),
        "every parameter is frozen, so there is nothing to train"
    );
}

#[test]
fn steps_follow_drop_last() {
    let mut train = job().train;
    train.batch_size = 64;
    assert_eq!(train.steps_per_epoch(130), 3);
    train.drop_last = true;
    assert_eq!(train.steps_per_epoch(130), 2);
}
