//! Brokers: good sections, and what is wrong with others.

use std::time::Duration;

use super::*;
use crate::cluster::nats::Login;
use crate::cluster::{nats, redis};
use crate::secret::Secret;

const GOOD: &str = r#"listeners: [{ address: 127.0.0.1:0 }]
upstreams: { shop: { servers: [http://127.0.0.1:3000] } }
routes: [{ match: { path: / }, upstream: shop, auth: none }]
revocation: { store: { path: state } }
cluster:
  name: shop
  node: one
  secret: { file: secrets/base }
  BROKER
"#;

const REDIS: &str = "redis: { url: { file: secrets/redis } }";
const NATS: &str = "nats: { servers: [nats://127.0.0.1:4222] }";

/// A section (`^` stands before what is to be reported), and what is said.
const SLIPS: &[(&str, &str)] = &[
    ("^redis: {}", "`url` is missing"),
    ("redis: { url: ^redis://a:hunter2@b }", "has a password in it"),
    ("redis: { ^url: { file: secrets/ops } }", "is not the URL of a Redis server"),
    ("redis: { ^url: { file: secrets/insecure } }", "is not the URL of a Redis server"),
    ("redis: { url: { file: secrets/redis }, min_replicas: ^17 }", "at most 16"),
    ("redis: { url: { file: secrets/redis }, log_entries: ^10 }", "at least 1000"),
    ("redis: { url: { file: secrets/redis }, timeout: ^50ms }", "at least 100ms"),
    ("redis: { url: { file: secrets/redis }, timeout: ^1m }", "at most 30s"),
    ("redis: { url: { file: secrets/redis }, ^sentinel: {} }", "`master` is missing"),
    ("redis: { url: { file: secrets/redis }, sentinel: { master: ^\"\" } }", "is empty"),
    ("redis: { url: { file: secrets/redis }, ^tls: {} }", "is for nobody"),
    ("redis: { url: { file: secrets/rediss }, tls: { ca_file: ^accounts.pem } }", "no certificate authorities"),
    ("redis: { url: { file: secrets/rediss }, ^tls: { certificate: accounts.pem } }", "half of a client certificate"),
    ("redis: { url: { file: secrets/redis }, ^password: hunter2 }", "unknown key `password`"),
    ("redis: { url: redis://127.0.0.1:6379 }\n  heartbeat: ^1m", "at most 10s"),
    ("redis: { url: redis://127.0.0.1:6379 }\n  max_staleness: ^1s", "at least 2s"),
    ("redis: { url: redis://127.0.0.1:6379 }\n  heartbeat: 5s\n  max_staleness: ^10s", "at least three times"),
    ("redis: { url: redis://127.0.0.1:6379 }\n  on_stale: ^sometimes", "reject_unsafe_methods"),
    ("redis: { url: redis://127.0.0.1:6379 }\n  ack: ^none", "bus"),
    ("redis: { url: redis://127.0.0.1:6379 }\n  max_clock_skew: ^0s", "at least 10ms"),
    ("^nats: {}", "`servers` is missing"),
    ("nats: { ^servers: [] }", "is empty"),
    ("nats: { servers: [^127.0.0.1] }", "is not a NATS server"),
    ("nats: { servers: [nats://127.0.0.1, ^nats://a:hunter2@b] }", "a user and a password cannot be part"),
    ("^nats: { servers: [nats://127.0.0.1], user: a }", "half of a login"),
    ("^nats: { servers: [nats://127.0.0.1], password: { file: secrets/ops } }", "half of a login"),
    (
        "^nats: { servers: [nats://127.0.0.1], token: { file: secrets/ops }, nkey: { file: secrets/ops } }",
        "more than once who the gateway is",
    ),
    ("nats: { servers: [nats://127.0.0.1], token: ^hunter2 }", "is written into the file"),
    ("nats: { servers: [nats://127.0.0.1], replicas: ^0 }", "at least 1"),
    ("nats: { servers: [nats://127.0.0.1], replicas: ^6 }", "at most 5"),
];

fn folder_with_urls() -> tempfile::TempDir {
    let folder = folder();
    for (name, text) in [
        ("redis", "redis://portcullis:hunter2@127.0.0.1:6379/1"),
        ("rediss", "rediss://portcullis:hunter2@redis.internal:6379"),
        ("far", "redis://portcullis:hunter2@redis.internal:6379"),
        ("insecure", "rediss://portcullis:hunter2@redis.internal:6379#insecure"),
    ] {
        let path = folder.path().join("secrets").join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    folder
}

fn engine(broker: &str) -> Engine {
    let folder = folder_with_urls();
    let loaded = read(&GOOD.replace("BROKER", broker), folder.path()).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.warnings, [], "{broker}");
    let shown = format!("{:?} {}", loaded.config, loaded.redacted);
    assert!(!shown.contains("hunter2") && !shown.contains("only this test knows"), "{shown}");
    loaded.config.cluster.unwrap().engine
}

#[test]
fn brokers_have_the_defaults_of_their_engines() {
    let url = Secret::new(b"redis://portcullis:hunter2@127.0.0.1:6379/1".to_vec());
    assert_eq!(engine(REDIS), Engine::Redis(redis::Options::new("shop", url)));
    assert_eq!(engine(NATS), Engine::Nats(nats::Options::new("shop", "nats://127.0.0.1:4222")));
}

#[test]
fn what_is_said_of_a_broker_reaches_its_engine() {
    let Engine::Redis(redis) = engine(
        "redis: { url: { file: secrets/rediss }, sentinel: { master: main, username: watcher, password: { file: \
         secrets/ops } }, min_replicas: 2, disk: true, log_entries: 5000, timeout: 300ms }",
    ) else {
        panic!("not Redis")
    };
    let sentinel = redis.sentinel.unwrap();
    assert_eq!((sentinel.master.as_str(), sentinel.username.as_deref()), ("main", Some("watcher")));
    assert!(sentinel.password.unwrap().matches(b"only this test knows the secret of ops"));
    assert_eq!((redis.min_replicas, redis.disk, redis.log_max), (2, true, 5000));
    assert_eq!(redis.timeout, Duration::from_millis(300));
    let said = "servers: [tls://a, tls://b:4223], replicas: 3, timeout: 4s";
    let secret = || Secret::new(b"only this test knows the secret of ops".to_vec());
    for (who, login) in [
        ("user: a, password: { file: secrets/ops }", Login::User { user: "a".to_owned(), password: secret() }),
        ("token: { file: secrets/ops }", Login::Token(secret())),
        ("nkey: { file: secrets/ops }", Login::NKey(secret())),
        ("credentials: { file: secrets/ops }", Login::Credentials(secret())),
    ] {
        let Engine::Nats(nats) = engine(&format!("nats: {{ {said}, {who} }}")) else { panic!("not NATS") };
        assert_eq!(nats.servers, ["tls://a", "tls://b:4223"]);
        assert_eq!((nats.replicas, nats.timeout), (3, Duration::from_secs(4)));
        assert_eq!(nats.login, login);
    }
}

#[test]
fn a_broker_elsewhere_without_tls_is_a_warning() {
    let folder = folder_with_urls();
    for broker in ["redis: { url: { file: secrets/far } }", "nats: { servers: [nats://far:4222] }"] {
        let warnings = read(&GOOD.replace("BROKER", broker), folder.path()).unwrap().warnings;
        assert!(warnings.len() == 1 && warnings[0].message.contains("without TLS"), "{broker}: {warnings:?}");
    }
}

#[test]
fn each_slip_is_reported_alone_and_in_its_place() {
    let folder = folder_with_urls();
    let mut wrong = Vec::new();
    for (broker, wanted) in SLIPS {
        let marked = GOOD.replace("BROKER", broker);
        let line = marked[..marked.find('^').unwrap()].matches('\n').count() + 1;
        let Err(problems) = read(&marked.replacen('^', "", 1), folder.path()) else {
            wrong.push(format!("{broker:?} was accepted"));
            continue;
        };
        let shown = problems.to_string();
        let found = problems.iter().next().map(|problem| problem.line);
        if !shown.contains(wanted) || problems.len() != 1 || shown.contains("hunter2") || found != Some(line) {
            wrong.push(format!("{broker:?} should say {wanted:?} alone, in line {line}, and says\n{shown}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
