//! A broker of the test's own, Redis or NATS: a free port, a folder for what it keeps, and an end with the test.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::patience::within;

/// A start takes well below three seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Redis,
    Nats,
}

/// A running server that has on disk what it acknowledges.
pub(crate) struct Broker {
    engine: Engine,
    program: PathBuf,
    folder: TempDir,
    port: u16,
    child: Option<Child>,
}

impl Engine {
    fn program(self) -> Option<PathBuf> {
        let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/nats/bin/nats-server");
        let name = match self {
            Self::Redis => "redis-server",
            Self::Nats if unpacked.exists() => return Some(unpacked),
            Self::Nats => "nats-server",
        };
        Command::new(name).arg("--version").output().is_ok().then(|| name.into())
    }
}

impl Broker {
    /// Starts a server; `None` where there is none, which CI does not accept.
    pub(crate) fn start(engine: Engine) -> Option<Self> {
        let Some(program) = engine.program() else {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{engine:?} is not installed");
            eprintln!("not run: {engine:?} is not installed");
            return None;
        };
        let folder = TempDir::with_prefix("portcullis-broker-").unwrap();
        let port = free_port();
        let mut broker = Self { engine, program, folder, port, child: None };
        broker.resume();
        Some(broker)
    }

    /// What the configuration says of it, below `cluster`.
    pub(crate) fn config(&self) -> (&'static str, Value) {
        match self.engine {
            Engine::Redis => ("redis", json!({"url": format!("redis://127.0.0.1:{}", self.port)})),
            Engine::Nats => ("nats", json!({"servers": [format!("nats://127.0.0.1:{}", self.port)]})),
        }
    }

    /// Starts the server again on what it left behind.
    pub(crate) fn resume(&mut self) {
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        let mut command = Command::new(&self.program);
        match self.engine {
            Engine::Redis => {
                let port = self.port.to_string();
                command.args(["--port", &port, "--bind", "127.0.0.1", "--save", ""]);
                command.args(["--appendonly", "yes", "--appendfsync", "always", "--dir"]).arg(self.data());
                fs::create_dir_all(self.data()).unwrap();
            }
            Engine::Nats => {
                let config = format!(
                    "host: 127.0.0.1\nport: {}\njetstream {{ store_dir: {:?}\nsync_interval: always }}\n",
                    self.port,
                    self.data()
                );
                let file = self.folder.path().join("nats.conf");
                fs::write(&file, config).unwrap();
                command.arg("-c").arg(file);
            }
        }
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn();
        self.child = Some(child.unwrap());
        within(PATIENCE, "the broker", || match self.engine {
            Engine::Redis => self.ask("PING").filter(|answer| answer == "+PONG").map(drop),
            Engine::Nats => TcpStream::connect(("127.0.0.1", self.port)).ok().map(drop),
        });
    }

    /// Ends the server as a crash would.
    pub(crate) fn halt(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// It loses all that it keeps.
    pub(crate) fn forget_everything(&mut self) {
        match self.engine {
            Engine::Redis => assert_eq!(self.ask("FLUSHALL").as_deref(), Some("+OK")),
            Engine::Nats => {
                self.halt();
                fs::remove_dir_all(self.data()).unwrap();
                self.resume();
            }
        }
    }

    /// Signals it by name, without `SIG`: `STOP` makes it fall silent, `CONT` lets it go on.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.as_ref().expect("it runs").id().to_string();
        let sent = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &id]).status();
        assert!(sent.unwrap().success(), "SIG{name}");
    }

    /// Sends Redis one command; the first line of the answer.
    pub(crate) fn ask(&self, command: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(format!("{command}\r\n").as_bytes()).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        Some(line.trim_end().to_owned())
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

/// A port that nobody listens on, and that nobody is given who asks for any: a server that is away for a while finds it
/// again.
fn free_port() -> u16 {
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(|| rand::random_range(20_000..32_000)).find(free).unwrap()
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.halt();
    }
}

/// Every one of these functions of an [`Engine`] as a test, over each broker.
macro_rules! over_each_broker {
    ($($history:ident),+ $(,)?) => {
        mod redis {
            $(#[test]
            fn $history() {
                super::$history(crate::support::Engine::Redis);
            })+
        }

        mod nats {
            $(#[test]
            fn $history() {
                super::$history(crate::support::Engine::Nats);
            })+
        }
    };
}

pub(crate) use over_each_broker;
