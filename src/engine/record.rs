// SPDX-License-Identifier: GPL-2.0

//! A record in memory: one immutable version of one key, in one allocation.
//!
//! What a client sees of a record never changes after it is published; an update publishes a new
//! record. The few atomic fields are the engine's bookkeeping. They change under the lock of the
//! record's shard only; the lock-free readers look at none of them.

use super::error::{Error, Result};
use super::format::{self, RecordBytes, RecordKind};
use super::limits::{KEY_LEN_MAX, VALUE_LEN_MAX};
use super::location::{Extent, Location};
use crate::sys::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use crate::sys::{Object, Shared, Unique};

/// Marks the location word of a record that is not written; no segment number reaches this bit.
const PREVIOUS: u64 = 1 << 63;

/// The header of a record; key and value follow it in the same allocation.
pub(crate) struct Header {
    pub(crate) sequence: u64,
    pub(crate) expires_ms: u64,
    pub(crate) hash: u64,
    /// Where the record lies, or, marked so, where the durable version before it lies.
    location: AtomicU64,
    previous_len: AtomicU32,
    pub(crate) value_len: u32,
    pub(crate) user_flags: u32,
    /// Node of the ordered tree, 0 for a tombstone.
    order_node: AtomicU32,
    /// Values of the key, older than this record or copies of it, that lie in segments which are
    /// not free or wait to be written. A tombstone must live until there are none. Tombstones
    /// themselves do not count: nobody minds if one is read back.
    stale_copies: AtomicU32,
    pub(crate) key_len: u16,
    pub(crate) codec: u8,
    pub(crate) kind: RecordKind,
}

/// A reference to a published record.
pub(crate) type Record = Shared<Header>;

/// A published record, seen in a read section.
pub(crate) type RecordObject = Object<Header>;

impl Header {
    fn new(key_len: usize, value_len: usize, kind: RecordKind) -> Self {
        Header {
            sequence: 0,
            expires_ms: 0,
            hash: 0,
            location: AtomicU64::new(0),
            previous_len: AtomicU32::new(0),
            value_len: value_len as u32,
            user_flags: 0,
            order_node: AtomicU32::new(0),
            stale_copies: AtomicU32::new(0),
            key_len: key_len as u16,
            codec: format::CODEC_PLAIN,
            kind,
        }
    }

    /// Where the record lies on the device, once it was written.
    pub(crate) fn location(&self) -> Location {
        let word = self.location.load(Relaxed);
        if word & PREVIOUS == 0 {
            Location::from_word(word)
        } else {
            Location::NONE
        }
    }

    pub(crate) fn set_location(&self, location: Location) {
        self.location.store(location.word(), Relaxed);
    }

    /// What the record takes on the device, once it was written.
    pub(crate) fn extent(&self) -> Option<Extent> {
        let location = self.location();
        location.is_some().then(|| Extent {
            location,
            len: self.encoded_len() as u32,
        })
    }

    /// While the record waits to be written: the newest version of its key on the device. That
    /// one must stay readable, and counts as live, until this one is written.
    pub(crate) fn previous(&self) -> Option<Extent> {
        let word = self.location.load(Relaxed);
        let location = Location::from_word(word & !PREVIOUS);
        (word & PREVIOUS != 0).then(|| Extent {
            location,
            len: self.previous_len.load(Relaxed),
        })
    }

    pub(crate) fn set_previous(&self, previous: Option<Extent>) {
        self.location.store(
            previous.map_or(0, |extent| extent.location.word() | PREVIOUS),
            Relaxed,
        );
        self.previous_len
            .store(previous.map_or(0, |extent| extent.len), Relaxed);
    }

    pub(crate) fn order_node(&self) -> u32 {
        self.order_node.load(Relaxed)
    }

    pub(crate) fn set_order_node(&self, node: u32) {
        self.order_node.store(node, Relaxed);
    }

    pub(crate) fn stale_copies(&self) -> u32 {
        self.stale_copies.load(Relaxed)
    }

    pub(crate) fn set_stale_copies(&self, copies: u32) {
        self.stale_copies.store(copies, Relaxed);
    }

    /// Stale copies of the key once this record is one.
    pub(crate) fn stale_copies_with_this(&self) -> u32 {
        self.stale_copies()
            .saturating_add(u32::from(!self.is_tombstone()))
    }

    /// Counts one more stale copy, of kind `kind`.
    pub(crate) fn add_stale_copy(&self, kind: RecordKind) {
        if kind == RecordKind::Put {
            self.set_stale_copies(self.stale_copies().saturating_add(1));
        }
    }

    pub(crate) fn is_tombstone(&self) -> bool {
        matches!(self.kind, RecordKind::Tombstone)
    }

    /// Bytes that the record takes on the device.
    pub(crate) fn encoded_len(&self) -> usize {
        format::record_len(usize::from(self.key_len), self.value_len as usize)
    }

    /// Whether a client may see the record at `now_ms` of the wall clock.
    pub(crate) fn is_visible(&self, now_ms: impl FnOnce() -> u64) -> bool {
        !self.is_tombstone() && (self.expires_ms == 0 || now_ms() < self.expires_ms)
    }
}

/// Key and value of a record in the making.
///
/// A front end makes one, copies the client's bytes straight into it, and hands it to the store:
/// the bytes are copied once.
pub struct Staged {
    pub(crate) record: Option<Unique<Header>>,
    key_len: usize,
}

impl Staged {
    /// Allocates room for a key and a value of these lengths in bytes.
    ///
    /// [`Error::KeyLength`], [`Error::ValueTooLong`], [`Error::NoMemory`].
    pub fn new(key_len: usize, value_len: usize) -> Result<Self> {
        if value_len > VALUE_LEN_MAX {
            return Err(Error::ValueTooLong);
        }
        Self::with_kind(key_len, value_len, RecordKind::Put)
    }

    pub(crate) fn with_kind(key_len: usize, value_len: usize, kind: RecordKind) -> Result<Self> {
        check_key_len(key_len)?;
        let header = Header::new(key_len, value_len, kind);
        let record = Unique::alloc(header, key_len + value_len)?;
        Ok(Staged {
            record: Some(record),
            key_len,
        })
    }

    pub(crate) fn tombstone(key: &[u8]) -> Result<Self> {
        let mut staged = Self::with_kind(key.len(), 0, RecordKind::Tombstone)?;
        staged.key_mut().copy_from_slice(key);
        Ok(staged)
    }

    fn bytes(&self) -> &[u8] {
        self.record.as_ref().map_or(&[], |record| record.bytes())
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.record
            .as_mut()
            .map_or(&mut [], |record| record.bytes_mut())
    }

    /// The key's bytes.
    pub fn key(&self) -> &[u8] {
        self.bytes().get(..self.key_len).unwrap_or(&[])
    }

    /// The key's bytes, to be filled in.
    pub fn key_mut(&mut self) -> &mut [u8] {
        let len = self.key_len;
        self.bytes_mut().get_mut(..len).unwrap_or(&mut [])
    }

    /// The value's bytes, to be filled in.
    pub fn value_mut(&mut self) -> &mut [u8] {
        let len = self.key_len;
        self.bytes_mut().get_mut(len..).unwrap_or(&mut [])
    }
}

/// A record that is in no index, made of what lies on the device.
pub(crate) fn detached(found: &RecordBytes<'_>, hash: u64) -> Result<Record> {
    let mut staged = Staged::with_kind(found.key.len(), found.value.len(), found.kind)?;
    staged.key_mut().copy_from_slice(found.key);
    staged.value_mut().copy_from_slice(found.value);
    let mut draft = staged.record.take().ok_or(Error::NoMemory)?;
    let header = draft.header_mut();
    header.sequence = found.sequence;
    header.expires_ms = found.expires_ms;
    header.user_flags = found.user_flags;
    header.codec = found.codec;
    header.hash = hash;
    Ok(draft.share())
}

/// [`Error::KeyLength`] unless a key may have `len` bytes.
pub(crate) fn check_key_len(len: usize) -> Result {
    if len == 0 || len > KEY_LEN_MAX {
        return Err(Error::KeyLength);
    }
    Ok(())
}

/// The key of a record.
pub(crate) fn key_of(record: &RecordObject) -> &[u8] {
    record
        .bytes()
        .get(..usize::from(record.header().key_len))
        .unwrap_or(&[])
}

/// The value of a record.
pub(crate) fn value_of(record: &RecordObject) -> &[u8] {
    record
        .bytes()
        .get(usize::from(record.header().key_len)..)
        .unwrap_or(&[])
}

/// What a client may see of a record.
#[derive(Clone, Copy)]
pub struct RecordView<'a>(pub(crate) &'a RecordObject);

impl<'a> RecordView<'a> {
    /// The key's bytes.
    pub fn key(&self) -> &'a [u8] {
        key_of(self.0)
    }

    /// The value's bytes.
    pub fn value(&self) -> &'a [u8] {
        value_of(self.0)
    }

    /// The version: the sequence of the commit that made the record.
    pub fn version(&self) -> u64 {
        self.0.header().sequence
    }

    /// When the record ends: milliseconds since the epoch by the wall clock, 0 = never.
    pub fn expires_ms(&self) -> u64 {
        self.0.header().expires_ms
    }

    /// The number that a client stored beside the value.
    pub fn user_flags(&self) -> u32 {
        self.0.header().user_flags
    }
}

/// A reference to a record that may be kept while sleeping.
pub struct RecordRef(pub(crate) Record);

impl RecordRef {
    /// What the reference refers to.
    pub fn view(&self) -> RecordView<'_> {
        RecordView(&self.0)
    }
}
