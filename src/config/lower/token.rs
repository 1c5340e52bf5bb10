//! Where tokens stand in a request, and what proves who sends it.

use std::time::Duration;

use http::HeaderName;

use super::issuer::SKEW_MAX;
use super::{Lower, Place, SECOND};
use crate::config::model::{Limits, Proofs, TokenConfig, TokenPlace};
use crate::config::preset::{folded, is_taken};
use crate::config::raw;
use crate::token::{Algorithm, Family};

/// The longest life of a proof of possession: it is made for one request, and remembered for so long.
const PROOF_AGE_MAX: Duration = Duration::from_secs(600);

impl Lower<'_, '_> {
    pub(super) fn token(&mut self, raw: Option<&raw::Token>, place: &Place<'_>, limits: &Limits) -> TokenConfig {
        let mut from: Vec<TokenPlace> = Vec::new();
        let mut realm = String::new();
        let (mut max_bytes, mut cache_bytes) = (0, 0);
        if let Some(raw) = raw {
            for (index, source) in raw.from.iter().flatten().enumerate() {
                let at = place.key("from").item(index);
                let Some(source) = self.token_place(source, &at) else { continue };
                if from.contains(&source) {
                    self.error(&at, format!("`{}` repeats an earlier place", at.path), "");
                }
                from.push(source);
            }
            let at = place.key("max_bytes");
            max_bytes = self.size(raw.max_bytes.as_ref(), &at, 256..=64 * 1024);
            if limits.header_bytes > 0 && max_bytes >= limits.header_bytes as u64 {
                self.error(&at, "no request head could hold such a token", "must be less than `limits.header_bytes`");
            }
            cache_bytes = self.size(raw.cache.as_ref(), &place.key("cache"), 0..=64 << 30);
            realm = raw.realm.clone().unwrap_or_default();
            // RFC 9110 §5.6.4: what can stand in a quoted string without escapes.
            if realm.len() > 128 || !realm.bytes().all(|byte| matches!(byte, b' '..=b'~') && !b"\"\\".contains(&byte)) {
                self.error(
                    &place.key("realm"),
                    "the realm cannot stand in a challenge",
                    "at most 128 printable ASCII characters, without `\"` and `\\`",
                );
            }
        }
        TokenConfig {
            from,
            max_bytes: usize::try_from(max_bytes).unwrap_or(usize::MAX),
            realm,
            cache_bytes,
            proofs: self.proofs(raw.and_then(|raw| raw.dpop.as_ref()), &place.key("dpop")),
        }
    }

    fn proofs(&mut self, raw: Option<&raw::Dpop>, place: &Place<'_>) -> Proofs {
        let mut algorithms: Vec<Algorithm> = Vec::new();
        for (index, raw::AlgorithmName(name)) in
            raw.and_then(|raw| raw.algorithms.as_ref()).into_iter().flatten().enumerate()
        {
            let Ok(algorithm) = name.parse::<Algorithm>() else { continue };
            if algorithm.family() == Family::Hmac {
                let at = place.key("algorithms").item(index);
                let label = "a proof carries the key that verifies it, so it cannot be a secret";
                self.error(&at, format!("`{algorithm}` proves nothing"), label);
            }
            if !algorithms.contains(&algorithm) {
                algorithms.push(algorithm);
            }
        }
        let max_age = raw.and_then(|raw| raw.proof_max_age.as_ref());
        let skew = raw.and_then(|raw| raw.clock_skew.as_ref());
        Proofs {
            spelled: algorithms.iter().map(|it| it.name()).collect::<Vec<_>>().join(" "),
            algorithms,
            max_age: self.duration(max_age, &place.key("proof_max_age"), SECOND..=PROOF_AGE_MAX),
            clock_skew: self.duration(skew, &place.key("clock_skew"), Duration::ZERO..=SKEW_MAX),
            max: usize::try_from(raw.and_then(|raw| raw.max_proofs).unwrap_or(0)).unwrap_or(usize::MAX),
        }
    }

    fn token_place(&mut self, raw: &raw::TokenPlace, place: &Place<'_>) -> Option<TokenPlace> {
        match (&raw.header, &raw.cookie) {
            (Some(header), None) => {
                let at = place.key("header");
                let Ok(name) = HeaderName::from_bytes(header.as_bytes()) else {
                    self.error(&at, format!("`{}` is not a header name", at.path), "letters, digits and `-`");
                    return None;
                };
                let own = matches!(folded(name.as_str()).as_str(), "authorization" | "x-session-token");
                if is_taken(name.as_str()) && !own {
                    self.error(&at, format!("`{name}` cannot hold a token"), "it means something else");
                }
                Some(TokenPlace::Header(name))
            }
            (None, Some(cookie)) => {
                self.cookie_name(cookie, &place.key("cookie"));
                Some(TokenPlace::Cookie(cookie.clone()))
            }
            _ if place.is_damaged() => None,
            _ => {
                self.error(place, format!("`{}` must be one place", place.path), "exactly one of `header`, `cookie`");
                None
            }
        }
    }

    /// RFC 6265 §4.1.1: a cookie name is a token.
    pub(super) fn cookie_name(&mut self, name: &str, place: &Place<'_>) {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.len() > 128 || !name.bytes().all(token) {
            self.error(place, format!("`{}` is not a cookie name", place.path), "letters, digits, `-` and `_`");
        }
    }
}
