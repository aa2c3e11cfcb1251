//! The room that readers and what they are sent may take.

use std::collections::TryReserveError;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::turns::Shed;

/// Which part of all connections may wait for a rendering. The others can be closed when somebody
/// needs room; these cannot.
pub(super) const PART_OF_CONNECTIONS: usize = 2;
/// How many may wait at most.
const MOST_READERS: usize = 256;
/// How many bytes of renderings that are not sent yet are held at most, as long as that is enough
/// for [`RENDERINGS`] of them.
const MOST_BYTES: usize = 256 << 20;
/// How many renderings may always be held, however long they are.
const RENDERINGS: usize = 4;
/// Of pieces smaller than this libc keeps some for each thread that was ever given one. What is this
/// large goes back to the system as soon as it is free, and takes memory only where it is written to.
const NEVER_KEPT: usize = (32 << 20) + 1;
/// From how many bytes on that matters.
const LONG: usize = 64 << 10;

/// How much of something is in use.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally(Arc<AtomicUsize>);

/// A part of it, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Portion {
    tally: Tally,
    size: usize,
    /// How much was in use before.
    others: usize,
}

impl Tally {
    fn take(&self, size: usize) -> Portion {
        Portion {
            tally: self.clone(),
            size,
            others: self.0.fetch_add(size, Ordering::SeqCst),
        }
    }

    pub(super) fn taken(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Drop for Portion {
    fn drop(&mut self) {
        self.tally.0.fetch_sub(self.size, Ordering::SeqCst);
    }
}

/// Those who wait for a rendering.
pub(super) struct Readers {
    pub(super) waiting: Tally,
    most: usize,
}

impl Readers {
    /// For a server that holds so many connections.
    pub(super) fn new(connections: usize) -> Self {
        Self {
            waiting: Tally::default(),
            most: (connections / PART_OF_CONNECTIONS).clamp(1, MOST_READERS),
        }
    }

    /// Counts one more, for as long as what is returned is kept.
    ///
    /// # Errors
    /// When there are as many as may wait.
    pub(super) fn admit(&self) -> Result<Portion, Shed> {
        let reader = self.waiting.take(1);
        if reader.others >= self.most {
            return Err(Shed::Crowded);
        }
        Ok(reader)
    }
}

/// Bytes that are held, be it to be sent or to be sent again.
pub(super) struct Room {
    bytes: Tally,
    most: usize,
}

/// Bytes that were made together, and are given back with the last reply that sends any of them.
#[derive(Debug)]
pub(super) struct Slab {
    bytes: Vec<u8>,
    _held: Portion,
}

/// Some of the bytes of a slab.
#[derive(Clone, Debug)]
pub(super) struct Span {
    slab: Arc<Slab>,
    range: Range<usize>,
}

impl Room {
    pub(super) fn new() -> Self {
        Self::of(MOST_BYTES)
    }

    pub(super) fn of(most: usize) -> Self {
        Self {
            bytes: Tally::default(),
            most,
        }
    }

    /// Room for about so many bytes, where a whole rendering is about as long as `whole`.
    ///
    /// # Errors
    /// When too many are held.
    pub(super) fn take(&self, about: usize, whole: usize) -> Result<Vec<u8>, Shed> {
        let most = self.most.max(whole.saturating_mul(RENDERINGS));
        if self.held().saturating_add(about) > most {
            return Err(Shed::Unsent);
        }
        // Some more than that, so that it is not copied while it grows.
        room(about + about / 8).map_err(|e| Shed::failed(&e))
    }

    /// Counts bytes as held.
    pub(super) fn hold(&self, bytes: Vec<u8>) -> Arc<Slab> {
        Arc::new(Slab {
            _held: self.bytes.take(bytes.len()),
            bytes,
        })
    }

    pub(super) fn held(&self) -> usize {
        self.bytes.taken()
    }
}

impl Span {
    pub(super) fn of(slab: &Arc<Slab>, range: Range<usize>) -> Self {
        Self {
            slab: Arc::clone(slab),
            range,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.range.len()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.slab.bytes.get(self.range.clone()).unwrap_or_default()
    }
}

/// Room for so many bytes, that leaves nothing behind when it is dropped.
///
/// # Errors
/// When there is none.
fn room(bytes: usize) -> Result<Vec<u8>, TryReserveError> {
    let least = match bytes {
        ..LONG => bytes,
        _ => bytes.max(NEVER_KEPT),
    };
    let mut room = Vec::new();
    room.try_reserve_exact(least)?;
    Ok(room)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_sent_yet_is_bounded_but_some_lists_are_always_held() {
        let room = Room::of(1000);
        let mut last = 0;
        let mut ask = |length: usize| {
            let taken = room.take(last, last);
            taken.map(|mut bytes| {
                bytes.resize(length, b'x');
                last = length;
                room.hold(bytes)
            })
        };
        let held: Vec<_> = (0..100).map_while(|_| ask(100).ok()).collect();
        assert_eq!(held.len(), 10);
        assert_eq!(ask(100).expect_err("there is no room"), Shed::Unsent);
        drop(held);
        assert_eq!(room.held(), 0);
        let long: Vec<_> = (0..100).map_while(|_| ask(10_000).ok()).collect();
        assert_eq!(long.len(), RENDERINGS);
        // What is sent in part is held as a whole.
        let some = long.last().map(|slab| Span::of(slab, 10..20));
        drop(long);
        assert_eq!(some.as_ref().map(Span::bytes), Some(&[b'x'; 10][..]));
        assert_eq!(room.held(), 10_000);
        drop(some);
        assert_eq!(room.held(), 0);
    }
}
