//! How a token reaches its client, and how it leaves it: response headers, nothing else.
//!
//! Every function may be applied twice with the result of once.

use std::time::Duration;

use http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, CACHE_CONTROL, EXPIRES, PRAGMA, SET_COOKIE, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::mint::Minted;
use super::refresh::RefreshToken;
use crate::config::Delivery;
use crate::time::Timestamp;

/// The token, in a response that brings one.
pub const SESSION_TOKEN: HeaderName = HeaderName::from_static("x-session-token");
/// When that token expires: its `exp`, in seconds since the epoch (NumericDate, RFC 7519 §2).
pub const SESSION_EXPIRES: HeaderName = HeaderName::from_static("x-session-expires");
/// The refresh token, in the response to a login.
pub const SESSION_REFRESH: HeaderName = HeaderName::from_static("x-session-refresh");
/// A login service's word on who has logged in; never leaves the gateway.
pub const SESSION_GRANT: HeaderName = HeaderName::from_static("x-session-grant");

const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");
const SURROGATE_CONTROL: HeaderName = HeaderName::from_static("surrogate-control");
/// `CDN-Cache-Control` (RFC 9213) and the vendors' own, such as `Cloudflare-CDN-Cache-Control`.
const CDN_CACHE_CONTROL: &str = "cdn-cache-control";

/// Name and value of a cookie that browsers keep; they drop a longer one without a word.
const COOKIE_BYTES_MAX: usize = 4096;
/// The attributes that a cookie must have to be set over, or removed. `__Host-` demands the first two
/// and the absence of `Domain` (RFC 6265bis §4.1.3).
const COOKIE_ATTRIBUTES: &str = "HttpOnly; Secure; SameSite=Lax";
/// The same for the refresh cookie: no link of another site needs to bring it.
const REFRESH_ATTRIBUTES: &str = "HttpOnly; Secure; SameSite=Strict";

/// Why a token was not put into a response. Read as "failed to deliver the token: {self}".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeliverError {
    /// Browsers would drop it.
    #[error("the cookie would have {bytes} bytes, more than the {COOKIE_BYTES_MAX} that browsers keep")]
    CookieTooLarge {
        /// What name and value would have.
        bytes: usize,
    },
    /// The cookie's name cannot be in a header; configuration refuses such names.
    #[error("the cookie's name is not a token (RFC 6265 §4.1.1)")]
    CookieName,
}

/// Removes what only the gateway may say from an upstream's response: `X-Session-Token`,
/// `X-Session-Expires`, `X-Session-Refresh`, `X-Session-Grant`, and cookies named `cookie`. Other cookies keep their order.
pub fn scrub(headers: &mut HeaderMap, cookie: &str) {
    for name in [SESSION_TOKEN, SESSION_EXPIRES, SESSION_REFRESH, SESSION_GRANT] {
        headers.remove(name);
    }
    remove_cookie(headers, cookie);
}

/// Whether browsers would keep the cookie `cookie` with this token: asked before anything is changed for
/// its sake.
///
/// # Errors
/// [`DeliverError::CookieTooLarge`].
pub fn fits_cookie(minted: &Minted, cookie: &str) -> Result<(), DeliverError> {
    let bytes = cookie.len() + minted.token().len();
    if bytes > COOKIE_BYTES_MAX { Err(DeliverError::CookieTooLarge { bytes }) } else { Ok(()) }
}

/// Puts a token into a response, as headers or as the cookie `cookie`.
///
/// `credential` is the request header that the token answers to, `Authorization` or `Cookie`; `Vary`
/// gets it. No cache may keep the response: `Cache-Control` becomes `no-store`, and `Expires`,
/// `Pragma`, `Surrogate-Control` and every `…CDN-Cache-Control`, which some caches would rather obey,
/// go. Where the upstream allows another origin to read the response, that origin may read the token
/// headers, too; they are named one by one, because `*` does not cover requests with credentials.
///
/// # Errors
/// When the cookie could not be kept; the headers are then as they were.
pub fn attach(
    headers: &mut HeaderMap,
    minted: &Minted,
    delivery: Delivery,
    cookie: &str,
    credential: &HeaderName,
    now: Timestamp,
) -> Result<(), DeliverError> {
    match delivery {
        Delivery::Header => {
            headers.insert(SESSION_TOKEN, minted.header_value());
            headers.insert(SESSION_EXPIRES, HeaderValue::from(minted.expires.secs()));
            if headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
                add_to_list(headers, &ACCESS_CONTROL_EXPOSE_HEADERS, &["X-Session-Token", "X-Session-Expires"]);
            }
        }
        Delivery::Cookie => {
            fits_cookie(minted, cookie)?;
            let value = set_cookie(cookie, minted.token(), minted.remaining(now).as_secs(), COOKIE_ATTRIBUTES)?;
            remove_cookie(headers, cookie);
            headers.append(SET_COOKIE, value);
        }
    }
    forbid_storing(headers);
    // `*` says already that anything may matter.
    if !list_has(headers, &VARY, "*") {
        add_to_list(headers, &VARY, &[title(credential)]);
    }
    Ok(())
}

/// Puts a refresh token that lives for `left` into a response, as a header or as the cookie `cookie`. The same
/// rules hold as for [`attach`].
///
/// # Errors
/// [`DeliverError::CookieName`]; the headers are then as they were.
pub fn attach_refresh(
    headers: &mut HeaderMap,
    token: &RefreshToken,
    delivery: Delivery,
    cookie: &str,
    left: Duration,
) -> Result<(), DeliverError> {
    match delivery {
        Delivery::Header => {
            headers.insert(SESSION_REFRESH, token.header_value());
            if headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
                add_to_list(headers, &ACCESS_CONTROL_EXPOSE_HEADERS, &["X-Session-Refresh"]);
            }
        }
        Delivery::Cookie => {
            let value = set_cookie(cookie, &token.text(), left.as_secs(), REFRESH_ATTRIBUTES)?;
            remove_cookie(headers, cookie);
            headers.append(SET_COOKIE, value);
        }
    }
    forbid_storing(headers);
    Ok(())
}

/// Removes the refresh cookie from the browser.
///
/// # Errors
/// [`DeliverError::CookieName`].
pub fn clear_refresh(headers: &mut HeaderMap, cookie: &str) -> Result<(), DeliverError> {
    let value = set_cookie(cookie, "", 0, REFRESH_ATTRIBUTES)?;
    remove_cookie(headers, cookie);
    headers.append(SET_COOKIE, value);
    forbid_storing(headers);
    Ok(())
}

/// Removes the cookie from the browser; for a token that is revoked.
///
/// # Errors
/// [`DeliverError::CookieName`].
pub fn clear_cookie(headers: &mut HeaderMap, cookie: &str) -> Result<(), DeliverError> {
    let value = set_cookie(cookie, "", 0, COOKIE_ATTRIBUTES)?;
    remove_cookie(headers, cookie);
    headers.append(SET_COOKIE, value);
    forbid_storing(headers);
    Ok(())
}

/// Removes everything from the browser that this origin has put there; for a logout.
///
/// # Errors
/// [`DeliverError::CookieName`].
pub fn clear(headers: &mut HeaderMap, cookie: &str) -> Result<(), DeliverError> {
    clear_cookie(headers, cookie)?;
    clear_site(headers);
    Ok(())
}

/// The same where the gateway has no cookie of its own.
pub fn clear_site(headers: &mut HeaderMap) {
    headers.insert(CLEAR_SITE_DATA, HeaderValue::from_static(r#""cookies", "storage""#));
}

fn set_cookie(name: &str, value: &str, max_age: u64, attributes: &str) -> Result<HeaderValue, DeliverError> {
    let is_token = |byte: u8| byte.is_ascii_graphic() && !br#"()<>@,;:\"/[]?={}"#.contains(&byte);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(DeliverError::CookieName);
    }
    let text = format!("{name}={value}; Path=/; Max-Age={max_age}; {attributes}");
    let mut value = HeaderValue::try_from(text).map_err(|_| DeliverError::CookieName)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Removes what sets the cookie `name`.
pub fn remove_cookie(headers: &mut HeaderMap, name: &str) {
    if !headers.get_all(SET_COOKIE).iter().any(|value| sets_cookie(value, name)) {
        return;
    }
    let kept: Vec<_> = headers.get_all(SET_COOKIE).iter().filter(|value| !sets_cookie(value, name)).cloned().collect();
    headers.remove(SET_COOKIE);
    for value in kept {
        headers.append(SET_COOKIE, value);
    }
}

/// Whether a `Set-Cookie` makes a browser send a cookie that reads as `name`.
fn sets_cookie(value: &HeaderValue, name: &str) -> bool {
    let pair = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    // A cookie without a name is sent as its bare value: `=__Host-session=x` comes back as
    // `__Host-session=x`.
    let first = pair.iter().position(|byte| *byte != b'=' && !byte.is_ascii_whitespace()).unwrap_or(pair.len());
    let pair = &pair[first..];
    pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii_end() == name.as_bytes()
}

fn forbid_storing(headers: &mut HeaderMap) {
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for name in [EXPIRES, PRAGMA, SURROGATE_CONTROL] {
        headers.remove(name);
    }
    let for_cdn: Vec<_> = headers.keys().filter(|name| name.as_str().ends_with(CDN_CACHE_CONTROL)).cloned().collect();
    for name in for_cdn {
        headers.remove(name);
    }
}

/// Adds the members that a comma-separated field lacks, as one more line.
fn add_to_list(headers: &mut HeaderMap, name: &HeaderName, members: &[&str]) {
    let missing: Vec<_> = members.iter().copied().filter(|member| !list_has(headers, name, member)).collect();
    if missing.is_empty() {
        return;
    }
    // Field names are visible ASCII.
    if let Ok(value) = HeaderValue::try_from(missing.join(", ")) {
        headers.append(name, value);
    }
}

fn list_has(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let lines = headers.get_all(name).into_iter();
    lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .any(|member| member.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes()))
}

/// The usual spelling of the two names that occur; any other as it is.
fn title(name: &HeaderName) -> &str {
    match name.as_str() {
        "authorization" => "Authorization",
        "cookie" => "Cookie",
        other => other,
    }
}

#[cfg(test)]
mod tests;
