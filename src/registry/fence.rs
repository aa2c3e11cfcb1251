//! What is remembered of those who left, so that their own late requests do not bring them back.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::time::Duration;

use super::LeaseTime;
use crate::wire::{CellId, Instance};

/// For how long a run of a cell that deregistered may not register again.
pub(super) const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// How many such runs are remembered; beyond, the oldest are forgotten first.
const AT_MOST: usize = 100_000;
/// How many are forgotten at once, and into how many maps they are put, of which each grows on its
/// own: nobody who comes is to wait for a crowd that left.
const A_FEW: usize = 32;
const SHARDS: usize = 64;

/// The runs of cells that deregistered a short while ago.
#[derive(Debug, Default)]
pub(super) struct Fence {
    keys: [RandomState; 2],
    /// Those that were registered.
    left: Runs,
    /// Those that were not: anybody can name as many as he likes, and must not make the others be
    /// forgotten.
    unknown: Runs,
}

/// A run of a cell: id and instance, of which 128 bits of a keyed hash are kept. They come from
/// outside, and may be long.
type Run = [u64; 2];

#[derive(Debug)]
struct Runs {
    left: Box<[HashMap<Run, LeaseTime>]>,
    order: VecDeque<(LeaseTime, Run)>,
}

impl Default for Runs {
    fn default() -> Self {
        Self {
            left: (0..SHARDS).map(|_| HashMap::new()).collect(),
            order: VecDeque::new(),
        }
    }
}

impl Fence {
    /// Remembers that this run said it is gone; `was_registered` when it was in the map.
    pub(super) fn has_left(
        &mut self,
        id: &str,
        instance: &Instance,
        was_registered: bool,
        now: LeaseTime,
    ) {
        let run = self.run(id, instance);
        match was_registered {
            true => self.left.insert(run, now),
            false => self.unknown.insert(run, now),
        }
    }

    /// Whether this run said within the last minute that it is gone.
    pub(super) fn refuses(&mut self, id: &CellId, instance: &Instance, now: LeaseTime) -> bool {
        let run = self.run(id.as_str(), instance);
        self.left.contains(run, now) || self.unknown.contains(run, now)
    }

    fn run(&self, id: &str, instance: &Instance) -> Run {
        self.keys
            .each_ref()
            .map(|key| key.hash_one((id, instance.as_str())))
    }
}

impl Runs {
    fn insert(&mut self, run: Run, now: LeaseTime) {
        self.forget(now);
        self.shard(&run).insert(run, now);
        self.order.push_back((now, run));
    }

    fn contains(&mut self, run: Run, now: LeaseTime) -> bool {
        self.forget(now);
        let left = self.shard(&run).get(&run);
        left.is_some_and(|at| is_remembered(*at, now))
    }

    /// Forgets a few of those who left too long ago, and makes room for one more.
    fn forget(&mut self, now: LeaseTime) {
        for _ in 0..A_FEW {
            let Some(&(at, run)) = self.order.front() else {
                return;
            };
            if self.order.len() < AT_MOST && is_remembered(at, now) {
                return;
            }
            // A run that left twice stands in the order twice; the later one counts.
            let shard = self.shard(&run);
            if shard.get(&run) == Some(&at) {
                shard.remove(&run);
            }
            self.order.pop_front();
        }
    }

    fn shard(&mut self, run: &Run) -> &mut HashMap<Run, LeaseTime> {
        &mut self.left[run[0] as usize % SHARDS]
    }
}

fn is_remembered(at: LeaseTime, now: LeaseTime) -> bool {
    now.since(at) <= REMEMBERED_FOR
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(n: usize) -> Instance {
        Instance::new(&n.to_string()).expect("valid")
    }

    #[test]
    fn a_run_is_remembered_for_a_minute_and_in_bounded_number() {
        let id = CellId::new("a").expect("valid");
        let mut fence = Fence::default();
        let start = LeaseTime::default();
        fence.has_left("a", &run(0), true, start);
        assert!(fence.refuses(&id, &run(0), start.after(REMEMBERED_FOR)));
        let later = start.after(REMEMBERED_FOR + Duration::from_millis(1));
        assert!(!fence.refuses(&id, &run(0), later));
        for n in 1..=AT_MOST + 10 {
            fence.has_left("a", &run(n), true, later);
        }
        assert_eq!(
            fence.left.left.iter().map(HashMap::len).sum::<usize>(),
            AT_MOST
        );
        assert_eq!(fence.left.order.len(), AT_MOST);
        assert!(!fence.refuses(&id, &run(1), later));
        assert!(fence.refuses(&id, &run(AT_MOST + 10), later));
    }

    #[test]
    fn a_crowd_that_left_is_forgotten_in_time_but_not_all_at_once() {
        let id = CellId::new("a").expect("valid");
        let mut fence = Fence::default();
        let start = LeaseTime::default();
        for n in 0..10 * A_FEW {
            fence.has_left("a", &run(n), true, start);
        }
        let later = start.after(REMEMBERED_FOR + Duration::from_millis(1));
        for n in (0..10 * A_FEW).rev() {
            assert!(!fence.refuses(&id, &run(n), later));
            let left = 9 * A_FEW - (10 * A_FEW - 1 - n).min(9) * A_FEW;
            assert_eq!(fence.left.order.len(), left);
        }
    }

    #[test]
    fn a_flood_of_names_that_nobody_has_makes_no_one_be_forgotten() {
        let id = CellId::new("a").expect("valid");
        let mut fence = Fence::default();
        let now = LeaseTime::default();
        fence.has_left("a", &run(0), true, now);
        for n in 1..=2 * AT_MOST {
            fence.has_left("nobody", &run(n), false, now);
        }
        assert!(fence.refuses(&id, &run(0), now));
        assert_eq!(
            fence.unknown.left.iter().map(HashMap::len).sum::<usize>(),
            AT_MOST
        );
    }
}
