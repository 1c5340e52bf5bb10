//! The contract, on servers of every kind.

mod server;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redis::Value;
use tokio::time::Instant;

use self::server::Server;
use super::*;
use crate::cluster::{MAX_PUBLISH, Place, contract};

/// What a server is told that keeps what it acknowledged.
const DURABLE: [&str; 2] = ["appendonly yes", "appendfsync always"];

fn options(url: Secret) -> Options {
    Options::new("test", url)
}

async fn broker(options: Options) -> Arc<dyn Broker> {
    Arc::new(RedisBroker::connect(options).await.unwrap())
}

fn secret(text: impl Into<String>) -> Secret {
    Secret::new(text.into().into_bytes())
}

use crate::cluster::contract::free_port;

#[tokio::test]
async fn a_single_server_does_what_is_asked_of_a_broker() {
    let Some(server) = Server::start(&[]) else { return };
    contract::all(&broker(options(server.url())).await).await;
}

#[tokio::test]
async fn a_flushed_server_has_another_epoch() {
    let Some(server) = Server::start(&[]) else { return };
    let broker = broker(options(server.url())).await;
    contract::a_loss_is_noticed(&broker, async || {
        server.run(&["FLUSHALL"]);
    })
    .await;
}

#[tokio::test]
async fn a_log_that_was_dropped_or_put_back_is_noticed() {
    let Some(mut server) = Server::start(&[]) else { return };
    let broker = broker(options(server.url())).await;
    let (epoch, _) = contract::begin(broker.as_ref()).await;
    let publish = async |sequence| {
        contract::until("a publication", async || {
            broker.publish(&epoch, &[contract::record(Bucket::NEVER, "a", sequence)]).await.ok()
        })
        .await
    };
    let first = publish(1).await;
    server.run(&["SAVE"]);
    let second = publish(2).await;
    assert_eq!(broker.read(&epoch, first, Duration::ZERO).await.unwrap().len(), 1);
    // An old copy, and then another history, which is later than what was read of the one before.
    server.kill();
    server.resume();
    let third = publish(3).await;
    assert!(third > second);
    let read = contract::until("an answer", async || match broker.read(&epoch, second, Duration::ZERO).await {
        Err(BrokerError::Unavailable(_)) => None,
        read => Some(read),
    })
    .await;
    assert!(matches!(read, Err(BrokerError::Epoch)), "{read:?}");
    assert_eq!(broker.read(&epoch, first, Duration::ZERO).await.unwrap().len(), 1, "who had not read it goes on");
    // The log alone, while somebody waits: what comes before the read looks again is not lost on it.
    assert_eq!(broker.read(&epoch, third, Duration::ZERO).await.unwrap(), []);
    server.run(&["DEL", "{test}:log"]);
    let read = broker.read(&epoch, third, Duration::from_secs(60)).await;
    assert!(matches!(read, Err(BrokerError::Epoch)), "{read:?}");
}

#[tokio::test]
async fn a_cut_log_is_noticed() {
    let Some(server) = Server::start(&[]) else { return };
    let broker = broker(options(server.url())).await;
    contract::a_cut_log_is_noticed(broker.as_ref(), async || {
        server.run(&["XTRIM", "{test}:log", "MAXLEN", "10"]);
    })
    .await;
}

#[tokio::test]
async fn the_log_has_a_bound() {
    let Some(server) = Server::start(&[]) else { return };
    let broker = broker(Options { log_max: 1000, ..options(server.url()) }).await;
    let (epoch, start) = contract::begin(broker.as_ref()).await;
    let passing = vec![Publication { place: Place::Passing, sealed: Bytes::from_static(b"x") }; MAX_PUBLISH];
    for _ in 0..12 {
        broker.publish(&epoch, &passing).await.unwrap();
    }
    let length = server.run(&["XLEN", "{test}:log"]);
    assert!(matches!(length, Value::Int(1000..=1200)), "{length:?}");
    let read = broker.read(&epoch, start, Duration::ZERO).await;
    assert!(matches!(read, Err(BrokerError::Trimmed)), "{read:?}");
}

#[tokio::test]
async fn nothing_is_lost_when_the_server_is_killed() {
    let Some(server) = Server::start(&DURABLE) else { return };
    let broker = broker(options(server.url())).await;
    let server = std::sync::Mutex::new(server);
    let kill = async || server.lock().unwrap().kill();
    let resume = async || server.lock().unwrap().resume();
    contract::nothing_is_lost_with_the_server(&broker, kill, resume).await;
}

#[tokio::test]
async fn a_server_that_is_away_or_silent_holds_up_nobody_for_long() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free_port();
    let timeout = Duration::from_millis(300);
    for place in [silent.local_addr().unwrap().port(), port] {
        let broker = broker(Options { timeout, ..options(secret(format!("redis://127.0.0.1:{place}"))) }).await;
        let started = Instant::now();
        let (epoch, wait) = (Epoch("any".to_owned()), Duration::from_millis(100));
        assert!(matches!(broker.head().await, Err(BrokerError::Unavailable(_))));
        assert!(matches!(broker.publish(&epoch, &[]).await, Err(BrokerError::Unavailable(_))));
        assert!(matches!(broker.read(&epoch, Position::START, wait).await, Err(BrokerError::Unavailable(_))));
        assert!(started.elapsed() < 10 * (3 * timeout + wait), "{:?}", started.elapsed());
    }
    // One that comes later is found, and of several the one that is there.
    let urls = format!("redis://127.0.0.1:{} redis://127.0.0.1:{port}", silent.local_addr().unwrap().port());
    let broker = broker(options(secret(urls))).await;
    let Some(_server) = Server::start_on(port, &[], |_| Vec::new()) else { return };
    contract::begin(broker.as_ref()).await;
}

#[tokio::test]
async fn a_paused_server_is_given_up_and_found_again() {
    let Some(server) = Server::start(&[]) else { return };
    let broker = broker(Options { timeout: Duration::from_millis(300), ..options(server.url()) }).await;
    let (epoch, start) = contract::begin(broker.as_ref()).await;
    let signal = |name: &str| {
        let pid = std::fs::read_to_string(server.path("pid")).unwrap();
        let status = std::process::Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, pid.trim()]).status();
        assert!(status.unwrap().success());
    };
    signal("STOP");
    assert!(matches!(broker.head().await, Err(BrokerError::Unavailable(_))));
    let read = broker.read(&epoch, start, Duration::from_secs(1)).await;
    assert!(matches!(read, Err(BrokerError::Unavailable(_))), "{read:?}");
    signal("CONT");
    contract::begin(broker.as_ref()).await;
    assert_eq!(broker.read(&epoch, start, Duration::ZERO).await.unwrap(), []);
}

/// The commands of the list in the module's documentation.
fn acl() -> String {
    let source = include_str!("../../redis.rs");
    let lines = source.lines().skip_while(|line| !line.contains("ACL SETUSER")).take(3);
    let words = lines.flat_map(|line| line.trim_start_matches("//!").split_whitespace().map(str::to_owned));
    let words: Vec<String> = words.skip(3).map(|word| word.replace("{name}", "{test}")).collect();
    // `waitaof` is not known before Redis 7.2.
    words.into_iter().filter(|word| word != "+waitaof").collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn a_user_who_may_do_what_the_documentation_lists_is_enough() {
    let acl = acl();
    assert!(acl.contains("~{test}:*") && acl.contains("+wait"), "{acl}");
    let Some(server) = Server::start(&[&format!("user portcullis {acl}"), "databases 2"]) else { return };
    let url = format!("redis://portcullis:password@127.0.0.1:{}/1", server.port);
    let broker = broker(options(secret(url.clone()))).await;
    contract::all(&broker).await;
    let log = server.run(&["ACL", "LOG"]);
    assert!(matches!(&log, Value::Array(denied) if denied.is_empty()), "{log:?}");

    for (url, name, why) in [
        (url.replace(":password", ":passwort"), "test", "the user and the password"),
        (url.replace("portcullis", "nobody"), "test", "the user and the password"),
        (url.replace("/1", "/7"), "test", "DB"),
        (url.clone(), "other", "NOPERM"),
    ] {
        let refused = RedisBroker::connect(Options::new(name, secret(url.clone()))).await;
        let text = match refused {
            Err(BrokerError::Refused(text)) => text,
            other => panic!("{url}: {other:?}"),
        };
        assert!(text.contains(why) && !text.contains("passwor:") && !text.contains("passwort"), "{url}: {text}");
    }
    let broker = RedisBroker::connect(options(secret(url))).await.unwrap();
    assert!(!format!("{broker:?}").contains("password"), "{broker:?}");
    // What may no longer be done is refused, and may be done again later.
    server.run(&["ACL", "SETUSER", "portcullis", "-xadd"]);
    let (epoch, _) = contract::begin(&broker).await;
    let passing = [Publication { place: Place::Passing, sealed: Bytes::from_static(b"x") }];
    let refused = broker.publish(&epoch, &passing).await;
    assert!(matches!(&refused, Err(BrokerError::Refused(text)) if text.contains("can't run")), "{refused:?}");
    server.run(&["ACL", "SETUSER", "portcullis", "+xadd"]);
    broker.publish(&epoch, &passing).await.unwrap();
    server.run(&["SCRIPT", "FLUSH"]);
    broker.publish(&epoch, &passing).await.unwrap();
    server.run(&["CONFIG", "SET", "maxmemory", "1"]);
    let full = broker.publish(&epoch, &passing).await;
    assert!(matches!(&full, Err(BrokerError::Unavailable(why)) if why.to_string().contains("memory")), "{full:?}");
}

#[tokio::test]
async fn a_password_that_is_missing_is_asked_for() {
    let Some(server) = Server::start(&["requirepass secret"]) else { return };
    let refused = RedisBroker::connect(options(server.url())).await.map(|_| ()).unwrap_err();
    assert!(matches!(&refused, BrokerError::Refused(text) if text.contains("password")), "{refused:?}");
    let url = format!("redis://:secret@127.0.0.1:{}", server.port);
    RedisBroker::connect(options(secret(url))).await.unwrap();
}

#[tokio::test]
async fn tls_believes_its_authority_alone_and_shows_a_certificate() {
    let authority = contract::Authority::new();
    let (shown, ours) = (authority.issue("127.0.0.1"), authority.issue("node"));
    let port = free_port();
    let settings = [format!("tls-port {port}"), "port 0".to_owned(), "tls-auth-clients yes".to_owned()];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let Some(_server) = Server::start_on(port, &settings, |folder| {
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        vec![
            format!("tls-cert-file {}", file("cert.pem", &shown.0)),
            format!("tls-key-file {}", file("key.pem", &shown.1)),
            format!("tls-ca-cert-file {}", file("ca.pem", &authority.pem)),
        ]
    }) else {
        return;
    };
    let url = secret(format!("rediss://127.0.0.1:{port}"));
    let tls = Tls { authorities: Some(authority.pem.clone()), client: Some((ours.0.clone(), secret(ours.1.clone()))) };
    let broker = broker(Options { tls: tls.clone(), ..options(url.clone()) }).await;
    contract::begin(broker.as_ref()).await;
    contract::all(&broker).await;

    let stranger = contract::Authority::new();
    let other = stranger.issue("node");
    for (what, tls) in [
        ("the system's authorities", Tls { authorities: None, ..tls.clone() }),
        ("another authority", Tls { authorities: Some(stranger.pem.clone()), ..tls.clone() }),
        ("no certificate", Tls { client: None, ..tls.clone() }),
        ("another's certificate", Tls { client: Some((other.0, secret(other.1))), ..tls.clone() }),
    ] {
        let refused = RedisBroker::connect(Options { tls, ..options(url.clone()) }).await;
        assert!(matches!(&refused, Err(BrokerError::Refused(text)) if text.contains("TLS")), "{what}: {refused:?}");
    }
    // The name must be the one that was asked for.
    let url = secret(format!("rediss://localhost:{port}"));
    let refused = RedisBroker::connect(Options { tls, ..options(url) }).await;
    assert!(matches!(&refused, Err(BrokerError::Refused(text)) if text.contains("TLS")), "{refused:?}");
}

#[tokio::test]
async fn a_socket_will_do() {
    let port = free_port();
    let socket = |folder: &std::path::Path| vec![format!("unixsocket {}/socket", folder.display())];
    let Some(server) = Server::start_on(port, &[], socket) else { return };
    let url = secret(format!("unix://{}", server.path("socket").display()));
    let broker = broker(options(url)).await;
    contract::begin(broker.as_ref()).await;
}

#[tokio::test]
async fn a_message_is_durable_when_as_many_replicas_have_it() {
    let Some(master) = Server::start(&["repl-diskless-sync-delay 0"]) else { return };
    let broker = broker(Options { min_replicas: 1, ..options(master.url()) }).await;
    let (epoch, _) = contract::begin(broker.as_ref()).await;
    let record = [contract::record(Bucket::NEVER, "a", 1)];
    let alone = broker.publish(&epoch, &record).await;
    assert!(matches!(&alone, Err(BrokerError::Unavailable(why)) if why.to_string().contains("0 of 1")), "{alone:?}");
    let replica = Server::start(&[&format!("replicaof 127.0.0.1 {}", master.port)]).unwrap();
    contract::until("the replica", async || {
        replica.info("replication").contains("master_link_status:up").then_some(())
    })
    .await;
    let position = broker.publish(&epoch, &record).await.unwrap();
    assert!(replica.info("keyspace").contains("db0"));
    // A replica takes no writes, so it is not who is looked for; the other one is.
    let replica_first = format!("redis://127.0.0.1:{} redis://127.0.0.1:{}", replica.port, master.port);
    let other = RedisBroker::connect(options(secret(replica_first))).await.unwrap();
    let head = other.head().await.unwrap();
    assert_eq!((head.epoch, head.position), (epoch, position));
    let only = RedisBroker::connect(options(replica.url())).await.unwrap();
    assert!(matches!(only.head().await, Err(BrokerError::Unavailable(_))));
    // `WAITAOF` is younger than this server, or it keeps no such file: that is said.
    let disk = RedisBroker::connect(Options { disk: true, ..options(master.url()) }).await.unwrap();
    let refused = disk.publish(&head_epoch(&disk).await, &record).await;
    assert!(matches!(&refused, Err(BrokerError::Refused(text)) if text.contains("WAITAOF")), "{refused:?}");
}

async fn head_epoch(broker: &dyn Broker) -> Epoch {
    contract::begin(broker).await.0
}

#[tokio::test]
async fn sentinels_name_the_master_and_the_next_one() {
    let Some(mut master) = Server::start(&["repl-diskless-sync-delay 0", "requirepass secret", "masterauth secret"])
    else {
        return;
    };
    let line = format!("replicaof 127.0.0.1 {}", master.port);
    let replica =
        Server::start(&[&line, "repl-diskless-sync-delay 0", "requirepass secret", "masterauth secret"]).unwrap();
    let monitor = format!("sentinel monitor main 127.0.0.1 {} 1", master.port);
    let sentinel = Server::start(&[
        &monitor,
        "sentinel auth-pass main secret",
        "sentinel down-after-milliseconds main 300",
        "sentinel failover-timeout main 2000",
        "requirepass watcher",
    ])
    .unwrap();
    let url = format!("redis://:secret@127.0.0.1:{} redis://:secret@127.0.0.1:{}", free_port(), sentinel.port);
    let named = |master: &str| Options {
        sentinel: Some(Sentinel { master: master.to_owned(), username: None, password: Some(secret("watcher")) }),
        min_replicas: 1,
        ..options(secret(url.clone()))
    };
    let unknown = RedisBroker::connect(named("other")).await;
    assert!(matches!(&unknown, Err(BrokerError::Refused(text)) if text.contains("`other`")), "{unknown:?}");
    let broker = broker(named("main")).await;
    let (epoch, start) = contract::begin(broker.as_ref()).await;
    let publish = async |sequence| {
        let record = [contract::record(Bucket::NEVER, "a", sequence)];
        contract::until("a replica to have it", async || broker.publish(&epoch, &record).await.ok()).await
    };
    publish(1).await;
    let client = redis::Client::open(format!("redis://:watcher@127.0.0.1:{}", sentinel.port)).unwrap();
    contract::until("the Sentinel to know the replica", async || {
        let answer: redis::RedisResult<Value> =
            redis::cmd("SENTINEL").arg("REPLICAS").arg("main").query(&mut client.get_connection().unwrap());
        format!("{answer:?}").contains(&replica.port.to_string()).then_some(())
    })
    .await;
    master.kill();
    // The next master has no replica: that nobody else has it is said, and it is there.
    contract::until("the next master", async || {
        broker.read(&epoch, start, Duration::ZERO).await.ok().filter(|found| !found.is_empty())
    })
    .await;
    let record = [contract::record(Bucket::NEVER, "a", 2)];
    contract::until("the next master to have it alone", async || match broker.publish(&epoch, &record).await {
        Err(BrokerError::Unavailable(why)) => why.to_string().contains("0 of 1").then_some(()),
        other => panic!("{other:?}"),
    })
    .await;
    let found = broker.read(&epoch, start, Duration::ZERO).await.unwrap();
    assert_eq!(found.last().unwrap().sealed, "a:2");
}

#[tokio::test]
async fn any_node_of_a_cluster_leads_to_the_one_that_has_the_keys() {
    let settings = ["cluster-enabled yes", "cluster-node-timeout 1000", "cluster-require-full-coverage no"];
    let Some(first) = Server::start(&settings) else { return };
    let nodes = [first, Server::start(&settings).unwrap(), Server::start(&settings).unwrap()];
    for (node, (from, to)) in nodes.iter().zip([("0", "5460"), ("5461", "10922"), ("10923", "16383")]) {
        node.run(&["CLUSTER", "ADDSLOTSRANGE", from, to]);
        node.run(&["CLUSTER", "MEET", "127.0.0.1", &nodes[0].port.to_string()]);
    }
    contract::until("the cluster", async || {
        let good = |node: &Server| match node.run(&["CLUSTER", "INFO"]) {
            Value::BulkString(text) => {
                let text = String::from_utf8(text).unwrap();
                text.contains("cluster_state:ok") && text.contains("cluster_slots_ok:16384")
            }
            _ => false,
        };
        nodes.iter().all(good).then_some(())
    })
    .await;
    let mut epochs = Vec::new();
    for node in &nodes {
        let broker = broker(options(node.url())).await;
        epochs.push(contract::begin(broker.as_ref()).await.0);
    }
    assert_eq!(epochs[0], epochs[1]);
    assert_eq!(epochs[0], epochs[2]);
    let broker = broker(options(nodes[2].url())).await;
    contract::all(&broker).await;
    let with_keys = |node: &&Server| node.run(&["DBSIZE"]) != Value::Int(0);
    assert_eq!(nodes.iter().filter(with_keys).count(), 1, "all keys are in one slot");
}

#[test]
fn urls_are_checked_and_never_repeated() {
    for good in [
        "redis://h",
        "rediss://u:p%20w@h:7000/3",
        "unix:///run/redis.sock",
        "valkey://h",
        "redis://[::1]:6379",
        "redis://a redis://b\nredis://c\n",
    ] {
        assert_eq!(RedisBroker::check_url(good), Ok(()), "{good}");
    }
    for bad in ["", " ", "h:6379", "http://h", "redis://", "rediss://h/#insecure", "redis://h/x", "redis://a,b://c"] {
        let error = RedisBroker::check_url(bad).unwrap_err();
        assert!(!error.to_string().contains("insecure"), "{bad}");
    }
    for (url, exposed) in [
        ("redis://127.0.0.1", false),
        ("redis://localhost", false),
        ("redis://[::1]", false),
        ("unix:///s", false),
        ("rediss://far", false),
        ("redis://far", true),
        ("rediss://far redis://10.0.0.1", true),
    ] {
        assert_eq!(RedisBroker::is_exposed(url), exposed, "{url}");
    }
}

#[tokio::test]
#[ignore = "prints figures"]
async fn figures() {
    for (what, settings) in [("Redis", [].as_slice()), ("Redis, appendfsync always", &DURABLE)] {
        let Some(server) = Server::start(settings) else { return };
        contract::figures(what, &broker(options(server.url())).await).await;
    }
}
