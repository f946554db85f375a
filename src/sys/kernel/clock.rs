// SPDX-License-Identifier: GPL-2.0

//! Clocks, randomness, checksums: calls that answer at once.

use super::shim;
use kernel::bindings;

/// Milliseconds in a second.
const MS_PER_S: u64 = 1_000;

/// Nanoseconds in a millisecond.
const NS_PER_MS: u64 = 1_000_000;

/// Returns the milliseconds since some moment at boot; the clock stands still while suspended.
pub fn now_ms() -> u64 {
    // SAFETY: May be called in any context.
    let ns = unsafe { bindings::ktime_get_mono_fast_ns() };
    ns / NS_PER_MS
}

/// Returns the milliseconds since the epoch, as of the last tick; a clock before it counts as 0.
pub fn wall_ms() -> u64 {
    let mut now = bindings::timespec64::default();
    // SAFETY: `now` is ours to write to; the function may be called in any context.
    unsafe { bindings::ktime_get_coarse_real_ts64(&mut now) };
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    // `tv_nsec` is from 0 to 999,999,999.
    let ns = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds
        .saturating_mul(MS_PER_S)
        .saturating_add(ns / NS_PER_MS)
}

/// Fills `bytes` from the kernel's cryptographic generator.
pub fn random_bytes(bytes: &mut [u8]) {
    // SAFETY: The pointer and length are those of a slice that is ours to write to.
    unsafe { bindings::get_random_bytes(bytes.as_mut_ptr().cast(), bytes.len()) };
}

/// Returns the CRC-32C of `bytes`, going on from `seed`, the CRC of what precedes them, or 0.
pub fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    // The kernel's function leaves the inversion at both ends to its callers.
    //
    // SAFETY: The pointer and length are those of a slice.
    !unsafe { shim::crc32c(!seed, bytes.as_ptr().cast(), bytes.len()) }
}

/// Lets other tasks run if they should. To be called in long loops, where sleeping is allowed.
pub fn cond_resched() {
    // SAFETY: Everything outside of a read section may sleep, and the caller is outside of one.
    unsafe { shim::hpkv_cond_resched() };
}

/// Sleeps for at least `ms` milliseconds. Process context only.
pub fn sleep_ms(ms: u32) {
    // SAFETY: `msleep` has no preconditions but that the caller may sleep.
    unsafe { bindings::msleep(ms) };
}
