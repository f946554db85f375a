// SPDX-License-Identifier: GPL-2.0

//! The one thing the engine asks of stable storage.
//!
//! In the kernel the implementor is `BlockDevice`; on the host it is a simulated disk that may lose,
//! reorder and tear whatever was not flushed.

/// A store of bytes that outlives power.
///
/// Offsets and lengths are multiples of [`sector_bytes`](Disk::sector_bytes) and lie within
/// [`len_bytes`](Disk::len_bytes); what does not is refused with `EINVAL` and changes nothing.
/// Buffers come from [`PageBuf`](crate::sys::PageBuf). Errors are positive error numbers.
///
/// All methods may block and may be called from several threads at once. The order of
/// overlapping calls in flight together is undefined.
pub trait Disk: Send + Sync + 'static {
    /// Returns the size of the device. It may grow while the device is open.
    fn len_bytes(&self) -> u64;

    /// Returns the size of a logical sector, the least amount that can be read or written.
    fn sector_bytes(&self) -> u32;

    /// Says whether writes are refused, by the device or by the way it was opened.
    fn read_only(&self) -> bool;

    /// Fills `buf` from the bytes at `offset`.
    ///
    /// After an error the contents of `buf` are undefined.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), i32>;

    /// Writes `buf` to the bytes at `offset` and returns when the device has acknowledged it.
    ///
    /// Until a later [`flush`](Disk::flush) succeeds, a power cut may undo the write, wholly or
    /// for some of its sectors.
    fn write(&self, offset: u64, buf: &[u8]) -> Result<(), i32>;

    /// Makes every write that was acknowledged before this call survive a power cut.
    fn flush(&self) -> Result<(), i32>;
}
