// SPDX-License-Identifier: GPL-2.0

//! A misc device whose open files keep the module loaded.
//!
//! The kernel crate's own registration leaves `fops.owner` empty, so a module could be removed
//! under an open file. This one starts from the same table of operations, copies it, and sets the
//! owner.
//!
//! An open file holds a reference to the [`Device`] and a state of its own. Calls on one file may
//! run concurrently; the state locks what it must.

use kernel::bindings;
use kernel::error::to_result;
use kernel::fs::{File, Kiocb};
use kernel::iov::{IovIterDest, IovIterSource};
use kernel::miscdevice::{MiscDevice, MiscDeviceOptions, MiscDeviceRegistration};
use kernel::prelude::*;
use kernel::types::Opaque;

use crate::sys::{errno, Arc};

/// How a file was opened.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// The file may be read.
    pub read: bool,
    /// The file may be written.
    pub write: bool,
}

/// What a device does. Errors are positive error numbers.
pub trait Device: Send + Sync + 'static {
    /// What an open file remembers.
    type Open: Send + Sync;

    /// A file is opened.
    fn open(&self) -> Result<Self::Open, i32>;

    /// An ioctl, native or from a 32-bit caller; `arg` is an address.
    fn ioctl(&self, access: Access, cmd: u32, arg: u64) -> Result<(), i32>;

    /// A read; returns the number of bytes that were put into `to`, 0 = the end.
    fn read(&self, open: &Self::Open, to: &mut Destination<'_, '_>) -> Result<usize, i32>;

    /// A write; returns the number of bytes that were used.
    fn write(&self, from: &mut Source<'_, '_>) -> Result<usize, i32>;
}

/// Where a read goes.
pub struct Destination<'a, 'd>(&'a mut IovIterDest<'d>);

impl Destination<'_, '_> {
    /// Returns the room that is left, in bytes.
    pub fn room(&self) -> usize {
        self.0.len()
    }

    /// Copies out; returns the number of bytes, fewer than given if the memory of the caller
    /// cannot be written or ends.
    pub fn put(&mut self, bytes: &[u8]) -> usize {
        self.0.copy_to_iter(bytes)
    }
}

/// Where a write comes from.
pub struct Source<'a, 'd>(&'a mut IovIterSource<'d>);

impl Source<'_, '_> {
    /// Returns the number of bytes that are left.
    pub fn left(&self) -> usize {
        self.0.len()
    }

    /// Fills `to`; fails with `EFAULT` if the memory of the caller cannot be read or ends before.
    pub fn take(&mut self, to: &mut [u8]) -> Result<(), i32> {
        if self.0.copy_from_iter(to) == to.len() {
            Ok(())
        } else {
            Err(errno::EFAULT)
        }
    }
}

/// An open file: the private data of `struct file`.
struct Handle<D: Device> {
    device: Arc<D>,
    open: D::Open,
}

/// Turns a positive error number into the kernel's error.
fn error(errno: i32) -> Error {
    Error::from_errno(errno.wrapping_neg())
}

#[vtable]
impl<D: Device> MiscDevice for Handle<D> {
    type Ptr = KBox<Self>;

    fn open(_file: &File, misc: &MiscDeviceRegistration<Self>) -> Result<Self::Ptr> {
        // The registration is the first field of a `Node<D>`, which is what was registered; see
        // `Registration::new`.
        let node = misc.as_raw().cast::<Node<D>>();
        // SAFETY: `misc_open` holds the lock that `misc_deregister` takes, so the node is alive
        // during this call; its field `device` is never changed.
        let device = unsafe { (*node).device.clone() };
        let open = device.open().map_err(error)?;
        Ok(KBox::new(Self { device, open }, GFP_KERNEL)?)
    }

    fn read_iter(kiocb: Kiocb<'_, Self::Ptr>, iov: &mut IovIterDest<'_>) -> Result<usize> {
        let handle = kiocb.file();
        handle
            .device
            .read(&handle.open, &mut Destination(iov))
            .map_err(error)
    }

    fn write_iter(kiocb: Kiocb<'_, Self::Ptr>, iov: &mut IovIterSource<'_>) -> Result<usize> {
        kiocb.file().device.write(&mut Source(iov)).map_err(error)
    }

    // There is no compat_ioctl: without one, the table gets `compat_ptr_ioctl`, which widens the
    // address and comes here. All structures have one layout.
    fn ioctl(handle: &Self, file: &File, cmd: u32, arg: usize) -> Result<isize> {
        // SAFETY: The file is valid during the call; `f_mode` keeps these bits for its lifetime.
        let mode = unsafe { (*file.as_ptr()).f_mode };
        let access = Access {
            read: mode & FMODE_READ != 0,
            write: mode & FMODE_WRITE != 0,
        };
        handle
            .device
            .ioctl(access, cmd, arg as u64)
            .map(|()| 0)
            .map_err(error)
    }
}

// The bits of `f_mode`, macros that are not part of the bindings.
const FMODE_READ: bindings::fmode_t = 1 << 0;
const FMODE_WRITE: bindings::fmode_t = 1 << 1;

/// What is registered, in one allocation that does not move.
///
/// The layout is fixed so that the address of the first field is the address of all.
#[repr(C)]
struct Node<D: Device> {
    misc: Opaque<bindings::miscdevice>,
    fops: bindings::file_operations,
    device: Arc<D>,
}

/// A registered device; dropping it takes the device away.
///
/// # Invariants
///
/// `node.misc` is registered and its `fops` points to `node.fops`.
pub struct Registration<D: Device> {
    node: Pin<KBox<Node<D>>>,
}

// SAFETY: The device may be deregistered from any thread, and `D` is `Send` and `Sync`.
unsafe impl<D: Device> Send for Registration<D> {}
// SAFETY: There is nothing that can be done with a shared reference.
unsafe impl<D: Device> Sync for Registration<D> {}

impl<D: Device> Registration<D> {
    /// Makes the device appear as `/dev/<name>` with access `mode`.
    pub fn new(
        name: &'static CStr,
        mode: u16,
        owner: &'static ThisModule,
        device: Arc<D>,
    ) -> Result<Self, i32> {
        let mut misc = MiscDeviceOptions { name }.into_raw::<Handle<D>>();
        misc.mode = mode;
        // SAFETY: `into_raw` has put the address of a constant table here.
        let mut fops = unsafe { *misc.fops };
        fops.owner = owner.as_ptr();

        let node = KBox::pin(
            Node {
                misc: Opaque::new(misc),
                fops,
                device,
            },
            GFP_KERNEL,
        )
        .map_err(|_| errno::ENOMEM)?;

        let raw = node.misc.get();
        // SAFETY: Nobody else knows of the node yet.
        unsafe { (*raw).fops = &raw const node.fops };
        // SAFETY: The structure is fully set up, and its memory neither moves nor goes before it is
        // deregistered in `drop`. The table of operations was made for `Handle<D>`.
        to_result(unsafe { bindings::misc_register(raw) })
            .map_err(|error| error.to_errno().wrapping_neg())?;
        // INVARIANT: Registered just now.
        Ok(Self { node })
    }
}

impl<D: Device> Drop for Registration<D> {
    fn drop(&mut self) {
        // SAFETY: Registered, by the invariant, and deregistered only here. Files that are open
        // hold the module, so there are none while the module goes; should registering a later
        // part of the module have failed, open files hold their own reference to the device, and
        // the module stays until they are closed.
        unsafe { bindings::misc_deregister(self.node.misc.get()) };
    }
}
