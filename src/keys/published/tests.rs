//! Against a server that counts and says what it is told to.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::*;
use crate::keys::SigningKey;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

struct Server {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    says: Arc<Mutex<String>>,
}

impl Server {
    fn start(says: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, says) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(says.to_owned())));
        let (count, text) = (Arc::clone(&asked), Arc::clone(&says));
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut head = [0; 2048];
                let _ = stream.read(&mut head);
                count.fetch_add(1, Ordering::AcqRel);
                let body = text.lock().unwrap().clone();
                let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            }
        });
        Self { address, asked, says }
    }

    fn say(&self, text: &str) {
        text.clone_into(&mut self.says.lock().unwrap());
    }
}

#[derive(Debug, Default)]
struct Heard {
    changed: AtomicUsize,
    ended: Mutex<Vec<&'static str>>,
    kept: Mutex<Vec<LastGood>>,
}

impl Listener for Heard {
    fn changed(&self) {
        self.changed.fetch_add(1, Ordering::AcqRel);
    }

    fn ended(&self, outcome: Result<(), &RefreshError>) {
        self.ended.lock().unwrap().push(outcome.map_or_else(RefreshError::result, |()| "ok"));
    }

    fn keep<'a>(&'a self, good: &'a LastGood) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>> {
        self.kept.lock().unwrap().push(good.clone());
        Box::pin(async { true })
    }
}

struct World {
    published: Published,
    heard: Arc<Heard>,
    clock: Clock,
}

fn schedule(cooldown: u64) -> Schedule {
    Schedule {
        refresh: Duration::from_secs(3600),
        cooldown: Duration::from_millis(cooldown),
        timeout: Duration::from_secs(5),
        max_stale: Duration::from_secs(7200),
    }
}

fn world(server: SocketAddr, cooldown: u64) -> World {
    let issuer = Issuer {
        name: "accounts".to_owned(),
        url: "https://accounts.example/".to_owned(),
        algorithms: vec![Algorithm::EdDSA],
        publication: Publication::Jwks(format!("http://{server}/keys").parse().unwrap()),
        allow_http: false,
        schedule: schedule(cooldown),
        authority: None,
    };
    let (heard, clock) = (Arc::new(Heard::default()), Clock::manual(NOW));
    let listener: Arc<dyn Listener> = Arc::<Heard>::clone(&heard);
    World { published: Published::new(issuer, &Trust::nobody(), clock.clone(), listener), heard, clock }
}

fn jwks(keys: &[&SigningKey]) -> String {
    json!({"keys": keys.iter().map(|key| key.public_jwk()).collect::<Vec<Value>>()}).to_string()
}

fn key() -> SigningKey {
    SigningKey::generate(Algorithm::EdDSA).unwrap()
}

impl World {
    fn has(&self, key: &SigningKey) -> bool {
        self.published.keys().load().contains(&key.verifying_key())
    }

    /// Renews, waiting for the cooldown to pass.
    async fn renew(&self) -> Renewed {
        tokio::time::sleep(self.published.issuer().schedule.cooldown).await;
        self.published.renew().await
    }
}

#[tokio::test]
async fn a_flood_of_unknown_keys_costs_one_fetch_a_cooldown() {
    let server = Server::start(&jwks(&[&key()]));
    let world = world(server.address, 300);
    world.published.start(None);
    let began = std::time::Instant::now();
    let mut asked = 0;
    while asked < 10_000 || began.elapsed() < Duration::from_millis(700) {
        let all = futures_util::future::join_all((0..200).map(|_| world.published.renew())).await;
        assert!(all.iter().all(|it| *it == Renewed::Current));
        asked += all.len();
        tokio::task::yield_now().await;
    }
    let fetched = server.asked.load(Ordering::Acquire);
    let most = 2 + began.elapsed().as_millis() / 300;
    assert!((2..=most).contains(&(fetched as u128)), "{asked} asked, {fetched} fetched");
}

#[tokio::test]
async fn a_set_that_is_no_good_changes_nothing_and_a_good_one_everything() {
    let (old, new, third) = (key(), key(), key());
    let server = Server::start(&jwks(&[&old]));
    let world = world(server.address, 1);
    assert_eq!(world.published.keys().load().until(), Timestamp::MIN, "nothing is known yet");
    world.published.start(None);
    assert_eq!(world.published.renew().await, Renewed::Current);
    assert!(world.has(&old));
    let good: Value = serde_json::from_str(&jwks(&[&new])).unwrap();
    let twice = json!({"keys": [good["keys"][0], good["keys"][0]]}).to_string();
    let with_private = |mut set: Value| {
        set["keys"][0]["d"] = json!("AAAA");
        set.to_string()
    };
    let secret = json!({"keys": [{"kty": "oct", "k": "A".repeat(43), "alg": "HS256", "kid": "x"}]}).to_string();
    let other = json!({"keys": [SigningKey::generate(Algorithm::ES256).unwrap().public_jwk()]}).to_string();
    for (text, result) in [
        ("<html>log in</html>", "malformed"),
        ("", "malformed"),
        ("[]", "malformed"),
        ("{}", "malformed"),
        (twice.as_str(), "malformed"),
        (r#"{"keys": [], "keys": []}"#, "malformed"),
        (&format!("{{\"keys\": [], \"x\": \"{}\"}}", "y".repeat(1 << 20)), "malformed"),
        (r#"{"keys": []}"#, "no_usable_key"),
        (&secret, "no_usable_key"),
        (&other, "no_usable_key"),
        (&with_private(good.clone()), "no_usable_key"),
    ] {
        server.say(text);
        assert_eq!(world.renew().await, Renewed::Unavailable, "{result}");
        assert_eq!(world.heard.ended.lock().unwrap().last(), Some(&result));
        assert!(world.has(&old) && !world.has(&new), "{result}");
    }
    assert_eq!(world.heard.changed.load(Ordering::Acquire), 1);
    server.say(&jwks(&[&new, &third]));
    assert_eq!(world.renew().await, Renewed::Current);
    assert!(world.has(&new) && world.has(&third) && !world.has(&old), "what a good set has not is gone");
    assert_eq!(world.renew().await, Renewed::Current);
    assert_eq!(world.heard.changed.load(Ordering::Acquire), 2, "the same again is no change");
    // A key whose private half was published is out; the others stay.
    let mut leaked: Value = serde_json::from_str(&jwks(&[&new, &third])).unwrap();
    leaked["keys"][0]["d"] = json!("AAAA");
    server.say(&leaked.to_string());
    assert_eq!(world.renew().await, Renewed::Current);
    assert!(!world.has(&new) && world.has(&third));
}

#[tokio::test]
async fn keys_count_until_they_are_too_old_and_again_once_fetched() {
    let key = key();
    let server = Server::start(&jwks(&[&key]));
    let world = world(server.address, 1);
    world.published.start(None);
    world.published.renew().await;
    let until = |world: &World| world.published.keys().load().until();
    assert_eq!(until(&world), NOW.plus(Duration::from_secs(7200)));
    world.clock.advance(Duration::from_secs(100));
    server.say("no");
    assert_eq!(world.renew().await, Renewed::Unavailable);
    assert_eq!(until(&world), NOW.plus(Duration::from_secs(7200)), "a failure lengthens nothing");
    server.say(&jwks(&[&key]));
    world.renew().await;
    assert_eq!(until(&world), NOW.plus(Duration::from_secs(7300)));
    assert_eq!(world.published.standing().fetched, Some(NOW.plus(Duration::from_secs(100))));
    assert_eq!(world.heard.kept.lock().unwrap().len(), 1, "kept once: it has not become misleading");
    world.clock.advance(Duration::from_secs(7200 / 8 + 1));
    world.renew().await;
    world.renew().await;
    assert_eq!(world.heard.kept.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn what_was_kept_serves_while_nothing_can_be_fetched() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let key = key();
    let kept = |fetched| LastGood { text: jwks(&[&key]), fetched };
    for (good, until) in [
        (kept(NOW.minus(Duration::from_secs(200))), Some(NOW.plus(Duration::from_secs(7000)))),
        (kept(NOW.minus(Duration::from_secs(9000))), Some(NOW.minus(Duration::from_secs(1800)))),
        // A clock that was set back must not make old keys young.
        (kept(NOW.plus(Duration::from_secs(9000))), Some(NOW.plus(Duration::from_secs(7200)))),
        (LastGood { text: "damaged".to_owned(), fetched: NOW }, None),
    ] {
        let world = world(address, 1);
        world.published.start(Some(good.clone()));
        assert_eq!(world.renew().await, Renewed::Unavailable);
        let keys = world.published.keys().load_full();
        assert_eq!(until.map(|_| keys.until()), until, "{good:?}");
        assert_eq!(world.has(&key), until.is_some(), "{good:?}");
    }
}

#[test]
fn a_server_is_asked_no_oftener_than_the_cooldown_and_no_seldomer_than_the_refresh() {
    let secs = Duration::from_secs;
    let schedule = Schedule { refresh: secs(300), cooldown: secs(30), timeout: secs(5), max_stale: secs(86_400) };
    for (max_age, pause) in [(None, 300), (Some(60), 60), (Some(1), 30), (Some(86_400), 300)] {
        assert_eq!(schedule.pause(max_age.map(secs)), secs(pause), "{max_age:?}");
    }
    for (failures, pause) in [(1, 30), (2, 60), (3, 120), (4, 240), (5, 300), (u32::MAX, 300)] {
        assert_eq!(schedule.pause_after(failures), secs(pause), "{failures}");
    }
    for _ in 0..1000 {
        let jittered = jitter(secs(300));
        assert!(jittered > secs(269) && jittered <= secs(300), "{jittered:?}");
    }
}
