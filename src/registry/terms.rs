//! What goes into the map and what comes out of it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use smallvec::SmallVec;
use smol_str::SmolStr;

use super::Quality;
use crate::wire::{self, CellId, Instance, Listed};

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

    /// In nanoseconds since that start.
    pub(super) fn nanos(self) -> i64 {
        i64::try_from(self.nanos).unwrap_or(i64::MAX)
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

impl Facts {
    /// The peer as it is listed with this level, seen last at that time.
    #[must_use]
    pub fn listed(&self, level: f64, last_seen: SystemTime) -> Listed<'_> {
        Listed {
            cell_id: &self.cell_id,
            ip: &self.ip,
            port: self.port,
            consciousness_level: level,
            services: &self.services,
            branch: &self.branch,
            kind: &self.kind,
            hostname: &self.hostname,
            last_seen: wire::timestamp(last_seen),
        }
    }
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
    /// Whether what is [`super::Kept`] of the peer is new, its level aside.
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
    /// How long it had been here.
    pub was_here: Duration,
}

/// How a peer is that is here.
#[derive(Clone, Debug)]
pub struct Portrait {
    /// What it said when it registered.
    pub facts: Arc<Facts>,
    /// Its level at its last beat.
    pub level: f64,
    /// When that was.
    pub last_seen: SystemTime,
    /// How long ago that is by the clock leases run on.
    pub age: Duration,
    /// Its lease.
    pub lease: Duration,
    /// When its present stay began.
    pub joined_at: SystemTime,
    /// How long ago that is by the clock leases run on.
    pub here_for: Duration,
    /// Where it registered from, as far as that is known.
    pub registered_by: Option<IpAddr>,
    /// How it has beaten since.
    pub quality: Quality,
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
