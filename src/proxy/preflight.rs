//! CORS preflights: what a browser asks before a request of another origin, and asks without a token.

use http::request::Parts;
use http::{HeaderName, Method, header};
use http_body::Body;

use crate::config::TokenPlace;
use crate::token::present::find;

/// Whether a request is a preflight (Fetch §4.8) and nothing besides: `OPTIONS` with one `Origin` and one
/// method that is asked for, without a body. A browser sends no token with it, so whoever brings one has sent
/// another kind of request, and is judged by it.
pub(super) fn is_one(head: &Parts, places: &[TokenPlace], body: &impl Body) -> bool {
    let once = |name: &HeaderName| {
        let mut fields = head.headers.get_all(name).iter();
        fields.next().filter(|_| fields.next().is_none())
    };
    head.method == Method::OPTIONS
        && body.is_end_stream()
        && once(&header::ORIGIN).is_some_and(|origin| !origin.is_empty())
        && once(&header::ACCESS_CONTROL_REQUEST_METHOD).is_some_and(|it| Method::from_bytes(it.as_bytes()).is_ok())
        && matches!(find(&head.headers, places), Ok(None))
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http_body_util::{Empty, Full};

    use super::*;

    type NoBody = Empty<bytes::Bytes>;

    fn is(method: &str, fields: &[(&str, &str)], body: &impl Body) -> bool {
        let mut request = Request::builder().method(method).uri("/");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let places = [TokenPlace::Header(header::AUTHORIZATION), TokenPlace::Cookie("s".to_owned())];
        is_one(&request.body(()).unwrap().into_parts().0, &places, body)
    }

    #[test]
    fn a_preflight_is_that_and_nothing_besides() {
        let origin = ("origin", "https://app.example");
        let asked = ("access-control-request-method", "PUT");
        assert!(is("OPTIONS", &[origin, asked, ("cookie", "theme=dark")], &NoBody::new()));
        for (name, method, fields) in [
            ("another method", "GET", &[origin, asked][..]),
            ("a HEAD", "HEAD", &[origin, asked]),
            ("no origin", "OPTIONS", &[asked]),
            ("an empty origin", "OPTIONS", &[("origin", ""), asked]),
            ("two origins", "OPTIONS", &[origin, origin, asked]),
            ("no method asked for", "OPTIONS", &[origin]),
            ("no method at all", "OPTIONS", &[origin, ("access-control-request-method", "P T")]),
            ("two methods", "OPTIONS", &[origin, asked, asked]),
            ("a token", "OPTIONS", &[origin, asked, ("authorization", "Bearer x")]),
            ("a token in a cookie", "OPTIONS", &[origin, asked, ("cookie", "s=x")]),
        ] {
            assert!(!is(method, fields, &NoBody::new()), "{name}");
        }
        assert!(!is("OPTIONS", &[origin, asked], &Full::new(bytes::Bytes::from_static(b"x"))), "a body");
    }
}
