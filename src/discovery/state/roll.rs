//! The peers that a journal names, as it names them one after the other.
//!
//! Pure. There may be a million of them at a start that somebody waits for. Nearly all stand in a
//! journal in the order of their places; whoever does not is looked for in a map that is only made
//! for that.

use std::collections::HashMap;

use crate::registry::{Index, Kept};
use crate::wire::CellId;

/// Peers, by id and by place.
#[derive(Debug, Default)]
pub(super) struct Roll {
    /// As they came; `None` is gone.
    peers: Vec<Option<Kept>>,
    by_id: Index,
    /// Above all places there are.
    next_place: u64,
    /// Made as soon as somebody comes who is not at the end.
    by_place: Option<HashMap<u64, u32>>,
}

impl Roll {
    /// Takes a peer as it is from now on. `None` where somebody else has its place.
    pub(super) fn put(&mut self, peer: Kept) -> Option<()> {
        let id = &peer.facts.cell_id;
        let hash = self.by_id.hash(id.as_str());
        let known = self.find(id);
        let there = known.and_then(|slot| self.peers[slot as usize].as_mut());
        if let Some(there) = there.filter(|there| there.place == peer.place) {
            *there = peer;
            return Some(());
        }
        if peer.place < self.next_place && self.by_place().contains_key(&peer.place) {
            // Two at one place cannot have been written.
            return None;
        }
        self.take_out(known);
        let slot = u32::try_from(self.peers.len()).ok()?;
        self.by_id.insert(hash, slot);
        if let Some(by_place) = &mut self.by_place {
            by_place.insert(peer.place, slot);
        }
        self.next_place = self.next_place.max(peer.place + 1);
        self.peers.push(Some(peer));
        Some(())
    }

    /// A peer is gone, if it was there.
    pub(super) fn forget(&mut self, id: &CellId) {
        self.take_out(self.find(id));
    }

    /// All who are there, in the order of their places.
    pub(super) fn finish(self) -> Vec<Kept> {
        let mut peers: Vec<Kept> = self.peers.into_iter().flatten().collect();
        peers.sort_by_key(|peer| peer.place);
        peers
    }

    fn find(&self, id: &CellId) -> Option<u32> {
        let is_it = |slot: u32| {
            let peer = self.peers[slot as usize].as_ref();
            peer.is_some_and(|peer| peer.facts.cell_id == *id)
        };
        self.by_id.find(self.by_id.hash(id.as_str()), is_it)
    }

    fn take_out(&mut self, slot: Option<u32>) {
        let Some(slot) = slot else { return };
        if let Some(peer) = self.peers[slot as usize].take() {
            let hash = self.by_id.hash(peer.facts.cell_id.as_str());
            self.by_id.remove(hash, slot);
            if let Some(by_place) = &mut self.by_place {
                by_place.remove(&peer.place);
            }
        }
    }

    fn by_place(&mut self) -> &HashMap<u64, u32> {
        self.by_place.get_or_insert_with(|| {
            let peers = (0..).zip(&self.peers);
            peers
                .filter_map(|(slot, peer)| Some((peer.as_ref()?.place, slot)))
                .collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::wire::Registration;

    fn peer(id: u8, place: u64, port: u16) -> Kept {
        let body = format!(r#"{{"cell_id":"{id}","ip":"h","port":{port}}}"#);
        let registration = Registration::from_json(body.as_bytes()).expect("valid");
        Kept::new(place, registration, None)
    }

    proptest! {
        /// Against the obvious: a map by place that is searched.
        #[test]
        fn it_is_what_a_map_is(
            lines in proptest::collection::vec((0u8..8, 0u64..12, 0u16..9, 0u8..4), 0..60),
            begins_in_order in 0u8..8,
        ) {
            let mut roll = Roll::default();
            let mut map: BTreeMap<u64, Kept> = BTreeMap::new();
            let in_order = (0..begins_in_order).map(|id| (id, u64::from(id), 1, 1));
            for (id, place, port, what) in in_order.chain(lines) {
                let peer = peer(id, place, port);
                let id = peer.facts.cell_id.clone();
                if what == 0 {
                    roll.forget(&id);
                    map.retain(|_, there| there.facts.cell_id != id);
                    continue;
                }
                let there = map.get(&place);
                let is_taken = there.is_some_and(|there| there.facts.cell_id != id);
                prop_assert_eq!(roll.put(peer.clone()).is_none(), is_taken);
                if !is_taken {
                    map.retain(|_, there| there.facts.cell_id != id);
                    map.insert(place, peer);
                }
            }
            let expected: Vec<Kept> = map.into_values().collect();
            prop_assert_eq!(roll.finish(), expected);
        }
    }
}
