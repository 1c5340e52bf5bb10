//! A NATS server of the test's own: a free port, a data folder, and an end with the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A server is up in a tenth of a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The current one.
    Current,
    /// The one of Debian 12, 2.9.
    Debian,
}

impl Kind {
    fn program(self) -> Option<PathBuf> {
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools");
        let program = match self {
            Self::Current => tools.join("nats/bin/nats-server"),
            Self::Debian => tools.join("nats-debian/usr/sbin/nats-server"),
        };
        if program.exists() {
            return Some(program);
        }
        let here = self == Self::Current && Command::new("nats-server").arg("--version").output().is_ok();
        here.then(|| "nats-server".into())
    }
}

pub(super) struct Server {
    folder: TempDir,
    program: PathBuf,
    pub(super) port: u16,
    child: Option<Child>,
}

impl Server {
    /// Starts one that syncs what it acknowledges; `None` where there is none, which CI does not accept.
    pub(super) fn start(kind: Kind, settings: &str) -> Option<Self> {
        Self::start_with(kind, |_| settings.to_owned())
    }

    /// The same, with settings that name files in its folder.
    pub(super) fn start_with(kind: Kind, settings: impl Fn(&Path) -> String) -> Option<Self> {
        let Some(program) = kind.program() else {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "nats-server ({kind:?}) is not installed");
            eprintln!("not run: nats-server ({kind:?}) is not installed");
            return None;
        };
        let folder = TempDir::with_prefix("portcullis-nats-").unwrap();
        let port = crate::cluster::contract::free_port();
        let data = folder.path().join("data");
        let sync = if kind == Kind::Current { "sync_interval: always" } else { "" };
        let conf = format!(
            "host: 127.0.0.1\nport: {port}\njetstream {{ store_dir: \"{}\"\n{sync} }}\n{}\n",
            data.display(),
            settings(folder.path())
        );
        fs::write(folder.path().join("nats.conf"), conf).unwrap();
        let mut server = Self { folder, program, port, child: None };
        server.resume();
        Some(server)
    }

    /// Starts it again on what it left behind.
    pub(super) fn resume(&mut self) {
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(self.folder.path().join("nats.conf"));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        let started = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(started.elapsed() < PATIENCE, "{log}");
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// Ends it as a crash would.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends a signal by name.
    pub(super) fn signal(&self, name: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        let status = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &pid]).status();
        assert!(status.unwrap().success());
    }

    /// Where it keeps its streams.
    pub(super) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(super) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
