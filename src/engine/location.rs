// SPDX-License-Identifier: GPL-2.0

//! Places on the device, as records in memory name them.

/// Where a record lies on the device: segment and byte offset in it, in one word. 0 = nowhere.
///
/// Offset 0 of a segment is its header, so no record has the word 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location(u64);

impl Location {
    pub(crate) const NONE: Location = Location(0);

    pub(crate) fn new(segment: u32, offset: u32) -> Self {
        Location(u64::from(segment) << 32 | u64::from(offset))
    }

    pub(crate) fn is_some(self) -> bool {
        self.0 != 0
    }

    pub(crate) fn segment(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(crate) fn offset(self) -> u32 {
        self.0 as u32
    }

    /// The location in one word, as a record keeps it.
    pub(crate) fn word(self) -> u64 {
        self.0
    }

    pub(crate) fn from_word(word: u64) -> Self {
        Location(word)
    }
}

/// A piece of a segment that one record takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) location: Location,
    pub(crate) len: u32,
}
