//! Clients that ask without pause while something else goes on, and how they fared.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{pause, uninterrupted};

/// How long an answer may take: a restart included, with all the others queued.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many requests a client that keeps its connection sends on one.
const KEPT_FOR: usize = 50;

/// How long those think that keep a connection and leave it idle.
const THOUGHT: Duration = Duration::from_millis(250);

/// Some clients, of which half open a connection for each request and half keep theirs for a while,
/// some of them with pauses.
pub struct Traffic {
    stopping: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Fared>>,
}

/// How requests fared.
#[derive(Debug, Default)]
pub struct Fared {
    /// Answered with 200.
    pub answered: usize,
    /// Sent again because a connection that had served before was closed before a byte of an
    /// answer, as any server may close one.
    pub sent_again: usize,
    /// Everything else.
    pub failures: Vec<String>,
    /// The longest that one waited.
    pub slowest: Duration,
}

impl Traffic {
    /// Starts so many clients, which ask `address` from now on.
    pub fn start(address: &str, clients: usize) -> Self {
        let address: SocketAddr = address.parse().expect("an address");
        let stopping = Arc::new(AtomicBool::new(false));
        let clients = (0..clients)
            .map(|number| {
                let stopping = Arc::clone(&stopping);
                std::thread::spawn(move || ask_on(address, number, &stopping))
            })
            .collect();
        Self { stopping, clients }
    }

    /// Lets them end, and adds up how they fared.
    pub fn stop(self) -> Fared {
        self.stopping.store(true, Ordering::SeqCst);
        let mut sum = Fared::default();
        for client in self.clients {
            let one = client.join().expect("no panic");
            sum.answered += one.answered;
            sum.sent_again += one.sent_again;
            sum.failures.extend(one.failures);
            sum.slowest = sum.slowest.max(one.slowest);
        }
        sum
    }
}

/// Why there was no answer.
enum Lost {
    /// The connection ended before a byte of it.
    Closed,
    Failed(String),
}

fn ask_on(address: SocketAddr, number: usize, stopping: &AtomicBool) -> Fared {
    let keeps = number % 2 == 1;
    let thinks = number % 8 > 5;
    let mut fared = Fared::default();
    let mut kept: Option<(TcpStream, usize)> = None;
    while !stopping.load(Ordering::SeqCst) {
        let (stream, served) = match kept.take() {
            Some(kept) => kept,
            None => match TcpStream::connect(address) {
                Ok(stream) => (stream, 0),
                Err(e) => {
                    fared.failures.push(format!("connect: {e}"));
                    continue;
                }
            },
        };
        if thinks && served > 0 {
            pause(THOUGHT);
        }
        let last = !keeps || served + 1 == KEPT_FOR;
        let asked = Instant::now();
        let outcome = exchange(&stream, &request(number, last));
        fared.slowest = fared.slowest.max(asked.elapsed());
        match outcome {
            Ok((200, stays)) => {
                fared.answered += 1;
                kept = (stays && !last).then_some((stream, served + 1));
            }
            Ok((status, _)) => fared.failures.push(format!("status {status}")),
            Err(Lost::Closed) if served > 0 => fared.sent_again += 1,
            Err(Lost::Closed) => fared.failures.push("closed without an answer".to_owned()),
            Err(Lost::Failed(why)) => {
                let used = if served > 0 { "used" } else { "new" };
                fared.failures.push(format!("{used} connection: {why}"));
            }
        }
    }
    fared
}

/// Reads and changes by turns, which succeed whatever discovery remembers.
fn request(number: usize, last: bool) -> Vec<u8> {
    let connection = if last { "close" } else { "keep-alive" };
    if number % 4 < 2 {
        return format!("GET /health HTTP/1.1\r\nHost: h\r\nConnection: {connection}\r\n\r\n")
            .into();
    }
    let body = format!(r#"{{"cell_id":"client-{number}","ip":"127.0.0.1","port":1}}"#);
    let length = body.len();
    format!(
        "POST /register HTTP/1.1\r\nHost: h\r\nConnection: {connection}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into()
}

/// The status of the answer, and whether the connection stays.
fn exchange(mut stream: &TcpStream, request: &[u8]) -> Result<(u16, bool), Lost> {
    let failed = |e: io::Error| Lost::Failed(e.to_string());
    stream.set_nodelay(true).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    match stream.write_all(request) {
        Ok(()) => {}
        // It is seen to be closed when it is read.
        Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {}
        Err(e) => return Err(failed(e)),
    }
    let mut answer = Vec::new();
    loop {
        if let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&answer[..end]);
            let field = |name: &str| {
                let line = head.lines().find_map(|line| line.strip_prefix(name));
                line.map(str::trim)
            };
            let length: usize = field("Content-Length:")
                .and_then(|length| length.parse().ok())
                .ok_or_else(|| Lost::Failed(format!("no length in {head}")))?;
            if answer.len() >= end + 4 + length {
                let status = head.get(9..12).and_then(|status| status.parse().ok());
                let status = status.ok_or_else(|| Lost::Failed(format!("no status in {head}")))?;
                return Ok((status, field("Connection:") == Some("keep-alive")));
            }
        }
        let mut bytes = [0; 4096];
        match uninterrupted(|| stream.read(&mut bytes)) {
            Ok(0) if answer.is_empty() => return Err(Lost::Closed),
            Ok(0) => return Err(Lost::Failed("cut off within an answer".to_owned())),
            Ok(count) => answer.extend_from_slice(&bytes[..count]),
            Err(e) if e.kind() == ErrorKind::ConnectionReset && answer.is_empty() => {
                return Err(Lost::Closed);
            }
            Err(e) => return Err(failed(e)),
        }
    }
}
