//! The control plane: who may do what, what is written down, and what it says.

use std::io::{BufRead, BufReader};

use serde_json::{Value, json};

use crate::support::issuer::{ACCOUNTS, sha256};
use crate::support::site::{EYES, OPS};
use crate::support::{Admin, Connection, Site, Upstream, bearer, request, until};

const TARGET: &str = r#"{"target":{"kind":"token","issuer":"accounts","value":"x"},"reason":"admin"}"#;

#[test]
fn every_call_needs_a_credential_and_a_change_needs_the_operators() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    let strangers =
        ["", "Bearer", "Bearer x", "Basic b3Bz", &bearer(&OPS[..OPS.len() - 1]), &bearer(&format!("{OPS}x"))]
            .map(str::to_owned);
    let user = bearer(&site.accounts.token_of("bob"));
    for authorization in strangers.iter().chain([&user]) {
        for (method, path) in [
            ("GET", "/v1/status"),
            ("GET", "/v1/config"),
            ("GET", "/v1/revocations"),
            ("POST", "/v1/revocations"),
            ("POST", "/v1/reload"),
            ("POST", "/v1/explain"),
            ("DELETE", "/v1/revocations/x"),
            ("GET", "/v1/nothing"),
        ] {
            let fields = [
                ("Authorization", authorization.as_str()),
                ("Content-Type", "application/json"),
                ("Connection", "close"),
            ];
            let body = if method == "POST" { TARGET.as_bytes() } else { b"" };
            let response =
                Connection::open(gateway.admin_address).send(&request(method, path, &fields, body)).response();
            assert!(
                matches!(response.status, 401 | 429),
                "163, 166 {method} {path} as {authorization:?}: {}",
                response.status
            );
        }
    }
    // No credential of the control plane is a token of the traffic listener.
    assert_eq!(gateway.get_as("/orders", OPS).status, 401, "166");

    let viewer = Admin::new(gateway.admin_address, EYES);
    for path in ["/v1/status", "/v1/config", "/v1/revocations"] {
        assert_eq!(viewer.get(path).status, 200, "{path}");
    }
    assert_eq!(viewer.post("/v1/explain", &json!({"token": "x"})).status, 200, "a question changes nothing");
    let fields = [("Content-Type", "application/json")];
    assert_eq!(viewer.send("POST", "/v1/revocations", &fields, TARGET.as_bytes()).status, 403);
    assert_eq!(viewer.post("/v1/reload", &json!({})).status, 403);
    assert_eq!(gateway.admin().get("/v1/revocations").json()["items"], json!([]), "nothing was changed");
    assert_eq!(gateway.admin().send("POST", "/v1/revocations", &fields, TARGET.as_bytes()).status, 201);
}

#[test]
fn bodies_are_read_strictly_and_nothing_is_half_applied() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    let admin = gateway.admin();
    let json_type = [("Content-Type", "application/json")];
    for (name, body, status) in [
        ("not JSON", "hello".to_owned(), 400),
        ("a second member", TARGET.replacen('{', r#"{"reason":"logout","#, 1), 400),
        ("an unknown member", TARGET.replacen('{', r#"{"ttl":5,"#, 1), 400),
        ("an unknown kind", TARGET.replace("token", "person"), 400),
        ("an unknown reason", TARGET.replace("admin", "because"), 400),
        ("an unknown issuer", TARGET.replace("accounts", "nobody"), 422),
        ("no value", TARGET.replace(r#","value":"x""#, ""), 400),
        ("a value for all", TARGET.replace("token", "all"), 400),
        ("a time that is none", TARGET.replacen('{', r#"{"expires_at":"soon","#, 1), 400),
        ("a cutoff on a token", TARGET.replacen('{', r#"{"issued_before":"2026-01-01T00:00:00Z","#, 1), 422),
        ("a target and a token", TARGET.replacen('{', r#"{"token":"x.y.z","#, 1), 400),
        ("ten MiB", format!("{}{}", TARGET, " ".repeat(10 << 20)), 413),
    ] {
        let response = admin.send("POST", "/v1/revocations", &json_type, body.as_bytes());
        assert_eq!(response.status, status, "167 {name}: {}", response.text());
        assert_eq!(response.header("content-type"), Some("application/problem+json"), "{name}");
    }
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
        let response = admin.send("POST", "/v1/revocations", &[("Content-Type", kind)], TARGET.as_bytes());
        assert_eq!(response.status, 415, "167, 169 {kind}");
    }
    for fields in [("Origin", "https://evil.example"), ("Sec-Fetch-Site", "cross-site")] {
        let response = admin.send("POST", "/v1/revocations", &[json_type[0], fields], TARGET.as_bytes());
        assert_eq!(response.status, 403, "169 {fields:?}");
    }
    let lines = format!("{TARGET}\n{}\n{TARGET}\n", TARGET.replace("admin", "because"));
    let batch =
        admin.send("POST", "/v1/revocations:batch", &[("Content-Type", "application/x-ndjson")], lines.as_bytes());
    assert_eq!((batch.status, &batch.json()["problems"][0]["line"]), (400, &json!(2)), "{}", batch.text());
    assert_eq!(admin.get("/v1/revocations").json()["items"], json!([]), "167 nothing was applied");
}

#[test]
fn values_are_kept_byte_for_byte() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    for value in ["a/b", "../x", "%2e%2e", "a b", "\u{e4}", "\u{1f511}", "a\"b", "x\\y", "*", "'; DROP TABLE"] {
        let token = site.accounts.token(json!({"jti": value}));
        assert_eq!(gateway.get_as("/orders", &token).status, 200, "{value}");
        let answer = gateway.admin().revoke_of_accounts("token", value, "admin");
        assert_eq!(answer["target"]["value"], json!(value), "168");
        assert_eq!(gateway.get_as("/orders", &token).status, 401, "168 {value}");
    }
    for path in
        ["/v1/revocations/..%2f..%2fetc", "/v1/revocations/%00", "/v1/revocations/a%0d%0ab", "/v1/revocations/nobody"]
    {
        let status = gateway.admin().get(path).status;
        assert!(matches!(status, 400 | 404), "168 {path}: {status}");
    }
}

#[test]
fn a_batch_is_applied_whole_and_a_list_has_pages() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    let lines: String = (0..250)
        .map(|index| {
            let target = json!({"kind": "token", "issuer": "accounts", "value": format!("t{index}")});
            format!("{}\n", json!({"target": target, "reason": "account_deleted", "id": format!("batch-{index}")}))
        })
        .collect();
    for _ in 0..2 {
        let fields = [("Content-Type", "application/x-ndjson")];
        let batch = gateway.admin().send("POST", "/v1/revocations:batch", &fields, lines.as_bytes());
        assert_eq!(
            (batch.status, batch.json()["results"].as_array().map(Vec::len)),
            (200, Some(250)),
            "{}",
            batch.text()
        );
    }
    let token = site.accounts.token(json!({"jti": "t249"}));
    assert_eq!(gateway.get_as("/orders", &token).reason(), "revoked_token");
    let (mut found, mut cursor, mut pages) = (0, String::new(), 0);
    loop {
        let page = gateway.admin().get(&format!("/v1/revocations?kind=token&limit=100{cursor}")).json();
        found += page["items"].as_array().unwrap().len();
        pages += 1;
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!((found, pages), (250, 3), "once each, though sent twice");
    let one = gateway.admin().get("/v1/revocations?kind=token&issuer=accounts&value=t7").json();
    assert_eq!((one["items"].as_array().map(Vec::len), &one["items"][0]["id"]), (Some(1), &json!("batch-7")));
    assert_eq!(gateway.admin().get("/v1/revocations?kind=subject").json()["items"], json!([]));
}

#[test]
fn every_change_is_one_line_of_a_chained_audit_log() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    let revoked = gateway.admin().revoke_of_accounts("subject", "a\r\nb\u{1b}[31m", "admin");
    Admin::new(gateway.admin_address, EYES).post("/v1/revocations", &serde_json::from_str(TARGET).unwrap());
    let id = revoked["id"].as_str().unwrap();
    assert_eq!(gateway.admin().delete(&format!("/v1/revocations/{id}")).status, 200);
    assert_eq!(gateway.admin().post("/v1/reload", &json!({})).status, 200);
    let text = site.read("audit.jsonl");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> =
        lines.iter().map(|line| ["actor", "action", "result"].map(|member| line[member].as_str().unwrap())).collect();
    assert_eq!(told[0], ["ops", "revoke", "ok"], "170");
    assert_eq!((told[1][0], told[1][2]), ("eyes", "forbidden"), "170 {}", lines[1]);
    assert_eq!((told[2][1], told[3][1]), ("lift", "reload"), "170");
    assert_eq!((&lines[0]["id"], &lines[0]["address"]), (&json!(id), &json!("127.0.0.1")));
    assert!(lines[0]["target"].as_str().unwrap().contains(ACCOUNTS));
    assert_eq!(lines[0]["reason"], "admin", "the reason goes all the way to the audit line");
    assert!(!text.contains('\u{1b}') && !text.contains('\r'), "170 escaped");
    for (number, line) in text.lines().enumerate() {
        let (body, hash) = line.rsplit_once(",\"hash\":\"").unwrap();
        let digest = sha256(format!("{body}}}").as_bytes());
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hash.trim_end_matches("\"}"), digest, "line {number}");
        if number > 0 {
            assert_eq!(lines[number]["prev"], lines[number - 1]["hash"], "line {number}");
            assert_eq!(lines[number]["seq"].as_u64(), lines[number - 1]["seq"].as_u64().map(|seq| seq + 1));
        }
    }
}

#[test]
fn watchers_see_changes_as_they_come_into_force() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    let mut connection = Connection::open(gateway.admin_address);
    connection.send(&request("GET", "/v1/revocations:watch", &[("Authorization", &bearer(EYES))], b""));
    let head = String::from_utf8(connection.read_head().unwrap()).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200") && head.contains("text/event-stream"), "{head}");
    let revoked = gateway.admin().revoke_of_accounts("token", "watched", "logout");
    let id = revoked["id"].as_str().unwrap();
    assert_eq!(gateway.admin().delete(&format!("/v1/revocations/{id}")).status, 200);
    let early = String::from_utf8(connection.take_buffer()).unwrap();
    let mut reader = BufReader::new(connection.stream().try_clone().unwrap());
    let mut heard = early;
    while heard.matches("data:").count() < 2 || !heard.ends_with('\n') {
        assert_ne!(reader.read_line(&mut heard).unwrap(), 0, "{heard}");
    }
    assert_eq!(heard.matches(id).count(), 2, "the revocation, and the lift that names it: {heard}");
    assert!(heard.contains("\"watched\""), "{heard}");
}

#[test]
fn explain_tells_each_step_of_a_decision() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    let admin = gateway.admin();
    let ask = |question: Value| admin.post("/v1/explain", &question).json();
    let good = ask(json!({"token": site.accounts.token_of("bob"), "path": "/orders"}));
    assert_eq!(
        (&good["admitted"], &good["route"], &good["issuer"]),
        (&json!(true), &json!("shop"), &json!("accounts"))
    );
    assert!(good["steps"].as_array().unwrap().iter().all(|step| step["passed"] == true), "{good}");
    let scope = ask(json!({"token": site.accounts.token_of("bob"), "path": "/admin/"}));
    assert_eq!((&scope["status"], &scope["reason"]), (&json!(403), &json!("insufficient_scope")), "{scope}");
    for (token, reason) in [
        (site.accounts.token(json!({"exp": 5, "iat": 1})), "expired"),
        (site.accounts.token(json!({"aud": "other"})), "audience_not_allowed"),
        ("x.y.z".to_owned(), "malformed_token"),
    ] {
        let answer = ask(json!({"token": token}));
        assert_eq!((&answer["admitted"], answer["reason"].as_str()), (&json!(false), Some(reason)), "{answer}");
        assert!(!answer.to_string().contains(&token), "it repeats the token");
    }
    assert_eq!(ask(json!({}))["reason"], "missing_token");
    assert_eq!(ask(json!({"path": "/public/"}))["admitted"], true);
    assert_eq!(upstream.bytes(), 0, "a question reaches no upstream");
}

#[test]
fn health_readiness_and_status_say_how_it_is() {
    let upstream = Upstream::start();
    let gateway = Site::new(&upstream).start();
    let admin = gateway.admin();
    assert_eq!((admin.get("/healthz").status, admin.get("/readyz").status), (200, 200));
    let status = admin.get("/v1/status").json();
    assert_eq!((&status["ready"], &status["gateway"]["draining"]), (&json!(true), &json!(false)), "{status}");
    assert_eq!(status["gateway"]["listeners"], json!([gateway.address.to_string()]));
    let metrics = admin.get("/metrics").text();
    for series in ["portcullis_build_info", "portcullis_config_last_reload_successful 1", "process_open_fds"] {
        assert!(metrics.contains(series), "{series}\n{metrics}");
    }
    assert_eq!(gateway.get("/public/", &[]).status, 200);
    until("the request to be counted", || {
        let labels = [("route", "public"), ("method", "GET"), ("status", "200")];
        (admin.metric("portcullis_requests_total", &labels) == 1.0).then_some(())
    });
}
