//! What has happened to the membership: each change, for those who follow it, and each departure,
//! for those who ask why somebody is not there any more.
//!
//! Both are remembered in bounded number. Each change has the revision it led to, one more than the
//! one before, so what came after a revision is found without a search.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Facts, Tally};
use crate::wire::CellId;

/// How many changes are remembered.
const CHANGES: usize = 10_000;
/// How many departures are remembered.
pub const DEPARTURES: usize = 1_000;

/// Why a peer is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It said so itself, or somebody else for it.
    Deregistered,
    /// It was silent for longer than its lease.
    Reaped,
    /// Another run of the cell registered.
    Replaced,
}

impl Reason {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Deregistered, Self::Reaped, Self::Replaced];

    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Deregistered => "deregistered",
            Self::Reaped => "reaped",
            Self::Replaced => "replaced",
        }
    }
}

/// A peer that is gone, as it is remembered.
#[derive(Clone, Debug, PartialEq)]
pub struct Gone {
    /// Who it was.
    pub facts: Arc<Facts>,
    /// Why it went.
    pub reason: Reason,
    /// When.
    pub at: SystemTime,
    /// How long it had been here.
    pub was_here: Duration,
    /// By how much its next beat was overdue.
    pub late: Duration,
    /// Where it had registered from.
    pub registered_by: Option<IpAddr>,
    /// Where it was deregistered from.
    pub deregistered_by: Option<IpAddr>,
    /// How it had beaten.
    pub tally: Tally,
}

/// A peer as it registered.
#[derive(Clone, Debug, PartialEq)]
pub struct Came {
    /// What it said.
    pub facts: Arc<Facts>,
    /// Its level then.
    pub level: f64,
    /// When that was.
    pub at: SystemTime,
    /// Where it registered from.
    pub by: Option<IpAddr>,
}

/// A change of the membership.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Somebody came.
    Join(Came),
    /// Somebody who is here says something else of himself.
    Change(Came),
    /// Somebody went.
    Leave(Arc<Gone>),
}

/// What came after a revision.
#[derive(Clone, Debug, PartialEq)]
pub enum Since {
    /// The changes with their revisions, oldest first: not all of them, if there were many.
    Events(Vec<(u64, Event)>),
    /// It is too long ago to be remembered, or was never given out.
    Unknown,
}

/// What is remembered of an id whose departure is.
#[derive(Debug)]
struct Last {
    /// Which of all departures is its last.
    number: u64,
    tally: Tally,
    /// When it was reaped, as long as it is not back.
    missing: Option<SystemTime>,
}

/// The past.
#[derive(Debug)]
pub(super) struct Past {
    /// The revision before the first change that is remembered.
    before: u64,
    events: VecDeque<Event>,
    gone: VecDeque<Arc<Gone>>,
    /// How many departures are not remembered any more.
    forgotten: u64,
    last: HashMap<CellId, Last>,
}

impl Past {
    /// A past that begins with this revision.
    pub(super) fn from(revision: u64) -> Self {
        Self {
            before: revision,
            // At once, for the sake of those who would wait while it grows. It takes memory only
            // where there is something in it.
            events: VecDeque::with_capacity(CHANGES),
            gone: VecDeque::with_capacity(DEPARTURES),
            forgotten: 0,
            last: HashMap::new(),
        }
    }

    /// The revision of the last change.
    pub(super) fn revision(&self) -> u64 {
        self.before + self.events.len() as u64
    }

    /// Remembers that somebody came. Returns how that one has beaten before.
    pub(super) fn joined(&mut self, came: Came) -> Tally {
        let last = self.last.get_mut(&came.facts.cell_id);
        let tally = last.map(|last| {
            last.missing = None;
            Tally {
                flaps: last.tally.flaps.saturating_add(1),
                ..last.tally
            }
        });
        self.push(Event::Join(came));
        tally.unwrap_or_default()
    }

    /// Remembers that somebody says something else.
    pub(super) fn changed(&mut self, came: Came) {
        self.push(Event::Change(came));
    }

    /// Remembers that somebody went.
    pub(super) fn left(&mut self, gone: Gone) -> Arc<Gone> {
        if self.gone.len() == DEPARTURES
            && let Some(oldest) = self.gone.pop_front()
        {
            let id = &oldest.facts.cell_id;
            if self.last.get(id).map(|last| last.number) == Some(self.forgotten) {
                self.last.remove(id);
            }
            self.forgotten += 1;
        }
        let last = Last {
            number: self.forgotten + self.gone.len() as u64,
            tally: gone.tally,
            missing: (gone.reason == Reason::Reaped).then_some(gone.at),
        };
        self.last.insert(gone.facts.cell_id.clone(), last);
        let gone = Arc::new(gone);
        self.gone.push_back(Arc::clone(&gone));
        self.push(Event::Leave(Arc::clone(&gone)));
        gone
    }

    fn push(&mut self, event: Event) {
        if self.events.len() == CHANGES {
            self.events.pop_front();
            self.before += 1;
        }
        self.events.push_back(event);
    }

    /// What came after `revision`, at most so many changes.
    pub(super) fn since(&self, revision: u64, at_most: usize) -> Since {
        let skipped = revision.checked_sub(self.before);
        let skipped = skipped.and_then(|skipped| usize::try_from(skipped).ok());
        match skipped.filter(|skipped| *skipped <= self.events.len()) {
            None => Since::Unknown,
            Some(skipped) => {
                let events = self.events.range(skipped..).take(at_most);
                let numbered = (revision + 1..).zip(events.cloned());
                Since::Events(numbered.collect())
            }
        }
    }

    /// The departures that are remembered, newest first.
    pub(super) fn gone(&self) -> Vec<Arc<Gone>> {
        self.gone.iter().rev().cloned().collect()
    }

    /// Whose departures are remembered.
    pub(super) fn departed(&self) -> Vec<CellId> {
        self.last.keys().cloned().collect()
    }

    /// Who was reaped after that moment, and is not back.
    pub(super) fn missing(&self, after: SystemTime) -> Vec<CellId> {
        let missing = self.last.iter().filter(|(_, last)| {
            let reaped = last.missing;
            reaped.is_some_and(|at| at > after)
        });
        missing.map(|(id, _)| id.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(id: &str) -> Arc<Facts> {
        Arc::new(Facts {
            cell_id: CellId::new(id).expect("valid"),
            ip: "h".into(),
            port: 1,
            services: Default::default(),
            branch: "".into(),
            kind: "".into(),
            hostname: "".into(),
        })
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn came(id: &str) -> Came {
        Came {
            facts: facts(id),
            level: 1.0,
            at: at(1),
            by: None,
        }
    }

    fn gone(id: &str, reason: Reason, seconds: u64) -> Gone {
        Gone {
            facts: facts(id),
            reason,
            at: at(seconds),
            was_here: Duration::ZERO,
            late: Duration::ZERO,
            registered_by: None,
            deregistered_by: None,
            tally: Tally::default(),
        }
    }

    fn revisions(since: &Since) -> Vec<u64> {
        match since {
            Since::Events(events) => events.iter().map(|(revision, _)| *revision).collect(),
            Since::Unknown => panic!("nothing is known"),
        }
    }

    #[test]
    fn what_came_after_a_revision_is_known_while_it_is_remembered() {
        let mut past = Past::from(7);
        assert_eq!(past.since(7, 10), Since::Events(Vec::new()));
        assert_eq!(past.since(6, 10), Since::Unknown);
        assert_eq!(past.since(8, 10), Since::Unknown);
        let _ = past.joined(came("a"));
        past.changed(came("a"));
        let _ = past.left(gone("a", Reason::Reaped, 1));
        assert_eq!(past.revision(), 10);
        assert_eq!(revisions(&past.since(7, 10)), [8, 9, 10]);
        assert_eq!(revisions(&past.since(7, 2)), [8, 9]);
        let last = past.since(9, 10);
        assert!(matches!(&last, Since::Events(events)
            if matches!(&events[..], [(10, Event::Leave(gone))] if gone.reason == Reason::Reaped)));
        assert_eq!(past.since(u64::MAX, 10), Since::Unknown);

        let room = past.events.capacity();
        for _ in 0..CHANGES {
            past.changed(came("b"));
        }
        assert_eq!(past.events.len(), CHANGES);
        assert_eq!(past.events.capacity(), room);
        assert_eq!(past.since(9, 1), Since::Unknown);
        assert_eq!(revisions(&past.since(10, 1)), [11]);
    }

    #[test]
    fn departures_are_remembered_newest_first_and_in_bounded_number() {
        let mut past = Past::from(0);
        for number in 0..DEPARTURES + 5 {
            let _ = past.left(gone(&number.to_string(), Reason::Deregistered, 1));
        }
        let all = past.gone();
        assert_eq!(all.len(), DEPARTURES);
        assert_eq!(all[0].facts.cell_id.as_str(), "1004");
        assert_eq!(past.last.len(), DEPARTURES);
    }

    #[test]
    fn who_comes_back_has_flapped_as_long_as_it_is_remembered() {
        let mut past = Past::from(0);
        let mut tally = past.joined(came("a"));
        for times in 0..3 {
            assert_eq!((tally.flaps, tally.beats), (times, u32::from(times) * 7));
            tally.beats += 7;
            let _ = past.left(Gone {
                tally,
                ..gone("a", Reason::Reaped, 1)
            });
            tally = past.joined(came("a"));
        }
        // Only the last of its departures matters.
        for number in 0..DEPARTURES - 1 {
            let _ = past.left(gone(&number.to_string(), Reason::Reaped, 1));
        }
        assert_eq!(past.joined(came("a")).flaps, 3);
        let _ = past.left(gone("last", Reason::Reaped, 1));
        assert_eq!(past.joined(came("a")), Tally::default());
    }

    #[test]
    fn missing_is_who_was_reaped_a_short_while_ago_and_is_not_back() {
        let mut past = Past::from(0);
        let _ = past.left(gone("reaped", Reason::Reaped, 10));
        let _ = past.left(gone("before", Reason::Reaped, 5));
        let _ = past.left(gone("stopped", Reason::Deregistered, 10));
        let _ = past.left(gone("back", Reason::Reaped, 10));
        let _ = past.joined(came("back"));
        let missing = past.missing(at(5));
        assert_eq!(missing.len(), 1);
        assert_eq!(missing[0].as_str(), "reaped");
    }
}
