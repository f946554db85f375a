// SPDX-License-Identifier: GPL-2.0

//! Every bound of the engine, by name.

/// Longest key in bytes; the shortest has one byte.
pub const KEY_LEN_MAX: usize = 1024;

/// Longest value in bytes; the shortest is empty.
pub const VALUE_LEN_MAX: usize = 1 << 20;

/// Parts of the store, each with a lock of its own. A power of two.
///
/// A scan looks into every shard, so more of them help writers on many CPUs and cost every scan.
pub(crate) const SHARDS: usize = 16;

/// Buckets of an empty shard's hash table. A power of two.
pub(crate) const BUCKETS_INITIAL: usize = 8;

/// Buckets of the old table that one change moves while a hash table grows.
///
/// Two are enough to be done long before the new table is full: it takes in six records a bucket
/// of the old one before it grows in turn.
pub(crate) const BUCKET_MOVES_PER_CHANGE: usize = 2;

/// Bytes of records that may wait for the device before writers wait too.
pub(crate) const WRITE_BUFFER_BYTES_MAX: u64 = 16 << 20;

/// Waiting bytes at which the log writer starts without waiting for the flush interval.
pub(crate) const WRITE_BUFFER_BYTES_EAGER: u64 = 1 << 20;

/// Bytes after which a frame is closed. One record may make a frame longer.
pub(crate) const FRAME_BYTES_TARGET: usize = 512 << 10;

/// Records that a scan takes from a shard at once, so that its lock is held for a bounded time.
pub(crate) const SCAN_BATCH: usize = 32;

/// Smallest device in bytes.
pub const DEVICE_BYTES_MIN: u64 = 1 << 20;

/// Free segments that only relocated records may take, so that compaction can always go on.
pub(crate) const SEGMENTS_RESERVED: u64 = 1;
