//! What a configuration refers to: secret files, environment variables, key files.
//!
//! All of it is read once, when the configuration is loaded, so that a running gateway never opens a
//! file because of a request, and a digest of the whole can tell whether anything changed.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use zeroize::Zeroizing;

/// The largest key or secret file read. A key set of a hundred RSA keys is a tenth of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Secrets that stand in tutorials and tools, and so are no secrets. The comparison ignores case.
const WELL_KNOWN: [&str; 12] = [
    "a-string-secret-at-least-256-bits-long",
    "a-valid-string-secret-that-is-at-least-512-bits-long-which-is-very-long",
    "changemechangemechangemechangeme",
    "change-me-change-me-change-me-change-me",
    "edd1c9f034335f136f87ad84b625c8f1",
    "my-32-character-ultra-secure-and-ultra-long-secret",
    "secretsecretsecretsecretsecretsecret",
    "super-secret-jwt-token-with-at-least-32-characters-long",
    "this-is-a-secret-key-change-it-in-production",
    "your-256-bit-secret-your-256-bit-secret",
    "0123456789abcdef0123456789abcdef",
    "00000000000000000000000000000000",
];

/// Reads what the text refers to, and remembers what was read.
pub(super) struct Files<'a> {
    base: &'a Path,
    environment: &'a dyn Fn(&str) -> Option<String>,
    digest: Context,
    named: Vec<PathBuf>,
}

/// What was read from a file.
pub(super) struct Contents {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    /// Every user of the machine may read it.
    pub(super) world_readable: bool,
    /// Every user of the machine may change it.
    pub(super) world_writable: bool,
}

impl<'a> Files<'a> {
    pub(super) fn new(text: &str, base: &'a Path, environment: &'a dyn Fn(&str) -> Option<String>) -> Self {
        let mut files = Self { base, environment, digest: Context::new(&SHA256), named: Vec::new() };
        files.remember(text.as_bytes());
        files
    }

    /// A path in the text, which is relative to the folder of the file.
    pub(super) fn path(&self, text: &str) -> PathBuf {
        self.base.join(text)
    }

    /// Reads a whole regular file.
    pub(super) fn read(&mut self, text: &str) -> Result<Contents, String> {
        let path = self.path(text);
        self.named.push(path.clone());
        let say = |error: std::io::Error| format!("cannot read `{}`: {error}", path.display());
        let metadata = std::fs::metadata(&path).map_err(say)?;
        // Opening a pipe waits for its other end, and a device may never end.
        if !metadata.is_file() {
            return Err(format!("`{}` is not a file", path.display()));
        }
        let mut bytes = Zeroizing::new(Vec::new());
        File::open(&path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(say)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(format!("`{}` is larger than 1 MiB", path.display()));
        }
        self.remember(&bytes);
        let mode = metadata.permissions().mode();
        Ok(Contents { bytes, world_readable: mode & 0o004 != 0, world_writable: mode & 0o002 != 0 })
    }

    /// Reads an environment variable.
    pub(super) fn variable(&mut self, name: &str) -> Option<Zeroizing<Vec<u8>>> {
        let value = (self.environment)(name).map(|value| Zeroizing::new(value.into_bytes()))?;
        self.remember(&value);
        Some(value)
    }

    /// SHA-256 over everything read, in hex, and the files that were, or should have been.
    pub(super) fn close(self) -> (String, Vec<PathBuf>) {
        let digest = self.digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        (digest, self.named)
    }

    fn remember(&mut self, part: &[u8]) {
        // The length before each part keeps two splits of the same bytes apart.
        self.digest.update(&(part.len() as u64).to_be_bytes());
        self.digest.update(part);
    }
}

/// The secret without the line end that editors and `echo` put behind it.
pub(super) fn without_line_end(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

/// Whether everybody knows this secret.
pub(super) fn is_well_known(secret: &[u8]) -> bool {
    WELL_KNOWN.iter().any(|known| secret.eq_ignore_ascii_case(known.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_end_is_not_part_of_a_secret() {
        for (file, secret) in [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a ", "a "), ("", ""), ("\n", "")] {
            assert_eq!(without_line_end(file.as_bytes()), secret.as_bytes(), "{file:?}");
        }
    }

    #[test]
    fn only_regular_files_of_a_sane_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("large"), vec![b'x'; 1 + (1 << 20)]).unwrap();
        std::fs::write(folder.path().join("good"), b"x").unwrap();
        let mut files = Files::new("", folder.path(), &|_| None);
        for (name, wanted) in [
            (".", "is not a file"),
            ("/dev/zero", "is not a file"),
            ("absent", "cannot read"),
            ("large", "larger than"),
        ] {
            let why = files.read(name).err().unwrap();
            assert!(why.contains(wanted), "{name}: {why}");
        }
        assert_eq!(files.read("good").unwrap().bytes.as_slice(), b"x");
    }

    #[test]
    fn the_digest_covers_everything_that_was_read() {
        let folder = tempfile::tempdir().unwrap();
        let digest = |text: &str, content: &str, value: &'static str| {
            std::fs::write(folder.path().join("f"), content).unwrap();
            let environment = move |_: &str| Some(value.to_owned());
            let mut files = Files::new(text, folder.path(), &environment);
            files.read("f").unwrap();
            files.variable("V").unwrap();
            files.close().0
        };
        let first = digest("a", "b", "c");
        assert_eq!(first.len(), 64);
        assert_eq!(first, digest("a", "b", "c"));
        for other in [digest("x", "b", "c"), digest("a", "x", "c"), digest("a", "b", "x"), digest("ab", "", "c")] {
            assert_ne!(first, other);
        }
    }
}
