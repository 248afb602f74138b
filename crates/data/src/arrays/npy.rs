//! NumPy's NPY files. The header is read here: the libraries that do it bring a parser of Python with a licence that the
//! project doesn't accept.

use std::io::Read;

use outboard_core::error::{Error, Result};

use super::{
    Array, Header, Place,
    elements::{Kind, Wanted},
    open,
};

const MAGIC: &[u8] = b"\x93NUMPY";
/// Bytes of a header, which NumPy itself bounds to less.
const MOST_HEADER: usize = 64 * 1024;

/// Reads the array of a file.
pub(crate) fn read(place: &Place<'_>, wanted: Wanted) -> Result<Array> {
    let (mut file, length) = open(place.path)?;
    read_from(&mut file, Some(length), place, wanted)
}

/// Reads an array; `length` is how many bytes there are, if that is known.
pub(crate) fn read_from(
    reader: &mut dyn Read,
    length: Option<u64>,
    place: &Place<'_>,
    wanted: Wanted,
) -> Result<Array> {
    let no_header = || place.refuse("it is not a whole NPY file").hint("save it with `numpy.save`");
    let mut start = [0; 8];
    reader.read_exact(&mut start).map_err(|_| no_header())?;
    if !start.starts_with(MAGIC) {
        return Err(no_header());
    }
    let mut size = [0; 4];
    let width = if start[6] == 1 { 2 } else { 4 };
    reader.read_exact(&mut size[..width]).map_err(|_| no_header())?;
    let size = u32::from_le_bytes(size) as usize;
    if size > MOST_HEADER {
        return Err(no_header());
    }
    let mut text = vec![0; size];
    reader.read_exact(&mut text).map_err(|_| no_header())?;
    let text = String::from_utf8_lossy(&text);
    let (Some(shape), Some(fortran)) = (shape(&text), value(&text, "fortran_order")) else { return Err(no_header()) };
    let (kind, big_endian) = dtype(value(&text, "descr").unwrap_or_default(), place)?;
    let left = length.map(|length| length.saturating_sub((8 + width + size) as u64));
    let header = Header { shape, kind, big_endian, fortran: fortran.starts_with("True") };
    header.read(reader, left, place, wanted)
}

/// What follows a key of the header.
fn value<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let quoted = [format!("'{key}'"), format!("\"{key}\"")];
    let rest = quoted.iter().find_map(|key| header.split_once(key.as_str()))?.1;
    Some(rest.trim_start().strip_prefix(':')?.trim_start())
}

fn shape(header: &str) -> Option<Vec<usize>> {
    let list = value(header, "shape")?.strip_prefix('(')?.split_once(')')?.0;
    let sizes = list.split(',').map(|size| size.trim().trim_end_matches('L')).filter(|size| !size.is_empty());
    sizes.map(|size| size.parse().ok()).collect()
}

/// What a `descr` such as `'<f4'` says.
fn dtype(descr: &str, place: &Place<'_>) -> Result<(Kind, bool)> {
    let refuse = |what: String, hint: &str| -> Result<(Kind, bool)> { Err::<_, Error>(place.refuse(what).hint(hint)) };
    let quote = descr.chars().next().filter(|c| "'\"".contains(*c));
    let Some(code) = quote.and_then(|quote| descr[1..].split_once(quote)).map(|(code, _)| code) else {
        return refuse(
            "the array has fields with names".into(),
            "save an array of numbers: numpy.lib.recfunctions.structured_to_unstructured makes one",
        );
    };
    let big_endian = code.starts_with('>');
    let kind = match code.trim_start_matches(['<', '>', '|', '=']) {
        "b1" => Kind::Bool,
        "i1" => Kind::Int(1),
        "i2" => Kind::Int(2),
        "i4" => Kind::Int(4),
        "i8" => Kind::Int(8),
        "u1" => Kind::UInt(1),
        "u2" => Kind::UInt(2),
        "u4" => Kind::UInt(4),
        "u8" => Kind::UInt(8),
        "f2" => Kind::Float(2),
        "f4" => Kind::Float(4),
        "f8" => Kind::Float(8),
        code if code.starts_with(['U', 'S']) => {
            let hint = "save the number of each class, such as `numpy.unique(y, return_inverse=True)[1]`";
            return refuse(format!("the array holds texts (dtype `{}`)", crate::wording::cut(code)), hint);
        }
        code if code.starts_with('O') => {
            return refuse(
                "the array holds Python objects".into(),
                "save an array of numbers: `x.astype(\"float32\")`",
            );
        }
        code => {
            let what = format!("the array has dtype `{}`, not numbers that are known", crate::wording::cut(code));
            return refuse(what, "save it as `x.astype(\"float32\")`");
        }
    };
    Ok((kind, big_endian))
}
