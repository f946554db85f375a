// SPDX-License-Identifier: GPL-2.0
//! Client of hpkv, a key-value store inside the Linux kernel.
//!
//! The module offers the store as a device, `/dev/hpkv`. This crate opens it
//! and speaks its `ioctl` interface; a program needs no unsafe code and no
//! knowledge of that interface.
//!
//! Keys are 1 to [`KEY_LEN_MAX`] bytes and values 0 to [`VALUE_LEN_MAX`]
//! bytes. Both may hold any bytes, zeros and newlines included.
//!
//! ```no_run
//! use hpkv::Client;
//!
//! # fn main() -> Result<(), hpkv::Error> {
//! let client = Client::open_default()?;
//! client.put(b"name", b"alice")?;
//! assert_eq!(client.get(b"name")?.as_deref(), Some(&b"alice"[..]));
//! client.sync()?; // from here on the change survives a power cut
//! # Ok(())
//! # }
//! ```
//!
//! # Conditions and versions
//!
//! Every change of the store has a version, a number that only grows and that
//! no two changes share. A change can be tied to the version that was read, so
//! that two programs do not overwrite each other's work:
//!
//! ```no_run
//! use hpkv::{Client, ErrorKind, PutOptions};
//!
//! # fn main() -> Result<(), hpkv::Error> {
//! # let client = Client::open_default()?;
//! while let Some(found) = client.get_with(b"counter")? {
//!     let number: u64 = String::from_utf8_lossy(&found.value).parse().unwrap_or(0);
//!     let next = (number + 1).to_string();
//!     let unchanged = PutOptions::new().if_version(found.metadata.version);
//!     match client.put_with(b"counter", next.as_bytes(), &unchanged) {
//!         Err(error) if error.kind() == ErrorKind::VersionMismatch => continue,
//!         other => return other.map(|_version| ()),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Durability
//!
//! A change is visible to every client when the call returns. It is on stable
//! storage a moment later: at the latest after the module's
//! `flush_interval_ms`, or when [`Client::sync`] returns, or, with the option
//! `sync` of a change, when that very call returns.
//!
//! # Errors
//!
//! An [`Error`] tells what was tried, on which key, what the kernel answered
//! ([`Error::kind`], [`Error::errno`]) and what can be done about it
//! ([`Error::remedy`]). A missing key is no error for [`Client::get`] and
//! [`Client::delete`]: they answer `None`.
//!
//! # Threads
//!
//! A [`Client`] may be used by any number of threads at once; calls do not
//! wait for each other in this crate.
#![deny(missing_docs)]
#![deny(unsafe_code)]

#[allow(
    dead_code,
    missing_docs,
    non_camel_case_types,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    reason = "made by bindgen from the kernel's header"
)]
mod abi;
mod backend;
mod client;
mod device;
mod error;
mod escape;
#[cfg(test)]
mod model;
mod options;
mod scan;
mod stat;

pub use client::{Client, Metadata, Updated, Value, Version};
pub use error::{Error, ErrorKind, Operation, Result};
pub use escape::Escaped;
pub use options::{DeleteOptions, PutOptions, UpdateOptions};
pub use scan::{Entries, Entry, ScanOptions};
pub use stat::Stat;

/// Where the module puts its device.
pub const DEFAULT_DEVICE: &str = "/dev/hpkv";

/// The version of the `ioctl` interface that this crate speaks.
pub const ABI_VERSION: u32 = abi::HPKV_ABI_VERSION;

/// The longest key in bytes.
pub const KEY_LEN_MAX: usize = abi::HPKV_KEY_LEN_MAX as usize;

/// The longest value in bytes.
pub const VALUE_LEN_MAX: usize = abi::HPKV_VALUE_LEN_MAX as usize;
