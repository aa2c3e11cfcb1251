//! The protocol under a virtual clock: many cells, one discovery, and a network that is against them.
//!
//! The registry, the clock of the leases, the hold, the lines of the state file and the pulse are the
//! real ones. All else (time, the network, processes that stop, die and come back, the disk, the wall
//! clock) is a world that comes from one number, its seed, and happens in the same way wherever that
//! number is tried. At
//! every step it is checked what must stay true (`invariants`). To see that this notices anything,
//! worlds are run without one of the safeguards (`safeguards`) as well.
//!
//! `AIOS_SIM_SEEDS=N` runs N worlds, `AIOS_SIM_SEED=X` one, and tells what happens in it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr
)]
#![allow(unreachable_pub)]

mod cell;
mod chance;
mod coverage;
mod discovery;
mod faults;
mod invariants;
mod network;
mod safeguards;
mod world;

use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use coverage::{Coverage, Seen};
use faults::Plan;
use safeguards::Safeguard;
use world::{Failure, World};

/// How many worlds are tried where nothing else is said.
const SEEDS: u64 = 3_000;
/// In how many worlds the loss of a safeguard must be seen at the latest.
const SEEN_WITHIN: u64 = 1_500;

/// A number from the environment.
fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text}: allowed is a whole number")),
    )
}

/// Shows a line with the run, past the capture of the test runner.
fn show(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Runs a world once more that failed, with its tale told.
fn fail(failure: &Failure) -> ! {
    let told = World::new(failure.seed, None).told().run();
    panic!(
        "{}",
        told.map_or_else(|told| told.to_string(), |_| failure.to_string())
    )
}

struct Sum {
    coverage: Coverage,
    steps: u64,
    cell_time: Duration,
}

/// Runs the worlds of all seeds below `seeds`, on every processor there is.
fn run_all(seeds: u64) -> Sum {
    let next = AtomicU64::new(0);
    let sum = Mutex::new(Sum {
        coverage: Coverage::default(),
        steps: 0,
        cell_time: Duration::ZERO,
    });
    let failed = Mutex::new(None::<Failure>);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while failed.lock().unwrap().is_none() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    match World::new(seed, None).run() {
                        Ok(outcome) => {
                            let mut sum = sum.lock().unwrap();
                            sum.coverage.add(&outcome.coverage);
                            sum.steps += outcome.steps;
                            sum.cell_time += outcome.cell_time;
                        }
                        Err(failure) => *failed.lock().unwrap() = Some(*failure),
                    }
                }
            });
        }
    });
    if let Some(failure) = failed.into_inner().unwrap() {
        fail(&failure);
    }
    sum.into_inner().unwrap()
}

#[test]
fn no_promise_is_broken_in_thousands_of_worlds() {
    if let Some(seed) = variable("AIOS_SIM_SEED") {
        let world = World::new(seed, None).told();
        match world.run() {
            Ok(outcome) => show(&format!("seed {seed} holds: {} steps", outcome.steps)),
            Err(failure) => {
                for line in &failure.tale {
                    show(line);
                }
                panic!("{failure}");
            }
        }
        return;
    }
    let seeds = variable("AIOS_SIM_SEEDS").unwrap_or(SEEDS);
    let started = Instant::now();
    let sum = run_all(seeds);
    let took = started.elapsed().as_secs_f64();
    let hours = sum.cell_time.as_secs_f64() / 3600.0;
    show(&format!(
        "MEASURED simulation: {seeds} seeds, {:.1} million steps, {hours:.0} cell-hours in {took:.1} s: {:.0} cell-hours a second",
        sum.steps as f64 / 1e6,
        hours / took
    ));
    let rare: Vec<_> = Seen::ALL
        .iter()
        .map(|seen| (*seen, sum.coverage.of(*seen)))
        .filter(|(_, times)| *times < seeds / 100)
        .collect();
    assert!(rare.is_empty(), "hardly ever seen: {rare:?}");
}

/// What was found once: each was a fault of what it names.
const FOUND: [(u64, &str); 1] = [(
    452,
    "a last line whose end was damaged was taken for one that was never finished",
)];

#[test]
fn what_was_found_once_holds() {
    for (seed, what) in FOUND {
        if let Err(failure) = World::new(seed, None).run() {
            panic!("{what}: {failure}");
        }
    }
}

#[test]
fn the_same_seed_is_the_same_world() {
    for seed in 0..20 {
        let [one, other] = [0, 1].map(|_| World::new(seed, None).run().expect("it holds"));
        assert_eq!(one.fingerprint, other.fingerprint, "seed {seed}");
        assert_eq!(one.steps, other.steps, "seed {seed}");
    }
}

/// But for one: over a restart it is counted on the wall clock who said goodbye less than a minute
/// ago. So nobody has a state file here.
#[test]
fn a_wall_clock_that_is_set_changes_no_answer() {
    let mut compared = 0;
    for seed in 0..200 {
        let run = |plan: Plan| {
            let plan = Plan {
                state_file: false,
                ..plan
            };
            World::planned(seed, plan, None).run().expect("it holds")
        };
        let stepped = run(Plan::new(seed));
        if stepped.coverage.of(Seen::WallForward) + stepped.coverage.of(Seen::WallBack) == 0 {
            continue;
        }
        compared += 1;
        let steady = run(Plan::new(seed).without_wall_steps());
        assert_eq!(stepped.fingerprint, steady.fingerprint, "seed {seed}");
    }
    assert!(compared > 40, "the clock was set in {compared} worlds only");
}

/// Runs worlds without a safeguard until one breaks, and shows which promise that was.
fn is_missed(safeguard: Safeguard) {
    for seed in 0..SEEN_WITHIN {
        let Err(failure) = World::new(seed, Some(safeguard)).run() else {
            continue;
        };
        let broken = failure.violation.invariant;
        assert!(
            safeguard.keeps().contains(&broken),
            "without {safeguard:?}, which is to keep {:?}: {failure}",
            safeguard.keeps()
        );
        let at = failure.at.as_secs_f64();
        show(&format!(
            "MEASURED simulation without {safeguard:?}: {broken:?} is broken in seed {seed}, step {}, after {at:.0} s",
            failure.step
        ));
        return;
    }
    panic!("without {safeguard:?} nothing was broken in {SEEN_WITHIN} worlds");
}

/// One test for each safeguard, so that each names what it is good for.
macro_rules! missed {
    ($($test:ident: $safeguard:ident,)+) => {
        $(
            #[test]
            fn $test() {
                is_missed(Safeguard::$safeguard);
            }
        )+
    };
}

missed! {
    it_is_seen_when_leases_run_on_monotonic_time: LeaseClock,
    it_is_seen_when_ages_are_counted_on_the_wall_clock: NoWallClock,
    it_is_seen_when_short_leases_get_no_short_ticks: ShortTicks,
    it_is_seen_when_own_leases_are_ignored: OwnLease,
    it_is_seen_when_those_who_left_are_forgotten: Fence,
    it_is_seen_when_a_goodbye_removes_another_run: InstanceOfGoodbye,
    it_is_seen_when_a_beat_renews_another_run: InstanceOfBeat,
    it_is_seen_when_a_restart_knows_nobody: Journal,
    it_is_seen_when_changes_are_written_at_a_graceful_stop_only: JournalInTime,
    it_is_seen_when_a_run_is_not_written_that_shows_nothing_new: RunKept,
    it_is_seen_when_revisions_are_not_reserved: RevisionsAhead,
    it_is_seen_when_they_are_reserved_after_they_are_given_out: ReservedFirst,
    it_is_seen_when_a_start_goes_on_at_what_was_reserved: AboveReserved,
    it_is_seen_when_a_restart_forgets_who_said_goodbye: GoodbyesKept,
    it_is_seen_when_goodbyes_are_written_after_those_who_came_back: GoodbyesFirst,
    it_is_seen_when_a_state_file_written_anew_lacks_what_changed_meanwhile: Meanwhile,
    it_is_seen_when_half_a_state_file_takes_the_place_of_a_whole_one: WholeInPlace,
    it_is_seen_when_a_torn_state_file_is_gone_on_with: TornLeft,
    it_is_seen_when_lines_have_no_checksums: Checksums,
    it_is_seen_when_the_epoch_stays_and_something_is_lost: EpochOfDamage,
    it_is_seen_when_the_epoch_stays_and_the_state_is_lost: NewEpoch,
    it_is_seen_when_no_departure_is_held: Hold,
    it_is_seen_when_a_hold_waits_until_most_are_stale: HoldCountsLate,
    it_is_seen_when_a_departure_is_held_again_and_again: HoldOnce,
    it_is_seen_when_there_may_be_any_number_of_peers: MaxPeers,
    it_is_seen_when_a_cell_beats_after_its_goodbye: GoodbyeLast,
    it_is_seen_when_only_an_answered_registration_is_taken_back: MaybeKnown,
    it_is_seen_when_a_forgotten_cell_does_not_register_again: RegisterAgain,
    it_is_seen_when_a_forgotten_cell_takes_its_time: AtOnce,
    it_is_seen_when_a_call_waits_for_ever: TimeOut,
    it_is_seen_when_twins_fight: TwinsDoNotFight,
}
