//! The stay of a peer in the map, and how it beats meanwhile.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use crate::beats::{after_1970, since_1970};

use super::{LeaseTime, Now};

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
/// its stays is no gap, but the silence in which one ends is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many beats have come.
    pub beats: u32,
    /// The longest gap between two signs of life, in milliseconds.
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
        (self.beats > 0 || self.longest_gap_ms > 0)
            .then(|| Duration::from_millis(u64::from(self.longest_gap_ms)))
    }
}

/// When and where from a peer came, and its beats since: one line of the processor's cache, beside
/// the one that a beat needs anyway.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub(super) struct Stay {
    /// In nanoseconds of the clock of the leases, less than none before that began.
    joined: i64,
    /// By the wall clock; in nanoseconds since 1970, for the room.
    joined_at: i64,
    by: Ipv6Addr,
    gaps: [Gap; GAPS],
    tally: Tally,
}

const _: () = assert!(size_of::<Stay>() == 64);

impl Stay {
    /// Of a peer that has beaten like this before.
    pub(super) fn begin(now: Now, by: Option<IpAddr>, tally: Tally) -> Self {
        Self {
            joined: now.lease.nanos(),
            joined_at: since_1970(now.wall),
            by: known(by),
            gaps: [Gap::NONE; GAPS],
            tally,
        }
    }

    /// Of a peer that joined then, before discovery started anew. By a clock that was set back since it
    /// has lasted no time.
    pub(super) fn resume(now: Now, joined_at: Option<SystemTime>) -> Self {
        let joined_at = joined_at.unwrap_or(now.wall);
        let before = now.wall.duration_since(joined_at).unwrap_or_default();
        let before = i64::try_from(before.as_nanos()).unwrap_or(i64::MAX);
        Self {
            joined: now.lease.nanos().saturating_sub(before),
            joined_at: since_1970(joined_at),
            ..Self::begin(now, None, Tally::default())
        }
    }

    /// A beat has come after so long a silence, where `interval` was asked for.
    pub(super) fn beat(&mut self, silence: Duration, interval: Duration) {
        self.gaps[self.tally.beats as usize % GAPS] = Gap::of(in_millis(silence));
        self.tally.beats = self.tally.beats.saturating_add(1);
        self.was_silent(silence, interval);
    }

    /// Something ended so long a silence: a beat, another registration, or the stay.
    fn was_silent(&mut self, silence: Duration, interval: Duration) {
        let millis = in_millis(silence);
        let tally = &mut self.tally;
        tally.longest_gap_ms = tally.longest_gap_ms.max(millis);
        // Half an interval later than asked for it counts as the one after that.
        if silence > interval + interval / 2 {
            let interval = interval.as_millis().max(1);
            let due = (u128::from(millis) + interval / 2) / interval;
            let missed = u32::try_from(due.saturating_sub(1)).unwrap_or(u32::MAX);
            tally.misses = tally.misses.saturating_add(missed);
        }
    }

    /// It has registered again after so long a silence, perhaps from somewhere else.
    pub(super) fn registered(&mut self, by: Option<IpAddr>, silence: Duration, interval: Duration) {
        self.by = known(by);
        self.was_silent(silence, interval);
    }

    /// It is over, after so long a silence; how the peer has beaten until now.
    pub(super) fn end(mut self, silence: Duration, interval: Duration) -> Tally {
        self.was_silent(silence, interval);
        self.tally
    }

    pub(super) fn joined_at(&self) -> SystemTime {
        after_1970(self.joined_at)
    }

    /// How long it has lasted.
    pub(super) fn lasts(&self, now: LeaseTime) -> Duration {
        let nanos = now.nanos().saturating_sub(self.joined);
        Duration::from_nanos(nanos.try_into().unwrap_or_default())
    }

    pub(super) fn by(&self) -> Option<IpAddr> {
        (!self.by.is_unspecified()).then(|| IpAddr::V6(self.by).to_canonical())
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

fn in_millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
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
        Stay::begin(at(0), None, Tally::default())
    }

    fn at(millis: u64) -> Now {
        Now {
            lease: LeaseTime::default().after(ms(millis)),
            wall: SystemTime::UNIX_EPOCH + ms(millis),
        }
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
    fn the_silence_before_the_end_or_another_registration_counts() {
        let mut stay = stay();
        stay.registered(None, ms(9900), INTERVAL);
        let tally = stay.clone().end(ms(4900), INTERVAL);
        assert_eq!((tally.beats, tally.misses), (0, 1));
        let tally = stay.end(ms(20_000), INTERVAL);
        assert_eq!((tally.beats, tally.misses), (0, 4));
        assert_eq!(tally.longest_gap(), Some(ms(20_000)));
    }

    #[test]
    fn where_it_came_from_is_told_as_it_was() {
        for by in ["10.0.0.1", "::1", "2001:db8::1"] {
            let by: IpAddr = by.parse().expect("an address");
            let now = at(1_700_000_000_123);
            let stay = Stay::begin(now, Some(by), Tally::default());
            assert_eq!((stay.by(), stay.joined_at()), (Some(by), now.wall));
        }
        assert_eq!(stay().by(), None);
    }

    #[test]
    fn a_stay_goes_on_over_a_restart() {
        let now = Now {
            lease: LeaseTime::default().after(ms(100)),
            ..at(1_700_000_000_000)
        };
        for (joined_at, lasts) in [
            (Some(1_699_999_000_000), 1_000_000),
            (Some(1_700_000_000_001), 0),
            (None, 0),
        ] {
            let joined_at = joined_at.map(|millis| at(millis).wall);
            let stay = Stay::resume(now, joined_at);
            assert_eq!(stay.joined_at(), joined_at.unwrap_or(now.wall));
            assert_eq!(stay.lasts(now.lease), ms(lasts));
            let later = now.lease.after(ms(50));
            assert_eq!(stay.lasts(later), ms(lasts + 50));
        }
    }

    #[test]
    fn what_was_before_counts_on_but_for_the_median() {
        let before = Tally {
            beats: 11,
            longest_gap_ms: 9000,
            misses: 2,
            flaps: 1,
        };
        let mut stay = Stay::begin(at(0), None, before);
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
