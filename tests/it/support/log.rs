//! What a child process says on stderr.

use std::io::Read;
use std::os::fd::AsFd;
use std::process::ChildStderr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The lines of one child, read as they come so that it need not wait.
pub struct Log {
    said: Mutex<Said>,
    more: Condvar,
    reading: Arc<Mutex<()>>,
}

struct Said {
    stderr: ChildStderr,
    lines: Vec<String>,
    /// The beginning of the next line.
    begun: Vec<u8>,
}

impl Log {
    /// The log, and who reads it until nobody writes it any more.
    pub fn of(stderr: ChildStderr) -> (Arc<Self>, JoinHandle<()>) {
        let news = stderr.as_fd().try_clone_to_owned().expect("a descriptor");
        let log = Arc::new(Self {
            said: Mutex::new(Said {
                stderr,
                lines: Vec::new(),
                begun: Vec::new(),
            }),
            more: Condvar::new(),
            reading: Arc::default(),
        });
        let reader = Arc::clone(&log);
        let reader = thread::spawn(move || while is_readable(&news, None) && reader.said().1 {});
        (log, reader)
    }

    /// All that was said until now: also what waits to be read, so that what the child said before it
    /// answered is among it.
    pub fn lines(&self) -> Vec<String> {
        self.said().0.lines.clone()
    }

    /// The first line with `text` in it, waited for.
    pub fn wait_for(&self, text: &str, at_most: Duration) -> String {
        let deadline = Instant::now() + at_most;
        let mut said = self.said().0;
        loop {
            if let Some(line) = said.lines.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let seen = said.lines.clone();
                // The log is shown once more when the child is dropped.
                drop(said);
                panic!("no line with {text:?} in {seen:#?}");
            }
            said = self.more.wait_timeout(said, left).expect("no panic").0;
        }
    }

    /// Nobody reads while this is locked; who asks for the lines waits.
    pub fn reading(&self) -> Arc<Mutex<()>> {
        Arc::clone(&self.reading)
    }

    /// What was said, with all there is to read, and whether there will be more.
    fn said(&self) -> (MutexGuard<'_, Said>, bool) {
        let _reading = self.reading.lock();
        let mut said = self.said.lock().expect("no panic");
        let goes_on = said.read();
        self.more.notify_all();
        (said, goes_on)
    }
}

impl Said {
    /// Reads all there is; whether there will be more.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        while is_readable(&self.stderr, Some(Duration::ZERO)) {
            let Ok(length @ 1..) = self.stderr.read(&mut buffer) else {
                if !self.begun.is_empty() {
                    self.lines.push(take_text(&mut self.begun));
                }
                return false;
            };
            for byte in &buffer[..length] {
                match byte {
                    b'\n' => self.lines.push(take_text(&mut self.begun)),
                    byte => self.begun.push(*byte),
                }
            }
        }
        true
    }
}

fn take_text(bytes: &mut Vec<u8>) -> String {
    String::from_utf8_lossy(&std::mem::take(bytes)).into_owned()
}

/// Whether there is something to read, or nobody who writes; waited for, without an end if need be.
fn is_readable(stderr: &impl AsFd, at_most: Option<Duration>) -> bool {
    let at_most = at_most.map(|at_most| Timespec::try_from(at_most).expect("short"));
    let mut fds = [PollFd::new(stderr, PollFlags::IN)];
    poll(&mut fds, at_most.as_ref()).expect("it can be polled") > 0
}
