//! What is remembered of those who left, so that their own late requests do not bring them back.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::LeaseTime;
use crate::wire::{CellId, Instance};

/// For how long a run of a cell that deregistered may not register again.
pub(super) const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// How many such runs are remembered; beyond, the oldest are forgotten first.
const AT_MOST: usize = 100_000;

/// The runs of cells that deregistered a short while ago.
#[derive(Debug, Default)]
pub(super) struct Fence {
    left: HashMap<(CellId, Instance), LeaseTime>,
    order: VecDeque<(LeaseTime, (CellId, Instance))>,
}

impl Fence {
    /// Remembers that this run said it is gone.
    pub(super) fn has_left(&mut self, id: CellId, instance: Instance, now: LeaseTime) {
        self.forget(now);
        let run = (id, instance);
        self.left.insert(run.clone(), now);
        self.order.push_back((now, run));
    }

    /// Whether this run said within the last minute that it is gone.
    pub(super) fn refuses(&mut self, id: &CellId, instance: &Instance, now: LeaseTime) -> bool {
        self.forget(now);
        // Nobody has left lately, most of the time: no key to build then.
        !self.left.is_empty() && self.left.contains_key(&(id.clone(), instance.clone()))
    }

    /// Forgets those who left too long ago, and makes room for one more.
    fn forget(&mut self, now: LeaseTime) {
        while let Some((at, run)) = self.order.front() {
            if self.order.len() < AT_MOST && now.since(*at) <= REMEMBERED_FOR {
                break;
            }
            // A run that left twice stands in the order twice; the later one counts.
            if self.left.get(run) == Some(at) {
                self.left.remove(run);
            }
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_remembered_for_a_minute_and_in_bounded_number() {
        let id = CellId::new("a").expect("valid");
        let run = |n: usize| Instance::new(&n.to_string()).expect("valid");
        let mut fence = Fence::default();
        let start = LeaseTime::default();
        fence.has_left(id.clone(), run(0), start);
        assert!(fence.refuses(&id, &run(0), start.after(REMEMBERED_FOR)));
        let later = start.after(REMEMBERED_FOR + Duration::from_millis(1));
        assert!(!fence.refuses(&id, &run(0), later));
        for n in 1..=AT_MOST + 10 {
            fence.has_left(id.clone(), run(n), later);
        }
        assert_eq!(fence.left.len(), AT_MOST);
        assert_eq!(fence.order.len(), AT_MOST);
        assert!(!fence.refuses(&id, &run(1), later));
        assert!(fence.refuses(&id, &run(AT_MOST + 10), later));
    }
}
