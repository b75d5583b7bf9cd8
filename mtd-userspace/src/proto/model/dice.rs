//! The random numbers of a model.

use crate::proto::exchange::Random;

/// Random numbers of a model: the same for the same seed, and of good quality.
#[derive(Clone)]
pub(in crate::proto) struct Dice(u64);

impl Dice {
    pub(in crate::proto) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// One step of Steele's `SplitMix64`.
    pub(in crate::proto) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub(in crate::proto) fn below(&mut self, n: u64) -> u64 {
        self.roll() % n.max(1)
    }

    pub(in crate::proto) fn source(&mut self) -> Random {
        let mut dice = Self(self.roll());
        Box::new(move |bytes| bytes.iter_mut().for_each(|byte| *byte = dice.roll() as u8))
    }
}
