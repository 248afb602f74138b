use std::path::PathBuf;

use outboard_core::job::Normalize;
use outboard_protocol::{Inputs, Target, TargetColumn};
use tempfile::TempDir;

use super::*;

mod arrays;
mod columns;
mod damage;
mod files;
mod images;
mod properties;
mod refusals;
mod tokenizers;

/// A folder with files for one test.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// A job on a file of these bytes that predicts `y` and scales nothing.
    fn data(&self, bytes: impl AsRef<[u8]>) -> Data {
        Data {
            train: self.file("train.csv", bytes),
            target: Some("y".into()),
            normalize: Normalize::None,
            ..Data::default()
        }
    }
}

/// Reads in memory and in files: both must come to the same.
fn read_either_way<T: PartialEq + std::fmt::Debug>(read: impl Fn(&Scratch) -> Result<T>) -> Result<T> {
    let scratch = Scratch::new(&std::env::temp_dir());
    let (in_memory, in_files) = (read(&scratch), read(&scratch.beyond(0)));
    match (&in_memory, &in_files) {
        (Ok(one), Ok(other)) => assert_eq!(one, other),
        (Err(one), Err(other)) => assert_eq!(one.report(), other.report()),
        _ => panic!("{in_memory:?} in memory, {in_files:?} in files"),
    }
    in_files
}

fn read_training(data: &Data, loss: &Loss, seed: u64) -> Result<Training> {
    read_either_way(|scratch| super::read_training(data, loss, seed, scratch))
}

fn read_labelled(path: &Path, labels: Option<&Path>, schema: &Schema) -> Result<Dataset> {
    read_either_way(|scratch| super::read_labelled(path, labels, schema, scratch))
}

fn read_features(path: &Path, schema: &Schema) -> Result<Dataset> {
    read_either_way(|scratch| super::read_features(path, schema, scratch))
}

fn cross_entropy() -> Loss {
    Loss::CrossEntropy { label_smoothing: 0.0, class_weights: None }
}

fn bce() -> Loss {
    Loss::BceWithLogits { positive_weight: 1.0 }
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}

fn values(values: &[f32]) -> Target {
    Target::Values { outputs: 1, values: values.to_vec().into() }
}

fn floats(inputs: Inputs) -> Vec<f32> {
    match inputs {
        Inputs::Floats(floats) => floats.to_vec(),
        other => panic!("{other:?}"),
    }
}

fn classes_of(bytes: &str) -> Vec<String> {
    let folder = Folder::new();
    match read_training(&folder.data(bytes), &cross_entropy(), 0).unwrap().schema.target {
        TargetColumn::Classes { classes, .. } => classes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_columns_but_the_target_and_the_excluded_are_features_in_the_files_order() {
    let folder = Folder::new();
    let mut data = folder.data("b,id,y,a\n1,7,0.5,2\n3,8,1.5,4\n");
    data.exclude = strings(&["id"]);
    let training = read_training(&data, &Loss::Mse, 0).unwrap();
    assert_eq!(
        training.train,
        Dataset { shape: vec![2], x: vec![1., 2., 3., 4.].into(), y: values(&[0.5, 1.5]), weights: None }
    );
    assert_eq!(training.validation, None);
    data.features = Some(strings(&["a", "b"]));
    data.exclude.clear();
    assert_eq!(read_training(&data, &Loss::Mse, 0).unwrap().train.x, [2., 1., 4., 3.]);
}

#[test]
fn categories_become_columns_in_the_order_of_their_bytes() {
    let folder = Folder::new();
    let mut data = folder.data("size,colour,y\n1,red,0\n2,Blue,1\n3,green,0\n4,red,1\n");
    data.categorical = strings(&["colour"]);
    let training = read_training(&data, &bce(), 0).unwrap();
    assert_eq!(
        training.schema.features[1],
        Feature::Categorical { name: "colour".into(), categories: strings(&["Blue", "green", "red"]) }
    );
    assert_eq!(training.train.shape, [4]);
    assert_eq!(training.train.x, [1., 0., 0., 1., 2., 1., 0., 0., 3., 0., 1., 0., 4., 0., 0., 1.]);
    assert_eq!(training.train.y, values(&[0., 1., 0., 1.]));
}

#[test]
fn classes_are_sorted_as_integers_where_all_are_and_else_as_bytes() {
    assert_eq!(classes_of("x,y\n1,10\n1,9\n1,-1\n"), ["-1", "9", "10"]);
    assert_eq!(classes_of("x,y\n1,10\n1,9\n1,a\n"), ["10", "9", "a"]);
    assert_eq!(classes_of("x,y\n1,1.0\n1,0.0\n1,2.5\n"), ["0.0", "1.0", "2.5"]);
    assert_eq!(classes_of("x,y\n1,01\n1,1\n1,a\n"), ["01", "1", "a"]);
}

#[test]
fn two_labels_are_zero_and_one() {
    let folder = Folder::new();
    let training = read_training(&folder.data("x,y\n1,yes\n1,no\n1,yes\n"), &bce(), 0).unwrap();
    assert_eq!(training.schema.target, TargetColumn::Binary { name: "y".into(), classes: ["no".into(), "yes".into()] });
    assert_eq!(training.train.y, values(&[1., 0., 1.]));
}

#[test]
fn scalings_are_the_training_rows() {
    let folder = Folder::new();
    let mut data = folder.data("a,same,y\n1,0.1,0\n2,0.1,0\n3,0.1,0\n6,0.1,0\n");
    let scaled = |data: &Data| {
        let training = read_training(data, &Loss::L1, 0).unwrap();
        let scalings = training.schema.features.iter().map(|feature| match feature {
            Feature::Numeric { offset, scale, .. } => (*offset, *scale),
            other => panic!("{other:?}"),
        });
        (scalings.collect::<Vec<_>>(), floats(training.train.x))
    };
    assert_eq!(scaled(&data).0, [(0.0, 1.0), (0.0, 1.0)]);
    data.normalize = Normalize::Standard;
    let deviation = 3.5f64.sqrt();
    let x = [-2.0, -1.0, 0.0, 3.0].map(|x| [(x / deviation) as f32, 0.0]).concat();
    assert_eq!(scaled(&data), (vec![(3.0, deviation), (0.1, 1.0)], x));
    data.normalize = Normalize::MinMax;
    assert_eq!(scaled(&data), (vec![(1.0, 5.0), (0.1, 1.0)], vec![0., 0., 0.2, 0., 0.4, 0., 1., 0.]));

    // Held-out rows have no part in it.
    data.validation = Some(Validation::Fraction(0.25));
    let held_out = random::validation_rows(0, 4, 0.25)[0] as usize;
    let left: Vec<f64> =
        [1.0, 2.0, 3.0, 6.0].into_iter().enumerate().filter(|(i, _)| *i != held_out).map(|p| p.1).collect();
    assert_eq!(scaled(&data).0[0], (left[0], left[2] - left[0]));
}

#[test]
fn a_split_keeps_the_files_order_and_follows_the_seed() {
    let folder = Folder::new();
    let rows: String = (0..50).map(|i| format!("{i},{i}\n")).collect();
    let mut data = folder.data(format!("x,y\n{rows}"));
    data.validation = Some(Validation::Fraction(0.2));
    let split = |seed| {
        let training = read_training(&data, &Loss::Mse, seed).unwrap();
        (floats(training.train.x), floats(training.validation.unwrap().x))
    };
    let held_out: Vec<f32> = random::validation_rows(7, 50, 0.2).into_iter().map(|row| row as f32).collect();
    let rest: Vec<f32> = (0..50u16).map(f32::from).filter(|row| !held_out.contains(row)).collect();
    assert_eq!(split(7), (rest, held_out));
    assert_eq!(split(7), split(7));
    assert_ne!(split(7), split(8));
}

#[test]
fn labels_and_categories_of_held_out_rows_are_known() {
    let folder = Folder::new();
    let mut data = folder.data("c,y\na,0\nb,1\nc,2\nd,3\n");
    data.categorical = strings(&["c"]);
    data.validation = Some(Validation::Fraction(0.5));
    let training = read_training(&data, &cross_entropy(), 0).unwrap();
    assert_eq!(training.train.shape, [4]);
    assert_eq!(training.schema.target.outputs(), 4);
}

#[test]
fn later_files_are_read_by_name_and_may_hold_more_columns() {
    let folder = Folder::new();
    let mut data = folder.data("a,c,y\n0,u,no\n10,v,yes\n");
    data.categorical = strings(&["c"]);
    data.normalize = Normalize::MinMax;
    data.validation = Some(Validation::File(folder.file("held.csv", "note,y,c,a\n?,yes,v,5\n")));
    let training = read_training(&data, &cross_entropy(), 0).unwrap();
    let expected =
        Dataset { shape: vec![3], x: vec![0.5, 0., 1.].into(), y: Target::Classes(vec![1].into()), weights: None };
    assert_eq!(training.validation, Some(expected));
    let later = folder.file("later.csv", "c,a\nu,20\n");
    let expected = Dataset { shape: vec![3], x: vec![2., 1., 0.].into(), y: Target::None, weights: None };
    assert_eq!(read_features(&later, &training.schema).unwrap(), expected);
    let odd = folder.file("odd.csv", "c,y,a\nu,neither,20\n");
    assert_eq!(read_features(&odd, &training.schema).unwrap(), expected);
    assert_eq!(read_labelled(&data.train, None, &training.schema).unwrap(), training.train);
}

#[test]
fn spreadsheets_habits_make_no_difference() {
    let folder = Folder::new();
    let read = |bytes: &str| read_training(&folder.data(bytes), &cross_entropy(), 0).unwrap();
    let plain = read("a b,y\n1,p\n2.5,q\n");
    for bytes in [
        "\u{feff}a b,y\r\n1,p\r\n2.5,q\r\n",
        "\u{feff}a b , y\n 1 ,\tp \n\n\r\n2.5\u{a0},q",
        "a b;y\n1;p\n2.5;q\n",
        "a b\ty\n1\tp\n2.5\tq\n",
        "\"a b\",\"y\"\n\"1\",\"p\"\n\"2.5\",\"q\"\n",
        "\na b,y\n1,p\n2.5,q\n",
    ] {
        assert_eq!(read(bytes), plain, "{bytes:?}");
    }
    let mut data = folder.data("\"a,b\";y\n1;p\n2;q\n");
    data.features = Some(strings(&["a,b"]));
    assert_eq!(read_training(&data, &cross_entropy(), 0).unwrap().train.x, [1., 2.]);
}

#[test]
fn reads_the_digits_of_the_examples() {
    let folder = Folder::new();
    let mut data = folder.data("");
    data.train = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/data/digits.csv");
    data.target = Some("label".into());
    data.normalize = Normalize::Standard;
    data.validation = Some(Validation::Fraction(0.2));
    let Training { schema, train, validation } = read_training(&data, &cross_entropy(), 7).unwrap();
    let digits = (0..10).map(|digit| digit.to_string()).collect();
    assert_eq!(schema.target, TargetColumn::Classes { name: "label".into(), classes: digits });
    assert_eq!((train.shape.as_slice(), train.rows(), validation.unwrap().rows()), (&[64][..], 1438, 359));
    let x = floats(train.x);
    let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / x.len() as f64;
    assert!(mean.abs() < 1e-6, "{mean}");
}
