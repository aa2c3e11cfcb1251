//! Chance that is the same everywhere: all that happens in a world comes from its seed.

use std::time::Duration;

/// A stream of random numbers (SplitMix64: a counter and a mixing function, nothing that could
/// differ between platforms).
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// The stream called `name` of a seed. Streams do not disturb each other: what one part of the
    /// world draws changes nothing for another.
    pub fn new(seed: u64, name: &str) -> Self {
        let mut state = seed;
        for byte in name.bytes() {
            state = mix(state ^ u64::from(byte));
        }
        Self(state)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// From 0 to below 1.
    pub fn fraction(&mut self) -> f64 {
        // As many bits as a float holds exactly.
        (self.number() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// From 0 to below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end.max(1) as u64) as usize
    }

    /// Whether something happens that does so with this probability.
    pub fn odds(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.fraction() < probability
    }

    /// Between two durations.
    pub fn between(&mut self, from: Duration, to: Duration) -> Duration {
        let span = to.saturating_sub(from).as_micros() as u64;
        from + Duration::from_micros(self.number() % (span + 1))
    }

    /// Between two numbers of seconds.
    pub fn seconds(&mut self, from: f64, to: f64) -> Duration {
        self.between(Duration::from_secs_f64(from), Duration::from_secs_f64(to))
    }

    /// One of several.
    pub fn one_of<T: Copy>(&mut self, several: &[T]) -> T {
        several[self.below(several.len())]
    }

    /// Puts things into any order.
    pub fn shuffle<T>(&mut self, things: &mut [T]) {
        for end in (1..things.len()).rev() {
            things.swap(end, self.below(end + 1));
        }
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
