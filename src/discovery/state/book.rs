//! What is written to the state file, and in which order.
//!
//! Pure. A [`Book`] is a journal that is gone on with, [`Rewriting`] one that is to take its place.

use std::collections::{LinkedList, VecDeque};
use std::time::SystemTime;

use super::journal::{Entry, Writer};
use crate::registry::{Kept, Left};

/// The most changes that are kept until they are written. Beyond, all of it is written anew.
const MOST_CHANGES: usize = 100_000;

/// So many are written at once, without waiting for more.
const MANY: usize = 25_000;

/// Changes that are to be written, in the order in which they were made.
#[derive(Debug, Default)]
pub struct Changes {
    /// The changes. A list has nothing to copy when it grows, which it does under the lock of the
    /// map.
    pub entries: LinkedList<Entry>,
    /// Whether there were more than are kept.
    pub too_many: bool,
}

impl Changes {
    /// Takes one more. Returns whether whoever writes is to be woken for it: it is the first, or they
    /// have become many.
    pub fn push(&mut self, entry: Entry) -> bool {
        let before = self.entries.len();
        if before < MOST_CHANGES {
            self.entries.push_back(entry);
        } else {
            self.too_many = true;
        }
        before == 0 || before == MANY
    }

    /// Whether there are so many that whoever makes them had better wait for whoever writes them.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.entries.len() > MOST_CHANGES / 2
    }
}

/// Who said goodbye within the last minute, oldest first: it is not in the map, and has to be
/// written anew, too.
#[derive(Debug, Default)]
pub struct Goodbyes(VecDeque<Left>);

impl Goodbyes {
    /// Those that are known at a start.
    #[must_use]
    pub fn new(left: Vec<Left>) -> Self {
        Self(left.into())
    }

    /// Notes those among changes, and forgets those that do not count any more.
    pub fn note<'a>(&mut self, entries: impl IntoIterator<Item = &'a Entry>, now: SystemTime) {
        for entry in entries {
            if let Entry::Gone {
                id,
                left: Some((instance, at)),
            } = entry
            {
                self.0.push_back(Left {
                    id: id.clone(),
                    instance: instance.clone(),
                    at: *at,
                });
            }
        }
        let is_over = |left: &Left| !left.counts(now);
        while self.0.len() > MOST_CHANGES || self.0.front().is_some_and(is_over) {
            self.0.pop_front();
        }
    }

    /// All of them, as they are written.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        self.0.iter().map(Entry::left)
    }
}

/// A journal that is gone on with.
#[derive(Debug)]
pub struct Book {
    writer: Writer,
    /// How many revisions are reserved at a time.
    ahead: u64,
    reserved: u64,
}

impl Book {
    /// Goes on where `writer` does, from this revision. The line that is returned has to be on the
    /// disk before any higher one is given out.
    #[must_use]
    pub fn go_on(writer: Writer, revision: u64, ahead: u64) -> (Self, Vec<u8>) {
        let mut book = Self {
            writer,
            ahead,
            reserved: revision,
        };
        let mut bytes = Vec::new();
        book.write(&[], revision, &mut bytes);
        (book, bytes)
    }

    /// Appends to `bytes` what has changed, and the reservation of further revisions where by
    /// `revision`, the one after it, more than half of the last is used up.
    pub fn write<'a>(
        &mut self,
        entries: impl IntoIterator<Item = &'a Entry>,
        revision: u64,
        bytes: &mut Vec<u8>,
    ) {
        for entry in entries {
            self.writer.write(entry, bytes);
        }
        if self.reserved < revision + self.ahead / 2 {
            self.reserved = revision + self.ahead;
            self.writer.write(&Entry::Revision(self.reserved), bytes);
        }
    }
}

/// A journal that is written from the beginning, while there are further changes.
///
/// First come all the peers, a few at a time. A change that is made meanwhile may be seen in them
/// or not, according to how far it is; so all changes follow at the end, where they say what counts.
#[derive(Debug)]
pub struct Rewriting {
    book: Book,
    place: u64,
    meanwhile: Vec<Entry>,
}

impl Rewriting {
    /// Begins at this revision. Returns the first lines, too.
    #[must_use]
    pub fn begin(epoch: &str, revision: u64, ahead: u64, goodbyes: &Goodbyes) -> (Self, Vec<u8>) {
        let reserved = revision + ahead;
        let (mut writer, mut bytes) = Writer::begin(epoch, reserved);
        // Before the peers, for a later run of theirs may be among them.
        for left in goodbyes.entries() {
            writer.write(&left, &mut bytes);
        }
        let book = Book {
            writer,
            ahead,
            reserved,
        };
        let rewriting = Self {
            book,
            place: 0,
            meanwhile: Vec::new(),
        };
        (rewriting, bytes)
    }

    /// From which place in the list on there are peers still to be written.
    #[must_use]
    pub fn place(&self) -> u64 {
        self.place
    }

    /// The lines of the next peers, which are in the order of the list.
    #[must_use]
    pub fn peers(&mut self, peers: impl IntoIterator<Item = Kept>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for peer in peers {
            self.place = peer.place + 1;
            self.book.writer.write(&Entry::Peer(peer), &mut bytes);
        }
        bytes
    }

    /// Something has changed since it was begun.
    pub fn changed(&mut self, entries: impl IntoIterator<Item = Entry>) {
        self.meanwhile.extend(entries);
    }

    /// Ends at this revision, all changes before it being known. Returns the last lines, too.
    #[must_use]
    pub fn end(mut self, revision: u64) -> (Book, Vec<u8>) {
        let mut bytes = Vec::new();
        self.book.write(&self.meanwhile, revision, &mut bytes);
        (self.book, bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::journal::{Condition, Recovered, recover};
    use super::*;
    use crate::registry::{LeaseTime, Limits, Now, Registry};
    use crate::wire::{CellId, Instance, Registration};

    const AHEAD: u64 = 10;

    fn gone(id: &str, run: &str, at: SystemTime) -> Entry {
        Entry::Gone {
            id: CellId::new(id).expect("valid"),
            left: Some((Instance::new(run).expect("valid"), at)),
        }
    }

    fn read(bytes: &[u8]) -> Recovered {
        let recovered = recover(bytes).expect("ours").expect("not empty");
        assert_eq!(recovered.condition, Condition::Whole);
        recovered
    }

    #[test]
    fn who_writes_is_woken_for_the_first_and_for_a_crowd_and_there_is_a_bound() {
        let mut changes = Changes::default();
        let all = 0..=u64::try_from(MOST_CHANGES).expect("small");
        let woken = all.filter(|n| changes.push(Entry::Revision(*n)));
        let many = u64::try_from(MANY).expect("small");
        assert_eq!(woken.collect::<Vec<u64>>(), [0, many]);
        assert!(changes.is_crowded() && !Changes::default().is_crowded());
        assert_eq!(changes.entries.len(), MOST_CHANGES);
        assert!(changes.too_many);
    }

    #[test]
    fn revisions_are_reserved_before_they_are_used_up() {
        let (writer, mut bytes) = Writer::begin("e", 4);
        let (mut book, first) = Book::go_on(writer, 5, AHEAD);
        bytes.extend(first);
        assert_eq!(read(&bytes).revision, 15);
        for (revision, reserved) in [(10, 15), (11, 21), (16, 21), (40, 50)] {
            book.write(&[], revision, &mut bytes);
            assert_eq!(read(&bytes).revision, reserved);
        }
        let (rewriting, mut bytes) = Rewriting::begin("e", 40, AHEAD, &Goodbyes::default());
        assert_eq!(read(&bytes).revision, 50);
        bytes.extend(rewriting.end(46).1);
        assert_eq!(read(&bytes).revision, 56);
        let (rewriting, mut bytes) = Rewriting::begin("e", 40, 0, &Goodbyes::default());
        bytes.extend(rewriting.end(40).1);
        assert_eq!(read(&bytes).revision, 40, "none in vain where it ends");
    }

    #[test]
    fn who_said_goodbye_is_known_for_a_minute() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let later = |seconds| at + Duration::from_secs(seconds);
        let mut goodbyes = Goodbyes::default();
        let other = Entry::Gone {
            id: CellId::new("c").expect("valid"),
            left: None,
        };
        goodbyes.note(&[gone("a", "r1", at), other], at);
        goodbyes.note(&[gone("b", "r2", later(40))], later(60));
        assert_eq!(goodbyes.entries().count(), 2);
        goodbyes.note(&[], later(61));
        let left: Vec<Entry> = goodbyes.entries().collect();
        assert_eq!(left, [gone("b", "r2", later(40))]);
    }

    fn registers(registry: &mut Registry, id: &str, run: &str, changes: &mut Changes) {
        let body = format!(r#"{{"cell_id":"{id}","ip":"h","port":1,"instance":"{run}"}}"#);
        let registration = Registration::from_json(body.as_bytes()).expect("valid");
        let accepted = registry.register(registration, None, now()).expect("taken");
        let kept = registry.kept(&accepted.facts.cell_id);
        changes.push(Entry::Peer(kept.expect("listed")));
    }

    fn leaves(registry: &mut Registry, id: &str, run: &str, changes: &mut Changes) {
        let instance = Instance::new(run).expect("valid");
        let left = registry.deregister(id, Some(&instance), None, now());
        let _ = left.expect("listed");
        changes.push(gone(id, run, now().wall));
    }

    fn now() -> Now {
        Now {
            lease: LeaseTime::default(),
            wall: SystemTime::UNIX_EPOCH,
        }
    }

    /// Whatever changes between two looks at the list: what is written anew says what it is at the
    /// end, and so does the old one.
    #[test]
    fn what_changes_while_it_is_written_anew_is_known() {
        for (before, change) in (0..5).flat_map(|before| (0..5).map(move |what| (before, what))) {
            let limits = Limits {
                stale_after: Duration::from_secs(15),
                max_peers: 100,
            };
            let mut registry = Registry::new(limits);
            let mut changes = Changes::default();
            let (writer, mut old) = Writer::begin("e", 0);
            let (mut book, bytes) = Book::go_on(writer, 0, AHEAD);
            old.extend(bytes);
            for id in ["a", "b", "c", "d"] {
                registers(&mut registry, id, "1", &mut changes);
            }
            leaves(&mut registry, "c", "1", &mut changes);
            registers(&mut registry, "c", "2", &mut changes);
            let mut goodbyes = Goodbyes::default();
            goodbyes.note(&changes.entries, now().wall);
            let revision = registry.revision();
            book.write(&std::mem::take(&mut changes).entries, revision, &mut old);

            let (mut rewriting, mut new) = Rewriting::begin("e", revision, AHEAD, &goodbyes);
            for step in 0.. {
                if step == before {
                    match change {
                        0 => leaves(&mut registry, "a", "1", &mut changes),
                        1 => {
                            leaves(&mut registry, "b", "1", &mut changes);
                            registers(&mut registry, "b", "2", &mut changes);
                        }
                        2 => registers(&mut registry, "d", "2", &mut changes),
                        3 => registers(&mut registry, "e", "1", &mut changes),
                        _ => {
                            registers(&mut registry, "e", "1", &mut changes);
                            leaves(&mut registry, "e", "1", &mut changes);
                        }
                    }
                }
                let peers = registry.kept_from(rewriting.place(), 1);
                if peers.is_empty() && step >= before {
                    break;
                }
                new.extend(rewriting.peers(peers));
            }
            book.write(&changes.entries, registry.revision(), &mut old);
            rewriting.changed(changes.entries);
            new.extend(rewriting.end(registry.revision()).1);
            let [old, new] = [read(&old), read(&new)];
            assert_eq!(old.peers, registry.kept_from(0, 100), "{before} {change}");
            assert_eq!(new.peers, old.peers, "{before} {change}");
            assert_eq!(new.left, old.left, "{before} {change}");
        }
    }
}
