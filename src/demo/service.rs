//! The service behind the gateway: a login page, and an API that echoes what it received. It knows
//! nothing of tokens.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

const LOGIN_PAGE: &str = "<!doctype html><meta charset=utf-8><title>Log in</title><h1>Log in</h1>\
<form method=post><label>Name <input name=user autofocus required></label> <button>Log in</button></form>\
<p>Any name will do: the service checks no password, and knows no token.\n";

/// A form may have this many bytes.
const MAX_FORM: usize = 4096;

/// Starts the service on a free port; it ends with the runtime.
pub(super) async fn start() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service_fn(answer));
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection to the service ended");
                }
            });
        }
    });
    Ok(address)
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let login = request.uri().path() == "/login";
    Ok(match *request.method() {
        Method::POST if login => log_in(request).await,
        _ if login => reply(StatusCode::OK, "text/html; charset=utf-8", LOGIN_PAGE.to_owned()),
        _ => echo(&request),
    })
}

/// Checks the password, if this were a real one, and tells the gateway who has logged in.
async fn log_in(request: Request<Incoming>) -> Response<Full<Bytes>> {
    let Ok(body) = Limited::new(request.into_body(), MAX_FORM).collect().await else {
        return reply(StatusCode::BAD_REQUEST, "text/plain", "not a form\n".to_owned());
    };
    let form = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    let user = form.split('&').find_map(|pair| pair.strip_prefix("user=")).unwrap_or_default();
    let user = percent_encoding::percent_decode_str(user).decode_utf8_lossy().into_owned();
    let Ok(grant) = HeaderValue::from_str(&json!({ "sub": user, "scope": "orders" }).to_string()) else {
        return reply(StatusCode::BAD_REQUEST, "text/plain", "not a name\n".to_owned());
    };
    let mut response = reply(StatusCode::OK, "text/plain", format!("hello {user}\n"));
    response.headers_mut().insert("x-session-grant", grant);
    response
}

/// What the service sees: no token, and who it is that asks.
fn echo(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let headers: Map<String, Value> = request
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned().into()))
        .collect();
    let body = json!({ "method": request.method().as_str(), "path": request.uri().path(), "headers": headers });
    reply(StatusCode::OK, "application/json", format!("{body:#}\n"))
}

fn reply(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
