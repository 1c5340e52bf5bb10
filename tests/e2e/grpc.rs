//! gRPC through the gateway, with the client and the server of the field: all four kinds of call, errors in
//! trailers, and a token that is asked for.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use bytes::{Buf, BufMut};
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use http::uri::PathAndQuery;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::NamedService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status, Streaming};
use tower::{Service, service_fn};

use crate::support::authority::Authority;
use crate::support::front::Front;
use crate::support::issuer::ACCOUNTS;
use crate::support::patience::DEADLINE;
use crate::support::{Gateway, Site, bearer};

/// Messages as they are.
#[derive(Clone, Copy, Debug, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let length = from.remaining();
        Ok(Some(from.copy_to_bytes(length).to_vec()))
    }
}

/// A service that gives back what it gets; `fail` in a message is an error.
#[derive(Clone, Copy, Debug)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "shop.Echo";
}

type Messages = BoxStream<'static, Result<Vec<u8>, Status>>;

fn echo(message: Vec<u8>) -> Result<Vec<u8>, Status> {
    if message == b"fail" { Err(Status::data_loss("as you wish")) } else { Ok(message) }
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        assert_eq!(request.headers().get("te").map(http::HeaderValue::as_bytes), Some(&b"trailers"[..]));
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Raw);
            Ok(match request.uri().path() {
                "/shop.Echo/Unary" => {
                    let unary =
                        |request: Request<Vec<u8>>| async move { echo(request.into_inner()).map(Response::new) };
                    grpc.unary(service_fn(unary), request).await
                }
                "/shop.Echo/Repeat" => {
                    let repeat = |request: Request<Vec<u8>>| async move {
                        let message = request.into_inner();
                        let last = stream::once(async { Err(Status::resource_exhausted("enough")) });
                        let messages = stream::iter(vec![Ok(message); 3]).chain(last);
                        Ok::<_, Status>(Response::new(messages.boxed() as Messages))
                    };
                    grpc.server_streaming(service_fn(repeat), request).await
                }
                "/shop.Echo/Talk" => {
                    let talk = |request: Request<Streaming<Vec<u8>>>| async move {
                        let messages = request.into_inner().and_then(|message| async { echo(message) });
                        Ok::<_, Status>(Response::new(messages.boxed() as Messages))
                    };
                    grpc.streaming(service_fn(talk), request).await
                }
                _ => Status::unimplemented("").into_http(),
            })
        })
    }
}

/// The service, on a thread of its own until the second is dropped.
fn serve() -> (SocketAddr, oneshot::Sender<()>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let (alive, ended) = oneshot::channel::<()>();
    thread::spawn(move || {
        runtime().block_on(async {
            let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener).unwrap());
            tokio::select! {
                served = Server::builder().add_service(Echo).serve_with_incoming(incoming) => served.unwrap(),
                _ = ended => {}
            }
        });
    });
    (address, alive)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

struct Client {
    grpc: tonic::client::Grpc<Channel>,
    authorization: String,
    /// Of the simple method.
    path: PathAndQuery,
}

impl Client {
    async fn connect(gateway: &Gateway, token: &str) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{}", gateway.address)).unwrap().timeout(DEADLINE);
        let mut grpc = tonic::client::Grpc::new(endpoint.connect().await.unwrap());
        grpc.ready().await.unwrap();
        Self { grpc, authorization: bearer(token), path: PathAndQuery::from_static("/shop.Echo/Unary") }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.authorization.parse().unwrap());
        request
    }

    /// How a call is refused.
    async fn refused(&mut self) -> (Code, String) {
        let status = self.unary(b"hello").await.unwrap_err();
        (status.code(), status.message().to_owned())
    }

    async fn unary(&mut self, message: &[u8]) -> Result<Vec<u8>, Status> {
        let request = self.request(message.to_vec());
        self.grpc.ready().await.unwrap();
        self.grpc.unary(request, self.path.clone(), Raw).await.map(Response::into_inner)
    }
}

async fn call_everything(gateway: &Gateway, token: &str) {
    let mut client = Client::connect(gateway, token).await;
    assert_eq!(client.unary(b"hello").await.unwrap(), b"hello");
    let large = vec![b'x'; 1_000_000];
    assert!(client.unary(&large).await.unwrap() == large);
    let status = client.unary(b"fail").await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::DataLoss, "as you wish"));

    let request = client.request(b"again".to_vec());
    client.grpc.ready().await.unwrap();
    let answer = client.grpc.server_streaming(request, PathAndQuery::from_static("/shop.Echo/Repeat"), Raw).await;
    let mut messages: Streaming<Vec<u8>> = answer.unwrap().into_inner();
    for _ in 0..3 {
        assert_eq!(messages.message().await.unwrap().unwrap(), b"again");
    }
    let status = messages.message().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "enough"), "in trailers");

    // Each message is answered before the next is sent.
    let (say, said) = mpsc::channel::<Vec<u8>>(1);
    let said = stream::unfold(said, |mut said| async move { said.recv().await.map(|message| (message, said)) });
    let request = client.request(said);
    client.grpc.ready().await.unwrap();
    let answer = client.grpc.streaming(request, PathAndQuery::from_static("/shop.Echo/Talk"), Raw).await;
    let mut heard: Streaming<Vec<u8>> = answer.unwrap().into_inner();
    for message in [&b"one"[..], b"two", b"three"] {
        say.send(message.to_vec()).await.unwrap();
        assert_eq!(heard.message().await.unwrap().unwrap(), message);
    }
    drop(say);
    assert_eq!(heard.message().await.unwrap(), None, "ended well");
}

#[test]
fn grpc_calls_of_all_kinds_go_through() {
    let (address, _alive) = serve();
    let authority = Authority::new();
    let front = Front::start(authority.issue("localhost").server(None, &["h2"]), address);
    for (url, protocol) in [(format!("http://{address}"), "http2"), (front.url(), "auto")] {
        let mut site = Site::before(&url);
        site.write("ca.pem", &authority.pem);
        site.set("/listeners/0/h2c", json!(true));
        site.set("/upstreams/shop/protocol", json!(protocol));
        if url.starts_with("https:") {
            site.set("/upstreams/shop/tls", json!({"ca_file": "ca.pem"}));
        }
        let gateway = site.start();
        let token = site.accounts.token_of("bob");
        let calls = async { tokio::time::timeout(Duration::from_secs(60), call_everything(&gateway, &token)).await };
        runtime().block_on(calls).unwrap();
    }
}

/// A refusal is one that a client of gRPC understands: with the code for it, the reason, and nothing to read.
#[test]
fn a_refused_call_says_why_in_the_words_of_grpc() {
    let (address, alive) = serve();
    let mut site = Site::before(&format!("http://{address}"));
    site.set("/listeners/0/h2c", json!(true));
    site.set("/upstreams/shop/protocol", json!("http2"));
    let gateway = site.start();
    let admin = gateway.admin();
    let token = site.accounts.token(json!({"sub": "bob", "sid": "s-1"}));
    let calls = async {
        let mut stranger = Client::connect(&gateway, "no.such.token").await;
        let malformed = "malformed_token: the token is malformed";
        assert_eq!(stranger.refused().await, (Code::Unauthenticated, malformed.to_owned()));

        let mut client = Client::connect(&gateway, &token).await;
        assert_eq!(client.unary(b"hello").await.unwrap(), b"hello");
        // A stream that is open is cut, and the next call told why.
        let (say, said) = mpsc::channel::<Vec<u8>>(1);
        let said = stream::unfold(said, |mut said| async move { said.recv().await.map(|message| (message, said)) });
        let request = client.request(said);
        client.grpc.ready().await.unwrap();
        let answer = client.grpc.streaming(request, PathAndQuery::from_static("/shop.Echo/Talk"), Raw).await;
        let mut heard: Streaming<Vec<u8>> = answer.unwrap().into_inner();
        say.send(b"one".to_vec()).await.unwrap();
        assert_eq!(heard.message().await.unwrap().unwrap(), b"one");
        admin.revoke(&json!({
            "target": {"kind": "session", "issuer": ACCOUNTS, "value": "s-1"}, "block": true, "reason": "admin",
        }));
        let status = heard.message().await.unwrap_err();
        assert_eq!(status.code(), Code::Cancelled, "{status}");
        let revoked = "revoked_session: the token was revoked";
        assert_eq!(client.refused().await, (Code::Unauthenticated, revoked.to_owned()));

        let other = site.accounts.token_of("ann");
        let mut client = Client::connect(&gateway, &other).await;
        let scope = "insufficient_scope: the token lacks a scope";
        client.path = PathAndQuery::from_static("/admin/Unary");
        assert_eq!(client.refused().await, (Code::PermissionDenied, scope.to_owned()));
        drop(alive);
        client.path = PathAndQuery::from_static("/shop.Echo/Unary");
        let gone = "upstream_unreachable: the upstream could not be reached";
        let refused = || async { Client::connect(&gateway, &other).await.refused().await };
        while refused().await.1 != gone {
            tokio::task::yield_now().await;
        }
        assert_eq!(refused().await, (Code::Unavailable, gone.to_owned()));
    };
    runtime().block_on(async { tokio::time::timeout(Duration::from_secs(60), calls).await }).unwrap();
    let counted = |status| admin.metric("portcullis_requests_total", &[("status", status)]);
    assert!(counted("401") == 2.0 && counted("403") == 1.0 && counted("502") >= 1.0, "seen by who counts HTTP");
}
