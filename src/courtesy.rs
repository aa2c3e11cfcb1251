//! Letting others go first in the middle of what takes long.

use std::thread;
use std::time::{Duration, Instant};

/// How much time is given away at most. Whoever says that he is alive gives the processor back within
/// a fraction of a millisecond; a program that computes keeps it for some, each time it is let.
const MOST: Duration = Duration::from_millis(16);

/// Gives way to others until that has cost as much as may be.
///
/// Without a bound, and beside three programs that compute on two processors, a list of 10,000 peers
/// took ten times as long to read as it does where nobody gives way: it does so more than fifty times.
#[derive(Debug, Default)]
pub(crate) struct Courtesy {
    given: Duration,
}

impl Courtesy {
    /// Lets whoever waits for a processor go first.
    pub(crate) fn give_way(&mut self) {
        if self.given < MOST {
            let before = Instant::now();
            thread::yield_now();
            self.given += before.elapsed();
        }
    }
}
