//! What a look-up costs, how long it can take while others write, and what an entry weighs.
//!
//! Sizes: 1 k and 1 M entries; 10 M as well with `PORTCULLIS_BENCH_LARGE=1`.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a bench tells its figures, and ends when it cannot")]

use std::collections::HashMap;
use std::fs;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::Criterion;
use portcullis::revocation::{Form, RevocationMap, TargetKind, TargetRef};
use portcullis::time::Timestamp;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ISSUER: &str = "https://accounts.example.com/";
const SAMPLES: usize = 500_000;

fn at(secs: u64) -> Timestamp {
    Timestamp::from_secs(secs.cast_signed())
}

fn name(map: &RevocationMap, n: u64) -> TargetRef {
    map.reference(TargetKind::Session, ISSUER, &format!("session-{n}"))
}

/// A map of `size` sessions; every second one may be forgotten after second 1,000.
fn filled(size: u64) -> RevocationMap {
    let map = RevocationMap::new(usize::MAX);
    for n in 0..size {
        let forget_at = if n.is_multiple_of(2) { 1_000 } else { 1_000_000 };
        map.apply(name(&map, n), Form::Block, Some(at(forget_at))).unwrap();
    }
    map
}

fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Times of single look-ups, hits and misses in turn, sorted; the clock's own cost included.
fn latencies(map: &RevocationMap, refs: &[TargetRef], samples: usize) -> Vec<Duration> {
    let mut times = Vec::with_capacity(samples);
    for n in 0..samples {
        let target = refs[n.wrapping_mul(7_919) % refs.len()];
        let start = Instant::now();
        black_box(map.standing(&[target], at(5), None));
        times.push(start.elapsed());
    }
    times.sort_unstable();
    times
}

fn say(what: &str, times: &[Duration]) -> Duration {
    let nth = |share: usize| times[(times.len() - 1) * share / 10_000];
    let worst = times.last().unwrap();
    println!("{what}: p50 {:?}, p99 {:?}, p99.9 {:?}, worst {worst:?}", nth(5_000), nth(9_900), nth(9_990));
    nth(9_900)
}

fn measure(criterion: &mut Criterion, size: u64) {
    let before = resident_bytes();
    let start = Instant::now();
    let map = Arc::new(filled(size));
    let filling = start.elapsed();
    let grown = resident_bytes().saturating_sub(before);
    println!(
        "\n{size} entries: {} B resident an entry, filled in {filling:?} ({:?} an entry)",
        grown / size,
        filling / u32::try_from(size).unwrap()
    );

    let refs: Vec<_> = (0..200_000).map(|n| name(&map, n * (2 * size / 200_000).max(1))).collect();
    let mut next = (0..refs.len()).cycle();
    criterion.bench_function(&format!("standing of one target, {size} entries"), |bencher| {
        bencher.iter(|| map.standing(&[refs[next.next().unwrap()]], at(5), None));
    });
    reference(&map, &refs, size);

    let alone = say("look-up alone", &latencies(&map, &refs, SAMPLES));
    let stop = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicU64::new(0));
    let writer = {
        let (map, stop, written) = (Arc::clone(&map), Arc::clone(&stop), Arc::clone(&written));
        thread::spawn(move || {
            // Over and over the same share of new targets, so that the map keeps its size.
            while !stop.load(Ordering::Relaxed) {
                let n = size + written.fetch_add(1, Ordering::Relaxed) % 10_000;
                map.apply(name(&map, n), Form::Block, Some(at(900))).unwrap();
                map.replace(name(&map, n), None).unwrap();
            }
        })
    };
    let start = Instant::now();
    let busy = say("look-up beside a writer", &latencies(&map, &refs, SAMPLES));
    let rate = 2.0 * written.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    println!("beside {rate:.0} writes/s: p99 is {:.2} x of alone", busy.as_secs_f64() / alone.as_secs_f64());

    let sweeping = {
        let map = Arc::clone(&map);
        thread::spawn(move || {
            let start = Instant::now();
            (map.sweep(at(2_000)), start.elapsed())
        })
    };
    let mut during = Vec::new();
    while !sweeping.is_finished() {
        during.extend(latencies(&map, &refs, 1_000));
    }
    let (swept, took) = sweeping.join().unwrap();
    during.sort_unstable();
    if !during.is_empty() {
        let p99 = say("look-up beside the sweep", &during);
        println!("beside the sweep: p99 is {:.2} x of alone", p99.as_secs_f64() / alone.as_secs_f64());
    }
    println!("swept {swept} of {size} in {took:?}; {} MiB resident after", resident_bytes() >> 20);
}

/// The same look-ups in a plain map of ready-made numbers, without locks, names or meaning.
fn reference(map: &RevocationMap, refs: &[TargetRef], size: u64) {
    let time = |look_up: &dyn Fn(usize)| {
        let start = Instant::now();
        (0..SAMPLES).for_each(|n| look_up(n * 7_919 % refs.len()));
        start.elapsed().as_secs_f64() / SAMPLES as f64
    };
    let plain: HashMap<u64, u64> = (0..size).map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15), n)).collect();
    let step = (2 * size / 200_000).max(1);
    let theirs = time(&|n| {
        black_box(plain.get(&(n as u64 * step).wrapping_mul(0x9E37_79B9_7F4A_7C15)));
    });
    let ours = time(&|n| {
        black_box(map.standing(&[refs[n]], at(5), None));
    });
    println!("look-up {:.0} ns, std HashMap<u64, u64> {:.0} ns: {:.2} x", ours * 1e9, theirs * 1e9, ours / theirs);
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let naming = RevocationMap::new(1);
    criterion.bench_function("reference of a subject", |bencher| {
        bencher.iter(|| naming.reference(TargetKind::Subject, black_box(ISSUER), black_box("5f1c2b3a-42")));
    });
    let large = std::env::var_os("PORTCULLIS_BENCH_LARGE").is_some();
    // The largest first: memory that an earlier size gave back would hide what this one takes.
    for size in large.then_some(10_000_000).into_iter().chain([1_000_000, 1_000]) {
        measure(&mut criterion, size);
    }
    criterion.final_summary();
}
