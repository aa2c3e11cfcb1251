//! What discovery may answer, and what its list is after it.

use std::sync::Arc;

use aios_mesh::registry::{Accepted, Change, Departure, List, Refused, Renewal};
use aios_mesh::wire::{Instance, Registration};

use super::{Entry, FENCED_FOR, Invariant, Ledger, Left, Moment, is_of, is_other};
use crate::network::Request;

impl Ledger {
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
            let mut known = self.left.iter().filter(of_this_run);
            known.any(|left| left.is_known && at.now.saturating_sub(left.at) <= FENCED_FOR)
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
                at_wall: at.wall,
                at_lease: at.lease,
                was_taken: result.is_ok(),
                wall_was_set: false,
                is_known: true,
            });
        }
        if result.is_ok() {
            self.holds(Invariant::Fenced, !other, || {
                format!("the goodbye of an old run removes its successor c{cell}")
            });
            self.remove(cell, at.now);
        }
    }

    /// Compares the list with what it has to be.
    pub fn compare(&mut self, list: &List) {
        let listed = list.len();
        if listed != self.order.len() {
            let order = self.order.clone();
            self.breaks(Invariant::Exact, || {
                format!("{listed} are listed, not {order:?}")
            });
            return;
        }
        for (place, peer) in list.peers().enumerate() {
            let cell = self.order[place];
            let Some(entry) = &self.entries[cell] else {
                self.breaks(Invariant::Exact, || format!("c{cell} is listed"));
                return;
            };
            let is_exact = Arc::ptr_eq(peer.facts, &entry.facts) && peer.level == entry.level;
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
}
