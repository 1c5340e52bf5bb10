//! Per-subject keys (T5) against a real PostgreSQL: what is changed in the user database is dead at the gateways,
//! with no revocation; what cannot be looked up is not refused for good, and never admitted.

use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use serde_json::{Value, json};

use crate::sessions::exchanged;
use crate::support::issuer::{Key, base64url, claims_of};
use crate::support::patience::within;
use crate::support::postgres::GATEWAY_PASSWORD;
use crate::support::{Database, Gateway, Issuer, Response, Site, Upstream, bearer, until};

/// The trigger that the documentation tells users to make.
const TRIGGER: &str = include_str!("../../docs/per-subject-keys.sql");
pub(crate) const CHANNEL: &str = "portcullis_credentials";
pub(crate) const BASE: &[u8] = b"a base secret that only this test and the gateway have";
pub(crate) const PEOPLE: &str = "https://people.example/";
pub(crate) const HASH: &str = "$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW";

/// A change must be in force within a second; a test on a busy machine waits longer before it gives up.
const DEADLINE: Duration = Duration::from_secs(10);

/// A site whose issuer `people` has a key for each subject, out of `database`.
pub(crate) fn site(upstream: &Upstream, database: &Database, query: &str) -> Site {
    let mut site = Site::with_sessions(upstream);
    site.write_secret("secrets/base", BASE);
    site.write_secret("secrets/database", database.url().as_bytes());
    site.config["issuers"]["people"] = json!({
        "issuer": PEOPLE,
        "audiences": ["shop"],
        "algorithms": ["HS256"],
        "keys": {"per_subject": {
            "base_secret": {"file": "secrets/base"},
            "postgres": {
                "url": {"file": "secrets/database"}, "query": query, "tls": "off", "notify": CHANNEL, "timeout": "2s",
            },
        }},
    });
    site.config["session"]["exchange"] = json!([
        {"issuer": "accounts", "subject_prefix": "accounts:"},
        {"issuer": "people", "subject_prefix": "people:"},
    ]);
    site
}

const BOTH: &str = "SELECT password_hash, status FROM users WHERE id = $1";

/// HKDF-SHA256 written out by hand (RFC 5869 §2), for outputs of at most one block.
fn hkdf(secret: &[u8], salt: &[u8], info: &[u8], length: usize) -> Vec<u8> {
    let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec();
    let mut block = sign(&sign(salt, secret), &[info, &[1]].concat());
    block.truncate(length);
    block
}

fn info(issuer: &str, subject: &str, columns: &[Option<&str>]) -> Vec<u8> {
    let mut info = Vec::new();
    for text in [Some(issuer), Some(subject)].into_iter().chain(columns.iter().copied()) {
        match text {
            Some(text) => {
                info.extend_from_slice(&(text.len() as u32).to_be_bytes());
                info.extend_from_slice(text.as_bytes());
            }
            None => info.extend_from_slice(&[0xff; 4]),
        }
    }
    info
}

/// What the login service signs for `subject` as long as the database says `columns` of it.
pub(crate) fn token(subject: &str, columns: &[Option<&str>]) -> String {
    signed_with(&hkdf(BASE, b"portcullis/t5/1", &info(PEOPLE, subject, columns), 32), subject)
}

fn signed_with(key: &[u8], subject: &str) -> String {
    let issuer = Issuer::new(PEOPLE, "any", Key::secret(key));
    issuer.token(json!({"sub": subject}))
}

pub(crate) fn fingerprint(issuer: &str, subject: &str, columns: &[Option<&str>]) -> String {
    base64url(hkdf(BASE, b"portcullis/t5/cfp/1", &info(issuer, subject, columns), 16))
}

pub(crate) fn status(gateway: &Gateway, token: &str) -> u16 {
    gateway.get_as("/orders", token).status
}

pub(crate) fn refused(gateway: &Gateway, token: &str) -> (u16, String) {
    let response = gateway.get_as("/orders", token);
    (response.status, response.reason())
}

/// Waits until the gateway hears of changes: only then is what it knows believed for longer than a moment.
fn await_listening(gateway: &Gateway, times: usize) {
    until("a gateway that listens", || {
        (gateway.output().matches("listening for changed credentials").count()
            - gateway.output().matches("no longer listening for changed credentials").count()
            >= times)
            .then_some(())
    });
}

/// That no revocation has anything to do with it.
fn assert_no_revocations(gateway: &Gateway) {
    let listed = gateway.admin().get("/v1/revocations").json();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(0), "{listed}");
    assert_eq!(gateway.admin().metric("portcullis_revocations", &[]), 0.0);
}

pub(crate) fn unavailable(response: &Response) {
    assert_eq!((response.status, response.reason().as_str()), (503, "keys_unavailable"), "{response:?}");
    assert!(response.header("retry-after").is_some() && response.header("www-authenticate").is_none(), "{response:?}");
}

#[test]
fn a_password_changed_in_psql_ends_tokens_and_sessions_on_every_gateway_and_no_revocation_is_made() {
    let Some(database) = Database::start() else { return };
    database.sql(TRIGGER);
    for name in ["ada", "bob"] {
        database.user(name, Some(HASH), Some("active"));
    }
    let upstream = Upstream::start();
    let mut site = site(&upstream, &database, BOTH);
    // A lifetime that no test waits for: what ends a token here is the notification.
    site.set("/issuers/people/keys/per_subject/ttl", json!("1h"));
    let first = site.start();
    // The second has a folder of its own and the same session keys, as another node has.
    let second_site = self::site(&upstream, &database, BOTH);
    copy_keys(&site, &second_site);
    let second = second_site.start();
    let gateways = [&first, &second];
    gateways.iter().for_each(|gateway| await_listening(gateway, 1));

    let columns = [Some(HASH), Some("active")];
    let (ada, bob) = (token("ada", &columns), token("bob", &columns));
    let ada_session = exchanged(&first, &ada);
    let bob_session = exchanged(&second, &bob);
    let origin = &claims_of(&ada_session)["orig"];
    assert_eq!(origin["cfp"], fingerprint(PEOPLE, "ada", &columns), "{origin}");
    for gateway in gateways {
        for token in [&ada, &bob, &ada_session, &bob_session] {
            assert_eq!(status(gateway, token), 200);
        }
    }
    // Something else of the user changes: nobody is signed out.
    database.sql("ALTER TABLE users ADD COLUMN seen timestamptz; UPDATE users SET seen = now()");
    for gateway in gateways {
        assert_eq!(status(gateway, &ada), 200);
    }

    database.sql("UPDATE users SET password_hash = '$2b$12$another' WHERE id = 'ada'");
    let changed = Instant::now();
    for gateway in gateways {
        for token in [&ada, &ada_session] {
            within(DEADLINE, "a dead token", || (status(gateway, token) == 401).then_some(()));
        }
    }
    eprintln!("in force on two gateways after {:?}", changed.elapsed());
    for gateway in gateways {
        // A worker that had verified it says what has changed, and another one that the key is wrong.
        let reason = refused(gateway, &ada).1;
        assert!(["credential_changed", "bad_signature"].contains(&reason.as_str()), "{reason}");
        assert_eq!(refused(gateway, &ada_session), (401, "credential_changed".to_owned()));
        let exchange = gateway.post_as("/session/exchange", &ada);
        assert_eq!(exchange.status, 401, "{exchange:?}");
        assert_eq!([status(gateway, &bob), status(gateway, &bob_session)], [200, 200], "bob is another");
        assert_eq!(status(gateway, &token("ada", &[Some("$2b$12$another"), Some("active")])), 200);
        assert_no_revocations(gateway);
    }
    // A deleted row ends its tokens, and everybody's when the table is emptied.
    database.sql("DELETE FROM users WHERE id = 'ada'");
    let again = token("ada", &[Some("$2b$12$another"), Some("active")]);
    within(DEADLINE, "a dead token", || (status(&first, &again) == 401).then_some(()));
    database.sql("TRUNCATE users");
    within(DEADLINE, "everybody's tokens dead", || (status(&second, &bob_session) == 401).then_some(()));
    assert_no_revocations(&second);
    assert_nothing_is_told(&[&first, &second], &[&site, &second_site]);
}

/// Neither logs nor audit lines have a hash, a password of the database or the base secret.
fn assert_nothing_is_told(gateways: &[&Gateway], sites: &[&Site]) {
    let mut told: String = gateways.iter().map(|gateway| gateway.output()).collect();
    for site in sites {
        told += &site.read("access.jsonl");
        told += &site.read("audit.jsonl");
    }
    let encoded = GATEWAY_PASSWORD.replace(' ', "%20");
    let base = String::from_utf8_lossy(BASE);
    for secret in [HASH, "$2b$12$another", GATEWAY_PASSWORD, &encoded, &base] {
        assert!(!told.contains(secret), "{secret} is told");
    }
}

fn copy_keys(from: &Site, to: &Site) {
    let target = to.file("keys");
    std::fs::create_dir(&target).unwrap();
    for entry in std::fs::read_dir(from.file("keys")).unwrap().flatten() {
        // The binding to the first one's store stays behind.
        if !entry.file_name().to_string_lossy().contains("store") {
            std::fs::copy(entry.path(), target.join(entry.file_name())).unwrap();
        }
    }
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn every_column_counts_and_one_that_comes_back_revives_old_tokens() {
    let Some(database) = Database::start() else { return };
    database.sql(TRIGGER);
    let upstream = Upstream::start();
    let gateway = site(&upstream, &database, BOTH).start();
    await_listening(&gateway, 1);
    let states: [&[Option<&str>]; 5] = [
        &[Some(HASH), Some("active")],
        &[Some(HASH), Some("blocked")],
        &[Some(HASH), None],
        &[None, Some("active")],
        &[Some(""), Some("active")],
    ];
    let tokens: Vec<String> = states.iter().map(|columns| token("ada", columns)).collect();
    for (at, columns) in states.iter().enumerate() {
        database.user("ada", columns[0], columns[1]);
        within(DEADLINE, "the current token", || (status(&gateway, &tokens[at]) == 200).then_some(()));
        for (other, token) in tokens.iter().enumerate().filter(|(other, _)| *other != at) {
            assert_eq!(status(&gateway, token), 401, "token {other} while {columns:?}");
        }
    }
    // The documented limit: nothing tells that it was ever otherwise.
    database.user("ada", states[0][0], states[0][1]);
    within(DEADLINE, "the first token alive again", || (status(&gateway, &tokens[0]) == 200).then_some(()));
}

#[test]
fn a_subject_is_a_value_whatever_is_in_it_and_one_that_does_not_exist_is_a_wrong_key() {
    let Some(database) = Database::start() else { return };
    let injections = ["' OR '1'='1", "'; DROP TABLE users; --", "$1", "ada'||'", "\\", "%", "\u{1F511}"];
    for id in ["ada"].into_iter().chain(injections) {
        database.user(id, Some(HASH), Some("active"));
    }
    database.sql("DELETE FROM users WHERE id = ''' OR ''1''=''1'");
    let upstream = Upstream::start();
    let gateway = site(&upstream, &database, BOTH).start();
    let columns = [Some(HASH), Some("active")];
    // What exists is found under exactly its name, and what does not exist is nobody.
    for id in &injections[1..] {
        assert_eq!(status(&gateway, &token(id, &columns)), 200, "{id:?}");
    }
    let mut unknown = vec![injections[0].to_owned(), "nobody".to_owned(), "ADA".to_owned()];
    unknown.push("x".repeat(200));
    for id in &unknown {
        assert_eq!(refused(&gateway, &token(id, &columns)), (401, "bad_signature".to_owned()), "{id:?}");
    }
    // The same answer as to a forged token of somebody who exists, byte for byte.
    let body = |token: &str| {
        let response = gateway.get("/orders", &[("Authorization", &bearer(token)), ("X-Request-Id", "same")]);
        let mut body = response.json();
        body["request_id"] = Value::Null;
        (response.status, response.header("www-authenticate").map(str::to_owned), body)
    };
    assert_eq!(body(&token("ada", &[Some("wrong"), Some("active")])), body(&token("nobody", &columns)));
    assert_eq!(database.sql("SELECT count(*) FROM users"), injections.len().to_string());
    // Nor is there a way around with a text that PostgreSQL does not have.
    for id in ["".to_owned(), "ada\0".to_owned(), "x".repeat(5000)] {
        assert_eq!(status(&gateway, &token(&id, &columns)), 401, "{id:?}");
    }
    // A token without a subject is not looked for.
    let issuer = Issuer::new(PEOPLE, "any", Key::secret(&[1; 32]));
    assert_eq!(refused(&gateway, &issuer.token(json!({"sub": null}))), (401, "missing_claim".to_owned()));
}

#[test]
fn subjects_may_be_numbers_or_uuids_and_have_one_spelling() {
    let Some(database) = Database::start() else { return };
    let id = "6f1c0b3a-58a5-4a0e-8d7e-3b0f1f6a9d21";
    database.sql(&format!(
        "CREATE TABLE numbered (id bigint, hash varchar(80)); INSERT INTO numbered VALUES (42, '{HASH}');
         CREATE TYPE state AS ENUM ('active', 'blocked');
         CREATE TABLE named (id uuid, state state); INSERT INTO named VALUES ('{id}', 'active');
         GRANT SELECT ON numbered, named TO portcullis"
    ));
    let upstream = Upstream::start();
    let numbers = site(&upstream, &database, "SELECT hash FROM numbered WHERE id = $1").start();
    assert_eq!(status(&numbers, &token("42", &[Some(HASH)])), 200);
    for other in ["042", "+42", "42 ", "4.2e1", "forty-two", "99999999999999999999", "42 OR 1=1"] {
        let refusal = refused(&numbers, &token(other, &[Some(HASH)]));
        assert_eq!(refusal, (401, "bad_signature".to_owned()), "{other}");
    }
    let names = site(&upstream, &database, "SELECT state FROM named WHERE id = $1").start();
    assert_eq!(status(&names, &token(id, &[Some("active")])), 200);
    let upper = id.to_uppercase();
    assert_eq!(refused(&names, &token(&upper, &[Some("active")])), (401, "bad_signature".to_owned()));
}

#[test]
fn a_query_that_cannot_be_asked_admits_nobody_and_says_so() {
    let Some(database) = Database::start() else { return };
    database.sql("CREATE TABLE many (id text, hash text, made timestamptz DEFAULT now())");
    database.sql("GRANT SELECT ON many TO portcullis; INSERT INTO many VALUES ('ada', 'one'), ('ada', 'two')");
    let wide = (0..17).map(|_| "hash").collect::<Vec<_>>().join(", ");
    let upstream = Upstream::start();
    for (query, said) in [
        ("SELECT hash FROM many WHERE id = $1", "2 rows for one subject"),
        ("SELECT hash, made FROM many WHERE id = $1", "`made::text`"),
        ("SELECT hash FROM nowhere WHERE id = $1", "SQLSTATE 42P01"),
        ("SELECT hash FROM many WHERE made = $1", "write `$1::text`"),
        ("DELETE FROM many WHERE id = $1 RETURNING hash", "SQLSTATE 25006"),
        (&format!("SELECT {wide} FROM many WHERE id = $1"), "17 columns"),
        ("SELECT repeat('x', 20000) FROM many WHERE id = $1 LIMIT 1", "longer than"),
        ("SELECT (hash::int)::text FROM many WHERE id = $1 LIMIT 1", "SQLSTATE 22P02"),
    ] {
        let gateway = site(&upstream, &database, query).start();
        for columns in [&[Some("one")][..], &[Some("two")], &[None], &[]] {
            unavailable(&gateway.get_as("/orders", &token("ada", columns)));
        }
        until(said, || gateway.output().contains(said).then_some(()));
        assert!(!gateway.output().contains("\\\"one\\\""), "no value is repeated: {}", gateway.output());
    }
    assert_eq!(database.sql("SELECT count(*) FROM many"), "2");
}

#[test]
fn the_password_hash_behind_the_secret_is_a_key_too_and_no_hash_is_none() {
    let Some(database) = Database::start() else { return };
    database.sql(TRIGGER);
    let upstream = Upstream::start();
    let mut site = site(&upstream, &database, "SELECT password_hash FROM users WHERE id = $1");
    site.set("/issuers/people/keys/per_subject/derive", json!("concat"));
    let gateway = site.start();
    await_listening(&gateway, 1);
    database.user("ada", Some(HASH), None);
    let behind = |hash: &str| signed_with(&[BASE, hash.as_bytes()].concat(), "ada");
    within(DEADLINE, "the first key", || (status(&gateway, &behind(HASH)) == 200).then_some(()));
    assert_eq!(
        refused(&gateway, &token("ada", &[Some(HASH)])),
        (401, "bad_signature".to_owned()),
        "that is the other way"
    );
    database.user("ada", Some("another"), None);
    within(DEADLINE, "the second key", || (status(&gateway, &behind("another")) == 200).then_some(()));
    assert_eq!(status(&gateway, &behind(HASH)), 401);
    // Without a password the base secret alone would be everybody's key.
    for hash in [None, Some("")] {
        database.user("ada", hash, None);
        within(DEADLINE, "no key", || (status(&gateway, &behind("another")) == 401).then_some(()));
        assert_eq!(refused(&gateway, &signed_with(BASE, "ada")), (401, "bad_signature".to_owned()), "{hash:?}");
    }
}

#[test]
fn a_slow_database_holds_up_nobody_else_and_the_pool_is_bounded() {
    let Some(database) = Database::start() else { return };
    for id in ["ada", "bob", "slow-1", "slow-2", "slow-3"] {
        database.user(id, Some(HASH), None);
    }
    database.sql(
        "CREATE FUNCTION hash_of(wanted text) RETURNS SETOF text LANGUAGE plpgsql SECURITY DEFINER AS $$
         BEGIN
           IF wanted LIKE 'slow%' THEN PERFORM pg_sleep(60); END IF;
           RETURN QUERY SELECT password_hash FROM users WHERE id = wanted;
         END $$",
    );
    let upstream = Upstream::start();
    let mut site = site(&upstream, &database, "SELECT * FROM hash_of($1)");
    site.set("/workers", json!(1));
    site.set("/issuers/people/keys/per_subject/postgres/connections", json!(2));
    site.set("/issuers/people/keys/per_subject/postgres/timeout", json!("1500ms"));
    let gateway = site.start();
    await_listening(&gateway, 1);
    let of = |id: &str| token(id, &[Some(HASH)]);
    assert_eq!(status(&gateway, &of("ada")), 200);
    let accounts = site.accounts.token_of("eve");

    std::thread::scope(|scope| {
        let gateway = &gateway;
        let slow: Vec<_> = ["slow-1", "slow-2", "slow-3"]
            .into_iter()
            .map(|id| {
                scope.spawn(move || {
                    let started = Instant::now();
                    unavailable(&gateway.get_as("/orders", &of(id)));
                    started.elapsed()
                })
            })
            .collect();
        until("two sleeping queries", || (database.connections("%hash_of%") >= 2).then_some(()));
        // One worker, both connections asleep: who is known, and who needs no database, is served meanwhile.
        let started = Instant::now();
        for _ in 0..10 {
            assert_eq!([status(gateway, &of("ada")), status(gateway, &accounts)], [200, 200]);
        }
        let served = started.elapsed();
        let most = database.connections("%hash_of%");
        assert!(most <= 2, "{most} connections ask");
        for waited in slow.into_iter().map(|thread| thread.join().unwrap()) {
            assert!(waited >= Duration::from_millis(1400) && waited < DEADLINE, "{waited:?}");
            assert!(served < waited, "those who were known waited: {served:?}");
        }
    });
    // Afterwards the connections are free again, and the slow ones stay slow.
    assert_eq!(status(&gateway, &of("bob")), 200);
    unavailable(&gateway.get_as("/orders", &of("slow-1")));
}

#[test]
fn a_database_that_is_gone_signs_nobody_out_and_admits_nobody_and_it_recovers_by_itself() {
    let Some(mut database) = Database::start() else { return };
    database.sql(TRIGGER);
    for name in ["ada", "bob"] {
        database.user(name, Some(HASH), Some("active"));
    }
    let upstream = Upstream::start();
    let mut site = site(&upstream, &database, BOTH);
    site.set("/issuers/people/keys/per_subject/ttl", json!("1h"));
    let gateway = site.start();
    await_listening(&gateway, 1);
    let columns = [Some(HASH), Some("active")];
    let ada = token("ada", &columns);
    let session = exchanged(&gateway, &token("bob", &columns));
    assert_eq!([status(&gateway, &ada), status(&gateway, &session)], [200, 200]);

    database.halt();
    // What was known is dropped, because nobody would tell of a change; and it is "cannot say", never "no".
    within(DEADLINE, "nobody known", || (status(&gateway, &ada) == 503).then_some(()));
    for token in [&ada, &session, &token("nobody", &columns)] {
        unavailable(&gateway.get_as("/orders", token));
    }
    assert_eq!(status(&gateway, &site.accounts.token_of("eve")), 200, "others are none of its business");

    database.resume();
    for token in [&ada, &session] {
        within(Duration::from_secs(30), "recovery", || (status(&gateway, token) == 200).then_some(()));
    }
    await_listening(&gateway, 1);
    database.user("ada", Some("another"), Some("active"));
    within(DEADLINE, "a change after the recovery", || (status(&gateway, &ada) == 401).then_some(()));
    assert_no_revocations(&gateway);
}

#[test]
fn a_change_while_the_gateway_is_deaf_is_noticed_all_the_same() {
    let Some(database) = Database::start() else { return };
    database.sql(TRIGGER);
    database.user("ada", Some(HASH), Some("active"));
    let upstream = Upstream::start();
    let mut site = site(&upstream, &database, BOTH);
    site.set("/issuers/people/keys/per_subject/ttl", json!("1h"));
    let gateway = site.start();
    await_listening(&gateway, 1);
    let ada = token("ada", &[Some(HASH), Some("active")]);
    assert_eq!(status(&gateway, &ada), 200);
    // The listening connection is cut, and cannot be made again; those that ask go on.
    database.sql("ALTER ROLE portcullis CONNECTION LIMIT 1");
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'portcullis' AND query NOT LIKE '%FROM users%'";
    assert_eq!(database.sql(cut), "1");
    until("a deaf gateway", || gateway.output().contains("no longer listening").then_some(()));
    assert_eq!(status(&gateway, &ada), 200, "it is asked for");
    database.user("ada", Some("another"), Some("active"));
    let changed = Instant::now();
    within(DEADLINE, "a change nobody told of", || (status(&gateway, &ada) == 401).then_some(()));
    eprintln!("noticed without being told after {:?}", changed.elapsed());
    database.sql("ALTER ROLE portcullis CONNECTION LIMIT 10");
    await_listening(&gateway, 1);
}

#[test]
fn without_a_channel_a_change_counts_when_the_lifetime_is_over() {
    let Some(database) = Database::start() else { return };
    database.user("ada", Some(HASH), Some("active"));
    let upstream = Upstream::start();
    let mut site = site(&upstream, &database, BOTH);
    site.config["issuers"]["people"]["keys"]["per_subject"]["postgres"].as_object_mut().unwrap().shift_remove("notify");
    site.set("/issuers/people/keys/per_subject/ttl", json!("2s"));
    site.set("/issuers/people/keys/per_subject/negative_ttl", json!("1s"));
    let gateway = site.start();
    let columns = [Some(HASH), Some("active")];
    let ada = token("ada", &columns);
    assert_eq!([status(&gateway, &ada), status(&gateway, &token("new", &columns))], [200, 401]);
    database.user("ada", Some("another"), Some("active"));
    database.user("new", Some(HASH), Some("active"));
    within(DEADLINE, "the change", || (status(&gateway, &ada) == 401).then_some(()));
    within(DEADLINE, "the new user", || (status(&gateway, &token("new", &columns)) == 200).then_some(()));
}

#[test]
fn made_up_subjects_ask_the_database_once_each_and_push_nobody_out() {
    let Some(database) = Database::start() else { return };
    database.user("ada", Some(HASH), Some("active"));
    let upstream = Upstream::start();
    let mut site = site(&upstream, &database, BOTH);
    site.set("/issuers/people/keys/per_subject/ttl", json!("1h"));
    site.set("/issuers/people/keys/per_subject/negative_ttl", json!("1h"));
    site.set("/issuers/people/keys/per_subject/max_entries", json!(100));
    let gateway = site.start();
    await_listening(&gateway, 1);
    let columns = [Some(HASH), Some("active")];
    let ada = token("ada", &columns);
    assert_eq!(status(&gateway, &ada), 200);
    for number in 0..300 {
        assert_eq!(status(&gateway, &token(&format!("made-up-{number}"), &columns)), 401);
    }
    // The database may now be as slow as it likes: nobody who is known needs it.
    database.sql("REVOKE SELECT ON users FROM portcullis");
    assert_eq!(status(&gateway, &ada), 200);
    let last = token("made-up-299", &columns);
    assert_eq!(status(&gateway, &last), 401, "that it is nobody is remembered");
    unavailable(&gateway.get_as("/orders", &token("new", &columns)));
}

#[test]
fn a_token_signed_by_its_issuer_hangs_on_the_fingerprint_it_carries() {
    let Some(database) = Database::start() else { return };
    database.sql(TRIGGER);
    database.user("bob", Some(HASH), Some("active"));
    let upstream = Upstream::start();
    let mut site = site(&upstream, &database, BOTH);
    let postgres = site.config["issuers"]["people"]["keys"]["per_subject"]["postgres"].clone();
    site.config["issuers"]["accounts"]["credential"] =
        json!({"base_secret": {"file": "secrets/base"}, "postgres": postgres, "ttl": "1h"});
    let gateway = site.start();
    await_listening(&gateway, 2);
    let issuer = &site.accounts;
    let columns = [Some(HASH), Some("active")];
    let of = |cfp: Value| issuer.token(json!({"sub": "bob", "cfp": cfp}));
    let current = fingerprint(&issuer.url, "bob", &columns);
    let bob = of(json!(current));
    assert_eq!(status(&gateway, &bob), 200);
    for (cfp, reason) in [
        (Value::Null, "missing_claim"),
        (json!(7), "malformed_claim"),
        (json!(""), "credential_changed"),
        (json!(fingerprint(PEOPLE, "bob", &columns)), "credential_changed"),
        (json!(fingerprint(&issuer.url, "ada", &columns)), "credential_changed"),
    ] {
        assert_eq!(refused(&gateway, &of(cfp.clone())), (401, reason.to_owned()), "{cfp}");
    }
    let nobody = issuer.token(json!({"sub": "nobody", "cfp": current}));
    assert_eq!(refused(&gateway, &nobody), (401, "credential_changed".to_owned()));
    let session = exchanged(&gateway, &bob);
    assert_eq!(claims_of(&session)["orig"]["cfp"], json!(current));
    database.user("bob", Some("another"), Some("active"));
    for token in [&bob, &session] {
        within(DEADLINE, "a dead token", || (status(&gateway, token) == 401).then_some(()));
        assert_eq!(refused(&gateway, token), (401, "credential_changed".to_owned()));
    }
    assert_no_revocations(&gateway);
}

#[test]
fn the_connection_to_the_database_is_tls_to_whom_the_authority_vouches_for() {
    let Some(mut database) = Database::start() else { return };
    database.user("ada", Some(HASH), Some("active"));
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let elsewhere = rcgen::generate_simple_self_signed(["database.example".to_owned()]).unwrap();
    database.write_private("server.crt", &made.cert.pem());
    database.write_private("server.key", &made.signing_key.serialize_pem());
    database.sql("ALTER SYSTEM SET ssl = on");
    database.halt();
    database.resume();
    let upstream = Upstream::start();
    let start = |tls: &str, authority: Option<String>| {
        let mut site = site(&upstream, &database, BOTH);
        let postgres = &mut site.config["issuers"]["people"]["keys"]["per_subject"]["postgres"];
        postgres["tls"] = json!(tls);
        if let Some(pem) = authority {
            postgres["ca_file"] = json!("ca.pem");
            site.write("ca.pem", &pem);
        }
        site.start()
    };
    let ada = token("ada", &[Some(HASH), Some("active")]);
    let good = start("verified", Some(made.cert.pem()));
    assert_eq!(status(&good, &ada), 200);
    let tls = "SELECT count(*) > 0 AND bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'portcullis'";
    assert_eq!(database.sql(tls), "t");
    for authority in [other.cert.pem(), elsewhere.cert.pem()] {
        unavailable(&start("verified", Some(authority)).get_as("/orders", &ada));
    }
}

#[test]
fn a_credential_can_be_pushed_where_there_is_nothing_to_ask() {
    let upstream = Upstream::start();
    let mut site = Site::with_sessions(&upstream);
    site.write_secret("secrets/base", BASE);
    site.config["issuers"]["people"] = json!({
        "issuer": PEOPLE, "audiences": ["shop"], "algorithms": ["HS256"],
        "keys": {"per_subject": {"base_secret": {"file": "secrets/base"}, "pushed": true}},
    });
    site.config["session"]["exchange"] = json!([{"issuer": "people", "subject_prefix": "people:"}]);
    // One worker, so that whoever is asked has seen the token before.
    site.set("/workers", json!(1));
    let gateway = site.start();
    let admin = gateway.admin();
    let path = "/v1/subjects/people/ada/credential";
    let push = |hash: &str| {
        let body = json!({"columns": [hash, null]}).to_string();
        admin.send("PUT", path, &[("Content-Type", "application/json")], body.as_bytes())
    };
    let old = token("ada", &[Some(HASH), None]);
    unavailable(&gateway.get_as("/orders", &old));
    let pushed = push(HASH);
    assert_eq!((pushed.status, &pushed.json()["cfp"]), (200, &json!(fingerprint(PEOPLE, "ada", &[Some(HASH), None]))));
    assert_eq!(status(&gateway, &old), 200);
    let session = exchanged(&gateway, &old);
    assert_eq!(push("another").status, 200);
    for token in [&old, &session] {
        assert_eq!(refused(&gateway, token), (401, "credential_changed".to_owned()), "at once, as the answer says");
    }
    // A reload keeps what was pushed; a restart does not, and then nobody can say.
    site.set("/shutdown/drain_timeout", json!("6s"));
    site.write_config();
    assert_eq!(admin.post("/v1/reload", &json!({})).status, 200);
    let new = token("ada", &[Some("another"), None]);
    assert_eq!(status(&gateway, &new), 200);
    assert_eq!(admin.delete(path).status, 204);
    assert_eq!(refused(&gateway, &new), (401, "credential_changed".to_owned()));
    assert_eq!(push(HASH).status, 200);
    assert_no_revocations(&gateway);
    assert_nothing_is_told(&[&gateway], &[&site]);
    gateway.stop();
    let gateway = site.start();
    unavailable(&gateway.get_as("/orders", &old));
    let accounts = gateway.admin().delete("/v1/subjects/accounts/ada/credential");
    assert_eq!((accounts.status, accounts.reason().as_str()), (409, "no_credentials"));
}

#[test]
fn an_operator_can_drop_what_was_looked_up() {
    let Some(database) = Database::start() else { return };
    database.user("ada", Some(HASH), Some("active"));
    let upstream = Upstream::start();
    let mut site = site(&upstream, &database, BOTH);
    site.config["issuers"]["people"]["keys"]["per_subject"]["postgres"].as_object_mut().unwrap().shift_remove("notify");
    site.set("/issuers/people/keys/per_subject/ttl", json!("1h"));
    let gateway = site.start();
    let ada = token("ada", &[Some(HASH), Some("active")]);
    assert_eq!(status(&gateway, &ada), 200);
    database.user("ada", Some("another"), Some("active"));
    assert_eq!(status(&gateway, &ada), 200, "nobody has told it");
    let path = format!("/v1/subjects/{}/ada/credential", "https%3A%2F%2Fpeople.example%2F");
    assert_eq!(gateway.admin().delete(&path).status, 204);
    assert_eq!(status(&gateway, &ada), 401);
    let put = gateway.admin().send("PUT", &path, &[("Content-Type", "application/json")], br#"{"columns": ["x"]}"#);
    assert_eq!((put.status, put.reason().as_str()), (409, "not_pushed"));
}

#[test]
fn explain_has_the_credential_looked_up_and_says_when_it_has_changed() {
    let Some(database) = Database::start() else { return };
    database.sql(TRIGGER);
    database.user("ada", Some(HASH), Some("active"));
    let upstream = Upstream::start();
    let gateway = site(&upstream, &database, BOTH).start();
    await_listening(&gateway, 1);
    let ada = token("ada", &[Some(HASH), Some("active")]);
    let explained = gateway.admin().explain(&ada);
    assert_eq!((&explained["admitted"], &explained["verified"]), (&json!(true), &json!(true)), "{explained}");
    let session = exchanged(&gateway, &ada);
    database.user("ada", Some("another"), Some("active"));
    within(DEADLINE, "the change", || (status(&gateway, &session) == 401).then_some(()));
    let explained = gateway.admin().explain(&session);
    assert_eq!((&explained["admitted"], &explained["reason"]), (&json!(false), &json!("credential_changed")));
}

#[test]
fn a_connection_that_falls_silent_is_noticed() {
    let Some(database) = Database::start() else { return };
    database.sql(TRIGGER);
    database.user("ada", Some(HASH), Some("active"));
    let upstream = Upstream::start();
    let mut site = site(&upstream, &database, BOTH);
    site.set("/issuers/people/keys/per_subject/ttl", json!("1h"));
    let gateway = site.start();
    await_listening(&gateway, 1);
    let ada = token("ada", &[Some(HASH), Some("active")]);
    assert_eq!(status(&gateway, &ada), 200);
    // The process at the other end stands still: nothing is closed, and nothing comes.
    let listening = "SELECT pid FROM pg_stat_activity WHERE usename = 'portcullis' AND query NOT LIKE '%FROM users%'";
    let stopped = Stopped::new(&database.sql(listening));
    database.user("ada", Some("another"), Some("active"));
    let changed = Instant::now();
    within(DEADLINE, "a change nobody told of", || (status(&gateway, &ada) == 401).then_some(()));
    eprintln!("noticed through silence after {:?}", changed.elapsed());
    drop(stopped);
    await_listening(&gateway, 1);
}

/// A process that stands still until this is dropped.
struct Stopped(String);

impl Stopped {
    fn new(pid: &str) -> Self {
        assert!(!pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()), "one process: {pid}");
        let stopped = Self(pid.to_owned());
        stopped.signal("STOP");
        stopped
    }

    fn signal(&self, name: &str) {
        let sent = std::process::Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &self.0]).status();
        assert!(sent.unwrap().success(), "SIG{name}");
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.signal("CONT");
    }
}

#[test]
fn one_look_up_serves_all_who_ask_at_the_same_time() {
    let Some(database) = Database::start() else { return };
    database.user("ada", Some(HASH), None);
    database.sql(
        "CREATE FUNCTION hash_of(wanted text) RETURNS SETOF text LANGUAGE plpgsql SECURITY DEFINER AS $$
         BEGIN
           PERFORM pg_sleep(0.7);
           RETURN QUERY SELECT password_hash FROM users WHERE id = wanted;
         END $$",
    );
    let upstream = Upstream::start();
    let mut site = site(&upstream, &database, "SELECT * FROM hash_of($1)");
    // One connection and time for two queries: sixteen of them would not fit.
    site.set("/issuers/people/keys/per_subject/postgres/connections", json!(1));
    let gateway = site.start();
    await_listening(&gateway, 1);
    let ada = token("ada", &[Some(HASH)]);
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..16).map(|_| scope.spawn(|| status(&gateway, &ada))).collect();
        for thread in asking {
            assert_eq!(thread.join().unwrap(), 200);
        }
    });
}
