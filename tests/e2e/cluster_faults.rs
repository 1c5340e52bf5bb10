//! What happens to a node of a cluster that does not happen to the broker: its clock, its disk, and what somebody puts there.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::cluster::{Nodes, SOON, revocation, revoke, soon, status};
use crate::cluster_load::records;
use crate::sessions::service;
use crate::stores::SmallDisk;
use crate::support::broker::over_each_broker;
use crate::support::patience::within;
use crate::support::{Broker, Engine, Gateway, Site};

/// A script that runs a gateway whose wall clock is half a minute ahead; `None` where that cannot be had.
fn half_a_minute_ahead() -> Option<String> {
    let folders = fs::read_dir("/usr/lib").unwrap().filter_map(Result::ok);
    let library = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).find(|it| it.exists());
    let Some(library) = library else {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "faketime is not installed");
        eprintln!("not run: faketime is not installed");
        return None;
    };
    let library = library.display();
    Some(format!("LD_PRELOAD={library} FAKETIME=+30 DONT_FAKE_MONOTONIC=1 exec \"$@\""))
}

#[test]
fn a_node_whose_clock_is_ahead_is_not_ready_and_its_sessions_are_cut_all_the_same() {
    let Some(broker) = Broker::start(Engine::Redis) else { return };
    let Some(script) = half_a_minute_ahead() else { return };
    let upstream = service();
    let nodes = Nodes::new(2, &upstream, &broker);
    let right = nodes.sites[0].start();
    let ahead = Gateway::start_by(&nodes.sites[1], &script);
    within(SOON, "it to say so", || {
        let ready = ahead.admin().get("/readyz");
        (ready.status == 503 && ready.text().contains("clock_skew")).then_some(())
    });
    assert_eq!(right.admin().get("/readyz").status, 200);
    let shown = right.admin().get("/v1/status").json();
    let offset = shown["cluster"]["nodes"]["node-1"]["clock_ahead_ms"].as_i64().unwrap();
    assert!((25_000..35_000).contains(&offset), "{shown}");
    for round in 0..5 {
        let form = format!("subject_token={}", nodes.token(&format!("eve-{round}")));
        let fields = [("Content-Type", "application/x-www-form-urlencoded")];
        let opened = ahead.send("POST", "/session/exchange", &fields, form.as_bytes());
        assert_eq!(opened.status, 200, "{}", opened.text());
        let access = opened.json()["access_token"].as_str().unwrap().to_owned();
        assert_eq!(status(&ahead, &access), 200);
        // By the clock that is right, the session will be opened in half a minute.
        let target = json!({"kind": "subject", "issuer": "session", "value": format!("accounts:eve-{round}")});
        let body = json!({"target": target, "reason": "permissions_changed"});
        let cut = right.admin().revoke(&body);
        assert!(cut["form"]["issued_before"].is_string(), "a cutoff, and no block: {cut}");
        soon(&ahead, &access, 401);
    }
}

fn copy(site: &Site, from: &str, to: &str) {
    let copied = Command::new("cp").arg("-a").args([site.file(from), site.file(to)]).status();
    assert!(copied.unwrap().success());
}

fn an_old_copy_of_a_store_is_brought_up_to_date_before_it_serves(engine: Engine) {
    let Some(broker) = Broker::start(engine) else { return };
    let upstream = service();
    let nodes = Nodes::new(2, &upstream, &broker);
    let mut gateways = nodes.start();
    assert_eq!(revoke(&gateways[1], "before").status, 201);
    assert_eq!(gateways.pop().unwrap().stop().0, 0);
    copy(&nodes.sites[1], "data", "yesterday");
    gateways.push(nodes.sites[1].start());
    for (node, subject) in [(1, "own-1"), (0, "other-1"), (1, "own-2"), (0, "other-2")] {
        assert_eq!(revoke(&gateways[node], subject).status, 201);
    }
    gateways.pop().unwrap().kill();
    fs::remove_dir_all(nodes.sites[1].file("data")).unwrap();
    copy(&nodes.sites[1], "yesterday", "data");
    gateways.push(nodes.sites[1].start());
    for subject in ["before", "own-1", "other-1", "own-2", "other-2"] {
        assert_eq!(status(&gateways[1], &nodes.token(subject)), 401, "{subject}: from its first request on");
    }
    // Its next record is the next one, and not another one in the place of one that it has forgotten.
    let after = revoke(&gateways[1], "after");
    assert_eq!(after.status, 201, "{}", after.text());
    soon(&gateways[0], &nodes.token("after"), 401);
    within(SOON, "equal copies", || {
        let (one, other) = (records(&nodes.sites[0]), records(&nodes.sites[1]));
        (one == other && one.len() == 6).then_some(())
    });
}

fn of_two_nodes_with_one_store_the_second_does_not_start(engine: Engine) {
    let Some(broker) = Broker::start(engine) else { return };
    let upstream = service();
    let nodes = Nodes::new(2, &upstream, &broker);
    assert_eq!(nodes.sites[0].start().stop().0, 0);
    let store = nodes.sites[0].file("data");
    let copied = Command::new("cp").arg("-a").args([&store, &nodes.sites[1].file("data")]).status();
    assert!(copied.unwrap().success());
    let first = nodes.sites[0].start();
    let (code, said) = Gateway::refuse(&nodes.sites[1]);
    assert!(code != 0 && said.contains("with the store"), "{code}: {said}");
    let (code, said) = Gateway::refuse(&nodes.sites[0]);
    assert!(code != 0 && said.contains("in use by another process"), "{code}: {said}");
    assert_eq!(revoke(&first, "eve").status, 201, "the first one is not disturbed");
    assert_eq!((status(&first, &nodes.token("eve")), status(&first, &nodes.token("bob"))), (401, 200));
}

fn a_node_whose_disk_is_full_claims_nothing_until_it_is_started_again(engine: Engine) {
    let Some(broker) = Broker::start(engine) else { return };
    let upstream = service();
    let mut nodes = Nodes::new(2, &upstream, &broker);
    let Some(small) = SmallDisk::mount(&nodes.sites[0]) else { return };
    nodes.sites[0].set("/revocation/store/path", json!(small.path));
    let mut gateways = nodes.start();
    small.fill();
    let (bob, mut round) = (nodes.token("bob"), 0);
    let lost = within(SOON, "the disk to be full", || {
        round += 1;
        let subject = format!("lost-{round}");
        let mut body: Value = revocation(&subject);
        body["note"] = json!("x".repeat(500));
        let answer = gateways[0].admin().post("/v1/revocations", &body);
        (answer.status == 503).then_some((subject, answer.reason()))
    });
    assert_eq!(lost.1, "store_not_durable");
    let lost = nodes.token(&lost.0);
    assert_eq!(status(&gateways[0], &lost), 401, "in force where it was said");
    // What others say it cannot keep, and does not overlook: in force, or nothing is known any more.
    assert_eq!(revoke(&gateways[1], "mallory").status, 201);
    let mallory = nodes.token("mallory");
    within(SOON, "what was revoked elsewhere", || (status(&gateways[0], &mallory) != 200).then_some(()));
    assert_eq!(status(&gateways[1], &lost), 200, "what was not claimed was not published");
    soon(&gateways[0], &bob, 503);
    assert_eq!((status(&gateways[0], &lost), status(&gateways[0], &mallory)), (401, 401), "what it knows is refused");
    // Whether a write that failed is on disk nobody can say: a store that has failed takes nothing more until it is read anew.
    small.empty();
    gateways.remove(0).kill();
    gateways.insert(0, nodes.sites[0].start());
    assert_eq!((status(&gateways[0], &mallory), status(&gateways[0], &bob)), (401, 200));
    within(SOON, "a store that takes it", || (revoke(&gateways[0], "eve").status == 201).then_some(()));
    gateways.iter().for_each(|gateway| soon(gateway, &nodes.token("eve"), 401));
}

over_each_broker!(
    an_old_copy_of_a_store_is_brought_up_to_date_before_it_serves,
    of_two_nodes_with_one_store_the_second_does_not_start,
    a_node_whose_disk_is_full_claims_nothing_until_it_is_started_again,
);
