//! No file of the repository names a folder of somebody's machine or the host of a package registry: such text works in
//! one place only.

use std::{fs, io::ErrorKind};

use anyhow::Result;

use super::outcome::Outcome;
use crate::{command, workspace::Workspace};

/// What may stand nowhere. Each is written in two pieces, or this file would not pass.
const FORBIDDEN: [&str; 9] = [
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/wo", "rk/"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("download.pytorch", ".org"),
    concat!("index.crates", ".io"),
    concat!("static.crates", ".io"),
    concat!("registry.npmjs", ".org"),
];

/// Checks what Git tracks, and what it would if asked to.
pub(super) fn check(workspace: &Workspace) -> Result<Outcome> {
    let mut list = workspace.command("git");
    let list = command::stdout(list.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]))?;
    let mut problems = Vec::new();
    for file in list.split_terminator('\0') {
        match fs::read(workspace.root.join(file)) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                problems.extend(find(&text).map(|(line, text)| format!("{file}:{line}: must not name {text}")));
            }
            // Deleted, but the index still has it; or a link to a folder.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) => {}
            Err(error) => return Err(error.into()),
        }
    }
    println!("{} files", list.split_terminator('\0').count());
    Ok(Outcome::problems(&problems))
}

/// Lines, from 1, with the forbidden texts in them.
fn find(text: &str) -> impl Iterator<Item = (usize, &'static str)> {
    text.lines().zip(1..).flat_map(|(line, number)| {
        FORBIDDEN.into_iter().filter(move |text| line.contains(text)).map(move |text| (number, text))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_lines() {
        let text = format!("see {}me\nfine\n{} and {}\n", FORBIDDEN[1], FORBIDDEN[0], FORBIDDEN[3]);
        let found: Vec<_> = find(&text).collect();
        assert_eq!(found, [(1, FORBIDDEN[1]), (3, FORBIDDEN[0]), (3, FORBIDDEN[3])]);
    }

    #[test]
    fn relative_paths_and_variables_pass() {
        assert_eq!(find("target/debug, $HOME, https://example.com").count(), 0);
    }
}
