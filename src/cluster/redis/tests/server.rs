//! A Redis of the test's own: a free port, a data folder, and an end with the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::Value;
use tempfile::TempDir;

use crate::secret::Secret;

/// A server is up in a tenth of a second.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Server {
    folder: TempDir,
    pub(super) port: u16,
    settings: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// Starts one with settings of its own; `None` where there is no Redis, which CI does not accept.
    pub(super) fn start(settings: &[&str]) -> Option<Self> {
        let port = crate::cluster::contract::free_port();
        Self::start_on(port, settings, |_| Vec::new())
    }

    /// The same on a port of its choice, with settings that name files in its folder.
    pub(super) fn start_on(port: u16, settings: &[&str], files: impl Fn(&Path) -> Vec<String>) -> Option<Self> {
        if Command::new("redis-server").arg("--version").output().is_err() {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "redis-server is not installed");
            eprintln!("not run: redis-server is not installed");
            return None;
        }
        let folder = TempDir::with_prefix("portcullis-redis-").unwrap();
        let mut all: Vec<String> = settings.iter().map(|text| (*text).to_owned()).collect();
        all.extend(files(folder.path()));
        let mut server = Self { folder, port, settings: all, child: None };
        server.resume();
        Some(server)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts it again on what it left behind.
    pub(super) fn resume(&mut self) {
        let conf = self.path("redis.conf");
        if !conf.exists() {
            let folder = self.folder.path().display();
            let mut lines = vec![
                format!("dir {folder}"),
                "bind 127.0.0.1".to_owned(),
                "save \"\"".to_owned(),
                "daemonize no".to_owned(),
                format!("pidfile {folder}/pid"),
            ];
            if !self.settings.iter().any(|line| line.starts_with("port ")) {
                lines.push(format!("port {}", self.port));
            }
            lines.extend(self.settings.iter().cloned());
            fs::write(&conf, lines.join("\n") + "\n").unwrap();
        }
        let log = fs::File::create(self.path("log")).unwrap();
        let mut command = Command::new("redis-server");
        command.arg(&conf).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        if self.settings.iter().any(|line| line.starts_with("sentinel ")) {
            command.arg("--sentinel");
        }
        self.child = Some(command.spawn().unwrap());
        let started = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(started.elapsed() < PATIENCE, "{}", fs::read_to_string(self.path("log")).unwrap_or_default());
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

    pub(super) fn url(&self) -> Secret {
        Secret::new(format!("redis://127.0.0.1:{}", self.port).into_bytes())
    }

    /// Runs a command there as its administrator.
    pub(super) fn run(&self, words: &[&str]) -> Value {
        let client = redis::Client::open(("127.0.0.1", self.port)).unwrap();
        let started = Instant::now();
        loop {
            let mut command = redis::cmd(words[0]);
            command.arg(&words[1..]);
            match client.get_connection().and_then(|mut connection| command.query(&mut connection)) {
                Ok(value) => return value,
                Err(error) => assert!(started.elapsed() < PATIENCE, "{words:?}: {error}"),
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// What INFO says.
    pub(super) fn info(&self, section: &str) -> String {
        match self.run(&["INFO", section]) {
            Value::BulkString(text) => String::from_utf8(text).unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
