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
use super::slots::Slots;

/// The queues. Peers are known by their slot, a small number the registry gives out again once it
/// is free; the links between them are kept with whatever else is known of them.
#[derive(Debug, Default)]
pub(super) struct Leases {
    queues: Slots<Queue>,
    by_length: BTreeMap<Duration, u32>,
    /// When the first lease of each queue runs out, soonest first: peers may all have leases of
    /// their own, and then there are as many queues. The times are those when it was last looked
    /// at: beats make them later, and none sooner.
    due: BTreeSet<(LeaseTime, u32)>,
    /// When the first of each queue is late that has not been counted, in the same way.
    late_due: BTreeSet<(LeaseTime, u32)>,
    late: usize,
}

/// The place of a peer in its queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    renewed: LeaseTime,
    older: u32,
    newer: u32,
    queue: u32,
    late: bool,
}

/// Where the links are.
pub(super) trait Links {
    fn link(&self, slot: u32) -> &Link;
    fn link_mut(&mut self, slot: u32) -> &mut Link;
}

#[derive(Clone, Copy, Debug)]
struct Queue {
    length: Duration,
    oldest: u32,
    newest: u32,
    /// The newest of those that were counted as late.
    newest_late: u32,
    due: LeaseTime,
    late_due: Option<LeaseTime>,
}

/// No slot, or no queue.
const NONE: u32 = u32::MAX;

impl Default for Link {
    /// Of a peer without a lease.
    fn default() -> Self {
        Self {
            renewed: LeaseTime::default(),
            older: NONE,
            newer: NONE,
            queue: NONE,
            late: false,
        }
    }
}

impl Link {
    /// When the lease was last renewed.
    pub(super) fn renewed(&self) -> LeaseTime {
        self.renewed
    }
}

impl Leases {
    /// Starts or renews the lease of `slot`, which lasts `length` from `now` on. Time must not run
    /// backwards between calls.
    pub(super) fn renew(
        &mut self,
        links: &mut impl Links,
        slot: u32,
        length: Duration,
        now: LeaseTime,
    ) {
        if self.length(links.link(slot)) == Some(length) {
            self.renew_again(links, slot, now);
            return;
        }
        self.end(links, slot);
        let queue = *self.by_length.entry(length).or_insert_with(|| {
            let due = now.after(length);
            let queue = self.queues.insert(Queue {
                length,
                oldest: NONE,
                newest: NONE,
                newest_late: NONE,
                due,
                late_due: None,
            });
            self.due.insert((due, queue));
            queue
        });
        self.append(links, slot, queue, now);
    }

    /// Renews the lease of `slot`, if it has one, for as long as it was.
    pub(super) fn renew_again(&mut self, links: &mut impl Links, slot: u32, now: LeaseTime) {
        let queue = links.link(slot).queue;
        if queue != NONE {
            self.take_out(links, slot);
            self.append(links, slot, queue, now);
        }
    }

    /// How long a lease lasts.
    pub(super) fn length(&self, link: &Link) -> Option<Duration> {
        (link.queue != NONE).then(|| self.queues[link.queue].length)
    }

    /// Ends the lease of `slot`, if it has one.
    pub(super) fn end(&mut self, links: &mut impl Links, slot: u32) {
        let number = links.link(slot).queue;
        if number == NONE {
            return;
        }
        self.take_out(links, slot);
        *links.link_mut(slot) = Link::default();
        let queue = &self.queues[number];
        if queue.oldest == NONE {
            self.due.remove(&(queue.due, number));
            if let Some(late_due) = queue.late_due {
                self.late_due.remove(&(late_due, number));
            }
            self.by_length.remove(&queue.length);
            self.queues.remove(number);
        }
    }

    /// Takes `slot` out of its queue, which may be empty then.
    fn take_out(&mut self, links: &mut impl Links, slot: u32) {
        let link = *links.link(slot);
        let queue = &mut self.queues[link.queue];
        match link.older {
            NONE => queue.oldest = link.newer,
            older => links.link_mut(older).newer = link.newer,
        }
        match link.newer {
            NONE => queue.newest = link.older,
            newer => links.link_mut(newer).older = link.older,
        }
        if queue.newest_late == slot {
            queue.newest_late = link.older;
        }
        self.late -= usize::from(link.late);
    }

    /// Puts `slot` at the end of a queue.
    fn append(&mut self, links: &mut impl Links, slot: u32, number: u32, now: LeaseTime) {
        let queue = &mut self.queues[number];
        let older = std::mem::replace(&mut queue.newest, slot);
        match older {
            NONE => queue.oldest = slot,
            older => links.link_mut(older).newer = slot,
        }
        *links.link_mut(slot) = Link {
            renewed: now,
            older,
            newer: NONE,
            queue: number,
            late: false,
        };
        if queue.late_due.is_none() {
            let late_due = now.after(late_after(queue.length));
            queue.late_due = Some(late_due);
            self.late_due.insert((late_due, number));
        }
    }

    /// Counts those who are late by now, in at most so many steps. Returns whether there
    /// may be more of them.
    pub(super) fn count_late(
        &mut self,
        links: &mut impl Links,
        now: LeaseTime,
        at_most: usize,
    ) -> bool {
        for _ in 0..at_most {
            let first = self.late_due.first().filter(|(at, _)| *at < now);
            let Some(&(looked_at, number)) = first else {
                // Whoever asks for the stale next does not have to look at all queues at once.
                let first = self.due.first().filter(|(due, _)| *due < now).copied();
                match first.map(|(_, number)| self.look_again(links, number)) {
                    Some(due) if due >= now => continue,
                    _ => return false,
                }
            };
            let queue = &mut self.queues[number];
            let slot = match queue.newest_late {
                NONE => queue.oldest,
                late => links.link(late).newer,
            };
            let due = (slot != NONE).then(|| {
                let renewed = links.link(slot).renewed;
                renewed.after(late_after(queue.length))
            });
            if due.is_some_and(|due| due < now) {
                links.link_mut(slot).late = true;
                queue.newest_late = slot;
                self.late += 1;
            } else {
                queue.late_due = due;
                self.late_due.remove(&(looked_at, number));
                self.late_due.extend(due.map(|due| (due, number)));
            }
        }
        true
    }

    /// How many were counted as late and have not been renewed since.
    pub(super) fn late(&self) -> usize {
        self.late
    }

    /// A slot whose lease has run out (was last renewed *more than* its length ago).
    pub(super) fn stale(&mut self, links: &impl Links, now: LeaseTime) -> Option<u32> {
        loop {
            let &(_, number) = self.due.first().filter(|(due, _)| *due < now)?;
            if self.look_again(links, number) < now {
                return Some(self.queues[number].oldest);
            }
        }
    }

    /// When the first lease of a queue runs out.
    fn look_again(&mut self, links: &impl Links, number: u32) -> LeaseTime {
        let queue = &mut self.queues[number];
        let due = links.link(queue.oldest).renewed.after(queue.length);
        let looked_at = std::mem::replace(&mut queue.due, due);
        if due != looked_at {
            self.due.remove(&(looked_at, number));
            self.due.insert((due, number));
        }
        due
    }

    /// The length of the shortest lease.
    pub(super) fn shortest(&self) -> Option<Duration> {
        self.by_length.keys().next().copied()
    }

    /// The length of the longest lease.
    pub(super) fn longest(&self) -> Option<Duration> {
        self.by_length.keys().next_back().copied()
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
        Renew(u32, u64),
        End(u32),
        Pass(u64),
    }

    impl Links for Vec<Link> {
        fn link(&self, slot: u32) -> &Link {
            &self[slot as usize]
        }

        fn link_mut(&mut self, slot: u32) -> &mut Link {
            &mut self[slot as usize]
        }
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0u32..12, 1u64..4).prop_map(|(slot, lease)| Op::Renew(slot, lease)),
            (0u32..12).prop_map(Op::End),
            (0u64..3).prop_map(Op::Pass),
        ]
    }

    proptest! {
        /// Against the obvious: a table that is searched.
        #[test]
        fn stale_slots_are_those_a_search_finds(ops in proptest::collection::vec(op(), 1..200)) {
            let mut leases = Leases::default();
            let mut links = vec![Link::default(); 12];
            let mut table: HashMap<u32, (Duration, LeaseTime)> = HashMap::new();
            let mut now = LeaseTime::default();
            for op in ops {
                match op {
                    Op::Renew(slot, lease) => {
                        let lease = Duration::from_secs(lease);
                        leases.renew(&mut links, slot, lease, now);
                        table.insert(slot, (lease, now));
                    }
                    Op::End(slot) => {
                        leases.end(&mut links, slot);
                        table.remove(&slot);
                    }
                    Op::Pass(seconds) => {
                        now = now.after(Duration::from_secs(seconds));
                        while leases.count_late(&mut links, now, 1) {}
                        let late = table.values().filter(|(lease, renewed)| {
                            now.since(*renewed) > late_after(*lease)
                        });
                        prop_assert_eq!(leases.late(), late.count());
                        let mut expected: Vec<u32> = table
                            .iter()
                            .filter(|(_, (lease, renewed))| now.since(*renewed) > *lease)
                            .map(|(slot, _)| *slot)
                            .collect();
                        expected.sort_unstable();
                        let mut found = Vec::new();
                        while let Some(slot) = leases.stale(&links, now) {
                            leases.end(&mut links, slot);
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
