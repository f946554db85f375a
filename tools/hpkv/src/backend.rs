// SPDX-License-Identifier: GPL-2.0
//! The seam between what a client offers and who answers it.
//!
//! A backend makes one request and reports one answer. Everything that takes
//! more than one request (growing a buffer, going on with a scan) is above it.

use rustix::io::Errno;

use crate::{DeleteOptions, Metadata, PutOptions, Stat, Updated, Version};

/// Answer to a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Got {
    /// The value is in the first bytes of the buffer.
    Value {
        value_len: usize,
        metadata: Metadata,
    },
    /// The value takes this much room; the buffer was left alone.
    Room(usize),
}

/// A change of a part of a value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Update<'a> {
    pub(crate) data: &'a [u8],
    /// Where the bytes go; `None` is the end.
    pub(crate) offset: Option<u64>,
    pub(crate) flags: u32,
    pub(crate) expected_version: u64,
}

/// One step of a scan.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step<'a> {
    pub(crate) start: &'a [u8],
    pub(crate) end: &'a [u8],
    pub(crate) flags: u32,
    pub(crate) limit: u32,
    pub(crate) cursor: u64,
}

/// Answer to one step of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scanned {
    /// Entries are in the first `used_len` bytes of the buffer.
    Entries {
        count: usize,
        used_len: usize,
        cursor: u64,
        more: bool,
    },
    /// The next entry takes this much room.
    Room(usize),
}

/// Who answers requests.
pub(crate) trait Backend: std::fmt::Debug + Send + Sync {
    fn version(&self) -> Result<Version, Errno>;
    fn get(&self, key: &[u8], buffer: &mut [u8]) -> Result<Got, Errno>;
    fn put(&self, key: &[u8], value: &[u8], options: &PutOptions) -> Result<u64, Errno>;
    fn delete(&self, key: &[u8], options: &DeleteOptions) -> Result<u64, Errno>;
    fn update(&self, key: &[u8], update: Update<'_>) -> Result<Updated, Errno>;
    fn scan(&self, step: Step<'_>, buffer: &mut [u8]) -> Result<Scanned, Errno>;
    fn stat(&self) -> Result<Stat, Errno>;
    fn sync(&self) -> Result<u64, Errno>;
    fn purge(&self) -> Result<(), Errno>;
}
