//! Routes: which requests, to where, and who may.

use std::collections::HashMap;

use http::Method;

use super::issuer::{SESSION, constraint};
use super::upstream::is_host;
use super::{DAY, DECADE, Lower, MILLISECOND, Place, SECOND};
use crate::config::model::{Identity, PathMatch, RateLimit, Route, TokenConfig};
use crate::config::problem::did_you_mean;
use crate::config::{path, raw};
use crate::gate::{ClaimRule, Demand, OnStale, Pattern, Requirement, Test};

/// What routes may refer to.
pub(super) struct Names<'a> {
    pub(super) upstreams: Vec<&'a str>,
    /// Which of them speak HTTP/2 alone.
    pub(super) http2_only: Vec<bool>,
    pub(super) issuers: Vec<&'a str>,
    /// Whether the gateway has sessions.
    pub(super) session: bool,
    pub(super) rate_limits: &'a [RateLimit],
}

/// What holds for routes that do not say otherwise.
pub(super) struct Defaults<'a> {
    pub(super) identity: &'a Identity,
    pub(super) token: &'a TokenConfig,
    pub(super) max_body: Option<u64>,
    /// `cluster.on_stale`; none without a cluster.
    pub(super) on_stale: Option<OnStale>,
}

/// Methods that people use, for suggestions.
const METHODS: [&str; 7] = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];

impl Lower<'_, '_> {
    pub(super) fn routes(
        &mut self,
        raw: &[raw::Route],
        place: &Place<'_>,
        names: &Names<'_>,
        defaults: &Defaults<'_>,
    ) -> Vec<Route> {
        let mut routes: Vec<Route> = Vec::new();
        let mut taken: HashMap<String, usize> = HashMap::new();
        for (index, raw) in raw.iter().enumerate() {
            let place = place.item(index);
            let mut route = self.route(raw, &place, names, defaults);
            if let Some(name) = &raw.name {
                self.name(name, "a route", &place.key("name"));
                if let Some(earlier) = taken.get(name) {
                    let label = format!("`routes[{earlier}]` has it already");
                    self.error(&place.key("name"), format!("two routes are named `{name}`"), label);
                }
            } else {
                let plain = route.name.clone();
                let mut again = 1;
                while taken.contains_key(&route.name) {
                    again += 1;
                    route.name = format!("{plain} #{again}");
                }
            }
            if raw.r#match.is_some()
                && let Some(earlier) = routes.iter().position(|earlier| covers(earlier, &route))
            {
                let label = format!("`routes[{earlier}]` takes every request that it could match");
                self.findings.warning(place.key("match").span, format!("`{}` is never reached", place.path), label);
            }
            taken.insert(route.name.clone(), index);
            routes.push(route);
        }
        routes
    }

    fn route(&mut self, raw: &raw::Route, place: &Place<'_>, names: &Names<'_>, defaults: &Defaults<'_>) -> Route {
        let (hosts, path, methods) = self.request_match(raw.r#match.as_ref(), &place.key("match"));
        let name = raw.name.clone().unwrap_or_else(|| name_of(&hosts, &path, &methods));
        let upstream = raw.upstream.as_deref().and_then(|wanted| {
            let at = place.key("upstream");
            let found = names.upstreams.iter().position(|name| *name == wanted);
            if found.is_none() {
                let label = did_you_mean(wanted, names.upstreams.iter().copied()).unwrap_or_default();
                self.error(&at, format!("there is no upstream `{}`", wanted.escape_debug()), label);
            }
            found
        });
        let on_stale = self.on_stale(raw, place, defaults);
        let auth = match &raw.auth {
            Some(raw::Either::Short(raw::AuthWord::None)) => Requirement::Public,
            Some(raw::Either::Short(raw::AuthWord::Required)) | None => {
                Requirement::Token(Demand { on_stale, ..Demand::default() })
            }
            Some(raw::Either::Long(demand)) => {
                Requirement::Token(Demand { on_stale, ..self.demand(demand, &place.key("auth"), names) })
            }
        };
        let auth = if raw.report_only.unwrap_or(false) { self.reported(auth, raw, place) } else { auth };
        if let Requirement::Token(_) | Requirement::Reported(_) = auth
            && names.issuers.is_empty()
            && !names.session
        {
            let at = if raw.auth.is_some() { place.key("auth") } else { place.clone() };
            let label = "nobody could pass: add `issuers`, or write `auth: none`";
            self.error(&at, format!("`{}` needs a token, and there are no issuers", place.path), label);
        }
        let login = raw.login.unwrap_or(false);
        if login && !names.session {
            self.error(&place.key("login"), "a login route opens sessions, and there are none", "add `session`");
        }
        let logout = raw.logout.unwrap_or(false);
        if login && logout {
            let label = "a route is for logins or for logouts";
            self.error(&place.key("logout"), format!("`{}` opens sessions and ends them", place.path), label);
        }
        let upgrades = self.upgrades(raw.upgrades.as_deref().unwrap_or_default(), &place.key("upgrades"));
        if !upgrades.is_empty() && upstream.and_then(|at| names.http2_only.get(at)).is_some_and(|only| *only) {
            let message = format!("`{}` goes to an upstream that speaks HTTP/2 alone", place.path);
            self.error(&place.key("upgrades"), message, "an upgrade needs HTTP/1.1: `protocol: auto` or `http1`");
        }
        let identity = match &raw.claims_to_headers {
            Some(own) => self.identity(Some(own), &place.key("claims_to_headers"), defaults.token),
            None => defaults.identity.clone(),
        };
        let max_body = match &raw.max_body {
            None => defaults.max_body,
            size => self.size_or_none(size.as_ref(), &place.key("max_body"), 0..=u64::MAX),
        };
        let no_subject = match auth {
            Requirement::Public => Some("the route is public: count by `address` or `route`"),
            Requirement::Reported(_) => Some("the route only reports: count by `address` or `route`"),
            Requirement::Token(_) => None,
        };
        let at = place.key("rate_limits");
        let rate_limits = self.rules_named(raw.rate_limits.as_deref(), &at, names.rate_limits, no_subject);
        Route {
            name,
            hosts,
            path,
            methods,
            upstream: upstream.unwrap_or(0),
            auth,
            login,
            logout,
            forward_token: raw.forward_token.unwrap_or(false),
            identity,
            preserve_host: raw.preserve_host.unwrap_or(true),
            upgrades,
            max_body,
            timeout: self.duration_or_none(raw.timeout.as_ref(), &place.key("timeout"), MILLISECOND..=DAY),
            rate_limits,
            pass_preflight: raw.pass_preflight.unwrap_or(false),
        }
    }

    /// What becomes of a route's requests while the state of the cluster is not known.
    fn on_stale(&mut self, raw: &raw::Route, place: &Place<'_>, defaults: &Defaults<'_>) -> OnStale {
        let Some(own) = raw.on_stale else { return defaults.on_stale.unwrap_or_default() };
        let at = place.key("on_stale");
        if defaults.on_stale.is_none() {
            self.error(&at, format!("`{}` is about a cluster, and there is none", at.path), "add `cluster`");
        }
        if matches!(raw.auth, Some(raw::Either::Short(raw::AuthWord::None))) {
            let message = format!("`{}` is about tokens, and the route is public", at.path);
            self.error(&at, message, "`auth: none` asks for none");
        }
        own.into()
    }

    /// The protocols that connections may change to.
    fn upgrades(&mut self, raw: &[String], place: &Place<'_>) -> Vec<String> {
        let mut upgrades = Vec::new();
        for (index, text) in raw.iter().enumerate() {
            let at = place.item(index);
            let name = text.to_ascii_lowercase();
            // RFC 9110 §7.8: a token, or two with a slash between.
            let is_token = |part: &str| http::HeaderName::from_bytes(part.as_bytes()).is_ok();
            let (protocol, version) = name.split_once('/').map_or((name.as_str(), None), |(it, of)| (it, Some(of)));
            if !is_token(protocol) || !version.is_none_or(is_token) {
                self.error(&at, format!("`{}` is not a protocol", text.escape_debug()), "such as `websocket`");
            } else if matches!(protocol, "h2c" | "h2" | "http" | "tls") {
                let label = "it would carry requests that no route has judged";
                self.error(&at, format!("`{}` cannot be let through", text.escape_debug()), label);
            } else if upgrades.contains(&name) {
                self.error(&at, format!("`{}` repeats an earlier one", at.path), "");
            } else {
                upgrades.push(name);
            }
        }
        upgrades
    }

    /// A requirement whose decisions are only reported.
    fn reported(&mut self, auth: Requirement, raw: &raw::Route, place: &Place<'_>) -> Requirement {
        let at = place.key("report_only");
        if raw.login.unwrap_or(false) {
            let label = "what is only reported must not open sessions";
            self.error(&at, format!("`{}` stands beside `login: true`", at.path), label);
        }
        match auth {
            Requirement::Token(demand) | Requirement::Reported(demand) => Requirement::Reported(demand),
            Requirement::Public => {
                let message = format!("`{}` has nothing to report", at.path);
                self.error(&at, message, "`auth: none` refuses nobody");
                Requirement::Public
            }
        }
    }

    fn request_match(&mut self, raw: Option<&raw::Match>, place: &Place<'_>) -> (Vec<String>, PathMatch, Vec<Method>) {
        let everything = PathMatch::Prefix("/".to_owned());
        let Some(raw) = raw else { return (Vec::new(), everything, Vec::new()) };
        let mut hosts = Vec::new();
        match (&raw.host, &raw.hosts) {
            (Some(_), Some(_)) => {
                self.error(place, format!("`{}` has `host` and `hosts`", place.path), "use one of them");
            }
            (Some(host), None) => hosts.extend(self.host(host, &place.key("host"))),
            (None, Some(list)) => {
                for (index, host) in list.iter().enumerate() {
                    hosts.extend(self.host(host, &place.key("hosts").item(index)));
                }
            }
            (None, None) => {}
        }
        let (read, at) = match (&raw.path, &raw.pattern) {
            (Some(_), Some(_)) => {
                self.error(place, format!("`{}` has `path` and `pattern`", place.path), "use one of them");
                (Ok(everything), place.clone())
            }
            (Some(text), None) => (path::prefix(text), place.key("path")),
            (None, Some(text)) => (path::pattern(text), place.key("pattern")),
            (None, None) => (Ok(everything), place.clone()),
        };
        let path = read.unwrap_or_else(|why| {
            self.error(&at, format!("`{}` could never match", at.path), why);
            PathMatch::Prefix(String::new())
        });
        let mut methods = Vec::new();
        for (index, text) in raw.methods.iter().flatten().enumerate() {
            methods.extend(self.method(text, &place.key("methods").item(index)));
        }
        (hosts, path, methods)
    }

    fn host(&mut self, text: &str, place: &Place<'_>) -> Option<String> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let bracketed = name.strip_prefix('[').and_then(|inside| inside.strip_suffix(']'));
        let good = match bracketed {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok() && name == text,
            None => is_host(name),
        };
        if good {
            return Some(text.to_ascii_lowercase());
        }
        let label = if text.contains("://") || text.contains('/') {
            "a host only: no scheme and no path"
        } else if bracketed.is_none() && text.contains(':') {
            "without the port: it is not matched"
        } else if text.ends_with('.') {
            "without the final dot: it is not matched"
        } else if text.contains('*') {
            "`*.` can only stand for the first labels, as in `*.example.com`"
        } else {
            "such as `example.com` or `*.example.com`"
        };
        self.error(place, format!("`{}` is not a host", place.path), label);
        None
    }

    fn method(&mut self, text: &str, place: &Place<'_>) -> Option<Method> {
        let upper = text.to_ascii_uppercase();
        let label = match upper.as_str() {
            "CONNECT" | "TRACE" => "never forwarded".to_owned(),
            _ if upper == text && upper.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') => {
                // A word close to a usual method is a slip of the pen, others are extension methods.
                match did_you_mean(text, METHODS).filter(|_| !METHODS.contains(&text)) {
                    None => return Method::from_bytes(text.as_bytes()).ok(),
                    Some(meant) => meant,
                }
            }
            _ => did_you_mean(text, METHODS).unwrap_or_else(|| "methods are in upper case".to_owned()),
        };
        self.error(place, format!("`{}` is not a method", text.escape_debug()), label);
        None
    }

    fn demand(&mut self, raw: &raw::Demand, place: &Place<'_>, names: &Names<'_>) -> Demand {
        for (index, issuer) in raw.issuers.iter().flatten().enumerate() {
            let at = place.key("issuers").item(index);
            if issuer == SESSION && !names.session {
                self.error(&at, "the gateway has no sessions", "add `session`, or leave it out here");
            } else if issuer != SESSION && !names.issuers.contains(&issuer.as_str()) {
                let known = names.issuers.iter().copied().chain(names.session.then_some(SESSION));
                let label = did_you_mean(issuer, known).unwrap_or_default();
                self.error(&at, format!("there is no issuer `{}`", issuer.escape_debug()), label);
            }
        }
        let scopes = raw.scopes.as_ref();
        let all = scopes.and_then(|scopes| scopes.all.clone()).unwrap_or_default();
        let any = scopes.and_then(|scopes| scopes.any.clone()).unwrap_or_default();
        for (key, list) in [("all", &all), ("any", &any)] {
            for (index, scope) in list.iter().enumerate() {
                // RFC 6749 §3.3: what a scope is made of, and so what a challenge can name.
                if !scope.bytes().all(|byte| matches!(byte, b'!'..=b'~') && !b"\"\\".contains(&byte)) {
                    let at = place.key("scopes").key(key).item(index);
                    let label = "one scope an item, of visible ASCII characters";
                    self.error(&at, format!("`{}` is not a scope", at.path), label);
                }
            }
        }
        let mut claims = Vec::new();
        for (claim, at) in place.key("claims").entries() {
            let Some(test) = raw.claims.as_ref().and_then(|all| all.get(claim)) else { continue };
            claims.extend(self.claim_test(test, &at).map(|test| ClaimRule { claim: claim.to_owned(), test }));
        }
        let acr = raw.acr.clone().unwrap_or_default();
        for (index, value) in acr.iter().enumerate() {
            // They stand in the challenge, separated by spaces (RFC 9470 §3).
            if !value.bytes().all(|byte| matches!(byte, b'!'..=b'~') && !b"\"\\".contains(&byte)) {
                let at = place.key("acr").item(index);
                let label = "one value an item, of visible ASCII characters";
                self.error(&at, format!("`{}` is not an authentication context", at.path), label);
            }
        }
        Demand {
            issuers: raw.issuers.clone().unwrap_or_default(),
            audiences: raw.audiences.clone().unwrap_or_default(),
            scopes_all: all,
            scopes_any: any,
            claims,
            max_age: self.duration_or_none(raw.max_age.as_ref(), &place.key("max_age"), SECOND..=DECADE),
            acr,
            sender: constraint(raw.sender_constrained),
            on_stale: OnStale::default(),
        }
    }

    fn claim_test(&mut self, raw: &raw::ClaimTest, place: &Place<'_>) -> Option<Test> {
        match (&raw.equals, &raw.r#in, &raw.contains, &raw.pattern) {
            (Some(value), None, None, None) => Some(Test::Equals(value.clone())),
            (None, Some(values), None, None) => Some(Test::In(values.clone())),
            (None, None, Some(value), None) => Some(Test::Contains(value.clone())),
            (None, None, None, Some(text)) => match Pattern::new(text) {
                Ok(pattern) => Some(Test::Pattern(pattern)),
                Err(why) => {
                    let at = place.key("pattern");
                    self.error(&at, format!("`{}` is not a pattern", at.path), why.to_string());
                    None
                }
            },
            _ if place.is_damaged() => None,
            _ => {
                let label = "exactly one of `equals`, `in`, `contains`, `pattern`";
                self.error(place, format!("`{}` must be one test", place.path), label);
                None
            }
        }
    }
}

/// A name made from a match: `GET,POST shop.example.com/cart`.
fn name_of(hosts: &[String], path: &PathMatch, methods: &[Method]) -> String {
    let (PathMatch::Prefix(path) | PathMatch::Pattern(path)) = path;
    let methods: Vec<&str> = methods.iter().map(Method::as_str).collect();
    let space = if methods.is_empty() { "" } else { " " };
    format!("{}{space}{}{path}", methods.join(","), hosts.join(","))
}

/// Whether every request of `later` is one of `earlier` too, as far as can be told.
fn covers(earlier: &Route, later: &Route) -> bool {
    let host = |host: &String| {
        earlier.hosts.iter().any(|pattern| match pattern.strip_prefix('*') {
            Some(suffix) => host == pattern || host.ends_with(suffix),
            None => host == pattern,
        })
    };
    let hosts = earlier.hosts.is_empty() || (!later.hosts.is_empty() && later.hosts.iter().all(host));
    let methods = earlier.methods.is_empty()
        || (!later.methods.is_empty() && later.methods.iter().all(|method| earlier.methods.contains(method)));
    hosts && methods && path::covers(&earlier.path, &later.path)
}
