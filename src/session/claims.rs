//! Which claims are the gateway's own to set, and how it writes a time.

use serde_json::{Number, Value};

use crate::time::Timestamp;

/// Claims that are set by whoever mints, never taken over from a parent token or a grant.
///
/// | claims | why not taken over |
/// | --- | --- |
/// | `iss` `sub` `aud` `exp` `nbf` `iat` `jti` `sid` | the minted token has its own |
/// | `orig_iat` `orig` `keys` | the origin rule rests on them |
/// | `cfp` | kept in `orig`, where it is compared |
/// | `typ` | some issuers repeat the header's type in the payload; ours is another |
/// | `nonce` `at_hash` `c_hash` `s_hash` | bind an ID token to the answer it came in |
pub(super) const OWN: [&str; 17] = [
    "iss", "sub", "aud", "exp", "nbf", "iat", "jti", "sid", "orig_iat", "orig", "keys", "cfp", "typ", "nonce",
    "at_hash", "c_hash", "s_hash",
];

/// Claims that are taken over from a parent, whose issuer vouches for them, but that a login service
/// cannot grant: they state what only a token's issuer knows.
///
/// `cnf` among them: a parent bound to a key (RFC 7800) opens a session bound to the same key, for to
/// leave it out would make a bearer token of one that is not.
pub(super) const VOUCHED: [&str; 6] = ["azp", "client_id", "auth_time", "cnf", "act", "may_act"];

/// A time as NumericDate (RFC 7519 §2): whole where it can be, else with milliseconds.
pub(super) fn numeric_date(at: Timestamp) -> Value {
    let millis = at.millis();
    if millis % 1000 == 0 {
        return at.secs().into();
    }
    // 42 bits: exact in a double, and so is the shortest text of the quotient.
    let seconds = millis as f64 / 1000.0;
    Number::from_f64(seconds).map_or_else(|| at.secs().into(), Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_keeps_its_milliseconds_and_only_those() {
        for (millis, text) in [
            (0, "0"),
            (1, "0.001"),
            (1_732_406_400_000, "1732406400"),
            (1_732_406_400_120, "1732406400.12"),
            (1_732_406_400_123, "1732406400.123"),
            (Timestamp::MAX.millis(), "4398046511.103"),
        ] {
            assert_eq!(numeric_date(Timestamp::from_millis(millis)).to_string(), text);
        }
    }
}
