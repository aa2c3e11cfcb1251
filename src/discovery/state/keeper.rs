//! The thread that keeps the state file up with the map.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use super::file::{Anew, Journal, lines};
use super::journal::{Entry, Writer};
use super::{AHEAD, Opened};
use crate::discovery::Discovery;
use crate::registry::Left;
use crate::shutdown::Latch;
use crate::vital;

/// For how long changes come together before they are written, so that a crowd costs one write.
const GATHER: Duration = Duration::from_millis(200);
/// How soon what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often it is said that something cannot be written, and how often it is tried to write a
/// journal anew that does as it is.
const SELDOM: Duration = Duration::from_secs(60);
/// The most changes that are kept for the thread. Beyond, all of it is written anew.
const MOST_CHANGES: usize = 100_000;
/// The most bytes of changes that could not be written.
const MOST_BYTES: usize = 16 << 20;
/// How many peers are copied under one hold of the lock.
const AT_ONCE: usize = 256;

/// Changes that are to be written, in the order in which they were made.
#[derive(Debug, Default)]
pub(in crate::discovery) struct Changes {
    entries: Vec<Entry>,
    /// Whether there were more than are kept.
    too_many: bool,
}

impl Changes {
    /// Takes one more. Returns whether it is the first, for which the thread is to be woken.
    pub(in crate::discovery) fn push(&mut self, entry: Entry) -> bool {
        let is_first = self.entries.is_empty();
        if self.entries.len() < MOST_CHANGES {
            self.entries.push(entry);
        } else {
            self.too_many = true;
        }
        is_first
    }
}

/// The thread, until [`Running::stop`].
pub(in crate::discovery) struct Running {
    thread: JoinHandle<()>,
    stop: Latch,
}

impl Running {
    /// Writes what there is to write, and ends.
    pub(in crate::discovery) fn stop(self) {
        self.stop.set();
        // It ends the process before it ends any other way.
        let _ = self.thread.join();
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
        reserved: opened.reserved,
        left: opened.left.into(),
        is_behind,
        // It was said at the start.
        complained: is_behind.then(Instant::now),
        tried_anew: None,
        discovery,
    };
    let thread = vital::spawn("state", move || keeper.run())?;
    Ok(Running { thread, stop })
}

struct Keeper {
    discovery: Arc<Discovery>,
    path: PathBuf,
    /// `None`: it has to be written anew.
    journal: Option<(Journal, Writer)>,
    /// Lines that go on where the journal ends, and could not be written yet.
    unwritten: Vec<u8>,
    reserved: u64,
    /// Who said goodbye, oldest first: it is not in the map, and has to be written anew, too.
    left: VecDeque<Left>,
    /// Whether something could not be written.
    is_behind: bool,
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
                false => latch.wait_until_woken() || rest(&latch, GATHER),
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
        self.append()?;
        match &self.journal {
            // The last time the levels are written, too, and no revision is reserved in vain.
            _ if is_last => self.write_anew(0),
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
            Err(_) => self.journal.is_none() || !self.unwritten.is_empty(),
        };
        self.discovery.metrics.set_state_behind(self.is_behind);
        match result {
            Ok(()) => {
                if self.complained.take().is_some() {
                    log::info!("the state file {} is written again", self.path.display());
                }
            }
            Err(e) => {
                if self.complained.is_none_or(|at| at.elapsed() >= SELDOM) {
                    self.complained = Some(Instant::now());
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
        for entry in &changes.entries {
            if let Entry::Gone {
                id,
                left: Some((instance, at)),
            } = entry
            {
                self.left.push_back(Left {
                    id: id.clone(),
                    instance: instance.clone(),
                    at: *at,
                });
            }
        }
        let now = SystemTime::now();
        let is_over = |left: &Left| !left.counts(now);
        while self.left.len() > MOST_CHANGES || self.left.front().is_some_and(is_over) {
            self.left.pop_front();
        }
        (changes, revision)
    }

    /// Appends what has changed to the journal, if there is one.
    fn append(&mut self) -> io::Result<()> {
        let (changes, revision) = self.take_changes();
        let Some((journal, writer)) = &mut self.journal else {
            return Ok(());
        };
        for entry in &changes.entries {
            writer.write(entry, &mut self.unwritten);
        }
        if self.reserved < revision + AHEAD / 2 {
            self.reserved = revision + AHEAD;
            writer.write(&Entry::Revision(self.reserved), &mut self.unwritten);
        }
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
        if changes.too_many || !is_usable {
            self.journal = None;
        }
        if self.journal.is_none() || written.is_ok() {
            self.unwritten.clear();
        }
        written
    }

    /// Writes all there is into a new file, which takes the place of the old. Changes that are made
    /// meanwhile are appended to the old one in time, and to the new one at its end: there they may
    /// stand a second time, which says nothing new.
    fn write_anew(&mut self, ahead: u64) -> io::Result<()> {
        let revision = self.discovery.with_map(|map, _| map.registry.revision());
        let mut reserved = revision + ahead;
        let (mut writer, header) = Writer::begin(&self.discovery.epoch, reserved);
        let path = self.path.clone();
        let mut anew = Anew::begin(&path, &header)?;
        // Before the peers, for a later run of theirs may be among them.
        anew.append(&lines(&mut writer, self.left.iter().map(Entry::left)))?;
        let mut meanwhile = Vec::new();
        let mut synced = Instant::now();
        let mut place = 0;
        loop {
            let peers = self
                .discovery
                .with_map(|map, _| map.registry.kept_from(place, AT_ONCE));
            let Some(last) = peers.last() else { break };
            place = last.place + 1;
            anew.append(&lines(&mut writer, peers.into_iter().map(Entry::Peer)))?;
            if synced.elapsed() >= GATHER {
                self.append_meanwhile(&mut meanwhile)?;
                anew.sync()?;
                synced = Instant::now();
            }
        }
        let revision = self.append_meanwhile(&mut meanwhile)?;
        anew.append(&lines(&mut writer, meanwhile))?;
        if reserved < revision {
            reserved = revision + ahead;
            anew.append(&lines(&mut writer, [Entry::Revision(reserved)]))?;
        }
        let old = self.journal.as_ref().map(|(journal, _)| journal);
        self.journal = Some((anew.finish(old)?, writer));
        self.unwritten.clear();
        self.reserved = reserved;
        Ok(())
    }

    /// Appends what has changed to the journal that still counts, and to `meanwhile`. Returns the
    /// revision.
    fn append_meanwhile(&mut self, meanwhile: &mut Vec<Entry>) -> io::Result<u64> {
        let (changes, revision) = self.take_changes();
        if let Some((journal, writer)) = &mut self.journal {
            for entry in &changes.entries {
                writer.write(entry, &mut self.unwritten);
            }
            // If not now, then with the rest in a moment.
            if !self.unwritten.is_empty() && journal.append(&self.unwritten).is_ok() {
                self.unwritten.clear();
            }
        }
        if changes.too_many {
            self.journal = None;
            return Err(io::Error::other("it changes faster than it is written"));
        }
        meanwhile.extend(changes.entries);
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
