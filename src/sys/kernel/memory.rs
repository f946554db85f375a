// SPDX-License-Identifier: GPL-2.0

//! Memory whose allocation may fail.

use super::shim;
use crate::sys::AllocError;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use kernel::alloc::allocator::KVmalloc;
use kernel::alloc::kvec::{IntoIter, KVVec};
use kernel::prelude::GFP_KERNEL;

pub use kernel::sync::Arc;

/// Puts `value` into a new reference-counted allocation.
pub fn arc_new<T>(value: T) -> Result<Arc<T>, AllocError> {
    Arc::new(value, GFP_KERNEL).map_err(|_| AllocError)
}

/// A growable array.
///
/// Small ones are physically contiguous; what does not fit there is mapped page by page, so that
/// large tables do not depend on unfragmented memory.
#[derive(Debug)]
pub struct Vec<T>(KVVec<T>);

impl<T> Vec<T> {
    /// Creates an empty vector without allocating.
    pub const fn new() -> Self {
        Self(KVVec::new())
    }

    /// Creates an empty vector with room for `capacity` elements.
    pub fn with_capacity(capacity: usize) -> Result<Self, AllocError> {
        match KVVec::with_capacity(capacity, GFP_KERNEL) {
            Ok(vec) => Ok(Self(vec)),
            Err(_) => Err(AllocError),
        }
    }

    /// Appends `value`; when there is no memory for it, `value` is dropped.
    pub fn push(&mut self, value: T) -> Result<(), AllocError> {
        self.0.push(value, GFP_KERNEL).map_err(|_| AllocError)
    }

    /// Removes and returns the last element.
    pub fn pop(&mut self) -> Option<T> {
        self.0.pop()
    }

    /// Makes room for `additional` elements more than there are.
    pub fn reserve(&mut self, additional: usize) -> Result<(), AllocError> {
        self.0
            .reserve(additional, GFP_KERNEL)
            .map_err(|_| AllocError)
    }

    /// Returns how many elements fit without another allocation.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// Drops all elements from index `len` on; the capacity stays.
    pub fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    /// Drops all elements; the capacity stays.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Returns the elements.
    pub fn as_slice(&self) -> &[T] {
        self.0.as_slice()
    }

    /// Returns the elements for change.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        self.0.as_mut_slice()
    }
}

impl<T: Clone> Vec<T> {
    /// Appends a clone of each of `other`'s elements; on failure nothing was appended.
    pub fn extend_from_slice(&mut self, other: &[T]) -> Result<(), AllocError> {
        self.0
            .extend_from_slice(other, GFP_KERNEL)
            .map_err(|_| AllocError)
    }

    /// Shortens the vector to `len` elements, or lengthens it with clones of `value`.
    pub fn resize(&mut self, len: usize, value: T) -> Result<(), AllocError> {
        self.0
            .resize(len, value, GFP_KERNEL)
            .map_err(|_| AllocError)
    }
}

impl<T> Default for Vec<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Deref for Vec<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.as_slice()
    }
}

impl<T> DerefMut for Vec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.as_mut_slice()
    }
}

impl<T> IntoIterator for Vec<T> {
    type Item = T;
    type IntoIter = IntoIter<T, KVmalloc>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a Vec<T> {
    type Item = &'a T;
    type IntoIter = core::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.as_slice().iter()
    }
}

impl<'a, T> IntoIterator for &'a mut Vec<T> {
    type Item = &'a mut T;
    type IntoIter = core::slice::IterMut<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.as_mut_slice().iter_mut()
    }
}

/// Nothing, at the alignment of a [`PageBuf`].
#[repr(align(4096))]
struct Unit;

/// Bytes for device I/O: page aligned, whole units of [`PageBuf::ALIGN`] bytes.
///
/// # Invariants
///
/// If `len` is not 0, `bytes` points to `len` initialised bytes from `kvmalloc`, aligned to
/// `ALIGN`, that belong to this value alone. If `len` is 0, `bytes` dangles, aligned.
pub struct PageBuf {
    bytes: NonNull<u8>,
    len: usize,
}

// SAFETY: A `PageBuf` owns its bytes, as a `KVVec<u8>` would.
unsafe impl Send for PageBuf {}
// SAFETY: Shared access to a `PageBuf` only reads bytes.
unsafe impl Sync for PageBuf {}

impl PageBuf {
    /// The alignment of the buffer and of its length, in bytes.
    pub const ALIGN: usize = align_of::<Unit>();

    /// Allocates `len` zero bytes; a `len` that is not a multiple of [`PageBuf::ALIGN`] is refused.
    pub fn zeroed(len: usize) -> Result<Self, AllocError> {
        if len % Self::ALIGN != 0 {
            return Err(AllocError);
        }
        let bytes = if len == 0 {
            // Nothing is read through this pointer, since there are no bytes behind it.
            NonNull::<Unit>::dangling().cast::<u8>()
        } else {
            // SAFETY: The function may be called with any size and any power of two as alignment,
            // in process context, where everything in this module runs that may fail to allocate.
            let bytes = unsafe { shim::hpkv_kvzalloc(len, Self::ALIGN) };
            NonNull::new(bytes.cast::<u8>()).ok_or(AllocError)?
        };
        // INVARIANT: The bytes were allocated just above, as zeros, and nobody else knows them; or
        // `len` is 0 and the pointer is aligned.
        Ok(Self { bytes, len })
    }
}

impl Deref for PageBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: By the type invariants `len` initialised bytes lie there (none, if the pointer
        // dangles), and they change only through `&mut self`.
        unsafe { core::slice::from_raw_parts(self.bytes.as_ptr(), self.len) }
    }
}

impl DerefMut for PageBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: By the type invariants `len` initialised bytes lie there (none, if the pointer
        // dangles), and `&mut self` makes this access the only one.
        unsafe { core::slice::from_raw_parts_mut(self.bytes.as_ptr(), self.len) }
    }
}

impl Drop for PageBuf {
    fn drop(&mut self) {
        if self.len != 0 {
            // SAFETY: By the type invariants the bytes come from `kvmalloc` and are ours; nothing
            // uses them after this.
            unsafe { kernel::bindings::kvfree(self.bytes.as_ptr().cast()) };
        }
    }
}
