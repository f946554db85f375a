// SPDX-License-Identifier: GPL-2.0

//! Error numbers, positive, as they travel between this layer and its callers.

use kernel::bindings;

pub const E2BIG: i32 = bindings::E2BIG as i32;
pub const EACCES: i32 = bindings::EACCES as i32;
pub const EADDRINUSE: i32 = bindings::EADDRINUSE as i32;
pub const EADDRNOTAVAIL: i32 = bindings::EADDRNOTAVAIL as i32;
pub const EAGAIN: i32 = bindings::EAGAIN as i32;
pub const EBADF: i32 = bindings::EBADF as i32;
pub const EBUSY: i32 = bindings::EBUSY as i32;
pub const ECONNABORTED: i32 = bindings::ECONNABORTED as i32;
pub const EFAULT: i32 = bindings::EFAULT as i32;
pub const EFBIG: i32 = bindings::EFBIG as i32;
pub const EINTR: i32 = bindings::EINTR as i32;
pub const EINVAL: i32 = bindings::EINVAL as i32;
pub const EIO: i32 = bindings::EIO as i32;
pub const EISDIR: i32 = bindings::EISDIR as i32;
pub const ENODEV: i32 = bindings::ENODEV as i32;
pub const ENOENT: i32 = bindings::ENOENT as i32;
pub const ENOMEM: i32 = bindings::ENOMEM as i32;
pub const ENOTBLK: i32 = bindings::ENOTBLK as i32;
pub const ENOTTY: i32 = bindings::ENOTTY as i32;
pub const ENXIO: i32 = bindings::ENXIO as i32;
pub const EPERM: i32 = bindings::EPERM as i32;
pub const EPIPE: i32 = bindings::EPIPE as i32;
pub const ERANGE: i32 = bindings::ERANGE as i32;
pub const EROFS: i32 = bindings::EROFS as i32;
