//! The records that revocation state is made of. They are immutable; a [`Lift`] is one too.

use std::fmt;
use std::str::FromStr;

use super::Target;
use crate::time::Timestamp;

/// Names one record: a UUIDv7, or the caller's `Idempotency-Key`. 1 to 128 visible ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordId(String);

/// The text is not a record id.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id has 1 to 128 visible ASCII characters")]
pub struct InvalidRecordId;

impl RecordId {
    /// A new id, ordered by time.
    #[must_use]
    pub fn generate() -> Self {
        Self(uuid::Uuid::now_v7().to_string())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RecordId {
    type Err = InvalidRecordId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if fits { Ok(Self(text.to_owned())) } else { Err(InvalidRecordId) }
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a record does to the tokens of its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Every token of the target, until lifted (tokens and sessions: until forgotten).
    Block,
    /// Tokens whose origin is at or before `issued`, and tokens whose `auth_time` is at or before
    /// `authenticated` (or who have none). At least one of the two is set.
    Before {
        /// `issued_before`.
        issued: Option<Timestamp>,
        /// `authenticated_before`.
        authenticated: Option<Timestamp>,
    },
}

/// Why something was revoked: a closed list, carried from the call to the audit line to the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names say it")]
#[repr(u8)]
pub enum Reason {
    Logout = 1,
    PasswordChanged = 2,
    PermissionsChanged = 3,
    AccountDeleted = 4,
    AccountBlocked = 5,
    AccountSuspended = 6,
    CredentialCompromised = 7,
    KeyCompromised = 8,
    SessionReuse = 9,
    Admin = 10,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 10] = [
        Self::Logout,
        Self::PasswordChanged,
        Self::PermissionsChanged,
        Self::AccountDeleted,
        Self::AccountBlocked,
        Self::AccountSuspended,
        Self::CredentialCompromised,
        Self::KeyCompromised,
        Self::SessionReuse,
        Self::Admin,
    ];

    /// The name in the API, the store, metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Logout => "logout",
            Self::PasswordChanged => "password_changed",
            Self::PermissionsChanged => "permissions_changed",
            Self::AccountDeleted => "account_deleted",
            Self::AccountBlocked => "account_blocked",
            Self::AccountSuspended => "account_suspended",
            Self::CredentialCompromised => "credential_compromised",
            Self::KeyCompromised => "key_compromised",
            Self::SessionReuse => "session_reuse",
            Self::Admin => "admin",
        }
    }

    /// Whether a subject revoked for this reason is blocked until lifted rather than cut at a moment.
    #[must_use]
    pub const fn blocks_by_default(self) -> bool {
        matches!(self, Self::AccountDeleted | Self::AccountBlocked | Self::AccountSuspended)
    }

    /// Whether it also voids what a fresh login has not renewed, for issuers that state `auth_time`.
    #[must_use]
    pub const fn voids_authentication(self) -> bool {
        matches!(self, Self::PasswordChanged | Self::CredentialCompromised)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name is not one of [`Reason::ALL`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown reason; one of logout, password_changed, permissions_changed, account_deleted, account_blocked, \
     account_suspended, credential_compromised, key_compromised, session_reuse, admin"
)]
pub struct UnknownReason;

impl FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|reason| reason.name() == name).ok_or(UnknownReason)
    }
}

/// By which door a record came in: a closed list, for the audit line and the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Source {
    /// The admin API.
    Admin = 1,
    /// `POST /session/logout` or a logout route.
    Logout = 2,
    /// The gateway itself: a grant that ended an earlier session, a raised limit.
    Gateway = 3,
}

impl Source {
    /// Every source.
    pub const ALL: [Self; 3] = [Self::Admin, Self::Logout, Self::Gateway];

    /// The name in the store, metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Logout => "logout",
            Self::Gateway => "gateway",
        }
    }
}

/// One revocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Its own id.
    pub id: RecordId,
    /// What it names.
    pub target: Target,
    /// What it does.
    pub form: Form,
    /// Why.
    pub reason: Reason,
    /// By which door it came.
    pub source: Source,
    /// Who asked for it: the name of an admin token, or the subject who logged out.
    pub actor: String,
    /// A free remark, bounded by the admin API.
    pub note: Option<String>,
    /// When it was made.
    pub at: Timestamp,
    /// From when on nothing it refuses can be alive any more; `None`: until lifted.
    pub forget_at: Option<Timestamp>,
}

/// The tombstone of one revocation: it beats every replay of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lift {
    /// Its own id.
    pub id: RecordId,
    /// The revocation it lifts.
    pub of: RecordId,
    /// The target of that revocation.
    pub target: Target,
    /// What it leaves in force: a cutoff at the moment of the lift for a lifted block, so that stolen
    /// tokens stay dead; nothing when the caller asked to restore them.
    pub leaves: Option<Timestamp>,
    /// Who asked for it.
    pub actor: String,
    /// A free remark.
    pub note: Option<String>,
    /// When it was made.
    pub at: Timestamp,
    /// From when on it need not be kept: not before the lifted record could come back.
    pub forget_at: Option<Timestamp>,
}
