//! NPY, NPZ, safetensors and IDX files.

use outboard_core::{ErrorKind, job::Format};
use outboard_protocol::Scaling;
use safetensors::Dtype;
use zip::CompressionMethod::{Deflated, Stored};

use super::{
    files::{f32s, gzip, i64s, idx, npy, npz, safetensors},
    *,
};

/// Four rows of two numbers.
const X: [f32; 8] = [1., 2., 3., 4., 5., 6., 7., 8.];

/// A job on these files that scales nothing.
fn job(folder: &Folder, train: (&str, Vec<u8>), labels: Option<(&str, Vec<u8>)>) -> Data {
    Data {
        train: folder.file(train.0, train.1),
        labels: labels.map(|(name, bytes)| folder.file(name, bytes)),
        normalize: Normalize::None,
        ..Data::default()
    }
}

fn x_npy() -> Vec<u8> {
    npy("'<f4'", false, "(4, 2)", &f32s(&X))
}

fn y_npy() -> Vec<u8> {
    npy("'<i8'", false, "(4,)", &i64s(&[7, 10, 7, 9]))
}

#[test]
fn the_same_arrays_from_every_format() {
    let folder = Folder::new();
    let x = |descr, data| npy(descr, false, "(4, 2)", data);
    let big: Vec<u8> = X.iter().flat_map(|x| f64::from(*x).to_be_bytes()).collect();
    let turned = f32s(&[1., 3., 5., 7., 2., 4., 6., 8.]);
    let tensors = safetensors(&[("x", Dtype::F32, &[4, 2], f32s(&X)), ("y", Dtype::I64, &[4], i64s(&[7, 10, 7, 9]))]);
    let be_f32: Vec<u8> = X.iter().flat_map(|x| x.to_be_bytes()).collect();
    let idx_y = ("y-idx1-ubyte.gz", gzip(&idx(8, &[4], &[7, 10, 7, 9])));
    let jobs = [
        job(&folder, ("x.npy", x_npy()), Some(("y.npy", y_npy()))),
        job(&folder, ("big.npy", x("'>f8'", &big)), Some(("y.npy", y_npy()))),
        job(&folder, ("turned.npy", npy("'<f4'", true, "(4, 2)", &turned)), Some(("y.npy", y_npy()))),
        job(&folder, ("named-otherwise", x_npy()), Some(("labels-otherwise", y_npy()))),
        job(&folder, ("a.npz", npz(&[("x", x_npy()), ("y", y_npy())], Stored)), None),
        job(&folder, ("b.npz", npz(&[("y", y_npy()), ("z", y_npy()), ("x", x_npy())], Deflated)), None),
        job(&folder, ("a.safetensors", tensors), None),
        job(&folder, ("x.idx", idx(0x0d, &[4, 2], &be_f32)), Some(idx_y)),
    ];
    let classes = Target::Classes(vec![0, 2, 0, 1].into());
    let expected = Dataset { shape: vec![2], x: X.to_vec().into(), y: classes.clone(), weights: None };
    for data in jobs {
        let Training { schema, train, validation } = read_training(&data, &cross_entropy(), 0).unwrap();
        assert_eq!((&train, &validation), (&expected, &None), "{data:?}");
        let target = TargetColumn::Classes { name: "y".into(), classes: strings(&["7", "9", "10"]) };
        let feature = Feature::Array { name: "x".into(), shape: vec![2], scalings: vec![Scaling::NONE; 2] };
        assert_eq!((&schema.target, &schema.features), (&target, &vec![feature]), "{data:?}");
        assert_eq!(read_labelled(&data.train, data.labels.as_deref(), &schema).unwrap(), expected);
        let features = read_features(&data.train, &schema).unwrap();
        assert_eq!(features, Dataset { y: Target::None, ..expected.clone() });
    }
}

#[test]
fn bytes_stay_bytes_until_a_worker_scales_them() {
    let folder = Folder::new();
    let pixels: Vec<u8> = (0..24).map(|i| i * 10).collect();
    let mut data = job(
        &folder,
        ("train-images-idx3-ubyte.gz", gzip(&idx(8, &[4, 2, 3], &pixels))),
        Some(("train-labels-idx1-ubyte", idx(8, &[4], &[0, 1, 1, 0]))),
    );
    data.normalize = Normalize::MinMax;
    let train = read_training(&data, &bce(), 0).unwrap().train;
    assert_eq!((train.shape.as_slice(), &train.y), (&[2, 3][..], &values(&[0., 1., 1., 0.])));
    let scalings = vec![Scaling { offset: 0.0, scale: 230.0 }];
    assert_eq!(train.x, Inputs::Bytes { bytes: pixels.clone().into(), scalings });
    assert!(train.encode().unwrap().len() < 500);

    // Rows of one dimension have a scaling for each number, fitted on what is not held out.
    data.train = folder.file("flat.npy", npy("'|u1'", false, "(4, 6)", &pixels));
    data.validation = Some(Validation::Fraction(0.25));
    let Training { train, validation, .. } = read_training(&data, &bce(), 3).unwrap();
    let held_out = random::validation_rows(3, 4, 0.25)[0] as usize;
    let (Inputs::Bytes { bytes, scalings }, Some(validation)) = (train.x, validation) else { panic!() };
    assert_eq!((bytes.len(), scalings.len(), validation.rows()), (18, 6, 1));
    let column: Vec<u8> = (0..4).filter(|row| *row != held_out).map(|row| pixels[row * 6 + 5]).collect();
    let (min, max) = (f64::from(column[0]), f64::from(column[2]));
    assert_eq!(scalings[5], Scaling { offset: min, scale: max - min });
    let mut row = [0.0; 6];
    validation.x.copy_row(0, &mut row);
    assert_eq!(row[5], ((f64::from(pixels[held_out * 6 + 5]) - min) / (max - min)) as f32);
}

#[test]
fn floats_are_scaled_number_by_number_or_all_together() {
    let folder = Folder::new();
    let mut data = job(&folder, ("x.npy", x_npy()), Some(("y.npy", npy("'<f4'", false, "(4, 1)", &f32s(&[0.5; 4])))));
    data.normalize = Normalize::MinMax;
    let thirds = [0., 0., 1. / 3., 1. / 3., 2. / 3., 2. / 3., 1., 1.].map(|x| x as f32);
    assert_eq!(read_training(&data, &Loss::Mse, 0).unwrap().train.x, thirds);
    data.train = folder.file("deep.npy", npy("'<f4'", false, "(4, 1, 2)", &f32s(&X)));
    let sevenths = X.map(|x| ((f64::from(x) - 1.0) / 7.0) as f32);
    assert_eq!(read_training(&data, &Loss::Mse, 0).unwrap().train.x, sevenths);
}

#[test]
fn targets_of_an_array_have_the_meaning_of_the_loss() {
    let folder = Folder::new();
    let target = |y: Vec<u8>, loss: &Loss| {
        let data = job(&folder, ("x.npy", x_npy()), Some(("y.npy", y)));
        let training = read_training(&data, loss, 0).unwrap();
        let again = read_labelled(&data.train, data.labels.as_deref(), &training.schema).unwrap();
        assert_eq!(again, training.train);
        (training.schema.target, training.train.y)
    };
    let pairs = f32s(&[0., 1., 1., 1., 0., 0., 1., 0.]);
    let two = npy("'<f4'", false, "(4, 2)", &pairs);
    let names = strings(&["y[0]", "y[1]"]);
    let y = Target::Values { outputs: 2, values: vec![0., 1., 1., 1., 0., 0., 1., 0.].into() };
    assert_eq!(target(two.clone(), &bce()), (TargetColumn::Labels { names: names.clone() }, y.clone()));
    assert_eq!(target(two, &Loss::Mse), (TargetColumn::Numbers { names }, y));
    let (binary, y) = target(npy("'<f4'", false, "(4,)", &f32s(&[1., 0., 0., 1.])), &bce());
    assert_eq!(binary, TargetColumn::Binary { name: "y".into(), classes: ["0".into(), "1".into()] });
    assert_eq!(y, values(&[1., 0., 0., 1.]));
}

#[test]
fn a_validation_file_has_the_same_form() {
    let folder = Folder::new();
    let mut data = job(&folder, ("x.npy", x_npy()), Some(("y.npy", y_npy())));
    data.validation = Some(Validation::File(folder.file("v.npz", npz(&[("x", x_npy()), ("y", y_npy())], Stored))));
    let training = read_training(&data, &cross_entropy(), 0).unwrap();
    assert_eq!(training.validation, Some(training.train));
    data.validation = Some(Validation::File(data.train.clone()));
    data.validation_labels = data.labels.clone();
    assert!(read_training(&data, &cross_entropy(), 0).unwrap().validation.is_some());
}

/// The report of a refusal, without the folder and the key.
fn refusal(folder: &Folder, data: &Data, loss: &Loss) -> String {
    let error = read_training(data, loss, 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{}", error.report());
    error.report().replace(&format!("{}/", folder.0.path().display()), "").replace("\n  key: data.train", "")
}

#[test]
fn what_is_wrong_with_an_array() {
    let folder = Folder::new();
    let file = |name: &str, bytes: Vec<u8>| refusal(&folder, &job(&folder, (name, bytes), None), &Loss::Mse);
    let x = |descr: &str, shape: &str, data: &[u8]| file("x.npy", npy(descr, false, shape, data));
    let at = "\n  file: x.npy\n  try: ";
    assert_eq!(
        x("'<f4'", "(65536, 131072)", &[0; 20]),
        format!(
            "its shape [65536, 131072] needs 8589934592 numbers, but the file ends after 5{at}save or copy it again"
        )
    );
    assert_eq!(
        x("'<f4'", "(4294967296, 4294967296)", &[]),
        format!(
            "its shape [4294967296, 4294967296] has more than 8589934592 numbers{at}use fewer rows, or smaller ones"
        )
    );
    assert_eq!(
        x("'<f4'", "(2, 1)", &[0; 9]),
        format!("more bytes follow the 2 numbers of its shape [2, 1]{at}save or copy it again")
    );
    assert_eq!(
        x("'<f4'", "(2, 2)", &f32s(&[0., 1., 2., f32::NAN])),
        "NaN is not a number that a 32-bit float can hold\n  file: x.npy\n  row: 2\n  number: 2\n  \
         try: replace it, or leave the row out"
    );
    assert_eq!(x("'<f4'", "(0, 2)", &[]), format!("the array is empty: its shape is [0, 2]{at}save one with rows"));
    assert_eq!(
        x("'<f4'", "()", &[0; 4]),
        format!("the array is a single number{at}save an array with a row for each sample")
    );
    assert_eq!(
        x("'<U5'", "(1,)", &[0; 20]),
        format!(
            "the array holds texts (dtype `U5`){at}save the number of each class, such as \
             `numpy.unique(y, return_inverse=True)[1]`"
        )
    );
    assert_eq!(
        x("'|O'", "(1,)", &[0; 20]),
        format!("the array holds Python objects{at}save an array of numbers: `x.astype(\"float32\")`")
    );
    assert_eq!(
        x("'<c8'", "(1,)", &[0; 8]),
        format!("the array has dtype `c8`, not numbers that are known{at}save it as `x.astype(\"float32\")`")
    );
    assert_eq!(
        x("[('a', '<f4')]", "(1,)", &[0; 4]),
        format!(
            "the array has fields with names{at}save an array of numbers: \
             numpy.lib.recfunctions.structured_to_unstructured makes one"
        )
    );
    for bytes in [vec![], b"\x93NUMPY\x01\x00\xff\xff".to_vec(), b"a,b\n1,2\n".to_vec()] {
        assert_eq!(file("x.npy", bytes), format!("it is not a whole NPY file{at}save it with `numpy.save`"));
    }
    assert_eq!(
        file("x.idx", b"\0\0\x07\x01".to_vec()),
        "it is not a whole IDX file\n  file: x.idx\n  try: use a file such as train-images-idx3-ubyte or its .gz"
    );
    assert_eq!(
        file("x.safetensors", b"\xff\xff\xff\xff\0\0\0\0{}".to_vec()),
        "it is not a whole safetensors file\n  file: x.safetensors\n  \
         try: save it with `safetensors.numpy.save_file({\"x\": x, \"y\": y}, ...)`"
    );
    let archive = file("x.npz", b"PK\x03\x04nothing".to_vec());
    assert!(archive.starts_with("the file is not a whole NPZ file\n  file: x.npz\n  cause: "), "{archive}");
}

#[test]
fn a_small_archive_of_much_is_refused_by_its_shape() {
    let folder = Folder::new();
    // A kilobyte that says it is many gigabytes, and one that holds more than its shape says.
    let bomb = npz(&[("x", npy("'<f4'", false, "(99999999, 784)", &vec![0; 1 << 20]))], Deflated);
    assert!(bomb.len() < 4096);
    assert_eq!(
        refusal(&folder, &job(&folder, ("bomb.npz", bomb), None), &Loss::Mse),
        "its shape [99999999, 784] has more than 8589934592 numbers\n  file: bomb.npz\n  array: x\n  \
         try: use fewer rows, or smaller ones"
    );
    let long = npz(&[("x", npy("'<f4'", false, "(2, 1)", &vec![0; 1 << 20]))], Deflated);
    assert_eq!(
        refusal(&folder, &job(&folder, ("long.npz", long), None), &Loss::Mse),
        "more bytes follow the 2 numbers of its shape [2, 1]\n  file: long.npz\n  array: x\n  try: save or copy it again"
    );
    let gzipped = gzip(&idx(8, &[1 << 15, 1 << 15], &[0; 100]));
    assert_eq!(
        refusal(&folder, &job(&folder, ("x.idx.gz", gzipped), None), &Loss::Mse),
        "its shape [32768, 32768] needs 1073741824 numbers, but the file ends after 100\n  file: x.idx.gz\n  \
         try: save or copy it again"
    );
}

#[test]
fn arrays_that_do_not_go_together() {
    let folder = Folder::new();
    let with = |y: Vec<u8>, loss: &Loss| refusal(&folder, &job(&folder, ("x.npy", x_npy()), Some(("y.npy", y))), loss);
    assert_eq!(
        refusal(&folder, &job(&folder, ("x.npy", x_npy()), None), &Loss::Mse),
        "the file holds a single array, so the targets must come from another file\n  file: x.npy\n  \
         key: data.labels\n  try: add `labels = \"y.npy\"` under [data]"
    );
    let three = npy("'<i8'", false, "(3,)", &i64s(&[0, 1, 1]));
    assert_eq!(
        with(three, &Loss::Mse),
        "there are 4 rows, but targets for 3\n  file: y.npy\n  array: y\n  try: save as many targets as rows"
    );
    let floats = npy("'<f4'", false, "(4,)", &f32s(&[0., 1., 1., 0.5]));
    let whole = "save whole numbers: `y.astype(\"int64\")`; or use `loss = \"mse\"` if they are quantities";
    assert_eq!(
        with(floats.clone(), &cross_entropy()),
        format!("the targets are floats, but classes are whole numbers\n  file: y.npy\n  array: y\n  try: {whole}")
    );
    assert_eq!(with(floats, &bce()), format!("0.5 is no class\n  file: y.npy\n  array: y\n  row: 4\n  try: {whole}"));
    let pairs = npy("'<f4'", false, "(4, 2)", &f32s(&X));
    assert_eq!(
        with(pairs.clone(), &cross_entropy()),
        "each row has 2 targets, but `cross_entropy` needs one\n  file: y.npy\n  array: y\n  \
         try: save the number of its class for each row, such as `y.argmax(axis=1)`"
    );
    assert_eq!(
        with(pairs, &bce()),
        "2 is neither 0 nor 1\n  file: y.npy\n  array: y\n  row: 1\n  number: 2\n  \
         try: save 1 where a label applies, else 0; or use `loss = \"mse\"` for quantities"
    );
    let mut data = job(&folder, ("a.npz", npz(&[("images", x_npy()), ("labels", y_npy())], Stored)), None);
    assert_eq!(
        refusal(&folder, &data, &Loss::Mse),
        "the file has no array `x`\n  file: a.npz\n  key: data.features\n  \
         try: name one of its arrays in `data.features`: `images`, `labels`"
    );
    data.features = Some(strings(&["images"]));
    data.target = Some("label".into());
    assert_eq!(
        refusal(&folder, &data, &Loss::Mse),
        "the file has no array `label`\n  file: a.npz\n  key: data.target\n  try: name `labels` in `data.target`"
    );
    data.target = Some("labels".into());
    assert!(read_training(&data, &Loss::Mse, 0).is_ok());
    data.exclude = strings(&["a"]);
    assert_eq!(
        refusal(&folder, &data, &Loss::Mse),
        "`data.exclude` means nothing for an array\n  file: a.npz\n  key: data.exclude\n  try: take it out of the job"
    );
}

#[test]
fn later_arrays_that_do_not_fit() {
    let folder = Folder::new();
    let data = job(&folder, ("x.npy", x_npy()), Some(("y.npy", y_npy())));
    let schema = read_training(&data, &cross_entropy(), 0).unwrap().schema;
    let short = |e: Error| e.report().replace(&format!("{}/", folder.0.path().display()), "");
    let wide = folder.file("wide.npy", npy("'<f4'", false, "(2, 4)", &f32s(&X)));
    assert_eq!(
        short(read_features(&wide, &schema).unwrap_err()),
        "rows are [4], but those of the training data [2]\n  file: wide.npy\n  \
         try: use rows of the same shape, or train on these"
    );
    let other = folder.file("other.npy", npy("'<i8'", false, "(4,)", &i64s(&[7, 8, 7, 9])));
    assert_eq!(
        short(read_labelled(&data.train, Some(&other), &schema).unwrap_err()),
        "`8` is not one of the classes of the training data: `7`, `9`, `10`\n  file: other.npy\n  array: y\n  row: 2\n  \
         try: fix the cell, or train on data that has it too"
    );
    assert_eq!(
        short(read_labelled(&data.train, None, &schema).unwrap_err()),
        "the file holds a single array, so the targets must come from another file\n  file: x.npy\n  \
         try: name it with `--labels y.npy`"
    );
    let table = folder.file("table.csv", "a,b\n1,2\n");
    assert_eq!(
        short(read_features(&table, &schema).unwrap_err()),
        "the training data was an array, but this is a table\n  file: table.csv\n  \
         try: use an array with rows like those of the training data"
    );
    assert_eq!(format::of(&folder.file("x", x_npy()), None).unwrap(), Format::Npy);
}
