//! Which entries of which folders decide what a path leads to.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// As many links as Linux follows.
const LINKS_MAX: usize = 40;

/// The links that `path` leads through, and the entry at its end, each with its folder. Where something is missing
/// on the way, that is the end.
pub(super) fn on_the_way(path: &Path) -> Vec<(PathBuf, OsString)> {
    let mut found = Vec::new();
    let Ok(path) = std::path::absolute(path) else { return found };
    let mut at = PathBuf::from("/");
    let mut left = parts(&path);
    let mut links = 0;
    while let Some(part) = left.pop() {
        let next = at.join(&part);
        match std::fs::symlink_metadata(&next) {
            _ if part == "/" => at = PathBuf::from("/"),
            _ if part == ".." => drop(at.pop()),
            Ok(metadata) if metadata.is_symlink() && links < LINKS_MAX => {
                links += 1;
                found.push((at.clone(), part));
                left.extend(std::fs::read_link(&next).map(|target| parts(&target)).unwrap_or_default());
            }
            Ok(metadata) if metadata.is_dir() => at = next,
            _ => {
                found.push((at, part));
                break;
            }
        }
    }
    found
}

/// The parts of a path, the last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let parts = path.components().filter(|part| !matches!(part, Component::CurDir));
    parts.rev().map(|part| part.as_os_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_and_the_end_are_found_and_what_is_missing_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let at = |name: &str| root.join(name);
        fs::create_dir_all(at("..2024/keys")).unwrap();
        fs::write(at("..2024/keys/a.pem"), "").unwrap();
        symlink("..2024", at("..data")).unwrap();
        symlink("..data/keys", at("keys")).unwrap();
        symlink(at("keys/a.pem"), at("absolute.pem")).unwrap();
        symlink("loop", at("loop")).unwrap();
        let found = |name: &str| -> Vec<String> {
            let found = on_the_way(&at(name));
            let shown = found.iter().map(|(folder, name)| folder.join(name));
            shown.map(|path| path.strip_prefix(&root).unwrap().display().to_string()).collect()
        };
        for (name, wanted) in [
            ("..2024/keys/a.pem", vec!["..2024/keys/a.pem"]),
            ("keys/a.pem", vec!["keys", "..data", "..2024/keys/a.pem"]),
            ("./keys/../keys/a.pem", vec!["keys", "..data", "..2024/keys/a.pem"]),
            ("absolute.pem", vec!["absolute.pem", "keys", "..data", "..2024/keys/a.pem"]),
            ("absent/a.pem", vec!["absent"]),
            ("keys/absent.pem", vec!["keys", "..data", "..2024/keys/absent.pem"]),
        ] {
            assert_eq!(found(name), wanted, "{name}");
        }
        assert!(found("loop").len() <= LINKS_MAX + 1, "{:?}", found("loop"));
    }
}
