//! Room for many things that grows without moving those that are in it, so that no newcomer waits
//! for a copy of all others.

use std::ops::{Index, IndexMut};

use slab::Slab;

/// For how many things room is made at a time.
const CHUNK: usize = 1024;

/// Things by a small number, which is given out again once it is free.
#[derive(Debug)]
pub(super) struct Slots<T> {
    /// None has more than [`CHUNK`], and none more room than that.
    chunks: Vec<Slab<T>>,
    /// Those that are not full.
    with_room: Vec<usize>,
    len: usize,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            with_room: Vec::new(),
            len: 0,
        }
    }
}

impl<T> Slots<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The number that the next thing is put in at.
    pub(super) fn next(&mut self) -> u32 {
        let number = self.with_room();
        // There is no memory for four thousand million of anything.
        u32::try_from(number * CHUNK + self.chunks[number].vacant_key()).unwrap_or(u32::MAX)
    }

    /// Puts something in, and returns its number.
    pub(super) fn insert(&mut self, thing: T) -> u32 {
        let next = self.next();
        let (number, _) = split(next);
        let chunk = &mut self.chunks[number];
        chunk.insert(thing);
        if chunk.len() == CHUNK {
            self.with_room.pop();
        }
        self.len += 1;
        next
    }

    /// A chunk that is not full.
    fn with_room(&mut self) -> usize {
        self.with_room.last().copied().unwrap_or_else(|| {
            self.chunks.push(Slab::with_capacity(CHUNK));
            self.with_room.push(self.chunks.len() - 1);
            self.chunks.len() - 1
        })
    }

    /// Takes out what is there; there has to be something.
    pub(super) fn remove(&mut self, number: u32) -> T {
        let (number, at) = split(number);
        let chunk = &mut self.chunks[number];
        if chunk.len() == CHUNK {
            self.with_room.push(number);
        }
        self.len -= 1;
        chunk.remove(at)
    }
}

impl<T> Index<u32> for Slots<T> {
    type Output = T;

    fn index(&self, number: u32) -> &T {
        let (number, at) = split(number);
        &self.chunks[number][at]
    }
}

impl<T> IndexMut<u32> for Slots<T> {
    fn index_mut(&mut self, number: u32) -> &mut T {
        let (number, at) = split(number);
        &mut self.chunks[number][at]
    }
}

fn split(number: u32) -> (usize, usize) {
    let number = number as usize;
    (number / CHUNK, number % CHUNK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_given_out_again_and_what_is_there_does_not_move() {
        let mut slots = Slots::default();
        let many = 3 * CHUNK + 5;
        for n in 0..many {
            assert_eq!(slots.insert(n) as usize, n);
        }
        let before: *const usize = &raw const slots[7];
        for n in (0..many).filter(|n| n % 3 == 1) {
            assert_eq!(slots.remove(u32::try_from(n).expect("small")), n);
        }
        let gone = many - slots.len();
        for n in 0..gone {
            assert!((slots.insert(n) as usize) < many);
        }
        assert_eq!(slots.len(), many);
        assert_eq!(slots.chunks.len(), 4);
        assert!(slots.chunks.iter().all(|chunk| chunk.capacity() == CHUNK));
        assert_eq!(before, &raw const slots[7]);
    }
}
