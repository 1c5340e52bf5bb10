//! The login services of `examples/`: each signs as the gateway verifies, and what it signed ends with the password.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aws_lc_rs::pbkdf2;
use serde_json::{Value, json};

use crate::credentials::{BASE, PEOPLE, fingerprint, site};
use crate::support::issuer::base64url;
use crate::support::patience::within;
use crate::support::{Connection, Database, Upstream, request};

const TRIGGER: &str = include_str!("../../docs/per-subject-keys.sql");
const QUERY: &str = "SELECT password_hash, status FROM users WHERE id = $1";
const DEADLINE: Duration = Duration::from_secs(10);

/// A login service that runs, and its end.
struct Service {
    child: Child,
    address: SocketAddr,
}

impl Service {
    fn start(mut command: Command, database: &Database, base: &Path) -> Self {
        let search = database.psql().parent().unwrap().display().to_string() + ":" + &std::env::var("PATH").unwrap();
        let mut child = command
            .arg("serve")
            .envs(database.environment())
            .envs([("ISSUER", PEOPLE), ("AUDIENCE", "shop"), ("PORT", "0"), ("PATH", &search)])
            .env("BASE_SECRET_FILE", base)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        let port = u16::try_from(told["listening"].as_u64().unwrap()).unwrap();
        Self { child, address: (Ipv4Addr::LOCALHOST, port).into() }
    }

    fn log_in(&self, user: &str, password: &str) -> (u16, Option<String>) {
        let body = json!({"user": user, "password": password}).to_string();
        let headers = [("Content-Type", "application/json"), ("Connection", "close")];
        let response =
            Connection::open(self.address).send(&request("POST", "/login", &headers, body.as_bytes())).response();
        assert_eq!(response.header("cache-control"), Some("no-store"));
        (response.status, response.json()["token"].as_str().map(str::to_owned))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A password hash as the services read it; few iterations, because nobody attacks it.
fn hashed(password: &str) -> String {
    let (iterations, salt) = (1000, b"a salt of the test");
    let mut hash = [0; 32];
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        NonZeroU32::new(iterations).unwrap(),
        salt,
        password.as_bytes(),
        &mut hash,
    );
    format!("pbkdf2-sha256${iterations}${}${}", base64url(salt), base64url(hash))
}

/// `None` where there is no such program, which CI does not accept.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|folder| folder.join(name))
        .find(|it| it.is_file());
    assert!(found.is_some() || std::env::var("CI").as_deref() != Ok("true"), "{name} is not installed");
    if found.is_none() {
        eprintln!("not run: {name} is not installed");
    }
    found
}

fn example(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/login-service").join(path)
}

fn interpreted(interpreter: &str, script: &str) -> Option<Command> {
    let mut command = Command::new(program(interpreter)?);
    command.arg(example(script));
    Some(command)
}

/// The example in Rust, built with the tests.
fn built() -> Command {
    let beside = Path::new(env!("CARGO_BIN_EXE_portcullis")).parent().unwrap();
    Command::new(beside.join("examples/login-service"))
}

/// A login service in front of the gateway: what it signs is honoured until the password or the status changes.
fn proves_itself(make: impl Fn() -> Option<Command>) {
    let Some(mut check) = make() else { return };
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/per-subject-vectors.json");
    let output = check.arg("check").arg(vectors).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let Some(database) = Database::start() else { return };
    database.sql(TRIGGER);
    // Nothing in a name or a password may mean anything to SQL, psql, JSON or a shell.
    let user = "J\u{fc}rgen's; DROP TABLE users; -- :'id' \\ $1 \"";
    let password = "p\u{e4}ss\"w'ord\\ $(id)";
    database.user(user, Some(&hashed(password)), Some("active"));
    let upstream = Upstream::start();
    let mut site = site(&upstream, &database, QUERY);
    site.set("/issuers/people/keys/per_subject/ttl", json!("1h"));
    let gateway = site.start();
    let service = Service::start(make().unwrap(), &database, &site.file("secrets/base"));
    within(DEADLINE, "a gateway that listens", || gateway.output().contains("listening for changed").then_some(()));

    for (name, word) in [(user, "wrong"), ("nobody", password), ("", ""), (user, "")] {
        assert_eq!(service.log_in(name, word), (401, None), "{name} {word}");
    }
    let status = |token: &str| gateway.get_as("/orders", token).status;
    let (code, token) = service.log_in(user, password);
    let token = token.unwrap_or_else(|| panic!("{code}"));
    assert_eq!(status(&token), 200, "{:?}", gateway.get_as("/orders", &token));

    database.user(user, Some(&hashed("another")), Some("active"));
    within(DEADLINE, "the end of the old token", || (status(&token) == 401).then_some(()));
    assert_eq!(service.log_in(user, password), (401, None));
    let token = service.log_in(user, "another").1.expect("a token");
    assert_eq!(status(&token), 200);

    database.user(user, Some(&hashed("another")), Some("blocked"));
    within(DEADLINE, "the end of a blocked user's token", || (status(&token) == 401).then_some(()));
    assert_eq!(service.log_in(user, "another"), (401, None));
    assert_eq!(database.sql("SELECT count(*) FROM users"), "1");

    // Whatever else is sent is answered, and the service goes on.
    let mut stranger = TcpStream::connect(service.address).unwrap();
    stranger
        .write_all(b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nConnection: close\r\n\r\n{nope")
        .unwrap();
    drop(stranger);
    assert_eq!(service.log_in("nobody", "x"), (401, None));
}

#[test]
fn the_login_service_in_node_signs_as_the_gateway_verifies() {
    proves_itself(|| interpreted("node", "node/login.mjs"));
}

#[test]
fn the_login_service_in_python_signs_as_the_gateway_verifies() {
    proves_itself(|| interpreted("python3", "python/login.py"));
}

#[test]
fn the_login_service_in_rust_signs_as_the_gateway_verifies() {
    proves_itself(|| Some(built()));
}

#[test]
fn the_shell_lines_of_the_document_derive_and_sign() {
    let document = include_str!("../../docs/per-subject-keys.md");
    let lines = document.split("```sh\n").find(|block| block.contains("token derive")).expect("the lines");
    let lines = lines.split("```").next().unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("secrets")).unwrap();
    std::fs::write(folder.path().join("secrets/base"), BASE).unwrap();
    let binaries = Path::new(env!("CARGO_BIN_EXE_portcullis")).parent().unwrap().display().to_string();
    let output = Command::new("sh")
        .args(["-euc", lines])
        .current_dir(folder.path())
        .env("PATH", binaries + ":" + &std::env::var("PATH").unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8(output.stdout).unwrap();
    let columns: Vec<Option<String>> =
        serde_json::from_slice(&std::fs::read(folder.path().join("columns.json")).unwrap()).unwrap();
    let columns: Vec<Option<&str>> = columns.iter().map(Option::as_deref).collect();
    let cfp = fingerprint("https://people.example.com/", "42", &columns);
    assert_eq!(told.lines().next(), Some(json!({ "cfp": cfp }).to_string().as_str()));
    let claims = crate::support::issuer::claims_of(told.lines().nth(1).expect("a token"));
    assert_eq!((&claims["sub"], &claims["iss"]), (&json!("42"), &json!("https://people.example.com/")));
}
