// SPDX-License-Identifier: GPL-2.0

//! Destruction, in process context, of objects whose grace period is over.
//!
//! RCU calls back in a soft interrupt, where a header that owns large tables, or that blocks when
//! dropped, cannot be destroyed. The callback therefore only pushes the object on a list, linked
//! through the RCU head that is no longer needed, and a work item empties the list.
//!
//! The list and the work item are the module's only state of this kind, and the reason why the
//! module's life begins and ends with a [`Runtime`].

use super::worker::{WorkQueue, UNBOUND};
use crate::sys::AllocError;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::static_lock_class;
use kernel::types::Opaque;

/// Destroys the object that a given RCU head is part of.
pub(super) type Destroy = unsafe extern "C" fn(head: *mut bindings::callback_head);

/// The last object pushed, linked to the one before it by `next`; `func` is its [`Destroy`].
static LIST: AtomicPtr<bindings::callback_head> = AtomicPtr::new(core::ptr::null_mut());

/// Where the work item is queued; null before and after the life of the [`Runtime`].
static QUEUE: AtomicPtr<bindings::workqueue_struct> = AtomicPtr::new(core::ptr::null_mut());

/// How many objects have been destroyed. Counted after each destruction, by the work item alone.
static DESTROYED: AtomicU64 = AtomicU64::new(0);

/// A work item in static memory.
struct StaticWork(Opaque<bindings::work_struct>);

// SAFETY: After its initialisation a work item is only handed to the kernel's workqueue functions,
// which may be called by all threads at once.
unsafe impl Sync for StaticWork {}

/// Empties the list. Initialised by [`Runtime::new`].
static WORK: StaticWork = StaticWork(Opaque::uninit());

/// Leaves an object to the work item. May be called in any context.
///
/// # Safety
///
/// `head` is part of an object that nobody uses any more, and `destroy` is the function to destroy
/// it, in process context, on any thread.
pub(super) unsafe fn destroy_later(head: *mut bindings::callback_head, destroy: Destroy) {
    // SAFETY: By the requirement nobody else uses the head.
    unsafe { (*head).func = Some(destroy) };
    let mut last = LIST.load(Ordering::Relaxed);
    loop {
        // SAFETY: As above; the head is not on the list yet.
        unsafe { (*head).next = last };
        // Release: the work item sees the object as it is now.
        match LIST.compare_exchange_weak(last, head, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => break,
            Err(now) => last = now,
        }
    }
    let queue = QUEUE.load(Ordering::Acquire);
    if !queue.is_null() {
        // SAFETY: The queue lives as long as the runtime, which waits for all callbacks. The work
        // item was initialised before the queue was stored.
        unsafe { bindings::queue_work_on(UNBOUND, queue, WORK.0.get()) };
    }
}

/// Destroys all objects on the list.
///
/// # Safety
///
/// Called by the workqueue alone, which runs a work item once at a time.
unsafe extern "C" fn run(_work: *mut bindings::work_struct) {
    // Acquire: with the release of each push.
    let mut head = LIST.swap(core::ptr::null_mut(), Ordering::Acquire);
    while !head.is_null() {
        // SAFETY: What was on the list is ours: heads of objects that wait for destruction.
        let (next, destroy) = unsafe { ((*head).next, (*head).func) };
        if let Some(destroy) = destroy {
            // SAFETY: By the requirement on `destroy_later` this function destroys this object,
            // and this is process context.
            unsafe { destroy(head) };
        }
        DESTROYED.fetch_add(1, Ordering::Release);
        super::cond_resched();
        head = next;
    }
}

/// The part of the module's life in which objects can be retired.
///
/// Create one before any [`Shared`](super::Shared) is made, and drop it after all of them: its drop
/// returns when nothing of the module is left that RCU or the reclaimer would run.
pub struct Runtime {
    queue: WorkQueue,
}

impl Runtime {
    /// Begins it. There is one at a time; another is refused.
    pub fn new() -> Result<Self, AllocError> {
        if !QUEUE.load(Ordering::Acquire).is_null() {
            return Err(AllocError);
        }
        let queue = WorkQueue::new(c"hpkv_reclaim")?;
        // SAFETY: The work item is in static memory, and cannot be queued before the queue is
        // stored below. The class is static.
        unsafe {
            bindings::init_work_with_key(
                WORK.0.get(),
                Some(run),
                false,
                c"hpkv_reclaim".as_char_ptr(),
                static_lock_class!().as_ptr(),
            )
        };
        // Release: who finds the queue finds the work item initialised.
        QUEUE.store(queue.as_ptr(), Ordering::Release);
        Ok(Self { queue })
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // Destroying an object may retire others. All that were retired before the barrier are
        // on the list after it, and destroyed after the flush; a round that destroyed nothing
        // retired nothing either.
        loop {
            let before = DESTROYED.load(Ordering::Acquire);
            // SAFETY: This is process context.
            unsafe { bindings::rcu_barrier() };
            self.queue.flush();
            if DESTROYED.load(Ordering::Acquire) == before {
                break;
            }
        }
        QUEUE.store(core::ptr::null_mut(), Ordering::Release);
        // Memory that RCU frees by itself runs no code of the module; this is for those who count
        // memory after the module has gone.
        //
        // SAFETY: This is process context.
        unsafe { bindings::kvfree_rcu_barrier() };
    }
}
