//! The peer map: register, heartbeat, deregister, reap, list.
//!
//! Pure: time is passed in, what changed is returned, and the caller logs, counts and answers.
//! Nothing here reads a clock, takes a lock or knows of HTTP.

mod fence;
mod kept;
mod leases;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use slab::Slab;

use crate::wire::{CellId, Heartbeat, Instance, Registration};
use fence::Fence;
pub use kept::{Kept, Left};
use leases::Leases;

/// A moment on the clock leases run on: time since some start, not counting the time in which
/// discovery was not serving.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseTime(Duration);

impl LeaseTime {
    /// The time from `earlier` until this, zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// This moment plus `duration`.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
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

/// What is shown of a peer and changes only by a registration.
#[derive(Debug, PartialEq)]
pub struct Facts {
    /// The cell's unique name.
    pub cell_id: CellId,
    /// Its address or host name.
    pub ip: String,
    /// Its port.
    pub port: u16,
    /// What it offers.
    pub services: Vec<String>,
    /// Its branch.
    pub branch: String,
    /// Its kind.
    pub kind: String,
    /// The host it runs on.
    pub hostname: String,
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

/// The peers at one moment, cheap to take and to keep.
#[derive(Debug)]
pub struct List {
    /// The peers, first registered first.
    pub peers: Vec<ListedPeer>,
    /// The revision this list shows.
    pub revision: u64,
}

/// A peer in a [`List`].
#[derive(Clone, Debug)]
pub struct ListedPeer {
    /// What it said when it registered.
    pub facts: Arc<Facts>,
    /// Its level at its last beat.
    pub level: f64,
    /// When that was.
    pub last_seen: SystemTime,
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
        ip: registration.ip,
        port: registration.port,
        services: registration.services,
        branch: registration.branch,
        kind: registration.kind,
        hostname: registration.hostname,
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
    peers: Slab<Peer>,
    by_id: HashMap<CellId, usize>,
    /// By place in the list: a number that rises with each join and is kept by a re-registration.
    by_place: BTreeMap<u64, usize>,
    leases: Leases,
    fence: Fence,
    next_place: u64,
    revision: u64,
}

#[derive(Debug)]
struct Peer {
    facts: Arc<Facts>,
    instance: Option<Instance>,
    lease: Duration,
    /// Whether the lease is one that it asked for itself.
    has_own_lease: bool,
    level: f64,
    last_seen: SystemTime,
    beat: LeaseTime,
    place: u64,
}

impl Registry {
    /// An empty map.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            peers: Slab::new(),
            by_id: HashMap::new(),
            by_place: BTreeMap::new(),
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
        self.peers.is_empty()
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
        let before = self.by_id.get(&facts.cell_id).map(|&slot| {
            let peer = &self.peers[slot];
            (peer.instance.clone(), peer.lease, peer.has_own_lease)
        });
        let is_kept_anew = before != Some((run.instance.clone(), lease, run.stale_after.is_some()));
        let (slot, change) = match self.by_id.get(&facts.cell_id) {
            Some(&slot) => (slot, self.replace(slot, facts, run.instance, now)),
            None => (self.add(facts, run.instance, now)?, Change::Joined),
        };
        let peer = &mut self.peers[slot];
        peer.lease = lease;
        peer.has_own_lease = run.stale_after.is_some();
        peer.level = run.level;
        peer.last_seen = now.wall;
        peer.beat = now.lease;
        let facts = Arc::clone(&peer.facts);
        self.leases.renew(slot, lease, now.lease);
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

    fn add(
        &mut self,
        facts: Facts,
        instance: Option<Instance>,
        now: Now,
    ) -> Result<usize, Refused> {
        if self.peers.len() >= self.limits.max_peers {
            return Err(Refused::Full);
        }
        let place = self.next_place;
        self.next_place += 1;
        let id = facts.cell_id.clone();
        let slot = self.peers.insert(Peer {
            facts: Arc::new(facts),
            instance,
            lease: self.limits.stale_after,
            has_own_lease: false,
            level: 0.0,
            last_seen: now.wall,
            beat: now.lease,
            place,
        });
        self.by_id.insert(id, slot);
        self.by_place.insert(place, slot);
        Ok(slot)
    }

    fn replace(
        &mut self,
        slot: usize,
        facts: Facts,
        instance: Option<Instance>,
        now: Now,
    ) -> Change {
        let peer = &mut self.peers[slot];
        let other_run = match (&peer.instance, &instance) {
            (Some(stored), Some(new)) => stored != new,
            // Without instances a new address is the only sign of another run.
            _ => peer.facts.ip != facts.ip || peer.facts.port != facts.port,
        };
        let instance = std::mem::replace(&mut peer.instance, instance);
        let shown_differs = *peer.facts != facts;
        let old = if shown_differs {
            std::mem::replace(&mut peer.facts, Arc::new(facts))
        } else {
            Arc::clone(&peer.facts)
        };
        match (other_run, shown_differs) {
            (true, _) => Change::Replaced(Departure {
                facts: old,
                instance,
                silent_for: now.lease.since(peer.beat),
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
        let slot = *self.by_id.get(&beat.cell_id).ok_or(Refused::Unknown)?;
        let peer = &mut self.peers[slot];
        if is_other_run(peer.instance.as_ref(), beat.instance.as_ref()) {
            return Err(Refused::Fenced);
        }
        peer.level = beat.consciousness_level;
        peer.last_seen = now.wall;
        peer.beat = now.lease;
        let lease = peer.lease;
        self.leases.renew(slot, lease, now.lease);
        Ok(Renewal {
            lease,
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
        let known = self.by_id.get(id).copied();
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
            silent_for: now.lease.since(peer.beat),
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
            && let Some((slot, silent_for)) = self.leases.stale(now)
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
        self.leases.count_late(now, at_most)
    }

    /// How many were counted as late and have not been heard of since.
    #[must_use]
    pub fn late(&self) -> usize {
        self.leases.late()
    }

    /// Whether anybody's lease has run out.
    #[must_use]
    pub fn any_stale(&self, now: LeaseTime) -> bool {
        self.leases.stale(now).is_some()
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
        self.list_in(Vec::new())
    }

    /// The same, in a vector that has room for it, so that none is asked for meanwhile.
    #[must_use]
    pub fn list_in(&self, mut peers: Vec<ListedPeer>) -> List {
        peers.extend(self.by_place.values().map(|&slot| {
            let peer = &self.peers[slot];
            ListedPeer {
                facts: Arc::clone(&peer.facts),
                level: peer.level,
                last_seen: peer.last_seen,
            }
        }));
        List {
            peers,
            revision: self.revision,
        }
    }

    /// What is to be kept of a peer.
    #[must_use]
    pub fn kept(&self, id: &CellId) -> Option<Kept> {
        self.by_id.get(id).map(|&slot| self.keep(slot))
    }

    /// What is to be kept of the first peers from `place` on, at most so many.
    #[must_use]
    pub fn kept_from(&self, place: u64, at_most: usize) -> Vec<Kept> {
        let peers = self.by_place.range(place..).take(at_most);
        peers.map(|(_, &slot)| self.keep(slot)).collect()
    }

    fn keep(&self, slot: usize) -> Kept {
        let peer = &self.peers[slot];
        Kept {
            place: peer.place,
            facts: Arc::clone(&peer.facts),
            instance: peer.instance.clone(),
            own_lease: peer.has_own_lease.then_some(peer.lease),
            level: peer.level,
        }
    }

    /// Puts back what was kept into an empty map: every peer with a fresh lease, as if it had beaten
    /// just now, more of them than are taken if need be; and the runs that may not come back, those
    /// who left within the last minute. `revision` is one above which none was given out.
    pub fn restore(&mut self, peers: Vec<Kept>, left: &[Left], revision: u64, now: Now) {
        for kept in peers {
            let id = kept.facts.cell_id.clone();
            let lease = kept.own_lease.unwrap_or(self.limits.stale_after);
            let slot = self.peers.insert(Peer {
                facts: kept.facts,
                instance: kept.instance,
                lease,
                has_own_lease: kept.own_lease.is_some(),
                level: kept.level,
                last_seen: now.wall,
                beat: now.lease,
                place: kept.place,
            });
            self.by_id.insert(id, slot);
            self.by_place.insert(kept.place, slot);
            self.leases.renew(slot, lease, now.lease);
            self.next_place = self.next_place.max(kept.place + 1);
        }
        for left in left.iter().filter(|left| left.counts(now.wall)) {
            let id = left.id.as_str();
            self.fence.has_left(id, &left.instance, true, now.lease);
        }
        self.revision = revision;
    }

    fn remove(&mut self, slot: usize) -> Peer {
        let peer = self.peers.remove(slot);
        self.by_id.remove(&peer.facts.cell_id);
        self.by_place.remove(&peer.place);
        self.leases.end(slot);
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
