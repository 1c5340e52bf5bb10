//! docs/sessions.md can be followed: its commands, as a reader would run them, section by section.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::site::OPS;
use crate::support::{Site, Upstream};

/// Logs alice in at `/login` and out at `/logout`, and says hello everywhere else.
fn shop() -> Upstream {
    Upstream::scripted(|exchange| {
        let grant: &[_] = match exchange.recorded.target.as_str() {
            "/login" => &[("X-Session-Grant", r#"{"sub":"alice","scope":"orders"}"#)],
            _ => &[],
        };
        exchange.answer(200, grant, b"hello\n")
    })
}

/// The shell blocks of the sections with these titles, one after the other.
fn blocks(titles: &[&str]) -> String {
    let document = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/sessions.md")).unwrap();
    let sections: Vec<_> = document.split("\n## ").collect();
    let mut script = String::new();
    for title in titles {
        let section = sections.iter().find(|it| it.starts_with(&format!("{title}\n"))).expect(title);
        let shown: Vec<_> = section.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
        assert!(!shown.is_empty(), "{title} shows nothing");
        script.push_str(&format!("echo '## {title}'\n{}", shown.concat()));
    }
    script
}

/// Follows these sections at a gateway of this site, and returns what was printed in each.
fn follow(site: &Site, titles: &[&str]) -> Vec<String> {
    let gateway = site.start();
    let binaries = Path::new(env!("CARGO_BIN_EXE_portcullis")).parent().unwrap().display().to_string();
    let mut shell = Command::new("sh");
    shell.args(["-euc", &blocks(titles)]).current_dir(site.path());
    shell.env("PATH", format!("{binaries}:{}", std::env::var("PATH").unwrap()));
    shell.env("GATE", format!("http://{}", gateway.address)).env("ACCOUNTS_TOKEN", site.accounts.token_of("bob"));
    shell.env("PORTCULLIS_ADMIN", format!("http://{}", gateway.admin_address)).env("PORTCULLIS_ADMIN_TOKEN", OPS);
    let output = shell.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let said: Vec<_> = said.split("## ").skip(1).map(str::to_owned).collect();
    assert_eq!(said.len(), titles.len(), "{said:?}");
    said
}

/// Asserts that the words come in this order.
fn says(text: &str, words: &[&str]) {
    let mut rest = text;
    for word in words {
        let Some((_, after)) = rest.split_once(word) else { panic!("{word:?} does not follow in:\n{text}") };
        rest = after;
    }
}

fn site(upstream: &Upstream, more: &[(&str, Value)]) -> Site {
    let mut site = Site::with_sessions(upstream);
    let leave =
        json!({"name": "logout", "match": {"path": "/logout"}, "upstream": "shop", "auth": "none", "logout": true});
    site.route(leave);
    for (pointer, value) in more {
        site.set(pointer, value.clone());
    }
    site
}

#[test]
fn the_guide_can_be_followed() {
    let upstream = shop();
    let titles = ["Login grants", "Exchange", "Logout", "Cookies", "Devices", "Operators"];
    let said = follow(&site(&upstream, &[]), &titles);
    says(&said[0], &[r#""sub":"local:alice""#, "hello"]);
    says(&said[1], &["hello"]);
    says(&said[2], &["204 No Content", "clear-site-data", "revoked_session", "hello", "revoked_session"]);
    says(&said[3], &["cross_site", "hello"]);
    says(&said[4], &[r#""current": true"#, r#""agent": "curl""#, r#"{"ended":0}"#, "revoked_session"]);
    says(
        &said[5],
        &[
            "local:alice, opened",
            "with bob of",
            "sessions ended: 1",
            "subject local:alice",
            r#"{"items":[]"#,
            "bob",
            r#""ended":1"#,
        ],
    );
}

#[test]
fn the_guide_on_how_many_can_be_followed() {
    let upstream = shop();
    let said = follow(&site(&upstream, &[("/session/max_per_subject", json!(1))]), &["How many"]);
    says(&said[0], &["revoked_subject", "hello"]);
}

#[test]
fn the_guide_on_strict_rotation_can_be_followed() {
    let upstream = shop();
    let reissue = json!({"every": 2, "rotation": "strict", "reuse_grace": "1s"});
    let said = follow(&site(&upstream, &[("/session/reissue", reissue)]), &["Strict rotation"]);
    says(&said[0], &["hello", "hello", "revoked_session", "revoked_session"]);
}
