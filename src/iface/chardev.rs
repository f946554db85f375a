// SPDX-License-Identifier: GPL-2.0

//! `/dev/hpkv`.
//!
//! Programs use the ioctls of `include/uapi/linux/hpkv.h`, where each is explained. People with a
//! shell write and read the device:
//!
//! - a write of `key:value` stores the value, one of `key:+tail` appends to it. One line feed at
//!   the end is not part of the value. One call of write() is one record, whole or not at all;
//! - reading gives every record as `key:value` and a line feed, in ascending order of the keys.
//!   The open file remembers the last key it gave out, so that a reader may take its time: nothing
//!   is held meanwhile but the one record that did not fit in the reader's buffer.
//!
//! # Locks
//!
//! The state of an open file has a mutex, held for one read; it comes before all locks of the
//! engine. Nothing else here is locked.

use core::mem::size_of;

use super::{errno, params, Service};
use crate::abi::{self, *};
use crate::engine::{
    Durability, Error, RecordRef, RecordView, ScanRequest, Staged, UpdateAt, WriteOptions,
    KEY_LEN_MAX, VALUE_LEN_MAX,
};
use crate::sys::chardev::{Access, Destination, Device, Source};
use crate::sys::errno::{
    E2BIG, EBADF, EFAULT, EFBIG, EINTR, EINVAL, ENOMEM, ENOTTY, EPERM, ERANGE,
};
use crate::sys::uaccess::{
    bytes_of, copy_in, copy_out, copy_out_nofault, copy_struct_in, copy_struct_out, Plain,
};
use crate::sys::{capable_sys_admin, cond_resched, signal_pending, Arc, Mutex, Vec};

// The header and the engine must mean the same.
const _: () = {
    assert!(HPKV_KEY_LEN_MAX as usize == KEY_LEN_MAX);
    assert!(HPKV_VALUE_LEN_MAX as usize == VALUE_LEN_MAX);
};

/// Longest value that GET copies out inside its read section. A longer one would keep the section
/// open for long, and costs so much to copy that taking a reference to it does not matter.
const INLINE_VALUE_LEN_MAX: usize = 2 * 4096;

/// Most bytes that one read() of the device gives out, so that a huge buffer does not make for an
/// endless call.
const READ_LEN_MAX: usize = 1 << 20;

/// Entries of a scan between two looks at whether it should come to an end.
const ENTRIES_PER_CHECK: u32 = 64;

/// The device.
pub(crate) struct Chardev {
    service: Arc<Service>,
}

impl Chardev {
    /// Offers a service as a device.
    pub(crate) fn new(service: Arc<Service>) -> Self {
        Self { service }
    }
}

/// The parts of a command word: which command, and how long the caller's structure is.
struct Command {
    magic: u32,
    number: u32,
    user_len: usize,
}

impl Command {
    fn new(word: u32) -> Self {
        // The layout of `_IOC`: 8 bits of number, 8 of magic, 14 of size, 2 of direction.
        Self {
            magic: (word >> 8) & 0xff,
            number: word & 0xff,
            user_len: ((word >> 16) & 0x3fff) as usize,
        }
    }
}

/// Fails unless every bit of `given` is one of `known`.
fn only(given: u32, known: u32) -> Result<(), i32> {
    if given & !known == 0 {
        Ok(())
    } else {
        Err(EINVAL)
    }
}

/// Copies a key of the caller into `buffer`; refuses lengths that no key has.
fn key_in(address: u64, len: u32, buffer: &mut [u8; KEY_LEN_MAX]) -> Result<&[u8], i32> {
    let len = usize::try_from(len).map_err(|_| EINVAL)?;
    if len == 0 {
        return Err(EINVAL);
    }
    let key = buffer.get_mut(..len).ok_or(EINVAL)?;
    copy_in(address, key)?;
    Ok(key)
}

/// As [`key_in`], for a bound of a scan, which may be missing.
fn bound_in(address: u64, len: u32, buffer: &mut [u8; KEY_LEN_MAX]) -> Result<&[u8], i32> {
    if len == 0 {
        Ok(&[])
    } else {
        key_in(address, len, buffer)
    }
}

/// What the flags of a change ask for, checked.
fn write_options(flags: u32, expected_version: u64) -> Result<WriteOptions, i32> {
    let create = flags & HPKV_WRITE_CREATE != 0;
    let replace = flags & HPKV_WRITE_REPLACE != 0;
    let if_version = flags & HPKV_WRITE_IF_VERSION != 0;
    if create && (replace || if_version) {
        return Err(EINVAL);
    }
    let durability = if flags & HPKV_WRITE_SYNC != 0 {
        Durability::Sync
    } else {
        params::durability()
    };
    Ok(WriteOptions {
        create,
        replace,
        expected_version: if_version.then_some(expected_version),
        durability,
        ..WriteOptions::default()
    })
}

/// Takes the caller's structure, does the work, and gives the structure back when the work was
/// done, or when its result is the length that would have been needed.
fn exchange<T: Plain>(
    address: u64,
    user_len: usize,
    work: impl FnOnce(&mut T) -> Result<(), i32>,
) -> Result<(), i32> {
    let mut it = copy_struct_in::<T>(address, user_len)?;
    let result = work(&mut it);
    if matches!(result, Ok(()) | Err(ERANGE)) {
        copy_struct_out(address, user_len, &it)?;
    }
    result
}

impl Device for Chardev {
    type Open = Mutex<Dump>;

    fn open(&self) -> Result<Self::Open, i32> {
        Mutex::new(Dump::new()).map_err(|_| ENOMEM)
    }

    fn ioctl(&self, access: Access, word: u32, arg: u64) -> Result<(), i32> {
        let command = Command::new(word);
        if command.magic != HPKV_IOC_MAGIC {
            return Err(ENOTTY);
        }
        let readable = || if access.read { Ok(()) } else { Err(EBADF) };
        let writable = || if access.write { Ok(()) } else { Err(EBADF) };
        let len = command.user_len;
        match command.number {
            HPKV_NR_VERSION => exchange(arg, len, version),
            HPKV_NR_GET => {
                readable()?;
                exchange(arg, len, |it| self.get(it))
            }
            HPKV_NR_PUT => {
                writable()?;
                exchange(arg, len, |it| self.put(it))
            }
            HPKV_NR_DELETE => {
                writable()?;
                exchange(arg, len, |it| self.delete(it))
            }
            HPKV_NR_UPDATE => {
                writable()?;
                exchange(arg, len, |it| self.update(it))
            }
            HPKV_NR_SCAN => {
                readable()?;
                exchange(arg, len, |it| self.scan(it))
            }
            HPKV_NR_STAT => {
                readable()?;
                exchange(arg, len, |it| self.stat(it))
            }
            HPKV_NR_SYNC => exchange(arg, len, |it| self.sync(it)),
            HPKV_NR_PURGE => {
                writable()?;
                exchange(arg, len, |it| self.purge(it))
            }
            _ => Err(ENOTTY),
        }
    }

    fn read(&self, open: &Self::Open, to: &mut Destination<'_, '_>) -> Result<usize, i32> {
        open.lock().read(&self.service, to)
    }

    fn write(&self, from: &mut Source<'_, '_>) -> Result<usize, i32> {
        self.write_text(from)
    }
}

/// HPKV_IOC_VERSION.
fn version(it: &mut abi::hpkv_version) -> Result<(), i32> {
    only(it.reserved, 0)?;
    it.abi_version = HPKV_ABI_VERSION;
    it.key_len_max = HPKV_KEY_LEN_MAX;
    it.value_len_max = HPKV_VALUE_LEN_MAX;
    Ok(())
}

/// How far a lookup came inside its read section.
enum Found {
    /// The value is with the caller.
    Copied,
    /// The caller has too little room.
    TooLong,
    /// The value must be copied where sleeping is allowed.
    Later,
}

/// Fills in what GET tells of a record beside its value; says whether the value fits.
fn describe(it: &mut hpkv_get, view: RecordView<'_>) -> bool {
    let len = view.value().len();
    // Values are shorter than 4 GiB by far.
    it.value_len = u32::try_from(len).unwrap_or(u32::MAX);
    it.version = view.version();
    it.expires_ms = view.expires_ms();
    it.user_flags = view.user_flags();
    it.value_len <= it.value_cap
}

impl Chardev {
    /// HPKV_IOC_GET.
    fn get(&self, it: &mut hpkv_get) -> Result<(), i32> {
        only(it.flags | it.reserved, 0)?;
        let mut key = [0; KEY_LEN_MAX];
        let key = key_in(it.key, it.key_len, &mut key)?;
        let db = &self.service.db;

        let found = db
            .get(key, |view| {
                if !describe(it, view) {
                    Found::TooLong
                } else if view.value().len() > INLINE_VALUE_LEN_MAX {
                    Found::Later
                } else {
                    match copy_out_nofault(it.value, view.value()) {
                        Ok(()) => Found::Copied,
                        Err(_) => Found::Later,
                    }
                }
            })
            .map_err(errno)?;
        match found {
            Found::Copied => Ok(()),
            Found::TooLong => Err(ERANGE),
            Found::Later => {
                // The key may have changed meanwhile: everything is told of this one record.
                let record = db.get_shared(key).map_err(errno)?;
                let view = record.view();
                if !describe(it, view) {
                    return Err(ERANGE);
                }
                copy_out(it.value, view.value())
            }
        }
    }

    /// HPKV_IOC_PUT.
    fn put(&self, it: &mut hpkv_put) -> Result<(), i32> {
        const FLAGS: u32 =
            HPKV_WRITE_CREATE | HPKV_WRITE_REPLACE | HPKV_WRITE_IF_VERSION | HPKV_WRITE_SYNC;
        only(it.flags, FLAGS)?;
        let mut options = write_options(it.flags, it.expected_version)?;
        options.user_flags = it.user_flags;
        options.expires_ms = it.expires_ms;

        let key_len = usize::try_from(it.key_len).map_err(|_| EINVAL)?;
        let value_len = usize::try_from(it.value_len).map_err(|_| EFBIG)?;
        let mut staged = Staged::new(key_len, value_len).map_err(errno)?;
        copy_in(it.key, staged.key_mut())?;
        copy_in(it.value, staged.value_mut())?;
        it.version = self.service.db.put(staged, &options).map_err(errno)?;
        Ok(())
    }

    /// HPKV_IOC_DELETE.
    fn delete(&self, it: &mut hpkv_delete) -> Result<(), i32> {
        only(it.flags, HPKV_WRITE_IF_VERSION | HPKV_WRITE_SYNC)?;
        let options = write_options(it.flags, it.expected_version)?;
        let mut key = [0; KEY_LEN_MAX];
        let key = key_in(it.key, it.key_len, &mut key)?;
        it.version = self.service.db.delete(key, &options).map_err(errno)?;
        Ok(())
    }

    /// HPKV_IOC_UPDATE.
    fn update(&self, it: &mut hpkv_update) -> Result<(), i32> {
        const FLAGS: u32 =
            HPKV_WRITE_APPEND | HPKV_WRITE_REPLACE | HPKV_WRITE_IF_VERSION | HPKV_WRITE_SYNC;
        only(it.flags, FLAGS)?;
        only(it.reserved | it.reserved2, 0)?;
        let options = write_options(it.flags, it.expected_version)?;
        let at = if it.flags & HPKV_WRITE_APPEND == 0 {
            UpdateAt::Offset(it.offset)
        } else if it.offset == 0 {
            UpdateAt::Append
        } else {
            return Err(EINVAL);
        };
        let mut key = [0; KEY_LEN_MAX];
        let key = key_in(it.key, it.key_len, &mut key)?;

        let len = usize::try_from(it.data_len).map_err(|_| EFBIG)?;
        if len > VALUE_LEN_MAX {
            return Err(EFBIG);
        }
        let mut data = Vec::new();
        data.resize(len, 0).map_err(|_| ENOMEM)?;
        copy_in(it.data, &mut data)?;

        let updated = self
            .service
            .db
            .update(key, &data, at, &options)
            .map_err(errno)?;
        it.version = updated.version;
        it.value_len = updated.value_len;
        Ok(())
    }

    /// HPKV_IOC_SCAN.
    fn scan(&self, it: &mut hpkv_scan) -> Result<(), i32> {
        only(it.flags, HPKV_SCAN_AFTER | HPKV_SCAN_KEYS_ONLY)?;
        let mut start = [0; KEY_LEN_MAX];
        let start = bound_in(it.start, it.start_len, &mut start)?;
        let mut end = [0; KEY_LEN_MAX];
        let end = bound_in(it.end, it.end_len, &mut end)?;
        let request = ScanRequest {
            start,
            after: it.flags & HPKV_SCAN_AFTER != 0 && !start.is_empty(),
            end,
            cursor: it.cursor,
        };

        let mut room = Entries {
            address: it.buffer,
            room: it.buffer_len,
            used: 0,
            count: 0,
            needed: 0,
            keys_only: it.flags & HPKV_SCAN_KEYS_ONLY != 0,
        };
        // Set when the scan ends before a record that would have been next.
        let mut more = false;
        let limit = if it.limit == 0 { u32::MAX } else { it.limit };
        let ended = self
            .service
            .db
            .scan(&request, |view| {
                if !room.put(view).map_err(Error::Os)? {
                    more = true;
                    return Ok(false);
                }
                if room.count % ENTRIES_PER_CHECK == 0 {
                    cond_resched();
                    if signal_pending() {
                        more = true;
                        return Ok(false);
                    }
                }
                Ok(room.count < limit)
            })
            .map_err(errno)?;

        it.count = room.count;
        it.used_len = room.used;
        it.cursor = ended.cursor;
        it.more = u32::from(more || ended.more);
        if room.count == 0 && room.needed != 0 {
            it.used_len = room.needed;
            return Err(ERANGE);
        }
        Ok(())
    }

    /// HPKV_IOC_STAT.
    fn stat(&self, it: &mut hpkv_stat) -> Result<(), i32> {
        only(it.flags, 0)?;
        let stats = self.service.db.stats();
        let mut state = 0;
        for (is, bit) in [
            (stats.persistent, HPKV_STATE_PERSISTENT),
            (stats.read_only, HPKV_STATE_READ_ONLY),
            (stats.failed, HPKV_STATE_FAILED),
        ] {
            if is {
                state |= bit;
            }
        }
        *it = hpkv_stat {
            flags: 0,
            state,
            records: stats.records,
            key_bytes: stats.key_bytes,
            value_bytes: stats.value_bytes,
            device_bytes: stats.device_bytes,
            used_bytes: stats.used_bytes,
            capacity_bytes: stats.capacity_bytes,
            live_sectors: stats.live_sectors,
            free_sectors: stats.free_sectors,
            version: stats.version,
            durable_version: stats.durable_version,
            gets: stats.gets,
            hits: stats.hits,
            puts: stats.puts,
            deletes: stats.deletes,
            scans: stats.scans,
            flushes: stats.flushes,
            frames: stats.frames,
            written_bytes: stats.written_bytes,
            payload_bytes: stats.payload_bytes,
            relocated_bytes: stats.relocated_bytes,
            compactions: stats.compactions,
            pending_bytes: stats.pending_bytes,
            errors: stats.errors,
            clients: u64::from(self.service.clients()),
        };
        Ok(())
    }

    /// HPKV_IOC_SYNC.
    fn sync(&self, it: &mut hpkv_sync) -> Result<(), i32> {
        only(it.flags | it.reserved, 0)?;
        it.version = self.service.db.sync().map_err(errno)?;
        Ok(())
    }

    /// HPKV_IOC_PURGE.
    fn purge(&self, it: &mut hpkv_purge) -> Result<(), i32> {
        only(it.flags | it.reserved, 0)?;
        if !capable_sys_admin() {
            return Err(EPERM);
        }
        self.service.db.purge().map_err(errno)
    }

    /// A write of `key:value` or `key:+tail`.
    fn write_text(&self, from: &mut Source<'_, '_>) -> Result<usize, i32> {
        // Key, colon, plus, value, line feed.
        const LEN_MAX: usize = KEY_LEN_MAX + 1 + 1 + VALUE_LEN_MAX + 1;

        let len = from.left();
        if len == 0 {
            return Ok(0);
        }
        if len > LEN_MAX {
            return Err(EFBIG);
        }
        let mut text = Vec::new();
        text.resize(len, 0).map_err(|_| ENOMEM)?;
        from.take(&mut text)?;

        let record = text.strip_suffix(b"\n").unwrap_or(&text);
        let colon = record.iter().position(|&byte| byte == b':');
        let (key, rest) = colon
            .and_then(|at| record.split_at_checked(at))
            .ok_or(EINVAL)?;
        let value = rest.strip_prefix(b":").ok_or(EINVAL)?;

        let db = &self.service.db;
        let options = WriteOptions {
            durability: params::durability(),
            ..WriteOptions::default()
        };
        if let Some(tail) = value.strip_prefix(b"+") {
            if key.is_empty() || key.len() > KEY_LEN_MAX {
                return Err(EINVAL);
            }
            db.update(key, tail, UpdateAt::Append, &options)
                .map_err(errno)?;
        } else {
            let staged = super::staged(key, value).map_err(errno)?;
            db.put(staged, &options).map_err(errno)?;
        }
        Ok(len)
    }
}

/// The caller's buffer of a scan, and how full it is.
struct Entries {
    address: u64,
    room: u32,
    used: u32,
    count: u32,
    /// Room that the first entry takes, if it does not fit.
    needed: u32,
    keys_only: bool,
}

impl Entries {
    /// Bytes before an entry's key.
    const HEADER_LEN: usize = size_of::<hpkv_scan_entry>();

    /// Adds an entry; returns false if it does not fit.
    fn put(&mut self, view: RecordView<'_>) -> Result<bool, i32> {
        let (key, value) = (view.key(), view.value());
        let shown: &[u8] = if self.keys_only { &[] } else { value };
        let bytes = Self::HEADER_LEN
            .checked_add(key.len())
            .and_then(|len| len.checked_add(shown.len()))
            .ok_or(E2BIG)?;
        let padded = bytes.checked_next_multiple_of(8).ok_or(E2BIG)?;
        let entry_len = u32::try_from(padded).map_err(|_| E2BIG)?;
        if entry_len > self.room.saturating_sub(self.used) {
            self.needed = entry_len;
            return Ok(false);
        }

        let header = hpkv_scan_entry {
            entry_len,
            key_len: u32::try_from(key.len()).map_err(|_| E2BIG)?,
            value_len: u32::try_from(value.len()).map_err(|_| E2BIG)?,
            user_flags: view.user_flags(),
            version: view.version(),
            expires_ms: view.expires_ms(),
        };
        let padding = [0u8; 8];
        let padding = padding.get(..padded.saturating_sub(bytes)).unwrap_or(&[]);
        let mut at = self
            .address
            .checked_add(u64::from(self.used))
            .ok_or(EFAULT)?;
        for piece in [bytes_of(&header), key, shown, padding] {
            copy_out(at, piece)?;
            let len = u64::try_from(piece.len()).map_err(|_| EFAULT)?;
            at = at.checked_add(len).ok_or(EFAULT)?;
        }
        self.used = self.used.saturating_add(entry_len);
        self.count = self.count.saturating_add(1);
        Ok(true)
    }
}

/// What an open file remembers of the records it has given out.
pub(crate) struct Dump {
    /// Which database is being read; 0 at the beginning.
    cursor: u64,
    /// The last key that was given out; nothing at the beginning.
    last: Key,
    /// A record that is being given out in pieces, and how many bytes of its line are out.
    piece: Option<(RecordRef, usize)>,
}

/// A key, kept.
struct Key {
    bytes: [u8; KEY_LEN_MAX],
    len: usize,
}

impl Key {
    fn get(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn set(&mut self, key: &[u8]) {
        if let Some(room) = self.bytes.get_mut(..key.len()) {
            room.copy_from_slice(key);
            self.len = key.len();
        }
    }
}

/// Why the scan below a read ended.
enum Stop {
    /// There is nothing more.
    End,
    /// The record does not fit in what is left of the reader's buffer.
    Full,
    /// The reader's memory cannot be written.
    Fault,
    /// A signal is pending, or enough was given out for one call.
    Enough,
}

impl Dump {
    fn new() -> Self {
        Self {
            cursor: 0,
            last: Key {
                bytes: [0; KEY_LEN_MAX],
                len: 0,
            },
            piece: None,
        }
    }

    /// Gives out as many lines as fit; returns how many bytes those are, 0 = there are no more.
    fn read(&mut self, service: &Service, to: &mut Destination<'_, '_>) -> Result<usize, i32> {
        let mut out: usize = 0;
        loop {
            if to.room() == 0 {
                return Ok(out);
            }
            if self.piece.is_some() {
                match self.read_piece(to) {
                    Ok(len) => out = out.saturating_add(len),
                    Err(_) if out > 0 => return Ok(out),
                    Err(errno) => return Err(errno),
                }
                continue;
            }

            match self.read_lines(service, to, &mut out) {
                Ok(Stop::End | Stop::Enough) => return Ok(out),
                Ok(Stop::Fault) if out == 0 => return Err(EFAULT),
                Ok(Stop::Fault) => return Ok(out),
                Ok(Stop::Full) if out > 0 => return Ok(out),
                // The buffer is empty and yet too small for this record: piece by piece.
                Ok(Stop::Full) => self.begin_piece(service)?,
                Err(_) if out > 0 => return Ok(out),
                Err(errno) => return Err(errno),
            }
            if signal_pending() {
                return if out > 0 { Ok(out) } else { Err(EINTR) };
            }
        }
    }

    /// Gives out whole lines from behind the last key.
    fn read_lines(
        &mut self,
        service: &Service,
        to: &mut Destination<'_, '_>,
        out: &mut usize,
    ) -> Result<Stop, i32> {
        // The scan borrows where it begins while it moves on.
        let mut start = [0; KEY_LEN_MAX];
        let start = {
            let last = self.last.get();
            let room = start.get_mut(..last.len()).ok_or(EINVAL)?;
            room.copy_from_slice(last);
            &*room
        };
        let request = ScanRequest {
            start,
            after: !start.is_empty(),
            end: &[],
            cursor: self.cursor,
        };
        let last = &mut self.last;
        let mut stop = Stop::End;
        let mut lines: u32 = 0;
        let ended = service
            .db
            .scan(&request, |view| {
                let (key, value) = (view.key(), view.value());
                let len = line_len(view);
                if len > to.room() {
                    stop = Stop::Full;
                    return Ok(false);
                }
                let put = [key, b":", value, b"\n"]
                    .iter()
                    .map(|piece| to.put(piece))
                    .fold(0usize, usize::saturating_add);
                if put < len {
                    // What was written of this line does not count: it will be given out again.
                    stop = Stop::Fault;
                    return Ok(false);
                }
                last.set(key);
                *out = out.saturating_add(len);
                lines = lines.wrapping_add(1);
                if *out >= READ_LEN_MAX || (lines % ENTRIES_PER_CHECK == 0 && signal_pending()) {
                    stop = Stop::Enough;
                    return Ok(false);
                }
                Ok(true)
            })
            .map_err(errno)?;
        self.cursor = ended.cursor;
        Ok(stop)
    }

    /// Takes hold of the record behind the last key, to give it out in pieces.
    fn begin_piece(&mut self, service: &Service) -> Result<(), i32> {
        let mut next = Key {
            bytes: [0; KEY_LEN_MAX],
            len: 0,
        };
        let request = ScanRequest {
            start: self.last.get(),
            after: self.last.len > 0,
            end: &[],
            cursor: self.cursor,
        };
        service
            .db
            .scan(&request, |view| {
                next.set(view.key());
                Ok(false)
            })
            .map_err(errno)?;
        if next.len == 0 {
            return Ok(());
        }
        match service.db.get_shared(next.get()) {
            Ok(record) => self.piece = Some((record, 0)),
            // Removed meanwhile: the next scan will not find it either.
            Err(Error::NotFound) => {}
            Err(error) => return Err(errno(error)),
        }
        Ok(())
    }

    /// Gives out more of the record that is being given out in pieces.
    fn read_piece(&mut self, to: &mut Destination<'_, '_>) -> Result<usize, i32> {
        let Some((record, done)) = &mut self.piece else {
            return Ok(0);
        };
        let view = record.view();
        let mut skip = *done;
        let mut out: usize = 0;
        for part in [view.key(), b":", view.value(), b"\n"] {
            let Some(rest) = part.get(skip..) else {
                skip = skip.saturating_sub(part.len());
                continue;
            };
            skip = 0;
            let wanted = rest.len().min(to.room());
            let put = to.put(rest.get(..wanted).unwrap_or_default());
            out = out.saturating_add(put);
            *done = done.saturating_add(put);
            if put < rest.len() {
                break;
            }
        }
        if *done >= line_len(view) {
            self.last.set(view.key());
            self.piece = None;
        } else if out == 0 {
            return Err(EFAULT);
        }
        Ok(out)
    }
}

/// Bytes of a record's line.
fn line_len(view: RecordView<'_>) -> usize {
    view.key()
        .len()
        .saturating_add(view.value().len())
        .saturating_add(b":".len() + b"\n".len())
}
