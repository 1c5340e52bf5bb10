//! Tokens that are bound to a key: worth nothing to whoever has them without it.

use std::process::Command;

use serde_json::{Value, json};

use crate::login_services::program;
use crate::sessions::{service, sliding};
use crate::support::holder::{Holder, ORIGIN};
use crate::support::issuer::claims_of;
use crate::support::{Gateway, Response, Site, Upstream, bearer, now, until};

const CHALLENGE: &str = r#"DPoP error="invalid_dpop_proof", algs="ES256 ES384 EdDSA PS256 RS256""#;

fn bound(site: &Site, holder: &Holder) -> String {
    site.accounts.token(json!({"cnf": holder.cnf()}))
}

fn refused(response: &Response, reason: &str) {
    assert_eq!((response.status, response.reason().as_str()), (401, reason), "{response:?}");
    assert_eq!(response.session_token(), None);
}

#[test]
fn a_bound_token_needs_a_proof_for_each_request_and_neither_reaches_the_upstream() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    site.route(json!({"match": {"path": "/passing/"}, "upstream": "shop", "forward_token": true}));
    let gateway = site.start();
    let (holder, thief) = (Holder::new(), Holder::new());
    let token = bound(&site, &holder);
    assert_eq!(holder.get(&gateway, "/orders?page=2", &token).status, 200, "a query in a proof is not looked at");
    upstream.take_one();
    let proof = holder.proof("GET", "/orders", &token, json!({}));
    let response = holder.send_with(&gateway, "GET", "/orders?page=2", &token, &proof);
    assert_eq!(response.status, 200, "{response:?}");
    let request = upstream.take_one();
    assert_eq!((request.header("dpop"), request.header("authorization")), (None, None));
    assert_eq!(request.header("x-auth-request-user"), Some("bob"));

    let again = holder.send_with(&gateway, "GET", "/orders", &token, &proof);
    refused(&again, "invalid_dpop_proof");
    assert_eq!(again.header("www-authenticate"), Some(CHALLENGE));
    assert_eq!(again.json()["detail"], "the proof of possession was used before");

    let other = bound(&site, &holder);
    for (proof, what) in [
        (holder.proof("POST", "/orders", &token, json!({})), "method"),
        (holder.proof("GET", "/other", &token, json!({})), "URL"),
        (holder.proof("GET", "/orders", &token, json!({"htu": "http://other.example/orders"})), "host"),
        (holder.proof("GET", "/orders", &token, json!({"htu": "https://shop.example/orders"})), "scheme"),
        (holder.proof("GET", "/orders", &other, json!({})), "token"),
        (holder.proof("GET", "/orders", &token, json!({"ath": null})), "no token"),
        (thief.proof("GET", "/orders", &token, json!({})), "key"),
        (holder.proof("GET", "/orders", &token, json!({"iat": now() - 70})), "old"),
        (holder.proof("GET", "/orders", &token, json!({"iat": now() + 60})), "future"),
        ("a.b.c".to_owned(), "form"),
    ] {
        let response = holder.send_with(&gateway, "GET", "/orders", &token, &proof);
        refused(&response, "invalid_dpop_proof");
        assert_eq!(response.header("www-authenticate"), Some(CHALLENGE), "{what}");
    }
    let proof = holder.proof("GET", "/orders", &token, json!({}));
    let authorization = format!("DPoP {token}");
    let twice = [("Authorization", authorization.as_str()), ("DPoP", &proof), ("DPoP", &proof)];
    refused(&gateway.get("/orders", &twice), "invalid_dpop_proof");
    let as_bearer = gateway.get("/orders", &[("Authorization", &bearer(&token)), ("DPoP", &proof)]);
    refused(&as_bearer, "bound_token_as_bearer");
    let challenge = as_bearer.header("www-authenticate").unwrap();
    assert!(challenge.starts_with(r#"Bearer realm="shop", error="invalid_token""#), "{challenge}");
    assert!(challenge.ends_with(r#", DPoP algs="ES256 ES384 EdDSA PS256 RS256""#), "{challenge}");
    let unbound = site.accounts.token_of("bob");
    refused(&holder.get(&gateway, "/orders", &unbound), "token_not_bound");
    assert_eq!(gateway.get_as("/orders", &unbound).status, 200);
    assert_eq!(upstream.take_one().header("authorization"), None);

    let proof = holder.proof("GET", "/passing/a", &token, json!({}));
    assert_eq!(holder.send_with(&gateway, "GET", "/passing/a", &token, &proof).status, 200);
    let request = upstream.take_one();
    assert_eq!(
        (request.header("dpop"), request.header("authorization")),
        (Some(proof.as_str()), Some(&*authorization))
    );
    let counted = gateway.admin().metric("portcullis_decisions_total", &[("reason", "invalid_dpop_proof")]);
    assert_eq!(counted, 12.0);
}

#[test]
fn a_proof_is_good_once_for_all_workers_and_across_a_reload() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    let gateway = site.start();
    let holder = Holder::new();
    let token = bound(&site, &holder);
    let proof = holder.proof("GET", "/orders", &token, json!({}));
    let asked = std::thread::scope(|scope| {
        let ask = || holder.send_with(&gateway, "GET", "/orders", &token, &proof).status;
        let all: Vec<_> = (0..12).map(|_| scope.spawn(ask)).collect();
        all.into_iter().map(|it| it.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(asked.iter().filter(|status| **status == 200).count(), 1, "{asked:?}");
    site.set("/token/realm", json!("changed"));
    site.write_config();
    assert_eq!(gateway.admin().post("/v1/reload", &json!({})).status, 200);
    refused(&holder.send_with(&gateway, "GET", "/orders", &token, &proof), "invalid_dpop_proof");
    assert_eq!(holder.get(&gateway, "/orders", &token).status, 200);
    drop(gateway);
    let old = holder.proof("GET", "/orders", &token, json!({}));
    until("the next second", || (now() > claims_of(&old)["iat"].as_i64().unwrap()).then_some(()));
    let gateway = site.start();
    for proof in [&proof, &old] {
        refused(&holder.send_with(&gateway, "GET", "/orders", &token, proof), "invalid_dpop_proof");
    }
    assert_eq!(holder.get(&gateway, "/orders", &token).status, 200);
}

#[test]
fn a_stolen_bound_token_opens_nothing_wherever_it_is_put() {
    let upstream = service();
    let site = Site::with_sessions(&upstream);
    let gateway = site.start();
    let (holder, thief) = (Holder::new(), Holder::new());
    let token = bound(&site, &holder);
    let cookie = format!("__Host-session={token}");
    let dpop = format!("DPoP {token}");
    let form = format!("subject_token={token}");
    let kind = ("Content-Type", "application/x-www-form-urlencoded");
    refused(&gateway.get_as("/orders", &token), "bound_token_as_bearer");
    refused(&gateway.get("/orders", &[("Authorization", &dpop)]), "invalid_dpop_proof");
    refused(&gateway.get("/orders", &[("Cookie", &cookie)]), "invalid_dpop_proof");
    refused(&gateway.post_as("/session/exchange", &token), "bound_token_as_bearer");
    refused(&gateway.send("POST", "/session/exchange", &[kind], form.as_bytes()), "invalid_dpop_proof");
    refused(&thief.send(&gateway, "POST", "/session/exchange", &token), "invalid_dpop_proof");
    for target in ["/orders", "/session"] {
        let proof = thief.proof("GET", target, &token, json!({}));
        refused(&gateway.get(target, &[("Cookie", &cookie), ("DPoP", &proof)]), "invalid_dpop_proof");
    }
    assert!(upstream.take().is_empty());
    let proof = holder.proof("GET", "/orders", &token, json!({}));
    assert_eq!(gateway.get("/orders", &[("Cookie", &cookie), ("DPoP", &proof)]).status, 200, "its holder's cookie");
    assert_eq!(upstream.take_one().header("dpop"), None);
}

#[test]
fn a_session_of_a_bound_token_is_bound_to_the_same_key_however_long_it_slides() {
    let upstream = service();
    let site = sliding(&upstream);
    let gateway = site.start();
    let (holder, thief) = (Holder::new(), Holder::new());
    let parent = bound(&site, &holder);
    let exchanged = holder.send(&gateway, "POST", "/session/exchange", &parent);
    assert_eq!(exchanged.status, 200, "{exchanged:?}");
    assert_eq!(exchanged.json()["token_type"], "DPoP");
    let mut session = exchanged.json()["access_token"].as_str().unwrap().to_owned();
    let silent = holder.get(&gateway, "/orders", &parent).session_token().expect("a session");
    assert_eq!(claims_of(&silent)["cnf"], holder.cnf());
    for _ in 0..3 {
        assert_eq!(claims_of(&session)["cnf"], holder.cnf());
        let stolen = session.clone();
        refused(&gateway.get_as("/orders", &stolen), "bound_token_as_bearer");
        refused(&gateway.get_as("/session", &stolen), "bound_token_as_bearer");
        refused(&gateway.get("/orders", &[("Cookie", &format!("__Host-session={stolen}"))]), "invalid_dpop_proof");
        refused(&thief.get(&gateway, "/orders", &stolen), "invalid_dpop_proof");
        session = until("a successor", || {
            let response = holder.get(&gateway, "/orders", &session);
            assert_eq!(response.status, 200, "{response:?}");
            response.session_token()
        });
        assert_ne!(session, stolen);
    }
    assert_eq!(holder.get(&gateway, "/session", &session).status, 200);
    // Whoever has a token may end it, with or without a proof: that takes nothing from its owner's safety.
    assert_eq!(gateway.post_as("/session/logout", &session).status, 204);
    refused(&holder.get(&gateway, "/orders", &session), "revoked_token");
}

#[test]
fn a_proof_is_for_the_url_that_the_client_saw_before_a_trusted_proxy() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    site.set("/trusted_proxies", json!(["127.0.0.1"]));
    let gateway = site.start();
    let holder = Holder::new();
    let token = bound(&site, &holder);
    let ask = |gateway: &Gateway, url: &str| {
        let proof = holder.proof("GET", "", &token, json!({"htu": url}));
        let authorization = format!("DPoP {token}");
        let forwarded = [("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "Public.example")];
        let own = [("Authorization", authorization.as_str()), ("DPoP", &proof)];
        gateway.get("/orders", &[&forwarded[..], &own[..]].concat()).status
    };
    assert_eq!(ask(&gateway, "https://public.example:443/orders"), 200);
    assert_eq!(ask(&gateway, &format!("{ORIGIN}/orders")), 401);
    drop(gateway);
    site.set("/trusted_proxies", json!([]));
    let gateway = site.start();
    assert_eq!(ask(&gateway, "https://public.example/orders"), 401, "anybody can say so");
    assert_eq!(ask(&gateway, &format!("{ORIGIN}/orders")), 200);
}

#[test]
fn routes_and_issuers_demand_bound_tokens_and_explain_says_what_is_wrong() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    site.route(json!({"name": "vault", "match": {"path": "/vault/"}, "upstream": "shop",
                      "auth": {"sender_constrained": "dpop"}}));
    let strict =
        crate::support::Issuer::new("https://strict.example/", "strict-1", crate::support::issuer::Key::es256());
    site.trust("strict", &strict).set("/issuers/strict/sender_constrained", json!("any"));
    let gateway = site.start();
    let holder = Holder::new();
    let (plain, token) = (site.accounts.token_of("bob"), bound(&site, &holder));
    refused(&gateway.get_as("/vault/", &plain), "token_not_bound");
    assert_eq!(gateway.get_as("/orders", &plain).status, 200);
    assert_eq!(holder.get(&gateway, "/vault/", &token).status, 200);
    refused(&gateway.get_as("/orders", &strict.token_of("bob")), "token_not_bound");
    assert_eq!(holder.get(&gateway, "/orders", &strict.token(json!({"cnf": holder.cnf()}))).status, 200);

    let admin = gateway.admin();
    let ask = |proof: &str| {
        let headers = json!({"authorization": format!("DPoP {token}"), "dpop": proof});
        let question = json!({"headers": headers, "host": "shop.example", "path": "/vault/"});
        admin.post("/v1/explain", &question).json()
    };
    let sender = |told: &Value| {
        let steps = told["steps"].as_array().unwrap().clone();
        steps.into_iter().find(|step| step["name"] == "sender").expect("a step")
    };
    let proof = holder.proof("GET", "/vault/", &token, json!({}));
    for _ in 0..2 {
        assert_eq!(ask(&proof)["admitted"], true, "asking uses nothing up");
    }
    assert_eq!(holder.send_with(&gateway, "GET", "/vault/", &token, &proof).status, 200);
    let told = ask(&proof);
    assert_eq!((&told["reason"], &told["status"]), (&json!("invalid_dpop_proof"), &json!(401)));
    assert_eq!(sender(&told)["detail"], "the proof of possession was used before");
    let told = ask(&holder.proof("GET", "/vault/x", &token, json!({})));
    assert_eq!(sender(&told)["detail"], "the proof of possession was made for another URL");
    let told = admin.explain(&token);
    assert_eq!(told["reason"], "bound_token_as_bearer");
}

#[test]
fn the_client_of_the_documents_is_let_in() {
    let Some(node) = program("node") else { return };
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/dpop/client.mjs");
    let run = |arguments: &[&str], token: &str| {
        let mut command = Command::new(&node);
        let output =
            command.arg(&script).args(arguments).env("TOKEN", token).current_dir(site.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let thumbprint = run(&["jkt"], "");
    let token = site.accounts.token(json!({"cnf": {"jkt": thumbprint}}));
    let url = format!("http://{}/orders?page=2", gateway.address);
    assert!(run(&["GET", &url], &token).starts_with("200 "));
    refused(&gateway.get_as("/orders", &token), "bound_token_as_bearer");
}
