//! Where log lines end up.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::config::LogTarget;

/// An open [`LogTarget`] other than `Off`.
#[derive(Debug)]
pub(super) enum Sink {
    Stdout,
    File { file: File, path: PathBuf },
}

impl Sink {
    /// Opens `target`; `None` when there is nothing to write to.
    pub(super) fn open(target: &LogTarget) -> io::Result<Option<Self>> {
        Ok(match target {
            LogTarget::Off => None,
            LogTarget::Stdout => Some(Self::Stdout),
            LogTarget::File(path) => Some(Self::File { file: append_to(path)?, path: path.clone() }),
        })
    }

    /// Opens the file anew, after somebody has moved the old one away. Without effect on standard output.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if let Self::File { file, path } = self {
            *file = append_to(path)?;
        }
        Ok(())
    }

    /// Writes whole lines.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(lines)?;
                out.flush()
            }
            Self::File { file, .. } => file.write_all(lines),
        }
    }

    /// Writes whole lines and waits until the disk has them.
    pub(super) fn write_durably(&mut self, lines: &[u8]) -> io::Result<()> {
        self.write(lines)?;
        if let Self::File { file, .. } = self {
            file.sync_data()?;
        }
        Ok(())
    }
}

/// Log lines name people, so a new file is for its owner alone.
fn append_to(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;

    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}
