//! The place of a connection in the table of those that are open: what it does, and since when.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionread;

/// How long a connection is left alone in what it has just begun, in milliseconds: the request may
/// be on its way, the reply about to leave.
pub(super) const FRESH_MS: u64 = 100;
/// How long a stop waits for the first request of a connection, in milliseconds.
const NEW_MS: u64 = 1000;

/// A connection's place in the table.
pub(super) struct Seat {
    pub(super) stream: TcpStream,
    pub(super) remote: SocketAddr,
    /// Whether it asks on our own behalf.
    pub(super) is_probe: bool,
    server_started: Instant,
    /// What the connection is doing (the lowest three bits) and since when (milliseconds since the
    /// server started). One word, so that a look at it is never half old.
    doing: AtomicU64,
    told_to_leave: AtomicBool,
    /// Whether its first request is answered.
    pub(super) is_known: AtomicBool,
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
pub(super) const PARTING: u64 = Doing::Parting as u64;
pub(super) const WAITING: u64 = Doing::Waiting as u64;
pub(super) const HEAD: u64 = Doing::Head as u64;
pub(super) const BUSY: u64 = Doing::Busy as u64;

impl Seat {
    pub(super) fn new(
        stream: TcpStream,
        remote: SocketAddr,
        is_probe: bool,
        server_started: Instant,
    ) -> Self {
        Self {
            stream,
            remote,
            is_probe,
            server_started,
            doing: AtomicU64::new(0),
            told_to_leave: AtomicBool::new(false),
            is_known: AtomicBool::new(false),
        }
    }

    /// Says what it does from now on, and when that is.
    pub(super) fn is(&self, doing: Doing) -> Instant {
        let now = Instant::now();
        let word = self.millis(now) << DOING_BITS | doing as u64;
        self.doing.store(word, Ordering::Release);
        now
    }

    /// What it is doing, as a number that orders as [`Doing`] does, and since when.
    pub(super) fn doing(&self) -> (u64, u64) {
        let word = self.doing.load(Ordering::Acquire);
        (word & ((1 << DOING_BITS) - 1), word >> DOING_BITS)
    }

    /// Tells it to leave, unless it has gone on to something else than `doing`. Returns whether it
    /// was told.
    pub(super) fn tell_to_leave(&self, (doing, since): (u64, u64)) -> bool {
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

    /// Whether it has no request, and has had time to send one. Who has only connected is about to,
    /// even where it takes the client long to get at it; who has been answered may stay silent.
    pub(super) fn has_nothing_to_say(&self) -> bool {
        let (doing, since) = self.doing();
        let spared = match self.is_known.load(Ordering::Relaxed) {
            true => FRESH_MS,
            false => NEW_MS,
        };
        matches!(doing, WAITING | HEAD) && self.now().saturating_sub(since) > spared
    }

    /// Whether something has arrived that its thread has not got to yet.
    pub(super) fn has_unread(&self) -> bool {
        ioctl_fionread(&self.stream).is_ok_and(|count| count > 0)
    }

    /// Whether the client has closed the connection, or at least said that it sends nothing more, as
    /// far as that can be seen without reading.
    pub(super) fn has_gone(&self) -> bool {
        let mut fds = [PollFd::new(&self.stream, PollFlags::RDHUP)];
        let at_once = Timespec::default();
        poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready > 0)
    }

    /// Whether what it does `since` then was begun only just now.
    pub(super) fn is_fresh(&self, since: u64) -> bool {
        self.now().saturating_sub(since) <= FRESH_MS
    }

    /// Milliseconds since the server started.
    fn now(&self) -> u64 {
        self.millis(Instant::now())
    }

    fn millis(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.server_started);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}
