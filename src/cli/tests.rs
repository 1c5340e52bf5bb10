use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use super::*;
use crate::admin::tests::{Fixture, OPERATOR};
use crate::admin::{Listener, serve};
use crate::config::AdminAddress;

fn run(options: &RunOptions, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
    writeln!(out, "{options:?}")?;
    Ok(())
}

fn demo(options: &DemoOptions, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
    writeln!(out, "{options:?}")?;
    Err(Failure::new(Exit::Unavailable, "no port is free"))
}

const COMMANDS: Commands = Commands { run, demo };

/// What a command wrote, and how it ended.
pub(super) struct Outcome {
    code: ExitCode,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Outcome {
    #[track_caller]
    pub(super) fn exits(self, code: u8) -> Self {
        assert_eq!(self.code, ExitCode::from(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }
}

pub(super) fn portcullis(arguments: &[&str], stdin: &str) -> Outcome {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut streams = Streams { stdin: &mut stdin.as_bytes(), stdout: &mut stdout, stderr: &mut stderr };
    let arguments = std::iter::once("portcullis").chain(arguments.iter().copied()).map(OsString::from);
    let code = dispatch(&COMMANDS, arguments, &mut streams);
    Outcome { code, stdout: String::from_utf8(stdout).unwrap(), stderr: String::from_utf8(stderr).unwrap() }
}

#[test]
fn arguments_that_make_no_sense_exit_64() {
    for arguments in [
        &["frobnicate"][..],
        &[],
        &["run", "--port", "80"],
        &["check"],
        &["revoke"],
        &["revoke", "user", "alice", "--issuer", "accounts"],
        &["revoke", "subject", "alice", "--issuer", "accounts", "--reason", "because"],
        &["revoke", "subject", "alice", "--issuer", "accounts", "--issued-before", "yesterday"],
        &["revoke", "subject", "alice", "--issuer", "a", "--block", "--issued-before", "2026-01-01T00:00:00Z"],
        &["revoke", "subject", "alice"],
        &["revoke", "subject", "--issuer", "accounts"],
        &["revoke", "key", "thumb", "--issuer", "accounts"],
        &["revoke", "issuer"],
        &["revoke", "all", "alice"],
        &["revoke", "token", "eyJh.eyJz.c2ln", "--issuer", "accounts"],
        &["revoke", "token", "-"],
        &["sessions", "end"],
        &["sessions", "end", "s1", "--subject", "ann"],
        &["sessions", "end", "--issuer", "accounts"],
        &["explain", "eyJh.eyJz.c2ln"],
        &["explain", "/nowhere/token"],
        &["revocations", "get", "two words"],
        &["status", "--admin", "https://gate.example:9901"],
        &["status", "--token-file", "/nowhere/token"],
        &["store"],
        &["store", "export", "data"],
    ] {
        let outcome = portcullis(arguments, "").exits(64);
        assert!(outcome.stdout.is_empty() && !outcome.stderr.is_empty(), "{arguments:?}");
        assert!(!outcome.stderr.contains("c2ln"), "a token is not repeated: {}", outcome.stderr);
    }
}

#[test]
fn help_and_version_go_to_standard_output() {
    assert!(portcullis(&["--help"], "").exits(0).stdout.contains("revocations"));
    assert_eq!(portcullis(&["--version"], "").exits(0).stdout, concat!("portcullis ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn run_and_demo_get_what_was_said() {
    let outcome = portcullis(&["run", "--config", "gate.yaml", "--accept-loss"], "").exits(0);
    let options = RunOptions { config: PathBuf::from("gate.yaml"), accept_loss: true };
    assert_eq!(outcome.stdout, format!("{options:?}\n"));
    let outcome = portcullis(&["demo", "--script"], "").exits(69);
    assert_eq!(outcome.stdout, "DemoOptions { script: true }\n");
    assert_eq!(outcome.stderr, "error: no port is free\n");
}

#[test]
fn a_configuration_is_checked_and_its_schema_printed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gate.yaml");
    std::fs::write(&file, "listeners: nonsense\nissuer: {}\n").unwrap();
    let path = file.to_str().unwrap();
    let outcome = portcullis(&["check", path], "").exits(78);
    assert!(outcome.stderr.starts_with("error: ") && outcome.stderr.contains("gate.yaml:"), "{}", outcome.stderr);
    portcullis(&["check", "/nowhere/gate.yaml"], "").exits(78);
    std::fs::write(
        &file,
        "listeners: [{ address: 127.0.0.1:0 }]\nupstreams: { shop: { servers: [http://127.0.0.1:3000] } }\nroutes: \
         [{ match: { path: / }, upstream: shop, auth: none }]\nrevocation: { store: { memory: true } }\n",
    )
    .unwrap();
    assert!(portcullis(&["check", path], "").exits(0).stdout.contains("ok ("));
    let schema: serde_json::Value = serde_json::from_str(&portcullis(&["schema"], "").exits(0).stdout).unwrap();
    assert!(schema["properties"]["routes"].is_object());
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let mut stderr = Vec::new();
    let mut streams = Streams { stdin: &mut &b""[..], stdout: &mut Closed, stderr: &mut stderr };
    let code = dispatch(&COMMANDS, ["portcullis", "schema"].map(OsString::from), &mut streams);
    assert_eq!((code, stderr.len()), (ExitCode::SUCCESS, 0));
}

#[test]
fn an_api_that_is_not_there_exits_69() {
    let folder = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", folder.path().join("none.sock").display());
    let outcome = portcullis(&["status", "--admin", &socket], "").exits(69);
    assert!(outcome.stderr.contains("cannot reach the admin API"), "{}", outcome.stderr);
}

/// An admin API on a listener of its own, in a thread of its own.
struct Served {
    address: String,
    token_file: PathBuf,
    folder: tempfile::TempDir,
    shutdown: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Served {
    fn new(address: impl FnOnce(&Path) -> AdminAddress) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let token_file = folder.path().join("token");
        std::fs::write(&token_file, format!("{OPERATOR}\n")).unwrap();
        let address = address(folder.path());
        let shutdown = CancellationToken::new();
        let (bound, listening) = std::sync::mpsc::channel();
        let stop = shutdown.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = Listener::bind(&address).await.unwrap();
                bound.send(listener.address()).unwrap();
                let fixture = Fixture::new();
                serve(listener, fixture.api.clone(), stop).await;
            });
        });
        let address = listening.recv().unwrap();
        let address = if address.starts_with("unix:") { address } else { format!("http://{address}") };
        Self { address, token_file, folder, shutdown, thread: Some(thread) }
    }

    fn ask(&self, arguments: &[&str], stdin: &str) -> Outcome {
        let place = ["--admin", &self.address, "--token-file", self.token_file.to_str().unwrap()];
        portcullis(&[arguments, &place].concat(), stdin)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn walk(served: &Served) {
    let revoked =
        served.ask(&["revoke", "subject", "--issuer", "accounts", "alice", "--reason", "account_blocked"], "");
    let revoked = revoked.exits(0).stdout;
    assert!(
        revoked.starts_with("revoked: ") && revoked.contains("subject alice of https://accounts.example/"),
        "{revoked}"
    );
    let id = revoked.split_whitespace().nth(1).unwrap();

    let once = ["revoke", "token", "-", "--reason", "logout", "--id", "call-1", "--note", "lost phone"];
    assert!(served.ask(&once, "authentic.but.expired\n").exits(0).stdout.starts_with("revoked: call-1"));
    assert!(served.ask(&once, "authentic.but.expired\n").exits(0).stdout.starts_with("revoked before: call-1"));
    served.ask(&["revoke", "token", "-"], "forged").exits(1);

    let list = served.ask(&["revocations", "list", "--kind", "subject"], "").exits(0).stdout;
    assert_eq!((list.lines().count(), list.split_whitespace().next()), (1, Some(id)));
    let json = served.ask(&["revocations", "list", "--json", "--limit", "1"], "").exits(0).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["items"].as_array().map(Vec::len), Some(1));
    assert!(served.ask(&["revocations", "get", "call-1"], "").exits(0).stdout.contains("note lost phone"));
    let lifted = served.ask(&["revocations", "lift", id], "").exits(0).stdout;
    assert!(lifted.starts_with("lifted: subject alice") && lifted.contains("stay refused"), "{lifted}");
    served.ask(&["revocations", "lift", "nobody"], "").exits(1);

    let explained = served.ask(&["explain", "-", "--path", "/cart"], "some.raw.token").exits(0).stdout;
    assert!(explained.starts_with("refused: revoked_subject (status 401)\nroute: GET None /cart\n"), "{explained}");
    assert!(served.ask(&["status"], "").exits(0).stdout.contains("ready: true\n"));
    assert!(served.ask(&["keys", "list"], "").exits(0).stdout.starts_with("session  k1  ES256 signs"));
    served.ask(&["keys", "rotate"], "").exits(0);
    assert_eq!(served.ask(&["sessions", "list", "--subject", "local:ann"], "").exits(0).stdout, "");
    let ended = served.ask(&["sessions", "end", "--subject", "local:ann", "--note", "moved out"], "").exits(0).stdout;
    assert!(ended.starts_with("sessions ended: 0\n") && ended.contains("subject local:ann of "), "{ended}");
    served.ask(&["sessions", "end", "nobody"], "").exits(1);
    served.ask(&["keys", "rotate", "--now"], "").exits(0);
    let retired = served.ask(&["keys", "retire", "session", "k1", "--note", "seen & sold"], "").exits(0).stdout;
    assert!(retired.contains("key thumb: every token, until lifted"), "{retired}");
    served.ask(&["keys", "retire", "session", "k2"], "").exits(1);

    let wrong = served.folder.path().join("wrong");
    std::fs::write(&wrong, "not the token").unwrap();
    let denied = portcullis(&["status", "--admin", &served.address, "--token-file", wrong.to_str().unwrap()], "");
    assert_eq!(denied.exits(77).stderr, "error: a valid admin token is needed (unauthorized, status 401)\n");

    let replace = ["subjects", "replace", "bob/1", "--issuer", "accounts", "--by", "bob 2", "--id", "swap-1"];
    let replaced = served.ask(&replace, "").exits(0).stdout;
    let said = "replaced: swap-1  subject bob/1 of https://accounts.example/ by bob 2, reason credential_compromised";
    assert!(replaced.starts_with(said) && replaced.ends_with("account: bob/1\n"), "{replaced}");
    assert!(served.ask(&replace, "").exits(0).stdout.starts_with("replaced before: swap-1"));
    let shown = served.ask(&["subjects", "show", "bob/1", "--issuer", "https://accounts.example/"], "").exits(0).stdout;
    assert!(shown.contains("refused: it was replaced by bob 2\nreplaced: swap-1  "), "{shown}");
    let shown = served.ask(&["subjects", "show", "bob 2", "--issuer", "accounts"], "").exits(0).stdout;
    assert!(shown.contains("account: bob/1\n") && shown.contains("in force: "), "{shown}");
    let undo = ["subjects", "undo", "bob/1", "--issuer", "accounts", "--reason", "admin", "--note", "a mistake"];
    assert!(served.ask(&undo, "").exits(0).stdout.starts_with("undone: swap-1  subject bob/1"));
    served.ask(&["subjects", "undo", "nobody", "--issuer", "accounts"], "").exits(1);
}

#[test]
fn the_commands_work_over_tcp() {
    walk(&Served::new(|_| AdminAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))));
}

#[test]
fn the_commands_work_over_a_unix_socket_of_its_owner() {
    use std::os::unix::fs::PermissionsExt;

    let served = Served::new(|folder| AdminAddress::Unix(folder.join("admin.sock")));
    let socket = served.folder.path().join("admin.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    walk(&served);
    let names: Vec<_> =
        std::fs::read_dir(served.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "nothing is left beside socket and tokens: {names:?}");
    drop(served);
    assert!(!socket.exists());
}

/// Hands on what is written.
struct Told(std::sync::mpsc::Sender<Vec<u8>>);

impl Write for Told {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn events_are_printed_until_the_gateway_closes_the_stream() {
    let served = Served::new(|folder| AdminAddress::Unix(folder.join("admin.sock")));
    let token_file = served.token_file.to_str().unwrap();
    let place = ["--admin", &served.address, "--token-file", token_file];
    let arguments = [&["portcullis", "revocations", "watch"], &place[..]].concat();
    let arguments: Vec<OsString> = arguments.into_iter().map(OsString::from).collect();
    let (told, events) = std::sync::mpsc::channel();
    let watching = std::thread::spawn(move || {
        let mut stderr = Vec::new();
        let mut streams = Streams { stdin: &mut &b""[..], stdout: &mut Told(told), stderr: &mut stderr };
        (dispatch(&COMMANDS, arguments, &mut streams), String::from_utf8(stderr).unwrap())
    });
    // The stream begins at some moment; whatever comes into force after it is told.
    let event = (0..1000).find_map(|number| {
        served.ask(&["revoke", "subject", &format!("s{number}"), "--issuer", "accounts"], "").exits(0);
        events.recv_timeout(std::time::Duration::from_millis(20)).ok()
    });
    assert!(String::from_utf8(event.unwrap()).unwrap().starts_with("revoked: "));
    drop(served);
    let (code, stderr) = watching.join().unwrap();
    assert_eq!((code, stderr.as_str()), (ExitCode::from(69), "error: the gateway closed the stream\n"));
}

#[tokio::test]
async fn a_socket_in_use_and_a_file_are_left_alone_and_a_stale_socket_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let address = AdminAddress::Unix(path.clone());
    let first = Listener::bind(&address).await.unwrap();
    assert_eq!(Listener::bind(&address).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    drop(first);
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a process that was killed leaves its socket");
    drop(Listener::bind(&address).await.unwrap());
    std::fs::write(&path, "precious").unwrap();
    assert_eq!(Listener::bind(&address).await.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}
