//! Accepting connections, holding no more of them than there is room for, and draining them.

use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use slab::Slab;

use super::tiny::Pairs;
use super::workers::{Start, Workers};
use super::{Handler, Limits, Listener, connection};
use crate::vital;

/// How many connections beyond the limit may be on their way out at once.
const LEAVING: usize = 16;
/// How long the accept loop waits for one of them before it turns a new one away: it takes no
/// longer than a thread takes to wake, which can be long on a machine with too much to do.
const LEAVING_WAIT: Duration = Duration::from_secs(1);
/// How long it waits when nobody was told to leave: all are being answered, or have only just begun
/// to send or receive.
const BUSY_WAIT: Duration = Duration::from_millis(FRESH_MS + 50);
/// How long it spares connections that have only just begun something. They may renew that again
/// and again, and newcomers have to get in.
const FRESH_WAIT: Duration = Duration::from_millis(10);
/// How soon it is tried again when there were no descriptors or threads.
const RETRY: Duration = Duration::from_millis(20);
/// How long an idle thread is kept at most.
const THREAD_KEPT: Duration = Duration::from_secs(5);
/// How often connections are looked at while it is waited for one to leave.
const LOOK: Duration = Duration::from_millis(20);
/// How long a connection is left alone in what it has just begun, in milliseconds: the request may
/// be on its way, the reply about to leave.
const FRESH_MS: u64 = 100;
/// How long connections that were waiting to be accepted at a stop are still taken: they would be
/// reset with the socket.
const SWEEP: Duration = Duration::from_millis(100);

/// A running server. It runs until [`Server::stop`].
pub struct Server {
    shared: Arc<Shared>,
    accept: JoinHandle<()>,
    wake: UnixStream,
    address: SocketAddr,
}

impl Server {
    /// Starts to accept connections; `handler` answers their requests.
    ///
    /// # Errors
    /// When a thread or a descriptor cannot be had.
    pub fn start(
        listener: Listener,
        limits: Limits,
        handler: Arc<dyn Handler>,
    ) -> io::Result<Self> {
        let address = listener.address();
        let (wake, woken) = UnixStream::pair()?;
        let kept_for = THREAD_KEPT.min(limits.idle);
        let shared = Arc::new(Shared {
            handler,
            limits,
            pairs: Pairs::default(),
            seats: Mutex::default(),
            left: Condvar::new(),
            stopping: AtomicBool::new(false),
            started: Instant::now(),
        });
        let workers = {
            let shared = Arc::clone(&shared);
            // Nothing is left of a crowd that has gone.
            Workers::new(kept_for, move |threads| shared.pairs.keep(threads))
        };
        let accept = {
            let shared = Arc::clone(&shared);
            vital::spawn("accept", move || {
                accept_loop(&listener, &woken, &shared, &workers);
            })?
        };
        Ok(Self {
            shared,
            accept,
            wake,
            address,
        })
    }

    /// The address that is listened on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops: no new connections, requests in flight are answered, but nobody is waited for
    /// longer than `at_most`.
    pub fn stop(self, at_most: Duration) {
        let deadline = Instant::now() + at_most;
        self.shared.stopping.store(true, Ordering::SeqCst);
        if let Err(e) = (&self.wake).write_all(b"x") {
            log::error!("cannot wake the accept loop: {e}");
        }
        // It ends the process before it ends any other way.
        let _ = self.accept.join();
        self.shared.drain(deadline);
    }
}

/// What all connections of a server share.
pub(super) struct Shared {
    pub(super) handler: Arc<dyn Handler>,
    pub(super) limits: Limits,
    pub(super) pairs: Pairs,
    /// The connections that are open. Held for a look or a change, never while one is served.
    seats: Mutex<Slab<Arc<Seat>>>,
    left: Condvar,
    stopping: AtomicBool,
    started: Instant,
}

/// A connection's place in the table.
pub(super) struct Seat {
    pub(super) stream: TcpStream,
    pub(super) remote: SocketAddr,
    server_started: Instant,
    /// What the connection is doing (the lowest three bits) and since when (milliseconds since the
    /// server started). One word, so that a look at it is never half old.
    doing: AtomicU64,
    told_to_leave: AtomicBool,
}

/// What a connection is doing, in the order in which connections are closed when room is needed.
#[derive(Clone, Copy)]
pub(super) enum Doing {
    /// Nothing more: it has its last reply, and the client may be reading it.
    Parting = 0,
    /// Nothing: it is between requests, or not at its first yet.
    Waiting = 1,
    /// Receiving the head of a request.
    Head = 2,
    /// Receiving the body of a request.
    Body = 3,
    /// Sending a reply, which lasts where the client is slow to take it.
    Sending = 4,
    /// Being answered. Those are left alone, and so are those of the next kind.
    Busy = 5,
    /// Told to leave, to make room.
    Leaving = 6,
}

const DOING_BITS: u32 = 3;
const PARTING: u64 = Doing::Parting as u64;
const WAITING: u64 = Doing::Waiting as u64;
const HEAD: u64 = Doing::Head as u64;
const BUSY: u64 = Doing::Busy as u64;

impl Seat {
    pub(super) fn is(&self, doing: Doing) {
        let word = self.now() << DOING_BITS | doing as u64;
        self.doing.store(word, Ordering::Release);
    }

    /// What it is doing, as a number that orders as [`Doing`] does, and since when.
    fn doing(&self) -> (u64, u64) {
        let word = self.doing.load(Ordering::Acquire);
        (word & ((1 << DOING_BITS) - 1), word >> DOING_BITS)
    }

    /// Tells it to leave, unless it has gone on to something else than `doing`. Returns whether it
    /// was told.
    fn tell_to_leave(&self, (doing, since): (u64, u64)) -> bool {
        let before = since << DOING_BITS | doing;
        let after = since << DOING_BITS | Doing::Leaving as u64;
        let told = self
            .doing
            .compare_exchange(before, after, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok();
        if told {
            self.told_to_leave.store(true, Ordering::Release);
            let how = match doing {
                // A request that arrives at this very moment is still answered.
                WAITING => Shutdown::Read,
                _ => Shutdown::Both,
            };
            let _ = self.stream.shutdown(how);
        }
        told
    }

    /// Whether it was told to leave, whatever it has done since.
    pub(super) fn is_told_to_leave(&self) -> bool {
        self.told_to_leave.load(Ordering::Acquire)
    }

    /// Whether it has no request, and has had time to send one.
    fn has_nothing_to_say(&self) -> bool {
        let (doing, since) = self.doing();
        matches!(doing, WAITING | HEAD) && !self.is_fresh(since)
    }

    /// Whether what it does `since` then was begun only just now.
    fn is_fresh(&self, since: u64) -> bool {
        self.now().saturating_sub(since) <= FRESH_MS
    }

    /// Milliseconds since the server started.
    fn now(&self) -> u64 {
        u64::try_from(self.server_started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Shared {
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    fn seats(&self) -> MutexGuard<'_, Slab<Arc<Seat>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for one more connection by closing one, the one that has waited longest. Returns
    /// whether there is room.
    fn make_room(&self) -> bool {
        let asked = Instant::now();
        let mut told = false;
        let mut seats = self.seats();
        loop {
            if seats.len() < self.limits.max_connections {
                return true;
            }
            told = told || close_longest_waiting(&seats, asked.elapsed() >= FRESH_WAIT);
            // One that was told to leave may still be there for a moment, beside the newcomer.
            let (at_most, room) = match told {
                true => (LEAVING_WAIT, self.limits.max_connections + LEAVING),
                false => (BUSY_WAIT, self.limits.max_connections),
            };
            if seats.len() < room {
                return true;
            }
            let left = at_most.saturating_sub(asked.elapsed());
            if left.is_zero() || self.is_stopping() {
                return false;
            }
            // Looked at again and again, for one that is busy now may be idle next.
            (seats, _) = self
                .left
                .wait_timeout_while(seats, left.min(FRESH_WAIT), |seats| seats.len() >= room)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until every connection is gone, and closes those that are not by the deadline.
    fn drain(&self, deadline: Instant) {
        let mut seats = self.seats();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if seats.is_empty() || left.is_zero() {
                break;
            }
            // Looked at again and again, for one that is busy now may be idle next.
            for (_, seat) in &*seats {
                if seat.has_nothing_to_say() {
                    // What has already arrived can still be read after this; then comes the end.
                    let _ = seat.stream.shutdown(Shutdown::Read);
                }
            }
            (seats, _) = self
                .left
                .wait_timeout_while(seats, left.min(LOOK), |seats| !seats.is_empty())
                .unwrap_or_else(PoisonError::into_inner);
        }
        if !seats.is_empty() {
            log::warn!("{} connections were not done and are closed", seats.len());
        }
        for (_, seat) in &*seats {
            let _ = seat.stream.shutdown(Shutdown::Both);
        }
    }
}

/// Tells the connection that has waited longest to leave. One that has only just begun something
/// is spared, unless `in_need` of room, when one that waits for its client is taken all the same.
/// Returns whether one was told.
fn close_longest_waiting(seats: &Slab<Arc<Seat>>, in_need: bool) -> bool {
    let may_go = |(doing, since): (u64, u64), seat: &Seat| match doing {
        PARTING => true,
        WAITING | HEAD if in_need => true,
        BUSY.. => false,
        _ => !seat.is_fresh(since),
    };
    let longest = seats
        .iter()
        .map(|(_, seat)| (seat.doing(), seat))
        .filter(|(doing, seat)| may_go(*doing, seat))
        .min_by_key(|(doing, _)| *doing);
    longest.is_some_and(|(doing, seat)| seat.tell_to_leave(doing))
}

fn accept_loop(listener: &Listener, woken: &UnixStream, shared: &Arc<Shared>, workers: &Workers) {
    let mut sweep_until = None;
    let mut complained: Option<Instant> = None;
    loop {
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
            Ok((stream, remote)) => seat(stream, remote, shared, workers),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                if shared.is_stopping() {
                    return;
                }
                // Who got no thread gets that of the next to leave.
                let short_of = workers.short_of();
                for _ in 0..short_of {
                    close_longest_waiting(&shared.seats(), true);
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
                close_longest_waiting(&shared.seats(), true);
                wait(None, woken, Some(RETRY));
            }
            // A connection that was gone before it was accepted, or its network (accept(2)).
            Err(e) => log::debug!("a connection was not accepted: {e}"),
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

fn seat(stream: TcpStream, remote: SocketAddr, shared: &Arc<Shared>, workers: &Workers) {
    if !shared.make_room() {
        shared.handler.refused(503);
        connection::turn_away(&stream);
        return;
    }
    let seat = Arc::new(Seat {
        stream,
        remote,
        server_started: shared.started,
        doing: AtomicU64::new(0),
        told_to_leave: AtomicBool::new(false),
    });
    // Left alone until it has a thread.
    seat.is(Doing::Busy);
    let place = Place {
        key: shared.seats().insert(Arc::clone(&seat)),
        shared: Arc::clone(shared),
    };
    let job = {
        let seat = Arc::clone(&seat);
        move || {
            let place = place;
            connection::serve(&seat, &place.shared);
            // The place is free only once the descriptor is.
            drop((seat, place));
        }
    };
    match workers.run(job) {
        Ok(Start::Now) => {}
        Ok(Start::Later) => {
            close_longest_waiting(&shared.seats(), true);
        }
        Err(e) => {
            log::debug!("no thread for a connection: {e}");
            shared.handler.refused(503);
            connection::turn_away(&seat.stream);
        }
    }
}

/// Takes the connection out of the table when it ends, however it ends.
struct Place {
    key: usize,
    shared: Arc<Shared>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut seats = self.shared.seats();
        drop(seats.remove(self.key));
        self.shared.left.notify_all();
    }
}

/// Waits for a connection, for the wake-up that a stop sends, or for the time given.
fn wait(listener: Option<&TcpListener>, woken: &UnixStream, at_most: Option<Duration>) {
    let timeout = at_most.and_then(|at_most| Timespec::try_from(at_most).ok());
    let mut fds = vec![PollFd::new(woken, PollFlags::IN)];
    fds.extend(listener.map(|listener| PollFd::new(listener, PollFlags::IN)));
    // An interrupted wait is a wait that was short.
    let _ = poll(&mut fds, timeout.as_ref());
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::atomic::AtomicU16;

    use super::super::{Reply, Request};
    use super::*;
    use crate::shutdown::Latch;

    /// Answers when it is let.
    #[derive(Default)]
    struct Slow {
        asked: Latch,
        let_go: Latch,
        refused: AtomicU16,
    }

    impl Handler for Slow {
        fn handle(&self, _: &Request) -> Reply {
            self.asked.set();
            assert!(self.let_go.wait_for(Duration::from_secs(10)));
            Reply::with_body(200, "text/plain", Vec::new())
        }

        fn refused(&self, status: u16) {
            self.refused.store(status, Ordering::SeqCst);
        }
    }

    fn ask(address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).expect("it listens");
        let request = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        stream.write_all(request).expect("sent");
        stream
    }

    fn read(mut stream: TcpStream) -> String {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    #[test]
    fn a_newcomer_is_turned_away_only_when_all_are_being_answered() {
        let slow = Arc::new(Slow::default());
        let handler = Arc::clone(&slow) as Arc<dyn Handler>;
        let listener = Listener::bind("127.0.0.1", 0).expect("a free port");
        let limits = Limits::new(1, Duration::from_secs(10));
        let server = Server::start(listener, limits, handler).expect("started");
        let first = ask(server.address());
        assert!(slow.asked.wait_for(Duration::from_secs(10)));

        let answer = read(ask(server.address()));
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("\r\nRetry-After: 1\r\n"), "{answer}");
        assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
        assert!(answer.contains(r#"{"detail":""#), "{answer}");
        assert_eq!(slow.refused.load(Ordering::SeqCst), 503);

        slow.let_go.set();
        assert!(read(first).starts_with("HTTP/1.1 200 "));
        server.stop(Duration::from_secs(1));
    }

    const SIX: Duration = Duration::from_secs(6);

    /// Answers with six MiB, or not at all.
    struct Odd;

    impl Handler for Odd {
        fn handle(&self, request: &Request) -> Reply {
            assert_ne!(request.segments().expect("UTF-8"), ["panic"]);
            Reply::with_body(200, "text/plain", vec![b'x'; 6 << 20])
        }

        fn refused(&self, _: u16) {}
    }

    fn odd(limits: Limits) -> Server {
        let listener = Listener::bind("127.0.0.1", 0).expect("a free port");
        Server::start(listener, limits, Arc::new(Odd)).expect("started")
    }

    #[test]
    fn a_panic_in_one_request_stays_in_that_request() {
        let server = odd(Limits::new(4, Duration::from_secs(10)));
        for _ in 0..3 {
            let mut stream = TcpStream::connect(server.address()).expect("it listens");
            let request = b"GET /panic HTTP/1.1\r\nHost: h\r\n\r\n";
            stream.write_all(request).expect("sent");
            let answer = read(stream);
            assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
            assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
        }
        assert!(read(ask(server.address())).starts_with("HTTP/1.1 200 "));
        server.stop(Duration::from_secs(1));
    }

    #[test]
    fn a_client_that_does_not_read_its_reply_is_dropped_in_time() {
        let mut limits = Limits::new(4, Duration::from_secs(60));
        limits.reply = Duration::ZERO;
        let server = odd(limits);
        // More than sockets buffer, and a second for each MiB.
        let asked = Instant::now();
        let stream = ask(server.address());
        let mut came = false;
        loop {
            let there = !server.shared.seats().is_empty();
            if came && !there {
                break;
            }
            came |= there;
            assert!(asked.elapsed() < 4 * SIX, "it is waited for");
            std::thread::park_timeout(Duration::from_millis(20));
        }
        assert!(asked.elapsed() > SIX.mul_f64(0.9), "{:?}", asked.elapsed());
        drop(stream);
        server.stop(Duration::from_secs(1));
    }
}
