//! The peer map: register, heartbeat, deregister, reap, list.
//!
//! Pure: time is passed in, what changed is returned, and the caller logs, counts and answers.
//! Nothing here reads a clock, takes a lock or knows of HTTP.

mod fence;
mod leases;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use slab::Slab;

use crate::wire::{CellId, Heartbeat, Instance, Registration};
use fence::Fence;
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
        let Registration {
            cell_id,
            ip,
            port,
            consciousness_level: level,
            services,
            branch,
            kind,
            hostname,
            instance,
            stale_after,
        } = registration;
        if let Some(instance) = &instance
            && self.fence.refuses(&cell_id, instance, now.lease)
        {
            return Err(Refused::Overtaken);
        }
        let lease = stale_after.unwrap_or(self.limits.stale_after);
        let facts = Facts {
            cell_id,
            ip,
            port,
            services,
            branch,
            kind,
            hostname,
        };
        let (slot, change) = match self.by_id.get(&facts.cell_id) {
            Some(&slot) => (slot, self.replace(slot, facts, instance, now)),
            None => (self.add(facts, instance, now)?, Change::Joined),
        };
        let peer = &mut self.peers[slot];
        peer.lease = lease;
        peer.level = level;
        peer.last_seen = now.wall;
        peer.beat = now.lease;
        let facts = Arc::clone(&peer.facts);
        self.leases.renew(slot, lease, now.lease);
        if !matches!(change, Change::Renewed) {
            self.revision += 1;
        }
        Ok(Accepted {
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
        peer.instance = instance;
        let shown_differs = *peer.facts != facts;
        let old = if shown_differs {
            std::mem::replace(&mut peer.facts, Arc::new(facts))
        } else {
            Arc::clone(&peer.facts)
        };
        match (other_run, shown_differs) {
            (true, _) => Change::Replaced(Departure {
                facts: old,
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
            let facts = self.remove(slot).facts;
            departures.push(Departure { facts, silent_for });
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

    /// The peers as they are now, first registered first.
    #[must_use]
    pub fn list(&self) -> List {
        let peers = self
            .by_place
            .values()
            .map(|&slot| {
                let peer = &self.peers[slot];
                ListedPeer {
                    facts: Arc::clone(&peer.facts),
                    level: peer.level,
                    last_seen: peer.last_seen,
                }
            })
            .collect();
        List {
            peers,
            revision: self.revision,
        }
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
