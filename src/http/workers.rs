//! Threads for connections: one each while it lasts, then kept a while for the next. The last one is
//! kept for good: when the system gives no more threads there is still one to serve.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// Enough for the deepest JSON that is taken, with room to spare.
const STACK: usize = 512 * 1024;

struct Job {
    run: Box<dyn FnOnce() + Send>,
    turn: Turn,
}

/// The threads. Each ends when nothing has come for it for a while.
pub(super) struct Workers {
    shared: Arc<Shared>,
}

struct Shared {
    crew: Mutex<Crew>,
    kept_for: Duration,
    /// Told how many threads are left when one ends.
    ended: Box<dyn Fn(usize) + Send + Sync>,
}

#[derive(Default)]
struct Crew {
    threads: usize,
    /// Threads without a job. The one that was busy last gets the next, so that those there is no
    /// work for stay idle, and end.
    idle: Vec<Idle>,
    /// Jobs for threads that only start, or for whoever is done with another.
    jobs: VecDeque<Job>,
    /// Threads that were started and have not looked for a job yet.
    starting: usize,
    /// Whether no further job will come.
    is_over: bool,
}

struct Idle {
    thread: ThreadId,
    job: Sender<Job>,
}

/// Which job is taken first where several wait for a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// This one. It is our own, and no thread stays for longer because of it.
    First,
    /// Those that came before it.
    Last,
}

/// When a job runs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Start {
    Now,
    /// When a thread is done with another: the system gives no more of them.
    Later,
}

impl Workers {
    /// Threads that stay for `kept_for` when they have nothing to do. When one ends, `ended` is
    /// told how many are left.
    pub(super) fn new(kept_for: Duration, ended: impl Fn(usize) + Send + Sync + 'static) -> Self {
        Self {
            shared: Arc::new(Shared {
                crew: Mutex::default(),
                kept_for,
                ended: Box::new(ended),
            }),
        }
    }

    /// Runs `job` on a thread that waits, or on a new one, or where none can be had on the first
    /// that is done with another job.
    ///
    /// # Errors
    /// When there is no thread and none can be had. The job is dropped.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static, turn: Turn) -> io::Result<Start> {
        let run = Box::new(job);
        let job = Job { run, turn };
        {
            let mut crew = self.shared.lock();
            if let Some(idle) = crew.idle.pop() {
                // It listens until it has taken itself off the list.
                let _ = idle.job.send(job);
                return Ok(Start::Now);
            }
            match turn {
                Turn::First => crew.jobs.push_front(job),
                Turn::Last => crew.jobs.push_back(job),
            }
            crew.threads += 1;
            crew.starting += 1;
        }
        let shared = Arc::clone(&self.shared);
        let started = thread::Builder::new()
            .name("connection".to_owned())
            .stack_size(STACK)
            .spawn(move || shared.work());
        let Err(e) = started else {
            return Ok(Start::Now);
        };
        let mut crew = self.shared.lock();
        crew.threads -= 1;
        crew.starting -= 1;
        if crew.threads > 0 {
            // One may have been done with another job meanwhile, and have taken this one.
            return Ok(match crew.short_of() {
                0 => Start::Now,
                _ => Start::Later,
            });
        }
        let job = match turn {
            Turn::First => crew.jobs.pop_front(),
            Turn::Last => crew.jobs.pop_back(),
        };
        // What it holds needs a lock of its own when it is dropped.
        drop(crew);
        drop(job);
        Err(e)
    }

    /// How many jobs wait for a thread that is busy with another.
    pub(super) fn short_of(&self) -> usize {
        self.shared.lock().short_of()
    }
}

impl Crew {
    fn short_of(&self) -> usize {
        self.jobs.len().saturating_sub(self.starting)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
    }
}

impl Shared {
    /// The life of a thread.
    fn work(&self) {
        let (sender, receiver) = channel();
        let mut is_starting = true;
        let mut kept_until = Instant::now();
        loop {
            match self.next(is_starting, kept_until, &sender, &receiver) {
                Ok(Job { run, turn }) => {
                    // What it held is dropped; the thread is needed on.
                    drop(catch_unwind(AssertUnwindSafe(run)));
                    if turn == Turn::Last {
                        kept_until = Instant::now() + self.kept_for;
                    }
                }
                Err(left) => return (self.ended)(left),
            }
            is_starting = false;
        }
    }

    /// The next job.
    ///
    /// # Errors
    /// How many threads are left, when no job has come for a while and this one is to end.
    fn next(
        &self,
        is_starting: bool,
        kept_until: Instant,
        sender: &Sender<Job>,
        receiver: &Receiver<Job>,
    ) -> Result<Job, usize> {
        let thread = thread::current().id();
        {
            let mut crew = self.lock();
            crew.starting -= usize::from(is_starting);
            if let Some(job) = crew.jobs.pop_front() {
                return Ok(job);
            }
            crew.idle.push(Idle {
                thread,
                job: sender.clone(),
            });
        }
        let mut wait = kept_until.saturating_duration_since(Instant::now());
        loop {
            if let Ok(job) = receiver.recv_timeout(wait) {
                return Ok(job);
            }
            let mut crew = self.lock();
            let threads = crew.threads;
            let on_the_list = crew.idle.iter().position(|idle| idle.thread == thread);
            let Some(place) = on_the_list else {
                drop(crew);
                // Somebody took it off the list just now, to send a job.
                return receiver.recv().map_err(|_| threads);
            };
            if threads > 1 || crew.is_over {
                crew.idle.remove(place);
                crew.threads -= 1;
                return Err(crew.threads);
            }
            wait = self.kept_for;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Crew> {
        self.crew.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_light_load_keeps_no_more_threads_than_it_needs() {
        const KEPT: Duration = Duration::from_millis(200);
        let (ended, left) = mpsc::channel();
        let ended = Mutex::new(ended);
        let workers = Workers::new(KEPT, move |count| {
            let _ = ended.lock().expect("no panic").send(count);
        });
        // Twenty at once.
        let (done, all_done) = mpsc::channel();
        let gate = Arc::new(std::sync::Barrier::new(20));
        for _ in 0..20 {
            let (gate, done) = (Arc::clone(&gate), done.clone());
            let job = move || {
                gate.wait();
                done.send(thread::current().id()).expect("it is waited for");
            };
            assert_eq!(
                workers.run(job, Turn::Last).expect("threads can be had"),
                Start::Now
            );
        }
        assert_eq!(all_done.iter().take(20).count(), 20);
        // Then one after the other, often enough to keep each of them from being idle for long if
        // they took turns.
        let deadline = Instant::now() + 100 * KEPT;
        while !left.try_iter().any(|count| count <= 1) {
            assert!(Instant::now() < deadline, "threads are kept");
            let done = done.clone();
            let job = move || done.send(thread::current().id()).expect("it is waited for");
            assert_eq!(
                workers.run(job, Turn::Last).expect("threads can be had"),
                Start::Now
            );
            all_done.recv().expect("it runs");
            thread::park_timeout(KEPT / 40);
        }
    }

    #[test]
    fn the_last_thread_is_kept_for_when_no_other_can_be_had() {
        const KEPT: Duration = Duration::from_millis(20);
        let (ended, left) = mpsc::channel();
        let ended = Mutex::new(ended);
        let workers = Workers::new(KEPT, move |count| {
            let _ = ended.lock().expect("no panic").send(count);
        });
        let (say, said) = mpsc::channel();
        let gate = Arc::new(std::sync::Barrier::new(2));
        for _ in 0..2 {
            let (gate, say) = (Arc::clone(&gate), say.clone());
            let job = move || {
                gate.wait();
                say.send(thread::current().id()).expect("it is waited for");
            };
            let start = workers.run(job, Turn::Last);
            assert_eq!(start.expect("threads can be had"), Start::Now);
        }
        let two: Vec<ThreadId> = said.iter().take(2).collect();
        assert_eq!(left.recv(), Ok(1));
        assert!(left.recv_timeout(10 * KEPT).is_err(), "the last has ended");
        let job = move || say.send(thread::current().id()).expect("it is waited for");
        let start = workers.run(job, Turn::Last);
        assert_eq!(start.expect("a thread is there"), Start::Now);
        assert!(two.contains(&said.recv().expect("it runs")));
        drop(workers);
        assert_eq!(left.recv(), Ok(0), "without more work it ends as well");
    }

    #[test]
    fn no_thread_stays_for_a_job_of_our_own() {
        const KEPT: Duration = Duration::from_secs(1);
        let (ended, left) = mpsc::channel();
        let ended = Mutex::new(ended);
        let workers = Workers::new(KEPT, move |count| {
            let _ = ended.lock().expect("no panic").send(count);
        });
        // The last one stays; this is another.
        let (_let_go, told) = mpsc::channel::<()>();
        let busy = move || {
            let _ = told.recv();
        };
        workers.run(busy, Turn::Last).expect("a thread");
        let started = Instant::now();
        workers.run(|| {}, Turn::First).expect("a thread");
        assert_eq!(left.recv(), Ok(1));
        assert!(started.elapsed() < KEPT);
        // Nor for longer because of one.
        let started = Instant::now();
        workers.run(|| {}, Turn::Last).expect("a thread");
        while left.try_recv().is_err() {
            assert!(started.elapsed() < 100 * KEPT, "it is kept");
            thread::park_timeout(KEPT / 20);
            workers.run(|| {}, Turn::First).expect("a thread");
        }
        assert!(started.elapsed() >= KEPT);
    }
}
