//! A store as lines of JSON: a header, and then every entry and every document, whoever wrote it.
//!
//! For copies that people can read and other tools can make. What a line says is kept to the byte, so that
//! nodes that hold the same go on doing so. Settings are not in it: they are about one store.

use serde::{Deserialize, Serialize};

use super::exchange::{check_document, check_entry};
use super::{Adopted, Body, Document, DocumentKind, Entry, Other, StoreError};
use crate::revocation::{Form, Lift, Reason, RecordId, Revocation, Source, Target};
use crate::time::Timestamp;

/// The version of the lines that this release writes, and the latest that it reads.
pub const LINES_VERSION: u32 = 1;
/// Longest line. Everything a store keeps fits, however much of it has to be escaped.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The version of all lines, [`LINES_VERSION`].
    pub version: u32,
    /// Which store it was.
    pub store_id: String,
    /// The format of its database.
    pub format: i64,
    /// The number of its newest row.
    pub sequence: u64,
    /// How many lines follow, so that a copy that was cut off is noticed. Without it nobody looks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<u64>,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Line {
    Document(Adopted),
    Entry(Entry),
    Header(Header),
}

/// Why a text is no line of a store.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum LineError {
    #[error("not a line of a store")]
    Json(#[source] serde_json::Error),
    #[error("the {what} `{value}` is not one that this release knows")]
    Unknown { what: &'static str, value: String },
    #[error("the id is not one")]
    Id,
    #[error("a cutoff and a block at the same time, or neither")]
    Form,
    #[error(transparent)]
    Unfit(#[from] StoreError),
}

impl Line {
    /// Reads one line.
    ///
    /// # Errors
    ///
    /// When it is none, or says something that no store keeps.
    pub fn parse(text: &str) -> Result<Self, LineError> {
        let line = match serde_json::from_str(text).map_err(LineError::Json)? {
            Written::Store(header) => return Ok(Self::Header(header)),
            Written::Document(it) => Self::Document(it.read()?),
            Written::Lift(it) => Self::Entry(it.read()?),
            Written::Other(it) => Self::Entry(it.read()?),
            Written::Revocation(it) => Self::Entry(it.read()?),
        };
        match &line {
            Self::Document(it) => check_document(it)?,
            Self::Entry(it) => check_entry(it).map_err(StoreError::from)?,
            Self::Header(_) => {}
        }
        Ok(line)
    }

    /// The line, without its end.
    ///
    /// # Errors
    ///
    /// None that can happen: everything in it has JSON.
    pub fn to_json(&self) -> serde_json::Result<String> {
        let written = match self {
            Self::Document(it) => Written::Document(DocumentLine::of(it)),
            Self::Entry(entry) => match &entry.body {
                Body::Lift(it) => Written::Lift(LiftLine::of(entry, it)),
                Body::Other(it) => Written::Other(OtherLine::of(entry, it)),
                Body::Revocation(it) => Written::Revocation(RevocationLine::of(entry, it)),
            },
            Self::Header(it) => Written::Store(it.clone()),
        };
        serde_json::to_string(&written)
    }
}

#[derive(Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Written {
    Document(DocumentLine),
    Lift(LiftLine),
    Other(OtherLine),
    Revocation(RevocationLine),
    Store(Header),
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct TargetLine {
    kind: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    issuer: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    value: String,
}

impl TargetLine {
    fn of(target: &Target) -> Self {
        Self { kind: target.kind.name().to_owned(), issuer: target.issuer.clone(), value: target.value.clone() }
    }

    fn read(self) -> Result<Target, LineError> {
        let kind = self.kind.parse().map_err(|_| unknown("kind of target", self.kind))?;
        Ok(Target::new(kind, self.issuer, self.value))
    }
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RevocationLine {
    origin: String,
    number: u64,
    version: u16,
    id: String,
    target: TargetLine,
    #[serde(default, skip_serializing_if = "is_false")]
    block: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    issued_before: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    authenticated_before: Option<Timestamp>,
    reason: String,
    source: String,
    actor: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forget_at: Option<Timestamp>,
}

impl RevocationLine {
    fn of(entry: &Entry, it: &Revocation) -> Self {
        let (block, issued_before, authenticated_before) = match it.form {
            Form::Block => (true, None, None),
            Form::Before { issued, authenticated } => (false, issued, authenticated),
        };
        Self {
            origin: entry.origin.clone(),
            number: entry.origin_seq,
            version: entry.version,
            id: it.id.to_string(),
            target: TargetLine::of(&it.target),
            block,
            issued_before,
            authenticated_before,
            reason: it.reason.name().to_owned(),
            source: it.source.name().to_owned(),
            actor: it.actor.clone(),
            note: it.note.clone(),
            at: it.at,
            forget_at: it.forget_at,
        }
    }

    fn read(self) -> Result<Entry, LineError> {
        let form = match (self.block, self.issued_before, self.authenticated_before) {
            (true, None, None) => Form::Block,
            (false, issued, authenticated) if issued.or(authenticated).is_some() => {
                Form::Before { issued, authenticated }
            }
            _ => return Err(LineError::Form),
        };
        let source = Source::ALL.into_iter().find(|it| it.name() == self.source);
        let body = Body::Revocation(Revocation {
            id: id(&self.id)?,
            target: self.target.read()?,
            form,
            reason: self.reason.parse::<Reason>().map_err(|_| unknown("reason", self.reason))?,
            source: source.ok_or_else(|| unknown("source", self.source))?,
            actor: self.actor,
            note: self.note,
            at: self.at,
            forget_at: self.forget_at,
        });
        Ok(Entry { origin: self.origin, origin_seq: self.number, version: self.version, body })
    }
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct LiftLine {
    origin: String,
    number: u64,
    version: u16,
    id: String,
    of: String,
    target: TargetLine,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    leaves: Option<Timestamp>,
    actor: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forget_at: Option<Timestamp>,
}

impl LiftLine {
    fn of(entry: &Entry, it: &Lift) -> Self {
        Self {
            origin: entry.origin.clone(),
            number: entry.origin_seq,
            version: entry.version,
            id: it.id.to_string(),
            of: it.of.to_string(),
            target: TargetLine::of(&it.target),
            leaves: it.leaves,
            actor: it.actor.clone(),
            note: it.note.clone(),
            at: it.at,
            forget_at: it.forget_at,
        }
    }

    fn read(self) -> Result<Entry, LineError> {
        let body = Body::Lift(Lift {
            id: id(&self.id)?,
            of: id(&self.of)?,
            target: self.target.read()?,
            leaves: self.leaves,
            actor: self.actor,
            note: self.note,
            at: self.at,
            forget_at: self.forget_at,
        });
        Ok(Entry { origin: self.origin, origin_seq: self.number, version: self.version, body })
    }
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct OtherLine {
    origin: String,
    number: u64,
    version: u16,
    id: String,
    kind: String,
    says: String,
    restricts: Vec<TargetLine>,
    at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forget_at: Option<Timestamp>,
}

impl OtherLine {
    fn of(entry: &Entry, it: &Other) -> Self {
        Self {
            origin: entry.origin.clone(),
            number: entry.origin_seq,
            version: entry.version,
            id: it.id.to_string(),
            kind: it.kind.clone(),
            says: it.says.clone(),
            restricts: it.restricts.iter().map(TargetLine::of).collect(),
            at: it.at,
            forget_at: it.forget_at,
        }
    }

    fn read(self) -> Result<Entry, LineError> {
        let body = Body::Other(Other {
            id: id(&self.id)?,
            kind: self.kind,
            says: self.says,
            restricts: self.restricts.into_iter().map(TargetLine::read).collect::<Result<_, _>>()?,
            at: self.at,
            forget_at: self.forget_at,
        });
        Ok(Entry { origin: self.origin, origin_seq: self.number, version: self.version, body })
    }
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct DocumentLine {
    origin: String,
    kind: String,
    key: String,
    revision: u64,
    body: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forget_at: Option<Timestamp>,
}

impl DocumentLine {
    fn of(Adopted { origin, document }: &Adopted) -> Self {
        Self {
            origin: origin.clone(),
            kind: document.kind.name().to_owned(),
            key: document.key.clone(),
            revision: document.revision,
            body: document.body.clone(),
            forget_at: document.forget_at,
        }
    }

    fn read(self) -> Result<Adopted, LineError> {
        let kind = DocumentKind::ALL.into_iter().find(|it| it.name() == self.kind);
        let document = Document {
            kind: kind.ok_or_else(|| unknown("kind of document", self.kind))?,
            key: self.key,
            revision: self.revision,
            body: self.body,
            forget_at: self.forget_at,
        };
        Ok(Adopted { origin: self.origin, document })
    }
}

fn unknown(what: &'static str, value: String) -> LineError {
    LineError::Unknown { what, value }
}

fn id(text: &str) -> Result<RecordId, LineError> {
    text.parse().map_err(|_| LineError::Id)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(it: &bool) -> bool {
    !*it
}

#[cfg(test)]
mod tests;
