//! Reproducible random numbers: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).

/// The generator.
#[derive(Debug, Clone)]
pub struct Random(u64);

/// SplitMix64's output function.
pub const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Random {
    /// The stream of case `index` of `seed`.
    pub fn new(seed: u64, index: u64) -> Self {
        Self(mix(seed.wrapping_mul(STEP)) ^ mix(index.wrapping_add(STEP)))
    }

    /// 64 random bits.
    #[allow(clippy::should_implement_trait, reason = "the usual name, and not an iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A number below `limit`, which is not zero.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of them.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}
