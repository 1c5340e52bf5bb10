//! Listening sockets that whoever started this process has handed to it (`LISTEN_FDS`, sd_listen_fds(3)).
//!
//! They outlive the process: what connects while it is not there waits in them for the next one, and what they
//! have queued is not lost when it ends.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};

use listenfd::ListenFd;

/// The sockets, by where they listen.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Vec<(SocketAddr, StdListener)>,
}

impl Inherited {
    /// All that were handed over. To be asked once, before there are other threads: it takes them out of the
    /// environment.
    #[must_use]
    pub fn take() -> Self {
        let mut handed = ListenFd::from_env();
        let mut sockets = Vec::new();
        for number in 0..handed.len() {
            match handed.take_tcp_listener(number) {
                Ok(Some(socket)) => match socket.local_addr() {
                    Ok(address) => sockets.push((address, socket)),
                    Err(error) => tracing::warn!(number, %error, "an inherited socket cannot be used"),
                },
                Ok(None) => {}
                Err(error) => tracing::warn!(number, %error, "an inherited socket does not listen to TCP"),
            }
        }
        Self { sockets }
    }

    /// A handle to the socket that listens at `address`, or at all addresses of both families where `address` is all
    /// of IPv4. Handles share what is queued.
    ///
    /// # Errors
    ///
    /// When there is no descriptor left.
    pub fn find(&self, address: SocketAddr) -> io::Result<Option<StdListener>> {
        let Some(place) = place(self.sockets.iter().map(|(at, _)| *at), address) else { return Ok(None) };
        let socket = self.sockets[place].1.try_clone()?;
        socket.set_nonblocking(true)?;
        Ok(Some(socket))
    }

    /// Says which of them are for none of `addresses`: whoever connects there waits in vain.
    pub fn warn_of_others(&self, addresses: &[SocketAddr]) {
        let all = || self.sockets.iter().map(|(at, _)| *at);
        let used: Vec<_> = addresses.iter().filter_map(|address| place(all(), *address)).collect();
        for (unused, address) in all().enumerate().filter(|(place, _)| !used.contains(place)) {
            tracing::warn!(number = unused, %address, "an inherited socket is for no listener of the configuration");
        }
    }
}

fn place(mut sockets: impl Iterator<Item = SocketAddr> + Clone, address: SocketAddr) -> Option<usize> {
    let both = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, address.port()));
    let any = address.ip() == std::net::Ipv4Addr::UNSPECIFIED;
    sockets.clone().position(|at| at == address).or_else(|| sockets.position(|at| any && at == both))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_finds_its_own_socket_first() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let sockets = ["127.0.0.1:80", "[::]:80", "[::]:443", "0.0.0.0:80"].map(at);
        for (address, wanted) in [
            ("127.0.0.1:80", Some(0)),
            ("[::]:80", Some(1)),
            ("0.0.0.0:80", Some(3)),
            ("0.0.0.0:443", Some(2)),
            ("127.0.0.1:443", None),
            ("[::1]:443", None),
            ("0.0.0.0:8080", None),
        ] {
            assert_eq!(place(sockets.into_iter(), at(address)), wanted, "{address}");
        }
    }
}
