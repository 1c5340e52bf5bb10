//! What a client holds: opaque to it, and known here at sight.
//!
//! 256 random bits, then the family and the generation they belong to, and a seal under the session secret
//! over all of it and the gateway's own `iss`: what is revoked names that, so under another name it is nothing. So a token tells which document to read, however old it is; and what nobody here has made
//! is refused without asking the store, and ends nobody's session.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use zeroize::Zeroizing;

use crate::time::Timestamp;

/// Keeps the seal apart from any other use of the session secret.
const DOMAIN: &[u8] = b"portcullis/refresh/1";

const RANDOM: usize = 32;
const OPENED: usize = 8;
const GENERATION: usize = 4;
const HEAD: usize = RANDOM + OPENED + GENERATION;
const SEAL: usize = 32;
/// Longest session id: those made here have 22 or 43 bytes.
const SESSION_MAX: usize = 64;
/// Longest text that can be a token.
const TEXT_MAX: usize = (HEAD + SESSION_MAX + SEAL).div_ceil(3) * 4;

/// A refresh token that was made here. `Debug` does not show it.
#[derive(Clone)]
pub struct RefreshToken {
    bytes: Zeroizing<Vec<u8>>,
    /// The family: a `sid`.
    pub session: Box<str>,
    /// When the family was opened. One session may have several, one after the other.
    pub opened: Timestamp,
    /// Its place in the family, from 1 on.
    pub generation: u32,
}

impl RefreshToken {
    /// A fresh token.
    pub(super) fn make(session: &str, opened: Timestamp, generation: u32, maker: Maker<'_>) -> Self {
        let mut bytes = Zeroizing::new(Vec::with_capacity(HEAD + session.len() + SEAL));
        bytes.extend_from_slice(&rand::random::<[u8; RANDOM]>());
        bytes.extend_from_slice(&opened.millis().to_be_bytes());
        bytes.extend_from_slice(&generation.to_be_bytes());
        bytes.extend_from_slice(session.as_bytes());
        let seal = hmac::sign(maker.secret, &maker.sealed(&bytes));
        bytes.extend_from_slice(seal.as_ref());
        Self { bytes, session: session.into(), opened, generation }
    }

    /// The token that `text` is; `None` for what was not made by this maker.
    pub(super) fn read(text: &str, maker: Maker<'_>) -> Option<Self> {
        if text.len() > TEXT_MAX {
            return None;
        }
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
        let (said, seal) = bytes.split_at_checked(bytes.len().checked_sub(SEAL)?)?;
        hmac::verify(maker.secret, &maker.sealed(said), seal).ok()?;
        let (head, session) = said.split_at_checked(HEAD)?;
        let (opened, generation) = head.get(RANDOM..)?.split_at_checked(OPENED)?;
        let session = std::str::from_utf8(session).ok()?.into();
        let opened = Timestamp::from_millis(i64::from_be_bytes(opened.try_into().ok()?));
        let generation = u32::from_be_bytes(generation.try_into().ok()?);
        Some(Self { session, opened, generation, bytes })
    }

    /// What the client gets and gives back: base64url.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(&*self.bytes))
    }

    /// The same as a header value, marked as sensitive.
    #[must_use]
    pub fn header_value(&self) -> HeaderValue {
        // Base64url is visible ASCII; an empty value would be refused by whoever gets it.
        let mut value = HeaderValue::from_str(&self.text()).unwrap_or(HeaderValue::from_static(""));
        value.set_sensitive(true);
        value
    }

    /// What is stored of it. With 256 random bits in it, a plain hash is not to be searched.
    pub(super) fn digest(&self) -> String {
        digest_of(&self.bytes)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A token whose bytes were kept sealed, so that they need not be verified again.
    pub(super) fn restored(bytes: Zeroizing<Vec<u8>>, session: &str, opened: Timestamp, generation: u32) -> Self {
        Self { bytes, session: session.into(), opened, generation }
    }
}

impl fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefreshToken")
            .field("session", &self.session)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// SHA-256, base64url.
pub(super) fn digest_of(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, bytes))
}

/// Who makes tokens.
#[derive(Clone, Copy)]
pub(super) struct Maker<'m> {
    pub(super) secret: &'m hmac::Key,
    /// The `iss` of its access tokens.
    pub(super) issuer: &'m str,
}

impl Maker<'_> {
    /// What the seal is over. An `iss` has no NUL, so no two makers seal the same.
    fn sealed(&self, said: &[u8]) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([DOMAIN, self.issuer.as_bytes(), &[0], said].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPENED_AT: Timestamp = Timestamp::from_millis(1_732_406_400_250);

    fn by(secret: &hmac::Key) -> Maker<'_> {
        Maker { secret, issuer: "https://gate.example.com/" }
    }

    fn secret(byte: u8) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &[byte; 32])
    }

    #[test]
    fn a_token_is_read_as_it_was_made() {
        let session = "s".repeat(43);
        let token = RefreshToken::make(&session, OPENED_AT, 7, by(&secret(1)));
        let read = RefreshToken::read(&token.text(), by(&secret(1))).unwrap();
        assert_eq!((&*read.session, read.opened, read.generation), (session.as_str(), OPENED_AT, 7));
        assert_eq!(read.digest(), token.digest());
        assert_eq!(read.text(), token.text());
        assert!(read.header_value().is_sensitive());
        let other = RefreshToken::make(&session, OPENED_AT, 7, by(&secret(1)));
        assert_ne!(other.text(), token.text(), "no two are the same");
        assert!(!format!("{token:?}").contains(&token.text()[..16]));
    }

    #[test]
    fn what_was_not_made_here_is_no_token() {
        let token = RefreshToken::make("session", OPENED_AT, 7, by(&secret(1)));
        let text = token.text();
        assert!(RefreshToken::read(&text, by(&secret(2))).is_none(), "another secret");
        let renamed = Maker { secret: &secret(1), issuer: "https://other.example.com/" };
        assert!(RefreshToken::read(&text, renamed).is_none(), "another issuer");
        let bytes = URL_SAFE_NO_PAD.decode(&*text).unwrap();
        for place in 0..bytes.len() {
            let mut bent = bytes.clone();
            bent[place] ^= 1;
            assert!(RefreshToken::read(&URL_SAFE_NO_PAD.encode(&bent), by(&secret(1))).is_none(), "byte {place}");
        }
        for text in ["", "x", "a.b.c", &format!("{}=", *text), &text[1..], &"A".repeat(10_000), &"A".repeat(40)] {
            assert!(RefreshToken::read(text, by(&secret(1))).is_none(), "{text}");
        }
    }
}
