//! Whom the reaper may take out, whom it must, and how the time that was lost is counted.

use std::time::Duration;

use aios_mesh::registry::{Departure, LeaseTime};

use super::{Entry, Episode, Invariant, Ledger, Moment, PAUSE_COSTS};

impl Ledger {
    /// A pass of the reaper that takes out `departures`, or is `held`.
    pub fn pass(&mut self, departures: &[(usize, Departure)], held: bool, at: Moment) {
        let silent = |entry: &Entry| at.lease.since(entry.heard_lease);
        let entries = self.entries.iter().flatten();
        let late = entries
            .clone()
            .filter(|e| silent(e) > e.lease / 3 * 2)
            .count();
        let is_stale = entries.clone().any(|e| silent(e) > e.lease);
        let peers = self.order.len();
        let least = self.bounds.hold_min;
        let is_mass = least > 0 && late >= least && late * 2 > peers;
        if self.episode.is_none() && is_mass && is_stale {
            self.episode = Some(Episode {
                noticed: at.lease,
                over: false,
            });
        } else if self.episode.is_some_and(|episode| episode.over) && !is_mass {
            self.episode = None;
        }
        let interval = self.bounds.interval;
        if let Some(episode) = &mut self.episode {
            episode.over |= at.lease.since(episode.noticed) >= interval;
        }
        let must_hold = is_mass && self.episode.is_some_and(|episode| !episode.over);
        self.holds(Invariant::Held, departures.is_empty() || !must_hold, || {
            let gone = departures.len();
            format!("{gone} are taken out, {late} of {peers} are silent, and none was held")
        });
        let may_hold = self.episode.is_some_and(|episode| !episode.over);
        self.holds(Invariant::Held, !held || may_hold, || {
            format!("a pass is held where {late} of {peers} are late")
        });
        if held && may_hold {
            self.held_until = at.now + interval;
        }
        for (cell, departure) in departures {
            self.reaped(*cell, departure, at);
        }
    }

    /// How many leases have run out by discovery's clock.
    pub fn stale(&self, at: LeaseTime) -> usize {
        let entries = self.entries.iter().flatten();
        entries
            .filter(|entry| at.since(entry.heard_lease) > entry.lease)
            .count()
    }

    fn reaped(&mut self, cell: usize, departure: &Departure, at: Moment) {
        let Some(entry) = self.entries[cell].clone() else {
            self.breaks(Invariant::Exact, || {
                format!("c{cell} is reaped and was not listed")
            });
            return;
        };
        let charged = self.charged(entry.heard, at.now, entry.lease);
        self.holds(Invariant::Present, charged > entry.lease, || {
            format!(
                "c{cell} is taken out {:?} after its last beat (discovery says {:?}), of which {charged:?} count, its lease is {:?}",
                at.now - entry.heard,
                departure.silent_for,
                entry.lease
            )
        });
        self.remove(cell, at.now);
    }

    /// How much of the time from `heard` on may count against a lease: that in which discovery ran,
    /// and of each pause what the clock runs on.
    fn charged(&self, heard: Duration, now: Duration, lease: Duration) -> Duration {
        let most = PAUSE_COSTS.min(lease / 10 + lease / 20);
        let mut charged = now - heard;
        for (from, until) in self.pauses.iter().rev() {
            let until = until.unwrap_or(now);
            if until <= heard {
                break;
            }
            let pause = until - (*from).max(heard);
            charged -= pause.saturating_sub(most);
        }
        charged
    }

    /// Checks that nobody is still there who has been silent for too long.
    pub fn look_for_the_silent(&mut self, now: Duration) {
        if self.down_since.is_some() || matches!(self.pauses.last(), Some((_, None))) {
            return;
        }
        for &cell in &self.order {
            let Some(entry) = &self.entries[cell] else {
                continue;
            };
            let allowed = entry.heard + entry.lease + self.bounds.reap_every;
            if now <= allowed {
                continue;
            }
            let held = match self.held_until >= entry.heard + entry.lease {
                true => self.bounds.interval,
                false => Duration::ZERO,
            };
            let lost = self.lost(entry.heard, now);
            if now > allowed + held + lost {
                let (silent, lease) = (now - entry.heard, entry.lease);
                self.breaks(Invariant::Gone, || {
                    format!(
                        "c{cell} has been silent for {silent:?} and is still listed; its lease is {lease:?}, {lost:?} were lost, held: {held:?}"
                    )
                });
                return;
            }
        }
    }

    /// How much of the time between two moments discovery, or its reaper, did not run.
    fn lost(&self, from: Duration, until: Duration) -> Duration {
        let since = self.outages.iter().rev().take_while(|(_, end)| *end > from);
        let lost: Duration = since
            .map(|(start, end)| (*end).min(until).saturating_sub((*start).max(from)))
            .sum();
        lost + until.saturating_sub(self.reaper_due.max(from))
    }
}
