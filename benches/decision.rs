//! What one decision costs: a token seen before, and one never seen, for each algorithm; beside each the
//! bare signature check, so that the ratio says what the rest costs on whatever machine this runs.
#![expect(clippy::unwrap_used, reason = "a bench ends when it cannot go on")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use criterion::{Criterion, criterion_group, criterion_main};
use portcullis::gate::{Demand, Gate, Kind, TokenCache, TrustedIssuer};
use portcullis::keys::{KeySet, SigningKey, VerifyingKey};
use portcullis::revocation::RevocationMap;
use portcullis::secret::Secret;
use portcullis::time::Timestamp;
use portcullis::token::{Algorithm, Compact, Policy};
use serde_json::{Map, Value, json};

const ISSUER: &str = "https://accounts.example.com/";
const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn claims() -> Map<String, Value> {
    let claims = json!({
        "iss": ISSUER, "aud": ["shop", "api"], "sub": "248289761001", "jti": "01JD3V9M8Q4W7Z2X5C6B7N8M9K",
        "iat": NOW.secs() - 60, "exp": NOW.secs() + 3600, "sid": "08a5019c-17e1-4977-8f42-65a12843ea02",
        "azp": "web", "scope": "openid profile email orders", "email": "jane@example.com",
        "groups": ["staff", "buyers"],
    });
    claims.as_object().cloned().unwrap_or_default()
}

/// A token of `algorithm`, and the keys that verify it.
fn issue(algorithm: Algorithm) -> (String, KeySet) {
    if algorithm == Algorithm::HS256 {
        let keys = KeySet::from_secret(&Secret::new(SECRET.to_vec()), &[algorithm]).unwrap();
        let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
        let token = jsonwebtoken::encode(&header, &claims(), &jsonwebtoken::EncodingKey::from_secret(SECRET));
        return (token.unwrap(), keys);
    }
    let key = SigningKey::generate(algorithm).unwrap();
    (key.sign(&claims(), "JWT").unwrap(), KeySet::from_keys(vec![key.verifying_key()]))
}

fn gate(algorithm: Algorithm, keys: KeySet) -> Gate {
    let policy = Policy {
        algorithms: vec![algorithm],
        types: vec!["JWT".to_owned()],
        audiences: vec!["shop".to_owned()],
        clock_skew: Duration::from_secs(5),
        max_lifetime: Duration::from_secs(86_400),
        require: vec!["sub".to_owned()],
    };
    let issuer = TrustedIssuer {
        name: "accounts".to_owned(),
        url: ISSUER.to_owned(),
        kind: Kind::Foreign,
        policy,
        keys: Arc::new(ArcSwap::from_pointee(keys)),
        renewable: false,
        max_authentication_age: None,
        credentials: None,
    };
    Gate::new(vec![issuer], 8192, Arc::new(RevocationMap::new(1000)))
}

fn decisions(criterion: &mut Criterion) {
    let demand = Demand::default();
    for algorithm in [Algorithm::HS256, Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::EdDSA] {
        let (token, keys) = issue(algorithm);
        let key: Arc<VerifyingKey> = Arc::clone(keys.keys().first().unwrap());
        let gate = gate(algorithm, keys);
        let mut group = criterion.benchmark_group(format!("decision/{algorithm}"));
        let jws = Compact::parse(&token, 8192).unwrap();
        let (input, signature) = (jws.signing_input.as_bytes().to_vec(), jws.signature.clone());
        group.bench_function("bare signature", |bench| bench.iter(|| assert!(key.verify(&input, &signature))));
        group.bench_function("never seen", |bench| {
            bench.iter(|| {
                let verified = gate.verify(black_box(&token), NOW).unwrap();
                gate.standing(&verified).unwrap();
                verified
            });
        });
        let cache = TokenCache::new(1 << 20);
        group.bench_function("seen before", |bench| {
            bench.iter(|| gate.admit(&cache, black_box(token.as_str()).into(), &demand, NOW).unwrap());
        });
        group.bench_function("seen before, revocations arriving", |bench| {
            bench.iter(|| {
                gate.revocations().bump();
                gate.admit(&cache, black_box(token.as_str()).into(), &demand, NOW).unwrap()
            });
        });
        let late = NOW.plus(Duration::from_secs(86_400));
        group.bench_function("expired", |bench| bench.iter(|| gate.verify(black_box(&token), late).unwrap_err()));
        group.finish();
    }
}

criterion_group!(benches, decisions);
criterion_main!(benches);
