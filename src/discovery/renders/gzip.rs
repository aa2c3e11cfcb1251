//! One gzip member out of parts that were compressed each by itself (RFC 1951 and 1952).
//!
//! Pure. Each part ends with a full flush: on a whole byte, and with nothing behind it referring to
//! what is in it, so that parts can be put together in any order, as their bytes are.

use crc32fast::Hasher;
use flate2::{Compress, CompressError, Compression, FlushCompress};

/// What a member begins with: deflate, no flags, no time, made fast, by an unknown system.
pub(super) const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255];
/// A comma as it stands between two parts: a stored block of one byte.
pub(super) const COMMA: &[u8] = &[0, 1, 0, 0xfe, 0xff, b','];
/// The empty block a member's last part has behind it.
const LAST: [u8; 5] = [1, 0, 0, 0xff, 0xff];
/// How much is written at once.
const ROOM: usize = 16 * 1024;

/// Compresses one part after another.
pub(super) struct Deflate {
    compress: Compress,
    /// Where it writes, for it would clear all the room there is behind what is there already.
    room: Vec<u8>,
}

impl Deflate {
    /// Fast, for the list changes faster than what is saved by more would be worth.
    pub(super) fn new() -> Self {
        Self {
            compress: Compress::new(Compression::fast(), false),
            room: vec![0; ROOM],
        }
    }

    /// Appends `bytes` as a part.
    pub(super) fn part(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), CompressError> {
        let mut rest = bytes;
        loop {
            let (read, written) = (self.compress.total_in(), self.compress.total_out());
            self.compress
                .compress(rest, &mut self.room, FlushCompress::Full)?;
            let since = |now: u64, then| usize::try_from(now - then).unwrap_or(usize::MAX);
            let read = since(self.compress.total_in(), read);
            let written = since(self.compress.total_out(), written);
            rest = rest.get(read..).unwrap_or_default();
            out.extend_from_slice(self.room.get(..written).unwrap_or_default());
            // Where room was left, all that was to be written has been.
            if rest.is_empty() && written < ROOM {
                return Ok(());
            }
        }
    }
}

/// Appends what stands behind the last part: all parts together, uncompressed, have this checksum and
/// this length.
pub(super) fn write_end(out: &mut Vec<u8>, sum: Hasher, length: usize) {
    out.extend_from_slice(&LAST);
    out.extend_from_slice(&sum.finalize().to_le_bytes());
    // The format has 32 bits for it, and says that it is the rest beyond them.
    out.extend_from_slice(&(length as u32).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::MultiGzDecoder;

    use super::*;

    /// A member out of these parts with commas between them.
    fn member(parts: &[Vec<u8>]) -> (Vec<u8>, Vec<u8>) {
        let mut plain = Vec::new();
        let mut sum = Hasher::new();
        let mut member = HEAD.to_vec();
        let mut deflate = Deflate::new();
        for (number, part) in parts.iter().enumerate() {
            if number > 0 {
                plain.push(b',');
                sum.update(b",");
                member.extend_from_slice(COMMA);
            }
            plain.extend_from_slice(part);
            let mut own = Hasher::new();
            own.update(part);
            sum.combine(&own);
            // As if it had been made with others, before.
            let mut compressed = b"others".to_vec();
            deflate.part(part, &mut compressed).expect("compressed");
            member.extend_from_slice(&compressed[6..]);
        }
        write_end(&mut member, sum, plain.len());
        (member, plain)
    }

    #[test]
    fn parts_put_together_are_one_member() {
        let noise = |length: u32| -> Vec<u8> {
            (0..length)
                .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
                .collect()
        };
        let text = |length: usize| br#"{"cell_id":"#.iter().copied().cycle().take(length).collect();
        for parts in [
            vec![],
            vec![vec![]],
            vec![text(1)],
            vec![text(100_000), vec![], text(70_000), noise(200_000), text(3)],
            (0..500).map(|n| text(n * 7)).collect(),
            vec![
                noise(1),
                noise(16 * 1024),
                noise(16 * 1024 - 5),
                noise(1 << 20),
            ],
        ] {
            let (member, plain) = member(&parts);
            let mut unpacked = Vec::new();
            let mut decoder = MultiGzDecoder::new(&member[..]);
            decoder.read_to_end(&mut unpacked).expect("gzip");
            assert!(unpacked == plain, "{} bytes", plain.len());
        }
    }
}
