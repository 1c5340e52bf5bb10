//! The request goes to its upstream, and what comes back is made fit to be handed on.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version, header};
use tokio::time::{Instant, timeout_at};

use super::answer::Refusal;
use super::body::{BodyFailure, RequestBody, ResponseBody};
use super::headers::{self, Forwarding, HopByHop};
use super::http2::Handshake;
use super::record::Record;
use super::snapshot::{Local, Snapshot};
use super::stream::{GRACE, Held, Upgrade, Upgraded};
use super::upstream::{Content, ForwardError, Lease, Terms};
use crate::config::Route;
use crate::gate::{Denial, Passage, Remembered, Verified};
use crate::session::deliver::SESSION_GRANT;

/// Sends the request on. What it may pass with is consumed, and comes back with the response: there is
/// no way here without.
pub(super) async fn forward(
    local: &Rc<Local>,
    record: &mut Record,
    (route_index, route): (usize, &Route),
    passage: Passage,
    (request, forwarding): (Box<Request<RequestBody>>, &Forwarding),
    upgrade: Option<Upgrade>,
) -> Result<(Forwarded, Passage), Refusal> {
    let snapshot = &local.snapshot;
    let Some(pool) = local.pools.get(route.upstream) else { return Err(Refusal::Internal) };
    record.enter_upstream(route.upstream)?;
    let began = Instant::now();
    let until = route.timeout.map(|timeout| began + timeout);
    let is_safe = request.method().is_safe();
    let still = || passage.bearer().is_none_or(|bearer| Held::new(&local.shared, bearer).check().is_ok());
    let complete = |fields: &mut HeaderMap| {
        forwarding.set(fields, &record.peer, &record.request_id);
        if let (Some(bearer), Some(mapping)) = (passage.bearer(), snapshot.mapping_of.get(route_index)) {
            set_identity(snapshot, bearer, *mapping, fields);
        }
    };
    let keeps_host = route.preserve_host && forwarding.host.is_some();
    let terms = Terms { keeps_host, upgrades: upgrade.is_some(), still: &still, complete: &complete };
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
    // Where there are no sessions, a grant is nothing, and nobody's to see.
    let keeps_grant = snapshot.sessions.is_some();
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok((Forwarded::switched(response, lease, upgrade.as_ref(), keeps_grant, record)?, passage));
    }
    if response.status().is_success() && upgrade.is_some_and(|upgrade| upgrade.is_on_stream()) {
        // To a CONNECT it would say that there is a tunnel now.
        lease.failed_broken();
        return Err(Refusal::UpstreamBroken);
    }
    let patience = snapshot.config.upstreams.get(route.upstream).map_or(Duration::MAX, |it| it.response_timeout);
    let takes_trailers = forwarding.kept.takes_trailers;
    Ok((Forwarded::new(response, lease, (patience, until), takes_trailers, keeps_grant)?, passage))
}

/// A response to be handed on, with its head cleaned.
pub(super) struct Forwarded {
    head: http::response::Parts,
    body: ResponseBody,
    /// Whether it opens a tunnel on a stream.
    on_stream: bool,
}

impl Forwarded {
    fn new(
        response: Response<Content>,
        mut lease: Lease,
        (patience, until): (Duration, Option<Instant>),
        takes_trailers: bool,
        keeps_grant: bool,
    ) -> Result<Self, Refusal> {
        let (mut head, incoming) = response.into_parts();
        let said = Survey::of(&head.headers);
        if !is_forwardable(&head, &said) {
            lease.failed_broken();
            return Err(Refusal::UpstreamBroken);
        }
        let announced =
            if takes_trailers && said.hop.has_trailer() { headers::announced(&head.headers, |_| false) } else { None };
        said.clean(&mut head.headers, keeps_grant);
        if let Some(announced) = announced {
            head.headers.insert(header::TRAILER, announced);
        }
        if said.respells
            && let Some(length) = http_body::Body::size_hint(&incoming).exact()
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
        keeps_grant: bool,
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
        Survey::of(&head.headers).clean(&mut head.headers, keeps_grant);
        head.headers.remove(header::CONTENT_LENGTH);
        upgrade.announce(&mut head.headers);
        head.version = Version::HTTP_11;
        Ok(Self { head, body: ResponseBody::whole(Bytes::new()), on_stream: upgrade.is_on_stream() })
    }

    pub(super) const fn headers_mut_and_status(&mut self) -> (&mut HeaderMap, StatusCode) {
        (&mut self.head.headers, self.head.status)
    }

    pub(super) fn into_response(mut self) -> Response<ResponseBody> {
        if self.on_stream {
            Handshake::answer(&mut self.head);
        }
        Response::from_parts(self.head, self.body)
    }
}

/// What a response head has of what is looked at or ends here, found in one pass over its fields.
#[derive(Debug, Default)]
struct Survey {
    hop: HopByHop,
    states_length: bool,
    /// Whether it states its length several times, or otherwise than in plain digits.
    respells: bool,
    grants: bool,
}

impl Survey {
    fn of(headers: &HeaderMap) -> Self {
        let mut said = Self::default();
        for (name, value) in headers {
            if *name == header::CONTENT_LENGTH {
                said.respells |= said.states_length || !headers::is_plain_length(value);
                said.states_length = true;
            } else if !said.hop.notes(name, value) {
                said.grants |= *name == SESSION_GRANT;
            }
        }
        said
    }

    /// Removes what ends here.
    fn clean(&self, headers: &mut HeaderMap, keeps_grant: bool) {
        self.hop.remove(headers);
        if self.grants && !keeps_grant {
            headers.remove(SESSION_GRANT);
        }
    }
}

/// Whether a response has one meaning. A 101 is not answered with here; a coding beside chunked, or two framings at once, is read differently by others.
fn is_forwardable(head: &http::response::Parts, said: &Survey) -> bool {
    let framed_once = !said.hop.has_transfer_encoding() || {
        let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
        codings.next().is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
            && codings.next().is_none()
            && !said.states_length
    };
    framed_once && !head.status.is_informational()
}

fn set_identity(snapshot: &Snapshot, bearer: &Remembered, mapping: usize, fields: &mut HeaderMap) {
    let Some(named) = snapshot.mappings.get(mapping) else { return };
    // Read before the chains are: what is made now is made anew once they change.
    let accounts = if named.account.is_some() { snapshot.gate.revocations().replacements().generation() } else { 0 };
    let make = |verified: &Verified| headers::identity(named, &snapshot.gate, verified);
    for (name, value) in bearer.identity(mapping, accounts, make).iter() {
        fields.insert(name.clone(), value.clone());
    }
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
