// SPDX-License-Identifier: GPL-2.0

//! The log on the device: frames, segments, superblocks, and the order in which they are written.
//!
//! One thread writes the log, so there is one order of frames. It holds the lock around [`Log`]
//! while it waits for the device; nobody who serves a request takes that lock.
//!
//! # Order of writes
//!
//! - A segment that runs full is closed (its header tells its last frame), then the next one is
//!   opened. Neither waits for a flush: recovery cuts the log at the first frame that is missing.
//! - Before the first segment of an opening is written, the superblock gets the number of the
//!   session. Frames that an earlier session wrote and a power cut let through, where this one
//!   never saw them, have another number.
//! - Segments are first used in groups: their headers are written as free and flushed, then the
//!   superblock counts them. So every segment that the superblock counts has a header.

use super::error::{Error, Result};
use super::format::{
    FrameHeader, Geometry, Identity, SegmentHeader, SegmentState, Superblock, FRAME_HEADER_LEN,
    UNIT,
};
use super::limits::{FRAME_BYTES_TARGET, SEGMENTS_RESERVED};
use super::location::Location;
use super::record::{key_of, value_of, Record};
use super::space::SpaceMap;
use crate::sys::{log_msg, Disk, Level, Mutex, PageBuf};

/// Why a record is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It was committed.
    Commit,
    /// Compaction moves it away from here.
    Move { from: Location },
}

/// A record on its way to the device.
pub(crate) struct Entry {
    pub(crate) record: Record,
    pub(crate) why: Why,
    /// Whether the copy just written is the record's live one; set after the write.
    pub(crate) live: bool,
}

impl Entry {
    pub(crate) fn new(record: Record, why: Why) -> Self {
        Entry {
            record,
            why,
            live: false,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.record.header().encoded_len()
    }

    fn is_commit(&self) -> bool {
        self.why == Why::Commit
    }
}

/// The segment that frames are added to.
struct Head {
    segment: u32,
    next_unit: u32,
    first_frame: u64,
}

/// What became of a call to write a frame.
pub(crate) enum Written {
    /// The first `entries` were written, one behind the other from this location on.
    Frame {
        entries: usize,
        at: Location,
        bytes: u64,
    },
    /// There is no segment to take them.
    NoSegment,
}

/// The end of the log.
pub(crate) struct Log {
    superblock: Superblock,
    head: Option<Head>,
    /// The superblock tells this session's number, durably.
    in_session: bool,
    next_frame: u64,
    durable_frame: u64,
    frame: PageBuf,
    unit: PageBuf,
}

impl Log {
    /// A log that goes on with frame `next_frame` in a new segment; all before is durable.
    pub(crate) fn new(superblock: Superblock, next_frame: u64) -> Result<Self> {
        let geometry = superblock.geometry;
        let longest = FRAME_BYTES_TARGET
            .max((super::format::record_len(super::KEY_LEN_MAX, super::VALUE_LEN_MAX)) + UNIT)
            .min(geometry.payload_bytes());
        Ok(Log {
            superblock,
            head: None,
            in_session: false,
            next_frame,
            durable_frame: next_frame.saturating_sub(1),
            frame: PageBuf::zeroed(longest.next_multiple_of(UNIT))?,
            unit: PageBuf::zeroed(UNIT)?,
        })
    }

    pub(crate) fn identity(&self) -> Identity {
        self.superblock.identity
    }

    fn geometry(&self) -> Geometry {
        self.superblock.geometry
    }

    /// Goes on with frame `next_frame`; all before is settled, for nothing before is missing that
    /// could still come.
    pub(crate) fn skip_to_frame(&mut self, next_frame: u64) {
        self.next_frame = next_frame;
        self.durable_frame = next_frame.saturating_sub(1);
    }

    /// Number of the newest frame.
    pub(crate) fn last_frame(&self) -> u64 {
        self.next_frame.saturating_sub(1)
    }

    /// Notes that a flush succeeded after frame `frame` was written.
    pub(crate) fn set_durable(&mut self, frame: u64) {
        self.durable_frame = self.durable_frame.max(frame);
    }

    /// Writes as many of `entries`, from the first on, as make a good frame.
    ///
    /// With `reserved` the last free segments may be taken, too. An error is the device's, and
    /// final.
    pub(crate) fn write_frame<D: Disk>(
        &mut self,
        disk: &D,
        space: &Mutex<SpaceMap>,
        entries: &[Entry],
        reserved: bool,
    ) -> Result<Written> {
        let Some(first) = entries.first() else {
            return Ok(Written::Frame {
                entries: 0,
                at: Location::NONE,
                bytes: 0,
            });
        };
        // A segment from the reserve holds moved records alone until the one that they left is free.
        // After a power cut before that, recovery finds them where they were, and nothing live in
        // the segment from the reserve: so there is one to free, without which nothing could move.
        if !reserved && space.lock().free_segments() < SEGMENTS_RESERVED {
            return Ok(Written::NoSegment);
        }
        let least = FRAME_HEADER_LEN + first.len();
        if self.room() < least && !self.open_segment(disk, space, reserved)? {
            return Ok(Written::NoSegment);
        }
        let room = self.room();
        let identity = self.identity();
        let Some(head) = self.head.as_mut() else {
            return Ok(Written::NoSegment);
        };
        let longest = FRAME_BYTES_TARGET
            .max(least)
            .min(room)
            .min(self.frame.len());
        let start = head.next_unit as usize * UNIT;
        let mut len = FRAME_HEADER_LEN;
        let mut count = 0;
        let (mut first_sequence, mut last_sequence) = (0, 0);
        for entry in entries {
            let next = len + entry.len();
            if next > longest {
                break;
            }
            let header = entry.record.header();
            let bytes = super::format::RecordBytes {
                kind: header.kind,
                codec: header.codec,
                user_flags: header.user_flags,
                sequence: header.sequence,
                expires_ms: header.expires_ms,
                key: key_of(&entry.record),
                value: value_of(&entry.record),
            };
            let Some(to) = self.frame.get_mut(len..next) else {
                break;
            };
            bytes.encode(&identity, head.segment, (start + len) as u32, to);
            if entry.is_commit() {
                if first_sequence == 0 {
                    first_sequence = header.sequence;
                }
                last_sequence = header.sequence;
            }
            len = next;
            count += 1;
        }
        let header = FrameHeader {
            segment: head.segment,
            unit: head.next_unit,
            number: self.next_frame,
            session: self.superblock.session,
            segment_first_frame: head.first_frame,
            durable_frame: self.durable_frame,
            first_sequence,
            last_sequence,
            len: len as u32,
            records: count as u32,
        };
        header.encode(&identity, &mut self.frame);
        let padded = len.next_multiple_of(UNIT);
        if let Some(padding) = self.frame.get_mut(len..padded) {
            padding.fill(0);
        }
        let offset = self.superblock.geometry.segment_offset(head.segment) + start as u64;
        let frame = self.frame.get(..padded).unwrap_or(&[]);
        disk.write(offset, frame).map_err(Error::Os)?;
        let at = Location::new(head.segment, (start + FRAME_HEADER_LEN) as u32);
        head.next_unit += header.units();
        self.next_frame += 1;
        Ok(Written::Frame {
            entries: count,
            at,
            bytes: padded as u64,
        })
    }

    /// Bytes that a frame may have in the open segment.
    fn room(&self) -> usize {
        self.head.as_ref().map_or(0, |head| {
            let left = self.geometry().segment_units.saturating_sub(head.next_unit);
            left as usize * UNIT
        })
    }

    /// Closes the open segment, opens the next one. `false` if none may be taken.
    fn open_segment<D: Disk>(
        &mut self,
        disk: &D,
        space: &Mutex<SpaceMap>,
        reserved: bool,
    ) -> Result<bool> {
        let kept = if reserved { 0 } else { SEGMENTS_RESERVED };
        let free = {
            let space = space.lock();
            if space.free_segments() <= kept {
                return Ok(false);
            }
            space.first_free()
        };
        if !self.in_session {
            let session = self.superblock.session.wrapping_add(1);
            self.write_superblock(
                disk,
                Superblock {
                    session,
                    ..self.superblock
                },
            )?;
            self.in_session = true;
        }
        let segment = match free {
            Some(segment) => segment,
            None => self.extend(disk, space)?,
        };
        self.close_segment(disk, space)?;
        space.lock().set_in_use(segment, SegmentState::Open)?;
        let header = SegmentHeader {
            segment,
            state: SegmentState::Open,
            session: self.superblock.session,
            first_frame: self.next_frame,
            last_frame: 0,
            durable_frame: self.durable_frame,
        };
        self.write_segment_header(disk, &header)?;
        log_msg!(
            Level::Debug,
            "segment {segment} opened at frame {}",
            self.next_frame
        );
        self.head = Some(Head {
            segment,
            next_unit: 1,
            first_frame: self.next_frame,
        });
        Ok(true)
    }

    /// Closes the open segment, if there is one.
    pub(crate) fn close_segment<D: Disk>(&mut self, disk: &D, space: &Mutex<SpaceMap>) -> Result {
        let Some(head) = self.head.take() else {
            return Ok(());
        };
        let header = SegmentHeader {
            segment: head.segment,
            state: SegmentState::Closed,
            session: self.superblock.session,
            first_frame: head.first_frame,
            last_frame: self.last_frame(),
            durable_frame: self.durable_frame,
        };
        self.write_segment_header(disk, &header)?;
        space.lock().set_in_use(head.segment, SegmentState::Closed)
    }

    /// Takes segments into use that never were, and returns the first of them.
    fn extend<D: Disk>(&mut self, disk: &D, space: &Mutex<SpaceMap>) -> Result<u32> {
        let used = self.superblock.segments_used;
        let more = (used / 8).clamp(1, 64);
        let end = used
            .saturating_add(more)
            .min(self.geometry().segments_total);
        // Room for them first: once the superblock counts them, they must be in the map, too.
        space.lock().reserve_segments(end.saturating_sub(used))?;
        for segment in used..end {
            self.write_free_header(disk, segment as u32)?;
        }
        disk.flush().map_err(Error::Os)?;
        let superblock = Superblock {
            segments_used: end,
            ..self.superblock
        };
        self.write_superblock(disk, superblock)?;
        let mut space = space.lock();
        while space.segments_used() < end {
            space.add_segment()?;
        }
        Ok(used as u32)
    }

    /// Writes the header of a segment; does not flush.
    pub(crate) fn write_segment_header<D: Disk>(
        &mut self,
        disk: &D,
        header: &SegmentHeader,
    ) -> Result {
        header.encode(&self.superblock.identity, &mut self.unit);
        let offset = self.geometry().segment_offset(header.segment);
        disk.write(offset, &self.unit).map_err(Error::Os)
    }

    /// Writes the next generation of the superblock and flushes.
    pub(crate) fn write_superblock<D: Disk>(
        &mut self,
        disk: &D,
        mut superblock: Superblock,
    ) -> Result {
        superblock.generation = self.superblock.generation.wrapping_add(1);
        superblock.durable_frame = self.durable_frame;
        superblock.encode(&mut self.unit);
        disk.write(superblock.unit() * UNIT as u64, &self.unit)
            .map_err(Error::Os)?;
        disk.flush().map_err(Error::Os)?;
        self.superblock = superblock;
        Ok(())
    }

    /// Makes a device this log's, whose superblock was `last` until now.
    pub(crate) fn take_over<D: Disk>(&mut self, disk: &D, last: &Superblock) -> Result {
        self.superblock.generation = last.generation;
        self.superblock.session = last.session;
        // Twice, so that no older superblock is left; at any moment one of the two is valid.
        self.write_superblock(disk, self.superblock)?;
        self.write_superblock(disk, self.superblock)
    }

    /// The superblock as it was last written.
    pub(crate) fn superblock(&self) -> Superblock {
        self.superblock
    }

    /// Writes the header that frees a segment; does not flush.
    pub(crate) fn write_free_header<D: Disk>(&mut self, disk: &D, segment: u32) -> Result {
        let header = SegmentHeader {
            segment,
            state: SegmentState::Free,
            session: 0,
            first_frame: 0,
            last_frame: 0,
            durable_frame: self.durable_frame,
        };
        self.write_segment_header(disk, &header)
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::DATA_START_UNIT;
    use super::*;
    use crate::sys::{fail_allocation_after, MemoryDisk};

    /// When there was no memory to note the last segment of the device, the next attempt once
    /// opened one behind the end.
    #[test]
    fn segments_are_taken_into_use_one_after_the_other_whatever_memory_there_is() {
        let segments = 17;
        let disk = MemoryDisk::new((DATA_START_UNIT as usize + segments * 264) * UNIT);
        let geometry = Geometry::for_device(disk.len_bytes()).unwrap();
        assert_eq!(geometry.segments_total, segments as u64);
        let superblock = Superblock {
            generation: 0,
            identity: Identity {
                device_id: [7; 16],
                incarnation: 1,
            },
            geometry,
            segments_used: 0,
            device_bytes: disk.len_bytes(),
            durable_frame: 0,
            session: 0,
            next_sequence: 1,
            records: 0,
            record_bytes: 0,
        };
        let mut log = Log::new(superblock, 1).unwrap();
        let space = Mutex::new(SpaceMap::new(geometry)).unwrap();
        for segment in 0..segments as u32 {
            for nth in 0.. {
                fail_allocation_after(Some(nth));
                let opened = log.open_segment(&disk, &space, true);
                fail_allocation_after(None);
                match opened {
                    Ok(opened) => {
                        assert!(opened);
                        break;
                    }
                    Err(error) => assert_eq!(error, super::super::Error::NoMemory),
                }
            }
            assert_eq!(log.head.as_ref().unwrap().segment, segment);
        }
        assert_eq!(space.lock().free_segments(), 0);
    }
}
