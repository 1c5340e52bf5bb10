//! Where a session comes from: the claims that make the origin rule hold.

use serde_json::{Map, Number, Value, json};

use crate::time::Timestamp;

/// What only the gateway's own tokens carry: where their session comes from (the origin rule).
///
/// Copied unchanged on reissue and refresh, so that neither moves anybody past a revocation. Never
/// read from a token of another issuer.
#[derive(Clone, Debug, PartialEq)]
pub struct Lineage {
    /// `orig_iat`: the `iat` of the token that opened the session or, for a grant, when the login
    /// request arrived (NumericDate with milliseconds).
    pub origin_issued: Timestamp,
    /// `orig`: the token that opened the session; absent for a grant.
    pub origin: Option<Origin>,
    /// `keys`: thumbprints of the gateway keys that signed in this chain before the present one.
    pub keys: Vec<String>,
}

/// The token that a session was opened with, as far as a revocation can name it.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Origin {
    /// Its `iss`.
    pub issuer: String,
    /// Its `sub`.
    pub subject: Option<String>,
    /// Its revocation name: `jti`, or `sha256:` and the base64url digest of *header.payload*.
    pub token: String,
    /// Its `sid`.
    pub session: Option<String>,
    /// Its `azp` or `client_id`.
    pub client: Option<String>,
    /// The RFC 7638 thumbprint of the key that verified it.
    pub key: String,
    /// Its `aud`.
    pub audiences: Vec<String>,
    /// Its credential fingerprint (`cfp`), when its issuer has one.
    pub credential: Option<String>,
}

/// Why a payload carries no lineage. It is read from the gateway's own tokens alone, so this means a
/// token that some other holder of its keys has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineageError {
    /// `orig_iat` is absent.
    #[error("the token does not say when its session began")]
    Missing,
    /// A member has the wrong type or an impossible value.
    #[error("the token's account of its session is malformed")]
    Malformed,
}

impl Lineage {
    /// Reads `orig_iat`, `orig` and `keys`.
    ///
    /// # Errors
    /// See [`LineageError`].
    pub fn read(claims: &Map<String, Value>) -> Result<Self, LineageError> {
        let origin = match claims.get("orig") {
            None => None,
            Some(Value::Object(origin)) => Some(Origin::read(origin)?),
            Some(_) => return Err(LineageError::Malformed),
        };
        Ok(Self { origin_issued: origin_issued(claims)?, origin, keys: texts(claims, "keys")? })
    }

    /// Writes the same members, replacing what is there; empty ones are left out.
    pub fn write(&self, claims: &mut Map<String, Value>) {
        claims.insert("orig_iat".to_owned(), Value::Number(numeric_date(self.origin_issued)));
        claims.shift_remove("orig");
        if let Some(origin) = &self.origin {
            claims.insert("orig".to_owned(), Value::Object(origin.write()));
        }
        claims.shift_remove("keys");
        if !self.keys.is_empty() {
            claims.insert("keys".to_owned(), json!(self.keys));
        }
    }
}

impl Origin {
    fn read(members: &Map<String, Value>) -> Result<Self, LineageError> {
        Ok(Self {
            issuer: text(members, "iss")?.ok_or(LineageError::Malformed)?,
            subject: text(members, "sub")?,
            token: text(members, "tok")?.ok_or(LineageError::Malformed)?,
            session: text(members, "sid")?,
            client: text(members, "client")?,
            key: text(members, "key")?.ok_or(LineageError::Malformed)?,
            audiences: texts(members, "aud")?,
            credential: text(members, "cfp")?,
        })
    }

    fn write(&self) -> Map<String, Value> {
        let mut members = Map::new();
        let mut put = |name: &str, text: Option<&String>| {
            if let Some(text) = text {
                members.insert(name.to_owned(), Value::String(text.clone()));
            }
        };
        put("iss", Some(&self.issuer));
        put("sub", self.subject.as_ref());
        put("tok", Some(&self.token));
        put("sid", self.session.as_ref());
        put("client", self.client.as_ref());
        put("key", Some(&self.key));
        put("cfp", self.credential.as_ref());
        if !self.audiences.is_empty() {
            members.insert("aud".to_owned(), json!(self.audiences));
        }
        members
    }
}

/// `orig_iat`: a NumericDate with up to three decimals, which an `f64` holds exactly enough for every
/// [`Timestamp`].
fn origin_issued(claims: &Map<String, Value>) -> Result<Timestamp, LineageError> {
    let Value::Number(number) = claims.get("orig_iat").ok_or(LineageError::Missing)? else {
        return Err(LineageError::Malformed);
    };
    let millis = (number.as_f64().ok_or(LineageError::Malformed)? * 1000.0).round();
    if !(0.0..=Timestamp::MAX.millis() as f64).contains(&millis) {
        return Err(LineageError::Malformed);
    }
    Ok(Timestamp::from_millis(millis as i64))
}

/// An instant as a NumericDate: whole seconds as an integer, else with its milliseconds.
fn numeric_date(at: Timestamp) -> Number {
    if at == at.floor_to_second() {
        return Number::from(at.secs());
    }
    // Finite, because every instant is; were it not, the whole second is the stricter reading.
    Number::from_f64(at.millis() as f64 / 1000.0).unwrap_or_else(|| Number::from(at.secs()))
}

fn text(members: &Map<String, Value>, name: &str) -> Result<Option<String>, LineageError> {
    match members.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(LineageError::Malformed),
    }
}

fn texts(members: &Map<String, Value>, name: &str) -> Result<Vec<String>, LineageError> {
    let list = match members.get(name) {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(LineageError::Malformed),
    };
    list.iter().map(|entry| entry.as_str().map(str::to_owned).ok_or(LineageError::Malformed)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn full() -> Lineage {
        Lineage {
            origin_issued: Timestamp::from_millis(1_700_000_000_123),
            origin: Some(Origin {
                issuer: "https://a.example/".into(),
                subject: Some("ada".into()),
                token: "t1".into(),
                session: Some("s1".into()),
                client: Some("shop".into()),
                key: "NzbLsXh8uDCcd".into(),
                audiences: vec!["shop".into(), "api".into()],
                credential: Some("c1".into()),
            }),
            keys: vec!["k1".into()],
        }
    }

    #[test]
    fn a_lineage_has_this_form() {
        let mut claims = object(json!({"iss": "gate", "orig": "old", "keys": "old", "orig_iat": 1}));
        full().write(&mut claims);
        let expected = json!({
            "iss": "gate",
            "orig_iat": 1_700_000_000.123,
            "orig": {
                "iss": "https://a.example/", "sub": "ada", "tok": "t1", "sid": "s1", "client": "shop",
                "key": "NzbLsXh8uDCcd", "aud": ["shop", "api"], "cfp": "c1",
            },
            "keys": ["k1"],
        });
        assert_eq!(Value::Object(claims.clone()), expected);
        assert_eq!(Lineage::read(&claims), Ok(full()));
        // Writing a shorter one leaves nothing of the longer one behind.
        let grant = Lineage { origin_issued: Timestamp::from_secs(5), origin: None, keys: vec![] };
        grant.write(&mut claims);
        assert_eq!(Value::Object(claims.clone()), json!({"iss": "gate", "orig_iat": 5}));
        assert_eq!(Lineage::read(&claims), Ok(grant));
    }

    #[test]
    fn what_is_not_a_lineage_is_refused() {
        assert_eq!(Lineage::read(&object(json!({}))), Err(LineageError::Missing));
        for claims in [
            json!({"orig_iat": "5"}),
            json!({"orig_iat": null}),
            json!({"orig_iat": -1}),
            json!({"orig_iat": 1e18}),
            json!({"orig_iat": 5, "orig": null}),
            json!({"orig_iat": 5, "orig": "a"}),
            json!({"orig_iat": 5, "orig": {}}),
            json!({"orig_iat": 5, "orig": {"iss": "a", "tok": "t"}}),
            json!({"orig_iat": 5, "orig": {"iss": "a", "tok": "t", "key": "k", "sub": 5}}),
            json!({"orig_iat": 5, "orig": {"iss": "a", "tok": "t", "key": "k", "aud": "a"}}),
            json!({"orig_iat": 5, "keys": "k"}),
            json!({"orig_iat": 5, "keys": [5]}),
        ] {
            assert_eq!(Lineage::read(&object(claims.clone())), Err(LineageError::Malformed), "{claims}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn every_instant_survives_being_a_number(millis in 0..=Timestamp::MAX.millis()) {
            let lineage = Lineage { origin_issued: Timestamp::from_millis(millis), origin: None, keys: vec![] };
            let mut claims = Map::new();
            lineage.write(&mut claims);
            // Through text, as in a token.
            let text = Value::Object(claims).to_string();
            let read = crate::token::json::object(text.as_bytes()).unwrap();
            prop_assert_eq!(Lineage::read(&read), Ok(lineage));
            prop_assert!(text.len() <= "{\"orig_iat\":1234567890.123}".len(), "{}", text);
        }
    }
}
