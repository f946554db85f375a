// SPDX-License-Identifier: GPL-2.0
//! What can go wrong, how it is told, and with which exit code it ends.

use std::fmt;
use std::io;
use std::process::ExitCode;

use hpkv::ErrorKind;
use serde_json::{Map, Value, json};

use crate::output::put_bytes;

/// Exit codes; they are documented in the help and do not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    NotFound = 1,
    Usage = 2,
    Unavailable = 3,
    Corrupt = 4,
    Refused = 5,
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The store said no.
    Store(hpkv::Error),
    /// The key does not exist.
    NotFound { verb: &'static str, key: Vec<u8> },
    /// Found out here.
    Here {
        exit: Exit,
        reason: String,
        remedy: &'static str,
    },
    /// The result could not be written.
    Output { name: String, error: io::Error },
}

impl From<hpkv::Error> for Failure {
    fn from(error: hpkv::Error) -> Self {
        Failure::Store(error)
    }
}

impl Failure {
    pub(crate) fn usage(reason: impl Into<String>, remedy: &'static str) -> Self {
        Failure::Here {
            exit: Exit::Usage,
            reason: reason.into(),
            remedy,
        }
    }

    pub(crate) fn refused(reason: impl Into<String>, remedy: &'static str) -> Self {
        Failure::Here {
            exit: Exit::Refused,
            reason: reason.into(),
            remedy,
        }
    }

    /// Standard output could not be written.
    pub(crate) fn stdout(error: io::Error) -> Self {
        Failure::Output {
            name: "standard output".to_owned(),
            error,
        }
    }

    /// The reader of the output has gone, as in `hpkvctl scan | head`: it has
    /// seen what it wanted, and nothing is wrong.
    fn is_reader_gone(&self) -> bool {
        matches!(self, Failure::Output { error, .. } if error.kind() == io::ErrorKind::BrokenPipe)
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        if self.is_reader_gone() {
            return ExitCode::SUCCESS;
        }
        ExitCode::from(self.exit() as u8)
    }

    fn exit(&self) -> Exit {
        match self {
            Failure::NotFound { .. } => Exit::NotFound,
            Failure::Here { exit, .. } => *exit,
            Failure::Output { .. } => Exit::Refused,
            Failure::Store(error) => match error.kind() {
                ErrorKind::NotFound => Exit::NotFound,
                ErrorKind::InvalidKey | ErrorKind::InvalidArgument => Exit::Usage,
                ErrorKind::Unavailable | ErrorKind::PermissionDenied | ErrorKind::Unsupported => {
                    Exit::Unavailable
                }
                ErrorKind::Corrupt => Exit::Corrupt,
                _ => Exit::Refused,
            },
        }
    }

    fn remedy(&self) -> Option<&str> {
        match self {
            Failure::Store(error) => error.remedy(),
            Failure::Here { remedy, .. } => Some(remedy),
            Failure::NotFound { .. } | Failure::Output { .. } => None,
        }
    }

    /// The kind as a word that programs can rely on.
    fn kind(&self) -> &'static str {
        let Failure::Store(error) = self else {
            return match self.exit() {
                Exit::NotFound => "not_found",
                Exit::Usage => "usage",
                _ => "refused",
            };
        };
        match error.kind() {
            ErrorKind::NotFound => "not_found",
            ErrorKind::Exists => "exists",
            ErrorKind::VersionMismatch => "version_mismatch",
            ErrorKind::InvalidKey => "invalid_key",
            ErrorKind::ValueTooLong => "value_too_long",
            ErrorKind::InvalidArgument => "invalid_argument",
            ErrorKind::NoSpace => "no_space",
            ErrorKind::ReadOnly => "read_only",
            ErrorKind::WrongAccess => "wrong_access",
            ErrorKind::PermissionDenied => "permission_denied",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::Stale => "stale",
            ErrorKind::Interrupted => "interrupted",
            ErrorKind::NoMemory => "no_memory",
            ErrorKind::Io => "io",
            ErrorKind::Corrupt => "corrupt",
            _ => "other",
        }
    }

    fn json(&self) -> Value {
        let mut error = Map::new();
        error.insert("kind".to_owned(), json!(self.kind()));
        error.insert("exit_code".to_owned(), json!(self.exit() as u8));
        error.insert("message".to_owned(), json!(self.to_string()));
        if let Some(remedy) = self.remedy() {
            error.insert("remedy".to_owned(), json!(remedy));
        }
        if let Failure::Store(failed) = self {
            if let Some(errno) = failed.errno() {
                error.insert("errno".to_owned(), json!(errno));
            }
            if let Some(key) = failed.key() {
                put_bytes(&mut error, "key", key, false);
            }
        }
        if let Failure::NotFound { key, .. } = self {
            put_bytes(&mut error, "key", key, false);
        }
        json!({ "error": error })
    }

    /// Tells it on standard error.
    pub(crate) fn report(&self, json: bool) {
        if self.is_reader_gone() {
            return;
        }
        if json {
            eprintln!("{}", self.json());
            return;
        }
        eprintln!("hpkvctl: {self}");
        if let Some(remedy) = self.remedy() {
            eprintln!("{remedy}");
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Store(error) => error.fmt(f),
            Failure::NotFound { verb, key } => {
                write!(
                    f,
                    "cannot {verb} key \"{}\": no such key",
                    hpkv::Escaped(key)
                )
            }
            Failure::Here { reason, .. } => f.write_str(reason),
            Failure::Output { name, error } => write!(f, "cannot write to {name}: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let missing = Failure::NotFound {
            verb: "get",
            key: b"k".to_vec(),
        };
        assert_eq!(missing.exit() as u8, 1);
        assert_eq!(Failure::usage("x", "y").exit() as u8, 2);
        assert_eq!(Failure::refused("x", "y").exit() as u8, 5);
        let error = hpkv::Client::open("/nonexistent/hpkv").unwrap_err();
        assert_eq!(Failure::from(error).exit() as u8, 3);
        assert_eq!(Exit::Corrupt as u8, 4);
    }

    #[test]
    fn an_error_as_json_has_what_a_program_needs() {
        let error = hpkv::Client::open("/nonexistent/hpkv").unwrap_err();
        let json = Failure::from(error).json();
        assert_eq!(json["error"]["kind"], "unavailable");
        assert_eq!(json["error"]["exit_code"], 3);
        assert_eq!(json["error"]["errno"], 2);
        assert!(
            json["error"]["remedy"]
                .as_str()
                .unwrap()
                .contains("modprobe")
        );
        let missing = Failure::NotFound {
            verb: "get",
            key: vec![0xff],
        };
        assert_eq!(missing.json()["error"]["key_hex"], "ff");
    }

    #[test]
    fn a_reader_that_has_gone_is_no_failure() {
        let gone = Failure::stdout(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(gone.is_reader_gone());
        let full = Failure::stdout(io::Error::from(io::ErrorKind::StorageFull));
        assert!(!full.is_reader_gone());
    }
}
