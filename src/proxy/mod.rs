//! One request, from its head to its answer.
//!
//! [`serve`] is the outer half: it records, counts and turns refusals into answers. `pass` is the
//! inner half, the walk itself: target, route, token, decision, headers, upstream, renewal. Nothing
//! reaches an upstream without a [`Permit`], which forwarding consumes.

mod answer;
mod body;
mod ending;
mod endpoint;
mod explain;
mod flight;
mod headers;
mod http2;
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
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version, header};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use self::answer::Context;
pub use self::answer::{Refusal, TokenRefusal};
pub use self::body::ResponseBody;
use self::body::{BodyFailure, RequestBody};
use self::ending::Leaving;
pub use self::explain::explain;
use self::headers::HopByHop;
pub use self::headers::{Coverage, Peer};
use self::http2::Handshake;
pub use self::need::{Supplied, Supplier, settle};
use self::opening::Login;
use self::pace::Pace;
pub use self::path::PathError;
pub use self::rate::RateLimits;
use self::record::Record;
use self::renewal::{Earned, Logout, Renewal};
use self::sender::DPOP;
pub use self::snapshot::{Local, Shared, Snapshot, Sources, Worker};
use self::stream::{GRACE, Held, Upgrade, Upgraded};
pub use self::stream::{Handover, Tunnel};
use self::target::Target;
pub use self::upstream::{Checks, ContentError, Group, ServerView, UpstreamTls, UpstreamTlsError};
use self::upstream::{Content, ForwardError, Lease, Terms};
use crate::config::{Protocol, Route, TokenPlace};
use crate::gate::{
    Admission, Demand, Denial, Gate, Passage, Permit, Presentation, Remembered, Requirement, Stage, Verified,
};
use crate::telemetry::Limit;
use crate::token::present::{PresentError, find};

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
    let mut record =
        Box::new(Record::begin(Rc::clone(&local), now, connection, client, request.method().clone(), request_id));
    let outcome = match objection {
        Some(objection) => Err(objection),
        None if local.in_flight.is_full() => Err(Refusal::Overloaded),
        None => pass(&local, &peer, trusted, &mut record, request).await,
    };
    let mut response = match outcome {
        Ok(response) => response,
        Err(refusal) => {
            // A tunnel that the upstream granted before the answer was refused after all.
            record.upgraded = None;
            refuse(&local, &mut record, &refusal)
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
    Ok(response.map(|body| body.recorded(record)))
}

/// The walk of a request.
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
        return endpoint::answer(endpoint, local, record, &head, target.query, incoming).await;
    }
    let found = snapshot.routes.find(&target.host, target.path.matched(), &head.method);
    let route_index = found.ok_or(Refusal::NoRoute)?;
    let route = snapshot.config.routes.get(route_index).ok_or(Refusal::NoRoute)?;
    record.route = Some(route_index);

    let host = target.named.take();
    let host_text = host.as_ref().map(|it| it.to_str().unwrap_or_default());
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
            report(local, record, demand, &head, host_text).await;
            (Passage::Unenforced(route.auth.unenforced().ok_or(Refusal::Internal)?), None)
        }
    };
    if let (Some(rules), Some(bearer)) = (rules, passage.bearer()) {
        rules.ask_for(&bearer.verified, &mut record.told)?;
    }
    let renewal = renewal::plan(local, record, &passage, &head.headers);
    if let (Renewal::Reused, Some(bearer)) = (renewal, passage.bearer()) {
        return Err(ending::reused(local, record, bearer).await);
    }
    let mut earned = Earned { renewal, ..Earned::default() };
    if (route.login || route.logout) && !preflight || renewal == Renewal::Exchange {
        doors(local, record, route, &head, host_text, &mut earned).await?;
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
    let kept = snapshot.cleaner.clean(fields, trusted);
    if kept.takes_trailers
        && from == Version::HTTP_2
        && snapshot.config.upstreams.get(route.upstream).is_some_and(|it| it.protocol != Protocol::Http1)
    {
        fields.insert(header::TE, HeaderValue::from_static("trailers"));
        // What becomes of it is known once there is a connection.
        head.version = Version::HTTP_2;
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
    headers::set_forwarding(fields, peer, version, host.as_ref(), &record.request_id, kept);
    if expects {
        fields.remove(header::EXPECT);
    }
    if let Some(length) = length {
        headers::spell_length(fields, length);
    } else if has_body {
        // Said outright, because a GET is not expected to have a body.
        fields.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if let Some(upgrade) = &upgrade {
        upgrade.announce(fields);
    }
    let pace = Pace::new(&snapshot.config.limits, record.started);
    let mut body = RequestBody::new(incoming, route.max_body, pace);
    if snapshot.config.upstreams.get(route.upstream).is_some_and(|it| it.protocol != Protocol::Http1) {
        body = body.with_trailers(snapshot);
    }
    record.body = body.progress();

    let request = Request::from_parts(head, body);
    let (mut response, passage) = forward(local, record, (route_index, route), passage, request, upgrade).await?;
    earned.credential = place.and_then(|place| snapshot.config.token.from.get(place));
    renewal::finish(local, record, &passage, earned, response.headers_mut_and_status()).await?;
    Ok(response.into_response())
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
        earned.login = Some(Login { earlier, device: std::mem::take(&mut earned.device) });
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
        earned.logout = Some(Logout(leaving));
    }
    Ok(())
}

/// The decision about a request that needs a token, and the place the token was in.
///
/// Where somebody `leaves`, a token that has merely expired lets the request through, as nobody's.
async fn decide(
    local: &Local,
    record: &mut Record,
    demand: &Demand,
    head: &http::request::Parts,
    host: Option<&str>,
    leaves: bool,
) -> Result<(Permit, usize), Refusal> {
    match judge(local, record, demand, head, host).await {
        Ok((admission, place)) => {
            record.bearer = admission.permit.bearer().cloned();
            Ok((admission.permit, place))
        }
        Err(stage) => {
            let goodbye = if leaves && stage.denial == Denial::Expired {
                goodbye(local, record, demand, head).await
            } else {
                Err(stage)
            };
            goodbye.map_err(|Stage { denial, issuer }| {
                record.denied(&denial, issuer);
                Refusal::Denied(denial)
            })
        }
    }
}

/// Lets a request through on the word of a token that has expired, without saying whose it was.
async fn goodbye(
    local: &Local,
    record: &Record,
    demand: &Demand,
    head: &http::request::Parts,
) -> Result<(Permit, usize), Stage> {
    let snapshot = &local.snapshot;
    let Ok(Some((token, place))) = find(&head.headers, &snapshot.config.token.from) else {
        return Err(Denial::MissingToken.into());
    };
    let sender = record.sender(head);
    let presented = Presentation { token, sender: &sender };
    let ask = |gate: &Gate, now| gate.admit_expired(presented, demand, now);
    settle(snapshot, &local.shared.clock, record.time, ask).await.map(|permit| (permit, place))
}

/// The same decision on a route that only reports: it is counted and logged, and the permit is dropped.
async fn report(local: &Local, record: &mut Record, demand: &Demand, head: &http::request::Parts, host: Option<&str>) {
    match judge(local, record, demand, head, host).await {
        Ok((admission, _)) => drop(admission.permit),
        Err(Stage { denial, issuer }) => record.would_deny(&denial, issuer),
    }
}

/// Finds the one token, and asks the gate.
async fn judge(
    local: &Local,
    record: &mut Record,
    demand: &Demand,
    head: &http::request::Parts,
    host: Option<&str>,
) -> Result<(Admission, usize), Stage> {
    let snapshot = &local.snapshot;
    let places = &snapshot.config.token.from;
    let (token, place) = match find(&head.headers, places) {
        Ok(Some(found)) => found,
        Ok(None) => return Err(Denial::MissingToken.into()),
        Err(PresentError::Several | PresentError::Malformed) => return Err(Denial::MultipleTokens.into()),
    };
    record.cookie_borne.set(matches!(places.get(place), Some(TokenPlace::Cookie(_))));
    if record.cookie_borne.get() && !ending::is_same_origin(head, host) {
        return Err(Denial::CrossSite.into());
    }
    let sender = record.sender(head);
    let presented = Presentation { token, sender: &sender };
    let ask = |gate: &Gate, now| {
        let began = std::time::Instant::now();
        gate.admit(&local.cache, presented, demand, now).map(|admission| (admission, began))
    };
    let (admission, began) = settle(snapshot, &local.shared.clock, record.time, ask).await?;
    let metrics = &local.shared.metrics;
    if admission.cached { &metrics.token_cache_hits } else { &metrics.token_cache_misses }.inc();
    if let Some(algorithm) = admission.verified {
        metrics.verified(algorithm, began.elapsed());
    }
    if let Some(metrics) = snapshot.decision_metrics.get(admission.issuer) {
        metrics.permitted();
    }
    Ok((admission, place))
}

/// Sends the request on. What it may pass with is consumed, and comes back with the response: there is
/// no way here without.
async fn forward(
    local: &Rc<Local>,
    record: &mut Record,
    (route_index, route): (usize, &Route),
    passage: Passage,
    mut request: Request<RequestBody>,
    upgrade: Option<Upgrade>,
) -> Result<(Forwarded, Passage), Refusal> {
    let snapshot = &local.snapshot;
    if let (Some(bearer), Some(mapping)) = (passage.bearer(), snapshot.mapping_of.get(route_index)) {
        set_identity(snapshot, bearer, *mapping, request.headers_mut());
    }
    let Some(pool) = local.pools.get(route.upstream) else { return Err(Refusal::Internal) };
    record.enter_upstream(route.upstream)?;
    let began = Instant::now();
    let until = route.timeout.map(|timeout| began + timeout);
    let is_safe = request.method().is_safe();
    let still = || passage.bearer().is_none_or(|bearer| Held::new(&local.shared, bearer).check().is_ok());
    let terms = Terms { preserve_host: route.preserve_host, upgrades: upgrade.is_some(), still: &still };
    let sending = pool.send(request, terms, began);
    let outcome = match until {
        None => sending.await,
        Some(until) => timeout_at(until, sending).await.unwrap_or(Err(ForwardError::TimedOut)),
    };
    let ended = Instant::now();
    record.upstream_took = Some(ended - began);
    let (response, mut lease) = outcome.map_err(|error| refusal_of(&error))?;
    lease.answered_at(ended);
    // A long poll: what it has waited for is not for whoever is out by now. Where the request has an effect,
    // it may be the very one that ended the session, and its answer is told.
    if is_safe
        && ended - began >= GRACE
        && let Some(bearer) = passage.bearer()
        && let Err(denial) = Held::new(&local.shared, bearer).check()
        && denial != Denial::Expired
    {
        return Err(Refusal::Denied(denial));
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok((Forwarded::switched(response, lease, upgrade.as_ref(), record)?, passage));
    }
    if response.status().is_success() && upgrade.is_some_and(|upgrade| upgrade.is_on_stream()) {
        // To a CONNECT it would say that there is a tunnel now.
        lease.failed_broken();
        return Err(Refusal::UpstreamBroken);
    }
    let patience = snapshot.config.upstreams.get(route.upstream).map_or(Duration::MAX, |it| it.response_timeout);
    Ok((Forwarded::new(response, lease, patience, until)?, passage))
}

/// A response to be handed on, with its head cleaned.
struct Forwarded {
    head: http::response::Parts,
    body: ResponseBody,
    /// Whether it opens a tunnel on a stream.
    on_stream: bool,
}

impl Forwarded {
    fn new(
        response: Response<Content>,
        mut lease: Lease,
        patience: Duration,
        until: Option<Instant>,
    ) -> Result<Self, Refusal> {
        let (mut head, incoming) = response.into_parts();
        let hop = HopByHop::of(&head.headers);
        if !is_forwardable(&head, hop) {
            lease.failed_broken();
            return Err(Refusal::UpstreamBroken);
        }
        hop.remove(&mut head.headers);
        if let Some(length) = http_body::Body::size_hint(&incoming).exact()
            && !http_body::Body::is_end_stream(&incoming)
        {
            headers::spell_length(&mut head.headers, length);
        }
        head.version = Version::HTTP_11;
        let body = ResponseBody::upstream(incoming, lease, patience, until);
        Ok(Self { head, body, on_stream: false })
    }

    /// A 101: good only for the upgrade that was asked for.
    fn switched(
        mut response: Response<Content>,
        mut lease: Lease,
        upgrade: Option<&Upgrade>,
        record: &mut Record,
    ) -> Result<Self, Refusal> {
        let Some(upgrade) = upgrade.filter(|upgrade| upgrade.is_granted(response.headers())) else {
            lease.failed_broken();
            return Err(Refusal::UpstreamBroken);
        };
        lease.switched();
        let connection = hyper::upgrade::on(&mut response);
        record.upgraded = Some(Box::new(Upgraded { connection, lease, websocket: upgrade.is_websocket() }));
        let (mut head, _) = response.into_parts();
        HopByHop::of(&head.headers).remove(&mut head.headers);
        head.headers.remove(header::CONTENT_LENGTH);
        upgrade.announce(&mut head.headers);
        head.version = Version::HTTP_11;
        Ok(Self { head, body: ResponseBody::whole(Bytes::new()), on_stream: upgrade.is_on_stream() })
    }

    const fn headers_mut_and_status(&mut self) -> (&mut http::HeaderMap, StatusCode) {
        (&mut self.head.headers, self.head.status)
    }

    fn into_response(mut self) -> Response<ResponseBody> {
        if self.on_stream {
            Handshake::answer(&mut self.head);
        }
        Response::from_parts(self.head, self.body)
    }
}

/// Whether a response has one meaning. A 101 is not answered with here; a coding beside chunked, or two framings at once, is read differently by others.
fn is_forwardable(head: &http::response::Parts, hop: HopByHop) -> bool {
    let framed_once = !hop.has_transfer_encoding() || {
        let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
        codings.next().is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
            && codings.next().is_none()
            && !head.headers.contains_key(header::CONTENT_LENGTH)
    };
    framed_once && !head.status.is_informational()
}

fn set_identity(snapshot: &Snapshot, bearer: &Remembered, mapping: usize, fields: &mut http::HeaderMap) {
    let Some(named) = snapshot.mappings.get(mapping) else { return };
    // Read before the chains are: what is made now is made anew once they change.
    let accounts = if named.account.is_some() { snapshot.gate.revocations().replacements().generation() } else { 0 };
    let make = |verified: &Verified| headers::identity(named, &snapshot.gate, verified);
    for (name, value) in bearer.identity(mapping, accounts, make).iter() {
        fields.insert(name.clone(), value.clone());
    }
}

/// Removes the token that was presented, and on every route the session cookie: it is the gateway's own.
fn remove_tokens(local: &Local, fields: &mut http::HeaderMap, place: Option<usize>) {
    let snapshot = &local.snapshot;
    if place.is_some() {
        // Identical copies count as one token, so it may be in several places.
        snapshot.config.token.from.iter().for_each(|place| headers::remove_token(fields, place));
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

const fn refusal_of(error: &ForwardError) -> Refusal {
    match error {
        ForwardError::NoServer => Refusal::UpstreamUnhealthy,
        ForwardError::Refused | ForwardError::Unresolved => Refusal::UpstreamUnreachable,
        ForwardError::QueueFull | ForwardError::QueueTimedOut => Refusal::UpstreamBusy,
        ForwardError::TlsFailed => Refusal::UpstreamTlsFailed,
        ForwardError::ConnectTimedOut | ForwardError::TimedOut => Refusal::UpstreamSlow,
        ForwardError::Broken => Refusal::UpstreamBroken,
        ForwardError::Body(BodyFailure::Broken) => Refusal::BodyBroken,
        ForwardError::Body(BodyFailure::TooLarge) => Refusal::BodyTooLarge,
        ForwardError::Body(BodyFailure::Silent | BodyFailure::TooLate | BodyFailure::TooSlow) => Refusal::BodyTooSlow,
    }
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
fn refuse(local: &Local, record: &mut Record, refusal: &Refusal) -> Response<ResponseBody> {
    record.reason = Some(refusal.reason());
    if let Some(limit) = limit_of(refusal, record) {
        local.shared.metrics.limits.hit(limit);
    }
    let config = &local.snapshot.config;
    let context = Context {
        realm: &config.token.realm,
        proof_algorithms: &config.token.proofs.spelled,
        request_id: record.request_id(),
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
