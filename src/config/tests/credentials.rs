//! Credentials of subjects: one good file, and what is wrong with others.

use std::time::Duration;

use super::*;
use crate::keys::subject::{Binding, Derive, PostgresTls, Source};

const GOOD: &str = r#"listeners: [{ address: 127.0.0.1:0 }]
upstreams: { shop: { servers: [http://127.0.0.1:3000] } }
routes: [{ match: { path: / }, upstream: shop }]
issuers:
  people:
    issuer: https://people.example.com/
    audiences: [shop]
    algorithms: [HS256]
    keys:
      per_subject:
        base_secret: { file: secrets/base }
        postgres:
          url: { file: secrets/database }
          query: "SELECT password_hash FROM users WHERE id = $1"
  partners:
    issuer: https://partners.example.net/
    audiences: [shop]
    algorithms: [ES256]
    keys: { public_key_file: accounts.pem }
    credential:
      base_secret: { file: secrets/base }
      pushed: true
"#;

/// What is changed, into what (`^` stands before the place that is to be reported), and what is said.
const SLIPS: &[(&str, &str, &str)] = &[
    ("algorithms: [HS256]", "algorithms: [HS384]", "the keys of subjects are for HS256"),
    ("algorithms: [HS256]", "algorithms: [HS256, HS512]", "the keys of subjects are for HS256"),
    ("      per_subject:", "      secret: { file: secrets/legacy }\n      per_subject:", "must be one source"),
    ("base_secret: { file: secrets/base }\n        postgres", "postgres", "`base_secret` is missing"),
    (
        "{ file: secrets/base }\n        postgres",
        "{ file: ^secrets/short }\n        postgres",
        "at least 32 are needed",
    ),
    ("url: { file: secrets/database }", "url: { file: ^secrets/none }", "cannot read"),
    ("url: { file: secrets/database }", "^url: { file: secrets/ops }", "is not the URL of a PostgreSQL database"),
    ("url: { file: secrets/database }", "^url: { file: secrets/sslmode }", "leave `sslmode` out of the URL"),
    ("url: { file: secrets/database }", "^url: postgres://a:hunter2@b/c", "is written into the file"),
    ("= $1\"", "= 1\"", "it has no `$1`"),
    ("= $1\"", "= $1 AND x = $2\"", "a parameter other than `$1`"),
    ("= $1\"", "= $10\"", "a parameter other than `$1`"),
    ("= $1\"", "= $1; DROP TABLE users\"", "more than one statement"),
    ("          query:", "          ^notify: Users\n          query:", "cannot be the name of a channel"),
    ("          query:", "          ^notify: \"a;b\"\n          query:", "cannot be the name of a channel"),
    ("          query:", "          timeout: ^9s\n          query:", "at most 8s"),
    ("          query:", "          timeout: ^5ms\n          query:", "at least 10ms"),
    ("          query:", "          connections: ^0\n          query:", "at least 1"),
    ("          query:", "          connections: ^65\n          query:", "at most 64"),
    ("          query:", "          tls: ^on\n          query:", "one of"),
    (
        "          query:",
        "          tls: off\n          ^ca_file: accounts.pem\n          query:",
        "leave out one of the two",
    ),
    ("          query:", "          ca_file: ^accounts.pem\n          query:", "the file holds no certificate"),
    ("        postgres:", "        pushed: true\n        postgres:", "must have one source"),
    ("      pushed: true", "      pushed: false", "must have one source"),
    ("      pushed: true", "      pushed: true\n      http: { url: https://u.example/c }", "must have one source"),
    ("      pushed: true", "      http: { url: ^http://u.example/c }", "`allow_http: true` says that nobody is"),
    ("      pushed: true", "      http: { url: ^https://a:hunter2@u.example/c }", "a user and a password cannot be"),
    ("      pushed: true", "      ^http: { }", "`url` is missing"),
    (
        "      pushed: true",
        "      http: { url: https://u.example/c, ^token: { file: secrets/words } }",
        "cannot be sent as a bearer token",
    ),
    ("      pushed: true", "      http: { url: https://u.example/c, timeout: ^9s }", "at most 8s"),
    ("      pushed: true", "      http: { url: https://u.example/c, connections: ^0 }", "at least 1"),
    (
        "      pushed: true",
        "      http: { url: https://u.example/c, ca_file: ^accounts.pem }",
        "the file has no certificate authorities",
    ),
    ("      pushed: true", "      pushed: true\n      claim: ^sub", "means something else"),
    ("      pushed: true", "      pushed: true\n      claim: ^\"\"", "is empty"),
    ("      pushed: true", "      pushed: true\n      ttl: ^0s", "at least 1s"),
    ("      pushed: true", "      pushed: true\n      ttl: ^30", "write `30s`"),
    ("      pushed: true", "      pushed: true\n      max_entries: ^1", "at least 100"),
    ("      pushed: true", "      pushed: true\n      ^derive: concat", "unknown key `derive`"),
    (
        "algorithms: [HS256]",
        "^credential: { base_secret: { file: secrets/base }, pushed: true }\n    algorithms: [HS256]",
        "leave out `credential`",
    ),
];

fn folder_with_urls() -> tempfile::TempDir {
    let folder = folder();
    for (name, text) in
        [("sslmode", "postgres://portcullis:hunter2@db/users?sslmode=disable"), ("words", "hunter2 and more")]
    {
        let path = folder.path().join("secrets").join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    folder
}

#[test]
fn credentials_have_these_defaults() {
    let folder = folder();
    let loaded = read(GOOD, folder.path()).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.warnings, []);
    let [people, partners] = loaded.config.issuers.as_slice() else { panic!("two issuers") };
    assert!(matches!(people.keys, KeySource::PerSubject));
    let terms = people.credentials.as_ref().unwrap();
    assert_eq!(terms.binding, Binding::Key(Derive::Hkdf));
    assert_eq!((terms.lifetimes.known, terms.lifetimes.unknown), (Duration::from_secs(30), Duration::from_secs(5)));
    assert_eq!(terms.max_entries, 50_000);
    let Source::Postgres(source) = &terms.source else { panic!("{terms:?}") };
    assert_eq!((source.connections, source.timeout, source.notify.as_deref()), (4, Duration::from_secs(2), None));
    assert_eq!(source.tls, PostgresTls::Verified { authorities: None });
    let terms = partners.credentials.as_ref().unwrap();
    assert_eq!((&terms.binding, &terms.source), (&Binding::Claim("cfp".to_owned()), &Source::Pushed));
    let shown = format!("{:?} {}", loaded.config, loaded.redacted);
    assert!(!shown.contains("hunter2") && !shown.contains("only this test knows"), "{shown}");
}

#[test]
fn each_slip_is_reported_alone_and_in_its_place() {
    let folder = folder_with_urls();
    let mut wrong = Vec::new();
    for (from, to, wanted) in SLIPS {
        assert!(GOOD.contains(from), "{from:?}");
        let marked = GOOD.replacen(from, to, 1);
        let place = marked.find('^').map(|mark| {
            let before = &marked[..mark];
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
        });
        let Err(problems) = read(&marked.replacen('^', "", 1), folder.path()) else {
            wrong.push(format!("{to:?} was accepted"));
            continue;
        };
        let shown = problems.to_string();
        let found = problems.iter().next().map(|problem| (problem.line, problem.column));
        let said = shown.contains(wanted) && problems.len() == 1 && !shown.contains("hunter2");
        // A value is pointed at where it stands, and a mapping at its key.
        if !said || place.is_some_and(|place| found.is_none_or(|found| found.0 != place.0)) {
            wrong.push(format!("{to:?} should say {wanted:?} alone, at {place:?}, and says\n{shown}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn a_database_elsewhere_without_tls_is_a_warning() {
    let folder = folder_with_urls();
    let text = GOOD.replace("          query:", "          tls: off\n          query:");
    let warnings = read(&text, folder.path()).unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].message.contains("without TLS"), "{warnings:?}");
    let path = folder.path().join("secrets/database");
    for url in ["postgres://a:b@127.0.0.1/users", "postgres://a:b@localhost/users", "host=/run/postgresql dbname=users"]
    {
        std::fs::write(&path, url).unwrap();
        assert_eq!(read(&text, folder.path()).unwrap().warnings, [], "{url}");
    }
}
