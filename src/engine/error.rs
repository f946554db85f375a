// SPDX-License-Identifier: GPL-2.0

//! What can go wrong, each with the errno and the words that users are told.

use crate::sys::AllocError;

/// Why a request was refused. Nothing was changed, unless the variant says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// There is no such key.
    NotFound,
    /// The key exists and the request wanted to create it.
    Exists,
    /// The key's version is not the expected one.
    VersionMismatch,
    /// The key is empty or longer than [`super::KEY_LEN_MAX`].
    KeyLength,
    /// The value is longer than [`super::VALUE_LEN_MAX`], or than a segment of the device.
    ValueTooLong,
    /// The store is full.
    NoSpace,
    /// An allocation failed.
    NoMemory,
    /// The store takes no changes, because its device failed or the module goes away.
    ReadOnly,
    /// The device failed. After a change with [`super::Durability::Sync`] the change is visible,
    /// but not on stable storage.
    Io,
    /// A signal came while the request waited for room in the write buffer.
    Interrupted,
    /// The cursor belongs to a database that is no longer active.
    Stale,
    /// The request contradicts itself.
    Invalid,
    /// The device holds something that this store did not write.
    NotOurs,
    /// The device is empty, and the options say not to format it.
    Empty,
    /// The device has a newer format than this code knows.
    NewerFormat,
    /// The device holds a store, and a part of it that was durable is damaged.
    Corrupt,
    /// The device is smaller than [`super::DEVICE_BYTES_MIN`], or than when it was formatted.
    TooSmall,
    /// The store was sealed by a switch to another; ask again. Never leaves the engine.
    Sealed,
    /// The operating system's own words: a positive errno.
    Os(i32),
}

/// Result of the engine's calls.
pub type Result<T = (), E = Error> = core::result::Result<T, E>;

impl Error {
    /// The errno that stands for this error, positive.
    pub fn errno(self) -> i32 {
        match self {
            Error::NotFound => 2,          // ENOENT
            Error::Io => 5,                // EIO
            Error::NoMemory => 12,         // ENOMEM
            Error::Exists => 17,           // EEXIST
            Error::Invalid => 22,          // EINVAL
            Error::KeyLength => 22,        // EINVAL
            Error::ValueTooLong => 27,     // EFBIG
            Error::NoSpace => 28,          // ENOSPC
            Error::ReadOnly => 30,         // EROFS
            Error::Interrupted => 4,       // EINTR
            Error::Sealed => 16,           // EBUSY
            Error::TooSmall => 6,          // ENXIO
            Error::NewerFormat => 93,      // EPROTONOSUPPORT
            Error::Stale => 116,           // ESTALE
            Error::Corrupt => 117,         // EUCLEAN
            Error::Empty => 123,           // ENOMEDIUM
            Error::NotOurs => 124,         // EMEDIUMTYPE
            Error::VersionMismatch => 125, // ECANCELED
            Error::Os(errno) => errno,
        }
    }

    /// A short reason in lower case, for protocols that speak words.
    pub fn text(self) -> &'static str {
        match self {
            Error::NotFound => "not found",
            Error::Io => "the device failed",
            Error::NoMemory => "out of memory",
            Error::Exists => "key exists",
            Error::Invalid => "invalid argument",
            Error::KeyLength => "key must have 1 to 1024 bytes",
            Error::ValueTooLong => "value too long",
            Error::NoSpace => "no space left in store",
            Error::ReadOnly => "store is read-only",
            Error::Interrupted => "interrupted",
            Error::Sealed => "database is being switched",
            Error::TooSmall => "device too small",
            Error::NewerFormat => "device has a newer format",
            Error::Stale => "database was switched or purged",
            Error::Corrupt => "device is damaged",
            Error::Empty => "device is empty",
            Error::NotOurs => "device holds something else",
            Error::VersionMismatch => "version does not match",
            Error::Os(_) => "system error",
        }
    }
}

impl From<AllocError> for Error {
    fn from(_: AllocError) -> Self {
        Error::NoMemory
    }
}
