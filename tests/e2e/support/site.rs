//! A folder with everything one gateway needs: configuration, keys, secrets, store. It outlives the process, so
//! that a test can start a second one on what the first left behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Gateway, Issuer, Upstream};

/// The operator's secret.
pub(crate) const OPS: &str = "operator-secret-0123456789abcdef0123456789abcdef";
/// The viewer's secret.
pub(crate) const EYES: &str = "viewer-secret-0123456789abcdef0123456789abcdef01";

/// The folder, and the configuration as data: JSON is YAML.
pub(crate) struct Site {
    folder: TempDir,
    pub(crate) config: Value,
    pub(crate) accounts: Issuer,
}

impl Site {
    /// One issuer (`accounts`), one upstream (`shop`), `/public/` open, `/admin/` for the scope `admin`, everything
    /// else for a token; no sessions.
    pub(crate) fn new(upstream: &Upstream) -> Self {
        Self::before(&upstream.url())
    }

    /// The same, with sessions: exchange from `accounts`, grants below `/login/`, a token's life of an hour.
    pub(crate) fn with_sessions(upstream: &Upstream) -> Self {
        let mut site = Self::new(upstream);
        site.config["session"] = json!({
            "issuer": "https://gate.example/",
            "audience": "shop",
            "keys": {"dir": "keys", "algorithm": "ES256"},
            "idle_timeout": "1h",
            "absolute_timeout": "8h",
            "reissue": {"after": "50%"},
            "exchange": [{"issuer": "accounts", "subject_prefix": "accounts:"}],
            "grants": {"subject_prefix": "local:"},
            "delivery": "header",
        });
        site.route(
            json!({"name": "login", "match": {"path": "/login/"}, "upstream": "shop", "auth": "none", "login": true}),
        );
        site
    }

    /// [`Self::new`], before an upstream at `url`.
    pub(crate) fn before(url: &str) -> Self {
        let folder = TempDir::with_prefix("portcullis-e2e-").unwrap();
        let accounts = Issuer::accounts();
        let config = json!({
            "workers": 2,
            "listeners": [{"address": "127.0.0.1:0"}],
            "admin": {
                "address": "127.0.0.1:0",
                "tokens": [
                    {"name": "ops", "role": "operator", "secret": {"file": "secrets/ops"}},
                    {"name": "eyes", "role": "viewer", "secret": {"file": "secrets/eyes"}},
                ],
                "audit_log": {"file": "audit.jsonl"},
            },
            "access_log": {"file": "access.jsonl"},
            "issuers": {"accounts": {
                "issuer": accounts.url,
                "audiences": ["shop"],
                "algorithms": ["ES256"],
                "keys": {"jwks_file": "accounts.jwks.json"},
                "clock_skew": "5s",
                "max_lifetime": "24h",
            }},
            "token": {"from": [{"header": "Authorization"}, {"cookie": "__Host-session"}], "realm": "shop"},
            "upstreams": {"shop": {"servers": [url]}},
            "routes": [
                {"name": "public", "match": {"path": "/public/"}, "upstream": "shop", "auth": "none"},
                {"name": "admin", "match": {"path": "/admin/"}, "upstream": "shop",
                 "auth": {"scopes": {"all": ["admin"]}}},
                {"name": "shop", "match": {"path": "/"}, "upstream": "shop", "auth": "required"},
            ],
            "revocation": {"store": {"path": "data"}},
            "shutdown": {"drain_delay": "0s", "drain_timeout": "5s"},
            "reload": {"watch": false},
        });
        let site = Self { folder, config, accounts };
        site.write("accounts.jwks.json", &site.accounts.jwks().to_string());
        site.write_secret("secrets/ops", OPS.as_bytes());
        site.write_secret("secrets/eyes", EYES.as_bytes());
        site
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap_or_default()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        self.write_bytes(name, text.as_bytes());
    }

    /// A file that only its owner may read.
    pub(crate) fn write_secret(&self, name: &str, bytes: &[u8]) {
        self.write_bytes(name, bytes);
        fs::set_permissions(self.file(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn write_bytes(&self, name: &str, bytes: &[u8]) {
        let path = self.file(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Sets one value of the configuration, by JSON pointer; missing maps on the way are made.
    pub(crate) fn set(&mut self, pointer: &str, value: Value) -> &mut Self {
        let mut place = &mut self.config;
        for part in pointer.trim_start_matches('/').split('/') {
            place = match part.parse::<usize>() {
                Ok(index) if place.is_array() => &mut place[index],
                _ => &mut place[part],
            };
        }
        *place = value;
        self
    }

    /// Puts a route before all others.
    pub(crate) fn route(&mut self, route: Value) -> &mut Self {
        self.config["routes"].as_array_mut().unwrap().insert(0, route);
        self
    }

    /// Makes `issuer` known under `name`, with its key set in a file.
    pub(crate) fn trust(&mut self, name: &str, issuer: &Issuer) -> &mut Self {
        let file = format!("{name}.jwks.json");
        self.write(&file, &issuer.jwks().to_string());
        self.config["issuers"][name] = json!({
            "issuer": issuer.url,
            "audiences": ["shop"],
            "algorithms": [issuer.key.algorithm()],
            "keys": {"jwks_file": file},
            "clock_skew": "5s",
            "max_lifetime": "24h",
        });
        self
    }

    /// Writes the configuration and returns its path.
    pub(crate) fn write_config(&self) -> PathBuf {
        self.write("portcullis.yaml", &serde_json::to_string_pretty(&self.config).unwrap());
        self.file("portcullis.yaml")
    }

    /// Starts a gateway and waits until it serves.
    pub(crate) fn start(&self) -> Gateway {
        Gateway::start(self)
    }
}
