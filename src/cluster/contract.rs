//! What every engine must do, asked of real servers.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::TryStreamExt;
use tokio::time::{Instant, sleep};

use super::{
    Broker, BrokerError, Bucket, Delivered, Epoch, Exchanged, MAX_PUBLISH, Place, Position, Publication, Wanted,
};
use crate::store::DocumentKind;
use crate::time::Timestamp;

/// How long a test waits for what takes two seconds at most.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);
/// A wait that must end before its time.
const LONG: Duration = Duration::from_secs(60);

/// A port that nobody listens on, and that nobody is given who asks for any: a server that is away for a while finds it
/// again.
pub(super) fn free_port() -> u16 {
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(|| rand::random_range(20_000..32_000)).find(free).unwrap()
}

/// An authority that vouches for servers and clients.
pub(super) struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pub(super) pem: String,
}

impl Authority {
    pub(super) fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = ca.self_signed(&key).unwrap().pem();
        Self { issuer: rcgen::Issuer::new(ca, key), pem }
    }

    /// A certificate for `name`, a host name or an address, and its key.
    pub(super) fn issue(&self, name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut leaf = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        // Not the name of the authority, or OpenSSL takes it for one that vouches for itself.
        leaf.distinguished_name.push(rcgen::DnType::CommonName, name);
        let leaf = leaf.signed_by(&key, &self.issuer).unwrap();
        (leaf.pem(), key.serialize_pem())
    }
}

pub(super) fn record(bucket: Bucket, origin: &str, sequence: u64) -> Publication {
    let place = Place::Record { bucket, origin: origin.to_owned(), sequence };
    Publication { place, sealed: format!("{origin}:{sequence}").into() }
}

fn passing(text: &'static str) -> Publication {
    Publication { place: Place::Passing, sealed: Bytes::from_static(text.as_bytes()) }
}

fn node(name: &str, text: &'static str) -> Publication {
    Publication { place: Place::Node(name.to_owned()), sealed: Bytes::from_static(text.as_bytes()) }
}

fn document(key: &str, revision: u64, body: impl Into<Bytes>, forget_at: Option<Timestamp>) -> Publication {
    let place = Place::Document { kind: DocumentKind::Family, key: key.to_owned(), revision, forget_at };
    Publication { place, sealed: body.into() }
}

/// Looks again and again until `look` finds something.
pub(super) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < DEADLINE, "waited in vain for: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// The epoch and the end of the log, as soon as the broker is there.
pub(super) async fn begin(broker: &dyn Broker) -> (Epoch, Position) {
    let started = Instant::now();
    loop {
        match broker.head().await {
            Ok(head) => return (head.epoch, head.position),
            Err(error) => assert!(started.elapsed() < DEADLINE, "{error:?}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Asserts that exactly those were told, in that order. Of some a broker may say nothing: of what was superseded
/// before it was read.
fn assert_told(broker: &dyn Broker, found: &[Delivered], all: &[&Bytes], superseded: &[&str]) {
    let optional = |text: &Bytes| broker.engine() == "nats" && superseded.iter().any(|other| text == other);
    let mut found = found.iter().map(|message| &message.sealed).peekable();
    for text in all {
        if found.next_if_eq(text).is_none() {
            assert!(optional(text), "{text:?} is not told, but {:?} after it", found.collect::<Vec<_>>());
        }
    }
    assert_eq!(found.next(), None, "told, and never taken");
}

/// All messages after a position, up to one that says `last`.
async fn up_to(broker: &dyn Broker, epoch: &Epoch, mut after: Position, last: &str) -> Vec<Delivered> {
    let started = Instant::now();
    let mut all: Vec<Delivered> = Vec::new();
    while all.last().is_none_or(|message| message.sealed != last) {
        assert!(started.elapsed() < DEADLINE, "waited in vain for `{last}`, after {all:?}");
        let part = broker.read(epoch, after, Duration::from_millis(500)).await.unwrap();
        for message in part {
            assert!(message.position > after, "the log goes back from {after} to {}", message.position);
            after = message.position;
            all.push(message);
        }
    }
    all
}

async fn all_kept(broker: &dyn Broker, epoch: &Epoch, wanted: Wanted) -> Vec<Bytes> {
    let parts: Vec<Vec<Bytes>> = broker.kept(epoch, wanted).try_collect().await.unwrap();
    assert!(parts.iter().all(|part| part.len() < 3000), "a part is all there is");
    parts.concat()
}

/// What is asked of a broker that has nothing yet, whatever its server can do.
pub(super) async fn all(broker: &Arc<dyn Broker>) {
    let now = broker.head().await.unwrap().now;
    messages_are_read_in_order(broker.as_ref()).await;
    many_messages_come_in_parts(broker.as_ref()).await;
    a_lower_revision_is_not_taken(broker.as_ref()).await;
    of_many_that_expect_the_same_one_writes(broker).await;
    what_is_kept_comes_in_parts(broker.as_ref(), now).await;
    what_has_ended_is_forgotten(broker.as_ref(), now).await;
    a_read_waits_and_wakes(broker).await;
    a_read_that_is_given_up_holds_up_nobody(broker.as_ref()).await;
    another_epoch_is_noticed(broker.as_ref()).await;
    names_mean_nothing(broker.as_ref()).await;
}

async fn messages_are_read_in_order(broker: &dyn Broker) {
    let head = broker.head().await.unwrap();
    assert_eq!(broker.head().await.unwrap().epoch, head.epoch, "an epoch stays");
    assert_eq!(broker.read(&head.epoch, head.position, Duration::ZERO).await.unwrap(), []);
    let messages = [
        record(Bucket::NEVER, "a", 1),
        node("a", "a is here"),
        document("order", 1, "a document", None),
        passing("in passing"),
        passing("in passing again"),
        node("a", "a is still here"),
        record(Bucket::NEVER, "a", 2),
    ];
    let last = broker.publish(&head.epoch, &messages).await.unwrap();
    let found = up_to(broker, &head.epoch, head.position, "a:2").await;
    let all: Vec<&Bytes> = messages.iter().map(|message| &message.sealed).collect();
    assert_told(broker, &found, &all, &["a is here"]);
    assert_eq!(found.last().unwrap().position, last);
    assert_eq!(broker.head().await.unwrap().position, last);
    let later = broker.head().await.unwrap().now;
    for message in &found {
        assert!(head.now.since(message.at) < DEADLINE && message.at.since(later) < DEADLINE, "{message:?}");
    }
    // What was published may be published again, and comes again.
    let again = broker.publish(&head.epoch, &messages[..1]).await.unwrap();
    assert!(again > last);
    assert_eq!(up_to(broker, &head.epoch, last, "a:1").await.len(), 1);
    assert_eq!(broker.read(&head.epoch, again, Duration::from_millis(50)).await.unwrap(), []);
    assert_eq!(broker.publish(&head.epoch, &[]).await.unwrap(), again, "nothing is published at the end of the log");
    // From before what was read already: the reader may go back, and what is there is not waited for.
    assert_ne!(broker.read(&head.epoch, head.position, Duration::ZERO).await.unwrap(), []);
    let middle = found.iter().find(|message| message.sealed == "in passing again").unwrap();
    assert_eq!(up_to(broker, &head.epoch, middle.position, "a:1").await.len(), 3);
}

async fn many_messages_come_in_parts(broker: &dyn Broker) {
    let (epoch, start) = begin(broker).await;
    let count = 10 * MAX_PUBLISH as u64;
    let messages: Vec<_> = (1..=count).map(|sequence| record(Bucket::NEVER, "many", sequence)).collect();
    for messages in messages.chunks(MAX_PUBLISH) {
        broker.publish(&epoch, messages).await.unwrap();
    }
    let found = up_to(broker, &epoch, start, &format!("many:{count}")).await;
    assert!(found.iter().map(|message| &message.sealed).eq(messages.iter().map(|message| &message.sealed)));
    let more: Vec<_> = (0..=MAX_PUBLISH).map(|_| passing("one too many")).collect();
    assert!(broker.publish(&epoch, &more).await.is_err());
}

async fn a_lower_revision_is_not_taken(broker: &dyn Broker) {
    let (epoch, start) = begin(broker).await;
    // Revisions that are one number to who reckons with 53 bits.
    let high = (1 << 53) + 1;
    for (revision, body) in [(2, "two"), (1, "one"), (2, "another two"), (10, "ten"), (9, "nine")] {
        broker.publish(&epoch, &[document("revised", revision, body, None)]).await.unwrap();
    }
    assert_eq!(broker.document(&epoch, DocumentKind::Family, "revised").await.unwrap().unwrap(), "ten");
    for (revision, body) in [(high, "high"), (high - 1, "not so high"), (high + 1, "higher"), (high, "lower")] {
        broker.publish(&epoch, &[document("revised", revision, body, None)]).await.unwrap();
    }
    assert_eq!(broker.document(&epoch, DocumentKind::Family, "revised").await.unwrap().unwrap(), "higher");
    assert_eq!(broker.document(&epoch, DocumentKind::Session, "revised").await.unwrap(), None, "of another kind");
    let found = up_to(broker, &epoch, start, "higher").await;
    let all = ["two", "ten", "high", "higher"].map(Bytes::from);
    assert_told(broker, &found, &all.iter().collect::<Vec<_>>(), &["two", "ten", "high"]);
    // Of a batch with one document twice, too.
    let batch = [document("twice", 2, "second", None), document("twice", 1, "first", None), passing("after it")];
    let last = broker.publish(&epoch, &batch).await.unwrap();
    assert_eq!(broker.document(&epoch, DocumentKind::Family, "twice").await.unwrap().unwrap(), "second");
    assert_eq!(up_to(broker, &epoch, start, "after it").await.last().unwrap().position, last);
    let stale = broker.publish(&epoch, &[document("twice", 1, "first", None)]).await.unwrap();
    assert_eq!(stale, last, "nothing was appended");
}

async fn of_many_that_expect_the_same_one_writes(broker: &Arc<dyn Broker>) {
    let (epoch, start) = begin(broker.as_ref()).await;
    let mut winners: Vec<String> = Vec::new();
    let missing = broker.compare_and_put(&epoch, &document("contended", 4, "four", None), 3).await.unwrap();
    assert_eq!(missing, Exchanged::Conflict(None));
    for round in 0..12 {
        let attempts = (0..16).map(|who| {
            let (broker, epoch) = (Arc::clone(broker), epoch.clone());
            tokio::spawn(async move {
                let body = format!("{}-{who}", round + 1);
                let message = document("contended", round + 1, body.clone(), None);
                (body, broker.compare_and_put(&epoch, &message, round).await.unwrap())
            })
        });
        let outcomes: Vec<(String, Exchanged)> = join_all(attempts).await.into_iter().map(Result::unwrap).collect();
        let written: Vec<_> = outcomes.iter().filter(|(_, outcome)| matches!(outcome, Exchanged::Written(_))).collect();
        assert_eq!(written.len(), 1, "round {round}: {outcomes:?}");
        for (_, outcome) in &outcomes {
            if let Exchanged::Conflict(there) = outcome {
                assert_eq!(there.as_ref().unwrap(), &written[0].0, "round {round}");
            }
        }
        let there = broker.document(&epoch, DocumentKind::Family, "contended").await.unwrap().unwrap();
        assert_eq!(there, written[0].0);
        let Exchanged::Written(position) = written[0].1 else { unreachable!() };
        let found = up_to(broker.as_ref(), &epoch, start, &written[0].0).await;
        let before: Vec<&str> = winners.iter().map(String::as_str).collect();
        let mut all: Vec<Bytes> = winners.iter().map(|text| text.clone().into()).collect();
        all.push(written[0].0.clone().into());
        assert_told(broker.as_ref(), &found, &all.iter().collect::<Vec<_>>(), &before);
        assert_eq!(found.last().unwrap().position, position);
        winners.push(written[0].0.clone());
    }
    // Neither does a revision go back, nor is one that is expected there not enough.
    let back = broker.compare_and_put(&epoch, &document("contended", 12, "back", None), 12).await.unwrap();
    assert!(matches!(back, Exchanged::Conflict(Some(_))), "{back:?}");
    assert!(broker.compare_and_put(&epoch, &passing("no document"), 0).await.is_err());
}

/// Hours after `now`, in which records of this module end.
fn hour(now: Timestamp, hours: u64) -> Timestamp {
    now.plus(Duration::from_secs(3600 * hours))
}

async fn what_is_kept_comes_in_parts(broker: &dyn Broker, now: Timestamp) {
    let (epoch, _) = begin(broker).await;
    let before: HashSet<Bytes> = all_kept(broker, &epoch, Wanted::Records).await.into_iter().collect();
    let buckets = [Bucket::of(Some(hour(now, 3))), Bucket::of(Some(hour(now, 40_000))), Bucket::NEVER];
    let mut wanted: Vec<HashSet<Bytes>> = vec![HashSet::new(); buckets.len()];
    let messages: Vec<_> = (1..=5000)
        .map(|sequence| {
            let place = (sequence % 10).min(2) as usize;
            let message = record(buckets[place], "kept", sequence);
            wanted[place].insert(message.sealed.clone());
            message
        })
        .collect();
    for messages in messages.chunks(MAX_PUBLISH) {
        broker.publish(&epoch, messages).await.unwrap();
    }
    // Those that were there are kept as well, in the bucket that never ends.
    wanted[2].extend(before);
    for (bucket, wanted) in buckets.iter().zip(&wanted) {
        let found = all_kept(broker, &epoch, Wanted::Buckets(vec![*bucket])).await;
        assert_eq!(&found.into_iter().collect::<HashSet<_>>(), wanted, "{bucket:?}");
    }
    let found = all_kept(broker, &epoch, Wanted::Buckets(buckets[..2].to_vec())).await;
    assert_eq!(found.len(), wanted[0].len() + wanted[1].len());
    assert!(all_kept(broker, &epoch, Wanted::Buckets(vec![Bucket(7)])).await.is_empty());
    assert!(all_kept(broker, &epoch, Wanted::Buckets(Vec::new())).await.is_empty());
    let found: HashSet<Bytes> = all_kept(broker, &epoch, Wanted::Records).await.into_iter().collect();
    assert_eq!(found, wanted.into_iter().flatten().collect());

    broker.publish(&epoch, &[node("b", "b began"), node("b", "b went on"), node("c", "c began")]).await.unwrap();
    let nodes: HashSet<Bytes> = all_kept(broker, &epoch, Wanted::Nodes).await.into_iter().collect();
    assert_eq!(nodes, ["a is still here", "b went on", "c began"].map(Bytes::from).into());
    let documents: HashSet<Bytes> = all_kept(broker, &epoch, Wanted::Documents).await.into_iter().collect();
    assert!(documents.contains(&Bytes::from("a document")) && documents.contains(&Bytes::from("higher")));
    assert!(!documents.contains(&Bytes::from("ten")), "an earlier revision");
}

async fn what_has_ended_is_forgotten(broker: &dyn Broker, now: Timestamp) {
    let (epoch, _) = begin(broker).await;
    let (soon, later) = (hour(now, 5), hour(now, 6));
    let keys: Vec<String> = (0..1200).map(|number| format!("ends {number}")).collect();
    let mut messages = vec![
        record(Bucket::of(Some(soon)), "ended", 1),
        record(Bucket::of(Some(later)), "ended", 2),
        record(Bucket::NEVER, "ended", 3),
        document("lasts", 1, "lasts", Some(later)),
        document("stays", 1, "stays", None),
        document("longer", 1, "ended already", Some(soon)),
        document("longer", 2, "longer", Some(later)),
    ];
    messages.extend(keys.iter().map(|key| document(key, 1, key.clone(), Some(soon))));
    for messages in messages.chunks(MAX_PUBLISH) {
        broker.publish(&epoch, messages).await.unwrap();
    }
    let there = async |key: &str| broker.document(&epoch, DocumentKind::Family, key).await.unwrap().is_some();
    broker.forget(&epoch, soon).await.unwrap();
    assert!(there("ends 7").await, "it has not ended before its end");
    // Until the hour of what ended soon is over, and not yet that of what ends later.
    let over = Bucket::of(Some(soon)).ends().unwrap().plus(Duration::from_millis(1));
    broker.forget(&epoch, soon.plus(Duration::from_millis(1))).await.unwrap();
    broker.forget(&epoch, over.min(later)).await.unwrap();
    for (key, stays) in [("ends 7", false), ("ends 1199", false), ("lasts", true), ("stays", true), ("longer", true)] {
        assert_eq!(there(key).await, stays, "{key}");
    }
    let records = all_kept(broker, &epoch, Wanted::Records).await;
    for (text, stays) in [("ended:1", false), ("ended:2", true), ("ended:3", true)] {
        assert_eq!(records.contains(&Bytes::from(text)), stays, "{text}");
    }
    // What was forgotten may come back.
    let expected = broker.compare_and_put(&epoch, &document("ends 7", 1, "again", None), 0).await.unwrap();
    assert!(matches!(expected, Exchanged::Written(_)), "{expected:?}");
}

async fn a_read_waits_and_wakes(broker: &Arc<dyn Broker>) {
    let (epoch, start) = begin(broker.as_ref()).await;
    let reader = {
        let (broker, epoch) = (Arc::clone(broker), epoch.clone());
        tokio::spawn(async move {
            let started = Instant::now();
            (broker.read(&epoch, start, LONG).await.unwrap(), started.elapsed())
        })
    };
    // Long enough for the read to have looked whether the log is still the one it was.
    sleep(Duration::from_millis(1500)).await;
    broker.publish(&epoch, &[passing("wake up")]).await.unwrap();
    let (found, waited) = reader.await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].sealed, "wake up");
    assert!(waited < LONG / 2, "{waited:?}");
}

async fn a_read_that_is_given_up_holds_up_nobody(broker: &dyn Broker) {
    let (epoch, start) = begin(broker).await;
    for _ in 0..3 {
        let read = broker.read(&epoch, start, LONG);
        assert!(tokio::time::timeout(Duration::from_millis(300), read).await.is_err(), "there was nothing");
    }
    let started = Instant::now();
    broker.publish(&epoch, &[passing("not given up")]).await.unwrap();
    let found = up_to(broker, &epoch, start, "not given up").await;
    assert_eq!(found.len(), 1);
    assert!(started.elapsed() < LONG / 2);
}

async fn another_epoch_is_noticed(broker: &dyn Broker) {
    let (_, start) = begin(broker).await;
    let other = Epoch("another one".to_owned());
    let publication = [document("of another epoch", 1, "x", None)];
    let published = broker.publish(&other, &publication).await;
    let put = broker.compare_and_put(&other, &publication[0], 0).await;
    let read = broker.read(&other, start, LONG).await;
    let found = broker.document(&other, DocumentKind::Family, "stays").await;
    let forgotten = broker.forget(&other, Timestamp::MAX).await;
    assert!(matches!(published, Err(BrokerError::Epoch)), "{published:?}");
    assert!(matches!(put, Err(BrokerError::Epoch)), "{put:?}");
    assert!(matches!(read, Err(BrokerError::Epoch)), "{read:?}");
    assert!(matches!(found, Err(BrokerError::Epoch)), "{found:?}");
    assert!(matches!(forgotten, Err(BrokerError::Epoch)), "{forgotten:?}");
    for wanted in [Wanted::Records, Wanted::Documents, Wanted::Nodes, Wanted::Buckets(vec![Bucket(1)])] {
        let kept = broker.kept(&other, wanted.clone()).try_collect::<Vec<_>>().await;
        assert!(matches!(kept, Err(BrokerError::Epoch)), "{wanted:?}: {kept:?}");
    }
    let (epoch, _) = begin(broker).await;
    assert_eq!(broker.document(&epoch, DocumentKind::Family, "of another epoch").await.unwrap(), None);
    assert!(broker.document(&epoch, DocumentKind::Family, "stays").await.unwrap().is_some());
}

/// Keys come from tokens: they may be anything.
async fn names_mean_nothing(broker: &dyn Broker) {
    let (epoch, start) = begin(broker).await;
    let long = "x".repeat(512);
    let keys = ["", " ", "a.b", "a b", "*", ">", "a:b", "{x}", "\r\nFLUSHALL\r\n", "J\u{fc}rgen", "\0", &long];
    for (number, key) in keys.iter().enumerate() {
        let body = format!("body {number}");
        let put = broker.compare_and_put(&epoch, &document(key, 1, body.clone(), None), 0).await.unwrap();
        assert!(matches!(put, Exchanged::Written(_)), "{key:?}: {put:?}");
    }
    for (number, key) in keys.iter().enumerate() {
        let found = broker.document(&epoch, DocumentKind::Family, key).await.unwrap();
        assert_eq!(found.unwrap(), format!("body {number}"), "{key:?}");
    }
    for name in ["node.with.dots", "node-with_others", "Node.With.Dots"] {
        broker.publish(&epoch, &[record(Bucket::NEVER, name, 1), node(name, "odd name")]).await.unwrap();
    }
    let records = all_kept(broker, &epoch, Wanted::Buckets(vec![Bucket::NEVER])).await;
    for name in ["node.with.dots", "node-with_others", "Node.With.Dots"] {
        assert!(records.contains(&Bytes::from(format!("{name}:1"))), "{name}");
    }
    let nodes = all_kept(broker, &epoch, Wanted::Nodes).await;
    assert_eq!(nodes.iter().filter(|text| *text == "odd name").count(), 3);
    let body = vec![0_u8; 100 * 1024];
    broker.publish(&epoch, &[document("large", 1, body.clone(), None), passing("the end")]).await.unwrap();
    let found = up_to(broker, &epoch, start, "the end").await;
    assert!(found.iter().any(|message| message.sealed == body));
}

/// A broker that loses everything while somebody waits says so, and begins anew.
pub(super) async fn a_loss_is_noticed(broker: &Arc<dyn Broker>, lose: impl AsyncFn()) {
    let (epoch, _) = begin(broker.as_ref()).await;
    let position = broker.publish(&epoch, &[record(Bucket::NEVER, "lost", 1)]).await.unwrap();
    let reader = {
        let (broker, epoch) = (Arc::clone(broker), epoch.clone());
        tokio::spawn(async move {
            let started = Instant::now();
            (broker.read(&epoch, position, LONG).await, started.elapsed())
        })
    };
    sleep(Duration::from_millis(100)).await;
    lose().await;
    let (read, waited) = reader.await.unwrap();
    assert!(matches!(read, Err(BrokerError::Epoch)), "{read:?}");
    assert!(waited < LONG / 2, "{waited:?}");
    let published = broker.publish(&epoch, &[record(Bucket::NEVER, "lost", 2)]).await;
    assert!(matches!(published, Err(BrokerError::Epoch)), "{published:?}");
    let head = broker.head().await.unwrap();
    assert_ne!(head.epoch, epoch);
    broker.publish(&head.epoch, &[record(Bucket::NEVER, "lost", 1)]).await.unwrap();
    let read = broker.read(&epoch, position, Duration::ZERO).await;
    assert!(matches!(read, Err(BrokerError::Epoch)), "{read:?}");
    assert_eq!(up_to(broker.as_ref(), &head.epoch, head.position, "lost:1").await.len(), 1);
    assert_eq!(all_kept(broker.as_ref(), &head.epoch, Wanted::Records).await, ["lost:1"]);
}

/// A reader that comes after what is gone is told, from the beginning and from the middle.
pub(super) async fn a_cut_log_is_noticed(broker: &dyn Broker, cut_to_the_last_ten: impl AsyncFn()) {
    let (epoch, start) = begin(broker).await;
    let mut positions = Vec::new();
    for sequence in 1..=40 {
        positions.push(broker.publish(&epoch, &[record(Bucket::NEVER, "cut", sequence)]).await.unwrap());
    }
    assert_eq!(up_to(broker, &epoch, start, "cut:40").await.len(), 40);
    cut_to_the_last_ten().await;
    for after in [start, positions[10], positions[20]] {
        let read = broker.read(&epoch, after, Duration::ZERO).await;
        assert!(matches!(read, Err(BrokerError::Trimmed)), "after {after}: {read:?}");
    }
    assert_eq!(up_to(broker, &epoch, positions[34], "cut:40").await.len(), 5);
    assert_eq!(broker.read(&epoch, positions[39], Duration::ZERO).await.unwrap(), []);
    assert_eq!(all_kept(broker, &epoch, Wanted::Records).await.len(), 40, "what is kept is not cut");
}

/// Whatever was acknowledged is read, in order, by a reader that knows nothing of the server's end.
pub(super) async fn nothing_is_lost_with_the_server(
    broker: &Arc<dyn Broker>,
    mut kill: impl AsyncFnMut(),
    mut resume: impl AsyncFnMut(),
) {
    const LAST: u64 = 400;
    let (epoch, start) = begin(broker.as_ref()).await;
    let (tell, mut told) = tokio::sync::watch::channel(0);
    let writer = {
        let (broker, epoch) = (Arc::clone(broker), epoch.clone());
        tokio::spawn(async move {
            for sequence in 1..=LAST {
                until("a record to be taken", async || {
                    match broker.publish(&epoch, &[record(Bucket::NEVER, "kill", sequence)]).await {
                        Ok(_) => Some(()),
                        Err(BrokerError::Unavailable(_)) => None,
                        Err(error) => panic!("{error:?}"),
                    }
                })
                .await;
                tell.send_replace(sequence);
            }
        })
    };
    let reader = {
        let (broker, epoch) = (Arc::clone(broker), epoch.clone());
        tokio::spawn(async move {
            let (mut after, mut found, started) = (start, Vec::new(), Instant::now());
            while found.last() != Some(&Bytes::from(format!("kill:{LAST}"))) {
                assert!(started.elapsed() < 3 * DEADLINE, "waited in vain, after {:?}", found.last());
                match broker.read(&epoch, after, LONG).await {
                    Ok(part) => {
                        for message in part {
                            after = message.position;
                            found.push(message.sealed);
                        }
                    }
                    Err(BrokerError::Unavailable(_)) => sleep(Duration::from_millis(20)).await,
                    Err(error) => panic!("{error:?}"),
                }
            }
            found
        })
    };
    for at in [LAST / 4, LAST / 2] {
        told.wait_for(|done| *done >= at).await.unwrap();
        kill().await;
        let away = broker.publish(&epoch, &[record(Bucket::NEVER, "kill", 0)]).await;
        assert!(matches!(away, Err(BrokerError::Unavailable(_))), "{away:?}");
        resume().await;
    }
    writer.await.unwrap();
    let mut found = reader.await.unwrap();
    found.dedup();
    let wanted: Vec<Bytes> = (1..=LAST).map(|sequence| format!("kill:{sequence}").into()).collect();
    found.retain(|text| text != "kill:0");
    assert_eq!(found, wanted);
    let kept: HashSet<Bytes> = all_kept(broker.as_ref(), &epoch, Wanted::Records).await.into_iter().collect();
    assert!(wanted.iter().all(|text| kept.contains(text)));
}

/// Prints how fast a broker is. Asserts nothing: that is the machine's business.
pub(super) async fn figures(what: &str, broker: &Arc<dyn Broker>) {
    let (epoch, start) = begin(broker.as_ref()).await;
    let reader = {
        let (broker, epoch) = (Arc::clone(broker), epoch.clone());
        tokio::spawn(async move {
            let (mut after, mut seen) = (start, Vec::new());
            while seen.len() < 1000 {
                for message in broker.read(&epoch, after, DEADLINE).await.unwrap() {
                    after = message.position;
                    seen.push(Instant::now());
                }
            }
            seen
        })
    };
    let (mut sent, mut taken) = (Vec::new(), Vec::new());
    for sequence in 0..1000 {
        sent.push(Instant::now());
        broker.publish(&epoch, &[record(Bucket::NEVER, "one", sequence)]).await.unwrap();
        taken.push(sent[sent.len() - 1].elapsed());
    }
    let mut heard: Vec<Duration> = reader.await.unwrap().iter().zip(&sent).map(|(at, sent)| *at - *sent).collect();
    let quantiles = |name: &str, spans: &mut Vec<Duration>| {
        spans.sort_unstable();
        println!("{what}: {name}: p50 {:?}, p99 {:?}, max {:?}", spans[500], spans[990], spans[999]);
    };
    quantiles("one publication after the other", &mut taken);
    quantiles("from there to a reader", &mut heard);
    let count = 100 * MAX_PUBLISH as u64;
    let started = Instant::now();
    let messages: Vec<_> = (0..count).map(|sequence| record(Bucket::NEVER, "many", sequence)).collect();
    for messages in messages.chunks(MAX_PUBLISH) {
        broker.publish(&epoch, messages).await.unwrap();
    }
    let rate = |started: Instant| count as f64 / started.elapsed().as_secs_f64();
    println!("{what}: published in batches of {MAX_PUBLISH}: {:.0}/s", rate(started));
    let started = Instant::now();
    assert!(all_kept(broker.as_ref(), &epoch, Wanted::Records).await.len() as u64 >= count);
    println!("{what}: kept, read: {:.0}/s", rate(started));
    let started = Instant::now();
    up_to(broker.as_ref(), &epoch, start, &format!("many:{}", count - 1)).await;
    println!("{what}: log, read: {:.0}/s", rate(started));
}
