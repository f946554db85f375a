// SPDX-License-Identifier: GPL-2.0

//! The log writer: the thread that brings commits to the device, many in one flush.
//!
//! # A round
//!
//! The writer notes the newest sequence, then takes what waits in each shard. A commit takes its
//! sequence under the lock of its shard, so every commit up to the noted sequence is among what
//! was taken, and the log gets commits strictly in their order: what survives a power cut is a
//! prefix. Commits behind the noted sequence are kept for the next round. Everybody who waits for
//! durability when the flush begins is served by that one flush.
//!
//! # Locks
//!
//! The log's lock for the length of a round; under it a shard's lock, then the space map's, each
//! for one record and never together.

use super::buffer::Job;
use super::commit::Core;
use super::error::{Error, Result};
use super::location::{Extent, Location};
use super::log::{Entry, Log, Why, Written};
use super::persistence::Persistence;
use super::record::{key_of, Record};
use super::stats::Event;
use crate::sys::atomic::Ordering;
use crate::sys::{log_msg, sleep_ms, Disk, Level, Vec};

/// How long the writer waits when there is no memory for its own needs.
const NO_MEMORY_RETRY_MS: u32 = 20;

/// What the writer keeps from round to round.
struct Rounds {
    /// Commits taken from the shards and not written yet, in order.
    commits: Vec<Entry>,
    moves: Vec<Entry>,
    /// Every commit up to this sequence is written.
    written: u64,
    /// The newest frame that no flush has covered, if any.
    unflushed_frame: Option<u64>,
}

/// Works until the store is closed. `kick_compaction` is called when space gets short.
pub(crate) fn run<D: Disk>(core: &Core<D>, kick_compaction: impl Fn()) {
    let Some(persistence) = &core.persistence else {
        return;
    };
    let mut rounds = Rounds {
        commits: Vec::new(),
        moves: Vec::new(),
        written: persistence.buffer.durable(),
        unflushed_frame: None,
    };
    let interval = || persistence.flush_interval_ms.load(Ordering::Relaxed);
    loop {
        match persistence.buffer.next_job(interval) {
            Job::Stop => return,
            Job::Round { flush } => {
                if let Err(error) = rounds.round(core, persistence, flush, &kick_compaction) {
                    core.fail("writing the log", error);
                }
            }
        }
    }
}

impl Rounds {
    fn round<D: Disk>(
        &mut self,
        core: &Core<D>,
        persistence: &Persistence<D>,
        flush: bool,
        kick_compaction: impl Fn(),
    ) -> Result {
        let asked = persistence.buffer.begin_round(flush, &mut self.moves);
        let cut = core.last_sequence();
        self.collect(core);
        let mut log = persistence.log.lock();

        // What compaction moves comes first, and may take the reserved segments: it frees more
        // than it takes.
        let mut moves = core::mem::take(&mut self.moves);
        let stuck = self.write(core, persistence, &mut log, &mut moves, true)?;
        if stuck {
            // Compaction moves at most what one segment holds, and one is kept for it.
            return Err(Error::NoSpace);
        }
        self.moves = moves;

        let mut commits = core::mem::take(&mut self.commits);
        let due = commits
            .iter()
            .take_while(|entry| entry.record.header().sequence <= cut)
            .count();
        let mut later = split_off(&mut commits, due);
        let stuck = self.write(core, persistence, &mut log, &mut commits, false);
        match commits.first() {
            Some(first) => self.written = first.record.header().sequence.saturating_sub(1),
            None => self.written = self.written.max(cut),
        }
        if commits.is_empty() {
            core::mem::swap(&mut commits, &mut later);
        } else {
            for entry in later {
                push_patiently(&mut commits, entry);
            }
        }
        self.commits = commits;
        let stuck = stuck?;

        let short = {
            let space = persistence.space.lock();
            space.free_segments() < space.free_wanted()
        };
        let mut durable = None;
        if flush {
            if let Some(frame) = self.unflushed_frame {
                persistence.disk()?.flush().map_err(Error::Os)?;
                core.count(Event::Flushes, 1);
                log.set_durable(frame);
                self.unflushed_frame = None;
            }
            durable = Some(self.written);
        }
        // Under the log's lock, for compaction frees a segment under it: so a round that found none
        // never says so after that.
        persistence.buffer.end_round(durable, asked, stuck);
        drop(log);
        // After the round is over: a pass that finds the writer stuck and nothing to free says so.
        if short || stuck {
            kick_compaction();
        }
        Ok(())
    }

    /// Takes what waits in the shards and sorts it into `commits`.
    fn collect<D: Disk>(&mut self, core: &Core<D>) {
        for shard in core.shards.iter() {
            let taken = core::mem::take(&mut shard.state.lock().pending);
            if self.commits.is_empty() {
                self.commits = taken;
                continue;
            }
            for entry in taken {
                push_patiently(&mut self.commits, entry);
            }
        }
        super::sort::sort_by_key(&mut self.commits, |entry| entry.record.header().sequence);
    }

    /// Writes entries from the first on and takes them out. `true` if space ran out before.
    fn write<D: Disk>(
        &mut self,
        core: &Core<D>,
        persistence: &Persistence<D>,
        log: &mut Log,
        entries: &mut Vec<Entry>,
        reserved: bool,
    ) -> Result<bool> {
        let disk = persistence.disk()?;
        let mut done = 0;
        let result = loop {
            let Some(rest) = entries.get_mut(done..).filter(|rest| !rest.is_empty()) else {
                break Ok(false);
            };
            match log.write_frame(&*disk, &persistence.space, rest, reserved) {
                Ok(Written::Frame {
                    entries: count,
                    at,
                    bytes,
                }) => {
                    log_msg!(
                        Level::Debug,
                        "frame {}: {count} records of {bytes} bytes, moves: {reserved}",
                        log.last_frame()
                    );
                    core.count(Event::Frames, 1);
                    core.count(Event::WrittenBytes, bytes);
                    self.unflushed_frame = Some(log.last_frame());
                    let written = rest.get_mut(..count).unwrap_or(&mut []);
                    complete(core, persistence, written, at);
                    done += count;
                }
                Ok(Written::NoSegment) => break Ok(true),
                // Not the device's fault: wait for memory rather than give up the store.
                Err(Error::NoMemory) => sleep_ms(NO_MEMORY_RETRY_MS),
                Err(error) => break Err(error),
            }
        };
        drop_front(entries, done);
        result
    }
}

/// Notes in index and space map where the records of a frame lie from now on.
fn complete<D: Disk>(
    core: &Core<D>,
    persistence: &Persistence<D>,
    entries: &mut [Entry],
    first: Location,
) {
    let mut offset = first.offset();
    for entry in entries.iter_mut() {
        let len = entry.len() as u32;
        let location = Location::new(first.segment(), offset);
        let extent = Extent { location, len };
        offset = offset.wrapping_add(len);
        let freed = settle(core, entry, location);
        let mut space = persistence.space.lock();
        if entry.live {
            space.add_live(extent);
        }
        if let Some(freed) = freed {
            space.remove_live(freed);
        }
        drop(space);
        if entry.why == Why::Commit {
            persistence.buffer.written(u64::from(len));
            core.count(Event::PayloadBytes, u64::from(len));
        } else {
            core.count(Event::RelocatedBytes, u64::from(len));
        }
    }
}

/// Notes that a copy of the entry's record lies at `location`, and whether it is a live one.
/// Returns the extent that dies by that.
fn settle<D: Disk>(core: &Core<D>, entry: &mut Entry, location: Location) -> Option<Extent> {
    let record = &entry.record;
    let header = record.header();
    let shard = core.shard(header.hash).ok()?;
    let _state = shard.state.lock();
    let newest = shard.index.get(header.hash, key_of(record))?;
    let extent = Extent {
        location,
        len: header.encoded_len() as u32,
    };
    let old = match entry.why {
        Why::Commit if Record::ptr_eq(&newest, record) => {
            let old = newest.header().previous();
            newest.header().set_location(location);
            entry.live = true;
            return old;
        }
        // Superseded while it waited. Its successor is behind it in the log, so until that is
        // written, too, this is the newest version of the key on the device.
        Why::Commit if newest.header().extent().is_none() => newest.header().previous(),
        Why::Commit => return None,
        Why::Move { from } => {
            // One more copy of the key, until the segment that it moved out of is free.
            newest.header().add_stale_copy(header.kind);
            let at_from = |old: &Extent| old.location == from;
            if let Some(old) = newest.header().extent().filter(at_from) {
                newest.header().set_location(location);
                entry.live = true;
                return Some(old);
            }
            Some(newest.header().previous().filter(at_from)?)
        }
    };
    newest.header().set_previous(Some(extent));
    entry.live = true;
    old
}

/// Writes the last words of a clean close: closes the segment, notes the totals.
pub(crate) fn finish<D: Disk>(
    log: &mut Log,
    persistence: &Persistence<D>,
    last_sequence: u64,
    records: u64,
    record_bytes: u64,
) -> Result {
    let disk = persistence.disk()?;
    log.close_segment(&*disk, &persistence.space)?;
    disk.flush().map_err(Error::Os)?;
    log.set_durable(log.last_frame());
    let mut superblock = log.superblock();
    superblock.next_sequence = last_sequence.saturating_add(1);
    superblock.records = records;
    superblock.record_bytes = record_bytes;
    log.write_superblock(&*disk, superblock)
}

/// Adds an entry that must not be lost: waits for memory as long as it takes.
fn push_patiently(entries: &mut Vec<Entry>, entry: Entry) {
    let mut told = false;
    while entries.reserve(1).is_err() {
        if !told {
            log_msg!(
                Level::Warning,
                "no memory to write the log: waiting for some"
            );
            told = true;
        }
        sleep_ms(NO_MEMORY_RETRY_MS);
    }
    // Room was made above, so this cannot fail.
    let _ = entries.push(entry);
}

/// Removes the first `count` entries.
fn drop_front(entries: &mut Vec<Entry>, count: usize) {
    let len = entries.len();
    if count >= len {
        entries.clear();
    } else {
        entries.rotate_left(count);
        entries.truncate(len - count);
    }
}

/// Splits what is behind the first `count` entries off.
fn split_off(entries: &mut Vec<Entry>, count: usize) -> Vec<Entry> {
    let mut tail = Vec::new();
    while entries.len() > count {
        if let Some(entry) = entries.pop() {
            push_patiently(&mut tail, entry);
        }
    }
    tail.reverse();
    tail
}
