//! Histories that once went wrong, or that are worth telling.

use super::act::{Act, Form};
use super::play;

/// The gate judged a login by its `auth_time` in whole seconds: one that came in after a cutoff, within its second,
/// was refused.
#[test]
fn a_login_right_after_a_cutoff_on_the_authentication_is_honoured() {
    play(
        true,
        &[
            Act::BeginLogin { user: 0 },
            Act::FinishLogin { login: 0 },
            Act::Revoke { token: 0, target: 2, form: Form::Authenticated(0) },
            Act::Wait { millis: 1 },
            Act::BeginLogin { user: 0 },
            Act::FinishLogin { login: 0 },
        ],
    )
    .unwrap();
}

/// A session of an issuer's user had the account of the gateway's own name for them, once that name was given up,
/// although the chain of the issuer goes back further.
#[test]
fn a_session_whose_name_was_given_up_keeps_the_account_of_its_parent() {
    play(
        false,
        &[
            Act::Issue { issuer: 1, user: 1, long: false, logged_in_ago: 0 },
            Act::Request { token: 0 },
            Act::Replace { issuer: 2, old: 4, new: 0 },
            Act::Replace { issuer: 1, old: 2, new: 1 },
        ],
    )
    .unwrap();
}
