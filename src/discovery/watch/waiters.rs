//! Those who wait for the membership to change.
//!
//! There may be a thousand of them, and a change is news for all. If all woke at once they would stand
//! between every heartbeat and the processor, so only one is woken by the change itself, and lets the
//! next one wake when it knows what to answer. Where that takes long, because others keep the processor,
//! more and more are awake. Those who want the same follow each other: it is made for the first of them,
//! and is not kept for long.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::shutdown::Latch;

/// For how long one is awake at a time after a change, until it is two, and then three, and so on.
const ALONE: Duration = Duration::from_millis(100);
/// But no more than so many.
const MOST_AWAKE: usize = 16;
/// Which part of all connections may wait: three of eight. Nobody closes them to make room for others,
/// and there are readers, too, that wait for a list.
const PART_OF_CONNECTIONS: [usize; 2] = [3, 8];

/// Who waits, and who is let in to do so.
pub(in crate::discovery) struct Waiters {
    queue: Mutex<Queue>,
    /// How many are in the queue, for those who have news and would rather not lock it.
    waiting: AtomicUsize,
    admitted: AtomicUsize,
    most: usize,
}

/// What somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Want(u64);

#[derive(Default)]
struct Queue {
    /// Those who sleep, by when they came, with what they want.
    asleep: BTreeMap<u64, (Want, Latch)>,
    next: u64,
    /// Who came before this is to wake.
    told: u64,
    /// Those of them who are next, all before any that came later: nobody is passed over for ever.
    due: BTreeMap<(Want, u64), Latch>,
    /// How many were woken and have not let the next one wake.
    awake: usize,
    /// Since when there have been some.
    since: Option<Instant>,
    is_over: bool,
}

/// Somebody who may wait as often as he likes.
pub(in crate::discovery) struct Waiter {
    waiters: Arc<Waiters>,
}

/// A place in the queue. Once it is given up the next one wakes, if this one was woken.
pub(super) struct Turn<'a> {
    waiters: &'a Waiters,
    want: Want,
    number: u64,
}

impl Want {
    /// What has happened.
    pub(super) const EVENTS: Self = Self(0);

    /// The same for all who ask for the same; seldom for others, too, which does no harm.
    pub(super) fn of(asked: &impl Hash) -> Self {
        Self(BuildHasherDefault::<DefaultHasher>::default().hash_one(asked))
    }
}

impl Waiters {
    /// For a server that holds so many connections.
    pub(in crate::discovery) fn new(connections: usize) -> Arc<Self> {
        let [part, of] = PART_OF_CONNECTIONS;
        Arc::new(Self {
            queue: Mutex::default(),
            waiting: AtomicUsize::new(0),
            admitted: AtomicUsize::new(0),
            most: (connections * part / of).max(1),
        })
    }

    /// Counts one more, for as long as what is returned is kept; `None` where there are as many as
    /// may be.
    pub(in crate::discovery) fn admit(self: &Arc<Self>) -> Option<Waiter> {
        let waiter = Waiter {
            waiters: Arc::clone(self),
        };
        let others = self.admitted.fetch_add(1, Ordering::SeqCst);
        (others < self.most).then_some(waiter)
    }

    /// How many there are.
    pub(in crate::discovery) fn count(&self) -> usize {
        self.admitted.load(Ordering::Relaxed)
    }

    /// There is news for all who wait now.
    pub(in crate::discovery) fn tell(&self) {
        // Whoever queues up looks for news after that; and who has made some looks here after that.
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.lock().tell(&self.waiting);
        }
    }

    /// Nobody waits any more from now on.
    pub(in crate::discovery) fn close(&self) {
        let mut queue = self.lock();
        queue.is_over = true;
        queue.tell(&self.waiting);
    }

    /// Whether nobody waits any more.
    fn is_over(&self) -> bool {
        self.lock().is_over
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing is left half done by a thread that panics while it holds this.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn tell(&mut self, waiting: &AtomicUsize) {
        self.told = self.next;
        self.wake(waiting);
    }

    /// Wakes the first of those who are to wake, as many as may be awake.
    fn wake(&mut self, waiting: &AtomicUsize) {
        let since = *self.since.get_or_insert_with(Instant::now);
        let more = since.elapsed().as_millis() / ALONE.as_millis();
        let at_most = usize::try_from(more).map_or(MOST_AWAKE, |more| MOST_AWAKE.min(more + 1));
        while self.awake < at_most
            && let Some(first) = self.first_due()
        {
            first.set();
            waiting.fetch_sub(1, Ordering::SeqCst);
            self.awake += 1;
        }
        if self.awake == 0 {
            self.since = None;
        }
    }

    fn first_due(&mut self) -> Option<Latch> {
        if self.due.is_empty() {
            let later = self.asleep.split_off(&self.told);
            let told = mem::replace(&mut self.asleep, later).into_iter();
            self.due = told
                .map(|(number, (want, latch))| ((want, number), latch))
                .collect();
        }
        self.due.pop_first().map(|(_, latch)| latch)
    }

    /// Whether somebody slept until now, and does no more.
    fn remove(&mut self, want: Want, number: u64) -> bool {
        self.asleep.remove(&number).is_some() || self.due.remove(&(want, number)).is_some()
    }
}

impl Waiter {
    /// Waits for news, no longer than `at_most`; not at all, if there is some already, or nobody waits
    /// any more.
    pub(super) fn wait(
        &self,
        want: Want,
        at_most: Duration,
        is_news: impl FnOnce() -> bool,
    ) -> Option<Turn<'_>> {
        let waiters = &*self.waiters;
        let latch = Latch::new();
        let mut queue = waiters.lock();
        if queue.is_over {
            return None;
        }
        let number = queue.next;
        queue.next += 1;
        queue.asleep.insert(number, (want, latch.clone()));
        waiters.waiting.fetch_add(1, Ordering::SeqCst);
        drop(queue);
        let turn = Turn {
            waiters,
            want,
            number,
        };
        if !is_news() {
            let _ = latch.wait_for(at_most);
        }
        Some(turn)
    }

    /// Whether nobody waits any more.
    pub(super) fn is_over(&self) -> bool {
        self.waiters.is_over()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.waiters.admitted.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut queue = self.waiters.lock();
        if queue.remove(self.want, self.number) {
            self.waiters.waiting.fetch_sub(1, Ordering::SeqCst);
        } else {
            queue.awake -= 1;
            queue.wake(&self.waiters.waiting);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::thread;
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SOON: Duration = Duration::from_secs(10);

    fn wait_until(condition: impl Fn() -> bool) {
        let deadline = Instant::now() + SOON;
        while !condition() {
            assert!(Instant::now() < deadline);
            thread::yield_now();
        }
    }

    #[test]
    fn all_who_wait_are_told_but_few_are_awake_at_once() {
        const CROWD: usize = 200;
        let waiters = Waiters::new(1000);
        let revision = AtomicU64::new(0);
        let awake = AtomicUsize::new(0);
        let most = AtomicUsize::new(0);
        let mut told = Instant::now();
        thread::scope(|scope| {
            for _ in 0..CROWD {
                let waiter = waiters.admit().expect("there is room");
                let (revision, awake, most) = (&revision, &awake, &most);
                scope.spawn(move || {
                    let is_news = || revision.load(Ordering::SeqCst) > 0;
                    let turn = waiter.wait(Want::EVENTS, LONG, is_news);
                    let others = awake.fetch_add(1, Ordering::SeqCst);
                    most.fetch_max(others + 1, Ordering::SeqCst);
                    assert!(is_news());
                    thread::yield_now();
                    awake.fetch_sub(1, Ordering::SeqCst);
                    drop(turn);
                });
            }
            wait_until(|| waiters.waiting.load(Ordering::SeqCst) == CROWD);
            told = Instant::now();
            revision.store(1, Ordering::SeqCst);
            waiters.tell();
            wait_until(|| waiters.count() == 0);
            assert!(told.elapsed() < SOON);
        });
        // One at a time, unless something else keeps the processor.
        let most_in_time = 1 + told.elapsed().as_millis() / ALONE.as_millis();
        assert!(most.into_inner() as u128 <= most_in_time);
        let queue = waiters.lock();
        assert_eq!(
            (queue.awake, queue.asleep.len(), queue.due.len()),
            (0, 0, 0)
        );
        assert_eq!(waiters.waiting.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn nobody_misses_what_happens_while_he_sits_down() {
        let waiters = Waiters::new(100);
        let revision = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                let waiter = waiters.admit().expect("there is room");
                let revision = &revision;
                scope.spawn(move || {
                    let mut seen = 0;
                    while seen < 2000 {
                        let is_news = || revision.load(Ordering::SeqCst) != seen;
                        let turn = waiter.wait(Want::EVENTS, LONG, is_news);
                        assert!(is_news(), "it woke for nothing");
                        seen = revision.load(Ordering::SeqCst);
                        drop(turn);
                    }
                });
            }
            for _ in 0..2000 {
                revision.fetch_add(1, Ordering::SeqCst);
                waiters.tell();
            }
        });
    }

    #[test]
    fn those_who_want_the_same_follow_each_other_and_nobody_is_passed_over() {
        let (mut queue, waiting) = (Queue::default(), AtomicUsize::new(0));
        let come = |queue: &mut Queue, wants: &[u64]| {
            for want in wants {
                queue.asleep.insert(queue.next, (Want(*want), Latch::new()));
                queue.next += 1;
                waiting.fetch_add(1, Ordering::SeqCst);
            }
        };
        come(&mut queue, &[7, 3, 7, 3]);
        queue.tell(&waiting);
        let first: Vec<_> = queue.due.keys().map(|(want, at)| (want.0, *at)).collect();
        assert_eq!((queue.awake, first), (1, vec![(3, 3), (7, 0), (7, 2)]));
        // Who comes between two changes is told of the second, after all who were told of the first;
        // and who comes after it is not.
        come(&mut queue, &[3]);
        queue.tell(&waiting);
        come(&mut queue, &[1]);
        let mut woken = Vec::new();
        while let Some(next) = queue.due.keys().next().copied() {
            woken.push((next.0.0, next.1));
            queue.awake = 0;
            queue.wake(&waiting);
        }
        assert_eq!(woken, [(3, 3), (7, 0), (7, 2)]);
        assert_eq!(queue.asleep.keys().collect::<Vec<_>>(), [&4, &5]);
        queue.awake = 0;
        queue.wake(&waiting);
        assert_eq!(queue.asleep.keys().collect::<Vec<_>>(), [&5]);
        queue.awake = 0;
        queue.wake(&waiting);
        assert_eq!((queue.awake, waiting.into_inner()), (0, 1));
    }

    #[test]
    fn who_gives_up_holds_up_nobody() {
        let waiters = Waiters::new(100);
        thread::scope(|scope| {
            let last = waiters.admit().expect("there is room");
            for number in 0..20 {
                let waiter = waiters.admit().expect("there is room");
                scope.spawn(move || {
                    drop(waiter.wait(Want(number % 3), Duration::from_millis(5), || false));
                });
            }
            wait_until(|| waiters.waiting.load(Ordering::SeqCst) > 0);
            let patient = scope.spawn(move || {
                let waited = Instant::now();
                drop(last.wait(Want(1), LONG, || false));
                assert!(waited.elapsed() < SOON);
            });
            while !patient.is_finished() {
                waiters.tell();
                thread::yield_now();
            }
        });
        assert_eq!(waiters.lock().awake, 0);
    }

    #[test]
    fn no_more_wait_than_there_is_room_for_and_none_once_it_is_over() {
        let waiters = Waiters::new(8);
        let all: Vec<_> = (0..3).map_while(|_| waiters.admit()).collect();
        assert_eq!((all.len(), waiters.count()), (3, 3));
        assert!(waiters.admit().is_none());
        assert_eq!(waiters.count(), 3);
        let first = &all[0];
        thread::scope(|scope| {
            let waiting = scope.spawn(|| first.wait(Want::EVENTS, LONG, || false).is_some());
            wait_until(|| waiters.waiting.load(Ordering::SeqCst) == 1);
            waiters.close();
            assert!(waiting.join().expect("no panic"));
        });
        assert!(all[1].wait(Want::EVENTS, LONG, || false).is_none() && all[1].is_over());
        drop(all);
        assert!(waiters.admit().is_some());
    }
}
