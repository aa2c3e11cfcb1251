//! The peer map: register, heartbeat, deregister, reap, list.
//!
//! Pure: time is passed in, what changed is returned, and the caller logs, counts and answers.
//! Nothing here reads a clock, takes a lock or knows of HTTP.

mod fence;
mod index;
mod kept;
mod leases;
mod pages;
mod slots;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use smallvec::SmallVec;
use smol_str::SmolStr;

use crate::beats::Beats;
use crate::wire::{CellId, Heartbeat, Instance, Registration};
use fence::Fence;
use index::Hash;
pub(crate) use index::Index;
pub use kept::{Kept, Left};
use leases::{Leases, Link, Links};
pub use pages::{List, ListedPeer, Page};
use pages::{Pages, Seat};
use slots::Slots;

/// A moment on the clock leases run on: time since some start, not counting the time in which
/// discovery was not serving.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseTime {
    /// Enough for 584 years.
    nanos: u64,
}

impl LeaseTime {
    /// The time from `earlier` until this, zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos.saturating_sub(earlier.nanos))
    }

    /// This moment plus `duration`.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let more = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self {
            nanos: self.nanos.saturating_add(more),
        }
    }
}

/// The moment of a request or a pass: where leases stand and what the wall clock shows.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// What ages and leases are counted by.
    pub lease: LeaseTime,
    /// What `last_seen` shows, and nothing else.
    pub wall: SystemTime,
}

/// Bounds of a registry.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The lease of peers that do not ask for their own.
    pub stale_after: Duration,
    /// How many peers are taken.
    pub max_peers: usize,
}

/// What is shown of a peer and changes only by a registration. There may be a million of them, so a
/// few short texts take no room of their own; nor are there small pieces of memory then, which libc
/// puts together, when thousands have been given back, while somebody waits for a large one.
#[derive(Debug, PartialEq)]
pub struct Facts {
    /// The cell's unique name.
    pub cell_id: CellId,
    /// Its address or host name.
    pub ip: SmolStr,
    /// Its port.
    pub port: u16,
    /// What it offers.
    pub services: SmallVec<[SmolStr; 2]>,
    /// Its branch.
    pub branch: SmolStr,
    /// Its kind.
    pub kind: SmolStr,
    /// The host it runs on.
    pub hostname: SmolStr,
}

/// What a registration did to the map.
#[derive(Debug)]
pub enum Change {
    /// The id was not there.
    Joined,
    /// Another run of the cell, or one at another address, was there and is gone.
    Replaced(Departure),
    /// The same cell, with something shown that is new.
    Updated,
    /// The same cell, with nothing new.
    Renewed,
}

/// A registration that was taken.
#[must_use]
#[derive(Debug)]
pub struct Accepted {
    /// The peer as it is shown now.
    pub facts: Arc<Facts>,
    /// What it did.
    pub change: Change,
    /// Whether what is [`Kept`] of the peer is new, its level aside.
    pub to_keep: bool,
    /// The lease the peer has.
    pub lease: Duration,
    /// The revision after it.
    pub revision: u64,
}

/// A heartbeat that was taken.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub struct Renewal {
    /// The lease that now begins anew.
    pub lease: Duration,
    /// How many peers there are.
    pub peers: usize,
    /// The revision.
    pub revision: u64,
}

/// A peer that is gone.
#[must_use]
#[derive(Debug)]
pub struct Departure {
    /// Who it was.
    pub facts: Arc<Facts>,
    /// Which run of the cell.
    pub instance: Option<Instance>,
    /// How long it had been silent.
    pub silent_for: Duration,
}

/// A request the map refuses; nothing was changed by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no such peer.
    Unknown,
    /// Another run of the cell is registered.
    Fenced,
    /// The run said that it is gone, and this request is older than that.
    Overtaken,
    /// There are as many peers as are taken.
    Full,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "no such peer",
            Self::Fenced => "another instance of this cell is registered; stop one of them, or give it another id",
            Self::Overtaken => "this instance deregistered less than 60 s ago",
            Self::Full => "as many peers as this discovery takes are registered",
        })
    }
}

/// What a registration says that is not shown, or changes without one.
struct Run {
    instance: Option<Instance>,
    level: f64,
    stale_after: Option<Duration>,
}

fn split(registration: Registration) -> (Facts, Run) {
    let facts = Facts {
        cell_id: registration.cell_id,
        ip: registration.ip.into(),
        port: registration.port,
        services: registration.services.into_iter().map(Into::into).collect(),
        branch: registration.branch.into(),
        kind: registration.kind.into(),
        hostname: registration.hostname.into(),
    };
    let run = Run {
        instance: registration.instance,
        level: registration.consciousness_level,
        stale_after: registration.stale_after,
    };
    (facts, run)
}

/// The peer map.
#[derive(Debug)]
pub struct Registry {
    limits: Limits,
    peers: Slots<Peer>,
    by_id: Index,
    pages: Pages,
    leases: Leases,
    fence: Fence,
    next_place: u64,
    revision: u64,
}

/// What a beat needs of a peer: one line of the processor's cache, that it has to wait for.
#[derive(Debug)]
#[repr(align(64))]
struct Peer {
    facts: Arc<Facts>,
    instance: Option<Instance>,
    /// Where its level is, and when it was last seen, for all who have a list.
    beats: Arc<Beats>,
    link: Link,
    /// Where in `beats`.
    at: u8,
    /// Whether the lease is one that it asked for itself.
    has_own_lease: bool,
}

const _: () = assert!(size_of::<Option<Peer>>() == 64);

impl Peer {
    fn sit(&mut self, seat: Seat) {
        self.beats = seat.beats;
        self.at = seat.at;
    }
}

impl Links for Slots<Peer> {
    fn link(&self, slot: u32) -> &Link {
        &self[slot].link
    }

    fn link_mut(&mut self, slot: u32) -> &mut Link {
        &mut self[slot].link
    }
}

impl Registry {
    /// An empty map.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            peers: Slots::default(),
            by_id: Index::default(),
            pages: Pages::default(),
            leases: Leases::default(),
            fence: Fence::default(),
            next_place: 0,
            revision: 0,
        }
    }

    /// How many peers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The revision: it rises with every change of membership, never with a beat or a level.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Puts a peer into the map, or in place of the one with its id.
    ///
    /// # Errors
    /// [`Refused::Overtaken`] and [`Refused::Full`].
    pub fn register(&mut self, registration: Registration, now: Now) -> Result<Accepted, Refused> {
        let (facts, run) = split(registration);
        if let Some(instance) = &run.instance
            && self.fence.refuses(&facts.cell_id, instance, now.lease)
        {
            return Err(Refused::Overtaken);
        }
        let lease = run.stale_after.unwrap_or(self.limits.stale_after);
        let has_own_lease = run.stale_after.is_some();
        let hash = self.by_id.hash(facts.cell_id.as_str());
        let known = self.find(hash, facts.cell_id.as_str());
        let is_kept_anew = known.is_none_or(|slot| {
            let peer = &self.peers[slot];
            peer.instance != run.instance
                || peer.has_own_lease != has_own_lease
                || self.leases.length(&peer.link) != Some(lease)
        });
        let (slot, change) = match known {
            Some(slot) => (slot, self.replace(slot, facts, run.instance, now)),
            None if self.len() >= self.limits.max_peers => return Err(Refused::Full),
            None => {
                let place = self.next_place;
                let slot = self.add(hash, place, Arc::new(facts), run.instance);
                (slot, Change::Joined)
            }
        };
        let peer = &mut self.peers[slot];
        peer.has_own_lease = has_own_lease;
        peer.beats.set(peer.at, run.level, now.wall);
        let facts = Arc::clone(&peer.facts);
        self.leases.renew(&mut self.peers, slot, lease, now.lease);
        let is_renewal = matches!(change, Change::Renewed);
        self.revision += u64::from(!is_renewal);
        Ok(Accepted {
            to_keep: !is_renewal || is_kept_anew,
            facts,
            change,
            lease,
            revision: self.revision,
        })
    }

    /// The slot of the peer with this id.
    fn find(&self, hash: Hash, id: &str) -> Option<u32> {
        let is_it = |slot| self.peers[slot].facts.cell_id.as_str() == id;
        self.by_id.find(hash, is_it)
    }

    fn slot(&self, id: &str) -> Option<u32> {
        self.find(self.by_id.hash(id), id)
    }

    /// Adds a peer behind all others, that has no lease yet.
    fn add(
        &mut self,
        hash: Hash,
        place: u64,
        facts: Arc<Facts>,
        instance: Option<Instance>,
    ) -> u32 {
        let peers = &mut self.peers;
        let slot = peers.next();
        let moves = |slot, seat| peers[slot].sit(seat);
        let seat = self.pages.push(place, Arc::clone(&facts), slot, moves);
        self.peers.insert(Peer {
            facts,
            instance,
            beats: seat.beats,
            at: seat.at,
            link: Link::default(),
            has_own_lease: false,
        });
        self.by_id.insert(hash, slot);
        self.next_place = place + 1;
        slot
    }

    fn replace(&mut self, slot: u32, facts: Facts, instance: Option<Instance>, now: Now) -> Change {
        let peer = &mut self.peers[slot];
        let other_run = match (&peer.instance, &instance) {
            (Some(stored), Some(new)) => stored != new,
            // Without instances a new address is the only sign of another run.
            _ => peer.facts.ip != facts.ip || peer.facts.port != facts.port,
        };
        let instance = std::mem::replace(&mut peer.instance, instance);
        let shown_differs = *peer.facts != facts;
        let old = if shown_differs {
            let facts = Arc::new(facts);
            self.pages.update(&peer.beats, peer.at, Arc::clone(&facts));
            std::mem::replace(&mut peer.facts, facts)
        } else {
            Arc::clone(&peer.facts)
        };
        match (other_run, shown_differs) {
            (true, _) => Change::Replaced(Departure {
                facts: old,
                instance,
                silent_for: now.lease.since(peer.link.renewed()),
            }),
            (false, true) => Change::Updated,
            (false, false) => Change::Renewed,
        }
    }

    /// Renews a peer's lease and takes its level.
    ///
    /// # Errors
    /// [`Refused::Unknown`] and [`Refused::Fenced`].
    pub fn heartbeat(&mut self, beat: &Heartbeat, now: Now) -> Result<Renewal, Refused> {
        let slot = self.slot(beat.cell_id.as_str()).ok_or(Refused::Unknown)?;
        let peer = &mut self.peers[slot];
        if is_other_run(peer.instance.as_ref(), beat.instance.as_ref()) {
            return Err(Refused::Fenced);
        }
        peer.beats.set(peer.at, beat.consciousness_level, now.wall);
        let lease = self.leases.length(&peer.link);
        self.leases.renew_again(&mut self.peers, slot, now.lease);
        Ok(Renewal {
            lease: lease.unwrap_or(self.limits.stale_after),
            peers: self.peers.len(),
            revision: self.revision,
        })
    }

    /// Takes a peer out because it says it is gone.
    ///
    /// The run that says so is remembered even where it is not in the map: its registration may
    /// still be on its way, overtaken by this. Where none is named somebody else may be speaking
    /// (an operator, a predecessor), and the cell may come back.
    ///
    /// # Errors
    /// [`Refused::Unknown`] and [`Refused::Fenced`].
    pub fn deregister(
        &mut self,
        id: &str,
        instance: Option<&Instance>,
        now: Now,
    ) -> Result<Departure, Refused> {
        let known = self.slot(id);
        if let Some(instance) = instance {
            let is_registered = known.is_some_and(|slot| {
                !is_other_run(self.peers[slot].instance.as_ref(), Some(instance))
            });
            self.fence.has_left(id, instance, is_registered, now.lease);
        }
        let slot = known.ok_or(Refused::Unknown)?;
        if is_other_run(self.peers[slot].instance.as_ref(), instance) {
            return Err(Refused::Fenced);
        }
        let peer = self.remove(slot);
        Ok(Departure {
            silent_for: now.lease.since(peer.link.renewed()),
            instance: peer.instance,
            facts: peer.facts,
        })
    }

    /// Takes out at most `at_most` peers whose lease has run out. Fewer than that came back: no
    /// more are stale.
    #[must_use]
    pub fn reap(&mut self, now: LeaseTime, at_most: usize) -> Vec<Departure> {
        let mut departures = Vec::new();
        while departures.len() < at_most
            && let Some((slot, silent_for)) = self.leases.stale(&self.peers, now)
        {
            let peer = self.remove(slot);
            departures.push(Departure {
                facts: peer.facts,
                instance: peer.instance,
                silent_for,
            });
        }
        departures
    }

    /// Counts who is late (silent for more than two thirds of the lease), at most so many more than
    /// before. Returns whether there may be more of them.
    pub fn count_late(&mut self, now: LeaseTime, at_most: usize) -> bool {
        self.leases.count_late(&mut self.peers, now, at_most)
    }

    /// How many were counted as late and have not been heard of since.
    #[must_use]
    pub fn late(&self) -> usize {
        self.leases.late()
    }

    /// Whether anybody's lease has run out.
    #[must_use]
    pub fn any_stale(&mut self, now: LeaseTime) -> bool {
        self.leases.stale(&self.peers, now).is_some()
    }

    /// The length of the shortest lease that somebody has.
    #[must_use]
    pub fn shortest_lease(&self) -> Option<Duration> {
        self.leases.shortest()
    }

    /// The length of the longest lease that somebody has.
    #[must_use]
    pub fn longest_lease(&self) -> Option<Duration> {
        self.leases.longest()
    }

    /// The peers as they are now, first registered first.
    #[must_use]
    pub fn list(&self) -> List {
        self.pages.list(self.len(), self.revision)
    }

    /// What is to be kept of a peer.
    #[must_use]
    pub fn kept(&self, id: &CellId) -> Option<Kept> {
        let slot = self.slot(id.as_str())?;
        let peer = &self.peers[slot];
        let place = self.pages.place(&peer.beats, peer.at)?;
        Some(self.keep(place, slot))
    }

    /// What is to be kept of the first peers from `place` on, at most so many.
    #[must_use]
    pub fn kept_from(&self, place: u64, at_most: usize) -> Vec<Kept> {
        let peers = self.pages.from(place).take(at_most);
        peers.map(|(place, slot)| self.keep(place, slot)).collect()
    }

    fn keep(&self, place: u64, slot: u32) -> Kept {
        let peer = &self.peers[slot];
        let own_lease = peer.has_own_lease.then(|| self.leases.length(&peer.link));
        Kept {
            place,
            facts: Arc::clone(&peer.facts),
            instance: peer.instance.clone(),
            own_lease: own_lease.flatten(),
            level: peer.beats.level(peer.at),
        }
    }

    /// Puts back what was kept into an empty map, in the order of their places: every peer with a fresh
    /// lease, as if it had beaten just now, more of them than are taken if need be; and the runs that
    /// may not come back, those who left within the last minute. `revision` is one above which none was given out.
    pub fn restore(&mut self, peers: Vec<Kept>, left: &[Left], revision: u64, now: Now) {
        for kept in peers {
            let lease = kept.own_lease.unwrap_or(self.limits.stale_after);
            let hash = self.by_id.hash(kept.facts.cell_id.as_str());
            let slot = self.add(hash, kept.place, kept.facts, kept.instance);
            let peer = &mut self.peers[slot];
            peer.has_own_lease = kept.own_lease.is_some();
            peer.beats.set(peer.at, kept.level, now.wall);
            self.leases.renew(&mut self.peers, slot, lease, now.lease);
        }
        for left in left.iter().filter(|left| left.counts(now.wall)) {
            let id = left.id.as_str();
            self.fence.has_left(id, &left.instance, true, now.lease);
        }
        self.revision = revision;
    }

    fn remove(&mut self, slot: u32) -> Peer {
        self.leases.end(&mut self.peers, slot);
        let peer = self.peers.remove(slot);
        let hash = self.by_id.hash(peer.facts.cell_id.as_str());
        self.by_id.remove(hash, slot);
        let peers = &mut self.peers;
        let moves = |slot, seat| peers[slot].sit(seat);
        self.pages.remove(&peer.beats, peer.at, moves);
        self.revision += 1;
        peer
    }
}

/// Fencing needs both sides to know of instances; clients that do not are never fenced.
fn is_other_run(stored: Option<&Instance>, request: Option<&Instance>) -> bool {
    matches!((stored, request), (Some(stored), Some(request)) if stored != request)
}

#[cfg(test)]
mod tests;
