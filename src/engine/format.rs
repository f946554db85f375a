// SPDX-License-Identifier: GPL-2.0

//! What lies on the device, byte by byte. docs/format.md tells the same with the reasons.
//!
//! All numbers are little-endian. Every structure carries the CRC-32C of its own bytes together
//! with where it belongs, so that a write which went to the wrong place is not taken for the right
//! one. Whatever is read here is hostile: a decoder gives `None` for anything it does not like and
//! never trusts a length.

use super::limits::{DEVICE_BYTES_MIN, KEY_LEN_MAX, VALUE_LEN_MAX};
use crate::sys::crc32c;

/// Version of the format that this code writes, and the newest that it reads.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// The unit of space: superblocks, segment headers and frames begin at a multiple of it.
pub(crate) const UNIT: usize = 4096;

/// First unit of the first segment.
pub(crate) const DATA_START_UNIT: u64 = 16;

/// Bytes of a superblock or segment header that carry anything: one sector, which a device writes
/// wholly or not at all.
const SECTOR: usize = 512;

const SUPERBLOCK_MAGIC: [u8; 8] = *b"hpkv-sb\n";
const SEGMENT_MAGIC: [u8; 8] = *b"hpkvseg\n";
const FRAME_MAGIC: [u8; 8] = *b"hpkvfrm\n";

/// The checksum's place in all three headers.
const CRC_AT: usize = 12;

/// The value is stored as it is.
pub(crate) const CODEC_PLAIN: u8 = 0;

/// Bytes before a frame's first record.
pub(crate) const FRAME_HEADER_LEN: usize = 104;

/// Bytes of a record before its key.
pub(crate) const RECORD_HEADER_LEN: usize = 32;

/// Writes fields one after the other into a fixed array; what does not fit is not written.
struct Put<'a> {
    to: &'a mut [u8],
    at: usize,
}

impl Put<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        if let Some(to) = self
            .to
            .get_mut(self.at..)
            .and_then(|to| to.get_mut(..bytes.len()))
        {
            to.copy_from_slice(bytes);
        }
        self.at = self.at.saturating_add(bytes.len());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }
}

/// Reads fields one after the other; past the end everything is zero.
struct Take<'a> {
    from: &'a [u8],
    at: usize,
}

impl Take<'_> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        if let Some(from) = self.from.get(self.at..).and_then(|from| from.get(..N)) {
            out.copy_from_slice(from);
        }
        self.at = self.at.saturating_add(N);
        out
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }
}

/// The checksum of a header whose own checksum field counts as zero.
fn header_crc(bytes: &[u8]) -> u32 {
    let before = crc32c(0, bytes.get(..CRC_AT).unwrap_or(&[]));
    let zeroed = crc32c(before, &[0; 4]);
    crc32c(zeroed, bytes.get(CRC_AT + 4..).unwrap_or(&[]))
}

fn seal_header(bytes: &mut [u8]) {
    let crc = header_crc(bytes);
    Put {
        to: bytes,
        at: CRC_AT,
    }
    .u32(crc);
}

fn header_is_sound(bytes: &[u8], magic: &[u8; 8]) -> bool {
    let mut take = Take { from: bytes, at: 0 };
    let found: [u8; 8] = take.array();
    let _version = take.u32();
    found == *magic && take.u32() == header_crc(bytes)
}

/// Which store a structure belongs to: drawn at format, counted up by every purge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) device_id: [u8; 16],
    pub(crate) incarnation: u64,
}

/// No number that counts up comes this far in the life of a device: what is beyond is damage. So
/// nobody who counts on has to fear the end of the range.
const NUMBER_MAX: u64 = 1 << 62;

fn in_range(numbers: &[u64]) -> bool {
    numbers.iter().all(|number| *number <= NUMBER_MAX)
}

/// Most segments of a device: a segment's number has 31 bits.
const SEGMENTS_MAX: u64 = 1 << 31;

/// Where the segments lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) segment_units: u32,
    pub(crate) segments_total: u64,
}

impl Geometry {
    /// Divides a device into segments, or `None` if it is too small.
    ///
    /// A segment holds at least one record of the largest size where the device is large enough
    /// for a dozen such segments; on a smaller device the segments are smaller, and with them the
    /// largest value. Larger devices have larger segments, so that there are not too many.
    pub(crate) fn for_device(device_bytes: u64) -> Option<Geometry> {
        if device_bytes < DEVICE_BYTES_MIN {
            return None;
        }
        let units = (device_bytes / UNIT as u64).checked_sub(DATA_START_UNIT)?;
        let segment_units = match device_bytes >> 30 {
            0 => (units / 12).min(264),
            1..256 => 1056,
            _ => 4224,
        };
        // More segments than a location can name would need a device beyond every bound.
        let segments_total = (units / segment_units).min(SEGMENTS_MAX);
        Some(Geometry {
            segment_units: segment_units as u32,
            segments_total,
        })
    }

    fn is_sound(&self, device_bytes: u64) -> bool {
        let end = u64::from(self.segment_units)
            .checked_mul(self.segments_total)
            .and_then(|units| units.checked_add(DATA_START_UNIT))
            .and_then(|units| units.checked_mul(UNIT as u64));
        (8..=16384).contains(&self.segment_units)
            && (4..=SEGMENTS_MAX).contains(&self.segments_total)
            && end.is_some_and(|end| end <= device_bytes)
    }

    /// Bytes of a segment, its header included.
    pub(crate) fn segment_bytes(&self) -> usize {
        self.segment_units as usize * UNIT
    }

    /// Bytes of a segment that frames may take.
    pub(crate) fn payload_bytes(&self) -> usize {
        self.segment_bytes().saturating_sub(UNIT)
    }

    /// Longest record that fits into a segment.
    pub(crate) fn record_bytes_max(&self) -> usize {
        self.payload_bytes().saturating_sub(FRAME_HEADER_LEN)
    }

    /// Byte offset of a segment on the device.
    pub(crate) fn segment_offset(&self, segment: u32) -> u64 {
        // In range, because the geometry was checked against the size of the device.
        DATA_START_UNIT
            .wrapping_add(u64::from(segment).wrapping_mul(u64::from(self.segment_units)))
            .wrapping_mul(UNIT as u64)
    }
}

/// The root of everything: written in turn to two places, the newer valid one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) generation: u64,
    pub(crate) identity: Identity,
    pub(crate) geometry: Geometry,
    /// Segments that have ever been in use; only these have a valid header.
    pub(crate) segments_used: u64,
    pub(crate) device_bytes: u64,
    /// Every frame up to this number was durable when the superblock was written.
    pub(crate) durable_frame: u64,
    /// Counts the openings in which the log was written to. It is durable before the first write
    /// of an opening, so frames of an earlier one are never taken for this one's.
    pub(crate) session: u64,
    pub(crate) next_sequence: u64,
    pub(crate) records: u64,
    pub(crate) record_bytes: u64,
}

/// What the bytes at a superblock's place turn out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SuperblockFound {
    Valid(Superblock),
    /// A superblock of a format newer than this code.
    Newer(u32),
    /// A superblock whose checksum is wrong, or that contradicts itself or the device.
    Damaged,
    /// Anything else.
    Foreign,
}

impl Superblock {
    /// The unit that this generation is written to.
    pub(crate) fn unit(&self) -> u64 {
        self.generation & 1
    }

    /// Writes the superblock into a unit.
    pub(crate) fn encode(&self, unit: &mut [u8]) {
        unit.fill(0);
        let Some(sector) = unit.get_mut(..SECTOR) else {
            return;
        };
        Put { to: sector, at: 0 }
            .bytes(&SUPERBLOCK_MAGIC)
            .u32(FORMAT_VERSION)
            .u32(0)
            .u64(self.generation)
            .bytes(&self.identity.device_id)
            .u64(self.identity.incarnation)
            .u32(UNIT as u32)
            .u32(self.geometry.segment_units)
            .u64(DATA_START_UNIT)
            .u64(self.geometry.segments_total)
            .u64(self.segments_used)
            .u64(self.device_bytes)
            .u64(self.durable_frame)
            .u64(self.session)
            .u64(self.next_sequence)
            .u64(self.records)
            .u64(self.record_bytes);
        seal_header(sector);
    }

    /// Reads the unit that lies at `at`, 0 or 1. Whether the device is large enough is not checked.
    pub(crate) fn decode(unit: &[u8], at: u64) -> SuperblockFound {
        let Some(sector) = unit.get(..SECTOR) else {
            return SuperblockFound::Foreign;
        };
        let mut take = Take {
            from: sector,
            at: 0,
        };
        let magic: [u8; 8] = take.array();
        let version = take.u32();
        if magic != SUPERBLOCK_MAGIC {
            return SuperblockFound::Foreign;
        }
        if !header_is_sound(sector, &SUPERBLOCK_MAGIC) {
            return SuperblockFound::Damaged;
        }
        if version != FORMAT_VERSION {
            return SuperblockFound::Newer(version);
        }
        let _crc = take.u32();
        let generation = take.u64();
        let device_id = take.array();
        let incarnation = take.u64();
        let unit_bytes = take.u32();
        let segment_units = take.u32();
        let data_start = take.u64();
        let segments_total = take.u64();
        let found = Superblock {
            generation,
            identity: Identity {
                device_id,
                incarnation,
            },
            geometry: Geometry {
                segment_units,
                segments_total,
            },
            segments_used: take.u64(),
            device_bytes: take.u64(),
            durable_frame: take.u64(),
            session: take.u64(),
            next_sequence: take.u64(),
            records: take.u64(),
            record_bytes: take.u64(),
        };
        let sound = found.unit() == at
            && unit_bytes as usize == UNIT
            && data_start == DATA_START_UNIT
            && found.geometry.is_sound(found.device_bytes)
            && found.segments_used <= segments_total
            && in_range(&[
                generation,
                incarnation,
                found.durable_frame,
                found.session,
                found.next_sequence,
            ]);
        if !sound {
            return SuperblockFound::Damaged;
        }
        SuperblockFound::Valid(found)
    }
}

/// What a segment is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SegmentState {
    /// Nothing in it counts. `durable_frame` of the header was durable when it was freed.
    Free,
    /// Frames are being added.
    Open,
    /// No frame will be added; `last_frame` of the header is its last.
    Closed,
}

/// The first unit of every segment that was ever used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) segment: u32,
    pub(crate) state: SegmentState,
    /// Session in which the segment was filled.
    pub(crate) session: u64,
    /// Number of the first frame; the frames of a segment are numbered without a gap.
    pub(crate) first_frame: u64,
    /// Number of the last frame of a closed segment.
    pub(crate) last_frame: u64,
    /// Every frame up to this number was durable when the header was written.
    pub(crate) durable_frame: u64,
}

impl SegmentHeader {
    /// Writes the header into a unit.
    pub(crate) fn encode(&self, identity: &Identity, unit: &mut [u8]) {
        unit.fill(0);
        let Some(sector) = unit.get_mut(..SECTOR) else {
            return;
        };
        let state = match self.state {
            SegmentState::Free => 0,
            SegmentState::Open => 1,
            SegmentState::Closed => 2,
        };
        Put { to: sector, at: 0 }
            .bytes(&SEGMENT_MAGIC)
            .u32(FORMAT_VERSION)
            .u32(0)
            .bytes(&identity.device_id)
            .u64(identity.incarnation)
            .u32(self.segment)
            .u32(state)
            .u64(self.session)
            .u64(self.first_frame)
            .u64(self.last_frame)
            .u64(self.durable_frame);
        seal_header(sector);
    }

    /// Reads the header of `segment`; `None` if it is damaged or belongs elsewhere.
    pub(crate) fn decode(unit: &[u8], identity: &Identity, segment: u32) -> Option<Self> {
        let sector = unit.get(..SECTOR)?;
        if !header_is_sound(sector, &SEGMENT_MAGIC) {
            return None;
        }
        let mut take = Take {
            from: sector,
            at: 16,
        };
        let found = Identity {
            device_id: take.array(),
            incarnation: take.u64(),
        };
        let at = take.u32();
        let state = match take.u32() {
            0 => SegmentState::Free,
            1 => SegmentState::Open,
            2 => SegmentState::Closed,
            _ => return None,
        };
        let header = SegmentHeader {
            segment: at,
            state,
            session: take.u64(),
            first_frame: take.u64(),
            last_frame: take.u64(),
            durable_frame: take.u64(),
        };
        let numbers_sound = in_range(&[
            header.session,
            header.first_frame,
            header.last_frame,
            header.durable_frame,
        ]) && (header.state == SegmentState::Free || header.first_frame != 0);
        let ordered = header.state != SegmentState::Closed
            || header
                .last_frame
                .checked_add(1)
                .is_some_and(|end| end >= header.first_frame);
        (found == *identity && at == segment && numbers_sound && ordered).then_some(header)
    }
}

/// What a frame says of itself; its records follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) segment: u32,
    /// Unit of the segment at which the frame begins.
    pub(crate) unit: u32,
    pub(crate) number: u64,
    /// Session and number of the first frame, as in the segment's header.
    pub(crate) session: u64,
    pub(crate) segment_first_frame: u64,
    /// Every frame up to this number was durable when this one was written.
    pub(crate) durable_frame: u64,
    /// Commits in the frame: first and last sequence, 0 and 0 if it only holds relocated records.
    pub(crate) first_sequence: u64,
    pub(crate) last_sequence: u64,
    /// Bytes of header and records.
    pub(crate) len: u32,
    pub(crate) records: u32,
}

impl FrameHeader {
    /// Writes the header before the records, which are in place, and seals both.
    pub(crate) fn encode(&self, identity: &Identity, frame: &mut [u8]) {
        let Some(frame) = frame.get_mut(..self.len as usize) else {
            return;
        };
        Put { to: frame, at: 0 }
            .bytes(&FRAME_MAGIC)
            .u32(FORMAT_VERSION)
            .u32(0)
            .bytes(&identity.device_id)
            .u64(identity.incarnation)
            .u32(self.segment)
            .u32(self.unit)
            .u64(self.number)
            .u64(self.session)
            .u64(self.segment_first_frame)
            .u64(self.durable_frame)
            .u64(self.first_sequence)
            .u64(self.last_sequence)
            .u32(self.len)
            .u32(self.records);
        seal_header(frame);
    }

    /// Reads the frame that begins at `unit` of the segment that `of` describes, whose bytes are
    /// `bytes`.
    ///
    /// `None` unless the whole frame is sound and belongs to exactly this place and use of the
    /// segment.
    pub(crate) fn decode(
        bytes: &[u8],
        identity: &Identity,
        of: &SegmentHeader,
        unit: u32,
    ) -> Option<FrameHeader> {
        let rest = bytes.get((unit as usize).checked_mul(UNIT)?..)?;
        let mut take = Take { from: rest, at: 0 };
        let magic: [u8; 8] = take.array();
        if magic != FRAME_MAGIC || take.u32() != FORMAT_VERSION {
            return None;
        }
        let _crc = take.u32();
        let found = Identity {
            device_id: take.array(),
            incarnation: take.u64(),
        };
        let header = FrameHeader {
            segment: take.u32(),
            unit: take.u32(),
            number: take.u64(),
            session: take.u64(),
            segment_first_frame: take.u64(),
            durable_frame: take.u64(),
            first_sequence: take.u64(),
            last_sequence: take.u64(),
            len: take.u32(),
            records: take.u32(),
        };
        let belongs = found == *identity
            && header.segment == of.segment
            && header.unit == unit
            && header.session == of.session
            && header.segment_first_frame == of.first_frame
            && header.number >= of.first_frame
            && header.durable_frame < header.number
            && in_range(&[header.number, header.first_sequence, header.last_sequence])
            && header.len as usize >= FRAME_HEADER_LEN;
        if !belongs {
            return None;
        }
        let frame = rest.get(..header.len as usize)?;
        header_is_sound(frame, &FRAME_MAGIC).then_some(header)
    }

    /// Units that the frame takes.
    pub(crate) fn units(&self) -> u32 {
        self.len.div_ceil(UNIT as u32)
    }

    /// Byte offset of the frame in its segment.
    pub(crate) fn offset(&self) -> usize {
        self.unit as usize * UNIT
    }
}

/// Whether a record sets or removes its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum RecordKind {
    Put = 1,
    Tombstone = 2,
}

/// Bytes that a record takes in a frame.
pub(crate) fn record_len(key_len: usize, value_len: usize) -> usize {
    (RECORD_HEADER_LEN + key_len + value_len).next_multiple_of(8)
}

/// A record as it lies in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordBytes<'a> {
    pub(crate) kind: RecordKind,
    pub(crate) codec: u8,
    pub(crate) user_flags: u32,
    pub(crate) sequence: u64,
    pub(crate) expires_ms: u64,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
}

/// The checksum of a record: over where it lies, then over its bytes behind the checksum.
fn record_crc(identity: &Identity, segment: u32, offset: u32, bytes: &[u8]) -> u32 {
    let crc = crc32c(0, &identity.incarnation.to_le_bytes());
    let crc = crc32c(crc, &segment.to_le_bytes());
    let crc = crc32c(crc, &offset.to_le_bytes());
    crc32c(crc, bytes.get(4..).unwrap_or(&[]))
}

impl RecordBytes<'_> {
    pub(crate) fn encoded_len(&self) -> usize {
        record_len(self.key.len(), self.value.len())
    }

    /// Writes the record to the front of `to`, which will lie at byte `offset` of `segment`.
    ///
    /// `to` must have [`RecordBytes::encoded_len`] bytes.
    pub(crate) fn encode(&self, identity: &Identity, segment: u32, offset: u32, to: &mut [u8]) {
        let Some(to) = to.get_mut(..self.encoded_len()) else {
            return;
        };
        let mut put = Put { to, at: 4 };
        put.u8(self.kind as u8)
            .u8(self.codec)
            .u16(self.key.len() as u16)
            .u32(self.value.len() as u32)
            .u32(self.user_flags)
            .u64(self.sequence)
            .u64(self.expires_ms)
            .bytes(self.key)
            .bytes(self.value);
        let end = put.at;
        if let Some(padding) = to.get_mut(end..) {
            padding.fill(0);
        }
        let crc = record_crc(identity, segment, offset, to);
        Put { to, at: 0 }.u32(crc);
    }
}

/// Reads the record at the front of `bytes`, which lie at byte `offset` of `segment`.
///
/// Returns it with the bytes it takes; `None` if it is damaged or belongs elsewhere.
pub(crate) fn decode_record<'a>(
    bytes: &'a [u8],
    identity: &Identity,
    segment: u32,
    offset: u32,
) -> Option<(RecordBytes<'a>, usize)> {
    let mut take = Take {
        from: bytes.get(..RECORD_HEADER_LEN)?,
        at: 0,
    };
    let crc = take.u32();
    let kind = match take.u8() {
        1 => RecordKind::Put,
        2 => RecordKind::Tombstone,
        _ => return None,
    };
    let codec = take.u8();
    let key_len = usize::from(take.u16());
    let value_len = take.u32() as usize;
    let user_flags = take.u32();
    let sequence = take.u64();
    let expires_ms = take.u64();
    let lengths_sound = (1..=KEY_LEN_MAX).contains(&key_len)
        && value_len <= VALUE_LEN_MAX
        && (kind == RecordKind::Put || value_len == 0);
    if !lengths_sound || codec != CODEC_PLAIN || sequence == 0 || !in_range(&[sequence]) {
        return None;
    }
    let len = record_len(key_len, value_len);
    let record = bytes.get(..len)?;
    if record_crc(identity, segment, offset, record) != crc {
        return None;
    }
    let (key, rest) = record.get(RECORD_HEADER_LEN..)?.split_at_checked(key_len)?;
    let value = rest.get(..value_len)?;
    Some((
        RecordBytes {
            kind,
            codec,
            user_flags,
            sequence,
            expires_ms,
            key,
            value,
        },
        len,
    ))
}

/// Every frame of the segment in `bytes`, as far as they are sound and follow each other.
pub(crate) fn frames<'a>(
    bytes: &'a [u8],
    identity: &'a Identity,
    header: &SegmentHeader,
) -> impl Iterator<Item = FrameHeader> + 'a {
    let header = *header;
    let mut unit = 1;
    let mut number = header.first_frame;
    core::iter::from_fn(move || {
        let frame = FrameHeader::decode(bytes, identity, &header, unit)?;
        if frame.number != number {
            return None;
        }
        unit += frame.units();
        number = number.wrapping_add(1);
        Some(frame)
    })
}

/// Calls `visit` with each record of a sound frame and its byte offset in the segment `bytes`.
///
/// `false` if the frame does not hold what its header says, or `visit` said so.
pub(crate) fn for_each_record<'a>(
    bytes: &'a [u8],
    identity: &Identity,
    frame: &FrameHeader,
    mut visit: impl FnMut(RecordBytes<'a>, u32) -> bool,
) -> bool {
    let end = frame.offset().saturating_add(frame.len as usize);
    let mut at = frame.offset().saturating_add(FRAME_HEADER_LEN);
    for _ in 0..frame.records {
        let record = bytes
            .get(at..end)
            .and_then(|rest| decode_record(rest, identity, frame.segment, at as u32));
        let Some((record, len)) = record else {
            return false;
        };
        if !visit(record, at as u32) {
            return false;
        }
        at = at.saturating_add(len);
    }
    at == end
}
