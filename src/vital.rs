//! Threads without which a process had better not go on.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, JoinHandle};

/// Starts such a thread: one that panics ends the process, and whoever started that starts it again.
///
/// # Errors
/// When no thread can be had.
pub fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let thread = name.to_owned();
    thread::Builder::new().name(thread.clone()).spawn(move || {
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            log::error!("the thread {thread} has panicked; the process ends");
            std::process::exit(1);
        }
    })
}
