//! A PostgreSQL of the test's own: a data folder, a free port, and an end with the test.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::patience::within;

/// The password of the role that owns everything.
const OWNER_PASSWORD: &str = "the owner of the test database";
/// The password of the role that the gateway has.
pub(crate) const GATEWAY_PASSWORD: &str = "the gateway at the test database";

/// A start or stop takes well below three seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server, with a table of users that the role `portcullis` may read.
pub(crate) struct Database {
    folder: TempDir,
    binaries: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl Database {
    /// Starts a server; `None` where there is no PostgreSQL, which CI does not accept.
    pub(crate) fn start() -> Option<Self> {
        let Some(binaries) = binaries() else {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "PostgreSQL is not installed");
            eprintln!("not run: PostgreSQL is not installed");
            return None;
        };
        let folder = TempDir::with_prefix("portcullis-postgres-").unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut database = Self { folder, binaries, port, child: None };
        database.initialise();
        database.resume();
        database.sql(&format!(
            "CREATE TABLE users (id text PRIMARY KEY, password_hash text, status text);
             CREATE ROLE portcullis LOGIN PASSWORD '{GATEWAY_PASSWORD}';
             GRANT SELECT ON users TO portcullis;"
        ));
        Some(database)
    }

    fn initialise(&self) {
        let password = self.folder.path().join("password");
        fs::write(&password, OWNER_PASSWORD).unwrap();
        for path in [self.folder.path(), &password] {
            if let Some((user, group)) = other_user() {
                chown(path, Some(user), Some(group)).unwrap();
            }
        }
        let output = self
            .command("initdb")
            .args(["--no-sync", "--username=owner", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"])
            .arg("--pwfile")
            .arg(&password)
            .arg("-D")
            .arg(self.data())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// A program of PostgreSQL's, as a user who is not root.
    fn command(&self, program: &str) -> Command {
        let program = self.binaries.join(program);
        let mut command = match other_user() {
            None => Command::new(program),
            Some((user, group)) => {
                let mut command = Command::new("setpriv");
                command
                    .arg(format!("--reuid={user}"))
                    .arg(format!("--regid={group}"))
                    .arg("--clear-groups")
                    .arg(program);
                command
            }
        };
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Starts the server again on what it left behind.
    pub(crate) fn resume(&mut self) {
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        let settings = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "max_connections=40"];
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).arg("-p").arg(self.port.to_string());
        for setting in settings {
            command.args(["-c", setting]);
        }
        self.child = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        within(PATIENCE, "the database", || self.try_sql("SELECT 1").ok());
    }

    /// Ends the server at once, as a crash would.
    pub(crate) fn halt(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // SIGQUIT ends its processes with it; SIGKILL would leave some of them for a while.
        let _ = Command::new("sh").args(["-c", "kill -s QUIT \"$0\"", &child.id().to_string()]).status();
        let started = std::time::Instant::now();
        while started.elapsed() < PATIENCE {
            if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Where the gateway finds it.
    pub(crate) fn url(&self) -> String {
        let password = GATEWAY_PASSWORD.replace(' ', "%20");
        format!("postgres://portcullis:{password}@127.0.0.1:{}/postgres", self.port)
    }

    /// Where its owner finds it: host, port, role, password, database.
    pub(crate) fn environment(&self) -> [(&'static str, String); 5] {
        [
            ("PGHOST", "127.0.0.1".to_owned()),
            ("PGPORT", self.port.to_string()),
            ("PGUSER", "owner".to_owned()),
            ("PGPASSWORD", OWNER_PASSWORD.to_owned()),
            ("PGDATABASE", "postgres".to_owned()),
        ]
    }

    /// The program `psql`, for a login service that reads with it.
    pub(crate) fn psql(&self) -> PathBuf {
        self.binaries.join("psql")
    }

    /// Runs statements in `psql` and returns what it prints.
    pub(crate) fn sql(&self, statements: &str) -> String {
        self.try_sql(statements).unwrap_or_else(|error| panic!("{statements}: {error}"))
    }

    fn try_sql(&self, statements: &str) -> Result<String, String> {
        let output = Command::new(self.psql())
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statements])
            .envs(self.environment())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout).unwrap().trim_end().to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// Adds a user, or changes one.
    pub(crate) fn user(&self, id: &str, hash: Option<&str>, status: Option<&str>) {
        let text = |text: Option<&str>| {
            text.map_or_else(|| "NULL".to_owned(), |text| format!("'{}'", text.replace('\'', "''")))
        };
        let (hash, status) = (text(hash), text(status));
        self.sql(&format!(
            "INSERT INTO users VALUES ({}, {hash}, {status})
             ON CONFLICT (id) DO UPDATE SET password_hash = {hash}, status = {status}",
            text(Some(id))
        ));
    }

    /// How many of the gateway's connections run or ran something like this last.
    pub(crate) fn connections(&self, like: &str) -> usize {
        let query = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'portcullis' AND query LIKE '{}'",
            like.replace('\'', "''")
        );
        self.sql(&query).parse().unwrap()
    }

    /// A file beside the data, owned by whom the server runs as and readable by none else.
    pub(crate) fn write_private(&self, name: &str, text: &str) -> PathBuf {
        let path = self.data().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        if let Some((user, group)) = other_user() {
            chown(&path, Some(user), Some(group)).unwrap();
        }
        path
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.halt();
    }
}

/// Debian keeps them out of the path.
fn binaries() -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::var_os("PATH").iter().flat_map(std::env::split_paths).collect();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut installed: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    installed.sort();
    folders.append(&mut installed);
    let has = |folder: &Path| ["initdb", "postgres", "psql"].iter().all(|program| folder.join(program).is_file());
    folders.into_iter().rev().find(|folder| has(folder))
}

/// PostgreSQL refuses to run as root: whom it runs as then.
fn other_user() -> Option<(u32, u32)> {
    let root = fs::metadata("/proc/self").unwrap().uid() == 0;
    if !root {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let named = |name: &str| {
        users
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields[0] == name)
            .map(|fields| (fields[2].parse().expect("a user id"), fields[3].parse().expect("a group id")))
    };
    Some(named("postgres").or_else(|| named("nobody")).expect("a user who is not root"))
}
