//! One connection: request after request, each within its deadlines.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::arrived::Arrived;
use super::head::{Head, Refusal};
use super::server::{Doing, Seat, Shared};
use super::{Reply, tiny};

/// How long a closed connection is still read, so that what the client has sent meanwhile does
/// not make the kernel throw our last reply away (RFC 9112, 9.6).
const LINGER: Duration = Duration::from_secs(1);
/// What is read at once.
const READ: usize = 16 * 1024;

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
    arrived: Arrived,
    /// Whether the request begins as one to HEAD, whose answer has no body: a refusal neither.
    is_head: bool,
    read_timeout: Duration,
    write_timeout: Duration,
}

/// Serves the connection until it ends.
pub(super) fn serve(seat: &Seat, shared: &Shared) {
    let mut connection = Connection {
        seat,
        shared,
        arrived: Arrived::default(),
        is_head: false,
        read_timeout: Duration::MAX,
        write_timeout: Duration::MAX,
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
            let keep_alive = head.keep_alive;
            let mut request = match self.shared.pairs.parse(&head, &body) {
                Ok(request) => request,
                Err(refusal) => return self.refuse(&refusal),
            };
            request.is_probe = self.seat.is_probe;
            let handled = catch_unwind(AssertUnwindSafe(|| self.shared.handler.handle(&request)));
            let Ok(reply) = handled else {
                log::error!("handling a request panicked");
                return self.refuse(&Refusal::new(500, "Internal Server Error"));
            };
            let keep_alive = keep_alive && !self.has_to_end();
            // Said always: HTTP/1.0 clients that asked for it wait to hear it.
            let connection = if keep_alive { "keep-alive" } else { "close" };
            self.write(&reply, request.without_body, connection)?;
            self.seat.is_known.store(true, Ordering::Relaxed);
            if std::mem::replace(&mut is_first, false) && !self.seat.is_probe {
                self.shared.first_answers.fetch_add(1, Ordering::Relaxed);
            }
            if !keep_alive {
                return self.close();
            }
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
        self.seat.is(Doing::Head);
        let head = self.head()?;
        self.seat.is(Doing::Body);
        let body = self.body(&head)?;
        Ok((head, body))
    }

    /// Between requests a connection may stay silent, and may be closed at any time.
    fn wait_for_first_byte(&mut self) -> Result<(), End> {
        let deadline = Instant::now() + self.shared.limits.idle;
        let mut waits = false;
        loop {
            if self.arrived.has_begun() {
                return Ok(());
            }
            // Once: nobody stays by sending line ends.
            if !std::mem::replace(&mut waits, true) {
                self.seat.is(Doing::Waiting);
            }
            match self.read(deadline) {
                Ok(Read1::Some) => {}
                Ok(Read1::Eof | Read1::TimedOut) | Err(_) => return Err(End::Silent),
            }
        }
    }

    fn head(&mut self) -> Result<Head, End> {
        let deadline = Instant::now() + self.shared.limits.head;
        loop {
            self.is_head = self.arrived.begins_as_head();
            if let Some(head) = self.arrived.head()? {
                return Ok(head);
            }
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
        let deadline = Instant::now() + self.shared.limits.body;
        loop {
            if let Some(body) = self.arrived.body(&head.framing)? {
                return Ok(body);
            }
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

    /// Puts what arrives with the rest.
    fn read(&mut self, deadline: Instant) -> io::Result<Read1> {
        let mut bytes = [0; READ];
        match self.read_into(&mut bytes, deadline)? {
            Some(0) => Ok(Read1::Eof),
            Some(count) => {
                self.arrived.put(&bytes[..count]);
                Ok(Read1::Some)
            }
            None => Ok(Read1::TimedOut),
        }
    }

    /// Waits for bytes, not beyond `deadline`: `None` when it has come.
    fn read_into(&mut self, bytes: &mut [u8], deadline: Instant) -> io::Result<Option<usize>> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            // A time-out that is a little long costs nothing; setting it costs a system call.
            if self.read_timeout > left || self.read_timeout + Duration::from_millis(20) < left {
                self.seat.stream.set_read_timeout(Some(left))?;
                self.read_timeout = left;
            }
            match (&self.seat.stream).read(bytes) {
                Ok(count) => return Ok(Some(count)),
                Err(e) if is_retry(&e) => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn write(&mut self, reply: &Reply, without_body: bool, connection: &str) -> io::Result<()> {
        let head = tiny::render_head(reply, connection)?;
        // From here on it may be the client that is waited for.
        self.seat.is(Doing::Sending);
        let body: &[u8] = if without_body { &[] } else { &reply.body };
        let mib = u32::try_from(body.len() >> 20).unwrap_or(u32::MAX);
        let deadline = Instant::now()
            + self
                .shared
                .limits
                .reply
                .saturating_add(Duration::from_secs(1) * mib);
        let mut slices = [IoSlice::new(&head), IoSlice::new(body)];
        let mut rest = &mut slices[..];
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(
                    ErrorKind::TimedOut,
                    "the client does not read its reply",
                ));
            }
            if self.write_timeout > left {
                self.seat.stream.set_write_timeout(Some(left))?;
                self.write_timeout = left;
            }
            match (&self.seat.stream).write_vectored(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => IoSlice::advance_slices(&mut rest, count),
                Err(e) if is_retry(&e) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Says that nothing more comes, and lets the client read that before the socket goes.
    fn close(&mut self) -> io::Result<()> {
        self.seat.is(Doing::Parting);
        self.seat.stream.shutdown(Shutdown::Write)?;
        let deadline = Instant::now() + LINGER;
        let mut bytes = [0; READ];
        while let Some(1..) = self.read_into(&mut bytes, deadline)? {}
        Ok(())
    }
}

fn is_retry(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

/// A connection for which there is no room: told so, if that does not take waiting.
pub(super) fn turn_away(stream: &TcpStream) {
    let reply = Reply::error(503, "as many connections as this server takes are open")
        .header("Retry-After", "1");
    let told = tiny::render_head(&reply, "close").and_then(|head| {
        stream.set_nonblocking(true)?;
        // What has arrived and is not read makes the kernel throw the reply away.
        let _ = (&mut &*stream).read(&mut [0; READ]);
        (&mut &*stream).write_all(&[&head[..], &reply.body].concat())
    });
    if let Err(e) = told {
        log::debug!("a connection was closed without a word: {e}");
    }
}
