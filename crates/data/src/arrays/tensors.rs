//! Safetensors files.

use std::io::{Read, Seek, SeekFrom};

use outboard_core::error::{IoContext, Result};
use safetensors::{Dtype, tensor::Metadata};

use super::{
    Array, Header, Place,
    elements::{Kind, Wanted},
    lacking, open,
};

/// Bytes of a header; the format itself bounds it to this.
const MOST_HEADER: u64 = 100_000_000;

/// Reads the tensor of this name.
pub(crate) fn read(place: &Place<'_>, name: &str, key: &'static str, wanted: Wanted) -> Result<Array> {
    let path = place.path;
    let (mut file, length) = open(path)?;
    let broken = || {
        Place::of_file(path, place.scratch)
            .refuse("it is not a whole safetensors file")
            .hint("save it with `safetensors.numpy.save_file({\"x\": x, \"y\": y}, ...)`")
    };
    let mut size = [0; 8];
    file.read_exact(&mut size).map_err(|_| broken())?;
    let header = u64::from_le_bytes(size);
    if header > MOST_HEADER || header > length.saturating_sub(8) {
        return Err(broken());
    }
    let mut bytes = Vec::new();
    file.by_ref().take(header).read_to_end(&mut bytes).doing("read", path)?;
    let metadata: Metadata = serde_json::from_slice(&bytes).map_err(|_| broken())?;
    let Some(tensor) = metadata.info(name) else {
        return Err(lacking(path, name, key, metadata.offset_keys()));
    };
    let kind = match tensor.dtype {
        Dtype::BOOL => Kind::Bool,
        Dtype::I8 => Kind::Int(1),
        Dtype::I16 => Kind::Int(2),
        Dtype::I32 => Kind::Int(4),
        Dtype::I64 => Kind::Int(8),
        Dtype::U8 => Kind::UInt(1),
        Dtype::U16 => Kind::UInt(2),
        Dtype::U32 => Kind::UInt(4),
        Dtype::U64 => Kind::UInt(8),
        Dtype::F16 => Kind::Float(2),
        Dtype::BF16 => Kind::BFloat,
        Dtype::F32 => Kind::Float(4),
        Dtype::F64 => Kind::Float(8),
        other => {
            return Err(place
                .refuse(format!("the tensor is {other}, not numbers that are known"))
                .hint("save it as F32, or as I64 for classes"));
        }
    };
    let (from, to) = tensor.data_offsets;
    file.seek(SeekFrom::Start(8 + header + from as u64)).doing("read", path)?;
    let there = length.saturating_sub(8 + header + from as u64).min(to.saturating_sub(from) as u64);
    let header = Header { shape: tensor.shape.clone(), kind, big_endian: false, fortran: false };
    header.read(&mut file.take(to.saturating_sub(from) as u64), Some(there), place, wanted)
}
