// SPDX-License-Identifier: GPL-2.0

//! What the tests of the engine share: a store on a disk in memory, and short words for requests.

// Each test program uses a part of this.
#![allow(dead_code)]

use hpkv_engine::engine::{Database, Error, Options, ScanRequest, Staged, Store, WriteOptions};
use hpkv_engine::sys::MemoryDisk;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU32;
use std::sync::Arc;

/// What a store should hold.
pub type Model = BTreeMap<Vec<u8>, Vec<u8>>;

pub type Db = Database<MemoryDisk>;

/// Formats what is empty, flushes soon.
pub fn options() -> Options {
    Options {
        initialize_if_empty: true,
        force_initialize: false,
        flush_interval_ms: Arc::new(AtomicU32::new(1)),
    }
}

pub fn try_open(disk: &MemoryDisk) -> Result<Db, Error> {
    Database::new(Store::open(disk.clone(), &options())?)
}

pub fn open(disk: &MemoryDisk) -> Db {
    try_open(disk).unwrap()
}

/// Key and value, ready to be stored.
pub fn staged(key: &[u8], value: &[u8]) -> Result<Staged, Error> {
    let mut staged = Staged::new(key.len(), value.len())?;
    staged.key_mut().copy_from_slice(key);
    staged.value_mut().copy_from_slice(value);
    Ok(staged)
}

pub fn put_with(db: &Db, key: &[u8], value: &[u8], options: &WriteOptions) -> Result<u64, Error> {
    db.put(staged(key, value)?, options)
}

pub fn put(db: &Db, key: &[u8], value: &[u8]) -> Result<u64, Error> {
    put_with(db, key, value, &WriteOptions::default())
}

/// Everything that a scan finds, which must come in order.
pub fn try_all(db: &Db) -> Result<Model, Error> {
    let mut found = Model::new();
    let request = ScanRequest {
        start: b"",
        after: false,
        end: b"",
        cursor: 0,
    };
    let end = db.scan(&request, |view| {
        let last = found.last_key_value();
        assert!(last.is_none_or(|(last, _)| **last < *view.key()));
        found.insert(view.key().to_vec(), view.value().to_vec());
        Ok(true)
    })?;
    assert!(!end.more);
    Ok(found)
}

pub fn all(db: &Db) -> Model {
    try_all(db).unwrap()
}
