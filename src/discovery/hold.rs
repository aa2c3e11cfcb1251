//! Whether a pass of the reaper is to be believed.
//!
//! Pure. When most peers fall silent at once it is more likely the network, a switch or discovery
//! itself that failed than all of them. Such a pass is held for one heartbeat interval, in which
//! whoever lives has another chance to say so; then those still silent go. A mass departure is held
//! once: what lasts is believed.
//!
//! Cells do not beat in step, so those who fell silent together become stale one after the other,
//! over an interval. Hence the late are counted and not the stale: they are on their way out, and a
//! pass that would take the first of them is the one to hold.

use std::time::Duration;

use crate::registry::LeaseTime;

/// Holds mass departures.
#[derive(Clone, Debug)]
pub struct Hold {
    at_least: usize,
    lasts: Duration,
    phase: Phase,
}

/// The peers as a pass finds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crowd {
    /// How many there are.
    pub peers: usize,
    /// How many of them have been silent for more than two thirds of their lease.
    pub late: usize,
    /// Whether any has been silent for longer than its lease.
    pub any_stale: bool,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// No mass departure.
    Calm,
    /// One is held.
    Held { until: LeaseTime, crowd: Crowd },
    /// One was held and is believed.
    Believed,
}

/// What a pass is to do.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Take out the stale.
    Reap,
    /// Take out nobody: a mass departure is being held.
    Held {
        /// Whether it has only just been noticed.
        begins: bool,
        /// When those still silent go.
        until: LeaseTime,
    },
}

impl Hold {
    /// Holds departures of more than half of the peers and at least `at_least` (0: none) for as
    /// long as `lasts`.
    #[must_use]
    pub fn new(at_least: usize, lasts: Duration) -> Self {
        Self {
            at_least,
            lasts,
            phase: Phase::Calm,
        }
    }

    /// Judges a pass at time `now`.
    pub fn judge(&mut self, crowd: Crowd, now: LeaseTime) -> Verdict {
        let is_mass =
            self.at_least > 0 && crowd.late >= self.at_least && crowd.late > crowd.peers / 2;
        match self.phase {
            Phase::Calm if is_mass && crowd.any_stale => {
                let until = now.after(self.lasts);
                self.phase = Phase::Held { until, crowd };
                return Verdict::Held {
                    begins: true,
                    until,
                };
            }
            Phase::Held { until, .. } if now < until => {
                return Verdict::Held {
                    begins: false,
                    until,
                };
            }
            Phase::Held { .. } => self.phase = Phase::Believed,
            Phase::Believed if !is_mass => self.phase = Phase::Calm,
            Phase::Calm | Phase::Believed => {}
        }
        Verdict::Reap
    }

    /// The peers as they were when the mass departure was noticed that is held now, and until when
    /// it is.
    #[must_use]
    pub fn held(&self) -> Option<(Crowd, LeaseTime)> {
        match self.phase {
            Phase::Held { until, crowd } => Some((crowd, until)),
            Phase::Calm | Phase::Believed => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(5);

    fn at(seconds: u64) -> LeaseTime {
        LeaseTime::default().after(Duration::from_secs(seconds))
    }

    fn crowd(late: usize, peers: usize) -> Crowd {
        Crowd {
            peers,
            late,
            any_stale: late > 0,
        }
    }

    fn judge(hold: &mut Hold, late: usize, peers: usize, second: u64) -> bool {
        hold.judge(crowd(late, peers), at(second)) == Verdict::Reap
    }

    #[test]
    fn most_of_many_are_held_for_an_interval_once() {
        let mut hold = Hold::new(20, INTERVAL);
        assert!(judge(&mut hold, 0, 600, 0));
        let begins = hold.judge(crowd(500, 600), at(20));
        let until = at(25);
        let begun = Verdict::Held {
            begins: true,
            until,
        };
        assert_eq!(begins, begun);
        assert_eq!(hold.held(), Some((crowd(500, 600), at(25))));
        assert!(!judge(&mut hold, 500, 600, 24));
        assert!(judge(&mut hold, 500, 600, 25));
        // The next of the same episode are not held again; those of another are.
        assert!(judge(&mut hold, 90, 100, 30));
        assert!(judge(&mut hold, 0, 100, 35));
        assert!(!judge(&mut hold, 90, 100, 60));
    }

    #[test]
    fn half_of_them_a_few_or_none_stale_yet_are_not_held() {
        let mut hold = Hold::new(20, INTERVAL);
        assert!(judge(&mut hold, 300, 600, 0));
        assert!(judge(&mut hold, 10, 12, 5));
        assert!(judge(&mut hold, 19, 19, 10));
        let late = Crowd {
            any_stale: false,
            ..crowd(500, 600)
        };
        assert_eq!(hold.judge(late, at(15)), Verdict::Reap);
        assert!(!judge(&mut hold, 301, 600, 20));
        let mut never = Hold::new(0, INTERVAL);
        assert!(judge(&mut never, 600, 600, 0));
    }

    #[test]
    fn whoever_comes_back_in_time_ends_the_episode() {
        let mut hold = Hold::new(20, INTERVAL);
        assert!(!judge(&mut hold, 500, 600, 0));
        assert!(judge(&mut hold, 0, 600, 5));
        assert!(judge(&mut hold, 0, 600, 10));
        assert!(!judge(&mut hold, 500, 600, 100));
    }
}
