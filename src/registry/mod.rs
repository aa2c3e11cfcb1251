//! The peer map: register, heartbeat, deregister, reap, list.
//!
//! Pure: time is passed in, what changed is returned, and the caller logs, counts and answers.
//! Nothing here reads a clock, takes a lock or knows of HTTP.

mod fence;
mod index;
mod kept;
mod leases;
mod pages;
mod past;
mod slots;
mod stay;
mod terms;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::beats::Beats;
use crate::wire::{BEATS_PER_LEASE, CellId, Heartbeat, Instance, Registration};
use fence::Fence;
use index::Hash;
pub(crate) use index::Index;
pub use kept::{Kept, Left};
use leases::{Leases, Link, Links};
pub use pages::{List, ListedPeer, Page};
use pages::{Pages, Seat};
use past::Past;
pub use past::{Came, DEPARTURES, Event, Gone, Reason, Since};
use slots::Slots;
use stay::Stay;
pub use stay::{Quality, Tally};
pub use terms::{
    Accepted, Change, Departure, Facts, LeaseTime, Limits, Now, Portrait, Refused, Renewal,
};

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
    past: Past,
}

/// What a beat needs of a peer: a line of the processor's cache that it has to wait for, and the
/// one beside it, that of its [`Stay`].
#[derive(Debug)]
#[repr(align(128))]
struct Peer {
    stay: Stay,
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

const _: () = assert!(size_of::<Option<Peer>>() == 128);

/// A peer on its way out.
struct Leaving {
    facts: Arc<Facts>,
    instance: Option<Instance>,
    stay: Stay,
    renewed: LeaseTime,
    lease: Option<Duration>,
}

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
            past: Past::from(0),
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
        self.past.revision()
    }

    /// Puts a peer into the map, or in place of the one with its id, as somebody asks `by` whom that
    /// is remembered.
    ///
    /// # Errors
    /// [`Refused::Overtaken`] and [`Refused::Full`].
    pub fn register(
        &mut self,
        registration: Registration,
        by: Option<IpAddr>,
        now: Now,
    ) -> Result<Accepted, Refused> {
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
                let slot = self.add(hash, place, Arc::new(facts), run.instance, now);
                (slot, Change::Joined)
            }
        };
        let peer = &mut self.peers[slot];
        peer.has_own_lease = has_own_lease;
        peer.beats.set(peer.at, run.level, now.wall);
        let facts = Arc::clone(&peer.facts);
        let came = Came {
            facts: Arc::clone(&facts),
            level: run.level,
            at: now.wall,
            by,
        };
        match change {
            Change::Joined | Change::Replaced(_) => {
                let before = self.past.joined(came);
                peer.stay = Stay::begin(now, by, before);
            }
            Change::Updated | Change::Renewed => {
                let length = self.leases.length(&peer.link);
                let interval = length.unwrap_or(self.limits.stale_after) / BEATS_PER_LEASE;
                let silence = now.lease.since(peer.link.renewed());
                peer.stay.registered(by, silence, interval);
                if matches!(change, Change::Updated) {
                    self.past.changed(came);
                }
            }
        }
        self.leases.renew(&mut self.peers, slot, lease, now.lease);
        Ok(Accepted {
            to_keep: !matches!(change, Change::Renewed) || is_kept_anew,
            facts,
            change,
            lease,
            revision: self.revision(),
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
        now: Now,
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
            stay: Stay::begin(now, None, Tally::default()),
            link: Link::default(),
            has_own_lease: false,
        });
        self.by_id.insert(hash, slot);
        self.next_place = place + 1;
        slot
    }

    fn replace(&mut self, slot: u32, facts: Facts, instance: Option<Instance>, now: Now) -> Change {
        let lease = self.leases.length(&self.peers[slot].link);
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
            (true, _) => Change::Replaced(self.leave(
                Leaving {
                    facts: old,
                    instance,
                    stay: self.peers[slot].stay.clone(),
                    renewed: self.peers[slot].link.renewed(),
                    lease,
                },
                Reason::Replaced,
                None,
                now,
            )),
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
        let lease = lease.unwrap_or(self.limits.stale_after);
        let silence = now.lease.since(peer.link.renewed());
        peer.stay.beat(silence, lease / BEATS_PER_LEASE);
        self.leases.renew_again(&mut self.peers, slot, now.lease);
        Ok(Renewal {
            lease,
            peers: self.peers.len(),
            revision: self.revision(),
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
        by: Option<IpAddr>,
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
        let leaving = self.remove(slot);
        Ok(self.leave(leaving, Reason::Deregistered, by, now))
    }

    /// Takes out at most `at_most` peers whose lease has run out. Fewer than that came back: no
    /// more are stale.
    #[must_use]
    pub fn reap(&mut self, now: Now, at_most: usize) -> Vec<Departure> {
        let mut departures = Vec::new();
        while departures.len() < at_most
            && let Some(slot) = self.leases.stale(&self.peers, now.lease)
        {
            let leaving = self.remove(slot);
            departures.push(self.leave(leaving, Reason::Reaped, None, now));
        }
        departures
    }

    /// Remembers that somebody left.
    fn leave(
        &mut self,
        leaving: Leaving,
        reason: Reason,
        by: Option<IpAddr>,
        now: Now,
    ) -> Departure {
        let silent_for = now.lease.since(leaving.renewed);
        let was_here = leaving.stay.lasts(now.lease);
        let lease = leaving.lease.unwrap_or(self.limits.stale_after);
        let interval = lease / BEATS_PER_LEASE;
        self.past.left(Gone {
            facts: Arc::clone(&leaving.facts),
            reason,
            at: now.wall,
            was_here,
            late: silent_for.saturating_sub(interval),
            registered_by: leaving.stay.by(),
            deregistered_by: by,
            tally: leaving.stay.end(silent_for, interval),
        });
        Departure {
            facts: leaving.facts,
            instance: leaving.instance,
            silent_for,
            was_here,
        }
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
        self.pages.list(self.len(), self.revision())
    }

    /// What came after `revision`, at most so many changes.
    #[must_use]
    pub fn since(&self, revision: u64, at_most: usize) -> Since {
        self.past.since(revision, at_most)
    }

    /// Whose departures are remembered, be they back or not.
    #[must_use]
    pub fn departed(&self) -> Vec<CellId> {
        self.past.departed()
    }

    /// The departures that are remembered, newest first.
    #[must_use]
    pub fn gone(&self) -> Vec<Arc<Gone>> {
        self.past.gone()
    }

    /// Who was reaped after that moment, and is not back.
    #[must_use]
    pub fn missing(&self, after: SystemTime) -> Vec<CellId> {
        self.past.missing(after)
    }

    /// How a peer is.
    #[must_use]
    pub fn portrait(&self, id: &str, now: Now) -> Option<Portrait> {
        self.slot(id).map(|slot| self.portray(slot, now))
    }

    /// How the first peers are from `place` on, at most so many; and the place to go on at.
    #[must_use]
    pub fn portraits_from(&self, place: u64, at_most: usize, now: Now) -> (Vec<Portrait>, u64) {
        let mut next = place;
        let portraits = self.pages.from(place).take(at_most).map(|(place, slot)| {
            next = place + 1;
            self.portray(slot, now)
        });
        (portraits.collect(), next)
    }

    fn portray(&self, slot: u32, now: Now) -> Portrait {
        let peer = &self.peers[slot];
        let lease = self.leases.length(&peer.link);
        Portrait {
            facts: Arc::clone(&peer.facts),
            level: peer.beats.level(peer.at),
            last_seen: peer.beats.last_seen(peer.at),
            age: now.lease.since(peer.link.renewed()),
            lease: lease.unwrap_or(self.limits.stale_after),
            joined_at: peer.stay.joined_at(),
            here_for: peer.stay.lasts(now.lease),
            registered_by: peer.stay.by(),
            quality: peer.stay.quality(),
        }
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
            joined_at: Some(peer.stay.joined_at()),
        }
    }

    /// Puts back what was kept into an empty map, in the order of their places: every peer with a fresh
    /// lease, as if it had beaten just now, more of them than are taken if need be; and the runs that
    /// may not come back, those who left within the last minute. `revision` is one above which none was given out.
    pub fn restore(&mut self, peers: Vec<Kept>, left: &[Left], revision: u64, now: Now) {
        for kept in peers {
            let lease = kept.own_lease.unwrap_or(self.limits.stale_after);
            let hash = self.by_id.hash(kept.facts.cell_id.as_str());
            let slot = self.add(hash, kept.place, kept.facts, kept.instance, now);
            let peer = &mut self.peers[slot];
            peer.has_own_lease = kept.own_lease.is_some();
            peer.beats.set(peer.at, kept.level, now.wall);
            peer.stay = Stay::resume(now, kept.joined_at);
            self.leases.renew(&mut self.peers, slot, lease, now.lease);
        }
        for left in left.iter().filter(|left| left.counts(now.wall)) {
            let id = left.id.as_str();
            self.fence.has_left(id, &left.instance, true, now.lease);
        }
        self.past = Past::from(revision);
    }

    fn remove(&mut self, slot: u32) -> Leaving {
        let lease = self.leases.length(&self.peers[slot].link);
        let renewed = self.peers[slot].link.renewed();
        self.leases.end(&mut self.peers, slot);
        let peer = self.peers.remove(slot);
        let hash = self.by_id.hash(peer.facts.cell_id.as_str());
        self.by_id.remove(hash, slot);
        let peers = &mut self.peers;
        let moves = |slot, seat| peers[slot].sit(seat);
        self.pages.remove(&peer.beats, peer.at, moves);
        Leaving {
            facts: peer.facts,
            instance: peer.instance,
            stay: peer.stay,
            renewed,
            lease,
        }
    }
}

/// Fencing needs both sides to know of instances; clients that do not are never fenced.
fn is_other_run(stored: Option<&Instance>, request: Option<&Instance>) -> bool {
    matches!((stored, request), (Some(stored), Some(request)) if stored != request)
}

#[cfg(test)]
mod tests;
