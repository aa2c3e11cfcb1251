//! What a heartbeat changes of a peer that is shown, apart from all else.
//!
//! The map writes it at every beat, and whoever holds a list reads it, without a lock and without a
//! copy of the list: it is the one thing in a list that goes on after it was taken. A level may be
//! seen with the time of the beat before it.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// For how many peers there is room in one [`Beats`].
pub(crate) const ROOM: usize = 256;

/// The last beats of the peers of one page of the list.
pub(crate) struct Beats {
    /// Which page it is.
    pub(crate) page: u64,
    beats: [Beat; ROOM],
}

#[derive(Default)]
struct Beat {
    /// The bits of the number.
    level: AtomicU64,
    /// Nanoseconds since 1970, which do until 2262.
    last_seen: AtomicI64,
}

impl Beats {
    /// Nobody's beats yet, for the page of this number.
    pub(crate) fn new(page: u64) -> Self {
        Self {
            page,
            beats: std::array::from_fn(|_| Beat::default()),
        }
    }

    /// The peer at this place in the page has beaten.
    pub(crate) fn set(&self, at: u8, level: f64, last_seen: SystemTime) {
        let beat = &self.beats[usize::from(at)];
        beat.level.store(level.to_bits(), Ordering::Relaxed);
        beat.last_seen
            .store(since_1970(last_seen), Ordering::Relaxed);
    }

    /// Takes over what `others` say of the peer at that place.
    pub(crate) fn copy(&self, at: u8, others: &Self, there: u8) {
        let [beat, other] =
            [(self, at), (others, there)].map(|(it, at)| &it.beats[usize::from(at)]);
        let level = other.level.load(Ordering::Relaxed);
        beat.level.store(level, Ordering::Relaxed);
        let last_seen = other.last_seen.load(Ordering::Relaxed);
        beat.last_seen.store(last_seen, Ordering::Relaxed);
    }

    /// The level at the last beat.
    pub(crate) fn level(&self, at: u8) -> f64 {
        let level = self.beats[usize::from(at)].level.load(Ordering::Relaxed);
        f64::from_bits(level)
    }

    /// When that was.
    pub(crate) fn last_seen(&self, at: u8) -> SystemTime {
        let beat = &self.beats[usize::from(at)];
        after_1970(beat.last_seen.load(Ordering::Relaxed))
    }
}

impl fmt::Debug for Beats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Beats({})", self.page)
    }
}

/// A moment in nanoseconds since 1970, which do until 2262.
pub(crate) fn since_1970(at: SystemTime) -> i64 {
    let nanos = |distance: Duration| i64::try_from(distance.as_nanos()).unwrap_or(i64::MAX);
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => nanos(after),
        Err(before) => -nanos(before.duration()),
    }
}

/// The moment so many nanoseconds after 1970.
pub(crate) fn after_1970(nanos: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanos.unsigned_abs());
    let at = match nanos {
        0.. => SystemTime::UNIX_EPOCH.checked_add(distance),
        _ => SystemTime::UNIX_EPOCH.checked_sub(distance),
    };
    at.unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_comes_back_on_either_side_of_1970() {
        let beats = Beats::new(0);
        let [little, much] = [Duration::from_nanos(1), Duration::from_secs(1 << 36)];
        let now = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789);
        for at in [now, SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH - little] {
            beats.set(255, -0.25, at);
            assert_eq!(beats.last_seen(255), at);
            assert!((beats.level(255) + 0.25).abs() < f64::EPSILON);
        }
        // A clock that is set too far off is not shown as any nearer than that.
        beats.set(0, 0.0, SystemTime::UNIX_EPOCH + much);
        assert!(beats.last_seen(0) > SystemTime::UNIX_EPOCH + much / 8);
    }
}
