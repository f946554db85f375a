// SPDX-License-Identifier: GPL-2.0

//! A file in `/proc` that is printed anew for each reader.

use core::fmt;
use core::ptr::NonNull;

use kernel::bindings;
use kernel::ffi::{c_char, c_int, c_void};
use kernel::prelude::*;
use kernel::seq_file::SeqFile;

use crate::sys::{errno, Arc};

extern "C" {
    // Exported by fs/proc/generic.c, but not among the bindings. `proc_dir_entry` is opaque.
    fn proc_create_single_data(
        name: *const c_char,
        mode: bindings::umode_t,
        parent: *mut bindings::proc_dir_entry,
        show: Option<unsafe extern "C" fn(*mut bindings::seq_file, *mut c_void) -> c_int>,
        data: *mut c_void,
    ) -> *mut bindings::proc_dir_entry;
    fn proc_remove(entry: *mut bindings::proc_dir_entry);
}

/// What a file says.
pub trait Show: Send + Sync + 'static {
    /// Prints the whole file. May sleep.
    fn show(&self, out: &Output<'_>);
}

/// Where the text of a file goes.
pub struct Output<'a>(&'a SeqFile);

impl Output<'_> {
    /// Prints.
    pub fn print(&self, args: fmt::Arguments<'_>) {
        kernel::seq_print!(self.0, "{}", args);
    }
}

/// A file that exists until this is dropped.
///
/// # Invariants
///
/// `entry` was created with the address of what `_content` holds.
pub struct File<S: Show> {
    entry: NonNull<bindings::proc_dir_entry>,
    _content: Arc<S>,
}

// SAFETY: The entry may be removed from any thread, and `S` is `Send` and `Sync`.
unsafe impl<S: Show> Send for File<S> {}
// SAFETY: There is nothing that can be done with a shared reference.
unsafe impl<S: Show> Sync for File<S> {}

impl<S: Show> File<S> {
    /// Makes `/proc/<name>` appear with access `mode`. Fails if the name is taken or there is no
    /// memory, with `ENOMEM` for both: the kernel does not say.
    pub fn new(name: &'static CStr, mode: u16, content: Arc<S>) -> Result<Self, i32> {
        let data = Arc::as_ptr(&content).cast_mut().cast();
        // SAFETY: The name is a string. `data` stays valid until `proc_remove` has returned, since
        // this object holds the content until then, and `proc_remove` waits for readers.
        let entry = unsafe {
            proc_create_single_data(
                name.as_char_ptr(),
                mode,
                core::ptr::null_mut(),
                Some(show::<S>),
                data,
            )
        };
        let entry = NonNull::new(entry).ok_or(errno::ENOMEM)?;
        Ok(Self {
            entry,
            _content: content,
        })
    }
}

impl<S: Show> Drop for File<S> {
    fn drop(&mut self) {
        // SAFETY: Created in `new` and removed only here. Waits until no call of `show` runs and
        // closes what is open.
        unsafe { proc_remove(self.entry.as_ptr()) };
    }
}

/// Called by the kernel to print the file.
///
/// # Safety
///
/// `seq` must be a valid `struct seq_file` whose private data is the address given to
/// `proc_create_single_data`.
unsafe extern "C" fn show<S: Show>(seq: *mut bindings::seq_file, _: *mut c_void) -> c_int {
    // SAFETY: The private data is the address of an `S`, alive until `proc_remove` has returned,
    // which waits for this call.
    let content = unsafe { &*(*seq).private.cast::<S>() };
    // SAFETY: The kernel gives this thread the only access to `seq` during the call.
    let seq = unsafe { SeqFile::from_raw(seq) };
    content.show(&Output(seq));
    0
}
