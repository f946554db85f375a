// SPDX-License-Identifier: GPL-2.0

//! Block devices as disks.
//!
//! I/O goes by bios straight between the caller's pages and the device, not through the page
//! cache: what [`Disk::write`] acknowledges the device has acknowledged. The bios of one call are
//! in flight together.

use super::shim;
use crate::sys::Disk;
use core::ffi::CStr;
use core::pin::Pin;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use kernel::bindings;
use kernel::error::from_err_ptr;
use kernel::ffi::{c_int, c_uint, c_ushort};
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::types::Opaque;
use pin_init::stack_pin_init;

// The modes of opening are casts in C, which the bindings leave out; from include/linux/blkdev.h.
const BLK_OPEN_READ: bindings::blk_mode_t = 1 << 0;
const BLK_OPEN_WRITE: bindings::blk_mode_t = 1 << 1;
/// Refuses, and is refused by, other opens for writing, if the kernel was configured to.
const BLK_OPEN_RESTRICT_WRITES: bindings::blk_mode_t = 1 << 5;

/// The kernel counts sectors of this size whatever those of the device are.
const KERNEL_SECTOR_SHIFT: u32 = 9;

/// The most pages of one bio.
const BIO_PAGES_MAX: usize = bindings::BIO_MAX_VECS as usize;

/// A block device that is held exclusively.
///
/// # Invariants
///
/// `file` is an open file of the block device `bdev`, which belongs to this value.
pub struct BlockDevice {
    file: NonNull<bindings::file>,
    bdev: NonNull<bindings::block_device>,
    writable: bool,
    /// Who holds the device, by address alone: no two holders have the same.
    _holder: KBox<u64>,
}

// SAFETY: An open file is not bound to a thread, and the functions for block devices may be called
// by all threads at once.
unsafe impl Send for BlockDevice {}
// SAFETY: As above.
unsafe impl Sync for BlockDevice {}

impl BlockDevice {
    /// Opens the block device at `path`, for reading, or for both.
    ///
    /// Errors: `ENOENT` (no such file), `ENOTBLK` (not a block device), `ENXIO` or `ENODEV` (no
    /// device behind it), `EBUSY` (held by another, mounted for instance), `EROFS` (cannot be
    /// written to), `EINVAL` (`path` is empty or has a zero byte), `ENOMEM`, and what the device's
    /// driver says.
    pub fn open(path: &[u8], write: bool) -> Result<Self, i32> {
        let path = terminated(path)?;
        let path = CStr::from_bytes_with_nul(&path).map_err(|_| errno(EINVAL))?;
        match Self::open_as(path, write) {
            // The kernel says `EACCES` for a device that is read-only, but for other reasons too.
            Err(error) if write && error == errno(EACCES) => {
                Self::open_as(path, false)?;
                Err(errno(EROFS))
            }
            result => result,
        }
    }

    fn open_as(path: &CStr, write: bool) -> Result<Self, i32> {
        let mut holder = KBox::new(0u64, GFP_KERNEL).map_err(|_| errno(ENOMEM))?;
        let mut mode = BLK_OPEN_READ | BLK_OPEN_RESTRICT_WRITES;
        if write {
            mode |= BLK_OPEN_WRITE;
        }
        // SAFETY: The path ends with a zero byte. The holder is not null, is only compared, and
        // lives as long as the file is open. Operations on the holder are not offered.
        let file = from_err_ptr(unsafe {
            bindings::bdev_file_open_by_path(
                path.as_char_ptr(),
                mode,
                (&raw mut *holder).cast(),
                core::ptr::null(),
            )
        })
        .map_err(errno)?;
        let file = NonNull::new(file).ok_or(errno(ENODEV))?;
        // SAFETY: The file was opened just above, as that of a block device.
        let bdev = unsafe { bindings::file_bdev(file.as_ptr()) };
        let Some(bdev) = NonNull::new(bdev) else {
            // SAFETY: The file is ours, and not used again.
            unsafe { bindings::bdev_fput(file.as_ptr()) };
            return Err(errno(ENODEV));
        };
        // INVARIANT: The file was opened for this value, and `bdev` is its device.
        Ok(Self {
            file,
            bdev,
            writable: write,
            _holder: holder,
        })
    }

    /// Checks that `len` bytes at `offset`, in memory at `address`, can be moved at all.
    fn check(&self, offset: u64, address: usize, len: usize) -> Result<(), i32> {
        let sector = u64::from(self.sector_bytes());
        let end = u64::try_from(len)
            .ok()
            .and_then(|len| offset.checked_add(len))
            .ok_or(errno(EINVAL))?;
        if end > self.len_bytes() {
            return Err(errno(EINVAL));
        }
        let in_memory = sector.min(PAGE_SIZE as u64);
        let aligned = offset.is_multiple_of(sector)
            && end.is_multiple_of(sector)
            && (address as u64).is_multiple_of(in_memory);
        if aligned {
            Ok(())
        } else {
            Err(errno(EINVAL))
        }
    }

    /// Moves `len` bytes between memory at `address` and the device at `offset`; waits for the end.
    ///
    /// # Safety
    ///
    /// `address` points to `len` bytes of kernel memory, from `kmalloc` or `vmalloc`, which stay
    /// there during the call. If `write` is false they may be written to, and nobody else accesses
    /// them; if it is true, nobody writes to them.
    unsafe fn transfer(
        &self,
        offset: u64,
        address: *mut u8,
        len: usize,
        write: bool,
    ) -> Result<(), i32> {
        if len == 0 {
            return Ok(());
        }
        self.check(offset, address.addr(), len)?;
        let vmap_len = c_int::try_from(len).map_err(|_| errno(EINVAL))?;
        // SAFETY: By the requirement the memory is there.
        unsafe { shim::hpkv_buffer_to_device(address.cast(), vmap_len) };

        stack_pin_init!(let batch = Batch::new());
        let batch = batch.into_ref();
        let mut done: usize = 0;
        while done < len {
            // SAFETY: `done` is less than `len`, so the sum stays within the memory.
            let at = unsafe { address.add(done) };
            // `done` is part of a length that was checked together with the offset.
            let sector = offset.wrapping_add(done as u64) >> KERNEL_SECTOR_SHIFT;
            // SAFETY: By the requirement the remaining bytes are there, until the wait below has
            // ended.
            match unsafe { self.submit(batch, sector, at, len.wrapping_sub(done), write) } {
                Ok(moved) => done = done.saturating_add(moved),
                Err(error) => {
                    batch.fail(error);
                    break;
                }
            }
        }
        let result = batch.wait();

        if !write {
            // SAFETY: By the requirement the memory is there.
            unsafe { shim::hpkv_buffer_from_device(address.cast(), vmap_len) };
        }
        result
    }

    /// Submits one bio for as many of `len` bytes at `address` as one can carry, and returns how
    /// many these are.
    ///
    /// # Safety
    ///
    /// As for [`Self::transfer`], until the batch has been waited for; `len` is not 0.
    unsafe fn submit(
        &self,
        batch: Pin<&Batch>,
        sector: u64,
        address: *mut u8,
        len: usize,
        write: bool,
    ) -> Result<usize, i32> {
        let in_first_page = PAGE_SIZE.wrapping_sub(address.addr() % PAGE_SIZE);
        let pages = len
            .saturating_sub(in_first_page)
            .div_ceil(PAGE_SIZE)
            .saturating_add(1)
            .min(BIO_PAGES_MAX);
        // SAFETY: By the type invariants the device is open. `pages` is within the limit of bios.
        let bio = unsafe { shim::hpkv_bio_alloc(self.bdev.as_ptr(), pages as c_ushort, write) };
        if bio.is_null() {
            return Err(errno(ENOMEM));
        }
        let mut moved: usize = 0;
        for _ in 0..pages {
            // SAFETY: `moved` is at most `len`.
            let at = unsafe { address.add(moved) };
            let to_page_end = PAGE_SIZE.wrapping_sub(at.addr() % PAGE_SIZE);
            let part = len.wrapping_sub(moved).min(to_page_end);
            // SAFETY: The bio is ours; `part` bytes are there, and they lie in one page.
            if part == 0 || !unsafe { shim::hpkv_bio_add_virt(bio, at.cast(), part as c_uint) } {
                break;
            }
            moved = moved.saturating_add(part);
        }
        if moved == 0 {
            // SAFETY: The bio is ours, and was not submitted.
            unsafe { bindings::bio_put(bio) };
            return Err(errno(EIO));
        }
        batch.pending.fetch_add(1, Ordering::Relaxed);
        // SAFETY: The bio is ours until it is submitted. The batch stays where it is until it has
        // been waited for, hence until `end_io` has run. The device is open.
        unsafe {
            (*bio).bi_iter.bi_sector = sector;
            (*bio).bi_private = core::ptr::from_ref(batch.get_ref()).cast_mut().cast();
            (*bio).bi_end_io = Some(end_io);
            bindings::submit_bio(bio);
        }
        Ok(moved)
    }
}

impl Disk for BlockDevice {
    fn len_bytes(&self) -> u64 {
        // SAFETY: By the type invariants the device is open.
        unsafe { shim::hpkv_bdev_len_bytes(self.bdev.as_ptr()) }
    }

    fn sector_bytes(&self) -> u32 {
        // SAFETY: By the type invariants the device is open.
        unsafe { shim::hpkv_bdev_sector_bytes(self.bdev.as_ptr()) }
    }

    fn read_only(&self) -> bool {
        // SAFETY: By the type invariants the device is open.
        !self.writable || unsafe { shim::hpkv_bdev_read_only(self.bdev.as_ptr()) }
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), i32> {
        // SAFETY: The memory is a slice that is ours to write to, and the call waits for the end
        // of all access to it.
        unsafe { self.transfer(offset, buf.as_mut_ptr(), buf.len(), false) }
    }

    fn write(&self, offset: u64, buf: &[u8]) -> Result<(), i32> {
        if self.read_only() {
            return Err(errno(EROFS));
        }
        // SAFETY: The memory is a slice that nobody writes to, the device included, and the call
        // waits for the end of all access to it.
        unsafe { self.transfer(offset, buf.as_ptr().cast_mut(), buf.len(), true) }
    }

    fn flush(&self) -> Result<(), i32> {
        // SAFETY: By the type invariants the device is open; this is process context.
        let result = unsafe { bindings::blkdev_issue_flush(self.bdev.as_ptr()) };
        kernel::error::to_result(result).map_err(errno)
    }
}

impl Drop for BlockDevice {
    fn drop(&mut self) {
        // The hold ends here; the file may be closed a little later, by another thread.
        //
        // SAFETY: By the type invariants the file is ours. No I/O is in flight, since each call
        // waits for its own.
        unsafe { bindings::bdev_fput(self.file.as_ptr()) };
    }
}

/// The bios of one call, and what has become of them.
#[pin_data]
struct Batch {
    /// Bios in flight, and one more until the last has been submitted.
    pending: AtomicU32,
    /// The first error, positive, or 0.
    error: AtomicI32,
    /// Complete when `pending` is 0.
    #[pin]
    done: Opaque<bindings::completion>,
}

impl Batch {
    fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            pending: AtomicU32::new(1),
            error: AtomicI32::new(0),
            // SAFETY: `done` is memory for a completion, pinned.
            done <- Opaque::ffi_init(|done| unsafe { bindings::init_completion(done) }),
        })
    }

    /// Notes an error, if it is the first.
    fn fail(&self, error: i32) {
        // Relaxed: ordered by the count of pending bios.
        let _ = self
            .error
            .compare_exchange(0, error, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Takes one from the count, and says whether it was the last.
    fn was_last(&self) -> bool {
        // Acquire and release: the last one sees the errors of all others.
        self.pending.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Ends the submission and waits for all bios.
    fn wait(&self) -> Result<(), i32> {
        if !self.was_last() {
            // SAFETY: The completion was initialised in `new`; this is process context.
            unsafe { bindings::wait_for_completion_io(self.done.get()) };
        }
        match self.error.load(Ordering::Relaxed) {
            0 => Ok(()),
            error => Err(error),
        }
    }
}

/// Called by the block layer when a bio has ended, in any context.
///
/// # Safety
///
/// `bio` was submitted by [`BlockDevice::submit`], whose batch has not been waited for.
unsafe extern "C" fn end_io(bio: *mut bindings::bio) {
    // SAFETY: By the requirement the bio is ours again, and its batch is there as long as this bio
    // counts as pending.
    let (status, batch) = unsafe { ((*bio).bi_status, (*bio).bi_private.cast::<Batch>()) };
    // SAFETY: Our reference to the bio is the last; nothing uses it after this.
    unsafe { bindings::bio_put(bio) };
    // SAFETY: As above.
    let batch = unsafe { &*batch };
    if status != 0 {
        // SAFETY: May be called with any status, in any context.
        batch.fail(unsafe { bindings::blk_status_to_errno(status) }.saturating_neg());
    }
    let done = batch.done.get();
    if batch.was_last() {
        // SAFETY: The waiter, who owns the completion, does not return before this call is through
        // with it.
        unsafe { bindings::complete(done) };
    }
}

/// Copies `path` and adds a zero byte.
fn terminated(path: &[u8]) -> Result<KVec<u8>, i32> {
    let mut copy = KVec::new();
    copy.extend_from_slice(path, GFP_KERNEL)
        .and_then(|()| copy.push(0, GFP_KERNEL))
        .map_err(|_| errno(ENOMEM))?;
    Ok(copy)
}

/// Returns the positive number of an error.
fn errno(error: Error) -> i32 {
    error.to_errno().saturating_neg()
}
