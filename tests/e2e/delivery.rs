//! How session tokens reach a client: headers or a cookie, never a cache, never on a refusal, never in a log.

use std::collections::BTreeSet;
use std::thread;

use serde_json::json;

use crate::sessions::{log_in, service, slide};
use crate::support::command::portcullis;
use crate::support::issuer::claims_of;
use crate::support::{Gateway, Response, Site, Upstream, bearer, now, until};

const COOKIE: &str = "__Host-session";

fn with_cookies(upstream: &Upstream) -> Site {
    let mut site = Site::with_sessions(upstream);
    site.set("/session/delivery", json!("cookie"));
    site
}

/// The token in the session cookie that an answer sets.
fn cookie_token(response: &Response) -> Option<String> {
    let ours = response.all("set-cookie").into_iter().filter_map(|it| it.strip_prefix("__Host-session="));
    let ours: Vec<_> = ours.collect();
    assert!(ours.len() <= 1, "{response:?}");
    ours.first().map(|cookie| cookie.split(';').next().unwrap().to_owned())
}

fn get_with_cookie(gateway: &Gateway, token: &str) -> Response {
    gateway.get("/orders", &[("Cookie", &format!("theme=dark; {COOKIE}={token}"))])
}

fn log_in_with_cookie(gateway: &Gateway) -> String {
    cookie_token(&gateway.get("/login/bob", &[])).expect("a session cookie")
}

#[test]
fn a_session_cookie_has_every_attribute_that_protects_it() {
    let upstream = service();
    let mut site = with_cookies(&upstream);
    site.set("/session/idle_timeout", json!("60s")).set("/session/reissue", json!({"after": "1%"}));
    let gateway = site.start();
    let response = gateway.get("/login/bob", &[]);
    assert_eq!((response.status, response.session_token()), (200, None));
    let check = |response: &Response| {
        let cookie = response.header("set-cookie").unwrap();
        let attributes: BTreeSet<_> = cookie.split("; ").skip(1).collect();
        let (ages, fixed): (BTreeSet<&str>, BTreeSet<&str>) =
            attributes.into_iter().partition(|it| it.starts_with("Max-Age="));
        assert_eq!(fixed, BTreeSet::from(["HttpOnly", "Path=/", "SameSite=Lax", "Secure"]), "{cookie}");
        let age: u64 = ages.first().unwrap()["Max-Age=".len()..].parse().unwrap();
        assert!((50..=60).contains(&age), "{cookie}");
        assert_eq!(response.header("cache-control"), Some("no-store"));
        assert_eq!(response.header("vary"), Some("Cookie"));
    };
    check(&response);
    let token = cookie_token(&response).unwrap();
    let renewed = until("a renewed cookie", || {
        let response = get_with_cookie(&gateway, &token);
        assert_eq!((response.status, response.session_token()), (200, None), "it goes back the way it came");
        cookie_token(&response).is_some().then_some(response)
    });
    check(&renewed);
    assert_eq!(claims_of(&cookie_token(&renewed).unwrap())["sid"], claims_of(&token)["sid"]);
    // In a header, it is renewed in a header.
    let by_header = gateway.get_as("/orders", &token);
    assert!(by_header.session_token().is_some() && cookie_token(&by_header).is_none());
    upstream.take();
    get_with_cookie(&gateway, &token);
    assert_eq!(upstream.take_one().header("cookie"), Some("theme=dark"), "the token stays here");
}

#[test]
fn a_cookie_counts_on_unsafe_methods_only_from_its_own_origin() {
    let upstream = service();
    let gateway = with_cookies(&upstream).start();
    let cookie = format!("{COOKIE}={}", log_in_with_cookie(&gateway));
    upstream.take();
    for (headers, status) in [
        (vec![], 403),
        (vec![("Sec-Fetch-Site", "cross-site")], 403),
        (vec![("Sec-Fetch-Site", "same-site")], 403),
        (vec![("Origin", "https://evil.example")], 403),
        (vec![("Origin", "null")], 403),
        (vec![("Sec-Fetch-Site", "cross-site"), ("Origin", "https://shop.example")], 403),
        (vec![("Sec-Fetch-Site", "same-origin")], 200),
        (vec![("Sec-Fetch-Site", "none")], 200),
        (vec![("Origin", "https://shop.example")], 200),
    ] {
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            let all = [headers.as_slice(), &[("Cookie", cookie.as_str()), ("Content-Length", "0")]].concat();
            let response = gateway.send(method, "/orders", &all, b"");
            assert_eq!(response.status, status, "{method} {headers:?}");
            if status == 403 {
                assert_eq!(response.reason(), "cross_site");
                assert_eq!((response.all("set-cookie").len(), upstream.take().len()), (0, 0), "{headers:?}");
            }
        }
        let response = gateway.get("/orders", &[headers.as_slice(), &[("Cookie", &cookie)]].concat());
        assert_eq!(response.status, 200, "GET {headers:?}");
        upstream.take();
    }
    let logout = gateway.send("POST", "/session/logout", &[("Cookie", &cookie), ("Content-Length", "0")], b"");
    assert_eq!(logout.status, 403, "another site logs nobody out");
    assert_eq!(gateway.get("/orders", &[("Cookie", &cookie)]).status, 200);
}

#[test]
fn a_revoked_cookie_is_cleared_and_an_expired_one_is_not() {
    let upstream = service();
    let mut site = with_cookies(&upstream);
    site.set("/session/idle_timeout", json!("2s"));
    let gateway = site.start();
    let token = log_in_with_cookie(&gateway);
    let expired = until("the token's end", || Some(get_with_cookie(&gateway, &token)).filter(|it| it.status == 401));
    assert_eq!((expired.reason(), expired.all("set-cookie").len()), ("expired".to_owned(), 0));

    let token = log_in_with_cookie(&gateway);
    gateway.admin().revoke(&json!({"token": token, "reason": "admin"}));
    let revoked = get_with_cookie(&gateway, &token);
    assert_eq!((revoked.status, revoked.reason()), (401, "revoked_session".to_owned()));
    assert_eq!(cookie_token(&revoked).as_deref(), Some(""));
    assert!(revoked.header("set-cookie").unwrap().contains("Max-Age=0"));
    let in_header = gateway.get_as("/orders", &token);
    assert_eq!((in_header.status, in_header.all("set-cookie").len()), (401, 0), "there is no cookie to clear");
}

/// A browser with several tabs has one jar: each of them may be behind when another one renews the cookie.
#[test]
fn tabs_that_share_a_cookie_get_one_successor() {
    let upstream = service();
    let mut site = with_cookies(&upstream);
    // Due after four seconds; so is the successor, which leaves that long to ask for it.
    site.set("/session/idle_timeout", json!("400s")).set("/session/reissue", json!({"after": "1%"}));
    let gateway = site.start();
    let token = log_in_with_cookie(&gateway);
    let due = claims_of(&token)["iat"].as_i64().unwrap() + 5;
    until("the token's turn", || (now() >= due).then_some(()));
    let successors: BTreeSet<_> = thread::scope(|scope| {
        let tabs: Vec<_> = (0..20).map(|_| scope.spawn(|| get_with_cookie(&gateway, &token))).collect();
        tabs.into_iter().map(|it| cookie_token(&it.join().unwrap()).expect("a renewed cookie")).collect()
    });
    assert_eq!(successors.len(), 1, "the jar ends with the same whichever answer comes last");
    let successor = successors.first().unwrap();
    assert_eq!(get_with_cookie(&gateway, successor).status, 200);
    assert_eq!(get_with_cookie(&gateway, &token).status, 200, "a tab that is still behind keeps working");
}

/// Browsers drop a cookie of more than 4 KiB without a word: a session that would not fit is refused aloud,
/// and never split.
#[test]
fn a_token_that_no_cookie_can_carry_is_refused_aloud() {
    let upstream = Upstream::scripted(|exchange| {
        let size = exchange.recorded.target.strip_prefix("/login/").map(|it| it.parse().unwrap());
        match size {
            Some(size) => {
                let grant = json!({"sub": "bob", "note": "n".repeat(size)}).to_string();
                exchange.answer(200, &[("X-Session-Grant", &grant)], b"welcome")
            }
            None => exchange.answer(200, &[], b"hello"),
        }
    });
    let site = with_cookies(&upstream);
    let gateway = site.start();
    let fits = gateway.get("/login/2000", &[]);
    assert_eq!((fits.status, cookie_token(&fits).is_some()), (200, true));
    let earlier = format!("{COOKIE}={}", cookie_token(&fits).unwrap());
    let refused = gateway.get("/login/4000", &[("Cookie", &earlier)]);
    assert_eq!((refused.status, refused.reason().as_str()), (500, "cookie_too_large"));
    assert_eq!(refused.json()["detail"], "the session has more claims than a cookie can carry");
    assert_eq!((refused.all("set-cookie").len(), refused.session_token()), (0, None));
    assert_eq!(gateway.get("/orders", &[("Cookie", &earlier)]).status, 200, "what it had it keeps");
    let opened = gateway.admin().metric("portcullis_sessions_opened_total", &[]);
    assert_eq!(opened, 1.0, "what cannot be handed out is not opened");

    let parent = site.accounts.token(json!({"note": "n".repeat(4000)}));
    let asked = gateway.post_as("/session/exchange?delivery=cookie", &parent);
    assert_eq!((asked.status, asked.reason().as_str()), (500, "cookie_too_large"));
    let silent = gateway.get_as("/orders", &parent);
    assert_eq!((silent.status, silent.all("set-cookie").len()), (200, 0), "the request itself is served");
    assert_eq!(gateway.post_as("/session/exchange", &parent).status, 200, "in a body there is room");
    let (_, output, _) = gateway.stop();
    assert!(output.contains("use delivery: header"), "the log says what to do: {output}");
}

#[test]
fn only_the_gateway_speaks_for_sessions_and_no_cache_keeps_what_it_says() {
    let upstream = Upstream::scripted(|exchange| {
        let common = [
            ("X-Session-Token", "forged"),
            ("X-Session-Expires", "forged"),
            ("Set-Cookie", "__Host-session=forged; Path=/"),
            ("Set-Cookie", "theme=dark"),
            ("Cache-Control", "public, max-age=600"),
            ("Vary", "Accept"),
        ];
        let cors = [("Access-Control-Allow-Origin", "https://app.example")];
        match exchange.recorded.target.as_str() {
            "/cors" => exchange.answer(200, &[common.as_slice(), &cors].concat(), b"hello"),
            _ => exchange.answer(200, &common, b"hello"),
        }
    });
    let site = Site::with_sessions(&upstream);
    let gateway = site.start();
    let parent = site.accounts.token_of("bob");
    let response = gateway.get_as("/cors", &parent);
    let token = response.session_token().unwrap();
    assert_eq!(claims_of(&token)["sub"], "accounts:bob");
    assert_eq!(response.header("x-session-expires"), Some(claims_of(&token)["exp"].to_string().as_str()));
    assert_eq!(response.header("cache-control"), Some("no-store"));
    assert_eq!(response.all("vary").join(", "), "Accept, Authorization");
    assert_eq!(response.all("set-cookie"), ["theme=dark"]);
    assert_eq!(response.all("access-control-expose-headers").join(", "), "X-Session-Token, X-Session-Expires");
    assert_eq!(gateway.get_as("/plain", &parent).all("access-control-expose-headers"), Vec::<&str>::new());

    for response in [gateway.get_as("/plain", &token), gateway.get("/public/", &[])] {
        assert_eq!((response.status, response.session_token()), (200, None), "{response:?}");
        assert_eq!(response.header("x-session-expires"), None);
        assert_eq!(response.all("set-cookie"), ["theme=dark"]);
        assert_eq!(response.header("cache-control"), Some("public, max-age=600"), "nothing to hide, nothing changed");
    }
}

#[test]
fn refusals_failures_and_cached_answers_bring_no_token() {
    let upstream = Upstream::scripted(|exchange| {
        let status = exchange.recorded.target.trim_start_matches("/status/").parse().unwrap_or(200);
        exchange.answer(status, &[], b"")
    });
    let site = Site::with_sessions(&upstream);
    let gateway = site.start();
    // It opens a session with every answer that may carry one.
    let authorization = bearer(&site.accounts.token_of("bob"));
    for (status, brings) in
        [(200, true), (204, true), (302, true), (404, true), (401, false), (403, false), (304, false), (500, false)]
            .into_iter()
            .chain([(502, false), (503, false)])
    {
        let response = gateway.get(&format!("/status/{status}"), &[("Authorization", &authorization)]);
        assert_eq!((response.status, response.session_token().is_some()), (status, brings), "{response:?}");
    }
    let preflight = gateway.send("OPTIONS", "/orders", &[("Authorization", &authorization)], b"");
    assert_eq!((preflight.status, preflight.session_token()), (200, None));
    drop(upstream);
}

#[test]
fn the_published_keys_verify_what_is_minted() {
    let upstream = service();
    let site = Site::with_sessions(&upstream);
    let gateway = site.start();
    let token = log_in(&gateway, "bob");
    let response = gateway.get("/.well-known/jwks.json", &[]);
    assert_eq!((response.status, response.header("content-type")), (200, Some("application/jwk-set+json")));
    let keys = response.json();
    for key in keys["keys"].as_array().unwrap() {
        for secret in ["d", "p", "q", "k"] {
            assert!(key.get(secret).is_none(), "{key}");
        }
    }
    site.write("published.json", &response.text());
    site.write("foreign.json", &site.accounts.jwks().to_string());
    assert_eq!(portcullis(site.path(), &["token", "verify", "--jwks", "published.json", &token]).code, 0);
    assert_eq!(portcullis(site.path(), &["token", "verify", "--jwks", "foreign.json", &token]).code, 1);
}

#[test]
fn tokens_and_what_they_are_made_of_stand_in_no_output() {
    let upstream = service();
    let mut site = Site::with_sessions(&upstream);
    site.set("/session/idle_timeout", json!("60s")).set("/session/reissue", json!({"after": "1%"}));
    let gateway = site.start();
    let admin = gateway.admin();
    let parent = site.accounts.token_of("bob");
    let opened = gateway.get_as("/orders?secret=in-the-query", &parent).session_token().unwrap();
    let granted = log_in(&gateway, "ann");
    let slid = slide(&gateway, &granted);
    let expired = site.accounts.token(json!({"iat": now() - 100, "exp": now() - 50}));
    assert_eq!(gateway.get_as("/orders", &expired).status, 401);
    let mut forged = site.accounts.token_of("eve");
    forged.truncate(forged.len() - 3);
    assert_eq!(gateway.get_as("/orders", &forged).status, 401);
    admin.explain(&slid);
    admin.revoke(&json!({"token": slid, "reason": "admin"}));
    assert_eq!(gateway.get_as("/orders", &slid).status, 401);
    assert_eq!(gateway.post_as("/session/logout", &opened).status, 204);

    let metrics = admin.get("/metrics").text();
    let views = ["/v1/status", "/v1/config", "/v1/revocations", "/v1/keys"].map(|path| admin.get(path).text()).concat();
    let (code, output, _) = gateway.stop();
    assert_eq!(code, 0, "{output}");
    let (access, audit) = (site.read("access.jsonl"), site.read("audit.jsonl"));
    assert!(access.lines().count() >= 7 && audit.lines().count() >= 3, "{access}\n{audit}");
    let everything = [metrics, views, output, access, audit].concat();
    for token in [&parent, &opened, &granted, &slid, &expired, &forged] {
        for part in token.split('.').skip(1) {
            assert!(!everything.contains(part), "{part} of {token}");
        }
    }
    for secret in [crate::support::site::OPS, crate::support::site::EYES, "in-the-query"] {
        assert!(!everything.contains(secret), "{secret}");
    }
}

/// `SameSite` keeps the cookie of another site's form back, and not the form: the browser would be cleared.
#[test]
fn a_page_of_another_site_logs_nobody_out() {
    let upstream = service();
    let site = Site::with_sessions(&upstream);
    let gateway = site.start();
    let log_out = |fields: &[(&str, &str)]| {
        let mut all = fields.to_vec();
        all.push(("Content-Length", "0"));
        gateway.send("POST", "/session/logout", &all, b"")
    };
    let foreign: [&[(&str, &str)]; 3] = [
        &[("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Site", "same-site"), ("Origin", "https://blog.shop.example")],
        &[("Origin", "https://evil.example")],
    ];
    for fields in foreign {
        let refused = log_out(fields);
        assert_eq!((refused.status, refused.reason().as_str()), (403, "cross_site"), "{fields:?}");
        assert_eq!((refused.header("clear-site-data"), refused.all("set-cookie").len()), (None, 0), "{fields:?}");
    }
    for fields in [&[][..], &[("Sec-Fetch-Site", "same-origin")], &[("Origin", "https://shop.example")]] {
        let cleared = log_out(fields);
        assert!(cleared.status == 204 && cleared.header("clear-site-data").is_some(), "{fields:?}: {cleared:?}");
    }
    // A script that has the token is not made to send it by another page.
    let token = log_in(&gateway, "ann");
    let sent = log_out(&[("Authorization", &bearer(&token)), ("Sec-Fetch-Site", "cross-site")]);
    assert_eq!((sent.status, gateway.get_as("/orders", &token).status), (204, 401));
}
