//! NumPy's NPZ files: NPY files in a ZIP archive.

use std::io::BufReader;

use outboard_core::error::{Error, ErrorKind, Result};
use zip::{ZipArchive, result::ZipError};

use super::{Array, Place, elements::Wanted, lacking, npy, open_file};

/// Reads the array of this name.
pub(crate) fn read(place: &Place<'_>, name: &str, key: &'static str, wanted: Wanted) -> Result<Array> {
    let path = place.path;
    let unreadable = |error: ZipError| {
        let (what, hint) = ("the file is not a whole NPZ file", "save it with `numpy.savez`");
        Error::new(ErrorKind::InvalidRequest, what).at("file", path.display()).because(error).hint(hint)
    };
    let file = BufReader::new(open_file(path)?);
    let mut archive = ZipArchive::new(file).map_err(unreadable)?;
    let names: Vec<String> = (0..archive.len())
        .filter_map(|i| Some(archive.by_index_raw(i).ok()?.name().ok()?.strip_suffix(".npy")?.to_string()))
        .collect();
    if !names.iter().any(|found| found == name) {
        return Err(lacking(path, name, key, names));
    }
    let mut entry = archive.by_name(&format!("{name}.npy")).map_err(unreadable)?;
    let length = entry.size();
    npy::read_from(&mut entry, Some(length), place, wanted)
}
