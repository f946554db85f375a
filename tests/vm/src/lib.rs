// SPDX-License-Identifier: GPL-2.0
//! What the two halves of the end-to-end tests share.
//!
//! The runner (`vmtests`) lives on the host: it boots virtual machines, kills
//! them, and rebuilds what a disk may hold after a power cut. The guest program
//! (`vmguest`) runs as root in the machine and holds the tests. Both derive the
//! same keys and values from a seed, so that nothing big has to be written down
//! to know what a store must hold.

pub mod disklog;
pub mod journal;
pub mod rng;
pub mod verify;
pub mod workload;

/// Whether a line of the kernel's log is one that a healthy kernel never
/// writes. The guest looks after each test, to name the culprit, and the runner
/// looks at the whole console, which also holds what the guest could not tell.
#[must_use]
pub fn is_alarm(line: &str) -> bool {
    const ALARMS: &[&str] = &[
        "WARNING:",
        "BUG:",
        "BUG at",
        "kernel BUG",
        "Oops",
        "general protection fault",
        "Kernel panic",
        "kernel panic",
        "soft lockup",
        "hard LOCKUP",
        "blocked for more than",
        "rcu_sched detected",
        "rcu_preempt detected",
        "self-detected stall",
        "detected stalls",
        "rust_kernel: panicked",
        "refcount_t:",
        "list_add corruption",
        "list_del corruption",
        "UBSAN:",
        "KASAN:",
        "KFENCE:",
        "DEBUG_LOCKS_WARN_ON",
        "possible circular locking",
        "sleeping function called from invalid context",
        "scheduling while atomic",
        "Call Trace:",
        "segfault at",
        "Out of memory:",
        "page allocation failure",
        "Bad page state",
        "Objects remaining in",
    ];
    ALARMS.iter().any(|alarm| line.contains(alarm))
}
