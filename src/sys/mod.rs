// SPDX-License-Identifier: GPL-2.0

//! What the rest of hpkv may know of the world it runs in.
//!
//! Everything above this module is safe, portable Rust. Memory, blocking, grace periods, threads,
//! clocks and disks come from here, under the same names and signatures in two twins:
//!
//! - `kernel/`, when kbuild compiles the module (it passes `--cfg MODULE`);
//! - `host/`, when the same engine source is compiled as a user-space crate for tests, simulation
//!   and fuzzing.
//!
//! This is also the only place in the module that contains `unsafe`; each block says why it is
//! sound.
//!
//! # The facade
//!
//! | name | what it is |
//! |---|---|
//! | [`Vec`], [`PageBuf`], [`Arc`], [`arc_new`] | memory; every allocation may fail with [`AllocError`] |
//! | [`Mutex`], [`MutexGuard`], [`Condvar`] | blocking |
//! | [`atomic`] | `core::sync::atomic`, inlined in both twins |
//! | [`ReadGuard`], [`rcu_read_lock`], [`synchronize_rcu`] | read sections and grace periods |
//! | [`Unique`], [`Shared`], [`Object`], [`RcuCell`] | one header and its bytes in one allocation, counted, published to lock-free readers, freed after a grace period |
//! | [`Disk`], `BlockDevice` | stable storage; the block device exists in the kernel only |
//! | [`Thread`], [`Worker`] | concurrency |
//! | [`now_ms`], [`wall_ms`], [`random_bytes`], [`crc32c`], [`cond_resched`] | clocks and services |
//! | [`Counters`] | event counters that never share a cache line between processors |
//! | [`log_msg!`](log_msg), [`log`], [`Level`] | messages |
//!
//! # Contexts
//!
//! Everything may be called in process context. While a [`ReadGuard`] is held nothing that blocks
//! may be called: no allocation, no [`Mutex`], no [`Disk`], no user memory that may fault.
//! [`RcuCell::load`], [`Object::try_share`], the dropping of a [`Shared`], [`Counters::add`] and
//! the clocks never block.

// The names are `pub` because on the host they are the public face of a library, which the
// simulator and the fuzzers use; in the module they end at the crate's edge.
#![allow(unreachable_pub)]

use core::fmt;
use core::sync::atomic::{AtomicU8, Ordering};

pub mod disk;

#[cfg(MODULE)]
#[path = "kernel/mod.rs"]
mod twin;

#[cfg(not(MODULE))]
#[path = "host/mod.rs"]
mod twin;

pub use core::sync::atomic;
pub use disk::Disk;
pub use twin::*;

/// Memory could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocError;

/// How much a message matters; the numbers are those of `syslog`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// The system is unusable.
    Emerg = 0,
    /// Action must be taken at once.
    Alert = 1,
    /// Data may have been lost.
    Crit = 2,
    /// An operation failed.
    Err = 3,
    /// Something is not as it should be, and service goes on.
    Warning = 4,
    /// Normal, and worth knowing.
    Notice = 5,
    /// Progress.
    Info = 6,
    /// For those who look for a fault.
    Debug = 7,
}

/// The least severe level that is printed.
///
/// One per module image, not per store: it says what the reader of the log wants to see. Accessed
/// with relaxed ordering, since no data depends on it.
static LOG_LEVEL: AtomicU8 = AtomicU8::new(Level::Warning as u8);

/// Returns the least severe level that is printed, 0 to 7.
pub fn log_level() -> u8 {
    LOG_LEVEL.load(Ordering::Relaxed)
}

/// Sets the least severe level that is printed; what is above 7 counts as 7.
pub fn set_log_level(level: u8) {
    LOG_LEVEL.store(level.min(Level::Debug as u8), Ordering::Relaxed);
}

/// Says whether messages of `level` are printed at present.
pub fn log_enabled(level: Level) -> bool {
    level as u8 <= log_level()
}

/// Says whether messages carry the place in the source that printed them.
pub fn log_with_place() -> bool {
    log_level() >= Level::Debug as u8
}

/// Prints one message, if its level is enabled.
///
/// The twin's `print_line` adds the name of the module and the end of the line.
pub fn log(level: Level, args: fmt::Arguments<'_>) {
    if log_enabled(level) {
        print_line(level, args);
    }
}

/// Prints one message like `println!`, at the level given first.
///
/// With the log level at 7 the message is preceded by the module and line that printed it. The
/// arguments are evaluated only if the level is enabled.
macro_rules! log_msg {
    ($level:expr, $($arg:tt)+) => {{
        let level: $crate::sys::Level = $level;
        if $crate::sys::log_enabled(level) {
            if $crate::sys::log_with_place() {
                $crate::sys::log(
                    level,
                    ::core::format_args!(
                        "{}:{}: {}",
                        ::core::module_path!(),
                        ::core::line!(),
                        ::core::format_args!($($arg)+)
                    ),
                );
            } else {
                $crate::sys::log(level, ::core::format_args!($($arg)+));
            }
        }
    }};
}
pub(crate) use log_msg;
