// SPDX-License-Identifier: GPL-2.0

//! What the threads of a store share, and the one point where changes are committed.
//!
//! # Locks, in the order in which they may be taken
//!
//! 1. the log (`Persistence::log`): the log writer and compaction, while they use the device;
//! 2. a shard: everyone who changes a key or scans; never two at once;
//! 3. the space map, or the write buffer: innermost, alone.
//!
//! No lock is held while waiting for the device but the log's, and no request takes that one.
//! Readers of single keys take no lock.

use super::error::{Error, Result};
use super::hash::HashKey;
use super::limits::SHARDS;
use super::log::{Entry, Why};
use super::options::{Durability, WriteOptions};
use super::persistence::Persistence;
use super::record::{check_key_len, Record, RecordObject, Staged};
use super::shard::{Shard, ShardState};
use super::stats::{Event, EVENTS};
use crate::sys::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sys::{log_msg, random_bytes, rcu_read_lock, wall_ms, Counters, Disk, Level, Vec};

/// The store, as its threads share it.
pub(crate) struct Core<D> {
    pub(crate) shards: Vec<Shard>,
    pub(crate) hash_key: HashKey,
    pub(crate) next_sequence: AtomicU64,
    pub(crate) failed: AtomicBool,
    pub(crate) counters: Counters<EVENTS>,
    /// Names this opening of the store in cursors; never 0.
    pub(crate) instance: u64,
    pub(crate) persistence: Option<Persistence<D>>,
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

    pub(crate) fn is_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    pub(crate) fn find<R>(&self, key: &[u8], found: impl FnOnce(&RecordObject) -> R) -> Result<R> {
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
    pub(crate) fn check_conditions(options: &WriteOptions, seen: Option<&Record>) -> Result {
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
    pub(crate) fn commit(
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

    pub(crate) fn wait_for_room(&self) -> Result {
        if self.is_failed() {
            return Err(Error::ReadOnly);
        }
        match &self.persistence {
            Some(persistence) => persistence.buffer.wait_for_room(),
            None => Ok(()),
        }
    }

    /// Announces a commit of a record of `len` bytes, and waits as `options` say.
    pub(crate) fn finish(&self, sequence: u64, len: usize, options: &WriteOptions) -> Result {
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
