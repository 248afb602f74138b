//! Whether a file may be loaded: only what was configured, and nobody else can change.

use std::{
    fs,
    path::{Path, PathBuf},
};

use outboard_core::error::{Error, ErrorKind, IoContext, Result};

use super::PluginConfig;

/// The file of a plugin, checked.
pub(super) fn check(config: &PluginConfig, folder: &Path) -> Result<PathBuf> {
    let path = folder.join(&config.path);
    let path = path.canonicalize().doing("find the plugin", &path)?;
    let about = fs::metadata(&path).doing("read the plugin", &path)?;
    if !about.is_file() {
        return Err(refused(format!("the plugin {} is not a file", path.display())).hint("name the library itself"));
    }
    for place in path.ancestors() {
        check_owner(place)?;
    }
    if let Some(right) = &config.blake3 {
        let bytes = fs::read(&path).doing("read the plugin", &path)?;
        let digest = blake3::hash(&bytes).to_hex();
        if !right.eq_ignore_ascii_case(&digest) {
            let message = format!("the plugin {} has the BLAKE3 digest {digest}, not {right}", path.display());
            return Err(refused(message).hint(
                "if you changed it yourself, write its new digest to `blake3`; else get it anew from its author",
            ));
        }
    }
    Ok(path)
}

/// A folder with the sticky bit lets nobody replace the files of others.
#[cfg(unix)]
fn check_owner(place: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;

    const STICKY: u32 = 0o1000;
    const OTHERS_WRITE: u32 = 0o022;
    let about = fs::metadata(place).doing("read the permissions of", place)?;
    let is_folder = about.is_dir();
    if about.mode() & OTHERS_WRITE != 0 && !(is_folder && about.mode() & STICKY != 0) {
        let message = format!("others may write {}, so that the plugin could be anything", place.display());
        return Err(refused(message).hint(format!("run `chmod go-w {}`", place.display())));
    }
    let (owner, me) = (about.uid(), rustix::process::getuid().as_raw());
    if owner != 0 && owner != me {
        let message = format!("{} belongs to another user, who could change the plugin", place.display());
        return Err(refused(message).hint("copy the plugin to a folder of your own"));
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_owner(_: &Path) -> Result<()> {
    Ok(())
}

fn refused(message: String) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}
