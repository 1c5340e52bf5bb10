//! Credentials of subjects: where they come from, and how tokens hang on them.

use std::time::Duration;

use super::{DAY, Lower, MILLISECOND, Place, SECOND};
use crate::config::raw;
use crate::keys::Lifetimes;
use crate::keys::fetch::Trust;
use crate::keys::subject::{Binding, Derive, HttpSource, PostgresSource, PostgresTls, Source, Terms};
use crate::secret::Secret;

/// The longest wait for a look-up: a request waits with it.
const TIMEOUT_MAX: Duration = Duration::from_secs(8);

/// The shortest URL of a database that says anything.
const URL_BYTES_MIN: usize = 13;

/// Claims that mean something else already.
const TAKEN: [&str; 12] =
    ["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "sid", "auth_time", "orig", "orig_iat", "keys"];

/// What `keys.per_subject` and `credential` have in common.
struct Common<'r> {
    base_secret: Option<&'r raw::Secret>,
    postgres: Option<&'r raw::Postgres>,
    http: Option<&'r raw::CredentialService>,
    pushed: bool,
    ttl: Option<&'r raw::Duration>,
    negative_ttl: Option<&'r raw::Duration>,
    max_entries: Option<u64>,
}

impl Lower<'_, '_> {
    /// `keys.per_subject`.
    pub(super) fn per_subject(&mut self, raw: &raw::PerSubject, place: &Place<'_>) -> Option<Terms> {
        let how = match raw.derive {
            Some(raw::DeriveWord::Concat) => Derive::Concat,
            Some(raw::DeriveWord::Hkdf) | None => Derive::Hkdf,
        };
        let common = Common {
            base_secret: raw.base_secret.as_ref(),
            postgres: raw.postgres.as_ref(),
            http: raw.http.as_ref(),
            pushed: raw.pushed == Some(true),
            ttl: raw.ttl.as_ref(),
            negative_ttl: raw.negative_ttl.as_ref(),
            max_entries: raw.max_entries,
        };
        self.terms(&common, Binding::Key(how), place)
    }

    /// `credential`.
    pub(super) fn credential(&mut self, raw: &raw::Credential, place: &Place<'_>) -> Option<Terms> {
        let claim = raw.claim.clone().unwrap_or_default();
        let at = place.key("claim");
        self.visible(&claim, &at);
        if TAKEN.contains(&claim.as_str()) {
            self.error(&at, format!("`{claim}` means something else in a token"), "`cfp` is the usual name");
        }
        let common = Common {
            base_secret: raw.base_secret.as_ref(),
            postgres: raw.postgres.as_ref(),
            http: raw.http.as_ref(),
            pushed: raw.pushed == Some(true),
            ttl: raw.ttl.as_ref(),
            negative_ttl: raw.negative_ttl.as_ref(),
            max_entries: raw.max_entries,
        };
        self.terms(&common, Binding::Claim(claim), place)
    }

    fn terms(&mut self, common: &Common<'_>, binding: Binding, place: &Place<'_>) -> Option<Terms> {
        let base_secret = common.base_secret.and_then(|secret| self.secret(secret, 32, &place.key("base_secret")));
        let lifetimes = Lifetimes {
            known: self.duration(common.ttl, &place.key("ttl"), SECOND..=DAY),
            unknown: self.duration(common.negative_ttl, &place.key("negative_ttl"), SECOND..=DAY),
        };
        let source = match (common.postgres, common.http, common.pushed) {
            (Some(postgres), None, false) => self.postgres(postgres, &place.key("postgres")).map(Source::Postgres),
            (None, Some(http), false) => self.service(http, &place.key("http")).map(Source::Http),
            (None, None, true) => Some(Source::Pushed),
            _ if place.is_damaged() => None,
            _ => {
                let label = "exactly one of `postgres`, `http`, `pushed: true`";
                self.error(&place.at_key(), format!("`{}` must have one source", place.path), label);
                None
            }
        };
        let max_entries = usize::try_from(common.max_entries.unwrap_or_default()).unwrap_or(usize::MAX);
        Some(Terms { base_secret: base_secret?, binding, source: source?, lifetimes, max_entries })
    }

    fn postgres(&mut self, raw: &raw::Postgres, place: &Place<'_>) -> Option<PostgresSource> {
        let url = raw.url.as_ref().and_then(|url| self.database_url(url, &place.key("url")));
        let query = raw.query.clone().unwrap_or_default();
        self.query(&query, &place.key("query"));
        let off = matches!(raw.tls, Some(raw::TlsWord::Off));
        let at = place.key("ca_file");
        let tls = match &raw.ca_file {
            Some(_) if off => {
                self.error(&at.at_key(), "`ca_file` is for TLS, and `tls` is off", "leave out one of the two");
                PostgresTls::Off
            }
            None if off => PostgresTls::Off,
            None => PostgresTls::Verified { authorities: None },
            Some(file) => PostgresTls::Verified { authorities: self.authorities(file, &at) },
        };
        if let Some(url) = url.as_ref().filter(|_| off && raw.ca_file.is_none())
            && !PostgresSource::is_local(url)
        {
            let message = "the user database is reached without TLS, and is not on this machine";
            self.findings.warning(place.key("tls").span, message, "whoever is on the way reads password hashes");
        }
        if let Some(channel) = &raw.notify {
            self.channel(channel, &place.key("notify"));
        }
        Some(PostgresSource {
            url: url?,
            query,
            tls,
            connections: usize::try_from(raw.connections.unwrap_or_default()).unwrap_or(usize::MAX),
            timeout: self.duration(raw.timeout.as_ref(), &place.key("timeout"), 10 * MILLISECOND..=TIMEOUT_MAX),
            notify: raw.notify.clone(),
        })
    }

    fn service(&mut self, raw: &raw::CredentialService, place: &Place<'_>) -> Option<HttpSource> {
        let url = raw.url.as_deref();
        let endpoint = url.and_then(|url| self.endpoint(url, raw.allow_http == Some(true), &place.key("url")));
        let authority = raw.ca_file.as_ref().and_then(|file| self.trusted(file, &place.key("ca_file")));
        let token = raw.token.as_ref().and_then(|token| {
            let at = place.key("token");
            let token = self.secret(token, 1, &at)?;
            if !HttpSource::is_token(&token) {
                let message = format!("`{}` cannot be sent as a bearer token", at.path);
                self.error(&at.at_key(), message, "letters, digits and `-._~+/=` alone (RFC 6750 §2.1)");
            }
            Some(token)
        });
        Some(HttpSource {
            endpoint: endpoint?,
            authority,
            token,
            connections: usize::try_from(raw.connections.unwrap_or_default()).unwrap_or(usize::MAX),
            timeout: self.duration(raw.timeout.as_ref(), &place.key("timeout"), 10 * MILLISECOND..=TIMEOUT_MAX),
        })
    }

    /// The authorities in a PEM file; reports a file that has none.
    pub(super) fn trusted(&mut self, file: &str, place: &Place<'_>) -> Option<String> {
        let pem = self.text_file(file, place)?;
        if let Err(why) = Trust::only(&pem) {
            self.error(place, "the file has no certificate authorities", why.to_string());
        }
        Some(pem)
    }

    /// The URL has a password, so it is a secret like others, and no message repeats it.
    fn database_url(&mut self, raw: &raw::Secret, place: &Place<'_>) -> Option<Secret> {
        let url = self.secret(raw, URL_BYTES_MIN, place)?;
        let text = std::str::from_utf8(url.expose()).unwrap_or_default();
        if text.contains("sslmode") {
            let label = "leave `sslmode` out of the URL";
            self.error(&place.at_key(), "whether the database is reached with TLS is said by `tls`", label);
            return None;
        }
        if !PostgresSource::is_url(text) {
            let label = "`postgres://user:password@host:5432/database` is needed";
            self.error(&place.at_key(), format!("`{}` is not the URL of a PostgreSQL database", place.path), label);
            return None;
        }
        Some(url)
    }

    fn query(&mut self, query: &str, place: &Place<'_>) {
        let label = "such as `SELECT password_hash FROM users WHERE id = $1`";
        let digit = |at: usize| query.as_bytes().get(at).is_some_and(u8::is_ascii_digit);
        let parameters: Vec<usize> = query.match_indices('$').map(|(at, _)| at + 1).filter(|at| digit(*at)).collect();
        if query.is_empty() {
            return;
        }
        if parameters.is_empty() {
            self.error(place, "the query does not ask for the subject: it has no `$1`", label);
        } else if parameters.iter().any(|at| !query[*at..].starts_with('1') || digit(at + 1)) {
            self.error(place, "the query has a parameter other than `$1`, the subject", label);
        } else if query.trim_end().trim_end_matches(';').contains(';') {
            self.error(place, "the query is more than one statement", label);
        }
    }

    fn authorities(&mut self, file: &str, place: &Place<'_>) -> Option<String> {
        let pem = self.text_file(file, place)?;
        if !PostgresSource::are_authorities(&pem) {
            self.error(place, "the file holds no certificate", "`-----BEGIN CERTIFICATE-----` is needed");
        }
        Some(pem)
    }

    /// A name that `LISTEN` takes, and `pg_notify` takes in the same spelling.
    fn channel(&mut self, name: &str, place: &Place<'_>) {
        let fits = name.len() <= 63
            && name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if !fits {
            let message = format!("`{}` cannot be the name of a channel", name.escape_debug());
            self.error(place, message, "1 to 63 small letters, digits and `_`, no digit first");
        }
    }
}
