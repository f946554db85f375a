// SPDX-License-Identifier: GPL-2.0

//! Blocking, threads and counters of the host twin, by the standard library.

use super::super::AllocError;
use super::memory::{allow, Vec};
use std::ffi::CStr;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// A lock that sleeps.
pub struct Mutex<T>(std::sync::Mutex<T>);

/// The right to what a [`Mutex`] guards.
pub struct MutexGuard<'a, T>(Option<std::sync::MutexGuard<'a, T>>);

impl<T> Mutex<T> {
    /// A lock around `value`.
    pub fn new(value: T) -> Result<Self, AllocError> {
        allow()?;
        Ok(Mutex(std::sync::Mutex::new(value)))
    }

    /// Waits for the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0
            .as_ref()
            .expect("only empty while its condition variable waits")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0
            .as_mut()
            .expect("only empty while its condition variable waits")
    }
}

/// A queue of threads that wait for something that a [`Mutex`] guards.
pub struct Condvar(std::sync::Condvar);

impl Condvar {
    /// A queue without waiters.
    pub fn new() -> Result<Self, AllocError> {
        allow()?;
        Ok(Condvar(std::sync::Condvar::new()))
    }

    /// Gives the lock up, waits to be woken, takes the lock again. May wake without a reason.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        if let Some(inner) = guard.0.take() {
            guard.0 = Some(self.0.wait(inner).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Like [`Condvar::wait`]; `true` would mean that a signal is pending, which never is here.
    pub fn wait_interruptible<T>(&self, guard: &mut MutexGuard<'_, T>) -> bool {
        self.wait(guard);
        false
    }

    /// Like [`Condvar::wait`], for `ms` milliseconds at most.
    pub fn wait_timeout_ms<T>(&self, guard: &mut MutexGuard<'_, T>, ms: u32) {
        if let Some(inner) = guard.0.take() {
            let waited = self.0.wait_timeout(inner, Duration::from_millis(ms.into()));
            guard.0 = Some(waited.unwrap_or_else(PoisonError::into_inner).0);
        }
    }

    /// Wakes everybody.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Wakes one.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }
}

/// A thread that ends by returning; whoever drops it waits for that.
pub struct Thread(Option<std::thread::JoinHandle<()>>);

impl Thread {
    /// Starts a thread.
    pub fn spawn(
        name: &'static CStr,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<Self, AllocError> {
        allow()?;
        let name = name.to_string_lossy().into_owned();
        let handle = std::thread::Builder::new()
            .name(name)
            .spawn(body)
            .map_err(|_| AllocError)?;
        Ok(Thread(Some(handle)))
    }

    /// Waits for the thread to return.
    pub fn join(self) {
        drop(self);
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some(handle) = self.0.take() {
            let result = handle.join();
            assert!(
                result.is_ok() || std::thread::panicking(),
                "a thread of the engine panicked"
            );
        }
    }
}

#[derive(Default)]
struct WorkState {
    queued: bool,
    stopped: bool,
}

/// A piece of work that runs when it is kicked, never twice at once.
pub struct Worker {
    state: Arc<(std::sync::Mutex<WorkState>, std::sync::Condvar)>,
    thread: std::sync::Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Worker {
    /// Makes the work; nothing runs yet.
    pub fn new(
        name: &'static CStr,
        work: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, AllocError> {
        allow()?;
        let state = Arc::new((
            std::sync::Mutex::new(WorkState::default()),
            Default::default(),
        ));
        let shared: Arc<(std::sync::Mutex<WorkState>, std::sync::Condvar)> = Arc::clone(&state);
        let body = move || loop {
            let (lock, wake) = &*shared;
            let mut state = lock.lock().unwrap_or_else(PoisonError::into_inner);
            while !state.queued && !state.stopped {
                state = wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.stopped {
                return;
            }
            state.queued = false;
            drop(state);
            work();
        };
        let name = name.to_string_lossy().into_owned();
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(body)
            .map_err(|_| AllocError)?;
        Ok(Worker {
            state,
            thread: std::sync::Mutex::new(Some(thread)),
        })
    }

    /// Lets the work run once more, soon.
    pub fn kick(&self) {
        let (lock, wake) = &*self.state;
        lock.lock().unwrap_or_else(PoisonError::into_inner).queued = true;
        wake.notify_all();
    }

    /// No further run begins; waits for one that runs.
    pub fn stop(&self) {
        let (lock, wake) = &*self.state;
        lock.lock().unwrap_or_else(PoisonError::into_inner).stopped = true;
        wake.notify_all();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            let result = thread.join();
            assert!(
                result.is_ok() || std::thread::panicking(),
                "work of the engine panicked"
            );
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Event counters.
pub struct Counters<const N: usize>(Vec<AtomicU64>);

impl<const N: usize> Counters<N> {
    /// Counters that stand at 0.
    pub fn new() -> Result<Self, AllocError> {
        let mut counters = Vec::with_capacity(N)?;
        for _ in 0..N {
            counters.push(AtomicU64::new(0))?;
        }
        Ok(Counters(counters))
    }

    /// Adds `by` to a counter.
    pub fn add(&self, counter: usize, by: u64) {
        if let Some(counter) = self.0.get(counter) {
            counter.fetch_add(by, Ordering::Relaxed);
        }
    }

    /// Where a counter stands.
    pub fn sum(&self, counter: usize) -> u64 {
        self.0
            .get(counter)
            .map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}
