//! Several targets, texts, windows and Parquet.

use outboard_core::job::{Targets, Window};

use super::*;

fn several(names: &[&str]) -> Option<Targets> {
    Some(Targets::Several(strings(names)))
}

fn refusal(data: &Data, loss: &Loss) -> String {
    let error = read_training(data, loss, 0).unwrap_err();
    let folder = data.train.parent().unwrap().display().to_string();
    error.report().replace(&format!("{folder}/"), "").replace("\n  key: data.train", "")
}

#[test]
fn several_targets_are_numbers_or_labels() {
    let folder = Folder::new();
    let mut data = folder.data("a,x,b\n1,5,0\n0,6,1\n1,7,1\n");
    data.target = several(&["b", "a"]);
    let y = Target::Values { outputs: 2, values: vec![0., 1., 1., 0., 1., 1.].into() };
    let names = strings(&["b", "a"]);
    for (loss, target) in
        [(Loss::Mse, TargetColumn::Numbers { names: names.clone() }), (bce(), TargetColumn::Labels { names })]
    {
        let Training { schema, train, .. } = read_training(&data, &loss, 0).unwrap();
        assert_eq!(train, Dataset { shape: vec![1], x: vec![5., 6., 7.].into(), y: y.clone(), weights: None });
        assert_eq!((&schema.target, schema.target.outputs()), (&target, 2));
        assert_eq!(read_labelled(&data.train, None, &schema).unwrap(), train);
    }
    assert_eq!(
        refusal(&data, &cross_entropy()),
        "`cross_entropy` has one target, but `data.target` names 2\n  file: train.csv\n  key: data.target\n  \
         try: name one column, or use `loss = \"bce_with_logits\"` where several labels may apply to a row"
    );
    data.target = several(&["b", "b"]);
    assert_eq!(
        refusal(&data, &Loss::Mse),
        "`b` is in `data.target` twice\n  file: train.csv\n  key: data.target\n  try: take it out once"
    );
    data.target = None;
    assert_eq!(
        refusal(&data, &Loss::Mse),
        "`data.target` is missing\n  file: train.csv\n  key: data.target\n  try: add `target = \"label\"` under `[data]`"
    );
    data.target = several(&["x", "a"]);
    assert_eq!(
        refusal(&data, &bce()),
        "line 2: `5` is neither 0 nor 1\n  file: train.csv\n  row: 1\n  column: x\n  \
         try: write 1 where the label applies, else 0"
    );
}

#[test]
fn training_rows_count_by_their_weights() {
    let folder = Folder::new();
    let mut data = folder.data("x,n,y\n1,2,0\n2,0.5,1\n3,1,0\n4,8,1\n");
    data.weight = Some("n".into());
    data.validation = Some(Validation::Fraction(0.25));
    let Training { train, validation, .. } = read_training(&data, &bce(), 3).unwrap();
    let held_out = random::validation_rows(3, 4, 0.25)[0] as usize;
    let kept = |all: [f32; 4]| all.into_iter().enumerate().filter(|(i, _)| *i != held_out).map(|(_, x)| x).collect();
    let (x, weights): (Vec<f32>, Vec<f32>) = (kept([1., 2., 3., 4.]), kept([2., 0.5, 1., 8.]));
    assert_eq!((train.x, train.weights), (x.into(), Some(weights.into())));
    assert_eq!(validation.unwrap().weights, None);
    for (cell, what) in [("0", "`0` is not above 0"), ("-1", "`-1` is not above 0"), ("x", "`x` is not a number")] {
        data.train = folder.file("train.csv", format!("x,n,y\n1,2,0\n2,{cell},1\n"));
        assert_eq!(
            refusal(&data, &bce()),
            format!(
                "line 3: {what}\n  file: train.csv\n  row: 2\n  column: n\n  \
                 try: write how much the row counts, such as 1; leave out rows that don't count"
            )
        );
    }
}

#[test]
fn texts_become_bytes_and_padding() {
    let folder = Folder::new();
    let mut data = folder.data("y,said,id\nno,ab,1\nyes,\"é, longer\",2\n");
    (data.text, data.max_length) = (Some("said".into()), Some(4));
    let Training { schema, train, .. } = read_training(&data, &cross_entropy(), 0).unwrap();
    assert_eq!((train.shape.as_slice(), &train.y), (&[4][..], &Target::Classes(vec![0, 1].into())));
    assert_eq!(train.x, [98., 99., 0., 0., 196., 170., 45., 33.]);
    assert_eq!(schema.features, [Feature::Text { name: "said".into(), max_length: 4, tokenizer: None }]);
    assert_eq!(read_labelled(&data.train, None, &schema).unwrap(), train);
    assert_eq!(read_features(&folder.file("later.csv", "said\nab\n"), &schema).unwrap().x, [98., 99., 0., 0.]);
    let without = read_features(&folder.file("other.csv", "y\nab\n"), &schema).unwrap_err();
    assert_eq!(without.to_string(), "the training data has a column `said`, but this file has not");

    data.exclude = strings(&["id"]);
    assert_eq!(
        refusal(&data, &cross_entropy()),
        "`data.exclude` and `data.text` don't go together\n  file: train.csv\n  key: data.exclude\n  \
         try: take one of them out: a text is the only feature"
    );
    data.exclude.clear();
    data.text = Some("sad".into());
    assert_eq!(
        refusal(&data, &cross_entropy()),
        "`data.text` names `sad`, but the file has no such column\n  file: train.csv\n  column: sad\n  \
         key: data.text\n  try: use `said`"
    );
    data.text = None;
    assert_eq!(
        refusal(&data, &cross_entropy()),
        "`data.max_length` is there, but not `data.text`\n  file: train.csv\n  key: data.max_length\n  \
         try: name the column of texts with `text = \"NAME\"`, or take it out"
    );
}

#[test]
fn windows_of_a_series() {
    let folder = Folder::new();
    let rows: String = (0..10).map(|t| format!("{t},{}\n", 10 * t)).collect();
    let mut data = folder.data(format!("t,y\n{rows}"));
    data.window = Some(Window { length: 3, horizon: 2, stride: 2 });
    let Training { schema, train, .. } = read_training(&data, &Loss::Mse, 0).unwrap();
    // The last of rows 5 to 8 would be predicted by row 10, which isn't there.
    assert_eq!((train.shape.as_slice(), &train.y), (&[3, 2][..], &values(&[40., 60., 80.])));
    let x = [0, 1, 2, 2, 3, 4, 4, 5, 6].map(|t| [t as f32, 10.0 * t as f32]);
    assert_eq!(train.x, x.as_flattened().to_vec());
    assert_eq!(read_labelled(&data.train, None, &schema).unwrap(), train);
    // What is predicted needs no row to compare it with.
    assert_eq!(read_features(&data.train, &schema).unwrap().rows(), 4);

    data.features = Some(strings(&["y"]));
    data.normalize = Normalize::MinMax;
    data.window = Some(Window { length: 2, horizon: 1, stride: 1 });
    data.validation = Some(Validation::Fraction(0.25));
    let Training { schema, train, validation } = read_training(&data, &Loss::Mse, 0).unwrap();
    // The last two of eight are held out; the scaling knows rows 0 to 6 alone.
    assert_eq!(train.y, values(&[20., 30., 40., 50., 60., 70.]));
    assert_eq!(schema.features, [Feature::Numeric { name: "y".into(), offset: 0.0, scale: 60.0 }]);
    let validation = validation.unwrap();
    assert_eq!(validation.y, values(&[80., 90.]));
    assert_eq!(validation.x, [1.0, (70.0f64 / 60.0) as f32, (70.0f64 / 60.0) as f32, (80.0f64 / 60.0) as f32]);

    data.window = Some(Window { length: 9, horizon: 1, stride: 1 });
    assert_eq!(
        refusal(&data, &Loss::Mse),
        "the file has 1 window, but training needs at least 2\n  file: train.csv\n  try: add rows to the file"
    );
    data.window = Some(Window { length: 10, horizon: 1, stride: 1 });
    assert_eq!(
        refusal(&data, &Loss::Mse),
        "the file has 10 rows, but a window takes 11\n  file: train.csv\n  \
         try: add rows to the file, or make `data.window.length` smaller"
    );
}

#[cfg(feature = "parquet")]
#[test]
fn parquet_files_are_tables() {
    let folder = Folder::new();
    let mut data = folder.data("");
    data.train = folder.file("train.parquet", files::parquet(5, false));
    data.categorical = strings(&["colour"]);
    let Training { schema, train, .. } = read_training(&data, &cross_entropy(), 0).unwrap();
    let csv = folder.file("same.csv", "size,colour,y\n0.1,red,0\n1.1,blue,1\n2.1,red,2\n3.1,blue,0\n4.1,red,1\n");
    assert_eq!(train, read_labelled(&csv, None, &schema).unwrap());
    assert_eq!(train, read_labelled(&data.train, None, &schema).unwrap());
    data.validation = Some(Validation::File(csv));
    assert_eq!(read_training(&data, &cross_entropy(), 0).unwrap().validation, Some(train));
    data.validation = None;

    data.train = folder.file("holes.parquet", files::parquet(5, true));
    assert_eq!(
        refusal(&data, &cross_entropy()),
        "the cell is empty\n  file: holes.parquet\n  row: 2\n  column: size\n  \
         try: fill it in, remove the row, or train without the column (`data.exclude`)"
    );
    let whole = files::parquet(5, false);
    for bytes in [&whole[..whole.len() - 20], b"PAR1", b""] {
        data.train = folder.file("cut.parquet", bytes);
        let text = refusal(&data, &cross_entropy());
        assert!(
            text.starts_with("it is not a whole Parquet file that can be read\n  file: cut.parquet\n  cause: ")
                && text.ends_with("\n  try: save it again, uncompressed or with snappy, gzip or zstd; or as CSV"),
            "{text}"
        );
    }
}
