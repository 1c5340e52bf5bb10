//! The store: what it holds survives a restart, and what is wrong with it is never read as "nothing is revoked".

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::sessions::{log_in, service};
use crate::support::issuer::claims_of;
use crate::support::{Gateway, Site, Upstream, bearer};

fn refused(gateway: &Gateway, token: &str, reason: &str) {
    let response = gateway.get_as("/orders", token);
    assert_eq!((response.status, response.reason()), (401, reason.to_owned()));
}

#[test]
fn a_restart_keeps_revocations_sessions_and_keys() {
    let upstream = service();
    let site = Site::with_sessions(&upstream);
    let gateway = site.start();
    let admin = gateway.admin();
    let token = site.accounts.token(json!({"jti": "dead"}));
    admin.revoke_of_accounts("token", "dead", "admin");
    admin.revoke_of_accounts("subject", "blocked", "account_blocked");
    let lifted = admin.revoke_of_accounts("subject", "forgiven", "account_blocked");
    let path = format!("/v1/revocations/{}?restore=true", lifted["id"].as_str().unwrap());
    assert_eq!(admin.delete(&path).status, 200);
    let (ended, alive) = (log_in(&gateway, "bob"), log_in(&gateway, "ann"));
    assert_eq!(gateway.post_as("/session/logout", &ended).status, 204);
    let parent = site.accounts.token_of("ann");
    let sid = claims_of(&gateway.get_as("/orders", &parent).session_token().unwrap())["sid"].clone();
    let state = |gateway: &Gateway| {
        let admin = gateway.admin();
        let status = admin.get("/v1/status").json();
        let records: Vec<Value> = ["/v1/revocations", "/v1/keys"].map(|it| admin.get(it).json()).into();
        let mut store = status["store"].clone();
        // Open sessions are rows as well, and more of them are opened below.
        for count in ["records", "sequence"] {
            let count = store[count].take();
            assert!(count.as_u64().unwrap() >= 5, "{count}");
        }
        (records, store, gateway.get("/.well-known/jwks.json", &[]).json())
    };
    let before = state(&gateway);
    let (code, output, _) = gateway.stop();
    assert_eq!(code, 0, "{output}");
    let log = fs::metadata(site.file("data/revocations.db-wal")).map_or(0, |it| it.len());
    assert_eq!(log, 0, "stopped in order, it has closed its store");

    for round in 0..2 {
        let gateway = site.start();
        assert_eq!(state(&gateway), before, "start {round}");
        refused(&gateway, &token, "revoked_token");
        refused(&gateway, &site.accounts.token_of("blocked"), "revoked_subject");
        assert_eq!(gateway.get_as("/orders", &site.accounts.token_of("forgiven")).status, 200);
        refused(&gateway, &ended, "revoked_session");
        assert_eq!(gateway.get_as("/orders", &alive).status, 200, "its session lives on");
        let again = gateway.get_as("/orders", &parent).session_token().unwrap();
        assert_eq!(claims_of(&again)["sid"], sid, "one parent, one session, also across starts");
        gateway.kill();
    }
}

/// A site that has run, and revoked `victim-jti`.
fn used(upstream: &Upstream) -> Site {
    let site = Site::with_sessions(upstream);
    let gateway = site.start();
    gateway.admin().revoke_of_accounts("token", "victim-jti", "admin");
    assert_eq!(gateway.stop().0, 0);
    site
}

/// Changes one letter of the revoked name wherever it stands.
fn alter_a_row(data: &Path) {
    let mut changed = 0;
    for entry in fs::read_dir(data).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let places: Vec<_> =
            bytes.windows(10).enumerate().filter(|(_, it)| *it == b"victim-jti").map(|(at, _)| at).collect();
        for at in &places {
            bytes[*at] = b'V';
        }
        changed += places.len();
        fs::write(path, bytes).unwrap();
    }
    assert!(changed > 0, "the name is nowhere in the store");
}

#[test]
fn a_damaged_store_is_refused_and_the_way_out_named() {
    let upstream = service();
    let database = |data: &Path| data.join("revocations.db");
    type Damage<'a> = (&'a str, Box<dyn Fn(&Path) + 'a>);
    let damages: [Damage<'_>; 7] = [
        ("a row altered", Box::new(alter_a_row)),
        ("emptied", Box::new(|data| fs::write(database(data), b"").unwrap())),
        ("cut in half", {
            Box::new(|data| {
                let bytes = fs::read(database(data)).unwrap();
                fs::write(database(data), &bytes[..bytes.len() / 2]).unwrap();
            })
        }),
        ("not a database", Box::new(|data| fs::write(database(data), [b'x'; 8192]).unwrap())),
        ("missing", Box::new(|data| fs::remove_file(database(data)).unwrap())),
        ("without its mark", Box::new(|data| fs::remove_file(data.join("mark")).unwrap())),
        ("gone with its folder", Box::new(|data| fs::remove_dir_all(data).unwrap())),
    ];
    for (what, damage) in damages {
        let site = used(&upstream);
        eprintln!("the store: {what}");
        damage(&site.file("data"));
        for attempt in 0..2 {
            let (code, output) = Gateway::refuse(&site);
            assert_ne!(code, 0, "{what}");
            assert!(output.contains("--accept-loss"), "{what}, attempt {attempt}: {output}");
        }
    }
}

#[test]
fn a_store_of_another_gateway_is_refused() {
    let upstream = service();
    let (site, other) = (used(&upstream), used(&upstream));
    fs::remove_dir_all(site.file("data")).unwrap();
    fs::rename(other.file("data"), site.file("data")).unwrap();
    let (code, output) = Gateway::refuse(&site);
    assert_ne!(code, 0);
    assert!(output.contains("another revocation store") && output.contains("--accept-loss"), "{output}");
}

#[test]
fn two_processes_do_not_share_a_store() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    let (code, output) = Gateway::refuse(&site);
    assert_ne!(code, 0);
    assert!(output.contains("in use by another process"), "{output}");
    let token = site.accounts.token_of("bob");
    assert_eq!(gateway.get_as("/orders", &token).status, 200, "the first is not disturbed");
    gateway.admin().revoke(&json!({"token": token, "reason": "admin"}));
    refused(&gateway, &token, "revoked_token");
    gateway.kill();
    refused(&site.start(), &token, "revoked_token");
}

#[test]
fn readiness_and_health_are_told_without_a_credential() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    let ask = |path: &str| {
        let bytes = crate::support::request("GET", path, &[("Connection", "close")], b"");
        crate::support::Connection::open(gateway.admin_address).send(&bytes).response()
    };
    assert_eq!((ask("/healthz").status, ask("/healthz").text()), (200, "ok\n".to_owned()));
    assert_eq!((ask("/readyz").status, ask("/readyz").text()), (200, "ready\n".to_owned()));
    let status = gateway.admin().get("/v1/status").json();
    assert_eq!((&status["ready"], &status["store"]["survives"]), (&json!(true), &json!(true)), "{status}");
    // Only on the admin listener: the traffic listener has routes, and these are not among them.
    let through = gateway.get("/readyz", &[("Authorization", &bearer(&site.accounts.token_of("bob")))]);
    assert_eq!((through.status, through.text()), (200, "hello".to_owned()), "the upstream answers");
}
