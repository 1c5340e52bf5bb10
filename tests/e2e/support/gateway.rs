//! The real binary as a process of its own. It is ended, by its own id, when the test ends.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::patience::within;
use super::{Admin, Connection, Response, Site, request, site};

/// A start replays the store and opens sockets: well below three seconds.
const START: Duration = Duration::from_secs(30);

/// A running gateway.
pub(crate) struct Gateway {
    child: Child,
    output: Output,
    /// Where traffic goes.
    pub(crate) address: SocketAddr,
    /// Where the control plane listens.
    pub(crate) admin_address: SocketAddr,
}

impl Gateway {
    /// Starts the binary and waits for the line that says every listener is open.
    pub(crate) fn start(site: &Site) -> Self {
        Self::await_start(spawn(site))
    }

    /// The same, with a listening socket handed over as systemd does it.
    pub(crate) fn start_with(site: &Site, socket: &TcpListener) -> Self {
        let mut command = Command::new("sh");
        // The socket comes as standard input, because that can be said without unsafe code.
        command.args(["-c", "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"", "sh"]);
        command.arg(binary()).stdin(OwnedFd::from(socket.try_clone().unwrap()));
        Self::await_start(spawn_as(command, site))
    }

    /// The same, by a script of `sh` that ends in `exec "$@"`.
    pub(crate) fn start_by(site: &Site, script: &str) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(binary());
        Self::await_start(spawn_as(command, site))
    }

    fn await_start(started: Started) -> Self {
        Self::await_start_within(START, started)
    }

    fn await_start_within(limit: Duration, (mut child, mut output, first_line): Started) -> Self {
        let line = match first_line.recv_timeout(limit) {
            Ok(line) => line,
            Err(problem) => {
                let _ = child.kill();
                let status = child.wait();
                panic!("the gateway did not start ({problem}, {status:?}):\n{}", output.whole());
            }
        };
        let event: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(event["event"], "listening", "{line}");
        let address = event["listeners"][0].as_str().expect("a listener").parse().unwrap();
        let admin_address = event["admin"].as_str().expect("an admin listener").parse().unwrap();
        Self { child, output, address, admin_address }
    }

    /// Starts a gateway that must refuse to: its exit code and everything it said.
    pub(crate) fn refuse(site: &Site) -> (i32, String) {
        let (mut child, mut output, first_line) = spawn(site);
        if let Ok(line) = first_line.recv_timeout(START) {
            let _ = child.kill();
            let _ = child.wait();
            panic!("it listened: {line}");
        }
        let status = await_exit(&mut child, START);
        (status.code().expect("an exit code"), output.whole())
    }

    /// The admin API with the operator's secret.
    pub(crate) fn admin(&self) -> Admin {
        Admin::new(self.admin_address, site::OPS)
    }

    /// A connection to the traffic listener.
    pub(crate) fn connect(&self) -> Connection {
        Connection::open(self.address)
    }

    /// One request on a connection of its own.
    pub(crate) fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let mut headers = headers.to_vec();
        headers.push(("Connection", "close"));
        self.raw(&request(method, target, &headers, body))
    }

    pub(crate) fn get(&self, target: &str, headers: &[(&str, &str)]) -> Response {
        self.send("GET", target, headers, b"")
    }

    /// `GET` with a bearer token.
    pub(crate) fn get_as(&self, target: &str, token: &str) -> Response {
        self.get(target, &[("Authorization", &super::bearer(token))])
    }

    /// `POST` with a bearer token and no body.
    pub(crate) fn post_as(&self, target: &str, token: &str) -> Response {
        self.send("POST", target, &[("Authorization", &super::bearer(token)), ("Content-Length", "0")], b"")
    }

    /// The answer to exactly these bytes.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Response {
        self.connect().send(bytes).response()
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything the process has written to standard output and error so far.
    pub(crate) fn output(&self) -> String {
        self.output.so_far()
    }

    /// Memory in KiB, by the name it has in `/proc/PID/status`: `VmRSS` now, `VmHWM` at its highest.
    pub(crate) fn memory(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a memory figure");
        line.trim_start_matches(':').trim().trim_end_matches("kB").trim().parse().unwrap()
    }

    /// Open file descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Sends a signal by name, without `SIG`.
    pub(crate) fn signal(&self, name: &str) {
        send(name, &self.child);
    }

    /// Ends it as a power cut would, from the point of view of the process.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop and waits until it has: its exit code, everything it said, and how long it took.
    pub(crate) fn stop(mut self) -> (i32, String, Duration) {
        let started = Instant::now();
        self.signal("TERM");
        let status = await_exit(&mut self.child, START);
        let took = started.elapsed();
        (status.code().expect("an exit code"), self.output.whole(), took)
    }

    /// Whether the process is still there.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for it to end by itself.
    pub(crate) fn await_exit(&mut self) -> i32 {
        await_exit(&mut self.child, START).code().expect("an exit code")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            eprintln!("--- the gateway said:\n{}", self.output());
        }
    }
}

/// A gateway that may not listen yet.
pub(crate) struct Starting(Started);

impl Starting {
    pub(crate) fn new(site: &Site) -> Self {
        Self(spawn(site))
    }

    /// Whether it is there and does not listen for so long.
    pub(crate) fn waits(&self, span: Duration) -> bool {
        matches!(self.0.2.recv_timeout(span), Err(mpsc::RecvTimeoutError::Timeout))
    }

    /// Asks it to stop and waits until it has: its exit code.
    pub(crate) fn stop(mut self) -> i32 {
        send("TERM", &self.0.0);
        await_exit(&mut self.0.0, START).code().expect("an exit code")
    }

    /// Waits until it listens.
    pub(crate) fn listening(self) -> Gateway {
        Gateway::await_start(self.0)
    }

    /// The same, where there is more to read than others have.
    pub(crate) fn listening_within(self, limit: Duration) -> Gateway {
        Gateway::await_start_within(limit, self.0)
    }
}

/// What a process writes, as it comes.
struct Output {
    bytes: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Output {
    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    /// Everything, once the process has ended.
    fn whole(&mut self) -> String {
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        self.so_far()
    }
}

/// The gateway that is tested, or for figures another one: `PORTCULLIS_GATEWAY`, one that is optimised.
fn binary() -> OsString {
    std::env::var_os("PORTCULLIS_GATEWAY").unwrap_or_else(|| env!("CARGO_BIN_EXE_portcullis").into())
}

type Started = (Child, Output, mpsc::Receiver<String>);

fn spawn(site: &Site) -> Started {
    let mut command = Command::new(binary());
    command.stdin(Stdio::null());
    spawn_as(command, site)
}

fn spawn_as(mut command: Command, site: &Site) -> Started {
    let config = site.write_config();
    let mut child = command
        .args(["run", "--config"])
        .arg(config)
        .current_dir(site.path())
        .env_remove("RUST_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let (sender, first_line) = mpsc::channel();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let heard = Arc::clone(&bytes);
    let out = thread::spawn(move || {
        let mut line = String::new();
        if stdout.read_line(&mut line).is_ok_and(|count| count > 0) {
            heard.lock().unwrap().extend_from_slice(line.as_bytes());
            let _ = sender.send(line);
            collect(stdout, &heard);
        }
    });
    let stderr = child.stderr.take().unwrap();
    let heard = Arc::clone(&bytes);
    let err = thread::spawn(move || collect(stderr, &heard));
    (child, Output { bytes, readers: vec![out, err] }, first_line)
}

fn collect(mut from: impl Read, to: &Mutex<Vec<u8>>) {
    let mut piece = [0; 8192];
    while let Ok(count) = from.read(&mut piece) {
        if count == 0 {
            return;
        }
        to.lock().unwrap().extend_from_slice(&piece[..count]);
    }
}

fn send(name: &str, child: &Child) {
    let sent = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &child.id().to_string()]).status();
    assert!(sent.unwrap().success(), "SIG{name}");
}

fn await_exit(child: &mut Child, limit: Duration) -> ExitStatus {
    within(limit, "the gateway to end", || child.try_wait().unwrap())
}
