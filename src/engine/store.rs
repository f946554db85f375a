// SPDX-License-Identifier: GPL-2.0

//! One store: the records of one device, or of none.
//!
//! # Locks, in the order in which they may be taken
//!
//! 1. the log (`Persistence::log`): the log writer and compaction, while they use the device;
//! 2. a shard: everyone who changes a key or scans; never two at once;
//! 3. the space map, or the write buffer: innermost, alone.
//!
//! No lock is held while waiting for the device but the log's, and no request takes that one.
//! Readers of single keys take no lock.

use super::buffer::WriteBuffer;
use super::compaction;
use super::error::{Error, Result};
use super::format::Geometry;
use super::hash::HashKey;
use super::limits::{SHARDS, VALUE_LEN_MAX};
use super::log::{Entry, Log, Why};
use super::record::{check_key_len, value_of, Record, RecordObject, RecordRef, RecordView, Staged};
use super::recovery;
use super::shard::{Shard, ShardState};
use super::space::{self, SpaceMap};
use super::stats::{Event, Stats, EVENTS};
use super::writer;
use crate::sys::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sys::{
    arc_new, log_msg, random_bytes, rcu_read_lock, wall_ms, Arc, Counters, Disk, Level, Mutex,
    Thread, Vec, Worker,
};

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

/// What a store with a device has beyond one without.
pub(crate) struct Persistence<D> {
    /// The device, until the store is closed: then it is given back at once, however long
    /// somebody keeps the store itself.
    disk: Mutex<Option<Arc<D>>>,
    device_bytes: u64,
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

/// The store, as its threads share it.
pub(crate) struct Core<D> {
    pub(crate) shards: Vec<Shard>,
    pub(crate) hash_key: HashKey,
    pub(crate) next_sequence: AtomicU64,
    pub(crate) failed: AtomicBool,
    pub(crate) counters: Counters<EVENTS>,
    /// Names this opening of the store in cursors; never 0.
    instance: u64,
    pub(crate) persistence: Option<Persistence<D>>,
}

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

impl<D: Disk> Core<D> {
    /// A store without records. `persistence` is filled in by recovery.
    pub(crate) fn empty(persistence: Option<Persistence<D>>, next_sequence: u64) -> Result<Self> {
        let mut seed = [0u8; 24];
        random_bytes(&mut seed);
        let mut words = seed.chunks_exact(8).map(|word| {
            let mut le = [0; 8];
            le.copy_from_slice(word);
            u64::from_le_bytes(le)
        });
        let mut word = || words.next().unwrap_or(0);
        let hash_key = HashKey(word(), word());
        let mut shards = Vec::with_capacity(SHARDS)?;
        for _ in 0..SHARDS {
            shards.push(Shard::new()?)?;
        }
        Ok(Core {
            shards,
            hash_key,
            next_sequence: AtomicU64::new(next_sequence),
            failed: AtomicBool::new(false),
            counters: Counters::new()?,
            instance: word() | 1,
            persistence,
        })
    }

    pub(crate) fn count(&self, event: Event, by: u64) {
        self.counters.add(event as usize, by);
    }

    /// The shard of a hash. Bits that neither the bucket nor the tag is taken from.
    pub(crate) fn shard(&self, hash: u64) -> Result<&Shard> {
        let at = (hash >> 48) as usize % SHARDS;
        self.shards.get(at).ok_or(Error::Invalid)
    }

    /// Sequence of the newest commit.
    pub(crate) fn last_sequence(&self) -> u64 {
        self.next_sequence.load(Ordering::Acquire).saturating_sub(1)
    }

    /// The device failed with `errno` while `doing`: from now on the store is read-only.
    pub(crate) fn fail(&self, doing: &str, error: Error) {
        self.count(Event::Errors, 1);
        if !self.failed.swap(true, Ordering::AcqRel) {
            log_msg!(
                Level::Err,
                "{doing} failed with errno {}: the store is read-only until the module is loaded \
                 again on a sound device",
                error.errno()
            );
        }
        if let Some(persistence) = &self.persistence {
            persistence.buffer.fail();
        }
    }

    fn is_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    fn find<R>(&self, key: &[u8], found: impl FnOnce(&RecordObject) -> R) -> Result<R> {
        check_key_len(key.len())?;
        self.count(Event::Gets, 1);
        let hash = self.hash_key.hash(key);
        let shard = self.shard(hash)?;
        let guard = rcu_read_lock();
        let record = shard.index.find(hash, key, &guard);
        let record = record.filter(|record| record.header().is_visible(wall_ms));
        let record = record.ok_or(Error::NotFound)?;
        self.count(Event::Hits, 1);
        Ok(found(record))
    }

    /// Refuses changes that the conditions of `options` forbid, given the record a client sees.
    fn check_conditions(options: &WriteOptions, seen: Option<&Record>) -> Result {
        if options.create && (options.replace || options.expected_version.is_some()) {
            return Err(Error::Invalid);
        }
        match seen {
            Some(_) if options.create => Err(Error::Exists),
            None if options.replace || options.expected_version.is_some() => Err(Error::NotFound),
            Some(seen)
                if options
                    .expected_version
                    .is_some_and(|version| version != seen.header().sequence) =>
            {
                Err(Error::VersionMismatch)
            }
            _ => Ok(()),
        }
    }

    /// The one commit point: publishes `staged` as the next record of its key.
    ///
    /// The caller holds the lock of `shard`, and `current` is the key's record there. On an error
    /// nothing is changed and `staged` is as it was.
    fn commit(
        &self,
        shard: &Shard,
        state: &mut ShardState,
        hash: u64,
        staged: &mut Staged,
        current: Option<&Record>,
    ) -> Result<u64> {
        if state.sealed {
            return Err(Error::Sealed);
        }
        shard.prepare(state, current)?;
        if self.persistence.is_some() {
            state.pending.reserve(1)?;
        }
        let Some(draft) = staged.record.as_ref() else {
            return Err(Error::Invalid);
        };
        let len = draft.header().encoded_len();
        let tombstone = draft.header().is_tombstone();
        if let Some(persistence) = &self.persistence {
            persistence.charge(len as u32, tombstone, current)?;
            persistence.buffer.add(len as u64);
        }
        let Some(mut draft) = staged.record.take() else {
            return Err(Error::Invalid);
        };
        let sequence = self.next_sequence.fetch_add(1, Ordering::AcqRel);
        let header = draft.header_mut();
        header.sequence = sequence;
        header.hash = hash;
        if self.persistence.is_some() {
            let older = current.map_or(0, |old| old.header().stale_copies_with_this());
            header.set_stale_copies(older);
        }
        let record = draft.share();
        if tombstone && self.persistence.is_none() {
            // Nothing on a device could bring the key back, so it can just go.
            if let Some(current) = current {
                shard.forget(state, current);
            }
            return Ok(sequence);
        }
        shard.publish(state, &record, current)?;
        if self.persistence.is_some() {
            if let Some(current) = current.map(|current| current.header()) {
                // The newest version on the device is needed until this one is there, too.
                let previous = current.extent().or(current.previous());
                if !current.location().is_some() {
                    current.set_previous(None);
                }
                record.header().set_previous(previous);
            }
            state.pending.push(Entry::new(record, Why::Commit))?;
        }
        Ok(sequence)
    }

    fn wait_for_room(&self) -> Result {
        if self.is_failed() {
            return Err(Error::ReadOnly);
        }
        match &self.persistence {
            Some(persistence) => persistence.buffer.wait_for_room(),
            None => Ok(()),
        }
    }

    /// Announces a commit of a record of `len` bytes, and waits as `options` say.
    fn finish(&self, sequence: u64, len: usize, options: &WriteOptions) -> Result {
        let Some(persistence) = &self.persistence else {
            return Ok(());
        };
        persistence.buffer.announce(len as u64);
        if options.durability == Durability::Sync {
            persistence.buffer.wait_durable(sequence)?;
        }
        Ok(())
    }
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

    /// The device. [`Error::ReadOnly`] once the store is closed.
    pub(crate) fn disk(&self) -> Result<Arc<D>> {
        self.disk.lock().clone().ok_or(Error::ReadOnly)
    }

    /// Accounts for a new current record of `len` bytes in place of `current`.
    ///
    /// [`Error::NoSpace`] if the store would grow beyond what the device holds. Removals always
    /// pass: what is kept in reserve is for them.
    fn charge(&self, len: u32, tombstone: bool, current: Option<&Record>) -> Result {
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
        let (shared, kick) = (core.clone(), compactor.clone());
        let writer = Thread::spawn(c"hpkv_flush", move || writer::run(&shared, || kick.kick()))?;
        Self::assemble(core, options, Some(Threads { writer, compactor }))
    }

    fn assemble(
        core: Arc<Core<D>>,
        options: &Options,
        threads: Option<Threads>,
    ) -> Result<Arc<Self>> {
        let compactor = threads.as_ref().map(|threads| threads.compactor.clone());
        let store = Store {
            core,
            options: options.clone(),
            threads: Mutex::new(threads)?,
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
        let record = self.core.find(key, RecordObject::try_share)?;
        // A record that is in the index has a reference there; it lost it just now if none is
        // left, and the key with it.
        record.map(RecordRef).ok_or(Error::NotFound)
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
        drop(persistence.disk.lock().take());
        last.saturating_sub(durable)
    }

    /// An empty store in the place of this one, which is sealed.
    ///
    /// On a device everything is removed when this returns. On an error this store is as before,
    /// unless it says that it failed.
    pub(crate) fn emptied(&self) -> Result<Arc<Self>> {
        let next = self.core.next_sequence.load(Ordering::Acquire);
        let Some(persistence) = &self.core.persistence else {
            return Self::memory_from(&self.options, next);
        };
        if self.core.is_failed() {
            return Err(Error::ReadOnly);
        }
        let superblock = persistence.log.lock().superblock();
        let disk = persistence.disk()?;
        // The threads of this store must not write any more once the new store does.
        self.close();
        let core = recovery::reformat(disk, &superblock, next, &self.options)
            .inspect_err(|error| self.core.fail("purge", *error))?;
        Self::start(core, &self.options)
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
