//! The door: whatever arrives gets a defined answer or a defined silence, discovery stays well,
//! and nothing of it is left behind.

use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit, setrlimit};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use super::support::{
    Answer, Child, Connection, SOON, command, discovery, holds_for, ids, pause, register, report,
    skip, wait_for,
};

/// How often each case is tried.
const ROUNDS: usize = 3;
/// The idle time-out of the discovery that is tried.
const IDLE: Duration = Duration::from_secs(2);
/// What is kept from a time of many requests at once: seven further socket pairs, made of three
/// descriptors each.
const POOL: usize = 7 * 3;
/// The flags it is started with: the witness outlives every test.
const USUAL: [&str; 4] = ["--idle-timeout", "2s", "--stale-after", "60m"];
/// How soon `/health` answers, whatever else goes on.
const WELL: Duration = Duration::from_secs(1);
/// Before this a stop has not given up on anybody, but waits for what it should not wait for.
const NO_WAITING: Duration = Duration::from_secs(3);

/// A discovery that has one peer, `witness`, and is watched for what it keeps.
struct Door {
    discovery: Child,
    threads: usize,
    descriptors: usize,
    slowest: Cell<Duration>,
}

impl Door {
    fn open() -> Self {
        Self::with(&[])
    }

    /// With further flags.
    fn with(flags: &[&str]) -> Self {
        Self::of(discovery(&[&USUAL, flags].concat()))
    }

    fn of(discovery: Child) -> Self {
        // What is made once, for the first request, belongs to the baseline.
        register(&discovery, "witness");
        let mut descriptors = usize::MAX;
        holds_for("it runs", Duration::from_millis(200), || {
            descriptors = descriptors.min(discovery.descriptors());
            true
        });
        Self {
            threads: discovery.threads() - connection_threads(&discovery),
            descriptors,
            slowest: Cell::default(),
            discovery,
        }
    }

    /// `/health` answers within a second.
    fn is_well(&self, after: &str) {
        let started = Instant::now();
        let answer = self.discovery.get("/health");
        let took = started.elapsed();
        assert_eq!(answer.status, 200, "/health after {after}");
        assert!(took < WELL, "/health took {took:?} after {after}");
        self.slowest.set(self.slowest.get().max(took));
    }

    /// Nobody was registered or removed.
    fn is_unchanged(&self, after: &str) {
        assert_eq!(ids(&self.discovery), ["witness"], "/peers after {after}");
    }

    /// What connections took is given back once they and their threads have been idle.
    fn is_as_before(&self, after: &str) {
        self.is_as_before_but(0, after);
    }

    /// The same, but for descriptors that are kept for the next requests.
    fn is_as_before_but(&self, kept: usize, after: &str) {
        let (threads, descriptors) = (self.threads, self.descriptors + kept);
        let before = format!("{threads} threads, {descriptors} descriptors are left after {after}");
        let took = wait_for(&before, 2 * IDLE + SOON, || {
            connection_threads(&self.discovery) == 0
                && self.discovery.threads() <= threads
                && self.discovery.descriptors() <= descriptors
        });
        report(&format!(
            "door, {after}: slowest /health {:?}, all given back within {took:?}",
            self.slowest.get()
        ));
    }
}

/// The threads that serve a connection, or wait for one.
fn connection_threads(discovery: &Child) -> usize {
    connection_thread_states(discovery).len()
}

/// What each of these threads is doing, as the kernel says it: `S` for one that sleeps.
fn connection_thread_states(discovery: &Child) -> Vec<String> {
    let tasks = format!("/proc/{}/task", discovery.pid());
    std::fs::read_dir(tasks)
        .expect("it runs")
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok())
        .filter_map(|stat| {
            let (_, state) = stat.split_once("(connection) ")?;
            Some(state[..1].to_owned())
        })
        .collect()
}

/// A refusal says why in JSON, and that it is the last word.
fn assert_refusal(answer: &Answer, status: u16, of: &str) {
    assert_eq!(answer.status, status, "{of}: {}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("connection"), Some("close"), "{of}");
    assert!(!answer.detail().is_empty(), "{of}");
}

// ---------------------------------------------------------------------------------------------
// One connection at a time.

/// What has to come of a connection.
#[derive(Clone, Copy)]
enum Outcome {
    /// An error, after which the connection ends.
    Refused(u16),
    /// An answer, after which the connection serves on.
    Served(u16),
    /// An answer, after which the connection ends.
    Last(u16),
    /// The end of the connection without a byte.
    Silence,
}
use Outcome::{Last, Refused, Served, Silence};

/// Bytes that arrive at the door.
struct Case {
    name: &'static str,
    sent: Vec<u8>,
    /// The client says that nothing more comes.
    finished: bool,
    outcome: Outcome,
}

/// Bytes after which the client waits.
fn sent(name: &'static str, sent: impl Into<Vec<u8>>, outcome: Outcome) -> Case {
    Case {
        name,
        sent: sent.into(),
        finished: false,
        outcome,
    }
}

/// Bytes after which the client says that nothing more comes.
fn cut(name: &'static str, sent: impl Into<Vec<u8>>, outcome: Outcome) -> Case {
    Case {
        name,
        sent: sent.into(),
        finished: true,
        outcome,
    }
}

impl Case {
    fn try_at(&self, door: &Door) {
        let name = self.name;
        // Shown with a failure.
        eprintln!("at the door: {name}");
        let mut connection = door.discovery.connect();
        connection.send(&self.sent);
        if self.finished {
            connection.finish();
        }
        if !matches!(self.outcome, Silence) {
            let answer = connection.answer().expect("an answer");
            let (status, next) = match self.outcome {
                Served(status) => (status, "keep-alive"),
                Refused(status) | Last(status) => (status, "close"),
                Silence => unreachable!(),
            };
            assert_eq!(answer.status, status, "{name}: {}", answer.text());
            assert_eq!(answer.header("connection"), Some(next), "{name}");
            if matches!(self.outcome, Refused(_)) {
                assert_refusal(&answer, status, name);
            }
        }
        if matches!(self.outcome, Served(_)) {
            assert!(serves(&mut connection), "{name}: out of step");
        } else {
            assert!(connection.ends_silently(), "{name}: one answer too many");
        }
        drop(connection);
        door.is_well(name);
        door.is_unchanged(name);
    }
}

fn try_each(cases: impl IntoIterator<Item = Case>) {
    let door = Door::open();
    let mut count = 0;
    for case in cases {
        for _ in 0..ROUNDS {
            case.try_at(&door);
        }
        count += 1;
    }
    door.is_as_before(&format!("{count} cases {ROUNDS} times"));
}

const GET: &str = "GET /health HTTP/1.1\r\nHost: door\r\n";
const POST: &str = "POST /register HTTP/1.1\r\nHost: door\r\n";
const WITNESS: &str = r#"{"cell_id":"witness","ip":"127.0.0.1","port":1}"#;

/// A registration, with further headers, each with its line end.
fn posted(headers: &str, body: &str) -> String {
    let length = body.len();
    format!("{POST}{headers}Content-Length: {length}\r\n\r\n{body}")
}

/// A registration in chunks.
fn chunked(chunks: &str) -> String {
    format!("{POST}Transfer-Encoding: chunked\r\n\r\n{chunks}")
}

/// Two requests that must never run: they would show in `/peers`.
fn smuggled() -> String {
    let registration = posted("", &WITNESS.replace("witness", "smuggled"));
    format!("DELETE /peer/witness HTTP/1.1\r\nHost: door\r\n\r\n{registration}")
}

const GET_HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nHost: door\r\n\r\n";

/// Sends a request on a connection that stays open.
fn serves(connection: &mut Connection) -> bool {
    connection.send(GET_HEALTH);
    connection
        .answer()
        .is_some_and(|answer| answer.status == 200)
}

/// Sends the head of a registration of `witness`, and returns once that is being read.
fn start_to_register(connection: &mut Connection) {
    let whole = posted("Expect: 100-continue\r\n", WITNESS);
    connection.send(whole.trim_end_matches(WITNESS).as_bytes());
    let go_on = connection.answer_without_body().expect("an answer");
    assert_eq!(go_on.status, 100);
}

/// Filler that would be a lot to keep.
fn letters(count: usize) -> String {
    "a".repeat(count)
}

#[test]
fn a_body_whose_end_is_in_doubt_is_refused_and_nothing_in_it_runs() {
    let smuggled = smuggled();
    let headers = [
        ("Content-Length: 10000000000", 413),
        ("Content-Length: 100000000000000", 413),
        ("Content-Length: 18446744073709551616", 413),
        ("Content-Length: 18446744073709551621", 413),
        ("Content-Length: -1", 400),
        ("Content-Length: +5", 400),
        ("Content-Length: 0x5", 400),
        ("Content-Length: 5 5", 400),
        ("Content-Length: 5, 5", 400),
        ("Content-Length:", 400),
        ("Content-Length: 5\r\nContent-Length: 5", 400),
        ("Content-Length: 0\r\nContent-Length: 5", 400),
        ("Content-Length: 5\r\ncontent-length: 0", 400),
        ("Content-Length : 5", 400),
        ("X: folded\r\n Content-Length: 5", 400),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", 400),
        ("Transfer-Encoding: identity", 400),
        ("Transfer-Encoding: chunked, identity", 400),
        ("Transfer-Encoding: chunked, chunked", 400),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            400,
        ),
        ("Transfer-Encoding: gzip, chunked", 501),
        ("Transfer-Encoding: xchunked", 400),
        ("Transfer-Encoding:", 400),
        ("Transfer-Encoding : chunked", 400),
        ("Transfer-Encoding\t: chunked", 400),
        ("Transfer-Encoding: \u{b}chunked", 400),
    ];
    let chunks = [
        ("10000000000000000\r\n", 400),
        ("1\r\n{\r\n10000000000000000\r\n", 400),
        ("FFFFFFFFFFFFFFFF\r\n", 413),
        ("-1\r\n", 400),
        ("0x1\r\n", 400),
        (" 1\r\n", 400),
        ("\r\n", 400),
        ("1\r\n{}\r\n", 400),
        ("1\n{\r\n", 400),
        ("1\r{\r\n", 400),
        ("2;\n\r\n{}\r\n0\r\n\r\n", 400),
        ("2;\r\n{}\r\n0;\n\r\n\r\n", 400),
        ("2;a\0b\r\n{}\r\n0\r\n\r\n", 400),
        ("0\r\nA: b\n\r\n\r\n", 400),
        ("0\r\nA: b\rC: d\r\n\r\n", 400),
    ];
    // A whole body by either reading: five bytes, or no chunk but the last.
    let headers = headers.map(|(lines, status)| {
        let request = format!("{POST}{lines}\r\n\r\n0\r\n\r\n{smuggled}");
        sent(lines, request, Refused(status))
    });
    let chunks = chunks.map(|(chunks, status)| {
        let request = chunked(&format!("{chunks}{smuggled}"));
        sent(chunks, request, Refused(status))
    });
    let old = chunked(&format!("0\r\n\r\n{smuggled}")).replace("HTTP/1.1", "HTTP/1.0");
    let old = sent("chunks in HTTP/1.0", old, Refused(400));
    try_each(headers.into_iter().chain(chunks).chain([old]));
}

#[test]
fn what_is_no_http_or_too_much_of_it_is_refused() {
    let client_hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let no_utf8 = b"GET /peer/\xff HTTP/1.1\r\nHost: door\r\n\r\n";
    let (megabyte, kilobytes) = (letters(1 << 20), letters(16 << 10));
    let (hundred, many) = ("X: a\r\n".repeat(100), "X: a\r\n".repeat(10_000));
    let too_long = posted("", &letters((64 << 10) + 1));
    let short = posted("", WITNESS).into_bytes();
    let short = &short[..short.len() - 1];
    // One row a case.
    #[rustfmt::skip]
    let cases = [
        sent("LF for line ends", GET.replace("\r\n", "\n") + "\n", Refused(400)),
        sent("LF for one line end", format!("{GET}X: a\n\r\n"), Refused(400)),
        sent("LF for the last line end", format!("{GET}\n"), Refused(400)),
        sent("CR for line ends", GET.replace("\r\n", "\r") + "\r", Refused(400)),
        sent("NUL in the target", "GET /hea\0lth HTTP/1.1\r\n", Refused(400)),
        sent("NUL in a name", format!("{GET}X\0: a\r\n\r\n"), Refused(400)),
        sent("NUL in a value", format!("{GET}X: a\0b\r\n\r\n"), Refused(400)),
        sent("nothing but NUL", [0; 1000], Refused(400)),
        sent("TLS", client_hello, Refused(400)),
        sent("HTTP/0.9", "GET /health\r\n\r\n", Refused(400)),
        sent("HTTP/2", preface, Refused(505)),
        sent("HTTP/3.1", GET.replace("1.1", "3.1") + "\r\n", Refused(505)),
        sent("two blanks", GET.replace(' ', "  ") + "\r\n", Refused(400)),
        sent("a blank in the target", GET.replace("/h", "/ h") + "\r\n", Refused(400)),
        sent("a blank in front", format!(" {GET}\r\n"), Refused(400)),
        sent("no host", "GET /health HTTP/1.1\r\n\r\n", Refused(400)),
        sent("a host with a tab in it", GET.replace("door", "do\tor") + "\r\n", Refused(400)),
        sent("two hosts", format!("{GET}Host: door\r\n\r\n"), Refused(400)),
        sent("a header without a colon", format!("{GET}X\r\n\r\n"), Refused(400)),
        sent("a target without a slash", GET.replace('/', "") + "\r\n", Refused(400)),
        sent("a target that is no UTF-8", no_utf8, Refused(400)),
        sent("CONNECT", "CONNECT door:80 HTTP/1.1\r\nHost: door\r\n\r\n", Refused(400)),
        sent("a URL of 1 MB", format!("GET /{megabyte} HTTP/1.1\r\n\r\n"), Refused(414)),
        sent("a method of 1 MB", format!("{megabyte} / HTTP/1.1\r\n\r\n"), Refused(414)),
        sent("a header of 16 KiB", format!("{GET}X: {kilobytes}\r\n\r\n"), Refused(431)),
        sent("10,000 headers", format!("{GET}{many}\r\n"), Refused(431)),
        sent("101 headers", format!("{GET}{hundred}\r\n"), Refused(431)),
        sent("a body of 64 KiB and a byte", too_long, Refused(413)),
        cut("half a request line", "GET /hea", Refused(400)),
        cut("half a head", GET, Refused(400)),
        cut("a body one byte short", short, Refused(400)),
        cut("chunks without the last", chunked("2\r\n{}\r\n"), Refused(400)),
        cut("chunks without their end", chunked("2\r\n{}\r\n0\r\n"), Refused(400)),
        cut("nothing", "", Silence),
        cut("blank lines", "\r\n\r\n\r\n", Silence),
        cut("half a blank line", "\r", Silence),
    ];
    try_each(cases);
}

#[test]
fn a_request_in_an_unusual_dress_is_served_and_leaves_the_connection_in_step() {
    let smuggled = smuggled();
    let length = smuggled.len();
    let upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n";
    let (front, rear) = WITNESS.split_at(10);
    let plain = chunked(&format!("a\r\n{front}\r\n25\r\n{rear}\r\n0\r\n\r\n"));
    let decorated = chunked(&format!(
        "00A;a=\"b\"\r\n{front}\r\n25 ; c\r\n{rear}\r\n000;d\r\nA: b\r\nC: d\r\n\r\n"
    ));
    let ninety_nine = "X: a\r\n".repeat(99);
    let long = letters(8000);
    let old = GET.replace("1.1", "1.0");
    let old_post = posted("", WITNESS).replace("1.1", "1.0");
    // One row a case.
    #[rustfmt::skip]
    let cases = [
        sent("an upgrade with a body", posted(upgrade, WITNESS), Served(200)),
        sent("chunks", &*plain, Served(200)),
        sent("Chunked", plain.replace("chunked", "Chunked"), Served(200)),
        sent("chunks with extensions and a trailer", decorated, Served(200)),
        sent("no chunk but the last", chunked("0\r\n\r\n"), Served(422)),
        sent("a GET with a body", format!("{GET}Content-Length: {length}\r\n\r\n{smuggled}"), Served(200)),
        sent("a body of 64 KiB", posted("", &letters(64 << 10)), Served(422)),
        sent("100 headers", format!("{GET}{ninety_nine}\r\n"), Served(200)),
        sent("a header that is no ASCII", format!("{GET}X: z\u{fc}rich\r\n\r\n"), Served(200)),
        sent("HOST, and tabs", GET.replace("Host: door", "HOST:\tdoor\t") + "\r\n", Served(200)),
        sent("a host without a name", GET.replace("door", "") + "\r\n", Served(200)),
        sent("8,000 bytes of URL", GET.replace("health", &long) + "\r\n", Served(404)),
        sent("blank lines in front", format!("\r\n\r\n{GET}\r\n"), Served(200)),
        sent("a blank line behind", format!("{}\r\n", posted("", WITNESS)), Served(200)),
        sent("a method nobody has", GET.replace("GET", "BREW") + "\r\n", Served(405)),
        sent("a URL", GET.replace("/h", "http://else:9/h") + "\r\n", Served(200)),
        sent("a URL without a path", GET.replace("/health", "HTTP://else") + "\r\n", Served(404)),
        sent("OPTIONS *", GET.replace("GET /health", "OPTIONS *") + "\r\n", Served(404)),
        sent("HTTP/1.0", format!("{old}\r\n{smuggled}"), Last(200)),
        sent("HTTP/1.0, posted", format!("{old_post}{smuggled}"), Last(200)),
        sent("HTTP/1.0, kept", format!("{old}Connection: Keep-Alive\r\n\r\n"), Served(200)),
        sent("the last", format!("{GET}Connection: close\r\n\r\n{smuggled}"), Last(200)),
        cut("the last, cut", format!("{GET}Connection: close\r\n\r\n"), Last(200)),
    ];
    try_each(cases);
}

#[test]
fn a_path_may_come_as_raw_utf8_or_percent_encoded() {
    let discovery = discovery(&[]);
    for target in [
        "/peer/z\u{fc}rich",
        "/peer/z%C3%BCrich",
        "http://a/peer/z%c3%bcrich/",
    ] {
        register(&discovery, "z\u{fc}rich");
        let mut connection = discovery.connect();
        connection.send(format!("DELETE {target} HTTP/1.1\r\nHost: door\r\n\r\n").as_bytes());
        let answer = connection.answer().expect("an answer");
        assert_eq!(answer.status, 200, "{target}");
        assert_eq!(answer.json()["cell_id"], "z\u{fc}rich");
        assert!(ids(&discovery).is_empty());
    }
}

#[test]
fn head_has_the_length_of_the_body_and_not_the_body() {
    let discovery = discovery(&[]);
    register(&discovery, "a");
    let mut connection = discovery.connect();
    for (target, status) in [
        ("/health", 200),
        ("/peers", 200),
        ("/nowhere", 404),
        ("/register", 405),
    ] {
        let head = format!("HEAD {target} HTTP/1.1\r\nHost: door\r\n\r\n");
        let get = head.replacen("HEAD", "GET", 1);
        connection.send(format!("{head}{get}").as_bytes());
        let without = connection.answer_without_body().expect("an answer");
        let with = connection.answer().expect("in step");
        assert_eq!((without.status, with.status), (status, status), "{target}");
        let length = with.body.len().to_string();
        assert_eq!(without.header("content-length"), Some(&*length), "{target}");
        assert_eq!(without.header("content-type"), with.header("content-type"));
    }
}

#[test]
fn one_connection_serves_a_thousand_requests_with_one_thread() {
    let discovery = discovery(&[]);
    let mut connection = discovery.connect();
    for turn in 0..500 {
        connection.send(posted("", WITNESS).as_bytes());
        let answer = connection.answer().expect("an answer");
        assert_eq!(answer.status, 200, "{turn}");
        assert!(serves(&mut connection), "{turn}");
    }
    assert_eq!(connection_threads(&discovery), 1);
}

#[test]
fn fifty_pipelined_requests_are_answered_in_order_and_to_a_half_closed_connection_too() {
    let door = Door::open();
    let mut all = String::new();
    for turn in 0..50 {
        let beat = format!("{{\"cell_id\":\"n{turn:02}\"}}");
        let (front, rear) = beat.split_at(4);
        let request = match turn % 3 {
            0 => posted("", WITNESS),
            1 => chunked(&format!("4\r\n{front}\r\nd\r\n{rear}\r\n0\r\n\r\n"))
                .replace("/register", "/heartbeat"),
            _ => format!("DELETE /peer/n{turn} HTTP/1.1\r\nHost: door\r\n\r\n"),
        };
        all.push_str(&request);
    }
    for _ in 0..ROUNDS {
        for finished in [false, true] {
            let mut connection = door.discovery.connect();
            connection.send(all.as_bytes());
            if finished {
                connection.finish();
            }
            for turn in 0..50 {
                let answer = connection.answer().expect("an answer");
                let text = answer.text();
                match turn % 3 {
                    0 => assert_eq!(answer.json()["cell_id"], "witness"),
                    1 => assert!(text.contains(&format!("Peer n{turn:02} not")), "{text}"),
                    _ => assert_eq!(answer.detail(), "Peer not found"),
                }
            }
            if finished {
                assert!(connection.ends_silently());
            } else {
                assert!(serves(&mut connection), "it serves on");
            }
            door.is_well("50 pipelined requests");
            door.is_unchanged("50 pipelined requests");
        }
    }
    door.is_as_before("50 pipelined requests");
}

#[test]
fn a_client_that_asks_before_it_sends_a_body_is_told_to_go_on_or_refused() {
    let door = Door::open();
    let asks = "Expect: 100-continue\r\n";
    let old = posted(asks, WITNESS).replace("1.1", "1.0");
    for _ in 0..ROUNDS {
        let mut connection = door.discovery.connect();
        for _ in 0..2 {
            start_to_register(&mut connection);
            connection.send(WITNESS.as_bytes());
            assert_eq!(connection.answer().expect("an answer").status, 200);
        }
        let mut connection = door.discovery.connect();
        connection.send(format!("{POST}{asks}Content-Length: 10000000000\r\n\r\n").as_bytes());
        let answer = connection.answer().expect("a refusal");
        assert_refusal(&answer, 413, "a question about 10^10 bytes");
        assert!(connection.ends_silently());
        // Nobody who speaks HTTP/1.0 knows what 100 means.
        let mut connection = door.discovery.connect();
        connection.send(old.as_bytes());
        assert_eq!(connection.answer().expect("an answer").status, 200);
        assert!(connection.ends_silently());
        door.is_well("Expect: 100-continue");
    }
    door.is_as_before("Expect: 100-continue");
}

// ---------------------------------------------------------------------------------------------
// Many at a time, much, and slowly.

#[test]
fn two_hundred_clients_of_http2_leave_nothing_behind() {
    let door = Door::open();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for _ in 0..ROUNDS {
        let mut all: Vec<Connection> = (0..200).map(|_| door.discovery.connect()).collect();
        for connection in &mut all {
            connection.send(preface);
        }
        door.is_well("200 prefaces");
        for connection in &mut all {
            let answer = connection.answer().expect("a refusal");
            assert_refusal(&answer, 505, "a preface");
            assert!(connection.ends_silently());
        }
        door.is_well("200 prefaces");
    }
    door.is_as_before("200 prefaces of HTTP/2 at once");
}

#[test]
fn an_endless_sender_costs_no_memory() {
    const MIB: usize = 1 << 20;
    /// What it may grow by, in KiB.
    const GROWTH: u64 = 5000;
    let door = Door::open();
    let before = door.discovery.resident_kib();
    let mut most = before;
    let (header, line) = (format!("{GET}X: "), "X-Name: a value\r\n");
    let (extension, trailer, body) = (chunked("1;"), chunked("0\r\n"), chunked(""));
    // One row a case: its name, its start, what it goes on with, how many MiB of that.
    #[rustfmt::skip]
    let cases = [
        ("a header line of 200 MB", &*header, "a", 200, 431),
        ("headers without end", GET, line, 20, 431),
        ("a target without end", "GET /", "a", 20, 414),
        ("a chunk extension without end", &*extension, "a", 20, 400),
        ("a trailer without end", &*trailer, line, 20, 400),
        ("chunks without end", &*body, "2\r\naa\r\n", 20, 413),
    ];
    let mut all_sent = 0;
    for (name, start, filler, mib, status) in cases {
        let filler = filler.repeat(MIB / filler.len() + 1);
        for _ in 0..ROUNDS {
            eprintln!("at the door: {name}");
            let mut connection = door.discovery.connect();
            connection.send(start.as_bytes());
            let mut sent = 0;
            while sent < mib && connection.stream.write_all(filler.as_bytes()).is_ok() {
                sent += 1;
                most = most.max(door.discovery.resident_kib());
            }
            all_sent += sent;
            // It is refused at once and listened to for a second more, in which a fast client
            // gets all of it through.
            let answer = connection.answer().expect("a refusal");
            assert_refusal(&answer, status, name);
            assert!(connection.ends_silently(), "{name}: a second answer");
            door.is_well(name);
        }
    }
    let growth = most - before;
    report(&format!(
        "door, endless senders: {all_sent} MiB sent; {before} KiB resident, at most {growth} more"
    ));
    assert!(growth < GROWTH, "resident memory grew by {growth} KiB");
    door.is_as_before("endless senders");
}

/// Name, what is sent at once, what is sent a byte a second, over and over, and what has to come
/// of it; what is served has to end in silence.
type Kind<'a> = (&'static str, &'a str, &'static str, Outcome);

/// A client that takes its time, or never comes to an end.
struct Slow {
    name: &'static str,
    connection: Connection,
    drip: &'static [u8],
    since: Instant,
    /// When the answer or the end had come.
    ended: Option<Duration>,
    outcome: Outcome,
}

impl Slow {
    fn start(door: &Door, (name, sent, drip, outcome): Kind) -> Self {
        let since = Instant::now();
        let mut connection = door.discovery.connect();
        connection.send(sent.as_bytes());
        if let Served(status) = outcome {
            assert_eq!(connection.answer().expect("an answer").status, status);
        }
        Self {
            name,
            connection,
            drip: drip.as_bytes(),
            since,
            ended: None,
            outcome,
        }
    }

    fn look(&mut self) {
        if self.ended.is_none() && has_news(&self.connection.stream) {
            self.ended = Some(self.since.elapsed());
        }
    }

    fn send_byte(&mut self, turn: usize) {
        if let (None, [_, ..]) = (self.ended, self.drip) {
            self.connection
                .send(&self.drip[turn % self.drip.len()..][..1]);
        }
    }

    /// Asserts that it was cut off at its deadline, neither before nor long after.
    fn judge(mut self) {
        let (name, ended) = (self.name, self.ended.expect("it ended"));
        let deadline = match self.outcome {
            Silence | Served(_) => {
                assert!(self.connection.ends_silently(), "{name}: a stray answer");
                IDLE
            }
            Refused(status) => {
                let answer = self.connection.answer().expect("a refusal");
                assert_refusal(&answer, status, name);
                assert!(self.connection.ends_silently(), "{name}: a second answer");
                Duration::from_secs(10)
            }
            Last(_) => panic!("{name} is never the last"),
        };
        assert!(ended > deadline.mul_f64(0.9), "{name}: after {ended:?}");
        assert!(
            ended < deadline + Duration::from_secs(6),
            "{name}: after {ended:?}"
        );
    }
}

/// Whether something or the end has arrived that was not read yet.
fn has_news(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("set");
    let news = match stream.peek(&mut [0]) {
        Err(e) => e.kind() != ErrorKind::WouldBlock,
        Ok(_) => true,
    };
    stream.set_nonblocking(false).expect("set");
    news
}

#[test]
fn a_slow_or_silent_client_is_cut_off_at_its_deadline() {
    let door = Door::open();
    let whole = posted("", WITNESS);
    let head = whole.trim_end_matches(WITNESS);
    let short = whole.trim_end_matches('}');
    let (chunks, one) = (chunked(""), chunked("2\r\n{}\r\n"));
    let kept = "GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    // One row a kind of client, and how many there are of it.
    #[rustfmt::skip]
    let kinds: [(usize, Kind); 11] = [
        (34, ("a head, a byte a second", "G", "ET /health", Refused(408))),
        (33, ("a body, a byte a second", head, WITNESS, Refused(408))),
        (33, ("chunks, a byte a second", &chunks, "1\r\na\r\n", Refused(408))),
        (1, ("a head without end", GET, "", Refused(408))),
        (1, ("a body one byte short", short, "", Refused(408))),
        (1, ("chunks without the last", &one, "", Refused(408))),
        (1, ("silence", "", "", Silence)),
        (1, ("half a blank line", "\r", "", Silence)),
        (1, ("blank lines, a byte a second", "", "\r\n", Silence)),
        (1, ("silence after a request", &whole, "", Served(200))),
        (1, ("silence after a request in HTTP/1.0", kept, "", Served(200))),
    ];
    let mut all = Vec::new();
    for _ in 0..ROUNDS {
        for (count, kind) in kinds {
            all.extend((0..count).map(|_| Slow::start(&door, kind)));
        }
    }

    let started = Instant::now();
    let mut turn = 0;
    let at_most = Duration::from_secs(20);
    wait_for("every slow client is cut off", at_most, || {
        if started.elapsed() >= Duration::from_secs(turn) {
            for slow in &mut all {
                slow.send_byte(usize::try_from(turn).expect("few"));
            }
            door.is_well("a second of slow clients");
            turn += 1;
        }
        pause(Duration::from_millis(20));
        all.iter_mut().for_each(Slow::look);
        all.iter().all(|slow| slow.ended.is_some())
    });
    let last = all.iter().filter_map(|slow| slow.ended).max();
    let count = all.len();
    report(&format!(
        "door, {count} slow clients: the last cut off after {last:?}"
    ));
    for slow in all {
        slow.judge();
    }
    door.is_unchanged("slow clients");
    door.is_as_before("slow clients");
}

// ---------------------------------------------------------------------------------------------
// More connections than there is room for.

/// Waits until every connection waits for its client, and long enough to tell who does longer.
fn all_wait(discovery: &Child) {
    let began = Instant::now();
    wait_for("every connection waits", SOON, || {
        let states = connection_thread_states(discovery);
        states.iter().all(|state| state == "S") && began.elapsed() > Duration::from_millis(10)
    });
}

#[test]
fn at_the_cap_the_longest_idle_connection_makes_room() {
    let discovery = discovery(&["--max-connections", "4"]);
    let mut held: Vec<Connection> = Vec::new();
    for _ in 0..4 {
        let mut connection = discovery.connect();
        assert!(serves(&mut connection));
        held.push(connection);
        all_wait(&discovery);
    }
    // The first has been open longest, but the second has been idle longest.
    assert!(serves(&mut held[0]));
    all_wait(&discovery);
    let mut newcomer = discovery.connect();
    assert!(serves(&mut newcomer), "the newcomer is served");
    assert!(held[1].ends_silently(), "the longest idle is closed");
    for kept in [0, 2, 3] {
        assert!(serves(&mut held[kept]), "connection {kept} is kept");
    }
    assert!(serves(&mut newcomer), "the newcomer is kept");
}

#[test]
fn at_the_cap_an_unfinished_request_makes_room_when_nobody_is_idle() {
    let discovery = discovery(&["--max-connections", "3"]);
    let mut held: Vec<Connection> = Vec::new();
    for _ in 0..3 {
        let mut connection = discovery.connect();
        // The invitation to go on says that the request is being read.
        start_to_register(&mut connection);
        held.push(connection);
        all_wait(&discovery);
    }
    let mut newcomer = discovery.connect();
    assert!(serves(&mut newcomer), "the newcomer is served");
    assert!(held[0].ends_silently(), "the longest under way is closed");
    for kept in &mut held[1..] {
        kept.send(WITNESS.as_bytes());
        assert_eq!(kept.answer().expect("an answer").status, 200);
    }
}

/// Asks for a list of some megabytes and reads only its first byte.
fn read_slowly(discovery: &Child) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("set");
    let address: SocketAddr = discovery.address.parse().expect("an address");
    socket.connect(&address.into()).expect("it listens");
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(SOON)).expect("set");
    let request = b"GET /peers HTTP/1.1\r\nHost: door\r\n\r\n";
    stream.write_all(request).expect("sent");
    stream.peek(&mut [0]).expect("the first byte");
    stream
}

/// So many peers with so much to say that `/peers`, of 4 MB, is more than sockets buffer for a
/// client that does not read.
const CROWD: usize = 250;

/// Registers a crowd.
fn register_a_crowd(discovery: &Child) {
    let services = vec![letters(255); 64];
    let mut connection = discovery.connect();
    for id in 0..CROWD {
        let id = format!("n{id}");
        let body = json!({"cell_id": id, "ip": "n", "port": 1, "services": services});
        connection.send(posted("", &body.to_string()).as_bytes());
        assert_eq!(connection.answer().expect("an answer").status, 200);
    }
}

#[test]
fn at_the_cap_slow_readers_make_room_and_the_slowest_goes_first() {
    let door = Door::with(&["--max-connections", "4"]);
    register_a_crowd(&door.discovery);
    let mut held: Vec<TcpStream> = Vec::new();
    for _ in 0..4 {
        held.push(read_slowly(&door.discovery));
        all_wait(&door.discovery);
    }
    door.is_well("as many slow readers as there is room for");
    let mut newcomer = door.discovery.connect();
    newcomer.send(posted("", WITNESS).as_bytes());
    assert_eq!(newcomer.answer().expect("an answer").status, 200);
    let lists = held.iter_mut().map(|reader| {
        let mut list = Vec::new();
        // A reset is an end, too.
        let _ = reader.read_to_end(&mut list);
        list.len() > CROWD * 64 * 255
    });
    // The newcomer took the place of the first, after `/health` had left.
    assert_eq!(lists.collect::<Vec<_>>(), [false, true, true, true]);
    drop((held, newcomer));
    door.is_as_before("more slow readers than there is room for");
}

/// Lets this process hold so many connections.
fn may_hold(connections: u64) -> bool {
    let limit = getrlimit(Resource::Nofile);
    let wanted = connections + 500;
    if limit.current.is_none_or(|current| current >= wanted) {
        return true;
    }
    let raised = Rlimit {
        current: Some(wanted),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).is_ok()
}

/// Discovery under a limit of descriptors.
fn discovery_within(descriptors: usize, flags: &[&str]) -> Command {
    let program = command("aios-discovery");
    let mut shell = Command::new("/bin/sh");
    shell
        .env_clear()
        .stdin(Stdio::null())
        .arg("-c")
        .arg(format!("ulimit -n {descriptors}; exec \"$0\" \"$@\""))
        .arg(program.get_program())
        .args(["--host", "127.0.0.1", "--port", "0"])
        .args(flags);
    shell
}

#[test]
fn a_thousand_held_connections_within_256_descriptors_leave_room_for_health() {
    if !may_hold(1000) {
        return skip("a_thousand_held_connections", "1,500 descriptors");
    }
    let door = Door::of(Child::listening(discovery_within(256, &USUAL)));
    let mut held: Vec<Connection> = Vec::new();
    for count in 0..1000 {
        let mut connection = door.discovery.connect();
        match count % 3 {
            0 => {}
            1 => connection.send(b"GET /hea"),
            _ => connection.send(GET_HEALTH),
        }
        held.push(connection);
        if count % 100 == 99 {
            door.is_well(&format!("{} held connections", count + 1));
        }
    }
    let descriptors = door.discovery.descriptors();
    assert!(descriptors <= 256, "{descriptors} descriptors");
    for _ in 0..10 {
        door.is_well("1,000 held connections");
    }
    report(&format!(
        "door, 1,000 connections within 256: {descriptors} descriptors"
    ));
    drop(held);
    door.is_unchanged("1,000 held connections");
    door.is_as_before_but(POOL, "1,000 held connections");
}

#[test]
fn a_cap_beyond_the_descriptors_is_refused_at_start() {
    let output = discovery_within(256, &["--max-connections", "1000"])
        .output()
        .expect("it starts");
    assert_eq!(output.status.code(), Some(2));
    let line = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(
        line.contains("--max-connections 1000: the limit of 256 file descriptors"),
        "{line}"
    );
    assert_eq!(line.lines().count(), 1, "{line}");
}

/// Sets a limit of the running discovery, for good.
fn limit(discovery: &Child, resource: Resource, to: u64) {
    let pid = Pid::from_raw(i32::try_from(discovery.pid()).expect("a pid"));
    let to = Rlimit {
        current: Some(to),
        maximum: Some(to),
    };
    prlimit(pid, resource, to).expect("set");
}

#[test]
fn a_lack_of_descriptors_costs_the_longest_idle_connections_and_not_the_listener() {
    let door = Door::of(discovery(&[]));
    let mut held: Vec<Connection> = Vec::new();
    for _ in 0..100 {
        let mut connection = door.discovery.connect();
        assert!(serves(&mut connection));
        held.push(connection);
        all_wait(&door.discovery);
    }
    // Ten below what it has: its own bounds do not know of this.
    let so_many = u64::try_from(door.discovery.descriptors() - 10).expect("few");
    limit(&door.discovery, Resource::Nofile, so_many);
    for _ in 0..ROUNDS {
        let mut newcomer = door.discovery.connect();
        assert!(serves(&mut newcomer), "the newcomer is served");
        drop(newcomer);
        door.is_well("a lack of descriptors");
    }
    assert!(held[0].ends_silently(), "the longest idle is closed");
    assert!(serves(&mut held[99]), "the last is kept");
    let log = door.discovery.log().concat();
    assert!(log.contains("cannot accept connections"), "{log}");
}

#[test]
fn a_lack_of_threads_costs_the_longest_idle_connection_and_not_the_newcomer() {
    let discovery = discovery(&[]);
    let mut held: Vec<Connection> = Vec::new();
    for _ in 0..50 {
        let mut connection = discovery.connect();
        assert!(serves(&mut connection));
        held.push(connection);
        all_wait(&discovery);
    }
    // No room for the stack of a further thread.
    limit(&discovery, Resource::As, discovery.virtual_kib() * 1024);
    for _ in 0..ROUNDS {
        let mut newcomer = discovery.connect();
        assert!(serves(&mut newcomer), "the newcomer is served");
    }
    assert!(held[0].ends_silently(), "the longest idle is closed");
    assert!(serves(&mut held[49]), "the last is kept");
}

// ---------------------------------------------------------------------------------------------
// A stop.

/// Asks for a stop, and waits until nobody is let in any more.
fn stop(discovery: &Child) {
    discovery.signal(Signal::TERM);
    wait_for("new connections are refused", SOON, || {
        TcpStream::connect(&discovery.address).is_err()
    });
}

fn assert_ended_well(discovery: &mut Child, at_most: Duration) {
    let (status, took) = discovery.wait(SOON);
    assert_eq!(status.code(), Some(0));
    assert!(took < at_most, "it took {took:?} to end");
}

#[test]
fn a_request_half_sent_at_a_stop_is_answered_and_its_connection_closed() {
    for (front, rear) in [WITNESS.split_at(0), WITNESS.split_at(20)] {
        let mut discovery = discovery(&[]);
        let mut connection = discovery.connect();
        start_to_register(&mut connection);
        connection.send(front.as_bytes());
        stop(&discovery);
        assert!(discovery.runs(), "it waits for the rest");
        connection.send(rear.as_bytes());
        let answer = connection.answer().expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(connection.ends_silently());
        drop(connection);
        assert_ended_well(&mut discovery, NO_WAITING);
    }
}

#[test]
fn a_request_never_finished_does_not_hold_up_a_stop_for_long() {
    let mut discovery = discovery(&[]);
    let mut connection = discovery.connect();
    start_to_register(&mut connection);
    discovery.signal(Signal::TERM);
    let (status, took) = discovery.wait(SOON);
    assert_eq!(status.code(), Some(0));
    let limit = Duration::from_secs(5);
    assert!(
        took > limit.mul_f64(0.8) && took < limit + NO_WAITING,
        "{took:?}"
    );
    assert!(connection.ends_silently());
}

#[test]
fn a_connection_just_opened_at_a_stop_still_gets_its_answer() {
    let served = (0..5).any(|_| {
        let mut discovery = discovery(&[]);
        let mut opened = discovery.connect();
        discovery.signal(Signal::TERM);
        discovery.wait_for_line("stopping", SOON);
        // Later than a stop that looks once, sooner than one that gives a request time to come.
        // A client that is put to sleep here is too late, hence the five turns.
        pause(Duration::from_millis(30));
        opened.send(GET_HEALTH);
        let answer = opened.answer();
        drop(opened);
        assert_ended_well(&mut discovery, NO_WAITING);
        answer.is_some_and(|answer| answer.header("connection") == Some("close"))
    });
    assert!(served);
}

#[test]
fn idle_connections_do_not_delay_a_stop() {
    let mut discovery = discovery(&[]);
    let mut held: Vec<Connection> = (0..50).map(|_| discovery.connect()).collect();
    for used in held.iter_mut().step_by(2) {
        assert!(serves(used));
    }
    let started = Instant::now();
    stop(&discovery);
    assert_ended_well(&mut discovery, NO_WAITING);
    report(&format!(
        "door, a stop with 50 idle connections: {:?}",
        started.elapsed()
    ));
    for connection in &mut held {
        assert!(connection.ends_silently(), "a stray answer");
    }
}

#[test]
fn an_answer_half_read_at_a_stop_arrives_whole_and_its_connection_is_closed() {
    let mut discovery = discovery(&[]);
    register_a_crowd(&discovery);
    let mut reader = read_slowly(&discovery);
    stop(&discovery);
    let started = Instant::now();
    let mut answer = Vec::new();
    reader.read_to_end(&mut answer).expect("an answer");
    let head = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .expect("a head");
    let list: Value = serde_json::from_slice(&answer[head + 4..]).expect("whole");
    assert_eq!(list["count"], CROWD);
    assert_ended_well(&mut discovery, NO_WAITING);
    assert!(
        started.elapsed() < NO_WAITING,
        "after {:?}",
        started.elapsed()
    );
}
