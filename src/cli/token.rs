//! `portcullis token`: verify, decode and mint tokens offline, without a gateway, and derive per-subject keys.

mod decode;
mod derive;
mod mint;
mod verify;

use std::io::{self, BufRead, Read as _, Write};
use std::process::ExitCode;

use crate::time::Timestamp;
use crate::token::ParseError;

/// The longest token read, in bytes: more than any gateway takes, so that `decode` can show why.
const TOKEN_BYTES_MAX: usize = 64 << 10;

/// The exit status for a token that is not valid.
const INVALID: u8 = 1;

/// The exit status for a key that is refused or cannot be read.
const KEY_REFUSED: u8 = 2;

/// Arguments of `portcullis token`.
#[derive(Debug, clap::Args)]
pub struct TokenArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: TokenCommand,
}

/// What to do with a token.
#[derive(Debug, clap::Subcommand)]
pub enum TokenCommand {
    /// Check the signature of a compact JWS, and nothing else
    Verify(verify::VerifyArgs),
    /// Show what a token says, without checking its signature
    Decode(decode::DecodeArgs),
    /// Show the credential fingerprint of a subject, and its key: what a login service computes
    Derive(derive::DeriveArgs),
    /// Sign a token, for tests and demonstrations
    Mint(mint::MintArgs),
}

/// Runs the command. Exits 0 when it did what it says and the token is valid, 1 when the token is not,
/// 2 when the key is refused or cannot be read.
pub fn run(
    args: &TokenArgs,
    now: Timestamp,
    stdin: &mut dyn BufRead,
    stdout: &mut dyn Write,
    stderr: &mut dyn Write,
) -> ExitCode {
    let done = match &args.command {
        TokenCommand::Verify(args) => verify::run(args, stdin, stdout, stderr),
        TokenCommand::Decode(args) => decode::run(args, stdin, stdout, stderr),
        TokenCommand::Derive(args) => derive::run(args, stdin, stdout),
        TokenCommand::Mint(args) => mint::run(args, now, stdin, stdout),
    };
    match done {
        Ok(code) => code,
        Err(failure) => {
            // Where even this cannot be written, the exit status has to do.
            let _ = writeln!(stderr, "error: {}", failure.message);
            failure.code
        }
    }
}

/// What ends a command early.
struct Failure {
    code: ExitCode,
    message: String,
}

impl Failure {
    fn invalid(message: impl Into<String>) -> Self {
        Self { code: ExitCode::from(INVALID), message: message.into() }
    }

    fn key(message: impl Into<String>) -> Self {
        Self { code: ExitCode::from(KEY_REFUSED), message: message.into() }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::invalid(error.to_string())
    }
}

/// The token an argument names: itself, or for `-` what stdin holds.
fn token(argument: &str, stdin: &mut dyn BufRead) -> Result<String, Failure> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    // One byte more than is read of any token, and the line end: too large still shows as too large.
    let mut text = String::new();
    stdin.take(TOKEN_BYTES_MAX as u64 + 3).read_to_string(&mut text)?;
    text.truncate(text.trim_ascii_end().len());
    Ok(text)
}

/// The bytes of a key file.
fn key_file(path: &std::path::Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        // One byte more than the largest key set, so that a larger one shows as too large.
        .and_then(|file| file.take(crate::keys::JSON_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| Failure::key(format!("cannot read {}: {error}", path.display())))?;
    Ok(bytes)
}

/// A secret file's content: all of it but the line end that editors leave behind.
fn secret_file(path: &std::path::Path) -> Result<crate::secret::Secret, Failure> {
    let mut bytes = key_file(path)?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    Ok(crate::secret::Secret::new(bytes))
}

/// The name of a parse error, as the gateway's own answers have it.
const fn reason(error: ParseError) -> &'static str {
    match error {
        ParseError::TooLarge => "token_too_large",
        ParseError::Malformed => "malformed_token",
        ParseError::AlgNotAllowed => "alg_not_allowed",
        ParseError::CritNotSupported => "crit_not_supported",
        ParseError::MissingClaim => "missing_claim",
        ParseError::MalformedClaim => "malformed_claim",
    }
}

#[cfg(test)]
mod tests;
