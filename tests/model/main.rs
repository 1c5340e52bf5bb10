//! Wrong order never admits: the real gate, ledger, sessions and chains beside a small model of the rule.
//!
//! Logins, exchanges, reissues, refreshes, logouts, revocations and lifts of every kind and form, replaced subjects, keys that
//! are rotated, retired and no longer published, limits that are raised, restarts in another order, and clocks that
//! differ, in any order. After every step every token ever made is asked for at the gate: it is admitted if and only
//! if the model honours it.
//!
//! The model (`rule`) keeps the whole history and looks through all of it each time. It shares no code with the
//! gateway. `PORTCULLIS_MODEL_CASES` sets how many histories are tried by each test, 500 unless given; one that fails
//! is shrunk, printed, and kept in `tests/model/failures.txt`, where it is tried first from then on.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod act;
mod regressions;
mod rule;
mod shuffled;
mod world;

use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};

use act::Act;
use world::World;

fn config() -> Config {
    let cases = std::env::var("PORTCULLIS_MODEL_CASES").map_or(500, |cases| cases.parse().unwrap());
    let failures = FileFailurePersistence::Direct("tests/model/failures.txt");
    Config { cases, failure_persistence: Some(Box::new(failures)), max_shrink_iters: 20_000, ..Config::default() }
}

/// Plays a history, and compares after every step. `strict`: every issuer bounds the age of an authentication.
fn play(strict: bool, acts: &[Act]) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut world = World::new(strict);
        for (step, act) in acts.iter().enumerate() {
            world.act(act).await?;
            world.check(step)?;
        }
        world.check_afresh()
    })
}

proptest! {
    #![proptest_config(config())]

    /// Everything that can happen.
    #[test]
    fn no_history_moves_a_token_past_the_rule(strict: bool, acts in act::of_everything(40)) {
        play(strict, &acts)?;
    }

    /// Mostly subjects that take each other's place, and what is revoked for them.
    #[test]
    fn no_chain_of_subjects_hides_a_revocation(strict: bool, acts in act::of_subjects(40)) {
        play(strict, &acts)?;
    }

    /// Mostly sessions: opened, slid and ended while other things happen.
    #[test]
    fn no_session_outlives_what_it_came_from(strict: bool, acts in act::of_sessions(40)) {
        play(strict, &acts)?;
    }

    /// Mostly restarts, sweeps, limits and lifts.
    #[test]
    fn nothing_is_forgotten_too_early_or_in_the_wrong_order(strict: bool, acts in act::of_memory(40)) {
        play(strict, &acts)?;
    }
}
