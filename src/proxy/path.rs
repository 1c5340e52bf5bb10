//! One normal form of a path, made once: what is matched is what is forwarded (RFC 3986 §6.2.2).
//!
//! Unreserved characters are decoded, escapes written in upper case, slashes merged and dot segments
//! removed. What two parsers could read differently is refused: an encoded slash, a backslash, a
//! control or non-ASCII byte, escapes that are not UTF-8, a dot segment with parameters.

use std::borrow::Cow;

/// A path in normal form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path<'a> {
    /// What goes upstream.
    pub(super) forwarded: Cow<'a, str>,
    /// What routes are matched on: the same without `;parameters`. `None`: the very same.
    bare: Option<String>,
}

impl Path<'_> {
    /// What routes are matched on.
    #[must_use]
    pub(super) fn matched(&self) -> &str {
        self.bare.as_deref().unwrap_or(&self.forwarded)
    }
}

/// The path has no single meaning. Read as "failed to read the path: {self}".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with a slash.
    #[error("the path does not begin with a slash")]
    NotAbsolute,
    /// A `%` without two hexadecimal digits, or escapes that are not UTF-8.
    #[error("the path has a broken percent-escape")]
    BrokenEscape,
    /// An encoded slash, a backslash, a control or non-ASCII byte, plain or encoded.
    #[error("the path has a byte that servers read differently")]
    Ambiguous,
}

/// Brings `path` into its normal form. A path that is in it already is borrowed.
///
/// # Errors
///
/// [`PathError`] when servers could read it differently.
pub(super) fn normalise(path: &str) -> Result<Path<'_>, PathError> {
    if !path.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    let (plain, parameters) = survey(path.as_bytes());
    let forwarded = if plain { Cow::Borrowed(path) } else { Cow::Owned(rewrite(path)?) };
    let bare = if parameters && forwarded.contains(';') { Some(without_parameters(&forwarded)?) } else { None };
    Ok(Path { forwarded, bare })
}

/// Whether nothing in `path` needs rewriting, and whether it may have parameters (what needs rewriting
/// may): the usual case, decided in one pass.
fn survey(path: &[u8]) -> (bool, bool) {
    let mut before = 0;
    let mut parameters = false;
    for &byte in path {
        let plain = match byte {
            b'/' | b'.' => before != b'/',
            b'%' | b'\\' => false,
            _ => byte > 0x20 && byte < 0x7f,
        };
        if !plain {
            return (false, true);
        }
        parameters |= byte == b';';
        before = byte;
    }
    (true, parameters)
}

fn rewrite(path: &str) -> Result<String, PathError> {
    let decoded = decode_unreserved(path.as_bytes())?;
    let mut segments: Vec<&str> = Vec::new();
    let mut inner = decoded.split('/').skip(1).peekable();
    let mut directory = false;
    if decoded.contains(';') {
        // Judged before a dot segment can remove it.
        without_parameters(&decoded)?;
    }
    while let Some(segment) = inner.next() {
        let last = inner.peek().is_none();
        match segment {
            "" => directory = last,
            "." => directory = last,
            ".." => {
                segments.pop();
                directory = last;
            }
            _ => segments.push(segment),
        }
    }
    let mut normal = String::with_capacity(decoded.len());
    for segment in &segments {
        normal.push('/');
        normal.push_str(segment);
    }
    if directory || segments.is_empty() {
        normal.push('/');
    }
    Ok(normal)
}

/// The path with every escaped unreserved character (RFC 3986 §2.3) decoded, other escapes in upper case.
fn decode_unreserved(path: &[u8]) -> Result<String, PathError> {
    let mut text = String::with_capacity(path.len());
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            if ambiguous(byte) || byte == b' ' || !byte.is_ascii() {
                return Err(PathError::Ambiguous);
            }
            text.push(char::from(byte));
            plain.push(byte);
            continue;
        }
        let Some((digits, after)) = rest.split_first_chunk::<2>() else { return Err(PathError::BrokenEscape) };
        rest = after;
        let (Some(high), Some(low)) = (hex(digits[0]), hex(digits[1])) else { return Err(PathError::BrokenEscape) };
        let value = high << 4 | low;
        if ambiguous(value) || value == b'/' {
            return Err(PathError::Ambiguous);
        }
        plain.push(value);
        if value.is_ascii_alphanumeric() || matches!(value, b'-' | b'.' | b'_' | b'~') {
            text.push(char::from(value));
        } else {
            text.push('%');
            text.push(char::from(digits[0].to_ascii_uppercase()));
            text.push(char::from(digits[1].to_ascii_uppercase()));
        }
    }
    // Overlong and cut-off sequences are how a dot or a slash hides from one parser and not another.
    if std::str::from_utf8(&plain).is_err() { Err(PathError::BrokenEscape) } else { Ok(text) }
}

/// Bytes that some servers take for a separator or an end.
const fn ambiguous(byte: u8) -> bool {
    byte == b'\\' || byte < 0x20 || byte == 0x7f
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// The path as routes see it. Parameters are ignored when matching; a dot segment that wears some is
/// a way up for servers that ignore them too.
fn without_parameters(path: &str) -> Result<String, PathError> {
    let mut bare = String::with_capacity(path.len());
    for segment in path.split('/').skip(1) {
        let name = segment.split(';').next().unwrap_or_default();
        if name.len() != segment.len() && matches!(name, "" | "." | "..") {
            return Err(PathError::Ambiguous);
        }
        bare.push('/');
        bare.push_str(name);
    }
    Ok(bare)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_have_one_normal_form() {
        for (path, forwarded, matched) in [
            ("/", "/", "/"),
            ("/orders/1", "/orders/1", "/orders/1"),
            ("/public/../admin", "/admin", "/admin"),
            ("/public/%2e%2e/admin", "/admin", "/admin"),
            ("//admin", "/admin", "/admin"),
            ("///public//../admin", "/admin", "/admin"),
            ("/./admin", "/admin", "/admin"),
            ("/public/.//../admin", "/admin", "/admin"),
            ("/%61dmin", "/admin", "/admin"),
            ("/adm%69n", "/admin", "/admin"),
            ("/admin/.", "/admin/", "/admin/"),
            ("/admin/x/..", "/admin/", "/admin/"),
            ("/../../..", "/", "/"),
            ("/admin;x=1", "/admin;x=1", "/admin"),
            ("/public;/../admin", "/admin", "/admin"),
            ("/caf%c3%a9", "/caf%C3%A9", "/caf%C3%A9"),
            ("/a%252fb", "/a%252fb", "/a%252fb"),
            ("/.well-known/jwks.json", "/.well-known/jwks.json", "/.well-known/jwks.json"),
            ("/a..b/..c", "/a..b/..c", "/a..b/..c"),
        ] {
            let normal = normalise(path).unwrap();
            assert_eq!((normal.forwarded.as_ref(), normal.matched()), (forwarded, matched), "{path}");
        }
    }

    #[test]
    fn what_servers_read_differently_is_refused() {
        for path in [
            "",
            "admin",
            "*",
            "/public%2f..%2fadmin",
            "/public/%2E%2E%2Fadmin",
            "/public/..%2fadmin",
            "/admin\\..\\x",
            "/public%5c..%5cadmin",
            "/public/%00/../admin",
            "/a%0d%0ab",
            "/a%7fb",
            "/%c0%ae%c0%ae/",
            "/caf\u{e9}",
            "/a%",
            "/a%2",
            "/a%zz",
            "/public/..;/admin",
            "/public/..;x=1/admin",
            "/.;/a",
            "/public/;/../admin",
            "/public/..;/../admin",
            "/;/a",
            "/a b",
        ] {
            assert!(normalise(path).is_err(), "{path}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn the_normal_form_is_a_fixed_point_without_dot_segments(path in "(/(\\.|\\.\\.|%2e|%2E|a|b;c|%61|%C3%A9|;|)){0,8}") {
            if let Ok(normal) = normalise(&path) {
                let forwarded = normal.forwarded.clone().into_owned();
                let again = normalise(&forwarded).unwrap();
                prop_assert_eq!(again.forwarded.as_ref(), forwarded.as_str());
                prop_assert!(forwarded.starts_with('/') && !forwarded.contains("//"));
                prop_assert!(forwarded.split('/').all(|segment| segment != "." && segment != ".."));
                prop_assert!(!normal.matched().contains(';'));
            }
        }
    }
}
