//! Identity headers: what the upstream is told about the user comes from the token alone, on every route.

use serde_json::{Value, json};

use crate::support::{Gateway, Recorded, Site, Upstream, bearer, request};

/// Names that an upstream framework may read as `X-Auth-Request-User`.
const LOOKALIKES: [&str; 8] = [
    "X-Auth-Request-User",
    "x-auth-request-user",
    "X_Auth_Request_User",
    "X-Auth_Request-User",
    "X-AUTH-REQUEST-USER",
    "X.Auth.Request.User",
    "X-Auth-Request-Email",
    "X_AUTH_REQUEST_GROUPS",
];

/// Everything the upstream could take for the user's name, folded as a framework folds it.
fn identities(recorded: &Recorded) -> Vec<(String, String)> {
    let folded = |name: &str| name.to_ascii_lowercase().replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
    let fields = recorded.headers.iter().map(|(name, value)| (folded(name), value.clone()));
    fields.filter(|(name, _)| name.starts_with("x-auth-request-")).collect()
}

fn identity(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn what_a_client_says_about_itself_is_removed() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    let token = bearer(&site.accounts.token(json!({"sub": "bob", "sid": "s-1"})));
    let forged: Vec<(&str, &str)> = LOOKALIKES.iter().map(|name| (*name, "admin")).collect();

    let with_token = [forged.as_slice(), &[("Authorization", &token)]].concat();
    assert_eq!(gateway.get("/orders", &with_token).status, 200);
    let recorded = upstream.take_one();
    let named = [("user", "bob"), ("session", "s-1"), ("account", "bob")];
    let expected = named.map(|(name, value)| identity(&format!("x-auth-request-{name}"), value));
    assert_eq!(identities(&recorded), expected, "112, 114, 115, 116");
    assert_eq!(recorded.header("authorization"), None, "the token stays here");

    assert_eq!(gateway.get("/public/", &forged).status, 200);
    assert_eq!(identities(&upstream.take_one()), [], "113 an open route");
    assert_eq!(gateway.get("/public/", &with_token).status, 200);
    assert_eq!(identities(&upstream.take_one()), [], "113 an open route, with a token");
}

#[test]
fn connection_options_cannot_remove_what_the_gateway_says() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    let token = bearer(&site.accounts.token_of("bob"));
    for options in
        ["X-Auth-Request-User", "close, X-Auth-Request-User, Authorization, Host", "x-auth-request-user, x-one"]
    {
        let fields = [
            ("Authorization", token.as_str()),
            ("Connection", options),
            ("X-One", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Authorization", "Basic x"),
            ("Proxy-Connection", "keep-alive"),
            ("TE", "trailers"),
            ("Trailer", "X-Auth-Request-User"),
        ];
        let status = gateway.connect().send(&request("GET", "/orders", &fields, b"")).response().status;
        assert_eq!(status, 200, "117 {options}");
        let recorded = upstream.take_one();
        let expected = [identity("x-auth-request-user", "bob"), identity("x-auth-request-account", "bob")];
        assert_eq!(identities(&recorded), expected, "117 {options}");
        assert_eq!(recorded.header("host"), Some("shop.example"), "117 {options}");
        for name in ["keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer", "connection", "upgrade"]
        {
            assert_eq!(recorded.header(name), None, "117 {options}: {}", recorded.head);
        }
        assert_eq!(recorded.header("x-one").is_some(), !options.contains("x-one"), "117 {options}");
    }
}

#[test]
fn trailers_do_not_smuggle_identity() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    let token = bearer(&site.accounts.token_of("bob"));
    let fields =
        [("Authorization", token.as_str()), ("Transfer-Encoding", "chunked"), ("Trailer", "X-Auth-Request-User")];
    let mut connection = gateway.connect();
    connection.send(&request("POST", "/orders", &fields, b""));
    connection.send(b"5\r\nhello\r\n0\r\nX-Auth-Request-User: admin\r\nX-Other: 1\r\n\r\n");
    assert_eq!(connection.response().status, 200);
    let recorded = upstream.take_one();
    assert_eq!((recorded.body.as_slice(), recorded.trailers.as_slice()), (b"hello".as_slice(), [].as_slice()));
    assert_eq!(recorded.header("trailer"), None);
}

#[test]
fn claims_become_headers_as_documented() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    site.set("/claims_to_headers", json!({"preset": "none", "headers": {"X-Claim": "claim", "X-Deep": "a.b"}}));
    let gateway = site.start();
    let sent = |claim: Value| -> Option<String> {
        let token = site.accounts.token(json!({"claim": claim, "a": {"b": "deep"}}));
        assert_eq!(gateway.get_as("/orders", &token).status, 200);
        let recorded = upstream.take_one();
        assert_eq!(recorded.header("x-deep"), Some("deep"));
        recorded.header("x-claim").map(str::to_owned)
    };
    assert_eq!(sent(json!("plain")).as_deref(), Some("plain"));
    assert_eq!(sent(json!(5)).as_deref(), Some("5"));
    assert_eq!(sent(json!(true)).as_deref(), Some("true"));
    assert_eq!(sent(json!(["a", "b"])).as_deref(), Some("a,b"));
    let with_comma = sent(json!(["a,b", "c"])).unwrap();
    assert_eq!(with_comma.matches(',').count(), 1, "a comma in a name is escaped: {with_comma}");
    assert_eq!(sent(Value::Null), None, "76 a missing claim is no header");
    let text = sent(json!("J\u{fc}rgen \u{1f511}")).expect("77 a header");
    assert!(text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '), "77 {text:?}");
    assert_eq!(sent(json!("J\u{fc}rgen \u{1f511}")), Some(text), "77 stable");
    for evil in ["a\r\nX-Evil: 1", "a\nb", "a\0b"] {
        let value = sent(json!(evil));
        assert!(value.is_none_or(|value| !value.contains(['\r', '\n', '\0'])), "75 {evil:?}");
    }
}

#[test]
fn presets_name_the_headers_other_gateways_use() {
    let upstream = Upstream::start();
    for (preset, header) in [
        ("default", "x-auth-request-user"),
        ("oauth2_proxy", "x-forwarded-user"),
        ("authelia", "remote-user"),
        ("kong", "x-credential-identifier"),
    ] {
        let mut site = Site::new(&upstream);
        site.set("/claims_to_headers", json!({"preset": preset}));
        let gateway = site.start();
        let token = bearer(&site.accounts.token_of("bob"));
        assert_eq!(gateway.get("/orders", &[("Authorization", &token), (header, "admin")]).status, 200);
        let recorded = upstream.take_one();
        assert!(recorded.headers.iter().any(|(_, value)| value == "bob"), "{preset}: {}", recorded.head);
        assert!(!recorded.head.contains("admin"), "{preset}: {}", recorded.head);
    }
}

#[test]
fn a_route_may_forward_the_token_and_choose_the_host() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    site.route(json!({
        "name": "raw", "match": {"path": "/raw/"}, "upstream": "shop", "auth": "required",
        "forward_token": true, "preserve_host": false, "claims_to_headers": {"preset": "none"},
    }));
    let gateway = site.start();
    let token = bearer(&site.accounts.token_of("bob"));
    let cookie = format!("a=1; __Host-session={}; b=2", site.accounts.token_of("bob"));
    assert_eq!(gateway.get("/raw/", &[("Authorization", &token)]).status, 200);
    let recorded = upstream.take_one();
    assert_eq!(recorded.header("authorization"), Some(token.as_str()));
    assert_eq!(recorded.header("host"), Some(upstream.address().to_string().as_str()));
    assert_eq!(identities(&recorded), []);

    assert_eq!(gateway.get("/orders", &[("Cookie", &cookie)]).status, 200);
    let recorded = upstream.take_one();
    assert_eq!(recorded.header("cookie"), Some("a=1; b=2"), "only our own cookie is removed");
}

const FORWARDING: [(&str, &str); 8] = [
    ("X-Forwarded-For", "203.0.113.7"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "evil.example"),
    ("Forwarded", "for=203.0.113.7;host=evil.example;proto=https"),
    ("X-Real-IP", "203.0.113.7"),
    ("X-Original-URL", "/public/"),
    ("X-Rewrite-URL", "/public/"),
    ("X-Forwarded-Prefix", "/public"),
];

fn forwarded(gateway: &Gateway, upstream: &Upstream) -> Recorded {
    assert_eq!(gateway.get("/public/", &FORWARDING).status, 200);
    upstream.take_one()
}

#[test]
fn forwarding_headers_are_believed_from_trusted_proxies_only() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    {
        let gateway = site.start();
        let recorded = forwarded(&gateway, &upstream);
        assert_eq!(recorded.header("x-forwarded-for"), Some("127.0.0.1"), "118, 119");
        assert_eq!(recorded.header("x-forwarded-proto"), Some("http"), "118");
        assert_eq!(recorded.header("x-forwarded-host"), Some("shop.example"), "118");
        for evil in ["203.0.113.7", "evil.example", "https"] {
            assert!(!recorded.head.contains(evil), "118 {evil}:\n{}", recorded.head);
        }
        for name in ["X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Prefix", "X-HTTP-Method-Override"] {
            assert_eq!(recorded.header(name), None, "118");
        }
        // They decide nothing.
        assert_eq!(gateway.get("/admin/", &FORWARDING).status, 401, "118");
    }
    site.set("/trusted_proxies", json!(["127.0.0.0/8"]));
    let recorded = forwarded(&site.start(), &upstream);
    assert_eq!(recorded.header("x-forwarded-for"), Some("203.0.113.7, 127.0.0.1"));
    assert_eq!(recorded.header("x-forwarded-proto"), Some("https"));
    assert_eq!(recorded.header("x-forwarded-host"), Some("evil.example"));
}

#[test]
fn every_request_has_an_id_that_its_refusal_names() {
    let upstream = Upstream::start();
    let gateway = Site::new(&upstream).start();
    assert_eq!(gateway.get("/public/", &[("X-Request-Id", "chosen-by-a-stranger")]).status, 200);
    let id = upstream.take_one().header("x-request-id").expect("an id").to_owned();
    assert_ne!(id, "chosen-by-a-stranger");
    let refused = gateway.get("/orders", &[]);
    assert!(refused.json()["request_id"].as_str().is_some_and(|id| !id.is_empty()));
}
