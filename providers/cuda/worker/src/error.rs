//! Errors of libtorch as ours.

use outboard_core::error::{Error, ErrorKind};
use tch::TchError;

/// What libtorch answers.
pub(crate) type Torch<T> = std::result::Result<T, TchError>;

/// An error of libtorch that no task should meet, or a lack of memory.
pub(crate) fn failed(error: TchError) -> Error {
    let words = first_line(&error);
    if is_out_of_memory(&error) {
        return Error::new(ErrorKind::OutOfMemory, "the device is out of memory")
            .at("libtorch", words)
            .hint("use a smaller model, or a device with more memory");
    }
    Error::new(ErrorKind::WorkerUnhealthy, format!("libtorch failed: {words}"))
        .hint("`outboard doctor --provider cuda` looks at driver and libtorch")
}

/// Whether there was no memory, on the GPU or beside it.
pub(crate) fn is_out_of_memory(error: &TchError) -> bool {
    let text = error.to_string();
    ["out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED"]
        .iter()
        .any(|words| text.contains(words))
}

/// Without the stack of C++ functions that follows.
pub(crate) fn first_line(error: &TchError) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.trim_start_matches("Internal torch error: ").to_string()
}
