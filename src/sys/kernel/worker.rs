// SPDX-License-Identifier: GPL-2.0

//! Work that runs in the background when asked to.

use crate::sys::AllocError;
use core::ffi::CStr;
use core::pin::Pin;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};
use kernel::bindings;
use kernel::ffi::c_int;
use kernel::prelude::*;
use kernel::sync::static_lock_class;
use kernel::types::Opaque;

/// No processor in particular.
pub(super) const UNBOUND: c_int = bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int;

/// A workqueue of the module's own, for one work item at a time.
///
/// It makes progress when memory is short, since freeing memory may depend on it.
///
/// # Invariants
///
/// The pointer is to a workqueue that belongs to this value.
pub(super) struct WorkQueue(NonNull<bindings::workqueue_struct>);

// SAFETY: Workqueues are not bound to a thread, and their functions may be called by all at once.
unsafe impl Send for WorkQueue {}
// SAFETY: As above.
unsafe impl Sync for WorkQueue {}

impl WorkQueue {
    /// Creates a workqueue.
    pub(super) fn new(name: &'static CStr) -> Result<Self, AllocError> {
        // SAFETY: The format asks for one string, which is what follows the counts.
        let queue = unsafe {
            bindings::alloc_workqueue_noprof(
                c"%s".as_char_ptr(),
                bindings::wq_flags_WQ_UNBOUND | bindings::wq_flags_WQ_MEM_RECLAIM,
                1,
                name.as_char_ptr(),
            )
        };
        // INVARIANT: The queue was made for this value.
        NonNull::new(queue).map(Self).ok_or(AllocError)
    }

    /// Returns the pointer, for queueing.
    pub(super) fn as_ptr(&self) -> *mut bindings::workqueue_struct {
        self.0.as_ptr()
    }

    /// Waits until everything that is queued now has run.
    pub(super) fn flush(&self) {
        // SAFETY: By the type invariants the queue is there.
        unsafe { bindings::__flush_workqueue(self.0.as_ptr()) };
    }
}

impl Drop for WorkQueue {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the queue is there and ours. What is still queued runs
        // before the function returns.
        unsafe { bindings::destroy_workqueue(self.0.as_ptr()) };
    }
}

/// A function and the work item that runs it.
#[pin_data]
struct Item {
    #[pin]
    work: Opaque<bindings::work_struct>,
    stopped: AtomicBool,
    f: KBox<dyn Fn() + Send + Sync>,
}

/// A function that runs in the background each time it is kicked.
///
/// It never runs twice at once. Kicks that come while a run is waiting to begin are one kick; a
/// kick during a run leads to another run.
pub struct Worker {
    // Declared, hence dropped, before the item that may be queued on it.
    queue: WorkQueue,
    item: Pin<KBox<Item>>,
}

// SAFETY: The work item is only handed to the kernel's workqueue functions, which may be called by
// all threads at once; the rest of an `Item` is `Send`.
unsafe impl Send for Worker {}
// SAFETY: As above, and the rest of an `Item` is `Sync`.
unsafe impl Sync for Worker {}

impl Worker {
    /// Creates a worker that waits to be kicked.
    pub fn new(
        name: &'static CStr,
        f: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, AllocError> {
        let queue = WorkQueue::new(name)?;
        let f: KBox<dyn Fn() + Send + Sync> = match KBox::new(f, GFP_KERNEL) {
            Ok(f) => f,
            Err(_) => return Err(AllocError),
        };
        let init = pin_init!(Item {
            // SAFETY: `work` is memory for a work item, pinned; the name and the class are static.
            work <- Opaque::ffi_init(|work| unsafe {
                bindings::init_work_with_key(
                    work,
                    Some(run),
                    false,
                    name.as_char_ptr(),
                    static_lock_class!().as_ptr(),
                )
            }),
            stopped: AtomicBool::new(false),
            f,
        });
        match KBox::pin_init(init, GFP_KERNEL) {
            Ok(item) => Ok(Self { queue, item }),
            Err(_) => Err(AllocError),
        }
    }

    /// Asks for a run. May be called in any context; does nothing once stopped.
    pub fn kick(&self) {
        if !self.item.stopped.load(Ordering::Acquire) {
            // SAFETY: The item was initialised in `new`. It stays where it is until the queue has
            // been destroyed, which waits for what is queued.
            unsafe { bindings::queue_work_on(UNBOUND, self.queue.as_ptr(), self.item.work.get()) };
        }
    }

    /// Waits for a run that has begun, and lets no other begin.
    ///
    /// Must not be called by the function itself.
    pub fn stop(&self) {
        // A kick that has passed its check just now may still queue the item: it is `run` that
        // looks at the flag last.
        self.item.stopped.store(true, Ordering::SeqCst);
        // SAFETY: The item was initialised in `new`, and this is process context.
        unsafe { bindings::cancel_work_sync(self.item.work.get()) };
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs a worker's function once.
///
/// # Safety
///
/// Called by a workqueue, with the work item of an [`Item`], which is there until the end of the
/// call.
unsafe extern "C" fn run(work: *mut bindings::work_struct) {
    // SAFETY: By the requirement `work` is a field of an item.
    let item = unsafe { kernel::container_of!(Opaque::cast_from(work), Item, work) };
    // SAFETY: By the requirement the item is there.
    let item = unsafe { &*item };
    if !item.stopped.load(Ordering::SeqCst) {
        (item.f)();
    }
}
