//! Secrets: read, long enough, and not known to everybody.

use zeroize::Zeroizing;

use super::{Lower, Place};
use crate::config::files::{is_well_known, without_line_end};
use crate::config::raw;
use crate::secret::Secret;

/// The longest secret: beyond a hash's block nothing is gained, and nobody means a megabyte.
const SECRET_BYTES_MAX: usize = 4096;

impl Lower<'_, '_> {
    /// Reads a secret of at least `least` bytes.
    pub(super) fn secret(&mut self, raw: &raw::Secret, least: usize, place: &Place<'_>) -> Option<Secret> {
        let (bytes, at) = match (&raw.file, &raw.env) {
            (Some(file), None) => (self.secret_file(file, &place.key("file"))?, place.key("file")),
            (None, Some(name)) => {
                let at = place.key("env");
                let Some(value) = self.files.variable(name) else {
                    let message = format!("the environment has no variable `{}`", name.escape_debug());
                    self.error(&at, message, "not set, or not UTF-8");
                    return None;
                };
                (value, at)
            }
            _ if place.is_damaged() => return None,
            _ => {
                self.error(place, format!("`{}` must be one secret", place.path), "exactly one of `file`, `env`");
                return None;
            }
        };
        if bytes.len() < least {
            let label = format!("{} bytes, and at least {least} are needed", bytes.len());
            self.findings
                .error(at.span, format!("the secret of `{}` is too short", place.path), label)
                .help("`openssl rand -base64 48` makes a good one");
            return None;
        }
        if bytes.len() > SECRET_BYTES_MAX {
            let label = format!("more than {SECRET_BYTES_MAX} bytes");
            self.error(&at, format!("the secret of `{}` is too long", place.path), label);
            return None;
        }
        if is_well_known(&bytes) {
            self.findings
                .error(at.span, format!("the secret of `{}` is a well-known sample", place.path), "everybody has it")
                .help("`openssl rand -base64 48` makes a good one");
            return None;
        }
        Some(Secret::new(bytes.to_vec()))
    }

    /// Reads a file that holds a secret; reports one that others may change.
    pub(super) fn secret_file(&mut self, file: &str, place: &Place<'_>) -> Option<Zeroizing<Vec<u8>>> {
        let contents = match self.files.read(file) {
            Ok(contents) => contents,
            Err(why) => {
                self.error(place, why, "");
                return None;
            }
        };
        if contents.world_writable {
            self.error(place, "every user of this machine may change this secret", "`chmod 600` it");
        } else if contents.world_readable {
            let message = "every user of this machine may read this secret";
            self.findings.warning(place.span.clone(), message, "`chmod 600` it");
        }
        Some(Zeroizing::new(without_line_end(&contents.bytes).to_vec()))
    }
}
