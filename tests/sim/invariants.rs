//! What must stay true, and the record of what really happened that it is checked against.
//!
//! The ledger is told of every answer discovery gives and of every pass of its reaper. It knows what
//! discovery cannot know: when somebody really beat, what was lost, how long discovery itself was
//! stopped. It has its own arithmetic of all that, plain and slow.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aios_mesh::registry::{Accepted, Change, Departure, Facts, LeaseTime, List, Refused, Renewal};
use aios_mesh::wire::{Instance, Registration};

use crate::network::{Request, What};

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
    /// within an epoch; without the former state it is another epoch.
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
    at_lease: LeaseTime,
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
    epoch: Option<u64>,
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

    // Cells.

    /// A run that is to beat at an interval sends a request, perhaps while another call of it still
    /// `waits`.
    pub fn sends(
        &mut self,
        run: usize,
        request: &Request,
        interval: Duration,
        waits: bool,
        now: Duration,
    ) {
        let said = self.said(run);
        let before = said.clone();
        match request.what {
            What::Goodbye => said.goodbye = Some(request.sent),
            What::Register => said.unknown_since = None,
            What::Beat if said.interval == interval => said.beats = [said.beats[1], Some(now)],
            What::Beat => {
                said.interval = interval;
                said.beats = [None, Some(now)];
            }
        }
        let cell = request.cell;
        self.holds(Invariant::LastWord, before.goodbye.is_none(), || {
            format!("c{cell} sends {:?} after its goodbye", request.what)
        });
        self.holds(Invariant::LastWord, !waits, || {
            format!("c{cell} says goodbye while it waits for an answer")
        });
        let is_at_once = match (before.unknown_since, request.what) {
            (None, _) | (_, What::Goodbye) => true,
            (Some(since), What::Register) => since == now,
            (Some(_), What::Beat) => false,
        };
        self.holds(Invariant::AtOnce, is_at_once, || {
            format!("c{cell} is unknown and does not register at once")
        });
        // Each stands for an interval of its own, in which it may come late, but no third one can.
        let is_in_pace = match (request.what, before.beats[0]) {
            (What::Beat, Some(first)) => before.interval != interval || now - first >= interval,
            _ => true,
        };
        self.holds(Invariant::Pace, is_in_pace, || {
            format!("c{cell} beats three times in its interval of {interval:?}")
        });
    }

    /// A run is answered that it is unknown.
    pub fn is_told_unknown(&mut self, run: usize, now: Duration) {
        self.said(run).unknown_since = Some(now);
    }

    /// A run ends without a goodbye, because discovery cannot know it.
    pub fn leaves_without_goodbye(&mut self, run: usize, cell: usize) {
        let is_listed = self.order.contains(&cell)
            && self.entries[cell]
                .as_ref()
                .is_some_and(|entry| entry.instance == Some(run_name(run)) && !entry.by_copy);
        self.holds(Invariant::LastWord, !is_listed, || {
            format!("c{cell} is listed and leaves without a goodbye")
        });
        self.said(run).left_silently = true;
    }

    fn said(&mut self, run: usize) -> &mut Said {
        if self.said.len() <= run {
            self.said.resize(run + 1, Said::default());
        }
        &mut self.said[run]
    }

    // Answers.

    /// Discovery took a registration.
    pub fn registered(
        &mut self,
        request: &Request,
        registration: &Registration,
        accepted: &Accepted,
        at: Moment,
    ) {
        let cell = request.cell;
        let instance = &registration.instance;
        let fenced = instance.as_ref().is_some_and(|instance| {
            let of_this_run = |left: &&Left| left.cell == cell && left.instance == *instance;
            let last = self.left.iter().rev().find(of_this_run);
            last.is_some_and(|left| at.now.saturating_sub(left.at) <= FENCED_FOR)
        });
        self.holds(Invariant::Fenced, !fenced, || {
            format!("c{cell} registers with an instance that said goodbye less than a minute ago")
        });
        if let Some(run) = request.run {
            let said = self.said(run).clone();
            let undone = said.goodbye.is_some_and(|goodbye| goodbye < request.sent);
            self.holds(Invariant::LastWord, !undone, || {
                format!("c{cell} is listed again by what it sent after its goodbye")
            });
            // A copy of a request that was answered is nobody's fault.
            let forgotten = said.left_silently && request.call.is_some();
            self.holds(Invariant::LastWord, !forgotten, || {
                format!("c{cell} is listed although it left, and it said no goodbye")
            });
        }
        let asked = registration.stale_after;
        let lease = asked.unwrap_or(self.bounds.stale_after);
        let says_what_was_asked = accepted.lease == lease && is_of(&accepted.facts, registration);
        self.holds(Invariant::Exact, says_what_was_asked, || {
            format!("c{cell} is registered as {accepted:?}, not as {registration:?}")
        });

        let before = self.entries[cell].take();
        let (is_join, is_change) = match &before {
            None => (true, true),
            Some(entry) => (
                false,
                *entry.facts != *accepted.facts || is_other(&entry.instance, instance),
            ),
        };
        self.holds(
            Invariant::Exact,
            is_join == matches!(accepted.change, Change::Joined),
            || {
                format!(
                    "c{cell}: {:?}, listed before: {}",
                    accepted.change, !is_join
                )
            },
        );
        let revision = accepted.revision;
        let is_right = match is_change {
            true => revision > self.revision,
            false => revision == self.revision,
        };
        self.holds(Invariant::Revision, is_right, || {
            format!(
                "a registration of c{cell} (change: {is_change}) made {revision} of the revision"
            )
        });
        self.gave_out(revision);
        if is_join {
            self.order.push(cell);
        }
        self.entries[cell] = Some(Entry {
            facts: Arc::clone(&accepted.facts),
            instance: instance.clone(),
            lease,
            heard: at.now,
            heard_lease: at.lease,
            last_seen: at.wall,
            level: registration.consciousness_level,
            by_copy: request.call.is_none(),
        });
        self.write_down(cell, at.now, false);
        let (peers, most) = (self.order.len(), self.bounds.max_peers);
        self.holds(Invariant::Bounded, peers <= most, || {
            format!("{peers} peers where {most} are allowed")
        });
    }

    /// Discovery refused a registration.
    pub fn registration_refused(
        &mut self,
        request: &Request,
        registration: &Registration,
        refused: Refused,
        at: Moment,
    ) {
        let cell = request.cell;
        let is_right = match refused {
            // The minute is counted on discovery's clock, which may be behind.
            Refused::Overtaken => self.left.iter().any(|left| {
                left.cell == cell
                    && Some(&left.instance) == registration.instance.as_ref()
                    && at.lease.since(left.at_lease) <= FENCED_FOR
            }),
            Refused::Full => {
                self.order.len() >= self.bounds.max_peers && self.entries[cell].is_none()
            }
            Refused::Unknown | Refused::Fenced => false,
        };
        self.holds(Invariant::Present, is_right, || {
            format!("a registration of c{cell} is refused without a reason: {refused}")
        });
    }

    /// Discovery took a heartbeat, or did not.
    pub fn beat(
        &mut self,
        request: &Request,
        instance: Option<&Instance>,
        result: &Result<Renewal, Refused>,
        at: Moment,
    ) {
        let cell = request.cell;
        let peers = self.order.len();
        let revision = self.revision;
        match (result, self.entries[cell].as_mut()) {
            (Ok(_), None) => self.breaks(Invariant::Exact, || {
                format!("a beat of c{cell} is taken, which is not listed")
            }),
            (Ok(renewal), Some(entry)) => {
                let other = is_other(&entry.instance, &instance.cloned());
                entry.heard = at.now;
                entry.heard_lease = at.lease;
                entry.last_seen = at.wall;
                entry.level = request.level;
                let lease = entry.lease;
                self.holds(Invariant::Fenced, !other, || {
                    format!("a beat of another run of c{cell} is taken")
                });
                self.holds(Invariant::Revision, renewal.revision == revision, || {
                    format!("a beat made {} of revision {revision}", renewal.revision)
                });
                let is_right = renewal.peers == peers && renewal.lease == lease;
                self.holds(Invariant::Exact, is_right, || {
                    format!("{renewal:?} of c{cell}, there are {peers}, its lease is {lease:?}")
                });
                self.gave_out(revision);
            }
            (Err(Refused::Unknown), Some(_)) => self.breaks(Invariant::Present, || {
                format!("c{cell} is a member and is answered 404")
            }),
            (Err(Refused::Unknown), None) => {}
            (Err(Refused::Fenced), Some(entry))
                if is_other(&entry.instance, &instance.cloned()) => {}
            (Err(refused), _) => {
                let refused = *refused;
                self.breaks(Invariant::Present, || {
                    format!("a beat of c{cell} is refused without a reason: {refused}")
                });
            }
        }
    }

    /// Discovery took a goodbye, or did not. Nobody's instance where an operator says it.
    pub fn goodbye(
        &mut self,
        cell: usize,
        instance: Option<&Instance>,
        result: &Result<Departure, Refused>,
        at: Moment,
    ) {
        let listed = self.entries[cell].as_ref();
        let other = listed.is_some_and(|entry| is_other(&entry.instance, &instance.cloned()));
        let is_right = match result {
            Ok(_) => listed.is_some(),
            Err(Refused::Unknown) => listed.is_none(),
            Err(Refused::Fenced) => other,
            Err(Refused::Overtaken | Refused::Full) => false,
        };
        self.holds(Invariant::Exact, is_right, || {
            format!("a goodbye of c{cell} has the result {result:?}")
        });
        if let Some(instance) = instance {
            self.left.push(Left {
                cell,
                instance: instance.clone(),
                at: at.now,
                at_lease: at.lease,
            });
        }
        if result.is_ok() {
            self.holds(Invariant::Fenced, !other, || {
                format!("the goodbye of an old run removes its successor c{cell}")
            });
            self.remove(cell, at.now);
        }
    }

    // The reaper.

    /// A pass of the reaper that takes out `departures`, or is `held`.
    pub fn pass(&mut self, departures: &[(usize, Departure)], held: bool, at: Moment) {
        let silent = |entry: &Entry| at.lease.since(entry.heard_lease);
        let entries = self.entries.iter().flatten();
        let late = entries
            .clone()
            .filter(|e| silent(e) > e.lease / 3 * 2)
            .count();
        let is_stale = entries.clone().any(|e| silent(e) > e.lease);
        let peers = self.order.len();
        let least = self.bounds.hold_min;
        let is_mass = least > 0 && late >= least && late * 2 > peers;
        if self.episode.is_none() && is_mass && is_stale {
            self.episode = Some(Episode {
                noticed: at.lease,
                over: false,
            });
        } else if self.episode.is_some_and(|episode| episode.over) && !is_mass {
            self.episode = None;
        }
        let interval = self.bounds.interval;
        if let Some(episode) = &mut self.episode {
            episode.over |= at.lease.since(episode.noticed) >= interval;
        }
        let must_hold = is_mass && self.episode.is_some_and(|episode| !episode.over);
        self.holds(Invariant::Held, departures.is_empty() || !must_hold, || {
            let gone = departures.len();
            format!("{gone} are taken out, {late} of {peers} are silent, and none was held")
        });
        let may_hold = self.episode.is_some_and(|episode| !episode.over);
        self.holds(Invariant::Held, !held || may_hold, || {
            format!("a pass is held where {late} of {peers} are late")
        });
        if held && may_hold {
            self.held_until = at.now + interval;
        }
        for (cell, departure) in departures {
            self.reaped(*cell, departure, at);
        }
    }

    /// How many leases have run out by discovery's clock.
    pub fn stale(&self, at: LeaseTime) -> usize {
        let entries = self.entries.iter().flatten();
        entries
            .filter(|entry| at.since(entry.heard_lease) > entry.lease)
            .count()
    }

    fn reaped(&mut self, cell: usize, departure: &Departure, at: Moment) {
        let Some(entry) = self.entries[cell].clone() else {
            self.breaks(Invariant::Exact, || {
                format!("c{cell} is reaped and was not listed")
            });
            return;
        };
        let charged = self.charged(entry.heard, at.now, entry.lease);
        self.holds(Invariant::Present, charged > entry.lease, || {
            format!(
                "c{cell} is taken out {:?} after its last beat (discovery says {:?}), of which {charged:?} count, its lease is {:?}",
                at.now - entry.heard,
                departure.silent_for,
                entry.lease
            )
        });
        self.remove(cell, at.now);
    }

    /// How much of the time from `heard` on may count against a lease: that in which discovery ran,
    /// and of each pause what the clock runs on.
    fn charged(&self, heard: Duration, now: Duration, lease: Duration) -> Duration {
        let most = PAUSE_COSTS.min(lease / 10 + lease / 20);
        let mut charged = now - heard;
        for (from, until) in self.pauses.iter().rev() {
            let until = until.unwrap_or(now);
            if until <= heard {
                break;
            }
            let pause = until - (*from).max(heard);
            charged -= pause.saturating_sub(most);
        }
        charged
    }

    // Discovery's own troubles.

    /// SIGSTOP.
    pub fn paused(&mut self, now: Duration) {
        self.pauses.push((now, None));
    }

    /// SIGCONT, or killed while it was stopped.
    pub fn resumed(&mut self, now: Duration) {
        if let Some((from, until @ None)) = self.pauses.last_mut() {
            *until = Some(now);
            let from = *from;
            self.outage(from, now);
        }
    }

    /// The reaper, or all of discovery, did not run.
    fn outage(&mut self, from: Duration, until: Duration) {
        match self.outages.last_mut() {
            Some(last) if from <= last.1 => {
                last.0 = last.0.min(from);
                last.1 = last.1.max(until);
            }
            _ => self.outages.push((from, until)),
        }
    }

    /// The reaper sleeps, and is to wake at `due`.
    pub fn reaper_sleeps(&mut self, due: Duration) {
        self.reaper_due = due;
    }

    /// The reaper is to wake at once, if it was not to already.
    pub fn reaper_is_called(&mut self, now: Duration) {
        self.reaper_due = self.reaper_due.min(now);
    }

    /// The reaper wakes, in time or not.
    pub fn reaper_wakes(&mut self, now: Duration) {
        if self.reaper_due < now {
            self.outage(self.reaper_due, now);
        }
    }

    /// Discovery ends, and with it what it held.
    pub fn ended(&mut self, now: Duration) {
        self.resumed(now);
        self.down_since = Some(now);
    }

    /// Discovery starts. `kept` says whether it is to know what it knew before, and whether all of
    /// it, down to the last change.
    pub fn started(
        &mut self,
        list: &List,
        epoch: u64,
        kept: Option<bool>,
        recovered: &[Registration],
        at: Moment,
    ) {
        let down_since = self.down_since.take();
        if let Some(down_since) = down_since {
            self.outage(down_since, at.now);
        }
        self.episode = None;
        self.left.clear();
        let revision = list.revision;
        match (kept, self.epoch) {
            (Some(_), Some(before)) => {
                let highest = self.highest;
                self.holds(Invariant::Revision, epoch == before, || {
                    "it is another epoch although the state was kept".to_owned()
                });
                self.holds(Invariant::Revision, revision > highest, || {
                    format!("revision {revision} after the start, {highest} was given out before")
                });
            }
            (None, Some(before)) => {
                self.holds(Invariant::Revision, epoch != before, || {
                    "it is the same epoch although the state was lost".to_owned()
                });
                self.highest = 0;
            }
            (_, None) => {}
        }
        self.epoch = Some(epoch);
        self.revision = revision;
        self.gave_out(revision);
        let listed: Vec<usize> = list.peers.iter().map(|peer| cell_of(&peer.facts)).collect();
        let killed = down_since.unwrap_or(at.now);
        // Those who were there all along keep their order.
        let lasting = |cell: &&usize| {
            let last = self.history[**cell].last();
            last.is_some_and(|was| was.kept.is_some() && self.is_durable(was, killed))
        };
        let found = |cell: &&usize| listed.contains(cell);
        let before = self.order.iter().filter(lasting).filter(found);
        let before: Vec<usize> = before.copied().collect();
        let after: Vec<usize> = listed.iter().filter(lasting).copied().collect();
        self.holds(Invariant::Exact, before == after || kept.is_none(), || {
            format!("the order is {after:?} after the start, {before:?} before")
        });
        for cell in 0..self.entries.len() {
            let position = listed.iter().position(|listed| *listed == cell);
            let found = position.map(|position| &recovered[position]);
            let allowed = match kept {
                None => vec![None],
                Some(complete) => self.may_be_kept(cell, killed, complete),
            };
            let is_right = allowed.iter().any(|allowed| match (allowed, found) {
                (None, None) => true,
                (Some(kept), Some(found)) => {
                    is_of(&kept.facts, found)
                        && kept.instance == found.instance
                        && kept.lease == found.stale_after.unwrap_or(self.bounds.stale_after)
                }
                _ => false,
            });
            self.holds(Invariant::Durable, is_right, || {
                format!("c{cell} is {found:?} after the start, where it may be {allowed:?}")
            });
            let before = self.entries[cell].take();
            self.entries[cell] = position.map(|position| {
                let peer = &list.peers[position];
                let registration = &recovered[position];
                Entry {
                    facts: Arc::clone(&peer.facts),
                    instance: registration.instance.clone(),
                    lease: registration.stale_after.unwrap_or(self.bounds.stale_after),
                    heard: at.now,
                    heard_lease: at.lease,
                    last_seen: peer.last_seen,
                    level: peer.level,
                    by_copy: before.is_some_and(|before| before.by_copy),
                }
            });
            self.history[cell].clear();
            self.write_down(cell, at.now, true);
        }
        self.order = listed;
    }

    /// What a start may know of a cell: what it was a second of running before the end, or later.
    fn may_be_kept(&self, cell: usize, killed: Duration, complete: bool) -> Vec<Option<Kept>> {
        let mut allowed = Vec::new();
        for was in self.history[cell].iter().rev() {
            allowed.push(was.kept.clone());
            if complete || self.is_durable(was, killed) {
                return allowed;
            }
        }
        allowed.push(None);
        allowed
    }

    fn is_durable(&self, was: &Was, killed: Duration) -> bool {
        was.on_disk || self.ran(was.since, killed) > DURABLE_AFTER
    }

    /// How long discovery ran between two moments.
    fn ran(&self, from: Duration, until: Duration) -> Duration {
        let mut ran = until.saturating_sub(from);
        for (paused, resumed) in self.pauses.iter().rev() {
            let resumed = resumed.unwrap_or(until).min(until);
            if resumed <= from {
                break;
            }
            ran = ran.saturating_sub(resumed.saturating_sub((*paused).max(from)));
        }
        ran
    }

    // What is true at every step.

    /// Compares the list with what it has to be.
    pub fn compare(&mut self, list: &List) {
        let listed = list.peers.len();
        if listed != self.order.len() {
            let order = self.order.clone();
            self.breaks(Invariant::Exact, || {
                format!("{listed} are listed, not {order:?}")
            });
            return;
        }
        for (place, peer) in list.peers.iter().enumerate() {
            let cell = self.order[place];
            let Some(entry) = &self.entries[cell] else {
                self.breaks(Invariant::Exact, || format!("c{cell} is listed"));
                return;
            };
            let is_exact = Arc::ptr_eq(&peer.facts, &entry.facts) && peer.level == entry.level;
            let shows_the_wall = peer.last_seen == entry.last_seen;
            self.holds(Invariant::Exact, is_exact, || {
                format!("{peer:?} is listed at place {place}, which is c{cell}'s")
            });
            self.holds(Invariant::Wall, shows_the_wall, || {
                format!("c{cell} is shown as seen at another time than it was")
            });
        }
        let (now, before) = (list.revision, self.revision);
        self.holds(Invariant::Revision, now == before, || {
            format!("the revision is {now} and was {before}")
        });
    }

    /// Checks that nobody is still there who has been silent for too long.
    pub fn look_for_the_silent(&mut self, now: Duration) {
        if self.down_since.is_some() || matches!(self.pauses.last(), Some((_, None))) {
            return;
        }
        for &cell in &self.order {
            let Some(entry) = &self.entries[cell] else {
                continue;
            };
            let allowed = entry.heard + entry.lease + self.bounds.reap_every;
            if now <= allowed {
                continue;
            }
            let held = match self.held_until >= entry.heard + entry.lease {
                true => self.bounds.interval,
                false => Duration::ZERO,
            };
            let lost = self.lost(entry.heard, now);
            if now > allowed + held + lost {
                let (silent, lease) = (now - entry.heard, entry.lease);
                self.breaks(Invariant::Gone, || {
                    format!(
                        "c{cell} has been silent for {silent:?} and is still listed; its lease is {lease:?}, {lost:?} were lost, held: {held:?}"
                    )
                });
                return;
            }
        }
    }

    /// How much of the time between two moments discovery, or its reaper, did not run.
    fn lost(&self, from: Duration, until: Duration) -> Duration {
        let since = self.outages.iter().rev().take_while(|(_, end)| *end > from);
        let lost: Duration = since
            .map(|(start, end)| (*end).min(until).saturating_sub((*start).max(from)))
            .sum();
        lost + until.saturating_sub(self.reaper_due.max(from))
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
        && facts.services == registration.services
        && facts.branch == registration.branch
        && facts.kind == registration.kind
        && facts.hostname == registration.hostname
}
