//! Requests by route, method and status.

use std::sync::OnceLock;
use std::time::Duration;

use http::{Method, StatusCode};
use prometheus::{Histogram, IntCounter};

use super::buckets;
use super::series::Series;

/// Methods told apart; what a client makes up is `OTHER`.
const METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "OTHER"];

/// Statuses told apart: the registered ones. An upstream may make up others; they are `other`.
const STATUSES: [u16; 61] = [
    100, 101, 102, 103, 200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 307, 308, 400,
    401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 421, 422, 423, 424, 425, 426,
    428, 429, 431, 451, 499, 500, 501, 502, 503, 504, 505, 507, 508, 510, 511,
];

/// The place of the statuses that are not in [`STATUSES`].
const OTHER: usize = STATUSES.len();

/// From `status - 100` to its place in a table.
static PLACES: [u8; 500] = places();

const fn places() -> [u8; 500] {
    let mut places = [OTHER as u8; 500];
    let mut at = 0;
    while at < STATUSES.len() {
        places[(STATUSES[at] - 100) as usize] = at as u8;
        at += 1;
    }
    places
}

type Counters = [OnceLock<IntCounter>; OTHER + 1];

/// The series of one route. A series appears when first counted; from then on counting is one relaxed add.
#[derive(Debug)]
pub struct RouteMetrics {
    route: String,
    series: Series,
    duration: Histogram,
    requests: [OnceLock<Box<Counters>>; METHODS.len()],
}

impl RouteMetrics {
    pub(super) fn new(series: &Series, route: &str) -> Self {
        let duration = series.histogram(
            "request_duration_seconds",
            "Time from the request head to the end of the response.",
            &[("route", route)],
            &buckets::REQUEST,
        );
        Self {
            route: route.to_owned(),
            series: series.clone(),
            duration,
            requests: std::array::from_fn(|_| OnceLock::new()),
        }
    }

    /// Counts one finished request.
    pub fn finished(&self, method: &Method, status: StatusCode, took: Duration) {
        self.requests(method, status).inc();
        self.duration.observe(took.as_secs_f64());
    }

    fn requests(&self, method: &Method, status: StatusCode) -> &IntCounter {
        let method = place_of_method(method);
        let place = usize::from(PLACES.get(usize::from(status.as_u16()) - 100).copied().unwrap_or(OTHER as u8));
        let counters = self.requests[method].get_or_init(|| Box::new(std::array::from_fn(|_| OnceLock::new())));
        counters[place].get_or_init(|| {
            let code = STATUSES.get(place).map_or_else(|| "other".to_owned(), u16::to_string);
            let labels = [("route", self.route.as_str()), ("method", METHODS[method]), ("status", &code)];
            self.series.counter("requests_total", "Finished requests.", &labels)
        })
    }
}

fn place_of_method(method: &Method) -> usize {
    match *method {
        Method::GET => 0,
        Method::HEAD => 1,
        Method::POST => 2,
        Method::PUT => 3,
        Method::DELETE => 4,
        Method::CONNECT => 5,
        Method::OPTIONS => 6,
        Method::TRACE => 7,
        Method::PATCH => 8,
        _ => 9,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn what_a_client_makes_up_is_other() {
        let metrics = Metrics::new();
        let route = metrics.route("shop");
        let foo = Method::from_bytes(b"FOO").unwrap();
        route.finished(&foo, StatusCode::OK, Duration::from_millis(3));
        route.finished(&Method::GET, StatusCode::from_u16(299).unwrap(), Duration::from_millis(3));
        route.finished(&Method::GET, StatusCode::from_u16(799).unwrap(), Duration::from_millis(3));
        let text = metrics.render();
        assert!(text.contains(r#"portcullis_requests_total{method="OTHER",route="shop",status="200"} 1"#), "{text}");
        assert!(text.contains(r#"portcullis_requests_total{method="GET",route="shop",status="other"} 2"#), "{text}");
        assert!(text.contains(r#"portcullis_request_duration_seconds_count{route="shop"} 3"#), "{text}");
        assert!(!text.contains("FOO"));
    }

    #[test]
    fn each_status_and_method_has_its_own_place() {
        for (place, status) in STATUSES.iter().enumerate() {
            assert_eq!(usize::from(PLACES[usize::from(status - 100)]), place, "{status}");
        }
        for (place, name) in METHODS.iter().enumerate() {
            assert_eq!(place_of_method(&Method::from_bytes(name.as_bytes()).unwrap()), place, "{name}");
        }
    }

    #[test]
    fn a_route_that_stays_keeps_its_counters() {
        let metrics = Metrics::new();
        metrics.route("shop").finished(&Method::GET, StatusCode::OK, Duration::ZERO);
        metrics.route("shop").finished(&Method::GET, StatusCode::OK, Duration::ZERO);
        assert!(metrics.render().contains(r#"requests_total{method="GET",route="shop",status="200"} 2"#));
    }
}
