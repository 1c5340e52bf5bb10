//! Brokers: where they are, and who the gateway is there.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::{Lower, Place};
use crate::cluster::nats::{self, Login, NatsBroker};
use crate::cluster::redis::{self, RedisBroker};
use crate::cluster::{Tls, nats::InvalidServer};
use crate::config::raw;
use crate::secret::Secret;

/// The shortest URL of a server that says anything.
const URL_BYTES_MIN: usize = 9;
/// What a question may take: a revocation waits for it.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(30);

impl Lower<'_, '_> {
    /// `cluster.redis`, of the cluster with this name.
    pub(super) fn redis(&mut self, raw: &raw::Redis, name: &str, place: &Place<'_>) -> Option<redis::Options> {
        let at = place.key("url");
        let url = raw.url.as_ref().and_then(|url| self.redis_url(url, &at));
        let sentinel = raw.sentinel.as_ref().map(|raw| self.sentinel(raw, &place.key("sentinel")));
        let tls = self.broker_tls(raw.tls.as_ref(), &place.key("tls"));
        if let Some(text) = url.as_ref().and_then(|url| std::str::from_utf8(url.expose()).ok()) {
            if raw.tls.is_some() && !text.contains("rediss://") && !text.contains("valkeys://") {
                let at = place.key("tls").at_key();
                self.error(&at, format!("`{}` is for nobody", at.path), "no URL is one of TLS: write `rediss://`");
            }
            if RedisBroker::is_exposed(text) {
                let message = "Redis is reached without TLS, and is not on this machine";
                self.findings.warning(at.span, message, "whoever is on the way reads the password");
            }
        }
        let timeout = self.duration(raw.timeout.as_ref(), &place.key("timeout"), TIMEOUT);
        Some(redis::Options {
            sentinel: sentinel.map_or(Some(None), |sentinel| sentinel.map(Some))?,
            tls,
            min_replicas: u32::try_from(raw.min_replicas.unwrap_or_default()).unwrap_or(u32::MAX),
            disk: raw.disk == Some(true),
            log_max: raw.log_entries.unwrap_or_default(),
            timeout,
            ..redis::Options::new(name, url?)
        })
    }

    /// A URL with a password is a secret like others, and no message repeats it.
    fn redis_url(&mut self, raw: &raw::Either<String, raw::Secret>, place: &Place<'_>) -> Option<Secret> {
        let url = match raw {
            raw::Either::Short(text) if text.contains('@') => {
                self.findings.hide(place.span.clone());
                let label = "write `url: { file: … }` or `url: { env: … }`";
                self.error(place, format!("`{}` has a password in it, which does not belong here", place.path), label);
                return None;
            }
            raw::Either::Short(text) => Secret::new(text.clone().into_bytes()),
            raw::Either::Long(secret) => self.secret(secret, URL_BYTES_MIN, place)?,
        };
        let checked = std::str::from_utf8(url.expose()).ok().map(RedisBroker::check_url);
        if checked.is_none_or(|checked| checked.is_err()) {
            let label = "`redis://user:password@host:6379` is needed, or several with spaces between";
            self.error(&place.at_key(), format!("`{}` is not the URL of a Redis server", place.path), label);
            return None;
        }
        Some(url)
    }

    fn sentinel(&mut self, raw: &raw::Sentinel, place: &Place<'_>) -> Option<redis::Sentinel> {
        let password = raw.password.as_ref().map(|password| self.text_secret(password, &place.key("password")));
        Some(redis::Sentinel {
            master: raw.master.clone()?,
            username: raw.username.clone(),
            password: password.map_or(Some(None), |password| password.map(Some))?,
        })
    }

    /// `cluster.nats`, of the cluster with this name.
    pub(super) fn nats(&mut self, raw: &raw::Nats, name: &str, place: &Place<'_>) -> Option<nats::Options> {
        let mut servers = Vec::new();
        for (index, text) in raw.servers.iter().flatten().enumerate() {
            let at = place.key("servers").item(index);
            match NatsBroker::check_server(text) {
                Ok(()) => servers.push(text.clone()),
                Err(why) => self.bad_server(text, why, &at),
            }
            if raw.tls.is_none() && NatsBroker::is_exposed(text) {
                let message = "NATS is reached without TLS, and is not on this machine";
                self.findings.warning(at.span, message, "whoever is on the way reads the password");
            }
        }
        let login = self.login(raw, place);
        let tls = self.broker_tls(raw.tls.as_ref(), &place.key("tls"));
        let timeout = self.duration(raw.timeout.as_ref(), &place.key("timeout"), TIMEOUT);
        Some(nats::Options {
            name: name.to_owned(),
            servers,
            login: login?,
            tls,
            replicas: u8::try_from(raw.replicas.unwrap_or_default()).unwrap_or(u8::MAX),
            timeout,
        })
    }

    fn bad_server(&mut self, text: &str, why: InvalidServer, place: &Place<'_>) {
        let message = format!("`{}` is not a NATS server", place.path);
        if text.contains('@') {
            self.findings.hide(place.span.clone());
            self.error(place, message, "a user and a password cannot be part of it: write `user` and `password`");
        } else {
            self.error(place, message, why.to_string());
        }
    }

    /// Who the gateway is at NATS.
    fn login(&mut self, raw: &raw::Nats, place: &Place<'_>) -> Option<Login> {
        let ways = [raw.user.is_some(), raw.token.is_some(), raw.nkey.is_some(), raw.credentials.is_some()];
        if ways.iter().filter(|way| **way).count() > 1 {
            let label = "at most one of `user`, `token`, `nkey`, `credentials`";
            self.error(&place.at_key(), format!("`{}` says more than once who the gateway is", place.path), label);
            return None;
        }
        if raw.user.is_some() != raw.password.is_some() {
            let message = format!("`{}` has half of a login", place.path);
            self.error(&place.at_key(), message, "`user` and `password` go together");
            return None;
        }
        let mut secret =
            |raw: &Option<raw::Secret>, key: &str| raw.as_ref().map(|raw| self.text_secret(raw, &place.key(key)));
        if let Some(password) = secret(&raw.password, "password") {
            return Some(Login::User { user: raw.user.clone()?, password: password? });
        }
        if let Some(token) = secret(&raw.token, "token") {
            return token.map(Login::Token);
        }
        if let Some(seed) = secret(&raw.nkey, "nkey") {
            return seed.map(Login::NKey);
        }
        match secret(&raw.credentials, "credentials") {
            Some(credentials) => credentials.map(Login::Credentials),
            None => Some(Login::None),
        }
    }

    /// A secret that is text: as long as its owner made it.
    fn text_secret(&mut self, raw: &raw::Secret, place: &Place<'_>) -> Option<Secret> {
        let secret = self.secret(raw, 1, place)?;
        if std::str::from_utf8(secret.expose()).is_err() {
            self.error(&place.at_key(), format!("`{}` is not text", place.path), "UTF-8 is needed");
            return None;
        }
        Some(secret)
    }

    fn broker_tls(&mut self, raw: Option<&raw::BrokerTls>, place: &Place<'_>) -> Tls {
        let Some(raw) = raw else { return Tls::default() };
        let client = self.client_certificate(raw.certificate.as_deref(), raw.key.as_deref(), place);
        Tls { authorities: raw.ca_file.as_ref().and_then(|file| self.trusted(file, &place.key("ca_file"))), client }
    }
}
