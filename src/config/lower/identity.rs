//! Which claims go upstream in which headers.

use http::HeaderName;

use super::{Lower, Place};
use crate::config::model::{Identity, TokenConfig, TokenPlace};
use crate::config::preset::{account, folded, headers, is_taken};
use crate::config::raw;

impl Lower<'_, '_> {
    pub(super) fn identity(&mut self, raw: Option<&raw::Identity>, place: &Place<'_>, token: &TokenConfig) -> Identity {
        let Some(raw) = raw else { return Identity::default() };
        let mut identity =
            Identity { headers: raw.preset.map(headers).unwrap_or_default(), account: raw.preset.and_then(account) };
        let mut own: Vec<HeaderName> = Vec::new();
        for (name, place) in place.key("headers").entries() {
            let Some(claim) = raw.headers.as_ref().and_then(|all| all.get(name)) else { continue };
            if claim.is_empty() {
                self.error(&place, format!("`{}` shows no claim", place.path), "the name of a claim is needed");
            }
            let Some(header) = self.identity_header(name, &place.at_key(), token) else { continue };
            let same = |other: &HeaderName| folded(other.as_str()) == folded(header.as_str());
            if own.iter().any(same) {
                let label = "upstreams may not tell the two apart";
                self.error(&place.at_key(), format!("`{name}` is set twice"), label);
                continue;
            }
            own.push(header.clone());
            // What is asked for by name stands before what comes with the preset.
            identity.account = identity.account.filter(|other| !same(other));
            match identity.headers.iter_mut().find(|(other, _)| same(other)) {
                Some(replaced) => *replaced = (header, claim.clone()),
                None => identity.headers.push((header, claim.clone())),
            }
        }
        if let Some(name) = &raw.account {
            let place = place.key("account");
            identity.account = if name == "none" { None } else { self.identity_header(name, &place, token) };
            if let Some(account) = &identity.account
                && identity.headers.iter().any(|(other, _)| folded(other.as_str()) == folded(account.as_str()))
            {
                let label = "it shows a claim already; upstreams may not tell the two apart";
                self.error(&place, format!("`{name}` is set twice"), label);
            }
        }
        identity
    }

    /// A header that may hold an identity.
    fn identity_header(&mut self, name: &str, place: &Place<'_>, token: &TokenConfig) -> Option<HeaderName> {
        let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else {
            self.error(place, format!("`{}` is not a header name", name.escape_debug()), "letters, digits and `-`");
            return None;
        };
        let same = |other: &HeaderName| folded(other.as_str()) == folded(header.as_str());
        if is_taken(header.as_str()) {
            self.error(place, format!("`{name}` cannot hold an identity"), "it means something else");
        } else if token.from.iter().any(|from| matches!(from, TokenPlace::Header(other) if same(other))) {
            self.error(place, format!("`{name}` cannot hold an identity"), "tokens are looked for in it");
        }
        Some(header)
    }
}
