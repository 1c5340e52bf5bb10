use super::*;
use crate::config::{Retries, RetryOn};
use crate::telemetry::Metrics;

/// Servers of these weights, ejected after three failures, for 10 s at first and 60 s at most, half of them at most.
pub(in crate::proxy::upstream) fn upstream(weights: &[u32]) -> Upstream {
    let text = weights
        .iter()
        .enumerate()
        .map(|(at, weight)| format!("{{ url: 'http://10.0.0.{}:80', weight: {weight} }}", at + 1))
        .collect::<Vec<_>>()
        .join(", ");
    let text = format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]
upstreams:
  shop:
    servers: [{text}]
    ejection: {{ after: 3, time: 10s, max_time: 60s }}
    health: {{ path: / }}
routes: [{{ match: {{}}, upstream: shop, auth: none }}]"
    );
    let loaded = crate::config::parse(&text, "test", std::path::Path::new("")).unwrap_or_else(|it| panic!("{it}"));
    loaded.config.upstreams.into_iter().next().unwrap()
}

pub(in crate::proxy::upstream) fn group(upstream: &Upstream, now: Instant) -> Group {
    Group::new(upstream, &Metrics::new().upstream("shop"), None, now)
}

fn states(group: &Group, now: Instant) -> Vec<ServerState> {
    group.servers(now).iter().map(|server| server.state).collect()
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn the_defaults_are_careful() {
    let Upstream { retries, .. } = upstream(&[1]);
    let on = RetryOn { connect_failure: true, reset_before_response: true, ..RetryOn::default() };
    assert_eq!(retries, Retries { attempts: 2, per_try_timeout: None, on, budget: 200 });
}

#[test]
fn failures_in_a_row_eject_and_a_success_between_them_does_not() {
    let now = Instant::now();
    let group = group(&upstream(&[1, 1]), now);
    for _ in 0..10 {
        group.failed(0, "broken", now);
        group.failed(0, "broken", now);
        group.succeeded(0);
    }
    assert!(group.is_available(0, now));
    (0..3).for_each(|_| group.failed(0, "broken", now));
    assert!(!group.is_available(0, now) && group.is_available(1, now));
    let why = group.servers(now)[0].changed.clone().unwrap().1;
    assert_eq!(why, "3 requests failed in a row, the last one: broken");
}

#[test]
fn each_ejection_is_longer_up_to_the_longest_and_a_long_good_time_forgets_them() {
    let mut now = Instant::now();
    let group = group(&upstream(&[1, 1]), now);
    let ejected_for = |now: Instant| {
        (1..=120).map(|second| second * SECOND).find(|span| states(&group, now + *span)[0] == ServerState::Healthy)
    };
    (0..3).for_each(|_| group.failed(0, "refused", now));
    for seconds in [10, 20, 40, 60, 60] {
        assert!(!group.is_available(0, now + (seconds - 1) * SECOND));
        now += seconds * SECOND;
        assert!(group.is_available(0, now), "after {seconds} s");
        // On probation: one failure is enough.
        group.failed(0, "refused", now);
        assert!(!group.is_available(0, now));
    }
    now += 60 * SECOND;
    assert!(group.is_available(0, now));
    group.succeeded(0);
    group.failed(0, "refused", now);
    assert!(group.is_available(0, now), "a success ends the probation");
    now += 60 * SECOND;
    (0..2).for_each(|_| group.failed(0, "refused", now));
    assert_eq!(ejected_for(now), Some(10 * SECOND), "forgotten");
}

#[test]
fn never_more_than_the_share_are_out_and_a_single_server_never_is() {
    let now = Instant::now();
    for (servers, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)] {
        let group = group(&upstream(&vec![1; servers]), now);
        for index in 0..servers {
            (0..9).for_each(|_| group.failed(index, "refused", now));
        }
        let out = states(&group, now).iter().filter(|state| **state == ServerState::Ejected).count();
        assert_eq!(out, most, "of {servers}");
    }
    // What the checks took out counts.
    let group = group(&upstream(&[1, 1, 1]), now);
    group.checked(2, Err("status 500"), now);
    (0..9).for_each(|_| group.failed(0, "refused", now));
    assert_eq!(states(&group, now), [ServerState::Healthy, ServerState::Healthy, ServerState::Unhealthy]);
}

#[test]
fn workers_at_once_eject_no_more_than_the_share() {
    let now = Instant::now();
    for _ in 0..50 {
        let group = group(&upstream(&[1, 1, 1, 1]), now);
        std::thread::scope(|scope| {
            for index in 0..4 {
                let group = &group;
                scope.spawn(move || (0..9).for_each(|_| group.failed(index, "refused", now)));
            }
        });
        let out = states(&group, now).iter().filter(|state| **state == ServerState::Ejected).count();
        assert_eq!(out, 2);
    }
}

#[test]
fn a_reload_keeps_what_is_known_of_servers_that_stay() {
    let now = Instant::now();
    let metrics = Metrics::new().upstream("shop");
    let first = Group::new(&upstream(&[1, 1, 1]), &metrics, None, now);
    (0..3).for_each(|_| first.failed(0, "refused", now));
    first.checked(1, Err("status 500"), now);
    let mut changed = upstream(&[1, 1, 1, 1]);
    changed.servers.remove(2);
    let second = Group::new(&changed, &metrics, Some(&first), now + SECOND);
    let (ejected, unhealthy, healthy) = (ServerState::Ejected, ServerState::Unhealthy, ServerState::Healthy);
    assert_eq!(states(&second, now + SECOND), [ejected, unhealthy, healthy]);
    assert_eq!(states(&second, now + 10 * SECOND), [healthy, unhealthy, healthy], "and its time goes on");
    changed.health = None;
    let third = Group::new(&changed, &metrics, Some(&second), now + SECOND);
    assert_eq!(
        states(&third, now + 10 * SECOND),
        [healthy; 3],
        "what nobody checks any more is not unhealthy for ever"
    );
}

#[test]
fn states_are_counted() {
    let now = Instant::now();
    let metrics = Metrics::new();
    let group = Group::new(&upstream(&[1, 1, 1, 1]), &metrics.upstream("shop"), None, now);
    (0..3).for_each(|_| group.failed(0, "refused", now));
    group.checked(1, Err("status 500"), now);
    group.observe(now);
    let text = metrics.render();
    for (state, count) in [("healthy", 2), ("unhealthy", 1), ("ejected", 1)] {
        let line = format!(r#"portcullis_upstream_servers{{state="{state}",upstream="shop"}} {count}"#);
        assert!(text.lines().any(|it| it == line), "{line}\n{text}");
    }
}
