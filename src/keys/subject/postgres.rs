//! Credentials out of a PostgreSQL: one query a subject, and a channel that says what has changed.
//!
//! The subject is a bind parameter, whatever is in it. Each connection is read-only and gives up a query
//! after the same time as we do. A connection of its own listens to the channel; while it is lost, nobody
//! would tell us of a change, so everything known is dropped and nothing is believed for longer than a
//! moment until it listens again.

use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls, Socket, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::Credentials;
use super::derive::{COLUMNS_MAX, Columns};
use super::source::{AskError, Complaints};
use super::wire::{Subject, Text};
use crate::secret::Secret;

/// How often the listening connection is tried, and for how long an answer may take: a peer that vanished
/// without a word is noticed within twice this.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The first pause before a lost listening connection is made again, and the longest; it doubles.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(5);

/// A user database, and what to ask of it.
#[derive(Clone, Debug, PartialEq)]
pub struct PostgresSource {
    /// `postgres://user:password@host/database`, or the key and value form.
    pub url: Secret,
    /// One parameter, the subject; its columns are the credential.
    pub query: String,
    /// How connections are protected.
    pub tls: PostgresTls,
    /// Connections at most. When all are busy, look-ups wait for one within their time.
    pub connections: usize,
    /// What a look-up may take, waiting for a connection and making one included.
    pub timeout: Duration,
    /// The channel whose notifications name subjects that have changed.
    pub notify: Option<String>,
}

/// How connections to the database are protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PostgresTls {
    /// Not at all.
    Off,
    /// TLS; the server's certificate is checked against these authorities (PEM), or those of the system.
    Verified {
        /// Certificates in PEM.
        authorities: Option<String>,
    },
}

/// Why the user database did not answer. Read as "failed to ask the user database: {self}".
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// The URL is none.
    #[error("the URL is not that of a PostgreSQL database")]
    Url,
    /// The authorities cannot be read.
    #[error("the certificates of the authorities cannot be used")]
    Authorities,
    /// The query is not one that asks for a subject's columns.
    #[error("{0}")]
    Query(String),
    /// What came back is no credential.
    #[error("the answer is no credential: {0}")]
    Columns(String),
    /// It said no, or the connection broke.
    #[error("{}", describe(.0))]
    Failed(#[from] tokio_postgres::Error),
    /// It took too long.
    #[error("no answer within {0:?}")]
    Slow(Duration),
}

impl PostgresSource {
    /// Whether `url` is one, before anything is connected.
    #[must_use]
    pub fn is_url(url: &str) -> bool {
        url.parse::<tokio_postgres::Config>().is_ok_and(|config| !config.get_hosts().is_empty())
    }

    /// Whether `url` leads to this machine alone.
    #[must_use]
    pub fn is_local(url: &Secret) -> bool {
        let text = std::str::from_utf8(url.expose()).unwrap_or_default();
        let Ok(config) = text.parse::<tokio_postgres::Config>() else { return false };
        config.get_hosts().iter().all(|host| match host {
            Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|it: std::net::IpAddr| it.is_loopback()),
            Host::Unix(_) => true,
        })
    }

    /// Whether these are certificates of authorities.
    #[must_use]
    pub fn are_authorities(pem: &str) -> bool {
        roots(Some(pem)).is_ok()
    }
}

/// A bounded number of connections, each of them ready to ask.
pub(super) struct Postgres {
    config: tokio_postgres::Config,
    tls: Option<MakeRustlsConnect>,
    query: String,
    timeout: Duration,
    permits: Semaphore,
    idle: Mutex<Vec<Ready>>,
}

/// A connection on which the query is prepared.
struct Ready {
    link: Link,
    statement: Statement,
}

/// A connection and the task that moves its bytes. Dropped, it is cut: a query that takes too long must
/// not keep it.
struct Link {
    client: Client,
    driver: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Postgres {
    /// Prepares, and connects to nothing yet.
    pub(super) fn new(source: &PostgresSource) -> Result<Self, PostgresError> {
        let url = std::str::from_utf8(source.url.expose()).map_err(|_| PostgresError::Url)?;
        let mut config: tokio_postgres::Config = url.parse().map_err(|_| PostgresError::Url)?;
        let tls = match &source.tls {
            PostgresTls::Off => None,
            PostgresTls::Verified { authorities } => Some(connector(authorities.as_deref())?),
        };
        config
            .ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable })
            .connect_timeout(source.timeout)
            .application_name("portcullis");
        Ok(Self {
            config,
            tls,
            query: source.query.clone(),
            timeout: source.timeout,
            permits: Semaphore::new(source.connections),
            idle: Mutex::new(Vec::new()),
        })
    }

    /// What a look-up may take.
    pub(super) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The columns of a subject; `None` when the query finds no row. The caller bounds the time.
    pub(super) async fn ask(&self, subject: &str) -> Result<Option<Columns>, PostgresError> {
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await.map_err(|_| PostgresError::Slow(self.timeout))?;
        // One that lay idle may have been closed by the other side; a new one is tried then.
        if let Some(ready) = self.take() {
            match self.ask_on(ready, subject).await {
                Err(PostgresError::Failed(error)) if error.is_closed() => {}
                outcome => return outcome,
            }
        }
        let link = self.connect(|_| {}).await?;
        let statement = self.prepare(&link.client).await?;
        self.ask_on(Ready { link, statement }, subject).await
    }

    async fn ask_on(&self, ready: Ready, subject: &str) -> Result<Option<Columns>, PostgresError> {
        let parameter = ready.statement.params().first();
        let Some(parameter) = parameter.and_then(|kind| Subject::new(subject, kind)) else {
            // Not a spelling of the column's type, so no row has it.
            self.put_back(ready);
            return Ok(None);
        };
        let outcome = ready.link.client.query(&ready.statement, &[&parameter]).await;
        let rows = match outcome {
            Ok(rows) => rows,
            Err(error) => {
                // Only an error that ended the query alone leaves the connection as it was.
                if error.code() == Some(&SqlState::QUERY_CANCELED) {
                    self.put_back(ready);
                }
                return Err(error.into());
            }
        };
        let columns = match rows.as_slice() {
            [] => Ok(None),
            [row] => {
                let texts: Result<Vec<_>, _> = (0..row.len()).map(|at| row.try_get::<_, Option<Text>>(at)).collect();
                let texts = texts?.into_iter().map(|text| text.map(|Text(text)| text)).collect();
                Columns::new(texts).map(Some).map_err(|error| PostgresError::Columns(error.to_string()))
            }
            rows => Err(PostgresError::Columns(format!("{} rows for one subject", rows.len()))),
        };
        self.put_back(ready);
        columns
    }

    /// Prepares the query and holds it to what it must be: one parameter, and columns that are text.
    async fn prepare(&self, client: &Client) -> Result<Statement, PostgresError> {
        let millis = self.timeout.as_millis();
        client
            .batch_execute(&format!("SET statement_timeout = {millis}; SET default_transaction_read_only = on"))
            .await?;
        let statement = client.prepare(&self.query).await?;
        let wrong = |what: String| Err(PostgresError::Query(what));
        match statement.params() {
            [kind] if Subject::is_taken_by(kind) => {}
            [kind] => {
                return wrong(format!(
                    "`$1` of the query is of the type {kind}: write `$1::text` or compare with text"
                ));
            }
            several => {
                return wrong(format!("the query has {} parameters, and one, `$1`, is the subject", several.len()));
            }
        }
        let columns = statement.columns();
        if columns.is_empty() || columns.len() > COLUMNS_MAX {
            return wrong(format!("the query has {} columns, and 1 to {COLUMNS_MAX} are needed", columns.len()));
        }
        if let Some(column) = columns.iter().find(|column| !Text::is_in(column.type_())) {
            let (name, kind) = (column.name(), column.type_());
            return wrong(format!(
                "column `{name}` is of the type {kind}: how it is written must be said, `{name}::text`"
            ));
        }
        Ok(statement)
    }

    /// Makes a connection; `heard` is given what its channels say.
    async fn connect(&self, heard: impl FnMut(&str) + Send + 'static) -> Result<Link, PostgresError> {
        match &self.tls {
            None => open(&self.config, NoTls, heard).await,
            Some(tls) => open(&self.config, tls.clone(), heard).await,
        }
    }

    fn take(&self) -> Option<Ready> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|ready| !ready.link.client.is_closed());
        idle.pop()
    }

    /// No more come back than were given out, which the permits bound.
    fn put_back(&self, ready: Ready) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(ready);
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").finish_non_exhaustive()
    }
}

async fn open<T>(
    config: &tokio_postgres::Config,
    tls: T,
    heard: impl FnMut(&str) + Send + 'static,
) -> Result<Link, PostgresError>
where
    T: MakeTlsConnect<Socket> + Send,
    T::Stream: Send + 'static,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    let (client, connection) = config.connect(tls).await?;
    Ok(Link { client, driver: tokio::spawn(drive(connection, heard)) })
}

/// Moves the bytes of a connection until it ends.
async fn drive<S, T>(mut connection: Connection<S, T>, mut heard: impl FnMut(&str))
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if let AsyncMessage::Notification(notice) = message {
            heard(notice.payload());
        }
    }
}

/// Listens to the channel for as long as the credentials are used.
pub(super) struct Listener {
    pub(super) postgres: Arc<Postgres>,
    pub(super) channel: String,
    pub(super) credentials: Weak<Credentials>,
    pub(super) complaints: Arc<Complaints>,
}

impl Listener {
    pub(super) async fn run(self) {
        let mut pause = RETRY_FIRST;
        while let Some(credentials) = self.credentials.upgrade() {
            let issuer = credentials.issuer.clone();
            drop(credentials);
            match timeout(self.postgres.timeout, self.listen()).await {
                Ok(Ok(link)) => {
                    pause = RETRY_FIRST;
                    self.deaf(false);
                    tracing::info!(issuer, "listening for changed credentials");
                    watch_over(link).await;
                    self.deaf(true);
                    tracing::warn!(issuer, "no longer listening for changed credentials: each is asked for until then");
                }
                Ok(Err(error)) => self.complaints.complain(&issuer, &error.into()),
                Err(_) => self.complaints.complain(&issuer, &AskError::Slow(self.postgres.timeout)),
            }
            // Not all nodes at the same moment.
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(RETRY_LAST);
        }
    }

    fn deaf(&self, deaf: bool) {
        if let Some(credentials) = self.credentials.upgrade() {
            credentials.forget_all(deaf);
        }
    }

    async fn listen(&self) -> Result<Link, PostgresError> {
        let credentials = Weak::clone(&self.credentials);
        let heard = move |payload: &str| {
            if let Some(credentials) = credentials.upgrade() {
                credentials.heard(payload);
            }
        };
        let link = self.postgres.connect(heard).await?;
        // Its name is checked with the configuration, and quoted all the same.
        link.client.batch_execute(&format!("LISTEN \"{}\"", self.channel.replace('"', "\"\""))).await?;
        Ok(link)
    }
}

/// Returns when the connection has ended, or no longer answers.
async fn watch_over(mut link: Link) {
    loop {
        tokio::select! {
            _ = &mut link.driver => return,
            () = tokio::time::sleep(HEARTBEAT) => {}
        }
        match timeout(HEARTBEAT, link.client.batch_execute("SELECT 1")).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

fn connector(authorities: Option<&str>) -> Result<MakeRustlsConnect, PostgresError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| PostgresError::Authorities)?
        .with_root_certificates(roots(authorities)?)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

/// The authorities in the PEM, or without one those of the system.
fn roots(pem: Option<&str>) -> Result<rustls::RootCertStore, PostgresError> {
    let mut roots = rustls::RootCertStore::empty();
    match pem {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.map_err(|_| PostgresError::Authorities)?;
                roots.add(certificate).map_err(|_| PostgresError::Authorities)?;
            }
        }
        // Some of the system's may be unreadable; the rest will do.
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    if roots.is_empty() { Err(PostgresError::Authorities) } else { Ok(roots) }
}

/// What the database said, without what it may have repeated of a value: the text of a data exception
/// (class 22) and of an error raised by a function quotes columns.
fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(said) => {
            let code = said.code().code();
            match code.get(..2) {
                Some("22" | "23" | "P0") | None => format!("SQLSTATE {code}"),
                Some(_) => format!("{} (SQLSTATE {code})", said.message()),
            }
        }
        None => match std::error::Error::source(error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_host() {
        for (url, good) in [
            ("postgres://portcullis:secret@db.internal:5432/users", true),
            ("postgresql://db/users?application_name=x", true),
            ("host=db user=portcullis dbname=users", true),
            ("postgres://%2Frun%2Fpostgresql/users", true),
            ("mysql://db/users", false),
            ("users", false),
            ("", false),
            ("user=portcullis", false),
        ] {
            assert_eq!(PostgresSource::is_url(url), good, "{url}");
        }
    }

    #[test]
    fn authorities_are_certificates_and_at_least_one() {
        let made = rcgen::generate_simple_self_signed(["db".to_owned()]).unwrap().cert.pem();
        assert!(PostgresSource::are_authorities(&made));
        let damaged = made.replace("MII", "MIB");
        for bad in ["", "nothing", damaged.as_str()] {
            assert!(!PostgresSource::are_authorities(bad), "{bad}");
        }
    }
}
