// SPDX-License-Identifier: GPL-2.0

//! Which parts of the device are live: the sector bitmap and the state of every segment.
//!
//! Records are packed, so several of them share a unit of 4 KiB. The bitmap therefore holds a
//! small count instead of a bit for each unit: the live records that touch it. A unit is live
//! while its count is not 0. Only segments in use have a bitmap, so memory goes with what is
//! stored and not with the size of the device.
//!
//! The store keeps the map behind a lock of its own, which is the innermost one: it is never held
//! while another is taken, and nothing under it sleeps for the device.

use super::error::Result;
use super::format::{Geometry, SegmentState, UNIT};
use super::limits::SEGMENTS_RESERVED;
use super::location::Extent;
use crate::sys::Vec;

struct Segment {
    state: SegmentState,
    /// What compaction would have to place elsewhere, as [`SpaceMap::charge`] counts it.
    live_charge: u64,
    live_bytes: u64,
    /// Live records that touch each unit; empty while the segment is free.
    units: Vec<u8>,
    /// Compaction found it unreadable and leaves it alone.
    bad: bool,
}

/// State of all segments that were ever in use, and the live units in them.
pub(crate) struct SpaceMap {
    geometry: Geometry,
    segments: Vec<Segment>,
    in_use: u64,
    live_bytes: u64,
    live_units: u64,
}

impl SpaceMap {
    pub(crate) fn new(geometry: Geometry) -> Self {
        SpaceMap {
            geometry,
            segments: Vec::new(),
            in_use: 0,
            live_bytes: 0,
            live_units: 0,
        }
    }

    /// Segments that may be written: free ones, and those never used.
    pub(crate) fn free_segments(&self) -> u64 {
        self.geometry.segments_total.saturating_sub(self.in_use)
    }

    /// Segments with a header.
    pub(crate) fn segments_used(&self) -> u64 {
        self.segments.len() as u64
    }

    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    pub(crate) fn live_units(&self) -> u64 {
        self.live_units
    }

    /// Makes sure that the next `count` calls of [`SpaceMap::add_segment`] succeed.
    pub(crate) fn reserve_segments(&mut self, count: u64) -> Result {
        Ok(self.segments.reserve(count as usize)?)
    }

    /// Adds a free segment behind the last one.
    pub(crate) fn add_segment(&mut self) -> Result {
        self.segments.push(Segment {
            state: SegmentState::Free,
            live_charge: 0,
            live_bytes: 0,
            units: Vec::new(),
            bad: false,
        })?;
        Ok(())
    }

    /// The lowest free segment that has a header: the region in use stays short.
    pub(crate) fn first_free(&self) -> Option<u32> {
        let at = self
            .segments
            .iter()
            .position(|segment| segment.state == SegmentState::Free)?;
        Some(at as u32)
    }

    /// Notes that a segment takes frames, or took its last one. Allocates its bitmap.
    pub(crate) fn set_in_use(&mut self, segment: u32, state: SegmentState) -> Result {
        let units = self.geometry.segment_units as usize;
        if let Some(segment) = self.segments.get_mut(segment as usize) {
            if segment.units.is_empty() {
                segment.units.resize(units, 0)?;
            }
            if segment.state == SegmentState::Free {
                self.in_use += 1;
            }
            segment.state = state;
        }
        Ok(())
    }

    /// Notes that a segment is free. What was live in it is no longer counted.
    pub(crate) fn set_free(&mut self, at: u32) {
        let Some(segment) = self.segments.get_mut(at as usize) else {
            return;
        };
        if segment.state == SegmentState::Free {
            return;
        }
        let live_units = segment.units.iter().filter(|count| **count != 0).count() as u64;
        self.live_units = self.live_units.saturating_sub(live_units);
        self.live_bytes = self.live_bytes.saturating_sub(segment.live_bytes);
        self.in_use = self.in_use.saturating_sub(1);
        *segment = Segment {
            state: SegmentState::Free,
            live_charge: 0,
            live_bytes: 0,
            units: Vec::new(),
            bad: false,
        };
    }

    /// Excludes a segment from compaction, because it cannot be read.
    pub(crate) fn set_bad(&mut self, segment: u32) {
        if let Some(segment) = self.segments.get_mut(segment as usize) {
            segment.bad = true;
        }
    }

    /// Live bytes of a segment.
    pub(crate) fn live_bytes_of(&self, segment: u32) -> u64 {
        self.segments
            .get(segment as usize)
            .map_or(0, |segment| segment.live_bytes)
    }

    /// Counts an extent as live.
    pub(crate) fn add_live(&mut self, extent: Extent) {
        let charge = charge(&self.geometry, extent.len);
        let Some(segment) = self.segments.get_mut(extent.location.segment() as usize) else {
            return;
        };
        segment.live_charge = segment.live_charge.saturating_add(charge);
        segment.live_bytes = segment.live_bytes.saturating_add(u64::from(extent.len));
        self.live_bytes = self.live_bytes.saturating_add(u64::from(extent.len));
        for count in units_of(&mut segment.units, extent) {
            if *count == 0 {
                self.live_units += 1;
            }
            *count = count.saturating_add(1);
        }
    }

    /// Counts an extent that was live as dead.
    pub(crate) fn remove_live(&mut self, extent: Extent) {
        let charge = charge(&self.geometry, extent.len);
        let Some(segment) = self.segments.get_mut(extent.location.segment() as usize) else {
            return;
        };
        segment.live_charge = segment.live_charge.saturating_sub(charge);
        segment.live_bytes = segment.live_bytes.saturating_sub(u64::from(extent.len));
        self.live_bytes = self.live_bytes.saturating_sub(u64::from(extent.len));
        for count in units_of(&mut segment.units, extent) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.live_units = self.live_units.saturating_sub(1);
            }
        }
    }

    /// Number of free segments below which compaction works.
    pub(crate) fn free_wanted(&self) -> u64 {
        free_wanted(&self.geometry)
    }

    /// The closed segment with the least to move, if emptying it gains anything.
    pub(crate) fn victim(&self) -> Option<u32> {
        // A twentieth of a segment is the least gain that is worth writing a segment again.
        let worth = self.geometry.payload_bytes() as u64 / 20 * 19;
        self.segments
            .iter()
            .enumerate()
            .filter(|(_, segment)| segment.state == SegmentState::Closed && !segment.bad)
            .filter(|(_, segment)| segment.live_charge < worth)
            .min_by_key(|(_, segment)| segment.live_charge)
            .map(|(at, _)| at as u32)
    }
}

fn units_of(units: &mut [u8], extent: Extent) -> &mut [u8] {
    let start = extent.location.offset() as usize;
    let end = start.saturating_add(extent.len as usize).div_ceil(UNIT);
    units.get_mut(start / UNIT..end).unwrap_or(&mut [])
}

/// Space that a record of `len` bytes costs.
///
/// Frames do not cross segments, so a record that is large beside a segment leaves a gap at its
/// end. It is charged for the share of a segment that a record of its size takes when a segment
/// holds nothing else, which bounds the waste whatever the mixture.
pub(crate) fn charge(geometry: &Geometry, len: u32) -> u64 {
    let payload = geometry.payload_bytes() as u64;
    let len = u64::from(len);
    if len <= payload / 16 {
        return len;
    }
    let fit = (geometry.record_bytes_max() as u64)
        .checked_div(len)
        .unwrap_or(1)
        .max(1);
    payload / fit
}

fn free_wanted(geometry: &Geometry) -> u64 {
    SEGMENTS_RESERVED + 2 + geometry.segments_total / 64
}

/// Sum of charges up to which the store takes new data.
///
/// What is left free lets compaction find a segment worth emptying at any time: with all closed
/// segments as full as each other they are 92 % full.
pub(crate) fn capacity(geometry: &Geometry) -> u64 {
    let segments = geometry
        .segments_total
        .saturating_sub(free_wanted(geometry));
    segments.saturating_mul(geometry.payload_bytes() as u64) / 100 * 92
}
