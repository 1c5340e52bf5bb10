//! One request, from its head to its answer.
//!
//! [`serve`] is the outer half: it records, counts and turns refusals into answers. `pass` is the
//! inner half, the walk itself: target, route, token, decision, headers, upstream, renewal. Nothing
//! reaches an upstream without a [`Permit`], which forwarding consumes.

mod answer;
mod body;
mod decide;
mod ending;
mod endpoint;
mod explain;
mod flight;
mod forward;
mod headers;
mod http2;
mod journal;
mod need;
mod opening;
mod pace;
mod path;
mod preflight;
mod rate;
mod record;
mod refreshing;
mod renewal;
mod request_id;
mod route;
mod sender;
mod snapshot;
mod stream;
mod target;
mod upstream;

use std::convert::Infallible;
use std::rc::Rc;

use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, Uri, Version, header};
use hyper::body::Incoming;

use self::answer::Context;
pub use self::answer::{Refusal, TokenRefusal};
use self::body::RequestBody;
pub use self::body::ResponseBody;
use self::decide::{decide, report};
use self::ending::Leaving;
pub use self::explain::explain;
use self::forward::forward;
use self::headers::Forwarding;
pub use self::headers::{Coverage, Peer};
pub use self::need::{Supplied, Supplier, settle};
use self::opening::Login;
use self::pace::Pace;
pub use self::path::PathError;
pub use self::rate::RateLimits;
use self::record::Record;
use self::renewal::{Earned, Logout, Renewal};
use self::sender::DPOP;
pub use self::snapshot::{Local, Shared, Snapshot, Sources, Worker};
use self::stream::Upgrade;
pub use self::stream::{Handover, Tunnel};
use self::target::Target;
pub use self::upstream::{Checks, ContentError, Group, ServerView, UpstreamTls, UpstreamTlsError};
use crate::config::{Route, TokenPlace};
use crate::gate::{Denial, Passage, Permit, Requirement};
use crate::telemetry::Limit;

/// Answers one request. Never fails: whatever goes wrong has an answer.
///
/// `objection` is what the connection found wrong with the head.
///
/// # Errors
///
/// None.
pub async fn serve(
    worker: Rc<Worker>,
    peer: Rc<Peer>,
    handover: Rc<Handover>,
    objection: Option<Refusal>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let local = worker.local();
    let config = &local.snapshot.config;
    let trusted = peer.is_trusted(&config.trusted_proxies);
    let request_id = headers::request_id(request.headers(), trusted).unwrap_or_else(|| worker.request_ids.next());
    let client = peer.client(request.headers(), &config.trusted_proxies);
    let now = local.shared.clock.now();
    let connection = (Rc::clone(&peer), Rc::clone(&handover));
    let is_grpc = answer::is_grpc_call(&request);
    let mut record =
        Box::new(Record::begin(&local.journal, now, connection, client, request.method().clone(), request_id));
    let outcome = match objection {
        Some(objection) => Err(objection),
        None if local.journal.in_flight.is_full() => Err(Refusal::Overloaded),
        None => pass(&local, &peer, trusted, &mut record, request).await,
    };
    let mut response = match outcome {
        Ok(response) => response,
        Err(refusal) => {
            // A tunnel that the upstream granted before the answer was refused after all.
            record.upgraded = None;
            refuse(&local, &mut record, &refusal, is_grpc)
        }
    };
    response.headers_mut().insert(answer::REQUEST_ID, record.request_id.clone());
    if let Some(told) = record.told.take() {
        told.write(response.headers_mut());
    }
    if handover.is_stream() {
        response = http2::fit(response, &record.method);
    }
    record.status = response.status();
    if let Some(upgraded) = record.upgraded.take() {
        record.count();
        handover.put_tunnel(Tunnel::new(record, *upgraded));
        return Ok(response);
    }
    if handover.is_leaving() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response.body_mut().keep(record);
    Ok(response)
}

/// The walk of a request. What only some requests wait for is in boxes, and does not make every request's future
/// larger.
async fn pass(
    local: &Rc<Local>,
    peer: &Peer,
    trusted: bool,
    record: &mut Record,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Refusal> {
    let snapshot = &local.snapshot;
    let (mut head, incoming) = request.into_parts();
    let version = head.version;
    let mut handshake = None;
    if version == Version::HTTP_2 {
        http2::join_cookies(&mut head.headers);
        handshake = http2::handshake(&mut head)?;
    }
    let mut target = target::read(&head.method, &head.uri, version, &head.headers)?;
    if snapshot.access_log.enabled() {
        record.target = Some(Box::new((target.host.clone().into_owned(), target.path.forwarded.clone().into_owned())));
    }
    if !peer.may_ask(&target.host) {
        return Err(Refusal::Misdirected);
    }
    if let Some(endpoint) = endpoint::find(snapshot, target.path.matched()) {
        if let Some(rules) = snapshot.rate_limits.of_endpoints() {
            rules.ask_early(record.client, &mut record.told)?;
        }
        return Box::pin(endpoint::answer(endpoint, local, record, &head, target.query, incoming)).await;
    }
    let found = snapshot.routes.find(&target.host, target.path.matched(), &head.method);
    let route_index = found.ok_or(Refusal::NoRoute)?;
    let route = snapshot.config.routes.get(route_index).ok_or(Refusal::NoRoute)?;
    record.route = Some(route_index);

    let (host, host_text) = (target.named.take(), target.authority);
    let rules = snapshot.rate_limits.of_route(route_index);
    if let Some(rules) = rules {
        rules.ask_early(record.client, &mut record.told)?;
    }
    let preflight = route.pass_preflight && preflight::is_one(&head, &snapshot.config.token.from, &incoming);
    let (passage, place) = match &route.auth {
        Requirement::Public => (Passage::Permitted(Permit::public()), None),
        _ if preflight => (Passage::Permitted(Permit::public()), None),
        Requirement::Token(demand) => {
            let decided = decide(local, record, demand, &head, host_text, route.logout).await;
            if let (Some(rules), Err(Refusal::Denied(denial))) = (rules, &decided) {
                rules.denied(denial, record.client);
            }
            let (permit, place) = decided?;
            (Passage::Permitted(permit), Some(place))
        }
        Requirement::Reported(demand) => {
            Box::pin(report(local, record, demand, &head, host_text)).await;
            (Passage::Unenforced(route.auth.unenforced().ok_or(Refusal::Internal)?), None)
        }
    };
    if let (Some(rules), Some(bearer)) = (rules, passage.bearer()) {
        rules.ask_for(&bearer.verified, &mut record.told)?;
    }
    let renewal = renewal::plan(local, record, &passage, &head.headers);
    if let (Renewal::Reused, Some(bearer)) = (renewal, passage.bearer()) {
        return Err(Box::pin(ending::reused(local, record, bearer)).await);
    }
    let mut earned = Earned { renewal, ..Earned::default() };
    if (route.login || route.logout) && !preflight || renewal == Renewal::Exchange {
        Box::pin(doors(local, record, route, &head, host_text, &mut earned)).await?;
    }

    // The length a request says its body has, as a number.
    let length = if target.states_length { http_body::Body::size_hint(&incoming).exact() } else { None };
    let has_body = !http_body::Body::is_end_stream(&incoming);
    if let (Some(limit), Some(length)) = (route.max_body, length)
        && length > limit
    {
        return Err(Refusal::BodyTooLarge);
    }
    let (absolute, expects) = (target.absolute, target.expects);
    let upgrade = if has_body || expects { None } else { Upgrade::asked(route, &head) };
    let upgrade = match (upgrade, handshake) {
        (None, Some(_)) => return Err(Refusal::MethodNotAllowed("")),
        (upgrade, handshake) => upgrade.map(|upgrade| upgrade.on_stream(handshake)),
    };
    if let Some(uri) = rewritten(&target, &head.uri) {
        head.uri = uri;
    }
    let from = std::mem::replace(&mut head.version, Version::HTTP_11);
    let fields = &mut head.headers;
    let announced = if has_body && length.is_none() { snapshot.cleaner.announced(fields) } else { None };
    let mut kept = snapshot.cleaner.clean(fields, trusted);
    kept.takes_trailers &= (kept.names_te || from == Version::HTTP_2) && upgrade.is_none();
    if kept.takes_trailers {
        headers::take_trailers(fields);
    }
    if let Some(sessions) = &snapshot.sessions {
        refreshing::strip(sessions, fields);
    }
    if !route.forward_token {
        remove_tokens(local, fields, place);
        if kept.proof && place.is_some() {
            fields.remove(DPOP);
        }
    }
    if let Some(host) = host.as_ref().filter(|_| absolute) {
        fields.insert(header::HOST, host.clone());
    }
    if expects {
        fields.remove(header::EXPECT);
    }
    if let Some(length) = length {
        headers::spell_length(fields, length);
    } else if has_body {
        // Said outright, because a GET is not expected to have a body.
        fields.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        if let Some(announced) = announced {
            fields.insert(header::TRAILER, announced);
        }
    }
    if let Some(upgrade) = &upgrade {
        upgrade.announce(fields);
    }
    let body = if has_body {
        let pace = Pace::new(&snapshot.config.limits, record.started);
        RequestBody::new(incoming, route.max_body, pace, Some(Rc::clone(&local.journal)))
    } else {
        RequestBody::empty()
    };
    record.body = body.progress();

    // Boxed, for it is large, and goes through many hands.
    let request = Box::new(Request::from_parts(head, body));
    let forwarding = Forwarding { version, host, kept };
    let (mut response, passage) =
        forward(local, record, (route_index, route), passage, (request, &forwarding), upgrade).await?;
    earned.credential = place.and_then(|place| snapshot.config.token.from.get(place));
    renewal::finish(local, record, &passage, earned, response.headers_mut_and_status()).await?;
    Ok(response.into_response())
}

/// The whole answer to a head of HTTP/1.1 that did not become whole in time: there is no request that anybody else
/// could answer.
#[must_use]
pub fn head_too_slow(worker: &Worker) -> Vec<u8> {
    let local = worker.local();
    let config = &local.snapshot.config;
    let request_id = worker.request_ids.next();
    let context = Context {
        realm: &config.token.realm,
        proof_algorithms: &config.token.proofs.spelled,
        request_id: request_id.to_str().unwrap_or_default(),
        is_grpc: false,
    };
    let mut response = Refusal::HeadTooSlow.response(context);
    response.headers_mut().insert(answer::REQUEST_ID, request_id.clone());
    answer::written(&response)
}

/// What a request may open or end, which must be read from its head before that goes upstream.
async fn doors(
    local: &Local,
    record: &Record,
    route: &Route,
    head: &http::request::Parts,
    authority: Option<&str>,
    earned: &mut Earned<'_>,
) -> Result<(), Refusal> {
    earned.device = renewal::device(&local.snapshot, record, &head.headers);
    if route.login {
        // A login is let through whatever comes with it; what is not proven to be there is not ended.
        let earlier = ending::presented(local, record.time, head, authority).await.ok().flatten();
        let earlier = match earlier {
            Some(verified) => Some(Leaving::session_of(&verified)),
            None => {
                let family = refreshing::family_in_cookie(local, head, authority).await.ok().flatten();
                family.map(|family| Leaving::session_of_family(local, &family))
            }
        };
        earned.login = Some(Box::new(Login { earlier, device: std::mem::take(&mut earned.device) }));
    }
    if route.logout {
        let leaving = ending::presented(local, record.time, head, authority).await.map_err(|stage| {
            record.denied(&stage.denial, stage.issuer);
            Refusal::Denied(stage.denial)
        })?;
        let leaving = match leaving {
            Some(verified) => Some(Leaving::of(&verified)),
            None => {
                let family = refreshing::family_in_cookie(local, head, authority).await?;
                family.map(|family| Leaving::of_family(local, &family))
            }
        };
        earned.logout = Some(Box::new(Logout(leaving)));
    }
    Ok(())
}

/// Removes the token that was presented, and on every route the session cookie: it is the gateway's own.
fn remove_tokens(local: &Local, fields: &mut http::HeaderMap, place: Option<usize>) {
    let snapshot = &local.snapshot;
    if let Some(found) = place {
        // Identical copies count as one token, so it may be in several places.
        for (index, place) in snapshot.config.token.from.iter().enumerate() {
            match place {
                // Had it held anything else beside the token, it would not have been found there.
                TokenPlace::Header(name) if index == found => drop(fields.remove(name)),
                _ => headers::remove_token(fields, place),
            }
        }
    }
    if let Some(sessions) = &snapshot.sessions {
        headers::remove_cookie(fields, &sessions.config().cookie);
    }
}

/// The target to go upstream, if it is not the very one that came.
fn rewritten(target: &Target<'_>, uri: &Uri) -> Option<Uri> {
    if uri.authority().is_none() && uri.path() == target.path.forwarded {
        return None;
    }
    let mut text = target.path.forwarded.to_string();
    if let Some(query) = target.query {
        text.push('?');
        text.push_str(query);
    }
    PathAndQuery::try_from(text).ok().map(Uri::from)
}

/// The limit that a request is refused for, unless it is counted as what its body has met.
fn limit_of(refusal: &Refusal, record: &Record) -> Option<Limit> {
    match refusal {
        Refusal::UriTooLong => Some(Limit::UriBytes),
        Refusal::Denied(Denial::TokenTooLarge) => Some(Limit::TokenBytes),
        Refusal::BodyTooLarge if record.body.is_none() => Some(Limit::MaxBody),
        Refusal::Overloaded => Some(Limit::RequestsInFlight),
        Refusal::UpstreamOverloaded => Some(Limit::MaxRequests),
        _ => None,
    }
}

/// Answers with a refusal. A revoked token in a cookie is cleared with it; one that has merely expired
/// is not, for another tab may just have renewed it.
fn refuse(local: &Local, record: &mut Record, refusal: &Refusal, is_grpc: bool) -> Response<ResponseBody> {
    record.reason = Some(refusal.reason());
    if let Some(limit) = limit_of(refusal, record) {
        local.shared.metrics.limits.hit(limit);
    }
    let config = &local.snapshot.config;
    let context = Context {
        realm: &config.token.realm,
        proof_algorithms: &config.token.proofs.spelled,
        request_id: record.request_id(),
        is_grpc,
    };
    let mut response = refusal.response(context);
    let over = matches!(
        refusal,
        Refusal::Denied(Denial::Revoked(_) | Denial::CredentialChanged)
            | Refusal::NoToken(TokenRefusal::InvalidGrant(Denial::Revoked(_) | Denial::CredentialChanged))
    );
    if record.cookie_borne.get() && over {
        renewal::clear_cookie(&local.snapshot, response.headers_mut());
    }
    response.map(ResponseBody::whole)
}
