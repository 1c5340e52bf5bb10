//! The rule, in its plainest words. Nothing here is fast, nothing is forgotten, and nothing is shared with the
//! gateway: times are milliseconds since the epoch, names are texts.

/// Whom a credential is from.
pub(crate) type Issuer = String;

/// Something that can be shown to the gate, as the model knows it.
#[derive(Clone, Debug)]
pub(crate) struct Credential {
    pub(crate) issuer: Issuer,
    pub(crate) subject: String,
    pub(crate) session: String,
    /// Its own name: `jti`.
    pub(crate) name: String,
    pub(crate) client: Option<String>,
    /// What it was signed with.
    pub(crate) key: String,
    /// The credential it was made from: the one it succeeds, or the one that opened its session.
    pub(crate) parent: Option<usize>,
    /// When it says it was issued. Of the first of a chain, this is when the chain began.
    pub(crate) issued: i64,
    /// When its holder authenticated.
    pub(crate) authenticated: Option<i64>,
    /// From when to when it may be used.
    pub(crate) from: i64,
    pub(crate) until: i64,
    /// How long it says it lives.
    pub(crate) life: i64,
}

/// What a revocation names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Token(Issuer, String),
    Session(Issuer, String),
    Subject(Issuer, String),
    Client(Issuer, String),
    Key(String),
    Issuer(Issuer),
    All,
}

/// What a revocation says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Says {
    Nothing,
    Never,
    NotBefore { issued: Option<i64>, authenticated: Option<i64> },
}

/// Everything that happened.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) credentials: Vec<Credential>,
    /// Every revocation, and what it says by now: lifting one changes what it says.
    pub(crate) revocations: Vec<(Name, Says)>,
    /// Every replacement that was not undone: issuer, old, new.
    pub(crate) replacements: Vec<(Issuer, String, String)>,
    /// Keys that are published no longer.
    pub(crate) unpublished: Vec<String>,
    /// The longest life of an issuer's tokens, now, for those that have one.
    pub(crate) longest: Vec<(Issuer, i64)>,
    /// The oldest authentication that an issuer's tokens may have.
    pub(crate) oldest: Vec<(Issuer, i64)>,
}

impl History {
    /// Whether a credential is honoured at `now`.
    pub(crate) fn honours(&self, index: usize, now: i64) -> bool {
        let it = &self.credentials[index];
        let in_time = it.from <= now && now < it.until;
        let short = self.longest.iter().all(|(issuer, longest)| *issuer != it.issuer || it.life <= *longest);
        in_time && short && !self.unpublished.contains(&it.key) && self.is_recent(index, now) && !self.is_revoked(index)
    }

    /// Whether anything that was ever said about a credential, or about any it came from, is against it.
    pub(crate) fn is_revoked(&self, index: usize) -> bool {
        let line = self.line(index);
        let first = &self.credentials[*line.last().unwrap()];
        line.iter().any(|ancestor| {
            let ancestor = &self.credentials[*ancestor];
            self.is_given_up(&ancestor.issuer, &ancestor.subject)
                || self.revocations.iter().any(|(name, says)| {
                    self.concerns(name, ancestor)
                        && match says {
                            Says::Nothing => false,
                            Says::Never => true,
                            Says::NotBefore { issued, authenticated } => {
                                issued.is_some_and(|cutoff| first.issued <= cutoff)
                                    || authenticated
                                        .is_some_and(|cutoff| first.authenticated.is_none_or(|at| at <= cutoff))
                            }
                        }
                })
        })
    }

    /// A credential, what it was made from, what that was made from, and so on.
    pub(crate) fn line(&self, index: usize) -> Vec<usize> {
        let mut line = vec![index];
        while let Some(parent) = self.credentials[line[line.len() - 1]].parent {
            line.push(parent);
        }
        line
    }

    /// Whether the authentication at the beginning is recent enough for everybody it went through.
    fn is_recent(&self, index: usize, now: i64) -> bool {
        let line = self.line(index);
        let first = &self.credentials[*line.last().unwrap()];
        self.oldest.iter().all(|(issuer, oldest)| {
            let concerned = line.iter().any(|ancestor| self.credentials[*ancestor].issuer == *issuer);
            !concerned || first.authenticated.is_some_and(|at| now < at + oldest)
        })
    }

    fn concerns(&self, name: &Name, it: &Credential) -> bool {
        match name {
            // A token of the gateway's own stands for its session.
            Name::Token(issuer, token) => {
                *issuer == it.issuer && (*token == it.name || token.split('.').next() == Some(it.session.as_str()))
            }
            Name::Session(issuer, session) => *issuer == it.issuer && *session == it.session,
            Name::Subject(issuer, subject) => {
                *issuer == it.issuer && self.ids(issuer, &it.subject).iter().any(|id| id == subject)
            }
            Name::Client(issuer, client) => *issuer == it.issuer && Some(client) == it.client.as_ref(),
            Name::Key(key) => *key == it.key,
            Name::Issuer(issuer) => *issuer == it.issuer,
            Name::All => true,
        }
    }

    /// A subject and every id that its account had before.
    pub(crate) fn ids(&self, issuer: &str, subject: &str) -> Vec<String> {
        let mut ids = vec![subject.to_owned()];
        while let Some((_, old, _)) =
            self.replacements.iter().find(|(of, _, new)| of == issuer && *new == ids[ids.len() - 1])
        {
            ids.push(old.clone());
        }
        ids
    }

    fn is_given_up(&self, issuer: &str, subject: &str) -> bool {
        self.replacements.iter().any(|(of, old, _)| of == issuer && old == subject)
    }

    fn is_in_a_chain(&self, issuer: &str, subject: &str) -> bool {
        self.replacements.iter().any(|(of, old, new)| of == issuer && (old == subject || new == subject))
    }

    /// Whether one subject may take the place of another.
    pub(crate) fn may_replace(&self, issuer: &str, old: &str, new: &str) -> bool {
        old != new && !self.is_given_up(issuer, old) && !self.is_in_a_chain(issuer, new)
    }

    /// Whether the replacement of a subject may be undone.
    pub(crate) fn may_undo(&self, issuer: &str, old: &str) -> bool {
        let replaced = self.replacements.iter().find(|(of, it, _)| of == issuer && it == old);
        replaced.is_some_and(|(_, _, new)| !self.is_given_up(issuer, new))
    }
}
