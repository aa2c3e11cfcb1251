//! The list, in pages that are shared until they change.
//!
//! Whoever takes a list takes a pointer, and keeps the pages as they are; a change of membership
//! makes a copy of the page it falls into, and of the row of pages, where somebody holds them, and
//! of nothing else. A heartbeat changes no page at all: level and time stand in [`Beats`], which
//! all versions of a page share.
//!
//! Newcomers go to the last page. Those who leave make room that nobody else takes, for their place
//! in [`Beats`] may be looked at in older lists; so pages that have got empty are made one with their
//! neighbour, and their peers move to new [`Beats`]. Two neighbours have more than [`FEW`] peers, so
//! there are never many more pages than peers need.

use std::sync::Arc;
use std::time::SystemTime;

use super::Facts;
use crate::beats::{Beats, ROOM};

/// How many peers two neighbours have at most for them to become one page.
const FEW: usize = ROOM / 2;

/// The peers at one moment, first registered first: cheap to take, to copy and to keep.
#[derive(Clone, Debug)]
pub struct List {
    row: Arc<Vec<Leaf>>,
    len: usize,
    /// The revision this list shows.
    pub revision: u64,
}

impl List {
    /// How many peers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pages, each with somebody on it.
    pub fn pages(&self) -> impl ExactSizeIterator<Item = &Arc<Page>> + Clone {
        self.row.iter().map(|leaf| &leaf.page)
    }

    /// The peers.
    pub fn peers(&self) -> impl Iterator<Item = ListedPeer<'_>> {
        self.pages().flat_map(|page| page.rows())
    }
}

/// A peer in a [`List`].
#[derive(Clone, Debug)]
pub struct ListedPeer<'a> {
    /// What it said when it registered.
    pub facts: &'a Arc<Facts>,
    /// Its level at its last beat.
    pub level: f64,
    /// When that was.
    pub last_seen: SystemTime,
}

/// Some peers that stand next to each other in the list.
#[derive(Debug)]
pub struct Page {
    version: u64,
    members: Vec<Member>,
    beats: Arc<Beats>,
    /// How many places in `beats` are taken, or were.
    used: usize,
}

impl Clone for Page {
    /// With room for all it may have. Thousands of copies may be made, and then be dropped with a
    /// list: where all are of one size none is long to be found a place for.
    fn clone(&self) -> Self {
        let mut members = Vec::with_capacity(ROOM);
        members.extend_from_slice(&self.members);
        Self {
            version: self.version,
            members,
            beats: Arc::clone(&self.beats),
            used: self.used,
        }
    }
}

impl Page {
    /// A number that no other page of this map has or had, nor this one before a peer came, left or
    /// changed what it says. Beats do not change it.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How many peers are on it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is none, which is so in no list.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The peers, as they are when they are looked at: who is there does not change, but when they
    /// were last seen, and their level.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = ListedPeer<'_>> {
        self.members.iter().map(|member| ListedPeer {
            facts: &member.facts,
            level: self.beats.level(member.at),
            last_seen: self.beats.last_seen(member.at),
        })
    }

    fn member(&mut self, at: u8) -> Option<&mut Member> {
        let found = self.members.binary_search_by_key(&at, |member| member.at);
        found.ok().map(|index| &mut self.members[index])
    }
}

/// A peer on a page.
#[derive(Clone, Debug)]
struct Member {
    facts: Arc<Facts>,
    /// Its place in the list: a number that rises with each newcomer.
    place: u64,
    slot: u32,
    /// Where its beats are.
    at: u8,
}

/// Where a peer stands, which it has to know to beat.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    pub(super) beats: Arc<Beats>,
    pub(super) at: u8,
}

/// A page in the row of pages.
#[derive(Clone, Debug)]
struct Leaf {
    /// What its [`Beats`] call it: below the number of the next, so that it is found by it.
    number: u64,
    page: Arc<Page>,
}

/// The list as it is kept up.
#[derive(Debug, Default)]
pub(super) struct Pages {
    row: Arc<Vec<Leaf>>,
    versions: u64,
}

impl Pages {
    /// The list as it is now, with so many peers.
    pub(super) fn list(&self, len: usize, revision: u64) -> List {
        List {
            row: Arc::clone(&self.row),
            len,
            revision,
        }
    }

    /// Puts a peer at the end, at a place behind all others. Those who `move` for it are told.
    pub(super) fn push(
        &mut self,
        place: u64,
        facts: Arc<Facts>,
        slot: u32,
        moves: impl FnMut(u32, Seat),
    ) -> Seat {
        let last = self
            .row
            .last()
            .map(|leaf| (leaf.page.len(), leaf.page.used));
        match last {
            Some((_, ..ROOM)) => {}
            // There is room on it, but for those who were there.
            Some((..FEW, _)) => self.join(self.row.len() - 1..self.row.len(), moves),
            _ => {
                let page = Arc::new(Page {
                    version: 0,
                    members: Vec::with_capacity(ROOM),
                    beats: Arc::new(Beats::new(place)),
                    used: 0,
                });
                Arc::make_mut(&mut self.row).push(Leaf {
                    number: place,
                    page,
                });
            }
        }
        let last = self.row.len() - 1;
        let page = self.page(last);
        let at = u8::try_from(page.used).unwrap_or(u8::MAX);
        page.used += 1;
        page.members.push(Member {
            facts,
            place,
            slot,
            at,
        });
        Seat {
            beats: Arc::clone(&page.beats),
            at,
        }
    }

    /// A peer says something new.
    pub(super) fn update(&mut self, beats: &Beats, at: u8, facts: Arc<Facts>) {
        if let Some(index) = self.find(beats)
            && let Some(member) = self.page(index).member(at)
        {
            member.facts = facts;
        }
    }

    /// Takes a peer out. Those who `move` on that occasion are told.
    pub(super) fn remove(&mut self, beats: &Beats, at: u8, moves: impl FnMut(u32, Seat)) {
        let Some(index) = self.find(beats) else {
            return;
        };
        let page = self.page(index);
        if let Ok(there) = page.members.binary_search_by_key(&at, |member| member.at) {
            page.members.remove(there);
        }
        let len = page.len();
        let neighbour = |other: usize| {
            let other = &self.row.get(other)?.page;
            (other.len() + len <= FEW).then_some(())
        };
        if len == 0 {
            Arc::make_mut(&mut self.row).remove(index);
        } else if index > 0 && neighbour(index - 1).is_some() {
            self.join(index - 1..index + 1, moves);
        } else if neighbour(index + 1).is_some() {
            self.join(index..index + 2, moves);
        }
    }

    /// The place of a peer.
    pub(super) fn place(&self, beats: &Beats, at: u8) -> Option<u64> {
        let page = &self.row[self.find(beats)?].page;
        let found = page.members.binary_search_by_key(&at, |member| member.at);
        Some(page.members[found.ok()?].place)
    }

    /// The places and slots of peers from `place` on.
    pub(super) fn from(&self, place: u64) -> impl Iterator<Item = (u64, u32)> {
        let behind = self.row.partition_point(|leaf| leaf.number <= place);
        let pages = &self.row[behind.saturating_sub(1)..];
        let members = pages.iter().flat_map(|leaf| &leaf.page.members);
        members
            .map(|member| (member.place, member.slot))
            .skip_while(move |(at, _)| *at < place)
    }

    /// Makes one page of some that have no more than half a page of peers.
    fn join(&mut self, range: std::ops::Range<usize>, mut moves: impl FnMut(u32, Seat)) {
        let pages = &self.row[range.clone()];
        let number = pages[0].number;
        let beats = Arc::new(Beats::new(number));
        let mut members = Vec::with_capacity(ROOM);
        for leaf in pages {
            for member in &leaf.page.members {
                let at = u8::try_from(members.len()).unwrap_or(u8::MAX);
                beats.copy(at, &leaf.page.beats, member.at);
                members.push(Member {
                    at,
                    ..member.clone()
                });
                let seat = Seat {
                    beats: Arc::clone(&beats),
                    at,
                };
                moves(member.slot, seat);
            }
        }
        self.versions += 1;
        let page = Arc::new(Page {
            version: self.versions,
            used: members.len(),
            members,
            beats,
        });
        Arc::make_mut(&mut self.row).splice(range, [Leaf { number, page }]);
    }

    /// The page with these beats.
    fn find(&self, beats: &Beats) -> Option<usize> {
        let found = self
            .row
            .binary_search_by_key(&beats.page, |leaf| leaf.number);
        found.ok()
    }

    /// A page, to be changed.
    fn page(&mut self, index: usize) -> &mut Page {
        self.versions += 1;
        let leaf = &mut Arc::make_mut(&mut self.row)[index];
        let page = Arc::make_mut(&mut leaf.page);
        page.version = self.versions;
        page
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::wire::CellId;

    #[derive(Clone, Debug)]
    enum Op {
        /// So many newcomers.
        Join(usize),
        /// One of those who are there, by this part of them, beats, changes or leaves.
        Beat(f64),
        Change(f64),
        Leave(f64),
        /// So many who stand next to each other leave, or each so many-th of all.
        LeaveInARow(f64, usize),
        LeaveEach(usize),
        /// Somebody takes a list, and keeps it.
        List,
        /// The first of the lists that are kept is not needed any more.
        Forget,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => (1usize..300).prop_map(Op::Join),
            3 => (1usize..3).prop_map(Op::Join),
            3 => (0.0..1.0).prop_map(Op::Beat),
            2 => (0.0..1.0).prop_map(Op::Change),
            3 => (0.0..1.0).prop_map(Op::Leave),
            2 => ((0.0..1.0), (1usize..400)).prop_map(|(at, many)| Op::LeaveInARow(at, many)),
            1 => (2usize..5).prop_map(Op::LeaveEach),
            3 => Just(Op::List),
            1 => Just(Op::Forget),
        ]
    }

    /// A peer in the obvious list: a vector.
    #[derive(Clone, Debug)]
    struct Known {
        facts: Arc<Facts>,
        place: u64,
        slot: u32,
        level: f64,
    }

    #[derive(Default)]
    struct Both {
        pages: Pages,
        known: Vec<Known>,
        seats: HashMap<u32, Seat>,
        next: u32,
    }

    fn facts(n: u32) -> Arc<Facts> {
        Arc::new(Facts {
            cell_id: CellId::new(&n.to_string()).expect("valid"),
            ip: "h".into(),
            port: 1,
            services: Default::default(),
            branch: "".into(),
            kind: "".into(),
            hostname: "".into(),
        })
    }

    fn at(level: f64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs_f64(level)
    }

    impl Both {
        fn join(&mut self) {
            let slot = self.next;
            self.next += 1;
            // Places may be left out.
            let place = u64::from(slot) * 3;
            let facts = facts(slot);
            let seats = &mut self.seats;
            let seat = self
                .pages
                .push(place, Arc::clone(&facts), slot, |slot, seat| {
                    assert!(seats.insert(slot, seat).is_some());
                });
            let level = f64::from(slot);
            seat.beats.set(seat.at, level, at(level));
            self.seats.insert(slot, seat);
            self.known.push(Known {
                facts,
                place,
                slot,
                level,
            });
        }

        fn beat(&mut self, index: usize) {
            let known = &mut self.known[index];
            known.level += 0.5;
            let seat = &self.seats[&known.slot];
            seat.beats.set(seat.at, known.level, at(known.level));
        }

        fn change(&mut self, index: usize) {
            let known = &mut self.known[index];
            known.facts = facts(known.slot);
            let seat = &self.seats[&known.slot];
            let facts = Arc::clone(&known.facts);
            self.pages.update(&seat.beats, seat.at, facts);
        }

        fn leave(&mut self, index: usize) {
            let known = self.known.remove(index);
            let seat = self.seats.remove(&known.slot).expect("it sat");
            let seats = &mut self.seats;
            self.pages.remove(&seat.beats, seat.at, |slot, seat| {
                assert!(seats.insert(slot, seat).is_some());
            });
        }

        fn list(&self) -> List {
            self.pages.list(self.known.len(), 7)
        }

        /// The list is what is known, and takes no more pages than that needs.
        fn check(&self) {
            let list = self.list();
            assert_eq!((list.len(), list.revision), (self.known.len(), 7));
            assert_eq!(list.is_empty(), self.known.is_empty());
            assert!(is_of(&list, &self.known));
            for (peer, known) in list.peers().zip(&self.known) {
                assert_eq!((peer.level, peer.last_seen), (known.level, at(known.level)));
                let seat = &self.seats[&known.slot];
                assert_eq!(self.pages.place(&seat.beats, seat.at), Some(known.place));
            }
            let sizes: Vec<usize> = list.pages().map(|page| page.len()).collect();
            assert!(sizes.iter().all(|size| (1..=ROOM).contains(size)));
            assert!(sizes.windows(2).all(|two| two[0] + two[1] > FEW));
            for place in [0, 1, 300, 301, 302, u64::from(self.next)] {
                let expected = self.known.iter().filter(|known| known.place >= place);
                let expected = expected.map(|known| (known.place, known.slot));
                assert!(self.pages.from(place).eq(expected));
            }
        }
    }

    fn is_of(list: &List, known: &[Known]) -> bool {
        let mut peers = list.peers();
        known.iter().all(|known| {
            let peer = peers.next();
            peer.is_some_and(|peer| Arc::ptr_eq(peer.facts, &known.facts))
        }) && peers.next().is_none()
    }

    /// What is said on a page.
    fn said(page: &Page) -> Vec<*const Facts> {
        page.rows().map(|row| Arc::as_ptr(row.facts)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Against the obvious: a vector of peers, copied where somebody takes a list.
        #[test]
        fn a_list_is_the_peers_of_its_moment(ops in proptest::collection::vec(op(), 1..60)) {
            let mut both = Both::default();
            let mut lists: Vec<(List, Vec<Known>)> = Vec::new();
            let mut versions: HashMap<u64, Vec<Arc<Facts>>> = HashMap::new();
            for op in ops {
                let len = both.known.len();
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                let index = |part: f64| (part * len as f64) as usize;
                match op {
                    Op::Join(many) => (0..many).for_each(|_| both.join()),
                    Op::List => lists.push((both.list(), both.known.clone())),
                    Op::Forget if !lists.is_empty() => drop(lists.remove(0)),
                    Op::LeaveEach(many) => {
                        let all = (0..len).rev().filter(|n| n % many == 0);
                        all.for_each(|n| both.leave(n));
                    }
                    _ if len == 0 => {}
                    Op::Beat(part) => both.beat(index(part)),
                    Op::Change(part) => both.change(index(part)),
                    Op::Leave(part) => both.leave(index(part)),
                    Op::LeaveInARow(part, many) => {
                        let from = index(part);
                        (from..len.min(from + many)).for_each(|_| both.leave(from));
                    }
                    Op::Forget => {}
                }
                both.check();
                for (list, known) in &lists {
                    prop_assert!(is_of(list, known));
                }
                for page in both.list().pages() {
                    let facts = || page.rows().map(|row| Arc::clone(row.facts)).collect();
                    let before = versions.entry(page.version()).or_insert_with(facts);
                    let before: Vec<_> = before.iter().map(Arc::as_ptr).collect();
                    prop_assert_eq!(before, said(page));
                }
            }
        }
    }

    #[test]
    fn nothing_is_copied_but_what_changes_and_only_where_somebody_holds_it() {
        let mut both = Both::default();
        (0..4 * ROOM).for_each(|_| both.join());
        let before = both.list();
        both.beat(300);
        both.leave(300);
        let after = both.list();
        let same = before.pages().zip(after.pages());
        let same: Vec<bool> = same.map(|(a, b)| Arc::ptr_eq(a, b)).collect();
        assert_eq!(same, [true, false, true, true]);
        let pages = |list: &List| -> Vec<_> { list.pages().map(Arc::as_ptr).collect() };
        let held = pages(&after);
        drop((before, after));
        both.leave(300);
        both.change(300);
        assert_eq!(pages(&both.list()), held);
    }

    #[test]
    fn who_comes_and_goes_for_ever_takes_no_more_room() {
        let mut both = Both::default();
        (0..FEW + 10).for_each(|_| both.join());
        for _ in 0..10 * ROOM {
            both.join();
            both.leave(both.known.len() - 1);
            both.leave(0);
            both.join();
            assert!(both.list().pages().len() <= 3);
        }
        both.check();
    }
}
