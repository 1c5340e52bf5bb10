//! What would be decided about a request, and why: the same steps as the walk of a request, told.

use http::{Uri, Version};
use serde_json::Value;

use super::answer::Refusal;
use super::need::settle;
use super::sender::RequestSender;
use super::snapshot::Snapshot;
use super::{path, target};
use crate::admin::{Explanation, Question, Step};
use crate::config::TokenPlace;
use crate::gate::{Denial, Gate, Presentation, Requirement, Verified};
use crate::session::origin;
use crate::time::{Clock, Timestamp};
use crate::token::Compact;
use crate::token::present::{Scheme, present};

/// Decides about a request that is only talked about. Changes nothing, counts nothing, mints nothing; only
/// keys and the like that the decision needs are fetched, as for a request.
pub async fn explain(snapshot: &Snapshot, question: &Question, clock: &Clock) -> Explanation {
    let now = clock.now();
    if let Ok(Some(presented)) = present(&question.headers, &snapshot.config.token.from) {
        // Only to have what is needed: what comes of it is told below, step by step.
        let all = |gate: &Gate, now| gate.still_honoured(&gate.verify(presented.token, now)?, now);
        drop(settle(snapshot, clock, now, all).await);
    }
    let now = clock.now();
    let mut told = Explanation {
        at: now,
        admitted: false,
        report_only: false,
        status: None,
        reason: None,
        route: None,
        upstream: None,
        issuer: None,
        steps: Vec::new(),
        header: None,
        claims: None,
        verified: false,
        account: None,
        targets: Vec::new(),
    };
    match walk(snapshot, question, now, &mut told) {
        Ok(()) => told.admitted = true,
        Err(refusal) => {
            told.status = Some(refusal.status().as_u16());
            told.reason = Some(refusal.reason());
        }
    }
    told
}

fn walk(snapshot: &Snapshot, question: &Question, now: Timestamp, told: &mut Explanation) -> Result<(), Refusal> {
    let config = &snapshot.config;
    let route_index = find_route(snapshot, question).inspect_err(|refusal| told.fail("route", refusal.reason()))?;
    let route = config.routes.get(route_index).ok_or(Refusal::NoRoute)?;
    told.route = Some(route.name.clone());
    told.upstream = config.upstreams.get(route.upstream).map(|upstream| upstream.name.clone());
    told.pass("route", format!("`{}`, to upstream `{}`", route.name, told.upstream.clone().unwrap_or_default()));

    let demand = match &route.auth {
        Requirement::Public => {
            told.pass("requirement", "the route is open to everybody (auth: none)".to_owned());
            return Ok(());
        }
        Requirement::Token(demand) => demand,
        Requirement::Reported(demand) => {
            told.report_only = true;
            demand
        }
    };
    let presented = match present(&question.headers, &config.token.from) {
        Ok(Some(presented)) => presented,
        Ok(None) => return Err(told.deny("present", Denial::MissingToken)),
        Err(_) => return Err(told.deny("present", Denial::MultipleTokens)),
    };
    if let Some(TokenPlace::Cookie(_)) = config.token.from.get(presented.place) {
        let host = question.host.as_deref().unwrap_or_else(|| origin::host(&question.headers));
        if !origin::same_origin(&question.method, &question.headers, host) {
            return Err(told.deny("present", Denial::CrossSite));
        }
    }
    told.pass("present", format!("one token of {} bytes", presented.token.len()));
    show_unverified(snapshot, presented.token, told);

    let verified = authenticate(snapshot, presented.token, now, told)?;
    let gate = &snapshot.gate;
    let refusal = |unsettled| gate.refusal(unsettled, now).denial;
    gate.verify(presented.token, now).map_err(|it| told.deny("times", refusal(it)))?;
    gate.in_time(&verified, now).map_err(|denial| told.deny("times", denial))?;
    told.pass("times", format!("good until {}", verified.until));
    gate.standing(&verified).map_err(|denial| told.deny("standing", denial))?;
    gate.credential(&verified, now).map_err(|it| told.deny("standing", refusal(it)))?;
    told.pass("standing", format!("no revocation in force for any of its {} targets", told.targets.len()));
    if verified.confirmation.is_some() || presented.scheme == Scheme::Dpop {
        let path = question.path.split('?').next().unwrap_or_default();
        let sender = RequestSender::told(&question.headers, &question.method, path, question.host.as_deref());
        let shown = Presentation { token: presented.into(), sender: &sender };
        gate.would_confirm(&verified, shown, now).map_err(|denial| told.explain_sender(denial))?;
        told.pass("sender", "it comes from whom the token is bound to".to_owned());
    }
    gate.satisfies(&verified, demand, now).map_err(|denial| told.deny("requirement", denial))?;
    told.pass("requirement", "the token has what the route demands".to_owned());
    let served = gate.accept_staleness(demand, question.method.is_safe());
    if served.map_err(|denial| told.deny("freshness", denial))? {
        told.pass(
            "freshness",
            "what was revoked elsewhere may not be known here: the route serves all the same".to_owned(),
        );
    }
    Ok(())
}

fn find_route(snapshot: &Snapshot, question: &Question) -> Result<usize, Refusal> {
    let path = question.path.split('?').next().unwrap_or_default();
    let path = path::normalise(path).map_err(Refusal::BadPath)?;
    let host = match &question.host {
        None => String::new(),
        Some(host) => {
            let mut headers = http::HeaderMap::new();
            let value = host.parse().map_err(|_| Refusal::BadRequest("the host is malformed"))?;
            headers.insert(http::header::HOST, value);
            let root = Uri::from_static("/");
            target::read(&question.method, &root, Version::HTTP_11, &headers)?.host.into_owned()
        }
    };
    snapshot.routes.find(&host, path.matched(), &question.method).ok_or(Refusal::NoRoute)
}

/// What the token says of itself, before anything of it is believed.
fn show_unverified(snapshot: &Snapshot, token: &str, told: &mut Explanation) {
    let Ok(jws) = Compact::parse(token, snapshot.config.token.max_bytes) else { return };
    told.header = Some(serde_json::json!({
        "alg": jws.header.algorithm.name(), "kid": jws.header.key_id, "typ": jws.header.typ,
    }));
    told.issuer =
        snapshot.gate.issuers().iter().find(|issuer| issuer.url == jws.claims.issuer).map(|issuer| issuer.name.clone());
    told.claims = Some(Value::Object(jws.claims.all));
}

fn authenticate(snapshot: &Snapshot, token: &str, now: Timestamp, told: &mut Explanation) -> Result<Verified, Refusal> {
    let gate = &snapshot.gate;
    let verified = gate.authenticate(token, now).map_err(|unsettled| {
        let stage = gate.refusal(unsettled, now);
        let step = match &stage.denial {
            Denial::TokenTooLarge
            | Denial::MalformedToken
            | Denial::CritNotSupported
            | Denial::MalformedClaim
            | Denial::MissingClaim => "parse",
            Denial::IssuerNotAllowed => "issuer",
            Denial::BadSignature => "signature",
            Denial::AlgNotAllowed | Denial::TypNotAllowed | Denial::UnknownKey | Denial::KeysUnavailable => "key",
            _ => "claims",
        };
        told.deny(step, stage.denial)
    })?;
    told.verified = true;
    told.targets = verified.targets();
    told.account = snapshot.gate.account(&verified).map(std::borrow::Cow::into_owned);
    let key = &verified.key;
    told.pass("parse", "a well-formed token".to_owned());
    told.pass("issuer", format!("`{}`", told.issuer.clone().unwrap_or_default()));
    told.pass("key", format!("thumbprint {}", key.thumbprint()));
    told.pass("signature", format!("good ({})", key.algorithm()));
    told.pass("claims", "issuer, audience and required claims are right".to_owned());
    Ok(verified)
}

impl Explanation {
    fn pass(&mut self, name: &'static str, detail: String) {
        self.steps.push(Step { name, passed: true, detail });
    }

    fn fail(&mut self, name: &'static str, detail: &str) {
        self.steps.push(Step { name, passed: false, detail: detail.to_owned() });
    }

    /// Says what is wrong with a proof, not merely that something is.
    fn explain_sender(&mut self, denial: Denial) -> Refusal {
        let refusal = Refusal::Denied(denial);
        self.fail("sender", refusal.detail());
        refusal
    }

    fn deny(&mut self, name: &'static str, denial: Denial) -> Refusal {
        self.fail(name, denial.reason());
        Refusal::Denied(denial)
    }
}
