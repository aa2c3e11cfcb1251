//! The thread that keeps the state file up: the real lines, written at the pace of the real thread
//! to a disk that takes its time.

use std::collections::LinkedList;
use std::time::Duration;

use aios_mesh::discovery::state::book::{Book, Changes, Goodbyes, Rewriting};
use aios_mesh::discovery::state::former::Former;
use aios_mesh::discovery::state::journal::{Entry, Writer};
use aios_mesh::registry::Registry;

use super::disk::Disk;
use crate::chance::Chance;
use crate::coverage::Seen;
use crate::safeguards::Safeguard;
use crate::world::Scene;

/// For how long changes come together.
const GATHER: Duration = Duration::from_millis(200);
/// How long the disk takes at most.
const SYNC: Duration = Duration::from_millis(350);
/// How long it takes at most to write a few peers.
const COPY: Duration = Duration::from_millis(150);
/// How many peers are copied at once.
const AT_ONCE: usize = 3;
/// How many revisions are reserved at a time: few, so that they are used up.
const AHEAD: u64 = 128;
/// By how many bytes the file outgrows what it was before it is written anew.
const LONG: usize = 1_200;

/// The thread, and what it holds.
#[derive(Debug)]
pub(super) struct Keeper {
    epoch: String,
    book: Book,
    goodbyes: Goodbyes,
    /// What is to be written.
    pub(super) changes: Changes,
    doing: Doing,
    /// How long the file was when it was written anew.
    compact: usize,
    /// When something was last appended.
    appended: Duration,
    chance: Chance,
}

#[derive(Debug)]
enum Doing {
    Nothing,
    Gathering,
    Appending,
    Rewriting(Rewriting),
    Renaming(Book),
}

impl Keeper {
    /// Makes the file ready, which is to be on the disk before anything is answered.
    pub(super) fn start(
        former: &Former,
        writer: Option<Writer>,
        disk: &mut Disk,
        scene: &Scene,
    ) -> Self {
        let ahead = ahead(scene);
        let goodbyes = Goodbyes::new(former.left.clone());
        let book = match writer {
            Some(writer) => {
                let (book, bytes) = Book::go_on(writer, former.revision, ahead);
                disk.append(&bytes);
                book
            }
            None => {
                let (mut rewriting, bytes) =
                    Rewriting::begin(&former.epoch, former.revision, ahead, &goodbyes);
                disk.begin_beside(bytes);
                disk.append_beside(&rewriting.peers(former.peers.iter().cloned()));
                let (book, bytes) = rewriting.end(former.revision);
                disk.append_beside(&bytes);
                disk.rename();
                book
            }
        };
        Self {
            epoch: former.epoch.clone(),
            book,
            goodbyes,
            changes: Changes::default(),
            doing: Doing::Nothing,
            compact: disk.length(),
            appended: scene.now,
            chance: Chance::new(scene.seed ^ scene.now.as_micros() as u64, "keeper"),
        }
    }

    /// Whether a kill loses something.
    pub(super) fn is_behind(&self) -> bool {
        !matches!(self.doing, Doing::Nothing)
    }

    /// Whether it is about to put one file in the place of the other.
    pub(super) fn renames(&self) -> bool {
        matches!(self.doing, Doing::Renaming(_))
    }

    /// Something has changed. Returns when the thread is to go on, where it slept.
    pub(super) fn push(&mut self, entry: Entry, now: Duration) -> Option<Duration> {
        let wakes = self.changes.push(entry);
        if !wakes || !matches!(self.doing, Doing::Nothing) {
            return None;
        }
        self.doing = Doing::Gathering;
        Some(now + GATHER)
    }

    /// The thread goes on. Returns when it does so again.
    pub(super) fn goes_on(
        &mut self,
        registry: &Registry,
        disk: &mut Disk,
        scene: &mut Scene,
    ) -> Option<Duration> {
        match std::mem::replace(&mut self.doing, Doing::Nothing) {
            Doing::Nothing => None,
            Doing::Gathering => {
                let _ = self.append(registry, disk, scene);
                self.doing = Doing::Appending;
                Some(scene.now + self.chance.between(Duration::ZERO, SYNC))
            }
            Doing::Appending => {
                disk.sync();
                if disk.length() <= self.compact + LONG {
                    return self.rest(scene);
                }
                scene.coverage.saw(Seen::Rewritten);
                let (rewriting, bytes) = Rewriting::begin(
                    &self.epoch,
                    registry.revision(),
                    ahead(scene),
                    &self.goodbyes,
                );
                disk.begin_beside(bytes);
                self.copies(rewriting, scene)
            }
            Doing::Rewriting(mut rewriting) => {
                disk.sync();
                let peers = registry.kept_from(rewriting.place(), AT_ONCE);
                let is_last = peers.is_empty();
                disk.append_beside(&rewriting.peers(peers));
                if is_last || scene.now >= self.appended + GATHER {
                    let entries = self.append(registry, disk, scene);
                    if !entries.is_empty() {
                        scene.coverage.saw(Seen::ChangedMeanwhile);
                    }
                    if !scene.lacks(Safeguard::Meanwhile) {
                        rewriting.changed(entries);
                    }
                }
                if !is_last {
                    return self.copies(rewriting, scene);
                }
                if scene.lacks(Safeguard::GoodbyesFirst) {
                    rewriting.changed(self.goodbyes.entries());
                }
                let (book, bytes) = rewriting.end(registry.revision());
                disk.append_beside(&bytes);
                self.doing = Doing::Renaming(book);
                Some(scene.now + self.chance.between(Duration::ZERO, SYNC))
            }
            Doing::Renaming(book) => {
                disk.rename();
                self.book = book;
                self.compact = disk.length();
                self.rest(scene)
            }
        }
    }

    fn copies(&mut self, rewriting: Rewriting, scene: &Scene) -> Option<Duration> {
        self.doing = Doing::Rewriting(rewriting);
        Some(scene.now + self.chance.between(Duration::ZERO, COPY))
    }

    /// There may be something new already.
    fn rest(&mut self, scene: &Scene) -> Option<Duration> {
        if self.changes.entries.is_empty() {
            return None;
        }
        self.doing = Doing::Gathering;
        Some(scene.now + GATHER)
    }

    /// Appends what has changed.
    fn append(&mut self, registry: &Registry, disk: &mut Disk, scene: &Scene) -> LinkedList<Entry> {
        let Changes { entries, .. } = std::mem::take(&mut self.changes);
        self.goodbyes.note(&entries, scene.shown_wall());
        let mut bytes = Vec::new();
        self.book.write(&entries, registry.revision(), &mut bytes);
        disk.append(&bytes);
        self.appended = scene.now;
        entries
    }

    /// Writes all there is, and ends.
    pub(super) fn stop(mut self, registry: &Registry, disk: &mut Disk, scene: &Scene) {
        let entries = std::mem::take(&mut self.changes).entries;
        self.goodbyes.note(&entries, scene.shown_wall());
        let revision = registry.revision();
        let (mut rewriting, bytes) = Rewriting::begin(&self.epoch, revision, 0, &self.goodbyes);
        disk.begin_beside(bytes);
        disk.append_beside(&rewriting.peers(registry.kept_from(0, usize::MAX)));
        disk.append_beside(&rewriting.end(revision).1);
        disk.rename();
    }
}

fn ahead(scene: &Scene) -> u64 {
    match scene.lacks(Safeguard::RevisionsAhead) {
        true => 0,
        false => AHEAD,
    }
}
