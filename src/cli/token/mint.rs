//! `portcullis token mint`: signs a token, for tests and demonstrations.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Map, Value, json};

use super::derive::Way;
use super::{Failure, derive, key_file, secret_file};
use crate::keys::KeySet;
use crate::time::Timestamp;
use crate::token::{Algorithm, Family};

/// Arguments of `portcullis token mint`.
#[derive(Debug, clap::Args)]
pub struct MintArgs {
    /// A PEM private key or, for an HMAC, a secret without its last line end
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// The algorithm
    #[arg(long = "alg", value_name = "ALG")]
    pub algorithm: Algorithm,
    /// The issuer
    #[arg(long = "iss", value_name = "ISSUER")]
    pub issuer: String,
    /// An audience; may be given several times
    #[arg(long = "aud", value_name = "AUDIENCE")]
    pub audiences: Vec<String>,
    /// The subject
    #[arg(long = "sub", value_name = "SUBJECT", allow_hyphen_values = true)]
    pub subject: Option<String>,
    /// How long the token lives, such as 15m
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = duration)]
    pub ttl: Duration,
    /// A further claim, or another value for one of the above: a name and JSON; may be given several times
    #[arg(long = "claim", value_name = "NAME=JSON", value_parser = claim)]
    pub claims: Vec<(String, Value)>,
    /// The key id
    #[arg(long = "kid", value_name = "KID", allow_hyphen_values = true)]
    pub key_id: Option<String>,
    /// Sign with the key of the subject: the key file then holds the base secret, and this one the columns
    /// that the user database has of the subject (`-`: standard input), a JSON array of texts and nulls
    #[arg(long, value_name = "FILE|-", requires = "subject")]
    pub per_subject: Option<PathBuf>,
    /// How the key of the subject is made
    #[arg(long, value_name = "WAY", default_value = "hkdf", requires = "per_subject")]
    pub derive: Way,
    /// The type in the header
    #[arg(long, default_value = "JWT")]
    pub typ: String,
}

pub(super) fn run(
    args: &MintArgs,
    now: Timestamp,
    stdin: &mut dyn BufRead,
    stdout: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    if args.per_subject.is_some() && args.algorithm != Algorithm::HS256 {
        return Err(Failure::key("the keys of subjects are for HS256"));
    }
    let refused = |error| Failure::key(format!("failed to load the key: {error}"));
    let key = match args.algorithm.family() {
        Family::Ec => EncodingKey::from_ec_pem(&key_file(&args.key)?).map_err(refused)?,
        Family::Ed => EncodingKey::from_ed_pem(&key_file(&args.key)?).map_err(refused)?,
        Family::Rsa => EncodingKey::from_rsa_pem(&key_file(&args.key)?).map_err(refused)?,
        Family::Hmac => {
            let secret = match (&args.per_subject, &args.subject) {
                (Some(columns), Some(subject)) => {
                    derive::key((&args.key, args.derive), (&args.issuer, subject), columns, stdin)?
                }
                _ => secret_file(&args.key)?,
            };
            KeySet::from_secret(&secret, &[args.algorithm])
                .map_err(|error| Failure::key(format!("failed to load the key: {error}")))?;
            EncodingKey::from_secret(secret.expose())
        }
    };
    let mut header = Header::new(args.algorithm.name().parse().map_err(refused)?);
    header.kid.clone_from(&args.key_id);
    header.typ = Some(args.typ.clone());
    let token = encode(&header, &claims(args, now), &key)
        .map_err(|error| Failure::key(format!("failed to sign with the key: {error}")))?;
    writeln!(stdout, "{token}")?;
    Ok(ExitCode::SUCCESS)
}

fn claims(args: &MintArgs, now: Timestamp) -> Map<String, Value> {
    let mut claims = Map::new();
    let mut put = |name: &str, value: Value| claims.insert(name.to_owned(), value);
    put("iss", json!(args.issuer));
    if let Some(subject) = &args.subject {
        put("sub", json!(subject));
    }
    match args.audiences.as_slice() {
        [] => {}
        [one] => drop(put("aud", json!(one))),
        several => drop(put("aud", json!(several))),
    }
    put("iat", json!(now.secs()));
    put("exp", json!(now.plus(args.ttl).secs()));
    put("jti", json!(uuid::Uuid::now_v7().to_string()));
    for (name, value) in &args.claims {
        put(name, value.clone());
    }
    claims
}

fn duration(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text.parse().map_err(|_| "not a duration such as 15m or 1h30m".to_owned())?;
    Duration::try_from(span).map_err(|_| "a duration is not negative".to_owned())
}

fn claim(text: &str) -> Result<(String, Value), String> {
    let (name, json) = text.split_once('=').ok_or_else(|| "not NAME=JSON".to_owned())?;
    let value = serde_json::from_str(json)
        .map_err(|error| format!("{json} is not JSON ({error}); a text needs its quotes: {name}='\"…\"'"))?;
    Ok((name.to_owned(), value))
}
