//! The thread that keeps the state file up with the map.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::book::{Book, Changes, Goodbyes, Rewriting};
use super::file::{Anew, Journal, Lock};
use super::{AHEAD, Opened};
use crate::discovery::Discovery;
use crate::shutdown::Latch;
use crate::vital;

/// For how long changes come together before they are written, so that a crowd costs one write.
const GATHER: Duration = Duration::from_millis(200);
/// How soon what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often it is said that something cannot be written, and how often it is tried to write a
/// journal anew that does as it is.
const SELDOM: Duration = Duration::from_secs(60);
/// The most bytes of changes that could not be written.
const MOST_BYTES: usize = 16 << 20;
/// How many peers are copied under one hold of the lock.
const AT_ONCE: usize = 256;

/// The thread, until [`Running::stop`].
pub(in crate::discovery) struct Running {
    stop: Latch,
    ended: Latch,
}

impl Running {
    /// Has it write what there is to write, and end, and waits for that, but not longer than
    /// `at_most`: a disk that hangs must not hold a stop, and all but the last moment is written.
    pub(in crate::discovery) fn stop(self, at_most: Duration) {
        self.stop.set();
        if !self.ended.wait_for(at_most) {
            log::warn!("the state file is not written in time; it is what it was");
        }
    }
}

/// Starts the thread; it is woken by `discovery.state`.
pub(in crate::discovery) fn start(
    discovery: Arc<Discovery>,
    opened: Opened,
) -> io::Result<Running> {
    let stop = discovery.state.clone();
    let is_behind = opened.journal.is_none();
    if let Some(flaw) = opened.flaw {
        discovery.metrics.state_flaw(flaw.name());
    }
    let mut keeper = Keeper {
        path: opened.path,
        journal: opened.journal,
        unwritten: Vec::new(),
        goodbyes: opened.goodbyes,
        _lock: opened.lock,
        is_behind,
        // It was said at the start.
        has_complained: is_behind,
        complained: is_behind.then(Instant::now),
        tried_anew: None,
        discovery,
    };
    let ended = Latch::new();
    let running = Running {
        stop,
        ended: ended.clone(),
    };
    vital::spawn("state", move || {
        keeper.run();
        ended.set();
    })?;
    Ok(running)
}

struct Keeper {
    discovery: Arc<Discovery>,
    path: PathBuf,
    /// `None`: it has to be written anew.
    journal: Option<(Journal, Book)>,
    /// Lines that go on where the journal ends, and could not be written yet.
    unwritten: Vec<u8>,
    goodbyes: Goodbyes,
    _lock: Lock,
    /// Whether something could not be written.
    is_behind: bool,
    /// Whether that was said, and not yet that it is over.
    has_complained: bool,
    complained: Option<Instant>,
    /// When it was last tried to write it anew in vain.
    tried_anew: Option<Instant>,
}

impl Keeper {
    fn run(&mut self) {
        let latch = self.discovery.state.clone();
        self.discovery.metrics.set_state_behind(self.is_behind);
        loop {
            let is_last = match self.is_behind {
                true => rest(&latch, RETRY),
                // Where a crowd comes or goes they are written sooner.
                false => latch.wait_until_woken() || latch.wait_for(GATHER),
            };
            let result = self.keep(is_last);
            self.judge(result);
            if is_last {
                return;
            }
        }
    }

    /// Writes what is to be written.
    fn keep(&mut self, is_last: bool) -> io::Result<()> {
        if self
            .journal
            .as_ref()
            .is_some_and(|(it, _)| !it.is_at(&self.path))
        {
            // Moved away or removed: what is in the map counts.
            self.journal = None;
        }
        let appended = self.append();
        if is_last {
            // The levels, too, and no revision is reserved in vain. Where there is no room for that
            // it does that all changes are there.
            let written = self.write_anew(0);
            let does = appended.is_ok() && self.journal.is_some();
            return if does { Ok(()) } else { written };
        }
        appended?;
        match &self.journal {
            None => self.write_anew(AHEAD),
            Some((journal, _)) => {
                let is_time = self.tried_anew.is_none_or(|at| at.elapsed() >= SELDOM);
                if journal.is_long() && is_time {
                    self.tried_anew = Some(Instant::now());
                    self.write_anew(AHEAD)?;
                    self.tried_anew = None;
                }
                Ok(())
            }
        }
    }

    fn judge(&mut self, result: io::Result<()>) {
        // A journal that is only too long does.
        self.is_behind = match result {
            Ok(()) => false,
            Err(_) => {
                let journal = self.journal.as_ref();
                journal.is_none_or(|(it, _)| !it.is_at(&self.path)) || !self.unwritten.is_empty()
            }
        };
        self.discovery.metrics.set_state_behind(self.is_behind);
        match result {
            // One that could not be written anew may take some lines all the same.
            Ok(()) if self.tried_anew.is_none() && std::mem::take(&mut self.has_complained) => {
                log::info!("the state file {} is up to date", self.path.display());
            }
            Ok(()) => {}
            Err(e) => {
                // However often it comes and goes.
                if self.complained.is_none_or(|at| at.elapsed() >= SELDOM) {
                    self.complained = Some(Instant::now());
                    self.has_complained = true;
                    log::error!(
                        "cannot write the state file {}: {e}; going on without, and trying on",
                        self.path.display()
                    );
                }
            }
        }
    }

    /// What has changed since it was last asked, and the revision.
    fn take_changes(&mut self) -> (Changes, u64) {
        let (changes, revision) = self.discovery.with_map(|map, _| {
            let changes = map.changes.as_mut().map(std::mem::take);
            (changes.unwrap_or_default(), map.registry.revision())
        });
        self.goodbyes.note(&changes.entries, SystemTime::now());
        (changes, revision)
    }

    /// Appends what has changed to the journal, if there is one.
    fn append(&mut self) -> io::Result<()> {
        let (changes, revision) = self.take_changes();
        let Some((journal, book)) = &mut self.journal else {
            return Ok(());
        };
        book.write(&changes.entries, revision, &mut self.unwritten);
        let written = match self.unwritten.is_empty() {
            true => Ok(()),
            false => journal.append(&self.unwritten),
        };
        let is_usable = match &written {
            Ok(()) => true,
            // Of any other error nobody knows what it has left in the file.
            Err(e) => {
                matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
                    && self.unwritten.len() <= MOST_BYTES
            }
        };
        if changes.too_many {
            journal.cut();
        }
        if changes.too_many || !is_usable {
            self.journal = None;
        }
        if self.journal.is_none() || written.is_ok() {
            self.unwritten.clear();
        }
        written
    }

    /// Writes all there is into a new file, which takes the place of the old. Changes that are made
    /// meanwhile are appended to the old one in time, and to the new one at its end.
    fn write_anew(&mut self, ahead: u64) -> io::Result<()> {
        let revision = self.discovery.with_map(|map, _| map.registry.revision());
        let epoch = &self.discovery.epoch;
        let (mut rewriting, bytes) = Rewriting::begin(epoch, revision, ahead, &self.goodbyes);
        let path = self.path.clone();
        let mut anew = Anew::begin(&path, &bytes)?;
        let mut synced = Instant::now();
        loop {
            let place = rewriting.place();
            let peers = self
                .discovery
                .with_map_in_turn(|map, _| map.registry.kept_from(place, AT_ONCE));
            if peers.is_empty() {
                break;
            }
            anew.append(&rewriting.peers(peers))?;
            if synced.elapsed() >= GATHER {
                self.append_meanwhile(&mut rewriting)?;
                anew.sync()?;
                synced = Instant::now();
            }
        }
        let revision = self.append_meanwhile(&mut rewriting)?;
        let (book, bytes) = rewriting.end(revision);
        anew.append(&bytes)?;
        self.journal = Some((anew.finish()?, book));
        self.unwritten.clear();
        Ok(())
    }

    /// Appends what has changed to the journal that still counts, and notes it for the new one.
    /// Returns the revision.
    fn append_meanwhile(&mut self, rewriting: &mut Rewriting) -> io::Result<u64> {
        let (changes, revision) = self.take_changes();
        if let Some((journal, book)) = &mut self.journal {
            book.write(&changes.entries, revision, &mut self.unwritten);
            // If not now, then with the rest in a moment.
            if !self.unwritten.is_empty() && journal.append(&self.unwritten).is_ok() {
                self.unwritten.clear();
            }
        }
        if changes.too_many {
            if let Some((journal, _)) = &mut self.journal {
                journal.cut();
            }
            self.journal = None;
            return Err(io::Error::other("it changes faster than it is written"));
        }
        rewriting.changed(changes.entries);
        Ok(revision)
    }
}

/// Waits for so long, whoever wakes it. Returns whether the latch is set.
fn rest(latch: &Latch, at_most: Duration) -> bool {
    let until = Instant::now() + at_most;
    loop {
        let is_set = latch.wait_until(until);
        if is_set || Instant::now() >= until {
            return is_set;
        }
    }
}
