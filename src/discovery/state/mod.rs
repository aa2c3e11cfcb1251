//! What discovery knows, over a restart: the state file.
//!
//! A change of membership is put into [`book::Changes`] under the lock of the map, so that the order
//! of both is the same; a thread takes what has come together and appends it to the journal, a
//! moment later and without the lock. Heartbeats write nothing. Revisions are reserved ahead, so that
//! one that was given out and not written is not given out again.
//!
//! `journal` is the format (`roll` the peers it names), `book` what is written in it and `former` what
//! is made of that at a start, all pure; `file` is where it is written, `keeper` the thread that does.

pub mod book;
mod file;
pub mod former;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod journal;
mod keeper;
mod roll;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::program::Failure;
use book::{Book, Goodbyes, Rewriting};
use file::{Anew, Flaw, Found, InUse, Journal, Lock};
use former::{Former, NewEpoch};
pub(super) use keeper::{Running, start};

/// How many revisions are reserved ahead: enough for more than a minute of nothing but changes.
const AHEAD: u64 = 10_000_000;

/// A state file that was read, and is to be kept up from now on.
pub(super) struct Opened {
    path: PathBuf,
    /// `None` where it cannot be written as things are.
    journal: Option<(Journal, Book)>,
    goodbyes: Goodbyes,
    lock: Lock,
    /// What was wrong with it.
    flaw: Option<Flaw>,
}

/// Reads the state file, and makes it ready to be written. Whatever is wrong with it is logged.
///
/// # Errors
/// One line when another process uses it.
pub(super) fn open(path: &Path, new: NewEpoch) -> Result<(Former, Opened), Failure> {
    // What a link points to is written, and not the link.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let lock = file::lock(path).map_err(|InUse| {
        Failure::new(format!(
            "the state file {} is in use by another discovery; give each its own with --state-file",
            path.display()
        ))
    })?;
    let (recovered, journal, flaw) = match file::look(path) {
        Found::Nothing => {
            log::info!("there is no state in {} yet", path.display());
            (None, None, None)
        }
        Found::Journal(recovered, journal) => (Some(recovered), journal, None),
        Found::Flawed(flaw, what, recovered) => {
            let peers = recovered.as_ref().map(|it| it.peers.len());
            set_aside(path, flaw, &what, peers);
            (recovered, None, Some(flaw))
        }
    };
    let writer = recovered.as_ref().map(|it| it.writer.clone());
    let mut former = Former::of(recovered, new.clone());
    let goodbyes = Goodbyes::new(former.left.clone());
    let ready = match (journal, writer) {
        (Some(mut journal), Some(writer)) => {
            let (book, bytes) = Book::go_on(writer, former.revision, AHEAD);
            journal.append(&bytes).map(|()| (journal, book))
        }
        _ => write_former(path, &former, &goodbyes),
    };
    let journal = ready
        .map_err(|e| {
            log::error!(
                "cannot write the state file {}: {e}; going on without, and trying on",
                path.display()
            );
            // Revisions that are given out now are not reserved.
            former.epoch = new.name;
            former.revision = former.revision.max(new.revision);
        })
        .ok();
    if flaw.is_none() && former.is_all {
        log::info!(
            "back from the state file {}, peers: {}",
            path.display(),
            former.peers.len()
        );
    }
    let opened = Opened {
        path: path.to_owned(),
        journal,
        goodbyes,
        flaw,
        lock,
    };
    Ok((former, opened))
}

/// What is wrong with state files, as metrics label it.
pub(super) fn flaws() -> impl Iterator<Item = &'static str> {
    Flaw::ALL.into_iter().map(Flaw::name)
}

/// Gives a file that is not gone on with another name, and says what is wrong with it.
fn set_aside(path: &Path, flaw: Flaw, what: &str, peers: Option<usize>) {
    let aside = match file::set_aside(path, flaw) {
        Ok(aside) => format!("it is kept as {}", aside.display()),
        Err(e) => format!("it cannot be set aside: {e}"),
    };
    let used = match peers {
        Some(peers) => format!("of its peers {peers} could be read, others register again"),
        None => "starting without state, cells register again".to_owned(),
    };
    log::warn!("the state file {} {what}; {used}; {aside}", path.display());
}

fn write_former(path: &Path, former: &Former, goodbyes: &Goodbyes) -> io::Result<(Journal, Book)> {
    let Former {
        epoch, revision, ..
    } = former;
    let (mut rewriting, bytes) = Rewriting::begin(epoch, *revision, AHEAD, goodbyes);
    let mut anew = Anew::begin(path, &bytes)?;
    for peer in &former.peers {
        anew.append(&rewriting.peers([peer.clone()]))?;
    }
    let (book, bytes) = rewriting.end(*revision);
    anew.append(&bytes)?;
    Ok((anew.finish()?, book))
}
