// SPDX-License-Identifier: GPL-2.0

//! What callers may ask for: when a store is opened, and with each change.

use crate::sys::atomic::AtomicU32;
use crate::sys::Arc;

/// When a change counts as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When it is in the write buffer; it is durable within the flush interval.
    #[default]
    Buffered,
    /// When it is on stable storage.
    Sync,
}

/// Conditions and properties of a change.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// Only if the key does not exist, else [`Error::Exists`].
    pub create: bool,
    /// Only if the key exists, else [`Error::NotFound`].
    pub replace: bool,
    /// Only if the key has this version, else [`Error::VersionMismatch`].
    pub expected_version: Option<u64>,
    /// A number to store beside the value.
    pub user_flags: u32,
    /// When the value ends: milliseconds since the epoch by the wall clock, 0 = never.
    pub expires_ms: u64,
    /// When the change counts as done.
    pub durability: Durability,
}

/// Where an update writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateAt {
    /// At the end of the value.
    Append,
    /// At this offset in bytes; a gap is filled with zero bytes.
    Offset(u64),
}

/// What an update made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Updated {
    /// Version of the new value.
    pub version: u64,
    /// Bytes of the new value.
    pub value_len: u32,
}

/// How a store is opened.
#[derive(Clone)]
pub struct Options {
    /// Format a device that is empty; else [`Error::Empty`].
    pub initialize_if_empty: bool,
    /// Format the device whatever it holds.
    pub force_initialize: bool,
    /// Longest time in milliseconds that a buffered change waits to be durable.
    pub flush_interval_ms: Arc<AtomicU32>,
}
