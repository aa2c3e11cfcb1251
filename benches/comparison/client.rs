//! A connection that is kept, and what is answered on it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long an answer may take: a whole list of a million peers under load.
const PATIENCE: Duration = Duration::from_secs(120);
/// More than any head.
const AT_FIRST: usize = 64 * 1024;

/// A connection to a server.
pub struct Connection {
    stream: TcpStream,
    /// Room for the longest answer so far.
    buffer: Vec<u8>,
}

/// An answer, which lasts until the next question.
pub struct Answer<'a> {
    pub status: u16,
    /// All of it, the head included.
    pub whole: &'a [u8],
    pub body: &'a [u8],
}

impl Connection {
    pub fn to(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            buffer: vec![0; AT_FIRST],
        })
    }

    /// Sends a request and waits for the answer.
    pub fn ask(&mut self, request: &[u8]) -> io::Result<Answer<'_>> {
        self.stream.write_all(request)?;
        let mut filled = 0;
        let (status, head, length) = loop {
            let count = match self.stream.read(&mut self.buffer[filled..]) {
                // A server that is ended beside it interrupts a read with a time-out.
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            };
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += count;
            if let Some(head) = head_of(&self.buffer[..filled])? {
                break head;
            }
        };
        let end = head + length;
        if self.buffer.len() < end {
            self.buffer.resize(end, 0);
        }
        if filled < end {
            self.stream.read_exact(&mut self.buffer[filled..end])?;
        }
        Ok(Answer {
            status,
            whole: &self.buffer[..end],
            body: &self.buffer[head..end],
        })
    }
}

/// The status, the length of the head and that of the body, once the head is there.
fn head_of(bytes: &[u8]) -> io::Result<Option<(u16, usize, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut answer = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(head) = answer.parse(bytes).map_err(io::Error::other)? else {
        return Ok(None);
    };
    let length = answer
        .headers
        .iter()
        .find(|field| field.name.eq_ignore_ascii_case("content-length"))
        .and_then(|field| std::str::from_utf8(field.value).ok()?.parse().ok())
        .ok_or_else(|| io::Error::other("an answer without a length"))?;
    Ok(Some((answer.code.unwrap_or(0), head, length)))
}
