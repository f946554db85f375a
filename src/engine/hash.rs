// SPDX-License-Identifier: GPL-2.0

//! SipHash-1-3, the keyed hash of the index.
//!
//! Keyed, because keys come from clients: without the key nobody can choose keys that share a
//! bucket. The variant with one and three rounds is the one that hash tables use; see Aumasson and
//! Bernstein, "SipHash: a fast short-input PRF", 2012. Written here rather than taken from the
//! kernel so that the same code runs on the host.

/// The secret of one store, drawn when it is opened.
#[derive(Clone, Copy)]
pub(crate) struct HashKey(pub(crate) u64, pub(crate) u64);

struct State([u64; 4]);

impl State {
    #[inline(always)]
    fn round(&mut self) {
        let [v0, v1, v2, v3] = &mut self.0;
        *v0 = v0.wrapping_add(*v1);
        *v2 = v2.wrapping_add(*v3);
        *v1 = v1.rotate_left(13) ^ *v0;
        *v3 = v3.rotate_left(16) ^ *v2;
        *v0 = v0.rotate_left(32);
        *v2 = v2.wrapping_add(*v1);
        *v0 = v0.wrapping_add(*v3);
        *v1 = v1.rotate_left(17) ^ *v2;
        *v3 = v3.rotate_left(21) ^ *v0;
        *v2 = v2.rotate_left(32);
    }

    #[inline(always)]
    fn absorb(&mut self, word: u64) {
        self.0[3] ^= word;
        self.round();
        self.0[0] ^= word;
    }
}

impl HashKey {
    /// Hashes `bytes`.
    pub(crate) fn hash(self, bytes: &[u8]) -> u64 {
        let HashKey(k0, k1) = self;
        let mut state = State([
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ]);
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            let mut le = [0u8; 8];
            le.copy_from_slice(word);
            state.absorb(u64::from_le_bytes(le));
        }
        let rest = words.remainder();
        let mut last = [0u8; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        last[7] = bytes.len() as u8;
        state.absorb(u64::from_le_bytes(last));
        state.0[2] ^= 0xff;
        state.round();
        state.round();
        state.round();
        state.0[0] ^ state.0[1] ^ state.0[2] ^ state.0[3]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::hash::Hasher;

    /// The standard library's hasher is SipHash-1-3 under an all-zero key.
    #[test]
    fn agrees_with_the_standard_library_under_the_zero_key() {
        let data: std::vec::Vec<u8> = (0..=255).collect();
        for len in 0..data.len() {
            #[allow(deprecated)]
            let mut reference = std::collections::hash_map::DefaultHasher::new();
            reference.write(&data[..len]);
            assert_eq!(
                HashKey(0, 0).hash(&data[..len]),
                reference.finish(),
                "{len} bytes"
            );
        }
    }

    #[test]
    fn depends_on_the_key() {
        assert_ne!(HashKey(1, 2).hash(b"name"), HashKey(1, 3).hash(b"name"));
    }
}
