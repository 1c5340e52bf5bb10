//! Reading the keys that an issuer publishes: one attempt, from URL to judged set.
//!
//! All or nothing: a document that is not a key set, or has no key that can be used, changes nothing. An
//! empty set would otherwise refuse everybody, and what a captive portal or a broken deployment serves is
//! not what an issuer means.

use std::time::Duration;

use http::{HeaderMap, header};

use super::fetch::{Answer, Client, FetchError};
use super::{Endpoint, KeySet, KeySetError};
use crate::token::{Algorithm, json};

/// What may come as a key set. `*/*` is not asked for: a server that can tell should.
const ACCEPT_KEYS: &str = "application/jwk-set+json, application/json";
const ACCEPT_JSON: &str = "application/json";

/// Where an issuer publishes its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Publication {
    /// At this URL (RFC 7517 §5).
    Jwks(Endpoint),
    /// Where the issuer's metadata says: OpenID Connect Discovery 1.0 §4, else RFC 8414 §3.
    Discovery(Endpoint),
}

/// Whose keys are read, and what is asked of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// The issuer's `iss`, which its metadata must name byte by byte.
    pub(super) issuer: &'a str,
    pub(super) algorithms: &'a [Algorithm],
    /// Whether keys may come unprotected from another machine.
    pub(super) allow_http: bool,
}

/// A set that was just read.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) keys: KeySet,
    /// The text it was read from.
    pub(super) text: String,
    /// For how long its server calls it fresh, when it says so.
    pub(super) max_age: Option<Duration>,
}

/// Why an issuer's keys were not read; the former ones stay in force. Read as "failed to refresh the keys:
/// {self}".
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// The answer is of another type, HTML for instance.
    #[error("the answer is not JSON by its content type")]
    ContentType,
    /// No document.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The metadata is no JSON object, or lacks `issuer` or `jwks_uri`.
    #[error("the metadata is not an issuer's: {0}")]
    Metadata(&'static str),
    /// The metadata is of another issuer (OpenID Connect Discovery 1.0 §4.3, RFC 8414 §3.3).
    #[error("the metadata is not of this issuer: its `issuer` is another")]
    OtherIssuer,
    /// The metadata points to where no keys are fetched from.
    #[error("the metadata has a `jwks_uri` that is not fetched from: {0}")]
    KeysElsewhere(&'static str),
    /// Not a key set, or one that reads differently to different readers.
    #[error("the key set is refused: {0}")]
    Set(#[from] KeySetError),
    /// No key in it can be used.
    #[error("the key set has no usable key: {0}")]
    NoUsableKey(String),
}

impl RefreshError {
    /// Every value of [`Self::result`], and `ok`.
    pub const RESULTS: [&'static str; 8] =
        ["ok", "unreachable", "timeout", "status", "redirected", "malformed", "no_usable_key", "metadata"];

    /// The metric label: one of [`Self::RESULTS`].
    #[must_use]
    pub const fn result(&self) -> &'static str {
        match self {
            Self::Fetch(FetchError::Unreachable(_)) => "unreachable",
            Self::Fetch(FetchError::Timeout(_)) => "timeout",
            Self::Fetch(FetchError::Status(_)) => "status",
            Self::Fetch(FetchError::Redirected) => "redirected",
            Self::Fetch(FetchError::Coding | FetchError::Broken(_) | FetchError::TooLarge(_))
            | Self::ContentType
            | Self::Set(_) => "malformed",
            Self::NoUsableKey(_) => "no_usable_key",
            Self::Metadata(_) | Self::OtherIssuer | Self::KeysElsewhere(_) => "metadata",
        }
    }
}

impl Publication {
    /// Fetches the set and judges every key in it.
    pub(super) async fn read(&self, client: &Client, wanted: Wanted<'_>) -> Result<Fetched, RefreshError> {
        let found;
        let at = match self {
            Self::Jwks(at) => at,
            Self::Discovery(base) => {
                found = discover(base, client, wanted).await?;
                &found
            }
        };
        let answer = client.get(at, ACCEPT_KEYS).await?;
        let text = text(&answer)?;
        let keys = judge(text, wanted.algorithms)?;
        Ok(Fetched { keys, text: text.to_owned(), max_age: max_age(&answer.headers) })
    }

    /// The URL in the configuration, without its query.
    #[must_use]
    pub const fn endpoint(&self) -> &Endpoint {
        match self {
            Self::Jwks(at) | Self::Discovery(at) => at,
        }
    }
}

/// Reads a published set, in which secrets have no place.
pub(super) fn judge(text: &str, algorithms: &[Algorithm]) -> Result<KeySet, RefreshError> {
    let keys = KeySet::from_jwks(text, algorithms, false)?;
    if keys.keys().is_empty() {
        let mut why: Vec<_> = keys.refused().iter().map(|refused| refused.why.to_string()).collect();
        why.dedup();
        why.truncate(4);
        let why = if why.is_empty() { "the set is empty".to_owned() } else { why.join("; ") };
        return Err(RefreshError::NoUsableKey(why));
    }
    Ok(keys)
}

/// Where the issuer's metadata says that its keys are.
async fn discover(base: &Endpoint, client: &Client, wanted: Wanted<'_>) -> Result<Endpoint, RefreshError> {
    let mut answer = Err(RefreshError::Metadata("there is no place to look for it"));
    for place in metadata_places(base) {
        answer = client.get(&place, ACCEPT_JSON).await.map_err(RefreshError::from);
        match &answer {
            // Not here; maybe where the other standard has it.
            Err(RefreshError::Fetch(FetchError::Status(status))) if status.is_client_error() => {}
            Ok(_) | Err(_) => break,
        }
    }
    let answer = answer?;
    let metadata =
        json::object(text(&answer)?.as_bytes()).map_err(|_| RefreshError::Metadata("it is no JSON object"))?;
    let issuer =
        metadata.get("issuer").and_then(|it| it.as_str()).ok_or(RefreshError::Metadata("it has no `issuer`"))?;
    if issuer != wanted.issuer {
        return Err(RefreshError::OtherIssuer);
    }
    let keys = metadata.get("jwks_uri").and_then(|it| it.as_str()).ok_or(RefreshError::Metadata("no `jwks_uri`"))?;
    let keys: Endpoint = keys.parse().map_err(|_| RefreshError::KeysElsewhere("it is no URL"))?;
    fit(&keys, base, wanted.allow_http)?;
    Ok(keys)
}

/// Whether keys are fetched from where the metadata points: somebody who may write an issuer's metadata
/// must not learn to reach into the network that the gateway is in.
fn fit(keys: &Endpoint, base: &Endpoint, allow_http: bool) -> Result<(), RefreshError> {
    if keys.is_same_origin(base) {
        return Ok(());
    }
    let same_host = keys.host().eq_ignore_ascii_case(base.host());
    if !same_host && (keys.address().is_some() || keys.is_loopback()) {
        return Err(RefreshError::KeysElsewhere("another host, and an address or this machine"));
    }
    if !keys.is_https() && !allow_http {
        return Err(RefreshError::KeysElsewhere("it is not `https`"));
    }
    Ok(())
}

/// Where metadata is looked for, in order.
fn metadata_places(base: &Endpoint) -> Vec<Endpoint> {
    if base.path().contains("/.well-known/") {
        return vec![base.clone()];
    }
    let path = base.path().trim_end_matches('/');
    [format!("{path}/.well-known/openid-configuration"), format!("/.well-known/oauth-authorization-server{path}")]
        .iter()
        .filter_map(|path| base.at(path).ok())
        .collect()
}

/// The text of an answer that claims to be JSON, or claims nothing.
fn text(answer: &Answer) -> Result<&str, RefreshError> {
    if let Some(kind) = answer.headers.get(header::CONTENT_TYPE) {
        let kind = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let is_json = kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"));
        if !is_json {
            return Err(RefreshError::ContentType);
        }
    }
    std::str::from_utf8(&answer.body).map_err(|_| RefreshError::Set(KeySetError::Malformed("not UTF-8".to_owned())))
}

/// `max-age` of `Cache-Control` (RFC 9111 §5.2.2.1). `no-cache`, `no-store` and 0 say that no cache may
/// keep it, not that the keys change every moment.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut directives = values.flat_map(|value| value.split(',')).map(str::trim);
    let age = directives.find_map(|directive| {
        let (name, seconds) = directive.split_once('=')?;
        name.eq_ignore_ascii_case("max-age").then(|| seconds.trim_matches('"').parse::<u64>().ok())?
    })?;
    (age > 0).then(|| Duration::from_secs(age))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        text.parse().unwrap()
    }

    #[test]
    fn metadata_is_looked_for_where_both_standards_have_it() {
        for (base, wanted) in [
            (
                "https://a.example",
                &[
                    "https://a.example/.well-known/openid-configuration",
                    "https://a.example/.well-known/oauth-authorization-server",
                ][..],
            ),
            (
                "https://a.example/realms/shop/",
                &[
                    "https://a.example/realms/shop/.well-known/openid-configuration",
                    "https://a.example/.well-known/oauth-authorization-server/realms/shop",
                ],
            ),
            ("https://a.example/x/.well-known/special", &["https://a.example/x/.well-known/special"]),
        ] {
            let places: Vec<_> = metadata_places(&endpoint(base)).iter().map(ToString::to_string).collect();
            assert_eq!(places, wanted, "{base}");
        }
    }

    #[test]
    fn metadata_does_not_point_into_the_network_of_the_gateway() {
        for (keys, base, allow_http, good) in [
            ("https://a.example/keys", "https://a.example/", false, true),
            ("https://keys.b.example/keys", "https://a.example/", false, true),
            ("http://a.example/keys", "https://a.example/", false, false),
            ("http://b.example/keys", "https://a.example/", true, true),
            ("https://169.254.169.254/latest", "https://a.example/", true, false),
            ("https://[fd00::1]/keys", "https://a.example/", false, false),
            ("https://localhost/keys", "https://a.example/", false, false),
            ("http://127.0.0.1:9901/v1/config", "https://a.example/", true, false),
            ("http://127.0.0.1:8080/keys", "http://127.0.0.1:8080/", false, true),
            ("http://127.0.0.1:8081/keys", "http://127.0.0.1:8080/", false, false),
            ("https://10.0.0.1/keys", "https://10.0.0.1:8443/", false, true),
        ] {
            assert_eq!(fit(&endpoint(keys), &endpoint(base), allow_http).is_ok(), good, "{keys} from {base}");
        }
    }

    #[test]
    fn only_what_claims_to_be_json_is_read_as_such() {
        for (kind, good) in [
            (None, true),
            (Some("application/json"), true),
            (Some("application/JSON; charset=utf-8"), true),
            (Some("application/jwk-set+json"), true),
            (Some("text/html"), false),
            (Some("text/plain"), false),
            (Some("application/octet-stream"), false),
            (Some(""), false),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(kind) = kind {
                headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
            }
            let answer = Answer { status: http::StatusCode::OK, headers, body: "{}".into() };
            assert_eq!(text(&answer).is_ok(), good, "{kind:?}");
        }
        let answer = Answer { status: http::StatusCode::OK, headers: HeaderMap::new(), body: vec![0xff].into() };
        assert_eq!(text(&answer).unwrap_err().result(), "malformed");
    }

    #[test]
    fn freshness_is_what_max_age_says_and_zero_says_nothing() {
        for (value, wanted) in [
            ("max-age=600", Some(600)),
            ("public, Max-Age=\"60\", must-revalidate", Some(60)),
            ("max-age=0", None),
            ("no-cache", None),
            ("s-maxage=10", None),
            ("max-age=soon", None),
            ("max-age=-1", None),
            ("max-age=99999999999999999999999", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CACHE_CONTROL, value.parse().unwrap());
            assert_eq!(max_age(&headers), wanted.map(Duration::from_secs), "{value}");
        }
        assert_eq!(max_age(&HeaderMap::new()), None);
    }

    #[test]
    fn every_error_has_its_label() {
        let status = FetchError::Status(http::StatusCode::NOT_FOUND);
        for error in
            [RefreshError::ContentType, RefreshError::OtherIssuer, status.into(), FetchError::Redirected.into()]
        {
            assert!(RefreshError::RESULTS.contains(&error.result()), "{error}");
        }
    }
}
