// SPDX-License-Identifier: GPL-2.0

//! The storage engine: everything about keys, values and the device, and nothing about clients.
//!
//! Portable Rust without `unsafe`; the world is seen through [`crate::sys`] alone, so the same
//! source runs in the kernel and in tests on the host. [`Database`] is the only door.
//!
//! | file | what it knows |
//! |---|---|
//! | `database` | which store is active, and switching to another |
//! | `store` | one store: its requests, its beginning and its end |
//! | `commit`, `persistence` | what its threads share: the commit point, and the account of space |
//! | `options` | what callers may ask for |
//! | `shard` | the part of a store under one lock |
//! | `index`, `hash` | lookup by key, without a lock |
//! | `order`, `scan` | keys in order |
//! | `record` | one version of one key in memory |
//! | `buffer`, `writer` | the write buffer, and the thread that empties it |
//! | `log`, `format`, `space`, `location` | the device: order of writes, bytes, what is live, places |
//! | `recovery` | opening a device |
//! | `compaction` | taking space back |
//! | `sort` | sorting on a small stack |
//! | `limits`, `error`, `stats` | bounds, errors, figures |
#![forbid(unsafe_code)]

mod buffer;
mod commit;
mod compaction;
mod database;
mod error;
mod format;
mod hash;
mod index;
mod limits;
mod location;
mod log;
mod options;
mod order;
mod persistence;
mod record;
mod recovery;
mod scan;
mod shard;
mod sort;
mod space;
mod stats;
mod store;
mod writer;

pub use database::Database;
pub use error::{Error, Result};
pub use limits::{DEVICE_BYTES_MIN, KEY_LEN_MAX, VALUE_LEN_MAX};
pub use options::{Durability, Options, UpdateAt, Updated, WriteOptions};
pub use record::{RecordRef, RecordView, Staged};
pub use scan::{ScanEnd, ScanRequest};
pub use stats::Stats;
pub use store::Store;
