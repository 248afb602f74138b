//! Damaged files of every format are read, or refused with what and where.

use outboard_core::{
    ErrorKind,
    job::{Color, Images},
};
use proptest::{collection::vec, prelude::*, sample::Index};
use safetensors::Dtype;
use zip::CompressionMethod::{Deflated, Stored};

use super::{
    files::{f32s, gzip, i64s, idx, npy, npz, png, safetensors},
    *,
};

fn check(read: Result<Training>, path: &Path) {
    if let Err(error) = read {
        assert_ne!(error.kind(), ErrorKind::Unexpected, "{}", error.report());
        assert!(error.advice().is_some(), "{}", error.report());
        let place = path.display().to_string();
        let named = error.context().iter().any(|(what, value)| what == "file" && value.starts_with(&place));
        assert!(named, "{}", error.report());
    }
}

/// Valid files, and how they are named.
fn originals() -> Vec<(&'static str, Vec<u8>)> {
    let x = npy("'<f4'", false, "(4, 2)", &f32s(&[1., 2., 3., 4., 5., 6., 7., 8.]));
    let y = npy("'<i8'", false, "(4,)", &i64s(&[0, 1, 1, 0]));
    let tensors = safetensors(&[("x", Dtype::F16, &[4, 2], vec![0; 16]), ("y", Dtype::U8, &[4], vec![0, 1, 1, 0])]);
    vec![
        ("x.npy", x.clone()),
        ("stored.npz", npz(&[("x", x.clone()), ("y", y.clone())], Stored)),
        ("deflated.npz", npz(&[("x", x), ("y", y)], Deflated)),
        ("x.safetensors", tensors),
        ("x.idx", idx(8, &[4, 2], &[1, 2, 3, 4, 5, 6, 7, 8])),
        ("x.idx.gz", gzip(&idx(8, &[4, 2], &[1, 2, 3, 4, 5, 6, 7, 8]))),
        ("class/x.png", png(3, 3, |row, column| [row as u8, column as u8, 7])),
        #[cfg(feature = "parquet")]
        ("x.parquet", files::parquet(4, false)),
    ]
}

fn damaged(mut bytes: Vec<u8>, damage: &[(Index, u8, u8)]) -> Vec<u8> {
    for (at, how, byte) in damage {
        let at = at.index(bytes.len().max(1));
        match how {
            0 if at < bytes.len() => bytes[at] = *byte,
            1 if at < bytes.len() => drop(bytes.remove(at)),
            2 => bytes.truncate(at),
            3 if at < bytes.len() => bytes[at] ^= 1 << (byte % 8),
            _ => bytes.insert(at.min(bytes.len()), *byte),
        }
    }
    bytes
}

fn read(folder: &Folder, name: &str, bytes: Vec<u8>) {
    std::fs::create_dir_all(folder.0.path().join("images/class")).unwrap();
    std::fs::create_dir_all(folder.0.path().join("images/other")).unwrap();
    let labels = npy("'<i8'", false, "(4,)", &i64s(&[0, 1, 1, 0]));
    let mut data = Data { labels: Some(folder.file("y.npy", labels)), ..Data::default() };
    if name.ends_with(".png") {
        folder.file("images/other/a.png", png(3, 3, |_, _| [0; 3]));
        folder.file(&format!("images/{name}"), bytes);
        data.train = folder.0.path().join("images");
        data.labels = None;
        data.images = Some(Images { size: None, color: Color::Rgb });
    } else {
        data.train = folder.file(name, bytes);
    }
    if name.ends_with(".npz") || name.ends_with(".safetensors") || name.ends_with(".parquet") {
        data.labels = None;
    }
    if name.ends_with(".parquet") {
        data.target = Some("y".into());
        data.categorical = strings(&["colour"]);
    }
    check(read_training(&data, &cross_entropy(), 0), if data.labels.is_some() { folder.0.path() } else { &data.train });
}

#[test]
fn originals_are_whole() {
    let folder = Folder::new();
    for (name, bytes) in originals() {
        read(&folder, name, bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn damaged_files_are_read_or_refused(damage in vec((any::<Index>(), 0..5u8, any::<u8>()), 1..6)) {
        let folder = Folder::new();
        for (name, bytes) in originals() {
            read(&folder, name, damaged(bytes, &damage));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused_under_every_name(bytes in vec(any::<u8>(), 0..120), keep in 0usize..24) {
        let folder = Folder::new();
        for (name, original) in originals() {
            // Some of a right beginning, so that more than the first check is reached.
            let start = &original[..keep.min(original.len())];
            read(&folder, name, [start, &bytes].concat());
        }
    }
}
