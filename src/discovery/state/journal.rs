//! What is written to the state file, and what is read back.
//!
//! Pure. The file is a journal of lines, so that a change costs a line and not the whole list:
//!
//! ```text
//! 8f3c1a20 aios-mesh-state 1 {"epoch":"5f0c…","revision":10000000}
//! 07d1e9b4 peer 0 {"cell_id":"pure","ip":"10.0.0.7","port":8002,…,"joined_at":1785000000000}
//! 51aa0c3f gone {"cell_id":"pure","instance":"9e21…","at":1785000000000}
//! c09b7712 revision 20000000
//! ```
//!
//! In front of each stands a checksum (CRC-32) of the rest, which begins where that of the line
//! before ended: a line that is missing or out of place shows like one that was changed. The number
//! of a `peer` is its place in the list, by which it is sorted; `revision` is one above which no
//! revision was given out.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::roll::Roll;
use crate::registry::{Kept, Left};
use crate::wire::{self, CellId, Instance, Registration};

/// The version of the format.
const VERSION: u32 = 1;
/// What the first line says it is.
const NAME: &str = "aios-mesh-state";
/// The longest line taken, in bytes: a peer with all it may have, each character escaped.
pub const MAX_LINE: u64 = 256 * 1024;
/// The highest number taken: above it one does not come back from every JSON reader.
pub const MOST: u64 = 1 << 53;
/// Digits of a checksum.
const DIGITS: usize = 8;

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A peer as it is from now on.
    Peer(Kept),
    /// A peer that is gone.
    Gone {
        /// Who.
        id: CellId,
        /// The run that said so itself, and when: it may not come back at once.
        left: Option<(Instance, SystemTime)>,
    },
    /// No revision above this will be given out.
    Revision(u64),
}

impl Entry {
    /// That this run said goodbye.
    #[must_use]
    pub fn left(left: &Left) -> Self {
        Self::Gone {
            id: left.id.clone(),
            left: Some((left.instance.clone(), left.at)),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    epoch: String,
    revision: u64,
}

#[derive(Serialize)]
struct Peer {
    #[serde(flatten)]
    registration: Registration,
    /// Behind all else: see [`joined_at`].
    #[serde(skip_serializing_if = "Option::is_none")]
    joined_at: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct Gone {
    cell_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<u64>,
}

/// Makes lines of entries, each continuing the checksum of the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writer {
    checksum: u32,
}

impl Writer {
    /// A new journal, with its first line.
    #[must_use]
    pub fn begin(epoch: &str, revision: u64) -> (Self, Vec<u8>) {
        let mut writer = Self { checksum: 0 };
        let mut bytes = Vec::new();
        let header = Header {
            epoch: epoch.to_owned(),
            revision,
        };
        writer.line(&mut bytes, |line| {
            line.extend_from_slice(format!("{NAME} {VERSION} ").as_bytes());
            json(line, &header);
        });
        (writer, bytes)
    }

    /// Appends the line of `entry` to `bytes`.
    pub fn write(&mut self, entry: &Entry, bytes: &mut Vec<u8>) {
        self.line(bytes, |line| match entry {
            Entry::Peer(peer) => {
                line.extend_from_slice(format!("peer {} ", peer.place).as_bytes());
                let joined_at = peer.joined_at.map(since_1970);
                let peer = Peer {
                    registration: peer.registration(),
                    joined_at,
                };
                json(line, &peer);
            }
            Entry::Gone { id, left } => {
                let gone = Gone {
                    cell_id: id.as_str().to_owned(),
                    instance: left.as_ref().map(|(run, _)| run.as_str().to_owned()),
                    at: left.as_ref().map(|(_, at)| since_1970(*at)),
                };
                line.extend_from_slice(b"gone ");
                json(line, &gone);
            }
            Entry::Revision(revision) => {
                line.extend_from_slice(format!("revision {revision}").as_bytes());
            }
        });
    }

    fn line(&mut self, bytes: &mut Vec<u8>, text: impl FnOnce(&mut Vec<u8>)) {
        let start = bytes.len();
        bytes.extend_from_slice(&[b' '; DIGITS + 1]);
        text(bytes);
        self.checksum = checksum(self.checksum, &bytes[start + DIGITS + 1..]);
        let digits = format!("{:08x}", self.checksum);
        bytes[start..start + DIGITS].copy_from_slice(digits.as_bytes());
        bytes.push(b'\n');
    }
}

fn json(line: &mut Vec<u8>, value: &impl Serialize) {
    // Nothing that is kept has keys or numbers JSON cannot hold, and a vector takes every byte.
    let _ = serde_json::to_writer(line, value);
}

fn checksum(before: u32, text: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(before);
    hasher.update(text);
    hasher.finalize()
}

/// Milliseconds since 1970, as far as a clock that far off matters.
fn since_1970(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, wire::millis)
}

/// The member of that name, where it is the last of an object. Read from behind, so that a start with a
/// million of them does not go through each twice.
fn joined_at(object: &[u8]) -> Option<u64> {
    let members = object.strip_suffix(b"}")?;
    let digits = members
        .iter()
        .rev()
        .take_while(|byte| byte.is_ascii_digit());
    let (name, digits) = members.split_at(members.len() - digits.count());
    name.ends_with(br#","joined_at":"#)
        .then(|| number(digits))?
}

fn after_1970(millis: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

/// Whether all of a journal could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// All of it.
    Whole,
    /// The last line ends in the middle: whoever wrote it was stopped, and had told nobody yet.
    Torn,
    /// What was written is not what is there.
    Corrupt,
    /// All of it, but the last line end is taken off: that is how a journal is marked that could not
    /// be gone on with, while changes went on.
    Behind,
}

/// Why bytes are no journal of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// They are something else.
    Unknown,
    /// They are in a format of another version.
    Version(u32),
}

/// What a journal says.
#[derive(Clone, Debug, PartialEq)]
pub struct Recovered {
    /// The epoch its discovery had.
    pub epoch: String,
    /// No revision above this was given out.
    pub revision: u64,
    /// The peers, in the order of the list.
    pub peers: Vec<Kept>,
    /// The runs that said goodbye, oldest first.
    pub left: Vec<Left>,
    /// Whether that is all of it. What is read of a journal that is not is what stood before the
    /// damage.
    pub condition: Condition,
    /// Goes on where the journal ends.
    pub writer: Writer,
}

/// Reads a journal line by line.
#[derive(Debug, Default)]
pub struct Reader {
    header: Option<Header>,
    checksum: u32,
    peers: Roll,
    left: Vec<Left>,
    condition: Option<Condition>,
}

impl Reader {
    /// Takes the next line, its line end included where it has one. Returns whether there is any
    /// use in a further one.
    ///
    /// # Errors
    /// When the first line is not that of a journal of ours.
    pub fn take(&mut self, line: &[u8]) -> Result<bool, Foreign> {
        let text = line.strip_suffix(b"\n");
        let is_whole = text.is_some();
        let is_first = self.header.is_none();
        if is_first {
            foreign(split_checksum(text.unwrap_or(line)).1)?;
        }
        // A first line that has no end stands for nothing yet.
        let is_sound = (is_whole || !is_first) && self.take_line(text.unwrap_or(line)).is_some();
        self.condition = match (is_sound, is_whole) {
            (true, true) => None,
            (true, false) => Some(Condition::Behind),
            (false, false) if !self.has_lost_its_end(line) => Some(Condition::Torn),
            (false, _) => Some(Condition::Corrupt),
        };
        Ok(self.condition.is_none())
    }

    /// What was read, all lines being taken; `None` of an empty file, or where the first line is
    /// damaged.
    #[must_use]
    pub fn finish(self) -> Option<Recovered> {
        let header = self.header?;
        Some(Recovered {
            epoch: header.epoch,
            revision: header.revision,
            peers: self.peers.finish(),
            left: self.left,
            condition: self.condition.unwrap_or(Condition::Whole),
            writer: Writer {
                checksum: self.checksum,
            },
        })
    }

    /// `None` for a line that is damaged.
    fn take_line(&mut self, line: &[u8]) -> Option<()> {
        let (signed, text) = split_checksum(line);
        let sum = checksum(self.checksum, text);
        if signed != Some(sum) {
            return None;
        }
        self.entry(text)?;
        self.checksum = sum;
        Some(())
    }

    /// Whether a line without an end is one that had an end, and lost it to damage.
    fn has_lost_its_end(&self, line: &[u8]) -> bool {
        let (signed, text) = split_checksum(line);
        let mut sum = self.checksum;
        text.iter().any(|byte| {
            let ends_here = signed == Some(sum);
            sum = checksum(sum, &[*byte]);
            ends_here
        })
    }

    fn entry(&mut self, text: &[u8]) -> Option<()> {
        let (kind, rest) = split_word(text)?;
        let Some(header) = &mut self.header else {
            let (_, rest) = split_word(rest)?;
            let header: Header = serde_json::from_slice(rest).ok()?;
            wire::check_text(&header.epoch).ok()?;
            (header.revision <= MOST).then_some(())?;
            self.header = Some(header);
            return Some(());
        };
        match kind {
            b"peer" => {
                let (place, rest) = split_word(rest)?;
                let place = number(place)?;
                let registration = Registration::from_json(rest).ok()?;
                let joined_at = joined_at(rest).and_then(after_1970);
                self.peers.put(Kept::new(place, registration, joined_at))
            }
            b"gone" => {
                let gone: Gone = serde_json::from_slice(rest).ok()?;
                let id = CellId::new(&gone.cell_id).ok()?;
                let left = match (gone.instance, gone.at) {
                    (Some(instance), Some(at)) => Some(Left {
                        id: id.clone(),
                        instance: Instance::new(&instance).ok()?,
                        at: after_1970(at)?,
                    }),
                    _ => None,
                };
                self.peers.forget(&id);
                self.left.extend(left);
                Some(())
            }
            b"revision" => {
                header.revision = number(rest)?;
                Some(())
            }
            _ => None,
        }
    }
}

/// Reads a journal that is all there. `None` where it is empty or its first line is damaged.
///
/// # Errors
/// When it is no journal of ours.
pub fn recover(bytes: &[u8]) -> Result<Option<Recovered>, Foreign> {
    let mut reader = Reader::default();
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        if !reader.take(line)? {
            break;
        }
    }
    Ok(reader.finish())
}

/// Refuses the text of a first line that is not of a journal, or of one of another version.
fn foreign(text: &[u8]) -> Result<(), Foreign> {
    let version = split_word(text)
        .filter(|(name, _)| *name == NAME.as_bytes())
        .and_then(|(_, rest)| split_word(rest))
        .and_then(|(version, _)| number(version));
    match version {
        Some(version) if version == u64::from(VERSION) => Ok(()),
        Some(version) => Err(Foreign::Version(u32::try_from(version).unwrap_or(u32::MAX))),
        // Torn off in its own name, it is ours: nothing else begins like that.
        None if is_beginning(text) => Ok(()),
        None => Err(Foreign::Unknown),
    }
}

/// Whether a first line of ours could go on from `text`.
fn is_beginning(text: &[u8]) -> bool {
    let whole = format!("{NAME} {VERSION} ");
    whole.as_bytes().starts_with(text)
}

/// The checksum in front of a line, if it has one, and the rest.
fn split_checksum(line: &[u8]) -> (Option<u32>, &[u8]) {
    let Some((digits, text)) = line.split_at_checked(DIGITS + 1) else {
        return (None, &[]);
    };
    let sum = digits[..DIGITS].iter().try_fold(0, |sum, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(sum << 4 | u32::from(value))
    });
    (sum.filter(|_| digits[DIGITS] == b' '), text)
}

fn split_word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|byte| *byte == b' ')?;
    Some((&text[..at], &text[at + 1..]))
}

fn number(digits: &[u8]) -> Option<u64> {
    let is_written_so = digits == b"0" || !digits.starts_with(b"0");
    if !is_written_so || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (number <= MOST).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(id: &str, place: u64, instance: Option<&str>) -> Kept {
        let instance = instance.map_or(String::new(), |run| format!(r#","instance":"{run}""#));
        let body = format!(
            r#"{{"cell_id":"{id}","ip":"10.0.0.1","port":1,"services":["ü\n"]{instance},"stale_after_ms":2000,"consciousness_level":0.1}}"#
        )
        .replace("\\n", "");
        Kept::new(
            place,
            Registration::from_json(body.as_bytes()).expect("valid"),
            (place != 1).then(|| at(1_785_000_000_000 + place)),
        )
    }

    fn at(millis: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
    }

    /// Three join, one of them again, one leaves, one is reaped.
    fn journal() -> (Vec<u8>, Writer) {
        let (mut writer, mut bytes) = Writer::begin("e1", 100);
        let gone = |id: &str, run: Option<&str>| Entry::Gone {
            id: CellId::new(id).expect("valid"),
            left: run.map(|run| (Instance::new(run).expect("valid"), at(7))),
        };
        for entry in [
            Entry::Peer(peer("a", 0, None)),
            Entry::Peer(peer("b", 1, Some("r1"))),
            Entry::Peer(peer("c", 2, None)),
            gone("b", Some("r1")),
            Entry::Peer(peer("a", 0, Some("r2"))),
            Entry::Revision(200),
            Entry::Peer(peer("b", 3, Some("r3"))),
            gone("c", None),
        ] {
            writer.write(&entry, &mut bytes);
        }
        (bytes, writer)
    }

    #[test]
    fn what_was_written_is_read() {
        let (bytes, writer) = journal();
        let recovered = recover(&bytes).expect("ours").expect("not empty");
        let left = Left {
            id: CellId::new("b").expect("valid"),
            instance: Instance::new("r1").expect("valid"),
            at: at(7),
        };
        let expected = Recovered {
            epoch: "e1".into(),
            revision: 200,
            peers: vec![peer("a", 0, Some("r2")), peer("b", 3, Some("r3"))],
            left: vec![left],
            condition: Condition::Whole,
            writer,
        };
        assert_eq!(recovered, expected);
    }

    #[test]
    fn wherever_it_is_cut_off_the_whole_lines_are_read() {
        let (bytes, _) = journal();
        for length in 0..bytes.len() {
            let cut = &bytes[..length];
            let lines = cut.iter().filter(|byte| **byte == b'\n').count();
            let whole = &cut[..cut
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |at| at + 1)];
            match recover(cut).expect("ours") {
                None => assert_eq!(lines, 0),
                Some(recovered) => {
                    let marked = [cut, b"\n"].concat();
                    let (condition, whole) = match bytes[length] {
                        _ if whole.len() == length => (Condition::Whole, whole),
                        b'\n' => (Condition::Behind, &marked[..]),
                        _ => (Condition::Torn, whole),
                    };
                    assert_eq!(recovered.condition, condition);
                    let expected = recover(whole).expect("ours").expect("not empty");
                    assert_eq!(recovered.peers, expected.peers);
                    assert_eq!(recovered.revision, expected.revision);
                }
            }
        }
    }

    #[test]
    fn a_byte_that_changed_and_a_line_that_is_missing_or_doubled_are_noticed() {
        let (bytes, _) = journal();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 4;
            match recover(&changed) {
                Ok(Some(recovered)) => assert_ne!(recovered.condition, Condition::Whole, "{at}"),
                Ok(None) | Err(_) => assert!(!changed[..at].contains(&b'\n'), "{at}"),
            }
        }
        let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
        for at in 1..lines.len() - 1 {
            let without = [&lines[..at], &lines[at + 1..]].concat().concat();
            let doubled = [&lines[..=at], &lines[at..]].concat().concat();
            for damaged in [without, doubled] {
                let recovered = recover(&damaged).expect("ours").expect("not empty");
                assert_eq!(recovered.condition, Condition::Corrupt);
            }
        }
    }

    #[test]
    fn a_last_line_that_is_torn_is_told_from_one_whose_end_is_damaged() {
        let (whole, mut writer) = journal();
        let condition = |bytes: &[u8]| {
            let recovered = recover(bytes).expect("ours").expect("not empty");
            recovered.condition
        };
        let mut damaged = whole.clone();
        if let Some(end) = damaged.last_mut() {
            *end = b'*';
        }
        assert_eq!(condition(&damaged), Condition::Corrupt);
        // What stands behind it may itself be torn.
        let mut next = Vec::new();
        writer.write(&Entry::Revision(300), &mut next);
        for length in 1..next.len() - 1 {
            let torn = [&whole, &next[..length]].concat();
            assert_eq!(condition(&torn), Condition::Torn);
            let both = [&damaged, &next[..length]].concat();
            assert_eq!(condition(&both), Condition::Corrupt);
        }
        // It is all there but for its end only where somebody has taken that off.
        let marked = [&whole, &next[..next.len() - 1]].concat();
        assert_eq!(condition(&marked), Condition::Behind);
    }

    #[test]
    fn what_is_not_ours_is_told_apart() {
        for (bytes, expected) in [
            (&b"00000000 aios-mesh-state 2 {}\n"[..], Foreign::Version(2)),
            (b"{\"peers\":[]}\n", Foreign::Unknown),
            (b"00000000 something else\n", Foreign::Unknown),
            (b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\n", Foreign::Unknown),
        ] {
            assert_eq!(recover(bytes), Err(expected));
        }
        assert_eq!(recover(b""), Ok(None));
        assert_eq!(recover(b"00000000 aios-mesh-st"), Ok(None));
        let damaged = b"00000000 aios-mesh-state 1 {\"epoch\":\"e\",\"revision\":1}\n";
        assert_eq!(recover(damaged), Ok(None));
    }
}
