//! A connection to a NATS server, made again when it is lost.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::{self, Context};
use async_nats::rustls::{ClientConfig, RootCertStore};
use async_nats::{ConnectErrorKind, ConnectOptions, Event, ServerAddr, ServerError};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::{Login, Options};
use crate::cluster::failure::short;
use crate::cluster::{BrokerError, Tls};
use crate::secret::Secret;

/// Between an attempt that failed and the next. Who asks in between is told of the one before.
const PAUSE: Duration = Duration::from_millis(50);

/// The text is not the address of a NATS server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`nats://host:4222` or `tls://host:4222` is needed, without a user or a password")]
pub struct InvalidServer;

/// The address in a text.
pub(super) fn server(text: &str) -> Result<ServerAddr, InvalidServer> {
    if !(text.starts_with("nats://") || text.starts_with("tls://")) {
        return Err(InvalidServer);
    }
    let server: ServerAddr = text.parse().map_err(|_| InvalidServer)?;
    // A URL finds its way into logs, and has nothing behind the port.
    let plain = server.username().is_none() && server.password().is_none();
    let bare = text.split_once("://").is_some_and(|(_, rest)| !rest.trim_end_matches('/').contains(['/', '?', '#']));
    if plain && bare && !server.host().is_empty() { Ok(server) } else { Err(InvalidServer) }
}

/// One client that all share. It is given up as soon as it has lost its connection and has not found it again
/// at once: then servers are asked anew, and say why they refuse.
pub(super) struct Link {
    servers: Vec<ServerAddr>,
    login: Login,
    tls: Option<ClientConfig>,
    timeout: Duration,
    /// Where the client lives: whoever asks first may be gone before the others.
    runtime: Handle,
    context: Mutex<Option<Context>>,
    /// Held by the one who opens a connection, for all who wait.
    opening: tokio::sync::Mutex<Option<(Instant, BrokerError)>>,
    /// What the server complained of last: it says so beside the answer, which does not come.
    complaint: Arc<Mutex<Option<(Instant, String)>>>,
}

impl Link {
    pub(super) fn new(options: &Options, runtime: Handle) -> Result<Self, BrokerError> {
        let servers = options.servers.iter().map(|text| server(text)).collect::<Result<Vec<_>, _>>();
        let servers = servers.map_err(|error| BrokerError::Refused(error.to_string()))?;
        if servers.is_empty() {
            return Err(BrokerError::Refused(InvalidServer.to_string()));
        }
        let wanted = options.tls != Tls::default() || servers.iter().any(ServerAddr::tls_required);
        Ok(Self {
            servers,
            login: options.login.clone(),
            tls: if wanted { Some(tls(&options.tls)?) } else { None },
            timeout: options.timeout,
            runtime,
            context: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            complaint: Arc::default(),
        })
    }

    /// The client, connected.
    pub(super) async fn context(&self) -> Result<Context, BrokerError> {
        if let Some(context) = self.connected() {
            return Ok(context);
        }
        let mut failed = self.opening.lock().await;
        if let Some(context) = self.connected() {
            return Ok(context);
        }
        if let Some((at, error)) = failed.as_ref()
            && at.elapsed() < PAUSE
        {
            return Err(error.clone());
        }
        match self.open().await {
            Ok(context) => {
                *failed = None;
                *lock(&self.context) = Some(context.clone());
                Ok(context)
            }
            Err(error) => {
                *failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    fn connected(&self) -> Option<Context> {
        let mut slot = lock(&self.context);
        if slot.as_ref().is_some_and(|context| context.client().connection_state() != State::Connected) {
            *slot = None;
        }
        slot.clone()
    }

    async fn open(&self) -> Result<Context, BrokerError> {
        let options = self.options()?;
        let (servers, timeout) = (self.servers.clone(), self.timeout);
        let opening = self.runtime.spawn(async move { options.connect(servers).await });
        let client = match tokio::time::timeout(timeout, opening).await {
            Ok(Ok(Ok(client))) => client,
            Ok(Ok(Err(error))) => return Err(refusal(error)),
            Ok(Err(ended)) => return Err(BrokerError::Unavailable(Arc::new(ended))),
            Err(_) => return Err(BrokerError::late(timeout)),
        };
        let mut context = jetstream::new(client);
        context.set_timeout(timeout);
        Ok(context)
    }

    fn options(&self) -> Result<ConnectOptions, BrokerError> {
        let complaint = Arc::clone(&self.complaint);
        let heard = move |event| {
            let text = match event {
                Event::ServerError(ServerError::Other(text)) => Some(text),
                Event::ServerError(error @ ServerError::AuthorizationViolation) => Some(error.to_string()),
                _ => None,
            };
            if let Some(text) = text {
                *lock(&complaint) = Some((Instant::now(), text));
            }
            std::future::ready(())
        };
        // As many attempts as there are servers, and then it is given up.
        let options = ConnectOptions::new()
            .name("portcullis")
            .connection_timeout(self.timeout)
            .request_timeout(Some(self.timeout))
            .ping_interval(self.timeout.max(Duration::from_secs(1)))
            .max_reconnects(self.servers.len())
            .reconnect_delay_callback(|attempt| {
                Duration::from_millis(20) * u32::try_from(attempt).unwrap_or(50).min(50)
            })
            .event_callback(heard);
        let options = match &self.login {
            Login::None => options,
            Login::User { user, password } => options.user_and_password(user.clone(), text(password)?),
            Login::Token(token) => options.token(text(token)?),
            Login::NKey(seed) => options.nkey(text(seed)?.trim().to_owned()),
            Login::Credentials(file) => options
                .credentials(&text(file)?)
                .map_err(|_| BrokerError::Refused("the credentials cannot be read".to_owned()))?,
        };
        Ok(match &self.tls {
            None => options,
            Some(config) => options.require_tls(true).tls_client_config(config.clone()),
        })
    }

    /// What it means that no answer came: somebody may have said why.
    pub(super) fn late(&self, since: Instant) -> BrokerError {
        match lock(&self.complaint).as_ref() {
            Some((at, text)) if *at >= since && text.to_ascii_lowercase().contains("permissions violation") => {
                BrokerError::Refused(format!("it says `{}`", short(text)))
            }
            _ => BrokerError::late(self.timeout),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn text(secret: &Secret) -> Result<String, BrokerError> {
    let text = std::str::from_utf8(secret.expose());
    text.map(str::to_owned).map_err(|_| BrokerError::Refused("a secret is not text".to_owned()))
}

fn refusal(error: async_nats::ConnectError) -> BrokerError {
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation => {
            BrokerError::Refused("it does not take the user and the password, or what stands for them".to_owned())
        }
        ConnectErrorKind::Authentication => {
            BrokerError::Refused("the key does not sign what it asks to be signed".to_owned())
        }
        _ => BrokerError::of_connection(error),
    }
}

/// TLS with those authorities, and no others.
fn tls(tls: &Tls) -> Result<ClientConfig, BrokerError> {
    let refused = |what: &str| BrokerError::Refused(what.to_owned());
    let mut roots = RootCertStore::empty();
    match &tls.authorities {
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.map_err(|_| refused("an authority's certificate cannot be read"))?;
                roots.add(certificate).map_err(|_| refused("an authority's certificate cannot be used"))?;
            }
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(|_| refused("TLS cannot be spoken"))?;
    let builder = builder.with_root_certificates(roots);
    let Some((certificate, key)) = &tls.client else { return Ok(builder.with_no_client_auth()) };
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|_| refused("the client certificate cannot be read"))?;
    let key = PrivateKeyDer::from_pem_slice(key.expose()).map_err(|_| refused("its key cannot be read"))?;
    builder.with_client_auth_cert(chain, key).map_err(|_| refused("the client certificate and its key do not fit"))
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("servers", &self.servers.len()).finish_non_exhaustive()
    }
}
