use http::HeaderValue;
use http::header::HOST;
use proptest::prelude::*;

use super::*;

const PLACES: fn() -> Vec<TokenPlace> = || {
    vec![
        TokenPlace::Header(AUTHORIZATION),
        TokenPlace::Cookie("__Host-session".to_owned()),
        TokenPlace::Header(HeaderName::from_static("x-token")),
    ]
};

fn headers(fields: &[(&'static str, &[u8])]) -> HeaderMap {
    fields
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap()))
        .collect()
}

/// The token and its place, as text of the fields.
fn presented(fields: &[(&'static str, &[u8])]) -> Result<Option<(String, usize)>, PresentError> {
    present(&headers(fields), &PLACES()).map(|found| found.map(|found| (found.token.to_owned(), found.place)))
}

#[test]
fn a_request_presents_one_token_in_one_of_the_places() {
    let found = |token: &str, place| Ok(Some((token.to_owned(), place)));
    for (fields, expected) in [
        (&[("host", b"a" as &[u8])][..], Ok(None)),
        (&[("authorization", b"Bearer a.b.c")], found("a.b.c", 0)),
        (&[("authorization", b"bearer a.b.c")], found("a.b.c", 0)),
        (&[("authorization", b"BEARER a.b.c")], found("a.b.c", 0)),
        (&[("authorization", b"Basic dXNlcjpw")], Ok(None)),
        (&[("authorization", b"DPoP a.b.c")], found("a.b.c", 0)),
        (&[("authorization", b"DPoPer a.b.c")], Ok(None)),
        (&[("authorization", b"Bearerish a.b.c")], Ok(None)),
        (&[("authorization", b"")], Ok(None)),
        (&[("cookie", b"__Host-session=a.b.c")], found("a.b.c", 1)),
        (&[("cookie", b"x=1; __Host-session=a.b.c; y=\xff")], found("a.b.c", 1)),
        (&[("cookie", b"x=1;__Host-session=\"a.b.c\"")], found("a.b.c", 1)),
        (&[("cookie", b"x=1"), ("cookie", b"__Host-session=a.b.c")], found("a.b.c", 1)),
        (&[("cookie", b"__host-session=a.b.c; X__Host-session=d; __Host-session2=e")], Ok(None)),
        (&[("cookie", b"__Host-session=")], Ok(None)),
        (&[("cookie", b"__Host-session=\"\"")], Ok(None)),
        (&[("cookie", b"__Host-session")], Ok(None)),
        (&[("x-token", b"a.b.c")], found("a.b.c", 2)),
    ] {
        assert_eq!(presented(fields), expected, "{fields:?}");
    }
}

#[test]
fn identical_copies_are_one_token() {
    for fields in [
        &[("authorization", b"Bearer a.b.c" as &[u8]), ("authorization", b"bearer a.b.c")][..],
        &[("authorization", b"Bearer a.b.c"), ("cookie", b"__Host-session=a.b.c")],
        &[("authorization", b"Bearer a.b.c"), ("cookie", b"__Host-session=\"a.b.c\"; __Host-session=a.b.c")],
        &[("x-token", b"a.b.c"), ("x-token", b"a.b.c"), ("authorization", b"Bearer a.b.c")],
    ] {
        assert_eq!(presented(fields), Ok(Some(("a.b.c".to_owned(), 0))), "{fields:?}");
    }
}

#[test]
fn different_tokens_are_refused_wherever_they_are() {
    for fields in [
        &[("authorization", b"Bearer a.b.c" as &[u8]), ("authorization", b"Bearer a.b.d")][..],
        &[("authorization", b"Bearer a.b.c"), ("authorization", b"Basic dXNlcjpw")],
        &[("authorization", b"Basic dXNlcjpw"), ("authorization", b"Bearer a.b.c")],
        &[("authorization", b"Bearer a.b.c"), ("cookie", b"__Host-session=a.b.d")],
        &[("cookie", b"__Host-session=a.b.c; __Host-session=a.b.d")],
        &[("cookie", b"__Host-session=a.b.c"), ("cookie", b"__Host-session=a.b.d")],
        &[("cookie", b"__Host-session=a.b.c; __Host-session=")],
        &[("cookie", b"__Host-session=\"\"; __Host-session=a.b.c")],
        &[("x-token", b"a.b.c"), ("x-token", b"a.b.d")],
        &[("x-token", b"a.b.c"), ("cookie", b"__Host-session=a.b.d")],
    ] {
        assert_eq!(presented(fields), Err(PresentError::Several), "{fields:?}");
    }
}

#[test]
fn what_is_not_one_token_is_refused() {
    for value in [
        &b"Bearer"[..],
        b"Bearer ",
        b"Bearer\ta.b.c",
        b"Bearer \ta.b.c",
        b"Bearer  a.b.c",
        b"Bearer a.b.c d.e.f",
        b"Bearer a.b.c\td",
        b"Bearer a.b.c,d.e.f",
        b"Bearer a.b.c, Bearer d.e.f",
        b"Bearer,a.b.c",
        b"Bearer a.b.\xff",
        b"Bearer \xc3\xa9",
    ] {
        assert_eq!(presented(&[("authorization", value)]), Err(PresentError::Malformed), "{value:?}");
    }
    for value in [&b"a b"[..], b"a,b", b"a\xff", b"", b"Bearer a.b.c"] {
        assert_eq!(presented(&[("x-token", value)]), Err(PresentError::Malformed), "{value:?}");
    }
    for value in [&b"__Host-session=a b"[..], b"__Host-session=a,b", b"__Host-session=\xff", b"__Host-session=a\tb"] {
        assert_eq!(presented(&[("cookie", value)]), Err(PresentError::Malformed), "{value:?}");
    }
    // A good token elsewhere does not make up for it.
    let fields: [(&str, &[u8]); 2] = [("authorization", b"Bearer"), ("cookie", b"__Host-session=a.b.c")];
    assert_eq!(presented(&fields), Err(PresentError::Malformed));
}

#[test]
fn only_the_configured_places_are_looked_at() {
    let headers = headers(&[("authorization", b"Bearer a.b.c"), ("cookie", b"__Host-session=d.e.f")]);
    assert_eq!(present(&headers, &[]), Ok(None));
    assert_eq!(present(&headers, &[TokenPlace::Header(HOST)]), Ok(None));
    let cookie = present(&headers, &[TokenPlace::Cookie("__Host-session".to_owned())]);
    assert_eq!(cookie, Ok(Some(Presented { token: "d.e.f", place: 0, scheme: Scheme::None })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn two_different_tokens_never_come_out_as_one(a in "[a-z.]{1,9}", b in "[a-z.]{1,9}", way in 0..4) {
        let bearer = |token: &str| ("authorization", format!("Bearer {token}"));
        let cookie = |token: &str| ("cookie", format!("__Host-session={token}"));
        let fields = match way {
            0 => vec![bearer(&a), bearer(&b)],
            1 => vec![bearer(&a), cookie(&b)],
            2 => vec![cookie(&a), ("x-token", b.clone())],
            _ => vec![cookie(&format!("{a}; __Host-session={b}"))],
        };
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let fields = headers(&fields);
        let found = present(&fields, &PLACES());
        if a == b {
            prop_assert_eq!(found.unwrap().unwrap().token, &*a);
        } else {
            prop_assert_eq!(found, Err(PresentError::Several));
        }
    }
}

/// What the one token of the fields is presented as.
fn scheme(fields: &[(&'static str, &[u8])]) -> Result<Option<Scheme>, PresentError> {
    present(&headers(fields), &PLACES()).map(|found| found.map(|found| found.scheme))
}

#[test]
fn a_token_is_presented_as_one_thing() {
    for (fields, expected) in [
        (&[("authorization", b"Bearer a.b.c" as &[u8])][..], Ok(Some(Scheme::Bearer))),
        (&[("authorization", b"dpop a.b.c")], Ok(Some(Scheme::Dpop))),
        (&[("authorization", b"DPoP a.b.c"), ("authorization", b"DPOP a.b.c")], Ok(Some(Scheme::Dpop))),
        (&[("authorization", b"DPoP a.b.c"), ("x-token", b"a.b.c")], Ok(Some(Scheme::Dpop))),
        (&[("x-token", b"a.b.c")], Ok(Some(Scheme::None))),
        (&[("cookie", b"__Host-session=a.b.c")], Ok(Some(Scheme::None))),
        (&[("authorization", b"DPoP a.b.c"), ("authorization", b"Bearer a.b.c")], Err(PresentError::Several)),
        (&[("authorization", b"DPoP a.b.c"), ("authorization", b"Basic a")], Err(PresentError::Several)),
        (&[("authorization", b"DPoP a.b.c"), ("authorization", b"DPoP a.b.d")], Err(PresentError::Several)),
        (&[("authorization", b"DPoP a.b.c"), ("cookie", b"__Host-session=d")], Err(PresentError::Several)),
        (&[("authorization", b"DPoP")], Err(PresentError::Malformed)),
        (&[("authorization", b"DPoP ")], Err(PresentError::Malformed)),
        (&[("authorization", b"DPoP\ta.b.c")], Err(PresentError::Malformed)),
        (&[("authorization", b"DPoP a.b.c, a")], Err(PresentError::Malformed)),
        (&[("authorization", b"DPoP  a.b.c")], Err(PresentError::Malformed)),
    ] {
        assert_eq!(scheme(fields), expected, "{fields:?}");
    }
    // The cookie's place comes first, the scheme of the header counts all the same.
    let places = vec![TokenPlace::Cookie("c".to_owned()), TokenPlace::Header(AUTHORIZATION)];
    let both = headers(&[("cookie", b"c=a.b.c"), ("authorization", b"DPoP a.b.c")]);
    let (token, place) = find(&both, &places).unwrap().unwrap();
    assert_eq!((token.scheme(), place), (Scheme::Dpop, 0));
}
