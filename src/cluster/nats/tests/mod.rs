//! The contract, on the current server and on that of Debian 12.

mod server;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Context;
use tokio::time::Instant;

use self::server::{Kind, Server};
use super::*;
use crate::cluster::{Bucket, Place, contract};

const BOTH: [Kind; 2] = [Kind::Current, Kind::Debian];

fn options(server: impl Into<String>) -> Options {
    Options::new("test", server)
}

async fn broker(options: Options) -> Arc<dyn Broker> {
    Arc::new(NatsBroker::connect(options).await.unwrap())
}

fn secret(text: impl Into<String>) -> Secret {
    Secret::new(text.into().into_bytes())
}

/// The stream is gone, and with it all that is kept.
async fn delete(server: &Server) {
    let client = async_nats::connect(server.url()).await.unwrap();
    jetstream(&client).delete_stream("test").await.unwrap();
}

fn jetstream(client: &async_nats::Client) -> Context {
    async_nats::jetstream::new(client.clone())
}

async fn does_what_is_asked(kind: Kind) {
    let Some(server) = Server::start(kind, "") else { return };
    contract::all(&broker(options(server.url())).await).await;
}

#[tokio::test]
async fn the_current_server_does_what_is_asked_of_a_broker() {
    does_what_is_asked(Kind::Current).await;
}

#[tokio::test]
async fn the_server_of_debian_12_does_what_is_asked_of_a_broker() {
    does_what_is_asked(Kind::Debian).await;
}

#[tokio::test]
async fn a_deleted_stream_has_another_epoch() {
    for kind in BOTH {
        let Some(server) = Server::start(kind, "") else { continue };
        let broker = broker(options(server.url())).await;
        contract::a_loss_is_noticed(&broker, async || delete(&server).await).await;
    }
}

#[tokio::test]
async fn a_server_that_lost_its_disk_has_another_epoch() {
    for kind in BOTH {
        let Some(server) = Server::start(kind, "") else { continue };
        let broker = broker(options(server.url())).await;
        let server = std::sync::Mutex::new(server);
        contract::a_loss_is_noticed(&broker, async || {
            let mut server = server.lock().unwrap();
            server.kill();
            std::fs::remove_dir_all(server.data()).unwrap();
            server.resume();
        })
        .await;
    }
}

#[tokio::test]
async fn a_stream_that_was_put_back_is_noticed_by_who_has_read_further() {
    for kind in BOTH {
        let Some(mut server) = Server::start(kind, "") else { continue };
        let broker = broker(options(server.url())).await;
        let (epoch, _) = contract::begin(broker.as_ref()).await;
        let record = |sequence| [contract::record(Bucket::NEVER, "a", sequence)];
        let first = broker.publish(&epoch, &record(1)).await.unwrap();
        let copy = tempfile::TempDir::new().unwrap();
        server.kill();
        let run = |program: &str, words: &[&std::path::Path]| {
            assert!(std::process::Command::new(program).arg("-r").args(words).status().unwrap().success());
        };
        run("cp", &[&server.data(), &copy.path().join("data")]);
        server.resume();
        let second = contract::until("a publication", async || broker.publish(&epoch, &record(2)).await.ok()).await;
        server.kill();
        run("rm", &[&server.data()]);
        run("cp", &[&copy.path().join("data"), &server.data()]);
        server.resume();
        assert_eq!(contract::begin(broker.as_ref()).await, (epoch.clone(), first));
        let read = broker.read(&epoch, second, Duration::from_secs(60)).await;
        assert!(matches!(read, Err(BrokerError::Epoch)), "{kind:?}: {read:?}");
    }
}

async fn nothing_is_lost(kind: Kind) {
    let Some(server) = Server::start(kind, "") else { return };
    let broker = broker(options(server.url())).await;
    let server = std::sync::Mutex::new(server);
    let kill = async || server.lock().unwrap().kill();
    let resume = async || server.lock().unwrap().resume();
    contract::nothing_is_lost_with_the_server(&broker, kill, resume).await;
}

#[tokio::test]
async fn nothing_is_lost_when_the_current_server_is_killed() {
    nothing_is_lost(Kind::Current).await;
}

#[tokio::test]
async fn nothing_is_lost_when_the_server_of_debian_12_is_killed() {
    nothing_is_lost(Kind::Debian).await;
}

#[tokio::test]
async fn a_server_that_is_away_or_silent_holds_up_nobody_for_long() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let away = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let timeout = Duration::from_millis(300);
    for port in [silent.local_addr().unwrap().port(), away] {
        let broker = broker(Options { timeout, ..options(format!("nats://127.0.0.1:{port}")) }).await;
        let started = Instant::now();
        let (epoch, wait) = (Epoch("any".to_owned()), Duration::from_millis(100));
        assert!(matches!(broker.head().await, Err(BrokerError::Unavailable(_))));
        assert!(matches!(broker.publish(&epoch, &[]).await, Err(BrokerError::Unavailable(_))));
        assert!(matches!(broker.read(&epoch, Position::START, wait).await, Err(BrokerError::Unavailable(_))));
        assert!(started.elapsed() < 10 * (3 * timeout + wait), "{:?}", started.elapsed());
    }
    // Of several, the one that is there.
    let Some(server) = Server::start(Kind::Current, "") else { return };
    let servers = vec![format!("nats://127.0.0.1:{away}"), server.url()];
    let broker = broker(Options { servers, ..options(String::new()) }).await;
    contract::begin(broker.as_ref()).await;
}

#[tokio::test]
async fn a_paused_server_is_noticed_by_its_silence_and_found_again() {
    for kind in BOTH {
        let Some(server) = Server::start(kind, "") else { continue };
        let broker = broker(Options { timeout: Duration::from_millis(500), ..options(server.url()) }).await;
        let (epoch, start) = contract::begin(broker.as_ref()).await;
        assert_eq!(broker.read(&epoch, start, Duration::ZERO).await.unwrap(), []);
        server.signal("STOP");
        assert!(matches!(broker.head().await, Err(BrokerError::Unavailable(_))));
        let started = Instant::now();
        let read = broker.read(&epoch, start, Duration::from_secs(120)).await;
        assert!(matches!(read, Err(BrokerError::Unavailable(_))), "{read:?}");
        assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
        server.signal("CONT");
        contract::begin(broker.as_ref()).await;
        let last = [contract::record(Bucket::NEVER, "a", 1)];
        contract::until("a publication", async || broker.publish(&epoch, &last).await.ok()).await;
        let found = contract::until("a read", async || broker.read(&epoch, start, Duration::from_secs(5)).await.ok());
        assert_eq!(found.await[0].sealed, "a:1");
    }
}

#[tokio::test]
async fn what_was_said_in_passing_has_a_bound() {
    let Some(server) = Server::start(Kind::Current, "") else { return };
    let broker = broker(options(server.url())).await;
    let (epoch, start) = contract::begin(broker.as_ref()).await;
    let passing = vec![Publication { place: Place::Passing, sealed: Bytes::from_static(b"x") }; 256];
    for _ in 0..20 {
        broker.publish(&epoch, &passing).await.unwrap();
    }
    let client = async_nats::connect(server.url()).await.unwrap();
    let messages = async || jetstream(&client).get_stream("test").await.unwrap().cached_info().state.messages;
    assert_eq!(messages().await, 4096);
    let mut read = 0;
    let mut after = start;
    while read < 4096 {
        let part = broker.read(&epoch, after, contract::DEADLINE).await.unwrap();
        after = part.last().unwrap().position;
        read += part.len();
    }
    // And it goes, some at a time.
    let later = broker.head().await.unwrap().now.plus(Duration::from_secs(60));
    contract::until("nothing to be left", async || {
        broker.forget(&epoch, later).await.unwrap();
        (messages().await == 0).then_some(())
    })
    .await;
}

/// The permissions of the list in the module's documentation.
fn permissions() -> String {
    let source = include_str!("../../nats.rs");
    let lines = source.lines().skip_while(|line| !line.contains("publish:   ")).take(5);
    let words: Vec<String> =
        lines.flat_map(|line| line.trim_start_matches("//!").split_whitespace()).map(str::to_owned).collect();
    let (publish, subscribe) = words.split_at(words.iter().position(|word| word == "subscribe:").unwrap());
    let list = |words: &[String]| {
        let words = words[1..].iter().map(|word| format!("\"{}\"", word.replace("<name>", "test")));
        words.collect::<Vec<_>>().join(", ")
    };
    format!("{{ publish: {{ allow: [{}] }}, subscribe: {{ allow: [{}] }} }}", list(publish), list(subscribe))
}

#[tokio::test]
async fn a_user_who_may_do_what_the_documentation_lists_is_enough() {
    for kind in BOTH {
        let users = format!(
            "authorization {{ users: [
               {{ user: portcullis, password: \"pass word\", permissions: {} }},
               {{ user: nobody, password: nothing, permissions: {{ publish: {{ deny: \">\" }} }} }}
             ] }}",
            permissions()
        );
        let Some(server) = Server::start(kind, &users) else { continue };
        let user = |user: &str, password: &str| Options {
            login: Login::User { user: user.to_owned(), password: secret(password) },
            ..options(server.url())
        };
        contract::all(&broker(user("portcullis", "pass word")).await).await;
        for (options, why) in [
            (user("portcullis", "passwort"), "the password"),
            (user("somebody", "pass word"), "the password"),
            (options(server.url()), "the password"),
            (user("nobody", "nothing"), "ermissions"),
            (Options { name: "other".to_owned(), ..user("portcullis", "pass word") }, "ermissions"),
        ] {
            let refused = NatsBroker::connect(options.clone()).await;
            let refused = refused.map(|_| ()).unwrap_err();
            let BrokerError::Refused(text) = &refused else { panic!("{kind:?}, {options:?}: {refused:?}") };
            assert!(text.contains(why) && !text.contains("passwort"), "{kind:?}, {options:?}: {text}");
        }
        let shown =
            format!("{:?} {:?}", user("portcullis", "pass word"), broker(user("portcullis", "pass word")).await);
        assert!(!shown.contains("pass word"), "{shown}");
    }
}

#[tokio::test]
async fn tokens_and_keys_will_do() {
    // A key pair of nobody's.
    let (seed, public) = (
        "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY",
        "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4",
    );
    for kind in BOTH {
        let nkey = format!("authorization {{ users: [ {{ nkey: {public} }} ] }}");
        for (settings, login, wrong) in [
            ("authorization { token: \"a token\" }", Login::Token(secret("a token")), Login::Token(secret("another"))),
            (&nkey, Login::NKey(secret(format!("{seed}\n"))), Login::None),
        ] {
            let Some(server) = Server::start(kind, settings) else { continue };
            let good = broker(Options { login, ..options(server.url()) }).await;
            contract::begin(good.as_ref()).await;
            let refused = NatsBroker::connect(Options { login: wrong, ..options(server.url()) }).await;
            assert!(matches!(refused, Err(BrokerError::Refused(_))), "{kind:?}: {refused:?}");
        }
    }
    let unreadable =
        Options { login: Login::Credentials(secret("nothing of the kind")), ..options("nats://127.0.0.1:1") };
    let refused = NatsBroker::connect(unreadable).await;
    assert!(matches!(refused, Err(BrokerError::Refused(_))), "{refused:?}");
}

#[tokio::test]
async fn tls_believes_its_authority_alone_and_shows_a_certificate() {
    let authority = contract::Authority::new();
    let (shown, ours) = (authority.issue("127.0.0.1"), authority.issue("node"));
    for kind in BOTH {
        let server = Server::start_with(kind, |folder| {
            let file = |name: &str, text: &str| {
                let path = folder.join(name);
                std::fs::write(&path, text).unwrap();
                path.display().to_string()
            };
            format!(
                "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: true }}",
                file("cert.pem", &shown.0),
                file("key.pem", &shown.1),
                file("ca.pem", &authority.pem)
            )
        });
        let Some(server) = server else { continue };
        let tls =
            Tls { authorities: Some(authority.pem.clone()), client: Some((ours.0.clone(), secret(ours.1.clone()))) };
        let good = broker(Options { tls: tls.clone(), ..options(server.url()) }).await;
        contract::begin(good.as_ref()).await;
        let stranger = contract::Authority::new();
        let other = stranger.issue("node");
        for (what, url, tls) in [
            ("the system's authorities", server.url(), Tls { authorities: None, ..tls.clone() }),
            ("another authority", server.url(), Tls { authorities: Some(stranger.pem.clone()), ..tls.clone() }),
            ("no certificate", server.url(), Tls { client: None, ..tls.clone() }),
            ("another's certificate", server.url(), Tls { client: Some((other.0, secret(other.1))), ..tls.clone() }),
            ("another name", format!("tls://localhost:{}", server.port), tls.clone()),
        ] {
            let refused = NatsBroker::connect(Options { tls, ..options(url) }).await;
            assert!(
                matches!(&refused, Err(BrokerError::Refused(text)) if text.contains("TLS")),
                "{kind:?}, {what}: {refused:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_stream_that_is_somebody_elses_or_forgets_is_refused() {
    let Some(server) = Server::start(Kind::Current, "") else { return };
    let client = async_nats::connect(server.url()).await.unwrap();
    let good = async_nats::jetstream::stream::Config {
        name: "test".to_owned(),
        subjects: vec!["test.life.>".to_owned()],
        max_messages_per_subject: 1,
        ..Default::default()
    };
    for (why, config) in [
        ("subjects", async_nats::jetstream::stream::Config { subjects: vec!["orders.>".to_owned()], ..good.clone() }),
        ("max_age", async_nats::jetstream::stream::Config { max_age: Duration::from_secs(600), ..good.clone() }),
        ("discard", async_nats::jetstream::stream::Config { max_messages: 10, ..good.clone() }),
        ("max_msgs_per_subject", async_nats::jetstream::stream::Config { max_messages_per_subject: 2, ..good.clone() }),
    ] {
        jetstream(&client).create_stream(config).await.unwrap();
        let refused = NatsBroker::connect(options(server.url())).await;
        assert!(matches!(&refused, Err(BrokerError::Refused(text)) if text.contains(why)), "{why}: {refused:?}");
        delete(&server).await;
    }
    jetstream(&client).create_stream(good).await.unwrap();
    let broker = broker(options(server.url())).await;
    assert_eq!(contract::begin(broker.as_ref()).await.0, Epoch("life".to_owned()));
    let replicas =
        NatsBroker::connect(Options { name: "three".to_owned(), replicas: 3, ..options(server.url()) }).await;
    assert!(matches!(&replicas, Err(BrokerError::Refused(text)) if text.contains("replicas")), "{replicas:?}");
}

#[tokio::test]
async fn nodes_that_begin_at_once_begin_the_same_epoch() {
    for kind in BOTH {
        let Some(server) = Server::start(kind, "") else { continue };
        let all = (0..8).map(|_| async { contract::begin(broker(options(server.url())).await.as_ref()).await.0 });
        let epochs = futures_util::future::join_all(all).await;
        assert!(epochs.iter().all(|epoch| *epoch == epochs[0]), "{epochs:?}");
    }
}

#[test]
fn servers_are_checked() {
    for good in ["nats://h", "tls://h:4222", "nats://[::1]:4222", "nats://127.0.0.1:4222/"] {
        assert_eq!(NatsBroker::check_server(good), Ok(()), "{good}");
    }
    for bad in ["", "h:4222", "http://h", "nats://", "nats://user:word@h", "nats://token@h", "nats://h/x", "ws://h"] {
        assert_eq!(NatsBroker::check_server(bad), Err(InvalidServer), "{bad}");
    }
    for (server, exposed) in
        [("nats://localhost", false), ("nats://127.0.0.1", false), ("tls://far", false), ("nats://far", true)]
    {
        assert_eq!(NatsBroker::is_exposed(server), exposed, "{server}");
    }
}

#[tokio::test]
#[ignore = "prints figures"]
async fn figures() {
    for (what, kind) in [("NATS 2.9", Kind::Debian), ("NATS, sync_interval always", Kind::Current)] {
        let Some(server) = Server::start(kind, "") else { return };
        contract::figures(what, &broker(options(server.url())).await).await;
    }
}
