// SPDX-License-Identifier: GPL-2.0
//! /dev/hpkv by raw ioctl.
//!
//! The structures are written down here a second time, by hand, from the
//! documentation of the interface: were they generated from the header, a
//! layout changed by mistake would pass unseen.

use crate::sys::{self, Errno};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, RawFd};

pub(crate) const NR_VERSION: u32 = 0;
pub(crate) const NR_GET: u32 = 1;
pub(crate) const NR_PUT: u32 = 2;
pub(crate) const NR_DELETE: u32 = 3;
pub(crate) const NR_UPDATE: u32 = 4;
pub(crate) const NR_SCAN: u32 = 5;
pub(crate) const NR_STAT: u32 = 6;
pub(crate) const NR_SYNC: u32 = 7;
pub(crate) const NR_PURGE: u32 = 8;

pub(crate) const CREATE: u32 = 1;
pub(crate) const REPLACE: u32 = 2;
pub(crate) const IF_VERSION: u32 = 4;
pub(crate) const SYNC: u32 = 8;
pub(crate) const APPEND: u32 = 16;
pub(crate) const SCAN_AFTER: u32 = 1;
pub(crate) const SCAN_KEYS_ONLY: u32 = 2;
pub(crate) const STATE_PERSISTENT: u32 = 1;
pub(crate) const STATE_READ_ONLY: u32 = 2;
pub(crate) const STATE_FAILED: u32 = 4;

/// The command word for a structure of `size` bytes.
pub(crate) const fn command(nr: u32, size: usize) -> u64 {
    (3 << 30) | ((size as u64) << 16) | (0xb9 << 8) | nr as u64
}

macro_rules! abi {
    ($name:ident, $size:literal, $($field:ident: $ty:ty),*) => {
        #[repr(C)]
        #[derive(Debug, Clone, Copy, Default)]
        pub(crate) struct $name { $(pub(crate) $field: $ty),* }
        const _: () = assert!(size_of::<$name>() == $size);
    };
}

abi!(Version, 16, abi_version: u32, reserved: u32, key_len_max: u32, value_len_max: u32);
abi!(Get, 56, key: u64, key_len: u32, flags: u32, value: u64, value_cap: u32, value_len: u32,
    version: u64, expires_ms: u64, user_flags: u32, reserved: u32);
abi!(Put, 56, key: u64, key_len: u32, flags: u32, value: u64, value_len: u32, user_flags: u32,
    expires_ms: u64, expected_version: u64, version: u64);
abi!(Delete, 32, key: u64, key_len: u32, flags: u32, expected_version: u64, version: u64);
abi!(Update, 64, key: u64, key_len: u32, flags: u32, data: u64, data_len: u32, reserved: u32,
    offset: u64, expected_version: u64, version: u64, value_len: u32, reserved2: u32);
abi!(Scan, 64, start: u64, start_len: u32, flags: u32, end: u64, end_len: u32, limit: u32,
    buffer: u64, buffer_len: u32, count: u32, cursor: u64, used_len: u32, more: u32);
abi!(EntryHead, 32, entry_len: u32, key_len: u32, value_len: u32, user_flags: u32,
    version: u64, expires_ms: u64);
abi!(Stat, 200, flags: u32, state: u32, records: u64, key_bytes: u64, value_bytes: u64,
    device_bytes: u64, used_bytes: u64, capacity_bytes: u64, live_sectors: u64,
    free_sectors: u64, version: u64, durable_version: u64, gets: u64, hits: u64, puts: u64,
    deletes: u64, scans: u64, flushes: u64, frames: u64, written_bytes: u64,
    payload_bytes: u64, relocated_bytes: u64, compactions: u64, pending_bytes: u64,
    errors: u64, clients: u64);
abi!(Sync, 16, flags: u32, reserved: u32, version: u64);
abi!(Purge, 8, flags: u32, reserved: u32);

/// What GET tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) value: Vec<u8>,
    pub(crate) version: u64,
    pub(crate) expires_ms: u64,
    pub(crate) user_flags: u32,
}

/// One entry of a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) value_len: u32,
    pub(crate) version: u64,
    pub(crate) user_flags: u32,
}

/// What one SCAN call returned.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) entries: Vec<Entry>,
    pub(crate) cursor: u64,
    pub(crate) more: bool,
}

#[derive(Debug)]
pub(crate) struct Dev(pub(crate) File);

fn pointer(bytes: &[u8]) -> u64 {
    bytes.as_ptr() as u64
}

impl Dev {
    pub(crate) fn open() -> Self {
        Self::open_for(true, true).expect("open /dev/hpkv")
    }

    pub(crate) fn open_for(read: bool, write: bool) -> Result<Self, Errno> {
        OpenOptions::new()
            .read(read)
            .write(write)
            .open("/dev/hpkv")
            .map(Dev)
            .map_err(|e| e.raw_os_error().unwrap_or(0))
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    pub(crate) fn call<T>(&self, nr: u32, arg: &mut T) -> Result<(), Errno> {
        sys::ioctl(self.fd(), command(nr, size_of::<T>()), arg).map(|_| ())
    }

    pub(crate) fn version(&self) -> Result<Version, Errno> {
        let mut arg = Version::default();
        self.call(NR_VERSION, &mut arg).map(|()| arg)
    }

    pub(crate) fn get_full(&self, key: &[u8]) -> Result<Got, Errno> {
        let mut value = vec![0u8; 8192];
        loop {
            let mut arg = Get {
                key: pointer(key),
                key_len: key.len() as u32,
                value: value.as_mut_ptr() as u64,
                value_cap: value.len() as u32,
                ..Get::default()
            };
            match self.call(NR_GET, &mut arg) {
                Ok(()) => {
                    value.truncate(arg.value_len as usize);
                    let Get {
                        version,
                        expires_ms,
                        user_flags,
                        ..
                    } = arg;
                    return Ok(Got {
                        value,
                        version,
                        expires_ms,
                        user_flags,
                    });
                }
                Err(libc::ERANGE) => value.resize(arg.value_len as usize, 0),
                Err(errno) => return Err(errno),
            }
        }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Vec<u8>, Errno> {
        self.get_full(key).map(|got| got.value)
    }

    pub(crate) fn put(&self, key: &[u8], value: &[u8]) -> Result<u64, Errno> {
        self.put_with(key, value, Put::default())
    }

    /// PUT with the flags and numbers of `with`.
    pub(crate) fn put_with(&self, key: &[u8], value: &[u8], with: Put) -> Result<u64, Errno> {
        let mut arg = Put {
            key: pointer(key),
            key_len: key.len() as u32,
            value: pointer(value),
            value_len: value.len() as u32,
            ..with
        };
        self.call(NR_PUT, &mut arg).map(|()| arg.version)
    }

    pub(crate) fn delete(&self, key: &[u8]) -> Result<u64, Errno> {
        self.delete_with(key, 0, 0)
    }

    pub(crate) fn delete_with(
        &self,
        key: &[u8],
        flags: u32,
        expected_version: u64,
    ) -> Result<u64, Errno> {
        let mut arg = Delete {
            key: pointer(key),
            key_len: key.len() as u32,
            flags,
            expected_version,
            version: 0,
        };
        self.call(NR_DELETE, &mut arg).map(|()| arg.version)
    }

    pub(crate) fn update_with(
        &self,
        key: &[u8],
        data: &[u8],
        with: Update,
    ) -> Result<(u64, u32), Errno> {
        let mut arg = Update {
            key: pointer(key),
            key_len: key.len() as u32,
            data: pointer(data),
            data_len: data.len() as u32,
            ..with
        };
        self.call(NR_UPDATE, &mut arg)
            .map(|()| (arg.version, arg.value_len))
    }

    pub(crate) fn append(&self, key: &[u8], data: &[u8]) -> Result<(u64, u32), Errno> {
        self.update_with(
            key,
            data,
            Update {
                flags: APPEND,
                ..Update::default()
            },
        )
    }

    pub(crate) fn overwrite(
        &self,
        key: &[u8],
        offset: u64,
        data: &[u8],
    ) -> Result<(u64, u32), Errno> {
        self.update_with(
            key,
            data,
            Update {
                offset,
                ..Update::default()
            },
        )
    }

    /// One SCAN call with the flags, limit and cursor of `with`.
    pub(crate) fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        room: usize,
        with: Scan,
    ) -> Result<Page, Errno> {
        // In units of u64, because entries are aligned to 8 bytes.
        let mut buffer = vec![0u64; room / 8];
        let mut arg = Scan {
            start: pointer(start),
            start_len: start.len() as u32,
            end: pointer(end),
            end_len: end.len() as u32,
            buffer: buffer.as_mut_ptr() as u64,
            buffer_len: (buffer.len() * 8) as u32,
            ..with
        };
        self.call(NR_SCAN, &mut arg)?;
        assert!(
            arg.used_len as usize <= buffer.len() * 8,
            "SCAN says it used more than there is"
        );
        let bytes: Vec<u8> = buffer
            .iter()
            .flat_map(|w| w.to_ne_bytes())
            .take(arg.used_len as usize)
            .collect();
        let mut entries = Vec::new();
        let mut at = 0;
        for _ in 0..arg.count {
            let head: EntryHead = sys::from_bytes(&bytes[at..]);
            let key_at = at + size_of::<EntryHead>();
            let value_at = key_at + head.key_len as usize;
            let value_len = if with.flags & SCAN_KEYS_ONLY != 0 {
                0
            } else {
                head.value_len as usize
            };
            assert_eq!(head.entry_len % 8, 0, "an entry of a scan is not aligned");
            assert!(value_at + value_len <= at + head.entry_len as usize);
            entries.push(Entry {
                key: bytes[key_at..value_at].to_vec(),
                value: bytes[value_at..value_at + value_len].to_vec(),
                value_len: head.value_len,
                version: head.version,
                user_flags: head.user_flags,
            });
            at += head.entry_len as usize;
        }
        assert_eq!(
            at, arg.used_len as usize,
            "entries and used_len of a scan do not agree"
        );
        Ok(Page {
            entries,
            cursor: arg.cursor,
            more: arg.more != 0,
        })
    }

    /// Everything in a range, page by page.
    pub(crate) fn scan_all(
        &self,
        start: &[u8],
        end: &[u8],
        flags: u32,
    ) -> Result<Vec<Entry>, Errno> {
        let mut all: Vec<Entry> = Vec::new();
        let mut cursor = 0;
        loop {
            let last = all.last().map(|e| e.key.clone());
            let after = if last.is_some() { SCAN_AFTER } else { 0 };
            let with = Scan {
                flags: flags | after,
                cursor,
                ..Scan::default()
            };
            let page = self.scan(last.as_deref().unwrap_or(start), end, 2 << 20, with)?;
            let none = page.entries.is_empty();
            all.extend(page.entries);
            cursor = page.cursor;
            if !page.more {
                break;
            }
            assert!(!none, "SCAN says there is more but returns nothing");
        }
        assert!(
            all.windows(2).all(|w| w[0].key < w[1].key),
            "a scan is out of order"
        );
        Ok(all)
    }

    pub(crate) fn stat(&self) -> Stat {
        let mut arg = Stat::default();
        self.call(NR_STAT, &mut arg).expect("STAT");
        arg
    }

    pub(crate) fn sync(&self) -> Result<u64, Errno> {
        let mut arg = Sync::default();
        self.call(NR_SYNC, &mut arg).map(|()| arg.version)
    }

    pub(crate) fn purge(&self) -> Result<(), Errno> {
        self.call(NR_PURGE, &mut Purge::default())
    }
}
