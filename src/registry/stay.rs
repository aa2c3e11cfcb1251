//! The stay of a peer in the map, and how it beats meanwhile.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use super::LeaseTime;

/// Of how many of the last gaps the median is taken.
const GAPS: usize = 8;

/// How a peer beats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quality {
    /// The median of the last eight gaps between signs of life, each to its 250th part, as far as its
    /// present stay has so many.
    pub median_gap: Option<Duration>,
    /// All else.
    pub tally: Tally,
}

/// How a peer has beaten since it first joined, as far as that is remembered. The time between two of
/// its stays is no gap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many beats have come.
    pub beats: u32,
    /// The longest gap, in milliseconds.
    pub longest_gap_ms: u32,
    /// How many beats have not come, by the interval that was asked for.
    pub misses: u32,
    /// How often the peer has left and come back.
    pub flaps: u16,
}

impl Tally {
    /// The longest gap, where there was one.
    #[must_use]
    pub fn longest_gap(&self) -> Option<Duration> {
        (self.beats > 0).then(|| Duration::from_millis(u64::from(self.longest_gap_ms)))
    }
}

/// When and where from a peer came, and its beats since: one line of the processor's cache, beside
/// the one that a beat needs anyway.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub(super) struct Stay {
    pub(super) joined: LeaseTime,
    /// By the wall clock; in nanoseconds since 1970, for the room.
    joined_at: i64,
    by: Ipv6Addr,
    gaps: [Gap; GAPS],
    tally: Tally,
}

const _: () = assert!(size_of::<Stay>() == 64);

impl Stay {
    /// Of a peer that has beaten like this before.
    pub(super) fn begin(
        joined: LeaseTime,
        at: SystemTime,
        by: Option<IpAddr>,
        tally: Tally,
    ) -> Self {
        Self {
            joined,
            joined_at: crate::beats::since_1970(at),
            by: known(by),
            gaps: [Gap::NONE; GAPS],
            tally,
        }
    }

    /// A beat has come after so long a silence, where `interval` was asked for.
    pub(super) fn beat(&mut self, silence: Duration, interval: Duration) {
        let millis = u32::try_from(silence.as_millis()).unwrap_or(u32::MAX);
        let tally = &mut self.tally;
        self.gaps[tally.beats as usize % GAPS] = Gap::of(millis);
        tally.longest_gap_ms = tally.longest_gap_ms.max(millis);
        tally.beats = tally.beats.saturating_add(1);
        // Half an interval later than asked for it counts as the one after that.
        if silence > interval + interval / 2 {
            let interval = interval.as_millis().max(1);
            let due = (u128::from(millis) + interval / 2) / interval;
            let missed = u32::try_from(due.saturating_sub(1)).unwrap_or(u32::MAX);
            tally.misses = tally.misses.saturating_add(missed);
        }
    }

    /// It has registered again, perhaps from somewhere else.
    pub(super) fn registered(&mut self, by: Option<IpAddr>) {
        self.by = known(by);
    }

    pub(super) fn joined_at(&self) -> SystemTime {
        crate::beats::after_1970(self.joined_at)
    }

    pub(super) fn by(&self) -> Option<IpAddr> {
        (!self.by.is_unspecified()).then(|| IpAddr::V6(self.by).to_canonical())
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    pub(super) fn quality(&self) -> Quality {
        let mut gaps: Vec<Duration> = self.gaps.iter().filter_map(|gap| gap.get()).collect();
        gaps.sort_unstable();
        let median = gaps.len().checked_sub(1).map(|last| {
            // Of an even number it is between two.
            (gaps[last / 2] + gaps[gaps.len() / 2]) / 2
        });
        Quality {
            median_gap: median,
            tally: self.tally,
        }
    }
}

/// Nobody calls from the address that stands for none.
fn known(by: Option<IpAddr>) -> Ipv6Addr {
    match by {
        None => Ipv6Addr::UNSPECIFIED,
        Some(IpAddr::V6(ip)) => ip,
        Some(IpAddr::V4(ip)) => ip.to_ipv6_mapped(),
    }
}

/// A time in two bytes: milliseconds up to 32 s, and then, up to 69 minutes, steps of 128.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Gap(u16);

const COARSE: u16 = 1 << 15;
const STEP: u32 = 128;

impl Gap {
    /// The one value that no time has.
    const NONE: Self = Self(u16::MAX);

    fn of(millis: u32) -> Self {
        match u16::try_from(millis) {
            Ok(fine) if fine < COARSE => Self(fine),
            _ => {
                let steps = u16::try_from(millis / STEP).unwrap_or(u16::MAX);
                Self(COARSE | steps.min(COARSE - 2))
            }
        }
    }

    fn get(self) -> Option<Duration> {
        let millis = match self.0 < COARSE {
            true => u32::from(self.0),
            false => u32::from(self.0 & !COARSE) * STEP,
        };
        (self != Self::NONE).then(|| Duration::from_millis(u64::from(millis)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(5);

    fn stay() -> Stay {
        let at = SystemTime::UNIX_EPOCH;
        Stay::begin(LeaseTime::default(), at, None, Tally::default())
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn gaps_are_told_by_their_median_and_the_longest() {
        let mut stay = stay();
        let quality = stay.quality();
        let longest = quality.tally.longest_gap();
        assert_eq!((quality.median_gap, longest), (None, None));
        for (gap, median) in [(5000, 5000), (1000, 3000), (4000, 4000), (20_000, 4500)] {
            stay.beat(ms(gap), INTERVAL);
            assert_eq!(stay.quality().median_gap, Some(ms(median)));
        }
        // What is longer ago does not count for the median any more.
        for _ in 0..GAPS {
            stay.beat(ms(100), INTERVAL);
        }
        let quality = stay.quality();
        assert_eq!(quality.median_gap, Some(ms(100)));
        assert_eq!(quality.tally.longest_gap(), Some(ms(20_000)));
        assert_eq!(quality.tally.beats, 12);
    }

    #[test]
    fn a_beat_that_did_not_come_is_a_miss() {
        let mut stay = stay();
        for (gap, misses) in [
            (5000, 0),
            (7500, 0),
            (7501, 1),
            (10_000, 2),
            (12_400, 3),
            (12_500, 5),
            (1, 5),
        ] {
            stay.beat(ms(gap), INTERVAL);
            assert_eq!(stay.quality().tally.misses, misses, "{gap}");
        }
    }

    #[test]
    fn where_it_came_from_is_told_as_it_was() {
        for by in ["10.0.0.1", "::1", "2001:db8::1"] {
            let by: IpAddr = by.parse().expect("an address");
            let at = SystemTime::UNIX_EPOCH + ms(1_700_000_000_123);
            let stay = Stay::begin(LeaseTime::default(), at, Some(by), Tally::default());
            assert_eq!((stay.by(), stay.joined_at()), (Some(by), at));
        }
        assert_eq!(stay().by(), None);
    }

    #[test]
    fn what_was_before_counts_on_but_for_the_median() {
        let before = Tally {
            beats: 11,
            longest_gap_ms: 9000,
            misses: 2,
            flaps: 1,
        };
        let at = SystemTime::UNIX_EPOCH;
        let mut stay = Stay::begin(LeaseTime::default(), at, None, before);
        assert_eq!(stay.quality().median_gap, None);
        stay.beat(ms(100), INTERVAL);
        let quality = stay.quality();
        assert_eq!(quality.median_gap, Some(ms(100)));
        assert_eq!(
            quality.tally,
            Tally {
                beats: 12,
                ..before
            }
        );
    }

    #[test]
    fn a_gap_is_kept_well_enough() {
        for millis in [0, 1, 32_767, 32_768, 60_000, 1_200_000, 3_600_000] {
            let kept = Gap::of(millis).get().expect("a time").as_millis();
            let off = kept.abs_diff(u128::from(millis));
            assert!(off * 250 <= u128::from(millis), "{millis}: {kept}");
        }
        assert!(Gap::of(u32::MAX).get() > Some(ms(4_000_000)));
    }
}
