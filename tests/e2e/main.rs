//! End-to-end tests: the real binary as a process, real sockets, an upstream that records every byte.
//!
//! One test binary, because each one costs a link. No fixed ports and no sleeping: a test waits for a condition, with
//! a deadline far beyond what it should take.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a panic is how a test fails")]

mod bad_http;
mod bad_tokens;
mod carried;
mod commands;
mod control;
mod credential_service;
mod credentials;
mod crowd;
mod delivery;
mod demands;
mod devices;
mod dpop;
mod drain;
mod durability;
mod failing_upstreams;
mod grpc;
mod guide;
mod http2;
mod http2_attacks;
mod http2_clients;
mod http2_websockets;
mod identity;
mod key_sources;
mod kill;
mod limits;
mod listeners;
mod login_services;
mod logins;
mod messages;
mod metrics;
mod nginx;
mod origin;
mod paths;
mod preflight;
mod rate_limits;
mod refresh;
mod reload;
mod restart;
mod retries;
mod revocations;
mod rotation;
mod secrecy;
mod server_health;
mod server_names;
mod session_guide;
mod session_limits;
mod sessions;
mod slow_clients;
mod steady;
mod stores;
mod streaming;
mod streams;
mod subjects;
mod support;
mod support_test;
mod tls;
mod upgrades;
mod upstream_http2;
mod upstream_limits;
mod upstream_tls;
mod watching;
mod ways_in;
