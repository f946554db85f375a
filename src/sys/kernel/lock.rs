// SPDX-License-Identifier: GPL-2.0

//! Mutual exclusion and waiting.
//!
//! Both types keep their kernel object in a box of its own, because the kernel's may not move and
//! the facade's may.
//!
//! Threads of the kernel wait in the idle state: a thread that has nothing to do for minutes is no
//! load, and nothing the hung-task detector should speak of. Tasks of user space wait
//! uninterruptibly, unless the caller says otherwise.

use crate::sys::AllocError;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use core::pin::Pin;
use kernel::bindings;
use kernel::ffi::{c_int, c_long};
use kernel::prelude::*;
use kernel::sync::{static_lock_class, LockClassKey};
use kernel::task::MAX_SCHEDULE_TIMEOUT;
use kernel::types::Opaque;

/// Data that is never pinned, whatever it is: a mutex gives out plain references to it.
struct Movable<T>(T);

impl<T> Unpin for Movable<T> {}

/// The boxed part of a [`Mutex`].
///
/// Each mutex is a lock class of its own for lockdep, so that two mutexes made by the same line
/// of source, such as those of two shards, may be held together in a fixed order.
#[pin_data]
struct Boxed<T> {
    // Declared, hence dropped, before the key it refers to.
    #[pin]
    lock: kernel::sync::Mutex<Movable<T>>,
    #[pin]
    key: LockClassKey,
}

/// A lock that sleeps until it is free.
pub struct Mutex<T>(Pin<KBox<Boxed<T>>>);

impl<T> Mutex<T> {
    /// Creates an unlocked mutex that holds `value`.
    pub fn new(value: T) -> Result<Self, AllocError> {
        let init = pin_init!(&this in Boxed {
            key <- LockClassKey::new_dynamic(),
            lock <- {
                // SAFETY: `this` points to the memory being initialised, whose field `key` was
                // just initialised and is pinned. The reference is used by `lock` only, which is
                // dropped before `key` is.
                let key: Pin<&'static LockClassKey> =
                    unsafe { Pin::new_unchecked(&(*this.as_ptr()).key) };
                kernel::sync::Mutex::new(Movable(value), c"hpkv_mutex", key)
            },
        });
        match KBox::pin_init(init, GFP_KERNEL) {
            Ok(boxed) => Ok(Self(boxed)),
            Err(_) => Err(AllocError),
        }
    }

    /// Waits until the mutex is free and takes it until the guard is dropped.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(ManuallyDrop::new(self.0.lock.lock()))
    }
}

/// A taken [`Mutex`] and the way to its data.
///
/// # Invariants
///
/// Outside of [`MutexGuard::unlocked`] the inner guard has not been dropped.
#[must_use = "the mutex is free again as soon as the guard is dropped"]
pub struct MutexGuard<'a, T>(ManuallyDrop<kernel::sync::MutexGuard<'a, Movable<T>>>);

impl<T> MutexGuard<'_, T> {
    /// Runs `f` with the mutex free and takes it again.
    fn unlocked<R>(&mut self, f: impl FnOnce() -> R) -> R {
        let lock = self.0.lock_ref();
        // SAFETY: By the type invariants the inner guard has not been dropped. Until a new one is
        // put in its place below nothing can use or drop it: `f` does not see `self`, and there is
        // no unwinding in the kernel.
        unsafe { ManuallyDrop::drop(&mut self.0) };
        let result = f();
        // INVARIANT: The new guard has not been dropped.
        self.0 = ManuallyDrop::new(lock.lock());
        result
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0 .0
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0 .0
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the inner guard has not been dropped, and `self` is not
        // used after this.
        unsafe { ManuallyDrop::drop(&mut self.0) };
    }
}

/// The boxed part of a [`Condvar`].
#[pin_data]
struct WaitQueue {
    #[pin]
    head: Opaque<bindings::wait_queue_head>,
}

/// A place to wait until another thread says that something has changed.
///
/// Waiting gives the mutex free and takes it again afterwards. A wait may end without a
/// notification: look at the condition again.
pub struct Condvar(Pin<KBox<WaitQueue>>);

// SAFETY: A wait queue is not bound to the thread that made it.
unsafe impl Send for Condvar {}
// SAFETY: A wait queue is protected by a lock of its own.
unsafe impl Sync for Condvar {}

impl Condvar {
    /// Creates a condition variable nobody waits on.
    pub fn new() -> Result<Self, AllocError> {
        let init = pin_init!(WaitQueue {
            // SAFETY: `head` is memory for a wait queue head, pinned, and the name and the class
            // live as long as the module's image, which outlives all of its objects.
            head <- Opaque::ffi_init(|head| unsafe {
                bindings::__init_waitqueue_head(
                    head,
                    c"hpkv_condvar".as_char_ptr(),
                    static_lock_class!().as_ptr(),
                )
            }),
        });
        match KBox::pin_init(init, GFP_KERNEL) {
            Ok(queue) => Ok(Self(queue)),
            Err(_) => Err(AllocError),
        }
    }

    /// Waits for a notification, whatever signals arrive.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        self.sleep(guard, bindings::TASK_UNINTERRUPTIBLE, MAX_SCHEDULE_TIMEOUT);
    }

    /// Waits for a notification or a signal; says whether a signal is pending.
    #[must_use = "with a signal pending a further wait returns at once"]
    pub fn wait_interruptible<T>(&self, guard: &mut MutexGuard<'_, T>) -> bool {
        self.sleep(guard, bindings::TASK_INTERRUPTIBLE, MAX_SCHEDULE_TIMEOUT);
        kernel::current!().signal_pending()
    }

    /// Waits for a notification, for `ms` milliseconds at most.
    pub fn wait_timeout_ms<T>(&self, guard: &mut MutexGuard<'_, T>, ms: u32) {
        let jiffies = kernel::time::msecs_to_jiffies(ms);
        let timeout = c_long::try_from(jiffies).unwrap_or(MAX_SCHEDULE_TIMEOUT);
        self.sleep(guard, bindings::TASK_UNINTERRUPTIBLE, timeout);
    }

    /// Ends the waits of all threads that wait now.
    pub fn notify_all(&self) {
        // Zero stands for all.
        self.wake(0);
    }

    /// Ends the wait of one thread, if any waits now.
    pub fn notify_one(&self) {
        self.wake(1);
    }

    fn wake(&self, count: c_int) {
        // SAFETY: The wait queue head was initialised in `new`; any thread may wake its waiters.
        unsafe {
            bindings::__wake_up(
                self.0.head.get(),
                bindings::TASK_NORMAL,
                count,
                core::ptr::null_mut(),
            )
        };
    }

    /// Sleeps in `state` with the mutex of `guard` free, until notified or for `timeout` jiffies.
    fn sleep<T>(&self, guard: &mut MutexGuard<'_, T>, state: u32, timeout: c_long) {
        // SAFETY: The pointer is to the running task, whose flags no other task writes.
        let flags = unsafe { (*kernel::current!().as_ptr()).flags };
        let state = if flags & bindings::PF_KTHREAD != 0 {
            bindings::TASK_IDLE
        } else {
            state
        };
        let entry = Opaque::<bindings::wait_queue_entry>::uninit();
        // SAFETY: `entry` is memory for an entry, and stays where it is until `finish_wait`.
        unsafe { bindings::init_wait(entry.get()) };
        // The entry is queued before the mutex is free, so no notification is lost that is sent
        // by someone who changes the condition under the mutex.
        // SAFETY: Head and entry are initialised, and `finish_wait` below takes the entry off the
        // queue before its memory goes.
        unsafe {
            bindings::prepare_to_wait_exclusive(self.0.head.get(), entry.get(), state as c_int)
        };
        // SAFETY: A task in process context may sleep, and the kernel takes any timeout that is
        // not negative.
        guard.unlocked(|| unsafe { bindings::schedule_timeout(timeout) });
        // SAFETY: Head and entry are initialised, and the entry was queued on this head.
        unsafe { bindings::finish_wait(self.0.head.get(), entry.get()) };
    }
}
