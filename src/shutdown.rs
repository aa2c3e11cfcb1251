//! The latch every thread waits on.
//!
//! A [`Latch`] is set once and stays set. Whatever in this crate has to wait, waits on it with a
//! deadline, so that a stop is never late by somebody's sleep.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A flag that is set once and can be waited for. Clones are the same latch.
#[derive(Clone, Debug, Default)]
pub struct Latch {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    set: bool,
    /// Whoever waits is to look at his deadline again.
    woken: bool,
}

impl Latch {
    /// A latch that is not set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the latch and wakes everybody who waits for it.
    pub fn set(&self) {
        self.lock().set = true;
        self.inner.changed.notify_all();
    }

    /// Ends the wait of somebody who waits with a deadline, or the next one, though the latch is
    /// not set and the deadline has not come: there is something to do sooner.
    pub fn wake(&self) {
        self.lock().woken = true;
        self.inner.changed.notify_all();
    }

    /// Whether the latch is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.lock().set
    }

    /// Waits until the latch is set.
    pub fn wait(&self) {
        let guard = self.lock();
        drop(
            self.inner
                .changed
                .wait_while(guard, |state| !state.set)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Waits until the latch is set, but not beyond `deadline` or a [`Latch::wake`]. Returns whether
    /// it is set.
    #[must_use]
    pub fn wait_until(&self, deadline: Instant) -> bool {
        self.wait_for(deadline.saturating_duration_since(Instant::now()))
    }

    /// Waits until the latch is set, but no longer than `at_most` or a [`Latch::wake`]. Returns
    /// whether it is set.
    #[must_use]
    pub fn wait_for(&self, at_most: Duration) -> bool {
        let guard = self.lock();
        let (mut guard, _) = self
            .inner
            .changed
            .wait_timeout_while(guard, at_most, |state| !state.set && !state.woken)
            .unwrap_or_else(PoisonError::into_inner);
        guard.woken = false;
        guard.set
    }

    /// Waits until the latch is set or until a [`Latch::wake`]. Returns whether it is set.
    #[must_use]
    pub fn wait_until_woken(&self) -> bool {
        let guard = self.lock();
        let mut guard = self
            .inner
            .changed
            .wait_while(guard, |state| !state.set && !state.woken)
            .unwrap_or_else(PoisonError::into_inner);
        guard.woken = false;
        guard.set
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiter_returns_as_soon_as_the_latch_is_set() {
        let latch = Latch::new();
        let other = latch.clone();
        let waiter = std::thread::spawn(move || other.wait_for(Duration::from_secs(60)));
        latch.set();
        assert!(waiter.join().expect("the waiter does not panic"));
        assert!(latch.is_set());
    }

    #[test]
    fn a_wait_may_be_ended_early_once() {
        let latch = Latch::new();
        latch.wake();
        assert!(!latch.wait_for(Duration::from_secs(60)));
        assert!(!latch.wait_for(Duration::ZERO));
        latch.wake();
        assert!(!latch.wait_until_woken());
        latch.set();
        assert!(latch.wait_for(Duration::from_secs(60)));
    }

    #[test]
    fn a_deadline_in_the_past_does_not_wait() {
        let latch = Latch::new();
        assert!(!latch.wait_until(Instant::now()));
    }
}
