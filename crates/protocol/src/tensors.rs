//! Named tensors as safetensors files.

use std::collections::{BTreeMap, HashMap};

use outboard_core::error::{Error, ErrorKind, Result};
use safetensors::{
    Dtype, SafeTensors,
    tensor::{TensorView, serialize},
};
use serde::{Serialize, de::DeserializeOwned};

/// The metadata key under which our facts lie in a safetensors file.
const METADATA_KEY: &str = "outboard";

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

/// Bytes of a safetensors file. The same tensors and facts give the same bytes.
pub(crate) fn encode<'a>(
    views: impl IntoIterator<Item = (String, Dtype, Vec<usize>, &'a [u8])>,
    facts: Option<&impl Serialize>,
) -> Result<Vec<u8>> {
    let unexpected = |e: String| Error::new(ErrorKind::Unexpected, format!("cannot encode tensors: {e}"));
    let views = views
        .into_iter()
        .map(|(name, dtype, shape, bytes)| {
            Ok((name, TensorView::new(dtype, shape, bytes).map_err(|e| unexpected(e.to_string()))?))
        })
        .collect::<Result<Vec<_>>>()?;
    // One key only: the order of several would differ from run to run.
    let metadata = facts
        .map(|facts| serde_json::to_string(facts).map_err(|e| unexpected(e.to_string())))
        .transpose()?
        .map(|json| HashMap::from([(METADATA_KEY.to_string(), json)]));
    serialize(views, metadata).map_err(|e| unexpected(e.to_string()))
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
