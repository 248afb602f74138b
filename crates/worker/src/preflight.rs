//! Whether this machine can run tasks, looked at before a task process starts.
//!
//! The program loads no library of C++, so none can clash with another; its task process has a pipe as standard input and
//! shares no memory. What is left are random numbers and memory; a full disk fails with a sentence of its own.

use std::{fs, io::Read, path::Path};

use outboard_core::{
    code,
    error::{CHECK, Error, ErrorKind, Result},
    finding::Finding,
};

use crate::machine;

/// What the supervisor's tasks should be told; an error where they would fail.
///
/// # Errors
/// `WorkerUnhealthy`.
pub(crate) fn check() -> Result<Vec<String>> {
    judge(random_device(Path::new("/dev/urandom")), getrandom(), machine::memory())
}

/// The program asks the system call, and the device only where there is none. What is little memory for most is enough
/// for a small model.
fn judge(device: Finding, call: Finding, memory: Finding) -> Result<Vec<String>> {
    if device.is_fail() && call.is_fail() {
        let error = Error::new(ErrorKind::WorkerUnhealthy, device.evidence).at(CHECK, device.code);
        return Err(error.hint(device.remedy.unwrap_or_default()));
    }
    let failed = [device, call, memory].into_iter().filter(Finding::is_fail);
    Ok(failed.map(|f| format!("{} ({}); try: {}", f.evidence, f.code, f.remedy.unwrap_or_default())).collect())
}

/// A character device that gives bytes.
fn random_device(path: &Path) -> Finding {
    const OF: &str = "this machine";
    let pass = || Finding::pass(code::RANDOM_DEVICE, OF, format!("{} gives bytes", path.display()));
    let fault = |what: &str| {
        let remedy = "let the container have the host's device (character device 1:9): remove the volume or the step of the \
                      image that replaces it";
        Finding::fail(code::RANDOM_DEVICE, OF, format!("{} {what}", path.display()), remedy)
    };
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => fault("is missing"),
        std::io::ErrorKind::PermissionDenied => fault("can't be read: permission denied"),
        _ => fault(&format!("can't be read: {error}")),
    };
    if !cfg!(unix) {
        return pass();
    }
    match fs::metadata(path) {
        Ok(about) if about.is_dir() => return fault("is a directory, not a character device"),
        Ok(about) if about.is_file() => return fault("is a regular file, not a character device"),
        Ok(about) if !is_character_device(&about) => return fault("is something else than a character device"),
        Ok(_) => {}
        Err(error) => return unreadable(error),
    }
    let mut bytes = [0; 16];
    fs::File::open(path).and_then(|mut device| device.read_exact(&mut bytes)).map_or_else(unreadable, |()| pass())
}

#[cfg(unix)]
fn is_character_device(about: &fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_char_device(&about.file_type())
}

#[cfg(not(unix))]
fn is_character_device(_: &fs::Metadata) -> bool {
    true
}

/// The system call that newer programs use in place of the device.
#[cfg(target_os = "linux")]
fn getrandom() -> Finding {
    const OF: &str = "this machine";
    let mut bytes = [0; 16];
    match rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::NONBLOCK) {
        Ok(_) => Finding::pass(code::GETRANDOM, OF, "the system call getrandom gives bytes"),
        Err(error) => Finding::fail(
            code::GETRANDOM,
            OF,
            format!("the system call getrandom fails: {error}"),
            "allow getrandom in the container's seccomp profile",
        ),
    }
}

#[cfg(not(target_os = "linux"))]
fn getrandom() -> Finding {
    Finding::pass(code::GETRANDOM, "this machine", "there is no system call getrandom here")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(path: &Path) -> String {
        let found = random_device(path);
        assert_eq!(found.is_fail(), found.remedy.is_some());
        found.evidence.replace(&path.display().to_string(), "PATH")
    }

    #[test]
    #[cfg(unix)]
    fn a_device_that_does_not_read_is_told_from_one_that_does() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(said(Path::new("/dev/urandom")), "PATH gives bytes");
        assert_eq!(said(&file), "PATH is a regular file, not a character device");
        assert_eq!(said(folder.path()), "PATH is a directory, not a character device");
        assert_eq!(said(&folder.path().join("nothing")), "PATH is missing");
        // It gives no bytes.
        assert_eq!(said(Path::new("/dev/null")), "PATH can't be read: failed to fill whole buffer");
        let _listener = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
        assert_eq!(said(&folder.path().join("socket")), "PATH is something else than a character device");
    }

    #[test]
    fn only_where_both_fail_there_are_no_random_numbers() {
        let (good, bad) =
            (|code| Finding::pass(code, "here", "well"), |code| Finding::fail(code, "here", "it fails", "mend it"));
        let (device, call, memory) = (code::RANDOM_DEVICE, code::GETRANDOM, code::MEMORY);
        assert_eq!(judge(good(device), good(call), good(memory)).unwrap(), Vec::<String>::new());
        let told = judge(bad(device), good(call), bad(memory)).unwrap();
        assert_eq!(told, ["it fails (OB-RANDOM-DEVICE); try: mend it", "it fails (OB-MEMORY); try: mend it"]);
        assert_eq!(judge(good(device), bad(call), good(memory)).unwrap(), ["it fails (OB-GETRANDOM); try: mend it"]);
        let error = judge(bad(device), bad(call), good(memory)).unwrap_err();
        assert_eq!(error.report(), "it fails\n  check: OB-RANDOM-DEVICE\n  try: mend it");
        assert_eq!((error.kind(), error.code()), (ErrorKind::WorkerUnhealthy, device));
        assert!(cfg!(not(target_os = "linux")) || !getrandom().is_fail());
    }
}
