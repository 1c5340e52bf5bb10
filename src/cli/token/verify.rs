//! `portcullis token verify`: the gateway's own signature check on one compact JWS and one key or set.

use std::io::{BufRead, Read as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::{Failure, INVALID, TOKEN_BYTES_MAX, key_file, reason, secret_file, token};
use crate::keys::{KeySet, KeySetError};
use crate::secret::Secret;
use crate::token::{Algorithm, Family, SignedParts};

/// The longest line of a batch, in bytes; a longer one is answered as malformed and passed over.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Arguments of `portcullis token verify`. The payload is not interpreted: it need not be a token's.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("key").required(true))]
pub struct VerifyArgs {
    /// A JSON Web Key, public or `oct`
    #[arg(long, value_name = "FILE", group = "key")]
    pub jwk: Option<PathBuf>,
    /// A JSON Web Key Set
    #[arg(long, value_name = "FILE", group = "key")]
    pub jwks: Option<PathBuf>,
    /// A PEM public key or certificate
    #[arg(long, value_name = "FILE", group = "key")]
    pub public_key: Option<PathBuf>,
    /// An HMAC secret, without its last line end
    #[arg(long, value_name = "FILE", group = "key")]
    pub secret_file: Option<PathBuf>,
    /// Read lines `{"jwk"|"jwks": …, "token": "…"}` from stdin; answer `{"valid": …, "reason": …}` to each
    #[arg(long, value_name = "-", group = "key", value_parser = ["-"], conflicts_with = "token")]
    pub batch: Option<String>,
    /// Allowed algorithms; the default is every one that fits the key
    #[arg(long = "alg", value_name = "ALG", value_delimiter = ',')]
    pub algorithms: Vec<Algorithm>,
    /// The compact JWS, or `-` for stdin
    #[arg(required_unless_present = "batch")]
    pub token: Option<String>,
}

impl VerifyArgs {
    fn allowed(&self) -> &[Algorithm] {
        if self.algorithms.is_empty() { &Algorithm::ALL } else { &self.algorithms }
    }
}

pub(super) fn run(
    args: &VerifyArgs,
    stdin: &mut dyn BufRead,
    stdout: &mut dyn Write,
    stderr: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    if args.batch.is_some() {
        return batch(args.allowed(), stdin, stdout);
    }
    let keys = load(args)?;
    for refused in keys.refused() {
        let key_id = refused.key_id.as_deref().unwrap_or_default();
        writeln!(stderr, "key {key_id:?} is not used: {}", refused.why)?;
    }
    if keys.keys().is_empty() {
        return Err(Failure::key("no key of the set can be used"));
    }
    let jws = token(args.token.as_deref().unwrap_or("-"), stdin)?;
    match verify(&keys, &jws) {
        Ok(()) => {
            writeln!(stdout, "valid")?;
            Ok(ExitCode::SUCCESS)
        }
        Err(reason) => {
            writeln!(stdout, "invalid: {reason}")?;
            Ok(ExitCode::from(INVALID))
        }
    }
}

/// Whether one of the keys signed it; if not, why, by the name the gateway gives it.
fn verify(keys: &KeySet, jws: &str) -> Result<(), &'static str> {
    let parts = SignedParts::parse(jws, TOKEN_BYTES_MAX).map_err(reason)?;
    let header = &parts.header;
    let mut candidates = keys.candidates(header.key_id.as_deref(), header.algorithm).peekable();
    if candidates.peek().is_none() {
        let is_bound_to_another = Algorithm::ALL
            .into_iter()
            .any(|algorithm| keys.candidates(header.key_id.as_deref(), algorithm).next().is_some());
        return Err(if is_bound_to_another { "alg_not_allowed" } else { "unknown_key" });
    }
    if candidates.any(|key| key.verify(parts.signing_input.as_bytes(), &parts.signature)) {
        return Ok(());
    }
    Err("bad_signature")
}

fn load(args: &VerifyArgs) -> Result<KeySet, Failure> {
    let text = |path: &PathBuf| {
        String::from_utf8(key_file(path)?)
            .map_err(|_| Failure::key(format!("cannot read {}: not UTF-8", path.display())))
    };
    let refused = |error: KeySetError| Failure::key(format!("failed to load the keys: {error}"));
    let keys = match (&args.jwk, &args.jwks, &args.public_key, &args.secret_file) {
        (Some(path), ..) => KeySet::from_jwk(&text(path)?, args.allowed(), true),
        (_, Some(path), ..) => KeySet::from_jwks(&text(path)?, args.allowed(), true),
        (_, _, Some(path), _) => KeySet::from_pem(&text(path)?, args.allowed()),
        (_, _, _, Some(path)) => {
            let secret = secret_file(path)?;
            KeySet::from_secret(&secret, &mac_algorithms(&args.algorithms, &secret))
        }
        _ => return Err(Failure::key("no key was named")),
    };
    keys.map_err(refused)
}

/// The algorithms asked for or, when none is, each HMAC that the secret is long enough for.
fn mac_algorithms(asked: &[Algorithm], secret: &Secret) -> Vec<Algorithm> {
    if !asked.is_empty() {
        return asked.to_vec();
    }
    let hmac = |algorithm: &Algorithm| algorithm.family() == Family::Hmac;
    let fits = |algorithm: &Algorithm| KeySet::from_secret(secret, &[*algorithm]).is_ok();
    let fitting: Vec<_> = Algorithm::ALL.into_iter().filter(hmac).filter(fits).collect();
    // Asking for the least lets the refusal say how long a secret must be.
    if fitting.is_empty() { vec![Algorithm::HS256] } else { fitting }
}

/// One line of a batch. The keys stay text, so that they are read as strictly as from a file.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    jwk: Option<&'a RawValue>,
    #[serde(borrow)]
    jwks: Option<&'a RawValue>,
    token: String,
}

fn batch(allowed: &[Algorithm], stdin: &mut dyn BufRead, stdout: &mut dyn Write) -> Result<ExitCode, Failure> {
    let mut line = Vec::new();
    loop {
        line.clear();
        if stdin.take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line)? == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        let whole = line.len() <= LINE_BYTES_MAX || line.ends_with(b"\n");
        let verdict = if whole { judge(&line, allowed) } else { Err(malformed_line()) };
        if !whole {
            skip_line(stdin)?;
        }
        let answer = match verdict {
            Ok(()) => json!({"valid": true, "reason": null}),
            Err(Invalid { reason, detail: None }) => json!({"valid": false, "reason": reason}),
            Err(Invalid { reason, detail }) => json!({"valid": false, "reason": reason, "detail": detail}),
        };
        writeln!(stdout, "{answer}")?;
    }
}

/// Why a line is not valid.
struct Invalid {
    reason: &'static str,
    detail: Option<String>,
}

fn malformed_line() -> Invalid {
    Invalid { reason: "malformed_line", detail: None }
}

fn judge(line: &[u8], allowed: &[Algorithm]) -> Result<(), Invalid> {
    let text = std::str::from_utf8(line).map_err(|_| malformed_line())?;
    let line: Line<'_> = serde_json::from_str(text).map_err(|_| malformed_line())?;
    let keys = match (line.jwk, line.jwks) {
        (Some(jwk), None) => KeySet::from_jwk(jwk.get(), allowed, true),
        (None, Some(jwks)) => KeySet::from_jwks(jwks.get(), allowed, true),
        _ => return Err(malformed_line()),
    };
    let refused = |detail: String| Invalid { reason: "key_refused", detail: Some(detail) };
    let keys = keys.map_err(|error| refused(error.to_string()))?;
    if let (Some(first), []) = (keys.refused().first(), keys.keys()) {
        return Err(refused(first.why.to_string()));
    }
    verify(&keys, &line.token).map_err(|reason| Invalid { reason, detail: None })
}

/// Passes over what is left of a line without holding it.
fn skip_line(input: &mut dyn BufRead) -> std::io::Result<()> {
    loop {
        let chunk = input.fill_buf()?;
        let (used, done) = match chunk.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (chunk.len(), chunk.is_empty()),
        };
        input.consume(used);
        if done {
            return Ok(());
        }
    }
}
