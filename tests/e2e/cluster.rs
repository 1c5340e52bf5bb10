//! Several gateways, one truth: real processes over real brokers.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::sessions::service;
use crate::support::broker::over_each_broker;
use crate::support::gateway::Starting;
use crate::support::issuer::ACCOUNTS;
use crate::support::patience::within;
use crate::support::{Broker, Engine, Gateway, Response, Site, Upstream, bearer, request, until};

const SECRET: &[u8] = b"a secret that all nodes share, and nobody else has";
/// What others do is known within a moment; a machine that is busy takes longer.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The sites of nodes that honour the same tokens and share their signing keys.
pub(crate) struct Nodes {
    pub(crate) sites: Vec<Site>,
}

impl Nodes {
    pub(crate) fn new(count: usize, upstream: &Upstream, broker: &Broker) -> Self {
        Self::with(count, broker, || Site::with_sessions(upstream))
    }

    fn with(count: usize, broker: &Broker, site: impl Fn() -> Site) -> Self {
        let mut sites: Vec<Site> = (0..count).map(|_| site()).collect();
        let (first, others) = sites.split_at_mut(1);
        let keys = first[0].file("keys");
        let made = portcullis(&["keys", "generate", first[0].write_config().to_str().unwrap()]);
        assert!(made.status.success(), "{made:?}");
        for (number, site) in first.iter_mut().chain(others.iter_mut()).enumerate() {
            site.write_secret("secrets/cluster", SECRET);
            site.set(
                "/cluster",
                json!({
                    "node": format!("node-{number}"),
                    "secret": {"file": "secrets/cluster"},
                    "heartbeat": "200ms",
                    "max_staleness": "3s",
                }),
            );
            let (engine, config) = broker.config();
            site.set(&format!("/cluster/{engine}"), config);
            site.set("/session/keys/dir", json!(keys));
            site.set("/session/idle_timeout", json!("5m"));
            site.set("/session/refresh", json!({"idle_timeout": "1h", "reuse_grace": "10s"}));
        }
        let accounts = &first[0].accounts;
        others.iter_mut().for_each(|site| {
            site.trust("accounts", accounts);
        });
        Self { sites }
    }

    pub(crate) fn start(&self) -> Vec<Gateway> {
        self.sites.iter().map(Site::start).collect()
    }

    pub(crate) fn token(&self, subject: &str) -> String {
        self.sites[0].accounts.token_of(subject)
    }
}

fn portcullis(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_portcullis")).args(arguments).output().unwrap()
}

/// Waits until what a node knows is so old.
pub(crate) fn grow_old(age: Duration) {
    let since = Instant::now();
    within(SOON, "what it knows to grow old", || (since.elapsed() > age).then_some(()));
}

fn header_of(token: &str) -> Value {
    let header = token.split('.').next().unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap()
}

pub(crate) fn revocation(subject: &str) -> Value {
    json!({"target": {"kind": "subject", "issuer": ACCOUNTS, "value": subject}, "reason": "account_blocked"})
}

pub(crate) fn revoke(gateway: &Gateway, subject: &str) -> Response {
    gateway.admin().post("/v1/revocations", &revocation(subject))
}

pub(crate) fn status(gateway: &Gateway, token: &str) -> u16 {
    gateway.get_as("/api", token).status
}

pub(crate) fn soon(gateway: &Gateway, token: &str, wanted: u16) {
    within(SOON, "the status", || (status(gateway, token) == wanted).then_some(()));
}

fn what_one_gateway_revokes_every_gateway_refuses(engine: Engine) {
    let Some(broker) = Broker::start(engine) else { return };
    let upstream = service();
    let nodes = Nodes::new(3, &upstream, &broker);
    let gateways = nodes.start();
    let (eve, bob) = (nodes.token("eve"), nodes.token("bob"));
    gateways.iter().for_each(|gateway| assert_eq!(status(gateway, &eve), 200));
    let answer = revoke(&gateways[0], "eve");
    assert_eq!((answer.status, answer.json()["reached"].as_str()), (201, Some("bus")));
    for gateway in &gateways {
        soon(gateway, &eve, 401);
        assert_eq!(status(gateway, &bob), 200);
    }
    let place = answer.header("location").expect("where to ask how far it is").to_owned();
    until("every node to have it", || (gateways[0].admin().get(&place).json()["reached"] == "all").then_some(()));
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    let lifted = gateways[2].admin().delete(&format!("/v1/revocations/{id}?restore=true"));
    assert_eq!(lifted.status, 200, "{}", lifted.text());
    gateways.iter().for_each(|gateway| soon(gateway, &eve, 200));
    let shown = gateways[1].admin().get("/v1/status").json();
    let names: Vec<_> = shown["cluster"]["nodes"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(names, ["node-0", "node-1", "node-2"], "{shown}");
    assert!(gateways[1].admin().metric("portcullis_revocation_propagation_seconds_count", &[]) >= 1.0);
    assert!((gateways[1].admin().metric("portcullis_cluster_nodes", &[("state", "live")]) - 3.0).abs() < 0.5);
}

fn a_gateway_that_was_killed_or_lost_its_copy_serves_only_when_it_knows_everything(engine: Engine) {
    let Some(broker) = Broker::start(engine) else { return };
    let upstream = service();
    let nodes = Nodes::new(2, &upstream, &broker);
    let mut gateways = nodes.start();
    let (eve, mallory, trent) = (nodes.token("eve"), nodes.token("mallory"), nodes.token("trent"));
    assert_eq!(revoke(&gateways[1], "eve").status, 201);
    gateways.pop().unwrap().kill();
    assert_eq!(revoke(&gateways[0], "mallory").status, 201);
    gateways.push(nodes.sites[1].start());
    for token in [&eve, &mallory] {
        assert_eq!(status(&gateways[1], token), 401, "from its first request on");
    }
    gateways.pop().unwrap().kill();
    std::fs::remove_dir_all(nodes.sites[1].file("data")).unwrap();
    assert_eq!(revoke(&gateways[0], "trent").status, 201);
    gateways.push(nodes.sites[1].start());
    for token in [&eve, &mallory, &trent] {
        assert_eq!(status(&gateways[1], token), 401, "from its first request on");
    }
}

fn while_the_broker_is_away_decisions_go_on_and_then_stop_and_it_recovers_by_itself(engine: Engine) {
    let Some(mut broker) = Broker::start(engine) else { return };
    let upstream = service();
    let mut nodes = Nodes::new(2, &upstream, &broker);
    nodes.sites[1].route(json!({
        "name": "lenient", "match": {"path": "/lenient/"}, "upstream": "shop", "auth": "required", "on_stale": "allow",
    }));
    nodes.sites[1].route(json!({
        "name": "careful", "match": {"path": "/careful/"}, "upstream": "shop", "auth": "required",
        "on_stale": "reject_unsafe_methods",
    }));
    let gateways = nodes.start();
    let (eve, bob) = (nodes.token("eve"), nodes.token("bob"));
    broker.halt();
    assert_eq!(status(&gateways[0], &bob), 200);
    within(SOON, "the answer for a broker that is away", || {
        let answer = revoke(&gateways[0], "eve");
        (answer.status == 202 && answer.json()["reached"] == "local").then_some(())
    });
    assert_eq!(status(&gateways[0], &eve), 401, "in force where it was said");
    for gateway in &gateways {
        soon(gateway, &bob, 503);
        let refused = gateway.get_as("/api", &bob);
        assert_eq!(refused.json()["reason"], "revocation_state_stale");
        let explained = gateway.admin().explain(&bob);
        assert_eq!((&explained["admitted"], &explained["reason"]), (&json!(false), &json!("revocation_state_stale")));
        assert!(refused.header("retry-after").is_some() && refused.header("www-authenticate").is_none());
        let ready = gateway.admin().get("/readyz");
        assert_eq!((ready.status, ready.text().contains("revocation_state_stale")), (503, true), "{}", ready.text());
        assert_eq!(gateway.get("/public/x", &[]).status, 200, "who needs no token is served");
    }
    assert_eq!(status(&gateways[0], &eve), 401, "what is known to be revoked is refused for it");
    assert_eq!(gateways[1].get_as("/lenient/x", &bob).status, 200);
    assert_eq!(gateways[1].get_as("/careful/x", &bob).status, 200);
    assert_eq!(gateways[1].post_as("/careful/x", &bob).status, 503);
    assert!(gateways[1].admin().metric("portcullis_cluster_stale_served_total", &[]) >= 2.0);
    broker.resume();
    gateways.iter().for_each(|gateway| soon(gateway, &bob, 200));
    soon(&gateways[1], &eve, 401);
}

fn a_broker_that_forgot_everything_is_given_it_back(engine: Engine) {
    let Some(mut broker) = Broker::start(engine) else { return };
    let upstream = service();
    let nodes = Nodes::new(3, &upstream, &broker);
    let mut gateways = vec![nodes.sites[0].start(), nodes.sites[1].start()];
    let (eve, mallory) = (nodes.token("eve"), nodes.token("mallory"));
    assert_eq!(revoke(&gateways[0], "eve").status, 201);
    soon(&gateways[1], &eve, 401);
    broker.forget_everything();
    within(SOON, "a gateway that notices", || {
        let count = gateways[1].admin().metric("portcullis_cluster_resyncs_total", &[("cause", "epoch")]);
        (count >= 1.0).then_some(())
    });
    within(SOON, "a broker that takes it", || (revoke(&gateways[1], "mallory").status == 201).then_some(()));
    gateways.remove(0).kill();
    let late = nodes.sites[2].start();
    assert_eq!((status(&late, &eve), status(&late, &mallory)), (401, 401));
    assert_eq!((status(&gateways[0], &eve), status(&gateways[0], &mallory)), (401, 401));
}

#[test]
fn a_client_that_writes_to_redis_lifts_nothing() {
    let Some(broker) = Broker::start(Engine::Redis) else { return };
    let upstream = service();
    let nodes = Nodes::new(2, &upstream, &broker);
    let gateways = nodes.start();
    let eve = nodes.token("eve");
    assert_eq!(revoke(&gateways[0], "eve").status, 201);
    soon(&gateways[1], &eve, 401);
    let lift = r#"{\"is\":\"record\",\"says\":{\"kind\":\"lift\"}}"#;
    broker.ask(&format!("XADD {{portcullis}}:log * m \"{lift}\""));
    broker.ask(&format!("HSET {{portcullis}}:r:4294967295 x:1 \"{lift}\""));
    for gateway in &gateways {
        within(SOON, "the alarm", || {
            let dropped = gateway.admin().metric("portcullis_cluster_messages_dropped_total", &[("reason", "forged")]);
            (dropped >= 1.0).then_some(())
        });
        assert_eq!(status(gateway, &eve), 401);
    }
}

fn a_second_node_of_one_name_does_not_start(engine: Engine) {
    let Some(broker) = Broker::start(engine) else { return };
    let upstream = service();
    let mut nodes = Nodes::new(2, &upstream, &broker);
    nodes.sites[1].set("/cluster/node", json!("node-0"));
    let first = nodes.sites[0].start();
    let (code, said) = Gateway::refuse(&nodes.sites[1]);
    assert_ne!(code, 0);
    assert!(said.contains("another node of the cluster has the same name"), "{said}");
    assert_eq!(status(&first, &nodes.token("bob")), 200);
}

fn a_session_lives_and_dies_on_every_gateway(engine: Engine) {
    let Some(broker) = Broker::start(engine) else { return };
    let upstream = service();
    let nodes = Nodes::new(2, &upstream, &broker);
    let gateways = nodes.start();
    let form = format!("subject_token={}", nodes.token("bob"));
    let fields = [("Content-Type", "application/x-www-form-urlencoded")];
    let opened = gateways[0].send("POST", "/session/exchange", &fields, form.as_bytes());
    assert_eq!(opened.status, 200, "{}", opened.text());
    let access = opened.json()["access_token"].as_str().unwrap().to_owned();
    assert_eq!(status(&gateways[1], &access), 200, "one signing key");
    until("the session", || gateways[1].admin().get("/v1/sessions").text().contains("accounts:bob").then_some(()));
    let left = gateways[1].send("POST", "/session/logout", &[("Authorization", &format!("Bearer {access}"))], b"");
    assert_eq!(left.status, 204, "{}", left.text());
    soon(&gateways[0], &access, 401);
    assert_eq!(status(&gateways[1], &access), 401);
}

fn two_gateways_with_one_refresh_token_give_one_successor(engine: Engine) {
    let Some(mut broker) = Broker::start(engine) else { return };
    let upstream = service();
    let nodes = Nodes::new(2, &upstream, &broker);
    let gateways = nodes.start();
    let fields = [("Content-Type", "application/x-www-form-urlencoded")];
    let refresh = |gateway: &Gateway, token: &str| {
        let form = format!("grant_type=refresh_token&refresh_token={token}");
        gateway.send("POST", "/session/refresh", &fields, form.as_bytes())
    };
    let open = |subject: &str| {
        let form = format!("subject_token={}", nodes.token(subject));
        let opened = gateways[0].send("POST", "/session/exchange", &fields, form.as_bytes());
        opened.json()["refresh_token"].as_str().unwrap().to_owned()
    };
    let rounds = std::env::var("PORTCULLIS_REFRESH_ROUNDS").ok().and_then(|it| it.parse().ok()).unwrap_or(25);
    for round in 0..rounds {
        let token = open(&format!("user-{round}"));
        let answers = std::thread::scope(|scope| {
            let asked: Vec<_> = gateways.iter().map(|gateway| scope.spawn(|| refresh(gateway, &token))).collect();
            asked.into_iter().map(|it| it.join().unwrap()).collect::<Vec<_>>()
        });
        let successors: Vec<_> = answers.iter().map(|it| it.json()["refresh_token"].clone()).collect();
        assert!(successors[0].is_string() && successors[0] == successors[1], "round {round}: {answers:?}");
    }
    let token = open("alice");
    let next = refresh(&gateways[1], &token);
    assert_eq!(next.status, 200, "{}", next.text());
    let next = next.json()["refresh_token"].as_str().unwrap().to_owned();
    broker.halt();
    let refused = refresh(&gateways[0], &next);
    assert_eq!(refused.status, 503, "{}", refused.text());
    broker.resume();
    within(SOON, "a refresh", || {
        let answer = refresh(&gateways[0], &next);
        assert!(matches!(answer.status, 200 | 503), "nothing was consumed: {}", answer.text());
        (answer.status == 200).then_some(())
    });
}

fn a_gateway_that_starts_without_its_broker_waits_or_serves_what_it_knew(engine: Engine) {
    let Some(mut broker) = Broker::start(engine) else { return };
    let upstream = service();
    let mut nodes = Nodes::new(1, &upstream, &broker);
    nodes.sites[0].set("/cluster/cold_start", json!("last_known"));
    nodes.sites[0].set("/cluster/cold_start_max_age", json!("1h"));
    let (eve, bob) = (nodes.token("eve"), nodes.token("bob"));
    let gateway = nodes.sites[0].start();
    assert_eq!(revoke(&gateway, "eve").status, 201);
    gateway.stop();
    broker.halt();
    let gateway = nodes.sites[0].start();
    assert_eq!((status(&gateway, &eve), status(&gateway, &bob)), (401, 200));
    gateway.kill();
    nodes.sites[0].set("/cluster/cold_start_max_age", json!("1s"));
    grow_old(Duration::from_millis(1500));
    let waiting = Starting::new(&nodes.sites[0]);
    assert!(waiting.waits(Duration::from_secs(2)), "what it knew is too old to be served");
    assert_eq!(waiting.stop(), 0, "whoever waits can be told not to");
    let waiting = Starting::new(&nodes.sites[0]);
    broker.resume();
    let gateway = waiting.listening();
    assert_eq!((status(&gateway, &eve), status(&gateway, &bob)), (401, 200));
}

fn a_broker_that_falls_silent_is_one_that_is_away(engine: Engine) {
    let Some(broker) = Broker::start(engine) else { return };
    let upstream = service();
    let nodes = Nodes::new(2, &upstream, &broker);
    let gateways = nodes.start();
    let (eve, bob) = (nodes.token("eve"), nodes.token("bob"));
    broker.signal("STOP");
    let answer = revoke(&gateways[0], "eve");
    assert_eq!(answer.status, 202, "nobody waits for it for long: {}", answer.text());
    assert_eq!((status(&gateways[0], &eve), status(&gateways[0], &bob)), (401, 200));
    gateways.iter().for_each(|gateway| soon(gateway, &bob, 503));
    broker.signal("CONT");
    gateways.iter().for_each(|gateway| soon(gateway, &bob, 200));
    gateways.iter().for_each(|gateway| soon(gateway, &eve, 401));
}

fn a_gateway_that_was_asleep_knows_that_it_knows_nothing(engine: Engine) {
    let Some(broker) = Broker::start(engine) else { return };
    let upstream = service();
    let nodes = Nodes::new(2, &upstream, &broker);
    let gateways = nodes.start();
    let (eve, bob) = (nodes.token("eve"), nodes.token("bob"));
    gateways[1].signal("STOP");
    assert_eq!(revoke(&gateways[0], "eve").status, 201);
    // Longer than `max_staleness`: what is asked of it meanwhile waits in its sockets.
    grow_old(Duration::from_secs(4));
    let asked: Vec<_> = (0..8)
        .map(|_| {
            let fields = [("Authorization", bearer(&eve))];
            let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let mut connection = gateways[1].connect();
            connection.send(&request("GET", "/api", &fields, b""));
            connection
        })
        .collect();
    gateways[1].signal("CONT");
    for mut connection in asked {
        let answer = connection.response();
        assert!(matches!(answer.status, 401 | 503), "it was let in after its sleep: {}", answer.status);
    }
    soon(&gateways[1], &bob, 200);
    assert_eq!(status(&gateways[1], &eve), 401);
}

fn a_key_that_one_gateway_rotates_in_signs_when_all_have_it(engine: Engine) {
    let Some(broker) = Broker::start(engine) else { return };
    let upstream = service();
    let mut nodes = Nodes::new(2, &upstream, &broker);
    for site in &mut nodes.sites {
        site.set("/session/keys/publish_before", json!("1s"));
    }
    let gateways = nodes.start();
    let rotated = gateways[0].admin().post("/v1/keys:rotate", &json!({}));
    assert_eq!(rotated.status, 201, "{}", rotated.text());
    let kid = rotated.json()["kid"].as_str().unwrap().to_owned();
    let opened = |gateway: &Gateway| {
        let fields = [("Content-Type", "application/x-www-form-urlencoded")];
        let form = format!("subject_token={}", nodes.token("bob"));
        gateway.send("POST", "/session/exchange", &fields, form.as_bytes()).json()["access_token"].clone()
    };
    let mut refused = 0;
    within(SOON, "the new key everywhere", || {
        let tokens: Vec<_> = gateways.iter().map(|it| opened(it).as_str().unwrap().to_owned()).collect();
        for token in &tokens {
            refused += gateways.iter().filter(|gateway| status(gateway, token) != 200).count();
        }
        tokens.iter().all(|token| header_of(token)["kid"] == kid.as_str()).then_some(())
    });
    assert_eq!(refused, 0, "a token was refused by a node that had not the key yet");
}

over_each_broker!(
    a_broker_that_falls_silent_is_one_that_is_away,
    a_gateway_that_was_asleep_knows_that_it_knows_nothing,
    a_key_that_one_gateway_rotates_in_signs_when_all_have_it,
    what_one_gateway_revokes_every_gateway_refuses,
    a_gateway_that_was_killed_or_lost_its_copy_serves_only_when_it_knows_everything,
    while_the_broker_is_away_decisions_go_on_and_then_stop_and_it_recovers_by_itself,
    a_broker_that_forgot_everything_is_given_it_back,
    a_second_node_of_one_name_does_not_start,
    a_session_lives_and_dies_on_every_gateway,
    two_gateways_with_one_refresh_token_give_one_successor,
    a_gateway_that_starts_without_its_broker_waits_or_serves_what_it_knew,
);
