// SPDX-License-Identifier: GPL-2.0

//! The hash index of one shard: lookups without a lock, growth while serving.
//!
//! # Shape
//!
//! A table is an array of buckets of one cache line each: seven slots that refer to records, and a
//! word with a tag byte for each slot and a count of the records that wanted this bucket and found
//! it full. Such a record lies in one of the next buckets. A lookup reads the bucket's line, then
//! the record whose tag matches: two dependent loads after the table itself. The layout follows
//! the idea of Bronson and Shi, "Open-sourcing F14", 2019, with one line a bucket.
//!
//! # Readers and the one writer
//!
//! Readers hold an RCU read section and nothing else. Whoever changes the index holds the lock of
//! the shard, which owns the [`Writer`]. A slot is filled before its tag is set and its tag is
//! cleared before it is emptied; a record stays in its slot until it is removed, replaced in
//! place, or moved by growth.
//!
//! # Growth
//!
//! A full table is followed by one of twice the size, whose `previous` is the old one. Every
//! change then moves a few buckets ([`BUCKET_MOVES_PER_CHANGE`]): into the new table first, then
//! out of the old one. A reader looks into the old table first, so it cannot miss a record on the
//! move. Had growth begun and moved the record on twice meanwhile, the reader would find that the
//! shard's table is another than the one it began with, and looks again.

use super::error::{Error, Result};
use super::limits::{BUCKETS_INITIAL, BUCKET_MOVES_PER_CHANGE};
use super::record::{key_of, Header, Record, RecordObject};
use crate::sys::atomic::{AtomicU64, Ordering};
use crate::sys::{rcu_read_lock, RcuCell, ReadGuard, Shared, Unique, Vec};

const SLOTS: usize = 7;

/// The byte of the tag word that counts displaced records. It stays at its maximum once there.
const DISPLACED_SHIFT: u32 = 56;
const DISPLACED_MAX: u64 = 0xff;

#[repr(align(64))]
struct Bucket {
    slots: [RcuCell<Header>; SLOTS],
    tags: AtomicU64,
}

impl Bucket {
    const fn empty() -> Self {
        Bucket {
            slots: [const { RcuCell::empty() }; SLOTS],
            tags: AtomicU64::new(0),
        }
    }
}

/// A tag is never 0, which marks an empty slot.
fn tag_of(hash: u64) -> u64 {
    (hash >> 57) | 0x80
}

fn tag_at(tags: u64, slot: usize) -> u64 {
    (tags >> (slot * 8)) & 0xff
}

fn with_tag(tags: u64, slot: usize, tag: u64) -> u64 {
    (tags & !(0xff << (slot * 8))) | (tag << (slot * 8))
}

fn displaced(tags: u64) -> u64 {
    tags >> DISPLACED_SHIFT
}

struct Table {
    buckets: Vec<Bucket>,
    previous: RcuCell<Table>,
}

/// Where a record lies in a table.
#[derive(Clone, Copy)]
struct Place {
    bucket: usize,
    slot: usize,
}

impl Table {
    fn with_buckets(count: usize, previous: Option<Shared<Table>>) -> Result<Shared<Table>> {
        let mut buckets = Vec::with_capacity(count)?;
        for _ in 0..count {
            buckets.push(Bucket::empty())?;
        }
        let cell = RcuCell::empty();
        drop(cell.swap(previous));
        Ok(Unique::alloc(
            Table {
                buckets,
                previous: cell,
            },
            0,
        )?
        .share())
    }

    fn mask(&self) -> usize {
        // The number of buckets is a power of two.
        self.buckets.len().wrapping_sub(1)
    }

    /// The buckets where a record of this hash may lie, in the order of looking.
    fn probe(&self, hash: u64) -> impl Iterator<Item = (usize, &Bucket)> {
        let mask = self.mask();
        let home = hash as usize & mask;
        (0..self.buckets.len()).filter_map(move |step| {
            let at = home.wrapping_add(step) & mask;
            self.buckets.get(at).map(|bucket| (at, bucket))
        })
    }

    fn find<'g>(
        &'g self,
        hash: u64,
        key: &[u8],
        guard: &'g ReadGuard,
    ) -> Option<(Place, &'g RecordObject)> {
        let tag = tag_of(hash);
        for (at, bucket) in self.probe(hash) {
            let tags = bucket.tags.load(Ordering::Acquire);
            for (slot, cell) in bucket.slots.iter().enumerate() {
                if tag_at(tags, slot) != tag {
                    continue;
                }
                if let Some(record) = cell.load(guard) {
                    if record.header().hash == hash && key_of(record) == key {
                        return Some((Place { bucket: at, slot }, record));
                    }
                }
            }
            if displaced(tags) == 0 {
                break;
            }
        }
        None
    }

    /// Puts a record into the first free slot; the caller holds the shard's lock.
    ///
    /// Gives the record back if every slot of the table is taken.
    fn place(&self, record: Record) -> Result<(), Record> {
        let hash = record.header().hash;
        for (crowded, (_, bucket)) in self.probe(hash).enumerate() {
            let tags = bucket.tags.load(Ordering::Relaxed);
            if let Some(slot) = (0..SLOTS).find(|slot| tag_at(tags, *slot) == 0) {
                if let Some(cell) = bucket.slots.get(slot) {
                    // Readers stop at the first bucket that displaced nothing, so the buckets on
                    // the way here count this record before it can be looked for.
                    self.count_displaced(hash, crowded);
                    drop(cell.swap(Some(record)));
                    bucket.tags.store(
                        with_tag(bucket.tags.load(Ordering::Relaxed), slot, tag_of(hash)),
                        Ordering::Release,
                    );
                    return Ok(());
                }
            }
        }
        Err(record)
    }

    fn count_displaced(&self, hash: u64, buckets: usize) {
        for (_, bucket) in self.probe(hash).take(buckets) {
            let tags = bucket.tags.load(Ordering::Relaxed);
            if displaced(tags) < DISPLACED_MAX {
                bucket
                    .tags
                    .store(tags.wrapping_add(1 << DISPLACED_SHIFT), Ordering::Release);
            }
        }
    }

    fn uncount_displaced(&self, hash: u64, until: usize) {
        for (at, bucket) in self.probe(hash) {
            if at == until {
                return;
            }
            let tags = bucket.tags.load(Ordering::Relaxed);
            if (1..DISPLACED_MAX).contains(&displaced(tags)) {
                bucket
                    .tags
                    .store(tags.wrapping_sub(1 << DISPLACED_SHIFT), Ordering::Release);
            }
        }
    }

    fn remove(&self, place: Place) -> Option<Record> {
        let bucket = self.buckets.get(place.bucket)?;
        let tags = bucket.tags.load(Ordering::Relaxed);
        bucket
            .tags
            .store(with_tag(tags, place.slot, 0), Ordering::Release);
        let record = bucket.slots.get(place.slot)?.swap(None)?;
        self.uncount_displaced(record.header().hash, place.bucket);
        Some(record)
    }
}

/// The index of one shard, as readers see it.
pub(crate) struct Index {
    table: RcuCell<Table>,
}

/// What the writer of an [`Index`] keeps under the shard's lock.
pub(crate) struct Writer {
    /// Records in the index, tombstones included.
    records: usize,
    /// Next bucket of the previous table to move, while there is one.
    next_move: usize,
}

impl Index {
    pub(crate) fn new() -> Result<(Index, Writer)> {
        let table = RcuCell::empty();
        drop(table.swap(Some(Table::with_buckets(BUCKETS_INITIAL, None)?)));
        Ok((
            Index { table },
            Writer {
                records: 0,
                next_move: 0,
            },
        ))
    }

    /// Finds the current record of a key, which may be a tombstone.
    pub(crate) fn find<'g>(
        &'g self,
        hash: u64,
        key: &[u8],
        guard: &'g ReadGuard,
    ) -> Option<&'g RecordObject> {
        loop {
            let table = self.table.load(guard)?;
            if let Some(previous) = table.header().previous.load(guard) {
                if let Some((_, record)) = previous.header().find(hash, key, guard) {
                    return Some(record);
                }
            }
            if let Some((_, record)) = table.header().find(hash, key, guard) {
                return Some(record);
            }
            let now = self.table.load(guard)?;
            if core::ptr::eq(table, now) {
                return None;
            }
        }
    }

    /// The current record of a key, kept. The caller holds the shard's lock.
    pub(crate) fn get(&self, hash: u64, key: &[u8]) -> Option<Record> {
        let guard = rcu_read_lock();
        self.find(hash, key, &guard)?.try_share()
    }

    /// Makes sure that the next [`Index::insert`] finds a slot. Allocates, so it may sleep.
    pub(crate) fn prepare_insert(&self, writer: &mut Writer) -> Result {
        let table = self.table.get().ok_or(Error::NoMemory)?;
        let buckets = table.header().buckets.len();
        if writer.records < buckets.saturating_mul(6) {
            return Ok(());
        }
        if !table.header().previous.is_none() {
            // Twice full before the last growth is done: finish that first.
            self.move_buckets(writer, usize::MAX);
        }
        match Table::with_buckets(buckets.saturating_mul(2), Some(table)) {
            Ok(next) => {
                writer.next_move = 0;
                drop(self.table.swap(Some(next)));
                Ok(())
            }
            // A table past its mark still has slots; only a full one must refuse.
            Err(_) if writer.records < buckets.saturating_mul(SLOTS) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Adds a record whose key is not in the index.
    pub(crate) fn insert(&self, writer: &mut Writer, record: Record) -> Result {
        self.move_buckets(writer, BUCKET_MOVES_PER_CHANGE);
        let guard = rcu_read_lock();
        let table = self.table.load(&guard).ok_or(Error::NoMemory)?;
        table.header().place(record).map_err(|_| Error::NoMemory)?;
        writer.records += 1;
        Ok(())
    }

    /// Puts `record` in the place of its key's current record, which is returned.
    pub(crate) fn replace(&self, writer: &mut Writer, record: Record) -> Option<Record> {
        self.move_buckets(writer, BUCKET_MOVES_PER_CHANGE);
        let guard = rcu_read_lock();
        let hash = record.header().hash;
        let (table, place) = self.locate(hash, key_of(&record), &guard)?;
        table
            .buckets
            .get(place.bucket)?
            .slots
            .get(place.slot)?
            .swap(Some(record.clone()))
    }

    /// Takes the record of a key out of the index.
    pub(crate) fn remove(&self, writer: &mut Writer, hash: u64, key: &[u8]) -> Option<Record> {
        self.move_buckets(writer, BUCKET_MOVES_PER_CHANGE);
        let guard = rcu_read_lock();
        let (table, place) = self.locate(hash, key, &guard)?;
        let record = table.remove(place)?;
        writer.records = writer.records.saturating_sub(1);
        Some(record)
    }

    /// All removals in the index.
    pub(crate) fn tombstones(&self, writer: &mut Writer) -> Result<Vec<Record>> {
        self.move_buckets(writer, usize::MAX);
        let mut found = Vec::new();
        let table = self.table.get().ok_or(Error::NoMemory)?;
        for cell in table
            .header()
            .buckets
            .iter()
            .flat_map(|bucket| &bucket.slots)
        {
            if let Some(record) = cell.get().filter(|record| record.header().is_tombstone()) {
                found.push(record)?;
            }
        }
        Ok(found)
    }

    fn locate<'g>(
        &'g self,
        hash: u64,
        key: &[u8],
        guard: &'g ReadGuard,
    ) -> Option<(&'g Table, Place)> {
        let table = self.table.load(guard)?.header();
        if let Some(previous) = table.previous.load(guard) {
            if let Some((place, _)) = previous.header().find(hash, key, guard) {
                return Some((previous.header(), place));
            }
        }
        table
            .find(hash, key, guard)
            .map(|(place, _)| (table, place))
    }

    /// Moves at most `limit` buckets from the previous table into the current one.
    fn move_buckets(&self, writer: &mut Writer, limit: usize) {
        let guard = rcu_read_lock();
        let Some(table) = self.table.load(&guard) else {
            return;
        };
        let Some(previous) = table.header().previous.load(&guard) else {
            return;
        };
        let buckets = &previous.header().buckets;
        for _ in 0..limit {
            let Some(bucket) = buckets.get(writer.next_move) else {
                drop(table.header().previous.swap(None));
                return;
            };
            for (slot, cell) in bucket.slots.iter().enumerate() {
                let Some(record) = cell.get() else { continue };
                if table.header().place(record).is_err() {
                    // Cannot be: the new table has twice the slots. Readers still find the
                    // record where it is, so leave it there and try again at the next change.
                    return;
                }
                let tags = bucket.tags.load(Ordering::Relaxed);
                bucket
                    .tags
                    .store(with_tag(tags, slot, 0), Ordering::Release);
                drop(cell.swap(None));
            }
            writer.next_move += 1;
        }
    }
}
