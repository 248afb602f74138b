//! Named tensors as safetensors files.

use std::collections::{BTreeMap, HashMap};

use outboard_core::error::{Error, ErrorKind, Result};
use safetensors::{
    Dtype, SafeTensors,
    tensor::{Metadata, TensorInfo, TensorView},
};
use serde::{Serialize, de::DeserializeOwned};

/// The metadata key under which our facts lie in a safetensors file.
const METADATA_KEY: &str = "outboard";

/// Bytes of a file that are given on at a time.
const PIECE: usize = 1 << 20;

/// A tensor of 32-bit floats, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its elements.
    pub data: Vec<f32>,
}

/// Tensors by name, in the order of their names.
pub type Tensors = BTreeMap<String, Tensor>;

/// A tensor that is written: its name, what its elements are, its dimensions, its bytes.
pub(crate) type View<'a> = (String, Dtype, Vec<usize>, &'a [u8]);

/// Bytes of a safetensors file. The same tensors and facts give the same bytes.
pub(crate) fn encode<'a>(views: impl IntoIterator<Item = View<'a>>, facts: Option<&impl Serialize>) -> Result<Vec<u8>> {
    let views: Vec<_> = views.into_iter().collect();
    let mut file = Vec::with_capacity(views.iter().map(|(.., bytes)| bytes.len() + 128).sum());
    write(views, facts, &mut |piece| {
        file.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(file)
}

/// Gives the bytes of a safetensors file to `to`, piece by piece.
pub(crate) fn write<'a>(
    views: impl IntoIterator<Item = View<'a>>,
    facts: Option<&impl Serialize>,
    to: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let unexpected = |e: String| Error::new(ErrorKind::Unexpected, format!("cannot encode tensors: {e}"));
    let mut views: Vec<_> = views.into_iter().collect();
    // As the format's own library orders them.
    views.sort_by(|(a, left, ..), (b, right, ..)| right.cmp(left).then_with(|| a.cmp(b)));
    let mut end = 0;
    let mut infos = Vec::new();
    for (name, dtype, shape, bytes) in &views {
        TensorView::new(*dtype, shape.clone(), bytes).map_err(|e| unexpected(e.to_string()))?;
        let data_offsets = (end, end + bytes.len());
        end = data_offsets.1;
        infos.push((name.clone(), TensorInfo { dtype: *dtype, shape: shape.clone(), data_offsets }));
    }
    // One key only: the order of several would differ from run to run.
    let metadata = facts
        .map(|facts| serde_json::to_string(facts).map_err(|e| unexpected(e.to_string())))
        .transpose()?
        .map(|json| HashMap::from([(METADATA_KEY.to_string(), json)]));
    let metadata = Metadata::new(metadata, infos).map_err(|e| unexpected(e.to_string()))?;
    let mut header = serde_json::to_string(&metadata).map_err(|e| unexpected(e.to_string()))?;
    // Tensors are aligned to 8 bytes.
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    to(&(header.len() as u64).to_le_bytes())?;
    to(header.as_bytes())?;
    views.iter().flat_map(|(.., bytes)| bytes.chunks(PIECE)).try_for_each(to)
}

/// Bytes of a safetensors file with 32-bit float tensors.
pub(crate) fn encode_f32(tensors: &Tensors, facts: &impl Serialize) -> Result<Vec<u8>> {
    encode_tensors(tensors, Some(facts))
}

/// Bytes of a safetensors file with nothing but the tensors.
///
/// # Errors
/// `Unexpected` where a tensor's shape and elements don't go together.
pub fn encode_plain(tensors: &Tensors) -> Result<Vec<u8>> {
    encode_tensors(tensors, None::<&()>)
}

/// Bytes of a safetensors file whose tensors are 32-bit floats, but for counts of batches.
fn encode_tensors(tensors: &Tensors, facts: Option<&impl Serialize>) -> Result<Vec<u8>> {
    let counts: Vec<(&String, Vec<i64>)> = tensors
        .iter()
        .filter(|(name, _)| is_count(name))
        .map(|(name, tensor)| (name, tensor.data.iter().map(|&x| x as i64).collect()))
        .collect();
    let mut counts = counts.iter();
    let views = tensors.iter().map(|(name, tensor)| match is_count(name).then(|| counts.next()).flatten() {
        Some((_, count)) => (name.clone(), Dtype::I64, tensor.shape.clone(), bytemuck::cast_slice(count)),
        None => (name.clone(), Dtype::F32, tensor.shape.clone(), bytemuck::cast_slice(&tensor.data)),
    });
    encode(views, facts)
}

/// Whether the tensor of this name is a batch norm's count of batches, an integer in PyTorch.
fn is_count(name: &str) -> bool {
    name.ends_with(".num_batches_tracked")
}

/// A file that isn't what it should be.
pub(crate) fn corrupt(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::CorruptPayload, what)
}

/// Opens a safetensors file. Sizes are checked against the bytes that are there before anything is allocated.
pub(crate) fn open(bytes: &[u8]) -> Result<SafeTensors<'_>> {
    SafeTensors::deserialize(bytes).map_err(|e| corrupt(format!("not a whole safetensors file: {e}")))
}

/// Our facts in a safetensors file, if it has any.
pub(crate) fn facts<T: DeserializeOwned>(bytes: &[u8]) -> Result<Option<T>> {
    let (_, metadata) =
        SafeTensors::read_metadata(bytes).map_err(|e| corrupt(format!("not a whole safetensors file: {e}")))?;
    let Some(json) = metadata.metadata().as_ref().and_then(|m| m.get(METADATA_KEY)) else {
        return Ok(None);
    };
    // The version and kind decide first: an unknown one must not look like a damaged file.
    serde_json::from_str(json).map(Some).map_err(|e| corrupt(format!("its `{METADATA_KEY}` metadata is wrong: {e}")))
}

/// Elements of a tensor as 32-bit floats.
pub(crate) fn f32s(name: &str, view: &TensorView<'_>) -> Result<Tensor> {
    if is_count(name) && view.dtype() == Dtype::I64 {
        let counts: Vec<i64> = bytemuck::pod_collect_to_vec(view.data());
        return Ok(Tensor { shape: view.shape().to_vec(), data: counts.into_iter().map(|n| n as f32).collect() });
    }
    if view.dtype() != Dtype::F32 {
        return Err(corrupt(format!("tensor `{name}` is {}, but must be F32", view.dtype())));
    }
    Ok(Tensor { shape: view.shape().to_vec(), data: bytemuck::pod_collect_to_vec(view.data()) })
}

/// Every tensor of a safetensors file of 32-bit floats, such as a PyTorch state dict.
///
/// # Errors
/// `CorruptPayload` where the bytes are no such file.
pub fn decode(bytes: &[u8]) -> Result<Tensors> {
    open(bytes)?.iter().map(|(name, view)| Ok((name.to_string(), f32s(name, &view)?))).collect()
}

/// Refuses another version, naming both.
pub(crate) fn check_version(found: u32) -> Result<()> {
    if found == crate::PROTOCOL_VERSION {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        format!("the file is of protocol version {found}, but this program speaks version {}", crate::PROTOCOL_VERSION),
    )
    .hint("use the version of outboard that wrote it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_those_of_the_formats_own_library() {
        let (floats, counts) = ([0.5f32, 1.5, -2.5], [7i64]);
        let floats = bytemuck::cast_slice(&floats);
        let views = || -> Vec<View<'_>> {
            vec![
                ("b".into(), Dtype::F32, vec![3], floats),
                ("a".into(), Dtype::F32, vec![1, 3], floats),
                ("bytes".into(), Dtype::U8, vec![12], floats),
                ("n".into(), Dtype::I64, vec![], bytemuck::cast_slice(&counts)),
            ]
        };
        let theirs = |facts: Option<&str>| {
            let views = views()
                .into_iter()
                .map(|(name, dtype, shape, bytes)| (name, TensorView::new(dtype, shape, bytes).unwrap()));
            let facts = facts.map(|facts| HashMap::from([(METADATA_KEY.to_string(), format!("\"{facts}\""))]));
            safetensors::serialize(views, facts).unwrap()
        };
        assert_eq!(encode(views(), None::<&()>).unwrap(), theirs(None));
        for facts in ["", "x", "of some length"] {
            assert_eq!(encode(views(), Some(&facts)).unwrap(), theirs(Some(facts)), "{facts}");
        }
        assert!(encode([("x".to_string(), Dtype::F32, vec![2], floats)], None::<&()>).is_err());
    }
}
