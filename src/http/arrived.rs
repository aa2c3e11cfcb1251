//! The door, third part: one request after another out of what arrives on a connection.
//!
//! Pure: what has arrived is put in, heads and bodies are taken out once they are whole. How long
//! to wait for more is the caller's.

use super::body::Chunks;
use super::head::{self, Framing, Head, Refusal};

/// How much of a buffer is kept while it is waited for a request: most fit, head and body.
const USUAL: usize = 4 * 1024;
/// How much is read at once at least.
const LEAST: usize = 1024;

/// What has arrived and is not used yet: at most one head, one body and one read.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    /// It is read into as it is: nothing is cleared before a read.
    buffer: Vec<u8>,
    /// Where what is not used yet begins and ends in it.
    begin: usize,
    end: usize,
    /// How far that has been looked at for the end of a head.
    scanned: usize,
    /// What the body is made of so far, where it comes in chunks.
    chunks: Chunks,
}

impl Arrived {
    /// Where to put what arrives next.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.begin == self.end {
            (self.begin, self.end) = (0, 0);
            if self.buffer.len() != USUAL {
                self.buffer = vec![0; USUAL];
            }
        } else if self.buffer.len() - self.end < LEAST {
            self.buffer.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
            if self.buffer.len() - self.end < LEAST {
                self.buffer.resize(2 * self.buffer.len(), 0);
            }
        }
        &mut self.buffer[self.end..]
    }

    /// So many bytes have arrived there.
    pub(super) fn put(&mut self, count: usize) {
        self.end += count;
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[self.begin..self.end]
    }

    /// Whether a request has begun.
    pub(super) fn has_begun(&mut self) -> bool {
        // Some clients put a line end behind a body (RFC 9112, 2.2).
        let pairs = self.bytes().chunks_exact(2);
        let line_ends = pairs.take_while(|two| *two == b"\r\n").count();
        self.begin += 2 * line_ends;
        !matches!(self.bytes(), b"" | b"\r")
    }

    /// Whether the request begins as one to HEAD.
    pub(super) fn begins_as_head(&self) -> bool {
        self.bytes().starts_with(b"HEAD ")
    }

    /// Takes the head out, if it is whole.
    pub(super) fn head(&mut self) -> Result<Option<Head>, Refusal> {
        let bytes = &self.buffer[self.begin..self.end];
        let Some(end) = head::find_end(bytes, &mut self.scanned)? else {
            return Ok(None);
        };
        let head = head::parse(&bytes[..end])?;
        self.begin += end;
        self.scanned = 0;
        Ok(Some(head))
    }

    /// Whether all of a body that is announced with its length is there.
    pub(super) fn has_all(&self, framing: &Framing) -> bool {
        matches!(framing, Framing::Length(length) if self.bytes().len() >= *length)
    }

    /// Whether nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.begin == self.end
    }

    /// Takes the body out that follows a head, if it is whole.
    pub(super) fn body(&mut self, framing: &Framing) -> Result<Option<Vec<u8>>, Refusal> {
        match *framing {
            Framing::Length(length) => {
                let body = self.bytes().get(..length).map(<[u8]>::to_vec);
                self.begin += body.as_ref().map_or(0, Vec::len);
                Ok(body)
            }
            Framing::Chunked => {
                let bytes = &self.buffer[self.begin..self.end];
                self.begin += self.chunks.take(bytes)?;
                Ok(self.chunks.finished())
            }
        }
    }

    /// How many bytes are kept.
    #[cfg(any(test, fuzzing))]
    pub(super) fn held(&self) -> usize {
        self.bytes().len() + self.chunks.held()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request whose body has this length and is like no other's.
    fn request(length: usize) -> (Vec<u8>, Vec<u8>) {
        let body: Vec<u8> = (0..length).map(|at| (at / 3 + length) as u8).collect();
        let head = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n");
        ([head.as_bytes(), &body].concat(), body)
    }

    #[test]
    fn requests_stay_whole_however_they_lie_in_the_buffer() {
        let lengths = (0..40)
            .map(|n| n * 97 % 1500)
            .chain([20_000, 1, 65_536, 0, 3000]);
        let (bytes, bodies): (Vec<_>, Vec<_>) = lengths.map(request).unzip();
        let bytes = bytes.concat();
        for most in [1, 700, usize::MAX] {
            let mut arrived = Arrived::default();
            let mut rest = &bytes[..];
            for body in &bodies {
                let mut head = None;
                loop {
                    if head.is_none() && arrived.has_begun() {
                        head = arrived.head().expect("taken");
                    }
                    let taken = head.as_ref().map(|head| arrived.body(&head.framing));
                    if let Some(taken) = taken.and_then(|taken| taken.expect("taken")) {
                        assert!(taken == *body, "{} bytes", body.len());
                        break;
                    }
                    let room = arrived.room();
                    let count = room.len().min(rest.len()).min(most);
                    room[..count].copy_from_slice(&rest[..count]);
                    arrived.put(count);
                    rest = &rest[count..];
                }
            }
            assert!(arrived.is_empty() && rest.is_empty());
            assert_eq!(
                arrived.room().len(),
                USUAL,
                "long ones leave no room behind"
            );
        }
    }
}
