// SPDX-License-Identifier: GPL-2.0

//! Declarations of the C functions in `shim.c`, and of exported kernel functions that the
//! kernel's bindings leave out.

use kernel::bindings;
use kernel::ffi::{c_int, c_uint, c_ushort, c_void};

// The kernel's structures are only pointed to here, so that it does not matter that some have
// fields without a size, which C knows and the lint warns of.
#[allow(improper_ctypes)]
extern "C" {
    pub(super) fn hpkv_kvzalloc(size: usize, align: usize) -> *mut c_void;

    pub(super) fn hpkv_cond_resched();

    pub(super) fn hpkv_bdev_len_bytes(bdev: *mut bindings::block_device) -> u64;
    pub(super) fn hpkv_bdev_sector_bytes(bdev: *mut bindings::block_device) -> u32;
    pub(super) fn hpkv_bdev_read_only(bdev: *mut bindings::block_device) -> bool;
    pub(super) fn hpkv_bio_alloc(
        bdev: *mut bindings::block_device,
        vecs: c_ushort,
        write: bool,
    ) -> *mut bindings::bio;
    pub(super) fn hpkv_bio_add_virt(
        bio: *mut bindings::bio,
        addr: *mut c_void,
        len: c_uint,
    ) -> bool;
    pub(super) fn hpkv_buffer_to_device(addr: *mut c_void, len: c_int);
    pub(super) fn hpkv_buffer_from_device(addr: *mut c_void, len: c_int);

    /// CRC-32C over `len` bytes, without the inversion of the value before and after that the
    /// standard asks for. From `include/linux/crc32.h`.
    pub(super) fn crc32c(crc: u32, bytes: *const c_void, len: usize) -> u32;
}
