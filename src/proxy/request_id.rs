//! Ids for requests that come without one.

use std::cell::RefCell;

use bytes::Bytes;
use http::HeaderValue;

/// Bytes of randomness in an id: nobody guesses one from another.
const RANDOM: usize = 16;
/// Hexadecimal digits of an id.
const DIGITS: usize = 2 * RANDOM;
/// Ids drawn at once: they share one allocation, and each costs a counter of it.
const BATCH: usize = 64;

/// One worker's supply of request ids.
#[derive(Debug, Default)]
pub(super) struct RequestIds(RefCell<Bytes>);

impl RequestIds {
    /// A new id: 128 random bits in hexadecimal digits.
    pub(super) fn next(&self) -> HeaderValue {
        let mut rest = self.0.borrow_mut();
        if rest.is_empty() {
            *rest = draw();
        }
        let id = rest.split_to(DIGITS);
        HeaderValue::from_maybe_shared(id).unwrap_or(HeaderValue::from_static("none"))
    }
}

fn draw() -> Bytes {
    let mut random = [0_u8; RANDOM * BATCH];
    rand::fill(&mut random);
    // Reckoned, and not looked up: the compiler takes many bytes at once.
    let digit = |half: u8| half + if half < 10 { b'0' } else { b'a' - 10 };
    let mut digits = vec![0; DIGITS * BATCH];
    for (pair, byte) in digits.as_chunks_mut().0.iter_mut().zip(random) {
        *pair = [digit(byte >> 4), digit(byte & 15)];
    }
    digits.into()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_32_digits_and_never_the_same() {
        let ids = RequestIds::default();
        let drawn: Vec<_> = (0..3 * BATCH).map(|_| ids.next()).collect();
        for id in &drawn {
            let text = id.to_str().unwrap();
            assert_eq!(text.len(), DIGITS, "{text}");
            assert!(text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{text}");
        }
        assert_eq!(drawn.iter().map(HeaderValue::as_bytes).collect::<HashSet<_>>().len(), drawn.len());
    }
}
