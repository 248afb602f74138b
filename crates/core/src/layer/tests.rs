use super::*;

fn linear(out: usize) -> Layer {
    Layer::Linear { out, bias: true }
}

/// Layers as in a job file.
fn layers(text: &str) -> Vec<Layer> {
    #[derive(Deserialize)]
    struct Model {
        #[serde(deserialize_with = "list")]
        layers: Vec<Layer>,
    }
    toml::from_str::<Model>(&format!("layers = [{text}]")).unwrap().layers
}

fn shapes(text: &str, input: &[usize]) -> Vec<Vec<usize>> {
    plan(&layers(text), input).unwrap().into_iter().map(|layer| layer.output).collect()
}

fn names(text: &str, input: &[usize]) -> Vec<(String, Vec<usize>)> {
    let planned = plan(&layers(text), input).unwrap();
    planned.into_iter().flat_map(|layer| layer.parameters).map(|p| (p.name, p.shape)).collect()
}

fn message(text: &str, input: &[usize]) -> String {
    plan(&layers(text), input).unwrap_err().to_string()
}

#[test]
fn infers_shapes_and_names_parameters_as_pytorch_does() {
    let layers = [Layer::Flatten, linear(5), Layer::Relu, Layer::Linear { out: 3, bias: false }];
    let planned = plan(&layers, &[2, 3, 4]).unwrap();
    assert_eq!(planned[3].output, [3]);
    let names: Vec<_> = planned.iter().flat_map(|l| &l.parameters).map(|p| (p.name.as_str(), p.len())).collect();
    assert_eq!(names, [("1.weight", 120), ("1.bias", 5), ("3.weight", 15)]);
    assert_eq!(planned.iter().map(Planned::flops).sum::<u64>(), 5 * 49 + 5 + 30);
}

#[test]
fn refuses_what_cannot_be_a_layer() {
    let message = |layers: &[Layer]| plan(layers, &[4]).unwrap_err().to_string();
    assert_eq!(message(&[linear(0)]), "layer 0 (linear): `out` is 0, but a layer needs at least one output");
    assert_eq!(
        message(&[Layer::Dropout { p: 1.0 }]),
        "layer 0 (dropout): `p` is 1, but the share of zeroes must be at least 0 and below 1"
    );
    assert_eq!(
        message(&[linear(usize::MAX)]),
        format!("layer 0 (linear): a weight of [{}, 4] is too large", usize::MAX)
    );
    assert_eq!(message(&[]), "the model has no layer");
}

#[test]
fn keys_are_checked() {
    let read = |text: &str| serde_json::from_str::<Layer>(text).map_err(|e| e.to_string());
    assert_eq!(read(r#"{"type":"linear","out":3}"#), Ok(linear(3)));
    assert!(read(r#"{"type":"linear","out":3,"bais":false}"#).unwrap_err().starts_with("unknown field `bais`"));
    assert!(read(r#"{"type":"conv9d"}"#).unwrap_err().starts_with("unknown variant `conv9d`"));
    let pool = r#"{"type":"max_pool2d","kernel":2,"strid":2}"#;
    assert!(read(pool).unwrap_err().starts_with("unknown field `strid`"), "{:?}", read(pool));
    let conv = |kernel: &str| read(&format!(r#"{{"type":"conv2d","out":3,"kernel":{kernel}}}"#));
    assert!(conv("[3, 5]").is_ok());
    for (kernel, problem) in [("-1", "invalid value"), ("\"3\"", "invalid type"), ("[1, 2, 3]", "invalid length 3")] {
        let error = conv(kernel).unwrap_err();
        assert!(error.starts_with(problem) && error.ends_with("a whole number, or [height, width]"), "{error}");
    }
}

#[test]
fn every_layer_reads_back_as_it_was_written() {
    let all = layers(
        r#"{ type = "conv1d", out = 2, kernel = 3 }, { type = "conv2d", out = 2, kernel = [3, 5], stride = 2, groups = 2 },
        { type = "max_pool1d", kernel = 2 }, { type = "avg_pool2d", kernel = 3, stride = [1, 2], padding = 1 },
        { type = "adaptive_avg_pool2d", out = 1 }, "batch_norm1d", { type = "batch_norm2d", momentum = 0.2 }, "layer_norm",
        { type = "embedding", tokens = 9, out = 4, padding_index = 0 }, "positional_embedding",
        { type = "residual", layers = ["relu", { type = "linear", out = 4 }] },
        { type = "transformer_encoder", heads = 2, activation = "gelu", norm_first = true },
        { type = "lstm", out = 3 }, { type = "gru", out = 3, bias = false }, "mean_pool", "last_pool""#,
    );
    for layer in all {
        let text = serde_json::to_string(&layer).unwrap();
        assert_eq!(serde_json::from_str::<Layer>(&text).unwrap(), layer, "{text}");
        assert!(text.starts_with(&format!(r#"{{"type":"{}""#, layer.kind())), "{text}");
    }
}

#[test]
fn windows_move_as_in_pytorch() {
    let image = r#"{ type = "conv2d", out = 8, kernel = 3, stride = 2, padding = 1 },
        { type = "conv2d", out = 4, kernel = [1, 3], dilation = [1, 2], groups = 2 },
        { type = "max_pool2d", kernel = 3, stride = 2, padding = 1 }, { type = "avg_pool2d", kernel = 2 },
        { type = "adaptive_avg_pool2d", out = [2, 3] }, "flatten""#;
    let right: [&[usize]; 6] = [&[8, 10, 10], &[4, 10, 6], &[4, 5, 3], &[4, 2, 1], &[4, 2, 3], &[24]];
    assert_eq!(shapes(image, &[3, 20, 19]), right);
    assert_eq!(names(image, &[3, 20, 19])[2], ("1.weight".to_string(), vec![4, 4, 1, 3]));
    let row = r#"{ type = "conv1d", out = 6, kernel = 5 }, { type = "max_pool1d", kernel = 2 },
        { type = "adaptive_avg_pool1d", out = 3 }"#;
    assert_eq!(shapes(row, &[2, 20]), [[6, 16], [6, 8], [6, 3]]);
    let conv = plan(&layers(r#"{ type = "conv2d", out = 32, kernel = 3, padding = 1 }"#), &[1, 28, 28]).unwrap();
    assert_eq!(conv[0].flops(), 32 * 784 * (2 * 9 + 1));
}

#[test]
fn composite_layers_have_the_names_of_pytorch() {
    let text = r#"{ type = "embedding", tokens = 10, out = 4, padding_index = 0 }, "positional_embedding",
        { type = "transformer_encoder", heads = 2, ff = 8 },
        { type = "residual", layers = ["layer_norm", { type = "linear", out = 4 }] }, { type = "gru", out = 3 }"#;
    let found = names(text, &[5]);
    let right: [(&str, &[usize]); 22] = [
        ("0.weight", &[10, 4]),
        ("1.weight", &[5, 4]),
        ("2.self_attn.in_proj_weight", &[12, 4]),
        ("2.self_attn.in_proj_bias", &[12]),
        ("2.self_attn.out_proj.weight", &[4, 4]),
        ("2.self_attn.out_proj.bias", &[4]),
        ("2.linear1.weight", &[8, 4]),
        ("2.linear1.bias", &[8]),
        ("2.linear2.weight", &[4, 8]),
        ("2.linear2.bias", &[4]),
        ("2.norm1.weight", &[4]),
        ("2.norm1.bias", &[4]),
        ("2.norm2.weight", &[4]),
        ("2.norm2.bias", &[4]),
        ("3.body.0.weight", &[4]),
        ("3.body.0.bias", &[4]),
        ("3.body.1.weight", &[4, 4]),
        ("3.body.1.bias", &[4]),
        ("4.weight_ih_l0", &[9, 4]),
        ("4.weight_hh_l0", &[9, 3]),
        ("4.bias_ih_l0", &[9]),
        ("4.bias_hh_l0", &[9]),
    ];
    assert_eq!(found, right.map(|(name, shape)| (name.to_string(), shape.to_vec())));
    assert_eq!(
        names(r#""batch_norm2d""#, &[3, 2, 2]).iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["0.weight", "0.bias", "0.running_mean", "0.running_var", "0.num_batches_tracked"]
    );
}

#[test]
fn dropouts_inside_of_layers_have_numbers_of_their_own() {
    let text = r#""dropout", { type = "residual", layers = ["dropout", { type = "transformer_encoder", heads = 1 },
        { type = "residual", layers = ["dropout"] }] }, "dropout""#;
    let planned = plan(&layers(text), &[5, 4]).unwrap();
    let inner = &planned[1].body;
    let numbers = [&planned[0], &inner[0], &inner[1], &inner[2].body[0], &planned[2]].map(|layer| layer.dropout);
    assert_eq!(numbers, [0, 1 | 1 << 16, 1 | 2 << 16, 1 | 6 << 16, 2]);
}

#[test]
fn padding_lasts_as_long_as_positions_do() {
    let text = r#"{ type = "embedding", tokens = 10, out = 4, padding_index = 0 }, { type = "lstm", out = 4 },
        { type = "residual", layers = ["relu"] }, { type = "transformer_encoder", heads = 1 }, "mean_pool", "relu""#;
    let padded: Vec<_> = plan(&layers(text), &[5]).unwrap().iter().map(|layer| layer.padded).collect();
    assert_eq!(padded, [false, true, true, true, true, false]);
    let without = text.replace(", padding_index = 0", "");
    assert!(plan(&layers(&without), &[5]).unwrap().iter().all(|layer| !layer.padded));
}

#[test]
fn says_what_a_layer_takes() {
    let cases: &[(&str, &[usize], &str)] = &[
        (
            r#"{ type = "conv2d", out = 8, kernel = 3 }"#,
            &[784],
            "layer 0 (conv2d): its input is [784], but it takes [channels, height, width]",
        ),
        (
            r#""relu", { type = "conv1d", out = 8, kernel = 9 }"#,
            &[1, 5],
            "layer 1 (conv1d): a kernel of [9] is larger than its input of [5] with its padding",
        ),
        (
            r#"{ type = "conv2d", out = 8, kernel = 0 }"#,
            &[1, 5, 5],
            "layer 0 (conv2d): `kernel` is 0, but must be at least 1",
        ),
        (
            r#"{ type = "conv2d", out = 8, kernel = 3, stride = [1, 0] }"#,
            &[1, 5, 5],
            "layer 0 (conv2d): `stride` is 0, but must be at least 1",
        ),
        (
            r#"{ type = "conv1d", out = 8, kernel = 3, groups = 3 }"#,
            &[4, 5],
            "layer 0 (conv1d): 4 channels and `out` = 8 can't both be cut into 3 groups",
        ),
        (
            r#"{ type = "max_pool2d", kernel = 3, padding = 2 }"#,
            &[1, 5, 5],
            "layer 0 (max_pool2d): `padding` is 2, but must be at most half of the kernel's 3",
        ),
        (
            r#"{ type = "adaptive_avg_pool1d", out = 0 }"#,
            &[4, 5],
            "layer 0 (adaptive_avg_pool1d): `out` is 0, but must be at least 1",
        ),
        (
            r#""batch_norm1d""#,
            &[4, 5, 5],
            "layer 0 (batch_norm1d): its input is [4, 5, 5], but it takes [features] or [channels, length]",
        ),
        (
            r#"{ type = "batch_norm2d", momentum = 2.0 }"#,
            &[4, 5, 5],
            "layer 0 (batch_norm2d): `momentum` is 2, but must be from 0 to 1",
        ),
        (
            r#"{ type = "layer_norm", eps = 0.0 }"#,
            &[4],
            "layer 0 (layer_norm): `eps` is 0, but must be a number above 0",
        ),
        (
            r#""relu", { type = "embedding", tokens = 5, out = 3 }"#,
            &[4],
            "layer 1 (embedding): it takes whole numbers, so it can only be the first layer",
        ),
        (
            r#"{ type = "embedding", tokens = 5, out = 3, padding_index = 5 }"#,
            &[4],
            "layer 0 (embedding): `padding_index` is 5, but must be one of the 5 tokens",
        ),
        (
            r#"{ type = "embedding", tokens = 20000000, out = 3 }"#,
            &[4],
            "layer 0 (embedding): `tokens` is 20000000, but must be at most 16777216",
        ),
        (
            r#"{ type = "transformer_encoder", heads = 3 }"#,
            &[5, 4],
            "layer 0 (transformer_encoder): 4 features can't be shared by 3 heads",
        ),
        (
            r#"{ type = "transformer_encoder", heads = 1, dropout = 1.0 }"#,
            &[5, 4],
            "layer 0 (transformer_encoder): `dropout` is 1, but the share of zeroes must be at least 0 and below 1",
        ),
        (r#"{ type = "lstm", out = 4 }"#, &[5], "layer 0 (lstm): its input is [5], but it takes [positions, features]"),
        (
            r#"{ type = "residual", layers = ["relu", { type = "linear", out = 0 }] }"#,
            &[5],
            "layer 0.body.1 (linear): `out` is 0, but a layer needs at least one output",
        ),
        (
            r#"{ type = "residual", layers = [{ type = "linear", out = 3 }] }"#,
            &[5],
            "layer 0 (residual): its layers turn [5] into [3], but the two are added",
        ),
        (r#"{ type = "residual", layers = [] }"#, &[5], "layer 0 (residual): `layers` is empty"),
        (r#"{ type = "gru", out = 5000000000 }"#, &[5, 4], "layer 0 (gru): a weight of [15000000000, 4] is too large"),
    ];
    for (text, input, right) in cases {
        assert_eq!(message(text, input), *right);
    }
}
