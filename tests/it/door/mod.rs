//! The door: whatever arrives gets a defined answer or a defined silence, discovery stays well,
//! and nothing of it is left behind.

mod inherited;
mod load;
mod requests;
mod room;
mod stop;

use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use aios_mesh::shutdown::Latch;
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::support::{
    Answer, Child, Connection, SOON, discovery, discovery_within, holds_for, ids, may_hold, pause,
    register, report, skip, uninterrupted, wait_for,
};

/// How often each case is tried.
const ROUNDS: usize = 3;
/// The idle time-out of the discovery that is tried.
const IDLE: Duration = Duration::from_secs(2);
/// The flags it is started with: the witness outlives every test.
const USUAL: [&str; 4] = ["--idle-timeout", "2s", "--stale-after", "60m"];
/// How many threads are kept for connections when there are none.
const KEPT: usize = 1;
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
            threads: discovery.threads() - connection_threads(&discovery) + KEPT,
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
        let (threads, descriptors) = (self.threads, self.descriptors);
        let before = format!("{threads} threads, {descriptors} descriptors are left after {after}");
        let took = wait_for(&before, 2 * IDLE + SOON, || {
            connection_threads(&self.discovery) == KEPT
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
    uninterrupted(|| stream.peek(&mut [0])).expect("an answer");
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
