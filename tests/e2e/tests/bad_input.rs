//! What is wrong in a job, its data or the configuration: one clear message, exit code 2, nothing left behind.

#![allow(clippy::unwrap_used)]

use outboard_e2e::User;
use serde_json::json;

/// Trains the usual job with `changes`, which must be refused with this text.
fn refuses(user: &User, changes: &[(&str, &str)], text: &str) {
    user.job(changes);
    assert_eq!(user.refused(&["train", "job.toml"]), format!("error: {text}\n"), "{changes:?}");
}

#[test]
fn unknown_keys_in_a_job() {
    let user = User::new();
    for (from, to, text) in [
        (
            "[model]",
            "epoch = 3\n[model]",
            "unknown key `epoch`\n  key: epoch\n  file: job.toml\n  line: 1\n  \
             try: use one of `name`, `output`, `model`, `data`, `train`, `limits`, `routing`",
        ),
        (
            "epochs =",
            "epoch =",
            "unknown key `train.epoch`\n  key: train.epoch\n  file: job.toml\n  line: 14\n  try: write `epochs`",
        ),
        (
            "out = 64",
            "outputs = 64",
            "unknown key `model.layers[0].outputs`\n  key: model.layers[0].outputs\n  file: job.toml\n  line: 3\n  \
             try: use one of `out`, `bias`",
        ),
        (
            "type = \"relu\"",
            "type = \"relu\", slope = 0.1",
            "unknown key `model.layers[1].slope`\n  key: model.layers[1].slope\n  file: job.toml\n  line: 4\n  \
             try: remove it",
        ),
        (
            "lr = 1e-3",
            "rate = 1e-3",
            "unknown key `train.optimizer.rate`\n  key: train.optimizer.rate\n  file: job.toml\n  line: 13\n  \
             try: use one of `lr`, `betas`, `eps`, `weight_decay`",
        ),
    ] {
        refuses(&user, &[(from, to)], text);
    }
}

#[test]
fn wrong_types_and_values_in_a_job() {
    let user = User::new();
    for (from, to, text) in [
        (
            "epochs = 20",
            "epochs = \"many\"",
            "`train.epochs` is \"many\", but must be a whole number\n  key: train.epochs\n  file: job.toml\n  \
             line: 14\n  try: write it as in `epochs = 20`",
        ),
        (
            "\"relu\"",
            "\"rulu\"",
            "`model.layers[1].type` is \"rulu\", but must be one of \"linear\", \"relu\", \"gelu\", \"silu\", \
             \"tanh\", \"sigmoid\", \"softmax\", \"flatten\", \"dropout\", \"conv1d\", \"conv2d\", \"max_pool1d\", \
             \"max_pool2d\", \"avg_pool1d\", \"avg_pool2d\", \"adaptive_avg_pool1d\", \"adaptive_avg_pool2d\", \
             \"batch_norm1d\", \"batch_norm2d\", \"layer_norm\", \"embedding\", \"positional_embedding\", \
             \"residual\", \"transformer_encoder\", \"lstm\", \"gru\", \"mean_pool\", \"last_pool\"\n  \
             key: model.layers[1].type\n  file: job.toml\n  line: 4\n  try: write \"relu\"",
        ),
        (
            "batch_size = 64",
            "batch_size = 0",
            "`train.batch_size` is 0, but must be at least 1\n  key: train.batch_size\n  file: job.toml\n  line: 15\n  \
             try: set it to at least 1",
        ),
        (
            "epochs = 20",
            "epochs = 0",
            "`train.epochs` is 0, but must be at least 1\n  key: train.epochs\n  file: job.toml\n  line: 14\n  \
             try: set it to at least 1",
        ),
        (
            "lr = 1e-3",
            "lr = -1e-3",
            "`train.optimizer.lr` is -0.001, but must be a number above 0\n  key: train.optimizer.lr\n  \
             file: job.toml\n  line: 13\n  try: set it to a number above 0",
        ),
        (
            "lr = 1e-3",
            "lr = nan",
            "`train.optimizer.lr` is NaN, but must be a number above 0\n  key: train.optimizer.lr\n  \
             file: job.toml\n  line: 13\n  try: set it to a number above 0",
        ),
        (
            "target =",
            "target : ",
            "job.toml is not valid TOML: key with no value, expected `=`\n  file: job.toml\n  line: 9\n  column: 8\n  \
             try: correct it there: a table starts with `[name]`, a value is `key = value`, text is in quotes",
        ),
    ] {
        refuses(&user, &[(from, to)], text);
    }
}

#[test]
fn what_does_not_go_together_in_a_job() {
    let user = User::new();
    for (from, to, text) in [
        (
            "out = 10",
            "out = 9",
            "layer 2 (linear), the last, gives 9 outputs, but `label` has 10 classes\n  key: model.layers[2]\n  \
             job file: job.toml\n  try: set `out = 10` in layer 2 (linear)",
        ),
        (
            "  { type = \"linear\", out = 10 },\n",
            "",
            "layer 1 (relu), the last, gives 64 outputs, but `label` has 10 classes\n  key: model.layers[1]\n  \
             job file: job.toml\n  try: set `out = 10` in layer 0 (linear)",
        ),
        (
            "out = 64",
            "out = 0",
            "layer 0 (linear): `out` is 0, but a layer needs at least one output\n  key: model.layers[0]\n  \
             job file: job.toml\n  try: set `out` to the number of features that this layer should give",
        ),
        (
            "{ type = \"relu\" }",
            "{ type = \"dropout\", p = 1 }",
            "layer 1 (dropout): `p` is 1, but the share of zeroes must be at least 0 and below 1\n  \
             key: model.layers[1]\n  job file: job.toml\n  try: set `p` to 0.1 to 0.5",
        ),
        (
            "batch_size = 64",
            "batch_size = 6400\ndrop_last = true",
            "with `drop_last`, 1438 training rows make no batch of 6400\n  key: train.batch_size\n  \
             job file: job.toml\n  try: set batch_size to at most 1438, or drop_last to false",
        ),
        (
            "seed = 7",
            "freeze = [\"3\"]",
            "`3` in `train.freeze` names no layer or parameter of the model\n  key: train.freeze\n  \
             job file: job.toml\n  try: use a layer (\"0\", \"2\") or a parameter (\"0.weight\", \"0.bias\", \
             \"2.weight\", \"2.bias\")",
        ),
        (
            "seed = 7",
            "freeze = [\"0\", \"2\"]",
            "every parameter is frozen, so there is nothing to train\n  key: train.freeze\n  job file: job.toml\n  \
             try: leave at least one layer out of it",
        ),
        (
            "\"cross_entropy\"",
            "{ type = \"cross_entropy\", class_weights = [1, 2] }",
            "`train.loss.class_weights` has 2 weights, but `label` has 10 classes\n  key: train.loss.class_weights\n  \
             job file: job.toml\n  try: give one weight for each class, in this order: `0`, `1`, `2`, `3`, `4`, `5`, \
             `6`, `7`, `8`, `9`",
        ),
    ] {
        refuses(&user, &[(from, to)], text);
    }
}

#[test]
fn wrong_data() {
    let user = User::new();
    let cases = [
        (
            "",
            "the file is empty\n  file: data.csv\n",
            "give it a header line with the names of the columns, then one line for each row",
        ),
        ("a,b,label\n", "the file has a header, but no rows\n  file: data.csv\n", "add rows below the header"),
        (
            "a,b,label\n1,2,x\n",
            "the file has 1 row, but training needs at least 2\n  file: data.csv\n",
            "add rows to the file",
        ),
        (
            "a,b,label\n1,2,x\n1,two,y\n",
            "line 3: `two` is not a number\n  file: data.csv\n  row: 2\n  column: b\n",
            "fix the cell, or list the column in `data.categorical` or `data.exclude`",
        ),
        (
            "a,b,label\n1,NaN,x\n1,2,y\n",
            "line 2: `NaN` is not a number\n  file: data.csv\n  row: 1\n  column: b\n",
            "fix the cell, or remove the row",
        ),
        (
            "a,b,label\n1,2,x\n-inf,2,y\n",
            "line 3: `-inf` is not finite\n  file: data.csv\n  row: 2\n  column: a\n",
            "fix the cell, or remove the row",
        ),
        (
            "a,b,label\n1,2,x\n1,1e99,y\n",
            "line 3: `1e99` is too large for a 32-bit float\n  file: data.csv\n  row: 2\n  column: b\n",
            "use a larger unit for the column",
        ),
        (
            "a,b,label\n1,2,x\n1,,y\n",
            "line 3: the cell is empty\n  file: data.csv\n  row: 2\n  column: b\n",
            "fill it in, remove the row, or train without the column (`data.exclude`)",
        ),
        (
            "a,b,label\n1,2,x\n1,y\n",
            "line 3: 2 cells, but the header has 3\n  file: data.csv\n  row: 2\n",
            "check the delimiters and quotes on that line",
        ),
    ];
    for (data, what, advice) in cases {
        user.write("data.csv", data);
        user.job(&[("digits.csv", "data.csv")]);
        let rest = format!("  key: data.train\n  job file: job.toml\n  try: {advice}\n");
        assert_eq!(user.refused(&["train", "job.toml"]), format!("error: {what}{rest}"));
    }
}

#[test]
fn data_that_is_not_there_or_does_not_fit() {
    let user = User::new();
    user.write("few.csv", "a,b,label\n1,2,x\n1,3,y\n");
    user.write("other.csv", "a,b,label\n1,2,x\n1,3,z\n");
    let validation = |name: &str| format!("validation = \"{name}\"");
    refuses(
        &user,
        &[("digits.csv", "digit.csv")],
        "cannot read digit.csv: no such file or folder\n  file: digit.csv\n  key: data.train\n  job file: job.toml\n  \
         try: check the path",
    );
    refuses(
        &user,
        &[("validation = 0.2", &validation("other.csv")), ("digits.csv", "few.csv")],
        "line 3: `z` is not one of the classes of the training data: `x`, `y`\n  file: other.csv\n  row: 2\n  \
         column: label\n  key: data.validation\n  job file: job.toml\n  \
         try: fix the cell, or train on data that has it too",
    );
    refuses(
        &user,
        &[("validation = 0.2", &validation("none.csv"))],
        "cannot read none.csv: no such file or folder\n  file: none.csv\n  key: data.validation\n  \
         job file: job.toml\n  try: check the path",
    );
    refuses(
        &user,
        &[("\"label\"", "\"lable\"")],
        "`data.target` names `lable`, but the file has no such column\n  file: digits.csv\n  column: lable\n  \
         key: data.target\n  job file: job.toml\n  try: use `label`",
    );
    user.write("texts.csv", "said,label\none,x\ntwo,y\n");
    user.write("tokenizer.json", "{}");
    let texts = "\"label\"\ntext = \"said\"\nmax_length = 4\ntokenizer = \"tokenizer.json\"";
    refuses(
        &user,
        &[("digits.csv", "texts.csv"), ("\"label\"", texts)],
        "this program was built without tokenizers\n  file: tokenizer.json\n  key: data.tokenizer\n  \
         job file: job.toml\n  \
         try: build it with the feature: `cargo build --release --package outboard-cli --features tokenizers`",
    );
    user.job(&[("digits.csv", "digit.csv")]);
    assert_eq!(
        user.refused(&["model", "show", "job.toml"]),
        "error: cannot read digit.csv: no such file or folder\n  file: digit.csv\n  key: data.train\n  \
         job file: job.toml\n  try: check the path\n"
    );
}

#[test]
fn wrong_configuration() {
    let user = User::new();
    user.job(&[]);
    let train = ["train", "job.toml"];
    for (text, error) in [
        (
            "[chekpoint]\nevery = \"1m\"\n",
            "unknown key `chekpoint`\n  file: outboard.toml\n  line: 1\n  key: chekpoint\n  try: write `checkpoint`",
        ),
        (
            "[providers.cpu]\nthreads = \"two\"\n",
            "`providers.cpu.threads` is \"two\", but must be a whole number\n  file: outboard.toml\n  line: 2\n  \
             key: providers.cpu.threads\n  try: write it as in `threads = 0`",
        ),
    ] {
        user.write("outboard.toml", text);
        assert_eq!(user.refused(&train), format!("error: {error}\n"));
    }
    std::fs::remove_file(user.path().join("outboard.toml")).unwrap();

    for (name, value, error) in [
        (
            "OUTBOARD_CHECKPOINT__EVRY",
            "1s",
            "unknown key `checkpoint.evry`\n  variable: OUTBOARD_CHECKPOINT__EVRY\n  key: checkpoint.evry\n  \
             try: write `OUTBOARD_CHECKPOINT__EVERY`",
        ),
        (
            "OUTBOARD_CHECKPOINT__EVERY",
            "soon",
            "`checkpoint.every`: \"soon\" is not a time above zero, such as \"10s\" or \"2m\"\n  \
             variable: OUTBOARD_CHECKPOINT__EVERY\n  key: checkpoint.every\n  try: write it as in `every = \"10s\"`",
        ),
    ] {
        assert_eq!(user.refused_command(user.command(&train).env(name, value)), format!("error: {error}\n"));
    }

    for (flag, error) in [
        (
            "checkpoint.evry=1s",
            "unknown key `checkpoint.evry`\n  flag: --set checkpoint.evry\n  key: checkpoint.evry\n  \
             try: write `checkpoint.every`",
        ),
        (
            "providers.cpu.enabled=false",
            "no provider is enabled\n  key: providers.cpu.enabled\n  \
             try: set it to true, or enable another under [providers]",
        ),
    ] {
        assert_eq!(user.refused(&["train", "job.toml", "--set", flag]), format!("error: {error}\n"));
    }
}

#[test]
fn json_ends_with_the_failure() {
    let user = User::new();
    user.job(&[("digits.csv", "digit.csv")]);
    let done = user.run(&["train", "job.toml", "--json"]);
    assert_eq!((done.code, done.lines().len()), (2, 1));
    let path = user.path().join("digit.csv").display().to_string();
    let error = json!({
        "kind": "not_found",
        "code": "OB-FILE",
        "message": format!("cannot read {path}: no such file or folder"),
        "context": {"file": path, "key": "data.train", "job file": "job.toml"},
        "try": "check the path",
    });
    assert_eq!(done.last(), json!({"event": "finished", "schema": 1, "job": null, "status": "failed", "error": error}));
}
