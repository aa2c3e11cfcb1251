//! Who has been silent longest: the order in which leases run out.
//!
//! Peers with leases of the same length run out in the order in which they were renewed, so one
//! queue per length, oldest first, is always sorted: a renewal moves a peer to the end, which
//! costs the same however many there are, and whoever is stale stands at the front of a queue.
//!
//! Before they are stale they are late: silent for more than two thirds of their lease. How many
//! are is counted as time passes, each peer once, so that it is known without a walk over a crowd.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::LeaseTime;

/// The queues. Peers are known by their slot, a small number the registry gives out again once it
/// is free; a link per slot keeps each queue.
#[derive(Debug, Default)]
pub(super) struct Leases {
    links: Vec<Option<Link>>,
    queues: BTreeMap<Duration, Queue>,
    /// When the first lease of each queue runs out, soonest first: peers may all have leases of
    /// their own, and then there are as many queues.
    due: BTreeSet<(LeaseTime, Duration)>,
    /// When the first of each queue is late that has not been counted, soonest first.
    late_due: BTreeSet<(LeaseTime, Duration)>,
    late: usize,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    lease: Duration,
    renewed: LeaseTime,
    older: Option<usize>,
    newer: Option<usize>,
    late: bool,
}

#[derive(Clone, Copy, Debug)]
struct Queue {
    oldest: usize,
    newest: usize,
    /// The newest of those that were counted as late.
    newest_late: Option<usize>,
    due: LeaseTime,
    late_due: Option<LeaseTime>,
}

impl Leases {
    /// Starts or renews the lease of `slot`, which lasts `lease` from `now` on. Time must not run
    /// backwards between calls.
    pub(super) fn renew(&mut self, slot: usize, lease: Duration, now: LeaseTime) {
        self.end(slot);
        if self.links.len() <= slot {
            self.links.resize(slot + 1, None);
        }
        let older = match self.queues.get_mut(&lease) {
            Some(queue) => Some(std::mem::replace(&mut queue.newest, slot)),
            None => {
                let due = now.after(lease);
                let queue = Queue {
                    oldest: slot,
                    newest: slot,
                    newest_late: None,
                    due,
                    late_due: None,
                };
                self.queues.insert(lease, queue);
                self.due.insert((due, lease));
                None
            }
        };
        self.change(older, |link| link.newer = Some(slot));
        self.links[slot] = Some(Link {
            lease,
            renewed: now,
            older,
            newer: None,
            late: false,
        });
        self.set_dues(lease);
    }

    /// Ends the lease of `slot`, if it has one.
    pub(super) fn end(&mut self, slot: usize) {
        let Some(link) = self.links.get_mut(slot).and_then(Option::take) else {
            return;
        };
        self.change(link.older, |older| older.newer = link.newer);
        self.change(link.newer, |newer| newer.older = link.older);
        self.late -= usize::from(link.late);
        let Some(queue) = self.queues.get_mut(&link.lease) else {
            return;
        };
        if queue.newest_late == Some(slot) {
            queue.newest_late = link.older;
        }
        match (link.older, link.newer) {
            (None, None) => {
                self.due.remove(&(queue.due, link.lease));
                if let Some(late_due) = queue.late_due {
                    self.late_due.remove(&(late_due, link.lease));
                }
                self.queues.remove(&link.lease);
                return;
            }
            (None, Some(newer)) => queue.oldest = newer,
            (Some(older), None) => queue.newest = older,
            (Some(_), Some(_)) => {}
        }
        self.set_dues(link.lease);
    }

    /// Counts those who are late by now, at most so many more than before. Returns whether there
    /// may be more of them.
    pub(super) fn count_late(&mut self, now: LeaseTime, at_most: usize) -> bool {
        for _ in 0..at_most {
            let Some(&(_, lease)) = self.late_due.first().filter(|(at, _)| *at < now) else {
                return false;
            };
            let Some(slot) = self.first_not_late(lease) else {
                return false;
            };
            self.change(Some(slot), |link| link.late = true);
            self.late += 1;
            if let Some(queue) = self.queues.get_mut(&lease) {
                queue.newest_late = Some(slot);
            }
            self.set_dues(lease);
        }
        true
    }

    /// How many were counted as late and have not been renewed since.
    pub(super) fn late(&self) -> usize {
        self.late
    }

    /// A slot whose lease has run out (was last renewed *more than* its length ago), and how long
    /// ago it was renewed.
    pub(super) fn stale(&self, now: LeaseTime) -> Option<(usize, Duration)> {
        let (due, lease) = self.due.first()?;
        if *due >= now {
            return None;
        }
        let slot = self.queues.get(lease)?.oldest;
        Some((slot, now.since(self.links[slot]?.renewed)))
    }

    /// The length of the shortest lease.
    pub(super) fn shortest(&self) -> Option<Duration> {
        self.queues.keys().next().copied()
    }

    /// The length of the longest lease.
    pub(super) fn longest(&self) -> Option<Duration> {
        self.queues.keys().next_back().copied()
    }

    /// Puts the queue of this length in its place by when it is looked at next.
    fn set_dues(&mut self, lease: Duration) {
        let first_not_late = self.first_not_late(lease).and_then(|slot| self.links[slot]);
        let Some(queue) = self.queues.get_mut(&lease) else {
            return;
        };
        let due = self.links[queue.oldest].map_or(queue.due, |link| link.renewed.after(lease));
        if due != queue.due {
            self.due.remove(&(queue.due, lease));
            self.due.insert((due, lease));
            queue.due = due;
        }
        let late_due = first_not_late.map(|link| link.renewed.after(late_after(lease)));
        if late_due != queue.late_due {
            if let Some(before) = queue.late_due {
                self.late_due.remove(&(before, lease));
            }
            self.late_due.extend(late_due.map(|at| (at, lease)));
            queue.late_due = late_due;
        }
    }

    fn first_not_late(&self, lease: Duration) -> Option<usize> {
        let queue = self.queues.get(&lease)?;
        match queue.newest_late {
            Some(late) => self.links[late]?.newer,
            None => Some(queue.oldest),
        }
    }

    fn change(&mut self, slot: Option<usize>, change: impl FnOnce(&mut Link)) {
        if let Some(link) = slot.and_then(|slot| self.links[slot].as_mut()) {
            change(link);
        }
    }
}

/// Two beats of three have not come.
fn late_after(lease: Duration) -> Duration {
    lease / 3 * 2
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Renew(usize, u64),
        End(usize),
        Pass(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0usize..12, 1u64..4).prop_map(|(slot, lease)| Op::Renew(slot, lease)),
            (0usize..12).prop_map(Op::End),
            (0u64..3).prop_map(Op::Pass),
        ]
    }

    proptest! {
        /// Against the obvious: a table that is searched.
        #[test]
        fn stale_slots_are_those_a_search_finds(ops in proptest::collection::vec(op(), 1..200)) {
            let mut leases = Leases::default();
            let mut table: HashMap<usize, (Duration, LeaseTime)> = HashMap::new();
            let mut now = LeaseTime::default();
            for op in ops {
                match op {
                    Op::Renew(slot, lease) => {
                        let lease = Duration::from_secs(lease);
                        leases.renew(slot, lease, now);
                        table.insert(slot, (lease, now));
                    }
                    Op::End(slot) => {
                        leases.end(slot);
                        table.remove(&slot);
                    }
                    Op::Pass(seconds) => {
                        now = now.after(Duration::from_secs(seconds));
                        while leases.count_late(now, 1) {}
                        let late = table.values().filter(|(lease, renewed)| {
                            now.since(*renewed) > late_after(*lease)
                        });
                        prop_assert_eq!(leases.late(), late.count());
                        let mut expected: Vec<usize> = table
                            .iter()
                            .filter(|(_, (lease, renewed))| now.since(*renewed) > *lease)
                            .map(|(slot, _)| *slot)
                            .collect();
                        expected.sort_unstable();
                        let mut found = Vec::new();
                        while let Some((slot, _)) = leases.stale(now) {
                            leases.end(slot);
                            table.remove(&slot);
                            found.push(slot);
                        }
                        found.sort_unstable();
                        prop_assert_eq!(found, expected);
                        prop_assert_eq!(leases.due.len(), leases.queues.len());
                        prop_assert!(leases.late_due.len() <= leases.queues.len());
                    }
                }
            }
        }
    }
}
