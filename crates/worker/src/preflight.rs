//! Whether this machine can run tasks, looked at before a task process starts, by the codes of `docs/random-device.md`.
//!
//! The program loads no library of C++, so none can clash with another; its task process has a pipe as standard input and
//! shares no memory. What is left are random numbers. Memory and disk fail by themselves, with a sentence.

use std::{fs, io::Read, path::Path};

use outboard_core::error::{Error, ErrorKind, Result};

/// Under this name the context of an error says which check failed.
const CHECK: &str = "check";

/// What a check found wrong.
struct Fault {
    code: &'static str,
    sentence: String,
    remedy: &'static str,
}

/// What a run should know; an error where it would fail.
///
/// # Errors
/// `WorkerUnhealthy`.
pub(crate) fn check() -> Result<Vec<String>> {
    judge(random_device(Path::new("/dev/urandom")), getrandom())
}

/// The program asks the system call, and the device only where there is none.
fn judge(device: Option<Fault>, call: Option<Fault>) -> Result<Vec<String>> {
    if let (Some(fault), Some(_)) = (&device, &call) {
        return Err(Error::new(ErrorKind::WorkerUnhealthy, &fault.sentence).at(CHECK, fault.code).hint(fault.remedy));
    }
    let warning = |Fault { code, sentence, remedy }| format!("{sentence} ({code}); try: {remedy}");
    Ok(device.into_iter().chain(call).map(warning).collect())
}

/// A character device that gives bytes.
fn random_device(path: &Path) -> Option<Fault> {
    let fault = |what: &str| {
        Some(Fault {
            code: "OB-RANDOM-DEVICE",
            sentence: format!("{} {what}", path.display()),
            remedy: "let the container have the host's device (character device 1:9): remove the volume or the step of the \
                     image that replaces it",
        })
    };
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => fault("is missing"),
        std::io::ErrorKind::PermissionDenied => fault("can't be read: permission denied"),
        _ => fault(&format!("can't be read: {error}")),
    };
    if !cfg!(unix) {
        return None;
    }
    match fs::metadata(path) {
        Ok(about) if about.is_dir() => return fault("is a directory, not a character device"),
        Ok(about) if about.is_file() => return fault("is a regular file, not a character device"),
        Ok(about) if !is_character_device(&about) => return fault("is something else than a character device"),
        Ok(_) => {}
        Err(error) => return unreadable(error),
    }
    let mut bytes = [0; 16];
    fs::File::open(path).and_then(|mut device| device.read_exact(&mut bytes)).err().and_then(unreadable)
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
fn getrandom() -> Option<Fault> {
    let mut bytes = [0; 16];
    let asked = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::NONBLOCK);
    asked.err().map(|error| Fault {
        code: "OB-GETRANDOM",
        sentence: format!("the system call getrandom fails: {error}"),
        remedy: "allow getrandom in the container's seccomp profile",
    })
}

#[cfg(not(target_os = "linux"))]
fn getrandom() -> Option<Fault> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(path: &Path) -> String {
        random_device(path).map(|fault| fault.sentence.replace(&path.display().to_string(), "PATH")).unwrap_or_default()
    }

    #[test]
    #[cfg(unix)]
    fn a_device_that_does_not_read_is_told_from_one_that_does() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(said(Path::new("/dev/urandom")), "");
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
        assert_eq!(judge(None, None).unwrap(), Vec::<String>::new());
        let fault = |code| Some(Fault { code, sentence: format!("{code} fails"), remedy: "mend it" });
        assert_eq!(judge(fault("OB-A"), None).unwrap(), ["OB-A fails (OB-A); try: mend it"]);
        assert_eq!(judge(None, fault("OB-B")).unwrap(), ["OB-B fails (OB-B); try: mend it"]);
        let error = judge(fault("OB-A"), fault("OB-B")).unwrap_err();
        assert_eq!(error.report(), "OB-A fails\n  check: OB-A\n  try: mend it");
        assert_eq!(error.kind(), ErrorKind::WorkerUnhealthy);
        assert!(cfg!(not(target_os = "linux")) || check().unwrap().is_empty());
    }
}
