//! How many sessions somebody may have, and what becomes of a token that comes back after it was replaced.

use std::thread;

use serde_json::json;

use crate::sessions::{exchanged, log_in, service, slide, sliding};
use crate::support::issuer::claims_of;
use crate::support::{Gateway, Site, bearer, now, until};

fn refusal(gateway: &Gateway, token: &str) -> Option<String> {
    let response = gateway.get_as("/orders", token);
    (response.status != 200).then(|| response.reason())
}

fn alive<'t>(gateway: &Gateway, tokens: &'t [String]) -> Vec<&'t String> {
    tokens.iter().filter(|token| refusal(gateway, token).is_none()).collect()
}

#[test]
fn with_one_session_the_last_login_wins() {
    let upstream = service();
    let mut site = sliding(&upstream);
    site.set("/session/max_per_subject", json!(1));
    let gateway = site.start();
    let first = log_in(&gateway, "bob");
    let descendant = slide(&gateway, &first);
    let other = log_in(&gateway, "ann");
    let second = log_in(&gateway, "bob");
    for dead in [&first, &descendant] {
        assert!(refusal(&gateway, dead).is_some());
    }
    for living in [&second, &other] {
        assert_eq!(refusal(&gateway, living), None);
    }
    // Exchanges are logins, too; showing the same token again is none.
    let parents = [30, 20].map(|age| site.accounts.token(json!({"iat": now() - age})));
    let sessions = parents.each_ref().map(|parent| exchanged(&gateway, parent));
    assert_eq!(refusal(&gateway, &sessions[0]).as_deref(), Some("revoked_subject"));
    assert_eq!(gateway.post_as("/session/exchange", &parents[0]).status, 401, "an older login does not come back");
    exchanged(&gateway, &parents[1]);
    assert_eq!(refusal(&gateway, &sessions[1]), None);
    gateway.kill();
    let gateway = site.start();
    assert!(refusal(&gateway, &first).is_some(), "it was durable");
    assert_eq!(refusal(&gateway, &second), None);
}

#[test]
fn a_limit_holds_however_many_log_in_at_once_and_across_starts() {
    let upstream = service();
    let mut site = Site::with_sessions(&upstream);
    site.set("/session/max_per_subject", json!(3));
    let gateway = site.start();
    let tokens: Vec<String> = thread::scope(|scope| {
        let logins: Vec<_> = (0..12).map(|_| scope.spawn(|| gateway.get("/login/bob", &[]).session_token())).collect();
        logins.into_iter().filter_map(|it| it.join().unwrap()).collect()
    });
    let living = alive(&gateway, &tokens);
    assert_eq!(living.len(), 3, "of {}", tokens.len());
    let listed = |gateway: &Gateway, token: &str| {
        gateway.get_as("/session/devices", token).json()["devices"].as_array().unwrap().len()
    };
    assert_eq!(listed(&gateway, living[0]), 3);
    let (code, output, _) = gateway.stop();
    assert_eq!(code, 0, "{output}");

    let gateway = site.start();
    let latest = log_in(&gateway, "bob");
    assert_eq!((refusal(&gateway, &latest), alive(&gateway, &tokens).len()), (None, 2), "the oldest has ended");
    assert_eq!(listed(&gateway, &latest), 3);
    let audit = site.read("audit.jsonl");
    assert!(audit.contains(r#""action":"session_limit""#), "{audit}");
}

fn strict(upstream: &crate::support::Upstream) -> Site {
    let mut site = sliding(upstream);
    site.set("/session/reissue", json!({"after": "1%", "rotation": "strict", "reuse_grace": "2s"}));
    site
}

/// Whoever comes second, thief or owner: the session is dead for both.
#[test]
fn a_token_that_comes_back_ends_its_session_for_both() {
    let upstream = service();
    let site = strict(&upstream);
    let gateway = site.start();
    let stolen = log_in(&gateway, "bob");
    let newest = slide(&gateway, &stolen);
    assert_eq!(refusal(&gateway, &stolen), None, "its successor is on its way");
    assert_eq!(refusal(&gateway, &newest), None);
    assert_eq!(refusal(&gateway, &stolen), None, "within the grace it may have been on its way");
    let reason = until("the end of the grace", || refusal(&gateway, &stolen));
    assert_eq!(reason, "revoked_session");
    for token in [&stolen, &newest] {
        assert_eq!(refusal(&gateway, token).as_deref(), Some("revoked_session"));
    }
    let audit = site.read("audit.jsonl");
    assert_eq!(audit.matches(r#""action":"session_reuse""#).count(), 1, "one theft, one line: {audit}");
    assert_eq!(gateway.admin().metric("portcullis_reissues_total", &[("result", "reused")]), 1.0);
    let records = gateway.admin().get("/v1/revocations").json();
    assert_eq!(records["items"][0]["reason"], "session_reuse", "{records}");
    gateway.kill();
    assert_eq!(refusal(&site.start(), &newest).as_deref(), Some("revoked_session"));
}

#[test]
fn what_was_replaced_stays_replaced_across_an_orderly_end() {
    let upstream = service();
    let site = strict(&upstream);
    let gateway = site.start();
    let stolen = log_in(&gateway, "bob");
    let newest = slide(&gateway, &stolen);
    assert_eq!(refusal(&gateway, &newest), None);
    let (code, output, _) = gateway.stop();
    assert_eq!(code, 0, "{output}");
    let gateway = site.start();
    // Only the old one is shown from here on.
    assert_eq!(until("the end of the grace", || refusal(&gateway, &stolen)), "revoked_session");
}

/// Tabs that share one jar: whoever is late is not taken for a thief, and all get the same successor.
#[test]
fn parallel_requests_are_no_reuse() {
    let upstream = service();
    let site = strict(&upstream);
    let gateway = site.start();
    let mut token = log_in(&gateway, "bob");
    for _ in 0..3 {
        let next = slide(&gateway, &token);
        thread::scope(|scope| {
            for tab in 0..10 {
                let token = if tab % 2 == 0 { &token } else { &next };
                scope.spawn(|| assert_eq!(gateway.get("/orders", &[("Authorization", &bearer(token))]).status, 200));
            }
        });
        token = next;
    }
    assert_eq!(claims_of(&token)["sub"], "local:bob");
    assert_eq!(gateway.admin().metric("portcullis_reissues_total", &[("result", "reused")]), 0.0);
}
