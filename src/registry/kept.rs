//! What is kept of the map when discovery restarts.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::fence::REMEMBERED_FOR;
use super::{Facts, split};
use crate::wire::{CellId, Instance, Registration};

/// What is kept of a peer when discovery restarts.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Its place in the list.
    pub place: u64,
    /// What it said when it registered.
    pub facts: Arc<Facts>,
    /// Which run of the cell it is.
    pub instance: Option<Instance>,
    /// Its lease, where it has one of its own.
    pub own_lease: Option<Duration>,
    /// Its level.
    pub level: f64,
    /// When its stay began, by the wall clock; unknown of one kept by a discovery that did
    /// not keep this.
    pub joined_at: Option<SystemTime>,
}

impl Kept {
    /// A peer that registered like this, at this place in the list, and joined then.
    #[must_use]
    pub fn new(place: u64, registration: Registration, joined_at: Option<SystemTime>) -> Self {
        let (facts, run) = split(registration);
        Self {
            place,
            facts: Arc::new(facts),
            instance: run.instance,
            own_lease: run.stale_after,
            level: run.level,
            joined_at,
        }
    }

    /// The registration that makes it.
    #[must_use]
    pub fn registration(&self) -> Registration {
        let facts = &*self.facts;
        Registration {
            cell_id: facts.cell_id.clone(),
            ip: facts.ip.to_string(),
            port: facts.port,
            consciousness_level: self.level,
            services: facts.services.iter().map(ToString::to_string).collect(),
            branch: facts.branch.to_string(),
            kind: facts.kind.to_string(),
            hostname: facts.hostname.to_string(),
            instance: self.instance.clone(),
            stale_after: self.own_lease,
        }
    }
}

/// A run of a cell that said goodbye.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// The cell.
    pub id: CellId,
    /// The run.
    pub instance: Instance,
    /// When.
    pub at: SystemTime,
}

impl Left {
    /// Whether that run may still not come back, by what the wall clock shows.
    #[must_use]
    pub fn counts(&self, now: SystemTime) -> bool {
        // A clock that was set meanwhile must not let anybody back in.
        now.duration_since(self.at).unwrap_or_default() <= REMEMBERED_FOR
    }
}
