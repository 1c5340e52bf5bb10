//! Who asks, and whether they may: before any handler sees a request.
//!
//! Order: a browser's cross-site request is refused first, whoever it claims to be; then the credential;
//! then the role. Changes run in a task of their own, so that a client who hangs up cannot have a change
//! without its audit line.

use std::sync::Mutex;
use std::sync::PoisonError;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, StatusCode, header};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::Api;
use super::problem::Problem;
use crate::config::{AdminToken, Role};
use crate::telemetry::AuditEvent;
use crate::time::Timestamp;

/// Refusals of unknown callers that get an audit line, each minute: whoever has no credential must not be
/// able to fill the disk.
const UNKNOWN_PER_MINUTE: u32 = 60;

/// Where a connection comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// A TCP peer's address.
    Tcp(std::net::IpAddr),
    /// Whoever may open the Unix socket.
    Unix,
}

impl Peer {
    fn address(&self) -> String {
        match self {
            Self::Tcp(address) => address.to_string(),
            Self::Unix => "unix".to_owned(),
        }
    }
}

/// Whoever was recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Actor {
    /// The name of the admin token, or `local`.
    pub(super) name: String,
    /// What it may do.
    pub(super) role: Role,
}

/// What a change did, put into its response by the handler, for the audit log.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) action: &'static str,
    pub(super) target: String,
    /// Why it was revoked.
    pub(super) reason: Option<&'static str>,
    pub(super) result: &'static str,
    pub(super) id: Option<String>,
}

/// All that one request changed; a batch changes more than one thing.
#[derive(Clone, Debug)]
pub(super) struct Changes(pub(super) Vec<Change>);

/// Lets a request through to its handler, and writes what it changed, or tried to, to the audit log.
pub(super) async fn guard(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().cloned().unwrap_or(Peer::Unix);
    let change = Attempt::of(&request);
    let actor = match authorise(&api, &request, &peer, change.is_some()) {
        Ok(actor) => actor,
        Err(refusal) => {
            let Refusal { problem, actor } = *refusal;
            if let Some(attempt) = change {
                let reason = problem.reason();
                api.audit_refusal(attempt, &peer, actor, reason).await;
            }
            return problem.into_response();
        }
    };
    request.extensions_mut().insert(actor.clone());
    let Some(attempt) = change else { return next.run(request).await };
    let work = tokio::spawn(async move {
        let mut response = next.run(request).await;
        let changes = response.extensions_mut().remove::<Changes>().map(|changes| changes.0);
        let changes = changes.unwrap_or_else(|| vec![attempt.unfinished(&response)]);
        api.audit(changes, &peer, &actor).await;
        response
    });
    work.await.unwrap_or_else(|_| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "the change broke off").into_response()
    })
}

/// A request that goes no further, and who sent it, if that much is known.
struct Refusal {
    problem: Problem,
    actor: Option<Actor>,
}

fn authorise(api: &Api, request: &Request, peer: &Peer, is_change: bool) -> Result<Actor, Box<Refusal>> {
    if is_cross_site(request.headers()) {
        let problem = Problem::new(StatusCode::FORBIDDEN, "cross_site", "requests of other sites' pages are refused");
        return Err(Box::new(Refusal { problem, actor: None }));
    }
    let tokens = api.tokens();
    let actor = match peer {
        Peer::Unix if tokens.is_empty() => Some(Actor { name: "local".to_owned(), role: Role::Operator }),
        Peer::Unix | Peer::Tcp(_) => recognise(&tokens, request.headers()),
    };
    let Some(actor) = actor else {
        let problem = Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "a valid admin token is needed");
        return Err(Box::new(Refusal { problem, actor: None }));
    };
    if is_change && actor.role < Role::Operator {
        let problem = Problem::new(StatusCode::FORBIDDEN, "forbidden", "changes need the role operator");
        return Err(Box::new(Refusal { problem, actor: Some(actor) }));
    }
    Ok(actor)
}

/// Whose secret the request carries. Every secret is compared, so that the time taken does not tell which
/// one was nearly right.
fn recognise(tokens: &[AdminToken], headers: &HeaderMap) -> Option<Actor> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let (field, None) = (fields.next()?, fields.next()) else { return None };
    let (scheme, presented) = field.as_bytes().split_at_checked(7)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return None;
    }
    let mut found = 0_u64;
    let mut any = Choice::from(0);
    for (place, token) in (0_u64..).zip(tokens) {
        let same = token.secret.expose().ct_eq(presented);
        found.conditional_assign(&place, same);
        any |= same;
    }
    let token = tokens.get(usize::try_from(found).ok()?).filter(|_| any.into())?;
    Some(Actor { name: token.name.clone(), role: token.role })
}

/// Whether a browser says that a page of another site sends this.
fn is_cross_site(headers: &HeaderMap) -> bool {
    let foreign_fetch =
        headers.get("sec-fetch-site").is_some_and(|site| !matches!(site.as_bytes(), b"same-origin" | b"none"));
    let host = headers.get(header::HOST).map(|host| host.as_bytes());
    let foreign_origin = headers.get_all(header::ORIGIN).iter().any(|origin| {
        let origin = origin.as_bytes();
        let authority = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
        authority.is_none() || authority != host
    });
    foreign_fetch || foreign_origin
}

/// A request that means to change something.
#[derive(Clone, Debug)]
struct Attempt {
    action: &'static str,
    path: String,
}

impl Attempt {
    /// `None` for a request that only reads: `explain` is a POST because it carries a token.
    fn of(request: &Request) -> Option<Self> {
        let path = request.uri().path();
        if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) || path == "/v1/explain" {
            return None;
        }
        let action = match path {
            "/v1/revocations" => "revoke",
            "/v1/revocations:batch" => "revoke_batch",
            "/v1/reload" => "reload",
            "/v1/keys:rotate" => "rotate_key",
            "/v1/sessions" => "end_sessions",
            _ if path.starts_with("/v1/keys/") && path.ends_with(":retire") => "retire_key",
            _ if *request.method() == Method::DELETE && path.starts_with("/v1/revocations/") => "lift",
            _ if path.starts_with("/v1/sessions/") => "end_session",
            _ if path.starts_with("/v1/subjects/") && path.ends_with("/replace") => {
                if *request.method() == Method::DELETE { "undo_replacement" } else { "replace_subject" }
            }
            _ if path.starts_with("/v1/subjects/") && path.ends_with("/credential") => match *request.method() {
                Method::DELETE => "drop_credential",
                _ => "put_credential",
            },
            _ => "unknown",
        };
        Some(Self { action, path: path.chars().take(512).collect() })
    }

    /// What to say of a change that its handler did not get to.
    fn unfinished(self, response: &Response) -> Change {
        let result = response.extensions().get::<Refused>().map_or("refused", |refused| refused.0);
        Change { action: self.action, target: self.path, reason: None, result, id: None }
    }
}

/// The reason in a problem's response, for the audit log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused(pub(super) &'static str);

/// How many unknown callers were written down in the present minute.
#[derive(Debug, Default)]
pub(super) struct Unknown(Mutex<(i64, u32)>);

impl Unknown {
    fn may_be_written(&self, now: Timestamp) -> bool {
        let minute = now.secs() / 60;
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0 != minute {
            *state = (minute, 0);
        }
        state.1 = state.1.saturating_add(1);
        state.1 <= UNKNOWN_PER_MINUTE
    }
}

const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Operator => "operator",
    }
}

impl Api {
    async fn audit(&self, changes: Vec<Change>, peer: &Peer, actor: &Actor) {
        let events = changes.into_iter().map(|change| AuditEvent {
            actor: actor.name.clone(),
            role: role_name(actor.role),
            address: peer.address(),
            action: change.action,
            target: change.target,
            reason: change.reason,
            result: change.result,
            id: change.id,
        });
        self.write_audit(events.collect()).await;
    }

    async fn audit_refusal(&self, attempt: Attempt, peer: &Peer, actor: Option<Actor>, reason: &'static str) {
        if actor.is_none() && !self.unknown_callers().may_be_written(self.now()) {
            return;
        }
        let role = actor.as_ref().map_or("none", |actor| role_name(actor.role));
        let event = AuditEvent {
            actor: actor.map_or_else(|| "unknown".to_owned(), |actor| actor.name),
            role,
            address: peer.address(),
            action: attempt.action,
            target: attempt.path,
            reason: None,
            result: reason,
            id: None,
        };
        self.write_audit(vec![event]).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn tokens() -> Vec<AdminToken> {
        let token = |name: &str, role, secret: &str| AdminToken {
            name: name.to_owned(),
            role,
            secret: Secret::new(secret.as_bytes().to_vec()),
        };
        vec![
            token("eyes", Role::Viewer, "v".repeat(32).as_str()),
            token("ops", Role::Operator, "o".repeat(32).as_str()),
        ]
    }

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_a_whole_secret_is_recognised() {
        let whole = "o".repeat(32);
        for (value, name) in [
            (format!("Bearer {whole}"), Some("ops")),
            (format!("bearer {whole}"), Some("ops")),
            (format!("Bearer {}", "v".repeat(32)), Some("eyes")),
            (format!("Bearer {}", &whole[1..]), None),
            (format!("Bearer {whole}o"), None),
            (format!("Bearer  {whole}"), None),
            (format!("Basic {whole}"), None),
            ("Bearer ".to_owned(), None),
            ("Bearer".to_owned(), None),
            (String::new(), None),
        ] {
            let actor = recognise(&tokens(), &headers(&[("authorization", &value)]));
            assert_eq!(actor.map(|actor| actor.name).as_deref(), name, "{value}");
        }
        let bearer = format!("Bearer {whole}");
        assert_eq!(recognise(&tokens(), &headers(&[("authorization", &bearer), ("authorization", &bearer)])), None);
        assert_eq!(recognise(&[], &headers(&[("authorization", &bearer)])), None);
    }

    #[test]
    fn pages_of_other_sites_are_told_by_their_origin() {
        for (fields, foreign) in [
            (&[("host", "gate:9901")][..], false),
            (&[("host", "gate:9901"), ("origin", "http://gate:9901")], false),
            (&[("host", "gate:9901"), ("origin", "https://gate:9901")], false),
            (&[("host", "gate:9901"), ("origin", "https://evil.example")], true),
            (&[("host", "gate:9901"), ("origin", "null")], true),
            (&[("origin", "https://gate:9901")], true),
            (&[("host", "gate:9901"), ("sec-fetch-site", "cross-site")], true),
            (&[("host", "gate:9901"), ("sec-fetch-site", "same-site")], true),
            (&[("host", "gate:9901"), ("sec-fetch-site", "none")], false),
        ] {
            assert_eq!(is_cross_site(&headers(fields)), foreign, "{fields:?}");
        }
    }

    #[test]
    fn unknown_callers_do_not_fill_the_disk() {
        let unknown = Unknown::default();
        let at = Timestamp::from_secs(1_700_000_040);
        let written = (0..1000).filter(|_| unknown.may_be_written(at)).count();
        assert_eq!(written, UNKNOWN_PER_MINUTE as usize);
        assert!(unknown.may_be_written(Timestamp::from_secs(1_700_000_100)));
    }
}
