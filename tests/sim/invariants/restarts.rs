//! When discovery did not run, and what it must know when it starts again.

use std::sync::Arc;
use std::time::Duration;

use aios_mesh::registry::List;
use aios_mesh::wire::Registration;

use super::{
    DURABLE_AFTER, Entry, FENCED_FOR, Invariant, Kept, Ledger, Memory, Moment, Was, cell_of, is_of,
};

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

    /// The wall clock is set.
    pub fn wall_is_set(&mut self) {
        for left in &mut self.left {
            left.wall_was_set = true;
        }
    }

    /// Discovery starts, with a `memory` of which it says that this is in it.
    pub fn started(
        &mut self,
        list: &List,
        epoch: &str,
        memory: Memory,
        recovered: &[Registration],
        at: Moment,
    ) {
        let down_since = self.down_since.take();
        if let Some(down_since) = down_since {
            self.outage(down_since, at.now);
        }
        self.episode = None;
        let revision = list.revision;
        let is_kept = matches!(memory, Memory::Killed | Memory::Stopped);
        match self.epoch.take() {
            Some(before) if is_kept => {
                let highest = self.highest;
                self.holds(Invariant::Revision, epoch == before, || {
                    format!("it is epoch {epoch}, not {before}, although the state was kept")
                });
                self.holds(Invariant::Revision, revision > highest, || {
                    format!("revision {revision} after the start, {highest} was given out before")
                });
            }
            Some(before) => {
                self.holds(Invariant::Revision, epoch != before, || {
                    format!("it is still epoch {epoch} although the state was lost: {memory:?}")
                });
                self.highest = 0;
            }
            None => {}
        }
        self.epoch = Some(epoch.to_owned());
        self.revision = revision;
        self.gave_out(revision);
        let listed: Vec<usize> = list.peers().map(|peer| cell_of(peer.facts)).collect();
        let killed = down_since.unwrap_or(at.now);
        self.recall_goodbyes(memory, killed, at);
        // Those who were there all along keep their order.
        let lasting = |cell: &&usize| {
            let last = self.history[**cell].last();
            last.is_some_and(|was| was.kept.is_some() && self.is_durable(was, killed))
        };
        let found = |cell: &&usize| listed.contains(cell);
        let before = self.order.iter().filter(lasting).filter(found);
        let before: Vec<usize> = before.copied().collect();
        let after: Vec<usize> = listed.iter().filter(lasting).copied().collect();
        self.holds(Invariant::Exact, before == after || !is_kept, || {
            format!("the order is {after:?} after the start, {before:?} before")
        });
        let peers: Vec<_> = list.peers().collect();
        for cell in 0..self.entries.len() {
            let position = listed.iter().position(|listed| *listed == cell);
            let found = position.map(|position| &recovered[position]);
            let allowed = match memory {
                Memory::Lost => vec![None],
                Memory::Damaged => {
                    let ever = self.ever[cell].iter().cloned().map(Some);
                    ever.chain([None]).collect()
                }
                Memory::Killed => self.may_be_kept(cell, killed, false),
                Memory::Stopped => self.may_be_kept(cell, killed, true),
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
                let peer = &peers[position];
                let registration = &recovered[position];
                Entry {
                    facts: Arc::clone(peer.facts),
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

    /// What is known of those who said goodbye: the time over the restart is counted on the wall
    /// clock, and what is read counts anew on discovery's.
    fn recall_goodbyes(&mut self, memory: Memory, killed: Duration, at: Moment) {
        let mut left = std::mem::take(&mut self.left);
        left.retain_mut(|left| {
            let is_kept = match memory {
                Memory::Lost | Memory::Damaged => false,
                Memory::Killed => self.ran(left.at, killed) > DURABLE_AFTER,
                Memory::Stopped => true,
            };
            left.is_known &= left.was_taken && is_kept && !left.wall_was_set;
            left.at_lease = at.lease;
            let age = at.wall.duration_since(left.at_wall).unwrap_or_default();
            memory != Memory::Lost && left.was_taken && age <= FENCED_FOR
        });
        self.left = left;
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
