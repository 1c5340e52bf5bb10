//! YAML to [`Config`], or every problem at once.
//!
//! The file is not the config: private raw shapes mirror the file, and lowering turns them into the
//! types of this module, whose values are right by construction. Nothing is dialled, spawned or bound
//! here; secret and key files are read, and nothing else is.
//!
//! Text → tree with places (`tree`, strict about YAML) → the schema's shape and defaults (`check`) →
//! raw shapes (`raw`) → meaning (`lower`). Each step goes on after a problem, so that one run finds
//! all of them.

mod check;
mod files;
mod lower;
mod model;
mod path;
mod preset;
mod problem;
mod raw;
mod schema;
#[cfg(test)]
mod tests;
mod tree;
mod units;

use std::path::{Path, PathBuf};

use files::Files;
use problem::Findings;

pub use model::*;
pub use problem::{Problem, Problems, Severity};
pub use schema::schema;

/// The largest configuration read: a thousand routes are a tenth of it.
const TEXT_BYTES_MAX: u64 = 1 << 20;

/// A configuration that may be used, and what was noticed about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What is in force.
    pub config: Config,
    /// SHA-256 in hex over the text and everything it refers to: two loads with one digest are the same.
    pub digest: String,
    /// The whole file with defaults filled in; where a secret comes from is shown as `[redacted]`.
    pub redacted: serde_json::Value,
    /// What is probably not meant.
    pub warnings: Vec<Problem>,
}

/// What came of reading a configuration file, and what that hung on.
#[derive(Debug)]
pub struct Reading {
    /// The configuration, or every problem of the file.
    pub outcome: Result<Loaded, Problems>,
    /// The file and all that it names, whether they could be read or not.
    pub files: Vec<PathBuf>,
}

/// Reads a configuration file. Paths in it are relative to its folder.
///
/// # Errors
/// Every problem of the file.
pub fn load(path: &Path) -> Result<Loaded, Problems> {
    read(path).outcome
}

/// [`load`], for whoever wants to know when to do it again.
#[must_use]
pub fn read(path: &Path) -> Reading {
    let name = path.display().to_string();
    let text = || -> Result<String, String> {
        let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
        if !metadata.is_file() {
            return Err("not a file".to_owned());
        }
        if metadata.len() > TEXT_BYTES_MAX {
            return Err("larger than 1 MiB".to_owned());
        }
        let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
        String::from_utf8(bytes).map_err(|error| format!("byte {} is not UTF-8", error.utf8_error().valid_up_to()))
    };
    let base = path.parent().unwrap_or_else(|| Path::new(""));
    let mut reading = match text() {
        Ok(text) => parse_in(&text, &name, base, &|variable| std::env::var(variable).ok()),
        Err(why) => Reading { outcome: Err(Problems::unreadable(&name, &why)), files: Vec::new() },
    };
    reading.files.push(path.to_owned());
    reading
}

/// Reads a configuration from text. `name` stands for the file in problems; paths in the text are
/// relative to `base_dir`.
///
/// # Errors
/// Every problem of the text.
pub fn parse(text: &str, name: &str, base_dir: &Path) -> Result<Loaded, Problems> {
    parse_in(text, name, base_dir, &|variable| std::env::var(variable).ok()).outcome
}

/// [`parse`], with the environment as an argument.
fn parse_in(text: &str, name: &str, base_dir: &Path, environment: &dyn Fn(&str) -> Option<String>) -> Reading {
    if text.len() as u64 > TEXT_BYTES_MAX {
        return Reading { outcome: Err(Problems::unreadable(name, "larger than 1 MiB")), files: Vec::new() };
    }
    let mut findings = Findings::default();
    let mut files = Files::new(text, base_dir, environment);
    let lowered = tree::read(text, &mut findings).and_then(|mut root| {
        check::conform(&mut root, &schema(), &mut findings);
        let yaml = root.to_yaml();
        let redacted = redacted(&yaml);
        match serde_yaml::from_value::<raw::Root>(yaml) {
            Ok(raw) => Some((lower::lower(&raw, &root, &mut findings, &mut files), redacted)),
            // The tree was made to fit, unless there is nothing left of it; what is missing was reported.
            Err(_) if findings.errors() > 0 => None,
            Err(error) => {
                findings.error(root.span.clone(), format!("cannot be read: {error}"), "");
                None
            }
        }
    });
    let (digest, files) = files.close();
    let outcome = findings.conclude(text, name).and_then(|warnings| match lowered {
        Some((config, redacted)) => Ok(Loaded { config, digest, redacted, warnings }),
        None => Err(Problems::unreadable(name, "it has no configuration in it")),
    });
    Reading { outcome, files }
}

/// The file as JSON, without a word about where secrets are.
fn redacted(yaml: &serde_yaml::Value) -> serde_json::Value {
    use serde_json::Value;
    fn hide(value: &mut Value) {
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    // A URL that is somewhere else has a password.
                    if matches!(name.as_str(), "secret" | "base_secret") || name == "url" && member.is_object() {
                        *member = Value::String("[redacted]".to_owned());
                    } else {
                        hide(member);
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(hide),
            _ => {}
        }
    }
    let mut value = serde_json::to_value(yaml).unwrap_or_default();
    hide(&mut value);
    value
}
