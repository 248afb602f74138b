//! The libraries of C and C++ that programs here are linked with.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Folders of libraries, without those of an architecture.
const FOLDERS: [&str; 4] = ["usr/lib64", "lib64", "usr/lib", "lib"];

/// The file of a library: the one that this process has loaded, or else the system's. `stem` is `libc`, say.
fn file(root: &Path, stem: &str) -> Option<PathBuf> {
    let is_it = |name: &str| name.starts_with(&format!("{stem}.so.")) || name.starts_with(&format!("{stem}-2."));
    let maps = fs::read_to_string(root.join("proc/self/maps")).unwrap_or_default();
    let loaded = maps.lines().filter_map(|line| Some(&line[line.find('/')?..]));
    let mut loaded = loaded.filter(|path| path.rsplit('/').next().is_some_and(is_it));
    let of_arch = format!("{}-linux-gnu", std::env::consts::ARCH);
    let folders = FOLDERS.map(|folder| [root.join(folder).join(&of_arch), root.join(folder)]);
    let mut usual = folders.into_iter().flatten().flat_map(|folder| {
        ["6", "2"].map(|major| folder.join(format!("{stem}.so.{major}"))).into_iter().filter(|path| path.is_file())
    });
    loaded.next().map(|path| root.join(path.trim_start_matches('/'))).or_else(|| usual.next())
}

/// The version of glibc.
pub(crate) fn glibc(root: &Path) -> Option<String> {
    let bytes = fs::read(file(root, "libc")?).ok()?;
    // What the library prints where it is run as a program.
    let version = after(&bytes, b"release version ").next()?;
    let end = version.iter().position(|b| !(b.is_ascii_digit() || *b == b'.')).unwrap_or(version.len());
    Some(String::from_utf8_lossy(&version[..end]).trim_end_matches('.').into())
}

/// The newest `GLIBCXX` symbols of libstdc++, and its file.
pub(crate) fn libstdcxx(root: &Path) -> Option<(String, PathBuf)> {
    let path = file(root, "libstdc++")?;
    let bytes = fs::read(&path).ok()?;
    let newest = after(&bytes, b"GLIBCXX_3.4.").filter_map(|rest| {
        let end = rest.iter().position(|b| !b.is_ascii_digit()).unwrap_or(rest.len());
        std::str::from_utf8(&rest[..end]).ok()?.parse::<u32>().ok()
    });
    Some((format!("GLIBCXX_3.4.{}", newest.max()?), path))
}

/// What follows each place where `bytes` hold `words`.
fn after<'a>(bytes: &'a [u8], words: &'static [u8]) -> impl Iterator<Item = &'a [u8]> {
    let first = words[0];
    let starts = bytes.iter().enumerate().filter(move |(_, b)| **b == first);
    starts.filter_map(move |(at, _)| bytes[at..].strip_prefix(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaded_library_counts_or_else_the_systems() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        assert_eq!((glibc(root.path()), libstdcxx(root.path())), (None, None));
        write("lib64/libc.so.6", b"\x7fELF..GNU C Library (GNU libc) stable release version 2.36.\nCopyright");
        assert_eq!(glibc(root.path()).as_deref(), Some("2.36"));
        write("usr/lib/libstdc++.so.6", b"GLIBCXX_3.4\0GLIBCXX_3.4.9\0GLIBCXX_3.4.30\0GLIBCXX_3.4.21\0GLIBCXX_");
        let (newest, path) = libstdcxx(root.path()).unwrap();
        assert_eq!((newest.as_str(), path), ("GLIBCXX_3.4.30", root.path().join("usr/lib/libstdc++.so.6")));
        write(
            "proc/self/maps",
            b"7f00-7f01 r--p 0 08:01 1  /opt/env/lib/libstdc++.so.6.0.33\n7f02-7f03 rw-p 0 0 0 [heap]\n",
        );
        write("opt/env/lib/libstdc++.so.6.0.33", b"GLIBCXX_3.4.33");
        assert_eq!(libstdcxx(root.path()).unwrap().0, "GLIBCXX_3.4.33");
    }

    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn this_program_has_a_glibc() {
        let version = glibc(Path::new("/")).unwrap();
        assert!(version.starts_with("2.") && version[2..].parse::<u32>().is_ok(), "{version}");
    }
}
