//! Which server of a group takes a request.
//!
//! The one with the fewest running requests of this worker for its share; among equals the shares are kept
//! exactly, by smooth weighted turns. Servers that are ejected or unhealthy are left out. Every server is
//! looked at: groups are small, and a whole look needs no luck.
//!
//! An ejection is a guess, from a few requests, so it never leaves a request without a server. What the
//! checks say was asked for by the operator: with every server unhealthy there is none to send to.

use std::cell::Cell;

use tokio::time::Instant;

use super::standing::Group;

/// A worker's side of the choice.
#[derive(Debug)]
pub(super) struct Balance {
    /// Per server, how far it is behind in taking turns.
    credits: Vec<Cell<i64>>,
}

impl Balance {
    /// For a group of `servers`.
    pub(super) fn new(servers: usize) -> Self {
        Self { credits: (0..servers).map(|_| Cell::new(0)).collect() }
    }

    /// The server that takes the next request, of those that are not in `tried`; `running` says how many it
    /// has. `None`: there is none that may be used.
    pub(super) fn choose(
        &self,
        group: &Group,
        tried: &[usize],
        running: impl Fn(usize) -> usize,
        now: Instant,
    ) -> Option<usize> {
        if self.credits.len() == 1 {
            return (tried.is_empty() && group.is_last_resort(0)).then_some(0);
        }
        let untried = |index: &usize| !tried.contains(index);
        let servers = || (0..self.credits.len()).filter(untried);
        let chosen = self.least(servers().filter(|index| group.is_available(*index, now)), group, &running, now);
        chosen.or_else(|| self.least(servers().filter(|index| group.is_last_resort(*index)), group, &running, now))
    }

    fn least(
        &self,
        servers: impl Iterator<Item = usize> + Clone,
        group: &Group,
        running: &impl Fn(usize) -> usize,
        now: Instant,
    ) -> Option<usize> {
        let load = |index: usize| (running(index) as u64, group.share(index, now).max(1));
        // a/b < c/d, without dividing.
        let compare = |one: (u64, u64), other: (u64, u64)| (one.0 * other.1).cmp(&(other.0 * one.1));
        let least = servers.clone().map(load).min_by(|one, other| compare(*one, *other))?;
        let (mut best, mut total): (Option<(usize, i64)>, i64) = (None, 0);
        for index in servers {
            let (load, Some(credit)) = (load(index), self.credits.get(index)) else { continue };
            if compare(load, least).is_ne() {
                continue;
            }
            let share = i64::try_from(load.1).unwrap_or(i64::MAX);
            let grown = credit.get().saturating_add(share);
            credit.set(grown);
            total = total.saturating_add(share);
            if best.is_none_or(|(_, most)| grown > most) {
                best = Some((index, grown));
            }
        }
        let (chosen, credit) = best?;
        self.credits.get(chosen)?.set(credit.saturating_sub(total));
        Some(chosen)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::proxy::upstream::standing::tests::{group, upstream};
    use crate::telemetry::Metrics;

    fn counts(balance: &Balance, group: &Group, requests: usize, now: Instant) -> Vec<usize> {
        let mut counts = vec![0; balance.credits.len()];
        for _ in 0..requests {
            counts[balance.choose(group, &[], |_| 0, now).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn idle_servers_take_turns_by_their_weights() {
        let now = Instant::now();
        for (weights, wanted) in
            [(&[1, 1, 1][..], &[20, 20, 20][..]), (&[1, 2, 3], &[10, 20, 30]), (&[5, 1], &[50, 10]), (&[7], &[60])]
        {
            let group = group(&upstream(weights), now);
            let balance = Balance::new(weights.len());
            assert_eq!(counts(&balance, &group, 60, now), wanted, "{weights:?}");
        }
        // Smoothly: never five in a row for the heavy one where the light one could go between.
        let group = group(&upstream(&[2, 1]), now);
        let balance = Balance::new(2);
        let order: Vec<_> = (0..6).filter_map(|_| balance.choose(&group, &[], |_| 0, now)).collect();
        assert_eq!(order, [0, 1, 0, 0, 1, 0]);
    }

    #[test]
    fn the_fewest_running_requests_for_the_weight_win() {
        let now = Instant::now();
        for (weights, running, wanted) in [
            (&[1, 1][..], &[1, 0][..], 1),
            (&[1, 1], &[3, 4], 0),
            (&[1, 4], &[1, 3], 1),
            (&[1, 4], &[0, 3], 0),
            (&[4, 1], &[5, 1], 1),
            (&[1, 1, 1], &[2, 2, 1], 2),
        ] {
            let group = group(&upstream(weights), now);
            let balance = Balance::new(weights.len());
            for _ in 0..5 {
                assert_eq!(balance.choose(&group, &[], |index| running[index], now), Some(wanted), "{running:?}");
            }
        }
    }

    #[test]
    fn tried_and_unhealthy_servers_are_left_out_and_ejected_ones_are_a_last_resort() {
        let now = Instant::now();
        let group = group(&upstream(&[1, 1, 1]), now);
        let balance = Balance::new(3);
        assert_eq!(balance.choose(&group, &[0, 2], |_| 0, now), Some(1));
        assert_eq!(balance.choose(&group, &[0, 1, 2], |_| 0, now), None);
        (0..3).for_each(|_| group.failed(0, "refused", now));
        assert_eq!(counts(&balance, &group, 10, now), [0, 5, 5], "ejected");
        group.checked(1, Err("status 500"), now);
        group.checked(2, Err("status 500"), now);
        assert_eq!(counts(&balance, &group, 4, now), [4, 0, 0], "an ejection leaves nobody without a server");
        group.checked(0, Err("status 500"), now);
        assert_eq!(balance.choose(&group, &[], |_| 0, now), None, "the checks do");
    }

    #[test]
    fn a_single_server_is_used_unless_its_checks_fail() {
        let now = Instant::now();
        let group = group(&upstream(&[1]), now);
        let balance = Balance::new(1);
        (0..50).for_each(|_| group.failed(0, "refused", now));
        assert_eq!(balance.choose(&group, &[], |_| 7, now), Some(0));
        group.checked(0, Err("status 500"), now);
        assert_eq!(balance.choose(&group, &[], |_| 7, now), None);
    }

    #[test]
    fn a_server_that_came_back_takes_up_its_share_slowly() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut wanted = upstream(&[1, 1]);
        wanted.slow_start = Some(Duration::from_secs(10));
        let metrics = Metrics::new();
        let group = Arc::new(Group::new(&wanted, &metrics.upstream("shop"), None, now));
        group.checked(1, Err("status 500"), at(1));
        group.checked(1, Ok(()), at(20));
        for (second, share) in [(20, 100), (21, 100), (22, 200), (25, 500), (29, 900), (30, 1000), (90, 1000)] {
            assert_eq!(group.share(1, at(second)), share, "in second {second}");
        }
        assert_eq!(group.share(0, at(20)), 1000, "who was never away has all of it");
        for (second, wanted) in [(20, [100, 10]), (25, [100, 50]), (30, [100, 100])] {
            let taken = counts(&Balance::new(2), &group, wanted.iter().sum(), at(second));
            assert_eq!(taken, wanted, "in second {second}");
        }
    }
}
