// SPDX-License-Identifier: GPL-2.0
//! Reproducible random numbers: a seed and a commit reproduce every run.

/// A small generator (splitmix64). Not for secrets.
#[derive(Debug, Clone)]
pub struct Rng(u64);

/// One step of the finaliser of splitmix64: a bijection that mixes all bits.
#[must_use]
pub fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A seed made of several numbers, none of which can stand in for another.
#[must_use]
pub fn seed_of(parts: &[u64]) -> u64 {
    parts
        .iter()
        .fold(0x6870_6b76, |acc, &p| mix(acc ^ mix(p)).rotate_left(7))
}

impl Rng {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Rng(mix(seed))
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..n`; `n` is not 0. The bias is below 2^-32 for our sizes.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next_u64() % n
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let bytes = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

/// The bytes that belong to `seed`.
#[must_use]
pub fn bytes_of(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    Rng::new(seed).fill(&mut out);
    out
}

/// The same for text interfaces: letters and digits only.
#[must_use]
pub fn text_of(seed: u64, len: usize) -> String {
    const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    bytes_of(seed, len)
        .iter()
        .map(|b| char::from(LETTERS[usize::from(b & 63)]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
        assert_eq!(bytes_of(7, 100), bytes_of(7, 100));
        assert_ne!(bytes_of(7, 100), bytes_of(8, 100));
        assert_ne!(seed_of(&[1, 2]), seed_of(&[2, 1]));
        assert_eq!(&bytes_of(7, 100)[..13], &bytes_of(7, 13)[..]);
    }
}
