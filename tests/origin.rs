//! The origin rule, held against a plain model: tokens are issued, exchanged and reissued, revoked, lifted,
//! swept and replayed in any order, and none that the model refuses is ever admitted, nor the reverse.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use portcullis::config::{Delivery, Devices, Session};
use portcullis::gate::{Demand, Denial, Gate, Kind, TokenCache, TrustedIssuer, Verified};
use portcullis::intake::{Ledger, Request};
use portcullis::keys::{KeySet, SigningKey};
use portcullis::revocation::{
    Form, Horizons, IssuerHorizon, Reason, RecordId, RevocationMap, Source, Target, TargetKind,
};
use portcullis::session::{Current, Parent, Sessions};
use portcullis::store::{MemoryStore, Store};
use portcullis::time::{Clock, Timestamp};
use portcullis::token::{Algorithm, Policy};
use proptest::prelude::*;
use serde_json::json;

const ISSUER: &str = "https://accounts.example.com/";
const GATE: &str = "https://gate.example.com/";
const START: Timestamp = Timestamp::from_secs(1_800_000_000);
const LIFE: Duration = Duration::from_secs(600);
const SESSION: Duration = Duration::from_secs(1800);

#[derive(Clone, Debug)]
enum Act {
    Issue { user: usize },
    Exchange { token: usize },
    Slide { token: usize },
    Revoke { token: usize, target: usize, block: bool, ago: u64 },
    Lift { record: usize, restore: bool },
    Wait { millis: u64 },
    Sweep,
    Restart,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        3 => (0..3_usize).prop_map(|user| Act::Issue { user }),
        3 => any::<usize>().prop_map(|token| Act::Exchange { token }),
        3 => any::<usize>().prop_map(|token| Act::Slide { token }),
        3 => (any::<usize>(), any::<usize>(), any::<bool>(), 0..300_u64)
            .prop_map(|(token, target, block, ago)| Act::Revoke { token, target, block, ago }),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(record, restore)| Act::Lift { record, restore }),
        3 => (1..200_000_u64).prop_map(|millis| Act::Wait { millis }),
        1 => Just(Act::Sweep),
        1 => Just(Act::Restart),
    ];
    prop::collection::vec(act, 1..40)
}

/// A token, and what the model knows of it: what it and its ancestors are, and when its chain began.
struct Held {
    text: String,
    targets: Vec<Target>,
    began: Timestamp,
    session: bool,
}

/// A record as the model sees it.
struct Record {
    id: RecordId,
    target: Target,
    form: Form,
    lifted: bool,
}

struct World {
    clock: Clock,
    key: SigningKey,
    sessions: Arc<Sessions>,
    store: Arc<dyn Store>,
    ledger: Ledger,
    gate: Gate,
    cache: TokenCache,
    tokens: Vec<Held>,
    records: Vec<Record>,
    _folder: tempfile::TempDir,
}

fn horizons() -> Horizons {
    Horizons {
        issuers: vec![IssuerHorizon {
            name: "accounts".to_owned(),
            url: ISSUER.to_owned(),
            max_lifetime: LIFE,
            skew: Duration::ZERO,
            exchangeable: true,
            cutoff_margin: Duration::ZERO,
            max_authentication_age: None,
        }],
        session_absolute: Some((GATE.to_owned(), SESSION)),
    }
}

fn gate(key: &SigningKey, sessions: &Sessions, map: &Arc<RevocationMap>) -> Gate {
    let policy = Policy {
        algorithms: vec![Algorithm::EdDSA],
        types: vec!["JWT".to_owned()],
        audiences: vec!["shop".to_owned()],
        clock_skew: Duration::ZERO,
        max_lifetime: LIFE,
        require: vec!["sub".to_owned()],
    };
    let keys = Arc::new(ArcSwap::from_pointee(KeySet::from_keys(vec![key.verifying_key()])));
    let trusted = |name: &str, url: &str, kind, policy, keys| TrustedIssuer {
        name: name.to_owned(),
        url: url.to_owned(),
        kind,
        policy,
        keys,
        renewable: false,
        max_authentication_age: None,
    };
    let issuers = vec![
        trusted("accounts", ISSUER, Kind::Foreign, policy, keys),
        trusted("session", GATE, Kind::Own, sessions.policy(), sessions.key_set()),
    ];
    Gate::new(issuers, 8192, Arc::clone(map))
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual(START);
        let key = SigningKey::generate(Algorithm::EdDSA).unwrap();
        let config = Session {
            issuer: GATE.to_owned(),
            audience: "shop".to_owned(),
            keys_dir: folder.path().join("keys"),
            algorithm: Algorithm::EdDSA,
            idle_timeout: Duration::from_secs(300),
            absolute_timeout: SESSION,
            reissue_after_permille: 10,
            reissue_every: None,
            reuse_grace: None,
            exchange: vec![0],
            grant_subject_prefix: String::new(),
            delivery: Delivery::Header,
            cookie: "__Host-session".to_owned(),
            max_per_subject: None,
            devices: Devices { max: 1000, address: true, user_agent: true },
        };
        let sessions = Arc::new(Sessions::open(&config, START).unwrap());
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let map = Arc::new(RevocationMap::new(10_000));
        let ledger = Ledger::open(Arc::clone(&store), Arc::clone(&map), horizons(), clock.clone()).unwrap();
        let gate = gate(&key, &sessions, &map);
        Self {
            clock,
            key,
            sessions,
            store,
            ledger,
            gate,
            cache: TokenCache::new(1 << 20),
            tokens: Vec::new(),
            records: Vec::new(),
            _folder: folder,
        }
    }

    fn hold(&mut self, text: String, session: bool) {
        let verified = self.gate.verify(&text, self.clock.now()).unwrap();
        let held = Held { text, targets: verified.targets(), began: verified.origin_issued, session };
        self.tokens.push(held);
    }

    /// What the model says: whether a record that is not lifted refuses it.
    fn is_refused(&self, held: &Held) -> bool {
        self.records.iter().filter(|record| !record.lifted && held.targets.contains(&record.target)).any(|record| {
            match record.form {
                Form::Block => true,
                Form::Before { issued, .. } => issued.is_some_and(|cutoff| held.began <= cutoff),
            }
        })
    }

    /// The token at `index` if it may still be used by time.
    fn living(&self, index: usize, session: Option<bool>) -> Option<(String, Verified)> {
        let fitting: Vec<_> =
            self.tokens.iter().filter(|held| session.is_none_or(|session| held.session == session)).collect();
        let held = fitting.get(index.checked_rem(fitting.len())?)?;
        let verified = self.gate.verify(&held.text, self.clock.now()).ok()?;
        Some((held.text.clone(), verified))
    }

    async fn act(&mut self, act: &Act) {
        let now = self.clock.now();
        match *act {
            Act::Issue { user } => {
                let claims = json!({
                    "iss": ISSUER, "aud": "shop", "sub": format!("user{user}"), "sid": format!("s{user}"),
                    "azp": "web", "jti": uuid::Uuid::now_v7().to_string(),
                    "iat": now.secs(), "exp": now.secs() + LIFE.as_secs().cast_signed(),
                });
                let text = self.key.sign(claims.as_object().unwrap(), "JWT").unwrap();
                self.hold(text, false);
            }
            Act::Exchange { token } => {
                let Some((_, verified)) = self.living(token, Some(false)) else { return };
                if self.gate.still_honoured(&verified, now).is_err() {
                    return;
                }
                let parent = Parent {
                    issuer_index: 0,
                    claims: &verified.claims,
                    token_name: &verified.name,
                    key_thumbprint: verified.key.thumbprint(),
                    subject_prefix: "accounts:",
                };
                let minted = self.sessions.exchange(parent, now).unwrap();
                self.hold(minted.token().to_owned(), true);
            }
            Act::Slide { token } => {
                let Some((_, verified)) = self.living(token, Some(true)) else { return };
                if self.gate.still_honoured(&verified, now).is_err() {
                    return;
                }
                let current = Current {
                    claims: &verified.claims,
                    lineage: verified.lineage.as_ref().unwrap(),
                    token_name: &verified.name,
                    key_thumbprint: verified.key.thumbprint(),
                };
                if let Some(minted) = self.sessions.slide(&current, now).unwrap() {
                    self.hold(minted.token().to_owned(), true);
                }
            }
            Act::Revoke { token, target, block, ago } => {
                let Some((_, verified)) = self.living(token, None) else { return };
                // Not everything at once: that leaves nothing to be told apart.
                let targets: Vec<_> = verified.targets().into_iter().filter(|it| it.kind != TargetKind::All).collect();
                let target = targets[target % targets.len()].clone();
                let mut request = Request::new(target.clone(), Reason::Admin, "test", Source::Admin);
                let block_only = matches!(target.kind, TargetKind::Token | TargetKind::Session | TargetKind::Key);
                if block || block_only {
                    request.block = Some(true);
                } else {
                    request.issued_before = Some(now.minus(Duration::from_secs(ago)));
                }
                let accepted = self.ledger.revoke(request).await.unwrap();
                let record = Record { id: accepted.id, target: accepted.target, form: accepted.form, lifted: false };
                self.records.push(record);
            }
            Act::Lift { record, restore } => {
                let Some(index) = record.checked_rem(self.records.len()) else { return };
                let Ok(lifted) =
                    self.ledger.lift(self.records[index].id.clone(), restore, "test".to_owned(), None).await
                else {
                    // It had been forgotten: whatever it refused is dead by now.
                    return;
                };
                let target = self.records[index].target.clone();
                self.records[index].lifted = true;
                if let (Some(leaves), false) = (lifted.lift.leaves, lifted.existing) {
                    let form = Form::Before { issued: Some(leaves), authenticated: None };
                    self.records.push(Record { id: lifted.lift.id, target, form, lifted: false });
                }
            }
            Act::Wait { millis } => self.clock.advance(Duration::from_millis(millis)),
            Act::Sweep => {
                self.ledger.sweep().unwrap();
                self.sessions.sweep(now);
            }
            Act::Restart => {
                let map = Arc::new(RevocationMap::new(10_000));
                let store = Arc::clone(&self.store);
                self.ledger = Ledger::open(store, Arc::clone(&map), horizons(), self.clock.clone()).unwrap();
                self.gate = gate(&self.key, &self.sessions, &map);
                self.cache = TokenCache::new(1 << 20);
            }
        }
    }

    /// Every token ever made, asked twice, so that the cache has its say too.
    fn check(&self) -> Result<(), TestCaseError> {
        let now = self.clock.now();
        for held in &self.tokens {
            for _ in 0..2 {
                let decided = self.gate.admit(&self.cache, &held.text, &Demand::default(), now);
                let decided = decided.map_err(|it| self.gate.refusal(it, now).denial);
                match decided.map(|_| ()) {
                    Ok(()) => prop_assert!(!self.is_refused(held), "admitted though revoked: {:?}", held.targets),
                    Err(Denial::Expired) => {}
                    Err(denial) => {
                        prop_assert!(matches!(denial, Denial::Revoked(_)), "{denial:?}");
                        prop_assert!(self.is_refused(held), "refused though good: {:?}", held.targets);
                    }
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_interleaving_moves_a_token_past_a_revocation(acts in acts()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            for act in &acts {
                world.act(act).await;
                world.check()?;
            }
            Ok::<(), TestCaseError>(())
        })?;
    }
}
