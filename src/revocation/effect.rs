//! What is in force for one target, and how it fits into eight bytes.

use std::time::Duration;

use super::{Form, TargetKind};
use crate::time::Timestamp;

/// What is in force for one target: the maximum over its records.
///
/// [`join`](Self::join) is commutative, associative and idempotent, so records may arrive in any
/// order and any number of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InForce {
    /// A block, or the cutoffs. A block refuses whatever a cutoff would.
    pub form: Form,
    /// From when on nothing that it refuses can be alive; `None`: until lifted.
    pub forget_at: Option<Timestamp>,
}

impl InForce {
    /// The effect of one record.
    #[must_use]
    pub const fn new(form: Form, forget_at: Option<Timestamp>) -> Self {
        Self { form, forget_at }
    }

    /// The effect of both: refuses a token iff one of them does, and is remembered until both may be
    /// forgotten. Remembering one of them for longer changes nothing: nothing it refuses is alive by then.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        let form = match (self.form, other.form) {
            (Form::Block, _) | (_, Form::Block) => Form::Block,
            (
                Form::Before { issued, authenticated },
                Form::Before { issued: other_issued, authenticated: other_authenticated },
            ) => {
                Form::Before { issued: issued.max(other_issued), authenticated: authenticated.max(other_authenticated) }
            }
        };
        let forget_at = match (self.forget_at, other.forget_at) {
            (Some(one), Some(two)) => Some(one.max(two)),
            (None, _) | (_, None) => None,
        };
        Self { form, forget_at }
    }

    /// What it says about a token issued and authenticated then.
    pub(super) fn judge(self, issued: Timestamp, authenticated: Option<Timestamp>) -> Verdict {
        match self.form {
            Form::Block => Verdict::Revoked,
            Form::Before { issued: Some(cutoff), .. } if issued <= cutoff => Verdict::Revoked,
            Form::Before { authenticated: Some(cutoff), .. } if authenticated.is_none_or(|at| at <= cutoff) => {
                Verdict::TooOld
            }
            Form::Before { .. } => Verdict::Good,
        }
    }

    /// Whether it may be forgotten at `now`.
    pub(super) fn is_over(self, now: Timestamp) -> bool {
        self.forget_at.is_some_and(|at| at < now)
    }
}

/// What one target's effect says about one token; the strictest is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    Good,
    TooOld,
    Revoked,
}

/// Whether a token is still honoured, as far as revocations go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing in force names it.
    Good,
    /// The narrowest kind of target by which it is revoked.
    Revoked(TargetKind),
    /// Its authentication (`auth_time`) is missing, or no longer recent enough.
    AuthenticationTooOld,
}

/// An [`InForce`] in eight bytes: three bits of shape, 42 bits of time in milliseconds, 19 bits that
/// say how long after that time it is forgotten.
///
/// What does not fit (two different cutoffs, a horizon beyond [`FARTHEST`]) is [`Packed::ASIDE`] and
/// stands in a table beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packed(u64);

const SHAPE_SHIFT: u32 = 61;
const TIME_SHIFT: u32 = 19;
const TIME_MASK: u64 = (1 << 42) - 1;
const SPAN_MASK: u64 = (1 << TIME_SHIFT) - 1;
/// The span that stands for "until lifted".
const NEVER: u64 = SPAN_MASK;
/// What one step of the span is worth. Rounded up, so an entry is never forgotten early.
const STEP: Duration = Duration::from_secs(60);
/// The longest span that fits, in steps: a little under a year.
const FARTHEST: u64 = NEVER - 1;

const BLOCK: u64 = 1;
const ISSUED: u64 = 2;
const AUTHENTICATED: u64 = 3;
const BOTH: u64 = 4;
const ELSEWHERE: u64 = 5;

impl Packed {
    /// The effect stands in the table beside.
    pub(super) const ASIDE: Self = Self(ELSEWHERE << SHAPE_SHIFT);

    /// The eight bytes of `effect`; `None` when it does not fit.
    pub(super) fn pack(effect: InForce) -> Option<Self> {
        let (shape, time) = match effect.form {
            // A block needs no cutoff: the time is when it is forgotten.
            Form::Block => {
                let span = if effect.forget_at.is_none() { NEVER } else { 0 };
                return Some(Self::new(BLOCK, effect.forget_at.unwrap_or_default(), span));
            }
            Form::Before { issued: Some(at), authenticated: None } => (ISSUED, at),
            Form::Before { issued: None, authenticated: Some(at) } => (AUTHENTICATED, at),
            Form::Before { issued: Some(at), authenticated: Some(other) } if at == other => (BOTH, at),
            Form::Before { .. } => return None,
        };
        let span = match effect.forget_at {
            None => NEVER,
            Some(at) => {
                let steps = at.since(time).as_millis().div_ceil(STEP.as_millis());
                u64::try_from(steps).ok().filter(|steps| *steps <= FARTHEST)?
            }
        };
        Some(Self::new(shape, time, span))
    }

    const fn new(shape: u64, time: Timestamp, span: u64) -> Self {
        Self((shape << SHAPE_SHIFT) | ((time.millis().cast_unsigned() & TIME_MASK) << TIME_SHIFT) | span)
    }

    const fn time(self) -> Timestamp {
        Timestamp::from_millis(((self.0 >> TIME_SHIFT) & TIME_MASK).cast_signed())
    }

    /// The effect again, its forgetting rounded up to a step; `None`: it stands in the table beside.
    pub(super) fn unpack(self) -> Option<InForce> {
        let (time, span) = (self.time(), self.0 & SPAN_MASK);
        let form = match self.0 >> SHAPE_SHIFT {
            BLOCK => {
                return Some(InForce::new(Form::Block, (span != NEVER).then_some(time)));
            }
            ISSUED => Form::Before { issued: Some(time), authenticated: None },
            AUTHENTICATED => Form::Before { issued: None, authenticated: Some(time) },
            BOTH => Form::Before { issued: Some(time), authenticated: Some(time) },
            _ => return None,
        };
        let forget_at = (span != NEVER).then(|| time.plus(Duration::from_secs(span * STEP.as_secs())));
        Some(InForce::new(form, forget_at))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn time() -> impl Strategy<Value = Timestamp> {
        prop_oneof![
            (0..100_i64).prop_map(Timestamp::from_millis),
            (0..=Timestamp::MAX.millis()).prop_map(Timestamp::from_millis),
        ]
    }

    fn effect() -> impl Strategy<Value = InForce> {
        let form = prop_oneof![
            Just(Form::Block),
            time().prop_map(|at| Form::Before { issued: Some(at), authenticated: None }),
            time().prop_map(|at| Form::Before { issued: None, authenticated: Some(at) }),
            time().prop_map(|at| Form::Before { issued: Some(at), authenticated: Some(at) }),
            (time(), time()).prop_map(|(one, two)| Form::Before { issued: Some(one), authenticated: Some(two) }),
        ];
        (form, prop::option::of(time())).prop_map(|(form, forget_at)| InForce { form, forget_at })
    }

    proptest! {
        #[test]
        fn joining_is_a_maximum(a in effect(), b in effect(), c in effect()) {
            prop_assert_eq!(a.join(b), b.join(a));
            prop_assert_eq!(a.join(b).join(c), a.join(b.join(c)));
            prop_assert_eq!(a.join(a), a);
        }

        #[test]
        fn a_join_refuses_what_either_refuses(
            a in effect(), b in effect(), issued in time(), authenticated in prop::option::of(time()),
        ) {
            let honoured = |effect: InForce| effect.judge(issued, authenticated) == Verdict::Good;
            prop_assert_eq!(honoured(a.join(b)), honoured(a) && honoured(b));
        }

        #[test]
        fn packing_keeps_the_form_and_forgets_no_earlier(effect in effect()) {
            let Some(packed) = Packed::pack(effect) else { return Ok(()) };
            let again = packed.unpack().unwrap();
            prop_assert_eq!(again.form, effect.form);
            match (again.forget_at, effect.forget_at) {
                (None, None) => {}
                (Some(again), Some(first)) => {
                    prop_assert!(again >= first);
                    // A forgetting before the cutoff itself (no horizon does that) is held at the cutoff.
                    let floor = match effect.form {
                        Form::Block => first,
                        Form::Before { issued, authenticated } => first.max(issued.max(authenticated).unwrap()),
                    };
                    prop_assert!(again.since(floor) <= STEP);
                }
                other => prop_assert!(false, "{:?}", other),
            }
            prop_assert_eq!(Packed::pack(again), Some(packed), "packing what was packed changes nothing");
        }
    }

    #[test]
    fn only_rare_shapes_stand_aside() {
        let at = Timestamp::from_secs(1_800_000_000);
        let later = |days: u64| Some(at.plus(Duration::from_secs(days * 86_400)));
        let issued = Form::Before { issued: Some(at), authenticated: None };
        let fits = |form, forget_at| Packed::pack(InForce { form, forget_at }).is_some();
        assert!(fits(Form::Block, None));
        assert!(fits(Form::Block, later(4_000)));
        assert!(fits(issued, later(360)));
        assert!(fits(issued, None));
        assert!(fits(Form::Before { issued: Some(at), authenticated: Some(at) }, later(30)));
        assert!(!fits(issued, later(370)));
        assert!(!fits(Form::Before { issued: Some(at), authenticated: later(1) }, later(30)));
        assert_eq!(Packed::ASIDE.unpack(), None);
    }

    #[test]
    fn the_verdict_says_which_cutoff_it_was() {
        let at = Timestamp::from_secs;
        let both = InForce::new(Form::Before { issued: Some(at(10)), authenticated: Some(at(20)) }, None);
        assert_eq!(both.judge(at(10), Some(at(30))), Verdict::Revoked);
        assert_eq!(both.judge(at(11), Some(at(20))), Verdict::TooOld);
        assert_eq!(both.judge(at(11), None), Verdict::TooOld);
        assert_eq!(both.judge(at(11), Some(at(21))), Verdict::Good);
        let block = InForce::new(Form::Block, None);
        assert_eq!(block.judge(at(99), Some(at(99))), Verdict::Revoked);
    }
}
