//! The door, third part: one request after another out of what arrives on a connection.
//!
//! Pure: what has arrived is put in, heads and bodies are taken out once they are whole. How long
//! to wait for more is the caller's.

use super::body::Chunks;
use super::head::{self, Framing, Head, Refusal};

/// What has arrived and is not used yet: at most one head, one body and one read.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    bytes: Vec<u8>,
    /// How far they have been looked at for the end of a head.
    scanned: usize,
    /// What the body is made of so far, where it comes in chunks.
    chunks: Chunks,
}

impl Arrived {
    /// More has arrived.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether a request has begun.
    pub(super) fn has_begun(&mut self) -> bool {
        // Some clients put a line end behind a body (RFC 9112, 2.2).
        let pairs = self.bytes.chunks_exact(2);
        let line_ends = pairs.take_while(|two| *two == b"\r\n").count();
        self.bytes.drain(..2 * line_ends);
        !self.bytes.is_empty() && self.bytes != b"\r"
    }

    /// Whether the request begins as one to HEAD.
    pub(super) fn begins_as_head(&self) -> bool {
        self.bytes.starts_with(b"HEAD ")
    }

    /// Takes the head out, if it is whole.
    pub(super) fn head(&mut self) -> Result<Option<Head>, Refusal> {
        let Some(end) = head::find_end(&self.bytes, &mut self.scanned)? else {
            return Ok(None);
        };
        let head = head::parse(&self.bytes[..end])?;
        self.bytes.drain(..end);
        self.scanned = 0;
        Ok(Some(head))
    }

    /// Whether all of a body that is announced with its length is there.
    pub(super) fn has_all(&self, framing: &Framing) -> bool {
        matches!(framing, Framing::Length(length) if self.bytes.len() >= *length)
    }

    /// Takes the body out that follows a head, if it is whole.
    pub(super) fn body(&mut self, framing: &Framing) -> Result<Option<Vec<u8>>, Refusal> {
        match *framing {
            Framing::Length(length) if self.bytes.len() < length => Ok(None),
            Framing::Length(length) => {
                let rest = self.bytes.split_off(length);
                Ok(Some(std::mem::replace(&mut self.bytes, rest)))
            }
            Framing::Chunked => {
                let used = self.chunks.take(&self.bytes)?;
                self.bytes.drain(..used);
                Ok(self.chunks.finished())
            }
        }
    }

    /// How many bytes are kept.
    #[cfg(any(test, fuzzing))]
    pub(super) fn held(&self) -> usize {
        self.bytes.len() + self.chunks.held()
    }
}
