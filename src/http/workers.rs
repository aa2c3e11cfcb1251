//! Threads for connections: one each while it lasts, then kept a while for the next.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Enough for the deepest JSON that is taken, with room to spare.
const STACK: usize = 512 * 1024;

type Job = Box<dyn FnOnce() + Send>;

/// The threads. Each ends when nothing has come for it for a while.
pub(super) struct Workers {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    ready: Condvar,
    kept_for: Duration,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    /// Those of them that have no job, be it that they only start.
    idle: usize,
}

/// When a job runs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Start {
    Now,
    /// When a thread is done with another: the system gives no more of them.
    Later,
}

impl Workers {
    /// Threads that stay for `kept_for` when they have nothing to do.
    pub(super) fn new(kept_for: Duration) -> Self {
        Self {
            shared: Arc::new(Shared {
                queue: Mutex::default(),
                ready: Condvar::new(),
                kept_for,
            }),
        }
    }

    /// Runs `job` on a thread that waits, or on a new one, or where none can be had on the first
    /// that is done with another job.
    ///
    /// # Errors
    /// When there is no thread and none can be had. The job is dropped.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) -> io::Result<Start> {
        {
            let mut queue = self.shared.lock();
            queue.jobs.push_back(Box::new(job));
            if queue.idle >= queue.jobs.len() {
                self.shared.ready.notify_one();
                return Ok(Start::Now);
            }
            queue.threads += 1;
            queue.idle += 1;
        }
        let shared = Arc::clone(&self.shared);
        let started = thread::Builder::new()
            .name("connection".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                while let Some(job) = shared.next() {
                    // What it held is dropped; the thread is needed on.
                    let _ = catch_unwind(AssertUnwindSafe(job));
                    shared.lock().idle += 1;
                }
            });
        let Err(e) = started else {
            return Ok(Start::Now);
        };
        let mut queue = self.shared.lock();
        queue.threads -= 1;
        queue.idle -= 1;
        if queue.threads > 0 {
            return Ok(Start::Later);
        }
        let job = queue.jobs.pop_back();
        // What it holds needs a lock of its own when it is dropped.
        drop(queue);
        drop(job);
        Err(e)
    }

    /// How many jobs wait for a thread that is busy with another.
    pub(super) fn short_of(&self) -> usize {
        let queue = self.shared.lock();
        queue.jobs.len().saturating_sub(queue.idle)
    }
}

impl Shared {
    /// The next job; `None` when none has come for a while, and the thread is to end.
    fn next(&self) -> Option<Job> {
        let (mut queue, _) = self
            .ready
            .wait_timeout_while(self.lock(), self.kept_for, |queue| queue.jobs.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        queue.idle -= 1;
        let job = queue.jobs.pop_front();
        queue.threads -= usize::from(job.is_none());
        job
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
