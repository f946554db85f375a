// SPDX-License-Identifier: GPL-2.0
//! The system calls that the tests need and the standard library has not.
//! Everything unsafe of the tests is in this file.

use std::ffi::{CString, c_void};
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

/// The number of an error, as in errno.
pub(crate) type Errno = i32;

fn last_errno() -> Errno {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn check(result: libc::c_long) -> Result<i64, Errno> {
    if result < 0 {
        Err(last_errno())
    } else {
        Ok(result)
    }
}

/// An ioctl with whatever argument a test wants to try, good or bad.
pub(crate) fn ioctl_raw(fd: RawFd, command: u64, arg: u64) -> Result<i64, Errno> {
    // SAFETY: Tests pass either a pointer to memory that outlives the call and
    // is as large as the command says, or an address that the kernel must
    // refuse. An address in between would only harm the test itself.
    check(unsafe { libc::syscall(libc::SYS_ioctl, fd, command, arg) })
}

/// An ioctl whose argument is a structure.
pub(crate) fn ioctl<T>(fd: RawFd, command: u64, arg: &mut T) -> Result<i64, Errno> {
    ioctl_raw(fd, command, std::ptr::from_mut(arg) as u64)
}

/// The ioctl of a 32-bit program on this 64-bit kernel: `int 0x80` enters the
/// kernel through its compatible table whatever the mode of the caller. `arg`
/// lies below 4 GiB.
pub(crate) fn ioctl_32bit(fd: RawFd, command: u32, arg: u32) -> Result<i64, Errno> {
    const NR_IOCTL_I386: i64 = 54;
    let mut result = NR_IOCTL_I386;
    // SAFETY: rbx is put back before the compiler can use it again, and the
    // registers that the entry clobbers are declared. For the argument the
    // same holds as in `ioctl_raw`.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {first}",
            "int 0x80",
            "xchg rbx, {first}",
            first = inout(reg) i64::from(fd) => _,
            inout("rax") result,
            in("rcx") u64::from(command),
            in("rdx") u64::from(arg),
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    // The 32-bit entry may leave the upper half of the register clear.
    let value = result as i32;
    if value < 0 {
        Err(-value)
    } else {
        Ok(i64::from(value))
    }
}

/// A private mapping.
#[derive(Debug)]
pub(crate) struct Mapping {
    at: *mut c_void,
    len: usize,
}

impl Mapping {
    fn with(len: usize, protection: i32, flags: i32) -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags;
        // SAFETY: A new anonymous mapping at an address the kernel chooses.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED, "mmap: errno {}", last_errno());
        Mapping { at, len }
    }

    /// Readable and writable, below 4 GiB.
    pub(crate) fn low(len: usize) -> Self {
        Self::with(len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_32BIT)
    }

    /// Readable only.
    pub(crate) fn read_only(len: usize) -> Self {
        Self::with(len, libc::PROT_READ, 0)
    }

    /// Two pages of which the second one cannot be touched.
    pub(crate) fn before_a_hole() -> Self {
        let map = Self::with(8192, libc::PROT_READ | libc::PROT_WRITE, 0);
        // SAFETY: The second page of a mapping of two, which nothing refers to.
        let result = unsafe { libc::mprotect(map.at.add(4096), 4096, libc::PROT_NONE) };
        assert_eq!(result, 0);
        map
    }

    pub(crate) fn address(&self) -> u64 {
        self.at as u64
    }

    pub(crate) fn write(&mut self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.len);
        // SAFETY: Inside the mapping, which only this object refers to.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                self.at.cast::<u8>().add(at),
                bytes.len(),
            );
        };
    }

    pub(crate) fn read(&self, at: usize, len: usize) -> Vec<u8> {
        assert!(at + len <= self.len);
        let mut out = vec![0; len];
        // SAFETY: Inside the mapping, which only this object refers to.
        unsafe {
            std::ptr::copy_nonoverlapping(self.at.cast::<u8>().add(at), out.as_mut_ptr(), len);
        };
        out
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: The mapping was made by this object.
        unsafe { libc::munmap(self.at, self.len) };
    }
}

/// The bytes of a structure without padding, for mappings.
pub(crate) fn bytes_of<T: Copy>(value: &T) -> Vec<u8> {
    let mut out = vec![0; size_of::<T>()];
    // SAFETY: The ABI's structures have no padding; both sides are as long as
    // the structure.
    unsafe {
        std::ptr::copy_nonoverlapping(
            std::ptr::from_ref(value).cast::<u8>(),
            out.as_mut_ptr(),
            out.len(),
        );
    };
    out
}

/// A structure of integers from its bytes.
pub(crate) fn from_bytes<T: Copy + Default>(bytes: &[u8]) -> T {
    assert!(bytes.len() >= size_of::<T>());
    let mut value = T::default();
    // SAFETY: The ABI's structures hold integers only, so any bytes are valid,
    // and there are enough of them.
    unsafe {
        std::ptr::copy_nonoverlapping(
            bytes.as_ptr(),
            std::ptr::from_mut(&mut value).cast::<u8>(),
            size_of::<T>(),
        );
    };
    value
}

/// Loads a module as insmod does, and tells the errno.
pub(crate) fn module_load(file: &File, parameters: &str) -> Result<(), Errno> {
    let parameters = CString::new(parameters).unwrap();
    // SAFETY: An open file and a terminated string that live across the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_finit_module,
            file.as_raw_fd(),
            parameters.as_ptr(),
            0,
        )
    })
    .map(|_| ())
}

/// Unloads a module as rmmod does, and tells the errno.
pub(crate) fn module_unload(name: &str) -> Result<(), Errno> {
    let name = CString::new(name).unwrap();
    // SAFETY: A terminated string that lives across the call.
    check(unsafe { libc::syscall(libc::SYS_delete_module, name.as_ptr(), libc::O_NONBLOCK) })
        .map(|_| ())
}

/// Takes CAP_SYS_ADMIN from the calling thread.
pub(crate) fn drop_cap_sys_admin() {
    const VERSION_3: u32 = 0x2008_0522;
    const CAP_SYS_ADMIN: u32 = 21;
    let mut head = [VERSION_3, 0];
    let mut sets = [0u32; 6];
    // SAFETY: The sizes are those of version 3 of the call: a head of two
    // numbers and two times three sets.
    unsafe {
        check(libc::syscall(
            libc::SYS_capget,
            head.as_mut_ptr(),
            sets.as_mut_ptr(),
        ))
        .unwrap();
        sets[0] &= !(1 << CAP_SYS_ADMIN);
        sets[1] &= !(1 << CAP_SYS_ADMIN);
        check(libc::syscall(
            libc::SYS_capset,
            head.as_mut_ptr(),
            sets.as_mut_ptr(),
        ))
        .unwrap();
    }
}

/// Waits until everything written to a terminal has left it. A file that is no
/// terminal is left alone.
pub(crate) fn drain(fd: RawFd) {
    // SAFETY: An open descriptor.
    unsafe { libc::tcdrain(fd) };
}

/// Switches a terminal to raw output.
pub(crate) fn raw_terminal(fd: RawFd) {
    // SAFETY: The structure is plain data and filled by the first call.
    unsafe {
        let mut state = std::mem::zeroed::<libc::termios>();
        if libc::tcgetattr(fd, &mut state) == 0 {
            libc::cfmakeraw(&mut state);
            libc::tcsetattr(fd, libc::TCSANOW, &state);
        }
    }
}

pub(crate) fn allow_many_files(count: u64) {
    let limit = libc::rlimit {
        rlim_cur: count,
        rlim_max: count,
    };
    // SAFETY: The structure lives across the call.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    assert_eq!(result, 0, "setrlimit: errno {}", last_errno());
}

/// The number of this thread, as in /proc/self/task.
pub(crate) fn thread_id() -> i64 {
    // SAFETY: No arguments, cannot fail.
    unsafe { libc::syscall(libc::SYS_gettid) }
}

/// Kills a process group.
pub(crate) fn kill_group(group: i32) {
    // SAFETY: Plain numbers.
    unsafe { libc::kill(-group, libc::SIGKILL) };
}
