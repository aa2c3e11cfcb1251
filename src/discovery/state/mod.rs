//! What discovery knows, over a restart: the state file and the thread that writes it.
//!
//! A change of membership is put into [`Changes`] under the lock of the map, so that the order of
//! both is the same; the thread takes what has come together and appends it to the journal, a moment
//! later and without the lock. Heartbeats write nothing. Revisions are reserved ahead, so that one
//! that was given out and not written is not given out again.
//!
//! `journal` is the format, pure; `file` is where it is written.

mod file;
pub mod journal;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Discovery;
use crate::program::Failure;
use crate::registry::{Kept, Left};
use crate::shutdown::Latch;
use crate::vital;
use crate::wire;
use file::{Anew, Flaw, Found, InUse, Journal, lines};
use journal::{Condition, Entry, Writer};

/// For how long changes come together before they are written, so that a crowd costs one write.
const GATHER: Duration = Duration::from_millis(200);
/// How soon what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often it is said that it cannot be written.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// How many revisions are reserved ahead: enough for more than a minute of nothing but changes.
const AHEAD: u64 = 10_000_000;
/// The most changes that are kept while they cannot be written. Beyond, all of it is written anew
/// once that can be done.
const MOST_CHANGES: usize = 100_000;
/// The most bytes of them.
const MOST_BYTES: usize = 16 << 20;
/// How many peers are copied under one hold of the lock.
const AT_ONCE: usize = 256;

/// Changes that are to be written, in the order in which they were made.
#[derive(Debug, Default)]
pub(super) struct Changes {
    entries: Vec<Entry>,
    /// Whether there were more than are kept.
    too_many: bool,
}

impl Changes {
    /// Takes one more. Returns whether it is the first, for which the thread is to be woken.
    pub(super) fn push(&mut self, entry: Entry) -> bool {
        let is_first = self.entries.is_empty();
        if self.entries.len() < MOST_CHANGES {
            self.entries.push(entry);
        } else {
            self.too_many = true;
        }
        is_first
    }
}

/// What is known of a former run.
pub(super) struct Former {
    pub(super) epoch: String,
    pub(super) revision: u64,
    pub(super) peers: Vec<Kept>,
    pub(super) left: Vec<Left>,
    /// Whether that is all there was to know.
    pub(super) is_all: bool,
}

/// A state file that was looked at, and the writing of it.
pub(super) struct Opened {
    path: PathBuf,
    /// `None` where it cannot be written as things are.
    journal: Option<(Journal, Writer)>,
    reserved: u64,
    pub(super) flaw: Option<&'static str>,
}

/// Reads the state file, and makes it ready to be written. Whatever is wrong with it is logged.
///
/// # Errors
/// One line when another process uses it.
pub(super) fn open(path: &Path, new_epoch: String) -> Result<(Former, Opened), Failure> {
    let found = file::look(path).map_err(|InUse| {
        Failure::new(format!(
            "the state file {} is used by another discovery; give each its own with --state-file",
            path.display()
        ))
    })?;
    let (recovered, whole, flaw) = match found {
        Found::Nothing => (None, None, None),
        Found::Journal(recovered, journal) => (Some(recovered), Some(journal), None),
        Found::Flawed(flaw, what, recovered) => {
            report_flaw(path, flaw, &what, recovered.as_ref().map(|it| it.peers.len()));
            (recovered, None, Some(flaw))
        }
    };
    let (mut former, writer) = match recovered {
        None => (Former::none(new_epoch.clone()), None),
        Some(recovered) => {
            let is_all = recovered.condition != Condition::Corrupt;
            let former = Former {
                // Of what is lost a revision may have been given out: counting starts over.
                epoch: match is_all {
                    true => recovered.epoch,
                    false => new_epoch.clone(),
                },
                revision: recovered.revision,
                peers: recovered.peers,
                left: recovered.left,
                is_all,
            };
            (former, Some(recovered.writer))
        }
    };
    let reserved = former.revision + AHEAD;
    let ready = match (whole, writer) {
        (Some(mut journal), Some(mut writer)) => {
            let bytes = lines(&mut writer, [Entry::Revision(reserved)]);
            journal.append(&bytes).map(|()| (journal, writer))
        }
        _ => write_former(path, &former, reserved),
    };
    let journal = ready
        .map_err(|e| {
            log::error!(
                "cannot write the state file {}: {e}; going on without, and trying on",
                path.display()
            );
            // Revisions that are given out now are not reserved.
            former.epoch.clone_from(&new_epoch);
        })
        .ok();
    let opened = Opened {
        path: path.to_owned(),
        journal,
        reserved,
        flaw: flaw.map(Flaw::name),
    };
    Ok((former, opened))
}

impl Former {
    /// Nothing is known of any.
    pub(super) fn none(epoch: String) -> Self {
        Self {
            epoch,
            revision: 0,
            peers: Vec::new(),
            left: Vec::new(),
            is_all: false,
        }
    }
}

/// What is wrong with state files, as metrics label it.
pub(super) fn flaws() -> impl Iterator<Item = &'static str> {
    Flaw::ALL.into_iter().map(Flaw::name)
}

fn report_flaw(path: &Path, flaw: Flaw, what: &str, peers: Option<usize>) {
    let aside = match file::set_aside(path, flaw) {
        Ok(aside) => format!("kept as {}", aside.display()),
        Err(e) => format!("it cannot be set aside: {e}"),
    };
    let used = match peers {
        Some(peers) => format!("{peers} peers could be read"),
        None => "starting without state".to_owned(),
    };
    log::warn!("the state file {} {what}; {used}; {aside}", path.display());
}

fn write_former(path: &Path, former: &Former, reserved: u64) -> io::Result<(Journal, Writer)> {
    let (mut writer, header) = Writer::begin(&former.epoch, reserved);
    let mut anew = Anew::begin(path, &header)?;
    for peer in &former.peers {
        anew.append(&lines(&mut writer, [Entry::Peer(peer.clone())]))?;
    }
    Ok((anew.finish()?, writer))
}

/// The thread, until [`Running::stop`].
pub(super) struct Running {
    thread: JoinHandle<()>,
    stop: Latch,
}

impl Running {
    /// Writes what there is to write, and ends.
    pub(super) fn stop(self) {
        self.stop.set();
        // It ends the process before it ends any other way.
        let _ = self.thread.join();
    }
}

/// Starts the thread; it is woken by `discovery.state`.
pub(super) fn start(discovery: Arc<Discovery>, opened: Opened) -> io::Result<Running> {
    let stop = discovery.state.clone();
    let mut keeper = Keeper {
        path: opened.path,
        is_behind: opened.journal.is_none(),
        journal: opened.journal,
        unwritten: Vec::new(),
        reserved: opened.reserved,
        complained: opened.flaw.is_some().then(Instant::now),
        discovery,
    };
    let thread = vital::spawn("state", move || keeper.run())?;
    Ok(Running { thread, stop })
}

/// Keeps the state file up with the map.
struct Keeper {
    discovery: Arc<Discovery>,
    path: PathBuf,
    /// `None`: it has to be written anew.
    journal: Option<(Journal, Writer)>,
    /// Lines that go on where the journal ends, and could not be written yet.
    unwritten: Vec<u8>,
    reserved: u64,
    /// Whether something could not be written.
    is_behind: bool,
    complained: Option<Instant>,
}

impl Keeper {
    fn run(&mut self) {
        let stop = self.discovery.state.clone();
        loop {
            let is_stopping = match self.is_behind {
                true => stop.wait_for(RETRY),
                false => stop.wait_until_woken() || stop.wait_for(GATHER),
            };
            let result = self.keep(is_stopping);
            self.judge(result);
            if is_stopping {
                return;
            }
        }
    }

    /// Writes what is to be written.
    fn keep(&mut self, is_last: bool) -> io::Result<()> {
        self.append()?;
        let is_long = self.journal.as_ref().is_none_or(|(file, _)| file.is_long());
        if is_long || is_last {
            // The last time the levels are written, too, and no revision is reserved in vain.
            self.write_anew(if is_last { 0 } else { AHEAD })?;
        }
        Ok(())
    }

    fn judge(&mut self, result: io::Result<()>) {
        self.discovery.metrics.set_state_behind(result.is_err());
        match result {
            Ok(()) if std::mem::take(&mut self.is_behind) => {
                log::info!("the state file {} is written again", self.path.display());
            }
            Ok(()) => {}
            Err(e) => {
                self.is_behind = true;
                if self.complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
                    self.complained = Some(Instant::now());
                    log::error!(
                        "cannot write the state file {}: {e}; going on, and trying on",
                        self.path.display()
                    );
                }
            }
        }
    }

    /// What has changed since it was last asked, and the revision.
    fn take_changes(&self) -> (Changes, u64) {
        self.discovery.with_map(|map, _| {
            let changes = map.changes.as_mut().map(std::mem::take);
            (changes.unwrap_or_default(), map.registry.revision())
        })
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
        let reserved = match self.reserved < revision + AHEAD / 2 {
            true => revision + AHEAD,
            false => self.reserved,
        };
        if reserved != self.reserved {
            writer.write(&Entry::Revision(reserved), &mut self.unwritten);
        }
        if !self.unwritten.is_empty() {
            let written = journal.append(&self.unwritten);
            if changes.too_many || (written.is_err() && self.unwritten.len() > MOST_BYTES) {
                self.journal = None;
                self.unwritten = Vec::new();
            }
            written?;
            self.unwritten.clear();
        }
        self.reserved = reserved;
        Ok(())
    }

    /// Writes all there is into a new file, which takes the place of the old. Changes that are made
    /// meanwhile are appended to the old one in time, and to the new one at its end: there they may
    /// stand a second time, which says nothing new.
    fn write_anew(&mut self, ahead: u64) -> io::Result<()> {
        let revision = self.discovery.with_map(|map, _| map.registry.revision());
        let reserved = revision + ahead;
        let (mut writer, header) = Writer::begin(&self.discovery.epoch, reserved);
        let path = self.path.clone();
        let mut anew = Anew::begin(&path, &header)?;
        let mut meanwhile = Vec::new();
        let mut flushed = Instant::now();
        let mut place = 0;
        loop {
            let peers = self
                .discovery
                .with_map(|map, _| map.registry.kept_from(place, AT_ONCE));
            let Some(last) = peers.last() else { break };
            place = last.place + 1;
            anew.append(&lines(&mut writer, peers.into_iter().map(Entry::Peer)))?;
            if flushed.elapsed() >= GATHER {
                self.append_meanwhile(&mut meanwhile);
                flushed = Instant::now();
            }
        }
        self.append_meanwhile(&mut meanwhile);
        anew.append(&lines(&mut writer, meanwhile))?;
        self.journal = Some((anew.finish()?, writer));
        self.unwritten = Vec::new();
        self.reserved = reserved;
        Ok(())
    }

    fn append_meanwhile(&mut self, meanwhile: &mut Vec<Entry>) {
        let (changes, _) = self.take_changes();
        if let Some((journal, writer)) = &mut self.journal {
            for entry in &changes.entries {
                writer.write(entry, &mut self.unwritten);
            }
            // If not, it is written with the rest in a moment.
            if journal.append(&self.unwritten).is_ok() {
                self.unwritten.clear();
            }
        }
        meanwhile.extend(changes.entries);
    }
}
