//! The access log: one JSON line a request, written by a thread of its own.
//!
//! A worker never waits for a disk: lines that find the queue full are lost and counted. A line has no
//! token, cookie or query; `jti` and `sid` are the most it says about who came.

use std::io;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use prometheus::IntCounter;
use serde::{Serialize, Serializer};

use super::writer::Sink;
use crate::config::LogTarget;
use crate::time::Timestamp;

/// Lines that may wait to be written.
const QUEUE: usize = 8192;
/// Bytes gathered before they are written at once.
const BATCH: usize = 64 * 1024;
/// The longest text a client may put into a line, in bytes.
const LONGEST: usize = 2048;

/// One finished request. Texts from clients are cut at 2 KiB; JSON escapes what is not printable.
#[derive(Clone, Debug, Serialize)]
pub struct Line<'a> {
    /// When the request head was read.
    pub time: Timestamp,
    /// The `X-Request-Id` that went upstream and into the answer.
    #[serde(serialize_with = "bounded")]
    pub request_id: &'a str,
    /// The client's address, as far as proxies are trusted.
    pub client: IpAddr,
    /// The request method.
    #[serde(serialize_with = "bounded")]
    pub method: &'a str,
    /// The host asked for.
    #[serde(serialize_with = "bounded")]
    pub host: &'a str,
    /// The path, without the query.
    #[serde(serialize_with = "bounded")]
    pub path: &'a str,
    /// The route's name, or [`super::NONE`].
    pub route: &'a str,
    /// The status answered.
    pub status: u16,
    /// Bytes of the request body.
    pub bytes_in: u64,
    /// Bytes of the response body.
    pub bytes_out: u64,
    /// From the request head to the end of the response.
    #[serde(rename = "duration_ms", serialize_with = "millis")]
    pub duration: Duration,
    /// The upstream's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<&'a str>,
    /// Until the upstream's response head came.
    #[serde(rename = "upstream_ms", serialize_with = "some_millis", skip_serializing_if = "Option::is_none")]
    pub upstream_duration: Option<Duration>,
    /// Why the request was refused ([`crate::gate::Denial::reason`]), or what went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The route only reports: `reason` is why the request would have been refused.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub report_only: bool,
    /// The config name of the token's issuer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<&'a str>,
    /// The token's `jti`.
    #[serde(serialize_with = "some_bounded", skip_serializing_if = "Option::is_none")]
    pub jti: Option<&'a str>,
    /// The token's `sid`.
    #[serde(serialize_with = "some_bounded", skip_serializing_if = "Option::is_none")]
    pub sid: Option<&'a str>,
}

fn bounded<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    serializer.serialize_str(&text[..end])
}

fn some_bounded<S: Serializer>(text: &Option<&str>, serializer: S) -> Result<S::Ok, S::Error> {
    bounded(text.unwrap_or_default(), serializer)
}

/// Milliseconds with three decimals.
fn millis<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    let micros = u32::try_from(span.as_micros()).unwrap_or(u32::MAX);
    serializer.serialize_f64(f64::from(micros) / 1000.0)
}

fn some_millis<S: Serializer>(span: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    millis(&span.unwrap_or_default(), serializer)
}

enum Job {
    Line(Vec<u8>),
    Reopen(SyncSender<io::Result<()>>),
}

/// The access log. Dropping it writes what is queued.
#[derive(Debug)]
pub struct AccessLog {
    queue: Option<SyncSender<Job>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    lost: IntCounter,
}

impl AccessLog {
    /// Opens `target`; lost lines are counted in `lost` ([`super::Metrics::access_log_lost`]).
    ///
    /// # Errors
    ///
    /// When the file cannot be opened or the thread not started.
    pub fn open(target: &LogTarget, lost: IntCounter) -> io::Result<Self> {
        let Some(sink) = Sink::open(target)? else {
            return Ok(Self { queue: None, thread: Mutex::default(), lost });
        };
        let (queue, jobs) = sync_channel(QUEUE);
        let counter = lost.clone();
        let thread =
            std::thread::Builder::new().name("access-log".to_owned()).spawn(move || write(&jobs, sink, &counter))?;
        Ok(Self { queue: Some(queue), thread: Mutex::new(Some(thread)), lost })
    }

    /// Whether lines go anywhere: when not, they need not be put together.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.queue.is_some()
    }

    /// Queues one line. Never waits.
    pub fn record(&self, line: &Line<'_>) {
        let Some(queue) = &self.queue else { return };
        let mut text = Vec::with_capacity(512);
        if serde_json::to_writer(&mut text, line).is_err() {
            self.lost.inc();
            return;
        }
        text.push(b'\n');
        match queue.try_send(Job::Line(text)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.lost.inc(),
        }
    }

    /// Opens the file anew once everything queued is written: what `logrotate` asks for with SIGHUP.
    /// Waits for the disk, so not for a worker thread.
    ///
    /// # Errors
    ///
    /// When the new file cannot be opened; the old one stays in use.
    pub fn reopen(&self) -> io::Result<()> {
        let Some(queue) = &self.queue else { return Ok(()) };
        let (reply, answer) = sync_channel(1);
        let gone = || io::Error::other("the access log's thread has ended");
        queue.send(Job::Reopen(reply)).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.queue = None;
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the access log's thread panicked");
        }
    }
}

fn write(jobs: &Receiver<Job>, mut sink: Sink, lost: &IntCounter) {
    let mut failing = false;
    let mut batch = Vec::with_capacity(BATCH);
    while let Ok(first) = jobs.recv() {
        let mut lines = 0;
        let mut next = Some(first);
        let mut reopen = None;
        while let Some(job) = next {
            match job {
                Job::Line(line) => {
                    batch.extend_from_slice(&line);
                    lines += 1;
                }
                Job::Reopen(reply) => reopen = Some(reply),
            }
            let gather = reopen.is_none() && batch.len() < BATCH;
            next = if gather { jobs.try_recv().ok() } else { None };
        }
        match sink.write(&batch) {
            Ok(()) => failing = false,
            Err(error) => {
                lost.inc_by(lines);
                // Said once, not once a line.
                if !failing {
                    tracing::error!(error = &error as &dyn std::error::Error, "the access log cannot be written");
                }
                failing = true;
            }
        }
        batch.clear();
        if let Some(reply) = reopen {
            // Whoever asked may have gone away.
            drop(reply.send(sink.reopen()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    fn line<'a>(path: &'a str, request_id: &'a str) -> Line<'a> {
        Line {
            time: Timestamp::from_millis(1_700_000_000_123),
            request_id,
            client: IpAddr::from([192, 0, 2, 1]),
            method: "GET",
            host: "shop.example.com",
            path,
            route: "shop",
            status: 401,
            bytes_in: 0,
            bytes_out: 151,
            duration: Duration::from_micros(1234),
            upstream: None,
            upstream_duration: None,
            reason: Some("revoked_subject"),
            report_only: false,
            issuer: Some("accounts"),
            jti: Some("abc"),
            sid: None,
        }
    }

    fn lines(path: &std::path::Path) -> Vec<String> {
        std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_line_is_this_and_escapes_what_clients_send() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let log = AccessLog::open(&LogTarget::File(path.clone()), Metrics::new().access_log_lost).unwrap();
        assert!(log.enabled());
        log.record(&line("/orders", "r1"));
        log.record(&Line {
            upstream: Some("shop"),
            upstream_duration: Some(Duration::from_millis(2)),
            report_only: true,
            ..line("/a\r\n{\"status\":200}\u{1b}[2J\"", "r2")
        });
        log.record(&line(&"é".repeat(3000), "r3"));
        drop(log);
        let lines = lines(&path);
        assert_eq!(
            lines[0],
            r#"{"time":"2023-11-14T22:13:20.123Z","request_id":"r1","client":"192.0.2.1","method":"GET","host":"shop.example.com","path":"/orders","route":"shop","status":401,"bytes_in":0,"bytes_out":151,"duration_ms":1.234,"reason":"revoked_subject","issuer":"accounts","jti":"abc"}"#
        );
        assert!(lines[1].contains(r#""path":"/a\r\n{\"status\":200}\u001b[2J\"""#), "{}", lines[1]);
        assert!(lines[1].contains(r#""upstream":"shop","upstream_ms":2.0,"#), "{}", lines[1]);
        assert!(
            lines[1].contains(r#""reason":"revoked_subject","report_only":true,"issuer":"accounts""#),
            "{}",
            lines[1]
        );
        assert_eq!(lines.len(), 3);
        let third: serde_json::Value = serde_json::from_str(&lines[2]).unwrap();
        assert_eq!(third["path"].as_str().map(str::len), Some(2048));
    }

    #[test]
    fn off_is_off_and_a_missing_folder_is_an_error() {
        let lost = Metrics::new().access_log_lost;
        let log = AccessLog::open(&LogTarget::Off, lost.clone()).unwrap();
        assert!(!log.enabled());
        log.record(&line("/", "r"));
        log.reopen().unwrap();
        assert_eq!(lost.get(), 0);
        let folder = tempfile::tempdir().unwrap();
        assert!(AccessLog::open(&LogTarget::File(folder.path().join("no/access.log")), lost).is_err());
    }

    #[test]
    fn a_moved_file_is_left_behind_on_reopen() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
        let log = AccessLog::open(&LogTarget::File(path.clone()), Metrics::new().access_log_lost).unwrap();
        log.record(&line("/before", "r1"));
        log.reopen().unwrap();
        std::fs::rename(&path, &moved).unwrap();
        log.record(&line("/between", "r2"));
        log.reopen().unwrap();
        log.record(&line("/after", "r3"));
        drop(log);
        assert_eq!(lines(&moved).len(), 2);
        assert_eq!(lines(&path).len(), 1);
    }

    #[test]
    fn lines_beyond_the_queue_are_lost_and_counted() {
        // A queue that nobody reads.
        let lost = Metrics::new().access_log_lost;
        let (queue, jobs) = sync_channel(2);
        let log = AccessLog { queue: Some(queue), thread: Mutex::default(), lost: lost.clone() };
        (0..5).for_each(|_| log.record(&line("/", "r")));
        assert_eq!(lost.get(), 3);
        drop(jobs);
        log.record(&line("/", "r"));
        assert_eq!(lost.get(), 4);
    }

    #[test]
    fn lines_that_a_full_disk_refuses_are_counted() {
        let lost = Metrics::new().access_log_lost;
        let log = AccessLog::open(&LogTarget::File("/dev/full".into()), lost.clone()).unwrap();
        log.record(&line("/", "r"));
        drop(log);
        assert_eq!(lost.get(), 1);
    }
}
