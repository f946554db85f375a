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
