// SPDX-License-Identifier: GPL-2.0

//! Opening a device: what it is, formatting it, and reading the log back.
//!
//! # Where the log ends
//!
//! After a power cut, writes that no flush had covered may be missing in any combination. Every
//! frame, segment header and superblock carries a mark: a frame number up to which everything was
//! durable when it was written. The highest mark found splits the log. A frame that is missing at
//! or below it was lost by the device: the store is refused as [`Error::Corrupt`]. The first frame
//! that is missing above it is where the log ends; what lies behind it was never acknowledged as
//! durable, and is cut off so that it cannot come back later.
//!
//! Frames are numbered without a gap, within a segment and from one to the next, but for the
//! segments that compaction freed. It frees them after a flush, and the header that does so
//! carries the mark, so a gap up to the mark between two complete segments is one of these.
//!
//! # Locks
//!
//! Nobody else has the store yet. The locks are taken all the same, for one record at a time.

use super::commit::Core;
use super::error::{Error, Result};
use super::format::{
    for_each_record, frames, FrameHeader, Geometry, Identity, RecordBytes, SegmentHeader,
    SegmentState, Superblock, SuperblockFound, FORMAT_VERSION, UNIT,
};
use super::location::{Extent, Location};
use super::log::Log;
use super::options::Options;
use super::persistence::Persistence;
use super::record::detached;
use super::space::SpaceMap;
use crate::sys::atomic::Ordering;
use crate::sys::{cond_resched, log_msg, now_ms, random_bytes, Arc, Disk, Level, PageBuf, Vec};

/// Bytes at either end of a device that must be zero for it to count as empty.
const EMPTY_PROBE_BYTES: u64 = 1 << 20;

/// How often a long recovery says how far it is.
const PROGRESS_INTERVAL_MS: u64 = 1000;

/// Opens the store on `disk`, or formats it as `options` allow.
///
/// A refusal is an error, which the caller words for the user; the figures behind it are messages of
/// [`Level::Info`].
pub(crate) fn open<D: Disk>(disk: Arc<D>, options: &Options) -> Result<Core<D>> {
    let bytes = disk.len_bytes();
    if disk.read_only() {
        log_msg!(
            Level::Info,
            "the device is read-only: make it writable, or use another one"
        );
        return Err(Error::ReadOnly);
    }
    if disk.sector_bytes() as usize > UNIT {
        log_msg!(
            Level::Info,
            "the device has sectors of {} bytes; at most {UNIT} are supported",
            disk.sector_bytes()
        );
        return Err(Error::Invalid);
    }
    let Some(geometry) = Geometry::for_device(bytes) else {
        log_msg!(
            Level::Info,
            "the device has {bytes} bytes; the least is {}",
            super::DEVICE_BYTES_MIN
        );
        return Err(Error::TooSmall);
    };
    match read_superblock(&*disk)? {
        SuperblockFound::Valid(found) if !options.force_initialize => {
            if found.device_bytes > bytes {
                log_msg!(
                    Level::Info,
                    "the store was made on a device of {} bytes and this one has {bytes}: a part \
                     is missing; restore the device to its size",
                    found.device_bytes
                );
                return Err(Error::TooSmall);
            }
            return recover(disk, found, options);
        }
        _ if options.force_initialize => {
            log_msg!(
                Level::Warning,
                "force_initialize: whatever the device held is gone"
            );
        }
        SuperblockFound::Newer(version) => {
            log_msg!(
                Level::Info,
                "the store has format {version} and this module knows {FORMAT_VERSION}: use a \
                 newer module"
            );
            return Err(Error::NewerFormat);
        }
        SuperblockFound::Damaged => {
            log_msg!(
                Level::Info,
                "both superblocks are damaged: restore the device from a backup; \
                 force_initialize=1 formats it anew"
            );
            return Err(Error::Corrupt);
        }
        _ => {
            if !is_empty(&*disk)? {
                log_msg!(
                    Level::Info,
                    "the device is not empty and not an hpkv store: it is left alone; \
                     force_initialize=1 formats it all the same"
                );
                return Err(Error::NotOurs);
            }
            if !options.initialize_if_empty {
                log_msg!(
                    Level::Info,
                    "the device is empty and initialize_if_empty=0: load with \
                     initialize_if_empty=1 to format it"
                );
                return Err(Error::Empty);
            }
        }
    }
    let mut device_id = [0; 16];
    random_bytes(&mut device_id);
    let superblock = Superblock {
        generation: 0,
        identity: Identity {
            device_id,
            incarnation: 1,
        },
        geometry,
        segments_used: 0,
        device_bytes: bytes,
        durable_frame: 0,
        session: 0,
        next_sequence: 1,
        records: 0,
        record_bytes: 0,
    };
    let mut log = Log::new(superblock, 1)?;
    log.take_over(&*disk, &superblock)?;
    let space = SpaceMap::new(geometry);
    let core = assemble(disk, log, space, superblock.next_sequence, options)?;
    log_msg!(Level::Notice, "formatted a device of {bytes} bytes");
    Ok(core)
}

/// An empty store to follow the one that `superblock` describes: a purge. Writes nothing.
pub(crate) fn successor<D: Disk>(
    disk: Arc<D>,
    mut superblock: Superblock,
    next_sequence: u64,
    options: &Options,
) -> Result<Core<D>> {
    superblock.identity.incarnation = superblock.identity.incarnation.wrapping_add(1);
    superblock.segments_used = 0;
    superblock.next_sequence = next_sequence;
    superblock.records = 0;
    superblock.record_bytes = 0;
    let space = SpaceMap::new(superblock.geometry);
    assemble(
        disk,
        Log::new(superblock, 1)?,
        space,
        next_sequence,
        options,
    )
}

fn assemble<D: Disk>(
    disk: Arc<D>,
    log: Log,
    space: SpaceMap,
    next_sequence: u64,
    options: &Options,
) -> Result<Core<D>> {
    let persistence = Persistence::new(disk, log, space, options)?;
    Core::empty(Some(persistence), next_sequence)
}

/// The newer of the two superblocks, or what is there in their place.
fn read_superblock<D: Disk>(disk: &D) -> Result<SuperblockFound> {
    let mut unit = PageBuf::zeroed(UNIT)?;
    let mut best = SuperblockFound::Foreign;
    for at in 0..2 {
        disk.read(at * UNIT as u64, &mut unit).map_err(Error::Os)?;
        let found = Superblock::decode(&unit, at);
        best = match (best, found) {
            (SuperblockFound::Valid(a), SuperblockFound::Valid(b)) => {
                SuperblockFound::Valid(if b.generation > a.generation { b } else { a })
            }
            // A newer format in one place means that a newer module was at work.
            (newer @ SuperblockFound::Newer(_), _) | (_, newer @ SuperblockFound::Newer(_)) => {
                newer
            }
            (valid @ SuperblockFound::Valid(_), _) | (_, valid @ SuperblockFound::Valid(_)) => {
                valid
            }
            (SuperblockFound::Damaged, _) | (_, SuperblockFound::Damaged) => {
                SuperblockFound::Damaged
            }
            (SuperblockFound::Foreign, SuperblockFound::Foreign) => SuperblockFound::Foreign,
        };
    }
    Ok(best)
}

/// Whether the first and the last bytes of the device are all zero.
fn is_empty<D: Disk>(disk: &D) -> Result<bool> {
    let len = disk.len_bytes() / UNIT as u64 * UNIT as u64;
    let probe = EMPTY_PROBE_BYTES.min(len);
    let mut bytes = PageBuf::zeroed(probe as usize)?;
    for offset in [0, len.saturating_sub(probe)] {
        disk.read(offset, &mut bytes).map_err(Error::Os)?;
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What a look at the headers of all segments found.
struct Survey {
    /// Segments that hold frames, by the number of the first.
    live: Vec<SegmentHeader>,
    /// The highest mark of durability so far.
    durable_frame: u64,
    /// The highest frame number that anything tells of.
    highest_frame: u64,
    /// Segments with a header.
    segments_used: u64,
    /// The highest session that anything tells of.
    session: u64,
}

/// The frames of a segment that count, from the first on.
struct Part {
    header: SegmentHeader,
    /// The last frame; one less than the first if there is none.
    last_frame: u64,
    /// The unit behind it.
    next_unit: u32,
    /// There are sound frames behind a hole.
    frames_behind: bool,
    /// Its records are in the store.
    applied: bool,
}

impl Part {
    fn is_whole(&self) -> bool {
        self.header.state == SegmentState::Closed && self.last_frame == self.header.last_frame
    }
}

/// How far the log is known to reach, while its segments are looked at in order.
struct Tail {
    /// The frame that has to come next.
    next_frame: u64,
    /// The segment before is known to be complete.
    complete: bool,
    /// The first frame that does not count, once it is known.
    cut: Option<u64>,
}

struct Recovery<'a, D> {
    disk: &'a D,
    core: &'a Core<D>,
    persistence: &'a Persistence<D>,
    identity: Identity,
    segment: PageBuf,
    highest_sequence: u64,
    records_read: u64,
    started_ms: u64,
    told_ms: u64,
}

/// Reads the log of the store that `superblock` describes.
fn recover<D: Disk>(disk: Arc<D>, superblock: Superblock, options: &Options) -> Result<Core<D>> {
    let geometry = superblock.geometry;
    // Sequence and frame are set when the end of the log is known.
    let core = assemble(
        disk.clone(),
        Log::new(superblock, 1)?,
        SpaceMap::new(geometry),
        superblock.next_sequence,
        options,
    )?;
    let persistence = core.persistence.as_ref().ok_or(Error::Invalid)?;
    let mut recovery = Recovery {
        disk: &*disk,
        core: &core,
        persistence,
        identity: superblock.identity,
        segment: PageBuf::zeroed(geometry.segment_bytes())?,
        highest_sequence: superblock.next_sequence.saturating_sub(1),
        records_read: 0,
        started_ms: now_ms(),
        told_ms: now_ms(),
    };
    let survey = recovery.survey(&superblock)?;
    let log = recovery.read_log(survey, superblock)?;
    recovery.drop_needless_tombstones()?;
    let next = recovery.highest_sequence.saturating_add(1);
    let (read, took) = (
        recovery.records_read,
        now_ms().saturating_sub(recovery.started_ms),
    );
    *persistence.log.lock() = log;
    core.next_sequence.store(next, Ordering::Release);
    persistence.buffer.set_recovered(next.saturating_sub(1));
    log_msg!(Level::Notice, "recovered: {read} records read in {took} ms");
    Ok(core)
}

impl<D: Disk> Recovery<'_, D> {
    /// Reads the headers of all segments that were ever used.
    ///
    /// The superblock may be the older of the two, the newer one being damaged. So the segments
    /// that it counts are only the least: the others are those with a header behind them.
    fn survey(&mut self, superblock: &Superblock) -> Result<Survey> {
        let mut survey = Survey {
            live: Vec::new(),
            durable_frame: superblock.durable_frame,
            highest_frame: superblock.durable_frame,
            segments_used: 0,
            session: superblock.session,
        };
        let mut unit = PageBuf::zeroed(UNIT)?;
        while survey.segments_used < superblock.geometry.segments_total {
            let segment = survey.segments_used as u32;
            let offset = superblock.geometry.segment_offset(segment);
            self.disk.read(offset, &mut unit).map_err(Error::Os)?;
            let Some(header) = SegmentHeader::decode(&unit, &self.identity, segment) else {
                if survey.segments_used < superblock.segments_used {
                    return Err(self.damaged(segment, 0, "its header"));
                }
                break;
            };
            survey.segments_used += 1;
            survey.session = survey.session.max(header.session);
            survey.durable_frame = survey.durable_frame.max(header.durable_frame);
            self.persistence.space.lock().add_segment()?;
            if header.state != SegmentState::Free {
                survey.highest_frame = survey.highest_frame.max(header.last_frame);
                survey.live.push(header)?;
            }
            cond_resched();
        }
        super::sort::sort_by_key(&mut survey.live, |header| header.first_frame);
        Ok(survey)
    }

    fn damaged(&self, segment: u32, frame: u64, what: &str) -> Error {
        let offset = self.persistence.geometry.segment_offset(segment);
        log_msg!(
            Level::Err,
            "damage at or below what was durable: segment {segment} (byte {offset} of the \
             device), frame {frame}: {what}; restore the device from a backup"
        );
        Error::Corrupt
    }

    /// Reads every segment, decides where the log ends, and cuts off what lies behind.
    fn read_log(&mut self, survey: Survey, mut superblock: Superblock) -> Result<Log> {
        let Survey {
            live,
            mut durable_frame,
            mut highest_frame,
            segments_used,
            session,
        } = survey;
        superblock.segments_used = segments_used;
        superblock.session = session;
        let mut parts: Vec<Part> = Vec::new();
        for (at, header) in live.iter().enumerate() {
            self.progress(at, live.len());
            let mut part = self.read_segment(header, &mut durable_frame, &mut highest_frame)?;
            log_msg!(
                Level::Debug,
                "segment {} {:?}: frames {} to {}, {} behind a hole; durable up to {durable_frame}",
                header.segment,
                header.state,
                header.first_frame,
                part.last_frame,
                if part.frames_behind { "some" } else { "none" }
            );
            // What is durable counts in any case, so take it in while it is in memory.
            if part.last_frame <= durable_frame {
                self.apply(&part, None)?;
                part.applied = true;
            }
            parts.push(part)?;
        }
        let cut = self.find_end(&parts, durable_frame)?;
        for part in parts.iter() {
            if !part.applied && cut.is_none_or(|cut| part.header.first_frame < cut) {
                self.load(part.header.segment)?;
                self.apply(part, cut)?;
            }
        }
        let mut log = Log::new(superblock, durable_frame.saturating_add(1))?;
        self.seal(&mut log, &parts, cut)?;
        // Only now, with the end final, may a mark pass the frames that were cut off.
        log.skip_to_frame(highest_frame.max(durable_frame).saturating_add(1));
        Ok(log)
    }

    /// Finds the first frame that does not count, if there is one; or that durable ones are gone.
    fn find_end(&self, parts: &[Part], durable_frame: u64) -> Result<Option<u64>> {
        let mut tail = Tail {
            next_frame: 1,
            complete: true,
            cut: None,
        };
        for part in parts {
            if tail.cut.is_some() {
                break;
            }
            self.join(&mut tail, &part.header, durable_frame)?;
            if tail.cut.is_some() {
                break;
            }
            tail.next_frame = part.last_frame.saturating_add(1);
            tail.complete = part.is_whole();
            let closed = part.header.state == SegmentState::Closed;
            if closed && !part.is_whole() || part.frames_behind {
                let segment = part.header.segment;
                self.missing(&mut tail, segment, durable_frame)?;
            }
        }
        // Behind a complete segment others may have been freed; behind an open one, none.
        if tail.cut.is_none() && !tail.complete && tail.next_frame <= durable_frame {
            let segment = parts.last().map_or(0, |part| part.header.segment);
            return Err(self.damaged(segment, tail.next_frame, "the frame is missing or damaged"));
        }
        Ok(tail.cut)
    }

    fn load(&mut self, segment: u32) -> Result {
        let offset = self.persistence.geometry.segment_offset(segment);
        self.disk.read(offset, &mut self.segment).map_err(Error::Os)
    }

    /// Reads a segment into memory and finds its frames.
    fn read_segment(
        &mut self,
        header: &SegmentHeader,
        durable_frame: &mut u64,
        highest_frame: &mut u64,
    ) -> Result<Part> {
        self.load(header.segment)?;
        let mut part = Part {
            header: *header,
            last_frame: header.first_frame.wrapping_sub(1),
            next_unit: 1,
            frames_behind: false,
            applied: false,
        };
        let mut note = |frame: &FrameHeader| {
            *durable_frame = (*durable_frame).max(frame.durable_frame);
            *highest_frame = (*highest_frame).max(frame.number);
            self.highest_sequence = self.highest_sequence.max(frame.last_sequence);
        };
        for frame in frames(&self.segment, &self.identity, header) {
            note(&frame);
            part.last_frame = frame.number;
            part.next_unit = frame.unit.saturating_add(frame.units());
        }
        // Frames behind a hole do not count, but their marks and numbers do.
        let mut unit = part.next_unit;
        while unit < self.persistence.geometry.segment_units {
            let frame = FrameHeader::decode(&self.segment, &self.identity, header, unit);
            if let Some(frame) = &frame {
                note(frame);
                part.frames_behind |= header.state == SegmentState::Open;
            }
            unit = unit.saturating_add(frame.map_or(1, |frame| frame.units().max(1)));
        }
        // A header that closes the segment before what an earlier recovery cut off rules.
        if header.state == SegmentState::Closed {
            part.last_frame = part.last_frame.min(header.last_frame);
        }
        Ok(part)
    }

    /// Joins a segment to the log before it: there may be a gap, and it may mean something.
    fn join(&self, tail: &mut Tail, header: &SegmentHeader, durable_frame: u64) -> Result {
        if tail.cut.is_some() || header.first_frame == tail.next_frame {
            return Ok(());
        }
        if header.first_frame < tail.next_frame {
            return Err(self.damaged(header.segment, header.first_frame, "it overlaps another"));
        }
        if !tail.complete {
            return self.missing(tail, header.segment, durable_frame);
        }
        if header.first_frame.saturating_sub(1) > durable_frame {
            // Between two segments some were freed and some were lost in the tail.
            tail.cut = Some(tail.next_frame.max(durable_frame.saturating_add(1)));
        }
        Ok(())
    }

    /// The next frame is missing: the end of the log, or damage.
    fn missing(&self, tail: &mut Tail, segment: u32, durable_frame: u64) -> Result {
        if tail.next_frame <= durable_frame {
            return Err(self.damaged(segment, tail.next_frame, "the frame is missing or damaged"));
        }
        tail.cut = Some(tail.next_frame);
        Ok(())
    }

    /// Takes the records of the segment in memory into the store.
    fn apply(&mut self, part: &Part, cut: Option<u64>) -> Result {
        let header = part.header;
        let state = SegmentState::Closed;
        self.persistence
            .space
            .lock()
            .set_in_use(header.segment, state)?;
        let segment = core::mem::replace(&mut self.segment, PageBuf::zeroed(UNIT)?);
        let mut result = Ok(());
        let identity = self.identity;
        for frame in frames(&segment, &identity, &header) {
            if frame.number > part.last_frame || cut.is_some_and(|cut| frame.number >= cut) {
                break;
            }
            let sound = for_each_record(&segment, &identity, &frame, |record, offset| {
                result = self.take_in(&record, Location::new(header.segment, offset));
                result.is_ok()
            });
            if result.is_ok() && !sound {
                result = Err(self.damaged(header.segment, frame.number, "a record is damaged"));
            }
            if result.is_err() {
                break;
            }
            cond_resched();
        }
        self.segment = segment;
        result
    }

    /// Takes in one record: the newest version of a key wins, whatever the order of reading.
    fn take_in(&mut self, found: &RecordBytes<'_>, location: Location) -> Result {
        self.records_read += 1;
        self.highest_sequence = self.highest_sequence.max(found.sequence);
        let hash = self.core.hash_key.hash(found.key);
        let shard = self.core.shard(hash)?;
        let mut state = shard.state.lock();
        let current = shard.index.get(hash, found.key);
        if let Some(current) = &current {
            let header = current.header();
            if header.sequence >= found.sequence {
                header.add_stale_copy(found.kind);
                return Ok(());
            }
        }
        let record = detached(found, hash)?;
        let header = record.header();
        header.set_location(location);
        header.set_stale_copies(
            current
                .as_ref()
                .map_or(0, |old| old.header().stale_copies_with_this()),
        );
        shard.prepare(&mut state, current.as_ref())?;
        shard.publish(&mut state, &record, current.as_ref())?;
        drop(state);
        self.persistence.recharge(&record, current.as_ref());
        let mut space = self.persistence.space.lock();
        space.add_live(Extent {
            location,
            len: header.encoded_len() as u32,
        });
        if let Some(extent) = current.as_ref().and_then(|old| old.header().extent()) {
            space.remove_live(extent);
        }
        Ok(())
    }

    /// Forgets removals whose key has no older copy left.
    fn drop_needless_tombstones(&self) -> Result {
        for shard in self.core.shards.iter() {
            let mut state = shard.state.lock();
            for record in shard.index.tombstones(&mut state.writer)? {
                let header = record.header();
                if header.stale_copies() != 0 {
                    continue;
                }
                shard.forget(&mut state, &record);
                self.persistence.discharge_tombstone(&record);
                if let Some(extent) = header.extent() {
                    self.persistence.space.lock().remove_live(extent);
                }
            }
        }
        Ok(())
    }

    /// Makes the end of the log final: segments are closed where they end, or freed.
    ///
    /// A power cut may let through any part of this. The headers carry the mark that was found,
    /// so the next recovery finds the same end.
    fn seal(&self, log: &mut Log, parts: &[Part], cut: Option<u64>) -> Result {
        let mut wrote = false;
        for part in parts {
            let header = part.header;
            let last = cut.map_or(part.last_frame, |cut| {
                part.last_frame.min(cut.wrapping_sub(1))
            });
            if last < header.first_frame || cut.is_some_and(|cut| header.first_frame >= cut) {
                log.write_free_header(self.disk, header.segment)?;
                self.persistence.space.lock().set_free(header.segment);
                wrote = true;
            } else if header.state != SegmentState::Closed || header.last_frame != last {
                let closed = SegmentHeader {
                    state: SegmentState::Closed,
                    last_frame: last,
                    ..header
                };
                log.write_segment_header(self.disk, &closed)?;
                wrote = true;
            }
        }
        if let Some(cut) = cut {
            log_msg!(
                Level::Notice,
                "the log ends before frame {cut}: what was written behind it was never durable"
            );
        }
        if wrote {
            self.disk.flush().map_err(Error::Os)?;
        }
        Ok(())
    }

    fn progress(&mut self, at: usize, of: usize) {
        let now = now_ms();
        if now.saturating_sub(self.told_ms) >= PROGRESS_INTERVAL_MS {
            self.told_ms = now;
            log_msg!(
                Level::Notice,
                "recovery: segment {at} of {of}, {} records read",
                self.records_read
            );
        }
    }
}
