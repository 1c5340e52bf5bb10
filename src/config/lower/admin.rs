//! The control plane, and where lines are written.

use std::path::PathBuf;

use super::{Lower, Place};
use crate::config::model::{Admin, AdminAddress, AdminToken, Listener, LogTarget, Role};
use crate::config::raw;

/// The longest path of a Unix socket (`sun_path` with its final NUL is 108 bytes).
const UNIX_PATH_MAX: usize = 107;

impl Lower<'_, '_> {
    pub(super) fn admin(&mut self, raw: &raw::Admin, place: &Place<'_>, listeners: &[Listener]) -> Admin {
        let at = place.key("address");
        let address = self.admin_address(raw.address.as_deref(), &at);
        let raw_tokens = raw.tokens.as_deref().unwrap_or_default();
        let tokens = self.admin_tokens(raw_tokens, &place.key("tokens"));
        if let Some(AdminAddress::Tcp(address)) = &address {
            if raw_tokens.is_empty() && !place.is_damaged() && !place.key("tokens").is_damaged() {
                let label = if address.ip().is_loopback() {
                    "every user and every page in a browser on this machine could use it"
                } else {
                    "whoever can reach it could use it"
                };
                self.findings.error(at.span.clone(), "the control plane has no tokens", label).help(
                    "add `tokens: [{ name: ops, role: operator, secret: { file: PATH } }]`, or listen on `unix:PATH`",
                );
            }
            if listeners.iter().any(|listener| listener.address == *address && address.port() != 0) {
                self.error(&at, "the control plane has the address of a traffic listener", "it needs one of its own");
            }
        }
        Admin {
            address: address.unwrap_or_else(|| AdminAddress::Unix(PathBuf::new())),
            tokens,
            audit_log: self.log_target(raw.audit_log.as_ref()),
        }
    }

    fn admin_address(&mut self, raw: Option<&str>, place: &Place<'_>) -> Option<AdminAddress> {
        let text = raw?;
        let Some(path) = text.strip_prefix("unix:") else {
            return self.address(text, place).map(AdminAddress::Tcp);
        };
        let path = self.files.path(path);
        if text == "unix:" || path.as_os_str().len() > UNIX_PATH_MAX {
            let label = format!("a path of 1 to {UNIX_PATH_MAX} bytes");
            self.error(place, format!("`{}` is not the address of a Unix socket", place.path), label);
        }
        Some(AdminAddress::Unix(path))
    }

    fn admin_tokens(&mut self, raw: &[raw::AdminToken], place: &Place<'_>) -> Vec<AdminToken> {
        let mut tokens: Vec<AdminToken> = Vec::new();
        for (index, token) in raw.iter().enumerate() {
            let place = place.item(index);
            let name = token.name.as_deref().unwrap_or_default();
            if !name.is_empty() {
                self.name(name, "an admin token", &place.key("name"));
                if tokens.iter().any(|earlier| earlier.name == name) {
                    self.error(
                        &place.key("name"),
                        format!("two admin tokens are named `{name}`"),
                        "names stand in audit lines",
                    );
                }
            }
            let Some(secret) = token.secret.as_ref().and_then(|secret| self.secret(secret, 32, &place.key("secret")))
            else {
                continue;
            };
            if let Some(earlier) = tokens.iter().find(|earlier| earlier.secret.matches(secret.expose())) {
                let label = format!("the same as the one of `{}`", earlier.name);
                self.error(&place.key("secret"), "two admin tokens have one secret", label);
            }
            let role = match token.role {
                Some(raw::Role::Operator) => Role::Operator,
                Some(raw::Role::Viewer) | None => Role::Viewer,
            };
            tokens.push(AdminToken { name: name.to_owned(), role, secret });
        }
        tokens
    }

    pub(super) fn log_target(&mut self, raw: Option<&raw::Either<raw::LogWord, raw::LogFile>>) -> LogTarget {
        match raw {
            Some(raw::Either::Long(raw::LogFile { file: Some(file) })) => LogTarget::File(self.files.path(file)),
            Some(raw::Either::Short(raw::LogWord::Off)) => LogTarget::Off,
            Some(raw::Either::Short(raw::LogWord::Stdout) | raw::Either::Long(_)) | None => LogTarget::Stdout,
        }
    }
}
