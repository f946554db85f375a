// SPDX-License-Identifier: GPL-2.0

//! Figures that the store tells about itself.

/// Events that are counted per processor; the numbers index [`crate::sys::Counters`].
#[derive(Clone, Copy)]
#[repr(usize)]
pub(crate) enum Event {
    Gets,
    Hits,
    Puts,
    Deletes,
    Scans,
    Flushes,
    Frames,
    WrittenBytes,
    PayloadBytes,
    RelocatedBytes,
    Compactions,
    Errors,
    Count,
}

/// Number of counted events.
pub(crate) const EVENTS: usize = Event::Count as usize;

/// A snapshot of the figures; include/uapi/linux/hpkv.h says what each means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Stats {
    pub persistent: bool,
    pub read_only: bool,
    pub failed: bool,
    pub records: u64,
    pub key_bytes: u64,
    pub value_bytes: u64,
    pub device_bytes: u64,
    pub used_bytes: u64,
    pub capacity_bytes: u64,
    pub live_sectors: u64,
    pub free_sectors: u64,
    pub version: u64,
    pub durable_version: u64,
    pub gets: u64,
    pub hits: u64,
    pub puts: u64,
    pub deletes: u64,
    pub scans: u64,
    pub flushes: u64,
    pub frames: u64,
    pub written_bytes: u64,
    pub payload_bytes: u64,
    pub relocated_bytes: u64,
    pub compactions: u64,
    pub pending_bytes: u64,
    pub errors: u64,
    pub total_segments: u64,
    pub free_segments: u64,
}
