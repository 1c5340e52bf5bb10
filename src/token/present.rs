//! Finding the one token that a request presents (RFC 6750 §2.1, RFC 9449 §7.1, RFC 6265 §4.2).
//!
//! A request that says two different things about who sends it is refused, never interpreted: the
//! gateway and an upstream might choose differently. Identical copies are one token.

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderName};

use crate::config::TokenPlace;

/// A token as it was presented; not looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presented<'r> {
    /// Its text: visible ASCII, not empty.
    pub token: &'r str,
    /// In which of the places it was found; the first, when it is in several.
    pub place: usize,
    /// What it is presented as.
    pub scheme: Scheme,
}

/// What a token is presented as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// `Authorization: Bearer`: good for whoever bears it (RFC 6750).
    Bearer,
    /// `Authorization: DPoP`: good with a proof of possession (RFC 9449).
    Dpop,
    /// In a cookie or a field of its own, which have no scheme.
    #[default]
    None,
}

/// A token's bytes as they came, not even looked over: whoever knows them from before need not do so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unread<'r> {
    bytes: &'r [u8],
    scheme: Scheme,
}

impl<'r> Unread<'r> {
    /// The bytes.
    #[must_use]
    pub const fn bytes(self) -> &'r [u8] {
        self.bytes
    }

    /// What it is presented as.
    #[must_use]
    pub const fn scheme(self) -> Scheme {
        self.scheme
    }

    /// The bytes as text, when they could be one token: visible ASCII, and no comma, which would join two
    /// field values. What else is in it, the parser refuses.
    ///
    /// # Errors
    /// [`PresentError::Malformed`].
    pub fn text(self) -> Result<&'r str, PresentError> {
        visible(self.bytes)
    }
}

impl<'r> From<&'r str> for Unread<'r> {
    fn from(text: &'r str) -> Self {
        Self { bytes: text.as_bytes(), scheme: Scheme::None }
    }
}

impl<'r> From<Presented<'r>> for Unread<'r> {
    fn from(presented: Presented<'r>) -> Self {
        Self { bytes: presented.token.as_bytes(), scheme: presented.scheme }
    }
}

/// Why no token can be told from the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PresentError {
    /// Several different tokens.
    #[error("several different tokens were presented")]
    Several,
    /// A place holds something that is not one token.
    #[error("the token is not presented as RFC 6750 wants it")]
    Malformed,
}

/// The token in `headers`, looked for in all of `places`.
///
/// # Errors
/// See [`PresentError`].
pub fn present<'r>(headers: &'r HeaderMap, places: &[TokenPlace]) -> Result<Option<Presented<'r>>, PresentError> {
    let Some((token, place)) = find(headers, places)? else { return Ok(None) };
    Ok(Some(Presented { token: token.text()?, place, scheme: token.scheme }))
}

/// The same without looking at its bytes, and its place.
///
/// # Errors
/// See [`PresentError`].
pub fn find<'r>(headers: &'r HeaderMap, places: &[TokenPlace]) -> Result<Option<(Unread<'r>, usize)>, PresentError> {
    let mut found = Found::default();
    for (place, at) in places.iter().enumerate() {
        match at {
            TokenPlace::Header(AUTHORIZATION) => authorization(headers, place, &mut found)?,
            TokenPlace::Header(name) => bare_header(headers, name, place, &mut found)?,
            TokenPlace::Cookie(name) => cookie(headers, name, place, &mut found)?,
        }
    }
    Ok(found.0)
}

/// What was found so far.
#[derive(Default)]
struct Found<'r>(Option<(Unread<'r>, usize)>);

impl<'r> Found<'r> {
    fn add(&mut self, bytes: &'r [u8], place: usize, scheme: Scheme) -> Result<(), PresentError> {
        match &mut self.0 {
            None => self.0 = Some((Unread { bytes, scheme }, place)),
            Some((first, _)) if first.bytes == bytes => match (first.scheme, scheme) {
                (_, Scheme::None) => {}
                (Scheme::None, scheme) => first.scheme = scheme,
                (known, scheme) if known == scheme => {}
                // One token as two things.
                _ => return Err(PresentError::Several),
            },
            Some(_) => return Err(PresentError::Several),
        }
        Ok(())
    }
}

/// `Authorization: Bearer token`, or `DPoP token`. A field of another scheme presents no token, but beside
/// one it contradicts it: the field may occur once (RFC 9110 §11.6.2).
fn authorization<'r>(headers: &'r HeaderMap, place: usize, found: &mut Found<'r>) -> Result<(), PresentError> {
    let (mut token_bearing, mut other) = (false, false);
    for value in headers.get_all(AUTHORIZATION) {
        match credentials(value.as_bytes())? {
            Some((scheme, token)) => {
                found.add(token, place, scheme)?;
                token_bearing = true;
            }
            None => other = true,
        }
    }
    if token_bearing && other { Err(PresentError::Several) } else { Ok(()) }
}

/// What follows `Bearer` or `DPoP` and one space; `None` for another scheme.
fn credentials(value: &[u8]) -> Result<Option<(Scheme, &[u8])>, PresentError> {
    if let Some(token) = after_scheme(value, b"bearer")? {
        return Ok(Some((Scheme::Bearer, token)));
    }
    Ok(after_scheme(value, b"dpop")?.map(|token| (Scheme::Dpop, token)))
}

/// The scheme ignores case (RFC 9110 §11.1).
fn after_scheme<'v>(value: &'v [u8], wanted: &[u8]) -> Result<Option<&'v [u8]>, PresentError> {
    match value.split_at_checked(wanted.len()) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(wanted) => match rest {
            [b' ', token @ ..] => Ok(Some(token)),
            [] | [b'\t' | b',', ..] => Err(PresentError::Malformed),
            _ => Ok(None),
        },
        _ => Ok(None),
    }
}

/// A header whose whole value is the token.
fn bare_header<'r>(
    headers: &'r HeaderMap,
    name: &HeaderName,
    place: usize,
    found: &mut Found<'r>,
) -> Result<(), PresentError> {
    headers.get_all(name).iter().try_for_each(|value| found.add(value.as_bytes(), place, Scheme::None))
}

/// A cookie of exactly this name, in any `Cookie` field, its value with or without quotes. An empty
/// value is what a cleared cookie leaves behind: no token, unless another copy says otherwise.
fn cookie<'r>(headers: &'r HeaderMap, name: &str, place: usize, found: &mut Found<'r>) -> Result<(), PresentError> {
    let (mut empty, mut filled) = (false, false);
    for field in headers.get_all(COOKIE) {
        for pair in field.as_bytes().split(|byte| *byte == b';') {
            let Some(value) = pair.trim_ascii().strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"="))
            else {
                continue;
            };
            let value = unquoted(value);
            if value.is_empty() {
                empty = true;
                continue;
            }
            found.add(value, place, Scheme::None)?;
            filled = true;
        }
    }
    if empty && filled { Err(PresentError::Several) } else { Ok(()) }
}

fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    }
}

fn visible(bytes: &[u8]) -> Result<&str, PresentError> {
    // A block at a time and without a branch within, which the compiler turns into a few wide steps: a
    // token has hundreds of bytes, and this is asked of each at every request.
    let plain =
        |block: &[u8]| block.iter().fold(true, |plain, byte| plain & (byte.is_ascii_graphic() & (*byte != b',')));
    if bytes.is_empty() || !bytes.chunks(64).all(plain) {
        return Err(PresentError::Malformed);
    }
    std::str::from_utf8(bytes).map_err(|_| PresentError::Malformed)
}

#[cfg(test)]
mod tests;
