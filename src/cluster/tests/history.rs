//! Histories drawn at random: nodes that revoke, are cut off, killed and started again, over a broker that forgets.
//!
//! Held against what was acknowledged: whatever a node acknowledged it refuses for ever (G1, G2); no node that takes
//! itself to be up to date admits what was acknowledged longer ago than it may be stale (G3); nothing un-happens (G4); and
//! once everything is whole again, all nodes refuse the same (G5).

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;

/// Histories in CI; `PORTCULLIS_HISTORIES` says how many otherwise.
const HISTORIES: u64 = 40;
const NODES: usize = 3;
const STEPS: usize = 60;
/// By then a node that is whole has noticed that the broker lacks something, since nodes compare every thirty seconds, and
/// given it back; and who has not heard of that by then is stale.
const GIVING_BACK: Duration = Duration::from_secs(35 + 31);

struct Acknowledged {
    name: String,
    node: usize,
    /// Since when others could know of it; `None`: they cannot yet, which its caller was told with a 202.
    since: Option<Timestamp>,
}

struct Seat {
    node: Option<TestNode>,
    store: Arc<dyn Store>,
    /// Since when it runs and is cut off in no direction.
    whole: Option<Timestamp>,
}

struct History {
    world: World,
    seats: Vec<Seat>,
    acknowledged: Vec<Acknowledged>,
    /// When the broker last lost something.
    lost: Timestamp,
    random: StdRng,
}

impl History {
    async fn begin(seed: u64) -> Self {
        let world = World::new();
        let mut seats = Vec::new();
        for n in 0..NODES {
            let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
            let node = world.enter(&format!("n{n}"), Arc::clone(&store)).await;
            node.cluster.joined().await.unwrap();
            seats.push(Seat { node: Some(node), store, whole: Some(world.clock.now()) });
        }
        Self { world, seats, acknowledged: Vec::new(), lost: Timestamp::MIN, random: StdRng::seed_from_u64(seed) }
    }

    fn pick(&mut self) -> usize {
        self.random.random_range(0..NODES)
    }

    async fn step(&mut self, number: usize) {
        let seat = self.pick();
        match self.random.random_range(0..100) {
            0..40 => {
                let Some(node) = &self.seats[seat].node else { return };
                let name = format!("user-{number}");
                let (_, reached) = node.revoke(&name).await;
                println!("{number}: n{seat} acknowledges {name}: {:?}", reached.level);
                let since = (reached.level >= Level::Bus).then(|| self.world.clock.now());
                self.acknowledged.push(Acknowledged { name, node: seat, since });
            }
            40..50 => self.cut(seat, true, true),
            50..55 => self.cut(seat, true, false),
            55..60 => self.cut(seat, false, true),
            60..75 => self.cut(seat, false, false),
            75..80 => {
                // Killed: what is in its store is all that is left of it.
                if let Some(node) = self.seats[seat].node.take() {
                    println!("{number}: n{seat} is killed");
                    node.kill();
                }
            }
            80..87 => self.start(seat).await,
            87..90 => {
                println!("{number}: the broker loses everything");
                self.world.model.lose_everything();
                self.lost = self.world.clock.now();
            }
            90..93 => {
                println!("{number}: the log is cut short");
                self.world.model.trim();
            }
            93..95 => {
                println!("{number}: the broker loses its last message");
                self.world.model.lose_last();
                self.lost = self.world.clock.now();
            }
            _ => {}
        }
        self.look();
        let pause = self.random.random_range(1..4000);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        self.check();
    }

    fn cut(&self, seat: usize, out: bool, into: bool) {
        if let Some(node) = &self.seats[seat].node {
            println!("n{seat} is cut: {out} {into}");
            node.link.cut_out.store(out, Ordering::SeqCst);
            node.link.cut_in.store(into, Ordering::SeqCst);
        }
    }

    async fn start(&mut self, seat: usize) {
        if self.seats[seat].node.is_none() {
            let store = Arc::clone(&self.seats[seat].store);
            self.seats[seat].node = Some(self.world.enter(&format!("n{seat}"), store).await);
        }
    }

    /// Notes who is whole.
    fn look(&mut self) {
        let now = self.world.clock.now();
        for seat in &mut self.seats {
            let cut = |link: &Link| link.cut_out.load(Ordering::SeqCst) || link.cut_in.load(Ordering::SeqCst);
            let whole = seat.node.as_ref().is_some_and(|node| !cut(&node.link));
            seat.whole = whole.then(|| seat.whole.unwrap_or(now));
        }
    }

    fn check(&mut self) {
        let now = self.world.clock.now();
        for place in 0..self.acknowledged.len() {
            if self.acknowledged[place].since.is_none() && self.is_known_elsewhere(&self.acknowledged[place]) {
                self.acknowledged[place].since = Some(now);
            }
        }
        for (place, node) in
            self.seats.iter().enumerate().filter_map(|(place, seat)| Some((place, seat.node.as_ref()?)))
        {
            for it in &self.acknowledged {
                assert!(
                    it.node != place || node.refuses(&it.name),
                    "{} acknowledged {} and admits it",
                    node.name,
                    it.name
                );
                let late = it.since.is_some_and(|since| now.since(since) > MAX_STALENESS + BEAT);
                assert!(
                    !late || node.refuses(&it.name) || node.freshness.is_stale() || self.is_lost(it),
                    "{} admits {}, which was revoked {:?} ago",
                    node.name,
                    it.name,
                    it.since.map(|since| now.since(since))
                );
            }
        }
    }

    /// Whether the broker has lost it, and nobody who has it was there for long enough since to give it back.
    fn is_lost(&self, it: &Acknowledged) -> bool {
        let now = self.world.clock.now();
        let holds = |seat: &Seat| {
            let there = seat.whole.is_some_and(|since| now.since(since.max(self.lost)) > GIVING_BACK);
            there && seat.node.as_ref().is_some_and(|node| node.refuses(&it.name))
        };
        it.since.is_some_and(|since| self.lost >= since) && !self.seats.iter().any(holds)
    }

    fn is_known_elsewhere(&self, it: &Acknowledged) -> bool {
        let known = |seat: &Seat| seat.node.as_ref().is_some_and(|node| node.refuses(&it.name));
        self.seats.iter().enumerate().any(|(place, seat)| place != it.node && known(seat))
    }

    async fn end(mut self) {
        for seat in 0..NODES {
            self.cut(seat, false, false);
            self.start(seat).await;
        }
        secs(45).await;
        for seat in &self.seats {
            let node = seat.node.as_ref().unwrap();
            assert!(!node.freshness.is_stale(), "{} is stale when all is well", node.name);
            for it in &self.acknowledged {
                assert!(node.refuses(&it.name), "{} does not refuse {} when all is well", node.name, it.name);
            }
        }
    }
}

#[test]
fn no_history_lets_anybody_back_in() {
    let count = std::env::var("PORTCULLIS_HISTORIES").ok().and_then(|it| it.parse().ok()).unwrap_or(HISTORIES);
    let first = std::env::var("PORTCULLIS_SEED").ok().and_then(|it| it.parse().ok()).unwrap_or(0);
    for seed in first..first + count {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            println!("seed {seed}");
            let mut history = History::begin(seed).await;
            for number in 0..STEPS {
                history.step(number).await;
            }
            history.end().await;
        });
    }
}
