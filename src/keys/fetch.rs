//! The control plane's own HTTP client: key sets, discovery documents and credentials, a few small
//! answers an hour.
//!
//! What comes back is data from a network, so everything about it has a bound: the time for the whole
//! exchange (a server that drips a byte a second gets no more of it), the bytes of the body, the number
//! of redirects. Proxies are never taken from the environment. Messages name hosts, never a query.
//! TLS trusts the system's authorities or a given one, never both, and is never turned off.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::Endpoint;

/// Redirects followed in a row, all of them within one server.
const REDIRECTS_MAX: usize = 3;
/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(30);
/// Who asks.
const AGENT: HeaderValue = HeaderValue::from_static(concat!("portcullis/", env!("CARGO_PKG_VERSION")));

/// Whose certificates are believed.
#[derive(Clone, Debug)]
pub struct Trust(Arc<RootCertStore>);

/// Why nobody's certificates could be believed. Read as "failed to load the certificate authorities: {self}".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The text has no certificate, or something that is none.
    #[error("no PEM certificate that can be used as an authority")]
    Malformed,
    /// The system has none.
    #[error("the system has no certificate authorities: install its `ca-certificates`, or give a `ca_file`")]
    NoSystemRoots,
}

impl Trust {
    /// The authorities that the system trusts; `SSL_CERT_FILE` and `SSL_CERT_DIR` say where else to look.
    /// Reads files.
    ///
    /// # Errors
    ///
    /// [`TrustError::NoSystemRoots`].
    pub fn system() -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        // What cannot be read is not trusted, which is all that there is to do about it.
        let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if added == 0 { Err(TrustError::NoSystemRoots) } else { Ok(Self(Arc::new(roots))) }
    }

    /// The authorities in a PEM text, and no others.
    ///
    /// # Errors
    ///
    /// [`TrustError::Malformed`].
    pub fn only(pem: &str) -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|_| TrustError::Malformed)?;
            roots.add(certificate).map_err(|_| TrustError::Malformed)?;
        }
        if roots.is_empty() { Err(TrustError::Malformed) } else { Ok(Self(Arc::new(roots))) }
    }

    /// No authority at all: for what is fetched in clear.
    #[must_use]
    pub fn nobody() -> Self {
        Self(Arc::new(RootCertStore::empty()))
    }
}

/// What one exchange may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The time from the first byte sent to the last byte read, redirects and connecting included.
    pub timeout: Duration,
    /// The bytes of the answer's body.
    pub body_bytes: usize,
    /// Unused connections kept to one server; 0: each exchange has its own.
    pub idle_connections: usize,
}

/// An answer, whole.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status; [`Client::get`] returns good ones only.
    pub status: StatusCode,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// Why there is no answer. Read as "failed to fetch it: {self}".
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The body has a coding, which could make it grow without bound.
    #[error("the answer has a content coding")]
    Coding,
    /// It broke off, or is not HTTP.
    #[error("the answer broke off or is malformed")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It points elsewhere: to another server, to nowhere, or too often.
    #[error("the server redirects to another one, or in circles")]
    Redirected,
    /// It says no.
    #[error("the server answered with status {}", .0.as_u16())]
    Status(StatusCode),
    /// It took too long.
    #[error("no whole answer within {}ms", .0.as_millis())]
    Timeout(Duration),
    /// It is too large.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// No connection: the name, the network, the server or its certificate.
    #[error("the server cannot be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A client for one purpose. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Client {
    inner: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    bounds: Bounds,
}

impl Client {
    /// A client that believes `trust` alone. Opens nothing yet.
    ///
    /// # Panics
    ///
    /// Never: the protocol versions are ones that the provider has.
    #[must_use]
    #[expect(clippy::expect_used, reason = "the default versions belong to the default provider")]
    pub fn new(trust: &Trust, bounds: Bounds) -> Self {
        // Named, so that no other provider can take its place.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions of the provider")
            .with_root_certificates(Arc::clone(&trust.0))
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(bounds.timeout));
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
        let inner = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(bounds.idle_connections)
            .http1_max_headers(64)
            .build(connector);
        Self { inner, bounds }
    }

    /// Gets a document. Redirects within the same server are followed, three at most: another server is
    /// not who was asked.
    ///
    /// # Errors
    ///
    /// See [`FetchError`]; any status but 2xx is one.
    pub async fn get(&self, from: &Endpoint, accept: &'static str) -> Result<Answer, FetchError> {
        let walk = async {
            let mut at = from.clone();
            for _ in 0..=REDIRECTS_MAX {
                let mut request = Request::new(Bytes::new());
                *request.uri_mut() = at.uri().clone();
                request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static(accept));
                let answer = self.exchange(request).await?;
                if answer.status.is_success() {
                    return Ok(answer);
                }
                if !answer.status.is_redirection() || answer.status == StatusCode::NOT_MODIFIED {
                    return Err(FetchError::Status(answer.status));
                }
                let location = answer.headers.get(header::LOCATION).and_then(|it| it.to_str().ok());
                let next = location.and_then(|it| at.join(it).ok()).filter(|it| it.is_same_origin(from));
                at = next.ok_or(FetchError::Redirected)?;
            }
            Err(FetchError::Redirected)
        };
        self.in_time(walk).await
    }

    /// A `POST` of a JSON text, with `authorization` where the server wants one. A redirect is not followed:
    /// what is posted is for this server alone.
    ///
    /// # Errors
    ///
    /// See [`FetchError`]; no status is one.
    pub async fn post_json(
        &self,
        to: &Endpoint,
        authorization: Option<&HeaderValue>,
        body: Bytes,
    ) -> Result<Answer, FetchError> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = to.uri().clone();
        let json = HeaderValue::from_static("application/json");
        let fields = request.headers_mut();
        fields.insert(header::ACCEPT, json.clone());
        fields.insert(header::CONTENT_TYPE, json);
        if let Some(authorization) = authorization {
            fields.insert(header::AUTHORIZATION, authorization.clone());
        }
        self.in_time(self.exchange(request)).await
    }

    async fn in_time(&self, work: impl Future<Output = Result<Answer, FetchError>>) -> Result<Answer, FetchError> {
        let limit = self.bounds.timeout;
        tokio::time::timeout(limit, work).await.unwrap_or(Err(FetchError::Timeout(limit)))
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Answer, FetchError> {
        let mut request = request.map(Full::new);
        request.headers_mut().insert(header::USER_AGENT, AGENT);
        request.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let response = self.inner.request(request).await.map_err(|error| {
            if error.is_connect() { FetchError::Unreachable(error.into()) } else { FetchError::Broken(error.into()) }
        })?;
        let (head, body) = response.into_parts();
        if head.headers.get(header::CONTENT_ENCODING).is_some_and(|it| it != "identity") {
            return Err(FetchError::Coding);
        }
        let limit = self.bounds.body_bytes;
        let body = Limited::new(body, limit).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() { FetchError::TooLarge(limit) } else { FetchError::Broken(error) }
        })?;
        Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
    }
}

#[cfg(test)]
mod tests;
