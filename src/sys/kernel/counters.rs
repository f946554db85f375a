// SPDX-License-Identifier: GPL-2.0

//! Event counters that processors do not contend for.

use super::memory::Vec;
use crate::sys::AllocError;
use core::sync::atomic::{AtomicU64, Ordering};
use kernel::cpu;

/// One processor's counters, on cache lines nobody else writes to.
#[repr(align(64))]
struct Block<const N: usize>([AtomicU64; N]);

/// `N` event counters with a copy for each possible processor.
///
/// A thread may move to another processor between finding its block and adding to it; the
/// addition is atomic, so nothing is lost, and the cost is one shared cache line once.
pub struct Counters<const N: usize>(Vec<Block<N>>);

impl<const N: usize> Counters<N> {
    /// Creates counters that all stand at 0.
    pub fn new() -> Result<Self, AllocError> {
        let blocks = cpu::nr_cpu_ids() as usize;
        let mut list = Vec::with_capacity(blocks)?;
        for _ in 0..blocks {
            list.push(Block([const { AtomicU64::new(0) }; N]))?;
        }
        Ok(Self(list))
    }

    /// Adds `n` to counter `i`. A counter that does not exist is not counted.
    pub fn add(&self, i: usize, n: u64) {
        let block = cpu::CpuId::current().as_u32() as usize;
        if let Some(counter) = self.0.get(block).and_then(|block| block.0.get(i)) {
            counter.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// Returns counter `i`: everything added before the call, perhaps some that is added during it.
    pub fn sum(&self, i: usize) -> u64 {
        self.0
            .iter()
            .filter_map(|block| block.0.get(i))
            .fold(0, |sum, counter| {
                sum.wrapping_add(counter.load(Ordering::Relaxed))
            })
    }
}
