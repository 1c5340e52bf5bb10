//! The nodes that have been heard of.

use std::collections::BTreeMap;
use std::time::Duration;

use super::message::Heartbeat;
use crate::time::Timestamp;

/// Nodes that are remembered, at most. At the bound the one that was heard of least lately is forgotten.
const MAX: usize = 1000;
/// A node that has missed this many heartbeats is not there.
const MISSED: u32 = 4;

/// What is known of the nodes of a cluster.
#[derive(Debug)]
pub(super) struct Peers {
    by_name: BTreeMap<String, Peer>,
    heartbeat: Duration,
    /// The latest time that the broker's clock has shown.
    now: Timestamp,
}

/// One node.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// What it said last.
    pub(super) said: Heartbeat,
    /// When the broker took that.
    pub(super) at: Timestamp,
}

impl Peer {
    /// How far its clock is ahead of the broker's, in milliseconds.
    pub(super) const fn offset(&self) -> i64 {
        self.said.sent.millis().saturating_sub(self.at.millis())
    }
}

impl Peers {
    pub(super) const fn new(heartbeat: Duration) -> Self {
        Self { by_name: BTreeMap::new(), heartbeat, now: Timestamp::MIN }
    }

    /// What the broker's clock showed last.
    pub(super) const fn now(&self) -> Timestamp {
        self.now
    }

    /// Takes note of what the broker's clock shows.
    pub(super) fn pass(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
    }

    /// Takes note of a heartbeat. What comes out of order changes nothing.
    pub(super) fn hear(&mut self, said: Heartbeat, at: Timestamp) {
        self.pass(at);
        if self.by_name.get(&said.node).is_some_and(|peer| at < peer.at) {
            return;
        }
        if self.by_name.len() >= MAX && !self.by_name.contains_key(&said.node) {
            let oldest = self.by_name.iter().min_by_key(|(_, peer)| peer.at).map(|(name, _)| name.clone());
            oldest.map(|name| self.by_name.remove(&name));
        }
        self.by_name.insert(said.node.clone(), Peer { said, at });
    }

    /// Every node that is known.
    pub(super) fn all(&self) -> impl Iterator<Item = &Peer> {
        self.by_name.values()
    }

    /// Whether a node is there, as far as is known.
    pub(super) fn is_live(&self, peer: &Peer) -> bool {
        !peer.said.leaving && self.now.since(peer.at) <= self.heartbeat * MISSED
    }

    /// The nodes that are there, but the one of the process `but`.
    pub(super) fn others<'a>(&'a self, but: &'a str) -> impl Iterator<Item = &'a Peer> {
        self.by_name.values().filter(move |peer| peer.said.incarnation != but && self.is_live(peer))
    }

    /// Whether every other node that is there has the records of `origin` up to `sequence`.
    pub(super) fn all_have(&self, but: &str, origin: &str, sequence: u64) -> bool {
        self.others(but).all(|peer| peer.said.applied.get(origin).is_some_and(|applied| *applied >= sequence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: Duration = Duration::from_secs(1);

    fn said(node: &str, number: u64, applied: u64) -> Heartbeat {
        Heartbeat {
            node: node.to_owned(),
            store: format!("store-{node}"),
            incarnation: format!("i-{node}"),
            version: String::new(),
            number,
            sent: Timestamp::MIN,
            latest: Timestamp::MIN,
            sequence: 0,
            applied: BTreeMap::from([("store-a".to_owned(), applied)]),
            position: String::new(),
            keys: Vec::new(),
            ready: true,
            compare: false,
            leaving: false,
        }
    }

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    #[test]
    fn a_node_is_there_until_it_misses_some_heartbeats_or_leaves() {
        let mut peers = Peers::new(BEAT);
        peers.hear(said("b", 1, 0), at(10));
        let live = |peers: &Peers| peers.others("i-a").count();
        assert_eq!(live(&peers), 1);
        assert_eq!(peers.others("i-b").count(), 0, "not itself");
        peers.pass(at(14));
        assert_eq!(live(&peers), 1);
        peers.pass(at(15));
        assert_eq!(live(&peers), 0);
        peers.hear(said("b", 2, 0), at(15));
        assert_eq!(live(&peers), 1);
        peers.hear(Heartbeat { leaving: true, ..said("b", 3, 0) }, at(15));
        assert_eq!(live(&peers), 0);
    }

    #[test]
    fn all_have_it_when_those_who_are_there_say_so() {
        let mut peers = Peers::new(BEAT);
        assert!(peers.all_have("i-a", "store-a", 9), "nobody is there");
        peers.hear(said("b", 1, 8), at(10));
        peers.hear(said("c", 1, 9), at(10));
        assert!(!peers.all_have("i-a", "store-a", 9));
        peers.hear(said("b", 2, 9), at(11));
        assert!(peers.all_have("i-a", "store-a", 9));
        assert!(!peers.all_have("i-a", "store-d", 1));
    }

    #[test]
    fn what_comes_late_is_not_news_and_the_number_is_bounded() {
        let mut peers = Peers::new(BEAT);
        peers.hear(said("b", 2, 9), at(11));
        peers.hear(said("b", 1, 8), at(10));
        let b = |peers: &Peers| peers.all().find(|peer| peer.said.node == "b").map(|peer| peer.said.number);
        assert_eq!(b(&peers), Some(2));
        for n in 0..2 * MAX {
            peers.hear(said(&format!("n{n}"), 1, 0), at(100 + i64::try_from(n).unwrap()));
        }
        assert_eq!(peers.all().count(), MAX);
        assert_eq!(b(&peers), None);
    }
}
