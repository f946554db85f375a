// SPDX-License-Identifier: GPL-2.0

//! The front ends: safe code that joins the protocols, the engine and the kernel.
//!
//! | file | what it offers |
//! |---|---|
//! | [`chardev`] | `/dev/hpkv`: ioctls, `echo key:value >`, `cat` |
//! | [`tcp`] | the line protocol over TCP |
//! | [`procfs`] | `/proc/hpkv_stats` |
//! | [`params`] | module parameters |
//! | [`mount`] | which device holds the database, and changing it at run time |
//!
//! All of them work on one [`Service`]. None of them knows how the store does what it does.

pub(crate) mod chardev;
pub(crate) mod mount;
pub(crate) mod params;
pub(crate) mod procfs;
pub(crate) mod tcp;

use crate::engine::{Database, Error, Staged};
use crate::sys::atomic::{AtomicU32, Ordering::Relaxed};
use crate::sys::BlockDevice;

/// The database, wherever it lies.
pub(crate) type Db = Database<BlockDevice>;

/// What the front ends share.
pub(crate) struct Service {
    /// The active database.
    pub(crate) db: Db,
    /// Where it lies.
    pub(crate) mount: mount::Mount,
    /// Clients connected over TCP: a number to look at, with no meaning for anything else.
    clients: AtomicU32,
}

impl Service {
    /// Offers a database.
    pub(crate) fn new(db: Db, mount: mount::Mount) -> Self {
        Self {
            db,
            mount,
            clients: AtomicU32::new(0),
        }
    }

    /// Returns how many clients are connected over TCP.
    pub(crate) fn clients(&self) -> u32 {
        self.clients.load(Relaxed)
    }
}

/// Makes a record of bytes that are in the kernel already.
fn staged(key: &[u8], value: &[u8]) -> Result<Staged, Error> {
    let mut staged = Staged::new(key.len(), value.len())?;
    copy(staged.key_mut(), key)?;
    copy(staged.value_mut(), value)?;
    Ok(staged)
}

/// Copies bytes to a place of the same length; another length is an error and not a panic.
fn copy(to: &mut [u8], from: &[u8]) -> Result<(), Error> {
    if to.len() != from.len() {
        return Err(Error::Invalid);
    }
    to.copy_from_slice(from);
    Ok(())
}

/// The errno of an error of the engine, as the interface between `sys` and its callers has it.
fn errno(error: Error) -> i32 {
    error.errno()
}

/// Error numbers that front ends give of their own accord.
mod errnos {
    use kernel::bindings;

    pub(super) const E2BIG: i32 = bindings::E2BIG as i32;
    pub(super) const EACCES: i32 = bindings::EACCES as i32;
    pub(super) const EADDRINUSE: i32 = bindings::EADDRINUSE as i32;
    pub(super) const EADDRNOTAVAIL: i32 = bindings::EADDRNOTAVAIL as i32;
    pub(super) const EAGAIN: i32 = bindings::EAGAIN as i32;
    pub(super) const EBADF: i32 = bindings::EBADF as i32;
    pub(super) const EBUSY: i32 = bindings::EBUSY as i32;
    pub(super) const ECONNABORTED: i32 = bindings::ECONNABORTED as i32;
    pub(super) const EFAULT: i32 = bindings::EFAULT as i32;
    pub(super) const EFBIG: i32 = bindings::EFBIG as i32;
    pub(super) const EINTR: i32 = bindings::EINTR as i32;
    pub(super) const EINVAL: i32 = bindings::EINVAL as i32;
    pub(super) const EISDIR: i32 = bindings::EISDIR as i32;
    pub(super) const ENODEV: i32 = bindings::ENODEV as i32;
    pub(super) const ENOENT: i32 = bindings::ENOENT as i32;
    pub(super) const ENOMEM: i32 = bindings::ENOMEM as i32;
    pub(super) const ENOTBLK: i32 = bindings::ENOTBLK as i32;
    pub(super) const ENOTTY: i32 = bindings::ENOTTY as i32;
    pub(super) const ENXIO: i32 = bindings::ENXIO as i32;
    pub(super) const EPERM: i32 = bindings::EPERM as i32;
    pub(super) const ERANGE: i32 = bindings::ERANGE as i32;
    pub(super) const EROFS: i32 = bindings::EROFS as i32;
}
