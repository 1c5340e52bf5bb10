//! What can happen.

use proptest::prelude::*;
use proptest::strategy::Union;

/// One step of a history. Places are taken modulo what there is at that moment.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// An issuer issues a token, by a clock of its own.
    Issue { issuer: usize, user: usize, long: bool, logged_in_ago: u64 },
    /// A login request arrives; it is answered later.
    BeginLogin { user: usize },
    /// A login is answered.
    FinishLogin { login: usize },
    /// A request is admitted; its answer comes later.
    BeginRequest { token: usize },
    /// The answer comes, and with it a successor or a session.
    FinishRequest { request: usize },
    /// A request with its answer.
    Request { token: usize },
    /// A client brings its refresh token.
    Refresh { family: usize },
    /// A client logs out.
    Logout { token: usize },
    /// The password of a user of an issuer is changed.
    ChangePassword { issuer: usize, user: usize },
    /// Something that a token belongs to is revoked.
    Revoke { token: usize, target: usize, form: Form },
    /// A revocation is lifted.
    Lift { record: usize, restore: bool },
    /// A subject is replaced by another.
    Replace { issuer: usize, old: usize, new: usize },
    /// That is undone.
    Undo { issuer: usize, old: usize },
    /// A key is made, and signs from now on; `issuer` may be the gateway.
    Rotate { issuer: usize },
    /// A key is retired: revoked.
    Retire { issuer: usize, key: usize },
    /// A key that no longer signs is published no longer.
    Unpublish { issuer: usize, key: usize },
    /// Time goes by.
    Wait { millis: u64 },
    /// The gateway's clock is set back.
    SetBack { millis: u64 },
    /// What is over is forgotten.
    Sweep,
    /// The gateway ends, and reads its store again, in some order and some of it twice.
    Restart { seed: u64 },
    /// The longest life of an issuer's tokens is changed.
    Limit { issuer: usize, long: bool },
}

/// How something is revoked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Form {
    /// Until lifted.
    Block,
    /// By the origin, this many seconds ago.
    Issued(u64),
    /// By the authentication, this many seconds ago.
    Authenticated(u64),
    /// By both.
    Both(u64, u64),
}

fn form() -> impl Strategy<Value = Form> {
    prop_oneof![
        2 => Just(Form::Block),
        2 => (0..300_u64).prop_map(Form::Issued),
        1 => (0..300_u64).prop_map(Form::Authenticated),
        1 => (0..300_u64, 0..300_u64).prop_map(|(issued, authenticated)| Form::Both(issued, authenticated)),
    ]
}

/// Weights: tokens, sessions, revocations, subjects, keys, time, memory.
fn acts(length: usize, weights: [u32; 7]) -> impl Strategy<Value = Vec<Act>> {
    let place = || any::<usize>();
    let [tokens, sessions, revocations, subjects, keys, time, memory] = weights;
    let token = (0..2_usize, 0..3_usize, any::<bool>(), 0..100_u64)
        .prop_map(|(issuer, user, long, logged_in_ago)| Act::Issue { issuer, user, long, logged_in_ago });
    let session = prop_oneof![
        2 => (0..3_usize).prop_map(|user| Act::BeginLogin { user }),
        2 => place().prop_map(|login| Act::FinishLogin { login }),
        1 => place().prop_map(|token| Act::BeginRequest { token }),
        1 => place().prop_map(|request| Act::FinishRequest { request }),
        4 => place().prop_map(|token| Act::Request { token }),
        2 => place().prop_map(|family| Act::Refresh { family }),
    ];
    let revocation = prop_oneof![
        1 => place().prop_map(|token| Act::Logout { token }),
        1 => (0..3_usize, 0..5_usize).prop_map(|(issuer, user)| Act::ChangePassword { issuer, user }),
        4 => (place(), place(), form()).prop_map(|(token, target, form)| Act::Revoke { token, target, form }),
        2 => (place(), any::<bool>()).prop_map(|(record, restore)| Act::Lift { record, restore }),
    ];
    let subject = prop_oneof![
        3 => (0..3_usize, 0..5_usize, 0..5_usize).prop_map(|(issuer, old, new)| Act::Replace { issuer, old, new }),
        1 => (0..3_usize, 0..5_usize).prop_map(|(issuer, old)| Act::Undo { issuer, old }),
    ];
    let key = prop_oneof![
        3 => (0..3_usize).prop_map(|issuer| Act::Rotate { issuer }),
        1 => (0..3_usize, place()).prop_map(|(issuer, key)| Act::Retire { issuer, key }),
        2 => (0..2_usize, place()).prop_map(|(issuer, key)| Act::Unpublish { issuer, key }),
    ];
    let clock = prop_oneof![
        2 => (1..3_000_u64).prop_map(|millis| Act::Wait { millis }),
        3 => (1..120_000_u64).prop_map(|millis| Act::Wait { millis }),
        1 => (1..1_500_u64).prop_map(|millis| Act::SetBack { millis }),
    ];
    let store = prop_oneof![
        2 => Just(Act::Sweep),
        2 => any::<u64>().prop_map(|seed| Act::Restart { seed }),
        1 => (0..2_usize, any::<bool>()).prop_map(|(issuer, long)| Act::Limit { issuer, long }),
    ];
    let act = Union::new_weighted(vec![
        (tokens, token.boxed()),
        (sessions, session.boxed()),
        (revocations, revocation.boxed()),
        (subjects, subject.boxed()),
        (keys, key.boxed()),
        (time, clock.boxed()),
        (memory, store.boxed()),
    ]);
    prop::collection::vec(act, 1..length)
}

pub(crate) fn of_everything(length: usize) -> impl Strategy<Value = Vec<Act>> {
    acts(length, [3, 5, 4, 2, 2, 3, 2])
}

pub(crate) fn of_subjects(length: usize) -> impl Strategy<Value = Vec<Act>> {
    acts(length, [4, 4, 2, 6, 1, 2, 1])
}

pub(crate) fn of_sessions(length: usize) -> impl Strategy<Value = Vec<Act>> {
    acts(length, [3, 9, 3, 1, 2, 3, 1])
}

pub(crate) fn of_memory(length: usize) -> impl Strategy<Value = Vec<Act>> {
    acts(length, [4, 3, 5, 2, 1, 4, 5])
}
