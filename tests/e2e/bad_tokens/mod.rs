//! Bad tokens, all in one table: each row is sent to a real gateway and must be refused with this status and this
//! reason, with the challenge and the problem document byte for byte as documented, and without one byte reaching the
//! upstream.

mod claims;
mod keys;
mod structure;
mod transport;

use serde_json::{Value, json};

use crate::support::issuer::Key;
use crate::support::{Gateway, Issuer, Recorded, Response, Site, Upstream, bearer, request};

/// One way to be refused.
pub(super) struct Row {
    name: String,
    /// The whole request.
    bytes: Vec<u8>,
    status: u16,
    /// One of these; several where an input breaks more than one rule and the order of rules is free.
    reasons: &'static [&'static str],
}

impl Row {
    /// A request with these header fields.
    fn fields(name: &str, fields: &[(&str, &str)], status: u16, reasons: &'static [&'static str]) -> Self {
        Self { name: name.to_owned(), bytes: request("GET", "/orders", fields, b""), status, reasons }
    }

    /// A bearer token that is refused with 401.
    fn token(name: &str, token: &str, reasons: &'static [&'static str]) -> Self {
        Self::fields(name, &[("Authorization", &bearer(token))], 401, reasons)
    }

    /// The same on another path.
    fn at(mut self, path: &str) -> Self {
        let text = String::from_utf8(self.bytes).unwrap().replacen("/orders", path, 1);
        self.bytes = text.into_bytes();
        self
    }
}

/// What the rows are made with: an issuer for each kind of key, all known to the gateway.
pub(super) struct Cast {
    es256: Issuer,
    rs256: Issuer,
    ed25519: Issuer,
    hs256: Issuer,
    /// Two keys in one set: ES256 as `small`, ES384 as `large`.
    small: Issuer,
    large: Issuer,
    /// Demands `jti`.
    strict: Issuer,
}

fn cast() -> Cast {
    Cast {
        es256: Issuer::accounts(),
        rs256: Issuer::new("https://rsa.example/", "rsa-1", Key::rsa()),
        ed25519: Issuer::new("https://ed.example/", "ed-1", Key::ed25519()),
        hs256: Issuer::new("https://hmac.example/", "hmac-1", Key::secret(&[7; 48])),
        small: Issuer::new("https://two.example/", "small", Key::es256()),
        large: Issuer::new("https://two.example/", "large", Key::es384()),
        strict: Issuer::new("https://strict.example/", "strict-1", Key::es256()),
    }
}

fn site(upstream: &Upstream, cast: &Cast) -> Site {
    let mut site = Site::new(upstream);
    for (name, issuer) in [("accounts", &cast.es256), ("rsa", &cast.rs256), ("ed", &cast.ed25519)] {
        site.trust(name, issuer);
    }
    site.trust("strict", &cast.strict);
    site.set("/issuers/strict/require", json!(["exp", "iat", "sub", "jti"]));
    site.trust("two", &cast.small);
    let both = json!({"keys": [cast.small.key.jwk("small"), cast.large.key.jwk("large")]});
    site.write("two.jwks.json", &both.to_string());
    site.set("/issuers/two/algorithms", json!(["ES256", "ES384"]));
    site.trust("hmac", &cast.hs256);
    site.write_secret("secrets/hmac", &cast.hs256.key.public());
    site.set("/issuers/hmac/keys", json!({"secret": {"file": "secrets/hmac"}}));
    site.set("/issuers/accounts/audiences", json!(["shop", "books"]));
    let books = json!({"audiences": ["books"]});
    site.route(json!({"name": "books", "match": {"path": "/books/"}, "upstream": "shop", "auth": books}));
    site
}

#[test]
fn every_bad_token_is_refused_with_its_reason_and_none_is_forwarded() {
    let cast = cast();
    let upstream = Upstream::start();
    let gateway = site(&upstream, &cast).start();
    let rows =
        [transport::rows(&cast), structure::rows(&cast), keys::rows(&cast), claims::rows(&cast)].into_iter().flatten();
    let mut wrong = Vec::new();
    let mut count = 0;
    for row in rows {
        count += 1;
        let mut connection = gateway.connect();
        match connection.send(&row.bytes).try_response() {
            Ok(response) => wrong.extend(faults(&row, &response)),
            Err(problem) => wrong.push(format!("{}: no answer, {problem:?}", row.name)),
        }
        if upstream.bytes() != 0 {
            wrong.push(format!("{}: forwarded {:?}", row.name, upstream.take()));
            break;
        }
    }
    assert!(wrong.is_empty(), "{} faults in {count} rows:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count > 150, "only {count} rows");
    // The gateway is well, and what refuses the bad ones admits the good ones.
    for issuer in [&cast.es256, &cast.rs256, &cast.ed25519, &cast.hs256, &cast.small, &cast.large, &cast.strict] {
        assert_eq!(gateway.get_as("/orders", &issuer.token(json!({}))).status, 200, "{}", issuer.kid);
    }
    let refused = gateway.admin().metric("portcullis_decisions_total", &[("outcome", "deny")]);
    assert!(refused > 150.0, "{refused}");
}

fn faults(row: &Row, response: &Response) -> Vec<String> {
    let mut faults = Vec::new();
    if response.status != row.status {
        faults.push(format!("status {}, not {}: {}", response.status, row.status, response.text()));
    } else if matches!(row.status, 400 | 401 | 403) {
        let reason = response.reason();
        if row.reasons.contains(&reason.as_str()) {
            faults.extend(problem_faults(response, &reason));
        } else {
            faults.push(format!("reason {reason}, not {:?}", row.reasons));
        }
    }
    faults.into_iter().map(|fault| format!("{}: {fault}", row.name)).collect()
}

/// What is wrong with the challenge and the problem document of a refusal.
fn problem_faults(response: &Response, reason: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let challenge = response.header("www-authenticate").unwrap_or("(none)").to_owned();
    let bare = match reason {
        "missing_token" => Some("Bearer realm=\"shop\""),
        "multiple_tokens" => Some("Bearer realm=\"shop\", error=\"invalid_request\""),
        "malformed_token" | "token_too_large" => Some("Bearer realm=\"shop\", error=\"invalid_token\""),
        _ => None,
    };
    let described = "Bearer realm=\"shop\", error=\"invalid_token\", error_description=\"";
    let fits = match bare {
        Some(whole) => challenge == whole,
        None => challenge.starts_with(described) && challenge.ends_with('"') && challenge.matches('"').count() == 6,
    };
    if !fits {
        faults.push(format!("challenge {challenge}"));
    }
    let body = response.json();
    let members: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
    if members != ["type", "title", "status", "detail", "reason", "request_id"] {
        faults.push(format!("members {members:?}"));
    }
    if body["status"] != response.status {
        faults.push(format!("body {body}"));
    }
    faults
}

/// What must be admitted although it looks unusual.
#[test]
fn unusual_but_good_tokens_are_admitted() {
    let cast = cast();
    let upstream = Upstream::start();
    let gateway = site(&upstream, &cast).start();
    for (name, fields) in transport::good(&cast) {
        let fields: Vec<(&str, &str)> = fields.iter().map(|(field, value)| (*field, value.as_str())).collect();
        assert_eq!(gateway.get("/orders", &fields).status, 200, "{name}");
        assert_eq!(identity(&upstream.take_one()), "bob", "{name}");
    }
    for (name, token) in claims::good(&cast) {
        let response = gateway.get_as("/orders", &token);
        assert_eq!(response.status, 200, "{name}: {}", response.text());
        assert_eq!(identity(&upstream.take_one()), "bob", "{name}");
    }
    for token in keys::good(&cast) {
        assert_eq!(gateway.get_as("/orders", &token).status, 200);
    }
}

fn identity(recorded: &Recorded) -> &str {
    recorded.header("x-auth-request-user").unwrap_or("(nobody)")
}

/// A token that was admitted on one route, and is remembered, is judged anew on the next.
#[test]
fn a_token_for_one_audience_is_refused_on_a_route_for_another() {
    let cast = cast();
    let upstream = Upstream::start();
    let gateway = site(&upstream, &cast).start();
    let token = cast.es256.token(json!({"aud": "shop"}));
    for _ in 0..3 {
        assert_eq!(gateway.get_as("/orders", &token).status, 200);
        upstream.take();
        let refused = gateway.get_as("/books/1", &token);
        assert_eq!((refused.status, refused.reason().as_str()), (401, "audience_not_allowed"));
        assert_eq!(upstream.take().len(), 0);
    }
    assert_eq!(gateway.get_as("/books/1", &cast.es256.token(json!({"aud": ["x", "books"]}))).status, 200);
}

/// Time is judged on every request, not once: a token dies although it is remembered as authentic.
#[test]
fn a_remembered_token_expires() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    site.set("/issuers/accounts/clock_skew", json!("0s"));
    let gateway = site.start();
    let token = site.accounts.token(json!({"exp": crate::support::now() + 2}));
    assert_eq!(gateway.get_as("/", &token).status, 200);
    let refused = crate::support::until("the token to expire", || {
        let response = gateway.get_as("/", &token);
        (response.status != 200).then_some(response)
    });
    assert_eq!((refused.status, refused.reason().as_str()), (401, "expired"));
}

fn wait_for(gateway: &Gateway) -> Value {
    gateway.admin().get("/v1/status").json()
}

/// A token that has a wrong key source cannot make the gateway open a file or a connection: nothing it names is used.
#[test]
fn nothing_that_a_token_names_is_fetched() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    let attacker = Issuer::new(&site.accounts.url, "attacker-1", Key::es256());
    for header in [json!({"jku": url}), json!({"x5u": url}), json!({"kid": url}), json!({"kid": "file:///etc/passwd"})]
    {
        let refused = gateway.get_as("/", &attacker.token_with_header(header.clone()));
        assert_eq!((refused.status, refused.reason().as_str()), (401, "unknown_key"), "{header}");
    }
    let foreign = Issuer::new(&url, "attacker-1", Key::es256());
    assert_eq!(gateway.get_as("/", &foreign.token(json!({}))).reason(), "issuer_not_allowed");
    wait_for(&gateway);
    assert!(listener.accept().is_err(), "somebody connected");
    assert_eq!(upstream.bytes(), 0);
}
