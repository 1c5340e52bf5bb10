//! The files in `config/` are true.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::gate::{Demand, Requirement};

fn shipped(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)).unwrap()
}

/// What a file needs to have, and nothing else.
const MINIMAL: &str = "
listeners: [{ address: 127.0.0.1:0 }]
upstreams: { shop: { servers: [http://127.0.0.1:3000] } }
issuers:
  accounts:
    issuer: https://accounts.example.com/
    audiences: [shop]
    algorithms: [ES256]
    keys: { public_key_file: accounts.pem }
routes: [{ match: { path: / }, upstream: shop }]
admin: { address: 'unix:admin.sock' }
session: { issuer: https://gate.example.com/, audience: shop, exchange: [accounts] }
";

#[test]
fn the_quickstart_loads() {
    let folder = folder();
    let path = folder.path().join("quickstart.yaml");
    std::fs::write(&path, shipped("quickstart.yaml")).unwrap();
    let loaded = load(&path).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.config.listeners[0].address.to_string(), "127.0.0.1:8080");
    assert_eq!(loaded.config.routes.len(), 3);
    assert_eq!(loaded.config.routes[0].auth, Requirement::Public);
    assert_eq!(loaded.config.session.unwrap().exchange, [0]);
}

#[test]
fn the_defaults_are_what_the_design_says() {
    let folder = folder();
    let loaded = read(MINIMAL, folder.path()).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.warnings, []);
    let config = loaded.config;
    let seconds = Duration::from_secs;
    assert!(config.workers >= 1);
    let issuer = &config.issuers[0];
    assert_eq!(issuer.types, ["JWT", "at+jwt", ""]);
    assert_eq!((issuer.clock_skew, issuer.max_lifetime), (seconds(5), seconds(24 * 3600)));
    assert_eq!((issuer.cutoff_margin, issuer.max_authentication_age), (seconds(0), None));
    assert_eq!(issuer.require, ["sub"], "exp and iat always must be there");
    assert_eq!(config.token.from, [TokenPlace::Header(http::header::AUTHORIZATION)]);
    assert_eq!((config.token.max_bytes, config.token.cache_bytes), (8 << 10, 64 << 20));
    assert_eq!(config.token.realm, "portcullis");
    let upstream = &config.upstreams[0];
    assert_eq!((upstream.connect_timeout, upstream.response_timeout), (seconds(5), seconds(60)));
    assert_eq!((upstream.idle_timeout, upstream.max_idle), (seconds(30), 64));
    assert_eq!((&upstream.health, upstream.slow_start), (&None, None));
    let ejection = Ejection { after: Some(5), time: seconds(10), max_time: seconds(300), max_ejected: 500 };
    assert_eq!(upstream.ejection, ejection);
    let on = RetryOn { connect_failure: true, reset_before_response: true, ..RetryOn::default() };
    assert_eq!(upstream.retries, Retries { attempts: 2, per_try_timeout: None, on, budget: 200 });
    let route = &config.routes[0];
    assert_eq!(route.auth, Requirement::Token(Demand::default()), "deny by default");
    assert!(!route.login && !route.logout && !route.forward_token && route.preserve_host);
    assert_eq!((route.max_body, route.timeout), (None, None));
    assert_eq!(route.name, "/");
    let headers: Vec<String> =
        route.identity.headers.iter().map(|(header, claim)| format!("{header}={claim}")).collect();
    assert_eq!(
        headers,
        [
            "x-auth-request-user=sub",
            "x-auth-request-email=email",
            "x-auth-request-groups=groups",
            "x-auth-request-session=sid"
        ]
    );
    assert_eq!(route.identity.account.as_ref().map(http::HeaderName::as_str), Some("x-auth-request-account"));
    let session = config.session.unwrap();
    assert_eq!(session.keys_dir, folder.path().join("keys"));
    assert_eq!(session.algorithm, crate::token::Algorithm::ES256);
    assert_eq!((session.idle_timeout, session.absolute_timeout), (seconds(900), seconds(12 * 3600)));
    assert_eq!((session.reissue_after_permille, session.reissue_every), (500, None));
    assert_eq!((session.reuse_grace, session.max_per_subject), (None, None));
    assert_eq!(session.devices, Devices { max: 100_000, address: true, user_agent: true });
    assert_eq!((session.delivery, session.cookie.as_str()), (Delivery::Header, "__Host-session"));
    assert_eq!(config.revocation.store, StoreConfig::Sqlite(folder.path().join("data")));
    assert_eq!((config.revocation.sweep_interval, config.revocation.max_entries), (seconds(60), 20_000_000));
    assert!(config.trusted_proxies.is_empty());
    let limits = config.limits;
    assert_eq!((limits.header_bytes, limits.header_count, limits.uri_bytes), (32 << 10, 100, 8 << 10));
    assert_eq!(
        (limits.header_timeout, limits.body_timeout, limits.idle_timeout),
        (seconds(10), seconds(30), seconds(60))
    );
    assert_eq!((limits.body_min_rate, limits.body_rate_window, limits.request_timeout), (Some(240), seconds(5), None));
    assert_eq!((limits.connections, limits.connections_per_client), (20_000, 5_000));
    assert_eq!((limits.requests_per_connection, limits.requests_in_flight), (10_000, 10_000));
    assert_eq!((config.upstreams[0].max_requests, config.routes[0].max_body), (usize::MAX, None));
    assert_eq!((limits.write_timeout, limits.connections_per_worker), (seconds(30), 10_000));
    assert_eq!((config.shutdown.drain_delay, config.shutdown.drain_timeout), (seconds(0), seconds(30)));
    assert_eq!(config.access_log, LogTarget::Stdout);
    assert_eq!(config.admin.unwrap().audit_log, LogTarget::Stdout);
    let bare = "{ listeners: [{ address: '[::1]:0' }], upstreams: { a: { servers: ['http://[::1]'] } }, \
                routes: [{ match: {}, upstream: a, auth: none }] }";
    let config = read(bare, folder.path()).unwrap().config;
    assert!(config.admin.is_none() && config.session.is_none() && config.issuers.is_empty());
    let server = Server { tls: false, host: "::1".to_owned(), port: 80, weight: 1 };
    assert_eq!(config.upstreams[0].servers, [server]);
}

/// Calls `visit` with each key of `value` that the schema describes: its owner, itself, value, schema.
fn walk(value: &Value, schema: &Value, owner: &str, root: &Value, visit: &mut impl FnMut(&str, &str, &Value, &Value)) {
    if let Some(reference) = schema["$ref"].as_str() {
        let owner = reference.rsplit('/').next().unwrap();
        return walk(value, root.pointer(&reference[1..]).unwrap(), owner, root, visit);
    }
    for alternative in schema["anyOf"].as_array().into_iter().flatten() {
        walk(value, alternative, owner, root, visit);
    }
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                if let Some(property) = schema["properties"].get(key) {
                    visit(owner, key, value, property);
                    walk(value, property, owner, root, visit);
                } else if schema["additionalProperties"].is_object() {
                    walk(value, &schema["additionalProperties"], owner, root, visit);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| walk(item, &schema["items"], owner, root, visit)),
        _ => {}
    }
}

#[test]
fn the_reference_has_every_key_at_its_default() {
    /// Their default is "none of them", and an example says more.
    const EXAMPLES: [&str; 3] = ["Root.issuers", "Admin.tokens", "Session.exchange"];
    let folder = folder();
    let text = shipped("reference.yaml");
    let loaded = read(&text, folder.path()).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.warnings, []);

    let schema = schema();
    let file: Value = serde_yaml::from_str(&text).unwrap();
    let (mut seen, mut defaults) = (BTreeSet::new(), BTreeSet::new());
    walk(&file, &schema, "Root", &schema, &mut |owner, key, value, property| {
        seen.insert(format!("{owner}.{key}"));
        if property.get("default").is_some_and(|default| default == value || default == &json!({})) {
            defaults.insert(format!("{owner}.{key}"));
        }
    });
    let mut shapes = vec![("Root".to_owned(), schema.clone())];
    shapes.extend(schema["$defs"].as_object().unwrap().iter().map(|(name, shape)| (name.clone(), shape.clone())));
    let mut keys = 0;
    for (owner, shape) in shapes {
        for (key, property) in shape["properties"].as_object().into_iter().flatten() {
            let name = format!("{owner}.{key}");
            keys += 1;
            // Two things of which only one can be there: the other one is in a comment.
            let commented = text.lines().any(|line| {
                line.trim_start().strip_prefix('#').is_some_and(|comment| comment.contains(&format!("{key}: ")))
            });
            assert!(seen.contains(&name) || commented, "{name} is not in reference.yaml");
            let has_default = property.get("default").is_some() && !EXAMPLES.contains(&name.as_str());
            let at_default = || {
                let value = property["default"].to_string();
                let written = format!("{key}: {}", value.trim_matches('"'));
                text.lines().any(|line| line.trim_start().starts_with('#') && line.contains(&written))
            };
            let is_shown = defaults.contains(&name) || !seen.contains(&name) && at_default();
            assert!(!has_default || is_shown, "{name} is not at its default in reference.yaml");
        }
    }
    assert!(keys > 80, "only {keys} keys were looked at");
}

#[test]
fn what_is_shown_of_a_configuration_has_its_defaults_and_no_secret() {
    let folder = folder();
    let shown = read(&shipped("reference.yaml"), folder.path()).unwrap().redacted;
    assert_eq!(shown["admin"]["tokens"][0], json!({ "name": "ops", "role": "operator", "secret": "[redacted]" }));
    assert_eq!(shown["issuers"]["legacy"]["keys"]["secret"], "[redacted]");
    assert_eq!(shown["issuers"]["legacy"]["max_lifetime"], "24h");
    let text = shown.to_string();
    assert!(!text.contains("secrets/") && !text.contains("DASHBOARD"), "{text}");
    assert_eq!(read(MINIMAL, folder.path()).unwrap().redacted["limits"]["header_count"], 100);
}

#[test]
fn two_readers_of_yaml_agree_about_the_files() {
    for name in ["quickstart.yaml", "reference.yaml"] {
        let text = shipped(name);
        let ours = tree::read(&text, &mut Findings::default()).unwrap().to_yaml();
        assert_eq!(ours, serde_yaml::from_str::<serde_yaml::Value>(&text).unwrap(), "{name}");
    }
}

#[test]
fn the_nodes_of_a_cluster_load() {
    let folder = folder();
    for (name, engine) in [("cluster-redis.yaml", "redis"), ("cluster-nats.yaml", "nats")] {
        let loaded = read(&shipped(name), folder.path()).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(loaded.warnings, [], "{name}");
        let cluster = loaded.config.cluster.unwrap();
        let said = match cluster.engine {
            Engine::Redis(_) => "redis",
            Engine::Nats(_) => "nats",
        };
        assert_eq!((said, cluster.node.as_str()), (engine, "gate-1"));
    }
}
