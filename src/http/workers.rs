//! Threads for connections: one each while it lasts, then kept a while for the next. The last one is
//! kept for good: when the system gives no more threads there is still one to serve.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
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
    idle: Vec<Thread>,
    /// Threads that were called for a job and have not looked for it yet. One at most: it calls the
    /// next if there is more to do then. Under load those that are done with one job take another
    /// before that, and need no call, which takes longer than most jobs.
    called: usize,
    /// Jobs for threads that were called, that only start, or that are done with another.
    jobs: VecDeque<Job>,
    /// Threads that were started and have not looked for a job yet.
    starting: usize,
    /// Whether no further job will come.
    is_over: bool,
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
            match turn {
                Turn::First => crew.jobs.push_front(job),
                Turn::Last => crew.jobs.push_back(job),
            }
            if crew.short_of() == 0 {
                let called = crew.call();
                drop(crew);
                wake(called);
                return Ok(Start::Now);
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
    /// How many jobs are more than there are threads to come for them.
    fn short_of(&self) -> usize {
        let threads = self.idle.len() + self.called + self.starting;
        self.jobs.len().saturating_sub(threads)
    }

    /// Calls an idle thread if there is a job, unless one is on its way. It is to be woken once the
    /// lock is free, which it needs.
    fn call(&mut self) -> Option<Thread> {
        if self.called > 0 || self.jobs.is_empty() {
            return None;
        }
        let thread = self.idle.pop()?;
        self.called += 1;
        Some(thread)
    }
}

fn wake(called: Option<Thread>) {
    if let Some(thread) = called {
        thread.unpark();
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let mut crew = self.shared.lock();
        crew.is_over = true;
        crew.idle.iter().for_each(Thread::unpark);
    }
}

impl Shared {
    /// The life of a thread.
    fn work(&self) {
        let mut is_starting = true;
        let mut kept_until = Instant::now();
        loop {
            match self.next(std::mem::take(&mut is_starting), kept_until) {
                Ok(Job { run, turn }) => {
                    // What it held is dropped; the thread is needed on.
                    drop(catch_unwind(AssertUnwindSafe(run)));
                    if turn == Turn::Last {
                        kept_until = Instant::now() + self.kept_for;
                    }
                }
                Err(left) => return (self.ended)(left),
            }
        }
    }

    /// The next job.
    ///
    /// # Errors
    /// How many threads are left, when no job has come until `kept_until` and this one is to end.
    fn next(&self, is_starting: bool, kept_until: Instant) -> Result<Job, usize> {
        let mut crew = self.lock();
        crew.starting -= usize::from(is_starting);
        loop {
            if let Some(job) = crew.jobs.pop_front() {
                let called = crew.call();
                drop(crew);
                wake(called);
                return Ok(job);
            }
            if crew.is_over {
                crew.threads -= 1;
                return Err(crew.threads);
            }
            let this = thread::current();
            crew.idle.push(this.clone());
            let place = loop {
                // The last one waits for as long as it takes, and costs nothing.
                let is_last = crew.threads == 1;
                let left = kept_until.saturating_duration_since(Instant::now());
                drop(crew);
                match is_last {
                    true => thread::park(),
                    false => thread::park_timeout(left),
                }
                crew = self.lock();
                let place = crew.idle.iter().position(|idle| idle.id() == this.id());
                let may_end = crew.threads > 1 && Instant::now() >= kept_until;
                if place.is_none() || may_end || crew.is_over {
                    break place;
                }
            };
            match place {
                None => crew.called -= 1,
                Some(place) => {
                    crew.idle.remove(place);
                    if crew.jobs.is_empty() {
                        crew.threads -= 1;
                        return Err(crew.threads);
                    }
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Crew> {
        self.crew.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::mpsc;
    use std::thread::ThreadId;

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
    fn a_crowd_that_comes_at_once_is_served_at_once() {
        const CROWD: usize = 20;
        let workers = Workers::new(Duration::from_secs(10), |_| {});
        let (say, said) = mpsc::channel();
        // The second time by threads that wait, of which each calls the next.
        let threads: Vec<HashSet<ThreadId>> = [(); 2]
            .iter()
            .map(|()| {
                let gate = Arc::new(std::sync::Barrier::new(CROWD));
                for _ in 0..CROWD {
                    let (gate, say) = (Arc::clone(&gate), say.clone());
                    let job = move || {
                        gate.wait();
                        say.send(thread::current().id()).expect("it is waited for");
                    };
                    workers.run(job, Turn::Last).expect("threads can be had");
                }
                let soon = Duration::from_secs(10);
                let threads = (0..CROWD)
                    .map(|_| said.recv_timeout(soon).expect("none waits for another"))
                    .collect();
                while workers.shared.lock().idle.len() < CROWD {
                    thread::park_timeout(Duration::from_millis(1));
                }
                threads
            })
            .collect();
        assert_eq!(threads[0], threads[1]);
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
