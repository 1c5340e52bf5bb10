use std::time::Duration;

use http::header::{AUTHORIZATION, COOKIE};
use serde_json::json;

use super::super::fixture::{NOW, after, foreign, parent, sessions};
use super::*;

const NAME: &str = "__Host-session";

fn minted() -> Minted {
    let (_folder, sessions) = sessions();
    let minted = sessions.exchange(parent(&foreign(json!({}))), NOW).unwrap();
    Minted::clone(&minted)
}

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    headers
}

/// Names and values, in the order of a stable sort by name.
fn lines(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut lines: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8(value.as_bytes().to_vec()).unwrap()))
        .collect();
    lines.sort_by(|a, b| a.0.cmp(&b.0));
    lines
}

fn expect(headers: &HeaderMap, expected: &[(&str, &str)]) {
    let expected: Vec<_> = expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    assert_eq!(lines(headers), expected);
}

#[test]
fn what_only_the_gateway_may_say_is_removed_and_other_cookies_keep_their_order() {
    let mut response = headers(&[
        ("set-cookie", "theme=dark; Path=/"),
        ("set-cookie", "__Host-session=forged; Path=/; Secure"),
        ("set-cookie", "lang=en"),
        ("set-cookie", "  __Host-session = forged"),
        ("set-cookie", "__Host-session"),
        ("set-cookie", "__Host-session;Path=/"),
        ("set-cookie", "=__Host-session=forged"),
        ("set-cookie", "= __Host-session=forged"),
        ("set-cookie", "__Host-session2=kept"),
        ("set-cookie", "__host-session=kept"),
        ("set-cookie", "a=__Host-session=kept"),
        ("set-cookie", "b=1; __Host-session=kept"),
        ("set-cookie", ""),
        ("x-session-token", "forged"),
        ("x-session-token", "forged"),
        ("x-session-expires", "9"),
        ("x-session-grant", "{}"),
        ("x-session-other", "kept"),
    ]);
    let expected = [
        ("set-cookie", "theme=dark; Path=/"),
        ("set-cookie", "lang=en"),
        ("set-cookie", "__Host-session2=kept"),
        ("set-cookie", "__host-session=kept"),
        ("set-cookie", "a=__Host-session=kept"),
        ("set-cookie", "b=1; __Host-session=kept"),
        ("set-cookie", ""),
        ("x-session-other", "kept"),
    ];
    scrub(&mut response, NAME);
    expect(&response, &expected);
    scrub(&mut response, NAME);
    expect(&response, &expected);
}

#[test]
fn a_token_in_headers_is_not_stored_and_names_what_it_varies_with() {
    let minted = minted();
    let expires = (NOW.secs() + 60).to_string();
    let mut response = headers(&[
        ("cache-control", "public, max-age=600"),
        ("cache-control", "immutable"),
        ("cdn-cache-control", "max-age=600"),
        ("cloudflare-cdn-cache-control", "max-age=600"),
        ("surrogate-control", "max-age=600"),
        ("expires", "Thu, 01 Dec 2044 16:00:00 GMT"),
        ("pragma", "cache"),
        ("etag", "\"1\""),
        ("vary", "Accept-Encoding"),
        ("x-session-token", "old"),
    ]);
    for _ in 0..2 {
        attach(&mut response, &minted, Delivery::Header, NAME, &AUTHORIZATION, NOW).unwrap();
        expect(
            &response,
            &[
                ("cache-control", "no-store"),
                ("etag", "\"1\""),
                ("vary", "Accept-Encoding"),
                ("vary", "Authorization"),
                ("x-session-expires", &expires),
                ("x-session-token", minted.token()),
            ],
        );
    }
    assert!(response[SESSION_TOKEN].is_sensitive());
}

#[test]
fn vary_is_not_repeated() {
    for (line, added) in
        [("*", false), ("accept, *", false), ("accept , authorization", false), ("X-Authorization", true), ("", true)]
    {
        let mut response = headers(&[("vary", line)]);
        attach(&mut response, &minted(), Delivery::Header, NAME, &AUTHORIZATION, NOW).unwrap();
        assert_eq!(response.get_all(VARY).iter().count() == 2, added, "{line:?}");
    }
    let mut response = HeaderMap::new();
    let custom = HeaderName::from_static("x-api-token");
    attach(&mut response, &minted(), Delivery::Header, NAME, &custom, NOW).unwrap();
    assert_eq!(response[VARY], "x-api-token");
}

#[test]
fn another_origin_that_may_read_the_response_may_read_the_token_headers() {
    let minted = minted();
    let exposed = |lines: &[(&'static str, &str)], delivery| {
        let mut response = headers(lines);
        for _ in 0..2 {
            attach(&mut response, &minted, delivery, NAME, &AUTHORIZATION, NOW).unwrap();
        }
        let values = response.get_all(ACCESS_CONTROL_EXPOSE_HEADERS).iter();
        values.map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let origin = ("access-control-allow-origin", "https://app.example.com");
    let expose = "access-control-expose-headers";
    let both = "X-Session-Token, X-Session-Expires";
    assert_eq!(exposed(&[], Delivery::Header), Vec::<String>::new());
    assert_eq!(exposed(&[origin], Delivery::Header), [both]);
    assert_eq!(exposed(&[origin, (expose, "X-Request-Id")], Delivery::Header), ["X-Request-Id", both]);
    assert_eq!(
        exposed(&[origin, (expose, "x-session-token,etag")], Delivery::Header),
        ["x-session-token,etag", "X-Session-Expires"]
    );
    assert_eq!(exposed(&[origin, (expose, "*")], Delivery::Header), ["*", both], "`*` is no wildcard with credentials");
    assert_eq!(exposed(&[origin], Delivery::Cookie), Vec::<String>::new());
}

#[test]
fn a_cookie_lives_as_long_as_its_token_and_replaces_only_itself() {
    let minted = minted();
    let cookie = |max_age: u64| {
        format!("__Host-session={}; Path=/; Max-Age={max_age}; HttpOnly; Secure; SameSite=Lax", minted.token())
    };
    let mut response = headers(&[("set-cookie", "lang=en"), ("set-cookie", "__Host-session=old"), ("vary", "accept")]);
    for (secs, max_age) in [(0, 59), (20, 39), (20, 39), (90, 0)] {
        attach(&mut response, &minted, Delivery::Cookie, NAME, &COOKIE, after(secs)).unwrap();
        expect(
            &response,
            &[
                ("cache-control", "no-store"),
                ("set-cookie", "lang=en"),
                ("set-cookie", &cookie(max_age)),
                ("vary", "accept"),
                ("vary", "Cookie"),
            ],
        );
        assert!(after(secs).plus(Duration::from_secs(max_age)) <= minted.expires.max(after(secs)));
    }
    assert!(response.get_all(SET_COOKIE).iter().nth(1).unwrap().is_sensitive());
}

#[test]
fn a_cookie_that_browsers_would_drop_is_an_error_and_changes_nothing() {
    let (_folder, sessions) = sessions();
    let minted = sessions.exchange(parent(&foreign(json!({ "blob": "b".repeat(3_000) }))), NOW).unwrap();
    let before = headers(&[("set-cookie", "lang=en"), ("cache-control", "public")]);
    let mut response = before.clone();
    let result = attach(&mut response, &minted, Delivery::Cookie, NAME, &COOKIE, NOW);
    assert_eq!(result, Err(DeliverError::CookieTooLarge { bytes: NAME.len() + minted.token().len() }));
    assert_eq!(response, before);
    for name in ["", "a b", "a=b", "a;b", "a\r\nb", "é"] {
        assert_eq!(clear(&mut response, name), Err(DeliverError::CookieName), "{name:?}");
    }
    assert_eq!(response, before);
}

#[test]
fn a_revoked_cookie_is_cleared_and_a_logout_clears_the_site() {
    let removed = "__Host-session=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax";
    let mut response = headers(&[("set-cookie", "__Host-session=x"), ("set-cookie", "lang=en"), ("expires", "0")]);
    for _ in 0..2 {
        clear_cookie(&mut response, NAME).unwrap();
        expect(&response, &[("cache-control", "no-store"), ("set-cookie", "lang=en"), ("set-cookie", removed)]);
    }
    for _ in 0..2 {
        clear(&mut response, NAME).unwrap();
        expect(
            &response,
            &[
                ("cache-control", "no-store"),
                ("clear-site-data", r#""cookies", "storage""#),
                ("set-cookie", "lang=en"),
                ("set-cookie", removed),
            ],
        );
    }
}

#[test]
fn a_refresh_token_goes_as_a_header_or_as_a_strict_cookie_and_no_upstream_says_either() {
    const REFRESH: &str = "__Host-refresh";
    let (_folder, sessions) = super::super::fixture::sessions_with(|config| {
        let hour = Duration::from_secs(3600);
        let refresh = crate::config::Refresh {
            idle_timeout: hour,
            reuse_grace: hour,
            delivery: Delivery::Cookie,
            cookie: REFRESH.to_owned(),
        };
        config.refresh = Some(refresh);
    });
    let opener = crate::session::Opener { token: None, client: None, delivery: Delivery::Cookie };
    let (_, token) = sessions.open_family(&minted(), opener, NOW).unwrap();
    let (text, left) = (token.text(), Duration::from_secs(90));

    let mut response = headers(&[("cache-control", "public"), ("access-control-allow-origin", "https://a.example")]);
    for _ in 0..2 {
        attach_refresh(&mut response, &token, Delivery::Header, REFRESH, left).unwrap();
        let exposed = ("access-control-expose-headers", "X-Session-Refresh");
        let origin = ("access-control-allow-origin", "https://a.example");
        expect(&response, &[origin, exposed, ("cache-control", "no-store"), ("x-session-refresh", &text)]);
    }
    assert!(response[SESSION_REFRESH].is_sensitive());
    scrub(&mut response, NAME);
    assert!(!response.contains_key(SESSION_REFRESH));

    let mut response = headers(&[("set-cookie", "__Host-refresh=old"), ("set-cookie", "a=1")]);
    let set = format!("{REFRESH}={}; Path=/; Max-Age=90; HttpOnly; Secure; SameSite=Strict", *text);
    for _ in 0..2 {
        attach_refresh(&mut response, &token, Delivery::Cookie, REFRESH, left).unwrap();
        expect(&response, &[("cache-control", "no-store"), ("set-cookie", "a=1"), ("set-cookie", &set)]);
    }
    clear_refresh(&mut response, REFRESH).unwrap();
    let cleared = "__Host-refresh=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Strict";
    expect(&response, &[("cache-control", "no-store"), ("set-cookie", "a=1"), ("set-cookie", cleared)]);
}
