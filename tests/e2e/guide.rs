//! `docs/revocation.md`, followed to the letter: each case's command ends what the table says, and nothing else.
//!
//! The commands are read out of the document and run by a shell, as a reader would.

use serde_json::json;

use crate::sessions::{exchanged, log_in, service};
use crate::support::issuer::{Key, claims_of};
use crate::support::{Gateway, Issuer, Site, Upstream, document, now, until};

const DOCUMENT: &str = "docs/revocation.md";

/// The sections of the document: heading and text.
fn sections() -> Vec<(String, String)> {
    let document = document::read(DOCUMENT);
    let sections = document.split("\n## ").skip(1).map(|section| section.split_once('\n').unwrap());
    sections.map(|(heading, text)| (heading.to_owned(), text.to_owned())).collect()
}

/// A gateway, and tokens of bob and alice before anything has happened.
struct Scene {
    upstream: Upstream,
    site: Site,
    gateway: Gateway,
    /// Foreign tokens, and the sessions opened with them.
    bob: String,
    bob_session: String,
    alice: String,
    alice_session: String,
}

impl Scene {
    fn new() -> Self {
        Self::with(|_| ())
    }

    fn with(prepare: impl FnOnce(&mut Site)) -> Self {
        let upstream = service();
        let mut site = Site::with_sessions(&upstream);
        prepare(&mut site);
        let gateway = site.start();
        // Issued a while ago: a cutoff at the present is after it in any second.
        let token = |subject: &str, client: &str| {
            let issued = now() - 60;
            let claims =
                json!({"sub": subject, "azp": client, "iat": issued, "exp": issued + 600, "auth_time": issued});
            site.accounts.token(claims)
        };
        let (bob, alice) = (token("bob", "shop-app"), token("alice", "other-app"));
        let (bob_session, alice_session) = (exchanged(&gateway, &bob), exchanged(&gateway, &alice));
        let scene = Self { upstream, site, gateway, bob, bob_session, alice, alice_session };
        scene.admitted(&[&scene.bob, &scene.bob_session, &scene.alice, &scene.alice_session]);
        scene
    }

    /// Runs the blocks of a section with these variables; what they printed.
    fn follow(&self, heading: &str, variables: &[(&str, &str)]) -> String {
        let all = sections();
        let (_, text) = all.iter().find(|(it, _)| it == heading).unwrap_or_else(|| panic!("no section {heading:?}"));
        let blocks = document::shell_blocks(text);
        assert!(!blocks.is_empty(), "{heading} has no command");
        blocks.iter().map(|block| document::run(&self.site, &self.gateway, block, variables)).collect()
    }

    fn status(&self, token: &str) -> u16 {
        self.gateway.get_as("/orders", token).status
    }

    fn admitted(&self, tokens: &[&str]) {
        tokens.iter().for_each(|token| assert_eq!(self.status(token), 200, "{}", claims_of(token)));
    }

    /// That these are refused for `reason`, on every worker, and after a crash still.
    fn refused(&self, reason: &str, tokens: &[&str]) {
        for token in tokens.iter().cycle().take(4 * tokens.len()) {
            let response = self.gateway.get_as("/orders", token);
            assert_eq!((response.status, response.reason().as_str()), (401, reason), "{}", claims_of(token));
        }
    }

    /// That these are refused, by whichever of the records that name them.
    fn refused_somehow(&self, tokens: &[&str]) {
        for token in tokens.iter().cycle().take(4 * tokens.len()) {
            let response = self.gateway.get_as("/orders", token);
            assert!(response.status == 401 && response.reason().starts_with("revoked_"), "{response:?}");
        }
    }

    fn survives(self, reason: &str, dead: &[String], alive: &[String]) {
        self.gateway.kill();
        let gateway = self.site.start();
        let scene = Self { gateway, ..self };
        scene.refused(reason, &dead.iter().map(String::as_str).collect::<Vec<_>>());
        scene.admitted(&alive.iter().map(String::as_str).collect::<Vec<_>>());
        drop(scene.upstream);
    }

    /// A token that no cutoff of this second reaches: issued ahead, within the issuer's skew.
    fn fresh(&self, subject: &str) -> String {
        let issued = now() + 3;
        self.site.accounts.token(json!({"sub": subject, "iat": issued, "exp": issued + 600, "auth_time": issued}))
    }
}

/// Follows a section that ends everything of bob, and nothing of alice.
fn everything_of_bob(heading: &str, comes_back: bool) {
    let scene = Scene::new();
    scene.follow(heading, &[]);
    scene.refused("revoked_subject", &[&scene.bob, &scene.bob_session]);
    scene.admitted(&[&scene.alice, &scene.alice_session]);
    let fresh = scene.fresh("bob");
    assert_eq!(scene.status(&fresh), if comes_back { 200 } else { 401 }, "{heading}");
    let (dead, alive) = ([scene.bob.clone(), scene.bob_session.clone()], [scene.alice_session.clone()]);
    scene.survives("revoked_subject", &dead, &alive);
}

#[test]
fn every_case_of_the_table_is_a_section_and_every_section_has_its_test() {
    let document = document::read(DOCUMENT);
    let table = document.split("\n## ").next().unwrap();
    let cases: Vec<_> = table.split("](#").skip(1).map(|rest| rest.split_once(')').unwrap().0).collect();
    let tests = include_str!("guide.rs");
    let guide = document.split("\n# How it works").next().unwrap();
    let headings: Vec<_> = guide.split("\n## ").skip(1).map(|rest| rest.split_once('\n').unwrap().0).collect();
    assert_eq!(cases.len(), headings.len());
    for (case, heading) in cases.iter().zip(&headings) {
        let anchor: String =
            heading.to_lowercase().replace(' ', "-").chars().filter(|it| it.is_alphanumeric() || *it == '-').collect();
        assert_eq!(*case, anchor);
        let quoted = format!("\"{}\"", heading.replace('"', "\\\""));
        assert!(tests.contains(&quoted), "{heading} is followed by no test");
    }
}

#[test]
fn a_user_clicked_log_out() {
    let scene = Scene::new();
    let other = log_in(&scene.gateway, "bob");
    let answer = scene.follow("A user clicked \"log out\"", &[("TOKEN", &scene.bob_session)]);
    assert_eq!(answer, "");
    scene.refused("revoked_token", &[&scene.bob_session]);
    scene.refused("revoked_token", &[&scene.bob]);
    scene.admitted(&[&other, &scene.alice, &scene.alice_session]);
    let (dead, alive) = ([scene.bob_session.clone()], [scene.alice_session.clone(), other]);
    scene.survives("revoked_token", &dead, &alive);
}

#[test]
fn a_user_lost_a_laptop() {
    let scene = Scene::new();
    let other = exchanged(&scene.gateway, &scene.fresh("bob"));
    let sid = claims_of(&scene.bob_session)["sid"].as_str().unwrap().to_owned();
    let printed = scene.follow("A user lost a laptop", &[("SID", &sid)]);
    assert!(printed.contains(&sid), "the list names it: {printed}");
    // The token that opened it would open it anew.
    scene.refused_somehow(&[&scene.bob_session, &scene.bob]);
    scene.admitted(&[&other, &scene.alice_session]);
}

#[test]
fn a_user_wants_all_other_devices_out() {
    let scene = Scene::new();
    let here = exchanged(&scene.gateway, &scene.fresh("bob"));
    scene.follow("A user wants all other devices out", &[("TOKEN", &here)]);
    scene.refused_somehow(&[&scene.bob_session, &scene.bob]);
    scene.admitted(&[&here, &scene.alice_session]);
    let (dead, alive) = (scene.bob_session.clone(), scene.alice_session.clone());
    scene.gateway.kill();
    let gateway = scene.site.start();
    assert_eq!(gateway.get_as("/orders", &dead).status, 401);
    assert_eq!([gateway.get_as("/orders", &here).status, gateway.get_as("/orders", &alive).status], [200, 200]);
}

/// "A refresh token was stolen": nothing is to be done, whoever comes second. Here it is the owner.
#[test]
fn a_refresh_token_was_stolen() {
    let scene = Scene::with(|site| {
        site.set("/session/refresh", json!({"idle_timeout": "2h", "reuse_grace": "1s"}));
    });
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let send = |path: &str, body: String| scene.gateway.send("POST", path, &form, body.as_bytes());
    let opened = send("/session/exchange", format!("subject_token={}", scene.fresh("bob"))).json();
    let refresh = |token: &str| send("/session/refresh", format!("grant_type=refresh_token&refresh_token={token}"));
    let stolen = opened["refresh_token"].as_str().unwrap();
    let thief = refresh(stolen);
    assert_eq!(thief.status, 200, "{thief:?}");
    let thief = thief.json();
    // Within the grace the owner would be given the same; later it is reuse.
    until("the grace to be over", || (refresh(stolen).status == 400).then_some(()));
    let dead = [&opened["access_token"], &thief["access_token"]].map(|token| token.as_str().unwrap());
    scene.refused("revoked_session", &dead);
    assert_eq!(refresh(thief["refresh_token"].as_str().unwrap()).json()["error"], "invalid_grant");
    let audit = scene.site.read("audit.jsonl");
    let thefts: Vec<_> = audit.lines().filter(|line| line.contains("\"reason\":\"session_reuse\"")).collect();
    assert_eq!(thefts.len(), 1, "{thefts:?}");
    assert_eq!(scene.gateway.admin().metric("portcullis_refresh_reuse_total", &[]), 1.0);
    scene.admitted(&[&scene.bob, &scene.alice_session]);
}

#[test]
fn our_signing_key_leaked() {
    let scene = Scene::new();
    let kid = header_of(&scene.bob_session);
    scene.follow("Our signing key leaked", &[("KID", &kid)]);
    scene.refused("revoked_key", &[&scene.bob_session, &scene.alice_session]);
    let fresh = log_in(&scene.gateway, "bob");
    scene.admitted(&[&scene.bob, &scene.alice, &fresh]);
    let dead = [scene.bob_session.clone(), scene.alice_session.clone()];
    scene.survives("revoked_key", &dead, &[fresh]);
}

#[test]
fn a_key_of_the_identity_provider_leaked() {
    let mut other = None;
    let scene = Scene::with(|site| {
        let next = Issuer::new(&site.accounts.url, "accounts-2", Key::es256());
        let both = json!({"keys": [site.accounts.key.jwk(&site.accounts.kid), next.key.jwk("accounts-2")]});
        site.write("accounts.jwks.json", &both.to_string());
        other = Some(next);
    });
    let spared = other.unwrap().token_of("bob");
    let (own, kid) = (log_in(&scene.gateway, "bob"), scene.site.accounts.kid.clone());
    scene.follow("A key of the identity provider leaked", &[("KID", &kid)]);
    let dead = [&scene.bob, &scene.bob_session, &scene.alice, &scene.alice_session].map(String::clone);
    scene.refused("revoked_key", &dead.each_ref().map(String::as_str));
    scene.admitted(&[&spared, &own]);
    scene.survives("revoked_key", &dead, &[spared, own]);
}

/// The `kid` of a token.
fn header_of(token: &str) -> String {
    let header = portcullis::token::Compact::parse(token, 8192).unwrap().header;
    header.key_id.unwrap().to_string()
}

#[test]
fn one_token_leaked() {
    let scene = Scene::new();
    let other = scene.fresh("bob");
    scene.follow("One token leaked", &[("TOKEN", &scene.bob)]);
    scene.refused("revoked_token", &[&scene.bob, &scene.bob_session]);
    scene.admitted(&[&other, &scene.alice]);
    scene.follow("One token leaked", &[("TOKEN", &scene.alice_session)]);
    scene.refused("revoked_session", &[&scene.alice_session]);
    scene.admitted(&[&other, &scene.alice]);
}

#[test]
fn a_user_was_blocked() {
    everything_of_bob("A user was blocked", false);
}

#[test]
fn a_password_was_changed() {
    everything_of_bob("A password was changed", true);
    // With an issuer that states it, the login must be newer as well.
    let scene = Scene::with(|site| {
        site.set("/issuers/accounts/max_authentication_age", json!("24h"));
    });
    scene.follow("A password was changed", &[]);
    let issued = now() + 3;
    let claims = json!({"sub": "bob", "iat": issued, "exp": issued + 600, "auth_time": issued - 60});
    scene.refused("session_too_old", &[&scene.site.accounts.token(claims)]);
    scene.admitted(&[&scene.fresh("bob"), &scene.alice]);
}

#[test]
fn permissions_were_changed() {
    everything_of_bob("Permissions were changed", true);
}

#[test]
fn an_account_was_compromised() {
    everything_of_bob("An account was compromised", false);
}

#[test]
fn a_client_was_compromised() {
    let scene = Scene::new();
    scene.follow("A client was compromised", &[]);
    scene.refused("revoked_client", &[&scene.bob, &scene.bob_session]);
    scene.admitted(&[&scene.alice, &scene.alice_session, &scene.fresh("bob")]);
}

#[test]
fn the_identity_provider_was_broken_into() {
    let scene = Scene::new();
    let own = log_in(&scene.gateway, "carol");
    scene.follow("The identity provider was broken into", &[]);
    let dead = [&scene.bob, &scene.bob_session, &scene.alice, &scene.alice_session].map(String::clone);
    scene.refused("revoked_issuer", &dead.each_ref().map(String::as_str));
    scene.admitted(&[&own, &scene.fresh("bob")]);
    scene.survives("revoked_issuer", &dead, &[own]);
}

#[test]
fn everything_must_end() {
    let scene = Scene::new();
    let own = log_in(&scene.gateway, "carol");
    scene.follow("Everything must end", &[]);
    let dead = [&scene.bob, &scene.bob_session, &scene.alice, &scene.alice_session, &own].map(String::clone);
    scene.refused("revoked_all", &dead.each_ref().map(String::as_str));
    scene.admitted(&[&scene.fresh("bob"), &log_in(&scene.gateway, "carol")]);
    scene.survives("revoked_all", &dead, &[]);
}

#[test]
fn it_works_over_http_as_well() {
    let scene = Scene::new();
    scene.follow("Over HTTP", &[("TOKEN", &scene.alice)]);
    scene.refused("revoked_token", &[&scene.alice, &scene.alice_session]);
    scene.refused("revoked_subject", &[&scene.bob, &scene.bob_session]);
}
