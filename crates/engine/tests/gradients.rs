//! Outputs, losses and gradients against float64 PyTorch (`tests/vectors/gradients`), with float32 PyTorch's own error
//! as the yardstick; and against finite differences.

#![allow(clippy::unwrap_used)]

use outboard_core::{
    Layer,
    job::{Loss, Train},
    layer,
    task::Architecture,
};
use outboard_engine::{
    loss::Targets,
    network::{Network, StepPlan},
};
use outboard_protocol::{Dataset, Target, Tensors, initial};
use serde::Deserialize;

mod common;

use common::{Made, judge_all};

struct Batch {
    model: Architecture,
    data: Dataset,
    weights: Tensors,
}

impl Batch {
    fn network(&self, loss: &Loss) -> Network {
        let train: Train = serde_json::from_value(
            serde_json::json!({"loss": loss, "optimizer": {"type": "sgd", "lr": 0.1}, "epochs": 1}),
        )
        .unwrap();
        let mut network = Network::new(&self.model, &self.weights, self.data.rows()).unwrap();
        network.prepare_training(&train);
        network.load(&self.data, &(0..self.data.rows() as u32).collect::<Vec<_>>());
        network
    }

    fn targets(&self) -> Targets<'_> {
        match &self.data.y {
            Target::Classes(classes) => Targets::Classes(classes),
            Target::Values { values, .. } => Targets::Values(values),
            Target::None => panic!("a case without targets"),
        }
    }
}

#[test]
fn agree_with_pytorch() {
    judge_all(|case| {
        let batch = Batch { model: case.model.clone(), data: case.data.clone(), weights: case.weights.clone() };
        let (mut network, rows) = (batch.network(&case.loss), batch.data.rows());
        let plan = StepPlan { step: case.step, seed: case.seed, update: None, clip_norm: None, clip_value: None };
        let weights = batch.data.weights.as_deref();
        let sums = network.step(rows, &case.loss, batch.targets(), weights, &plan).unwrap();
        let gradients = network.gradients().map(|(name, tensor)| (name.to_string(), tensor)).collect();
        let outputs = network.forward(rows, Some(&plan)).to_vec();
        let evaluated = network.forward(rows, None).to_vec();
        let after = network.weights().map(|(name, tensor)| (name.to_string(), tensor)).collect();
        Made { loss: sums.mean(), gradients, outputs, evaluated, after }
    });
}

/// Layers between linear ones, or at the front, with the shape of a row.
fn models() -> Vec<(Vec<usize>, serde_json::Value)> {
    let activations = ["relu", "silu", "tanh", "sigmoid", "softmax", "layer_norm", "batch_norm1d"];
    let mut middles: Vec<_> = activations.iter().map(|kind| serde_json::json!({"type": kind})).collect();
    middles.extend(["none", "tanh"].map(|kind| serde_json::json!({"type": "gelu", "approximate": kind})));
    middles.push(serde_json::json!({"type": "dropout", "p": 0.3}));
    middles.push(serde_json::json!({"type": "residual", "layers": ["tanh", {"type": "linear", "out": 7}]}));
    let between = |middle| serde_json::json!([{"type": "linear", "out": 7}, middle, {"type": "linear", "out": 3}]);
    let mut models: Vec<_> = middles.into_iter().map(|middle| (vec![5], between(middle))).collect();
    let encoder = |norm_first: bool| {
        let block = serde_json::json!({
            "type": "transformer_encoder", "heads": 2, "ff": 6, "dropout": 0.2, "activation": "gelu",
            "norm_first": norm_first,
        });
        serde_json::json!([{"type": "linear", "out": 8}, block, "mean_pool", {"type": "linear", "out": 3}])
    };
    let recurrent = |kind: &str| serde_json::json!([{"type": "linear", "out": 4}, {"type": kind, "out": 6}, "last_pool", {"type": "linear", "out": 3}]);
    let images = serde_json::json!([
        {"type": "conv2d", "out": 4, "kernel": 3, "padding": 1}, "tanh", {"type": "batch_norm2d"},
        {"type": "conv2d", "out": 4, "kernel": 2, "stride": 2, "groups": 2}, {"type": "max_pool2d", "kernel": 2},
        {"type": "adaptive_avg_pool2d", "out": 1}, "flatten", {"type": "linear", "out": 3},
    ]);
    let rows = serde_json::json!([
        {"type": "conv1d", "out": 4, "kernel": 3, "dilation": 2}, {"type": "avg_pool1d", "kernel": 2}, "sigmoid",
        "flatten", {"type": "linear", "out": 3},
    ]);
    let tokens = serde_json::json!([
        {"type": "embedding", "tokens": 9, "out": 6, "padding_index": 0}, "positional_embedding",
        {"type": "transformer_encoder", "heads": 3, "ff": 5, "dropout": 0.0, "activation": "gelu"}, "mean_pool",
        {"type": "linear", "out": 3},
    ]);
    models.extend([true, false].map(|norm_first| (vec![4, 5], encoder(norm_first))));
    models.extend(["lstm", "gru"].map(|kind| (vec![4, 5], recurrent(kind))));
    models.extend([(vec![2, 6, 5], images), (vec![2, 10], rows), (vec![7], tokens)]);
    models
}

#[test]
fn agree_with_finite_differences() {
    for (input, layers) in models() {
        #[derive(Deserialize)]
        struct Model {
            #[serde(deserialize_with = "layer::list")]
            layers: Vec<Layer>,
        }
        let shown = layers.to_string();
        let Model { layers } = serde_json::from_value(serde_json::json!({"layers": layers})).unwrap();
        let width: usize = input.iter().product();
        let is_token = matches!(layers[0], Layer::Embedding { .. });
        let model = Architecture { layers, input };
        let weights = initial::weights(&layer::plan(&model.layers, &model.input).unwrap(), 3);
        let x = (0..6 * width)
            .map(|i| if is_token { ((i * 37) % 9) as f32 } else { ((i * 37) % 23) as f32 / 11.0 - 1.0 })
            .collect();
        let data =
            Dataset { shape: model.input.clone(), x, y: Target::Classes(vec![0, 1, 2, 2, 1, 0].into()), weights: None };
        let loss = Loss::CrossEntropy { label_smoothing: 0.0, class_weights: None };
        let plan = StepPlan { step: 2, seed: 3, update: None, clip_norm: None, clip_value: None };
        let mut batch = Batch { model, data, weights };
        let mut network = batch.network(&loss);
        network.step(6, &loss, batch.targets(), batch.data.weights.as_deref(), &plan).unwrap();
        let gradients: Tensors = network.gradients().map(|(name, t)| (name.to_string(), t)).collect();
        let whole: f64 = gradients.values().flat_map(|g| &g.data).map(|&g| f64::from(g).powi(2)).sum::<f64>();
        // Along the gradient itself the loss moves by its squared norm: one well-conditioned difference per tensor.
        for (name, gradient) in &gradients {
            let norm2: f64 = gradient.data.iter().map(|&g| f64::from(g).powi(2)).sum();
            // A bias before a normalisation has no gradient but rounding errors.
            if norm2 < 1e-8 * whole {
                continue;
            }
            let h = 1e-2 / norm2.sqrt();
            let mut loss_at = |sign: f64| {
                let original = batch.weights.clone();
                let moved = batch.weights.get_mut(name).unwrap();
                moved
                    .data
                    .iter_mut()
                    .zip(&gradient.data)
                    .for_each(|(w, &g)| *w = (f64::from(*w) + sign * h * f64::from(g)) as f32);
                let sums =
                    batch.network(&loss).step(6, &loss, batch.targets(), batch.data.weights.as_deref(), &plan).unwrap();
                batch.weights = original;
                sums.mean()
            };
            let mut slope_over = |reach: f64| (loss_at(reach) - loss_at(-reach)) / (2.0 * reach * h);
            // Without the error of second order, which is large behind a batch norm of few rows.
            let slope = (4.0 * slope_over(0.5) - slope_over(1.0)) / 3.0;
            assert!((slope / norm2 - 1.0).abs() < 1e-2, "{shown}: {name}: {slope} and {norm2}");
        }
    }
}

/// The same bytes for one thread and for several.
#[test]
fn do_not_depend_on_the_number_of_threads() {
    for (input, layers) in models() {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                #[derive(Deserialize)]
                struct Model {
                    #[serde(deserialize_with = "layer::list")]
                    layers: Vec<Layer>,
                }
                let Model { layers } = serde_json::from_value(serde_json::json!({"layers": layers})).unwrap();
                let is_token = matches!(layers[0], Layer::Embedding { .. });
                let model = Architecture { layers, input: input.clone() };
                let weights = initial::weights(&layer::plan(&model.layers, &model.input).unwrap(), 3);
                let n = 300 * input.iter().product::<usize>();
                let x = (0..n).map(|i| if is_token { (i * 37 % 9) as f32 } else { (i * 37 % 23) as f32 / 11.0 - 1.0 });
                let classes = (0..300).map(|i| i % 3).collect();
                let data = Dataset { shape: input.clone(), x: x.collect(), y: Target::Classes(classes), weights: None };
                let loss = Loss::CrossEntropy { label_smoothing: 0.0, class_weights: None };
                let plan = StepPlan { step: 2, seed: 3, update: None, clip_norm: None, clip_value: None };
                let batch = Batch { model, data, weights };
                let mut network = batch.network(&loss);
                network.step(300, &loss, batch.targets(), batch.data.weights.as_deref(), &plan).unwrap();
                let tensors: Tensors = network.gradients().map(|(name, t)| (name.to_string(), t)).collect();
                (tensors, network.forward(300, None).to_vec())
            })
        };
        assert!(run(1) == run(3), "{layers}");
    }
}
