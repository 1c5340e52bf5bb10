//! The paths routes are written in.
//!
//! Requests are matched after one normalisation: unreserved characters decoded, slashes merged, dot
//! segments removed, parameters (`;…`) not looked at. A route that is not in that form would never
//! match, which for a route that demands more than the next one is an open door; so it is refused.

use super::model::PathMatch;

/// A `path`: a prefix of whole segments.
pub(super) fn prefix(text: &str) -> Result<PathMatch, String> {
    if text.contains(['{', '}']) {
        return Err("braces are for patterns: use `pattern`".to_owned());
    }
    normal(text)?;
    Ok(PathMatch::Prefix(text.to_owned()))
}

/// A `pattern`: segments, each of them literal, `{name}`, or a last `{*name}`.
pub(super) fn pattern(text: &str) -> Result<PathMatch, String> {
    let segments: Vec<&str> = text.split('/').skip(1).collect();
    let mut names = Vec::new();
    let mut literal = String::new();
    for (index, segment) in segments.iter().enumerate() {
        let Some(inside) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
            if segment.contains(['{', '}']) {
                return Err(format!("`{segment}`: braces hold a whole segment, such as `{{id}}`"));
            }
            literal.push('/');
            literal.push_str(segment);
            continue;
        };
        // Stands for the segment where the rest is judged.
        literal.push_str("/x");
        let name = inside.strip_prefix('*').unwrap_or(inside);
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if name.is_empty() || !plain {
            return Err(format!("`{segment}`: a name has letters, digits and `_`"));
        }
        if inside.starts_with('*') && index + 1 != segments.len() {
            return Err(format!("`{segment}` takes the rest of the path, so it must be last"));
        }
        if names.contains(&name) {
            return Err(format!("`{name}` is named twice"));
        }
        names.push(name);
    }
    if !text.starts_with('/') {
        return Err(format!("a path starts with `/`: write `/{text}`"));
    }
    normal(&literal)?;
    Ok(PathMatch::Pattern(text.to_owned()))
}

/// Whether a path is what normalisation would leave of it.
fn normal(text: &str) -> Result<(), String> {
    if !text.starts_with('/') {
        return Err(format!("a path starts with `/`: write `/{text}`"));
    }
    if text.contains("//") {
        return Err("slashes are merged before matching: write one".to_owned());
    }
    if text.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err("`.` and `..` are resolved before matching: write where they lead".to_owned());
    }
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match first {
            b'%' => rest = escape(rest)?,
            b'?' => return Err("a query is not matched: leave out `?` and what follows".to_owned()),
            b';' => return Err("path parameters are not matched: leave out `;` and what follows".to_owned()),
            byte if byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,=:@".contains(byte) => {}
            byte if byte.is_ascii_graphic() => return Err(format!("`{}` cannot stand in a path", char::from(*byte))),
            _ => return Err("write it percent-encoded: spaces, control and non-ASCII characters are".to_owned()),
        }
    }
    Ok(())
}

/// What follows one percent-encoded byte, given what follows its `%`.
fn escape(rest: &[u8]) -> Result<&[u8], String> {
    let [high, low, rest @ ..] = rest else { return Err("`%` needs two hexadecimal digits".to_owned()) };
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let (Some(one), Some(two)) = (digit(high), digit(low)) else {
        return Err("`%` needs two hexadecimal digits".to_owned());
    };
    if high.is_ascii_lowercase() || low.is_ascii_lowercase() {
        return Err("percent-encoding is matched in upper case (RFC 3986 §6.2.2.1)".to_owned());
    }
    match char::from_u32(one * 16 + two).unwrap_or('\0') {
        plain if plain.is_ascii_alphanumeric() || "-._~".contains(plain) => {
            Err(format!("unreserved characters are decoded before matching: write `{plain}`"))
        }
        '/' | '\\' => Err("an encoded slash is always refused (400)".to_owned()),
        control if control.is_ascii_control() => Err("an encoded control character is always refused (400)".to_owned()),
        _ => Ok(rest),
    }
}

/// Whether every path of `later` is one of `earlier` too, as far as can be told.
pub(super) fn covers(earlier: &PathMatch, later: &PathMatch) -> bool {
    match (earlier, later) {
        (PathMatch::Prefix(prefix), PathMatch::Prefix(path)) => within(prefix, path),
        (PathMatch::Prefix(prefix), PathMatch::Pattern(pattern)) => {
            within(prefix, &pattern[..pattern.find('{').unwrap_or(pattern.len())])
        }
        (PathMatch::Pattern(one), PathMatch::Pattern(other)) => one == other,
        (PathMatch::Pattern(_), PathMatch::Prefix(_)) => false,
    }
}

/// Whether `path` is `prefix` or below it, segment by segment.
fn within(prefix: &str, path: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_normalisation_would_change_is_refused() {
        for good in ["/", "/admin", "/admin/", "/a-b/c_d/~x/", "/%20/%C3%A9", "/a:b@c"] {
            assert!(prefix(good).is_ok(), "{good}");
        }
        for (bad, wanted) in [
            ("", "starts with `/`"),
            ("admin", "write `/admin`"),
            ("//admin", "merged"),
            ("/a/../b", "resolved"),
            ("/a/.", "resolved"),
            ("/%61dmin", "write `a`"),
            ("/%2Fx", "encoded slash"),
            ("/%5C", "encoded slash"),
            ("/%00", "control"),
            ("/%c3", "upper case"),
            ("/%4", "two hexadecimal"),
            ("/%", "two hexadecimal"),
            ("/%zz", "two hexadecimal"),
            ("/a?b", "query"),
            ("/a#b", "`#` cannot"),
            ("/a;b", "parameters"),
            ("/a\\b", "`\\` cannot"),
            ("/ä", "percent-encoded"),
            ("/a b", "percent-encoded"),
            ("/{id}", "use `pattern`"),
        ] {
            let why = prefix(bad).unwrap_err();
            assert!(why.contains(wanted), "{bad}: {why}");
        }
    }

    #[test]
    fn patterns_have_whole_segments() {
        for good in ["/users/{id}", "/users/{id}/posts/{post}", "/files/{*rest}", "/{*all}", "/plain"] {
            assert!(pattern(good).is_ok(), "{good}");
        }
        for (bad, wanted) in [
            ("users/{id}", "starts with `/`"),
            ("/a{id}", "whole segment"),
            ("/{}", "letters"),
            ("/{a-b}", "letters"),
            ("/{*}", "letters"),
            ("/{*rest}/x", "must be last"),
            ("/{a}/{a}", "twice"),
            ("/{a}//b", "merged"),
            ("/{a}/..", "resolved"),
        ] {
            let why = pattern(bad).unwrap_err();
            assert!(why.contains(wanted), "{bad}: {why}");
        }
    }

    #[test]
    fn coverage_goes_by_segments() {
        let path = |text: &str| if text.contains('{') { pattern(text) } else { prefix(text) }.unwrap();
        for (earlier, later, covered) in [
            ("/", "/anything", true),
            ("/admin/", "/admin", true),
            ("/admin", "/admin/x", true),
            ("/admin", "/administrator", false),
            ("/admin/x", "/admin", false),
            ("/users", "/users/{id}", true),
            ("/users/7", "/users/{id}", false),
            ("/us", "/users/{id}", false),
            ("/users/{id}", "/users/{id}", true),
            ("/users/{id}", "/users/", false),
        ] {
            assert_eq!(covers(&path(earlier), &path(later)), covered, "{earlier} {later}");
        }
    }
}
