//! The process is killed at random moments while it revokes: what it acknowledged is in force when it is back.
//!
//! `PORTCULLIS_KILL_ROUNDS` sets the number of rounds, 20 unless given.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::sessions::{log_in, service};
use crate::support::site::OPS;
use crate::support::{Connection, Gateway, Response, Site, bearer, now, request, until};

const WRITERS: usize = 6;

/// What was acknowledged of one revocation, by its id.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Acknowledged {
    Revoked(Target),
    /// Lifted and restored.
    Lifted(Target),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    kind: &'static str,
    value: String,
}

type Ledger = Mutex<HashMap<String, Acknowledged>>;

/// A call of the admin API that may find the other side gone.
fn call(connection: &mut Connection, method: &str, path: &str, body: &str) -> Option<Response> {
    let authorization = bearer(OPS);
    let headers = [("Host", "admin"), ("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
    connection.send(&request(method, path, &headers, body.as_bytes())).try_response().ok()
}

/// Revokes one after the other, and lifts every seventh, until the gateway is gone.
fn write(admin: SocketAddr, name: &str, acknowledged: &Ledger, count: &AtomicUsize) {
    let Ok(mut connection) = Connection::try_open(admin) else { return };
    for number in 0.. {
        let kind = ["token", "subject", "session"][number % 3];
        let target = Target { kind, value: format!("{name}-{number}") };
        let body = json!({
            "target": {"kind": kind, "issuer": "accounts", "value": target.value},
            "reason": if kind == "subject" { "account_blocked" } else { "admin" },
        });
        let Some(response) = call(&mut connection, "POST", "/v1/revocations", &body.to_string()) else { return };
        assert_eq!(response.status, 201, "{}", response.text());
        let id = response.json()["id"].as_str().unwrap().to_owned();
        acknowledged.lock().unwrap().insert(id.clone(), Acknowledged::Revoked(target.clone()));
        count.fetch_add(1, Ordering::AcqRel);
        if number % 7 == 6 {
            // From the call to its answer nobody can say which of the two is so.
            acknowledged.lock().unwrap().remove(&id);
            let path = format!("/v1/revocations/{id}?restore=true");
            let Some(response) = call(&mut connection, "DELETE", &path, "") else { return };
            assert_eq!(response.status, 200, "{}", response.text());
            acknowledged.lock().unwrap().insert(id, Acknowledged::Lifted(target));
        }
    }
}

/// Whether a token of this target is refused.
fn is_refused(site: &Site, connection: &mut Connection, target: &Target) -> bool {
    let claim = match target.kind {
        "token" => "jti",
        "subject" => "sub",
        _ => "sid",
    };
    let mut claims = json!({"iat": now()});
    claims[claim] = json!(target.value);
    let authorization = bearer(&site.accounts.token(claims));
    let response = connection.send(&request("GET", "/orders", &[("Authorization", &authorization)], b"")).response();
    match response.status {
        200 => false,
        401 => {
            assert_eq!(response.reason(), format!("revoked_{}", target.kind));
            true
        }
        other => panic!("{other}: {response:?}"),
    }
}

/// Every record the gateway has, by id, and whether it is in force.
fn listed(gateway: &Gateway) -> HashMap<String, bool> {
    let admin = gateway.admin();
    let mut records = HashMap::new();
    let mut cursor = String::new();
    loop {
        let page: Value = admin.get(&format!("/v1/revocations?limit=500{cursor}")).json();
        for item in page["items"].as_array().unwrap() {
            let previous = records.insert(item["id"].as_str().unwrap().to_owned(), item["in_force"] == true);
            assert_eq!(previous, None, "listed twice: {item}");
        }
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return records,
        }
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let rounds: usize = std::env::var("PORTCULLIS_KILL_ROUNDS").map_or(20, |rounds| rounds.parse().unwrap());
    let upstream = service();
    let mut site = Site::with_sessions(&upstream);
    // The revocations themselves are the load; a line on the disk for each would only slow it.
    site.set("/admin/audit_log", json!("off")).set("/access_log", json!("off"));
    let mut everything: HashMap<String, Acknowledged> = HashMap::new();
    let mut sessions: Vec<String> = Vec::new();
    for round in 0..rounds {
        let gateway = site.start();
        sessions.push(log_in(&gateway, "ann"));
        let (acknowledged, count) = (Ledger::default(), AtomicUsize::new(0));
        let enough = rand::random_range(1..150_usize);
        let moment = Duration::from_micros(rand::random_range(0..3_000));
        let admin = gateway.admin_address;
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (acknowledged, count) = (&acknowledged, &count);
                scope.spawn(move || write(admin, &format!("r{round}-w{writer}"), acknowledged, count));
            }
            until("some revocations", || (count.load(Ordering::Acquire) >= enough).then_some(()));
            // Not for anything to happen: so that the end comes at any point of the work.
            thread::park_timeout(moment);
            gateway.kill();
        });

        let gateway = site.start();
        let records = listed(&gateway);
        let mut connection = gateway.connect();
        for (id, what) in acknowledged.into_inner().unwrap() {
            let (target, revoked) = match &what {
                Acknowledged::Revoked(target) => (target, true),
                Acknowledged::Lifted(target) => (target, false),
            };
            assert_eq!(is_refused(&site, &mut connection, target), revoked, "round {round}, {id}: {what:?}");
            everything.insert(id, what);
        }
        for (id, what) in &everything {
            let in_force = matches!(what, Acknowledged::Revoked(_));
            assert_eq!(records.get(id), Some(&in_force), "round {round}, {id}: {what:?}");
        }
        for session in &sessions {
            assert_eq!(gateway.get_as("/orders", session).status, 200, "round {round}: sessions live on");
        }
        gateway.kill();
    }
    let lifts = everything.values().filter(|what| matches!(what, Acknowledged::Lifted(_))).count();
    eprintln!("{rounds} rounds, {} acknowledged revocations in force, {lifts} lifts too", everything.len() - lifts);
}
