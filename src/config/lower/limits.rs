//! What clients may send, how long they may take, and what the end takes.

use std::time::Duration;

use super::{DAY, Lower, MILLISECOND, Place, SECOND};
use crate::config::model::{Http2Limits, Limits, Reload, Shutdown};
use crate::config::raw;

impl Lower<'_, '_> {
    pub(super) fn limits(&mut self, raw: Option<&raw::Limits>, place: &Place<'_>) -> Limits {
        let raw = raw.unwrap_or(&raw::Limits {
            header_bytes: None,
            header_count: None,
            uri_bytes: None,
            max_body: None,
            header_timeout: None,
            idle_timeout: None,
            body_timeout: None,
            body_min_rate: None,
            body_rate_window: None,
            request_timeout: None,
            write_timeout: None,
            handshake_timeout: None,
            handshakes_per_worker: None,
            tunnel_idle_timeout: None,
            connections_per_worker: None,
            http2: None,
            connections: None,
            connections_per_client: None,
            requests_per_connection: None,
            requests_in_flight: None,
        });
        let count = |number: Option<u64>| usize::try_from(number.unwrap_or(0)).unwrap_or(usize::MAX);
        // Below 8 KiB the HTTP parser's own buffer is the bound.
        let header_bytes = self.size(raw.header_bytes.as_ref(), &place.key("header_bytes"), 8 << 10..=1 << 20);
        let at = place.key("uri_bytes");
        let uri_bytes = self.size(raw.uri_bytes.as_ref(), &at, 256..=1 << 20);
        if header_bytes > 0 && uri_bytes > header_bytes {
            self.error(&at, "no request head could hold such a target", "at most `limits.header_bytes`");
        }
        let wait = MILLISECOND..=DAY;
        let body_min_rate = self.size_or_none(raw.body_min_rate.as_ref(), &place.key("body_min_rate"), 1..=1 << 30);
        let window = place.key("body_rate_window");
        let request_timeout = place.key("request_timeout");
        Limits {
            header_bytes: usize::try_from(header_bytes).unwrap_or(usize::MAX),
            header_count: count(raw.header_count),
            uri_bytes: usize::try_from(uri_bytes).unwrap_or(usize::MAX),
            header_timeout: self.duration(raw.header_timeout.as_ref(), &place.key("header_timeout"), wait.clone()),
            idle_timeout: self.duration(raw.idle_timeout.as_ref(), &place.key("idle_timeout"), wait.clone()),
            body_min_rate,
            body_rate_window: self.duration(raw.body_rate_window.as_ref(), &window, SECOND..=DAY),
            request_timeout: self.duration_or_none(raw.request_timeout.as_ref(), &request_timeout, wait.clone()),
            body_timeout: self.duration(raw.body_timeout.as_ref(), &place.key("body_timeout"), wait.clone()),
            write_timeout: self.duration(raw.write_timeout.as_ref(), &place.key("write_timeout"), wait.clone()),
            handshake_timeout: self.duration(
                raw.handshake_timeout.as_ref(),
                &place.key("handshake_timeout"),
                wait.clone(),
            ),
            handshakes_per_worker: count(raw.handshakes_per_worker),
            tunnel_idle_timeout: self.duration(
                raw.tunnel_idle_timeout.as_ref(),
                &place.key("tunnel_idle_timeout"),
                wait,
            ),
            connections_per_worker: count(raw.connections_per_worker),
            connections: bound(raw.connections.as_ref()),
            connections_per_client: bound(raw.connections_per_client.as_ref()),
            requests_per_connection: bound(raw.requests_per_connection.as_ref()) as u64,
            requests_in_flight: bound(raw.requests_in_flight.as_ref()),
            http2: self.http2_limits(raw.http2.as_ref(), &place.key("http2")),
        }
    }

    fn http2_limits(&mut self, raw: Option<&raw::Http2Limits>, place: &Place<'_>) -> Http2Limits {
        let count = |number: Option<u64>| u32::try_from(number.unwrap_or(0)).unwrap_or(u32::MAX);
        let idle_timeout = raw.and_then(|raw| raw.idle_timeout.as_ref());
        let keep_alive = raw.and_then(|raw| raw.keep_alive.as_ref());
        let mut size = |raw: Option<&raw::Size>, key, bounds| {
            // Within the bounds it fits.
            u32::try_from(self.size(raw, &place.key(key), bounds)).unwrap_or(u32::MAX)
        };
        // The least that every client may count on (RFC 9113 §6.9.2), and the most that a window can be.
        let window = 65_535..=(1 << 31) - 1;
        let stream_window = size(raw.and_then(|raw| raw.stream_window.as_ref()), "stream_window", window.clone());
        let connection_window = size(raw.and_then(|raw| raw.connection_window.as_ref()), "connection_window", window);
        let send_buffer = size(raw.and_then(|raw| raw.send_buffer.as_ref()), "send_buffer", 16 << 10..=16 << 20);
        Http2Limits {
            streams: count(raw.and_then(|raw| raw.streams)),
            resets: count(raw.and_then(|raw| raw.resets)),
            control_frames: count(raw.and_then(|raw| raw.control_frames)),
            idle_timeout: self.duration(idle_timeout, &place.key("idle_timeout"), MILLISECOND..=DAY),
            keep_alive: self
                .duration_or_none(keep_alive, &place.key("keep_alive"), SECOND..=DAY)
                .filter(|it| !it.is_zero()),
            stream_window,
            connection_window,
            send_buffer: usize::try_from(send_buffer).unwrap_or(usize::MAX),
        }
    }

    pub(super) fn reload(&mut self, raw: Option<&raw::Reload>, place: &Place<'_>) -> Reload {
        let debounce = raw.and_then(|raw| raw.debounce.as_ref());
        Reload {
            watch: raw.and_then(|raw| raw.watch).unwrap_or(true),
            debounce: self.duration(debounce, &place.key("debounce"), MILLISECOND..=60 * SECOND),
        }
    }

    pub(super) fn shutdown(&mut self, raw: Option<&raw::Shutdown>, place: &Place<'_>) -> Shutdown {
        let drain_delay = raw.and_then(|raw| raw.drain_delay.as_ref());
        let drain_timeout = raw.and_then(|raw| raw.drain_timeout.as_ref());
        Shutdown {
            drain_delay: self.duration(drain_delay, &place.key("drain_delay"), Duration::ZERO..=DAY),
            drain_timeout: self.duration(drain_timeout, &place.key("drain_timeout"), Duration::ZERO..=DAY),
        }
    }
}

/// How many at most; `none` is more than there can be.
pub(super) fn bound(raw: Option<&raw::Bound>) -> usize {
    match raw {
        Some(raw::Bound::Of(count)) => usize::try_from(*count).unwrap_or(usize::MAX),
        Some(raw::Bound::None) | None => usize::MAX,
    }
}
