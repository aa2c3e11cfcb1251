//! The clock leases run on.
//!
//! Pure: the monotonic clock is read by the caller. It is ticked by the watchdog's thread, while our
//! own door answers, and runs on from the last tick for no more than half as long again as it was
//! to be ticked after. A discovery that was stopped, suspended, starved or let nobody in did not
//! tick, and the time that passed meanwhile does not count against anybody's lease: it could not
//! have taken their beats.
//!
//! What a pause still costs is that little rest. It is ticked so often that this is less than a
//! sixth of any lease, and with the tick at which the door had answered just before it ceased to, a
//! quarter: whoever beats three times in a lease is not missed.

use std::time::Duration;

use crate::registry::LeaseTime;

/// How often it is ticked at most, which does for the usual leases.
const SELDOM: Duration = Duration::from_secs(1);
/// How often it is ticked where nobody has a lease, and no pause can cost anybody anything.
const IDLE: Duration = Duration::from_secs(60);
/// How often it is ticked in the shortest lease there is.
const TICKS_PER_LEASE: u32 = 10;

/// Lease time, from monotonic time and ticks.
#[derive(Debug)]
pub struct LeaseClock {
    ticked: Duration,
    ticked_at: LeaseTime,
    /// After how long the next tick is to come.
    next_in: Duration,
    /// How far it may run on from the last tick.
    runs_for: Duration,
}

impl LeaseClock {
    /// A clock that starts at monotonic time `now`, in front of leases of `shortest` and longer.
    pub fn new(shortest: Duration, now: Duration) -> Self {
        let next_in = tick_after(shortest);
        Self {
            ticked: now,
            ticked_at: LeaseTime::default(),
            next_in,
            runs_for: runs_for(next_in),
        }
    }

    /// Lease time at monotonic time `now`. It never runs backwards.
    pub fn read(&self, now: Duration) -> LeaseTime {
        let since = now.saturating_sub(self.ticked);
        self.ticked_at.after(since.min(self.runs_for))
    }

    /// A lease of this length begins at `at`. Returns whether it is too short for the next tick,
    /// which has to come at once then: until it does time stands still.
    #[must_use]
    pub fn heed(&mut self, lease: Duration, at: LeaseTime) -> bool {
        let runs_for = runs_for(tick_after(lease));
        let is_short = runs_for < self.runs_for;
        // It does not run backwards.
        self.runs_for = runs_for.max(at.since(self.ticked_at)).min(self.runs_for);
        is_short
    }

    /// Ticks at monotonic time `now`, in front of leases of `shortest` and longer. Returns how late
    /// that is.
    pub fn tick(&mut self, shortest: Duration, now: Duration) -> Duration {
        self.tick_before(tick_after(shortest), now)
    }

    /// Ticks at monotonic time `now`, in front of no lease: the first to begin has to be heeded.
    /// Returns how late that is.
    pub fn idle(&mut self, now: Duration) -> Duration {
        self.tick_before(IDLE, now)
    }

    fn tick_before(&mut self, next_in: Duration, now: Duration) -> Duration {
        let since = now.saturating_sub(self.ticked);
        let late = since.saturating_sub(runs_for(self.next_in));
        self.ticked_at = self.read(now);
        self.ticked = self.ticked.max(now);
        self.next_in = next_in;
        self.runs_for = runs_for(next_in);
        late
    }

    /// The monotonic time at which the next tick is due.
    pub fn next_tick(&self) -> Duration {
        self.ticked + self.next_in
    }
}

fn tick_after(shortest: Duration) -> Duration {
    (shortest / TICKS_PER_LEASE).min(SELDOM)
}

/// A tick may be late by half.
fn runs_for(tick_after: Duration) -> Duration {
    tick_after + tick_after / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Duration = Duration::from_secs(15);

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn ticked_in_time_it_runs_like_any_clock() {
        let mut clock = LeaseClock::new(USUAL, at(7.0));
        for second in 1..100 {
            assert_eq!(clock.next_tick(), at(6.0 + f64::from(second) + 1.0));
            assert_eq!(
                clock.tick(USUAL, at(7.0 + f64::from(second))),
                Duration::ZERO
            );
        }
        let read = clock.read(at(106.5));
        assert_eq!(read.since(LeaseTime::default()), at(99.5));
    }

    #[test]
    fn a_pause_costs_no_one_more_than_a_tick_and_a_half() {
        let mut clock = LeaseClock::new(USUAL, at(0.0));
        assert_eq!(clock.tick(USUAL, at(1.0)), Duration::ZERO);
        // Requests may be served before the late tick comes.
        let before = clock.read(at(61.0));
        assert_eq!(before.since(LeaseTime::default()), at(2.5));
        assert_eq!(clock.tick(USUAL, at(61.0)), at(58.5));
        assert_eq!(clock.read(at(61.0)), before);
        assert_eq!(clock.read(at(62.0)).since(before), at(1.0));
    }

    #[test]
    fn without_leases_it_is_left_alone_until_one_begins() {
        let mut clock = LeaseClock::new(USUAL, at(0.0));
        assert_eq!(clock.idle(at(1.0)), Duration::ZERO);
        assert_eq!(clock.next_tick(), at(61.0));
        let began = clock.read(at(31.0));
        assert_eq!(began.since(LeaseTime::default()), at(31.0));
        assert!(clock.heed(USUAL, began), "it is to be ticked at once");
        assert_eq!(clock.read(at(40.0)), began);
        let _ = clock.tick(USUAL, at(31.0));
        assert_eq!(clock.next_tick(), at(32.0));
        assert_eq!(clock.read(at(31.5)).since(began), at(0.5));
    }

    #[test]
    fn no_pause_costs_a_short_lease_as_much_as_a_sixth_of_it() {
        let short = at(1.0);
        let mut clock = LeaseClock::new(USUAL, at(0.0));
        // It begins in the middle of a long tick.
        let began = clock.read(at(0.1));
        assert!(clock.heed(short, began));
        assert!(!clock.heed(USUAL, began));
        assert_eq!(clock.read(at(60.0)).since(began), at(0.05));
        let _ = clock.tick(short, at(60.0));
        let ticked = clock.read(at(60.0));
        assert_eq!(clock.next_tick(), at(60.1));
        assert_eq!(clock.read(at(120.0)).since(ticked), at(0.15));
        // Where it is too late for that, what was read once is not taken back.
        let mut clock = LeaseClock::new(USUAL, at(0.0));
        let read = clock.read(at(0.9));
        assert!(clock.heed(short, read));
        assert_eq!(clock.read(at(0.9)), read);
        assert_eq!(clock.read(at(60.0)), read);
        // With the short lease gone it goes back to ticking seldom.
        let _ = clock.tick(USUAL, at(60.0));
        assert_eq!(clock.next_tick(), at(61.0));
    }
}
