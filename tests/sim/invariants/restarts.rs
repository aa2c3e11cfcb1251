//! When discovery did not run, and what it must know when it starts again.

use std::sync::Arc;
use std::time::Duration;

use aios_mesh::registry::List;
use aios_mesh::wire::Registration;

use super::{DURABLE_AFTER, Entry, Invariant, Kept, Ledger, Moment, Was, cell_of, is_of};

impl Ledger {
    /// SIGSTOP.
    pub fn paused(&mut self, now: Duration) {
        self.pauses.push((now, None));
    }

    /// SIGCONT, or killed while it was stopped.
    pub fn resumed(&mut self, now: Duration) {
        if let Some((from, until @ None)) = self.pauses.last_mut() {
            *until = Some(now);
            let from = *from;
            self.outage(from, now);
        }
    }

    /// The reaper, or all of discovery, did not run.
    fn outage(&mut self, from: Duration, until: Duration) {
        match self.outages.last_mut() {
            Some(last) if from <= last.1 => {
                last.0 = last.0.min(from);
                last.1 = last.1.max(until);
            }
            _ => self.outages.push((from, until)),
        }
    }

    /// The reaper sleeps, and is to wake at `due`.
    pub fn reaper_sleeps(&mut self, due: Duration) {
        self.reaper_due = due;
    }

    /// The reaper is to wake at once, if it was not to already.
    pub fn reaper_is_called(&mut self, now: Duration) {
        self.reaper_due = self.reaper_due.min(now);
    }

    /// The reaper wakes, in time or not.
    pub fn reaper_wakes(&mut self, now: Duration) {
        if self.reaper_due < now {
            self.outage(self.reaper_due, now);
        }
    }

    /// Discovery ends, and with it what it held.
    pub fn ended(&mut self, now: Duration) {
        self.resumed(now);
        self.down_since = Some(now);
    }

    /// Discovery starts. `kept` says whether it is to know what it knew before, and whether all of
    /// it, down to the last change.
    pub fn started(
        &mut self,
        list: &List,
        epoch: u64,
        kept: Option<bool>,
        recovered: &[Registration],
        at: Moment,
    ) {
        let down_since = self.down_since.take();
        if let Some(down_since) = down_since {
            self.outage(down_since, at.now);
        }
        self.episode = None;
        self.left.clear();
        let revision = list.revision;
        match (kept, self.epoch) {
            (Some(_), Some(before)) => {
                let highest = self.highest;
                self.holds(Invariant::Revision, epoch == before, || {
                    "it is another epoch although the state was kept".to_owned()
                });
                self.holds(Invariant::Revision, revision > highest, || {
                    format!("revision {revision} after the start, {highest} was given out before")
                });
            }
            (None, Some(before)) => {
                self.holds(Invariant::Revision, epoch != before, || {
                    "it is the same epoch although the state was lost".to_owned()
                });
                self.highest = 0;
            }
            (_, None) => {}
        }
        self.epoch = Some(epoch);
        self.revision = revision;
        self.gave_out(revision);
        let listed: Vec<usize> = list.peers.iter().map(|peer| cell_of(&peer.facts)).collect();
        let killed = down_since.unwrap_or(at.now);
        // Those who were there all along keep their order.
        let lasting = |cell: &&usize| {
            let last = self.history[**cell].last();
            last.is_some_and(|was| was.kept.is_some() && self.is_durable(was, killed))
        };
        let found = |cell: &&usize| listed.contains(cell);
        let before = self.order.iter().filter(lasting).filter(found);
        let before: Vec<usize> = before.copied().collect();
        let after: Vec<usize> = listed.iter().filter(lasting).copied().collect();
        self.holds(Invariant::Exact, before == after || kept.is_none(), || {
            format!("the order is {after:?} after the start, {before:?} before")
        });
        for cell in 0..self.entries.len() {
            let position = listed.iter().position(|listed| *listed == cell);
            let found = position.map(|position| &recovered[position]);
            let allowed = match kept {
                None => vec![None],
                Some(complete) => self.may_be_kept(cell, killed, complete),
            };
            let is_right = allowed.iter().any(|allowed| match (allowed, found) {
                (None, None) => true,
                (Some(kept), Some(found)) => {
                    is_of(&kept.facts, found)
                        && kept.instance == found.instance
                        && kept.lease == found.stale_after.unwrap_or(self.bounds.stale_after)
                }
                _ => false,
            });
            self.holds(Invariant::Durable, is_right, || {
                format!("c{cell} is {found:?} after the start, where it may be {allowed:?}")
            });
            let before = self.entries[cell].take();
            self.entries[cell] = position.map(|position| {
                let peer = &list.peers[position];
                let registration = &recovered[position];
                Entry {
                    facts: Arc::clone(&peer.facts),
                    instance: registration.instance.clone(),
                    lease: registration.stale_after.unwrap_or(self.bounds.stale_after),
                    heard: at.now,
                    heard_lease: at.lease,
                    last_seen: peer.last_seen,
                    level: peer.level,
                    by_copy: before.is_some_and(|before| before.by_copy),
                }
            });
            self.history[cell].clear();
            self.write_down(cell, at.now, true);
        }
        self.order = listed;
    }

    /// What a start may know of a cell: what it was a second of running before the end, or later.
    fn may_be_kept(&self, cell: usize, killed: Duration, complete: bool) -> Vec<Option<Kept>> {
        let mut allowed = Vec::new();
        for was in self.history[cell].iter().rev() {
            allowed.push(was.kept.clone());
            if complete || self.is_durable(was, killed) {
                return allowed;
            }
        }
        allowed.push(None);
        allowed
    }

    fn is_durable(&self, was: &Was, killed: Duration) -> bool {
        was.on_disk || self.ran(was.since, killed) > DURABLE_AFTER
    }

    /// How long discovery ran between two moments.
    fn ran(&self, from: Duration, until: Duration) -> Duration {
        let mut ran = until.saturating_sub(from);
        for (paused, resumed) in self.pauses.iter().rev() {
            let resumed = resumed.unwrap_or(until).min(until);
            if resumed <= from {
                break;
            }
            ran = ran.saturating_sub(resumed.saturating_sub((*paused).max(from)));
        }
        ran
    }
}
