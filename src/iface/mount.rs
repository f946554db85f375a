// SPDX-License-Identifier: GPL-2.0

//! Which device holds the database.
//!
//! A database lies in memory only, on the block device of `mount_path`, or on a loop device named
//! by its number. Everything that can go wrong on the way from such a name to a database ends here
//! in one errno for whoever asked, and in one line of the kernel's log that names the parameter,
//! its value and the remedy.
//!
//! # Locks
//!
//! Switching is serialised by the parameter lock, which [`params`](super::params) holds. The lock
//! of [`Mount`] is held only to read or write the name of the active place, so that printing it
//! never waits for a switch.

use core::fmt::{self, Write};

use super::params::Settings;
use super::Db;
use crate::engine::{Error, Options, Store};
use crate::sys::atomic::{AtomicU32, Ordering::Relaxed};
use crate::sys::errno::{
    EACCES, EBUSY, EISDIR, ENODEV, ENOENT, ENOMEM, ENOTBLK, ENXIO, EPERM, EROFS,
};
use crate::sys::{arc_new, log_msg, Arc, BlockDevice, Disk, Level, Mutex, Vec};

/// Where a database lies.
pub(crate) enum Place {
    /// In memory, until the module is unloaded.
    Memory,
    /// On the block device with this absolute path.
    Path(Vec<u8>),
    /// On the loop device with this number.
    Loop(u32),
}

/// The path of a loop device.
struct LoopPath {
    bytes: [u8; 24],
    len: usize,
}

impl LoopPath {
    fn new(number: u32) -> Self {
        let mut path = Self {
            bytes: [0; 24],
            len: 0,
        };
        // Ten bytes and at most ten digits always fit.
        let _ = write!(path, "/dev/loop{number}");
        path
    }

    /// The number of the loop device with this path, if it is one's.
    fn number(path: &[u8]) -> Option<u32> {
        let digits = core::str::from_utf8(path.strip_prefix(b"/dev/loop")?).ok()?;
        let number = digits.parse().ok()?;
        // Other ways to write a number, like `+1` or `01`, name no device.
        (Self::new(number).as_bytes() == path).then_some(number)
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Write for LoopPath {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len.checked_add(text.len()).ok_or(fmt::Error)?;
        let room = self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// The parameter that named the place, and its value.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Path(path) => write!(f, "mount_path={}", path.escape_ascii()),
            Self::Loop(number) => write!(f, "loop={number}"),
        }
    }
}

/// Where the active database lies, and how others are opened.
pub(crate) struct Mount {
    initialize_if_empty: bool,
    flush_interval_ms: Arc<AtomicU32>,
    active: Mutex<Place>,
}

impl Mount {
    /// Opens the database that the settings of the module name.
    pub(crate) fn open(settings: Settings) -> Result<(Db, Self), i32> {
        let flush_interval_ms =
            arc_new(AtomicU32::new(settings.flush_interval_ms)).map_err(|_| ENOMEM)?;
        let options = Options {
            initialize_if_empty: settings.initialize_if_empty,
            force_initialize: settings.force_initialize,
            flush_interval_ms: flush_interval_ms.clone(),
        };
        let place = settings.place;
        let db = open_place(&place, &options)
            .and_then(Db::new)
            .map_err(|error| explain(&place, error))?;
        let mount = Self {
            initialize_if_empty: settings.initialize_if_empty,
            flush_interval_ms,
            active: Mutex::new(place).map_err(|_| ENOMEM)?,
        };
        Ok((db, mount))
    }

    /// Makes the database on loop device `number` the active one. On any error the old one stays.
    ///
    /// The caller holds the parameter lock: there is one switch at a time.
    pub(crate) fn switch_to_loop(&self, db: &Db, number: u32) -> Result<(), i32> {
        let path = LoopPath::new(number);
        let is_active = match &*self.active.lock() {
            Place::Memory => false,
            Place::Path(active) => active.as_slice() == path.as_bytes(),
            Place::Loop(active) => *active == number,
        };
        let place = Place::Loop(number);
        if !is_active {
            // A device is formatted by force only as the module is loaded, when the one who forces
            // it names the device in the same breath.
            let options = Options {
                initialize_if_empty: self.initialize_if_empty,
                force_initialize: false,
                flush_interval_ms: self.flush_interval_ms.clone(),
            };
            db.switch(|| open_place(&place, &options))
                .map_err(|error| explain(&place, error))?;
            log_msg!(Level::Notice, "loop={number}: is the active database now");
        }
        *self.active.lock() = place;
        Ok(())
    }

    /// Returns the number of the active loop device, if there is one: `mount_path` may name it, too.
    pub(crate) fn loop_number(&self) -> Option<u32> {
        match &*self.active.lock() {
            Place::Memory => None,
            Place::Path(path) => LoopPath::number(path),
            Place::Loop(number) => Some(*number),
        }
    }

    /// Calls `f` with the path of the active device, `memory` if there is none.
    pub(crate) fn with_device<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        match &*self.active.lock() {
            Place::Memory => f(b"memory"),
            Place::Path(path) => f(path),
            Place::Loop(number) => f(LoopPath::new(*number).as_bytes()),
        }
    }

    /// Changes the time that a write may wait in the write buffer.
    pub(crate) fn set_flush_interval_ms(&self, ms: u32) {
        self.flush_interval_ms.store(ms, Relaxed);
    }
}

/// Opens the database at a place.
fn open_place(place: &Place, options: &Options) -> Result<Arc<Store<BlockDevice>>, Error> {
    match place {
        Place::Memory => Store::memory(options),
        Place::Path(path) => open_device(path, options),
        Place::Loop(number) => open_device(LoopPath::new(*number).as_bytes(), options),
    }
}

/// Opens the database on a block device.
fn open_device(path: &[u8], options: &Options) -> Result<Arc<Store<BlockDevice>>, Error> {
    let disk = BlockDevice::open(path, true).map_err(Error::Os)?;
    if disk.len_bytes() == 0 {
        // A loop device without a file behind it can be opened, and is nothing.
        return Err(Error::Os(ENODEV));
    }
    if disk.read_only() {
        return Err(Error::Os(EROFS));
    }
    Store::open(disk, options)
}

/// Says why a database could not be opened, and returns the errno for whoever asked.
fn explain(place: &Place, error: Error) -> i32 {
    let errno = match error.errno() {
        // What is missing is a device, not a file.
        ENOENT => ENODEV,
        ENXIO if matches!(error, Error::Os(_)) => ENODEV,
        EISDIR => ENOTBLK,
        EACCES if matches!(error, Error::Os(_)) => EROFS,
        other => other,
    };
    let remedy = match error {
        Error::NotOurs => {
            "the device holds something that is not an hpkv database; \
             choose another device, or load with force_initialize=1 to overwrite it"
        }
        Error::Empty => {
            "the device is empty; load with initialize_if_empty=1 to make a database on it"
        }
        Error::NewerFormat => "the database was written by a newer hpkv; load that one",
        Error::Corrupt => {
            "the database is damaged; it was left as it is, restore the device from a backup"
        }
        Error::TooSmall => {
            "the device is too small, or smaller than its database; enlarge it or choose another"
        }
        Error::NoMemory => "there is not enough memory to load the database",
        Error::Io => "the device cannot be read or written; see the messages of its driver",
        _ => match errno {
            ENODEV => {
                "there is no such device, or nothing is attached to it; create it, see losetup"
            }
            ENOTBLK => "not a block device; attach a file with losetup and give the loop device",
            EBUSY => "the device is in use; unmount it, or end what holds it",
            EROFS => "the device is read-only; make it writable, see blockdev --setrw",
            EPERM => "opening the device is not permitted",
            _ => "the device cannot be opened",
        },
    };
    log_msg!(Level::Err, "{place}: {remedy} (errno {errno})");
    errno
}
