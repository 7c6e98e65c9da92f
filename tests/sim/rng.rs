//! The only source of randomness: every choice of a run comes from its seed through this generator.
//! The code is our own, so a seed has the same meaning for ever.

/// xoshiro256**, seeded by splitmix64.
pub struct Rng([u64; 4]);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        let mut x = seed ^ 0x9e37_79b9_7f4a_7c15;
        let mut next = || {
            x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = x;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };

        Rng([next(), next(), next(), next()])
    }

    pub fn next(&mut self) -> u64 {
        let s = &mut self.0;
        let result = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Below `n`; `n` must not be 0.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True with probability n / 1,000.
    pub fn permille(&mut self, n: u64) -> bool {
        self.below(1_000) < n
    }

    /// True with probability n / 1,000,000.
    pub fn ppm(&mut self, n: u64) -> bool {
        n > 0 && self.below(1_000_000) < n
    }

    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// Mostly small, sometimes large: the logarithm is uniform.
    pub fn skewed(&mut self, low: u64, high: u64) -> u64 {
        let a = 64 - low.max(1).leading_zeros();
        let b = 64 - high.leading_zeros();
        let bits = self.between(u64::from(a), u64::from(b));
        let top = (1_u64 << bits).min(high + 1);
        let bottom = (1_u64 << (bits - 1)).max(low);
        if bottom >= top {
            low
        } else {
            self.between(bottom, top - 1)
        }
    }
}
