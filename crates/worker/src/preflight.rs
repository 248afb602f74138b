//! Whether this machine can run tasks, looked at before a task process starts.
//!
//! The program loads no library of C++, so none can clash with another; its task process has a pipe as standard input and
//! shares no memory. What is left are random numbers, memory and the disk.

use std::path::Path;

use outboard_core::{
    error::{CHECK, Error, ErrorKind, Result},
    finding::Finding,
};
use outboard_machine::{
    checks::{disk, memory},
    devices::{getrandom, random_device},
};

/// What tasks should be told that keep their blobs in `folder`; an error where they would fail.
///
/// # Errors
/// `WorkerUnhealthy`.
pub(crate) fn check(folder: Option<&Path>) -> Result<Vec<String>> {
    let room = [memory()].into_iter().chain(folder.map(disk)).collect();
    judge(random_device(Path::new("/dev/urandom")), getrandom(), room)
}

/// The program asks the system call, and the device only where there is none. What is little memory or disk for most is
/// enough for a small model.
fn judge(device: Finding, call: Finding, room: Vec<Finding>) -> Result<Vec<String>> {
    if device.is_fail() && call.is_fail() {
        let error = Error::new(ErrorKind::WorkerUnhealthy, device.evidence).at(CHECK, device.code);
        return Err(error.hint(device.remedy.unwrap_or_default()));
    }
    let failed = [device, call].into_iter().chain(room).filter(Finding::is_fail);
    Ok(failed.map(|f| format!("{} ({}); try: {}", f.evidence, f.code, f.remedy.unwrap_or_default())).collect())
}

#[cfg(test)]
mod tests {
    use outboard_core::code;

    use super::*;

    #[test]
    fn only_where_both_fail_there_are_no_random_numbers() {
        let (good, bad) =
            (|code| Finding::pass(code, "here", "well"), |code| Finding::fail(code, "here", "it fails", "mend it"));
        let (device, call, memory, disk) = (code::RANDOM_DEVICE, code::GETRANDOM, code::MEMORY, code::DISK);
        let room = || vec![good(memory), good(disk)];
        assert_eq!(judge(good(device), good(call), room()).unwrap(), Vec::<String>::new());
        let told = judge(bad(device), good(call), vec![bad(memory), bad(disk)]).unwrap();
        let words = ["OB-RANDOM-DEVICE", "OB-MEMORY", "OB-DISK"].map(|code| format!("it fails ({code}); try: mend it"));
        assert_eq!(told, words);
        assert_eq!(judge(good(device), bad(call), room()).unwrap(), ["it fails (OB-GETRANDOM); try: mend it"]);
        let error = judge(bad(device), bad(call), room()).unwrap_err();
        assert_eq!(error.report(), "it fails\n  check: OB-RANDOM-DEVICE\n  try: mend it");
        assert_eq!((error.kind(), error.code()), (ErrorKind::WorkerUnhealthy, device));
    }
}
