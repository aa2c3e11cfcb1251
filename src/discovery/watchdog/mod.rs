//! The thread that asks whether our own door answers, and ticks the clock leases run on while it does.
//!
//! It is mostly answered by others: each new connection that is served shows that the next would
//! be. Where there was none since the last tick, and somebody depends on it, it asks itself, on a
//! real connection. Without an answer there is no tick, and the clock stands still.

pub mod doubt;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Discovery;
use crate::http::Door;
use crate::program;
use crate::vital;
use doubt::{Counts, Doubt, Measure, Verdict};

/// How soon it is asked again where it has not answered.
const AGAIN: Duration = Duration::from_secs(1);
/// From how long on it is said that the clock stood still.
const WORTH_SAYING: Duration = Duration::from_millis(100);

/// Starts the thread; it ends when its latch is set.
pub(super) fn start(discovery: Arc<Discovery>, door: Door) -> io::Result<JoinHandle<()>> {
    let mut watchdog = Watchdog {
        doubt: Doubt::new(sd_notify::watchdog_enabled()),
        discovery,
        door,
    };
    vital::spawn("watchdog", move || watchdog.run())
}

struct Watchdog {
    discovery: Arc<Discovery>,
    door: Door,
    doubt: Doubt,
}

impl Watchdog {
    fn run(&mut self) {
        let latch = self.discovery.watchdog.clone();
        loop {
            let asked = Instant::now();
            let (verdict, error) = self.look();
            // What was asked when we were to stop says nothing.
            if latch.is_set() {
                return;
            }
            self.discovery.metrics.set_door_unanswered(!verdict.ticks);
            if verdict.tells {
                program::notify(&sd_notify::NotifyState::Watchdog);
            }
            if let Some(measure) = verdict.measure {
                self.take(measure, error.as_ref());
            }
            if verdict.ticks {
                let tick = self.tick();
                let tell = self
                    .doubt
                    .tells_next()
                    .map(|at| self.discovery.started + at);
                if latch.wait_until(tell.map_or(tick, |tell| tell.min(tick))) {
                    return;
                }
                continue;
            }
            // Nobody who wants a tick gets it sooner.
            while Instant::now() < asked + AGAIN {
                if latch.wait_until(asked + AGAIN) {
                    return;
                }
            }
        }
    }

    /// Looks whether the door answers, and asks it where that is not known. Returns what follows,
    /// and why there was no answer.
    fn look(&mut self) -> (Verdict, Option<io::Error>) {
        let is_needed = self.discovery.is_depended_on();
        let now = self.now();
        let is_asked = self.doubt.has_to_ask(self.counts(), is_needed, now);
        let latch = &self.discovery.watchdog;
        let error = match is_asked {
            true => self.door.ask(|| latch.is_set()).err(),
            false => None,
        };
        let counts = self.counts();
        let verdict = match error {
            Some(_) => {
                let lease = self.discovery.longest_lease();
                self.doubt.unanswered(counts, is_needed, lease, now)
            }
            None => self.doubt.answered(counts, is_asked, now),
        };
        (verdict, error)
    }

    fn take(&self, measure: Measure, error: Option<&io::Error>) {
        let error = error.map(ToString::to_string).unwrap_or_default();
        match measure {
            Measure::Renew => {
                log::error!(
                    "our own door does not answer ({error}); the accept loop is renewed, and leases are longer by the time it takes"
                );
                self.discovery.metrics.door_renewals.inc();
                if let Err(e) = self.door.renew() {
                    log::error!("cannot renew the accept loop: {e}");
                }
            }
            Measure::Complain => log::error!(
                "our own door does not answer ({error}), but heartbeats are served; going on"
            ),
            Measure::Exit => {
                log::error!(
                    "our own door does not answer ({error}), and no heartbeats are served; the process ends"
                );
                std::process::exit(1);
            }
            Measure::StopAsking => log::warn!(
                "we are not answered when we ask ourselves ({error}), though others may be; the door is not watched"
            ),
            Measure::Relax => log::info!("our own door answers again"),
        }
    }

    /// Ticks the lease clock; returns when it is to be ticked next.
    fn tick(&self) -> Instant {
        let (late, next) = self.discovery.tick();
        if late >= WORTH_SAYING {
            log::warn!(
                "discovery was not running for a while; leases are longer by {:.1}s",
                late.as_secs_f64()
            );
        }
        next
    }

    fn counts(&self) -> Counts {
        Counts {
            first_answers: self.door.first_answers(),
            beats: self.discovery.metrics.beats(),
        }
    }

    fn now(&self) -> Duration {
        self.discovery.started.elapsed()
    }
}
