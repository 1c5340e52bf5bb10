//! What is removed, what is set, and who is believed.

use http::{HeaderMap, HeaderName, HeaderValue, Version};
use serde_json::{Value, json};

use super::set::claim_value;
use super::*;
use crate::config::{Identity, TokenPlace};

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn cleaner() -> Cleaner {
    let header = HeaderName::from_static("x-auth-request-user");
    let identity = Identity {
        headers: vec![(header, "sub".to_owned())],
        account: Some(HeaderName::from_static("remote-account")),
    };
    Cleaner::new([&identity], &[TokenPlace::Header(HeaderName::from_static("x-api-token"))])
}

#[test]
fn every_spelling_of_an_identity_field_is_removed() {
    let spellings = [
        "X-Auth-Request-User",
        "x_auth_request_user",
        "X.Auth.Request.User",
        "_x-auth!request#user",
        "X-Auth-Request-User_",
        "Remote-Account",
        "remote_account",
        "remote-account~",
        "X-Auth-Request-Account",
    ];
    for spelling in spellings {
        let mut headers = map(&[(spelling, "admin"), ("accept", "*/*")]);
        cleaner().clean(&mut headers, true);
        assert_eq!(headers.len(), 1, "{spelling}");
    }
}

#[test]
fn a_trailer_says_nothing_that_is_for_a_head() {
    let refused = [
        "Content-Length",
        "Transfer-Encoding",
        "Host",
        "Trailer",
        "Connection",
        "Keep-Alive",
        "TE",
        "Upgrade",
        "Range",
        "If-Match",
        "Cache-Control",
        "Expect",
        "Authorization",
        "Proxy-Authorization",
        "Cookie",
        "Set-Cookie",
        "DPoP",
        "Content-Type",
        "Content-Encoding",
        "X-Auth-Request-User",
        "x_auth_request_user",
        "Remote-Account",
        "X-Forwarded-For",
        "x_forwarded_for",
        "Forwarded",
        "Client-Cert",
        "X-Real-IP",
        "X-Api-Token",
        "x_api_token",
        "X-Session-Grant",
        "X-Request-Id",
        "traceparent",
        "Via",
        "Origin",
        "X-Original-URL",
    ];
    for name in refused {
        let mut trailers = map(&[(name, "1"), ("x-sum", "2")]);
        cleaner().clean_trailers(&mut trailers);
        assert_eq!(trailers, map(&[("x-sum", "2")]), "{name}");
        let announced = cleaner().announced(&map(&[("trailer", name), ("trailer", "a b, , X-Sum")]));
        assert_eq!(announced.unwrap(), "x-sum", "{name}");
        assert_eq!(cleaner().announced(&map(&[("trailer", name)])), None, "{name}");
    }
}

#[test]
fn no_two_claims_look_alike_in_a_field() {
    for (value, field) in [
        (json!("plain text"), "plain text"),
        (json!(" bob "), "%20bob%20"),
        (json!("a,b"), "a,b"),
        (json!(["a,b", " c", "d"]), "a%2Cb,%20c,d"),
        (json!("50%"), "50%25"),
        (json!("J\u{fc}rgen\n"), "J%C3%BCrgen%0A"),
        (json!(5), "5"),
        (json!([true, {"a": 1}]), "true,{\"a\":1}"),
    ] {
        assert_eq!(claim_value(&value).unwrap(), field, "{value}");
    }
    assert_eq!(claim_value(&Value::Null), None);
}

#[test]
fn hop_by_hop_fields_and_what_connection_names_are_removed() {
    let mut headers = map(&[
        ("connection", "close, X-Secret"),
        ("connection", "keep-alive"),
        ("x-secret", "1"),
        ("keep-alive", "timeout=5"),
        ("te", "trailers"),
        ("upgrade", "h2c"),
        ("proxy-authorization", "Basic eA=="),
        ("proxy-authenticate", "Basic"),
        ("proxy-connection", "keep-alive"),
        ("trailer", "x"),
        ("transfer-encoding", "chunked"),
        ("cookie", "a=1"),
    ]);
    let mut response = headers.clone();
    cleaner().clean(&mut headers, false);
    assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["cookie"]);
    let hop = HopByHop::of(&response);
    assert!(hop.has_transfer_encoding());
    hop.remove(&mut response);
    assert_eq!(response.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["cookie"]);
}

#[test]
fn a_length_is_spelled_once_and_plainly() {
    for (fields, spelled) in [
        (&[][..], &[][..]),
        (&["5"], &["5"]),
        (&["0"], &["0"]),
        (&["05"], &["5"]),
        (&["5", "5"], &["5"]),
        (&["5, 5"], &["5"]),
        (&["+5"], &["5"]),
    ] {
        let mut headers = map(&fields.iter().map(|it| ("content-length", *it)).collect::<Vec<_>>());
        spell_length(&mut headers, if fields.contains(&"0") { 0 } else { 5 });
        let found: Vec<_> = headers.get_all("content-length").iter().map(|it| it.to_str().unwrap()).collect();
        assert_eq!(found, spelled, "{fields:?}");
    }
}

#[test]
fn connection_does_not_take_the_host_away() {
    let mut headers = map(&[("host", "a.example"), ("connection", "host, Accept"), ("accept", "*/*")]);
    cleaner().clean(&mut headers, false);
    assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["host"]);
}

#[test]
fn forwarding_fields_are_believed_from_trusted_peers_only() {
    let given = || map(&[("x-forwarded-for", "1.2.3.4"), ("x_forwarded_for", "6.6.6.6"), ("forwarded", "for=1.2.3.4")]);
    let mut headers = given();
    cleaner().clean(&mut headers, false);
    assert!(headers.is_empty());
    let mut headers = given();
    let kept = cleaner().clean(&mut headers, true);
    assert_eq!(headers.len(), 2);
    let peer = Peer::new([10, 0, 0, 1].into());
    let forwarding = Forwarding { version: Version::HTTP_11, host: None, kept };
    forwarding.set(&mut headers, &peer, &HeaderValue::from_static("id"));
    assert_eq!(headers["x-forwarded-for"], "1.2.3.4, 10.0.0.1");
}

#[test]
fn the_client_is_the_last_address_that_is_not_a_proxy() {
    let proxies = ["10.0.0.0/8".parse().unwrap()];
    let peer = Peer::new([10, 0, 0, 1].into());
    for (field, client) in [
        ("1.1.1.1, 2.2.2.2, 10.0.0.9", "2.2.2.2"),
        ("2.2.2.2", "2.2.2.2"),
        ("nonsense, 10.0.0.9", "10.0.0.9"),
        ("10.0.0.8", "10.0.0.8"),
    ] {
        let found = peer.client(&map(&[("x-forwarded-for", field)]), &proxies);
        assert_eq!(found.to_string(), client, "{field}");
    }
    let stranger = Peer::new([9, 9, 9, 9].into());
    assert_eq!(stranger.client(&map(&[("x-forwarded-for", "1.1.1.1")]), &proxies).to_string(), "9.9.9.9");
}

#[test]
fn one_cookie_is_removed_and_the_others_stay() {
    for (cookies, left) in [
        ("a=1; __Host-session=x; b=2", Some("a=1; b=2")),
        ("__Host-session=x", None),
        ("__Host-session=x;__Host-session=y; c=3", Some("c=3")),
        ("a=__Host-session=x", Some("a=__Host-session=x")),
    ] {
        let mut headers = map(&[("cookie", cookies)]);
        remove_cookie(&mut headers, "__Host-session");
        assert_eq!(headers.get("cookie").map(|value| value.to_str().unwrap()), left, "{cookies}");
    }
}

#[test]
fn broken_trace_context_is_dropped_and_a_good_one_kept() {
    let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for (value, kept) in [(good, true), ("00-zz-00f067aa0ba902b7-01", false), ("nonsense", false)] {
        let mut headers = map(&[("traceparent", value), ("tracestate", "a=1"), ("via", "1.0 edge")]);
        let left = cleaner().clean(&mut headers, false);
        let peer = Peer::new([10, 0, 0, 1].into());
        let forwarding = Forwarding { version: Version::HTTP_11, host: None, kept: left };
        forwarding.set(&mut headers, &peer, &HeaderValue::from_static("id"));
        assert_eq!(headers["via"], "1.0 edge, 1.1 portcullis");
        assert_eq!(headers.contains_key("traceparent"), kept, "{value}");
        assert_eq!(headers.contains_key("tracestate"), kept, "{value}");
    }
}
