//! How many revocations become durable in a second, how long a start takes, and how long to hear of many.
//!
//! `PORTCULLIS_BENCH_ENTRIES` sets the size of the replay (1,000,000).
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a bench tells its figures, and ends when it cannot")]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::Criterion;
use portcullis::intake::{Ledger, Request};
use portcullis::revocation::{
    Form, Horizons, IssuerHorizon, Reason, Revocation, RevocationMap, Source, Target, TargetKind,
};
use portcullis::store::{AcceptLoss, Body, Entry, SqliteStore, Store};
use portcullis::time::{Clock, Timestamp};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ISSUER: &str = "https://accounts.example.com/";
const SPAN: Duration = Duration::from_secs(2);
const WRITERS: usize = 64;

fn horizons() -> Horizons {
    Horizons {
        issuers: vec![IssuerHorizon {
            name: "accounts".to_owned(),
            url: ISSUER.to_owned(),
            max_lifetime: Duration::from_secs(86_400),
            skew: Duration::from_secs(5),
            exchangeable: false,
            cutoff_margin: Duration::ZERO,
            max_authentication_age: None,
        }],
        session_absolute: None,
    }
}

fn open(folder: &Path) -> (Ledger, Arc<RevocationMap>) {
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(folder, AcceptLoss::No).unwrap());
    let map = Arc::new(RevocationMap::new(usize::MAX));
    (Ledger::open(store, Arc::clone(&map), horizons(), Clock::System).unwrap(), map)
}

fn request(writer: usize, n: u64) -> Request {
    let target = Target::new(TargetKind::Token, "accounts", format!("token-{writer}-{n}"));
    Request::new(target, Reason::Logout, "bench", Source::Admin)
}

/// Revocations acknowledged in a second, each writer asking again when it has its answer.
fn rate(folder: &Path, writers: usize) -> f64 {
    let (ledger, _) = open(folder);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let start = Instant::now();
    let done: u64 = runtime.block_on(async {
        let tasks: Vec<_> = (0..writers)
            .map(|writer| {
                let ledger = ledger.clone();
                tokio::spawn(async move {
                    let mut done = 0;
                    while start.elapsed() < SPAN {
                        assert!(ledger.revoke(request(writer, done)).await.unwrap().durable);
                        done += 1;
                    }
                    done
                })
            })
            .collect();
        let mut sum = 0;
        for task in tasks {
            sum += task.await.unwrap();
        }
        sum
    });
    done as f64 / start.elapsed().as_secs_f64()
}

/// Appends of the same size to a plain file in a second, one `fdatasync` each.
fn syncs(folder: &Path) -> f64 {
    let mut file = File::create(folder.join("plain")).unwrap();
    let (start, mut done) = (Instant::now(), 0);
    while start.elapsed() < SPAN {
        file.write_all(&[7; 200]).unwrap();
        file.sync_data().unwrap();
        done += 1;
    }
    f64::from(done) / start.elapsed().as_secs_f64()
}

fn fill(folder: &Path, entries: u64) {
    let store = SqliteStore::open(folder, AcceptLoss::No).unwrap();
    let origin = store.store_id().to_owned();
    let at = Clock::System.now();
    for first in (0..entries).step_by(4_000) {
        let batch = (first..(first + 4_000).min(entries)).map(|n| Entry {
            origin: origin.clone(),
            origin_seq: n + 1,
            version: Entry::VERSION,
            body: Body::Revocation(revocation(n, at)),
        });
        store.append(batch.collect()).blocking_recv().unwrap().unwrap();
    }
}

fn revocation(n: u64, at: Timestamp) -> Revocation {
    Revocation {
        id: format!("0198c0de-0000-7000-8000-{n:012x}").parse().unwrap(),
        target: Target::new(TargetKind::Token, ISSUER, format!("5f1c2b3a-0000-4000-8000-{n:012x}")),
        form: Form::Block,
        reason: Reason::Logout,
        source: Source::Admin,
        actor: "ops".to_owned(),
        note: None,
        at,
        forget_at: Some(at.plus(Duration::from_secs(86_400))),
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();

    let folder = tempfile::tempdir().unwrap();
    let plain = syncs(folder.path());
    let one = rate(folder.path(), 1);
    let many = rate(folder.path(), WRITERS);
    println!("plain file, one fdatasync at a time: {plain:.0}/s");
    println!("one writer, one commit at a time: {one:.0}/s, {:.2} x of the plain file", one / plain);
    println!(
        "{WRITERS} writers: {many:.0}/s, {:.1} x of one at a time, {:.1} x of the plain file",
        many / one,
        many / plain
    );

    let (ledger, _) = open(folder.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut n = 0;
    criterion.bench_function("one durable revocation", |bencher| {
        bencher.iter(|| {
            n += 1;
            runtime.block_on(ledger.revoke(request(WRITERS, n))).unwrap()
        });
    });
    drop(ledger);

    let entries = std::env::var("PORTCULLIS_BENCH_ENTRIES").map_or(1_000_000, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let start = Instant::now();
    fill(folder.path(), entries);
    let file = folder.path().join("revocations.db");
    println!("\nstored {entries} in {:?}, {} B each", start.elapsed(), file.metadata().unwrap().len() / entries);
    let start = Instant::now();
    let bytes = std::fs::read(&file).unwrap();
    let reading = start.elapsed();
    drop(bytes);
    let start = Instant::now();
    let (ledger, map) = open(folder.path());
    let replay = start.elapsed();
    assert_eq!(map.len() as u64, entries);
    println!(
        "opened, verified and replayed in {replay:?}: {:.2} µs each, {:.1} x of reading the file ({reading:?})",
        replay.as_secs_f64() * 1e6 / entries as f64,
        replay.as_secs_f64() / reading.as_secs_f64()
    );
    drop(ledger);
    adopt(folder.path(), 100_000);
    criterion.final_summary();
}

/// What it takes to hear of so many entries of another node, beside those that are there; and to hear of them again.
fn adopt(folder: &Path, entries: u64) {
    let store = SqliteStore::open(folder, AcceptLoss::No).unwrap();
    let at = Clock::System.now();
    for what in ["new", "known"] {
        let start = Instant::now();
        for first in (0..entries).step_by(1_000) {
            let batch = (first..first + 1_000).map(|n| Entry {
                origin: "another".to_owned(),
                origin_seq: n + 1,
                version: Entry::VERSION,
                body: Body::Revocation(revocation((n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 16, at)),
            });
            store.adopt(batch.collect(), Vec::new(), Vec::new()).blocking_recv().unwrap().unwrap();
        }
        println!("adopted {entries} {what} entries in {:?}", start.elapsed());
    }
}
