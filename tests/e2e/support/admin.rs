//! The admin API, as a client sees it.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::issuer::ACCOUNTS;
use super::{Connection, Response, bearer, request};

/// A caller of the admin API with one credential.
pub(crate) struct Admin {
    address: SocketAddr,
    authorization: String,
}

impl Admin {
    pub(crate) fn new(address: SocketAddr, secret: &str) -> Self {
        Self { address, authorization: bearer(secret) }
    }

    pub(crate) fn get(&self, target: &str) -> Response {
        self.send("GET", target, &[], b"")
    }

    pub(crate) fn delete(&self, target: &str) -> Response {
        self.send("DELETE", target, &[], b"")
    }

    pub(crate) fn post(&self, target: &str, body: &Value) -> Response {
        self.send("POST", target, &[("Content-Type", "application/json")], body.to_string().as_bytes())
    }

    pub(crate) fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let mut all = vec![("Host", "admin"), ("Connection", "close"), ("Authorization", self.authorization.as_str())];
        all.extend_from_slice(headers);
        Connection::open(self.address).send(&request(method, target, &all, body)).response()
    }

    /// Revokes, and returns what the gateway understood.
    pub(crate) fn revoke(&self, body: &Value) -> Value {
        let response = self.post("/v1/revocations", body);
        assert_eq!(response.status, 201, "{body}: {}", response.text());
        response.json()
    }

    /// Revokes one target of `accounts`.
    pub(crate) fn revoke_of_accounts(&self, kind: &str, value: &str, reason: &str) -> Value {
        self.revoke(&json!({"target": {"kind": kind, "issuer": ACCOUNTS, "value": value}, "reason": reason}))
    }

    /// What `explain` says about a raw token.
    pub(crate) fn explain(&self, token: &str) -> Value {
        let response = self.post("/v1/explain", &json!({"token": token}));
        assert_eq!(response.status, 200, "{}", response.text());
        response.json()
    }

    /// The sum of the samples of one series whose labels include all of these.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = self.get("/metrics").text();
        let wanted: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let samples = text.lines().filter_map(|line| line.rsplit_once(' ')).filter(|(series, _)| {
            let series_name = series.split('{').next().unwrap_or_default();
            series_name == name && wanted.iter().all(|label| series.contains(label.as_str()))
        });
        samples.map(|(_, value)| value.parse::<f64>().unwrap()).sum()
    }
}
