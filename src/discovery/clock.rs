//! The clock leases run on.
//!
//! Pure: the monotonic clock is read by the caller. It is ticked by the reaper's thread, and runs
//! on from the last tick for no more than a tick and some tolerance. A discovery that was stopped,
//! suspended or starved did not tick, and the time that passed meanwhile does not count against
//! anybody's lease: it could not have taken their beats.

use std::time::Duration;

use crate::registry::LeaseTime;

/// How late a tick may be before time stands still.
const TOLERANCE: Duration = Duration::from_millis(500);

/// Lease time, from monotonic time and ticks.
#[derive(Debug)]
pub(super) struct LeaseClock {
    tick_every: Duration,
    ticked: Duration,
    ticked_at: LeaseTime,
}

impl LeaseClock {
    /// A clock that starts at monotonic time `now` and will be ticked every `tick_every`.
    pub(super) fn new(tick_every: Duration, now: Duration) -> Self {
        Self {
            tick_every,
            ticked: now,
            ticked_at: LeaseTime::default(),
        }
    }

    /// Lease time at monotonic time `now`. It never runs backwards.
    pub(super) fn read(&self, now: Duration) -> LeaseTime {
        let since = now.saturating_sub(self.ticked);
        self.ticked_at.after(since.min(self.tick_every + TOLERANCE))
    }

    /// Ticks at monotonic time `now`. Returns for how long lease time had stood still.
    pub(super) fn tick(&mut self, now: Duration) -> Duration {
        let at = self.read(now);
        let stood_still = now
            .saturating_sub(self.ticked)
            .saturating_sub(at.since(self.ticked_at));
        self.ticked_at = at;
        self.ticked = self.ticked.max(now);
        stood_still
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn ticked_in_time_it_runs_like_any_clock() {
        let mut clock = LeaseClock::new(SECOND, at(7.0));
        for second in 1..100 {
            assert_eq!(clock.tick(at(7.0 + f64::from(second))), Duration::ZERO);
        }
        let read = clock.read(at(106.5));
        assert_eq!(read.since(LeaseTime::default()), at(99.5));
    }

    #[test]
    fn a_pause_costs_no_one_more_than_a_tick_and_the_tolerance() {
        let mut clock = LeaseClock::new(SECOND, at(0.0));
        assert_eq!(clock.tick(at(1.0)), Duration::ZERO);
        // Requests may be served before the late tick comes.
        let before = clock.read(at(61.0));
        assert_eq!(before.since(LeaseTime::default()), at(2.5));
        assert_eq!(clock.tick(at(61.0)), at(58.5));
        assert_eq!(clock.read(at(61.0)), before);
        assert_eq!(clock.read(at(62.0)).since(before), SECOND);
    }
}
