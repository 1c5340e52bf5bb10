//! A server of the field behind the gateway: NGINX, over HTTP/2 and TLS, which ends its connections every few
//! requests.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;

use serde_json::json;
use tempfile::TempDir;

use crate::support::authority::Authority;
use crate::support::{Site, until};

/// Runs until it is dropped.
struct Nginx {
    child: Child,
    port: u16,
    _folder: TempDir,
}

impl Nginx {
    /// `None` where there is none, which CI does not accept.
    fn start(authority: &Authority) -> Option<Self> {
        if Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_err() {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "NGINX is not installed");
            eprintln!("not run: NGINX is not installed");
            return None;
        }
        let folder = TempDir::with_prefix("portcullis-nginx-").unwrap();
        let certificate = authority.issue("localhost");
        std::fs::write(folder.path().join("server.pem"), &certificate.pem).unwrap();
        std::fs::write(folder.path().join("server.key"), &certificate.key).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let here = folder.path().display();
        let config = format!(
            "daemon off; master_process off; pid {here}/pid; error_log {here}/error.log;
             events {{ worker_connections 256; }}
             http {{
               access_log off; client_body_temp_path {here}/body; proxy_temp_path {here}/proxy;
               fastcgi_temp_path {here}/fastcgi; uwsgi_temp_path {here}/uwsgi; scgi_temp_path {here}/scgi;
               keepalive_requests 7; http2_max_concurrent_streams 3;
               server {{
                 listen 127.0.0.1:{port} ssl http2;
                 ssl_certificate {here}/server.pem; ssl_certificate_key {here}/server.key;
                 location / {{ return 200 \"$server_protocol $request_method $host\"; }}
               }}
             }}"
        );
        std::fs::write(folder.path().join("nginx.conf"), config).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-p").arg(folder.path()).arg("-e").arg(folder.path().join("error.log"));
        command.arg("-c").arg(folder.path().join("nginx.conf")).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        until("NGINX to listen", || {
            if let Some(status) = child.try_wait().unwrap() {
                let mut said = String::new();
                child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                panic!("NGINX ended with {status}: {said}");
            }
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Some(Self { child, port, _folder: folder })
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn nginx_is_spoken_to_over_http2_and_no_request_is_lost_when_it_goes_away() {
    let authority = Authority::new();
    let Some(nginx) = Nginx::start(&authority) else { return };
    for protocol in ["http2", "auto"] {
        let mut site = Site::before(&format!("https://localhost:{}", nginx.port));
        site.write("ca.pem", &authority.pem);
        site.set("/upstreams/shop/tls", json!({"ca_file": "ca.pem"}));
        site.set("/upstreams/shop/protocol", json!(protocol));
        let gateway = site.start();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..25 {
                        let response = gateway.send("POST", "/public/", &[("Host", "shop.example")], b"hello");
                        assert_eq!((response.status, response.text().as_str()), (200, "HTTP/2.0 POST shop.example"));
                    }
                });
            }
        });
    }
}
