// SPDX-License-Identifier: GPL-2.0

//! Module parameters with callbacks of our own.
//!
//! The kernel calls [`Parameter::set`] for each parameter given to insmod, before the module's init
//! runs, and for each write to `/sys/module/<name>/parameters/…`, from the moment before init runs
//! until after exit has returned. It holds the module's parameter lock during each call. What the
//! callbacks share lives in [`Cell`]s, which that lock protects: a callback is given the proof that
//! it is held, [`Locked`], and other code takes it with [`lock`].
//!
//! A callback may sleep, and must not call [`lock`].

use core::cell::UnsafeCell;
use core::fmt::{self, Write};
use core::ops::{Deref, DerefMut};

use kernel::bindings;
use kernel::ffi::{c_char, c_int};
use kernel::prelude::*;
use kernel::types::NotThreadSafe;

/// One parameter. Errors are positive error numbers.
pub trait Parameter {
    /// Takes a new value, given without the end of its line.
    fn set(text: &[u8], locked: &mut Locked) -> Result<(), i32>;

    /// Prints the present value.
    fn get(out: &mut Text<'_>, locked: &Locked);
}

/// The proof that the parameter lock is held.
///
/// # Invariants
///
/// While a value of this type is reachable the module's parameter lock is held by this thread, and
/// it is the only such value.
pub struct Locked(NotThreadSafe);

/// The parameter lock, taken by [`lock`] and free again when this is dropped.
pub struct Guard(Locked);

/// Takes the parameter lock. May sleep. Not for use in a callback, where it is held already.
pub fn lock() -> Guard {
    // SAFETY: The module is alive while its code runs.
    unsafe { bindings::kernel_param_lock(crate::THIS_MODULE.as_ptr()) };
    // INVARIANT: Taken just now; a callback cannot be running on any other thread.
    Guard(Locked(NotThreadSafe))
}

impl Deref for Guard {
    type Target = Locked;
    fn deref(&self) -> &Locked {
        &self.0
    }
}

impl DerefMut for Guard {
    fn deref_mut(&mut self) -> &mut Locked {
        &mut self.0
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // SAFETY: Taken in `lock`; `Guard` is bound to its thread.
        unsafe { bindings::kernel_param_unlock(crate::THIS_MODULE.as_ptr()) };
    }
}

/// Data that the parameter lock protects, for use in statics.
pub struct Cell<T>(UnsafeCell<T>);

// SAFETY: The content is reached with a `Locked` only, hence by one thread at a time.
unsafe impl<T: Send> Sync for Cell<T> {}

impl<T> Cell<T> {
    /// Makes a cell.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// The content, to be read.
    pub fn get<'a>(&'a self, _locked: &'a Locked) -> &'a T {
        // SAFETY: The lock is held by this thread. A reference that allows changes borrows the one
        // `Locked` there is exclusively, so none is alive.
        unsafe { &*self.0.get() }
    }

    /// The content, to be changed.
    pub fn get_mut<'a>(&'a self, _locked: &'a mut Locked) -> &'a mut T {
        // SAFETY: The lock is held by this thread, and every other reference into any cell borrows
        // the one `Locked` there is, so none is alive.
        unsafe { &mut *self.0.get() }
    }
}

/// The buffer for the value of a parameter as text; what does not fit is cut off.
pub struct Text<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl Text<'_> {
    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if let Some(place) = self.bytes.get_mut(self.len) {
                *place = byte;
                self.len = self.len.saturating_add(1);
            }
        }
    }
}

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

/// Declares a module parameter: name, type as modinfo shows it, access in sysfs, the type that
/// implements [`Parameter`], description.
macro_rules! module_parameter {
    ($name:ident: $kind:literal, $mode:literal, $handler:ty, $description:expr) => {
        const _: () = {
            use kernel::bindings::{kernel_param, kernel_param__bindgen_ty_1, kernel_param_ops};
            use kernel::module_param::KernelParam;
            use $crate::sys::params;

            static OPS: kernel_param_ops = params::ops::<$handler>();

            #[link_section = "__param"]
            #[used(compiler)]
            static PARAM: KernelParam = KernelParam::new(kernel_param {
                name: params::name(concat!(stringify!($name), "\0")),
                mod_: $crate::THIS_MODULE.as_ptr(),
                ops: &raw const OPS,
                perm: $mode,
                level: -1,
                flags: 0,
                __bindgen_anon_1: kernel_param__bindgen_ty_1 {
                    arg: core::ptr::null_mut(),
                },
            });

            const TYPE_TEXT: &str = concat!("parmtype=", stringify!($name), ":", $kind, "\0");
            #[link_section = ".modinfo"]
            #[used(compiler)]
            static TYPE: [u8; TYPE_TEXT.len()] = params::modinfo(TYPE_TEXT);

            const HELP_TEXT: &str = concat!("parm=", stringify!($name), ":", $description, "\0");
            #[link_section = ".modinfo"]
            #[used(compiler)]
            static HELP: [u8; HELP_TEXT.len()] = params::modinfo(HELP_TEXT);
        };
    };
}
pub(crate) use module_parameter;

/// The bytes of a line of modinfo. For [`module_parameter`].
pub const fn modinfo<const N: usize>(text: &str) -> [u8; N] {
    let bytes = text.as_bytes();
    assert!(bytes.len() == N);
    let mut line = [0; N];
    let mut at = 0;
    while at < N {
        line[at] = bytes[at];
        at += 1;
    }
    line
}

/// The address of a name that ends in a zero byte. For [`module_parameter`].
pub const fn name(text: &'static str) -> *const c_char {
    assert!(matches!(text.as_bytes().last(), Some(0)));
    text.as_ptr().cast()
}

/// The callbacks of a parameter. For [`module_parameter`].
pub const fn ops<P: Parameter>() -> bindings::kernel_param_ops {
    bindings::kernel_param_ops {
        flags: 0,
        set: Some(set::<P>),
        get: Some(get::<P>),
        free: None,
    }
}

/// Called by the kernel with a new value.
///
/// # Safety
///
/// The parameter lock must be held, and `value` be a string or null.
unsafe extern "C" fn set<P: Parameter>(
    value: *const c_char,
    _param: *const bindings::kernel_param,
) -> c_int {
    if value.is_null() {
        return EINVAL.to_errno();
    }
    // SAFETY: Not null, hence a string, by the contract of the function.
    let text = unsafe { CStr::from_char_ptr(value) }.to_bytes();
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    // INVARIANT: The kernel holds the lock during this call, and calls nothing else with it.
    let mut locked = Locked(NotThreadSafe);
    match P::set(text, &mut locked) {
        Ok(()) => 0,
        Err(errno) => errno.wrapping_neg(),
    }
}

/// Called by the kernel to print the present value.
///
/// # Safety
///
/// The parameter lock must be held, and `buffer` be writable for a page.
unsafe extern "C" fn get<P: Parameter>(
    buffer: *mut c_char,
    _param: *const bindings::kernel_param,
) -> c_int {
    // SAFETY: By the contract of the function; sysfs gives a zeroed page.
    let bytes = unsafe { core::slice::from_raw_parts_mut(buffer.cast::<u8>(), PAGE_SIZE) };
    let mut text = Text { bytes, len: 0 };
    // INVARIANT: The kernel holds the lock during this call, and calls nothing else with it.
    let locked = Locked(NotThreadSafe);
    P::get(&mut text, &locked);
    text.push(b"\n");
    c_int::try_from(text.len).unwrap_or(0)
}

const PAGE_SIZE: usize = kernel::page::PAGE_SIZE;
