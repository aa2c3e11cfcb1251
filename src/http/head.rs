//! The door, first part: the head of a request.
//!
//! Pure. Only HTTP/1.0 and 1.1 with CRLF line ends pass, framed in one way that every reader of
//! the same bytes would agree on (RFC 9112, 6.3); whatever could be read in two ways is refused.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::mem::MaybeUninit;

use memchr::memchr3;

use super::{MAX_BODY, MAX_HEAD, MAX_HEADERS, MAX_TARGET};

/// Why bytes are not a request as we take it, and the status that says so.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) detail: &'static str,
}

impl Refusal {
    pub(super) const fn new(status: u16, detail: &'static str) -> Self {
        Self { status, detail }
    }
}

/// What follows the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes, perhaps none.
    Length(usize),
    /// Chunks.
    Chunked,
}

/// A head that passed. It has no Debug form outside of tests, for it may hold a token.
#[derive(PartialEq, Eq)]
#[cfg_attr(any(test, fuzzing), derive(Clone, Debug))]
pub(super) struct Head {
    pub(super) method: Cow<'static, str>,
    /// Path and query, in ASCII.
    pub(super) target: String,
    /// The few headers the roles look at.
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) framing: Framing,
    pub(super) keep_alive: bool,
    pub(super) expects_continue: bool,
}

/// The headers that are handed on, each at most once in a request.
const HANDED_ON: [&str; 4] = ["Host", "Origin", "Content-Type", "Authorization"];
/// The lists that are handed on, each as one however many lines it has. What cannot be read of them
/// is left out: without them the answer is the whole list, as it is. Where a stream of events goes on is
/// no list, but nothing depends on it that does not on these.
const LISTS: [&str; 3] = ["Accept-Encoding", "If-None-Match", "Last-Event-ID"];
/// The longest list that is handed on.
const MAX_LIST: usize = 2048;

/// Where the head ends in `bytes` (behind its empty line), if it has arrived whole. `scanned` says
/// how far an earlier call has looked and is moved on.
pub(super) fn find_end(bytes: &[u8], scanned: &mut usize) -> Result<Option<usize>, Refusal> {
    while let Some(offset) = memchr3(b'\r', b'\n', 0, &bytes[*scanned..]) {
        let at = *scanned + offset;
        match (bytes[at], bytes.get(at + 1)) {
            (b'\r', Some(b'\n')) => {}
            (b'\r', None) => {
                *scanned = at;
                return within_limits(bytes).map(|()| None);
            }
            (0, _) => return Err(Refusal::new(400, "the head of the request contains NUL")),
            _ => {
                return Err(Refusal::new(
                    400,
                    "the lines of the request's head must end in CR LF",
                ));
            }
        }
        *scanned = at + 2;
        if bytes[..*scanned].ends_with(b"\r\n\r\n") {
            within_limits(&bytes[..*scanned])?;
            return Ok(Some(*scanned));
        }
    }
    *scanned = bytes.len();
    within_limits(bytes).map(|()| None)
}

fn within_limits(bytes: &[u8]) -> Result<(), Refusal> {
    let first_line = bytes
        .iter()
        .position(|b| *b == b'\r')
        .unwrap_or(bytes.len());
    if first_line > MAX_TARGET + METHOD_AND_VERSION {
        return Err(LONG_TARGET);
    }
    if bytes.len() > MAX_HEAD {
        return Err(Refusal::new(
            431,
            "the head of the request is longer than 16384 bytes",
        ));
    }
    Ok(())
}

/// Reads a whole head.
pub(super) fn parse(bytes: &[u8]) -> Result<Head, Refusal> {
    // Room for so many is not written to before it is needed.
    let mut storage = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut storage) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(MALFORMED),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Refusal::new(431, "the request has more than 100 headers"));
        }
        Err(httparse::Error::Version) if names_another_version(bytes) => return Err(VERSION),
        Err(_) => return Err(MALFORMED),
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Err(MALFORMED);
    };
    let all = Fields(request.headers);
    let headers = handed_on(&all)?;
    if minor == 1 && !headers.iter().any(|(name, _)| *name == "Host") {
        return Err(Refusal::new(400, "an HTTP/1.1 request needs a Host header"));
    }
    let keep_alive = match minor {
        0 => all.has_token("connection", "keep-alive") && !all.has_token("connection", "close"),
        _ => !all.has_token("connection", "close"),
    };
    Ok(Head {
        method: known(method),
        target: origin_form(method, target)?,
        headers,
        framing: framing(&all, minor)?,
        keep_alive,
        expects_continue: minor == 1 && all.has_token("expect", "100-continue"),
    })
}

/// The name of a method; those that are asked for take no memory.
fn known(method: &str) -> Cow<'static, str> {
    const USUAL: [&str; 4] = ["POST", "GET", "DELETE", "HEAD"];
    let usual = USUAL.into_iter().find(|usual| *usual == method);
    usual.map_or_else(|| Cow::Owned(method.to_owned()), Cow::Borrowed)
}

/// What a request line has beside its target, roughly.
const METHOD_AND_VERSION: usize = 64;

const LONG_TARGET: Refusal = Refusal::new(414, "the request target is longer than 8192 bytes");
const MALFORMED: Refusal = Refusal::new(400, "this is not an HTTP/1.1 request");
const VERSION: Refusal = Refusal::new(505, "only HTTP/1.0 and HTTP/1.1 are spoken here");

/// Whether the request line ends in a version of HTTP that is not ours, HTTP/2's preface included.
fn names_another_version(bytes: &[u8]) -> bool {
    let line = bytes.split(|b| *b == b'\r').find(|line| !line.is_empty());
    let version = line.and_then(|line| line.rsplit(|b| *b == b' ').next());
    version
        .and_then(|version| version.strip_prefix(b"HTTP/"))
        .is_some_and(|number| {
            !matches!(number, b"" | b"1.0" | b"1.1")
                && number.iter().all(|b| b.is_ascii_digit() || *b == b'.')
        })
}

struct Fields<'a, 'b>(&'a [httparse::Header<'b>]);

impl<'b> Fields<'_, 'b> {
    /// The values of every field called `name`, in order.
    fn all(&self, name: &str) -> impl Iterator<Item = &'b [u8]> {
        self.0
            .iter()
            .filter(move |field| field.name.eq_ignore_ascii_case(name))
            .map(|field| field.value.trim_ascii())
    }

    /// The comma-separated list `name`, its lines put together (RFC 9110, 5.3), if it is printable
    /// and no longer than what is looked at.
    fn list(&self, name: &str) -> Option<String> {
        let mut list = String::new();
        for value in self.all(name) {
            let line = std::str::from_utf8(value).ok()?;
            if !line.bytes().all(is_printable_or_tab) {
                return None;
            }
            if !list.is_empty() {
                list.push_str(", ");
            }
            list.push_str(&line.replace('\t', " "));
            if list.len() > MAX_LIST {
                return None;
            }
        }
        (!list.is_empty()).then_some(list)
    }

    /// Whether the comma-separated list `name` has `token`.
    fn has_token(&self, name: &str, token: &str) -> bool {
        self.all(name)
            .flat_map(|value| value.split(|b| *b == b','))
            .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }
}

fn handed_on(all: &Fields<'_, '_>) -> Result<Vec<(&'static str, String)>, Refusal> {
    let mut headers = Vec::with_capacity(HANDED_ON.len());
    for name in HANDED_ON {
        let mut values = all.all(name);
        let Some(value) = values.next() else {
            continue;
        };
        if values.next().is_some() {
            return Err(Refusal::new(
                400,
                "Host, Origin, Content-Type and Authorization may each be given once",
            ));
        }
        match std::str::from_utf8(value) {
            Ok(text) if text.bytes().all(|b| b.is_ascii_graphic()) => {
                headers.push((name, text.to_owned()));
            }
            // There blanks have a place, and a tab is one (RFC 9110, 5.6.3), but not for everybody
            // behind the door.
            Ok(text) if name == "Content-Type" && text.bytes().all(is_printable_or_tab) => {
                headers.push((name, text.replace('\t', " ")));
            }
            Ok(text)
                if name == "Authorization" && text.bytes().all(|b| matches!(b, b' '..=b'~')) =>
            {
                headers.push((name, text.to_owned()));
            }
            _ => {
                return Err(Refusal::new(
                    400,
                    "Host, Origin, Content-Type and Authorization must be printable ASCII, and only the last two may have blanks",
                ));
            }
        }
    }
    headers.extend(LISTS.into_iter().filter_map(|name| {
        let list = all.list(name)?;
        Some((name, list))
    }));
    Ok(headers)
}

fn is_printable_or_tab(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~')
}

/// Path and query of a target, for which `http://host/path` is another way to say `/path`.
fn origin_form(method: &str, target: &str) -> Result<String, Refusal> {
    let path = if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        target
    } else {
        let authority = ["http://", "https://"].iter().find_map(|scheme| {
            let (head, rest) = target.split_at_checked(scheme.len())?;
            head.eq_ignore_ascii_case(scheme).then_some(rest)
        });
        match authority.map(|rest| rest.find(['/', '?']).map(|at| &rest[at..])) {
            Some(path) => path.unwrap_or("/"),
            None => {
                return Err(Refusal::new(
                    400,
                    "the request target must begin with '/' or 'http://'",
                ));
            }
        }
    };
    if path.len() > MAX_TARGET {
        return Err(LONG_TARGET);
    }
    let mut ascii = String::with_capacity(path.len() + 1);
    if path.starts_with('?') {
        ascii.push('/');
    }
    // Small clients send what was typed; it means its UTF-8 bytes.
    for byte in path.bytes() {
        if byte.is_ascii() {
            ascii.push(byte.into());
        } else {
            let _ = write!(ascii, "%{byte:02X}");
        }
    }
    Ok(ascii)
}

fn framing(all: &Fields<'_, '_>, minor: u8) -> Result<Framing, Refusal> {
    let mut lengths = all.all("content-length");
    let mut codings = all
        .all("transfer-encoding")
        .flat_map(|value| value.split(|b| *b == b','))
        .map(<[u8]>::trim_ascii)
        .peekable();
    match (lengths.next(), codings.peek().is_some()) {
        (None, false) => Ok(Framing::Length(0)),
        (Some(length), false) => {
            if lengths.next().is_some() {
                return Err(Refusal::new(400, "Content-Length is given more than once"));
            }
            content_length(length).map(Framing::Length)
        }
        (Some(_), true) => Err(Refusal::new(
            400,
            "Content-Length and Transfer-Encoding exclude each other",
        )),
        (None, true) if minor == 0 => Err(Refusal::new(400, "HTTP/1.0 has no Transfer-Encoding")),
        (None, true) => {
            let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
            let codings: Vec<&[u8]> = codings.collect();
            let chunked = codings.iter().filter(|coding| is_chunked(coding)).count();
            let ends_chunked = codings.last().is_some_and(|coding| is_chunked(coding));
            match (chunked, ends_chunked, codings.len()) {
                (1, true, 1) => Ok(Framing::Chunked),
                (1, true, _) => Err(Refusal::new(
                    501,
                    "the only transfer coding taken is chunked",
                )),
                // Where the body ends cannot be known (RFC 9112, 6.3, rule 4).
                _ => Err(Refusal::new(
                    400,
                    "Transfer-Encoding must be chunked, given once",
                )),
            }
        }
    }
}

fn content_length(value: &[u8]) -> Result<usize, Refusal> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::new(400, "Content-Length is not a number of bytes"));
    }
    // Digits only: what does not parse is too large for any integer.
    std::str::from_utf8(value)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .filter(|length| *length <= MAX_BODY)
        .ok_or(TOO_LARGE)
}

/// The refusal of a body beyond the limit.
pub(super) const TOO_LARGE: Refusal = Refusal::new(413, "the body is longer than 65536 bytes");

#[cfg(test)]
mod tests {
    use super::*;

    fn status(lines: &str) -> u16 {
        match parse(format!("{lines}\r\n\r\n").as_bytes()) {
            Ok(_) => 200,
            Err(refusal) => refusal.status,
        }
    }

    fn target(line: &str) -> String {
        parse(format!("{line} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes())
            .expect("taken")
            .target
    }

    #[test]
    fn a_body_is_framed_in_one_way_or_refused() {
        for (lines, expected) in [
            ("Content-Length: 5", 200),
            ("Content-Length: 65536", 200),
            ("Content-Length: 65537", 413),
            ("Content-Length: 10000000000", 413),
            ("Content-Length: 100000000000000", 413),
            ("Content-Length: 18446744073709551616", 413),
            ("Content-Length: -1", 400),
            ("Content-Length: +5", 400),
            ("Content-Length: 0x5", 400),
            ("Content-Length:", 400),
            ("Content-Length: 5, 5", 400),
            ("Content-Length: 5\r\nContent-Length: 5", 400),
            ("Content-Length: 5\r\nContent-Length: 6", 400),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
            ("Transfer-Encoding: chunked", 200),
            ("Transfer-Encoding: Chunked", 200),
            ("Transfer-Encoding: identity", 400),
            ("Transfer-Encoding: chunked, chunked", 400),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
                400,
            ),
            ("Transfer-Encoding: chunked, gzip", 400),
            ("Transfer-Encoding: gzip, chunked", 501),
            ("Transfer-Encoding:", 400),
            ("Transfer-Encoding : chunked", 400),
            ("X: a\r\n folded", 400),
        ] {
            let head = format!("POST /register HTTP/1.1\r\nHost: h\r\n{lines}");
            assert_eq!(status(&head), expected, "{lines}");
        }
        assert_eq!(status("POST / HTTP/1.0\r\nTransfer-Encoding: chunked"), 400);
    }

    #[test]
    fn other_versions_get_505_and_garbage_400() {
        for (line, expected) in [
            ("GET / HTTP/1.1\r\nHost: h", 200),
            ("GET / HTTP/1.0", 200),
            ("GET / HTTP/1.1", 400),
            ("GET / HTTP/2.0", 505),
            ("GET / HTTP/3", 505),
            ("PRI * HTTP/2.0", 505),
            ("GET / HTTP/0.9", 505),
            ("GET /", 400),
            ("GET / FTP/1.1", 400),
            ("GET  / HTTP/1.1\r\nHost: h", 400),
            ("GET /a b HTTP/1.1\r\nHost: h", 400),
            ("GET peers HTTP/1.1\r\nHost: h", 400),
            ("CONNECT h:80 HTTP/1.1\r\nHost: h", 400),
            ("GET / HTTP/1.1\r\nHost: h\r\nHost: h", 400),
            ("GET / HTTP/1.1\r\nHost: \u{fc}", 400),
            ("GET / HTTP/1.1\r\nHost: a\tb", 400),
            ("GET / HTTP/1.1\r\nHost: a b", 400),
            ("GET / HTTP/1.1\r\nHost: h\r\nX-Name: \u{fc}", 200),
            ("GET / HTTP/1.1\r\nHost: h\r\nContent-Type: a/b;\tc=d", 200),
            (
                "GET / HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer  a=",
                200,
            ),
            ("GET / HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer\ta", 400),
            ("GET / HTTP/1.1\r\nHost: h\r\nAuthorization: \u{fc}", 400),
            (
                "GET / HTTP/1.1\r\nHost: h\r\nAuthorization: a\r\nauthorization: a",
                400,
            ),
        ] {
            assert_eq!(status(line), expected, "{line}");
        }
    }

    #[test]
    fn lists_are_handed_on_as_one_or_left_out() {
        let list = |lines: &str| {
            let head = format!("GET / HTTP/1.1\r\nHost: h\r\n{lines}\r\n\r\n");
            let headers = parse(head.as_bytes()).expect("taken").headers;
            let mut lists = headers.into_iter().filter(|(name, _)| *name != "Host");
            let list = lists.next();
            assert!(lists.next().is_none());
            list
        };
        let tags = |tags: &str| Some(("If-None-Match", tags.to_owned()));
        assert_eq!(
            list("If-None-Match: \"a\",\tW/\"b\""),
            tags("\"a\", W/\"b\"")
        );
        assert_eq!(
            list("if-none-match: \"a\"\r\nIF-NONE-MATCH: \"b\""),
            tags("\"a\", \"b\"")
        );
        assert_eq!(
            list("Accept-Encoding: gzip;q=0.5\r\nAccept-Encoding:"),
            Some(("Accept-Encoding", "gzip;q=0.5, ".to_owned()))
        );
        assert_eq!(list("Accept-Encoding:"), None);
        assert_eq!(list("If-None-Match: \"\u{fc}\""), None);
        let longest = "a".repeat(MAX_LIST);
        assert_eq!(list(&format!("If-None-Match: {longest}")), tags(&longest));
        assert_eq!(list(&format!("If-None-Match: {longest}a")), None);
    }

    #[test]
    fn targets_come_in_several_forms() {
        assert_eq!(target("GET /peers?a=b"), "/peers?a=b");
        assert_eq!(target("GET http://h:8001/peers"), "/peers");
        assert_eq!(target("GET HTTP://h:8001"), "/");
        assert_eq!(target("GET http://h?x=1"), "/?x=1");
        assert_eq!(target("DELETE /peer/z\u{fc}rich"), "/peer/z%C3%BCrich");
        assert_eq!(target("OPTIONS *"), "*");
    }

    #[test]
    fn line_ends_are_strict_and_looked_at_once() {
        let find = |bytes: &[u8]| find_end(bytes, &mut 0).map_err(|refusal| refusal.status);
        assert_eq!(find(b"GET / HTTP/1.1\r\nHost: h\r\n\r\nrest"), Ok(Some(27)));
        assert_eq!(find(b"GET / HTTP/1.1\r\nHost: h\r\n\r"), Ok(None));
        assert_eq!(find(b"GET / HTTP/1.1\n"), Err(400));
        assert_eq!(find(b"GET / HTTP/1.1\rX"), Err(400));
        assert_eq!(find(b"GET /\0"), Err(400));
        assert_eq!(find(&[b'a'; MAX_TARGET + METHOD_AND_VERSION + 1]), Err(414));
        let long = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'a'; MAX_HEAD]].concat();
        assert_eq!(find(&long), Err(431));

        let bytes = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        let mut scanned = 0;
        for arrived in 1..bytes.len() {
            assert_eq!(find_end(&bytes[..arrived], &mut scanned), Ok(None));
        }
        assert_eq!(find_end(bytes, &mut scanned), Ok(Some(bytes.len())));
    }

    #[test]
    fn keeping_the_connection_depends_on_the_version() {
        let keeps = |head: &str| {
            parse(format!("{head}\r\n\r\n").as_bytes())
                .expect("taken")
                .keep_alive
        };
        assert!(keeps("GET / HTTP/1.1\r\nHost: h"));
        assert!(!keeps("GET / HTTP/1.1\r\nHost: h\r\nConnection: Close"));
        assert!(keeps(
            "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings"
        ));
        assert!(!keeps("GET / HTTP/1.0"));
        assert!(keeps("GET / HTTP/1.0\r\nConnection: Keep-Alive"));
    }
}
