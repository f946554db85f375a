// SPDX-License-Identifier: GPL-2.0

//! The kernel twin of the facade.
//!
//! Thin, safe wrappers over kernel interfaces. Where the kernel's own Rust abstractions have what
//! is needed they are used; elsewhere the C interface is called directly, and functions that exist
//! only as macros or inlines come through `shim.c`.
//!
//! # Life of the module
//!
//! [`Runtime`] must be created before anything else of this module is used and dropped after
//! everything else: its drop waits until no deferred destruction is left that would run code of
//! the module.

mod block;
pub mod chardev;
mod clock;
mod counters;
pub mod errno;
mod lock;
mod log;
mod memory;
pub mod params;
pub mod procfs;
mod rcu;
mod reclaim;
mod shim;
pub mod socket;
mod thread;
pub mod uaccess;
mod worker;

pub use block::BlockDevice;
pub use clock::{cond_resched, crc32c, now_ms, random_bytes, sleep_ms, wall_ms};
pub use counters::Counters;
pub use lock::{Condvar, Mutex, MutexGuard};
pub(super) use log::print_line;
pub use memory::{arc_new, Arc, PageBuf, Vec};
pub use rcu::{rcu_read_lock, synchronize_rcu, Object, RcuCell, ReadGuard, Shared, Unique};
pub use reclaim::Runtime;
pub use thread::Thread;
pub use uaccess::{capable_sys_admin, signal_pending};
pub use worker::Worker;
