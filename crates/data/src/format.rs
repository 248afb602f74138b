//! What a file is, and which keys of a job go with it.

use std::{fs::File, io::Read, path::Path};

use outboard_core::{
    error::{Error, IoContext, Result},
    job::{Data, Format},
};

/// What a file is: what the job says, else its name, else its first bytes.
pub(crate) fn of(path: &Path, given: Option<Format>) -> Result<Format> {
    if let Some(format) = given {
        return Ok(format);
    }
    if path.is_dir() {
        return Ok(Format::Images);
    }
    match Format::of_name(path) {
        Some(format) => Ok(format),
        None => sniffed(path),
    }
}

/// As [`of`], for a file that is not the one of which the job says what it is: its name counts for more.
pub(crate) fn of_later(path: &Path, given: Option<Format>) -> Result<Format> {
    of(path, if Format::of_name(path).is_some() { None } else { given })
}

fn sniffed(path: &Path) -> Result<Format> {
    let mut start = Vec::new();
    let file = File::open(path).doing("read", path).map_err(|e| e.at("file", path.display()))?;
    file.take(8).read_to_end(&mut start).doing("read", path)?;
    Ok(match &start[..] {
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => Format::Npy,
        [b'P', b'K', 3, 4, ..] => Format::Npz,
        [b'P', b'A', b'R', b'1', ..] => Format::Parquet,
        [0, 0, 8..=14, 1..=8, ..] | [0x1f, 0x8b, ..] => Format::Idx,
        _ => Format::Csv,
    })
}

/// Forms of data, each with keys of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Columns with names.
    Table,
    /// Arrays of numbers.
    Arrays,
    /// A folder of images.
    Images,
}

impl Form {
    /// The form of a format.
    pub(crate) fn of(format: Format) -> Self {
        match format {
            Format::Csv | Format::Parquet => Self::Table,
            Format::Npy | Format::Npz | Format::Safetensors | Format::Idx => Self::Arrays,
            Format::Images => Self::Images,
        }
    }

    /// Its name in messages.
    pub(crate) fn noun(self) -> &'static str {
        match self {
            Self::Table => "a table",
            Self::Arrays => "an array",
            Self::Images => "a folder of images",
        }
    }
}

/// Refuses keys that mean nothing for what the job reads.
pub(crate) fn check_keys(data: &Data, form: Form) -> Result<()> {
    use Form::{Arrays, Images, Table};
    let keys: [(&str, bool, &[Form]); 12] = [
        ("data.labels", data.labels.is_some(), &[Arrays]),
        ("data.validation_labels", data.validation_labels.is_some(), &[Arrays]),
        ("data.target", data.target.is_some(), &[Table, Arrays]),
        ("data.features", data.features.is_some(), &[Table, Arrays]),
        ("data.exclude", !data.exclude.is_empty(), &[Table]),
        ("data.categorical", !data.categorical.is_empty(), &[Table]),
        ("data.weight", data.weight.is_some(), &[Table]),
        ("data.text", data.text.is_some(), &[Table]),
        ("data.max_length", data.max_length.is_some(), &[Table]),
        ("data.tokenizer", data.tokenizer.is_some(), &[Table]),
        ("data.window", data.window.is_some(), &[Table]),
        ("data.images", data.images.is_some(), &[Images]),
    ];
    if let Some((key, _, _)) = keys.iter().find(|(_, given, forms)| *given && !forms.contains(&form)) {
        return Err(Error::invalid(format!("`{key}` means nothing for {}", form.noun()))
            .at("file", data.train.display())
            .at("key", key)
            .hint("take it out of the job"));
    }
    let with_text = [
        ("data.features", data.features.is_some()),
        ("data.exclude", !data.exclude.is_empty()),
        ("data.categorical", !data.categorical.is_empty()),
        ("data.window", data.window.is_some()),
    ];
    match with_text.iter().find(|(_, given)| *given && data.text.is_some()) {
        Some((key, _)) => Err(Error::invalid(format!("`{key}` and `data.text` don't go together"))
            .at("file", data.train.display())
            .at("key", key)
            .hint("take one of them out: a text is the only feature")),
        None if data.text.is_none() => {
            let of_texts =
                [("data.max_length", data.max_length.is_some()), ("data.tokenizer", data.tokenizer.is_some())];
            let Some((key, _)) = of_texts.iter().find(|(_, given)| *given) else { return Ok(()) };
            Err(Error::invalid(format!("`{key}` is there, but not `data.text`"))
                .at("file", data.train.display())
                .at("key", key)
                .hint("name the column of texts with `text = \"NAME\"`, or take it out"))
        }
        None => Ok(()),
    }
}
