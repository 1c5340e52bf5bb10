//! `portcullis token decode`: what a token says, for a person who wonders why it was refused.

use std::io::{BufRead, Write};
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::{Failure, TOKEN_BYTES_MAX, reason, token};
use crate::time::Timestamp;
use crate::token::Compact;
use crate::token::json::object;

/// Claims that are instants.
const TIMES: [&str; 5] = ["iat", "nbf", "exp", "auth_time", "orig_iat"];

/// Arguments of `portcullis token decode`.
#[derive(Debug, clap::Args)]
pub struct DecodeArgs {
    /// The token, or `-` for stdin
    pub token: String,
}

pub(super) fn run(
    args: &DecodeArgs,
    stdin: &mut dyn BufRead,
    stdout: &mut dyn Write,
    stderr: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let token = token(&args.token, stdin)?;
    let shown = show(&token)?;
    writeln!(stdout, "{shown:#}")?;
    writeln!(stderr, "signature NOT verified: anybody can write such a token")?;
    Ok(ExitCode::SUCCESS)
}

/// Everything the token says and, when the gateway would not even read it, why.
fn show(token: &str) -> Result<Value, Failure> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Failure::invalid("token_too_large"));
    }
    let mut parts = token.split('.');
    let (header, claims) = (part(parts.next(), "header")?, part(parts.next(), "payload")?);
    let mut times = Map::new();
    for (name, at) in TIMES.iter().filter_map(|name| Some((name, instant(claims.get(*name)?)?))) {
        times.insert((*name).to_owned(), Value::String(at.to_string()));
    }
    let mut shown = json!({"signature": "NOT verified", "header": header, "claims": claims, "times": times});
    let (name, value) = match Compact::parse(token, TOKEN_BYTES_MAX) {
        Ok(compact) => ("revocation_name", compact.name()),
        Err(error) => ("refused", format!("{}: {error}", reason(error))),
    };
    shown[name] = Value::String(value);
    Ok(shown)
}

fn part(part: Option<&str>, name: &str) -> Result<Map<String, Value>, Failure> {
    let part = part.filter(|part| !part.is_empty()).ok_or_else(|| Failure::invalid(format!("there is no {name}")))?;
    let bytes = URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|error| Failure::invalid(format!("the {name} is not base64url without padding: {error}")))?;
    object(&bytes).map_err(|error| Failure::invalid(format!("the {name} is not one JSON object: {error}")))
}

fn instant(claim: &Value) -> Option<Timestamp> {
    // The cast holds the value within the range of the type.
    let millis = claim.as_f64().filter(|secs| *secs >= 0.0)? * 1000.0;
    Some(Timestamp::from_millis(millis.round() as i64))
}
