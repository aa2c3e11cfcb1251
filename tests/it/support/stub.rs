//! A discovery that does what a test tells it to: answer, refuse, wait, or never answer.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// What has arrived in one request.
#[derive(Clone, Debug)]
pub struct Arrived {
    pub at: Instant,
    /// Method and target.
    pub line: String,
    /// The whole head, as it was sent.
    pub head: String,
    pub body: Vec<u8>,
    /// How many had arrived before it on its connection.
    pub before: usize,
}

/// The server. Its threads end with the test process.
pub struct Stub {
    /// Where it listens, as `IP:PORT`.
    pub address: String,
    arrived: Arc<Mutex<Vec<Arrived>>>,
}

impl Stub {
    /// Listens on a free port. `answer` gives status and JSON body for a request (or, to redirect
    /// it, a 3xx and the location), or `None` to leave the client waiting for ever.
    pub fn start(
        answer: impl Fn(&Arrived) -> Option<(u16, String)> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let arrived = Arc::new(Mutex::new(Vec::new()));
        let answer = Arc::new(answer);
        let record = Arc::clone(&arrived);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (record, answer) = (Arc::clone(&record), Arc::clone(&answer));
                std::thread::spawn(move || serve(stream, &record, &*answer));
            }
        });
        Self { address, arrived }
    }

    /// Where it listens, as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests that have arrived whole and begin with `line`.
    pub fn arrived(&self, line: &str) -> Vec<Arrived> {
        let arrived = self.arrived.lock().expect("no panic");
        let matching = arrived.iter().filter(|one| one.line.starts_with(line));
        matching.cloned().collect()
    }
}

fn serve(
    mut stream: TcpStream,
    record: &Mutex<Vec<Arrived>>,
    answer: &dyn Fn(&Arrived) -> Option<(u16, String)>,
) {
    // Whoever wants to may ask again on the same connection.
    for before in 0.. {
        let Some(arrived) = read(&mut stream, before) else {
            return;
        };
        record.lock().expect("no panic").push(arrived.clone());
        match answer(&arrived) {
            Some((status, body)) => {
                let length = body.len();
                let location = match status {
                    300..400 => format!("Location: {body}\r\n"),
                    _ => String::new(),
                };
                let answer = format!(
                    "HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\n{location}Content-Length: {length}\r\n\r\n{body}"
                );
                let _ = stream.write_all(answer.as_bytes());
            }
            // Until the client has had enough.
            None => while matches!(stream.read(&mut [0; 64]), Ok(1..)) {},
        }
    }
}

fn read(stream: &mut TcpStream, before: usize) -> Option<Arrived> {
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let count = stream.read(&mut chunk).ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&chunk[..count]);
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let length = head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .map_or(0, |(_, value)| value.trim().parse().expect("a number"));
        if bytes.len() >= end + 4 + length {
            let line = head.lines().next().unwrap_or_default();
            return Some(Arrived {
                at: Instant::now(),
                line: line.trim_end_matches(" HTTP/1.1").to_owned(),
                head: head.clone(),
                body: bytes[end + 4..].to_vec(),
                before,
            });
        }
    }
}
