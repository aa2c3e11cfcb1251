//! One thing made for all who ask for it at the same time.
//!
//! At most one is made at a time, on the thread of one of those who ask. Whoever asks meanwhile waits
//! for the next and not for this one: it may be older than their question, and they would miss what
//! they have just been told was done.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

/// Things as they are asked for.
pub(super) struct Turns<T> {
    queue: Mutex<Queue<T>>,
}

struct Queue<T> {
    /// Whether one is being made.
    is_making: bool,
    /// Those who ask now.
    gathering: Arc<Batch<T>>,
}

/// Readers that get the same.
struct Batch<T> {
    outcome: OnceLock<Result<T, Shed>>,
    /// The outcome is there, or one of them is to bring it about.
    news: Condvar,
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Self {
            outcome: OnceLock::new(),
            news: Condvar::new(),
        }
    }
}

/// Why a reader gets no rendering. It may come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::discovery) enum Shed {
    Crowded,
    Unsent,
    Late,
    Failed,
}

impl fmt::Display for Shed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Crowded => "as many readers as are served at once wait for the list",
            Self::Unsent => "too many lists are still being sent to readers that are slow",
            Self::Late => "the list was not made in time",
            Self::Failed => "the list could not be made",
        })
    }
}

impl Shed {
    /// It could not be made, and why is for whoever reads the log.
    pub(super) fn failed(why: &dyn fmt::Display) -> Self {
        log::error!("cannot render the list: {why}");
        Self::Failed
    }
}

impl<T: Clone> Turns<T> {
    pub(super) fn new() -> Self {
        Self {
            queue: Mutex::new(Queue {
                is_making: false,
                gathering: Arc::default(),
            }),
        }
    }

    /// What is made after this is called: by `make`, or by somebody else who called this.
    ///
    /// # Errors
    /// When it is not made by the `deadline`, or cannot be.
    pub(super) fn share(
        &self,
        deadline: Instant,
        make: impl FnOnce() -> Result<T, Shed>,
    ) -> Result<T, Shed> {
        let mut queue = self.queue();
        let batch = Arc::clone(&queue.gathering);
        while queue.is_making {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Shed::Late);
            }
            (queue, _) = batch
                .news
                .wait_timeout(queue, left)
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(outcome) = batch.outcome.get() {
                return outcome.clone();
            }
        }
        // It is for this reader to make it, for all who have asked until now.
        queue.is_making = true;
        queue.gathering = Arc::default();
        drop(queue);
        let turn = Turn { turns: self, batch };
        let outcome = make();
        turn.batch.outcome.get_or_init(|| outcome).clone()
    }

    fn queue(&self) -> MutexGuard<'_, Queue<T>> {
        // Nothing is left half done by a thread that panics while it holds this.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose turn it is to make it. However it ends, its readers are told, and another may begin.
struct Turn<'a, T: Clone> {
    turns: &'a Turns<T>,
    batch: Arc<Batch<T>>,
}

impl<T: Clone> Drop for Turn<'_, T> {
    fn drop(&mut self) {
        let mut queue = self.turns.queue();
        queue.is_making = false;
        self.batch.outcome.get_or_init(|| Err(Shed::Failed));
        self.batch.news.notify_all();
        queue.gathering.news.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread::{self, Scope, ScopedJoinHandle};
    use std::time::Duration;

    use super::super::room::{PART_OF_CONNECTIONS, Readers};
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    type Outcome = Result<String, Shed>;

    /// Turns with the readers that wait for theirs.
    struct Desk {
        readers: Readers,
        turns: Turns<String>,
        patience: Duration,
    }

    impl Desk {
        fn new(connections: usize) -> Self {
            Self {
                readers: Readers::new(connections),
                turns: Turns::new(),
                patience: SOON,
            }
        }

        fn share(&self, make: impl FnOnce() -> Outcome) -> Outcome {
            let _reader = self.readers.admit()?;
            self.turns.share(Instant::now() + self.patience, make)
        }
    }

    fn made(text: &str) -> Outcome {
        Ok(text.to_owned())
    }

    /// A reader that is being served until it is let go on.
    fn slow<'s>(
        scope: &'s Scope<'s, '_>,
        desk: &'s Desk,
    ) -> (ScopedJoinHandle<'s, Outcome>, Sender<()>) {
        let (begins, begun) = channel();
        let (go_on, told): (_, Receiver<()>) = channel();
        let reader = scope.spawn(move || {
            desk.share(|| {
                begins.send(()).expect("it is waited for");
                let _ = told.recv_timeout(SOON);
                made("first")
            })
        });
        begun.recv_timeout(SOON).expect("it is served");
        (reader, go_on)
    }

    fn wait_until(condition: impl Fn() -> bool) {
        let deadline = Instant::now() + SOON;
        while !condition() {
            assert!(Instant::now() < deadline);
            thread::yield_now();
        }
    }

    #[test]
    fn nobody_gets_what_is_older_than_their_question() {
        let desk = Desk::new(1000);
        let written = AtomicUsize::new(0);
        let count = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        let own = written.fetch_add(1, Ordering::SeqCst) + 1;
                        let rendering = desk.share(|| {
                            let seen = written.load(Ordering::SeqCst);
                            count.fetch_add(1, Ordering::SeqCst);
                            thread::yield_now();
                            made(&seen.to_string())
                        });
                        let rendering = rendering.expect("there is room");
                        let seen: usize = rendering.parse().expect("a number");
                        assert!(seen >= own, "{own} is missing, {seen} were seen");
                    }
                });
            }
        });
        assert!(count.into_inner() <= 8 * 300);
        assert_eq!(desk.readers.waiting.taken(), 0);
    }

    #[test]
    fn who_asks_while_one_is_made_gets_the_next_together_with_all_others() {
        let desk = Desk::new(1000);
        let count = AtomicUsize::new(0);
        thread::scope(|scope| {
            let (first, go_on) = slow(scope, &desk);
            let ask = || {
                desk.share(|| {
                    count.fetch_add(1, Ordering::SeqCst);
                    made("second")
                })
            };
            let others: Vec<_> = (0..20).map(|_| scope.spawn(ask)).collect();
            wait_until(|| desk.readers.waiting.taken() == 21);
            go_on.send(()).expect("it waits");
            let first = first.join().expect("no panic").expect("rendered");
            assert_eq!(first, "first");
            for other in others {
                let other = other.join().expect("no panic").expect("rendered");
                assert_eq!(other, "second");
            }
        });
        // One, but for those who were slow to ask after they had been counted.
        let count = count.into_inner();
        assert!(count <= 5, "{count} were made");
    }

    #[test]
    fn a_panic_costs_nobody_more_than_this_one_answer() {
        let desk = Desk::new(1000);
        thread::scope(|scope| {
            let (first, go_on) = slow(scope, &desk);
            let ask = || {
                let broken = || desk.share(|| -> Outcome { panic!("this is tried") });
                catch_unwind(AssertUnwindSafe(broken))
            };
            let others: Vec<_> = (0..5).map(|_| scope.spawn(ask)).collect();
            wait_until(|| desk.readers.waiting.taken() == 6);
            go_on.send(()).expect("it waits");
            assert!(first.join().expect("no panic").is_ok());
            for other in others {
                match other.join().expect("caught") {
                    Ok(outcome) => assert_eq!(outcome.expect_err("none"), Shed::Failed),
                    Err(_panic) => {}
                }
            }
        });
        assert!(desk.share(|| made("well again")).is_ok());
        assert_eq!(desk.readers.waiting.taken(), 0);
    }

    #[test]
    fn no_more_wait_than_there_are_connections_for() {
        let desk = Desk::new(3 * PART_OF_CONNECTIONS);
        thread::scope(|scope| {
            let (first, go_on) = slow(scope, &desk);
            let ask = || desk.share(|| made("second"));
            let others: Vec<_> = (0..2).map(|_| scope.spawn(ask)).collect();
            wait_until(|| desk.readers.waiting.taken() == 3);
            assert_eq!(ask().expect_err("there is no room"), Shed::Crowded);
            go_on.send(()).expect("it waits");
            assert!(first.join().expect("no panic").is_ok());
            for other in others {
                assert!(other.join().expect("no panic").is_ok());
            }
            // They are not counted any more.
            assert!(ask().is_ok());
        });
        let few = Desk::new(1);
        assert!(few.share(|| made("alone")).is_ok());
    }

    #[test]
    fn nobody_waits_longer_than_they_would() {
        let mut desk = Desk::new(1000);
        desk.patience = Duration::from_millis(50);
        thread::scope(|scope| {
            let (first, go_on) = slow(scope, &desk);
            let late = desk.share(|| made("second"));
            assert_eq!(late.expect_err("it takes too long"), Shed::Late);
            go_on.send(()).expect("it waits");
            assert!(first.join().expect("no panic").is_ok());
        });
        assert!(desk.share(|| made("third")).is_ok());
    }
}
