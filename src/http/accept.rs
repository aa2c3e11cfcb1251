//! The accept loop: there is one, and another takes its place should it hang.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::seat::{Doing, Seat};
use super::server::{Place, Shared};
use super::workers::{Start, Turn, Workers};
use super::{Listener, connection};
use crate::vital;

/// How soon it is tried again when there were no descriptors or threads.
const RETRY: Duration = Duration::from_millis(20);
/// How long connections that were waiting to be accepted at a stop are still taken: they would be
/// reset with the socket.
const SWEEP: Duration = Duration::from_millis(100);

/// The accept loop that is on, and what the next one needs.
pub(super) struct Accepting {
    shared: Arc<Shared>,
    workers: Workers,
    /// The loops have it: it closes with the last of them.
    listener: Weak<Listener>,
    /// Which loop is on. One that hung ends when it sees that it no longer is.
    on: AtomicU64,
    /// Held for a look or a change.
    present: Mutex<Present>,
    ended: Condvar,
}

/// The loop that is on.
struct Present {
    /// Closed, it ends the wait of the loop.
    wake: Option<UnixStream>,
    runs: bool,
}

impl Accepting {
    /// Starts the first loop.
    ///
    /// # Errors
    /// When a thread or a descriptor cannot be had.
    pub(super) fn start(
        listener: Listener,
        shared: Arc<Shared>,
        workers: Workers,
    ) -> io::Result<Arc<Self>> {
        let listener = Arc::new(listener);
        let accepting = Arc::new(Self {
            shared,
            workers,
            listener: Arc::downgrade(&listener),
            on: AtomicU64::new(0),
            present: Mutex::new(Present {
                wake: None,
                runs: false,
            }),
            ended: Condvar::new(),
        });
        accepting.begin(listener)?;
        Ok(accepting)
    }

    /// Puts another loop in the place of the present one, which ends as soon as it notices.
    ///
    /// # Errors
    /// When a thread or a descriptor cannot be had, or the server is being stopped.
    pub(super) fn renew(self: &Arc<Self>) -> io::Result<()> {
        let listener = self.listener.upgrade();
        let listener =
            listener.ok_or_else(|| io::Error::other("nothing is listened on any more"))?;
        self.begin(listener)
    }

    fn begin(self: &Arc<Self>, listener: Arc<Listener>) -> io::Result<()> {
        let (wake, woken) = UnixStream::pair()?;
        let mut present = self.present();
        if self.shared.is_stopping() {
            return Err(io::Error::other("the server is being stopped"));
        }
        let turn = self.on.load(Ordering::SeqCst) + 1;
        let accepting = Arc::clone(self);
        vital::spawn("accept", move || {
            accepting.run(&listener, &woken, turn);
            // Whoever waits for the end of the loop may rely on that nobody is let in any more.
            drop(listener);
            accepting.has_ended(turn);
        })?;
        self.on.store(turn, Ordering::SeqCst);
        present.runs = true;
        present.wake = Some(wake);
        Ok(())
    }

    /// Ends the present loop, once the server is stopping. Returns whether it did end in time.
    pub(super) fn end(&self, at_most: Duration) -> bool {
        let mut present = self.present();
        present.wake = None;
        let (present, _) = self
            .ended
            .wait_timeout_while(present, at_most, |present| present.runs)
            .unwrap_or_else(PoisonError::into_inner);
        !present.runs
    }

    fn has_ended(&self, turn: u64) {
        let mut present = self.present();
        if self.is_on(turn) {
            present.runs = false;
            self.ended.notify_all();
        }
    }

    fn is_on(&self, turn: u64) -> bool {
        self.on.load(Ordering::SeqCst) == turn
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, listener: &Listener, woken: &UnixStream, turn: u64) {
        let shared = &self.shared;
        let mut sweep_until = None;
        let mut complained: Option<Instant> = None;
        // Whoever was established before the listener got its time-outs has none; whoever was
        // established after it was seen to have nobody waiting has them.
        let mut hands_down = false;
        // A thread that is only just started may be ahead of whoever starts it.
        drop(self.present());
        while self.is_on(turn) {
            if shared.is_stopping() {
                // Who waits on a socket that outlives us is answered by our successor.
                if listener.is_inherited() {
                    return;
                }
                let until = *sweep_until.get_or_insert_with(|| Instant::now() + SWEEP);
                if Instant::now() >= until {
                    return;
                }
            }
            match listener.socket.accept() {
                Ok((stream, remote)) => self.seat(stream, remote, hands_down),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    hands_down = true;
                    if shared.is_stopping() {
                        return;
                    }
                    // Who got no thread gets that of the next to leave.
                    let short_of = self.workers.short_of();
                    for _ in 0..short_of {
                        shared.close_longest_waiting();
                    }
                    wait(
                        Some(&listener.socket),
                        woken,
                        (short_of > 0).then_some(RETRY),
                    );
                }
                Err(e) if is_shortage(&e) => {
                    // No reason to stop listening.
                    if complained.is_none_or(|at| at.elapsed() > Duration::from_secs(60)) {
                        log::error!("cannot accept connections: {e}; trying on");
                        complained = Some(Instant::now());
                    }
                    shared.close_longest_waiting();
                    wait(None, woken, Some(RETRY));
                }
                // A connection that was gone before it was accepted, or its network (accept(2)).
                Err(e) => log::debug!("a connection was not accepted: {e}"),
            }
        }
    }

    fn seat(&self, stream: TcpStream, remote: SocketAddr, has_timeouts: bool) {
        let shared = &self.shared;
        let probe = shared.probe_from(remote);
        let is_probe = probe.is_some();
        if !is_probe && !shared.has_room() {
            // Who has given up waiting needs none.
            if !matches!(stream.take_error(), Ok(None)) {
                return;
            }
            if !shared.make_room() {
                shared.handler.refused(503);
                connection::turn_away(&stream);
                return;
            }
        }
        let seat = Arc::new(Seat::new(stream, remote, is_probe, shared.started));
        // Left alone until it has a thread.
        seat.is(Doing::Busy);
        let place = probe.unwrap_or_else(|| Place::among_the_seats(&seat, shared));
        let job = {
            let seat = Arc::clone(&seat);
            move || {
                let place = place;
                connection::serve(&seat, place.shared(), has_timeouts);
                // The place is free only once the descriptor is.
                drop((seat, place));
            }
        };
        let turn = if is_probe { Turn::First } else { Turn::Last };
        match self.workers.run(job, turn) {
            Ok(Start::Now) => {}
            Ok(Start::Later) => shared.close_longest_waiting(),
            Err(e) => {
                log::debug!("no thread for a connection: {e}");
                shared.handler.refused(503);
                connection::turn_away(&seat.stream);
            }
        }
    }
}

/// Whether the system has no descriptor or no memory for one more connection.
fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|short| errno == Some(*short))
}

/// Waits for a connection, for the wake-up that ends the loop, or for the time given.
fn wait(listener: Option<&TcpListener>, woken: &UnixStream, at_most: Option<Duration>) {
    let timeout = at_most.and_then(|at_most| Timespec::try_from(at_most).ok());
    let mut fds = vec![PollFd::new(woken, PollFlags::IN)];
    fds.extend(listener.map(|listener| PollFd::new(listener, PollFlags::IN)));
    // An interrupted wait is a wait that was short.
    let _ = poll(&mut fds, timeout.as_ref());
}
