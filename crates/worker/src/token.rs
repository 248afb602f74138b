//! The secret that clients share with a worker.

use std::{fmt, fs::File, io::Read, path::Path};

use outboard_core::error::{Error, ErrorKind, IoContext, Result};

/// Longest token file.
const MAX_BYTES: u64 = 4096;

/// The token, of which only the hash is kept.
#[derive(Clone, Copy)]
pub struct Token(blake3::Hash);

impl Token {
    /// This token.
    ///
    /// # Errors
    /// `InvalidConfig` where it is empty, or has characters that a request can't carry.
    pub fn new(token: &str) -> Result<Self> {
        let wrong = |why| Err(Error::new(ErrorKind::InvalidConfig, why).hint("openssl rand -hex 32 > FILE"));
        if token.is_empty() {
            return wrong("the token is empty");
        }
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return wrong("the token has spaces or characters beyond ASCII");
        }
        Ok(Self(blake3::hash(token.as_bytes())))
    }

    /// The token in a file that nobody else may read.
    ///
    /// # Errors
    /// `InvalidConfig` where others may read it, or as [`Token::new`]; `NotFound`.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).doing("read the token file", path)?;
        check_private(&file, path)?;
        let mut text = String::new();
        file.take(MAX_BYTES).read_to_string(&mut text).doing("read the token file", path)?;
        Self::new(text.trim()).map_err(|error| error.at("file", path.display()))
    }

    /// Whether `given` is the token, in a time that doesn't depend on it.
    #[must_use]
    pub fn matches(&self, given: &[u8]) -> bool {
        // `blake3::Hash` compares in constant time.
        self.0 == blake3::hash(given)
    }
}

#[cfg(unix)]
fn check_private(file: &File, path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = file.metadata().doing("read the token file", path)?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidConfig, "others may read the token file")
        .at("file", path.display())
        .at("mode", format!("{:03o}", mode & 0o777))
        .hint(format!("chmod 600 {}", path.display())))
}

#[cfg(not(unix))]
fn check_private(_: &File, _: &Path) -> Result<()> {
    Ok(())
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_token_file_is_private_and_not_empty() {
        use std::{fs, os::unix::fs::PermissionsExt};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let write = |text: &str, mode| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            Token::read(&path)
        };
        let error = write("secret\n", 0o644).unwrap_err();
        assert_eq!(error.to_string(), "others may read the token file");
        assert_eq!(error.advice().unwrap(), format!("chmod 600 {}", path.display()));
        assert_eq!(write("\n", 0o600).unwrap_err().to_string(), "the token is empty");
        assert_eq!(write("a secret", 0o600).unwrap_err().kind(), ErrorKind::InvalidConfig);
        let token = write("secret\n", 0o600).unwrap();
        assert!(token.matches(b"secret") && !token.matches(b"Secret") && !token.matches(b""));
        assert_eq!(format!("{token:?}"), "Token(..)");
        assert_eq!(Token::read(&folder.path().join("none")).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
