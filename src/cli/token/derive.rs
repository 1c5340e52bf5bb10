//! `portcullis token derive`: what a login service computes for a subject, to compare with.

use std::io::{BufRead, Read as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use zeroize::Zeroizing;

use super::{Failure, secret_file};
use crate::keys::subject::{COLUMN_BYTES_MAX, COLUMNS_MAX, Columns, Derivation, Derive};
use crate::secret::Secret;

/// The largest file of columns: the longest ones, each of their bytes escaped.
const COLUMNS_FILE_MAX: u64 = (COLUMNS_MAX * COLUMN_BYTES_MAX * 6 + 1024) as u64;

/// The shortest base secret that a gateway takes.
const BASE_BYTES_MIN: usize = 32;

/// Arguments of `portcullis token derive`.
#[derive(Debug, clap::Args)]
pub struct DeriveArgs {
    /// A file with the base secret, without its last line end
    #[arg(long, value_name = "FILE")]
    pub base: PathBuf,
    /// The issuer: the `iss` of the tokens
    #[arg(long = "iss", value_name = "ISSUER")]
    pub issuer: String,
    /// The subject
    #[arg(long = "sub", value_name = "SUBJECT", allow_hyphen_values = true)]
    pub subject: String,
    /// A file with the columns that the user database has of the subject, or `-` for standard input: a
    /// JSON array of texts and nulls
    #[arg(long, value_name = "FILE|-")]
    pub columns: PathBuf,
    /// How the key is made
    #[arg(long, value_name = "WAY", default_value = "hkdf")]
    pub derive: Way,
    /// Show the key too (base64url): whoever has it can sign as the subject
    #[arg(long)]
    pub show_key: bool,
}

/// How the key of a subject is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// HKDF-SHA256 over issuer, subject and columns
    Hkdf,
    /// The base secret, and after it the one column
    Concat,
}

pub(super) fn run(args: &DeriveArgs, stdin: &mut dyn BufRead, stdout: &mut dyn Write) -> Result<ExitCode, Failure> {
    let derivation = derivation(&args.base, args.derive, &args.issuer)?;
    let columns = columns(&args.columns, stdin)?;
    let failed = |error| Failure::key(format!("failed to derive the key: {error}"));
    let mut shown = json!({ "cfp": derivation.fingerprint(&args.subject, &columns).map_err(failed)? });
    let key = derivation.key(&args.subject, &columns).map_err(failed)?;
    if args.show_key {
        shown["key"] = json!(URL_SAFE_NO_PAD.encode(key.expose()));
    }
    writeln!(stdout, "{shown}")?;
    Ok(ExitCode::SUCCESS)
}

/// The key of a subject, for whoever signs with it.
pub(super) fn key(
    (base, way): (&Path, Way),
    (issuer, subject): (&str, &str),
    from: &Path,
    stdin: &mut dyn BufRead,
) -> Result<Secret, Failure> {
    let columns = columns(from, stdin)?;
    derivation(base, way, issuer)?
        .key(subject, &columns)
        .map_err(|error| Failure::key(format!("failed to derive the key: {error}")))
}

fn derivation(base: &Path, way: Way, issuer: &str) -> Result<Derivation, Failure> {
    let base = secret_file(base)?;
    if base.len() < BASE_BYTES_MIN {
        return Err(Failure::key(format!("the base secret has {} bytes, and {BASE_BYTES_MIN} are needed", base.len())));
    }
    let how = match way {
        Way::Hkdf => Derive::Hkdf,
        Way::Concat => Derive::Concat,
    };
    Ok(Derivation::new(&base, how, issuer))
}

fn columns(from: &Path, stdin: &mut dyn BufRead) -> Result<Columns, Failure> {
    let mut json = Zeroizing::new(Vec::new());
    let limit = COLUMNS_FILE_MAX + 1;
    let read = match from.to_str() {
        Some("-") => stdin.take(limit).read_to_end(&mut json),
        _ => std::fs::File::open(from).and_then(|file| file.take(limit).read_to_end(&mut json)),
    };
    read.map_err(|error| Failure::key(format!("cannot read {}: {error}", from.display())))?;
    Columns::from_json(&json).map_err(|error| Failure::key(format!("failed to read the columns: {error}")))
}
