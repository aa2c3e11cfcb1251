//! `tiny_http`, kept behind the door.
//!
//! The crate can read requests only from connections it has accepted itself. So it is given one
//! end of a private socket pair; the other end is fed heads that have passed the door, whole, so that
//! no read in it ever waits. Bodies stay in front, and so do the headers that nearly every client sends
//! and few requests are answered by: the crate locks for each byte of a head, and takes memory for
//! each line. Replies are rendered into memory.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::{self, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use socket2::{Domain, SockAddr, Socket, Type};
use tiny_http::{HTTPVersion, Header, Headers, Response, StatusCode};

use super::head::{Head, Refusal};
use super::request::Method;
use super::{MAX_HEAD, Reply, Request};

/// How many pairs there are at most. A pair is in use for some microseconds of a request, so few
/// serve many threads.
const AT_MOST: usize = 8;
/// The descriptors one pair takes: our end, the crate's, and the copy the crate makes of it.
const DESCRIPTORS_EACH: usize = 3;
/// The descriptors all pairs take together.
pub(super) const DESCRIPTORS: usize = AT_MOST * DESCRIPTORS_EACH;

/// Who answers; the crate would name itself.
const SERVER: &str = concat!("aios-mesh/", env!("CARGO_PKG_VERSION"));

/// The pairs, made when they are first needed and lent to one thread at a time.
#[derive(Default)]
pub(super) struct Pairs {
    pool: Mutex<Pool>,
    returned: Condvar,
}

#[derive(Default)]
struct Pool {
    free: Vec<Pair>,
    made: usize,
    /// How many threads wait for one. To wake somebody is a system call, even where nobody waits.
    waiting: usize,
}

/// One socket pair with a `tiny_http` connection at its far end.
struct Pair {
    near: UnixStream,
    /// What is written to it, kept for its room.
    feed: Vec<u8>,
    far: Box<dyn Iterator<Item = Option<tiny_http::Request>> + Send>,
}

impl Pairs {
    /// Has `tiny_http` parse a request that has passed the door.
    ///
    /// # Errors
    /// A 503 when no pair can be made, a 500 when the crate refuses what the door let pass.
    pub(super) fn parse(&self, head: Head, body: Vec<u8>) -> Result<Request, Refusal> {
        let mut lent = self.borrow().map_err(|e| {
            log::error!("cannot make a socket pair: {e}");
            Refusal::new(503, "this server is short of descriptors or memory")
        })?;
        let parsed = lent.pair.as_mut().map(|pair| pair.parse(head, body));
        match parsed {
            Some(Ok(request)) => Ok(request),
            failed => {
                let why = failed.and_then(Result::err);
                // What is left in the pair is unknown: it is not used again.
                lent.pair = None;
                log::error!("a request that passed the door was not parsed: {why:?}");
                Err(Refusal::new(500, "Internal Server Error"))
            }
        }
    }

    /// Keeps no more pairs than there are threads to use them.
    pub(super) fn keep(&self, threads: usize) {
        let mut pool = self.lock();
        let surplus = pool.made.saturating_sub(threads).min(pool.free.len());
        let kept = pool.free.len() - surplus;
        let gone = pool.free.split_off(kept);
        pool.made -= gone.len();
        // Their sockets are closed after the lock is free again.
        drop(pool);
        drop(gone);
    }

    fn borrow(&self) -> io::Result<Lent<'_>> {
        let mut pool = self.lock();
        while pool.free.is_empty() && pool.made == AT_MOST {
            pool.waiting += 1;
            pool = self
                .returned
                .wait(pool)
                .unwrap_or_else(PoisonError::into_inner);
            pool.waiting -= 1;
        }
        let pair = pool.free.pop();
        let is_missing = pair.is_none();
        pool.made += usize::from(is_missing);
        drop(pool);
        let mut lent = Lent { pairs: self, pair };
        if is_missing {
            lent.pair = Some(Pair::new()?);
        }
        Ok(lent)
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        // Nothing is left half done by a thread that panics while it holds this.
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pair out of the pool, which comes back, or leaves room for a new one, however its use ends.
struct Lent<'a> {
    pairs: &'a Pairs,
    pair: Option<Pair>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut pool = self.pairs.lock();
        match self.pair.take() {
            Some(pair) if !std::thread::panicking() => pool.free.push(pair),
            _ => pool.made -= 1,
        }
        let is_awaited = pool.waiting > 0;
        drop(pool);
        if is_awaited {
            self.pairs.returned.notify_one();
        }
    }
}

impl Pair {
    fn new() -> io::Result<Self> {
        // A name in the abstract namespace needs no file system, but anyone on this host may
        // connect to it. With a backlog of 0 one connection fits the queue: if ours did, it is
        // ours that is accepted; if somebody was faster, ours is refused and the name given up.
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        let name = format!(
            "\0aios-mesh-{:016x}",
            getrandom::u64().map_err(io::Error::other)?
        );
        let name = SockAddr::unix(name)?;
        listener.bind(&name)?;
        listener.listen(0)?;
        let near = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        near.set_nonblocking(true)?;
        near.connect(&name)?;
        near.set_nonblocking(false)?;
        // A head is written before anyone reads it, so it has to fit. The kernel counts its own
        // bookkeeping too, hence the factor.
        near.set_send_buffer_size(4 * MAX_HEAD)?;
        near.set_write_timeout(Some(Duration::from_secs(1)))?;

        let listener = tiny_http::Listener::from(UnixListener::from(listener));
        let plain =
            tiny_http::SslContextWrap::build_ssl_capabilities(None).map_err(io::Error::other)?;
        let far = tiny_http::Server::accept_connection(&listener, &plain)?
            .ok_or_else(|| io::Error::other("tiny_http did not take the connection"))?;
        Ok(Self {
            near: UnixStream::from(near),
            feed: Vec::new(),
            far: Box::new(far.map(Result::ok)),
        })
    }

    fn parse(&mut self, head: Head, body: Vec<u8>) -> io::Result<Request> {
        let feed = &mut self.feed;
        feed.clear();
        for part in [&head.method, " ", &head.target, " HTTP/1.1\r\n"] {
            feed.extend_from_slice(part.as_bytes());
        }
        let [mut host, mut origin, mut content_type, mut authorization] = [const { None }; 4];
        let [mut accept_encoding, mut if_none_match, mut last_event_id] = [const { None }; 3];
        for (name, value) in head.headers {
            let (kept, passes) = match name {
                "Host" => (&mut host, false),
                "Accept-Encoding" => (&mut accept_encoding, false),
                "If-None-Match" => (&mut if_none_match, false),
                "Last-Event-ID" => (&mut last_event_id, false),
                "Origin" => (&mut origin, true),
                "Content-Type" => (&mut content_type, true),
                _ => (&mut authorization, true),
            };
            if passes {
                for part in [name, ": ", &value, "\r\n"] {
                    feed.extend_from_slice(part.as_bytes());
                }
            }
            *kept = Some(value);
        }
        feed.extend_from_slice(b"\r\n");
        self.near.write_all(feed)?;

        let parsed = self
            .far
            .next()
            .flatten()
            .ok_or_else(|| io::Error::other("tiny_http refused the request"))?;
        let (method, without_body) = match parsed.method() {
            tiny_http::Method::Get => (Method::Get, false),
            tiny_http::Method::Head => (Method::Get, true),
            tiny_http::Method::Post => (Method::Post, false),
            tiny_http::Method::Delete => (Method::Delete, false),
            _ => (Method::Other, false),
        };
        let agrees = parsed.url() == head.target
            && [
                ("Origin", &origin),
                ("Content-Type", &content_type),
                ("Authorization", &authorization),
            ]
            .into_iter()
            .all(|(name, value)| {
                let read = parsed.headers().get(name);
                read.map(|read| read.as_str().trim()) == value.as_deref().map(str::trim)
            });
        // Taking the writer is how a request is dropped without an answer.
        drop(parsed.into_writer());
        if !agrees {
            return Err(io::Error::other("tiny_http read another request"));
        }
        Ok(Request {
            method,
            without_body,
            is_probe: false,
            remote: None,
            target: head.target,
            host,
            origin,
            content_type,
            authorization,
            accept_encoding,
            if_none_match,
            last_event_id,
            body,
        })
    }
}

/// Appends the head of a reply to `out`, as `tiny_http` renders it; the body follows it as it is.
pub(super) fn render_head(reply: &Reply, connection: &str, out: &mut Vec<u8>) -> io::Result<()> {
    LATEST.with_borrow_mut(|latest| {
        let second = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        if !latest.is_of(reply, second) {
            *latest = Start::render(reply, second)?;
        }
        out.extend_from_slice(&latest.bytes);
        // Where there is no body it would be the length of one there is not (RFC 9110, 8.6).
        if reply.has_length() {
            write!(out, "Content-Length: {}\r\n", reply.body.length())?;
        }
        // The crate takes this header for its own business and leaves it out.
        write!(out, "Connection: {connection}\r\n\r\n")
    })
}

thread_local! {
    /// What this thread's last reply began with. Most are like the one before, but for their length,
    /// until the second is over, and to render one anew takes eight times as long.
    static LATEST: RefCell<Start> = RefCell::default();
}

/// The head of a reply up to its length.
#[derive(Default)]
struct Start {
    status: u16,
    content_type: &'static str,
    headers: Vec<(&'static str, Cow<'static, str>)>,
    /// Of the date in it, counted from the Unix epoch.
    second: u64,
    bytes: Vec<u8>,
}

impl Start {
    fn is_of(&self, reply: &Reply, second: u64) -> bool {
        self.status == reply.status
            && self.second == second
            && self.content_type == reply.content_type
            && self.headers == reply.headers
    }

    fn render(reply: &Reply, second: u64) -> io::Result<Self> {
        let header = |name: &str, value: &str| Header::from_str(name, value).map_err(invalid);
        let mut headers = Headers::with_capacity(reply.headers.len() + 2);
        headers.push(header("Server", SERVER)?);
        if reply.has_body() {
            headers.push(header("Content-Type", reply.content_type)?);
        }
        for (name, value) in &reply.headers {
            headers.push(header(name, value)?);
        }
        let mut bytes = Vec::with_capacity(256);
        Response::new(
            StatusCode(reply.status),
            headers,
            io::empty(),
            Some(0),
            None,
        )
        .raw_print(&mut bytes, HTTPVersion(1, 1), None, true, None)?;
        let length = b"Content-Length: 0\r\n\r\n";
        if !bytes.ends_with(length) {
            return Err(io::Error::other("tiny_http ended a head in another way"));
        }
        bytes.truncate(bytes.len() - length.len());
        Ok(Self {
            status: reply.status,
            content_type: reply.content_type,
            headers: reply.headers.clone(),
            second,
            bytes,
        })
    }
}

fn invalid(error: tiny_http::HeaderError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::super::MAX_BODY;
    use super::super::head::Framing;
    use super::*;

    fn head(method: &str, target: &str) -> Head {
        Head {
            method: method.to_owned().into(),
            target: target.into(),
            headers: vec![("Host", "h".into()), ("Content-Type", "text/plain".into())],
            framing: Framing::Length(0),
            keep_alive: true,
            expects_continue: false,
        }
    }

    #[test]
    fn requests_of_every_size_pass_through_one_pair() {
        let pairs = Pairs::default();
        for length in [0, 1, 1024, 1025, MAX_BODY] {
            let body = vec![b'x'; length];
            let request = pairs
                .parse(head("POST", "/a?b=c"), body.clone())
                .expect("parsed");
            assert_eq!(request.method, Method::Post);
            assert_eq!(request.target, "/a?b=c");
            assert_eq!(request.content_type.as_deref(), Some("text/plain"));
            assert_eq!(request.body, body);
        }
        let request = pairs.parse(head("BREW", "*"), Vec::new()).expect("parsed");
        assert_eq!(request.method, Method::Other);
        assert_eq!(pairs.lock().made, 1);
    }

    #[test]
    fn a_reply_of_any_length_is_rendered_with_its_length() {
        let reply = Reply::with_body(200, "text/plain", vec![b'x'; 100_000]).header("Allow", "GET");
        let mut head = Vec::new();
        render_head(&reply, "close", &mut head).expect("rendered");
        let head = String::from_utf8(head).expect("text");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("\r\nContent-Length: 100000\r\n"), "{head}");
        assert!(head.contains("\r\nAllow: GET\r\n"), "{head}");
        assert!(head.contains("\r\nServer: aios-mesh/"), "{head}");
        assert_eq!(head.matches("\r\nServer: ").count(), 1, "{head}");
        assert!(head.ends_with("\r\nConnection: close\r\n\r\n"), "{head}");
        assert_eq!(head.matches("\r\n\r\n").count(), 1);
    }

    #[test]
    fn a_head_is_rendered_anew_where_more_than_its_length_is_another() {
        let of = |status, content_type, length: usize| {
            Reply::with_body(status, content_type, vec![b'x'; length])
        };
        let reply = of(200, "text/plain", 1);
        let start = Start::render(&reply, 7).expect("rendered");
        assert!(start.is_of(&of(200, "text/plain", 2), 7));
        assert!(!start.is_of(&reply, 8), "the date is another");
        assert!(!start.is_of(&of(201, "text/plain", 1), 7));
        assert!(!start.is_of(&of(200, "text/html", 1), 7));
        assert!(!start.is_of(&reply.header("Allow", "GET"), 7));
    }

    #[test]
    fn what_has_no_body_has_neither_its_length_nor_its_type() {
        let reply = Reply::not_modified().header("ETag", "\"a\"");
        let mut head = Vec::new();
        render_head(&reply, "keep-alive", &mut head).expect("rendered");
        let head = String::from_utf8(head).expect("text");
        assert!(head.starts_with("HTTP/1.1 304 Not Modified\r\n"), "{head}");
        assert!(head.contains("\r\nETag: \"a\"\r\n"), "{head}");
        assert!(!head.contains("\r\nContent-"), "{head}");
        let end = "\r\nConnection: keep-alive\r\n\r\n";
        assert!(head.ends_with(end), "{head}");
        assert_eq!(head.matches("\r\n\r\n").count(), 1);
    }
}
