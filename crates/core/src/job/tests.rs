use super::*;
use crate::layer::Planned;

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
fn data_of_every_form_read_back() {
    let mut text = JOB.replace("\"label\"", "[\"a\", \"b\"]").replace(
        "[train]",
        "format = \"csv\"\nweight = \"n\"\nlabels = \"y.npy\"\ntext = \"t\"\nmax_length = 9\ntokenizer = \"t.json\"\n\
         window = { length = 3, stride = 2 }\nimages = { size = [2, 3], color = \"grayscale\" }\n[train]\n\
         augment = [\"flip\", { crop = 4 }, { shift = 2 }]",
    );
    text =
        text.replace("loss = \"cross_entropy\"", "loss = { type = \"cross_entropy\", class_weights = \"balanced\" }");
    let job: Job = toml::from_str(&text).unwrap();
    assert_eq!(job.data.targets(), ["a", "b"]);
    assert_eq!(job.data.window, Some(Window { length: 3, horizon: 1, stride: 2 }));
    assert_eq!(job.data.images, Some(Images { size: Some([2, 3]), color: Color::Grayscale }));
    assert_eq!(job.train.augment, [Augment::Flip, Augment::Crop(4), Augment::Shift(2)]);
    let balanced = ClassWeights::Rule(Balance::Balanced);
    assert!(matches!(&job.train.loss, Loss::CrossEntropy { class_weights: Some(w), .. } if *w == balanced));
    job.check().unwrap();
    assert_eq!(toml::from_str::<Job>(&toml::to_string(&job).unwrap()).unwrap(), job);
}

#[test]
fn names_say_what_files_are() {
    let of = |name: &str| Format::of_name(std::path::Path::new(name));
    for (name, format) in [
        ("a.CSV", Some(Format::Csv)),
        ("b.parquet", Some(Format::Parquet)),
        ("train-images-idx3-ubyte.gz", Some(Format::Idx)),
        ("x.idx", Some(Format::Idx)),
        ("x.npz", Some(Format::Npz)),
        ("x.csv.gz", None),
        ("x", None),
    ] {
        assert_eq!(of(name), format, "{name}");
    }
}

#[test]
fn balanced_weights_make_classes_equal() {
    let weights = ClassWeights::balanced(&[0, 0, 0, 2], 3);
    assert_eq!(weights, ClassWeights::Each(vec![(4.0f64 / 9.0) as f32, 1.0, (4.0f64 / 3.0) as f32]));
}

#[test]
fn images_alone_are_changed() {
    let refused = |augment: Vec<Augment>, input: &[usize]| {
        let mut job = job();
        job.train.augment = augment;
        job.train.check_augment(input).err().map(|error| error.to_string())
    };
    assert_eq!(refused(vec![], &[5]), None);
    assert_eq!(refused(vec![Augment::Flip, Augment::Crop(2)], &[1, 3, 4]), None);
    assert_eq!(refused(vec![Augment::Flip], &[64]).unwrap(), "`train.augment` changes images, but a row is [64]");
    assert_eq!(
        refused(vec![Augment::Shift(3)], &[1, 3, 4]).unwrap(),
        "`train.augment` moves images of 3 by 4 pixels by up to 3"
    );
    assert_eq!(refused(vec![Augment::Flip; 17], &[1, 3, 4]).unwrap(), "`train.augment` lists more than 16 changes");
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
    assert_eq!(refusal(|j| j.data.target = None), "`data.target` is missing");
    assert_eq!(
        refusal(|j| j.data.window = Some(Window { length: 5, horizon: 0, stride: 1 })),
        "`data.window.horizon` is 0, but must be at least 1"
    );
    assert_eq!(refusal(|j| j.data.max_length = Some(0)), "`data.max_length` is 0, but must be at least 1, such as 256");
    assert_eq!(
        refusal(|j| j.data.images = Some(Images { size: Some([0, 9]), color: Color::Rgb })),
        "`data.images.size` is [0, 9], but must be height and width from 1 to 8192, such as [32, 32]"
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

#[test]
fn a_batch_norm_needs_more_than_one_row() {
    use crate::layer::{BatchNorm, plan};
    let norm = || BatchNorm { eps: 1e-5, momentum: 0.1 };
    let of = |layer: Layer, input: &[usize]| plan(&[Layer::Residual { layers: vec![layer] }], input).unwrap();
    let flat = of(Layer::BatchNorm1d(norm()), &[4]);
    let check = |plan: &[Planned], batch_size: usize, drop_last: bool, rows: usize| {
        let train = Train { batch_size, drop_last, ..job().train };
        train.check_batch_norms(plan, rows).map_err(|e| e.report())
    };
    assert_eq!(
        check(&flat, 64, false, 129),
        Err(
            "layer 0.body.0 (batch_norm1d) needs more than one row in a batch, but 129 training rows in batches of 64 \
             leave one over\n  key: train.drop_last\n  try: set `drop_last = true` under [train], or another \
             `batch_size`"
                .into()
        )
    );
    assert_eq!(
        check(&flat, 1, true, 129),
        Err("layer 0.body.0 (batch_norm1d) needs more than one row in a batch, but `batch_size` is 1\n  \
             key: train.batch_size\n  try: set `batch_size` to at least 2, with `drop_last = true` if one row is left \
             over"
            .into())
    );
    assert_eq!(check(&flat, 64, true, 129), Ok(()));
    assert_eq!(check(&flat, 64, false, 130), Ok(()));
    // A channel of an image has many values in one row.
    assert_eq!(check(&of(Layer::BatchNorm2d(norm()), &[4, 3, 3]), 1, false, 129), Ok(()));
}

#[test]
fn layers_inside_of_layers_can_be_frozen() {
    use crate::layer::plan;
    let layers = [Layer::Residual { layers: vec![Layer::Linear { out: 4, bias: true }] }];
    let plan = plan(&[&layers[..], &[Layer::Linear { out: 2, bias: true }]].concat(), &[4]).unwrap();
    let freeze = |name: &str| Train { freeze: vec![name.into()], ..job().train };
    for name in ["0", "0.body", "0.body.0", "0.body.0.bias"] {
        freeze(name).check_freeze(&plan).unwrap();
        assert!(freeze(name).is_frozen("0.body.0.bias"));
    }
    assert!(freeze("0.weight").check_freeze(&plan).is_err());
}
