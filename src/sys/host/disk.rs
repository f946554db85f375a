// SPDX-License-Identifier: GPL-2.0

//! Disks of the host twin: a file, and memory that loses what was not flushed.
//!
//! # Fault model of [`MemoryDisk`]
//!
//! Writes are remembered one by one until a flush makes them durable. [`MemoryDisk::crash`] gives
//! an image after a power cut: all durable writes, and of each later one all, none or some of its
//! 512-byte sectors, as the caller's choice says, in any combination. Reads see every write.
//! [`MemoryDisk::fail_after`] lets a later write, flush or read fail with EIO, and all after it.

use super::super::disk::Disk;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

const EIO: i32 = 5;
const EINVAL: i32 = 22;
const SECTOR: usize = 512;

/// A disk that is a file; a flush is an `fdatasync`.
pub struct FileDisk {
    file: std::fs::File,
    len: u64,
}

impl FileDisk {
    /// A disk on `file`, as long as the file is.
    pub fn new(file: std::fs::File) -> std::io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(FileDisk { file, len })
    }
}

fn errno(error: std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(EIO)
}

impl Disk for FileDisk {
    fn len_bytes(&self) -> u64 {
        self.len
    }

    fn sector_bytes(&self) -> u32 {
        SECTOR as u32
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), i32> {
        self.file.read_exact_at(buf, offset).map_err(errno)
    }

    fn write(&self, offset: u64, buf: &[u8]) -> Result<(), i32> {
        self.file.write_all_at(buf, offset).map_err(errno)
    }

    fn flush(&self) -> Result<(), i32> {
        self.file.sync_data().map_err(errno)
    }
}

struct State {
    /// What reads see.
    bytes: Vec<u8>,
    /// What survives for certain.
    durable: Vec<u8>,
    /// Writes since the last flush, in order.
    loose: Vec<(usize, Vec<u8>)>,
}

/// A disk in memory; clones are the same disk.
#[derive(Clone)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
    /// Requests until the first failure; negative = no failure.
    failing_in: Arc<AtomicI64>,
    flushes_lie: bool,
}

impl MemoryDisk {
    /// A disk of `len` zero bytes.
    pub fn new(len: usize) -> Self {
        Self::from_image(vec![0; len])
    }

    /// A disk that holds `image`.
    pub fn from_image(image: Vec<u8>) -> Self {
        let state = State {
            durable: image.clone(),
            bytes: image,
            loose: Vec::new(),
        };
        MemoryDisk {
            state: Arc::new(Mutex::new(state)),
            failing_in: Arc::new(AtomicI64::new(-1)),
            flushes_lie: false,
        }
    }

    /// The same disk, but flushes do nothing and say that they did.
    pub fn with_lying_flushes(mut self) -> Self {
        self.flushes_lie = true;
        self
    }

    /// Lets every request after the next `requests` ones fail.
    pub fn fail_after(&self, requests: i64) {
        self.failing_in.store(requests, Ordering::Relaxed);
    }

    /// What reads see at present.
    pub fn image(&self) -> Vec<u8> {
        self.lock().bytes.clone()
    }

    /// What a power cut leaves: durable writes, and each sector of a later one that `survives`
    /// says `true` to, given the number of the write and the number of the sector in it.
    pub fn crash(&self, mut survives: impl FnMut(usize, usize) -> bool) -> Vec<u8> {
        let state = self.lock();
        let mut image = state.durable.clone();
        for (number, (offset, bytes)) in state.loose.iter().enumerate() {
            for (sector, bytes) in bytes.chunks(SECTOR).enumerate() {
                if survives(number, sector) {
                    let at = offset + sector * SECTOR;
                    image[at..at + bytes.len()].copy_from_slice(bytes);
                }
            }
        }
        image
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request(&self) -> Result<(), i32> {
        match self.failing_in.load(Ordering::Relaxed) {
            0 => Err(EIO),
            left if left > 0 => {
                self.failing_in.store(left - 1, Ordering::Relaxed);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn range(len: usize, offset: u64, count: usize) -> Result<std::ops::Range<usize>, i32> {
    let start = usize::try_from(offset).map_err(|_| EINVAL)?;
    let end = start
        .checked_add(count)
        .filter(|end| *end <= len)
        .ok_or(EINVAL)?;
    if !start.is_multiple_of(SECTOR) || !count.is_multiple_of(SECTOR) {
        return Err(EINVAL);
    }
    Ok(start..end)
}

impl Disk for MemoryDisk {
    fn len_bytes(&self) -> u64 {
        self.lock().bytes.len() as u64
    }

    fn sector_bytes(&self) -> u32 {
        SECTOR as u32
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), i32> {
        self.request()?;
        let state = self.lock();
        let range = range(state.bytes.len(), offset, buf.len())?;
        buf.copy_from_slice(&state.bytes[range]);
        Ok(())
    }

    fn write(&self, offset: u64, buf: &[u8]) -> Result<(), i32> {
        self.request()?;
        let mut state = self.lock();
        let range = range(state.bytes.len(), offset, buf.len())?;
        let start = range.start;
        state.bytes[range].copy_from_slice(buf);
        state.loose.push((start, buf.to_vec()));
        Ok(())
    }

    fn flush(&self) -> Result<(), i32> {
        self.request()?;
        if self.flushes_lie {
            return Ok(());
        }
        let mut state = self.lock();
        let loose = std::mem::take(&mut state.loose);
        for (offset, bytes) in loose {
            state.durable[offset..offset + bytes.len()].copy_from_slice(&bytes);
        }
        Ok(())
    }
}
