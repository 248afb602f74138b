//! Where random numbers come from.

use std::{fs, io::Read, path::Path};

use outboard_core::{code, finding::Finding};

const OF: &str = "this machine";

/// Whether `path`, `/dev/urandom` usually, is a character device that gives bytes.
#[must_use]
pub fn random_device(path: &Path) -> Finding {
    match fault(path) {
        None => Finding::pass(code::RANDOM_DEVICE, OF, format!("{} gives bytes", path.display())),
        Some(what) => {
            let remedy = "let the container have the host's device (character device 1:9): remove the volume or the step of the \
                          image that replaces it";
            Finding::fail(code::RANDOM_DEVICE, OF, format!("{} {what}", path.display()), remedy)
        }
    }
}

/// What is wrong with a random device, to be read after its name.
pub(crate) fn fault(path: &Path) -> Option<String> {
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => "is missing".to_string(),
        std::io::ErrorKind::PermissionDenied => "can't be read: permission denied".into(),
        _ => format!("can't be read: {error}"),
    };
    if !cfg!(unix) {
        return None;
    }
    match fs::metadata(path) {
        Ok(about) if about.is_dir() => return Some("is a directory, not a character device".into()),
        Ok(about) if about.is_file() => return Some("is a regular file, not a character device".into()),
        Ok(about) if !is_character_device(&about) => return Some("is something else than a character device".into()),
        Ok(_) => {}
        Err(error) => return Some(unreadable(error)),
    }
    let mut bytes = [0; 16];
    fs::File::open(path).and_then(|mut device| device.read_exact(&mut bytes)).err().map(unreadable)
}

#[cfg(unix)]
fn is_character_device(about: &fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_char_device(&about.file_type())
}

#[cfg(not(unix))]
fn is_character_device(_: &fs::Metadata) -> bool {
    true
}

/// Whether the system call works that newer programs use in place of the device.
#[cfg(target_os = "linux")]
#[must_use]
pub fn getrandom() -> Finding {
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

/// Whether the system call works that newer programs use in place of the device.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn getrandom() -> Finding {
    Finding::pass(code::GETRANDOM, OF, "there is no system call getrandom here")
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
        assert!(cfg!(not(target_os = "linux")) || !getrandom().is_fail());
    }
}
