// SPDX-License-Identifier: GPL-2.0

//! The host twin of the facade: the engine's world in a user-space process.
//!
//! Built on the standard library and on crossbeam's epochs, which stand in for grace periods.

mod disk;
mod memory;
mod rcu;
mod thread;

pub use disk::{FileDisk, MemoryDisk};
pub use memory::{arc_new, fail_allocation_after, PageBuf, Vec};
pub use rcu::{rcu_read_lock, synchronize_rcu, Object, RcuCell, ReadGuard, Shared, Unique};
pub use std::sync::Arc;
pub use thread::{Condvar, Counters, Mutex, MutexGuard, Thread, Worker};

use super::Level;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds of a clock that never goes back.
pub fn now_ms() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    // From 1 on, so that no time is mistaken for none.
    START.get_or_init(Instant::now).elapsed().as_millis() as u64 + 1
}

/// Milliseconds since the epoch by the wall clock.
pub fn wall_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// Fills `bytes` with numbers nobody can guess.
pub fn random_bytes(bytes: &mut [u8]) {
    use std::hash::{BuildHasher, RandomState};
    for chunk in bytes.chunks_mut(8) {
        let word = RandomState::new().hash_one(now_ms()).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
}

/// CRC-32C of `bytes` after bytes whose CRC-32C is `seed`.
pub fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(seed, bytes)
}

/// Lets others run.
pub fn cond_resched() {
    std::thread::yield_now();
}

/// Sleeps for at least `ms` milliseconds.
pub fn sleep_ms(ms: u32) {
    std::thread::sleep(Duration::from_millis(ms.into()));
}

pub(super) fn print_line(level: Level, args: core::fmt::Arguments<'_>) {
    eprintln!("hpkv: <{}> {args}", level as u8);
}
