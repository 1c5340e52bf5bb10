//! The real thing, and the model beside it.

use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use portcullis::config::{self, Delivery, Session};
use portcullis::gate::{Demand, Gate, Kind, Remembered, TokenCache, TrustedIssuer, Verified};
use portcullis::intake::{Ledger, ReplaceRequest, Request, UndoRequest};
use portcullis::keys::{KeySet, SigningKey};
use portcullis::revocation::{Horizons, IssuerHorizon, Reason, RecordId, RevocationMap, Source, Target, TargetKind};
use portcullis::session::{
    Current, Device, Family, Grant, Judgement, Minted, Open, Opener, Parent, RefreshToken, Sessions,
};
use portcullis::store::Store;
use portcullis::time::{Clock, Timestamp};
use portcullis::token::{Algorithm, Policy};
use proptest::prelude::*;
use serde_json::json;

use super::act::{Act, Form};
use super::rule::{Credential, History, Name, Says};
use super::shuffled::Shuffled;

/// `accounts` and `partners`: the one states when its users authenticated and its clock is behind, the other's runs
/// ahead, for which its cutoffs have a margin. Their subjects have the same names.
const ISSUERS: [Known; 2] = [
    Known {
        name: "accounts",
        url: "https://accounts.example.com/",
        prefix: "acc:",
        skew: 5_000,
        offset: -3_400,
        margin: 0,
        oldest: Some(900_000),
    },
    Known {
        name: "partners",
        url: "https://partners.example.com/",
        prefix: "par:",
        skew: 2_000,
        offset: 1_900,
        margin: 2_000,
        oldest: None,
    },
];
const GATE: &str = "https://gate.example.com/";
const START: Timestamp = Timestamp::from_millis(1_800_000_000_250);
/// The longest life of a token: as configured first, and as it may be raised to.
const LIFE: i64 = 300_000;
const LONG_LIFE: i64 = 600_000;
const SESSION: i64 = 1_200_000;
/// How long a refresh token that was used may come again.
const GRACE: Duration = Duration::from_secs(10);

/// Both issuers; in a strict world, both state when their users authenticated.
fn issuers(strict: bool) -> [Known; 2] {
    let [accounts, partners] = ISSUERS;
    let oldest = strict.then_some(600_000);
    [accounts, Known { oldest, ..partners }]
}

/// An issuer; times in milliseconds.
#[derive(Clone, Copy)]
struct Known {
    name: &'static str,
    url: &'static str,
    prefix: &'static str,
    skew: i64,
    /// How far its clock is ahead of the gateway's.
    offset: i64,
    margin: i64,
    oldest: Option<i64>,
}

fn span(millis: i64) -> Duration {
    Duration::from_millis(millis.cast_unsigned())
}

/// A token that was made, at the same index as in the model's history.
struct Held {
    text: String,
    /// What a request under way holds of it; none when it cannot be verified any more.
    verified: Option<Rc<Verified>>,
}

/// The refresh tokens of a session: the family, its current token, and the credential that it was made with.
type Refreshable = (Family, RefreshToken, usize);

pub(crate) struct World {
    issuers: [Known; 2],
    clock: Clock,
    /// The keys of each issuer, oldest first; the last one signs.
    keys: [Vec<SigningKey>; 2],
    published: [Arc<ArcSwap<KeySet>>; 2],
    longest: [i64; 2],
    sessions: Arc<Sessions>,
    store: Shuffled,
    ledger: Ledger,
    gate: Gate,
    cache: TokenCache,
    history: History,
    held: Vec<Held>,
    by_text: HashMap<String, usize>,
    records: Vec<(RecordId, usize)>,
    logins: Vec<(usize, Timestamp)>,
    requests: Vec<(usize, Rc<Remembered>)>,
    families: Vec<Refreshable>,
    _folder: tempfile::TempDir,
}

/// Where files are written without a disk, if there is such a place.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

fn session_config(folder: &Path) -> Session {
    let issuers: String = ISSUERS
        .iter()
        .map(|it| {
            format!(
                "  {}: {{ issuer: \"{}\", audiences: [shop], algorithms: [HS256], keys: {{ secret: {{ file: secret }} }} }}\n",
                it.name, it.url
            )
        })
        .collect();
    let text = format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]
upstreams: {{ shop: {{ servers: [http://127.0.0.1:3000] }} }}
routes:
  - {{ match: {{ path: /login/ }}, upstream: shop, auth: none, login: true }}
  - {{ match: {{ path: / }}, upstream: shop }}
issuers:
{issuers}
session:
  issuer: {GATE}
  audience: shop
  keys: {{ dir: keys, algorithm: EdDSA }}
  idle_timeout: 4m
  refresh: {{ idle_timeout: 10m }}
  absolute_timeout: 20m
  reissue: {{ after: 1% }}
  exchange:
    - {{ issuer: accounts, subject_prefix: \"acc:\" }}
    - {{ issuer: partners, subject_prefix: \"par:\" }}
  grants: {{ subject_prefix: \"own:\" }}
"
    );
    std::fs::write(folder.join("secret"), "0123456789abcdef0123456789abcdef0123456789abcdef").unwrap();
    let loaded = config::parse(&text, "model.yaml", folder).unwrap_or_else(|problems| panic!("{problems}"));
    loaded.config.session.unwrap()
}

fn key() -> SigningKey {
    SigningKey::generate(Algorithm::EdDSA).unwrap()
}

fn key_set(keys: &[SigningKey]) -> KeySet {
    KeySet::from_keys(keys.iter().map(SigningKey::verifying_key).collect())
}

fn horizons(issuers: &[Known; 2], longest: [i64; 2]) -> Horizons {
    let issuers = issuers.iter().zip(longest).map(|(it, longest)| IssuerHorizon {
        name: it.name.to_owned(),
        url: it.url.to_owned(),
        max_lifetime: span(longest),
        skew: span(it.skew),
        exchangeable: true,
        cutoff_margin: span(it.margin),
        max_authentication_age: it.oldest.map(span),
    });
    Horizons { issuers: issuers.collect(), session_absolute: Some((GATE.to_owned(), span(SESSION))) }
}

impl World {
    pub(crate) fn new(strict: bool) -> Self {
        let issuers = issuers(strict);
        let folder = folder();
        let sessions = Arc::new(Sessions::open(&session_config(folder.path()), START).unwrap());
        let keys = [vec![key()], vec![key()]];
        let published = [0, 1].map(|issuer| Arc::new(ArcSwap::from_pointee(key_set(&keys[issuer]))));
        let longest = [LIFE; 2];
        let (clock, store) = (Clock::manual(START), Shuffled::new());
        let (ledger, map) = open(&store, horizons(&issuers, longest), &clock);
        let gate = gate(&issuers, &published, longest, &sessions, &map);
        let history = History {
            longest: issuers.iter().map(|it| (it.url.to_owned(), LIFE)).collect(),
            oldest: issuers.iter().filter_map(|it| Some((it.url.to_owned(), it.oldest? + it.skew))).collect(),
            ..History::default()
        };
        Self {
            issuers,
            clock,
            keys,
            published,
            longest,
            sessions,
            store,
            ledger,
            gate,
            cache: TokenCache::new(1 << 20),
            history,
            held: Vec::new(),
            by_text: HashMap::new(),
            records: Vec::new(),
            logins: Vec::new(),
            requests: Vec::new(),
            families: Vec::new(),
            _folder: folder,
        }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Begins anew with what is configured now, as a reload does.
    fn rebuild(&mut self, map: &Arc<RevocationMap>) {
        self.gate = gate(&self.issuers, &self.published, self.longest, &self.sessions, map);
        self.cache = TokenCache::new(1 << 20);
        let now = self.now();
        for held in &mut self.held {
            held.verified = self.gate.authenticate(&held.text, now).ok().map(Rc::new);
        }
        self.requests.clear();
    }

    fn hold(&mut self, text: String, credential: Credential) {
        let verified = self.gate.authenticate(&text, self.now()).ok().map(Rc::new);
        self.by_text.insert(text.clone(), self.held.len());
        self.held.push(Held { text, verified });
        self.history.credentials.push(credential);
    }

    /// Asks the gate for one token; a request under way holds what comes back.
    fn admit(&self, index: usize) -> Result<Rc<Remembered>, String> {
        let now = self.now();
        match self.gate.admit(&self.cache, self.held[index].text.as_str().into(), &Demand::default(), now) {
            Ok(admission) => Ok(Rc::clone(admission.permit.bearer().unwrap())),
            Err(unsettled) => Err(self.gate.refusal(unsettled, now).denial.reason().to_owned()),
        }
    }

    fn token(&self, place: usize) -> Option<usize> {
        place.checked_rem(self.held.len())
    }

    pub(crate) async fn act(&mut self, act: &Act) -> Result<(), TestCaseError> {
        match *act {
            Act::Issue { issuer, user, long, logged_in_ago } => self.issue(issuer, user, long, logged_in_ago),
            Act::BeginLogin { user } => self.logins.push((user, self.now())),
            Act::FinishLogin { login } => self.finish_login(login)?,
            Act::BeginRequest { token } => self.begin_request(token),
            Act::FinishRequest { request } => self.finish_request(request)?,
            Act::Request { token } => {
                self.begin_request(token);
                self.finish_request(usize::MAX)?;
            }
            Act::Refresh { family } => self.refresh(family)?,
            Act::Logout { token } => self.log_out(token).await,
            Act::ChangePassword { issuer, user } => self.change_password(issuer, user).await,
            Act::Revoke { token, target, form } => self.revoke(token, target, form).await,
            Act::Lift { record, restore } => self.lift(record, restore).await,
            Act::Replace { issuer, old, new } => self.replace(issuer, old, new).await?,
            Act::Undo { issuer, old } => self.undo(issuer, old).await?,
            Act::Rotate { issuer } => self.rotate(issuer),
            Act::Retire { issuer, key } => self.retire(issuer, key).await,
            Act::Unpublish { issuer, key } => self.unpublish(issuer, key),
            Act::Wait { millis } => self.clock.advance(Duration::from_millis(millis)),
            Act::SetBack { millis } => {
                let Clock::Manual(hand) = &self.clock else { panic!("set by hand") };
                hand.fetch_sub(millis.cast_signed(), Ordering::AcqRel);
            }
            Act::Sweep => {
                self.ledger.sweep().unwrap();
                self.sessions.sweep(self.now());
            }
            Act::Restart { seed } => {
                self.store = self.store.reordered(seed);
                let (ledger, map) = open(&self.store, horizons(&self.issuers, self.longest), &self.clock);
                self.ledger = ledger;
                self.rebuild(&map);
            }
            Act::Limit { issuer, long } => self.limit(issuer, long).await,
        }
        Ok(())
    }

    fn issue(&mut self, issuer: usize, user: usize, long: bool, logged_in_ago: u64) {
        let known = self.issuers[issuer];
        let issued = (self.now().millis() + known.offset) / 1000;
        let life = if long { LONG_LIFE } else { LIFE };
        let authenticated = known.oldest.map(|_| issued - logged_in_ago.cast_signed());
        let (name, session, client) =
            (uuid::Uuid::now_v7().to_string(), format!("s{user}"), ["web", "app"][user % 2].to_owned());
        let mut claims = json!({
            "iss": known.url, "aud": "shop", "sub": format!("u{user}"), "sid": session, "azp": client, "jti": name,
            "iat": issued, "exp": issued + life / 1000,
        });
        if let Some(at) = authenticated {
            claims["auth_time"] = json!(at);
        }
        let key = self.keys[issuer].last().unwrap();
        let text = key.sign(claims.as_object().unwrap(), "JWT").unwrap();
        let credential = Credential {
            issuer: known.url.to_owned(),
            subject: format!("u{user}"),
            session,
            name,
            client: Some(client),
            key: key.verifying_key().thumbprint().to_owned(),
            parent: None,
            issued: issued * 1000,
            authenticated: authenticated.map(|at| at * 1000),
            from: issued * 1000 - known.skew,
            until: issued * 1000 + life + known.skew,
            life,
        };
        self.hold(text, credential);
    }

    /// A login service says who it is, as soon as it has checked; the request came in a while ago.
    fn finish_login(&mut self, place: usize) -> Result<(), TestCaseError> {
        let Some(place) = place.checked_rem(self.logins.len()) else { return Ok(()) };
        let (user, requested) = self.logins.remove(place);
        let grant = Grant::parse(json!({ "sub": format!("u{user}") }).to_string().as_bytes()).unwrap();
        let now = self.now();
        let Ok(minted) = self.sessions.grant(grant, requested, now) else { return Ok(()) };
        let credential = Credential {
            issuer: GATE.to_owned(),
            subject: format!("own:u{user}"),
            session: minted.session.clone(),
            name: minted.id.clone(),
            client: None,
            key: minted.key_thumbprint.to_string(),
            parent: None,
            issued: requested.millis(),
            authenticated: Some(requested.millis()),
            from: minted.issued.millis(),
            until: minted.expires.millis(),
            life: 0,
        };
        self.hold(minted.token().to_owned(), credential);
        self.begin_family(&minted);
        self.check_end(self.held.len() - 1)
    }

    /// The session that was just opened gets its first refresh token.
    fn begin_family(&mut self, minted: &Minted) {
        let opener = Opener { token: None, client: None, delivery: Delivery::Header };
        if let Ok((family, token)) = self.sessions.open_family(minted, opener, self.now()) {
            self.families.push((family, token, self.held.len() - 1));
        }
    }

    /// A refresh token is worth something if and only if what its session came from is not revoked.
    fn refresh(&mut self, place: usize) -> Result<(), TestCaseError> {
        let Some(place) = place.checked_rem(self.families.len()) else { return Ok(()) };
        let (family, token, index) = &self.families[place];
        let (index, now) = (*index, self.now());
        if now >= family.ends {
            return Ok(());
        }
        let open = Open::of_family(family, Device::default(), now);
        let stands = self.gate.session_standing(&open).is_ok();
        prop_assert_eq!(stands, !self.history.is_revoked(index), "refreshing {:?}", self.history.credentials[index]);
        if !stands {
            return Ok(());
        }
        prop_assert!(matches!(family.judge(token, now, GRACE), Judgement::Current));
        let Ok(minted) = self.sessions.refreshed(family, token, Timestamp::MIN, now) else { return Ok(()) };
        let Ok((next, next_token)) = self.sessions.next_generation(family, token, &minted, now) else { return Ok(()) };
        let Judgement::Repeated(again) = next.judge(token, now, GRACE) else { panic!("a lost answer is given again") };
        prop_assert_eq!(again.text(), next_token.text());
        let late = now.plus(GRACE).plus(Duration::from_millis(1));
        prop_assert!(matches!(next.judge(token, late, GRACE), Judgement::Reused));
        let index = match self.by_text.get(minted.token()) {
            Some(known) => *known,
            None => {
                let made_from = &self.history.credentials[index];
                let credential = Credential {
                    name: minted.id.clone(),
                    key: minted.key_thumbprint.to_string(),
                    parent: Some(index),
                    issued: minted.issued.millis(),
                    authenticated: None,
                    from: minted.issued.millis(),
                    until: minted.expires.millis(),
                    ..made_from.clone()
                };
                self.hold(minted.token().to_owned(), credential);
                self.check_end(self.held.len() - 1)?;
                self.held.len() - 1
            }
        };
        self.families[place] = (next, next_token, index);
        Ok(())
    }

    fn begin_request(&mut self, place: usize) {
        let Some(index) = self.token(place) else { return };
        if let Ok(entry) = self.admit(index) {
            self.requests.push((index, entry));
        }
    }

    /// The upstream has answered: what the request earned is given, if it is still to be honoured.
    fn finish_request(&mut self, place: usize) -> Result<(), TestCaseError> {
        let place = if place == usize::MAX {
            self.requests.len().checked_sub(1)
        } else {
            place.checked_rem(self.requests.len())
        };
        let Some(place) = place else { return Ok(()) };
        let (index, entry) = self.requests.remove(place);
        let now = self.now();
        let honoured = self.gate.still_honoured(&entry.verified, now).is_ok();
        let wanted = self.history.honours(index, now.millis());
        prop_assert_eq!(honoured, wanted, "after the upstream: {:?}", self.history.credentials[index]);
        if !honoured {
            return Ok(());
        }
        let verified = &entry.verified;
        let minted = if let Some(lineage) = &verified.lineage {
            let current = Current {
                claims: &verified.claims,
                lineage,
                token_name: &verified.name,
                key_thumbprint: verified.key.thumbprint(),
            };
            self.sessions.slide(&current, now).unwrap()
        } else {
            let parent = Parent {
                issuer_index: verified.issuer,
                claims: &verified.claims,
                token_name: &verified.name,
                key_thumbprint: verified.key.thumbprint(),
                subject_prefix: self.issuers[verified.issuer].prefix,
                credential: verified.credential(),
            };
            self.sessions.exchange(parent, now).ok()
        };
        let Some(minted) = minted else { return Ok(()) };
        if let Some(known) = self.by_text.get(minted.token()) {
            let (one, other) = (self.history.line(*known), self.history.line(index));
            prop_assert_eq!(one.last(), other.last(), "one token for two origins");
            return Ok(());
        }
        let made_from = &self.history.credentials[index];
        let subject = if verified.lineage.is_some() {
            made_from.subject.clone()
        } else {
            format!("{}{}", self.issuers[verified.issuer].prefix, made_from.subject)
        };
        let credential = Credential {
            issuer: GATE.to_owned(),
            subject,
            session: minted.session.clone(),
            name: minted.id.clone(),
            client: made_from.client.clone(),
            key: minted.key_thumbprint.to_string(),
            parent: Some(index),
            issued: minted.issued.millis(),
            authenticated: None,
            from: minted.issued.millis(),
            until: minted.expires.millis(),
            life: 0,
        };
        let opens = verified.lineage.is_none();
        self.hold(minted.token().to_owned(), credential);
        if opens {
            self.begin_family(&minted);
        }
        self.check_end(self.held.len() - 1)
    }

    /// Nothing lives past the end of its session, however often it was renewed.
    fn check_end(&self, index: usize) -> Result<(), TestCaseError> {
        let first = &self.history.credentials[*self.history.line(index).last().unwrap()];
        prop_assert!(self.history.credentials[index].until <= first.issued + SESSION);
        Ok(())
    }

    /// Revokes, and writes down what was said; `says` is for the case that it is accepted.
    async fn record(&mut self, request: Request, name: Name, says: Says) {
        if let Ok(accepted) = self.ledger.revoke(request).await {
            self.records.push((accepted.id, self.history.revocations.len()));
            self.history.revocations.push((name, says));
        }
    }

    /// As the endpoint does it: the session and the token that opened it, or the token.
    async fn log_out(&mut self, place: usize) {
        let Some(index) = self.token(place) else { return };
        let Some(verified) = self.held[index].verified.clone() else { return };
        for target in verified.session().into_iter().chain(verified.parent()) {
            let name = name_of(&target);
            self.record(Request::new(target, Reason::Logout, "somebody", Source::Logout), name, Says::Never).await;
        }
    }

    /// The subject number `number` of an issuer; 2 is the gateway, whose subjects come from everywhere.
    fn subject(issuer: usize, number: usize) -> (String, String) {
        match ISSUERS.get(issuer) {
            Some(known) => (known.url.to_owned(), format!("u{number}")),
            None => (GATE.to_owned(), ["own:u0", "own:u1", "own:u2", "acc:u0", "par:u1"][number].to_owned()),
        }
    }

    /// What an ordinary cutoff of a subject says now: all from before, by the clock of whoever issued it, and for a
    /// stolen or changed password whoever has not logged in since.
    fn cut_now(&self, issuer: &str, voids_logins: bool) -> Says {
        let known = self.issuers.iter().find(|it| it.url == issuer);
        let cutoff = self.now().millis() + known.map_or(0, |it| it.margin);
        let states = known.is_some_and(|it| it.oldest.is_some());
        Says::NotBefore { issued: Some(cutoff), authenticated: (states && voids_logins).then_some(cutoff) }
    }

    async fn change_password(&mut self, issuer: usize, user: usize) {
        let (issuer, subject) = Self::subject(issuer, user);
        let says = self.cut_now(&issuer, true);
        let target = Target::new(TargetKind::Subject, issuer.as_str(), subject.as_str());
        let request = Request::new(target, Reason::PasswordChanged, "somebody", Source::Admin);
        self.record(request, Name::Subject(issuer, subject), says).await;
    }

    async fn revoke(&mut self, place: usize, target: usize, form: Form) {
        let Some(index) = self.token(place) else { return };
        let Some(verified) = self.held[index].verified.clone() else { return };
        // Not everything at once, most of the time: that leaves nothing to be told apart.
        let targets: Vec<_> =
            verified.targets().into_iter().filter(|it| it.kind != TargetKind::All || target % 31 == 7).collect();
        let target = targets[target % targets.len()].clone();
        let name = name_of(&target);
        let before = |ago: u64| self.now().minus(Duration::from_secs(ago));
        let (issued, authenticated) = match form {
            Form::Block => (None, None),
            Form::Issued(ago) => (Some(before(ago)), None),
            Form::Authenticated(ago) => (None, Some(before(ago))),
            Form::Both(issued, authenticated) => (Some(before(issued)), Some(before(authenticated))),
        };
        let block = matches!(form, Form::Block) || target.kind.takes_blocks_only();
        let mut request = Request::new(target, Reason::Admin, "somebody", Source::Admin);
        let says = if block {
            request.block = Some(true);
            Says::Never
        } else {
            (request.issued_before, request.authenticated_before) = (issued, authenticated);
            Says::NotBefore {
                issued: issued.map(Timestamp::millis),
                authenticated: authenticated.map(Timestamp::millis),
            }
        };
        self.record(request, name, says).await;
    }

    async fn lift(&mut self, record: usize, restore: bool) {
        let Some(place) = record.checked_rem(self.records.len()) else { return };
        let (id, index) = self.records[place].clone();
        let Ok(lifted) = self.ledger.lift(id, restore, "somebody".to_owned(), None).await else {
            // It had been forgotten: whatever it refused is dead by now.
            return;
        };
        if !lifted.existing {
            self.history.revocations[index].1 = match lifted.lift.leaves {
                None => Says::Nothing,
                Some(at) => Says::NotBefore { issued: Some(at.millis()), authenticated: None },
            };
        }
    }

    async fn replace(&mut self, issuer: usize, old: usize, new: usize) -> Result<(), TestCaseError> {
        let ((issuer, old), (_, new)) = (Self::subject(issuer, old), Self::subject(issuer, new));
        let request = ReplaceRequest {
            issuer: issuer.clone(),
            old: old.clone(),
            new: new.clone(),
            reason: Reason::CredentialCompromised,
            actor: "somebody".to_owned(),
            note: None,
            id: None,
        };
        let again = self.history.replacements.contains(&(issuer.clone(), old.clone(), new.clone()));
        let may = self.history.may_replace(&issuer, &old, &new);
        let replaced = self.ledger.replace(request).await;
        prop_assert_eq!(replaced.is_ok(), may || again, "{} {} {}: {:?}", issuer, old, new, replaced);
        let Ok(replaced) = replaced else { return Ok(()) };
        prop_assert_eq!(replaced.existing, again);
        if !again {
            let says = self.cut_now(&issuer, true);
            self.history.revocations.push((Name::Subject(issuer.clone(), new.clone()), says));
            self.history.replacements.push((issuer.clone(), old, new.clone()));
        }
        let ids = self.history.ids(&issuer, &new);
        prop_assert_eq!(Some(&replaced.account), ids.last());
        Ok(())
    }

    async fn undo(&mut self, issuer: usize, old: usize) -> Result<(), TestCaseError> {
        let (issuer, old) = Self::subject(issuer, old);
        let (of, actor) = (issuer.clone(), "somebody".to_owned());
        let request = UndoRequest { issuer: of, old: old.clone(), reason: None, actor, note: None };
        let may = self.history.may_undo(&issuer, &old);
        match self.ledger.undo_replacement(request).await {
            Ok(undone) if !undone.existing => {
                prop_assert!(may, "undone: {} {}", issuer, old);
                let says = self.cut_now(&issuer, true);
                for subject in [&undone.replacement.old, &undone.replacement.new] {
                    self.history.revocations.push((Name::Subject(issuer.clone(), subject.clone()), says));
                }
                self.history.replacements.retain(|(of, it, _)| *of != issuer || *it != old);
            }
            Ok(_) | Err(_) => prop_assert!(!may, "not undone: {} {}", issuer, old),
        }
        Ok(())
    }

    fn rotate(&mut self, issuer: usize) {
        match self.keys.get_mut(issuer) {
            None => drop(self.sessions.rotate(self.clock.now(), true).unwrap()),
            Some(keys) => {
                keys.push(key());
                self.publish(issuer);
            }
        }
    }

    fn publish(&self, issuer: usize) {
        self.published[issuer].store(Arc::new(key_set(&self.keys[issuer])));
        self.gate.revocations().bump();
    }

    async fn retire(&mut self, issuer: usize, place: usize) {
        let thumbprints: Vec<_> = match self.keys.get(issuer) {
            None => self.sessions.keys().into_iter().map(|key| key.thumbprint).collect(),
            Some(keys) => keys.iter().map(|key| key.verifying_key().thumbprint().to_owned()).collect(),
        };
        let thumbprint = thumbprints[place % thumbprints.len()].clone();
        let target = Target::new(TargetKind::Key, "", thumbprint.as_str());
        let request = Request::new(target, Reason::KeyCompromised, "somebody", Source::Admin);
        self.record(request, Name::Key(thumbprint), Says::Never).await;
    }

    fn unpublish(&mut self, issuer: usize, place: usize) {
        let keys = &mut self.keys[issuer];
        let Some(place) = place.checked_rem(keys.len() - 1) else { return };
        let gone = keys.remove(place);
        self.history.unpublished.push(gone.verifying_key().thumbprint().to_owned());
        self.publish(issuer);
    }

    /// As a reload does it: the ledger first.
    async fn limit(&mut self, issuer: usize, long: bool) {
        let longest = if long { LONG_LIFE } else { LIFE };
        if longest > self.longest[issuer] {
            // What the lower limit let be forgotten stays refused, and with it what is as old and was not revoked.
            let known = self.issuers[issuer];
            let horizon = SESSION.max(self.longest[issuer]) + known.skew;
            let raised = SESSION.max(longest) + known.skew;
            if raised > horizon {
                let says = Says::NotBefore { issued: Some(self.now().millis() - horizon), authenticated: None };
                self.history.revocations.push((Name::Issuer(known.url.to_owned()), says));
            }
        }
        self.longest[issuer] = longest;
        self.ledger.set_horizons(horizons(&self.issuers, self.longest)).await.unwrap();
        self.history.longest[issuer].1 = longest;
        let map = Arc::clone(self.gate.revocations());
        self.rebuild(&map);
        map.bump();
    }

    /// Every token ever made: as a request that is under way has it, and as a new one would come.
    pub(crate) fn check(&self, step: usize) -> Result<(), TestCaseError> {
        let now = self.now();
        for (index, held) in self.held.iter().enumerate() {
            let wanted = self.history.honours(index, now.millis());
            // Of what is refused anyway, a part each time: every one of them costs a signature.
            if wanted || (index + step).is_multiple_of(4) {
                let decided = self.admit(index).map(drop);
                self.compare(index, wanted, decided)?;
            }
            let short = self.history.longest.iter().all(|(issuer, longest)| {
                let it = &self.history.credentials[index];
                *issuer != it.issuer || it.life <= *longest
            });
            if let Some(verified) = held.verified.as_ref().filter(|_| short) {
                let decided = self.gate.still_honoured(verified, now);
                let decided = decided.map_err(|it| self.gate.refusal(it, now).denial.reason().to_owned());
                self.compare(index, wanted, decided)?;
            }
        }
        Ok(())
    }

    /// Every token, without anything remembered, and who the upstream would take its holder for.
    pub(crate) fn check_afresh(&self) -> Result<(), TestCaseError> {
        let (cache, now) = (TokenCache::new(1 << 20), self.now());
        for (index, held) in self.held.iter().enumerate() {
            let decided = self.gate.admit(&cache, held.text.as_str().into(), &Demand::default(), now);
            let decided = decided.map_err(|it| self.gate.refusal(it, now).denial.reason().to_owned());
            self.compare(index, self.history.honours(index, now.millis()), decided.map(drop))?;
            if let Some(verified) = &held.verified {
                let account = self.gate.account(verified).unwrap().into_owned();
                prop_assert_eq!(account, self.account(index), "{:?}", self.history.credentials[index]);
            }
        }
        Ok(())
    }

    /// The first id that the holder ever had, under the name that the gateway has for them.
    fn account(&self, index: usize) -> String {
        let it = &self.history.credentials[index];
        let own = self.history.ids(&it.issuer, &it.subject);
        let first = &self.history.credentials[*self.history.line(index).last().unwrap()];
        if own.len() > 1 || first.issuer == it.issuer {
            return own.last().unwrap().clone();
        }
        let prefix = it.subject.strip_suffix(&first.subject).unwrap();
        format!("{prefix}{}", self.history.ids(&first.issuer, &first.subject).last().unwrap())
    }

    fn compare(&self, index: usize, wanted: bool, decided: Result<(), String>) -> Result<(), TestCaseError> {
        let it = &self.history.credentials[index];
        match decided {
            Ok(()) => prop_assert!(wanted, "admitted, and should not be: {:?} at {}", it, self.now().millis()),
            Err(reason) => prop_assert!(!wanted, "refused as {}, and should not be: {:?}", reason, it),
        }
        Ok(())
    }
}

fn open(store: &Shuffled, horizons: Horizons, clock: &Clock) -> (Ledger, Arc<RevocationMap>) {
    let map = Arc::new(RevocationMap::new(10_000));
    let store: Arc<dyn Store> = Arc::new(store.clone());
    (Ledger::open(store, Arc::clone(&map), horizons, clock.clone()).unwrap(), map)
}

fn gate(
    known: &[Known; 2],
    published: &[Arc<ArcSwap<KeySet>>; 2],
    longest: [i64; 2],
    sessions: &Sessions,
    map: &Arc<RevocationMap>,
) -> Gate {
    let mut issuers = Vec::new();
    for ((known, keys), longest) in known.iter().zip(published).zip(longest) {
        issuers.push(TrustedIssuer {
            name: known.name.to_owned(),
            url: known.url.to_owned(),
            kind: Kind::Foreign,
            policy: Policy {
                algorithms: vec![Algorithm::EdDSA],
                types: vec!["JWT".to_owned()],
                audiences: vec!["shop".to_owned()],
                clock_skew: span(known.skew),
                max_lifetime: span(longest),
                require: vec!["sub".to_owned()],
            },
            keys: Arc::clone(keys),
            renewable: false,
            max_authentication_age: known.oldest.map(span),
            credentials: None,
        });
    }
    issuers.push(TrustedIssuer {
        name: "session".to_owned(),
        url: GATE.to_owned(),
        kind: Kind::Own,
        policy: sessions.policy(),
        keys: sessions.key_set(),
        renewable: false,
        max_authentication_age: None,
        credentials: None,
    });
    Gate::new(issuers, 8192, Arc::clone(map))
}

fn name_of(target: &Target) -> Name {
    let (issuer, value) = (target.issuer.clone(), target.value.clone());
    match target.kind {
        TargetKind::Token => Name::Token(issuer, value),
        TargetKind::Session => Name::Session(issuer, value),
        TargetKind::Subject => Name::Subject(issuer, value),
        TargetKind::Client => Name::Client(issuer, value),
        TargetKind::Key => Name::Key(value),
        TargetKind::Issuer => Name::Issuer(issuer),
        TargetKind::All => Name::All,
    }
}
