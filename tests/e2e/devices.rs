//! Where somebody is logged in: listed, ended one by one and all at once, and still known after a crash.

use std::fs;

use portcullis::time::Clock;
use serde_json::{Value, json};

use crate::sessions::{exchanged, log_in, service, slide, sliding};
use crate::support::issuer::{ACCOUNTS, claims_of};
use crate::support::site::EYES;
use crate::support::{Admin, Gateway, Response, Site, bearer, now, until};

const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0";

fn sid(token: &str) -> String {
    claims_of(token)["sid"].as_str().unwrap().to_owned()
}

fn refusal(gateway: &Gateway, token: &str) -> Option<String> {
    let response = gateway.get_as("/orders", token);
    (response.status != 200).then(|| response.reason())
}

fn devices(gateway: &Gateway, token: &str) -> Vec<Value> {
    let response = gateway.get_as("/session/devices", token);
    assert_eq!((response.status, response.header("cache-control")), (200, Some("no-store")), "{response:?}");
    response.json()["devices"].as_array().unwrap().clone()
}

fn sids(devices: &[Value]) -> Vec<&str> {
    devices.iter().map(|device| device["sid"].as_str().unwrap()).collect()
}

fn end(gateway: &Gateway, token: &str, session: &str) -> Response {
    gateway.send("DELETE", &format!("/session/devices/{session}"), &[("Authorization", &bearer(token))], b"")
}

fn end_others(gateway: &Gateway, token: &str) -> Response {
    gateway.send("DELETE", "/session/devices", &[("Authorization", &bearer(token))], b"")
}

/// How many rows the store has.
fn stored(gateway: &Gateway) -> u64 {
    gateway.admin().get("/v1/status").json()["store"]["records"].as_u64().unwrap()
}

/// Revocations there have ever been.
fn revocations(gateway: &Gateway) -> usize {
    gateway.admin().get("/v1/revocations?limit=1000").json()["items"].as_array().unwrap().len()
}

#[test]
fn somebody_sees_where_they_are_logged_in_and_nobody_else() {
    let upstream = service();
    let site = Site::with_sessions(&upstream);
    let gateway = site.start();
    let laptop = gateway.get("/login/bob", &[("User-Agent", FIREFOX)]).session_token().unwrap();
    let phone = gateway.get("/login/bob", &[("User-Agent", "<script>alert(1)</script>")]).session_token().unwrap();
    let others = log_in(&gateway, "ann");
    let listed = devices(&gateway, &laptop);
    assert_eq!(sids(&listed), [sid(&laptop), sid(&phone)], "the one that asks comes first");
    let first = &listed[0];
    assert_eq!((&first["current"], &listed[1]["current"]), (&json!(true), &json!(false)));
    assert_eq!((&first["agent"], &first["network"]), (&json!("Firefox on Linux"), &json!("127.0.0.0/24")));
    assert_eq!(listed[1].get("agent"), None, "nothing is shown as a client sent it");
    for time in ["opened_at", "last_seen_at", "ends_at"] {
        assert!(first[time].as_str().unwrap().ends_with('Z'), "{first}");
    }
    let session = gateway.get_as("/session", &laptop).json();
    assert_eq!((&session["sid"], &session["ends_at"]), (&first["sid"], &first["ends_at"]));
    assert_eq!(sids(&devices(&gateway, &others)), [sid(&others)]);

    let parent = site.accounts.token(json!({"sub": "bob", "azp": "app"}));
    let exchanged = exchanged(&gateway, &parent);
    let listed = devices(&gateway, &exchanged);
    assert_eq!((listed.len(), &listed[0]["opened_with"], &listed[0]["client"]), (1, &json!(ACCOUNTS), &json!("app")));

    // A token of another issuer is no session, and without a token there is nobody to ask.
    for path in ["/session", "/session/devices"] {
        assert_eq!(gateway.get_as(path, &parent).reason(), "claim_mismatch", "{path}");
        assert_eq!(gateway.get(path, &[]).reason(), "missing_token", "{path}");
        let head = gateway
            .connect()
            .send(&crate::support::request("HEAD", path, &[("Authorization", &bearer(&laptop))], b""))
            .response_to_head();
        assert_eq!(head.status, 200, "{path}");
    }
    let post = gateway.post_as("/session/devices", &laptop);
    assert_eq!((post.status, post.header("allow")), (405, Some("GET, HEAD, DELETE")));
    assert_eq!(gateway.get_as("/session/devices/x", &laptop).header("allow"), Some("DELETE"));
}

#[test]
fn a_device_is_logged_out_by_its_owner_alone() {
    let upstream = service();
    let site = sliding(&upstream);
    let gateway = site.start();
    let laptop = log_in(&gateway, "bob");
    let lost = log_in(&gateway, "bob");
    let successor = slide(&gateway, &lost);
    let stranger = log_in(&gateway, "eve");

    // Another's session, one that is not there, and none at all look the same.
    let answers = [sid(&lost), "no-such-session".to_owned(), String::new(), "a/b".to_owned(), sid(&laptop) + "x"];
    for session in answers {
        let response = end(&gateway, &stranger, &session);
        assert_eq!((response.status, response.reason().as_str()), (404, "unknown_session"), "{session}");
    }
    assert_eq!((refusal(&gateway, &lost), revocations(&gateway)), (None, 0));

    let response = end(&gateway, &laptop, &sid(&lost));
    assert_eq!((response.status, response.all("set-cookie").len()), (204, 0), "{response:?}");
    for dead in [&lost, &successor] {
        assert_eq!(refusal(&gateway, dead).as_deref(), Some("revoked_session"));
        assert_eq!(gateway.get_as("/session/devices", dead).reason(), "revoked_session");
    }
    assert_eq!(refusal(&gateway, &laptop), None);
    assert_eq!(sids(&devices(&gateway, &laptop)), [sid(&laptop)]);
    assert_eq!(end(&gateway, &laptop, &sid(&lost)).status, 404, "it is gone");
    let records = gateway.admin().get("/v1/revocations").json();
    let record = &records["items"][0];
    assert_eq!(
        (&record["reason"], &record["source"], &record["actor"]),
        (&json!("logout"), &json!("logout"), &json!("local:bob")),
        "{record}"
    );
    let audit = site.read("audit.jsonl");
    assert_eq!(audit.matches(r#""action":"logout_device""#).count(), 1, "{audit}");

    // One's own is a logout.
    let response = end(&gateway, &laptop, &sid(&laptop));
    assert_eq!((response.status, response.header("clear-site-data")), (204, Some(r#""cookies", "storage""#)));
    assert!(response.header("set-cookie").unwrap().contains("Max-Age=0"));
    assert_eq!(refusal(&gateway, &laptop).as_deref(), Some("revoked_session"));
    gateway.kill();
    let gateway = site.start();
    for dead in [&lost, &successor, &laptop] {
        assert_eq!(refusal(&gateway, dead).as_deref(), Some("revoked_session"), "it was durable");
    }
    assert_eq!(refusal(&gateway, &stranger), None);
}

#[test]
fn everywhere_else_is_everywhere_else() {
    let upstream = service();
    let site = sliding(&upstream);
    let gateway = site.start();
    let parents: Vec<_> = (0..3).map(|age| site.accounts.token(json!({"iat": now() - 10 * age}))).collect();
    let sessions: Vec<_> = parents.iter().map(|parent| exchanged(&gateway, parent)).collect();
    let successors: Vec<_> = sessions.iter().map(|token| slide(&gateway, token)).collect();
    let stranger = exchanged(&gateway, &site.accounts.token_of("ann"));
    // Neither the oldest nor the newest stays.
    let response = end_others(&gateway, &successors[1]);
    assert_eq!((response.status, response.json()), (200, json!({"ended": 2})), "{response:?}");
    for place in [0, 2] {
        for dead in [&parents[place], &sessions[place], &successors[place]] {
            assert!(refusal(&gateway, dead).is_some(), "{place}");
        }
        assert_eq!(gateway.post_as("/session/exchange", &parents[place]).status, 401, "it opens no other session");
    }
    for alive in [&parents[1], &sessions[1], &successors[1], &stranger] {
        assert_eq!(refusal(&gateway, alive), None);
    }
    let count = revocations(&gateway);
    assert_eq!(count, 5, "two sessions, their parents, and a cutoff for what was forgotten");
    assert_eq!(end_others(&gateway, &sessions[1]).json(), json!({"ended": 0}));
    assert_eq!(revocations(&gateway), count, "whoever repeats it does not fill the store");
    let audit = site.read("audit.jsonl");
    assert_eq!(audit.matches(r#""action":"logout_others""#).count(), count, "{audit}");
    // Whoever logs in again is in.
    let fresh = exchanged(&gateway, &site.accounts.token(json!({})));
    assert_eq!(refusal(&gateway, &fresh), None);
    gateway.kill();
    let gateway = site.start();
    for dead in [&sessions[0], &successors[2], &parents[0], &parents[2]] {
        assert!(refusal(&gateway, dead).is_some(), "it was durable");
    }
    assert_eq!(refusal(&gateway, &successors[1]), None);
}

/// A list is bounded, sessions are not: what it has forgotten ends all the same.
#[test]
fn what_the_list_has_forgotten_ends_too() {
    let upstream = service();
    let mut site = Site::with_sessions(&upstream);
    site.set("/session/devices", json!({"max": 1000}));
    let gateway = site.start();
    let earlier: Vec<_> = (0..20).map(|_| log_in(&gateway, "bob")).collect();
    let began = claims_of(&earlier[19])["orig_iat"].as_f64().unwrap();
    until("a later millisecond", || (Clock::System.now().millis() as f64 > began * 1000.0 + 1.0).then_some(()));
    let last = log_in(&gateway, "bob");
    // All of one subject share the room of a thousand with a sixty-fourth of all subjects.
    let listed = devices(&gateway, &last);
    let forgotten: Vec<_> = earlier.iter().filter(|it| !sids(&listed).contains(&&*sid(it))).collect();
    assert!(!forgotten.is_empty() && sids(&listed).contains(&&*sid(&last)), "{}", listed.len());
    assert_eq!(refusal(&gateway, forgotten[0]), None, "what is not listed lives on");
    assert_eq!(end_others(&gateway, &last).status, 200);
    for dead in &earlier {
        assert!(refusal(&gateway, dead).is_some());
    }
    assert_eq!(refusal(&gateway, &last), None);
}

#[test]
fn the_list_is_ended_only_from_the_own_origin() {
    let upstream = service();
    let mut site = Site::with_sessions(&upstream);
    site.set("/session/delivery", json!("cookie"));
    let gateway = site.start();
    let cookie = |response: &Response| response.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let (own, other) = (cookie(&gateway.get("/login/bob", &[])), cookie(&gateway.get("/login/bob", &[])));
    let session = sid(other.strip_prefix("__Host-session=").unwrap());
    assert_eq!(gateway.get("/session/devices", &[("Cookie", &own)]).json()["devices"].as_array().unwrap().len(), 2);
    for path in ["/session/devices".to_owned(), format!("/session/devices/{session}")] {
        for foreign in [&[][..], &[("Origin", "https://evil.example")], &[("Sec-Fetch-Site", "same-site")]] {
            let response = gateway.send("DELETE", &path, &[foreign, &[("Cookie", &own)]].concat(), b"");
            assert_eq!((response.status, response.reason().as_str()), (403, "cross_site"), "{path} {foreign:?}");
        }
    }
    assert_eq!(gateway.get("/orders", &[("Cookie", &other)]).status, 200);
    let fields = [("Cookie", own.as_str()), ("Origin", "https://shop.example")];
    assert_eq!(gateway.send("DELETE", &format!("/session/devices/{session}"), &fields, b"").status, 204);
    let refused = gateway.get("/session/devices", &[("Cookie", &other)]);
    assert_eq!((refused.status, refused.reason().as_str()), (401, "revoked_session"));
    assert!(refused.header("set-cookie").unwrap().contains("Max-Age=0"), "a revoked cookie is cleared here, too");
}

/// With strict rotation a token that was replaced is a stolen one, also where it would only look.
#[test]
fn a_replaced_token_does_not_look_around() {
    let upstream = service();
    let mut site = sliding(&upstream);
    site.set("/session/reissue", json!({"after": "1%", "rotation": "strict", "reuse_grace": "1s"}));
    let gateway = site.start();
    let stolen = log_in(&gateway, "bob");
    let newest = slide(&gateway, &stolen);
    assert_eq!(devices(&gateway, &newest).len(), 1);
    let reason = until("the end of the grace", || {
        let response = gateway.get_as("/session/devices", &stolen);
        (response.status != 200).then(|| response.reason())
    });
    assert_eq!(reason, "revoked_session");
    assert_eq!(refusal(&gateway, &newest).as_deref(), Some("revoked_session"));
    let records = gateway.admin().get("/v1/revocations").json();
    assert_eq!(records["items"][0]["reason"], "session_reuse", "{records}");
}

#[test]
fn the_list_survives_a_crash_and_a_request_writes_nothing() {
    let upstream = service();
    let site = Site::with_sessions(&upstream);
    let gateway = site.start();
    let empty = stored(&gateway);
    let laptop = gateway.get("/login/bob", &[("User-Agent", FIREFOX)]).session_token().unwrap();
    let phone = log_in(&gateway, "bob");
    let parent = site.accounts.token_of("bob");
    let session = exchanged(&gateway, &parent);
    until("three sessions in the store", || (stored(&gateway) == empty + 3).then_some(()));
    let before = devices(&gateway, &laptop);
    let size = || fs::metadata(site.file("data/revocations.db-wal")).unwrap().len();
    let written = size();
    for _ in 0..200 {
        assert_eq!(gateway.get_as("/orders", &laptop).status, 200);
    }
    assert_eq!((stored(&gateway), size()), (empty + 3, written), "being used is not written for each request");
    end(&gateway, &laptop, &sid(&phone));
    gateway.kill();

    let gateway = site.start();
    let after = devices(&gateway, &laptop);
    assert_eq!(sids(&after), [sid(&laptop)], "what had ended does not come back");
    for kept in ["sid", "opened_at", "ends_at", "agent", "network", "current"] {
        assert_eq!(after[0][kept], before[0][kept], "{kept}");
    }
    assert_eq!(sids(&devices(&gateway, &session)), [sid(&session)]);
    assert_eq!(end_others(&gateway, &laptop).status, 200);
}

/// When it was last used is written as the gateway stops, however lately it was.
#[test]
fn the_last_use_survives_an_orderly_end() {
    let upstream = service();
    let site = Site::with_sessions(&upstream);
    let gateway = site.start();
    let (used, asks) = (log_in(&gateway, "bob"), log_in(&gateway, "bob"));
    let seen = |gateway: &Gateway| {
        let devices = devices(gateway, &asks);
        let device = devices.iter().find(|device| device["sid"] == sid(&used)).expect("the device");
        device["last_seen_at"].as_str().unwrap().to_owned()
    };
    let first = seen(&gateway);
    let last = until("a later use", || {
        assert_eq!(gateway.get_as("/orders", &used).status, 200);
        Some(seen(&gateway)).filter(|it| *it != first)
    });
    let (code, output, _) = gateway.stop();
    assert_eq!(code, 0, "{output}");
    assert_eq!(seen(&site.start()), last);
}

#[test]
fn operators_see_and_end_what_is_open() {
    let upstream = service();
    let site = sliding(&upstream);
    let gateway = site.start();
    let parent = site.accounts.token(json!({"sub": "bob", "azp": "app"}));
    let session = exchanged(&gateway, &parent);
    let successor = slide(&gateway, &session);
    let (ann, eve) = (log_in(&gateway, "ann"), log_in(&gateway, "eve"));
    let eyes = Admin::new(gateway.admin_address, EYES);
    let listed = |query: &str| {
        let page = eyes.get(&format!("/v1/sessions?{query}")).json();
        let mut sids: Vec<_> =
            page["items"].as_array().unwrap().iter().map(|it| it["sid"].as_str().unwrap().to_owned()).collect();
        sids.sort();
        sids
    };
    let mut all = [sid(&session), sid(&ann), sid(&eve)];
    all.sort();
    assert_eq!(listed("limit=10"), all);
    assert_eq!(listed("issuer=accounts&subject=bob"), [sid(&session)]);
    assert_eq!(listed("subject=local%3Aann"), [sid(&ann)]);
    // What has ended by any door is not open.
    assert_eq!(gateway.post_as("/session/logout", &eve).status, 204);
    gateway.admin().revoke_of_accounts("subject", "nobody", "admin");
    assert_eq!(listed("subject=local%3Aeve"), Vec::<String>::new());
    gateway.admin().revoke(&json!({"token": ann, "reason": "admin"}));
    assert_eq!(listed("limit=10"), [sid(&session)]);

    let path = format!("/v1/sessions/{}", sid(&session));
    assert_eq!(eyes.delete(&path).status, 403);
    assert_eq!(refusal(&gateway, &session), None);
    assert_eq!(gateway.admin().delete(&path).status, 200);
    for dead in [&session, &successor, &parent] {
        assert!(refusal(&gateway, dead).is_some());
    }
    assert_eq!(gateway.admin().delete(&path).status, 404);
    let again = log_in(&gateway, "ann");
    let ended = gateway.admin().delete("/v1/sessions?subject=local%3Aann&reason=account_suspended");
    assert_eq!((ended.status, &ended.json()["ended"]), (200, &json!(1)));
    assert_eq!(refusal(&gateway, &again).as_deref(), Some("revoked_session"));
    let fresh = log_in(&gateway, "ann");
    assert_eq!(refusal(&gateway, &fresh), None, "her sessions have ended, not her account");
    gateway.kill();
    let gateway = site.start();
    for dead in [&session, &successor, &parent, &again] {
        assert!(refusal(&gateway, dead).is_some(), "it was durable");
    }
    assert_eq!(refusal(&gateway, &fresh), None);
}

/// A device that is logged out cannot come back with a refresh token.
#[test]
fn a_device_that_is_logged_out_keeps_no_way_back() {
    let upstream = service();
    let mut site = Site::with_sessions(&upstream);
    site.set("/session/refresh", json!({"idle_timeout": "4h"}));
    let gateway = site.start();
    let open = |age: i64| {
        let answer = gateway.post_as("/session/exchange", &site.accounts.token(json!({"iat": now() - age}))).json();
        let text = |name: &str| answer[name].as_str().unwrap().to_owned();
        (text("access_token"), text("refresh_token"))
    };
    let refresh = |token: &str| {
        let kind = [("Content-Type", "application/x-www-form-urlencoded")];
        let form = format!("grant_type=refresh_token&refresh_token={token}");
        gateway.send("POST", "/session/refresh", &kind, form.as_bytes())
    };
    let [own, one, other, third] = [10, 20, 0, 30].map(open);
    assert_eq!(devices(&gateway, &own.0).len(), 4);
    assert_eq!(end(&gateway, &own.0, &sid(&one.0)).status, 204);
    assert_eq!(gateway.admin().delete(&format!("/v1/sessions/{}", sid(&third.0))).status, 200);
    assert_eq!(end_others(&gateway, &own.0).json(), json!({"ended": 1}));
    for dead in [&one, &other, &third] {
        let refused = refresh(&dead.1);
        assert_eq!((refused.status, &refused.json()["error"]), (400, &json!("invalid_grant")), "{refused:?}");
    }
    assert_eq!(refresh(&own.1).status, 200);
    assert_eq!(devices(&gateway, &own.0).len(), 1);
}
