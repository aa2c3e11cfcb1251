//! What must stay true, and the record of what really happened that it is checked against.
//!
//! The ledger is told of every answer discovery gives and of every pass of its reaper. It knows what
//! discovery cannot know: when somebody really beat, what was lost, how long discovery itself was
//! stopped. It has its own arithmetic of all that, plain and slow.

mod answers;
mod cells;
mod passes;
mod restarts;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aios_mesh::registry::{Facts, LeaseTime};
use aios_mesh::wire::{Instance, Registration};

/// The promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invariant {
    /// A cell whose beats are served within its lease is in the list, and never answered that it is
    /// unknown. Only time counts in which discovery ran: it could not take beats in any other.
    Present,
    /// A silent cell is gone a lease and a pass after its last beat, plus the time in which discovery
    /// did not run, plus one interval where a mass departure was held.
    Gone,
    /// What was answered is what the list shows, first registered first.
    Exact,
    /// The revision rises with each change of the membership and with nothing else, and never falls
    /// within an epoch, whatever crashes; it is another epoch where, and only where, something of the
    /// former state is lost.
    Revision,
    /// A run that said goodbye is not brought back by its own late requests; the late requests of an
    /// old run do nothing to its successor, but for a registration.
    Fenced,
    /// Of the wall clock nothing shows but `last_seen`.
    Wall,
    /// There are never more peers than allowed.
    Bounded,
    /// A mass departure is held for one interval before anybody goes.
    Held,
    /// What changed more than a second of running before a crash is known after it.
    Durable,
    /// The goodbye is the last that a run sends, and one that may be known says it.
    LastWord,
    /// A cell that is answered 404 registers at once: a discovery that forgot everybody knows them
    /// again within one interval.
    AtOnce,
    /// No cell beats more often than it is to, whatever it missed.
    Pace,
    /// Once nothing goes wrong any more, every living cell is listed and no other.
    Alive,
    /// And then nothing changes.
    Quiet,
}

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// How.
    pub what: String,
}

/// For how long a run that said goodbye may not register: part of the protocol.
const FENCED_FOR: Duration = Duration::from_secs(60);
/// How late a change may reach the disk.
const DURABLE_AFTER: Duration = Duration::from_secs(1);
/// What a pause may cost a lease at most: the clock runs on from its last tick for half as long again
/// as a tick, which comes every second, and ten times in a shorter lease than that.
const PAUSE_COSTS: Duration = Duration::from_millis(1500);

/// A peer as the ledger knows it to be listed.
#[derive(Clone, Debug)]
struct Entry {
    facts: Arc<Facts>,
    instance: Option<Instance>,
    lease: Duration,
    /// When it was heard of last.
    heard: Duration,
    heard_lease: LeaseTime,
    last_seen: SystemTime,
    level: f64,
    /// Whether it was registered by the second of a request that something on the way sent twice,
    /// of which its sender cannot know.
    by_copy: bool,
}

/// What a restart is to bring back of a peer.
#[derive(Clone, Debug)]
pub struct Kept {
    facts: Arc<Facts>,
    instance: Option<Instance>,
    lease: Duration,
}

/// What a cell was from some moment on.
#[derive(Clone, Debug)]
struct Was {
    since: Duration,
    /// Whether it came from the disk.
    on_disk: bool,
    kept: Option<Kept>,
}

/// A goodbye that arrived.
#[derive(Clone, Debug)]
struct Left {
    cell: usize,
    instance: Instance,
    at: Duration,
    at_wall: SystemTime,
    /// When it was, or was read, on discovery's clock.
    at_lease: LeaseTime,
    /// Whether somebody was taken out by it.
    was_taken: bool,
    /// Whether the wall clock was set since, by which the time over a restart is counted.
    wall_was_set: bool,
    /// Whether it is to be known still.
    is_known: bool,
}

/// What a discovery that starts has of the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Nothing.
    Lost,
    /// What can be read of a state file that is damaged.
    Damaged,
    /// The state file of one that was killed.
    Killed,
    /// That of one that was told to stop.
    Stopped,
}

/// What the ledger knows of a run.
#[derive(Clone, Debug, Default)]
struct Said {
    /// The place of its goodbye among all that was sent.
    goodbye: Option<u64>,
    left_silently: bool,
    /// When it was answered that it is unknown, and has not registered yet.
    unknown_since: Option<Duration>,
    /// When it sent the last two beats, and the interval they were to keep.
    beats: [Option<Duration>; 2],
    interval: Duration,
}

/// The bounds discovery runs with.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The lease where none is asked for.
    pub stale_after: Duration,
    /// The most peers.
    pub max_peers: usize,
    /// How often the reaper passes.
    pub reap_every: Duration,
    /// From how many peers on a mass departure is held.
    pub hold_min: usize,
    /// For how long.
    pub interval: Duration,
}

/// The moment of an answer.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Real time.
    pub now: Duration,
    /// What discovery's clock of leases said.
    pub lease: LeaseTime,
    /// What the wall clock said.
    pub wall: SystemTime,
}

/// An episode in which most peers fell silent.
#[derive(Clone, Copy, Debug)]
struct Episode {
    noticed: LeaseTime,
    over: bool,
}

/// What really happened.
#[derive(Debug)]
pub struct Ledger {
    bounds: Bounds,
    /// By cell.
    entries: Vec<Option<Entry>>,
    /// The cells that are listed, first registered first.
    order: Vec<usize>,
    /// When the membership of each cell changed, and into what.
    history: Vec<Vec<Was>>,
    /// All that each cell ever was.
    ever: Vec<Vec<Kept>>,
    left: Vec<Left>,
    said: Vec<Said>,
    /// When discovery was stopped by SIGSTOP.
    pauses: Vec<(Duration, Option<Duration>)>,
    /// When discovery, or its reaper, did not run for whatever reason; without overlaps.
    outages: Vec<(Duration, Duration)>,
    /// When the reaper is to wake.
    reaper_due: Duration,
    /// When it was killed, while it is down.
    down_since: Option<Duration>,
    episode: Option<Episode>,
    /// When the last hold was over.
    held_until: Duration,
    epoch: Option<String>,
    revision: u64,
    /// The highest revision that went out to anybody within the epoch.
    highest: u64,
    broken: Option<Violation>,
}

impl Ledger {
    /// One for so many cells.
    pub fn new(bounds: Bounds, cells: usize) -> Self {
        Self {
            bounds,
            entries: vec![None; cells],
            order: Vec::new(),
            history: vec![Vec::new(); cells],
            ever: vec![Vec::new(); cells],
            left: Vec::new(),
            said: Vec::new(),
            pauses: Vec::new(),
            outages: Vec::new(),
            reaper_due: Duration::ZERO,
            down_since: None,
            episode: None,
            held_until: Duration::ZERO,
            epoch: None,
            revision: 0,
            highest: 0,
            broken: None,
        }
    }

    /// The first promise that was broken.
    pub fn broken(&self) -> Option<&Violation> {
        self.broken.as_ref()
    }

    /// The cells that are listed, first registered first.
    pub fn listed(&self) -> &[usize] {
        &self.order
    }

    /// The revision of the membership.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Writes down that a promise is broken.
    pub fn breaks(&mut self, invariant: Invariant, what: impl FnOnce() -> String) {
        if self.broken.is_none() {
            let what = what();
            self.broken = Some(Violation { invariant, what });
        }
    }

    fn holds(&mut self, invariant: Invariant, is_so: bool, otherwise: impl FnOnce() -> String) {
        if !is_so {
            self.breaks(invariant, otherwise);
        }
    }

    fn remove(&mut self, cell: usize, now: Duration) {
        self.entries[cell] = None;
        self.order.retain(|listed| *listed != cell);
        self.write_down(cell, now, false);
    }

    /// The revision after peers have gone.
    pub fn departed(&mut self, revision: u64, gone: usize) {
        let before = self.revision;
        let is_right = if gone > 0 {
            revision > before
        } else {
            revision == before
        };
        self.holds(Invariant::Revision, is_right, || {
            format!("{gone} left, the revision is {revision} and was {before}")
        });
        self.gave_out(revision);
    }

    fn gave_out(&mut self, revision: u64) {
        let highest = self.highest;
        self.holds(Invariant::Revision, revision >= highest, || {
            format!("revision {revision} is given out after {highest}")
        });
        self.revision = revision;
        self.highest = self.highest.max(revision);
    }

    fn write_down(&mut self, cell: usize, since: Duration, on_disk: bool) {
        let kept = self.entries[cell].as_ref().map(|entry| Kept {
            facts: Arc::clone(&entry.facts),
            instance: entry.instance.clone(),
            lease: entry.lease,
        });
        self.ever[cell].extend(kept.clone());
        self.history[cell].push(Was {
            since,
            on_disk,
            kept,
        });
    }
}

/// The instance of a run.
pub fn run_name(run: usize) -> Instance {
    Instance::new(&format!("{run:x}")).unwrap_or_else(|why| panic!("{why}"))
}

/// The cell that these facts are of.
pub fn cell_of(facts: &Facts) -> usize {
    let number = facts.cell_id.as_str().trim_start_matches('c').parse();
    number.unwrap_or_else(|why| panic!("{}: {why}", facts.cell_id))
}

fn is_other(stored: &Option<Instance>, request: &Option<Instance>) -> bool {
    matches!((stored, request), (Some(stored), Some(request)) if stored != request)
}

fn is_of(facts: &Facts, registration: &Registration) -> bool {
    facts.cell_id == registration.cell_id
        && facts.ip == registration.ip
        && facts.port == registration.port
        && facts.services.iter().eq(&registration.services)
        && facts.branch == registration.branch
        && facts.kind == registration.kind
        && facts.hostname == registration.hostname
}
