//! One rendering of the list for all who ask for it at the same time.
//!
//! A list of thousands takes longer to render than everything else a request takes together, so at
//! most one is rendered at a time, on the thread of one of its readers. Whoever asks meanwhile waits
//! for the next and not for this one: its snapshot is older than their question, and they would miss
//! what they have just been told was done.
//!
//! What waits is bounded, and so is what is still being sent: readers are turned away before they
//! take the room that heartbeats need.

use std::collections::TryReserveError;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Which part of all connections may wait for a rendering. The others can be closed when somebody
/// needs room; these cannot.
const PART_OF_CONNECTIONS: usize = 2;
/// How many may wait at most.
const MOST_READERS: usize = 256;
/// How many bytes of renderings that are not sent yet are held at most, as long as that is enough
/// for [`RENDERINGS`] of them.
const MOST_BYTES: usize = 256 << 20;
/// How many renderings may always be held, however long they are.
const RENDERINGS: usize = 4;
/// Of pieces smaller than this libc keeps some for each thread that was ever given one. What is this
/// large goes back to the system as soon as it is free, and takes memory only where it is written to.
const NEVER_KEPT: usize = (32 << 20) + 1;
/// From how many bytes on that matters.
const LONG: usize = 64 << 10;
/// How long a reader waits for a rendering: less than its own patience, or it is made for nobody.
const PATIENCE: Duration = Duration::from_secs(4);

/// Renderings as they are asked for.
pub(super) struct Renders {
    queue: Mutex<Queue>,
    readers: Tally,
    most_readers: usize,
    bytes: Tally,
    most_bytes: usize,
    /// How long the last rendering was.
    length: AtomicUsize,
    patience: Duration,
}

#[derive(Default)]
struct Queue {
    /// Whether a rendering is being made.
    is_rendering: bool,
    /// Those who ask now.
    gathering: Arc<Batch>,
}

/// Readers that get the same rendering.
#[derive(Default)]
struct Batch {
    outcome: OnceLock<Outcome>,
    /// The outcome is there, or one of them is to bring it about.
    news: Condvar,
}

type Outcome = Result<Arc<Rendering>, Shed>;

/// Bytes that are sent to many.
#[derive(Debug)]
pub(super) struct Rendering {
    bytes: Vec<u8>,
    /// Given back with the last reply that sends them.
    _held: Portion,
}

impl AsRef<[u8]> for Rendering {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Why a reader gets no rendering. It may come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shed {
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

impl Renders {
    /// For a server that holds so many connections.
    pub(super) fn new(connections: usize) -> Self {
        Self {
            queue: Mutex::default(),
            readers: Tally::default(),
            most_readers: (connections / PART_OF_CONNECTIONS).clamp(1, MOST_READERS),
            bytes: Tally::default(),
            most_bytes: MOST_BYTES,
            length: AtomicUsize::new(0),
            patience: PATIENCE,
        }
    }

    /// A rendering that is begun after this is called: with `render`, or by somebody else who called
    /// this.
    ///
    /// # Errors
    /// When there is too much to do.
    pub(super) fn share<E: fmt::Display>(
        &self,
        render: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Outcome {
        let deadline = Instant::now() + self.patience;
        let reader = self.readers.take(1);
        if reader.others >= self.most_readers {
            return Err(Shed::Crowded);
        }
        let mut queue = self.queue();
        let batch = Arc::clone(&queue.gathering);
        while queue.is_rendering {
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
        queue.is_rendering = true;
        queue.gathering = Arc::default();
        drop(queue);
        let turn = Turn {
            renders: self,
            batch,
        };
        let outcome = self.make(render);
        turn.batch.outcome.get_or_init(|| outcome).clone()
    }

    fn make<E: fmt::Display>(&self, render: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Outcome {
        let length = self.length.load(Ordering::Relaxed);
        let most = self.most_bytes.max(length.saturating_mul(RENDERINGS));
        if self.bytes.taken().saturating_add(length) > most {
            return Err(Shed::Unsent);
        }
        // Some more than last time, so that it is not copied while it grows.
        let failed = |e: &dyn fmt::Display| {
            log::error!("cannot render the list: {e}");
            Shed::Failed
        };
        let mut bytes = room(length + length / 8).map_err(|e| failed(&e))?;
        render(&mut bytes).map_err(|e| failed(&e))?;
        self.length.store(bytes.len(), Ordering::Relaxed);
        Ok(Arc::new(Rendering {
            _held: self.bytes.take(bytes.len()),
            bytes,
        }))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing is left half done by a thread that panics while it holds this.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room for so many items, that leaves nothing behind when it is dropped.
///
/// # Errors
/// When there is none.
pub(super) fn room<T>(items: usize) -> Result<Vec<T>, TryReserveError> {
    let least = match items.saturating_mul(size_of::<T>()) {
        ..LONG => items,
        _ => items.max(NEVER_KEPT.div_ceil(size_of::<T>())),
    };
    let mut room = Vec::new();
    room.try_reserve_exact(least)?;
    Ok(room)
}

/// Whose turn it is to render. However it ends, its readers are told, and another may begin.
struct Turn<'a> {
    renders: &'a Renders,
    batch: Arc<Batch>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut queue = self.renders.queue();
        queue.is_rendering = false;
        self.batch.outcome.get_or_init(|| Err(Shed::Failed));
        self.batch.news.notify_all();
        queue.gathering.news.notify_one();
    }
}

/// How much of something is in use.
#[derive(Clone, Debug, Default)]
struct Tally(Arc<AtomicUsize>);

/// A part of it, given back when this is dropped.
#[derive(Debug)]
struct Portion {
    tally: Tally,
    size: usize,
    /// How much was in use before.
    others: usize,
}

impl Tally {
    fn take(&self, size: usize) -> Portion {
        Portion {
            tally: self.clone(),
            size,
            others: self.0.fetch_add(size, Ordering::SeqCst),
        }
    }

    fn taken(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Drop for Portion {
    fn drop(&mut self) {
        self.tally.0.fetch_sub(self.size, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread::{self, Scope, ScopedJoinHandle};

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn write(body: &mut Vec<u8>, text: &str) -> Result<(), Infallible> {
        body.extend_from_slice(text.as_bytes());
        Ok(())
    }

    /// A reader that renders until it is let go on.
    fn slow<'s>(
        scope: &'s Scope<'s, '_>,
        renders: &'s Renders,
    ) -> (ScopedJoinHandle<'s, Outcome>, Sender<()>) {
        let (begins, begun) = channel();
        let (go_on, told): (_, Receiver<()>) = channel();
        let reader = scope.spawn(move || {
            renders.share(|body| {
                begins.send(()).expect("it is waited for");
                let _ = told.recv_timeout(SOON);
                write(body, "first")
            })
        });
        begun.recv_timeout(SOON).expect("it renders");
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
        let renders = Renders::new(1000);
        let written = AtomicUsize::new(0);
        let made = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        let own = written.fetch_add(1, Ordering::SeqCst) + 1;
                        let rendering = renders.share(|body| {
                            let seen = written.load(Ordering::SeqCst);
                            made.fetch_add(1, Ordering::SeqCst);
                            thread::yield_now();
                            write(body, &seen.to_string())
                        });
                        let rendering = rendering.expect("there is room");
                        let text = str::from_utf8((*rendering).as_ref()).expect("UTF-8");
                        let seen: usize = text.parse().expect("a number");
                        assert!(seen >= own, "{own} is missing, {seen} were seen");
                    }
                });
            }
        });
        assert!(made.into_inner() <= 8 * 300);
        assert_eq!(renders.bytes.taken() + renders.readers.taken(), 0);
    }

    #[test]
    fn who_asks_while_one_is_made_gets_the_next_together_with_all_others() {
        let renders = Renders::new(1000);
        let made = AtomicUsize::new(0);
        thread::scope(|scope| {
            let (first, go_on) = slow(scope, &renders);
            let ask = || {
                renders.share(|body| {
                    made.fetch_add(1, Ordering::SeqCst);
                    write(body, "second")
                })
            };
            let others: Vec<_> = (0..20).map(|_| scope.spawn(ask)).collect();
            wait_until(|| renders.readers.taken() == 21);
            go_on.send(()).expect("it waits");
            let first = first.join().expect("no panic").expect("rendered");
            assert_eq!(first.bytes, b"first");
            for other in others {
                let other = other.join().expect("no panic").expect("rendered");
                assert_eq!(other.bytes, b"second");
            }
        });
        // One, but for those who were slow to ask after they had been counted.
        let made = made.into_inner();
        assert!(made <= 5, "{made} were made");
    }

    #[test]
    fn a_panic_costs_nobody_more_than_this_one_answer() {
        let renders = Renders::new(1000);
        thread::scope(|scope| {
            let (first, go_on) = slow(scope, &renders);
            let ask = || {
                let broken =
                    || renders.share(|_| -> Result<(), Infallible> { panic!("this is tried") });
                catch_unwind(AssertUnwindSafe(broken))
            };
            let others: Vec<_> = (0..5).map(|_| scope.spawn(ask)).collect();
            wait_until(|| renders.readers.taken() == 6);
            go_on.send(()).expect("it waits");
            assert!(first.join().expect("no panic").is_ok());
            for other in others {
                match other.join().expect("caught") {
                    Ok(outcome) => assert_eq!(outcome.expect_err("none"), Shed::Failed),
                    Err(_panic) => {}
                }
            }
        });
        assert!(renders.share(|body| write(body, "well again")).is_ok());
        assert_eq!(renders.readers.taken(), 0);
    }

    #[test]
    fn no_more_wait_than_there_are_connections_for() {
        let renders = Renders::new(3 * PART_OF_CONNECTIONS);
        thread::scope(|scope| {
            let (first, go_on) = slow(scope, &renders);
            let ask = || renders.share(|body| write(body, "second"));
            let others: Vec<_> = (0..2).map(|_| scope.spawn(ask)).collect();
            wait_until(|| renders.readers.taken() == 3);
            assert_eq!(ask().expect_err("there is no room"), Shed::Crowded);
            go_on.send(()).expect("it waits");
            assert!(first.join().expect("no panic").is_ok());
            for other in others {
                assert!(other.join().expect("no panic").is_ok());
            }
            // They are not counted any more.
            assert!(ask().is_ok());
        });
        let few = Renders::new(1);
        assert!(few.share(|body| write(body, "alone")).is_ok());
    }

    #[test]
    fn nobody_waits_longer_than_they_would() {
        let mut renders = Renders::new(1000);
        renders.patience = Duration::from_millis(50);
        thread::scope(|scope| {
            let (first, go_on) = slow(scope, &renders);
            let late = renders.share(|body| write(body, "second"));
            assert_eq!(late.expect_err("it takes too long"), Shed::Late);
            go_on.send(()).expect("it waits");
            assert!(first.join().expect("no panic").is_ok());
        });
        assert!(renders.share(|body| write(body, "third")).is_ok());
    }

    #[test]
    fn what_is_not_sent_yet_is_bounded_but_some_lists_are_always_held() {
        let mut renders = Renders::new(1000);
        renders.most_bytes = 1000;
        let ask = |length: usize| renders.share(|body| write(body, &"x".repeat(length)));
        let held: Vec<_> = (0..100).map_while(|_| ask(100).ok()).collect();
        assert_eq!(held.len(), 10);
        assert_eq!(ask(100).expect_err("there is no room"), Shed::Unsent);
        drop(held);
        assert_eq!(renders.bytes.taken(), 0);
        let long: Vec<_> = (0..100).map_while(|_| ask(10_000).ok()).collect();
        assert_eq!(long.len(), RENDERINGS);
    }
}
