// SPDX-License-Identifier: GPL-2.0

//! What a store with a device has beyond one without, and the account of its space.
//!
//! The lock of the device's slot is innermost and held for a moment only.

use super::buffer::WriteBuffer;
use super::error::{Error, Result};
use super::format::Geometry;
use super::log::Log;
use super::options::Options;
use super::record::Record;
use super::space::{self, SpaceMap};
use crate::sys::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sys::{Arc, Disk, Mutex};

/// What a store with a device has beyond one without.
pub(crate) struct Persistence<D> {
    /// The device, until the store is closed: then it is given back at once, however long
    /// somebody keeps the store itself.
    disk: Mutex<Option<Arc<D>>>,
    pub(crate) device_bytes: u64,
    pub(crate) geometry: Geometry,
    pub(crate) log: Mutex<Log>,
    pub(crate) space: Mutex<SpaceMap>,
    pub(crate) buffer: WriteBuffer,
    pub(crate) flush_interval_ms: Arc<AtomicU32>,
    /// Sum of the charges of all current records, tombstones included.
    pub(crate) charged: AtomicU64,
    /// The part of it that tombstones are charged.
    pub(crate) charged_tombstones: AtomicU64,
    pub(crate) capacity: u64,
    /// Compaction is to empty every segment that is worth it.
    pub(crate) squeeze: AtomicBool,
    /// Passes of compaction that came to an end.
    pub(crate) compaction_passes: AtomicU64,
}

impl<D: Disk> Persistence<D> {
    /// A device that holds nothing.
    pub(crate) fn new(disk: Arc<D>, log: Log, space: SpaceMap, options: &Options) -> Result<Self> {
        let superblock = log.superblock();
        let geometry = superblock.geometry;
        Ok(Persistence {
            device_bytes: disk.len_bytes(),
            disk: Mutex::new(Some(disk))?,
            geometry,
            log: Mutex::new(log)?,
            space: Mutex::new(space)?,
            buffer: WriteBuffer::new(superblock.next_sequence.saturating_sub(1))?,
            flush_interval_ms: options.flush_interval_ms.clone(),
            charged: AtomicU64::new(0),
            charged_tombstones: AtomicU64::new(0),
            capacity: space::capacity(&geometry),
            squeeze: AtomicBool::new(false),
            compaction_passes: AtomicU64::new(0),
        })
    }

    /// Gives the device back.
    pub(crate) fn release_disk(&self) {
        drop(self.disk.lock().take());
    }

    /// The device. [`Error::ReadOnly`] once the store is closed.
    pub(crate) fn disk(&self) -> Result<Arc<D>> {
        self.disk.lock().clone().ok_or(Error::ReadOnly)
    }

    /// Accounts for a new current record of `len` bytes in place of `current`.
    ///
    /// [`Error::NoSpace`] if the store would grow beyond what the device holds. Removals always
    /// pass: what is kept in reserve is for them.
    pub(crate) fn charge(&self, len: u32, tombstone: bool, current: Option<&Record>) -> Result {
        let new = space::charge(&self.geometry, len);
        let old = current.map_or(0, |current| self.charge_of(current));
        let grown = new.saturating_sub(old);
        let before = self.charged.fetch_add(new, Ordering::Relaxed);
        if !tombstone && grown > 0 && before.saturating_add(grown) > self.capacity {
            self.charged.fetch_sub(new, Ordering::Relaxed);
            return Err(Error::NoSpace);
        }
        self.charged.fetch_sub(old, Ordering::Relaxed);
        if tombstone {
            self.charged_tombstones.fetch_add(new, Ordering::Relaxed);
        }
        if current.is_some_and(|current| current.header().is_tombstone()) {
            self.charged_tombstones.fetch_sub(old, Ordering::Relaxed);
        }
        Ok(())
    }

    fn charge_of(&self, record: &Record) -> u64 {
        space::charge(&self.geometry, record.header().encoded_len() as u32)
    }

    /// Takes back the charge of a tombstone that is forgotten.
    pub(crate) fn discharge_tombstone(&self, record: &Record) {
        let charge = self.charge_of(record);
        self.charged.fetch_sub(charge, Ordering::Relaxed);
        self.charged_tombstones.fetch_sub(charge, Ordering::Relaxed);
    }

    /// Accounts for a record found by recovery, in place of the one it replaces.
    pub(crate) fn recharge(&self, record: &Record, replaced: Option<&Record>) {
        let sums = |record: &Record| {
            let charge = self.charge_of(record);
            (
                charge,
                if record.header().is_tombstone() {
                    charge
                } else {
                    0
                },
            )
        };
        let (all, tombstones) = sums(record);
        self.charged.fetch_add(all, Ordering::Relaxed);
        self.charged_tombstones
            .fetch_add(tombstones, Ordering::Relaxed);
        if let Some(replaced) = replaced {
            let (all, tombstones) = sums(replaced);
            self.charged.fetch_sub(all, Ordering::Relaxed);
            self.charged_tombstones
                .fetch_sub(tombstones, Ordering::Relaxed);
        }
    }
}
