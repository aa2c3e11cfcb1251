//! The stay of a peer in the map, and how it beats meanwhile.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use super::LeaseTime;

/// Of how many of the last gaps the median is taken.
const GAPS: usize = 8;

/// How a peer has beaten in its present stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quality {
    /// How many beats have come.
    pub beats: u32,
    /// The median of the last eight gaps between signs of life, each to its 250th part.
    pub median_gap: Option<Duration>,
    /// The longest gap, in whole milliseconds.
    pub longest_gap: Option<Duration>,
    /// How many beats have not come, by the interval that was asked for.
    pub misses: u32,
    /// How often the peer had left and come back before.
    pub flaps: u32,
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
    beats: u32,
    longest: u32,
    misses: u32,
    flaps: u16,
}

const _: () = assert!(size_of::<Stay>() == 64);

impl Stay {
    pub(super) fn begin(joined: LeaseTime, at: SystemTime, by: Option<IpAddr>, flaps: u32) -> Self {
        Self {
            joined,
            joined_at: crate::beats::since_1970(at),
            by: known(by),
            gaps: [Gap::default(); GAPS],
            beats: 0,
            longest: 0,
            misses: 0,
            flaps: u16::try_from(flaps).unwrap_or(u16::MAX),
        }
    }

    /// A beat has come after so long a silence, where `interval` was asked for.
    pub(super) fn beat(&mut self, silence: Duration, interval: Duration) {
        let millis = u32::try_from(silence.as_millis()).unwrap_or(u32::MAX);
        self.gaps[self.beats as usize % GAPS] = Gap::of(millis);
        self.longest = self.longest.max(millis);
        self.beats = self.beats.saturating_add(1);
        // Half an interval later than asked for it counts as the one after that.
        if silence > interval + interval / 2 {
            let interval = interval.as_millis().max(1);
            let due = (u128::from(millis) + interval / 2) / interval;
            let missed = u32::try_from(due.saturating_sub(1)).unwrap_or(u32::MAX);
            self.misses = self.misses.saturating_add(missed);
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

    pub(super) fn flaps(&self) -> u32 {
        u32::from(self.flaps)
    }

    pub(super) fn quality(&self) -> Quality {
        let known = (self.beats as usize).min(GAPS);
        let mut gaps: Vec<Duration> = self.gaps[..known].iter().map(|gap| gap.get()).collect();
        gaps.sort_unstable();
        let median = known.checked_sub(1).map(|last| {
            // Of an even number it is between two.
            (gaps[last / 2] + gaps[known / 2]) / 2
        });
        Quality {
            beats: self.beats,
            median_gap: median,
            longest_gap: (known > 0).then(|| Duration::from_millis(u64::from(self.longest))),
            misses: self.misses,
            flaps: self.flaps(),
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
#[derive(Clone, Copy, Debug, Default)]
struct Gap(u16);

const COARSE: u16 = 1 << 15;
const STEP: u32 = 128;

impl Gap {
    fn of(millis: u32) -> Self {
        match u16::try_from(millis) {
            Ok(fine) if fine < COARSE => Self(fine),
            _ => Self(COARSE | u16::try_from(millis / STEP).unwrap_or(u16::MAX)),
        }
    }

    fn get(self) -> Duration {
        let millis = match self.0 < COARSE {
            true => u32::from(self.0),
            false => u32::from(self.0 & !COARSE) * STEP,
        };
        Duration::from_millis(u64::from(millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(5);

    fn stay() -> Stay {
        Stay::begin(LeaseTime::default(), SystemTime::UNIX_EPOCH, None, 0)
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn gaps_are_told_by_their_median_and_the_longest() {
        let mut stay = stay();
        let quality = stay.quality();
        assert_eq!((quality.median_gap, quality.longest_gap), (None, None));
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
        assert_eq!(quality.longest_gap, Some(ms(20_000)));
        assert_eq!(quality.beats, 12);
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
            assert_eq!(stay.quality().misses, misses, "{gap}");
        }
    }

    #[test]
    fn where_it_came_from_is_told_as_it_was() {
        for by in ["10.0.0.1", "::1", "2001:db8::1"] {
            let by: IpAddr = by.parse().expect("an address");
            let at = SystemTime::UNIX_EPOCH + ms(1_700_000_000_123);
            let stay = Stay::begin(LeaseTime::default(), at, Some(by), 70_000);
            assert_eq!((stay.by(), stay.joined_at()), (Some(by), at));
            assert_eq!(stay.flaps(), u32::from(u16::MAX));
        }
        assert_eq!(stay().by(), None);
    }

    #[test]
    fn a_gap_is_kept_well_enough() {
        for millis in [0, 1, 32_767, 32_768, 60_000, 1_200_000, 3_600_000] {
            let kept = Gap::of(millis).get().as_millis();
            let off = kept.abs_diff(u128::from(millis));
            assert!(off * 250 <= u128::from(millis), "{millis}: {kept}");
        }
        assert!(Gap::of(u32::MAX).get() > ms(4_000_000));
    }
}
