//! A cluster at work: how soon what one node revokes is in force at the others, how long a node takes to join, and what
//! a load of revocations does to all of them.
//!
//! How much of it there is comes from the environment: `PORTCULLIS_PROPAGATION` (revocations), `PORTCULLIS_JOIN` (live
//! entries), `PORTCULLIS_CLUSTER_LOAD` (seconds) and `PORTCULLIS_CLUSTER_RATE` (revocations a second and node). What is
//! printed are figures to write down; what is asserted holds at any speed.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{Nodes, revocation, status};
use crate::sessions::service;
use crate::support::command::portcullis;
use crate::support::gateway::Starting;
use crate::support::patience::within;
use crate::support::site::{EYES, OPS};
use crate::support::{Broker, Connection, Engine, Gateway, Response, Site, Upstream, bearer, request};

/// For a million entries to arrive somewhere, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);
/// Lines of a batch, at most.
const LINES: usize = 10_000;

fn number(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).map_or(otherwise, |number| number.parse().unwrap())
}

/// Nodes that are as patient as a cluster usually is: here nothing is cut off.
fn nodes(count: usize, upstream: &Upstream, broker: &Broker) -> Nodes {
    let mut nodes = Nodes::new(count, upstream, broker);
    for site in &mut nodes.sites {
        site.set("/cluster/heartbeat", json!("1s"));
        site.set("/cluster/max_staleness", json!("5m"));
    }
    nodes
}

/// Asks one thing after the other over one connection.
struct Client {
    address: SocketAddr,
    connection: Option<Connection>,
}

impl Client {
    const fn of(address: SocketAddr) -> Self {
        Self { address, connection: None }
    }

    fn ask(&mut self, bytes: &[u8]) -> Response {
        let mut connection =
            self.connection.take().unwrap_or_else(|| Connection::open(self.address).patience(PATIENCE));
        let answer = connection.send(bytes).try_response().expect("nobody loses an answer");
        if answer.header("connection").is_none() {
            self.connection = Some(connection);
        }
        answer
    }

    fn post(&mut self, path: &str, kind: &str, body: &[u8]) -> Response {
        let fields = [("Authorization", bearer(OPS)), ("Content-Type", kind.to_owned())];
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.ask(&request("POST", path, &fields, body))
    }

    /// Revokes these subjects at once.
    fn revoke_all(&mut self, subjects: impl Iterator<Item = String>) {
        let lines: Vec<String> = subjects.map(|subject| revocation(&subject).to_string()).collect();
        let answer = self.post("/v1/revocations:batch", "application/x-ndjson", lines.join("\n").as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["results"].as_array().unwrap().len(), lines.len());
    }
}

/// Of times in whatever order, the one that so many in a hundred do not exceed.
fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

/// When each of so many subjects came to be refused at a node, as its watchers are told.
fn watch(gateway: &Gateway, count: usize) -> JoinHandle<HashMap<String, Instant>> {
    let mut connection = Connection::open(gateway.admin_address);
    connection.send(&request("GET", "/v1/revocations:watch", &[("Authorization", &bearer(EYES))], b""));
    let head = connection.read_head().unwrap();
    assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
    let early = connection.take_buffer();
    let mut lines =
        BufReader::new(std::io::Read::chain(std::io::Cursor::new(early), connection.stream().try_clone().unwrap()));
    thread::spawn(move || {
        let mut told = HashMap::new();
        let mut line = String::new();
        while told.len() < count {
            line.clear();
            assert_ne!(lines.read_line(&mut line).unwrap(), 0, "the stream ended after {}", told.len());
            let Some(data) = line.strip_prefix("data:") else { continue };
            let data: Value = serde_json::from_str(data).unwrap();
            let subject = data["target"]["value"].as_str().unwrap_or_else(|| panic!("it fell behind: {data}"));
            told.entry(subject.to_owned()).or_insert_with(Instant::now);
        }
        told
    })
}

/// The records of revocation state that a node has on disk, whoever made them.
pub(crate) fn records(site: &Site) -> HashSet<String> {
    let exported = portcullis(site.path(), &["store", "export", "--path", "data"]);
    assert_eq!(exported.code, 0, "{}", exported.stderr);
    let lines = exported.stdout.lines();
    lines.filter(|line| line.contains("\"type\":\"revocation\"")).map(str::to_owned).collect()
}

/// Waits until every node holds what all hold, of which there is so much.
fn await_equal_copies(nodes: &Nodes, count: usize) {
    within(PATIENCE, "equal copies", || {
        let mut copies = nodes.sites.iter().map(records);
        let first = copies.next()?;
        (first.len() == count && copies.all(|copy| copy == first)).then_some(())
    });
}

fn what_is_revoked_anywhere_is_soon_refused_everywhere(engine: Engine) {
    let Some(broker) = Broker::start(engine) else { return };
    let upstream = service();
    let nodes = nodes(3, &upstream, &broker);
    let gateways = nodes.start();
    let each = number("PORTCULLIS_PROPAGATION", 51) / gateways.len();
    let count = each * gateways.len();
    let watching: Vec<_> = gateways.iter().map(|gateway| watch(gateway, count)).collect();
    let began = Instant::now();
    let answered: Vec<Vec<(String, Instant, u16)>> = thread::scope(|scope| {
        let write = |(node, gateway): (usize, &Gateway)| {
            let mut client = Client::of(gateway.admin_address);
            scope.spawn(move || {
                let one = |round| {
                    let subject = format!("user-{node}-{round}");
                    let body = revocation(&subject).to_string();
                    let answer = client.post("/v1/revocations", "application/json", body.as_bytes());
                    assert!(matches!(answer.status, 201 | 202), "{}", answer.text());
                    (subject, Instant::now(), answer.status)
                };
                (0..each).map(one).collect()
            })
        };
        let writers: Vec<_> = gateways.iter().enumerate().map(write).collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let took = began.elapsed();
    within(PATIENCE, "everything everywhere", || watching.iter().all(JoinHandle::is_finished).then_some(()));
    let told: Vec<_> = watching.into_iter().map(|it| it.join().unwrap()).collect();
    let (mut after, mut on_their_way) = (Vec::new(), 0);
    for (node, answers) in answered.iter().enumerate() {
        for (subject, answer, status) in answers {
            on_their_way += usize::from(*status == 202);
            let others = told.iter().enumerate().filter(|(other, _)| *other != node);
            after.extend(others.map(|(_, told)| told[subject].saturating_duration_since(*answer)));
        }
    }
    let (half, most, all) = (percentile(&mut after, 50), percentile(&mut after, 99), percentile(&mut after, 100));
    eprintln!(
        "{engine:?}: {count} revocations at 3 nodes, {:.0} a second, {on_their_way} answered 202: in force at each other \
         node {half:.1?} (p50), {most:.1?} (p99), {all:.1?} (all) after the answer",
        count as f64 / took.as_secs_f64(),
    );
    for gateway in &gateways {
        for node in 0..gateways.len() {
            assert_eq!(status(gateway, &nodes.token(&format!("user-{node}-{}", each - 1))), 401);
        }
        assert_eq!(status(gateway, &nodes.token("bob")), 200);
    }
    await_equal_copies(&nodes, count);
}

#[test]
fn what_is_revoked_anywhere_is_soon_refused_everywhere_over_redis() {
    what_is_revoked_anywhere_is_soon_refused_everywhere(Engine::Redis);
}

#[test]
fn what_is_revoked_anywhere_is_soon_refused_everywhere_over_nats() {
    what_is_revoked_anywhere_is_soon_refused_everywhere(Engine::Nats);
}

/// How long ordinary requests take for as long as something else goes on.
fn ask_while<T>(gateway: &Gateway, token: &str, something: impl FnOnce() -> T) -> (T, Vec<Duration>) {
    let bytes = request("GET", "/api", &[("Authorization", &bearer(token))], b"");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut client = Client::of(gateway.address);
            let mut times = Vec::new();
            while times.len() < 100 || !over.load(Ordering::Acquire) {
                let began = Instant::now();
                assert_eq!(client.ask(&bytes).status, 200, "who asks elsewhere is served");
                times.push(began.elapsed());
            }
            times
        });
        let done = something();
        over.store(true, Ordering::Release);
        (done, asking.join().unwrap())
    })
}

#[test]
fn a_node_that_joins_has_everything_and_nobody_waits_for_it() {
    let Some(broker) = Broker::start(Engine::Redis) else { return };
    let upstream = service();
    let nodes = nodes(3, &upstream, &broker);
    let count = number("PORTCULLIS_JOIN", 2000);
    let gateways = [nodes.sites[0].start(), nodes.sites[1].start()];
    let (began, mut client) = (Instant::now(), Client::of(gateways[0].admin_address));
    for from in (0..count).step_by(LINES) {
        client.revoke_all((from..count.min(from + LINES)).map(|number| format!("user-{number}")));
    }
    let revoked = began.elapsed();
    within(PATIENCE, "the other node to have it", || {
        (gateways[1].admin().get("/v1/status").json()["store"]["records"].as_u64()? >= count as u64).then_some(())
    });
    eprintln!("{count} entries: made in {revoked:.1?}, at the other node {:.1?} later", began.elapsed() - revoked);
    let (bob, last) = (nodes.token("bob"), nodes.token(&format!("user-{}", count - 1)));
    // As long as joining may take.
    let (began, span) = (Instant::now(), Duration::from_millis(500 + count as u64 / 200));
    let wait = || within(PATIENCE, "time to pass", || (began.elapsed() > span).then_some(()));
    let ((), mut alone) = ask_while(&gateways[1], &bob, wait);
    let alone = percentile(&mut alone, 99);
    for how in ["from scratch", "with a copy"] {
        let began = Instant::now();
        let join = || Starting::new(&nodes.sites[2]).listening_within(PATIENCE);
        let (third, mut times) = ask_while(&gateways[1], &bob, join);
        let (half, most) = (percentile(&mut times, 50), percentile(&mut times, 99));
        eprintln!(
            "{count} entries: ready {how} in {:.1?}; requests at another node meanwhile {half:.1?} (p50), {most:.1?} \
             (p99), which is {:.2} x of {alone:.1?} before",
            began.elapsed(),
            most.as_secs_f64() / alone.as_secs_f64(),
        );
        assert_eq!((status(&third, &last), status(&third, &bob)), (401, 200), "from its first request on");
        assert_eq!(third.stop().0, 0);
    }
    await_equal_copies(&nodes, count);
}

#[test]
fn under_a_load_of_revocations_nothing_is_lost_and_memory_is_bounded() {
    let Some(broker) = Broker::start(Engine::Redis) else { return };
    let upstream = service();
    let nodes = nodes(5, &upstream, &broker);
    let gateways = nodes.start();
    let span = Duration::from_secs(number("PORTCULLIS_CLUSTER_LOAD", 2) as u64);
    // Each node is told of so many at once, ten times a second.
    let rate = number("PORTCULLIS_CLUSTER_RATE", 50);
    let (at_once, rounds) = (rate.div_ceil(10), usize::try_from(span.as_secs()).unwrap() * 10);
    let began = Instant::now();
    let lag = || -> u64 {
        let shown = gateways[0].admin().get("/v1/status").json();
        shown["cluster"]["nodes"].as_object().unwrap().values().map(|it| it["lag"].as_u64().unwrap()).max().unwrap()
    };
    let memory = || gateways.iter().map(|it| it.memory("VmRSS")).max().unwrap();
    let records_of = |gateway: &Gateway| gateway.admin().get("/v1/status").json()["store"]["records"].as_u64().unwrap();
    let (early, late) = thread::scope(|scope| {
        let write = |(node, gateway): (usize, &Gateway)| {
            let mut client = Client::of(gateway.admin_address);
            scope.spawn(move || {
                for round in 0..rounds {
                    let due = began + Duration::from_millis(100) * u32::try_from(round).unwrap();
                    while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                        thread::park_timeout(left);
                    }
                    client.revoke_all((0..at_once).map(|number| format!("user-{node}-{round}-{number}")));
                }
            })
        };
        let writers: Vec<_> = gateways.iter().enumerate().map(write).collect();
        within(PATIENCE, "a third", || (began.elapsed() > span / 3).then_some(()));
        let early = (memory(), records_of(&gateways[0]), lag());
        within(PATIENCE, "the writers", || writers.iter().all(|it| it.is_finished()).then_some(()));
        writers.into_iter().for_each(|it| it.join().unwrap());
        (early, (memory(), records_of(&gateways[0]), lag()))
    });
    let took = began.elapsed();
    let count = gateways.len() * rounds * at_once;
    for gateway in &gateways {
        within(PATIENCE, "everything everywhere", || (records_of(gateway) >= count as u64).then_some(()));
    }
    eprintln!(
        "{count} revocations at 5 nodes in {took:.1?} ({:.0} a second): behind {} after a third, {} at the end, nothing \
         {:.1?} later; the largest {} KiB with {} entries, {} KiB with {}",
        count as f64 / took.as_secs_f64(),
        early.2,
        late.2,
        began.elapsed() - took,
        early.0,
        early.1,
        late.0,
        late.1,
    );
    let allowed = 64 * 1024 + 4 * (late.1 - early.1);
    assert!(late.0 < early.0 + allowed, "it grew from {} to {} KiB", early.0, late.0);
    let tokens: Vec<_> = (0..5).map(|node| nodes.token(&format!("user-{node}-{}-0", rounds - 1))).collect();
    for gateway in &gateways {
        tokens.iter().for_each(|token| assert_eq!(status(gateway, token), 401));
        assert_eq!(status(gateway, &nodes.token("bob")), 200);
    }
    await_equal_copies(&nodes, count);
}
