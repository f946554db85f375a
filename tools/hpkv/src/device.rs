// SPDX-License-Identifier: GPL-2.0
//! The device of the module, by `ioctl`. All unsafe code of this crate is here.
//!
//! Each function builds one structure of the interface from slices that live
//! as long as the call, so that no pointer leaves this file.
#![allow(unsafe_code, reason = "ioctl takes pointers as numbers; see above")]

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use crate::backend::{Backend, Got, Scanned, Step, Update};
use crate::{DeleteOptions, Metadata, PutOptions, Stat, Updated, Version, abi};

/// An open device.
#[derive(Debug)]
pub(crate) struct Device {
    fd: OwnedFd,
}

impl Device {
    pub(crate) fn open(path: &Path, write: bool) -> Result<Self, Errno> {
        let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
        let fd = rustix::fs::open(path, access | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Device { fd })
    }

    /// Makes one request.
    ///
    /// # Safety
    ///
    /// `T` must be the structure that the command with this number takes, and
    /// every address in it must be valid for the length beside it: for reading
    /// where the command reads, for writing where it writes.
    unsafe fn call<const OPCODE: Opcode, T>(&self, argument: &mut T) -> Result<(), Errno> {
        // SAFETY: the command word holds the size of `T`, and the kernel
        // writes no more than that to `argument`; what it points to is the
        // caller's promise.
        unsafe { ioctl(&self.fd, Updater::<OPCODE, T>::new(argument)) }
    }
}

/// The command word of command `number` with structure `T`.
const fn command<T>(number: u32) -> Opcode {
    assert!(abi::HPKV_IOC_MAGIC <= 0xff && number <= 0xff);
    #[allow(
        clippy::cast_possible_truncation,
        reason = "asserted in the line above"
    )]
    opcode::read_write::<T>(abi::HPKV_IOC_MAGIC as u8, number as u8)
}

const VERSION: Opcode = command::<abi::hpkv_version>(abi::HPKV_NR_VERSION);
const GET: Opcode = command::<abi::hpkv_get>(abi::HPKV_NR_GET);
const PUT: Opcode = command::<abi::hpkv_put>(abi::HPKV_NR_PUT);
const DELETE: Opcode = command::<abi::hpkv_delete>(abi::HPKV_NR_DELETE);
const UPDATE: Opcode = command::<abi::hpkv_update>(abi::HPKV_NR_UPDATE);
const SCAN: Opcode = command::<abi::hpkv_scan>(abi::HPKV_NR_SCAN);
const STAT: Opcode = command::<abi::hpkv_stat>(abi::HPKV_NR_STAT);
const SYNC: Opcode = command::<abi::hpkv_sync>(abi::HPKV_NR_SYNC);
const PURGE: Opcode = command::<abi::hpkv_purge>(abi::HPKV_NR_PURGE);

/// The address of bytes as the interface carries it.
fn address(bytes: &[u8]) -> u64 {
    bytes.as_ptr().expose_provenance() as u64
}

/// A length as the interface carries it. What does not fit is far beyond every
/// limit of the store; the largest number draws the kernel's refusal.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// The room of a buffer; more than the interface can express is not used.
fn room(buffer: &mut [u8]) -> (u64, u32) {
    (
        buffer.as_mut_ptr().expose_provenance() as u64,
        length(buffer),
    )
}

fn usize_from(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// A refusal of what cannot be expressed in the interface at all, so that a
/// length is never cut on its way.
fn expressible(bytes: &[u8], errno: Errno) -> Result<(), Errno> {
    u32::try_from(bytes.len()).map(|_| ()).map_err(|_| errno)
}

impl Backend for Device {
    fn version(&self) -> Result<Version, Errno> {
        let mut argument = abi::hpkv_version::default();
        // SAFETY: the structure of this command; it holds no address.
        unsafe { self.call::<VERSION, _>(&mut argument)? };
        Ok(Version {
            abi_version: argument.abi_version,
            key_len_max: usize_from(argument.key_len_max),
            value_len_max: usize_from(argument.value_len_max),
        })
    }

    fn get(&self, key: &[u8], buffer: &mut [u8]) -> Result<Got, Errno> {
        expressible(key, Errno::INVAL)?;
        let (value, value_cap) = room(buffer);
        let mut argument = abi::hpkv_get {
            key: address(key),
            key_len: length(key),
            value,
            value_cap,
            ..Default::default()
        };
        // SAFETY: the structure of this command; `key` is valid for reading
        // and `buffer`, borrowed mutably, for writing.
        match unsafe { self.call::<GET, _>(&mut argument) } {
            Ok(()) => Ok(Got::Value {
                value_len: usize_from(argument.value_len),
                metadata: Metadata {
                    version: argument.version,
                    expires_ms: argument.expires_ms,
                    user_flags: argument.user_flags,
                },
            }),
            Err(Errno::RANGE) => Ok(Got::Room(usize_from(argument.value_len))),
            Err(errno) => Err(errno),
        }
    }

    fn put(&self, key: &[u8], value: &[u8], options: &PutOptions) -> Result<u64, Errno> {
        expressible(key, Errno::INVAL)?;
        expressible(value, Errno::FBIG)?;
        let mut argument = abi::hpkv_put {
            key: address(key),
            key_len: length(key),
            flags: options.flags(),
            value: address(value),
            value_len: length(value),
            user_flags: options.stored_user_flags(),
            expires_ms: options.stored_expires_ms(),
            expected_version: options.expected_version(),
            version: 0,
        };
        // SAFETY: the structure of this command; `key` and `value` are valid
        // for reading.
        unsafe { self.call::<PUT, _>(&mut argument)? };
        Ok(argument.version)
    }

    fn delete(&self, key: &[u8], options: &DeleteOptions) -> Result<u64, Errno> {
        expressible(key, Errno::INVAL)?;
        let mut argument = abi::hpkv_delete {
            key: address(key),
            key_len: length(key),
            flags: options.flags(),
            expected_version: options.expected_version(),
            version: 0,
        };
        // SAFETY: the structure of this command; `key` is valid for reading.
        unsafe { self.call::<DELETE, _>(&mut argument)? };
        Ok(argument.version)
    }

    fn update(&self, key: &[u8], update: Update<'_>) -> Result<Updated, Errno> {
        expressible(key, Errno::INVAL)?;
        expressible(update.data, Errno::FBIG)?;
        let append = if update.offset.is_none() {
            abi::HPKV_WRITE_APPEND
        } else {
            0
        };
        let mut argument = abi::hpkv_update {
            key: address(key),
            key_len: length(key),
            flags: update.flags | append,
            data: address(update.data),
            data_len: length(update.data),
            offset: update.offset.unwrap_or(0),
            expected_version: update.expected_version,
            ..Default::default()
        };
        // SAFETY: the structure of this command; `key` and `data` are valid
        // for reading.
        unsafe { self.call::<UPDATE, _>(&mut argument)? };
        Ok(Updated {
            version: argument.version,
            value_len: usize_from(argument.value_len),
        })
    }

    fn scan(&self, step: Step<'_>, buffer: &mut [u8]) -> Result<Scanned, Errno> {
        expressible(step.start, Errno::INVAL)?;
        expressible(step.end, Errno::INVAL)?;
        let (entries, entries_len) = room(buffer);
        let mut argument = abi::hpkv_scan {
            start: address(step.start),
            start_len: length(step.start),
            flags: step.flags,
            end: address(step.end),
            end_len: length(step.end),
            limit: step.limit,
            buffer: entries,
            buffer_len: entries_len,
            cursor: step.cursor,
            ..Default::default()
        };
        // SAFETY: the structure of this command; `start` and `end` are valid
        // for reading and `buffer`, borrowed mutably, for writing.
        match unsafe { self.call::<SCAN, _>(&mut argument) } {
            Ok(()) => Ok(Scanned::Entries {
                count: usize_from(argument.count),
                used_len: usize_from(argument.used_len),
                cursor: argument.cursor,
                more: argument.more != 0,
            }),
            Err(Errno::RANGE) => Ok(Scanned::Room(usize_from(argument.used_len))),
            Err(errno) => Err(errno),
        }
    }

    fn stat(&self) -> Result<Stat, Errno> {
        let mut argument = abi::hpkv_stat::default();
        // SAFETY: the structure of this command; it holds no address.
        unsafe { self.call::<STAT, _>(&mut argument)? };
        Ok(Stat::from_abi(&argument))
    }

    fn sync(&self) -> Result<u64, Errno> {
        let mut argument = abi::hpkv_sync::default();
        // SAFETY: the structure of this command; it holds no address.
        unsafe { self.call::<SYNC, _>(&mut argument)? };
        Ok(argument.version)
    }

    fn purge(&self) -> Result<(), Errno> {
        let mut argument = abi::hpkv_purge::default();
        // SAFETY: the structure of this command; it holds no address.
        unsafe { self.call::<PURGE, _>(&mut argument) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words that the C macros of the header give on x86-64, so that a
    /// change of a number or of a size cannot pass unseen.
    #[test]
    fn command_words_are_those_of_the_header() {
        assert_eq!(VERSION, 0xc010_b900);
        assert_eq!(GET, 0xc038_b901);
        assert_eq!(PUT, 0xc038_b902);
        assert_eq!(DELETE, 0xc020_b903);
        assert_eq!(UPDATE, 0xc040_b904);
        assert_eq!(SCAN, 0xc040_b905);
        assert_eq!(STAT, 0xc0c8_b906);
        assert_eq!(SYNC, 0xc010_b907);
        assert_eq!(PURGE, 0xc008_b908);
    }

    #[test]
    fn a_device_of_another_driver_is_told_apart() {
        let device = Device::open(Path::new("/dev/null"), false).unwrap();
        assert_eq!(device.version().unwrap_err(), Errno::NOTTY);
    }
}
