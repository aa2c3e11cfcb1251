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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Each of them may cost a turn of every program that computes.
    const OFTEN: usize = 10_000;
    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn it_ends_where_others_do_not_give_way_themselves() {
        let processors = thread::available_parallelism().map_or(2, usize::from);
        let stopping = AtomicBool::new(false);
        let took = thread::scope(|scope| {
            for _ in 0..2 * processors {
                scope.spawn(|| {
                    while !stopping.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            let began = Instant::now();
            let mut courtesy = Courtesy::default();
            for _ in 0..OFTEN {
                courtesy.give_way();
                if began.elapsed() > LONG {
                    break;
                }
            }
            stopping.store(true, Ordering::Relaxed);
            began.elapsed()
        });
        assert!(took < LONG, "{took:?}");
    }
}
