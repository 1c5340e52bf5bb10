//! The audit log: who asked for which change, and what came of it.
//!
//! Append-only JSON lines. Each carries the SHA-256 of its predecessor and its own, so that a line that
//! is edited, removed or put in between breaks the chain; whoever can rewrite the whole file can forge
//! the whole chain, so ship the lines elsewhere when that matters. A line is on the disk before the
//! change it tells of is answered.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::writer::Sink;
use crate::config::LogTarget;
use crate::time::{Clock, Timestamp};

/// Lines that may wait to be made durable.
const QUEUE: usize = 1024;
/// The longest line read back; longer ones were not written by this module.
const LONGEST: u64 = 256 * 1024;
/// `,"hash":"` + 64 hexadecimal digits + `"}`.
const SUFFIX: usize = 9 + 64 + 2;

/// One change, or one change that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEvent {
    /// The name of the admin token; `local` for a Unix socket without tokens; the subject for a logout.
    pub actor: String,
    /// `operator`, `viewer`, `session`; `none` when nobody was recognised.
    pub role: &'static str,
    /// The address it came from, or `unix`.
    pub address: String,
    /// What was asked for: `revoke`, `lift`, `reload`, …
    pub action: &'static str,
    /// What it was asked for: the target's kind, issuer and value, a path, an id.
    pub target: String,
    /// Why it was revoked: [`crate::revocation::Reason::name`].
    pub reason: Option<&'static str>,
    /// `ok`, or the reason it was refused.
    pub result: &'static str,
    /// The id of the record that it made.
    pub id: Option<String>,
}

#[derive(Serialize)]
struct Body<'a> {
    time: Timestamp,
    seq: u64,
    actor: &'a str,
    role: &'a str,
    address: &'a str,
    action: &'a str,
    target: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    result: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    prev: &'a str,
}

#[derive(Deserialize)]
struct Link {
    seq: u64,
    prev: String,
    hash: String,
}

/// Why the audit log cannot be used. Read as "failed to …: {self}".
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file cannot be opened, read or written.
    #[error("the audit log cannot be opened, read or written")]
    Io(#[from] io::Error),
    /// A line is not what was written.
    #[error("line {line} of the audit log was changed, or lines before it were removed")]
    Altered {
        /// Its number in the file, from 1 on.
        line: u64,
    },
    /// A line cannot be made durable now.
    #[error("the audit log does not take lines")]
    Unavailable,
}

struct Job {
    events: Vec<AuditEvent>,
    reply: oneshot::Sender<Result<(), AuditError>>,
}

/// The audit log. Clones share one file; it is complete when the last one is dropped.
#[derive(Debug)]
pub struct Audit {
    queue: Option<SyncSender<Job>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    healthy: Arc<AtomicBool>,
}

impl Audit {
    /// Opens `target` and goes on where it ends. On standard output the chain starts anew.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened, or its last whole line is not what was written.
    pub fn open(target: &LogTarget, clock: Clock) -> Result<Self, AuditError> {
        let healthy = Arc::new(AtomicBool::new(true));
        let Some(mut sink) = Sink::open(target)? else {
            return Ok(Self { queue: None, thread: Mutex::default(), healthy });
        };
        let chain = match target {
            LogTarget::File(path) => Chain::of_file(path, &mut sink)?,
            LogTarget::Off | LogTarget::Stdout => Chain::default(),
        };
        let (queue, jobs) = sync_channel(QUEUE);
        let state = Arc::clone(&healthy);
        let thread = std::thread::Builder::new()
            .name("audit-log".to_owned())
            .spawn(move || Writer { sink, chain, clock, healthy: state }.run(&jobs))?;
        Ok(Self { queue: Some(queue), thread: Mutex::new(Some(thread)), healthy })
    }

    /// Writes one line and waits until it is durable. Several at once share one wait.
    ///
    /// # Errors
    ///
    /// When the line cannot be written; it may be there in part, and the chain goes on without it.
    pub async fn record(&self, event: AuditEvent) -> Result<(), AuditError> {
        self.record_all(vec![event]).await
    }

    /// Writes a line for each event, in order, and waits until all are durable.
    ///
    /// # Errors
    ///
    /// As [`record`](Self::record).
    pub async fn record_all(&self, events: Vec<AuditEvent>) -> Result<(), AuditError> {
        let Some(queue) = &self.queue else { return Ok(()) };
        let (reply, answer) = oneshot::channel();
        queue.try_send(Job { events, reply }).map_err(|_| AuditError::Unavailable)?;
        answer.await.map_err(|_| AuditError::Unavailable)?
    }

    /// Whether the last line could be written. What loosens protection is refused while it could not.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Acquire)
    }
}

#[cfg(test)]
impl Audit {
    /// A log that no line can be written to.
    pub(crate) fn on_a_full_disk() -> Self {
        let sink = Sink::open(&LogTarget::File("/dev/full".into())).unwrap().unwrap();
        let healthy = Arc::new(AtomicBool::new(true));
        let (queue, jobs) = sync_channel(QUEUE);
        let writer = Writer { sink, chain: Chain::default(), clock: Clock::System, healthy: Arc::clone(&healthy) };
        let thread = std::thread::spawn(move || writer.run(&jobs));
        Self { queue: Some(queue), thread: Mutex::new(Some(thread)), healthy }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.queue = None;
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the audit log's thread panicked");
        }
    }
}

/// The end of a chain of lines.
#[derive(Clone, Debug, Default)]
struct Chain {
    seq: u64,
    hash: String,
}

impl Chain {
    /// The end of the chain in `path`. A last line without its end was torn by a crash before anybody was
    /// told of it: it is closed off, and the chain goes on from the line before.
    fn of_file(path: &Path, sink: &mut Sink) -> Result<Self, AuditError> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let start = length.saturating_sub(2 * LONGEST);
        file.seek(SeekFrom::Start(start))?;
        let mut tail = Vec::new();
        file.take(2 * LONGEST).read_to_end(&mut tail)?;
        if tail.last().is_some_and(|last| *last != b'\n') {
            tracing::warn!("the last audit line is torn; it is left as it is");
            sink.write_durably(b"\n")?;
        }
        let torn_or_empty = |line: &&[u8]| !line.is_empty() && is_whole(line);
        let Some(last) = tail.split(|byte| *byte == b'\n').rev().find(torn_or_empty) else {
            return Ok(Self::default());
        };
        let line = || tail.split(|byte| *byte == b'\n').position(|it| it == last).unwrap_or(0) as u64 + 1;
        let link = check(last).ok_or_else(|| AuditError::Altered { line: line() })?;
        Ok(Self { seq: link.seq, hash: link.hash })
    }

    /// The next line for `event`, its end included, and the chain that ends with it.
    fn extend(&self, event: &AuditEvent, time: Timestamp) -> serde_json::Result<(Vec<u8>, Self)> {
        let seq = self.seq + 1;
        let body = Body {
            time,
            seq,
            actor: &event.actor,
            role: event.role,
            address: &event.address,
            action: event.action,
            target: &event.target,
            reason: event.reason,
            result: event.result,
            id: event.id.as_deref(),
            prev: &self.hash,
        };
        let mut line = serde_json::to_vec(&body)?;
        let hash = digest(&line);
        line.pop();
        line.extend_from_slice(format!(",\"hash\":\"{hash}\"}}\n").as_bytes());
        Ok((line, Self { seq, hash }))
    }
}

fn digest(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().fold(String::with_capacity(64), |mut text, byte| {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
        text
    })
}

/// Whether a line has its end, and so was written whole.
fn is_whole(line: &[u8]) -> bool {
    line.len() > SUFFIX && line[line.len() - SUFFIX..].starts_with(b",\"hash\":\"") && line.ends_with(b"\"}")
}

/// The line's place in the chain, if it is what its own hash says.
fn check(line: &[u8]) -> Option<Link> {
    let link: Link = serde_json::from_slice(line).ok()?;
    let mut body = line.get(..line.len().checked_sub(SUFFIX)?)?.to_vec();
    body.push(b'}');
    (digest(&body) == link.hash).then_some(link)
}

struct Writer {
    sink: Sink,
    chain: Chain,
    clock: Clock,
    healthy: Arc<AtomicBool>,
}

impl Writer {
    fn lines(&self, chain: &Chain, events: &[AuditEvent]) -> serde_json::Result<(Vec<u8>, Chain)> {
        let mut lines = Vec::new();
        let mut chain = chain.clone();
        for event in events {
            let (line, end) = chain.extend(event, self.clock.now())?;
            lines.extend_from_slice(&line);
            chain = end;
        }
        Ok((lines, chain))
    }

    fn run(mut self, jobs: &Receiver<Job>) {
        while let Ok(first) = jobs.recv() {
            let mut chain = self.chain.clone();
            let mut lines = Vec::new();
            let mut replies = Vec::new();
            for Job { events, reply } in std::iter::once(first).chain(jobs.try_iter().take(QUEUE)) {
                match self.lines(&chain, &events) {
                    Ok((text, end)) => {
                        lines.extend_from_slice(&text);
                        chain = end;
                        replies.push(reply);
                    }
                    Err(_) => drop(reply.send(Err(AuditError::Unavailable))),
                }
            }
            let outcome = self.sink.write_durably(&lines);
            self.healthy.store(outcome.is_ok(), Ordering::Release);
            match &outcome {
                Ok(()) => self.chain = chain,
                Err(error) => {
                    tracing::error!(error = error as &dyn std::error::Error, "the audit log cannot be written");
                    // What did get written must not run into the next line.
                    drop(self.sink.write(b"\n"));
                }
            }
            for reply in replies {
                // Whoever asked may have gone away.
                drop(reply.send(outcome.as_ref().map_err(|_| AuditError::Unavailable).copied()));
            }
        }
    }
}

/// An audit file, to be checked from its first line to its last.
#[derive(Clone, Debug)]
pub struct AuditTrail(PathBuf);

impl AuditTrail {
    /// The file at `path`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Checks every line against its own hash and its predecessor's, and returns how many there are.
    /// Torn lines do not count; a chain goes on over them.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or at the first line that is not what was written.
    pub fn verify(&self) -> Result<u64, AuditError> {
        let mut chain = Chain::default();
        let mut reader = BufReader::new(File::open(&self.0)?);
        let mut line = Vec::new();
        let mut number = 0;
        loop {
            line.clear();
            if reader.by_ref().take(LONGEST).read_until(b'\n', &mut line)? == 0 {
                return Ok(chain.seq);
            }
            number += 1;
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            if !is_whole(text) {
                continue;
            }
            let link = check(text).filter(|link| link.prev == chain.hash && link.seq == chain.seq + 1);
            let link = link.ok_or(AuditError::Altered { line: number })?;
            chain = Chain { seq: link.seq, hash: link.hash };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(target: &str) -> AuditEvent {
        AuditEvent {
            actor: "ops".to_owned(),
            role: "operator",
            address: "127.0.0.1".to_owned(),
            action: "revoke",
            target: target.to_owned(),
            reason: None,
            result: "ok",
            id: Some("id-1".to_owned()),
        }
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    fn write(path: &Path, targets: &[&str]) {
        let clock = Clock::manual(Timestamp::from_secs(1_700_000_000));
        let audit = Audit::open(&LogTarget::File(path.to_owned()), clock).unwrap();
        for target in targets {
            block_on(audit.record(event(target))).unwrap();
        }
    }

    #[test]
    fn the_chain_goes_on_after_a_restart_and_escapes_what_it_is_given() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        write(&path, &["subject accounts alice", "a\r\nb\u{1b}[2J"]);
        write(&path, &["third"]);
        assert_eq!(AuditTrail::new(&path).verify().unwrap(), 3);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].starts_with(
            r#"{"time":"2023-11-14T22:13:20Z","seq":1,"actor":"ops","role":"operator","address":"127.0.0.1","action":"revoke","target":"subject accounts alice","result":"ok","id":"id-1","prev":"","hash":""#
        ));
        assert!(lines[1].contains(r#""target":"a\r\nb\u001b[2J""#));
        let hash = &lines[1][lines[1].len() - 66..lines[1].len() - 2];
        assert!(lines[2].contains(r#""seq":3,"actor""#) && lines[2].contains(&format!(r#""prev":"{hash}""#)));
    }

    #[test]
    fn an_edit_a_removal_and_an_insertion_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        write(&path, &["one", "two", "three"]);
        let good = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = good.lines().collect();
        let join = |lines: &[&str]| lines.join("\n") + "\n";
        for (edited, at) in [
            (good.replace("two", "TWO"), 2),
            (join(&[lines[0], lines[2]]), 2),
            (join(&[lines[1], lines[2]]), 1),
            (join(&[lines[0], lines[1], lines[1], lines[2]]), 3),
        ] {
            std::fs::write(&path, edited).unwrap();
            assert!(matches!(AuditTrail::new(&path).verify(), Err(AuditError::Altered { line }) if line == at));
        }
        std::fs::write(&path, good.replace("three", "THREE")).unwrap();
        let opened = Audit::open(&LogTarget::File(path), Clock::System);
        assert!(matches!(opened, Err(AuditError::Altered { .. })), "the end of the chain is checked at start");
    }

    #[test]
    fn a_torn_line_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        write(&path, &["one", "two"]);
        let good = std::fs::read(&path).unwrap();
        let first = good.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for cut in (first + 1..good.len()).step_by(7).chain([good.len() - 2, good.len() - 1]) {
            std::fs::write(&path, &good[..cut]).unwrap();
            write(&path, &["three"]);
            // Only the line's own end may be missing: then it is whole.
            let lines = if cut == good.len() - 1 { 3 } else { 2 };
            assert_eq!(AuditTrail::new(&path).verify().unwrap(), lines, "cut at {cut}");
        }
    }

    #[test]
    fn a_line_that_cannot_be_written_is_said_and_remembered() {
        let audit = Audit::open(&LogTarget::Stdout, Clock::System).unwrap();
        assert!(audit.is_healthy());
        drop(audit);
        let off = Audit::open(&LogTarget::Off, Clock::System).unwrap();
        block_on(off.record(event("x"))).unwrap();

        let audit = Audit::on_a_full_disk();
        assert!(matches!(block_on(audit.record(event("x"))), Err(AuditError::Unavailable)));
        assert!(!audit.is_healthy());
    }
}
