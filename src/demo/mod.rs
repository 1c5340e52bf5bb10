//! `portcullis demo`: the main job on one machine, with nothing to prepare.
//!
//! A small service with a login page, an issuer with a key of its own, and the gateway between them
//! with the built-in store, all on free ports and in a scratch folder that is removed at the end. The
//! six steps are printed as `curl` lines, or carried out and checked with `--script`.

mod client;
mod service;
mod steps;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::app::{Gateway, Origin, control_runtime};
use crate::cli::{DemoOptions, Exit, Failure};
use crate::config;
use crate::keys::SigningKey;
use crate::store::AcceptLoss;
use crate::time::{Clock, Timestamp};
use crate::token::Algorithm;

/// The issuer of the demonstration: what a login service or identity provider would be.
const ISSUER: &str = "https://accounts.example.com/";

/// Everything the steps need to know.
struct Scene {
    /// `http://127.0.0.1:PORT` of the gateway.
    gateway: String,
    /// The same of its control plane.
    admin: String,
    /// The operator's secret.
    operator: String,
    /// A token of the issuer, for alice.
    token: String,
}

/// A folder that is gone when this is.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("portcullis-demo-{}", uuid::Uuid::now_v7().simple()));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.0.join(name))?;
        file.write_all(text.as_bytes())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing of value is in it, and the next demonstration has its own.
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Runs the demonstration until it is interrupted, or through its six steps with `--script`.
///
/// # Errors
///
/// When something cannot be started, or a step of the script gets another answer than it should.
pub fn run(options: &DemoOptions, stdout: &mut (dyn Write + Send)) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::of(Exit::Failed, "cannot prepare the demonstration", &error);
    let scratch = Scratch::new().map_err(failed)?;
    let runtime = control_runtime()?;
    runtime.block_on(async {
        let service = service::start().await.map_err(failed)?;
        let clock = Clock::System;
        let key = SigningKey::generate(Algorithm::ES256)
            .map_err(|error| Failure::of(Exit::Failed, "cannot make the issuer's key", &error))?;
        let operator = secret();
        scratch.write("ops", &operator).map_err(failed)?;
        scratch.write("accounts.json", &json!({ "keys": [key.public_jwk()] }).to_string()).map_err(failed)?;
        let text = configuration(&service.to_string());
        scratch.write("portcullis.yaml", &text).map_err(failed)?;

        let loaded = config::load(&scratch.0.join("portcullis.yaml"))
            .map_err(|problems| Failure::new(Exit::Config, problems.to_string()))?;
        let gateway = Gateway::start(loaded, Origin::default(), AcceptLoss::No, clock.clone()).await?;
        let address = gateway.addresses().first().map(ToString::to_string).unwrap_or_default();
        let scene = Scene {
            gateway: format!("http://{address}"),
            admin: format!("http://{}", gateway.admin_address().unwrap_or_default()),
            operator,
            token: mint(&key, clock.now())?,
        };
        let outcome = if options.script {
            steps::carry_out(&scene, stdout).await
        } else {
            let interrupted = tokio::signal::ctrl_c();
            introduce(&scene, &scratch.0, stdout)?;
            interrupted.await.map_err(failed)
        };
        gateway.stop().await;
        outcome
    })
}

fn secret() -> String {
    let bytes: [u8; 32] = rand::random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A token as the issuer would give it to alice after a login.
fn mint(key: &SigningKey, now: Timestamp) -> Result<String, Failure> {
    let claims = json!({
        "iss": ISSUER, "aud": "shop", "sub": "alice", "email": "alice@example.com", "groups": ["staff", "buyers"],
        "iat": now.secs(), "exp": now.secs() + 3600, "jti": uuid::Uuid::now_v7().to_string(),
    });
    let claims: Map<String, Value> = claims.as_object().cloned().unwrap_or_default();
    key.sign(&claims, "JWT").map_err(|error| Failure::of(Exit::Failed, "cannot mint a token", &error))
}

/// The gateway's configuration: what one would write before one's own service, but for the ports.
fn configuration(service: &str) -> String {
    format!(
        "listeners:
  - address: 127.0.0.1:0
admin:
  address: 127.0.0.1:0
  tokens: [{{ name: ops, role: operator, secret: {{ file: ops }} }}]
  audit_log: {{ file: audit.jsonl }}
issuers:
  accounts:
    issuer: {ISSUER}
    audiences: [shop]
    algorithms: [ES256]
    keys: {{ jwks_file: accounts.json }}
upstreams:
  shop: {{ servers: [http://{service}] }}
routes:
  - match: {{ path: /login }}
    upstream: shop
    auth: none
    login: true
  - match: {{ path: / }}
    upstream: shop
    auth: required
session:
  issuer: https://gate.example.com/
  audience: shop
  keys: {{ dir: keys, algorithm: ES256 }}
  idle_timeout: 5m
  reissue: {{ after: 1% }}
revocation:
  store: {{ path: data }}
access_log: off
"
    )
}

fn introduce(scene: &Scene, folder: &Path, stdout: &mut (dyn Write + Send)) -> Result<(), Failure> {
    writeln!(stdout, "the gateway   {}   (login page: {}/login)", scene.gateway, scene.gateway)?;
    writeln!(stdout, "its control   {}   (metrics: {}/metrics)", scene.admin, scene.admin)?;
    writeln!(stdout, "its folder    {}   (removed at the end)", folder.display())?;
    writeln!(stdout, "\nCopy into a shell, a step at a time:\n")?;
    writeln!(stdout, "GATE={} ADMIN={} OPS={}", scene.gateway, scene.admin, scene.operator)?;
    writeln!(stdout, "TOKEN={}\n", scene.token)?;
    for step in steps::STEPS {
        writeln!(stdout, "# {}\n{}\n", step.title, step.curl)?;
    }
    writeln!(stdout, "Ctrl-C ends the demonstration.")?;
    stdout.flush()?;
    Ok(())
}
