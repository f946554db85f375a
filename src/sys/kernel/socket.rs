// SPDX-License-Identifier: GPL-2.0

//! TCP sockets of the kernel.
//!
//! Sockets are made in the network namespace of whoever loads the module, and hold it, as a socket
//! of a process does: so do the connections accepted from them, and those that the protocol still
//! has to finish after both sides have closed.
//!
//! All calls may be made from several threads at once. Errors are positive error numbers.

use core::ptr::NonNull;

use kernel::bindings;
use kernel::error::to_result;
use kernel::ffi::{c_int, c_void};

use crate::sys::errno;

// `struct socket` has members of types that are empty in some configurations, which C has and Rust
// does not; only its address passes here.
#[allow(improper_ctypes)]
extern "C" {
    // In shim.c.
    fn hpkv_tcp_socket(res: *mut *mut bindings::socket) -> c_int;
    fn hpkv_socket_bind(socket: *mut bindings::socket, address: u32, port: u16) -> c_int;
    fn hpkv_socket_set_timeouts(socket: *mut bindings::socket, recv_ms: u32, send_ms: u32);
    fn hpkv_socket_set_keepalive(socket: *mut bindings::socket);
}

/// A socket, released when dropped.
///
/// # Invariants
///
/// The pointer is to a socket that this object owns.
struct Socket(NonNull<bindings::socket>);

// SAFETY: A socket is not bound to a thread.
unsafe impl Send for Socket {}
// SAFETY: The calls below lock the socket themselves.
unsafe impl Sync for Socket {}

impl Drop for Socket {
    fn drop(&mut self) {
        // SAFETY: Owned, by the invariant.
        unsafe { bindings::sock_release(self.0.as_ptr()) };
    }
}

/// Turns a return code of the kernel into a result.
fn check(code: c_int) -> Result<(), i32> {
    to_result(code).map_err(|error| error.to_errno().wrapping_neg())
}

impl Socket {
    fn shutdown(&self, how: bindings::sock_shutdown_cmd) {
        // A socket that is not connected any more cannot be shut down, and needs not be.
        // SAFETY: The socket is alive, by the invariant.
        let _ = unsafe { bindings::kernel_sock_shutdown(self.0.as_ptr(), how) };
    }
}

/// A socket that waits for connections.
pub struct Listener(Socket);

impl Listener {
    /// Listens on an IPv4 address and port. Fails with `EADDRINUSE` if somebody else does, and with
    /// `EADDRNOTAVAIL` if the address is not one of this machine.
    pub fn bind(address: [u8; 4], port: u16, backlog: u16) -> Result<Self, i32> {
        let mut raw = core::ptr::null_mut();
        // SAFETY: `raw` is valid for writes.
        check(unsafe { hpkv_tcp_socket(&mut raw) })?;
        // INVARIANT: The socket was made for this object.
        let socket = Socket(NonNull::new(raw).ok_or(errno::ENOMEM)?);
        // SAFETY: The socket is alive.
        check(unsafe { hpkv_socket_bind(raw, u32::from_be_bytes(address), port) })?;
        // SAFETY: The socket is alive and bound.
        check(unsafe { bindings::kernel_listen(raw, c_int::from(backlog)) })?;
        Ok(Self(socket))
    }

    /// Waits for a connection. Fails with `EINVAL` after [`shutdown`](Self::shutdown).
    pub fn accept(&self) -> Result<Connection, i32> {
        let mut raw = core::ptr::null_mut();
        // SAFETY: The socket is alive and `raw` is valid for writes.
        check(unsafe { bindings::kernel_accept(self.0 .0.as_ptr(), &mut raw, 0) })?;
        // INVARIANT: The socket was made for this object.
        let socket = Socket(NonNull::new(raw).ok_or(errno::EIO)?);
        // SAFETY: The socket is alive.
        unsafe { hpkv_socket_set_keepalive(raw) };
        Ok(Connection(socket))
    }

    /// Accepts nothing more: ends the accept that waits and those to come.
    pub fn shutdown(&self) {
        self.0.shutdown(bindings::sock_shutdown_cmd_SHUT_RDWR);
    }
}

/// A connection to a client.
pub struct Connection(Socket);

impl Connection {
    /// Limits how long each receive and each send waits; 0 = for ever.
    pub fn set_timeouts_ms(&self, recv: u32, send: u32) {
        // SAFETY: The socket is alive.
        unsafe { hpkv_socket_set_timeouts(self.0 .0.as_ptr(), recv, send) };
    }

    /// Waits for bytes and takes as many as there are and fit. Returns 0 when the client has
    /// finished sending or the connection was shut down; fails with `EAGAIN` after the time limit.
    pub fn recv(&self, to: &mut [u8]) -> Result<usize, i32> {
        self.recv_with(to, 0)
    }

    /// As [`recv`](Self::recv), but fails with `EAGAIN` instead of waiting.
    pub fn try_recv(&self, to: &mut [u8]) -> Result<usize, i32> {
        self.recv_with(to, bindings::MSG_DONTWAIT)
    }

    fn recv_with(&self, to: &mut [u8], flags: u32) -> Result<usize, i32> {
        let mut message = bindings::msghdr::default();
        let mut piece = bindings::kvec {
            iov_base: to.as_mut_ptr().cast::<c_void>(),
            iov_len: to.len(),
        };
        // SAFETY: The socket is alive, and `piece` describes memory that is valid for writes.
        let got = unsafe {
            bindings::kernel_recvmsg(
                self.0 .0.as_ptr(),
                &mut message,
                &mut piece,
                1,
                to.len(),
                flags as c_int,
            )
        };
        check(got.min(0))?;
        Ok(usize::try_from(got).unwrap_or(0).min(to.len()))
    }

    /// Sends all of `bytes`. Fails with `EAGAIN` if the client takes nothing for longer than the
    /// time limit, and then some of the bytes may have been sent.
    pub fn send(&self, bytes: &[u8]) -> Result<(), i32> {
        self.send_with(bytes, 0)
    }

    /// As [`send`](Self::send), but fails with `EAGAIN` instead of waiting.
    pub fn try_send(&self, bytes: &[u8]) -> Result<(), i32> {
        self.send_with(bytes, bindings::MSG_DONTWAIT)
    }

    fn send_with(&self, bytes: &[u8], flags: u32) -> Result<(), i32> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let mut message = bindings::msghdr {
                msg_flags: flags | bindings::MSG_NOSIGNAL,
                ..Default::default()
            };
            let mut piece = bindings::kvec {
                iov_base: rest.as_ptr().cast_mut().cast::<c_void>(),
                iov_len: rest.len(),
            };
            // SAFETY: The socket is alive, and `piece` describes memory that is valid for reads;
            // sending does not write to it.
            let sent = unsafe {
                bindings::kernel_sendmsg(
                    self.0 .0.as_ptr(),
                    &mut message,
                    &mut piece,
                    1,
                    rest.len(),
                )
            };
            check(sent.min(0))?;
            let sent = usize::try_from(sent).unwrap_or(0);
            if sent == 0 {
                return Err(errno::EPIPE);
            }
            rest = rest.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    /// Says that nothing more will be sent; receiving goes on.
    pub fn shutdown_send(&self) {
        self.0.shutdown(bindings::sock_shutdown_cmd_SHUT_WR);
    }

    /// Ends the connection both ways, and whatever waits on it.
    pub fn shutdown(&self) {
        self.0.shutdown(bindings::sock_shutdown_cmd_SHUT_RDWR);
    }
}
