//! Folders of images.

use outboard_core::{
    ErrorKind,
    job::{Color, Images},
};

use super::{files::png, *};

/// A folder with images: `cat/a.png` is red, `cat/b.png` green, `dog/a.png` has a gradient.
fn pictures() -> (Folder, Data) {
    let folder = Folder::new();
    for class in ["cat", "dog"] {
        std::fs::create_dir_all(folder.0.path().join("train").join(class)).unwrap();
    }
    folder.file("train/cat/b.png", png(2, 3, |_, _| [0, 255, 0]));
    folder.file("train/cat/a.png", png(2, 3, |_, _| [255, 0, 0]));
    folder.file("train/dog/a.png", png(2, 3, |row, column| [row as u8, column as u8, 100]));
    folder.file("train/dog/.hidden.png", "");
    folder.file("train/notes.txt", "not an image");
    let train = folder.0.path().join("train");
    (folder, Data { train, normalize: Normalize::None, ..Data::default() })
}

fn bytes(inputs: &Inputs) -> &[u8] {
    match inputs {
        Inputs::Bytes { bytes, .. } => bytes,
        other => panic!("{other:?}"),
    }
}

fn short(folder: &Folder, error: Error) -> String {
    error.report().replace(&format!("{}/", folder.0.path().display()), "").replace("\n  key: data.train", "")
}

#[test]
fn classes_are_folders_and_channels_come_one_after_another() {
    let (_folder, mut data) = pictures();
    let Training { schema, train, .. } = read_training(&data, &cross_entropy(), 0).unwrap();
    assert_eq!((train.shape.as_slice(), &train.y), (&[3, 2, 3][..], &Target::Classes(vec![0, 0, 1].into())));
    let red = [[255; 6], [0; 6], [0; 6]].concat();
    let green = [[0; 6], [255; 6], [0; 6]].concat();
    let gradient = [[0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2], [100; 6]].concat();
    assert_eq!(bytes(&train.x), [red, green, gradient].concat());
    assert_eq!(schema.target, TargetColumn::Classes { name: "class".into(), classes: strings(&["cat", "dog"]) });
    assert_eq!(read_labelled(&data.train, None, &schema).unwrap(), train);
    // To be predicted, images may lie in folders or beside each other.
    assert_eq!(read_features(&data.train, &schema).unwrap().rows(), 3);
    let flat = read_features(&data.train.join("cat"), &schema).unwrap();
    assert_eq!((bytes(&flat.x), flat.y), (&bytes(&train.x)[..36], Target::None));

    data.images = Some(Images { size: None, color: Color::Grayscale });
    let train = read_training(&data, &bce(), 0).unwrap().train;
    assert_eq!((train.shape.as_slice(), &train.y), (&[1, 2, 3][..], &values(&[0., 0., 1.])));
    assert_eq!(bytes(&train.x)[..12], [[54; 6], [182; 6]].concat());

    data.normalize = Normalize::Standard;
    data.images = None;
    let train = read_training(&data, &cross_entropy(), 0).unwrap().train;
    let Inputs::Bytes { scalings, .. } = &train.x else { panic!() };
    let mean: f64 = (6.0 * 255.0 + 3.0) / 18.0;
    assert_eq!((scalings.len(), scalings[0].offset), (3, mean));
}

#[test]
fn images_are_resized_where_the_job_says() {
    let (folder, mut data) = pictures();
    folder.file("train/dog/large.png", png(40, 60, |_, _| [10, 20, 30]));
    assert_eq!(
        short(&folder, read_training(&data, &cross_entropy(), 0).unwrap_err()),
        "the image is 40 by 60 pixels, but the first is 2 by 3\n  file: train/dog/large.png\n  \
         try: make all of one size, or have them resized: `images = { size = [2, 3] }`"
    );
    data.images = Some(Images { size: Some([2, 2]), color: Color::Rgb });
    let train = read_training(&data, &cross_entropy(), 0).unwrap().train;
    assert_eq!((train.rows(), train.shape.as_slice()), (4, &[3, 2, 2][..]));
    assert_eq!(bytes(&train.x)[36..], [[10; 4], [20; 4], [30; 4]].concat());
}

#[test]
fn folders_that_hold_no_classes_of_images() {
    let (folder, data) = pictures();
    let refused = |data: &Data| short(&folder, read_training(data, &cross_entropy(), 0).unwrap_err());
    let layout = "make a folder for each class in it, with PNG or JPEG images";
    let empty = folder.0.path().join("empty");
    std::fs::create_dir_all(&empty).unwrap();
    let with = |train: &Path| Data { train: train.to_path_buf(), ..data.clone() };
    assert_eq!(refused(&with(&empty)), format!("the folder has no images\n  file: empty\n  try: {layout}"));
    assert_eq!(
        refused(&with(&data.train.join("cat"))),
        "the image lies in no folder of a class\n  file: train/cat/a.png\n  try: move it into the folder of its class"
    );
    std::fs::create_dir_all(empty.join("cow")).unwrap();
    assert_eq!(
        refused(&with(&empty)),
        "the folder of the class `cow` has no images\n  file: empty/cow\n  \
         try: put PNG or JPEG images into it, or remove it"
    );
    std::fs::copy(data.train.join("cat/a.png"), empty.join("cow/a.png")).unwrap();
    std::fs::copy(data.train.join("cat/a.png"), empty.join("cow/b.png")).unwrap();
    assert_eq!(refused(&with(&empty)), format!("every row has the same label, `cow`\n  file: empty\n  try: {layout}"));
    let held_out = Data { validation: Some(Validation::File(empty)), ..data.clone() };
    assert_eq!(
        refused(&held_out),
        "`cow` is not one of the classes of the training data: `cat`, `dog`\n  file: empty/cow/a.png\n  \
         key: data.validation\n  try: move the image into the folder of its class, or train on data that has it too"
    );
    assert_eq!(
        short(&folder, read_training(&data, &Loss::Mse, 0).unwrap_err()),
        format!(
            "the folders of images are classes, but the loss takes numbers\n  file: {}\n  key: train.loss\n  \
             try: use `loss = \"cross_entropy\"`",
            "train"
        )
    );
}

#[test]
fn images_that_cannot_be_read() {
    let (folder, data) = pictures();
    // The header of an image of 100000 by 100000 pixels, with a right checksum.
    let mut huge = png(1, 1, |_, _| [0; 3]);
    huge[16..24].copy_from_slice(&[0, 1, 0x86, 0xa0, 0, 1, 0x86, 0xa0]);
    let mut crc = flate2::Crc::new();
    crc.update(&huge[12..29]);
    huge[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    let path = folder.file("train/dog/huge.png", huge);
    let refused = || {
        let error = read_training(&data, &cross_entropy(), 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        short(&folder, error)
    };
    assert_eq!(
        refused(),
        "the image is larger than 16384 by 16384 pixels\n  file: train/dog/huge.png\n  try: make it smaller, or remove it"
    );
    for bytes in [&b"no image"[..], &png(2, 3, |_, _| [1; 3])[..40], b""] {
        std::fs::write(&path, bytes).unwrap();
        let text = refused();
        assert!(
            text.starts_with("the image cannot be read\n  file: train/dog/huge.png\n  cause: ")
                && text.ends_with("\n  try: save it again as PNG or JPEG, or remove it"),
            "{text}"
        );
    }
}
