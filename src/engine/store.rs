// SPDX-License-Identifier: GPL-2.0

//! One store: the records of one device, or of none; its requests, its beginning and its end.
//!
//! `commit.rs` tells the order of locks.

use super::commit::Core;
use super::compaction;
use super::error::{Error, Result};
use super::limits::VALUE_LEN_MAX;
use super::options::{Options, UpdateAt, Updated, WriteOptions};
use super::record::{check_key_len, value_of, RecordObject, RecordRef, RecordView, Staged};
use super::recovery;
use super::stats::{Event, Stats};
use super::writer;
use crate::sys::atomic::Ordering;
use crate::sys::{arc_new, wall_ms, Arc, Disk, Mutex, Thread, Worker};

struct Threads {
    writer: Thread,
    compactor: Arc<Worker>,
}

/// One store. Front ends use it through [`super::Database`].
pub struct Store<D: Disk> {
    pub(crate) core: Arc<Core<D>>,
    options: Options,
    threads: Mutex<Option<Threads>>,
    compactor: Option<Arc<Worker>>,
}

impl<D: Disk> Store<D> {
    /// A store in memory alone.
    pub fn memory(options: &Options) -> Result<Arc<Self>> {
        Self::memory_from(options, 1)
    }

    fn memory_from(options: &Options, next_sequence: u64) -> Result<Arc<Self>> {
        let core = arc_new(Core::empty(None, next_sequence)?)?;
        Self::assemble(core, options, None)
    }

    /// Opens the store on a device; formats the device if `options` allow it.
    ///
    /// [`Error::NotOurs`], [`Error::Empty`], [`Error::NewerFormat`], [`Error::TooSmall`],
    /// [`Error::Corrupt`], [`Error::ReadOnly`], or the device's own error.
    pub fn open(disk: D, options: &Options) -> Result<Arc<Self>> {
        let disk = arc_new(disk)?;
        let core = recovery::open(disk, options)?;
        Self::start(core, options)
    }

    fn start(core: Core<D>, options: &Options) -> Result<Arc<Self>> {
        let core = arc_new(core)?;
        let shared = core.clone();
        let compactor = arc_new(Worker::new(c"hpkv_compact", move || {
            compaction::run(&shared)
        })?)?;
        let store = Self::assemble(core.clone(), options, Some(compactor.clone()))?;
        let kick = compactor.clone();
        // The last step that may fail: nobody but the store tells this thread to end.
        let writer = Thread::spawn(c"hpkv_flush", move || writer::run(&core, || kick.kick()))?;
        *store.threads.lock() = Some(Threads { writer, compactor });
        Ok(store)
    }

    fn assemble(
        core: Arc<Core<D>>,
        options: &Options,
        compactor: Option<Arc<Worker>>,
    ) -> Result<Arc<Self>> {
        let store = Store {
            core,
            options: options.clone(),
            threads: Mutex::new(None)?,
            compactor,
        };
        Ok(arc_new(store)?)
    }

    /// Calls `found` with the record of a key, in a read section: it must not sleep.
    pub(crate) fn get<R>(&self, key: &[u8], found: impl FnOnce(RecordView<'_>) -> R) -> Result<R> {
        self.core.find(key, |record| found(RecordView(record)))
    }

    /// A reference to the record of a key.
    pub(crate) fn get_shared(&self, key: &[u8]) -> Result<RecordRef> {
        loop {
            // A record that is in the index has a reference there. If none is left, it was replaced
            // or removed since it was found: look again.
            if let Some(record) = self.core.find(key, RecordObject::try_share)? {
                return Ok(RecordRef(record));
            }
        }
    }

    /// Stores a value. `staged` is used up on success only.
    pub(crate) fn put(&self, staged: &mut Staged, options: &WriteOptions) -> Result<u64> {
        let core = &self.core;
        let draft = staged.record.as_mut().ok_or(Error::Invalid)?;
        let header = draft.header_mut();
        header.user_flags = options.user_flags;
        header.expires_ms = options.expires_ms;
        let len = header.encoded_len();
        self.check_fits(len)?;
        let hash = core.hash_key.hash(staged.key());
        let shard = core.shard(hash)?;
        let sequence = self.until_squeezed(|| {
            core.wait_for_room()?;
            let mut state = shard.state.lock();
            let current = shard.index.get(hash, staged.key());
            let seen = current
                .as_ref()
                .filter(|record| record.header().is_visible(wall_ms));
            Core::<D>::check_conditions(options, seen)?;
            core.commit(shard, &mut state, hash, staged, current.as_ref())
        })?;
        core.count(Event::Puts, 1);
        core.finish(sequence, len, options)?;
        Ok(sequence)
    }

    /// Removes a key.
    pub(crate) fn delete(&self, key: &[u8], options: &WriteOptions) -> Result<u64> {
        let core = &self.core;
        let mut staged = Staged::tombstone(key)?;
        let len = staged
            .record
            .as_ref()
            .map_or(0, |record| record.header().encoded_len());
        let hash = core.hash_key.hash(key);
        let shard = core.shard(hash)?;
        core.wait_for_room()?;
        let sequence = {
            let mut state = shard.state.lock();
            let current = shard.index.get(hash, key);
            let seen = current
                .as_ref()
                .filter(|record| record.header().is_visible(wall_ms));
            Core::<D>::check_conditions(options, seen)?;
            if seen.is_none() {
                return Err(if state.sealed {
                    Error::Sealed
                } else {
                    Error::NotFound
                });
            }
            core.commit(shard, &mut state, hash, &mut staged, current.as_ref())?
        };
        core.count(Event::Deletes, 1);
        core.finish(sequence, len, options)?;
        Ok(sequence)
    }

    /// Changes a part of a value.
    pub(crate) fn update(
        &self,
        key: &[u8],
        data: &[u8],
        at: UpdateAt,
        options: &WriteOptions,
    ) -> Result<Updated> {
        let core = &self.core;
        check_key_len(key.len())?;
        let hash = core.hash_key.hash(key);
        let shard = core.shard(hash)?;
        let (sequence, len, value_len) = self.until_squeezed(|| {
            core.wait_for_room()?;
            let mut state = shard.state.lock();
            let current = shard.index.get(hash, key);
            let seen = current
                .as_ref()
                .filter(|record| record.header().is_visible(wall_ms));
            Core::<D>::check_conditions(options, seen)?;
            let old = seen.map_or(&[][..], |record| value_of(record));
            let mut staged = patched(key, old, data, at)?;
            let draft = staged.record.as_mut().ok_or(Error::Invalid)?;
            let header = draft.header_mut();
            header.user_flags = seen.map_or(0, |record| record.header().user_flags);
            header.expires_ms = seen.map_or(0, |record| record.header().expires_ms);
            let (len, value_len) = (header.encoded_len(), header.value_len);
            self.check_fits(len)?;
            let sequence = core.commit(shard, &mut state, hash, &mut staged, current.as_ref())?;
            Ok((sequence, len, value_len))
        })?;
        core.count(Event::Puts, 1);
        core.finish(sequence, len, options)?;
        Ok(Updated {
            version: sequence,
            value_len,
        })
    }

    /// [`Error::ValueTooLong`] if a record of `len` bytes does not fit into a segment.
    fn check_fits(&self, len: usize) -> Result {
        match &self.core.persistence {
            Some(persistence) if len > persistence.geometry.record_bytes_max() => {
                Err(Error::ValueTooLong)
            }
            _ => Ok(()),
        }
    }

    /// Does `change`; if the store is full of removals that wait to be forgotten, lets compaction
    /// forget them and tries again.
    fn until_squeezed<R>(&self, mut change: impl FnMut() -> Result<R>) -> Result<R> {
        let result = change();
        if !matches!(result, Err(Error::NoSpace)) {
            return result;
        }
        let (Some(persistence), Some(compactor)) = (&self.core.persistence, &self.compactor) else {
            return result;
        };
        let tombstones = persistence.charged_tombstones.load(Ordering::Relaxed);
        if tombstones < persistence.capacity / 64 {
            return result;
        }
        let pass = persistence.compaction_passes.load(Ordering::Acquire);
        persistence.squeeze.store(true, Ordering::Release);
        compactor.kick();
        // A pass may have been under way; the one behind it has seen the wish.
        persistence.buffer.wait_until(|| {
            persistence.compaction_passes.load(Ordering::Acquire) >= pass.saturating_add(2)
                || !persistence.squeeze.load(Ordering::Acquire)
        })?;
        change()
    }

    /// Waits until every commit made before the call is durable; returns the durable sequence.
    pub(crate) fn sync(&self) -> Result<u64> {
        let last = self.core.last_sequence();
        match &self.core.persistence {
            Some(persistence) => persistence.buffer.wait_durable(last),
            None => Ok(last),
        }
    }

    /// What cursors of this store carry.
    pub(crate) fn instance(&self) -> u64 {
        self.core.instance
    }

    /// Lets no further change in. When this returns, every commit has its sequence.
    pub(crate) fn seal(&self) {
        self.set_sealed(true);
    }

    /// Takes changes again, after a switch that failed.
    pub(crate) fn unseal(&self) {
        self.set_sealed(false);
    }

    /// Whether changes are refused.
    pub(crate) fn is_sealed(&self) -> bool {
        self.core
            .shards
            .first()
            .is_none_or(|shard| shard.state.lock().sealed)
    }

    fn set_sealed(&self, sealed: bool) {
        for shard in self.core.shards.iter() {
            shard.state.lock().sealed = sealed;
        }
    }

    /// Flushes what a sealed store holds, ends its threads, and closes the log.
    ///
    /// Returns the commits that did not get to the device; none, unless the device failed.
    pub(crate) fn close(&self) -> u64 {
        let threads = self.threads.lock().take();
        let (Some(threads), Some(persistence)) = (threads, &self.core.persistence) else {
            return 0;
        };
        persistence.buffer.stop();
        threads.writer.join();
        threads.compactor.stop();
        let last = self.core.last_sequence();
        let durable = persistence.buffer.durable();
        if !self.core.is_failed() {
            let result = {
                let stats = self.stats();
                let mut log = persistence.log.lock();
                writer::finish(&mut log, persistence, last, stats.records, stats.used_bytes)
            };
            if let Err(error) = result {
                self.core.fail("closing the log", error);
            }
        }
        persistence.release_disk();
        last.saturating_sub(durable)
    }

    /// An empty store that can take the place of this one, which is sealed. Nothing is changed
    /// before [`Store::hand_over`].
    pub(crate) fn successor(&self) -> Result<Arc<Self>> {
        let next = self.core.next_sequence.load(Ordering::Acquire);
        let Some(persistence) = &self.core.persistence else {
            return Self::memory_from(&self.options, next);
        };
        if self.core.is_failed() {
            return Err(Error::ReadOnly);
        }
        let superblock = persistence.log.lock().superblock();
        let core = recovery::successor(persistence.disk()?, superblock, next, &self.options)?;
        // Until the device is its own, it has nothing to write there, not even at its end.
        core.failed.store(true, Ordering::Release);
        Self::start(core, &self.options)
    }

    /// Closes this store, which is sealed, and gives its device to `successor`, durably empty.
    ///
    /// Allocates nothing. On an error, which is the device's, this store is read-only.
    pub(crate) fn hand_over(&self, successor: &Self) -> Result {
        let (Some(old), Some(new)) = (&self.core.persistence, &successor.core.persistence) else {
            return Ok(());
        };
        let disk = old.disk()?;
        // The threads of this store must not write any more once the new store does.
        self.close();
        if self.core.is_failed() {
            return Err(Error::Io);
        }
        let last = old.log.lock().superblock();
        new.log
            .lock()
            .take_over(&*disk, &last)
            .inspect_err(|error| self.core.fail("purge", *error))?;
        successor.core.failed.store(false, Ordering::Release);
        Ok(())
    }

    /// The figures of the store.
    pub(crate) fn stats(&self) -> Stats {
        let core = &self.core;
        let count = |event: Event| core.counters.sum(event as usize);
        let mut stats = Stats {
            failed: core.is_failed(),
            read_only: core.is_failed(),
            version: core.last_sequence(),
            durable_version: core.last_sequence(),
            gets: count(Event::Gets),
            hits: count(Event::Hits),
            puts: count(Event::Puts),
            deletes: count(Event::Deletes),
            scans: count(Event::Scans),
            flushes: count(Event::Flushes),
            frames: count(Event::Frames),
            written_bytes: count(Event::WrittenBytes),
            payload_bytes: count(Event::PayloadBytes),
            relocated_bytes: count(Event::RelocatedBytes),
            compactions: count(Event::Compactions),
            errors: count(Event::Errors),
            ..Stats::default()
        };
        for shard in core.shards.iter() {
            let state = shard.state.lock();
            stats.records += state.order.len() as u64;
            stats.key_bytes += state.key_bytes;
            stats.value_bytes += state.value_bytes;
        }
        if let Some(persistence) = &core.persistence {
            let space = persistence.space.lock();
            let units = u64::from(persistence.geometry.segment_units);
            stats.persistent = true;
            stats.device_bytes = persistence.device_bytes;
            stats.used_bytes = space.live_bytes();
            stats.live_sectors = space.live_units();
            stats.free_segments = space.free_segments();
            stats.total_segments = persistence.geometry.segments_total;
            stats.free_sectors = space.free_segments().saturating_mul(units);
            stats.capacity_bytes = persistence.capacity;
            stats.pending_bytes = persistence.buffer.bytes();
            drop(space);
            stats.durable_version = persistence.buffer.durable();
        }
        stats
    }
}

/// The value that an update makes of `old`.
fn patched(key: &[u8], old: &[u8], data: &[u8], at: UpdateAt) -> Result<Staged> {
    let start = match at {
        UpdateAt::Append => old.len(),
        UpdateAt::Offset(offset) => usize::try_from(offset).map_err(|_| Error::ValueTooLong)?,
    };
    let end = start.checked_add(data.len()).ok_or(Error::ValueTooLong)?;
    let len = end.max(old.len());
    if len > VALUE_LEN_MAX {
        return Err(Error::ValueTooLong);
    }
    let mut staged = Staged::new(key.len(), len)?;
    staged.key_mut().copy_from_slice(key);
    let value = staged.value_mut();
    if let Some(to) = value.get_mut(..old.len()) {
        to.copy_from_slice(old);
    }
    if let Some(to) = value.get_mut(start..end) {
        to.copy_from_slice(data);
    }
    Ok(staged)
}

impl<D: Disk> Drop for Store<D> {
    fn drop(&mut self) {
        // Normally closed long before, by whoever made it inactive.
        self.close();
    }
}
