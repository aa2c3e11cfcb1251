//! A client that sends what it is told, byte for byte, and shows all of the answer.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::{SOON, uninterrupted};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// One answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of the header `name` (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The sentence of an error.
    pub fn detail(&self) -> String {
        self.json()["detail"].as_str().expect("a detail").to_owned()
    }
}

/// One request on a connection of its own.
pub fn request(address: &str, method: &str, target: &str, headers: &[&str], body: &[u8]) -> Answer {
    let mut head =
        format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for header in headers {
        head.push_str(header);
        head.push_str("\r\n");
    }
    if !body.is_empty() {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    let mut connection = Connection::to(address);
    connection.send(&[head.as_bytes(), b"\r\n", body].concat());
    if method == "HEAD" {
        return connection.answer_without_body().expect("an answer");
    }
    connection.answer().expect("an answer")
}

/// One request on a connection of its own: the status and the body of the answer, which there may
/// not be.
pub fn ask(address: &str, method: &str, target: &str, body: &str) -> io::Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.set_write_timeout(Some(SOON))?;
    let head = head(method, target, body, "close");
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
    let body = answer.split_off(end + 4);
    let head = String::from_utf8_lossy(&answer);
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "));
    if length.and_then(|length| length.parse().ok()) != Some(body.len()) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let status = head[9..12].parse().map_err(io::Error::other)?;
    let says_when = head.contains("\r\nRetry-After: ");
    assert_eq!(says_when, status == 503, "{head}");
    Ok((status, body))
}

/// The head of a request.
pub fn head(method: &str, target: &str, body: &str, connection: &str) -> String {
    let length = body.len();
    format!(
        "{method} {target} HTTP/1.1\r\nHost: h\r\nConnection: {connection}\r\nContent-Length: {length}\r\n\r\n"
    )
}

/// A connection, and what has arrived on it that is not used yet.
pub struct Connection {
    pub stream: TcpStream,
    arrived: Vec<u8>,
}

impl Connection {
    pub fn to(address: &str) -> Self {
        Self::over(TcpStream::connect(address).expect("it listens"))
    }

    pub fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream.set_write_timeout(Some(PATIENCE)).expect("set");
        stream.set_nodelay(true).expect("set");
        Self {
            stream,
            arrived: Vec::new(),
        }
    }

    /// Sends `bytes`. A server that has heard enough may have closed; its answer still counts.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Says that nothing more comes from here.
    pub fn finish(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// The next answer; `None` where the connection ends before one begins.
    pub fn answer(&mut self) -> Option<Answer> {
        let mut answer = self.answer_without_body()?;
        let length: usize = answer
            .header("content-length")
            .expect("a length")
            .parse()
            .expect("a number");
        answer.body = self.body(length);
        Some(answer)
    }

    /// A body of this length, behind a head that has been read.
    pub fn body(&mut self, length: usize) -> Vec<u8> {
        while self.arrived.len() < length {
            assert!(self.read(), "the connection ended within a body");
        }
        self.arrived.drain(..length).collect()
    }

    /// What comes up to and with `mark`; `None` where the connection ends before.
    pub fn until(&mut self, mark: &[u8]) -> Option<Vec<u8>> {
        loop {
            let at = self.arrived.windows(mark.len()).position(|it| it == mark);
            if let Some(at) = at {
                return Some(self.arrived.drain(..at + mark.len()).collect());
            }
            if !self.read() {
                return None;
            }
        }
    }

    /// The next answer, where it has no body: to HEAD, or 100 Continue.
    pub fn answer_without_body(&mut self) -> Option<Answer> {
        let end = loop {
            let end = self.arrived.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                break end;
            }
            if !self.read() {
                let rest = self.arrived.escape_ascii().to_string();
                assert!(
                    rest.is_empty(),
                    "the connection ended within a head: {rest}"
                );
                return None;
            }
        };
        let head: Vec<u8> = self.arrived.drain(..end + 4).collect();
        let head = String::from_utf8(head).expect("ASCII");
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().expect("a status line");
        let status = status.strip_prefix("HTTP/1.1 ").expect("HTTP/1.1");
        let headers = lines
            .map(|line| line.split_once(": ").expect("a header"))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        Some(Answer {
            status: status[..3].parse().expect("a status"),
            headers,
            body: Vec::new(),
        })
    }

    /// Whether the connection ends now, without a further byte.
    pub fn ends_silently(&mut self) -> bool {
        self.arrived.is_empty() && !self.read()
    }

    /// Reads what has arrived; false at the end of the connection.
    fn read(&mut self) -> bool {
        let mut bytes = [0; 16 * 1024];
        match uninterrupted(|| self.stream.read(&mut bytes)) {
            Ok(0) => false,
            Ok(count) => {
                self.arrived.extend_from_slice(&bytes[..count]);
                true
            }
            Err(e) if e.kind() == ErrorKind::ConnectionReset => false,
            Err(e) => panic!("no answer: {e}"),
        }
    }
}
