// SPDX-License-Identifier: GPL-2.0

//! Memory of the caller.
//!
//! Addresses come from user space as 64-bit integers, whatever the width of the caller. An address
//! that this machine cannot have is a fault like any other: `EFAULT`. Errors are positive error
//! numbers.
//!
//! Everything here may sleep, except [`copy_out_nofault`].

use core::mem::size_of;

use kernel::bindings;
use kernel::uaccess::{UserPtr, UserSlice};

use crate::abi;
use crate::sys::errno::{E2BIG, EFAULT};

/// Copies `to.len()` bytes from `address` of the caller.
///
/// After an error the contents of `to` are undefined, but initialised.
pub fn copy_in(address: u64, to: &mut [u8]) -> Result<(), i32> {
    if to.is_empty() {
        return Ok(());
    }
    let address = usize::try_from(address).map_err(|_| EFAULT)?;
    UserSlice::new(UserPtr::from_addr(address), to.len())
        .reader()
        .read_slice(to)
        .map_err(|_| EFAULT)
}

/// Copies `from` to `address` of the caller.
///
/// After an error some of the bytes may have been written.
pub fn copy_out(address: u64, from: &[u8]) -> Result<(), i32> {
    if from.is_empty() {
        return Ok(());
    }
    let address = usize::try_from(address).map_err(|_| EFAULT)?;
    UserSlice::new(UserPtr::from_addr(address), from.len())
        .writer()
        .write_slice(from)
        .map_err(|_| EFAULT)
}

/// Copies `from` to `address` of the caller without ever sleeping.
///
/// May be called in a read section. Fails where the page is not present and writable at this
/// moment; the caller leaves its read section then and tries again with [`copy_out`].
pub fn copy_out_nofault(address: u64, from: &[u8]) -> Result<(), i32> {
    if from.is_empty() {
        return Ok(());
    }
    let address = usize::try_from(address).map_err(|_| EFAULT)?;
    // SAFETY: `from` is valid for reads of its length. The function checks that the destination is
    // user memory, and returns an error where it cannot be written at once.
    let failed = unsafe {
        bindings::copy_to_user_nofault(
            core::ptr::without_provenance_mut(address),
            from.as_ptr().cast(),
            from.len(),
        )
    };
    if failed == 0 {
        Ok(())
    } else {
        Err(EFAULT)
    }
}

/// A structure of the ioctl interface.
///
/// # Safety
///
/// The type is `repr(C)`, consists of integers only and has no padding, so that every pattern of
/// bytes is a value of it and every byte of a value is initialised.
pub unsafe trait Plain: Copy + Default {}

/// Declares structures of `abi` as [`Plain`] and proves the lack of padding: their alignment
/// divides their size, and the sum of the sizes of their fields is checked where they are generated
/// (the offset of each field is asserted there, and the fields are 4 or 8 bytes each).
macro_rules! plain {
    ($($name:ident { $($field:ident),+ $(,)? })+) => {$(
        const _: () = {
            const fn size<T, F>(_: fn(&T) -> &F) -> usize {
                size_of::<F>()
            }
            // Naming every field of the structure keeps this list complete.
            fn all_fields(abi::$name { $($field: _),+ }: abi::$name) {}
            let _: fn(abi::$name) = all_fields;
            let fields = 0 $(+ size(|it: &abi::$name| &it.$field))+;
            assert!(fields == size_of::<abi::$name>());
        };
        // SAFETY: The structure is generated as `repr(C)` from a header that has fixed-width
        // integers only, and the assertion above shows that there is no padding.
        unsafe impl Plain for abi::$name {}
    )+};
}

plain! {
    hpkv_version { abi_version, reserved, key_len_max, value_len_max }
    hpkv_get {
        key, key_len, flags, value, value_cap, value_len, version, expires_ms, user_flags, reserved,
    }
    hpkv_put {
        key, key_len, flags, value, value_len, user_flags, expires_ms, expected_version, version,
    }
    hpkv_delete { key, key_len, flags, expected_version, version }
    hpkv_update {
        key, key_len, flags, data, data_len, reserved, offset, expected_version, version, value_len,
        reserved2,
    }
    hpkv_scan {
        start, start_len, flags, end, end_len, limit, buffer, buffer_len, count, cursor, used_len,
        more,
    }
    hpkv_scan_entry { entry_len, key_len, value_len, user_flags, version, expires_ms }
    hpkv_stat {
        flags, state, records, key_bytes, value_bytes, device_bytes, used_bytes, capacity_bytes,
        live_sectors, free_sectors, version, durable_version, gets, hits, puts, deletes, scans,
        flushes, frames, written_bytes, payload_bytes, relocated_bytes, compactions, pending_bytes,
        errors, clients,
    }
    hpkv_sync { flags, reserved, version }
    hpkv_purge { flags, reserved }
}

/// The bytes of a structure.
pub fn bytes_of<T: Plain>(it: &T) -> &[u8] {
    // SAFETY: `Plain` types have no padding, so all of the `size_of::<T>()` bytes are initialised;
    // the slice borrows `it`.
    unsafe { core::slice::from_raw_parts(core::ptr::from_ref(it).cast(), size_of::<T>()) }
}

/// The bytes of a structure, to be written.
fn bytes_of_mut<T: Plain>(it: &mut T) -> &mut [u8] {
    // SAFETY: As in `bytes_of`; every pattern of bytes is a value of a `Plain` type.
    unsafe { core::slice::from_raw_parts_mut(core::ptr::from_mut(it).cast(), size_of::<T>()) }
}

/// Takes a structure from a caller whose own idea of it is `user_len` bytes long.
///
/// A shorter (older) structure is filled with zeros. What a longer (newer) one has beyond what is
/// known here must be zero, else the caller wants something that cannot be given: `E2BIG`.
pub fn copy_struct_in<T: Plain>(address: u64, user_len: usize) -> Result<T, i32> {
    let mut it = T::default();
    let known = user_len.min(size_of::<T>());
    let head = bytes_of_mut(&mut it).get_mut(..known).ok_or(EFAULT)?;
    copy_in(address, head)?;

    let mut at = known;
    while at < user_len {
        let mut chunk = [0u8; 64];
        let len = user_len.saturating_sub(at).min(chunk.len());
        let tail = chunk.get_mut(..len).ok_or(EFAULT)?;
        let offset = u64::try_from(at).map_err(|_| EFAULT)?;
        copy_in(address.checked_add(offset).ok_or(EFAULT)?, tail)?;
        if tail.iter().any(|&byte| byte != 0) {
            return Err(E2BIG);
        }
        at = at.saturating_add(len);
    }
    Ok(it)
}

/// Gives a structure back to a caller whose own idea of it is `user_len` bytes long: no more than
/// it has room for, and no more than there is.
pub fn copy_struct_out<T: Plain>(address: u64, user_len: usize, it: &T) -> Result<(), i32> {
    let bytes = bytes_of(it);
    let known = user_len.min(bytes.len());
    copy_out(address, bytes.get(..known).unwrap_or(bytes))
}

/// Says whether the task that runs may administer the system.
pub fn capable_sys_admin() -> bool {
    // SAFETY: Called by a task in process context.
    unsafe { bindings::capable(bindings::CAP_SYS_ADMIN as i32) }
}

/// Says whether the task that runs has a signal to look at, so that long work should come to an
/// end.
pub fn signal_pending() -> bool {
    kernel::current!().signal_pending()
}
