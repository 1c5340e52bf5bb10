//! Issuers: whose tokens count, and for how long what is said about them must be remembered.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::{DAY, DECADE, Lower, MILLISECOND, Place, SECOND, human};
use crate::config::model::{Issuer, KeySource};
use crate::config::raw;
use crate::gate::Constraint;
use crate::keys::{Endpoint, EndpointError, Publication, Schedule};
use crate::secret::Secret;
use crate::token::{Algorithm, Family};

/// The largest tolerance between two clocks. A clock that is further off is broken, and every second
/// of it lengthens the life of every token.
pub(super) const SKEW_MAX: Duration = Duration::from_secs(300);

/// The longest that one fetch may take: others wait for it.
const FETCH_MAX: Duration = Duration::from_secs(60);

/// The name of the gateway itself among issuers.
pub(super) const SESSION: &str = "session";

/// How a token must be bound to its holder.
pub(super) fn constraint(raw: Option<raw::Constraint>) -> Option<Constraint> {
    match raw? {
        raw::Constraint::None => None,
        raw::Constraint::Dpop => Some(Constraint::Dpop),
        raw::Constraint::Mtls => Some(Constraint::Mtls),
        raw::Constraint::Any => Some(Constraint::Any),
    }
}

impl Lower<'_, '_> {
    /// All issuers in file order.
    pub(super) fn issuers(&mut self, raw: Option<&BTreeMap<String, raw::Issuer>>, place: &Place<'_>) -> Vec<Issuer> {
        let mut issuers: Vec<Issuer> = Vec::new();
        for (name, place) in place.entries() {
            let Some(raw) = raw.and_then(|all| all.get(name)) else { continue };
            self.name(name, "an issuer", &place.at_key());
            if name == SESSION {
                self.error(&place.at_key(), "`session` is the name of the gateway itself", "choose another name");
            }
            let issuer = self.issuer(name, raw, &place);
            if let Some(earlier) = issuers.iter().find(|earlier| earlier.url == issuer.url && !issuer.url.is_empty()) {
                let label = format!("`{}` has it already", earlier.name);
                self.error(&place.key("issuer"), format!("two issuers are `{}`", issuer.url), label);
            }
            issuers.push(issuer);
        }
        let names =
            |url: &str, own: &str| url == SESSION || issuers.iter().any(|other| other.name == url && url != own);
        for issuer in issuers.iter().filter(|issuer| names(&issuer.url, &issuer.name)) {
            let message = format!("`{}` is the name of another issuer", issuer.url);
            self.error(&place.key(&issuer.name).key("issuer"), message, "the API takes an issuer by name or `iss`");
        }
        issuers
    }

    fn issuer(&mut self, name: &str, raw: &raw::Issuer, place: &Place<'_>) -> Issuer {
        let url = raw.issuer.clone().unwrap_or_default();
        self.visible(&url, &place.key("issuer"));
        let algorithms = self.algorithms(raw.algorithms.as_deref().unwrap_or_default(), &place.key("algorithms"));
        let keys = raw.keys.as_ref().and_then(|keys| self.keys(keys, &algorithms, &place.key("keys")));
        let per_subject = raw.keys.as_ref().and_then(|keys| keys.per_subject.as_ref());
        let credentials = match (per_subject, &raw.credential) {
            (None, None) => None,
            (Some(raw), None) => self.per_subject(raw, &place.key("keys").key("per_subject")),
            (None, Some(raw)) => self.credential(raw, &place.key("credential")),
            (Some(_), Some(_)) => {
                let message = "the keys of subjects hang on their credentials already";
                self.error(&place.key("credential").at_key(), message, "leave out `credential`");
                None
            }
        };
        let at = place.key("clock_skew");
        let clock_skew = self.duration(raw.clock_skew.as_ref(), &at, Duration::ZERO..=SKEW_MAX);
        let at = place.key("max_lifetime");
        let max_lifetime = self.duration(raw.max_lifetime.as_ref(), &at, SECOND..=DECADE);
        if !max_lifetime.is_zero() && clock_skew >= max_lifetime {
            let label = format!("`clock_skew` is {}", human(clock_skew));
            self.error(&at, format!("`{}` must be longer than the clock skew", at.path), label);
        }
        let at = place.key("cutoff_margin");
        let cutoff_margin = self.duration(raw.cutoff_margin.as_ref(), &at, Duration::ZERO..=SKEW_MAX);
        let at = place.key("max_authentication_age");
        let max_authentication_age = self.duration_or_none(raw.max_authentication_age.as_ref(), &at, SECOND..=DECADE);
        // `exp` and `iat` always must be there, so they need not be asked for.
        let mut require: Vec<String> = Vec::new();
        for claim in raw.require.iter().flatten() {
            if !matches!(claim.as_str(), "exp" | "iat") && !require.contains(claim) {
                require.push(claim.clone());
            }
        }
        Issuer {
            name: name.to_owned(),
            url,
            audiences: raw.audiences.clone().unwrap_or_default(),
            algorithms,
            types: raw.types.clone().unwrap_or_default(),
            keys: keys.unwrap_or_else(|| KeySource::Secret(Secret::new(Vec::new()))),
            clock_skew,
            max_lifetime,
            require,
            cutoff_margin,
            max_authentication_age,
            sender: constraint(raw.sender_constrained),
            credentials,
            subject_prefix: String::new(),
        }
    }

    /// An `iss` or `aud` that no token can have is a mistake: control characters never get through.
    pub(super) fn visible(&mut self, text: &str, place: &Place<'_>) {
        if text.chars().any(char::is_control) || text.trim() != text {
            let label = "no control characters, and no space at either end";
            self.error(place, format!("`{}` has characters that cannot be meant", place.path), label);
        }
    }

    fn algorithms(&mut self, raw: &[raw::AlgorithmName], place: &Place<'_>) -> Vec<Algorithm> {
        let mut algorithms: Vec<Algorithm> = Vec::new();
        for (index, raw::AlgorithmName(name)) in raw.iter().enumerate() {
            let Ok(algorithm) = name.parse::<Algorithm>() else { continue };
            let at = place.item(index);
            if let Some(other) = algorithms.iter().find(|other| is_hmac(**other) != is_hmac(algorithm)) {
                self.findings
                    .error(at.span, format!("`{algorithm}` stands beside `{other}`"), "")
                    .help("whoever can check an HS* signature can make one: use two issuers, each with its own key");
            }
            if !algorithms.contains(&algorithm) {
                algorithms.push(algorithm);
            }
        }
        algorithms
    }

    fn keys(&mut self, raw: &raw::Keys, algorithms: &[Algorithm], place: &Place<'_>) -> Option<KeySource> {
        let hmac = algorithms.first().map(|algorithm| is_hmac(*algorithm));
        if let Some(source) = self.published(raw, hmac, place) {
            return source;
        }
        match (&raw.secret, &raw.public_key_file, &raw.jwks_file, &raw.per_subject) {
            (Some(secret), None, None, None) => {
                let at = place.key("secret");
                if hmac == Some(false) {
                    self.error(
                        &at.at_key(),
                        "a secret cannot verify public-key signatures",
                        "needs HS256, HS384 or HS512",
                    );
                }
                let least = algorithms.iter().map(|algorithm| hash_bytes(*algorithm)).max().unwrap_or(32);
                self.secret(secret, least, &at).map(KeySource::Secret)
            }
            (None, Some(file), None, None) => {
                let at = place.key("public_key_file");
                self.refuse_hmac(hmac, &at);
                let pem = self.text_file(file, &at)?;
                if pem.contains("PRIVATE KEY-----") {
                    self.error(&at, "the file holds a private key", "the gateway needs the public one only");
                } else if !pem.contains("-----BEGIN ") {
                    self.error(
                        &at,
                        "the file holds no PEM block",
                        "`-----BEGIN PUBLIC KEY-----` or a certificate is needed",
                    );
                }
                Some(KeySource::PublicKey { path: self.files.path(file), pem })
            }
            (None, None, Some(file), None) => {
                let at = place.key("jwks_file");
                self.refuse_hmac(hmac, &at);
                let json = self.text_file(file, &at)?;
                let value = serde_json::from_str::<serde_json::Value>(&json).unwrap_or_default();
                if value.get("keys").is_none_or(|keys| !keys.is_array()) {
                    self.error(&at, "the file is not a key set", "`{\"keys\": […]}` is needed (RFC 7517 §5)");
                }
                Some(KeySource::Jwks { path: self.files.path(file), json })
            }
            (None, None, None, Some(_)) => {
                if algorithms != [Algorithm::HS256] {
                    let at = place.key("per_subject").at_key();
                    self.error(&at, "the keys of subjects are for HS256", "needs `algorithms: [HS256]`");
                }
                Some(KeySource::PerSubject)
            }
            _ if place.is_damaged() => None,
            _ => {
                self.not_one_source(place);
                None
            }
        }
    }

    fn not_one_source(&mut self, place: &Place<'_>) {
        let label = "exactly one of `secret`, `public_key_file`, `jwks_file`, `jwks_url`, `discovery`, `per_subject`";
        self.error(&place.at_key(), format!("`{}` must be one source", place.path), label);
    }

    /// Keys that are fetched, if the file says so; within, none when it says so wrongly.
    fn published(&mut self, raw: &raw::Keys, hmac: Option<bool>, place: &Place<'_>) -> Option<Option<KeySource>> {
        let in_files = raw.secret.is_some()
            || raw.public_key_file.is_some()
            || raw.jwks_file.is_some()
            || raw.per_subject.is_some();
        let (key, text) = match (&raw.jwks_url, &raw.discovery) {
            (None, None) => {
                for (key, is_there) in
                    [("ca_file", raw.ca_file.is_some()), ("allow_http", raw.allow_http == Some(true))]
                {
                    if is_there {
                        let label = "for `jwks_url` and `discovery`";
                        let at = place.key(key).at_key();
                        self.error(&at, format!("`{}` has nothing to do here", at.path), label);
                    }
                }
                return None;
            }
            (Some(text), None) if !in_files => ("jwks_url", text),
            (None, Some(text)) if !in_files => ("discovery", text),
            _ => {
                self.not_one_source(place);
                return Some(None);
            }
        };
        let at = place.key(key);
        self.refuse_hmac(hmac, &at);
        let allow_http = raw.allow_http == Some(true);
        let endpoint = self.endpoint(text, allow_http, &at);
        let authority = raw.ca_file.as_ref().and_then(|file| self.trusted(file, &place.key("ca_file")));
        let schedule = self.schedule(raw, place);
        let publication = endpoint.map(match key {
            "jwks_url" => Publication::Jwks,
            _ => Publication::Discovery,
        });
        Some(publication.map(|publication| KeySource::Published { publication, authority, allow_http, schedule }))
    }

    /// A URL that the control plane fetches from: `https`, unless nobody can listen in or it is said that
    /// they may.
    pub(super) fn endpoint(&mut self, text: &str, allow_http: bool, place: &Place<'_>) -> Option<Endpoint> {
        match text.parse::<Endpoint>() {
            Err(why) => {
                if why == EndpointError::Credentials {
                    self.findings.hide(place.span.clone());
                }
                self.error(place, format!("`{}` is not a URL to fetch from", place.path), why.to_string());
                None
            }
            Ok(endpoint) if !endpoint.is_https() && !endpoint.is_loopback() && !allow_http => {
                self.findings
                    .error(place.span.clone(), format!("`{}` is not protected", place.path), "write `https://`")
                    .help("whoever is between could answer in its place; `allow_http: true` says that nobody is");
                None
            }
            Ok(endpoint) => Some(endpoint),
        }
    }

    fn schedule(&mut self, raw: &raw::Keys, place: &Place<'_>) -> Schedule {
        let mut span = |raw, key, bounds| self.duration(raw, &place.key(key), bounds);
        let refresh = span(raw.refresh.as_ref(), "refresh", SECOND..=DAY);
        let cooldown = span(raw.cooldown.as_ref(), "cooldown", SECOND..=DAY);
        let timeout = span(raw.timeout.as_ref(), "timeout", 100 * MILLISECOND..=FETCH_MAX);
        let max_stale = span(raw.max_stale.as_ref(), "max_stale", SECOND..=30 * DAY);
        for (key, is_wrong, label) in [
            ("cooldown", cooldown > refresh, "at most `refresh`: it would never be that often"),
            ("max_stale", max_stale < refresh, "at least `refresh`: the keys would lapse between two fetches"),
        ] {
            if is_wrong && !refresh.is_zero() && !max_stale.is_zero() {
                let at = place.key(key);
                self.error(&at, format!("`{}` does not fit `refresh`", at.path), label);
            }
        }
        Schedule { refresh, cooldown, timeout, max_stale }
    }

    fn refuse_hmac(&mut self, hmac: Option<bool>, place: &Place<'_>) {
        if hmac == Some(true) {
            self.error(&place.at_key(), "HS* algorithms need a secret", "use `secret`, or other algorithms");
        }
    }

    /// A file of text that is not secret.
    pub(super) fn text_file(&mut self, file: &str, place: &Place<'_>) -> Option<String> {
        let contents = match self.files.read(file) {
            Ok(contents) => contents,
            Err(why) => {
                self.error(place, why, "");
                return None;
            }
        };
        if contents.world_writable {
            self.error(place, "every user of this machine may change this key", "`chmod 644` it");
        }
        let text = String::from_utf8(contents.bytes.to_vec()).ok();
        if text.is_none() {
            let path: PathBuf = self.files.path(file);
            self.error(place, format!("`{}` is not text", path.display()), "UTF-8 is needed");
        }
        text
    }
}

fn is_hmac(algorithm: Algorithm) -> bool {
    algorithm.family() == Family::Hmac
}

/// RFC 7518 §3.2: a key must be at least as long as the hash.
fn hash_bytes(algorithm: Algorithm) -> usize {
    match algorithm {
        Algorithm::HS512 => 64,
        Algorithm::HS384 => 48,
        _ => 32,
    }
}
