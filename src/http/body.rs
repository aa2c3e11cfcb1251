//! The door, second part: chunked bodies, decoded here so that nobody behind has to.

use super::MAX_BODY;
use super::head::{Refusal, TOO_LARGE};

/// The longest line that announces a chunk, its extensions included.
const MAX_CHUNK_LINE: usize = 256;
/// The most bytes of trailer fields skipped behind the last chunk.
const MAX_TRAILER: usize = 4 * 1024;

/// Decodes a chunked body from bytes as they arrive. Pure.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    body: Vec<u8>,
    state: State,
}

/// What comes next.
#[derive(Debug, Default)]
enum State {
    #[default]
    Size,
    /// So many bytes of a chunk.
    Data(usize),
    DataEnd,
    /// Trailer fields, of which so many bytes have been skipped.
    Trailer(usize),
    Done,
}

impl Chunks {
    /// Takes what it can use from the front of `bytes` and returns how much that was.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            let step = match self.state {
                State::Size => self.size(rest)?,
                State::Data(left) => self.data(rest, left),
                State::DataEnd => self.data_end(rest)?,
                State::Trailer(skipped) => self.trailer(rest, skipped)?,
                State::Done => return Ok(used),
            };
            match step {
                0 => return Ok(used),
                step => used += step,
            }
        }
    }

    /// The body, once the last chunk and its trailer have been taken. Then it begins anew.
    pub(super) fn finished(&mut self) -> Option<Vec<u8>> {
        matches!(self.state, State::Done).then(|| std::mem::take(self).body)
    }

    /// How many bytes are kept.
    #[cfg(any(test, fuzzing))]
    pub(super) fn held(&self) -> usize {
        self.body.len()
    }

    fn size(&mut self, rest: &[u8]) -> Result<usize, Refusal> {
        // httparse would take a line without digits for the last chunk.
        if rest.first().is_some_and(|b| !b.is_ascii_hexdigit()) {
            return Err(BROKEN);
        }
        match httparse::parse_chunk_size(rest) {
            // httparse lets any byte pass in an extension, a line end of its own kind included.
            Ok(httparse::Status::Complete((line, _)))
                if line > MAX_CHUNK_LINE || !is_one_line(&rest[..line]) =>
            {
                Err(BROKEN)
            }
            Ok(httparse::Status::Complete((line, size))) => {
                let size = usize::try_from(size).unwrap_or(usize::MAX);
                if size > MAX_BODY - self.body.len() {
                    return Err(TOO_LARGE);
                }
                self.state = match size {
                    0 => State::Trailer(0),
                    size => State::Data(size),
                };
                Ok(line)
            }
            Ok(httparse::Status::Partial) if rest.len() <= MAX_CHUNK_LINE => Ok(0),
            _ => Err(BROKEN),
        }
    }

    fn data(&mut self, rest: &[u8], left: usize) -> usize {
        let here = left.min(rest.len());
        self.body.extend_from_slice(&rest[..here]);
        self.state = match left - here {
            0 => State::DataEnd,
            left => State::Data(left),
        };
        here
    }

    fn data_end(&mut self, rest: &[u8]) -> Result<usize, Refusal> {
        match rest {
            [b'\r', b'\n', ..] => {
                self.state = State::Size;
                Ok(2)
            }
            [] | [b'\r'] => Ok(0),
            _ => Err(BROKEN),
        }
    }

    /// Skips trailer fields up to the empty line.
    fn trailer(&mut self, rest: &[u8], skipped: usize) -> Result<usize, Refusal> {
        let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") else {
            return match skipped + rest.len() {
                0..=MAX_TRAILER => Ok(0),
                _ => Err(BROKEN),
            };
        };
        if skipped + end + 2 > MAX_TRAILER || !is_one_line(&rest[..end + 2]) {
            return Err(BROKEN);
        }
        self.state = match end {
            0 => State::Done,
            _ => State::Trailer(skipped + end + 2),
        };
        Ok(end + 2)
    }
}

/// Whether nobody could take what ends in CR LF for more than one line.
fn is_one_line(line: &[u8]) -> bool {
    !line[..line.len() - 2]
        .iter()
        .any(|b| matches!(b, b'\r' | b'\n' | 0))
}

const BROKEN: Refusal = Refusal::new(400, "the chunks of the body are malformed");

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8], step: usize) -> Result<Option<(Vec<u8>, usize)>, u16> {
        let mut chunks = Chunks::default();
        let mut pending = Vec::new();
        let mut total = 0;
        for part in bytes.chunks(step) {
            pending.extend_from_slice(part);
            let used = chunks.take(&pending).map_err(|refusal| refusal.status)?;
            pending.drain(..used);
            total += used;
            if let Some(body) = chunks.finished() {
                return Ok(Some((body, total)));
            }
        }
        Ok(None)
    }

    #[test]
    fn a_body_is_the_same_however_it_is_cut_on_the_way() {
        let sent =
            b"4\r\nWiki\r\n6;x=y\r\npedia \r\nE \r\nin \r\n\r\nchunks.\r\n0\r\nA: b\r\n\r\nGET /";
        for step in 1..sent.len() {
            let (body, used) = decode(sent, step).expect("well-formed").expect("whole");
            assert_eq!(body, b"Wikipedia in \r\n\r\nchunks.");
            assert_eq!(&sent[used..], b"GET /");
        }
    }

    #[test]
    fn what_is_malformed_or_too_long_is_refused() {
        for (sent, expected) in [
            (&b"10000000000000000\r\n"[..], 400),
            (b"FFFFFFFFFFFFFFFF\r\n", 413),
            (b"10001\r\n", 413),
            (b"8000\r\n", 0),
            (b"-1\r\n", 400),
            (b"\r\n", 400),
            (b"x\r\n", 400),
            (b"1\nA", 400),
            (b"1;\n\r\nA\r\n0\r\n\r\n", 400),
            (b"0\r\nA: b\n\r\n\r\n", 400),
            (b"1\r\nAB", 400),
            (b"1\r\nA\r\n0\r\n", 0),
        ] {
            let got = decode(sent, 1).err().unwrap_or(0);
            assert_eq!(got, expected, "{}", sent.escape_ascii());
        }
        let endless_line = [b"1;".as_slice(), &[b'a'; 300]].concat();
        assert_eq!(decode(&endless_line, 1), Err(400));
        let endless_trailer = [b"0\r\n".as_slice(), &b"A: b\r\n".repeat(2000)].concat();
        assert_eq!(decode(&endless_trailer, 1), Err(400));
        // Whether it comes in pieces or at once.
        let long_line = [b"0;".as_slice(), &[b'a'; MAX_CHUNK_LINE], b"\r\n\r\n"].concat();
        let long_trailer = [b"0\r\nA:", &[b'a'; MAX_TRAILER - 2][..], b"\r\n\r\n"].concat();
        for sent in [long_line, long_trailer] {
            assert_eq!(decode(&sent, 1), Err(400));
            assert_eq!(decode(&sent, sent.len()), Err(400));
        }
        let endless_chunks = [b"8000\r\n".as_slice(), &[b'a'; 0x8000], b"\r\n8001\r\n"].concat();
        assert_eq!(decode(&endless_chunks, 1024), Err(413));
    }
}
