//! One connection: request after request, each within its deadlines.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::arrived::Arrived;
use super::head::{Head, Refusal};
use super::reply::{Body, Stream};
use super::seat::{Doing, Seat};
use super::server::Shared;
use super::{Reply, tiny};
use crate::courtesy::Courtesy;

/// How long a closed connection is still read, so that what the client has sent meanwhile does
/// not make the kernel throw our last reply away (RFC 9112, 9.6).
const LINGER: Duration = Duration::from_secs(1);
/// What is read at once of what is not looked at any more.
const READ: usize = 16 * 1024;
/// The longest reply that has arrived by the time its client may send anything more. Of a longer one
/// the rest would be lost with that.
const SOON_THERE: usize = 16 * 1024;
/// By how much a time-out may be off. One that is costs nothing; to set it costs a system call.
const SLACK: Duration = Duration::from_millis(20);

/// How often it is looked whether a client is still there that waits for what there is to say.
const LOOK: Duration = Duration::from_secs(5);

/// How many pieces of a reply are held ready to be sent.
const PIECES: usize = 1024;
/// What is sent of a reply before other threads may go first. To send a list of thousands is to copy
/// megabytes, and whoever only wants to say that he is alive would wait behind each of its readers
/// for as long as the scheduler lets them: with eight of them on two processors the p99 of a
/// heartbeat is some 12 times what it is without when all is sent at once, 7 times with four times
/// this much, and 2 times like this, which costs the readers about a fifth of what they get.
const CHUNK: usize = 128 * 1024;
/// Of how many pieces that may consist.
const CHUNK_PIECES: usize = 64;

/// Why there is no further request.
enum End {
    /// The client has gone, or is to be dropped without a word.
    Silent,
    /// What it sent is refused.
    Refused(Refusal),
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What a read with a deadline came to.
enum Read1 {
    Some,
    Eof,
    TimedOut,
}

struct Connection<'a> {
    seat: &'a Seat,
    shared: &'a Shared,
    socket: Socket<'a>,
    arrived: Arrived,
    /// The head of a reply, kept for its room.
    head: Vec<u8>,
    /// Whether the request begins as one to HEAD, whose answer has no body: a refusal neither.
    is_head: bool,
}

/// Serves the connection until it ends; `has_timeouts` from the socket it was accepted on.
pub(super) fn serve(seat: &Seat, shared: &Shared, has_timeouts: bool) {
    let timeout = |limit| if has_timeouts { limit } else { Duration::MAX };
    let mut connection = Connection {
        seat,
        shared,
        socket: Socket {
            stream: &seat.stream,
            read_timeout: timeout(shared.limits.idle),
            write_timeout: timeout(shared.limits.reply),
        },
        arrived: Arrived::default(),
        head: Vec::new(),
        is_head: false,
    };
    if let Err(e) = connection.run() {
        log::debug!("connection from {}: {e}", seat.remote);
    }
}

impl Connection<'_> {
    fn run(&mut self) -> io::Result<()> {
        let mut is_first = true;
        loop {
            let (head, body) = match self.next_request() {
                Ok(request) => request,
                Err(End::Silent) => return Ok(()),
                Err(End::Refused(refusal)) => return self.refuse(&refusal),
            };
            self.seat.is(Doing::Busy);
            let wants_more = head.keep_alive;
            let mut request = match self.shared.pairs.parse(head, body) {
                Ok(request) => request,
                Err(refusal) => return self.refuse(&refusal),
            };
            request.is_probe = self.seat.is_probe;
            request.remote = Some(self.seat.remote.ip().to_canonical());
            let handled = catch_unwind(AssertUnwindSafe(|| {
                self.await_reply(self.shared.handler.handle(&request))
            }));
            let mut reply = match handled {
                Ok(Some(reply)) => reply,
                Ok(None) => return Ok(()),
                Err(_) => {
                    log::error!("handling a request panicked");
                    return self.refuse(&Refusal::new(500, "Internal Server Error"));
                }
            };
            let keep_alive = wants_more && !self.has_to_end() && reply.has_end();
            // Said always: HTTP/1.0 clients that asked for it wait to hear it.
            let connection = if keep_alive { "keep-alive" } else { "close" };
            self.write(&reply, request.without_body, connection)?;
            self.seat.is_known.store(true, Ordering::Relaxed);
            if std::mem::replace(&mut is_first, false) && !self.seat.is_probe {
                self.shared.first_answers.fetch_add(1, Ordering::Relaxed);
            }
            if let (Body::Stream(stream), false) = (&mut reply.body, request.without_body) {
                return self.stream(stream.as_mut());
            }
            match (keep_alive, wants_more) {
                (true, _) => {}
                (false, false) if reply.body.length() <= SOON_THERE => return self.part(),
                (false, _) => return self.close(),
            }
        }
    }

    /// The reply, once there is one; `None` when the client has gone before.
    fn await_reply(&self, mut reply: Reply) -> Option<Reply> {
        loop {
            let mut later = match reply.into_later() {
                Ok(later) => later,
                Err(reply) => return Some(reply),
            };
            reply = loop {
                match later.wait(LOOK) {
                    Some(reply) => break reply,
                    None if self.seat.has_gone() => return None,
                    None => {}
                }
            };
        }
    }

    /// Sends what there is to say, until there is nothing more, the client has gone, or it does not
    /// read.
    fn stream(&mut self, stream: &mut dyn Stream) -> io::Result<()> {
        let mut courtesy = Courtesy::default();
        loop {
            self.seat.is(Doing::Busy);
            let next = catch_unwind(AssertUnwindSafe(|| stream.next(LOOK)));
            let Ok(Some(bytes)) = next else {
                return self.close();
            };
            if bytes.is_empty() {
                if self.seat.has_gone() {
                    return Ok(());
                }
                continue;
            }
            let deadline = self.seat.is(Doing::Sending) + self.shared.limits.reply;
            let mut slices = [IoSlice::new(&bytes)];
            self.socket
                .write_all(&mut slices, deadline, &mut courtesy)?;
        }
    }

    /// Whether there is to be no further request, whatever the client wants.
    fn has_to_end(&self) -> bool {
        self.shared.is_stopping() || self.seat.is_told_to_leave()
    }

    /// Says why not, and ends the connection: where the next request begins is unknown.
    fn refuse(&mut self, refusal: &Refusal) -> io::Result<()> {
        self.shared.handler.refused(refusal.status);
        self.seat.is(Doing::Busy);
        let mut reply = Reply::error(refusal.status, refusal.detail);
        if refusal.status == 503 {
            reply = reply.header("Retry-After", "1");
        }
        self.write(&reply, self.is_head, "close")?;
        self.close()
    }

    fn next_request(&mut self) -> Result<(Head, Vec<u8>), End> {
        self.wait_for_first_byte()?;
        let head = self.head()?;
        let body = self.body(&head)?;
        Ok((head, body))
    }

    /// Between requests a connection may stay silent, and may be closed at any time.
    fn wait_for_first_byte(&mut self) -> Result<(), End> {
        let mut deadline = None;
        loop {
            if self.arrived.has_begun() {
                return Ok(());
            }
            // Once: nobody stays by sending line ends.
            let deadline = *deadline
                .get_or_insert_with(|| self.seat.is(Doing::Waiting) + self.shared.limits.idle);
            match self.read(deadline) {
                Ok(Read1::Some) => {}
                Ok(Read1::Eof | Read1::TimedOut) | Err(_) => return Err(End::Silent),
            }
        }
    }

    fn head(&mut self) -> Result<Head, End> {
        let mut deadline = None;
        loop {
            self.is_head = self.arrived.begins_as_head();
            if let Some(head) = self.arrived.head()? {
                return Ok(head);
            }
            let deadline = *deadline
                .get_or_insert_with(|| self.seat.is(Doing::Head) + self.shared.limits.head);
            self.read_more(deadline, "the head of the request took too long")?;
        }
    }

    fn body(&mut self, head: &Head) -> Result<Vec<u8>, End> {
        const LATE: &str = "the body of the request took too long";
        if head.expects_continue && !self.arrived.has_all(&head.framing) {
            (&self.seat.stream)
                .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
                .map_err(|_| End::Silent)?;
        }
        let mut deadline = None;
        loop {
            if let Some(body) = self.arrived.body(&head.framing)? {
                return Ok(body);
            }
            let deadline = *deadline
                .get_or_insert_with(|| self.seat.is(Doing::Body) + self.shared.limits.body);
            self.read_more(deadline, LATE)?;
        }
    }

    /// Reads on in the middle of a request.
    fn read_more(&mut self, deadline: Instant, late: &'static str) -> Result<(), End> {
        match self.read(deadline) {
            Ok(Read1::Some) => Ok(()),
            // We may have cut it off; what is lost that way is sent again, what is refused not.
            Ok(Read1::Eof) if self.has_to_end() => Err(End::Silent),
            Ok(Read1::Eof) => {
                Err(Refusal::new(400, "the request ended before it was whole").into())
            }
            Ok(Read1::TimedOut) => Err(Refusal::new(408, late).into()),
            Err(_) => Err(End::Silent),
        }
    }

    /// Puts what arrives with the rest, not waiting for it beyond `deadline`.
    fn read(&mut self, deadline: Instant) -> io::Result<Read1> {
        let room = self.arrived.room();
        Ok(match self.socket.read(room, deadline)? {
            Some(0) => Read1::Eof,
            Some(count) => {
                self.arrived.put(count);
                Read1::Some
            }
            None => Read1::TimedOut,
        })
    }

    fn write(&mut self, reply: &Reply, without_body: bool, connection: &str) -> io::Result<()> {
        self.head.clear();
        tiny::render_head(reply, connection, &mut self.head)?;
        // From here on it may be the client that is waited for.
        let now = self.seat.is(Doing::Sending);
        let (length, count) = match without_body {
            true => (0, 0),
            false => (reply.body.length(), usize::MAX),
        };
        let mib = u32::try_from(length >> 20).unwrap_or(u32::MAX);
        let deadline = now
            + self
                .shared
                .limits
                .reply
                .saturating_add(Duration::from_secs(1) * mib);
        let body = reply.body.pieces().take(count);
        let mut pieces = std::iter::once(&self.head[..]).chain(body);
        let mut slices = Vec::with_capacity(2);
        let mut courtesy = Courtesy::default();
        loop {
            slices.extend(pieces.by_ref().take(PIECES).map(IoSlice::new));
            if slices.is_empty() {
                return Ok(());
            }
            self.socket
                .write_all(&mut slices, deadline, &mut courtesy)?;
            slices.clear();
        }
    }

    /// Closes after a reply that the client expects to be the last one.
    fn part(&mut self) -> io::Result<()> {
        // It sends nothing more, so there is nothing that a reply could be thrown away for.
        if self.arrived.is_empty() && !self.seat.has_unread() {
            return Ok(());
        }
        self.close()
    }

    /// Says that nothing more comes, and lets the client read that before the socket goes.
    fn close(&mut self) -> io::Result<()> {
        self.seat.is(Doing::Parting);
        self.seat.stream.shutdown(Shutdown::Write)?;
        let deadline = Instant::now() + LINGER;
        let mut bytes = [0; READ];
        while let Some(1..) = self.socket.read(&mut bytes, deadline)? {}
        Ok(())
    }
}

/// A stream, and the time-outs that are set on it.
struct Socket<'a> {
    stream: &'a TcpStream,
    read_timeout: Duration,
    write_timeout: Duration,
}

impl Socket<'_> {
    /// Writes all there is, not beyond `deadline`, and lets others go first now and then.
    fn write_all(
        &mut self,
        mut rest: &mut [IoSlice<'_>],
        deadline: Instant,
        courtesy: &mut Courtesy,
    ) -> io::Result<()> {
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(
                    ErrorKind::TimedOut,
                    "the client does not read its reply",
                ));
            }
            let written = match rest.iter().map(|slice| slice.len()).sum() {
                ..=CHUNK => self.write(rest, left),
                _ => {
                    let mut room = [IoSlice::new(&[]); CHUNK_PIECES];
                    let pieces = cut(rest, &mut room);
                    self.write(&room[..pieces], left)
                }
            };
            match written {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => IoSlice::advance_slices(&mut rest, count),
                Err(e) if is_retry(&e) => {}
                Err(e) => return Err(e),
            }
            if !rest.is_empty() {
                courtesy.give_way();
            }
        }
        Ok(())
    }

    /// Waits for bytes, not beyond `deadline`: `None` when it has come.
    fn read(&mut self, bytes: &mut [u8], deadline: Instant) -> io::Result<Option<usize>> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            if self.read_timeout.abs_diff(left) > SLACK {
                self.stream.set_read_timeout(Some(left))?;
                self.read_timeout = left;
            }
            match self.stream.read(bytes) {
                Ok(count) => return Ok(Some(count)),
                Err(e) if is_retry(&e) => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Writes what fits, and waits for about as long as is `left` until anything does.
    fn write(&mut self, slices: &[IoSlice<'_>], left: Duration) -> io::Result<usize> {
        if self.write_timeout > left.saturating_add(SLACK) {
            self.stream.set_write_timeout(Some(left))?;
            self.write_timeout = left;
        }
        self.stream.write_vectored(slices)
    }
}

/// Puts as much of the slices into `room` as is sent at once. Returns how many pieces that is.
fn cut<'a>(slices: &'a [IoSlice<'_>], room: &mut [IoSlice<'a>]) -> usize {
    let mut left = CHUNK;
    let mut pieces = 0;
    for (piece, slice) in room.iter_mut().zip(slices) {
        let length = slice.len().min(left);
        *piece = IoSlice::new(&slice[..length]);
        pieces += 1;
        left -= length;
        if left == 0 {
            break;
        }
    }
    pieces
}

/// Whether a call on a socket with a time-out came to nothing, and may be made again where time is
/// left: also for a signal, if only that the process was stopped and goes on (signal(7)).
pub(super) fn is_retry(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

/// A connection for which there is no room: told so, if that does not take waiting.
pub(super) fn turn_away(stream: &TcpStream) {
    let reply = Reply::error(503, "as many connections as this server takes are open")
        .header("Retry-After", "1");
    let mut answer = Vec::new();
    let told = tiny::render_head(&reply, "close", &mut answer).and_then(|()| {
        stream.set_nonblocking(true)?;
        // What has arrived and is not read makes the kernel throw the reply away.
        let _ = (&mut &*stream).read(&mut [0; READ]);
        answer.extend_from_slice(&reply.body.whole());
        (&mut &*stream).write_all(&answer)
    });
    if let Err(e) = told {
        log::debug!("a connection was closed without a word: {e}");
    }
}
