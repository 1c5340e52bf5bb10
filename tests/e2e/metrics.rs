//! What is measured.

use serde_json::{Value, json};

use crate::sessions::{log_in, service, slide, sliding};

fn subject(name: &str) -> Value {
    json!({"target": {"kind": "subject", "issuer": "accounts", "value": name}, "reason": "admin"})
}

#[test]
fn what_happens_is_measured() {
    let upstream = service();
    let mut site = sliding(&upstream);
    // Each worker remembers tokens for itself: with one of them, a token that comes again is remembered.
    site.set("/workers", json!(1));
    let gateway = site.start();
    let admin = gateway.admin();
    let token = log_in(&gateway, "bob");
    slide(&gateway, &token);
    let parent = site.accounts.token_of("ann");
    assert_eq!(gateway.get_as("/orders", &parent).status, 200);
    assert_eq!(gateway.get_as("/orders", &parent).status, 200);
    admin.revoke(&subject("ann"));
    assert_eq!(gateway.get_as("/orders", &parent).status, 401);
    gateway.post_as("/session/logout", &token);
    admin.post("/v1/reload", &json!({}));
    for (name, labels) in [
        ("requests_total", vec![("route", "shop"), ("method", "GET"), ("status", "401")]),
        ("request_duration_seconds_count", vec![("route", "shop")]),
        ("decisions_total", vec![("issuer", "accounts"), ("reason", "revoked_subject")]),
        ("verification_duration_seconds_count", vec![("algorithm", "ES256")]),
        ("token_cache_total", vec![("result", "hit")]),
        ("token_cache_total", vec![("result", "miss")]),
        ("revocations", vec![("kind", "subject")]),
        ("revocations", vec![("kind", "session")]),
        ("revocations_total", vec![("kind", "subject"), ("reason", "admin"), ("source", "admin")]),
        ("revocations_total", vec![("kind", "session"), ("reason", "logout"), ("source", "logout")]),
        ("reissues_total", vec![("result", "minted")]),
        ("sessions_opened_total", vec![("how", "exchange")]),
        ("sessions_opened_total", vec![("how", "grant")]),
        ("upstream_requests_total", vec![("upstream", "shop")]),
        ("config_reloads_total", vec![("result", "ok")]),
        ("config_last_reload_successful", vec![]),
        ("build_info", vec![]),
    ] {
        assert!(admin.metric(&format!("portcullis_{name}"), &labels) >= 1.0, "{name} {labels:?}");
    }
    let text = admin.get("/metrics").text();
    // Present, and well at nought.
    for series in ["requests_in_flight", "upstream_connections", "store_errors_total"] {
        assert!(text.lines().any(|line| line.starts_with(&format!("portcullis_{series}"))), "{series}:\n{text}");
    }
    for series in ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"] {
        assert!(text.lines().any(|line| line.starts_with(series)), "{series}:\n{text}");
    }
    assert_eq!(admin.metric("portcullis_store_errors_total", &[]), 0.0);
    for client_said in ["bob", "ann", "/orders", "shop.example"] {
        assert!(!text.contains(client_said), "nothing a client sends is a label: {client_said}");
    }
}
