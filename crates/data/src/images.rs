//! Folders of images: a folder for each class.

use std::{
    fs,
    path::{Path, PathBuf},
};

use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, Limits, imageops::FilterType};
use outboard_core::{
    error::{Error, IoContext, Result},
    job::{Color, Data, Loss},
};
use outboard_protocol::{Dataset, Feature, Inputs, Schema, Target, TargetColumn};
use outboard_store::Scratch;

use crate::{
    MOST_VALUES, Training,
    labels::{Labels, Role},
    rows::Rows,
    wording::shown,
};

/// Height and width of an image.
const MOST_PIXELS: u32 = 16_384;
/// Bytes that decoding an image may take.
const MOST_BYTES: u64 = 1 << 30;
const LAYOUT: &str = "make a folder for each class in it, with PNG or JPEG images";

/// An image file, and the name of the folder that it lies in.
#[derive(Debug)]
struct Picture {
    path: PathBuf,
    class: Option<String>,
}

/// How images become rows.
#[derive(Clone, Copy, Debug)]
struct Form {
    /// Height and width.
    size: [usize; 2],
    resize: bool,
    color: Color,
}

/// Reads what a job learns from.
pub(crate) fn training(data: &Data, loss: &Loss, seed: u64, scratch: &Scratch) -> Result<Training> {
    let role = match loss {
        Loss::CrossEntropy { .. } => Role::Class,
        Loss::BceWithLogits { .. } => Role::Side,
        Loss::Mse | Loss::L1 | Loss::Huber { .. } => {
            return Err(Error::invalid("the folders of images are classes, but the loss takes numbers")
                .at("file", data.train.display())
                .at("key", "train.loss")
                .hint("use `loss = \"cross_entropy\"`"));
        }
    };
    let pictures = pictures(&data.train, true)?;
    let images = data.images.unwrap_or_default();
    let size = match (images.size, pictures.first()) {
        (Some(size), _) => size,
        (None, Some(first)) => size_of(&first.path)?,
        (None, None) => [0, 0],
    };
    let form = Form { size, resize: images.size.is_some(), color: images.color };
    let mut labels = Labels::new(role);
    let numbers = numbers(&pictures, &mut labels)?;
    let (target, y) = labels
        .into_target("class".to_string(), &numbers)
        .map_err(|e| e.at("file", data.train.display()).hint(LAYOUT))?;
    let x = form.read(&data.train, &pictures, scratch)?;
    let rows = Rows { path: data.train.clone(), shape: form.shape(), x, y, scratch: scratch.clone() };
    rows.training(form.feature(), target, data, seed, |path, schema| dataset(path, schema, true, scratch))
}

/// Reads a folder as a model was trained.
pub(crate) fn dataset(path: &Path, schema: &Schema, labelled: bool, scratch: &Scratch) -> Result<Dataset> {
    let Some(Feature::Image { size, resize, color, .. }) = schema.features.first() else {
        return Err(Error::invalid("the model was not trained on images").at("file", path.display()));
    };
    let form = Form { size: *size, resize: *resize, color: *color };
    let pictures = pictures(path, labelled)?;
    let known = |role: Role, classes: &[String]| {
        numbers(&pictures, &mut Labels::known(role, classes)).map(|numbers| role.targets(&numbers))
    };
    let y = match &schema.target {
        _ if !labelled => Target::None,
        TargetColumn::Binary { classes, .. } => known(Role::Side, classes)?,
        TargetColumn::Classes { classes, .. } => known(Role::Class, classes)?,
        _ => return Err(Error::invalid("the model predicts no classes").at("file", path.display())),
    };
    let x = form.read(path, &pictures, scratch)?;
    Rows { path: path.to_path_buf(), shape: form.shape(), x, y, scratch: scratch.clone() }.whole(schema)
}

/// The images of a folder, in the order of the bytes of their names: those in it, unless each needs a class, then those
/// of the folders in it.
fn pictures(folder: &Path, classed: bool) -> Result<Vec<Picture>> {
    let mut pictures = Vec::new();
    let (folders, files) = entries(folder)?;
    if let Some(stray) = files.first().filter(|_| classed) {
        return Err(Error::invalid("the image lies in no folder of a class")
            .at("file", stray.display())
            .hint("move it into the folder of its class"));
    }
    pictures.extend(files.into_iter().map(|path| Picture { path, class: None }));
    for inner in folders {
        let Some(class) = inner.file_name().and_then(|name| name.to_str()).map(str::to_string) else {
            return Err(Error::invalid("the name of the folder is not UTF-8 text")
                .at("file", inner.display())
                .hint("rename it"));
        };
        let (_, files) = entries(&inner)?;
        if files.is_empty() {
            return Err(Error::invalid(format!("the folder of the class {} has no images", shown(&class)))
                .at("file", inner.display())
                .hint("put PNG or JPEG images into it, or remove it"));
        }
        pictures.extend(files.into_iter().map(|path| Picture { path, class: Some(class.clone()) }));
    }
    match pictures.is_empty() {
        true => Err(Error::invalid("the folder has no images").at("file", folder.display()).hint(LAYOUT)),
        false => Ok(pictures),
    }
}

/// The folders and the images of a folder, each sorted. What is hidden or no image doesn't count.
fn entries(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let at = |e: Error| e.at("file", folder.display());
    let (mut folders, mut files) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).doing("read", folder).map_err(at)? {
        let path = entry.doing("read", folder).map_err(at)?.path();
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
            continue;
        }
        let ending = path.extension().map(|ending| ending.to_ascii_lowercase());
        if path.is_dir() {
            folders.push(path);
        } else if ending.is_some_and(|ending| ["png", "jpg", "jpeg"].iter().any(|known| ending == *known)) {
            files.push(path);
        }
    }
    folders.sort_unstable();
    files.sort_unstable();
    Ok((folders, files))
}

fn numbers(pictures: &[Picture], labels: &mut Labels) -> Result<Vec<u32>> {
    let number = |picture: &Picture| {
        let class = picture.class.as_deref().unwrap_or_default();
        labels.number(class).map_err(|(what, _)| {
            Error::invalid(what)
                .at("file", picture.path.display())
                .hint("move the image into the folder of its class, or train on data that has it too")
        })
    };
    pictures.iter().map(number).collect()
}

/// A decoder that knows the size of its image, within bounds.
fn decoder(path: &Path) -> Result<impl ImageDecoder> {
    let mut reader = ImageReader::open(path)
        .and_then(ImageReader::with_guessed_format)
        .doing("read", path)
        .map_err(|e| e.at("file", path.display()))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MOST_PIXELS);
    limits.max_image_height = Some(MOST_PIXELS);
    limits.max_alloc = Some(MOST_BYTES);
    reader.limits(limits);
    reader.into_decoder().map_err(|e| unreadable(path, e))
}

fn unreadable(path: &Path, error: ImageError) -> Error {
    match error {
        ImageError::Limits(_) => {
            Error::invalid(format!("the image is larger than {MOST_PIXELS} by {MOST_PIXELS} pixels"))
                .at("file", path.display())
                .hint("make it smaller, or remove it")
        }
        error => Error::invalid("the image cannot be read")
            .at("file", path.display())
            .because(error)
            .hint("save it again as PNG or JPEG, or remove it"),
    }
}

/// Height and width.
fn size_of(path: &Path) -> Result<[usize; 2]> {
    let (width, height) = decoder(path)?.dimensions();
    Ok([height as usize, width as usize])
}

impl Form {
    fn shape(&self) -> Vec<usize> {
        vec![self.color.channels(), self.size[0], self.size[1]]
    }

    fn feature(&self) -> Feature {
        Feature::Image { size: self.size, resize: self.resize, color: self.color, scalings: Vec::new() }
    }

    fn read(&self, folder: &Path, pictures: &[Picture], scratch: &Scratch) -> Result<Inputs> {
        let total = self.shape().iter().try_fold(pictures.len(), |n, size| n.checked_mul(*size));
        if total.is_none_or(|total| total > MOST_VALUES) {
            let ([height, width], n) = (self.size, pictures.len());
            let what = format!("{n} images of {height} by {width} pixels are more than {MOST_VALUES} numbers");
            return Err(Error::invalid(what)
                .at("file", folder.display())
                .hint("use fewer images, or smaller ones with `images = { size = [64, 64] }`"));
        }
        let (mut all, mut bytes) = (scratch.list(), Vec::new());
        for picture in pictures {
            self.append(&picture.path, &mut bytes)?;
            all.extend(&bytes)?;
            bytes.clear();
        }
        Ok(Inputs::Bytes { bytes: all.finish()?, scalings: Vec::new() })
    }

    /// Adds an image, one channel after another.
    fn append(&self, path: &Path, bytes: &mut Vec<u8>) -> Result<()> {
        let decoder = decoder(path)?;
        let (width, height) = decoder.dimensions();
        let ([rows, columns], found) = (self.size, [height as usize, width as usize]);
        if found != self.size && !self.resize {
            return Err(Error::invalid(format!(
                "the image is {height} by {width} pixels, but the first is {rows} by {columns}"
            ))
            .at("file", path.display())
            .hint(format!("make all of one size, or have them resized: `images = {{ size = [{rows}, {columns}] }}`")));
        }
        let image = DynamicImage::from_decoder(decoder).map_err(|e| unreadable(path, e))?;
        // Reduced first, so that scaling works on bytes and not on what the file happened to hold.
        let image = match self.color {
            Color::Rgb => DynamicImage::ImageRgb8(image.into_rgb8()),
            Color::Grayscale => DynamicImage::ImageLuma8(image.into_luma8()),
        };
        let image = match found == self.size {
            true => image,
            false => image.resize_exact(columns as u32, rows as u32, FilterType::Triangle),
        };
        let (pixels, channels) = (image.into_bytes(), self.color.channels());
        for channel in 0..channels {
            bytes.extend(pixels.iter().skip(channel).step_by(channels));
        }
        Ok(())
    }
}
