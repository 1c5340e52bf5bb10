//! What a caller asks for, and what that means.

use super::Level;
use crate::revocation::{Form, Horizons, Reason, RecordId, Source, Target, TargetKind};
use crate::time::Timestamp;

/// Longest issuer, in bytes.
const MAX_ISSUER: usize = 2048;
/// Longest value: nothing longer fits into a token that is honoured.
const MAX_VALUE: usize = 8192;
/// Longest name of who asked.
const MAX_ACTOR: usize = 1024;
/// Longest remark.
const MAX_NOTE: usize = 4096;

/// A request to revoke something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to revoke; the issuer by its URL or its config name.
    pub target: Target,
    /// `true`: a block; `false`: not a block, whatever the reason; `None`: as the kind and the reason
    /// have it.
    pub block: Option<bool>,
    /// Refuse tokens whose origin is at or before this; in the future by no more than the skew.
    pub issued_before: Option<Timestamp>,
    /// Refuse tokens whose `auth_time` is at or before this, or missing.
    pub authenticated_before: Option<Timestamp>,
    /// Remember it at least until then. Never shortens anything.
    pub expires_at: Option<Timestamp>,
    /// Why.
    pub reason: Reason,
    /// A remark, at most 4 KiB.
    pub note: Option<String>,
    /// Who asks, at most 1 KiB.
    pub actor: String,
    /// By which door.
    pub source: Source,
    /// The caller's `Idempotency-Key`: the same request with the same id is carried out once.
    pub id: Option<RecordId>,
    /// How far it is to have come before it is answered; `None`: as the configuration has it.
    pub level: Option<Level>,
}

impl Request {
    /// The shortest request: the default form for its kind and reason, at the present.
    #[must_use]
    pub fn new(target: Target, reason: Reason, actor: impl Into<String>, source: Source) -> Self {
        Self {
            target,
            block: None,
            issued_before: None,
            authenticated_before: None,
            expires_at: None,
            reason,
            note: None,
            actor: actor.into(),
            source,
            id: None,
            level: None,
        }
    }
}

/// Why a request makes no sense. Read as "failed to revoke: {self}".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequest {
    /// 422.
    #[error("a {0} can only be blocked: it takes no cutoff")]
    BlockOnly(TargetKind),
    /// 400.
    #[error("a block refuses every token: leave out issued_before and authenticated_before")]
    BlockWithCutoff,
    /// 400.
    #[error("the cutoff lies further in the future than the clocks may differ")]
    FutureCutoff,
    /// 400.
    #[error("a {0} needs a value")]
    MissingValue(TargetKind),
    /// 400.
    #[error("{field} is longer than {limit} bytes")]
    TooLong {
        /// Which field.
        field: &'static str,
        /// How long it may be.
        limit: usize,
    },
    /// 422.
    #[error("unknown issuer; give its config name or its URL")]
    UnknownIssuer,
    /// 422.
    #[error("the issuer has no max_authentication_age, so authenticated_before cannot be kept for long enough")]
    Unsupported,
}

/// What a request means at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meaning {
    pub(super) target: Target,
    pub(super) form: Form,
    pub(super) forget_at: Option<Timestamp>,
}

impl Request {
    /// What this request means when it is made at `now`.
    pub(super) fn meaning(&self, horizons: &Horizons, now: Timestamp) -> Result<Meaning, InvalidRequest> {
        let target = self.target(horizons)?;
        check_length("actor", &self.actor, MAX_ACTOR)?;
        check_length("note", self.note.as_deref().unwrap_or_default(), MAX_NOTE)?;
        let form = self.form(&target, horizons, now)?;
        // A caller's time may only lengthen: a client that misjudges when its token ends must not
        // bring it back to life.
        let forget_at = horizons.forget_at(&target, form, now).map(|at| at.max(self.expires_at.unwrap_or(at)));
        Ok(Meaning { target, form, forget_at })
    }

    fn target(&self, horizons: &Horizons) -> Result<Target, InvalidRequest> {
        let kind = self.target.kind;
        check_length("issuer", &self.target.issuer, MAX_ISSUER)?;
        check_length("value", &self.target.value, MAX_VALUE)?;
        if self.target.value.is_empty() && !matches!(kind, TargetKind::Issuer | TargetKind::All) {
            return Err(InvalidRequest::MissingValue(kind));
        }
        let issuer = match kind {
            TargetKind::Key | TargetKind::All => "",
            TargetKind::Token | TargetKind::Session | TargetKind::Subject | TargetKind::Client | TargetKind::Issuer => {
                horizons.resolve(&self.target.issuer).map_err(|_| InvalidRequest::UnknownIssuer)?
            }
        };
        let target = Target::new(kind, issuer, self.target.value.as_str());
        // Revoking a minted token revokes its session: its successors were minted from it.
        let own = horizons.session_absolute.as_ref().is_some_and(|(url, _)| *url == target.issuer);
        match target.value.rsplit_once('.') {
            Some((session, _)) if own && kind == TargetKind::Token => {
                Ok(Target::new(TargetKind::Session, target.issuer.as_str(), session))
            }
            _ => Ok(target),
        }
    }

    fn form(&self, target: &Target, horizons: &Horizons, now: Timestamp) -> Result<Form, InvalidRequest> {
        let cutoffs = self.issued_before.is_some() || self.authenticated_before.is_some();
        let block = match self.block {
            Some(true) if cutoffs => return Err(InvalidRequest::BlockWithCutoff),
            Some(block) => block,
            None => !cutoffs && (target.kind.takes_blocks_only() || self.reason.blocks_by_default()),
        };
        if block {
            return Ok(Form::Block);
        }
        if target.kind.takes_blocks_only() {
            return Err(InvalidRequest::BlockOnly(target.kind));
        }
        let latest = now.plus(horizons.skew(target));
        if [self.issued_before, self.authenticated_before].into_iter().flatten().any(|cutoff| cutoff > latest) {
            return Err(InvalidRequest::FutureCutoff);
        }
        if self.authenticated_before.is_some() && horizons.authentication_horizon(target).is_none() {
            return Err(InvalidRequest::Unsupported);
        }
        let issued = if cutoffs { self.issued_before } else { Some(now.plus(horizons.cutoff_margin(target))) };
        // A thief's refresh at the identity provider gives a new `iat`, but no new `auth_time`.
        let voids = self.reason.voids_authentication() && horizons.states_authentication(target);
        let authenticated = self.authenticated_before.or(if voids { issued } else { None });
        Ok(Form::Before { issued, authenticated })
    }
}

/// Holds a text to its bound.
pub(super) const fn check_length(field: &'static str, text: &str, limit: usize) -> Result<(), InvalidRequest> {
    if text.len() > limit { Err(InvalidRequest::TooLong { field, limit }) } else { Ok(()) }
}

/// Holds who asks for a lift, and the remark, to their bounds.
pub(super) fn check_lift(actor: &str, note: Option<&str>) -> Result<(), InvalidRequest> {
    check_length("actor", actor, MAX_ACTOR)?;
    check_length("note", note.unwrap_or_default(), MAX_NOTE)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::revocation::IssuerHorizon;

    const HOUR: Duration = Duration::from_secs(3600);
    const SKEW: Duration = Duration::from_secs(5);
    const MARGIN: Duration = Duration::from_secs(2);

    fn issuer(name: &str, max_authentication_age: Option<Duration>) -> IssuerHorizon {
        IssuerHorizon {
            name: name.to_owned(),
            url: format!("https://{name}.example/"),
            max_lifetime: HOUR,
            skew: SKEW,
            exchangeable: false,
            cutoff_margin: if name == "ahead" { MARGIN } else { Duration::ZERO },
            max_authentication_age,
        }
    }

    fn horizons() -> Horizons {
        Horizons {
            issuers: vec![issuer("plain", None), issuer("strict", Some(10 * HOUR)), issuer("ahead", None)],
            session_absolute: None,
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_millis(1_800_000_000_123)
    }

    fn request(kind: TargetKind, issuer: &str, reason: Reason) -> Request {
        Request::new(Target::new(kind, issuer, "42"), reason, "ops", Source::Admin)
    }

    fn form(request: &Request) -> Result<Form, InvalidRequest> {
        request.meaning(&horizons(), now()).map(|meaning| meaning.form)
    }

    const fn issued(at: Timestamp) -> Form {
        Form::Before { issued: Some(at), authenticated: None }
    }

    #[test]
    fn the_kind_and_the_reason_choose_the_form() {
        for kind in TargetKind::ALL {
            for reason in Reason::ALL {
                let expected = match reason {
                    _ if kind.takes_blocks_only() => Form::Block,
                    Reason::AccountDeleted | Reason::AccountBlocked | Reason::AccountSuspended => Form::Block,
                    // Everything includes the issuer whose clock runs ahead.
                    _ if kind == TargetKind::All => issued(now().plus(MARGIN)),
                    _ => issued(now()),
                };
                assert_eq!(form(&request(kind, "plain", reason)), Ok(expected), "{kind} {reason}");
            }
        }
    }

    #[test]
    fn a_changed_password_voids_the_authentication_where_it_is_stated() {
        for reason in [Reason::PasswordChanged, Reason::CredentialCompromised] {
            let mut strict = request(TargetKind::Subject, "strict", reason);
            let both = |at| Form::Before { issued: Some(at), authenticated: Some(at) };
            assert_eq!(form(&strict), Ok(both(now())));
            let earlier = now().minus(HOUR);
            strict.issued_before = Some(earlier);
            assert_eq!(form(&strict), Ok(both(earlier)));
        }
        assert_eq!(form(&request(TargetKind::Subject, "strict", Reason::Logout)), Ok(issued(now())));
    }

    #[test]
    fn the_margin_moves_default_cutoffs_only() {
        let mut ahead = request(TargetKind::Subject, "ahead", Reason::Logout);
        assert_eq!(form(&ahead), Ok(issued(now().plus(MARGIN))));
        ahead.issued_before = Some(now());
        assert_eq!(form(&ahead), Ok(issued(now())));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let subject = request(TargetKind::Subject, "plain", Reason::Admin);
        let at = Some(now());
        let both = Request { block: Some(true), issued_before: at, ..subject.clone() };
        assert_eq!(form(&both), Err(InvalidRequest::BlockWithCutoff));
        let unsupported = Request { authenticated_before: at, ..subject.clone() };
        assert_eq!(form(&unsupported), Err(InvalidRequest::Unsupported));
        for kind in [TargetKind::Token, TargetKind::Session, TargetKind::Key] {
            let single = request(kind, "plain", Reason::Logout);
            let cut = Request { issued_before: at, ..single.clone() };
            assert_eq!(form(&cut), Err(InvalidRequest::BlockOnly(kind)));
            let open = Request { block: Some(false), ..single };
            assert_eq!(form(&open), Err(InvalidRequest::BlockOnly(kind)));
        }
        let unblocked = Request { block: Some(false), reason: Reason::AccountBlocked, ..subject };
        assert_eq!(form(&unblocked), Ok(issued(now())));
    }

    #[test]
    fn a_cutoff_may_be_ahead_by_the_skew_and_no_more() {
        let mut request = request(TargetKind::Subject, "strict", Reason::Admin);
        request.issued_before = Some(now().plus(SKEW));
        assert!(form(&request).is_ok());
        request.issued_before = Some(Timestamp::from_millis(now().plus(SKEW).millis() + 1));
        assert_eq!(form(&request), Err(InvalidRequest::FutureCutoff));
        (request.issued_before, request.authenticated_before) = (None, request.issued_before);
        assert_eq!(form(&request), Err(InvalidRequest::FutureCutoff));
    }

    #[test]
    fn an_issuer_is_stored_by_its_url() {
        for name in ["plain", "https://plain.example/"] {
            let meaning = request(TargetKind::Subject, name, Reason::Logout).meaning(&horizons(), now()).unwrap();
            assert_eq!(meaning.target.issuer, "https://plain.example/");
        }
        assert_eq!(form(&request(TargetKind::Subject, "nobody", Reason::Logout)), Err(InvalidRequest::UnknownIssuer));
        assert_eq!(form(&request(TargetKind::Issuer, "", Reason::Logout)), Err(InvalidRequest::UnknownIssuer));
        assert!(form(&request(TargetKind::Key, "", Reason::KeyCompromised)).is_ok());
        assert!(form(&request(TargetKind::All, "", Reason::Admin)).is_ok());
    }

    #[test]
    fn everything_has_a_bound() {
        let with = |edit: &dyn Fn(&mut Request)| {
            let mut request = request(TargetKind::Subject, "plain", Reason::Admin);
            edit(&mut request);
            form(&request)
        };
        let too_long = |field, limit| Err(InvalidRequest::TooLong { field, limit });
        assert_eq!(with(&|it| it.target.value.clear()), Err(InvalidRequest::MissingValue(TargetKind::Subject)));
        assert_eq!(with(&|it| it.target.value = "x".repeat(MAX_VALUE + 1)), too_long("value", MAX_VALUE));
        assert_eq!(with(&|it| it.target.issuer = "x".repeat(MAX_ISSUER + 1)), too_long("issuer", MAX_ISSUER));
        assert_eq!(with(&|it| it.actor = "x".repeat(MAX_ACTOR + 1)), too_long("actor", MAX_ACTOR));
        assert_eq!(with(&|it| it.note = Some("x".repeat(MAX_NOTE + 1))), too_long("note", MAX_NOTE));
    }

    #[test]
    fn a_callers_end_only_lengthens() {
        let mut token = request(TargetKind::Token, "plain", Reason::Logout);
        let until = |request: &Request| request.meaning(&horizons(), now()).unwrap().forget_at;
        let own = until(&token).unwrap();
        assert_eq!(own, now().plus(HOUR + 2 * SKEW));
        token.expires_at = Some(Timestamp::MIN);
        assert_eq!(until(&token), Some(own));
        token.expires_at = Some(own.plus(HOUR));
        assert_eq!(until(&token), Some(own.plus(HOUR)));
        let mut block = request(TargetKind::Subject, "plain", Reason::AccountBlocked);
        block.expires_at = Some(now());
        assert_eq!(until(&block), None, "until lifted");
    }
}
