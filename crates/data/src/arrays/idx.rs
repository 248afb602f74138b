//! IDX files, as MNIST has them, plain or compressed by gzip.

use std::io::{BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use outboard_core::error::{IoContext, Result};

use super::{
    Array, Header, Place,
    elements::{Kind, Wanted},
    open_file,
};

/// Reads the array of a file.
pub(crate) fn read(place: &Place<'_>, wanted: Wanted) -> Result<Array> {
    let path = place.path;
    let file = open_file(path)?;
    let length = file.metadata().doing("read", path)?.len();
    let mut file = BufReader::new(file);
    let compressed = file.fill_buf().doing("read", path)?.starts_with(&[0x1f, 0x8b]);
    match compressed {
        true => read_from(&mut MultiGzDecoder::new(file), None, place, wanted),
        false => read_from(&mut file, Some(length), place, wanted),
    }
}

fn read_from(reader: &mut dyn Read, length: Option<u64>, place: &Place<'_>, wanted: Wanted) -> Result<Array> {
    let no_header =
        || place.refuse("it is not a whole IDX file").hint("use a file such as train-images-idx3-ubyte or its .gz");
    let mut start = [0; 4];
    reader.read_exact(&mut start).map_err(|_| no_header())?;
    let kind = match start {
        [0, 0, 0x08, _] => Kind::UInt(1),
        [0, 0, 0x09, _] => Kind::Int(1),
        [0, 0, 0x0b, _] => Kind::Int(2),
        [0, 0, 0x0c, _] => Kind::Int(4),
        [0, 0, 0x0d, _] => Kind::Float(4),
        [0, 0, 0x0e, _] => Kind::Float(8),
        _ => return Err(no_header()),
    };
    let mut shape = Vec::new();
    for _ in 0..start[3] {
        let mut size = [0; 4];
        reader.read_exact(&mut size).map_err(|_| no_header())?;
        shape.push(u32::from_be_bytes(size) as usize);
    }
    let left = length.map(|length| length.saturating_sub(4 + 4 * u64::from(start[3])));
    Header { shape, kind, big_endian: true, fortran: false }.read(reader, left, place, wanted)
}
