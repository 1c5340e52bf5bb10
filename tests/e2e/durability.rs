//! What was acknowledged survives: `kill -9` at any moment, a clean restart, and no damaged store is ever read as
//! "nothing is revoked".

use std::fs;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::sessions::exchange;
use crate::support::{Admin, Connection, Gateway, Site, Upstream, bearer, request, site};

/// Revokes one token after another until the gateway is gone; the acknowledged ones.
fn revoke_until_killed(address: std::net::SocketAddr, prefix: &str, acknowledged: &Mutex<Vec<String>>) {
    for number in 0.. {
        let jti = format!("{prefix}-{number}");
        let target = json!({"kind": "token", "issuer": "accounts", "value": jti});
        let body = json!({"target": target, "reason": "logout"}).to_string();
        let fields = [("Authorization", bearer(site::OPS)), ("Content-Type", "application/json".to_owned())];
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let Ok(mut connection) = Connection::try_open(address) else { return };
        match connection.send(&request("POST", "/v1/revocations", &fields, body.as_bytes())).try_response() {
            Ok(response) => {
                assert_eq!(response.status, 201, "{}", response.text());
                acknowledged.lock().unwrap().push(jti);
            }
            Err(_) => return,
        }
    }
}

#[test]
fn every_acknowledged_revocation_survives_kill_9() {
    let rounds: usize = std::env::var("PORTCULLIS_KILL_ROUNDS").map_or(20, |rounds| rounds.parse().unwrap());
    let upstream = Upstream::start();
    let site = Site::with_sessions(&upstream);
    let acknowledged = Mutex::new(Vec::new());
    let mut checked = 0;
    for round in 0..rounds {
        let gateway = site.start();
        let address = gateway.admin_address;
        let before = acknowledged.lock().unwrap().len();
        thread::scope(|scope| {
            for writer in 0..8 {
                let acknowledged = &acknowledged;
                scope.spawn(move || revoke_until_killed(address, &format!("{round}-{writer}"), acknowledged));
            }
            // At a moment that differs from round to round: after so many acknowledgements, in the middle of the next.
            let wanted = before + 5 + round * 7 % 60;
            crate::support::until("acknowledged revocations", || {
                (acknowledged.lock().unwrap().len() >= wanted).then_some(())
            });
            thread::park_timeout(Duration::from_micros((round as u64 * 377) % 3000));
            gateway.kill();
        });
        let gateway = site.start();
        let acknowledged = acknowledged.lock().unwrap();
        // All of this round, and a sample of those before.
        let sample = acknowledged.iter().skip(before).chain(acknowledged[..before].iter().step_by(before / 20 + 1));
        let mut connection = gateway.connect();
        for jti in sample {
            let token = bearer(&site.accounts.token(json!({"jti": jti})));
            let response = connection.send(&request("GET", "/orders", &[("Authorization", &token)], b"")).response();
            assert_eq!((response.status, response.reason().as_str()), (401, "revoked_token"), "round {round}: {jti}");
            checked += 1;
        }
        assert_eq!(gateway.get_as("/orders", &site.accounts.token_of("bob")).status, 200, "round {round}");
        let kept = gateway.admin().metric("portcullis_revocations", &[("kind", "token")]);
        assert!(kept >= acknowledged.len() as f64, "round {round}: {kept} of {}", acknowledged.len());
        gateway.kill();
    }
    assert!(checked >= rounds * 5, "{checked} looked at in {rounds} rounds");
    assert_eq!(upstream.take().iter().filter(|recorded| recorded.target == "/orders").count(), rounds);
}

#[test]
fn a_restart_keeps_revocations_lifts_and_sessions() {
    let upstream = Upstream::start();
    let site = Site::with_sessions(&upstream);
    let token = |jti: &str| site.accounts.token(json!({"jti": jti}));
    let (dead, lifted) = (token("dead"), token("lifted"));
    let (kept, ended);
    {
        let gateway = site.start();
        kept = exchange(&gateway, &site.accounts.token_of("alice"));
        ended = exchange(&gateway, &site.accounts.token_of("bob"));
        gateway.admin().revoke_of_accounts("token", "dead", "admin");
        let id = gateway.admin().revoke_of_accounts("token", "lifted", "admin")["id"].as_str().unwrap().to_owned();
        assert_eq!(gateway.admin().delete(&format!("/v1/revocations/{id}?restore=true")).status, 200);
        gateway.admin().revoke_of_accounts("subject", "bob", "account_blocked");
        assert_eq!(gateway.stop().0, 0);
    }
    for _ in 0..2 {
        let gateway = site.start();
        for (name, token, status) in
            [("dead", &dead, 401), ("lifted", &lifted, 401), ("kept", &kept, 200), ("ended", &ended, 401)]
        {
            // `dead` and `lifted` are bob's, who is blocked; their reasons tell them apart.
            let response = gateway.get_as("/orders", token);
            assert_eq!(response.status, status, "{name}");
        }
        assert_eq!(gateway.get_as("/orders", &dead).reason(), "revoked_token");
        assert_eq!(gateway.get_as("/orders", &lifted).reason(), "revoked_subject");
        assert_eq!(gateway.get_as("/orders", &ended).reason(), "revoked_subject");
        assert_eq!(gateway.get("/.well-known/jwks.json", &[]).json()["keys"].as_array().map(Vec::len), Some(1));
        gateway.kill();
    }
}

/// A site with a store that holds one revocation, its gateway stopped.
fn used_site(upstream: &Upstream) -> Site {
    let site = Site::with_sessions(upstream);
    let gateway = site.start();
    gateway.admin().revoke_of_accounts("token", "dead", "admin");
    assert_eq!(gateway.stop().0, 0);
    site
}

fn database(site: &Site) -> std::path::PathBuf {
    let files = fs::read_dir(site.file("data")).unwrap().map(|entry| entry.unwrap().path());
    files.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

#[test]
fn a_damaged_or_emptied_store_refuses_to_start_and_names_the_way_out() {
    let upstream = Upstream::start();
    type Damage = fn(&Site);
    let damages: [(&str, Damage); 7] = [
        ("truncated to nothing", |site| fs::write(database(site), b"").unwrap()),
        ("half of it", |site| {
            let bytes = fs::read(database(site)).unwrap();
            fs::write(database(site), &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("a foreign file", |site| fs::write(database(site), b"hello, I am no database at all").unwrap()),
        ("a changed row", |site| {
            let mut bytes = fs::read(database(site)).unwrap();
            let places: Vec<usize> = (0..bytes.len() - 4).filter(|at| &bytes[*at..at + 4] == b"dead").collect();
            assert!(!places.is_empty());
            for place in places {
                bytes[place..place + 4].copy_from_slice(b"live");
            }
            fs::write(database(site), bytes).unwrap();
        }),
        ("the database removed", |site| fs::remove_file(database(site)).unwrap()),
        ("the folder emptied", |site| {
            fs::remove_dir_all(site.file("data")).unwrap();
            fs::create_dir(site.file("data")).unwrap();
        }),
        ("the folder removed", |site| fs::remove_dir_all(site.file("data")).unwrap()),
    ];
    for (name, damage) in damages {
        let site = used_site(&upstream);
        damage(&site);
        let (code, said) = Gateway::refuse(&site);
        assert_ne!(code, 0, "{name}");
        assert!(said.contains("--accept-loss"), "{name} names no way out:\n{said}");
        assert!(said.contains("data"), "{name} names no place:\n{said}");
    }
    assert_eq!(upstream.bytes(), 0);
}

#[test]
fn a_store_of_another_gateway_refuses_to_start() {
    let upstream = Upstream::start();
    let (site, other) = (used_site(&upstream), used_site(&upstream));
    fs::remove_dir_all(site.file("data")).unwrap();
    fs::rename(other.file("data"), site.file("data")).unwrap();
    let (code, said) = Gateway::refuse(&site);
    assert_ne!(code, 0);
    assert!(said.contains("--accept-loss"), "{said}");
}

#[test]
fn lost_keys_refuse_to_start() {
    let upstream = Upstream::start();
    let site = used_site(&upstream);
    fs::remove_dir_all(site.file("keys")).unwrap();
    let (code, said) = Gateway::refuse(&site);
    assert_ne!(code, 0);
    assert!(said.contains("keys") && said.contains("--accept-loss"), "{said}");
}

#[test]
fn two_gateways_do_not_share_a_store() {
    let upstream = Upstream::start();
    let site = used_site(&upstream);
    let first = site.start();
    let (code, said) = Gateway::refuse(&site);
    assert_ne!(code, 0, "{said}");
    assert_eq!(first.get_as("/orders", &site.accounts.token(json!({"jti": "dead"}))).reason(), "revoked_token");
}

#[test]
fn without_a_store_it_says_that_it_forgets() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    site.set("/revocation/store", json!({"memory": true}));
    let token = site.accounts.token(json!({"jti": "dead"}));
    let gateway = site.start();
    let answer = gateway.admin().revoke_of_accounts("token", "dead", "admin");
    assert_eq!(answer["durable"], false, "{answer}");
    assert_eq!(gateway.get_as("/orders", &token).status, 401);
    let (code, said, _) = gateway.stop();
    assert_eq!(code, 0);
    assert!(said.to_ascii_lowercase().contains("memory"), "{said}");
}

/// A disk that is full: nothing is claimed, serving goes on, and what was sent is in force until the restart.
#[test]
fn a_store_that_cannot_write_acknowledges_nothing() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    let Some(small) = SmallDisk::mount(&site) else { return };
    site.set("/revocation/store/path", json!(small.path));
    let gateway = site.start();
    small.fill();
    let token = site.accounts.token(json!({"jti": "on-a-full-disk"}));
    let target = json!({"kind": "token", "issuer": "accounts", "value": "on-a-full-disk"});
    let body = json!({"target": target, "reason": "admin", "note": "x".repeat(500)});
    let admin: Admin = gateway.admin();
    let refused = crate::support::until("the disk to be full", || {
        let response = admin.post("/v1/revocations", &body);
        (response.status != 201).then_some(response)
    });
    assert_eq!((refused.status, refused.reason().as_str()), (503, "store_not_durable"), "{}", refused.text());
    assert_eq!(gateway.get_as("/orders", &token).status, 401, "in force here");
    assert_eq!(gateway.get_as("/orders", &site.accounts.token_of("bob")).status, 200, "serving goes on");
    assert!(admin.metric("portcullis_store_errors_total", &[("op", "append")]) >= 1.0);
}

/// A file system of 3 MiB, where the machine allows one to be mounted.
struct SmallDisk {
    path: std::path::PathBuf,
}

impl SmallDisk {
    fn mount(site: &Site) -> Option<Self> {
        let path = site.file("small");
        fs::create_dir(&path).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=3m", "portcullis-e2e"])
            .arg(&path)
            .stderr(std::process::Stdio::null())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self { path });
        }
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI runs as root and must be able to mount a tmpfs");
        eprintln!("not run: a tmpfs cannot be mounted here");
        None
    }

    fn fill(&self) {
        let mut left = 1 << 16;
        while left > 0 {
            let name = self.path.join(format!("filler-{left}"));
            if fs::write(name, vec![0; 1 << 14]).is_err() {
                return;
            }
            left -= 1;
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}
