//! Sets of identity headers that upstreams may know already.

use http::HeaderName;

use super::raw::Preset;

/// The headers of a preset, each with its claim.
///
/// - `default`: what the design promises, `X-Auth-Request-*` and the session id.
/// - `oauth2_proxy`: what oauth2-proxy sends with `--set-xauthrequest`.
/// - `authelia`: the four headers of its forward-auth answers. Its user name is the login name; here it
///   is `sub`, which is there, unique and stable, which `preferred_username` need not be (OIDC Core §5.7).
/// - `kong`: what its JWT plugin sends; a consumer's custom id is the subject, the credential's
///   identifier the issuer (its default `key_claim_name`).
/// - `envoy`: it has no names of its own; these are what the examples of `claim_to_headers` use.
pub(super) fn headers(preset: Preset) -> Vec<(HeaderName, String)> {
    let list: &[(&'static str, &str)] = match preset {
        Preset::None => &[],
        Preset::Default => &[
            ("x-auth-request-user", "sub"),
            ("x-auth-request-email", "email"),
            ("x-auth-request-groups", "groups"),
            ("x-auth-request-session", "sid"),
        ],
        Preset::Oauth2Proxy => &[
            ("x-auth-request-user", "sub"),
            ("x-auth-request-email", "email"),
            ("x-auth-request-groups", "groups"),
            ("x-auth-request-preferred-username", "preferred_username"),
        ],
        Preset::Authelia => {
            &[("remote-user", "sub"), ("remote-email", "email"), ("remote-groups", "groups"), ("remote-name", "name")]
        }
        Preset::Kong => &[
            ("x-consumer-custom-id", "sub"),
            ("x-consumer-username", "preferred_username"),
            ("x-credential-identifier", "iss"),
        ],
        Preset::Envoy => &[
            ("x-jwt-claim-sub", "sub"),
            ("x-jwt-claim-iss", "iss"),
            ("x-jwt-claim-email", "email"),
            ("x-jwt-claim-groups", "groups"),
        ],
    };
    list.iter().map(|&(header, claim)| (HeaderName::from_static(header), claim.to_owned())).collect()
}

/// The header of a preset that names the account. Only the design's own has one: none of the others is
/// known to its users.
pub(super) const fn account(preset: Preset) -> Option<HeaderName> {
    match preset {
        Preset::Default => Some(HeaderName::from_static("x-auth-request-account")),
        Preset::None | Preset::Oauth2Proxy | Preset::Authelia | Preset::Kong | Preset::Envoy => None,
    }
}

/// Headers that mean something to the protocol or to the gateway itself: an identity in one of them
/// would break framing, routing or the token, or be removed again on its way.
const TAKEN: [&str; 48] = [
    "accept-encoding",
    "authorization",
    "cache-control",
    "client-cert",
    "client-cert-chain",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "date",
    "dpop",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "max-forwards",
    "origin",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "set-cookie",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-http-method-override",
    "x-original-url",
    "x-real-ip",
    "x-request-id",
    "x-session-expires",
    "x-session-grant",
    "x-session-token",
];

/// Whether a header name is taken, read the way a careless upstream would: ignoring case, and `_`
/// against `-`.
pub(super) fn is_taken(name: &str) -> bool {
    TAKEN.contains(&folded(name).as_str())
}

/// A header name as a careless upstream reads it.
pub(super) fn folded(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_preset_uses_a_taken_or_doubled_name() {
        let all = [Preset::None, Preset::Default, Preset::Oauth2Proxy, Preset::Authelia, Preset::Kong, Preset::Envoy];
        for preset in all {
            let list = headers(preset);
            for (index, (header, _)) in list.iter().enumerate() {
                assert!(!is_taken(header.as_str()), "{header}");
                assert!(list[..index].iter().all(|(earlier, _)| earlier != header), "{header}");
            }
            assert!(account(preset).is_none_or(|account| list.iter().all(|(header, _)| *header != account)));
        }
    }

    #[test]
    fn spelling_does_not_free_a_taken_name() {
        for name in ["Host", "X_Session_Token", "content_length", "TE"] {
            assert!(is_taken(name), "{name}");
        }
        assert!(!is_taken("X-User"));
    }
}
