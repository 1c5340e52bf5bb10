//! Stores that cannot keep what they are given, and keys that are gone: said, never passed over.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::sessions::exchanged;
use crate::support::command::{portcullis, portcullis_with};
use crate::support::{Admin, Gateway, Site, Upstream};

/// The section of docs/operations.md about the store can be followed while the gateway runs.
#[test]
fn the_store_is_copied_as_operations_says() {
    let document = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).unwrap();
    let (_, section) = document.split_once("\n## The store\n").unwrap();
    let (_, shown) = section.split_once("```sh\n").unwrap();
    let (script, _) = shown.split_once("```").unwrap();
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    let gateway = site.start();
    let admin = gateway.admin();
    admin.revoke_of_accounts("token", "dead", "admin");
    let lifted = admin.revoke_of_accounts("subject", "forgiven", "account_blocked");
    assert_eq!(admin.delete(&format!("/v1/revocations/{}?restore=true", lifted["id"].as_str().unwrap())).status, 200);
    let binaries = Path::new(env!("CARGO_BIN_EXE_portcullis")).parent().unwrap().display().to_string();
    let mut shell = Command::new("sh");
    shell.args(["-euc", script]).current_dir(site.path());
    shell.env("PATH", format!("{binaries}:{}", std::env::var("PATH").unwrap()));
    let output = shell.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("3 records are new, 0 were there") && said.contains("nothing was changed"), "{said}");
    // Nothing is taken in behind a running gateway's back.
    let lines = site.read("revocations.ndjson");
    let refused = portcullis_with(site.path(), &["store", "import", "--path", "data"], &[], &lines);
    assert_eq!(refused.code, 69, "{refused:?}");
    let tokens = [json!({"jti": "dead"}), json!({"sub": "forgiven"})].map(|it| site.accounts.token(it));
    let statuses = |gateway: &Gateway| tokens.each_ref().map(|token| gateway.get_as("/orders", token).status);
    assert_eq!(statuses(&gateway), [401, 200]);
    assert_eq!(gateway.stop().0, 0);
    site.set("/revocation/store/path", json!("another-store"));
    assert_eq!(statuses(&site.start()), [401, 200]);
}

/// A damaged store stops the start, and what can be saved of it goes on as the store that the session keys know.
#[test]
fn a_damaged_store_is_rebuilt_and_serves_again() {
    let upstream = Upstream::start();
    let site = Site::with_sessions(&upstream);
    let gateway = site.start();
    gateway.admin().revoke_of_accounts("token", "dead", "admin");
    gateway.admin().revoke_of_accounts("token", "lost", "admin");
    assert_eq!(gateway.stop().0, 0);
    let database = rusqlite::Connection::open(site.file("data/revocations.db")).unwrap();
    database.execute("DELETE FROM revocations WHERE value = 'lost'", []).unwrap();
    drop(database);
    let (code, said) = Gateway::refuse(&site);
    assert!(code != 0 && said.contains("store rebuild"), "{said}");
    let run = |command: &str| portcullis(site.path(), &["store", command, "--path", "data"]);
    assert_eq!(run("verify").code, 65);
    let rebuilt = run("rebuild");
    assert!(rebuilt.code == 65 && rebuilt.stderr.contains("1 rows were lost"), "{rebuilt:?}");
    assert_eq!(run("verify").code, 0);
    let gateway = site.start();
    let status = |jti: &str| gateway.get_as("/orders", &site.accounts.token(json!({"jti": jti}))).status;
    assert_eq!((status("dead"), status("lost")), (401, 200));
}

#[test]
fn lost_keys_refuse_to_start() {
    let upstream = Upstream::start();
    let site = Site::with_sessions(&upstream);
    assert_eq!(site.start().stop().0, 0);
    fs::remove_dir_all(site.file("keys")).unwrap();
    let (code, said) = Gateway::refuse(&site);
    assert_ne!(code, 0);
    assert!(said.contains("keys") && said.contains("--accept-loss"), "{said}");
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

/// In force is not yet durable: whoever repeats a logout that was not stored is not told that it is done.
#[test]
fn a_logout_that_was_not_stored_is_not_done_when_it_is_repeated() {
    let upstream = Upstream::start();
    let mut site = Site::with_sessions(&upstream);
    let Some(small) = SmallDisk::mount(&site) else { return };
    site.set("/revocation/store/path", json!(small.path));
    let gateway = site.start();
    let sessions: Vec<_> = (0..3).map(|_| exchanged(&gateway, &site.accounts.token_of("bob"))).collect();
    small.fill();
    let target = json!({"kind": "token", "issuer": "accounts", "value": "on-a-full-disk"});
    let body = json!({"target": target, "reason": "admin", "note": "x".repeat(500)});
    crate::support::until("the disk to be full", || {
        (gateway.admin().post("/v1/revocations", &body).status != 201).then_some(())
    });
    for session in &sessions {
        for _ in 0..2 {
            let response = gateway.post_as("/session/logout", session);
            assert_eq!((response.status, response.reason().as_str()), (503, "store_not_durable"), "{response:?}");
        }
        assert_eq!(gateway.get_as("/orders", session).status, 401, "in force here");
    }
}

/// A file system of 3 MiB, where the machine allows one to be mounted.
pub(crate) struct SmallDisk {
    pub(crate) path: std::path::PathBuf,
}

impl SmallDisk {
    pub(crate) fn mount(site: &Site) -> Option<Self> {
        let path = site.file("small");
        fs::create_dir(&path).unwrap();
        let mounted = Command::new("mount")
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

    pub(crate) fn fill(&self) {
        let mut left = 1 << 16;
        while left > 0 {
            let name = self.path.join(format!("filler-{left}"));
            if fs::write(name, vec![0; 1 << 14]).is_err() {
                return;
            }
            left -= 1;
        }
    }

    /// Takes away what [`fill`](Self::fill) has put there.
    pub(crate) fn empty(&self) {
        for entry in fs::read_dir(&self.path).unwrap().map(Result::unwrap) {
            if entry.file_name().to_string_lossy().starts_with("filler-") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}
