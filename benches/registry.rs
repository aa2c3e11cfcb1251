//! What the map takes for a heartbeat, a join, a departure and the list, by the number of peers.

// It is a benchmark: where it cannot go on there is nothing to save.
#![allow(missing_docs, clippy::expect_used)]

use std::hint::black_box;
use std::time::{Duration, Instant, SystemTime};

use aios_mesh::registry::{LeaseTime, Limits, Now, Registry};
use aios_mesh::wire::{CellId, Heartbeat, Registration};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

const SIZES: [usize; 5] = [100, 1000, 10_000, 100_000, 1_000_000];
/// The lease of those who stay, longer than all time that passes, and of those who come to be reaped.
const LONG: Duration = Duration::from_secs(u32::MAX as u64);
const SHORT: Duration = Duration::from_millis(1);
/// How many join or go at once at most: few beside those who stay.
const CROWD: usize = 1000;

fn id(number: usize) -> CellId {
    CellId::new(&format!("cell-{number:07}")).expect("an id")
}

fn registration(number: usize, stale_after: Option<Duration>) -> Registration {
    Registration {
        cell_id: id(number),
        ip: "10.0.0.1".to_owned(),
        port: 8002,
        consciousness_level: 0.1,
        services: ["consciousness-primitives", "code-analysis"]
            .map(str::to_owned)
            .into(),
        branch: "main".to_owned(),
        kind: "pure_cell".to_owned(),
        hostname: format!("cell-{number:07}"),
        instance: None,
        stale_after,
    }
}

fn heartbeat(number: usize) -> Heartbeat {
    Heartbeat {
        cell_id: id(number),
        consciousness_level: 0.1,
        instance: None,
    }
}

/// A map with peers who stay, and its clock.
struct Map {
    registry: Registry,
    peers: usize,
    now: Now,
}

impl Map {
    fn of(peers: usize) -> Self {
        let limits = Limits {
            stale_after: LONG,
            max_peers: 2 * peers + CROWD,
        };
        let mut map = Self {
            registry: Registry::new(limits),
            peers,
            now: Now {
                lease: LeaseTime::default(),
                wall: SystemTime::UNIX_EPOCH,
            },
        };
        for number in 0..peers {
            map.register(registration(number, None));
        }
        map
    }

    fn register(&mut self, registration: Registration) {
        let accepted = self.registry.register(registration, None, self.now);
        drop(black_box(accepted.expect("it is taken")));
    }

    /// So many join and are reaped. Returns how long the one and the other took.
    fn come_and_go(&mut self, mut left: u64) -> (Duration, Duration) {
        let (mut joined, mut reaped) = (Duration::ZERO, Duration::ZERO);
        while left > 0 {
            let crowd = CROWD
                .min(self.peers / 10)
                .min(usize::try_from(left).unwrap_or(CROWD));
            left -= crowd as u64;
            let numbers = self.peers..self.peers + crowd;
            let newcomers: Vec<_> = numbers.map(|it| registration(it, Some(SHORT))).collect();
            let begins = Instant::now();
            for newcomer in newcomers {
                self.register(newcomer);
            }
            joined += begins.elapsed();
            self.now.lease = self.now.lease.after(2 * SHORT);
            let begins = Instant::now();
            let departures = self.registry.reap(self.now, crowd);
            reaped += begins.elapsed();
            assert_eq!(departures.len(), crowd);
        }
        (joined, reaped)
    }
}

fn registry(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("registry");
    for peers in SIZES {
        let mut map = Map::of(peers);
        // No order that a cache could foresee: the step has no factor in common with any size.
        let beats: Vec<_> = (0..peers).map(|it| heartbeat(it * 7919 % peers)).collect();
        let mut beats = beats.iter().cycle();
        group.bench_function(BenchmarkId::new("beat", peers), |bencher| {
            bencher.iter(|| {
                let beat = beats.next().expect("it goes round");
                map.registry.heartbeat(beat, map.now)
            });
        });
        group.bench_function(BenchmarkId::new("register", peers), |bencher| {
            bencher.iter_custom(|count| map.come_and_go(count).0);
        });
        group.bench_function(BenchmarkId::new("reap", peers), |bencher| {
            bencher.iter_custom(|count| map.come_and_go(count).1);
        });
        group.bench_function(BenchmarkId::new("list", peers), |bencher| {
            bencher.iter(|| map.registry.list());
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .without_plots()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1));
    targets = registry
}
criterion_main!(benches);
