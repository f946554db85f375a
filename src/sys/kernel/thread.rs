// SPDX-License-Identifier: GPL-2.0

//! Threads of the kernel.

use crate::sys::AllocError;
use core::ffi::CStr;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::error::from_err_ptr;
use kernel::ffi::{c_int, c_void};
use kernel::prelude::*;
use kernel::sync::{Arc, Completion};

/// A running function.
///
/// It has to be told by other means to end. Dropping the handle waits for that.
///
/// # Invariants
///
/// `task` is a thread that runs [`run`], of which a reference is ours.
pub struct Thread {
    task: NonNull<bindings::task_struct>,
    /// Complete when the function has returned.
    done: Arc<Completion>,
}

// SAFETY: A task may be referred to by any thread.
unsafe impl Send for Thread {}
// SAFETY: A shared `Thread` allows nothing.
unsafe impl Sync for Thread {}

/// What a new thread is given.
struct Start<F> {
    f: F,
    done: Arc<Completion>,
}

impl Thread {
    /// Starts a thread that runs `f`.
    pub fn spawn(
        name: &'static CStr,
        f: impl FnOnce() + Send + 'static,
    ) -> Result<Self, AllocError> {
        Self::spawn_inner(name, f).map_err(|_| AllocError)
    }

    fn spawn_inner<F: FnOnce() + Send + 'static>(name: &'static CStr, f: F) -> Result<Self> {
        let done = Arc::pin_init(Completion::new(), GFP_KERNEL)?;
        let start = KBox::new(
            Start {
                f,
                done: done.clone(),
            },
            GFP_KERNEL,
        )?;
        let start = KBox::into_raw(start);
        // SAFETY: `run::<F>` takes the pointer that is passed along; the format asks for the one
        // string that follows it.
        let task = from_err_ptr(unsafe {
            bindings::kthread_create_on_node(
                Some(run::<F>),
                start.cast(),
                bindings::NUMA_NO_NODE,
                c"%s".as_char_ptr(),
                name.as_char_ptr(),
            )
        });
        let task = match task.map(NonNull::new) {
            Ok(Some(task)) => task,
            _ => {
                // SAFETY: There is no thread, so the box is still ours.
                drop(unsafe { KBox::from_raw(start) });
                return Err(ENOMEM);
            }
        };
        // SAFETY: A thread that has been created exists at least until it is woken.
        unsafe { bindings::get_task_struct(task.as_ptr()) };
        // SAFETY: As above, and the reference keeps it from here on.
        unsafe { bindings::wake_up_process(task.as_ptr()) };
        // INVARIANT: The thread was created with `run`, and the reference was taken just above.
        Ok(Self { task, done })
    }

    /// Waits until the function has returned.
    pub fn join(self) {
        drop(self);
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // A thread that is stopped before it has begun never begins, and what it was given would
        // be lost: wait for the function first, ...
        self.done.wait_for_completion();
        // ... then for the thread to be gone, for until then it runs code of this module.
        //
        // SAFETY: By the type invariants the task is there, and the reference, which is given back
        // here, was ours.
        unsafe { bindings::kthread_stop_put(self.task.as_ptr()) };
    }
}

/// The life of a thread.
///
/// # Safety
///
/// `start` comes from [`KBox::into_raw`] for a box of [`Start<F>`], which belongs to this call.
unsafe extern "C" fn run<F: FnOnce()>(start: *mut c_void) -> c_int {
    // SAFETY: By the requirement the box is ours.
    let start = unsafe { KBox::from_raw(start.cast::<Start<F>>()) };
    let Start { f, done } = KBox::into_inner(start);
    f();
    done.complete_all();
    0
}
