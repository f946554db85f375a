// SPDX-License-Identifier: GPL-2.0

//! Compaction: empties the segment with the least live in it, so that it can be written again.
//!
//! # Why nothing is lost
//!
//! A segment is freed only when nothing in it is needed after a power cut at any moment:
//!
//! - The current record of a key is written again by the log writer, and flushed, before.
//! - A record whose successor is already written needs nothing but that flush.
//! - A record whose successor still waits in the write buffer is written again, too: until the
//!   successor is durable it is the newest durable version of its key.
//! - A removal is kept while an older value of its key lies in any segment that is not free. The
//!   current record of each key counts these values; freeing a segment takes its values off the
//!   count, after the header that frees it is durable.
//!
//! Compaction never waits for commits to be written, so it can go on when they cannot be.
//!
//! # Locks
//!
//! A shard's lock for one record at a time, the space map's, the log's to write a header. It runs
//! on a workqueue, one pass at a time.

use super::commit::Core;
use super::error::{Error, Result};
use super::format::{self, Identity, RecordBytes, RecordKind, SegmentHeader, SegmentState, UNIT};
use super::limits::SEGMENTS_RESERVED;
use super::location::Location;
use super::log::{Entry, Why};
use super::persistence::Persistence;
use super::record::detached;
use super::stats::Event;
use crate::sys::atomic::Ordering;
use crate::sys::{cond_resched, log_msg, sleep_ms, Disk, Level, PageBuf, Vec};

/// How long a pass that had no memory keeps the next one waiting.
const NO_MEMORY_PAUSE_MS: u32 = 20;

/// One pass: frees segments until there are enough, or none is worth it.
pub(crate) fn run<D: Disk>(core: &Core<D>) {
    let Some(persistence) = &core.persistence else {
        return;
    };
    let squeeze = persistence.squeeze.load(Ordering::Acquire);
    match pass(core, persistence, squeeze) {
        Ok(()) => {
            let space = persistence.space.lock();
            let hopeless = space.free_segments() <= SEGMENTS_RESERVED && space.victim().is_none();
            drop(space);
            // What the store takes in is bounded so that this cannot be; but a writer that waits
            // for ever would be worse than a store that says that it is full.
            if hopeless && persistence.buffer.is_stuck() {
                core.fail("finding space for the log", Error::NoSpace);
            }
        }
        // A device that failed has been reported by whom it failed; a pass without memory is
        // tried again at the next need.
        Err(Error::NoMemory) => {
            log_msg!(Level::Warning, "no memory for compaction: it is put off");
            // A log writer without space asks again at once; memory takes a moment to come.
            sleep_ms(NO_MEMORY_PAUSE_MS);
        }
        Err(_) => {}
    }
    if squeeze {
        persistence.squeeze.store(false, Ordering::Release);
    }
    persistence.compaction_passes.fetch_add(1, Ordering::AcqRel);
    persistence.buffer.space_freed();
}

fn pass<D: Disk>(core: &Core<D>, persistence: &Persistence<D>, squeeze: bool) -> Result {
    let mut segment_bytes = None;
    // While squeezing, every segment may be emptied once; else until enough are free.
    let mut left = persistence.geometry.segments_total;
    while left > 0 {
        left -= 1;
        let victim = {
            let space = persistence.space.lock();
            let enough = space.free_segments() >= space.free_wanted();
            if enough && !squeeze {
                None
            } else {
                space.victim()
            }
        };
        let Some(victim) = victim else { break };
        let bytes = match segment_bytes.as_mut() {
            Some(bytes) => bytes,
            None => segment_bytes.insert(PageBuf::zeroed(persistence.geometry.segment_bytes())?),
        };
        if empty_segment(core, persistence, victim, bytes)? {
            core.count(Event::Compactions, 1);
            persistence.buffer.space_freed();
        }
        cond_resched();
    }
    Ok(())
}

/// Moves what is needed out of a closed segment and frees it. `false` if it has to stay.
fn empty_segment<D: Disk>(
    core: &Core<D>,
    persistence: &Persistence<D>,
    victim: u32,
    bytes: &mut PageBuf,
) -> Result<bool> {
    let disk = persistence.disk()?;
    let identity = persistence.log.lock().identity();
    let offset = persistence.geometry.segment_offset(victim);
    let read = disk.read(offset, bytes).map_err(Error::Os);
    let header = match read {
        Ok(()) => SegmentHeader::decode(bytes.get(..UNIT).unwrap_or(&[]), &identity, victim),
        Err(_) => None,
    };
    let Some(header) = header.filter(|header| header.state == SegmentState::Closed) else {
        return Ok(leave(core, persistence, victim));
    };
    let mut entries = Vec::new();
    if !each_record(bytes, &identity, &header, |record, offset| {
        let location = Location::new(victim, offset);
        if let Some(entry) = to_move(core, &record, location)? {
            entries.push(entry)?;
        }
        Ok(())
    })? {
        return Ok(leave(core, persistence, victim));
    }
    log_msg!(
        Level::Debug,
        "segment {victim}: {} records to move",
        entries.len()
    );
    persistence.buffer.write_moves(&mut entries)?;
    // The log writer took the entries; what it gave back is empty or already written.
    drop(entries);

    let live = persistence.space.lock().live_bytes_of(victim);
    if live != 0 {
        // Never seen; better to keep a segment too long than to free it too early.
        log_msg!(
            Level::Err,
            "segment {victim} still has {live} live bytes: it is kept"
        );
        return Ok(leave(core, persistence, victim));
    }
    let freed = {
        let mut log = persistence.log.lock();
        log.write_free_header(&*disk, victim)
            .and_then(|()| disk.flush().map_err(Error::Os))
    };
    if let Err(error) = freed {
        core.fail("freeing a segment", error);
        return Err(error);
    }
    core.count(Event::Flushes, 1);
    each_record(bytes, &identity, &header, |record, _| {
        if record.kind == RecordKind::Put {
            forget_copy(core, persistence, record.key);
        }
        Ok(())
    })?;
    persistence.space.lock().set_free(victim);
    log_msg!(Level::Debug, "segment {victim} freed");
    Ok(true)
}

/// Excludes a segment that cannot be read from now on.
fn leave<D: Disk>(core: &Core<D>, persistence: &Persistence<D>, victim: u32) -> bool {
    core.count(Event::Errors, 1);
    log_msg!(
        Level::Err,
        "segment {victim} cannot be compacted: it is damaged or the device cannot read it; back \
         the store up and format a new device"
    );
    persistence.space.lock().set_bad(victim);
    false
}

/// Calls `visit` with each record of a closed segment. `false` if the segment is damaged.
fn each_record(
    bytes: &[u8],
    identity: &Identity,
    header: &SegmentHeader,
    mut visit: impl FnMut(RecordBytes<'_>, u32) -> Result,
) -> Result<bool> {
    let mut error = None;
    let mut count = 0u64;
    for frame in format::frames(bytes, identity, header) {
        let sound =
            format::for_each_record(bytes, identity, &frame, |record, offset| {
                match visit(record, offset) {
                    Ok(()) => true,
                    Err(why) => {
                        error = Some(why);
                        false
                    }
                }
            });
        if let Some(error) = error {
            return Err(error);
        }
        if !sound {
            return Ok(false);
        }
        count += 1;
    }
    Ok(header.first_frame.checked_add(count) == header.last_frame.checked_add(1))
}

/// How the record at `location` has to be written again before its segment may go.
fn to_move<D: Disk>(
    core: &Core<D>,
    found: &RecordBytes<'_>,
    location: Location,
) -> Result<Option<Entry>> {
    let hash = core.hash_key.hash(found.key);
    let shard = core.shard(hash)?;
    let _state = shard.state.lock();
    let Some(current) = shard.index.get(hash, found.key) else {
        return Ok(None);
    };
    let why = Why::Move { from: location };
    if current.header().location() == location {
        return Ok(Some(Entry::new(current, why)));
    }
    let needed = current
        .header()
        .previous()
        .is_some_and(|extent| extent.location == location);
    Ok(if needed {
        Some(Entry::new(detached(found, hash)?, why))
    } else {
        None
    })
}

/// One old value of `key` is gone for good; a removal that is no longer needed goes with it.
fn forget_copy<D: Disk>(core: &Core<D>, persistence: &Persistence<D>, key: &[u8]) {
    let hash = core.hash_key.hash(key);
    let Ok(shard) = core.shard(hash) else { return };
    let mut state = shard.state.lock();
    let Some(current) = shard.index.get(hash, key) else {
        return;
    };
    let header = current.header();
    let copies = header.stale_copies().saturating_sub(1);
    header.set_stale_copies(copies);
    let Some(extent) = header.extent() else {
        return;
    };
    if copies == 0 && header.is_tombstone() {
        shard.forget(&mut state, &current);
        drop(state);
        persistence.discharge_tombstone(&current);
        persistence.space.lock().remove_live(extent);
    }
}
