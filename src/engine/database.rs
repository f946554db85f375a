// SPDX-License-Identifier: GPL-2.0

//! The active store, and the switch from one to the next.
//!
//! # Which store a request runs on
//!
//! A request takes the active store once and runs on it to its end. A change is let into a store
//! only under the lock of a shard that is not sealed. A switch seals every shard of the old store
//! first and publishes the new one then, so each change that was acknowledged is in exactly the
//! store that was active when it was committed. A change that meets a sealed store waits for the
//! switch to end and runs on the new one.
//!
//! # Locks
//!
//! Two locks, outside all others. `admin` makes switches and purges follow each other, from opening
//! the new store to closing the old one. `switch` is held under it from sealing the old store to
//! publishing the new one; requests take it only when they met a sealed store.

use super::error::{Error, Result};
use super::options::{UpdateAt, Updated, WriteOptions};
use super::record::{RecordRef, RecordView, Staged};
use super::scan::{ScanEnd, ScanRequest};
use super::stats::Stats;
use super::store::Store;
use crate::sys::{
    log_msg, rcu_read_lock, synchronize_rcu, Arc, Disk, Level, Mutex, RcuCell, Shared, Unique,
};

struct Active<D: Disk> {
    store: Arc<Store<D>>,
}

/// The door to the engine: what front ends call.
pub struct Database<D: Disk> {
    active: RcuCell<Active<D>>,
    admin: Mutex<()>,
    switch: Mutex<()>,
}

impl<D: Disk> Database<D> {
    /// A database whose active store is `store`.
    pub fn new(store: Arc<Store<D>>) -> Result<Self> {
        let active = RcuCell::empty();
        drop(active.swap(Some(Self::active(store)?)));
        Ok(Database {
            active,
            admin: Mutex::new(())?,
            switch: Mutex::new(())?,
        })
    }

    fn store(&self) -> Result<Arc<Store<D>>> {
        let guard = rcu_read_lock();
        let active = self.active.load(&guard).ok_or(Error::ReadOnly)?;
        Ok(active.header().store.clone())
    }

    /// Runs a change on the active store, and again on the next one if that was sealed meanwhile.
    fn change<R>(&self, mut change: impl FnMut(&Store<D>) -> Result<R>) -> Result<R> {
        loop {
            let store = self.store()?;
            match change(&store) {
                Err(Error::Sealed) => {}
                result => return result,
            }
            drop(self.switch.lock());
            if Arc::ptr_eq(&store, &self.store()?) && store.is_sealed() {
                // Sealed and not replaced: the module goes away.
                return Err(Error::ReadOnly);
            }
        }
    }

    /// Calls `found` with the record of a key, in a read section: it must not sleep.
    ///
    /// [`Error::NotFound`], [`Error::KeyLength`].
    pub fn get<R>(&self, key: &[u8], found: impl FnOnce(RecordView<'_>) -> R) -> Result<R> {
        let guard = rcu_read_lock();
        let active = self.active.load(&guard).ok_or(Error::ReadOnly)?;
        active.header().store.get(key, found)
    }

    /// A reference to the record of a key, which may be kept while sleeping. Errors as for
    /// [`Database::get`].
    pub fn get_shared(&self, key: &[u8]) -> Result<RecordRef> {
        let guard = rcu_read_lock();
        let active = self.active.load(&guard).ok_or(Error::ReadOnly)?;
        active.header().store.get_shared(key)
    }

    /// Stores a value and returns its version.
    ///
    /// [`Error::Exists`], [`Error::NotFound`] and [`Error::VersionMismatch`] by the conditions;
    /// [`Error::ValueTooLong`], [`Error::NoSpace`], [`Error::NoMemory`], [`Error::ReadOnly`],
    /// [`Error::Interrupted`], [`Error::Io`].
    pub fn put(&self, mut staged: Staged, options: &WriteOptions) -> Result<u64> {
        self.change(|store| store.put(&mut staged, options))
    }

    /// Removes a key and returns the version of the removal. Errors as for [`Database::put`], but
    /// never [`Error::NoSpace`].
    pub fn delete(&self, key: &[u8], options: &WriteOptions) -> Result<u64> {
        self.change(|store| store.delete(key, options))
    }

    /// Changes a part of a value; a key that does not exist counts as empty, unless the conditions
    /// say otherwise. Errors as for [`Database::put`].
    pub fn update(
        &self,
        key: &[u8],
        data: &[u8],
        at: UpdateAt,
        options: &WriteOptions,
    ) -> Result<Updated> {
        self.change(|store| store.update(key, data, at, options))
    }

    /// Calls `visit` with records in ascending order of keys until it says `false`. No lock is
    /// held then, so it may sleep. [`Error::Stale`], [`Error::NoMemory`], or what `visit` returned.
    pub fn scan(
        &self,
        request: &ScanRequest<'_>,
        visit: impl FnMut(RecordView<'_>) -> Result<bool>,
    ) -> Result<ScanEnd> {
        self.store()?.scan(request, visit)
    }

    /// Waits until every change made before the call is durable, and returns the version up to
    /// which everything is. [`Error::Io`] if the device failed.
    pub fn sync(&self) -> Result<u64> {
        self.store()?.sync()
    }

    /// The figures of the active store.
    pub fn stats(&self) -> Stats {
        self.store().map(|store| store.stats()).unwrap_or_default()
    }

    /// Removes every record; when this returns, durably so. [`Error::ReadOnly`], [`Error::NoMemory`],
    /// or the device's error.
    pub fn purge(&self) -> Result {
        let _admin = self.admin.lock();
        let _switch = self.switch.lock();
        let old = self.store()?;
        if old.is_sealed() {
            return Err(Error::ReadOnly);
        }
        old.seal();
        // Memory first: once the old store is closed, only its device may fail.
        let replaced = old.successor().and_then(|new| {
            let next = Self::active(new.clone())?;
            match old.hand_over(&new) {
                Ok(()) => Ok(next),
                Err(error) => {
                    new.close();
                    Err(error)
                }
            }
        });
        match replaced {
            Ok(next) => {
                self.publish(next);
                Ok(())
            }
            Err(error) => {
                old.unseal();
                Err(error)
            }
        }
    }

    /// Makes the store that `make` opens the active one. The old one is flushed and closed.
    ///
    /// On an error of `make` the old store stays active and nothing has changed.
    pub fn switch(&self, make: impl FnOnce() -> Result<Arc<Store<D>>>) -> Result {
        let _admin = self.admin.lock();
        let old = self.store()?;
        if old.is_sealed() {
            return Err(Error::ReadOnly);
        }
        let next = Self::active(make()?)?;
        {
            let _switch = self.switch.lock();
            old.seal();
            self.publish(next);
        }
        let lost = old.close();
        if lost != 0 {
            log_msg!(
                Level::Err,
                "the device of the database that was switched away from failed: {lost} \
                 acknowledged changes are lost"
            );
        }
        Ok(())
    }

    fn active(store: Arc<Store<D>>) -> Result<Shared<Active<D>>> {
        Ok(Unique::alloc(Active { store }, 0)?.share())
    }

    fn publish(&self, next: Shared<Active<D>>) {
        drop(self.active.swap(Some(next)));
        // Whoever reads the old store in a read section is done before it is closed.
        synchronize_rcu();
    }

    /// Takes no more changes, makes what there is durable, and closes the active store.
    ///
    /// Returns the number of acknowledged changes that are lost because the device failed.
    pub fn close(&self) -> u64 {
        let _admin = self.admin.lock();
        let Ok(store) = self.store() else { return 0 };
        store.seal();
        store.close()
    }
}
