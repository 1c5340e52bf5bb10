//! The documents stay true: what they link to is there, and what they show works.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use portcullis::config;
use portcullis::revocation::{Reason, Source, TargetKind};
use portcullis::telemetry::Metrics;
use portcullis::token::Algorithm;

const DOCUMENTS: &[&str] = &[
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "docs/cluster.md",
    "docs/keys.md",
    "docs/limits.md",
    "docs/operations.md",
    "docs/per-subject-keys.md",
    "docs/proxy.md",
    "docs/requirements.md",
    "docs/revocation.md",
    "docs/sender-constrained.md",
    "docs/sessions.md",
    "docs/subjects.md",
    "deploy/README.md",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(document: &str) -> String {
    fs::read_to_string(root().join(document)).unwrap_or_else(|error| panic!("{document}: {error}"))
}

/// What stands between each pair of `from` and `to`.
fn between<'t>(text: &'t str, from: &str, to: &str) -> Vec<&'t str> {
    text.split(from).skip(1).filter_map(|rest| rest.split_once(to)).map(|(inner, _)| inner).collect()
}

#[test]
fn links_lead_somewhere() {
    for document in DOCUMENTS {
        let folder = root().join(document).parent().map(Path::to_path_buf).unwrap();
        for link in between(&read(document), "](", ")") {
            let path = link.split('#').next().unwrap();
            let outside = link.contains("://") || path.is_empty();
            assert!(outside || folder.join(path).exists(), "{document} links to {link}");
        }
    }
}

#[test]
fn the_architecture_names_files_that_exist() {
    let text = read("ARCHITECTURE.md");
    let quoted = text.split('`').skip(1).step_by(2);
    let named: Vec<_> = quoted.filter(|it| it.ends_with(".rs") || it.ends_with('/')).collect();
    assert!(named.len() > 20, "only {} files are named", named.len());
    for file in named {
        assert!(root().join("src").join(file).exists(), "src/{file} is not there");
    }
}

/// Every Rust file of the crate and its tests, one after the other.
fn sources(folder: &Path) -> String {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let read = |path: PathBuf| match path.is_dir() {
        true => sources(&path),
        false if path.extension().is_some_and(|it| it == "rs") => fs::read_to_string(path).unwrap_or_default(),
        false => String::new(),
    };
    entries.flatten().map(|entry| read(entry.path())).collect()
}

#[test]
fn the_tests_that_are_named_as_proof_exist() {
    let sources = sources(&root().join("src")) + &sources(&root().join("tests"));
    for document in ["README.md", "ARCHITECTURE.md", "docs/cluster.md"] {
        let text = read(document);
        let quoted = text.split('`').skip(1).step_by(2).map(|it| it.rsplit("::").next().unwrap());
        // A sentence with its words joined: nothing else that is quoted looks like that.
        let is_sentence = |it: &&str| it.matches('_').count() >= 2 && !it.contains([' ', '.', '/']);
        let named: Vec<_> = quoted.filter(is_sentence).filter(|it| !it.starts_with("portcullis_")).collect();
        assert!(named.len() > 8, "{document} names {} tests", named.len());
        for test in named {
            assert!(sources.contains(&format!("fn {test}(")), "{document} names `{test}`, which is no test");
        }
    }
}

/// Every series that can be exported, by its name.
#[test]
fn every_series_is_in_the_documents() {
    let metrics = Metrics::new();
    metrics.route("r").finished(&http::Method::GET, http::StatusCode::OK, Duration::from_millis(1));
    metrics.issuer("i").permitted();
    let _upstream = metrics.upstream("u");
    let keys = metrics.keys("i");
    keys.set_age(Duration::from_secs(1));
    let _rule = metrics.rate_limit("r");
    metrics.verified(Algorithm::ES256, Duration::from_micros(50));
    metrics.revoked(TargetKind::Token, Reason::Admin, Source::Admin);
    metrics.set_certificates([("l", "a.example", Duration::from_secs(1))]);
    metrics.streams.cut("idle");
    let (text, documents) = (metrics.render(), read("docs/operations.md"));
    let mut series: Vec<_> = between(&text, "# TYPE portcullis_", " ");
    series.sort_unstable();
    assert!(series.len() > 25, "{series:?}");
    for name in &series {
        assert!(documents.contains(&format!("`{name}`")), "{name} is in no document");
    }
    for named in documents.lines().filter(|line| line.starts_with("| `")).flat_map(|line| between(line, "`", "`")) {
        let is_one = named.ends_with("_total") || named.ends_with("_seconds");
        assert!(!is_one || series.contains(&named), "{named} is no series");
    }
}

/// A whole configuration around what a document shows of one section.
fn around(shown: &str) -> String {
    let base = "listeners: [{ address: 127.0.0.1:8080 }]
issuers:
  accounts:
    issuer: https://accounts.example.com/
    audiences: [shop]
    algorithms: [HS256]
    keys: { secret: { file: secret } }
upstreams: { shop: { servers: [http://127.0.0.1:3000] } }
";
    if shown.starts_with("listeners:") {
        let rest = base.split_once('\n').map_or(base, |(_, rest)| rest);
        let routes = if shown.contains("routes:") { "" } else { "routes: [{ match: { path: / }, upstream: shop }]\n" };
        return format!("{rest}{routes}{shown}");
    }
    if shown.starts_with("issuers:") {
        let rest = base.split_once("issuers:").map_or(base, |(before, _)| before);
        return format!("{rest}upstreams: {{ shop: {{ servers: [http://127.0.0.1:3000] }} }}\n{shown}");
    }
    let routes = if shown.contains("routes:") { "" } else { "routes: [{ match: { path: / }, upstream: shop }]\n" };
    if shown.starts_with("upstreams:") {
        let rest = base.split_once("upstreams:").map_or(base, |(before, _)| before);
        return format!("{rest}{routes}{shown}");
    }
    format!("{base}{routes}{shown}")
}

#[test]
fn configurations_in_the_documents_are_accepted() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("secret"), "0123456789abcdef0123456789abcdef0123456789abcdef").unwrap();
    fs::create_dir(folder.path().join("secrets")).unwrap();
    fs::write(folder.path().join("secrets/cluster"), "0123456789abcdef0123456789abcdef0123456789abcdef").unwrap();
    fs::write(folder.path().join("secrets/base"), "0123456789abcdef0123456789abcdef0123456789abcdef").unwrap();
    fs::write(folder.path().join("secrets/database"), "postgres://portcullis:x@db.internal:5432/users").unwrap();
    fs::write(folder.path().join("secrets/users"), "a-token-of-the-user-service").unwrap();
    fs::write(folder.path().join("secrets/server.key"), "read, and judged when it is put into force").unwrap();
    fs::write(folder.path().join("server.pem"), "the same").unwrap();
    fs::write(folder.path().join("secrets/gateway.key"), "the same").unwrap();
    fs::write(folder.path().join("gateway.pem"), "the same").unwrap();
    let authority = rcgen::generate_simple_self_signed(["clients".to_owned()]).unwrap();
    fs::write(folder.path().join("clients.pem"), authority.cert.pem()).unwrap();
    fs::write(folder.path().join("internal-ca.pem"), authority.cert.pem()).unwrap();
    let mut seen = 0;
    for document in DOCUMENTS.iter().filter(|document| document.starts_with("docs/")) {
        for shown in between(&read(document), "```yaml\n", "```") {
            let text = around(shown);
            if let Err(problems) = config::parse(&text, document, folder.path()) {
                panic!("{problems}\n\n{text}");
            }
            seen += 1;
        }
    }
    assert!(seen >= 2, "only {seen} configurations are shown");
}
