//! What a cell has to do next, and when.
//!
//! Pure: time and chance are passed in. The heartbeat thread asks [`Pulse::next`], does what it
//! says and reports how it went; what is worth a log line comes back as a [`Notice`].

use std::time::Duration;

use crate::wire;

/// The first delay between two attempts to register for the first time; it doubles.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// By how much of itself a delay grows at random, so that cells do not move in step.
const JITTER: f64 = 0.25;
/// How often a trouble that lasts is spoken of.
const REMIND_EVERY: Duration = Duration::from_secs(60);

/// What is due. Times are the cell's own: since some start, monotonic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Register now.
    Register,
    /// Beat now.
    Beat,
    /// Nothing before this time.
    WaitUntil(Duration),
}

/// How a heartbeat was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeatAnswer {
    /// Taken.
    Ok,
    /// 404: discovery does not know the cell.
    Unknown,
    /// Anything else, or nothing.
    Failed,
}

/// What is worth saying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The cell is registered.
    Registered,
    /// Discovery had forgotten the cell, which registers again.
    Forgotten,
    /// What was well does not work any more.
    Failing,
    /// It still does not work, since so long.
    StillFailing(Duration),
    /// It works again, after so long.
    Recovered(Duration),
}

/// The state of a cell's registration.
#[derive(Clone, Debug)]
pub struct Pulse {
    interval: Duration,
    /// The interval where discovery asks for none.
    usual: Duration,
    /// An interval the cell was told to keep, whatever discovery says.
    fixed: bool,
    due: Duration,
    state: State,
    trouble: Option<Trouble>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not registered yet; so many attempts have failed.
    New { failed: u32 },
    /// Registered, as far as is known: beats are due.
    Registered,
    /// Registered once, and forgotten by discovery.
    Forgotten {
        /// Whether to register at once instead of at the next interval.
        at_once: bool,
    },
}

#[derive(Clone, Copy, Debug)]
struct Trouble {
    since: Duration,
    spoken_of: Duration,
}

impl Pulse {
    /// A cell that is not registered, at time `now`. It beats every `usual` unless discovery says
    /// otherwise, or every `fixed` whatever discovery says.
    #[must_use]
    pub fn new(usual: Duration, fixed: Option<Duration>, now: Duration) -> Self {
        Self {
            interval: fixed.unwrap_or(usual),
            usual,
            fixed: fixed.is_some(),
            due: now,
            state: State::New { failed: 0 },
            trouble: None,
        }
    }

    /// What to do at time `now`.
    #[must_use]
    pub fn next(&self, now: Duration) -> Step {
        match self.state {
            State::Forgotten { at_once: true } => Step::Register,
            _ if now < self.due => Step::WaitUntil(self.due),
            State::Registered => Step::Beat,
            State::New { .. } | State::Forgotten { .. } => Step::Register,
        }
    }

    /// The registration was taken; discovery asks for `interval`. `chance` is a random number
    /// from 0 to 1.
    pub fn registered(
        &mut self,
        now: Duration,
        interval: Option<Duration>,
        chance: f64,
    ) -> Vec<Notice> {
        let wanted = match interval {
            _ if self.fixed => self.interval,
            Some(interval) if wire::HEARTBEAT_RANGE.contains(&interval) => interval,
            // Nobody means that.
            Some(_) | None => self.usual,
        };
        let changed = std::mem::replace(&mut self.interval, wanted) != wanted;
        if matches!(self.state, State::New { .. }) || changed {
            // Whoever registers at the same moment (a discovery came back, a rack came up) beats
            // at different ones from then on.
            self.due = now + self.interval.mul_f64(chance.clamp(0.0, 1.0));
        } else {
            self.next_interval(now);
        }
        self.state = State::Registered;
        let mut notices = vec![Notice::Registered];
        notices.extend(self.well(now));
        notices
    }

    /// The registration was not taken.
    pub fn not_registered(&mut self, now: Duration, chance: f64) -> Option<Notice> {
        match &mut self.state {
            State::New { failed } => {
                let delay = FIRST_BACKOFF.saturating_mul(2u32.saturating_pow(*failed));
                let longest = delay.mul_f64(1.0 + JITTER).min(LONGEST_BACKOFF);
                let shortest = longest.div_f64(1.0 + JITTER);
                *failed = failed.saturating_add(1);
                self.due = now + shortest + (longest - shortest).mul_f64(chance.clamp(0.0, 1.0));
            }
            State::Registered | State::Forgotten { .. } => {
                self.state = State::Forgotten { at_once: false };
                self.next_interval(now);
            }
        }
        self.failing(now)
    }

    /// The heartbeat was answered, or was not.
    pub fn beat(&mut self, now: Duration, answer: BeatAnswer) -> Option<Notice> {
        self.next_interval(now);
        match answer {
            BeatAnswer::Ok => self.well(now),
            BeatAnswer::Unknown => {
                self.state = State::Forgotten { at_once: true };
                Some(Notice::Forgotten)
            }
            BeatAnswer::Failed => self.failing(now),
        }
    }

    /// Moves on to the next moment of the beat that is still to come. Counting from the moment
    /// before and not from now is what keeps it from drifting.
    fn next_interval(&mut self, now: Duration) {
        let behind = now.saturating_sub(self.due).as_nanos() / self.interval.as_nanos().max(1);
        let skipped = u32::try_from(behind).unwrap_or(u32::MAX);
        if self.due <= now {
            self.due += self.interval.saturating_mul(skipped.saturating_add(1));
        }
    }

    fn failing(&mut self, now: Duration) -> Option<Notice> {
        match &mut self.trouble {
            None => {
                self.trouble = Some(Trouble {
                    since: now,
                    spoken_of: now,
                });
                Some(Notice::Failing)
            }
            Some(trouble) if now.saturating_sub(trouble.spoken_of) >= REMIND_EVERY => {
                trouble.spoken_of = now;
                Some(Notice::StillFailing(now.saturating_sub(trouble.since)))
            }
            Some(_) => None,
        }
    }

    fn well(&mut self, now: Duration) -> Option<Notice> {
        let trouble = self.trouble.take()?;
        Some(Notice::Recovered(now.saturating_sub(trouble.since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIVE: Duration = Duration::from_secs(5);

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn registered(now: f64, chance: f64) -> Pulse {
        let mut pulse = Pulse::new(FIVE, None, at(now));
        assert_eq!(pulse.next(at(now)), Step::Register);
        let _ = pulse.registered(at(now), None, chance);
        pulse
    }

    #[test]
    fn the_first_registration_backs_off_up_to_thirty_seconds() {
        let mut pulse = Pulse::new(FIVE, None, at(0.0));
        let mut now = at(0.0);
        let mut delays = Vec::new();
        for _ in 0..7 {
            assert_eq!(pulse.next(now), Step::Register);
            let _ = pulse.not_registered(now, 0.0);
            let Step::WaitUntil(due) = pulse.next(now) else {
                panic!("it waits")
            };
            delays.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(delays, [1, 2, 4, 8, 16, 24, 24]);
        let _ = pulse.not_registered(now, 1.0);
        assert_eq!(pulse.next(now), Step::WaitUntil(now + at(30.0)));
    }

    #[test]
    fn beats_keep_their_moments_however_long_each_takes() {
        let mut pulse = registered(0.0, 0.4);
        let mut beats = Vec::new();
        let mut now = at(0.0);
        while beats.len() < 4 {
            match pulse.next(now) {
                Step::WaitUntil(due) => now = due,
                Step::Beat => {
                    beats.push(now.as_secs_f64());
                    now += at(1.7);
                    let _ = pulse.beat(now, BeatAnswer::Ok);
                }
                Step::Register => panic!("registered"),
            }
        }
        assert_eq!(beats, [2.0, 7.0, 12.0, 17.0]);
    }

    #[test]
    fn beats_missed_in_a_pause_are_not_made_up_for() {
        let mut pulse = registered(0.0, 0.0);
        assert_eq!(pulse.next(at(62.0)), Step::Beat);
        let _ = pulse.beat(at(62.0), BeatAnswer::Ok);
        assert_eq!(pulse.next(at(62.0)), Step::WaitUntil(at(65.0)));
    }

    #[test]
    fn a_404_registers_at_once_and_keeps_the_moment_of_the_beat() {
        let mut pulse = registered(0.0, 0.2);
        assert_eq!(
            pulse.beat(at(1.0), BeatAnswer::Unknown),
            Some(Notice::Forgotten)
        );
        assert_eq!(pulse.next(at(1.0)), Step::Register);
        assert_eq!(pulse.registered(at(1.1), None, 0.9), [Notice::Registered]);
        assert_eq!(pulse.next(at(1.1)), Step::WaitUntil(at(6.0)));
    }

    #[test]
    fn after_a_first_success_registering_is_tried_at_every_interval() {
        let mut pulse = registered(0.0, 0.0);
        let _ = pulse.beat(at(0.0), BeatAnswer::Unknown);
        let _ = pulse.not_registered(at(0.1), 0.5);
        assert_eq!(pulse.next(at(0.1)), Step::WaitUntil(at(5.0)));
        assert_eq!(pulse.next(at(5.0)), Step::Register);
        let _ = pulse.not_registered(at(5.1), 0.5);
        assert_eq!(pulse.next(at(5.1)), Step::WaitUntil(at(10.0)));
    }

    #[test]
    fn other_failures_change_nothing_and_are_spoken_of_once_a_minute() {
        let mut pulse = registered(0.0, 0.0);
        let mut said = Vec::new();
        for beat in 0..=26 {
            let now = at(f64::from(beat) * 5.0);
            assert_eq!(pulse.next(now), Step::Beat);
            said.extend(pulse.beat(now, BeatAnswer::Failed));
        }
        said.extend(pulse.beat(at(135.0), BeatAnswer::Ok));
        assert_eq!(
            said,
            [
                Notice::Failing,
                Notice::StillFailing(at(60.0)),
                Notice::StillFailing(at(120.0)),
                Notice::Recovered(at(135.0)),
            ]
        );
    }

    #[test]
    fn discovery_sets_the_interval_unless_it_is_fixed() {
        let told = Some(Duration::from_secs(1));
        let mut pulse = Pulse::new(FIVE, None, at(0.0));
        let _ = pulse.registered(at(0.0), told, 1.0);
        assert_eq!(pulse.next(at(0.0)), Step::WaitUntil(at(1.0)));
        // Its successors ask for none, or for what makes no sense.
        for nonsense in [None, Some(Duration::ZERO), Some(Duration::MAX)] {
            let mut pulse = pulse.clone();
            let _ = pulse.beat(at(1.0), BeatAnswer::Unknown);
            let _ = pulse.registered(at(1.0), nonsense, 1.0);
            assert_eq!(pulse.next(at(1.0)), Step::WaitUntil(at(6.0)));
        }
        let mut pulse = Pulse::new(FIVE, Some(Duration::from_secs(2)), at(0.0));
        let _ = pulse.registered(at(0.0), told, 1.0);
        assert_eq!(pulse.next(at(0.0)), Step::WaitUntil(at(2.0)));
    }
}
