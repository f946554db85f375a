// SPDX-License-Identifier: GPL-2.0

//! Memory of the host twin: the standard allocator, and failures on demand.

use super::super::AllocError;
use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

thread_local! {
    static FAIL_AFTER: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Lets the allocation after the next `count` ones of this thread fail, once; `None` = never.
///
/// Returns whether a failure that was ordered before is still to come.
pub fn fail_allocation_after(count: Option<u64>) -> bool {
    FAIL_AFTER.replace(count).is_some()
}

/// Every allocation of the twin passes here.
pub(super) fn allow() -> Result<(), AllocError> {
    match FAIL_AFTER.get() {
        None => Ok(()),
        Some(0) => {
            FAIL_AFTER.set(None);
            Err(AllocError)
        }
        Some(count) => {
            FAIL_AFTER.set(Some(count - 1));
            Ok(())
        }
    }
}

/// A counted reference; an error if there is no memory.
pub fn arc_new<T>(value: T) -> Result<Arc<T>, AllocError> {
    allow()?;
    Ok(Arc::new(value))
}

/// A growing array whose growth may fail.
#[derive(Debug)]
pub struct Vec<T>(std::vec::Vec<T>);

impl<T> Vec<T> {
    /// An array without elements; allocates nothing.
    pub const fn new() -> Self {
        Vec(std::vec::Vec::new())
    }

    /// An empty array with room for `capacity` elements.
    pub fn with_capacity(capacity: usize) -> Result<Self, AllocError> {
        let mut new = Self::new();
        new.reserve(capacity)?;
        Ok(new)
    }

    /// Makes room for `additional` more elements.
    pub fn reserve(&mut self, additional: usize) -> Result<(), AllocError> {
        if self.0.capacity() - self.0.len() < additional {
            allow()?;
            self.0.try_reserve(additional).map_err(|_| AllocError)?;
        }
        Ok(())
    }

    /// Adds an element at the end.
    pub fn push(&mut self, value: T) -> Result<(), AllocError> {
        self.reserve(1)?;
        self.0.push(value);
        Ok(())
    }

    /// Takes the last element out.
    pub fn pop(&mut self) -> Option<T> {
        self.0.pop()
    }

    /// Elements that fit without growth.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// Drops all but the first `len` elements.
    pub fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    /// Drops all elements.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The elements.
    pub fn as_slice(&self) -> &[T] {
        &self.0
    }

    /// The elements, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.0
    }
}

impl<T: Clone> Vec<T> {
    /// Adds copies of `values` at the end.
    pub fn extend_from_slice(&mut self, values: &[T]) -> Result<(), AllocError> {
        self.reserve(values.len())?;
        self.0.extend_from_slice(values);
        Ok(())
    }

    /// Makes the array `len` long; new elements are copies of `value`.
    pub fn resize(&mut self, len: usize, value: T) -> Result<(), AllocError> {
        self.reserve(len.saturating_sub(self.0.len()))?;
        self.0.resize(len, value);
        Ok(())
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
        &self.0
    }
}

impl<T> DerefMut for Vec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

impl<T> IntoIterator for Vec<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a Vec<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<'a, T> IntoIterator for &'a mut Vec<T> {
    type Item = &'a mut T;
    type IntoIter = std::slice::IterMut<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter_mut()
    }
}

/// Bytes for the device, a multiple of the page size.
#[derive(Debug)]
pub struct PageBuf(std::vec::Vec<u8>);

impl PageBuf {
    /// Lengths are multiples of this.
    pub const ALIGN: usize = 4096;

    /// `len` zero bytes; `len` is a multiple of [`PageBuf::ALIGN`].
    pub fn zeroed(len: usize) -> Result<Self, AllocError> {
        if !len.is_multiple_of(Self::ALIGN) {
            return Err(AllocError);
        }
        allow()?;
        Ok(PageBuf(vec![0; len]))
    }
}

impl Deref for PageBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for PageBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
