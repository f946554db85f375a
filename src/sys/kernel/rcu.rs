// SPDX-License-Identifier: GPL-2.0

//! Objects that readers find without a lock.
//!
//! An object is one allocation: a count of references, a header of any type, and bytes. It is
//! filled while only its maker knows it ([`Unique`]), immutable from then on ([`Shared`]), and
//! published by putting a reference into an [`RcuCell`]. A reader that holds a [`ReadGuard`] loads
//! the cell and looks at the object ([`Object`]) without writing to memory that others use.
//!
//! # Why this is sound
//!
//! The memory of an object is freed, and its header dropped, one grace period after the last
//! reference went. A reader that found it in a cell did so while the cell held a reference, in a
//! read section that began before that reference went, and the grace period ends after that read
//! section. The borrow checker holds the rest: what [`RcuCell::load`] gives out can outlive neither
//! the guard nor the cell.

use super::reclaim;
use super::shim;
use crate::sys::AllocError;
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::mem::{needs_drop, ManuallyDrop};
use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{fence, AtomicPtr, AtomicU32, Ordering};
use kernel::bindings;
use kernel::types::NotThreadSafe;

/// A read section: while it exists, no grace period ends.
///
/// Nothing may block in it.
pub struct ReadGuard(NotThreadSafe);

/// Begins a read section; they nest.
#[inline]
pub fn rcu_read_lock() -> ReadGuard {
    // With preemptible RCU, and no lockdep that wants to know, the lock is this exported function;
    // otherwise it takes the detour over the helper of an inline function.
    #[cfg(all(CONFIG_PREEMPT_RCU, not(CONFIG_DEBUG_LOCK_ALLOC)))]
    // SAFETY: May be called in any context; the drop of the guard is its counterpart.
    unsafe {
        bindings::__rcu_read_lock()
    };
    #[cfg(not(all(CONFIG_PREEMPT_RCU, not(CONFIG_DEBUG_LOCK_ALLOC))))]
    // SAFETY: May be called in any context; the drop of the guard is its counterpart.
    unsafe {
        bindings::rcu_read_lock()
    };
    ReadGuard(NotThreadSafe)
}

impl Drop for ReadGuard {
    #[inline]
    fn drop(&mut self) {
        #[cfg(all(CONFIG_PREEMPT_RCU, not(CONFIG_DEBUG_LOCK_ALLOC)))]
        // SAFETY: The guard was made by `rcu_read_lock`, on this very thread.
        unsafe {
            bindings::__rcu_read_unlock()
        };
        #[cfg(not(all(CONFIG_PREEMPT_RCU, not(CONFIG_DEBUG_LOCK_ALLOC))))]
        // SAFETY: The guard was made by `rcu_read_lock`, on this very thread.
        unsafe {
            bindings::rcu_read_unlock()
        };
    }
}

/// Waits until all read sections that have begun have ended.
pub fn synchronize_rcu() {
    // SAFETY: The caller is in process context and in no read section.
    unsafe { bindings::synchronize_rcu() };
}

/// From this count on an object is never freed: references have been lost rather than dropped, and
/// a leak is better than an overflow to 0. Half of the range below, for threads that are between
/// adding and looking.
const REFS_SATURATED: u32 = 1 << 31;

/// What a saturated count is set to.
const REFS_STUCK: u32 = REFS_SATURATED | (REFS_SATURATED >> 1);

/// What precedes the bytes of an object.
#[repr(C)]
struct Prefix<H> {
    /// References; at 0 the object waits for its grace period.
    refs: AtomicU32,
    /// Number of bytes that follow.
    len: u32,
    /// Used by RCU once `refs` is 0. Its offset must be below 4,096 for `kvfree_call_rcu`, hence
    /// its place before the header.
    rcu: bindings::callback_head,
    header: H,
}

/// The layout of an object in memory.
#[repr(C)]
struct Inner<H> {
    prefix: Prefix<H>,
    bytes: [u8],
}

/// An object that others know too: header and bytes, immutable.
///
/// # Invariants
///
/// Lies in an allocation of its own from `kvmalloc` that was made by [`Unique::alloc`].
// The cell lets references to an object be turned into counted ones: it is what allows to drop and
// free what a shared reference pointed to, and to write the count and the RCU head.
#[repr(transparent)]
pub struct Object<H>(UnsafeCell<Inner<H>>);

// SAFETY: Shared access reaches the header and the bytes by shared reference, and the count, which
// is atomic. With `try_share` any thread may become the one whose drop leads to the destruction of
// the header, hence `Send`.
unsafe impl<H: Send + Sync> Sync for Object<H> {}

impl<H> Object<H> {
    /// Makes a reference from the thin pointer that is kept in memory.
    ///
    /// # Safety
    ///
    /// `ptr` points to an object made by [`Unique::alloc`], which is not freed during `'a`.
    #[inline]
    unsafe fn from_thin<'a>(ptr: NonNull<Prefix<H>>) -> &'a Self {
        // SAFETY: By the requirement the object is there, and its length never changes.
        let len = unsafe { (*ptr.as_ptr()).len };
        // The object's metadata is that of its last field, the slice of bytes.
        let object =
            core::ptr::slice_from_raw_parts(ptr.as_ptr().cast::<u8>(), len as usize) as *const Self;
        // SAFETY: By the requirement the object is there, with `len` bytes behind the prefix.
        unsafe { &*object }
    }

    /// Returns the header.
    #[inline]
    pub fn header(&self) -> &H {
        // SAFETY: The header of a shared object is never written to before its destruction.
        unsafe { &(*self.0.get()).prefix.header }
    }

    /// Returns the bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: The bytes of a shared object are never written to.
        unsafe { &(*self.0.get()).bytes }
    }

    #[inline]
    fn refs(&self) -> &AtomicU32 {
        // SAFETY: The count is only ever accessed atomically.
        unsafe { &(*self.0.get()).prefix.refs }
    }

    /// Takes a reference that outlives the read section, unless the last one has gone already.
    #[inline]
    pub fn try_share(&self) -> Option<Shared<H>> {
        let refs = self.refs();
        // Relaxed: the object itself was acquired with the pointer to it.
        let mut seen = refs.load(Ordering::Relaxed);
        loop {
            if seen == 0 {
                return None;
            }
            if seen >= REFS_SATURATED {
                break;
            }
            match refs.compare_exchange_weak(
                seen,
                seen.wrapping_add(1),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        // INVARIANT: The reference was counted just above, or the count stands still for ever.
        Some(Shared {
            ptr: NonNull::new(self.0.get().cast::<Prefix<H>>())?,
            _owns: PhantomData,
        })
    }
}

/// An object nobody else knows yet.
///
/// # Invariants
///
/// `ptr` points to an object made by `alloc`, and is the only pointer to it.
pub struct Unique<H> {
    ptr: NonNull<Prefix<H>>,
    _owns: PhantomData<H>,
}

// SAFETY: A `Unique` owns its object, as a box would.
unsafe impl<H: Send> Send for Unique<H> {}
// SAFETY: Shared access to a `Unique` is shared access to header and bytes.
unsafe impl<H: Sync> Sync for Unique<H> {}

impl<H: Send + Sync + 'static> Unique<H> {
    /// Allocates an object of `header` and `len` zero bytes.
    pub fn alloc(header: H, len: usize) -> Result<Self, AllocError> {
        // The destruction is deferred by kernel interfaces that take an RCU head so far in.
        const { assert!(core::mem::offset_of!(Prefix<H>, rcu) < 4096) };

        let stored_len = u32::try_from(len).map_err(|_| AllocError)?;
        // The layout rounds the size of an object up to its alignment; references to it span that.
        let align = align_of::<Prefix<H>>();
        let size = size_of::<Prefix<H>>()
            .checked_add(len)
            .and_then(|size| size.checked_next_multiple_of(align))
            .ok_or(AllocError)?;
        // SAFETY: The function may be called with any size and any power of two as alignment, in
        // process context.
        let memory = unsafe { shim::hpkv_kvzalloc(size, align) };
        let ptr = NonNull::new(memory.cast::<Prefix<H>>()).ok_or(AllocError)?;
        let prefix = Prefix {
            refs: AtomicU32::new(1),
            len: stored_len,
            rcu: bindings::callback_head::default(),
            header,
        };
        // SAFETY: The memory is new, large enough, and aligned for a prefix. What follows it was
        // zeroed by the allocation.
        unsafe { ptr.write(prefix) };
        // INVARIANT: The object was made just above; nobody else knows its address.
        Ok(Self {
            ptr,
            _owns: PhantomData,
        })
    }
}

impl<H> Unique<H> {
    /// Returns the header.
    pub fn header(&self) -> &H {
        self.object().header()
    }

    /// Returns the bytes.
    pub fn bytes(&self) -> &[u8] {
        self.object().bytes()
    }

    /// Returns the header for change.
    pub fn header_mut(&mut self) -> &mut H {
        // SAFETY: By the type invariants the object is there and is ours alone.
        unsafe { &mut (*self.ptr.as_ptr()).header }
    }

    /// Returns the bytes for change.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let inner = self.object().0.get();
        // SAFETY: By the type invariants the object is there and is ours alone; the pointer comes
        // from inside its cell, so that it may be written through.
        unsafe { &mut (*inner).bytes }
    }

    /// Turns the object into one that may be referred to by many, and changed by nobody.
    pub fn share(self) -> Shared<H> {
        let this = ManuallyDrop::new(self);
        // INVARIANT: The count has been 1 since the object was made; that reference is this one.
        Shared {
            ptr: this.ptr,
            _owns: PhantomData,
        }
    }

    fn object(&self) -> &Object<H> {
        // SAFETY: By the type invariants the object is there for as long as `self` is.
        unsafe { Object::from_thin(self.ptr) }
    }
}

impl<H> Drop for Unique<H> {
    fn drop(&mut self) {
        // No reader has ever seen the object, so none has to be waited for.
        //
        // SAFETY: By the type invariants the object is there and is ours alone; nothing uses it
        // after this.
        unsafe { destroy_now(self.ptr) };
    }
}

/// A counted reference to an object.
///
/// When the last one is dropped, the object is freed after a grace period. If its header needs to
/// be dropped, that happens then too, in process context. The drop itself never blocks.
///
/// # Invariants
///
/// `ptr` points to an object made by [`Unique::alloc`], one of whose references is this.
pub struct Shared<H> {
    ptr: NonNull<Prefix<H>>,
    _owns: PhantomData<H>,
}

// SAFETY: A reference gives shared access to the header, and its drop may lead to the destruction
// of the header on any thread.
unsafe impl<H: Send + Sync> Send for Shared<H> {}
// SAFETY: As above: a shared `Shared` can be cloned.
unsafe impl<H: Send + Sync> Sync for Shared<H> {}

impl<H> Shared<H> {
    /// Says whether both refer to the same object.
    pub fn ptr_eq(a: &Self, b: &Self) -> bool {
        a.ptr == b.ptr
    }
}

impl<H> Clone for Shared<H> {
    #[inline]
    fn clone(&self) -> Self {
        // Relaxed: who can clone already has access.
        if self.refs().fetch_add(1, Ordering::Relaxed) >= REFS_SATURATED {
            self.refs().store(REFS_STUCK, Ordering::Relaxed);
        }
        // INVARIANT: The reference was counted just above.
        Self {
            ptr: self.ptr,
            _owns: PhantomData,
        }
    }
}

impl<H> Deref for Shared<H> {
    type Target = Object<H>;

    #[inline]
    fn deref(&self) -> &Object<H> {
        // SAFETY: By the type invariants the object is there for as long as `self` is.
        unsafe { Object::from_thin(self.ptr) }
    }
}

impl<H> Drop for Shared<H> {
    #[inline]
    fn drop(&mut self) {
        // Release: what this thread did with the object happens before its destruction.
        match self.refs().fetch_sub(1, Ordering::Release) {
            1 => {
                // Acquire: and so does what all others did.
                fence(Ordering::Acquire);
                // SAFETY: The count was 1, and this was that reference. Nobody can take another:
                // `clone` needs one, and `try_share` refuses at 0.
                unsafe { retire(self.ptr) };
            }
            refs if refs >= REFS_SATURATED => self.refs().store(REFS_STUCK, Ordering::Relaxed),
            _ => {}
        }
    }
}

/// Destroys and frees an object after a grace period.
///
/// # Safety
///
/// `ptr` points to an object made by [`Unique::alloc`]; readers may still look at it in read
/// sections that have begun, and nobody else uses it from now on.
unsafe fn retire<H>(ptr: NonNull<Prefix<H>>) {
    // SAFETY: By the requirement the object is there, and its RCU head is used by nobody else.
    let rcu = unsafe { &raw mut (*ptr.as_ptr()).rcu };
    if needs_drop::<H>() {
        // SAFETY: The head stays where it is until the callback has run, and the callback is for
        // objects with this header. `reclaim::Runtime` outlives all callbacks.
        unsafe { bindings::call_rcu(rcu, Some(grace_period_over::<H>)) };
    } else {
        // SAFETY: The object is an allocation of `kvmalloc`, the head lies less than 4,096 bytes
        // into it, and there is nothing to be done but to free it.
        unsafe { bindings::kvfree_call_rcu(rcu, ptr.as_ptr().cast()) };
    }
}

/// Called by RCU, perhaps in a soft interrupt: hands an object to the reclaimer.
///
/// # Safety
///
/// `head` is the RCU head of an object with a header of type `H`, which nobody uses any more.
unsafe extern "C" fn grace_period_over<H>(head: *mut bindings::callback_head) {
    // SAFETY: By the requirement the head is ours now, and it lies in an object for `destroy`.
    unsafe { reclaim::destroy_later(head, destroy::<H>) };
}

/// Called by the reclaimer, in process context.
///
/// # Safety
///
/// `head` is the RCU head of an object with a header of type `H`, which nobody uses any more.
unsafe extern "C" fn destroy<H>(head: *mut bindings::callback_head) {
    // SAFETY: By the requirement the head is a field of the prefix of an object.
    let prefix = unsafe { kernel::container_of!(head, Prefix<H>, rcu) };
    if let Some(ptr) = NonNull::new(prefix) {
        // SAFETY: By the requirement the object is there and unused.
        unsafe { destroy_now(ptr) };
    }
}

/// Drops the header of an object and frees its memory.
///
/// # Safety
///
/// `ptr` points to an object made by [`Unique::alloc`], which nobody uses from now on.
unsafe fn destroy_now<H>(ptr: NonNull<Prefix<H>>) {
    // SAFETY: By the requirement the header is there, initialised, and unused.
    unsafe { core::ptr::drop_in_place(&raw mut (*ptr.as_ptr()).header) };
    // SAFETY: The object is an allocation of `kvmalloc`, and nothing in it is left to be dropped.
    unsafe { bindings::kvfree(ptr.as_ptr().cast()) };
}

/// A place for a reference to an object, which readers look at while writers exchange it.
///
/// # Invariants
///
/// `ptr` is null, or the cell owns one of the references of the object it points to.
pub struct RcuCell<H> {
    ptr: AtomicPtr<Prefix<H>>,
    _owns: PhantomData<Shared<H>>,
}

impl<H> RcuCell<H> {
    /// Creates a cell that refers to nothing.
    pub const fn empty() -> Self {
        Self {
            ptr: AtomicPtr::new(core::ptr::null_mut()),
            _owns: PhantomData,
        }
    }

    /// Looks at the object the cell refers to at this moment.
    #[inline]
    pub fn load<'g>(&'g self, _guard: &'g ReadGuard) -> Option<&'g Object<H>> {
        let ptr = NonNull::new(self.ptr.load(Ordering::Acquire))?;
        // SAFETY: By the type invariants the cell owned a reference when it was loaded, and the
        // read section had begun. If that reference, or the last one, is dropped since, the object
        // is freed only after a grace period, hence after the guard is gone, and `'g` with it.
        Some(unsafe { Object::from_thin(ptr) })
    }

    /// Takes a reference to the object the cell refers to at this moment.
    pub fn get(&self) -> Option<Shared<H>> {
        let guard = rcu_read_lock();
        loop {
            // If the last reference went between the load and the attempt, the cell has been given
            // another object since.
            if let Some(shared) = self.load(&guard)?.try_share() {
                return Some(shared);
            }
        }
    }

    /// Exchanges the reference and returns the previous one.
    ///
    /// Who sees the new object sees all that happened before the exchange.
    pub fn swap(&self, new: Option<Shared<H>>) -> Option<Shared<H>> {
        let new = new.map_or(core::ptr::null_mut(), |shared| {
            ManuallyDrop::new(shared).ptr.as_ptr()
        });
        let old = self.ptr.swap(new, Ordering::AcqRel);
        // INVARIANT: The cell owned a reference to `old`, which is now the caller's; it owns that
        // to `new`, whose drop was suppressed.
        Some(Shared {
            ptr: NonNull::new(old)?,
            _owns: PhantomData,
        })
    }

    /// Says whether the cell refers to nothing at this moment.
    #[inline]
    pub fn is_none(&self) -> bool {
        self.ptr.load(Ordering::Acquire).is_null()
    }
}

impl<H> From<Shared<H>> for RcuCell<H> {
    fn from(shared: Shared<H>) -> Self {
        // INVARIANT: The cell owns the reference, whose drop is suppressed.
        Self {
            ptr: AtomicPtr::new(ManuallyDrop::new(shared).ptr.as_ptr()),
            _owns: PhantomData,
        }
    }
}

impl<H> Default for RcuCell<H> {
    fn default() -> Self {
        Self::empty()
    }
}

impl<H> Drop for RcuCell<H> {
    fn drop(&mut self) {
        drop(self.swap(None));
    }
}
