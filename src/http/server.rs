//! A server: it holds no more connections than there is room for, and drains them at a stop.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use slab::Slab;

use super::accept::Accepting;
use super::door::{Connections, Door};
use super::seat::{BUSY, FRESH_MS, HEAD, PARTING, Seat, WAITING};
use super::tiny::Pairs;
use super::workers::Workers;
use super::{Handler, Limits, Listener};

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
/// How long an idle thread is kept at most.
const THREAD_KEPT: Duration = Duration::from_secs(5);
/// How often connections are looked at while it is waited for one to leave.
const LOOK: Duration = Duration::from_millis(20);
/// How long an accept loop is waited for at a stop: longer than it takes, unless it hangs.
const ACCEPT_ENDS: Duration = Duration::from_secs(2);
/// How many connections that ask on our own behalf are held beyond the limit.
const PROBES: usize = 2;

/// A running server. It runs until [`Server::stop`].
pub struct Server {
    shared: Arc<Shared>,
    accepting: Arc<Accepting>,
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
        listener.hand_down(limits.idle, limits.reply)?;
        let kept_for = THREAD_KEPT.min(limits.idle);
        let shared = Arc::new(Shared {
            handler,
            limits,
            pairs: Pairs::default(),
            seats: Mutex::default(),
            left: Condvar::new(),
            awaiting: AtomicUsize::new(0),
            probe: Mutex::default(),
            probes: AtomicUsize::new(0),
            first_answers: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            started: Instant::now(),
        });
        let workers = {
            let shared = Arc::clone(&shared);
            // Nothing is left of a crowd that has gone.
            Workers::new(kept_for, move |threads| shared.pairs.keep(threads))
        };
        let accepting = Accepting::start(listener, Arc::clone(&shared), workers)?;
        Ok(Self {
            shared,
            accepting,
            address,
        })
    }

    /// What can be known of this server from outside, and done about it.
    #[must_use]
    pub fn door(&self) -> Door {
        Door::new(&self.shared, &self.accepting, self.address)
    }

    /// Its connections, to be counted.
    #[must_use]
    pub fn connections(&self) -> Connections {
        Connections(Arc::downgrade(&self.shared))
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
        self.shared.handler.stopping();
        if !self.accepting.end(at_most.min(ACCEPT_ENDS)) {
            log::error!("the accept loop hangs; stopping without it");
        }
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
    /// How many threads wait for that. To wake somebody is a system call, even where nobody waits.
    awaiting: AtomicUsize,
    /// Where the connection comes from that asks on our own behalf, while one does.
    probe: Mutex<Option<SocketAddr>>,
    /// How many of these have a place of their own.
    probes: AtomicUsize,
    /// How many connections had their first request answered. Each shows that new ones are let in,
    /// get a thread and are served.
    pub(super) first_answers: AtomicU64,
    stopping: AtomicBool,
    pub(super) started: Instant,
}

impl Shared {
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    fn seats(&self) -> MutexGuard<'_, Slab<Arc<Seat>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many connections are held.
    pub(super) fn connections(&self) -> usize {
        self.seats().len()
    }

    /// Whether there is room for one more connection as it is.
    pub(super) fn has_room(&self) -> bool {
        self.seats().len() < self.limits.max_connections
    }

    /// Makes room for one more connection by closing one, the one that has waited longest. Returns
    /// whether there is room.
    pub(super) fn make_room(&self) -> bool {
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
            seats = self.wait_while(seats, left.min(FRESH_WAIT), |seats| seats.len() >= room);
        }
    }

    /// Waits for connections to leave, while it is so and no longer than `at_most`.
    fn wait_while<'a>(
        &self,
        seats: MutexGuard<'a, Slab<Arc<Seat>>>,
        at_most: Duration,
        mut condition: impl FnMut(&Slab<Arc<Seat>>) -> bool,
    ) -> MutexGuard<'a, Slab<Arc<Seat>>> {
        self.awaiting.fetch_add(1, Ordering::Relaxed);
        let (seats, _) = self
            .left
            .wait_timeout_while(seats, at_most, |seats| condition(seats))
            .unwrap_or_else(PoisonError::into_inner);
        self.awaiting.fetch_sub(1, Ordering::Relaxed);
        seats
    }

    /// Closes the connection that has waited longest, for want of what it holds.
    pub(super) fn close_longest_waiting(&self) {
        close_longest_waiting(&self.seats(), true);
    }

    /// Expects the connection from `local` to be one that asks on our own behalf.
    pub(super) fn expect_probe(&self, local: Option<SocketAddr>) {
        *self.probe.lock().unwrap_or_else(PoisonError::into_inner) = local;
    }

    /// The place that is reserved for the connection from `remote`, if it asks on our own behalf.
    pub(super) fn probe_from(self: &Arc<Self>, remote: SocketAddr) -> Option<Place> {
        let expected = *self.probe.lock().unwrap_or_else(PoisonError::into_inner);
        // A socket for both families shows IPv4 as IPv6.
        let plain = |address: SocketAddr| (address.ip().to_canonical(), address.port());
        if expected.map(plain) != Some(plain(remote)) {
            return None;
        }
        // One that hangs is not to be joined by ever more.
        if self.probes.fetch_add(1, Ordering::SeqCst) >= PROBES {
            self.probes.fetch_sub(1, Ordering::SeqCst);
            return None;
        }
        Some(Place {
            key: None,
            shared: Arc::clone(self),
        })
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
            seats = self.wait_while(seats, left.min(LOOK), |seats| !seats.is_empty());
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
/// is spared; `in_need` of room, where there is no other, one that waits for its client is taken all
/// the same, unless its request has arrived. Returns whether one was told.
fn close_longest_waiting(seats: &Slab<Arc<Seat>>, in_need: bool) -> bool {
    let may_go = |(doing, since): (u64, u64), seat: &Seat| match doing {
        PARTING => true,
        WAITING | HEAD if in_need => !seat.is_fresh(since) || !seat.has_unread(),
        BUSY.. => false,
        _ => !seat.is_fresh(since),
    };
    let longest = seats
        .iter()
        .map(|(_, seat)| (seat.doing(), seat))
        .filter(|(doing, seat)| may_go(*doing, seat))
        .min_by_key(|((doing, since), seat)| {
            let is_spared = *doing != PARTING && seat.is_fresh(*since);
            (is_spared, *doing, *since)
        });
    longest.is_some_and(|(doing, seat)| seat.tell_to_leave(doing))
}

/// A connection's place, among the seats or the one reserved: free again when the connection ends,
/// however it ends.
pub(super) struct Place {
    /// `None`: the reserved one.
    key: Option<usize>,
    shared: Arc<Shared>,
}

impl Place {
    pub(super) fn among_the_seats(seat: &Arc<Seat>, shared: &Arc<Shared>) -> Self {
        Self {
            key: Some(shared.seats().insert(Arc::clone(seat))),
            shared: Arc::clone(shared),
        }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(key) = self.key else {
            self.shared.probes.fetch_sub(1, Ordering::SeqCst);
            return;
        };
        let mut seats = self.shared.seats();
        drop(seats.remove(key));
        // Seen as it was when the lock was last given up, which waiting begins with.
        if self.shared.awaiting.load(Ordering::Relaxed) > 0 {
            self.shared.left.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
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
    fn who_came_before_the_server_started_is_not_waited_for_any_longer() {
        const IDLE: Duration = Duration::from_millis(300);
        let listener = Listener::bind("127.0.0.1", 0).expect("a free port");
        let early = TcpStream::connect(listener.address()).expect("it listens");
        let server = Server::start(listener, Limits::new(4, IDLE), Arc::new(Odd)).expect("started");
        let late = TcpStream::connect(server.address()).expect("it listens");
        for silent in [early, late] {
            silent.set_read_timeout(Some(SIX)).expect("set");
            let said = (&silent).read_to_end(&mut Vec::new());
            assert_eq!(said.expect("closed"), 0);
        }
        server.stop(Duration::from_secs(1));
    }

    #[test]
    fn what_comes_late_behind_the_last_request_does_not_cost_a_long_reply() {
        let server = odd(Limits::new(4, Duration::from_secs(10)));
        let mut stream = ask(server.address());
        // What it has not read yet is with us.
        let socket = socket2::SockRef::from(&stream);
        socket.set_recv_buffer_size(64 * 1024).expect("set");
        let mut most = vec![0; 5 << 20];
        stream.read_exact(&mut most).expect("most of it");
        // The rest is on its way meanwhile.
        std::thread::park_timeout(Duration::from_millis(300));
        stream.write_all(b"\r\n").expect("sent");
        std::thread::park_timeout(Duration::from_millis(50));
        let rest = read(stream);
        assert!(most.len() + rest.len() > 6 << 20);
        server.stop(Duration::from_secs(1));
    }

    #[test]
    fn a_client_that_does_not_read_its_reply_is_dropped_in_time() {
        let mut limits = Limits::new(4, Duration::from_secs(60));
        limits.reply = Duration::ZERO;
        let listener = Listener::bind("127.0.0.1", 0).expect("a free port");
        // More than sockets buffer, and a second for each MiB. The first has no time-outs from the
        // listener.
        let asked = Instant::now();
        let early = ask(listener.address());
        let server = Server::start(listener, limits, Arc::new(Odd)).expect("started");
        let late = ask(server.address());
        let mut came = false;
        loop {
            let there = server.shared.seats().len();
            if came && there == 0 {
                break;
            }
            came |= there == 2;
            assert!(asked.elapsed() < 4 * SIX, "it is waited for");
            std::thread::park_timeout(Duration::from_millis(20));
        }
        assert!(asked.elapsed() > SIX.mul_f64(0.9), "{:?}", asked.elapsed());
        drop((early, late));
        server.stop(Duration::from_secs(1));
    }
}
