// SPDX-License-Identifier: GPL-2.0

//! Read sections and grace periods of the host twin, by crossbeam's epochs.

use super::super::AllocError;
use super::memory::allow;
use crossbeam_epoch as epoch;
use std::ops::Deref;
use std::ptr;
use std::sync::atomic::{fence, AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::Arc;

/// A read section: what was published when it began is not freed before it ends.
pub struct ReadGuard(#[allow(dead_code)] epoch::Guard);

/// Begins a read section.
pub fn rcu_read_lock() -> ReadGuard {
    ReadGuard(epoch::pin())
}

/// Waits until every read section that runs now has ended.
pub fn synchronize_rcu() {
    let passed = Arc::new(AtomicBool::new(false));
    let flag = passed.clone();
    epoch::pin().defer(move || flag.store(true, Ordering::Release));
    while !passed.load(Ordering::Acquire) {
        epoch::pin().flush();
        std::thread::yield_now();
    }
}

/// A header and the bytes behind it.
pub struct Object<H> {
    references: AtomicUsize,
    header: H,
    bytes: Box<[u8]>,
}

impl<H> Object<H> {
    /// The header.
    pub fn header(&self) -> &H {
        &self.header
    }

    /// The bytes behind the header.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A counted reference, unless the last one is gone.
    pub fn try_share(&self) -> Option<Shared<H>> {
        self.references
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                if count == 0 {
                    None
                } else {
                    Some(count + 1)
                }
            })
            .ok()?;
        Some(Shared {
            object: ptr::from_ref(self).cast_mut(),
        })
    }
}

/// An object that nobody else sees yet.
pub struct Unique<H>(Box<Object<H>>);

impl<H: Send + Sync + 'static> Unique<H> {
    /// A header with `len` zero bytes behind it.
    pub fn alloc(header: H, len: usize) -> Result<Self, AllocError> {
        allow()?;
        let bytes = vec![0; len].into_boxed_slice();
        Ok(Unique(Box::new(Object {
            references: AtomicUsize::new(1),
            header,
            bytes,
        })))
    }
}

impl<H> Unique<H> {
    /// The header.
    pub fn header(&self) -> &H {
        &self.0.header
    }

    /// The header, to be changed.
    pub fn header_mut(&mut self) -> &mut H {
        &mut self.0.header
    }

    /// The bytes behind the header.
    pub fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// The bytes behind the header, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0.bytes
    }

    /// The object, from now on shared and unchanged.
    pub fn share(self) -> Shared<H> {
        Shared {
            object: Box::into_raw(self.0),
        }
    }
}

/// A counted reference. The object is freed a grace period after the last one is dropped.
///
/// # Invariants
///
/// `object` came from a `Box`, and this reference is one of those that its count counts.
pub struct Shared<H> {
    object: *mut Object<H>,
}

// SAFETY: A reference only gives shared access to the object and may be the one that lets it be
// dropped elsewhere, so the header has to be both `Send` and `Sync`.
unsafe impl<H: Send + Sync> Send for Shared<H> {}

// SAFETY: As above.
unsafe impl<H: Send + Sync> Sync for Shared<H> {}

impl<H> Shared<H> {
    /// Whether both refer to the same object.
    pub fn ptr_eq(a: &Self, b: &Self) -> bool {
        ptr::eq(a.object, b.object)
    }
}

impl<H> Clone for Shared<H> {
    fn clone(&self) -> Self {
        self.references.fetch_add(1, Ordering::Relaxed);
        Shared {
            object: self.object,
        }
    }
}

impl<H> Deref for Shared<H> {
    type Target = Object<H>;

    fn deref(&self) -> &Object<H> {
        // SAFETY: By the type invariant the object is counted by this reference, so it lives.
        unsafe { &*self.object }
    }
}

impl<H> Drop for Shared<H> {
    fn drop(&mut self) {
        if self.references.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        fence(Ordering::Acquire);
        let object = self.object;
        // SAFETY: This was the last reference and none can be made from a count of zero, so only
        // read sections that run now can still see the object. It is dropped when they have
        // ended, once. `Unique::alloc` made sure that the header may be dropped by another thread.
        unsafe { epoch::pin().defer_unchecked(move || drop(Box::from_raw(object))) };
    }
}

/// A place that holds a counted reference, or none, and can be read in a read section.
///
/// # Invariants
///
/// The pointer is null or comes from a [`Shared`] whose reference the cell owns.
pub struct RcuCell<H> {
    object: AtomicPtr<Object<H>>,
}

// SAFETY: The cell gives and takes `Shared<H>`, which is `Send` and `Sync` under these bounds.
unsafe impl<H: Send + Sync> Send for RcuCell<H> {}

// SAFETY: As above.
unsafe impl<H: Send + Sync> Sync for RcuCell<H> {}

impl<H> RcuCell<H> {
    /// A cell without a reference.
    pub const fn empty() -> Self {
        RcuCell {
            object: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// What the cell refers to, as long as the read section lasts.
    pub fn load<'g>(&'g self, _guard: &'g ReadGuard) -> Option<&'g Object<H>> {
        // SAFETY: A non-null pointer was counted by the cell when it was read. Had the cell given
        // that reference away since, and had it been the last one, the object would be freed
        // after a grace period only, which cannot pass while the guard lives.
        unsafe { self.object.load(Ordering::Acquire).as_ref() }
    }

    /// Puts a reference, or none, into the cell and gives back what was there.
    pub fn swap(&self, next: Option<Shared<H>>) -> Option<Shared<H>> {
        let next = next.map_or(ptr::null_mut(), |shared| {
            std::mem::ManuallyDrop::new(shared).object
        });
        let old = self.object.swap(next, Ordering::AcqRel);
        // INVARIANT: The reference that the cell owned is the caller's now.
        (!old.is_null()).then(|| Shared { object: old })
    }

    /// A counted reference to what the cell refers to.
    pub fn get(&self) -> Option<Shared<H>> {
        let guard = rcu_read_lock();
        self.load(&guard)?.try_share()
    }

    /// Whether the cell holds no reference.
    pub fn is_none(&self) -> bool {
        self.object.load(Ordering::Relaxed).is_null()
    }
}

impl<H> Drop for RcuCell<H> {
    fn drop(&mut self) {
        drop(self.swap(None));
    }
}
