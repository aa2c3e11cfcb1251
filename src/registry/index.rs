//! Which peer has which id.
//!
//! The ids are those of the peers themselves, not copies. The table is cut into many small ones, each
//! of which grows on its own, so that nobody waits while a million entries are moved.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use hashbrown::HashTable;

/// Into how many tables it is cut.
const SHARDS: usize = 256;
/// Up to how many entries a table is never made smaller.
const SMALL: usize = 64;

/// Slots of peers, by id.
#[derive(Debug)]
pub(crate) struct Index {
    /// Ids come from outside: nobody is to know which of them fall together.
    keys: RandomState,
    shards: Box<[HashTable<Entry>]>,
}

/// Where an id is looked for.
#[derive(Clone, Copy)]
pub(crate) struct Hash(u64);

/// Part of the hash is kept, so that peers with other ids are not looked at, nor any when a table
/// grows.
#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u32,
    slot: u32,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            keys: RandomState::new(),
            shards: (0..SHARDS).map(|_| HashTable::new()).collect(),
        }
    }
}

impl Index {
    pub(crate) fn hash(&self, id: &str) -> Hash {
        Hash(self.keys.hash_one(id))
    }

    /// The slot of this hash that `is_it`.
    pub(crate) fn find(&self, hash: Hash, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let kept = hash.kept();
        let found = self.shards[hash.shard()].find(spread(kept), |entry| {
            entry.hash == kept && is_it(entry.slot)
        });
        found.map(|entry| entry.slot)
    }

    /// Puts in a slot that is not in it.
    pub(crate) fn insert(&mut self, hash: Hash, slot: u32) {
        let entry = Entry {
            hash: hash.kept(),
            slot,
        };
        let shard = &mut self.shards[hash.shard()];
        shard.insert_unique(spread(entry.hash), entry, |entry| spread(entry.hash));
    }

    /// Takes out a slot.
    pub(crate) fn remove(&mut self, hash: Hash, slot: u32) {
        let shard = &mut self.shards[hash.shard()];
        if let Ok(entry) = shard.find_entry(spread(hash.kept()), |entry| entry.slot == slot) {
            entry.remove();
        }
        if shard.capacity() > SMALL && shard.len() < shard.capacity() / 8 {
            shard.shrink_to(2 * shard.len(), |entry| spread(entry.hash));
        }
    }
}

impl Hash {
    fn shard(self) -> usize {
        // The rest of the hash is in the entry.
        (self.0 as usize) % SHARDS
    }

    fn kept(self) -> u32 {
        // The upper half.
        u32::try_from(self.0 >> 32).unwrap_or_default()
    }
}

/// A table looks at the lowest bits and the highest.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_it_is_found_and_its_room_is_given_back() {
        let mut index = Index::default();
        let ids: Vec<String> = (0..50_000).map(|n| n.to_string()).collect();
        let slot = |n: usize| u32::try_from(n).expect("small");
        for (n, id) in ids.iter().enumerate() {
            index.insert(index.hash(id), slot(n));
        }
        for (n, id) in ids.iter().enumerate() {
            let found = index.find(index.hash(id), |slot| ids[slot as usize] == *id);
            assert_eq!(found, Some(slot(n)));
        }
        let unknown = index.hash("x");
        assert_eq!(index.find(unknown, |slot| ids[slot as usize] == "x"), None);
        let room = |index: &Index| index.shards.iter().map(HashTable::capacity).sum::<usize>();
        let before = room(&index);
        for (n, id) in ids.iter().enumerate().skip(1000) {
            index.remove(index.hash(id), slot(n));
        }
        for (n, id) in ids.iter().enumerate() {
            let found = index.find(index.hash(id), |slot| ids[slot as usize] == *id);
            assert_eq!(found, (n < 1000).then_some(slot(n)));
        }
        assert!(room(&index) * 2 < before, "{} of {before}", room(&index));
    }
}
