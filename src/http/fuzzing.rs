//! What holds for all that arrives at the door, and requests and replies for others to try.

use std::sync::LazyLock;
use std::time::Duration;

use super::arrived::Arrived;
use super::head::{Framing, Head};
use super::reply::Body;
use super::tiny::{self, Pairs};
use super::{MAX_BODY, MAX_HEAD, Method, Reply, Request};

/// What the door refuses with.
const REFUSALS: [u16; 6] = [400, 413, 414, 431, 501, 505];
/// How many requests of one input go on to the crate behind the door: that takes system calls.
const BEHIND: usize = 4;

/// What came of a stream of bytes.
#[derive(Debug, PartialEq)]
struct Taken {
    requests: Vec<(Head, Vec<u8>)>,
    end: End,
}

#[derive(Debug, PartialEq)]
enum End {
    /// More may come.
    Waits,
    /// The last request is not to be followed by another.
    Closed,
    /// What came next is no request as we take it. By which of its faults may depend on how much
    /// of it was there.
    Refused,
}

/// Whatever arrives at the door: it comes to the same however it is cut on the way, never is more
/// of it kept than a request may have, another reader of the same bytes sees the same requests, and
/// what is behind the door gets what was let in.
///
/// The first byte says how many follow that each give the length of a piece less one; the rest is
/// what arrives. In it 0xFF, a byte and a number stand for so many times 256 of that byte.
pub fn door(input: &[u8]) {
    static PAIRS: LazyLock<Pairs> = LazyLock::new(Pairs::default);

    let Some((count, rest)) = input.split_first() else {
        return;
    };
    let (lengths, rest) = rest.split_at(usize::from(*count).min(rest.len()));
    let stream = unfolded(rest);
    let taken = take(&mut pieces(&stream, lengths));
    assert_eq!(taken, take(&mut std::iter::once(&*stream)));

    let mut at = 0;
    for (index, (head, body)) in taken.requests.iter().enumerate() {
        let Some(seen) = Seen::first_of(&stream[at..]) else {
            unreachable!("taken, and none to another reader: {head:?}");
        };
        assert_eq!(seen.method, head.method.as_bytes());
        assert_eq!(seen.body, *body);
        at += seen.length;
        if index < BEHIND {
            let Ok(request) = PAIRS.parse(head.clone(), body.clone()) else {
                unreachable!("not taken behind the door: {head:?}");
            };
            let value = |name: &str| {
                let mut all = head.headers.iter();
                all.find_map(|(known, value)| (*known == name).then_some(value))
            };
            assert_eq!(request.method, method(&head.method));
            assert_eq!(request.without_body, head.method == "HEAD");
            assert_eq!(request.target, head.target);
            assert_eq!(request.host.as_ref(), value("Host"));
            assert_eq!(request.origin.as_ref(), value("Origin"));
            assert_eq!(request.content_type.as_ref(), value("Content-Type"));
            assert_eq!(request.body, *body);
        }
    }
    if taken.end == End::Waits {
        let rest = &stream[at..];
        assert!(
            Seen::first_of(rest).is_none(),
            "waits for more than {}",
            rest.escape_ascii()
        );
    }
}

/// The bytes that are meant, at most some four bodies of them.
fn unfolded(mut bytes: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    while let Some((first, rest)) = bytes.split_first() {
        bytes = rest;
        match (first, rest) {
            (0xFF, [byte, times, rest @ ..]) if stream.len() < 4 * MAX_BODY => {
                stream.resize(stream.len() + 256 * usize::from(*times), *byte);
                bytes = rest;
            }
            _ => stream.push(*first),
        }
    }
    stream
}

/// Pieces of these lengths less one, and then no longer ones than are read at once.
fn pieces<'a>(mut bytes: &'a [u8], lengths: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut lengths = lengths.iter().map(|length| usize::from(*length) + 1);
    std::iter::from_fn(move || {
        let length = lengths.next().unwrap_or(MAX_HEAD).min(bytes.len());
        let (piece, rest) = bytes.split_at(length);
        bytes = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Takes requests out of pieces as they arrive, the way a connection does.
fn take(pieces: &mut dyn Iterator<Item = &[u8]>) -> Taken {
    let mut arrived = Arrived::default();
    let mut requests = Vec::new();
    let mut current = None;
    loop {
        let next = match &current {
            None if !arrived.has_begun() => Ok(None),
            None => arrived.head().map(|head| head.map(|head| (head, None))),
            Some(head) => arrived.body(framing(head)).map(|body| {
                let body = body?;
                current.take().map(|head| (head, Some(body)))
            }),
        };
        match next {
            Ok(Some((head, None))) => current = Some(head),
            Ok(Some((head, Some(body)))) => {
                assert!(body.len() <= MAX_BODY);
                let is_last = !head.keep_alive;
                requests.push((head, body));
                if is_last {
                    return Taken {
                        requests,
                        end: End::Closed,
                    };
                }
            }
            Ok(None) => {
                assert!(
                    arrived.held() <= MAX_HEAD + MAX_BODY,
                    "{} are kept",
                    arrived.held()
                );
                let Some(piece) = pieces.next() else {
                    return Taken {
                        requests,
                        end: End::Waits,
                    };
                };
                put(&mut arrived, piece);
            }
            Err(refusal) => {
                assert!(REFUSALS.contains(&refusal.status), "{refusal:?}");
                return Taken {
                    requests,
                    end: End::Refused,
                };
            }
        }
    }
}

/// Has the bytes arrive, in as many reads as there is room for.
fn put(arrived: &mut Arrived, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let room = arrived.room();
        let count = room.len().min(bytes.len());
        room[..count].copy_from_slice(&bytes[..count]);
        arrived.put(count);
        bytes = &bytes[count..];
    }
}

fn framing(head: &Head) -> &Framing {
    &head.framing
}

/// A request as a reader sees it that knows of nothing but RFC 9112, and gives up at any doubt.
struct Seen<'a> {
    method: &'a [u8],
    body: Vec<u8>,
    /// How many bytes it is long.
    length: usize,
}

impl<'a> Seen<'a> {
    /// The request that `bytes` begin with, if it is whole.
    fn first_of(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader { bytes, at: 0 };
        let mut line = reader.line()?;
        while line.is_empty() {
            line = reader.line()?;
        }
        let words: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
        let [method, _, version @ (b"HTTP/1.0" | b"HTTP/1.1")] = words[..] else {
            return None;
        };
        let (mut lengths, mut codings) = (Vec::new(), Vec::new());
        loop {
            let line = reader.line()?;
            if line.is_empty() {
                break;
            }
            let colon = line.iter().position(|b| *b == b':')?;
            let (name, value) = (line[..colon].to_ascii_lowercase(), &line[colon + 1..]);
            if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
                return None;
            }
            match &*name {
                b"content-length" => lengths.push(value.trim_ascii()),
                b"transfer-encoding" => codings.push(value.trim_ascii()),
                _ => {}
            }
        }
        let body = match (&lengths[..], &codings[..]) {
            ([], []) => Vec::new(),
            ([length], []) => reader.bytes(number(length, 10)?)?.to_vec(),
            ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") && version != b"HTTP/1.0" => {
                reader.chunks()?
            }
            _ => return None,
        };
        Some(Self {
            method,
            body,
            length: reader.at,
        })
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// So many bytes.
    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes[self.at..].get(..length)?;
        self.at += length;
        Some(taken)
    }

    /// A line without its end, and without anything that some would take for one.
    fn line(&mut self) -> Option<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
        let line = self.bytes(end)?;
        self.bytes(2)?;
        (!line.iter().any(|b| matches!(b, b'\r' | b'\n' | 0))).then_some(line)
    }

    /// A chunked body and its trailer.
    fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let size = line.split(|b| *b == b';').next()?;
            match number(size.trim_ascii_end(), 16)? {
                0 => break,
                size => body.extend_from_slice(self.bytes(size)?),
            }
            if !self.line()?.is_empty() {
                return None;
            }
        }
        while !self.line()?.is_empty() {}
        Some(body)
    }
}

/// A number of digits alone.
fn number(digits: &[u8], radix: u32) -> Option<usize> {
    let text = std::str::from_utf8(digits).ok()?;
    let is_number = text.chars().all(|c| c.is_digit(radix));
    is_number
        .then(|| usize::from_str_radix(text, radix).ok())
        .flatten()
}

fn method(name: &str) -> Method {
    match name {
        "GET" | "HEAD" => Method::Get,
        "POST" => Method::Post,
        "DELETE" => Method::Delete,
        _ => Method::Other,
    }
}

/// The request that a text stands for: method and target, lines of fields, an empty line, the body.
/// None where the door would not let it in.
pub(crate) fn request(text: &[u8]) -> Option<Request> {
    let end = text.windows(2).position(|pair| pair == b"\n\n");
    let (lines, body) = end.map_or((text, &[][..]), |end| (&text[..end], &text[end + 2..]));
    let mut lines = lines.split(|b| *b == b'\n');
    let mut bytes = [lines.next()?, b" HTTP/1.0\r\n"].concat();
    for line in lines {
        bytes.extend_from_slice(line);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    let mut arrived = Arrived::default();
    put(&mut arrived, &bytes);
    let head = arrived.head().ok()??;
    let value = |name: &str| {
        let mut all = head.headers.iter();
        all.find_map(|(known, value)| (*known == name).then(|| value.clone()))
    };
    (body.len() <= MAX_BODY).then(|| Request {
        method: method(&head.method),
        without_body: head.method == "HEAD",
        is_probe: false,
        remote: None,
        target: head.target.clone(),
        host: value("Host"),
        origin: value("Origin"),
        content_type: value("Content-Type"),
        authorization: value("Authorization"),
        accept_encoding: value("Accept-Encoding"),
        if_none_match: value("If-None-Match"),
        last_event_id: value("Last-Event-ID"),
        body: body.to_vec(),
    })
}

/// A reply as a client gets it.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    fields: Vec<(String, String)>,
}

impl Answer {
    /// Reads what is sent of `reply` at once; `None` where that is nothing, for it is waited for.
    pub(crate) fn at_once(mut reply: Reply) -> Option<Self> {
        loop {
            match reply.into_later() {
                Ok(mut later) => reply = later.wait(Duration::ZERO)?,
                Err(reply) => return Some(Self::of(reply)),
            }
        }
    }

    /// Reads what is sent of `reply`: of one without an end, how it begins.
    fn of(mut reply: Reply) -> Self {
        if let Body::Stream(stream) = &mut reply.body {
            let said = [stream.next(Duration::ZERO), stream.next(Duration::ZERO)];
            let begin = said.into_iter().flatten().flatten().collect();
            let answer = Self::with(&reply, begin);
            assert_eq!(answer.field("content-length"), None);
            return answer;
        }
        let body = reply.body.whole().into_owned();
        Self::with(&reply, body)
    }

    fn with(reply: &Reply, body: Vec<u8>) -> Self {
        let mut bytes = Vec::new();
        let Ok(()) = tiny::render_head(reply, "keep-alive", &mut bytes) else {
            unreachable!("cannot be sent: {reply:?}");
        };
        let mut fields = [httparse::EMPTY_HEADER; 16];
        let mut head = httparse::Response::new(&mut fields);
        let read = head.parse(&bytes);
        assert_eq!(read, Ok(httparse::Status::Complete(bytes.len())));
        let fields = head.headers.iter().map(|field| {
            let value = String::from_utf8_lossy(field.value).into_owned();
            (field.name.to_ascii_lowercase(), value)
        });
        let answer = Self {
            status: reply.status,
            body,
            fields: fields.collect(),
        };
        assert_eq!(head.code, Some(reply.status));
        // Nothing in a value has become a field of its own.
        let own = 3 + usize::from(reply.has_body()) + usize::from(reply.has_length());
        assert_eq!(answer.fields.len(), reply.headers.len() + own);
        answer
    }

    /// The value of the field `name` (in lower case), which is there once if it is.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.iter().filter(|(known, _)| known == name);
        let (_, value) = values.next()?;
        assert!(values.next().is_none(), "{name} is there twice");
        Some(value)
    }
}
