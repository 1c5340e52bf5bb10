//! What a revocation can name.

use std::fmt;
use std::str::FromStr;

/// The kinds of target, from the narrowest to the widest: the order in which a refusal names one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum TargetKind {
    /// One token: issuer and `jti`, or issuer and the digest of *header.payload*.
    Token = 1,
    /// One session: issuer and `sid`.
    Session = 2,
    /// One subject: issuer and `sub`. Never a bare `sub`: two issuers may both have a user 42.
    Subject = 3,
    /// One client: issuer and `azp` or `client_id`.
    Client = 4,
    /// One signing key, by RFC 7638 thumbprint.
    Key = 5,
    /// Everything of one issuer.
    Issuer = 6,
    /// Everything.
    All = 7,
}

impl TargetKind {
    /// Every kind, narrowest first.
    pub const ALL: [Self; 7] =
        [Self::Token, Self::Session, Self::Subject, Self::Client, Self::Key, Self::Issuer, Self::All];

    /// The name in the API, the store, metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Session => "session",
            Self::Subject => "subject",
            Self::Client => "client",
            Self::Key => "key",
            Self::Issuer => "issuer",
            Self::All => "all",
        }
    }

    /// Whether a block of this kind is forgotten after the horizon, because nothing lives longer.
    #[must_use]
    pub const fn is_single_use(self) -> bool {
        matches!(self, Self::Token | Self::Session)
    }

    /// Whether a block is the only form this kind can have: there is no "before" for what is used up
    /// by one log-in, or for a key that leaked.
    #[must_use]
    pub const fn takes_blocks_only(self) -> bool {
        matches!(self, Self::Token | Self::Session | Self::Key)
    }
}

impl fmt::Display for TargetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name is not one of [`TargetKind::ALL`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown target kind; one of token, session, subject, client, key, issuer, all")]
pub struct UnknownTargetKind;

impl FromStr for TargetKind {
    type Err = UnknownTargetKind;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or(UnknownTargetKind)
    }
}

/// What one revocation names. Compared byte by byte: no case folding, no Unicode normalisation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// What it is.
    pub kind: TargetKind,
    /// The `iss` it belongs to; empty for [`TargetKind::Key`] (a thumbprint is unique by itself) and
    /// [`TargetKind::All`].
    pub issuer: String,
    /// The identifier within the issuer; empty for [`TargetKind::Issuer`] and [`TargetKind::All`].
    pub value: String,
}

impl Target {
    /// The target of `kind` that `value` names within `issuer`; parts that the kind does not have
    /// are dropped, so that one thing has one name.
    #[must_use]
    pub fn new(kind: TargetKind, issuer: impl Into<String>, value: impl Into<String>) -> Self {
        let (issuer, value) = (issuer.into(), value.into());
        match Self::parts(kind, &issuer, &value) {
            ("", "") => Self { kind, issuer: String::new(), value: String::new() },
            ("", _) => Self { kind, issuer: String::new(), value },
            (_, "") => Self { kind, issuer, value: String::new() },
            (_, _) => Self { kind, issuer, value },
        }
    }

    /// `issuer` and `value` as far as `kind` has them; the others empty.
    pub(crate) const fn parts<'a>(kind: TargetKind, issuer: &'a str, value: &'a str) -> (&'a str, &'a str) {
        match kind {
            TargetKind::Token | TargetKind::Session | TargetKind::Subject | TargetKind::Client => (issuer, value),
            TargetKind::Key => ("", value),
            TargetKind::Issuer => (issuer, ""),
            TargetKind::All => ("", ""),
        }
    }
}
