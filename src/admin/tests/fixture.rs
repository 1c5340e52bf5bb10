//! An API to ask.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::failing::FailingStore;
use crate::admin::auth::Peer;
use crate::admin::{
    Api, Explanation, Gateway, KeyInfo, KeyState, Parts, Pending, Question, ReloadError, Reloaded, RotateError, Status,
    Step,
};
use crate::cluster::ClusterStatus;
use crate::config::{AdminToken, LogTarget, Role};
use crate::gate::Denial;
use crate::intake::Ledger;
use crate::intake::Level;
use crate::keys::Lifetimes;
use crate::keys::subject::{Binding, Credentials, Source, Terms};
use crate::revocation::{Horizons, IssuerHorizon, RevocationMap, Target, TargetKind};
use crate::secret::Secret;
use crate::session::{Open, Registry, Wanted};
use crate::store::Store;
use crate::telemetry::{Audit, Metrics};
use crate::time::{Clock, Timestamp};

pub(crate) const OPERATOR: &str = "operator-operator-operator-operator";
pub(crate) const VIEWER: &str = "viewer-viewer-viewer-viewer-viewer";
pub(crate) const ACCOUNTS: &str = "https://accounts.example/";
pub(crate) const OWN: &str = "https://gate.example/";

#[derive(Default)]
pub(crate) struct FakeGateway {
    pub(crate) draining: AtomicBool,
    pub(crate) broken: AtomicBool,
    pub(crate) metrics_read: AtomicUsize,
    pub(crate) sessions: OpenSessions,
}

/// Open sessions: none, unless some are put in.
pub(crate) struct OpenSessions(pub(crate) Registry);

impl Default for OpenSessions {
    fn default() -> Self {
        Self(Registry::new(1000))
    }
}

pub(crate) fn now() -> Timestamp {
    Timestamp::from_secs(1_800_000_000)
}

impl Gateway for FakeGateway {
    fn explain(&self, question: Question) -> Pending<'_, Explanation> {
        let authorization = question.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let refused = authorization != Some("Bearer good");
        let explanation = Explanation {
            at: now(),
            report_only: false,
            admitted: !refused,
            status: refused.then_some(401),
            reason: refused.then_some("revoked_subject"),
            route: Some(format!("{} {:?} {}", question.method, question.host, question.path)),
            upstream: Some("shop".to_owned()),
            issuer: Some("accounts".to_owned()),
            steps: vec![Step { name: "standing", passed: !refused, detail: "subject alice".to_owned() }],
            header: Some(json!({ "alg": "ES256" })),
            claims: Some(json!({ "sub": "alice" })),
            verified: true,
            account: Some("alice".to_owned()),
            targets: vec![Target::new(TargetKind::Subject, ACCOUNTS, "alice")],
        };
        Box::pin(async { explanation })
    }

    fn status(&self) -> Status {
        Status {
            started_at: now().minus(Duration::from_secs(60)),
            now: now(),
            workers: 2,
            listeners: vec!["127.0.0.1:8080".to_owned()],
            config_digest: "abc".to_owned(),
            config_loaded_at: now(),
            draining: false,
            upstreams: std::collections::BTreeMap::new(),
        }
    }

    fn cluster(&self) -> Option<ClusterStatus> {
        None
    }

    fn reached(&self, _: u64) -> Option<Level> {
        None
    }

    fn credential_changed(&self, _: &str, _: &str) {}

    fn config(&self) -> Value {
        json!({ "admin": { "tokens": "[redacted]" } })
    }

    fn reload(&self) -> Pending<'_, Result<Reloaded, ReloadError>> {
        let broken = self.broken.load(Ordering::Relaxed);
        Box::pin(async move {
            if broken {
                return Err(ReloadError::Invalid("gateway.yaml:1:1: no".to_owned()));
            }
            Ok(Reloaded { config_digest: "def".to_owned(), changed: true, warnings: Vec::new() })
        })
    }

    fn keys(&self) -> Vec<KeyInfo> {
        vec![key()]
    }

    fn rotate_key(&self, _: bool) -> Pending<'_, Result<KeyInfo, RotateError>> {
        let broken = self.broken.load(Ordering::Relaxed);
        Box::pin(async move { if broken { Err(RotateError::NoSessions) } else { Ok(key()) } })
    }

    fn withdraw_key<'a>(&'a self, thumbprint: &'a str) -> Pending<'a, Result<bool, RotateError>> {
        let broken = self.broken.load(Ordering::Relaxed);
        Box::pin(async move {
            if broken { Err(RotateError::Failed("the disk is full".to_owned())) } else { Ok(thumbprint == "thumb") }
        })
    }

    fn observe(&self) {
        self.metrics_read.fetch_add(1, Ordering::Relaxed);
    }

    fn subject_credentials(&self, issuer_url: &str) -> Option<Arc<Credentials>> {
        let terms = Terms {
            base_secret: Secret::new(vec![7; 32]),
            binding: Binding::Claim("cfp".to_owned()),
            source: Source::Pushed,
            lifetimes: Lifetimes { known: Duration::from_secs(30), unknown: Duration::from_secs(5) },
            max_entries: 100,
        };
        Credentials::open(issuer_url, &terms, Clock::manual(now()), Box::new(|_| {})).ok()
    }

    fn sessions(&self, wanted: Wanted<'_>, from: Option<&str>, limit: usize) -> (Vec<Arc<Open>>, Option<String>) {
        let (found, more) = self.sessions.0.page(wanted, from, limit, now());
        let next = found.last().filter(|_| more).map(|last| last.session.to_string());
        (found, next)
    }

    fn session(&self, session: &str) -> Option<Arc<Open>> {
        self.sessions.0.find_by_id(session)
    }

    fn logout_targets(&self, open: &Open) -> Vec<Target> {
        let parent = open.lineage.origin.as_ref().map(|it| Target::new(TargetKind::Token, &it.issuer, &it.token));
        std::iter::once(Target::new(TargetKind::Session, OWN, &*open.session)).chain(parent).collect()
    }

    fn forget_session(&self, open: &Open) {
        self.sessions.0.remove(&open.subject, &open.session);
    }

    fn issuer_url(&self, name_or_url: &str) -> Option<String> {
        match name_or_url {
            "accounts" => Some(ACCOUNTS.to_owned()),
            "session" | "https://gate.example.com/" => Some("https://gate.example.com/".to_owned()),
            _ => None,
        }
    }

    fn identify<'a>(&'a self, token: &'a str) -> Pending<'a, Result<Target, Denial>> {
        Box::pin(async move {
            match token {
                "authentic.but.expired" => Ok(Target::new(TargetKind::Token, ACCOUNTS, "jti-7")),
                "keys.are.away" => Err(Denial::KeysUnavailable),
                _ => Err(Denial::BadSignature),
            }
        })
    }

    fn readiness(&self) -> Result<(), Vec<String>> {
        if self.draining.load(Ordering::Relaxed) { Err(vec!["draining".to_owned()]) } else { Ok(()) }
    }
}

fn key() -> KeyInfo {
    KeyInfo {
        issuer: "session".to_owned(),
        kid: Some("k1".to_owned()),
        thumbprint: "thumb".to_owned(),
        algorithm: "ES256".to_owned(),
        state: KeyState::Signing,
        created_at: None,
        signs_from: None,
        verifies_until: None,
        fetched_at: None,
    }
}

pub(crate) struct Fixture {
    pub(crate) api: Api,
    pub(crate) gateway: Arc<FakeGateway>,
    pub(crate) store: Arc<FailingStore>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) folder: tempfile::TempDir,
    router: Router,
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// Asserts that this is a problem with this status and reason, and returns its document.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, reason: &str) -> Value {
        assert_eq!((self.status.as_u16(), self.json()["reason"].as_str()), (status, Some(reason)), "{}", self.text);
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json");
        let document = self.json();
        assert_eq!(document["status"], status);
        for member in ["type", "title", "detail", "request_id"] {
            assert!(document[member].is_string(), "{member}: {document}");
        }
        document
    }
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let token = |name: &str, role, secret: &str| AdminToken {
            name: name.to_owned(),
            role,
            secret: Secret::new(secret.as_bytes().to_vec()),
        };
        Self::with(vec![token("eyes", Role::Viewer, VIEWER), token("ops", Role::Operator, OPERATOR)])
    }

    /// The same, but the audit log's disk is full.
    pub(crate) fn without_audit() -> Self {
        let tokens = Self::new().api.tokens().to_vec();
        Self::over(tokens, |_, _| Audit::on_a_full_disk())
    }

    pub(crate) fn with(tokens: Vec<AdminToken>) -> Self {
        Self::over(tokens, |path, clock| Audit::open(&LogTarget::File(path), clock).unwrap())
    }

    fn over(tokens: Vec<AdminToken>, audit: impl FnOnce(PathBuf, Clock) -> Audit) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual(now());
        let store = Arc::new(FailingStore::default());
        let map = Arc::new(RevocationMap::new(1000));
        let horizon = IssuerHorizon {
            name: "accounts".to_owned(),
            url: ACCOUNTS.to_owned(),
            max_lifetime: Duration::from_secs(3600),
            skew: Duration::from_secs(5),
            exchangeable: false,
            cutoff_margin: Duration::ZERO,
            max_authentication_age: None,
        };
        let horizons =
            Horizons { issuers: vec![horizon], session_absolute: Some((OWN.to_owned(), Duration::from_secs(3600))) };
        let stored: Arc<dyn Store> = Arc::<FailingStore>::clone(&store);
        let ledger = Ledger::open(stored, Arc::clone(&map), horizons, clock.clone()).unwrap();
        let audit = audit(folder.path().join("audit.log"), clock.clone());
        let gateway = Arc::new(FakeGateway::default());
        let metrics = Arc::new(Metrics::new());
        let api = Api::new(Parts {
            gateway: Arc::<FakeGateway>::clone(&gateway),
            ledger,
            map,
            metrics: Arc::clone(&metrics),
            audit: Arc::new(audit),
            tokens,
            clock,
        });
        let router = api.router();
        Self { api, gateway, store, metrics, folder, router }
    }

    pub(crate) fn audit_path(&self) -> PathBuf {
        self.folder.path().join("audit.log")
    }

    /// The audit lines so far.
    pub(crate) fn audit(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.audit_path()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Sends a request as it is, over TCP.
    pub(crate) async fn send(&self, mut request: Request<Body>) -> Answer {
        let peer = Peer::Tcp(std::net::IpAddr::from([127, 0, 0, 1]));
        if request.extensions().get::<Peer>().is_none() {
            request.extensions_mut().insert(peer);
        }
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status, headers: parts.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
    }

    /// Sends a request with the operator's token; a body has the type JSON.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.send(request(method, path, body).body_as(Some(OPERATOR))).await
    }
}

/// A request that is not finished: who asks is still open.
pub(crate) struct Draft {
    pub(crate) builder: http::request::Builder,
    body: Option<Value>,
}

pub(crate) fn request(method: &str, path: &str, body: Option<Value>) -> Draft {
    let mut builder = Request::builder().method(method).uri(path).header(header::HOST, "127.0.0.1:9901");
    if body.is_some() {
        builder = builder.header(header::CONTENT_TYPE, "application/json");
    }
    Draft { builder, body }
}

impl Draft {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.builder = self.builder.header(name, value);
        self
    }

    pub(crate) fn body_as(self, token: Option<&str>) -> Request<Body> {
        let mut builder = self.builder;
        if let Some(token) = token {
            builder = builder.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        builder.body(self.body.map_or_else(Body::empty, |body| Body::from(body.to_string()))).unwrap()
    }
}
