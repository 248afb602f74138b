use outboard_core::NanoUsd;
use proptest::prelude::*;

use super::*;

const JOB: &str = r#"output = "runs/one"
[model]
layers = [
  { type = "linear", out = 64 }, "relu",
  { type = "linear", out = 10 },
]
[data]
train = "data/digits.csv"
target = "label"
validation = 0.2
[train]
loss = "cross_entropy"
optimizer = { type = "adam", lr = 1e-3 }
epochs = 20
batch_size = 64
seed = 7
[limits]
max_cost_usd = 0.50
deadline = "10m"
"#;

fn read(text: &str) -> Result<Job> {
    parse_job(text, Path::new("/jobs/job.toml"))
}

/// What is said about the job with one text in it replaced.
#[track_caller]
fn refusal(from: &str, to: &str) -> String {
    assert_eq!(JOB.matches(from).count(), 1, "{from}");
    let error = read(&JOB.replace(from, to)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    error.report()
}

#[test]
fn paths_start_at_the_folder_of_the_file() {
    let job = read(JOB).unwrap();
    assert_eq!(job.output.as_deref(), Some(Path::new("/jobs/runs/one")));
    assert_eq!(job.data.train, Path::new("/jobs/data/digits.csv"));
    assert_eq!(job.data.validation, Some(Validation::Fraction(0.2)));
    assert_eq!(job.limits.max_cost_usd, Some(NanoUsd(500_000_000)));

    let text =
        JOB.replace("validation = 0.2", "validation = \"./held.csv\"").replace("[data]", "weights = \"/w.st\"\n[data]");
    let job = read(&text).unwrap();
    assert_eq!(job.data.validation, Some(Validation::File("/jobs/held.csv".into())));
    assert_eq!(job.model.weights.as_deref(), Some(Path::new("/w.st")));

    let here = std::env::current_dir().unwrap();
    assert_eq!(parse_job(JOB, Path::new("job.toml")).unwrap().data.train, here.join("data/digits.csv"));
}

#[test]
fn unknown_keys_are_named_with_the_nearest_right_one() {
    assert_eq!(
        refusal("output = ", "outptu = "),
        "unknown key `outptu`\n  key: outptu\n  file: /jobs/job.toml\n  line: 1\n  try: write `output`"
    );
    assert_eq!(
        refusal("epochs = 20", "epoch = 20"),
        "unknown key `train.epoch`\n  key: train.epoch\n  file: /jobs/job.toml\n  line: 14\n  try: write `epochs`"
    );
    assert_eq!(
        refusal("lr = 1e-3", "learning_rate = 1e-3"),
        "unknown key `train.optimizer.learning_rate`\n  key: train.optimizer.learning_rate\n  file: /jobs/job.toml\n  \
         line: 13\n  try: use one of `lr`, `betas`, `eps`, `weight_decay`"
    );
    assert_eq!(
        refusal("out = 10", "out = 10, bais = true"),
        "unknown key `model.layers[2].bais`\n  key: model.layers[2].bais\n  file: /jobs/job.toml\n  line: 5\n  \
         try: write `bias`"
    );
}

#[test]
fn layers_inside_of_layers_are_checked_too() {
    let within = |layer: &str| refusal("\"relu\"", &format!("{{ type = \"residual\", layers = [\"tanh\", {layer}] }}"));
    assert_eq!(
        within("{ type = \"relu\", p = 1 }"),
        "unknown key `model.layers[1].layers[1].p`\n  key: model.layers[1].layers[1].p\n  file: /jobs/job.toml\n  \
         line: 4\n  try: remove it"
    );
    let message = within("{ type = \"linear\" }");
    assert!(message.ends_with("\n  line: 4\n  try: add `out = 64` to `model.layers[1]`"), "{message}");
}

#[test]
fn sizes_of_windows_are_a_number_or_two() {
    let conv = |kernel: &str| refusal("\"relu\"", &format!("{{ type = \"conv2d\", out = 4, kernel = {kernel} }}"));
    assert_eq!(
        conv("\"3x3\""),
        "`model.layers[1].kernel` is \"3x3\", but must be a whole number, or [height, width]\n  \
         key: model.layers[1].kernel\n  file: /jobs/job.toml\n  line: 4\n  try: write it as in `kernel = 3`"
    );
    assert_eq!(
        refusal("[data]", "input = [1, 0]\n[data]"),
        "`model.input` is [1, 0], but must be sizes of at least 1, such as [1, 28, 28]\n  key: model.input\n  \
         file: /jobs/job.toml\n  line: 7\n  try: set it to sizes of at least 1, such as [1, 28, 28]"
    );
}

#[test]
fn tokens_are_not_scaled() {
    let text = JOB.replace("layers = [", "layers = [{ type = \"embedding\", tokens = 9, out = 4 }, \"flatten\",");
    let error = read(&text).unwrap_err();
    assert_eq!(error.to_string(), "`embedding` takes whole numbers, but `data.normalize` would scale them");
    assert!(error.report().ends_with("try: set `normalize = \"none\"` under [data]"), "{}", error.report());
    read(&text.replace("[train]", "normalize = \"none\"\n[train]")).unwrap();
}

#[test]
fn a_type_without_keys_takes_none() {
    assert_eq!(
        refusal("\"relu\"", "{ type = \"relu\", p = 1 }"),
        "unknown key `model.layers[1].p`\n  key: model.layers[1].p\n  file: /jobs/job.toml\n  line: 4\n  try: remove it"
    );
    for (from, to, key) in [
        ("\"cross_entropy\"", "{ type = \"mse\", delta = 1 }", "train.loss.delta"),
        ("seed = 7", "schedule = { type = \"constant\", gamma = 1 }", "train.schedule.gamma"),
    ] {
        assert_eq!(refusal(from, to).lines().next(), Some(&*format!("unknown key `{key}`")));
    }
    read(&JOB.replace("\"relu\"", "{ type = \"relu\" }")).unwrap();
}

#[test]
fn wrong_values_are_named_with_what_is_right() {
    assert_eq!(
        refusal("epochs = 20", "epochs = \"ten\""),
        "`train.epochs` is \"ten\", but must be a whole number\n  key: train.epochs\n  file: /jobs/job.toml\n  \
         line: 14\n  try: write it as in `epochs = 20`"
    );
    for (from, to, message) in [
        ("epochs = 20", "epochs = -1", "`train.epochs` is -1, but must be a whole number from 0 to 4294967295"),
        ("epochs = 20", "epochs = 2.5", "`train.epochs` is 2.5, but must be a whole number"),
        ("epochs = 20", "epochs = 2020-01-01", "`train.epochs` is a date, but must be a whole number"),
        ("epochs = 20", "epochs = 20\nkeep = 1", "`train.keep` is 1, but must be one of \"last\", \"best\""),
        ("seed = 7", "seed = [7]", "`train.seed` is a list, but must be a whole number"),
        ("seed = 7", "seed = 7\nshuffle = \"no\"", "`train.shuffle` is \"no\", but must be true or false"),
        ("out = 10", "out = \"10\"", "`model.layers[2].out` is \"10\", but must be a whole number"),
        ("out = 10", "out = -1", "`model.layers[2].out` is -1, but must be a whole number of at least 0"),
        ("\"relu\"", "3", "`model.layers[1]` is 3, but must be a name, or a table with the key `type`"),
        ("lr = 1e-3", "lr = \"fast\"", "`train.optimizer.lr` is \"fast\", but must be a number"),
        ("lr = 1e-3", "lr = \"x\", eps = \"x\"", "`train.optimizer`: one of its values must be a number"),
        ("epochs = 20", "epochs = nan", "`train.epochs` is nan, but must be a whole number"),
        ("lr = 1e-3", "betas = [0.9]", "`train.optimizer.betas` is a list of 1, but must be a list of 2"),
        ("lr = 1e-3", "betas = [0.9, 0.9, 0.9]", "`train.optimizer.betas` is a list of 3, but must be a list of 2"),
        ("lr = 1e-3", "betas = [0.9, \"x\"]", "`train.optimizer.betas[1]` is \"x\", but must be a number"),
        (
            "validation = 0.2",
            "validation = true",
            "`data.validation` is true, but must be a share of the rows between 0 and 1, or the path of a file",
        ),
        ("target = \"label\"", "target = 9", "`data.target` is 9, but must be a text in quotes, or a list of texts"),
        (
            "max_cost_usd = 0.50",
            "max_cost_usd = -1",
            "`limits.max_cost_usd`: `-1` is not an amount in US dollars, such as 0.50",
        ),
        ("\"data/digits.csv\"", "\"\"", "`data.train` is empty"),
    ] {
        assert_eq!(refusal(from, to).lines().next(), Some(message), "{to}");
    }
    assert_eq!(
        refusal("\"10m\"", "\"soon\""),
        "`limits.deadline`: `soon` is not a duration, such as \"10m\" or \"2h 30m\": expected number at 0\n  \
         key: limits.deadline\n  file: /jobs/job.toml\n  line: 19\n  try: write it as in `deadline = \"10m\"`"
    );
}

#[test]
fn values_out_of_range_are_located() {
    assert_eq!(
        refusal("lr = 1e-3", "lr = nan"),
        "`train.optimizer.lr` is NaN, but must be a number above 0\n  key: train.optimizer.lr\n  \
         file: /jobs/job.toml\n  line: 13\n  try: set it to a number above 0"
    );
    assert_eq!(
        refusal("validation = 0.2", "validation = 1.5"),
        "`data.validation` is 1.5, but must be a share of the rows between 0 and 1, such as 0.2\n  \
         key: data.validation\n  file: /jobs/job.toml\n  line: 10\n  \
         try: set it to a share of the rows between 0 and 1, such as 0.2"
    );
    assert_eq!(
        refusal("batch_size = 64", "batch_size = 0"),
        "`train.batch_size` is 0, but must be at least 1\n  key: train.batch_size\n  file: /jobs/job.toml\n  \
         line: 15\n  try: set it to at least 1"
    );
    let message = refusal("lr = 1e-3", "lr = -0.1");
    assert!(message.starts_with("`train.optimizer.lr` is -0.1, but must be a number above 0\n"), "{message}");
}

#[test]
fn what_is_missing_is_said_with_what_to_add() {
    for (from, message, hint) in [
        ("loss = \"cross_entropy\"\n", "`train.loss` is missing", "add `loss = \"cross_entropy\"` under `[train]`"),
        ("epochs = 20\n", "`train.epochs` is missing", "add `epochs = 20` under `[train]`"),
        ("target = \"label\"\n", "`data.target` is missing", "add `target = \"label\"` under `[data]`"),
        (", out = 10", "`model.layers[2].out` is missing", "add `out = 64` to `model.layers[2]`"),
        ("type = \"adam\", ", "`train.optimizer.type` is missing", "add `type = \"adam\"` to `train.optimizer`"),
    ] {
        let text = refusal(from, "");
        assert_eq!((text.lines().next(), text.lines().last()), (Some(message), Some(&*format!("  try: {hint}"))));
    }
    assert_eq!(
        refusal("epochs = 20\n", ""),
        "`train.epochs` is missing\n  key: train.epochs\n  file: /jobs/job.toml\n  line: 11\n  \
         try: add `epochs = 20` under `[train]`"
    );
    assert_eq!(
        read("[data]\ntrain = \"a\"\ntarget = \"b\"\n[train]\nloss = \"mse\"\nepochs = 1\n").unwrap_err().report(),
        "`model` is missing\n  key: model\n  file: /jobs/job.toml\n  try: add a `[model]` table"
    );
}

#[test]
fn unknown_names_are_met_with_the_nearest_and_all_others() {
    assert_eq!(
        refusal("\"cross_entropy\"", "\"crossentropy\""),
        "`train.loss` is \"crossentropy\", but must be one of \"cross_entropy\", \"mse\", \"l1\", \"huber\", \
         \"bce_with_logits\"\n  key: train.loss\n  file: /jobs/job.toml\n  line: 12\n  try: write \"cross_entropy\""
    );
    assert_eq!(
        refusal("\"adam\"", "\"lion\""),
        "`train.optimizer.type` is \"lion\", but must be one of \"sgd\", \"adam\", \"adamw\"\n  \
         key: train.optimizer.type\n  file: /jobs/job.toml\n  line: 13\n  try: use one of \"sgd\", \"adam\", \"adamw\""
    );
    let message = refusal("\"relu\"", "\"rely\"");
    let start = "`model.layers[1]` is \"rely\", but must be one of \"linear\", \"relu\", \"gelu\", \"silu\", ";
    let end = "\"last_pool\"\n  key: model.layers[1]\n  file: /jobs/job.toml\n  line: 4\n  try: write \"relu\"";
    assert!(message.starts_with(start) && message.ends_with(end), "{message}");
    let message = refusal("{ type = \"linear\", out = 10 }", "{ type = \"lineer\", out = 10 }");
    assert!(message.starts_with("`model.layers[2].type` is \"lineer\", but must be one of \"linear\", "), "{message}");
    assert!(message.ends_with("\n  line: 5\n  try: write \"linear\""), "{message}");
}

#[test]
fn broken_toml_is_located() {
    assert_eq!(
        refusal("epochs = 20", "epochs = many"),
        "/jobs/job.toml is not valid TOML: string values must be quoted, expected literal string\n  \
         file: /jobs/job.toml\n  line: 14\n  column: 10\n  \
         try: correct it there: a table starts with `[name]`, a value is `key = value`, text is in quotes"
    );
    assert_eq!(
        refusal("seed = 7", "epochs = 7").lines().take(4).collect::<Vec<_>>(),
        ["/jobs/job.toml is not valid TOML: duplicate key", "  file: /jobs/job.toml", "  line: 16", "  column: 1"]
    );
}

#[test]
fn files_that_cannot_be_jobs_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let shown = |name: &str| at(name).display().to_string();

    let error = read_job(&at("none.toml")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(
        error.report(),
        format!("cannot read {}: no such file or folder\n  try: check the path", shown("none.toml"))
    );

    let error = read_job(folder.path()).unwrap_err();
    let path = folder.path().display();
    assert_eq!(error.report(), format!("cannot read {path}: it is a folder, not a file\n  try: name a file in it"));

    std::fs::write(at("model.pt"), b"PK\x03\x04\xff\xfe\x00").unwrap();
    let path = shown("model.pt");
    assert_eq!(
        read_job(&at("model.pt")).unwrap_err().report(),
        format!(
            "{path} is not text: byte 4 is not UTF-8\n  file: {path}\n  try: name a TOML file, or save it as UTF-8"
        )
    );

    std::fs::write(at("big.toml"), "#".repeat(5 << 20)).unwrap();
    let path = shown("big.toml");
    assert_eq!(read_job(&at("big.toml")).unwrap_err().to_string(), format!("{path} is larger than 4 MiB"));

    std::fs::write(at("job.toml"), JOB).unwrap();
    assert_eq!(read_job(&at("job.toml")).unwrap().data.train, at("data/digits.csv"));
}

#[test]
fn a_written_job_reads_back() {
    let mut job =
        read(&JOB.replace("\"adam\"", "\"sgd\"").replace("seed = 7", "schedule = { type = \"step\", every = 2 }"))
            .unwrap();
    job.train.early_stopping = Some(outboard_core::job::EarlyStopping { patience: 2, min_delta: 1e-4 });
    job.data.validation = Some(Validation::File("/a \"b\"\\c.csv".into()));
    job.train.freeze = vec!["0".into()];
    let text = write_job(&job).unwrap();
    assert_eq!(read(&text).unwrap(), job, "{text}");

    job.train.seed = u64::MAX;
    assert_eq!(read(&write_job(&job).unwrap()).unwrap(), job);
}

#[test]
fn the_example_is_read() {
    let job = read(include_str!("../../../../examples/digits.toml")).unwrap();
    assert_eq!(read(&write_job(&job).unwrap()).unwrap(), job);
}

#[test]
fn deep_nesting_is_refused() {
    for text in ["a.".repeat(100_000) + "a = 1", format!("a = {}", "[".repeat(100_000)), "a = {a = ".repeat(50_000)] {
        assert!(read(&text).unwrap_err().to_string().starts_with("/jobs/job.toml is not valid TOML: "));
    }
}

/// Pieces that users write where others are meant.
const PIECES: [&str; 16] =
    ["", " ", "\"", "[", "]", "{", "}", "=", "\n", "-1", "nan", "[[", "\"x\"", "type = \"relu\"", "é\0", "a.b"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_mutated_job_is_read_or_refused_with_its_file(
        changes in prop::collection::vec(
            (any::<prop::sample::Index>(), 0usize..12, prop::sample::select(&PIECES[..])),
            1..4,
        )
    ) {
        let mut text: Vec<char> = JOB.chars().collect();
        for (at, length, piece) in changes {
            let at = at.index(text.len());
            text.splice(at..(at + length).min(text.len()), piece.chars());
            if text.is_empty() {
                break;
            }
        }
        if let Err(error) = read(&text.into_iter().collect::<String>()) {
            prop_assert!(error.context().contains(&("file".into(), "/jobs/job.toml".into())), "{}", error.report());
            prop_assert!(error.advice().is_some(), "{}", error.report());
        }
    }
}
