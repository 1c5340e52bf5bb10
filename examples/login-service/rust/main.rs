//! A small login service whose tokens hang on the user's row: when the password or the status changes
//! there, the gateway honours them no longer.
//!
//!     login-service serve         answers POST /login {"user": …, "password": …} with {"token": …}
//!     login-service check FILE    compares the formula with the published test vectors
//!
//! Settings (environment): ISSUER, AUDIENCE, BASE_SECRET_FILE, PORT (0: a free one, printed), and those of
//! psql (PGHOST, PGUSER, …), which reads the row here so that no driver is needed: use the one you have.

#![expect(clippy::print_stdout, reason = "it is a program to be read, and says where it listens")]

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::process::{Command, Stdio};
use std::time::Duration;

use aws_lc_rs::{hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis::keys::subject::{Columns, Derivation, Derive};
use portcullis::secret::Secret;
use portcullis::time::Clock;
use serde_json::{Value, json};

const LIFETIME: i64 = 15 * 60;

struct Settings {
    issuer: String,
    audience: String,
    derivation: Derivation,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["serve"] => serve(),
        ["check", file] => check(file),
        _ => Err("login-service serve | login-service check FILE".into()),
    }
}

// --- tokens

fn sign(claims: &Value, key: &Secret) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(&json!({ "alg": "HS256", "typ": "JWT" })), part(claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.expose()), text.as_bytes());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

// --- users

/// The columns that the gateway's own query asks for, in its order; `None` when there is no such user.
fn read_row(user: &str) -> Result<Option<Vec<Option<String>>>, Box<dyn Error>> {
    let query = "SELECT json_build_array(password_hash, status) FROM users WHERE id = :'id'";
    let mut psql = Command::new("psql")
        .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-v", &format!("id={user}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    psql.stdin.take().ok_or("no input")?.write_all(query.as_bytes())?;
    let output = psql.wait_with_output()?;
    if !output.status.success() {
        return Err("the user database did not answer".into());
    }
    let answer = output.stdout.trim_ascii();
    if answer.is_empty() { Ok(None) } else { Ok(Some(serde_json::from_slice(answer)?)) }
}

/// `pbkdf2-sha256$ITERATIONS$SALT$HASH`, the last two base64url.
fn is_password(stored: &str, password: &str) -> Result<bool, Box<dyn Error>> {
    let [_, iterations, salt, wanted] = stored.split('$').collect::<Vec<_>>()[..] else {
        return Err("a password hash of another kind".into());
    };
    let iterations: NonZeroU32 = iterations.parse()?;
    let (salt, wanted) = (URL_SAFE_NO_PAD.decode(salt)?, URL_SAFE_NO_PAD.decode(wanted)?);
    Ok(pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password.as_bytes(), &wanted).is_ok())
}

fn log_in(settings: &Settings, user: &str, password: &str) -> Result<Option<String>, Box<dyn Error>> {
    let columns = if user.contains('\0') { None } else { read_row(user)? };
    let nobody = format!("pbkdf2-sha256$100000$bm9ib2R5${}", URL_SAFE_NO_PAD.encode([0; 32]));
    let stored = columns.as_ref().and_then(|columns| columns.first().cloned().flatten());
    // Nobody's password takes as long as somebody's, and is never right.
    let good = is_password(stored.as_deref().unwrap_or(&nobody), password)?;
    let Some(columns) = columns.filter(|it| good && stored.is_some() && it.get(1) == Some(&Some("active".to_owned())))
    else {
        return Ok(None);
    };
    let now = Clock::System.now().secs();
    let claims = json!({
        "iss": settings.issuer, "aud": settings.audience, "sub": user, "iat": now, "exp": now + LIFETIME,
        "jti": uuid::Uuid::now_v7().to_string(),
    });
    // The row that the password was checked against makes the key: a change in between makes the token void.
    let columns = Columns::from_json(&serde_json::to_vec(&columns)?)?;
    Ok(Some(sign(&claims, &settings.derivation.key(user, &columns)?)))
}

// --- HTTP, as little as will do: one request a connection

fn serve() -> Result<(), Box<dyn Error>> {
    let issuer = std::env::var("ISSUER")?;
    let base = std::fs::read(std::env::var("BASE_SECRET_FILE")?)?;
    let base = Secret::new(base.strip_suffix(b"\n").unwrap_or(&base).to_vec());
    let derivation = Derivation::new(&base, Derive::Hkdf, &issuer);
    let settings = Settings { issuer, audience: std::env::var("AUDIENCE")?, derivation };
    let port: u16 = std::env::var("PORT").map_or(Ok(0), |port| port.parse())?;
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    println!("{}", json!({ "listening": listener.local_addr()?.port() }));
    for stream in listener.incoming() {
        // Whoever breaks off gets no answer.
        drop(stream.map(|stream| answer(&settings, stream)));
    }
    Ok(())
}

fn answer(settings: &Settings, mut stream: TcpStream) -> Result<(), Box<dyn Error>> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let asked = read_request(&stream).unwrap_or_default();
    let (status, body) = match (asked["user"].as_str(), asked["password"].as_str()) {
        (Some(user), Some(password)) => match log_in(settings, user, password) {
            Ok(Some(token)) => ("200 OK", json!({ "token": token })),
            Ok(None) => ("401 Unauthorized", json!({ "error": "wrong user or password" })),
            Err(_) => ("503 Service Unavailable", json!({ "error": "the user database did not answer" })),
        },
        _ => ("400 Bad Request", json!({ "error": "send {\"user\": …, \"password\": …}" })),
    };
    let body = body.to_string();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    Ok(())
}

fn read_request(stream: &TcpStream) -> Result<Value, Box<dyn Error>> {
    let mut reader = BufReader::new(stream.take(16 * 1024));
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse()?;
        }
    }
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

fn check(file: &str) -> Result<(), Box<dyn Error>> {
    let read: Value = serde_json::from_slice(&std::fs::read(file)?)?;
    let vectors = read["vectors"].as_array().ok_or("no vectors")?;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    for it in vectors {
        let text = |name: &str| it[name].as_str().unwrap_or_default();
        let digits = text("base_secret_hex");
        let base: Result<Vec<u8>, _> =
            (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16)).collect();
        let how = if text("derive") == "hkdf" { Derive::Hkdf } else { Derive::Concat };
        let derivation = Derivation::new(&Secret::new(base?), how, text("issuer"));
        let columns = Columns::from_json(it["columns"].to_string().as_bytes())?;
        let key = derivation.key(text("subject"), &columns)?;
        let cfp = derivation.fingerprint(text("subject"), &columns)?;
        if (hex(key.expose()).as_str(), &*cfp) != (text("key_hex"), text("cfp")) {
            return Err(format!("{}: another key or fingerprint", text("name")).into());
        }
    }
    println!("{} vectors are right", vectors.len());
    Ok(())
}
