//! How many connections there are, in the process and of each client address.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::Notify;

/// The connections of the process, shared by all workers. Asked once for each connection, never for a request.
#[derive(Debug, Default)]
pub(super) struct Census {
    open: AtomicUsize,
    /// Those of each client: as many entries as there are connections at most.
    of_clients: DashMap<IpAddr, usize, foldhash::fast::RandomState>,
    /// Told whenever a connection has ended.
    left: Notify,
}

/// Why a connection is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// There are too many of its client: it is not wanted.
    Client,
    /// There are too many in all: it may wait.
    Process,
}

/// A connection that is counted, until this is dropped.
#[derive(Debug)]
pub(super) struct Counted {
    census: Arc<Census>,
    client: Option<IpAddr>,
}

impl Census {
    /// Counts a connection, unless there are `max` in all or `max_of_client` of the same `client`. Without a
    /// client it counts for nobody.
    pub(super) fn enter(
        self: &Arc<Self>,
        max: usize,
        client: Option<IpAddr>,
        max_of_client: usize,
    ) -> Result<Counted, Full> {
        let client = client.map(network);
        let one_more = |open| if open < max { Some(open + 1) } else { None };
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).map_err(|_| Full::Process)?;
        if let Some(client) = client {
            let mut count = self.of_clients.entry(client).or_insert(0);
            if *count >= max_of_client {
                drop(count);
                self.leave(None);
                // Somebody may have been turned away for the place that this one held for a moment.
                self.left.notify_waiters();
                return Err(Full::Client);
            }
            *count += 1;
        }
        Ok(Counted { census: Arc::clone(self), client })
    }

    /// Told whenever a connection has ended; to be listened to before asking once more.
    pub(super) const fn left(&self) -> &Notify {
        &self.left
    }

    fn leave(&self, client: Option<IpAddr>) {
        if let Some(client) = client
            && let Entry::Occupied(mut count) = self.of_clients.entry(client)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.census.leave(self.client);
        self.census.left.notify_waiters();
    }
}

/// What counts as one client: whoever has an IPv6 address has 2^64 of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn a_client_has_so_many_and_the_process_has_so_many() {
        let census = Arc::new(Census::default());
        let enter = |text: &str| census.enter(4, client(text), 2);
        let first = enter("10.0.0.1").unwrap();
        let second = enter("::ffff:10.0.0.1").unwrap();
        assert_eq!(enter("10.0.0.1").unwrap_err(), Full::Client);
        let _third = enter("2001:db8::1").unwrap();
        let fourth = enter("2001:db8::2:0:0:1").unwrap();
        assert_eq!(enter("10.0.0.9").unwrap_err(), Full::Process);
        drop(fourth);
        drop(enter("2001:db8::3").unwrap());
        drop(census.enter(4, None, 2).unwrap());
        drop((first, second));
        assert!(enter("10.0.0.1").is_ok());
        assert_eq!((census.open.load(Ordering::Relaxed), census.of_clients.len()), (1, 1), "what is over is forgotten");
    }

    #[tokio::test]
    async fn who_waits_hears_of_an_end() {
        let census = Arc::new(Census::default());
        let only = census.enter(1, None, 1).unwrap();
        let waiting = async {
            let left = census.left().notified();
            assert_eq!(census.enter(1, None, 1).unwrap_err(), Full::Process);
            left.await;
            census.enter(1, None, 1).unwrap()
        };
        let (_entered, ()) = tokio::join!(waiting, async { drop(only) });
    }
}
