// SPDX-License-Identifier: GPL-2.0
//! The error of this crate: what was tried, on what, what came back, and what
//! to do about it.

use std::fmt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::Escaped;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// More of a key than this is not shown in messages.
const KEY_SHOWN_MAX: usize = 64;

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The key does not exist, and the operation asked for one that does.
    NotFound,
    /// The key exists, and the operation asked for one that does not.
    Exists,
    /// The key has another version than the one asked for.
    VersionMismatch,
    /// The key is empty or longer than the store takes.
    InvalidKey,
    /// The value is longer than the store takes.
    ValueTooLong,
    /// An argument makes no sense to the kernel.
    InvalidArgument,
    /// The store is full. Reads and deletes still work.
    NoSpace,
    /// The store takes no changes: its device failed or is read-only.
    ReadOnly,
    /// The device is not open for what was asked.
    WrongAccess,
    /// The caller may not do this.
    PermissionDenied,
    /// There is no store: the module is not loaded.
    Unavailable,
    /// What answered is not this store, or one of another interface version.
    Unsupported,
    /// A scan cannot go on: its database was purged or is not active any more.
    Stale,
    /// A signal came while the call waited; nothing was changed.
    Interrupted,
    /// No memory; nothing was changed.
    NoMemory,
    /// The device failed.
    Io,
    /// Data on the device is damaged, or an answer contradicts itself.
    Corrupt,
    /// None of the above; [`Error::errno`] tells more.
    Other,
}

/// What was being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Opening the device.
    Open,
    /// Asking the module for its version and limits.
    Version,
    /// Reading one value.
    Get,
    /// Storing a value.
    Put,
    /// Removing a key.
    Delete,
    /// Adding to the end of a value.
    Append,
    /// Writing into a value at an offset.
    WriteAt,
    /// Reading keys in order.
    Scan,
    /// Reading figures.
    Stat,
    /// Waiting for stable storage.
    Sync,
    /// Removing everything.
    Purge,
}

impl Operation {
    /// The operation as it stands after "cannot".
    fn verb(self) -> &'static str {
        match self {
            Operation::Open => "open",
            Operation::Version => "ask for the version of",
            Operation::Get => "get",
            Operation::Put => "put",
            Operation::Delete => "delete",
            Operation::Append => "append to",
            Operation::WriteAt => "write into",
            Operation::Scan => "scan",
            Operation::Stat => "read the figures of",
            Operation::Sync => "sync",
            Operation::Purge => "purge",
        }
    }
}

/// An operation that failed.
///
/// Shown with `{}`, it is one line without a newline that names the operation,
/// the key, the reason and the number of the error.
#[derive(Debug, Clone)]
pub struct Error {
    kind: ErrorKind,
    operation: Operation,
    errno: Option<Errno>,
    key: Option<Box<[u8]>>,
    device: Option<Box<Path>>,
    reason: Option<Box<str>>,
}

impl Error {
    /// An answer of the kernel.
    pub(crate) fn from_errno(operation: Operation, errno: Errno) -> Self {
        Error {
            kind: kind_of(operation, errno),
            operation,
            errno: Some(errno),
            key: None,
            device: None,
            reason: None,
        }
    }

    /// Something this crate found out by itself.
    pub(crate) fn found(kind: ErrorKind, operation: Operation, reason: impl Into<String>) -> Self {
        Error {
            kind,
            operation,
            errno: None,
            key: None,
            device: None,
            reason: Some(reason.into().into_boxed_str()),
        }
    }

    pub(crate) fn with_key(mut self, key: &[u8]) -> Self {
        self.key = Some(key.into());
        self
    }

    pub(crate) fn with_device(mut self, device: &Path) -> Self {
        self.device = Some(PathBuf::from(device).into_boxed_path());
        self
    }

    pub(crate) fn with_errno(mut self, errno: Errno) -> Self {
        self.errno = Some(errno);
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What was being done.
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// The kernel's error number, or the one it would have given for what this
    /// crate refused before asking. `None` if there is no such number.
    pub fn errno(&self) -> Option<i32> {
        self.errno.map(Errno::raw_os_error)
    }

    /// The key that was worked on, if the operation had one.
    pub fn key(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }

    /// The device that was opened or asked, if it is known.
    pub fn device(&self) -> Option<&Path> {
        self.device.as_deref()
    }

    /// What can be done about it, as a sentence, or `None` where the reason
    /// says it already.
    pub fn remedy(&self) -> Option<&'static str> {
        let text = match self.kind {
            ErrorKind::Unavailable => {
                "Load the module: `modprobe hpkv` if it is installed, else `insmod hpkv.ko` in the folder it was built in."
            }
            ErrorKind::PermissionDenied if self.operation == Operation::Purge => {
                "Purging takes the capability CAP_SYS_ADMIN: run it as root."
            }
            ErrorKind::PermissionDenied => {
                "Run it as root, or as a member of the group that owns the device (`ls -l` shows it, `chgrp` changes it)."
            }
            ErrorKind::Unsupported => {
                "Check that the path is the device of the module, and that module and program are of the same release."
            }
            ErrorKind::Exists => "Leave out the condition to overwrite the value.",
            ErrorKind::VersionMismatch => {
                "Read the key again and decide with its present value and version."
            }
            ErrorKind::NoSpace => {
                "Delete keys (deleting works on a full store), or give the store a larger device."
            }
            ErrorKind::ReadOnly => {
                "The kernel's log tells why (`dmesg | grep hpkv`); writing works again when the module is loaded on a sound, writable device."
            }
            ErrorKind::WrongAccess => "Open the device for writing.",
            ErrorKind::Stale => "Begin the scan anew.",
            ErrorKind::Interrupted | ErrorKind::NoMemory => "Nothing was changed: try again.",
            ErrorKind::Io => "The device failed: see the kernel's log (`dmesg | grep hpkv`).",
            ErrorKind::Corrupt => {
                "See the kernel's log (`dmesg | grep hpkv`) for the places, and restore from a copy."
            }
            _ => return None,
        };
        Some(text)
    }

    fn reason(&self) -> &str {
        if let Some(reason) = &self.reason {
            return reason;
        }
        match self.kind {
            ErrorKind::NotFound => "no such key",
            ErrorKind::Exists => "the key exists",
            ErrorKind::VersionMismatch => "the key has another version",
            ErrorKind::InvalidKey => "the key is empty or too long",
            ErrorKind::ValueTooLong => "the value is longer than the store takes",
            ErrorKind::InvalidArgument => "the kernel takes an argument for invalid",
            ErrorKind::NoSpace => "the store is full",
            ErrorKind::ReadOnly => "the store is read-only",
            ErrorKind::WrongAccess => "the device is not open for that",
            ErrorKind::PermissionDenied => "permission denied",
            ErrorKind::Unavailable => "no such device, the module is not loaded",
            ErrorKind::Unsupported if self.operation == Operation::Version => {
                "it is not the device of hpkv"
            }
            ErrorKind::Unsupported => "the module does not know this operation",
            ErrorKind::Stale => "the database was purged or another one was made active",
            ErrorKind::Interrupted => "interrupted by a signal",
            ErrorKind::NoMemory => "no memory",
            ErrorKind::Io => "the device failed",
            ErrorKind::Corrupt => "data is damaged",
            ErrorKind::Other => "the kernel refused",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.operation.verb())?;
        match (&self.key, &self.device) {
            (Some(key), _) => {
                let shown = key.get(..KEY_SHOWN_MAX).unwrap_or(key);
                write!(f, " key \"{}\"", Escaped(shown))?;
                if shown.len() < key.len() {
                    write!(f, "… ({} bytes)", key.len())?;
                }
            }
            (None, Some(device)) => write!(f, " {}", device.display())?,
            (None, None) => f.write_str(" the store")?,
        }
        write!(f, ": {}", self.reason())?;
        match self.errno {
            Some(errno) => match errno_name(errno) {
                Some(name) => write!(f, " ({name})"),
                None => write!(f, " (error {})", errno.raw_os_error()),
            },
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

fn kind_of(operation: Operation, errno: Errno) -> ErrorKind {
    match errno {
        Errno::NOENT if operation == Operation::Open => ErrorKind::Unavailable,
        Errno::NODEV | Errno::NXIO => ErrorKind::Unavailable,
        Errno::NOENT => ErrorKind::NotFound,
        Errno::EXIST => ErrorKind::Exists,
        Errno::CANCELED => ErrorKind::VersionMismatch,
        Errno::FBIG => ErrorKind::ValueTooLong,
        Errno::INVAL => ErrorKind::InvalidArgument,
        Errno::NOSPC => ErrorKind::NoSpace,
        Errno::ROFS => ErrorKind::ReadOnly,
        Errno::BADF => ErrorKind::WrongAccess,
        Errno::ACCESS | Errno::PERM => ErrorKind::PermissionDenied,
        Errno::NOTTY | Errno::TOOBIG | Errno::OPNOTSUPP => ErrorKind::Unsupported,
        Errno::STALE => ErrorKind::Stale,
        Errno::INTR => ErrorKind::Interrupted,
        Errno::NOMEM => ErrorKind::NoMemory,
        Errno::IO => ErrorKind::Io,
        Errno::UCLEAN | Errno::BADMSG => ErrorKind::Corrupt,
        _ => ErrorKind::Other,
    }
}

/// The names of the errors that the kernel's header documents.
fn errno_name(errno: Errno) -> Option<&'static str> {
    let name = match errno {
        Errno::ACCESS => "EACCES",
        Errno::BADF => "EBADF",
        Errno::BADMSG => "EBADMSG",
        Errno::BUSY => "EBUSY",
        Errno::CANCELED => "ECANCELED",
        Errno::EXIST => "EEXIST",
        Errno::FAULT => "EFAULT",
        Errno::FBIG => "EFBIG",
        Errno::INTR => "EINTR",
        Errno::INVAL => "EINVAL",
        Errno::IO => "EIO",
        Errno::ISDIR => "EISDIR",
        Errno::NODEV => "ENODEV",
        Errno::NOENT => "ENOENT",
        Errno::NOMEM => "ENOMEM",
        Errno::NOSPC => "ENOSPC",
        Errno::NOTTY => "ENOTTY",
        Errno::NXIO => "ENXIO",
        Errno::PERM => "EPERM",
        Errno::RANGE => "ERANGE",
        Errno::ROFS => "EROFS",
        Errno::STALE => "ESTALE",
        Errno::TOOBIG => "E2BIG",
        Errno::UCLEAN => "EUCLEAN",
        _ => return None,
    };
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_operation_key_reason_and_number() {
        let error = Error::from_errno(Operation::Put, Errno::NOSPC).with_key(b"a\nb");
        assert_eq!(
            error.to_string(),
            r#"cannot put key "a\nb": the store is full (ENOSPC)"#
        );
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert_eq!(error.errno(), Some(28));
        assert_eq!(error.key(), Some(&b"a\nb"[..]));
        assert!(
            error
                .remedy()
                .is_some_and(|text| text.contains("Delete keys"))
        );
    }

    #[test]
    fn a_missing_device_is_not_a_missing_key() {
        let error =
            Error::from_errno(Operation::Open, Errno::NOENT).with_device(Path::new("/dev/hpkv"));
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(
            error.to_string(),
            "cannot open /dev/hpkv: no such device, the module is not loaded (ENOENT)"
        );
        assert!(
            error
                .remedy()
                .is_some_and(|text| text.contains("modprobe hpkv"))
        );
        let error = Error::from_errno(Operation::Get, Errno::NOENT);
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_long_key_is_cut_in_the_message_only() {
        let key = vec![b'k'; 1000];
        let error = Error::from_errno(Operation::Get, Errno::IO).with_key(&key);
        assert!(error.to_string().contains("… (1000 bytes)"));
        assert!(error.to_string().len() < 200);
        assert_eq!(error.key().map(<[u8]>::len), Some(1000));
    }

    #[test]
    fn an_unknown_number_is_shown_as_it_is() {
        let error = Error::from_errno(Operation::Sync, Errno::XDEV);
        assert_eq!(error.kind(), ErrorKind::Other);
        assert_eq!(
            error.to_string(),
            "cannot sync the store: the kernel refused (error 18)"
        );
    }

    #[test]
    fn the_right_remedy_for_a_refused_purge() {
        let error = Error::from_errno(Operation::Purge, Errno::PERM);
        assert!(
            error
                .remedy()
                .is_some_and(|text| text.contains("CAP_SYS_ADMIN"))
        );
    }
}
