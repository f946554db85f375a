// SPDX-License-Identifier: GPL-2.0
//! The log of a test disk, and the images that a power cut may leave.
//!
//! The virtual machine's disk records every write and every flush in the format
//! of the kernel's dm-log-writes target, which QEMU's blklogwrites driver
//! writes too: a superblock in sector 0, then for each request one sector of
//! header followed by the data.
//!
//! # Fault model
//! - A write that was completed before a flush completed is on the disk.
//! - A write after the last flush is on the disk whole, in part, or not at all,
//!   independently of every other one. A part is a prefix of its 512-byte
//!   sectors or any subset of them. A sector is never torn inside.
//! - Unflushed writes to one sector keep their order.

use crate::rng::Rng;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLAG_FLUSH: u64 = 1;
const FLAG_FUA: u64 = 2;
const FLAG_DISCARD: u64 = 4;
const FLAG_MARK: u64 = 8;
const FLAGS_KNOWN: u64 = FLAG_FLUSH | FLAG_FUA | FLAG_DISCARD | FLAG_MARK;

/// The unit in which a disk writes atomically.
pub const SECTOR: u64 = 512;

/// One request of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// First byte on the disk.
    pub offset: u64,
    pub len: u64,
    /// Where the data lies in the log; discards have none.
    pub data_at: u64,
    pub flush: bool,
    pub fua: bool,
    pub discard: bool,
}

/// A parsed log.
#[derive(Debug)]
pub struct DiskLog {
    file: File,
    pub entries: Vec<Entry>,
}

fn bad(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

impl DiskLog {
    /// Reads the headers of all requests. The superblock's count is only kept
    /// up to date at flushes and the machine was killed, so entries are read on
    /// past it until the first sector that is none; an entry whose data is cut
    /// off is the write that was going on and is dropped.
    pub fn open(mut file: File, disk_len: u64) -> io::Result<Self> {
        let log_len = file.metadata()?.len();
        let mut head = [0u8; 64];
        file.seek(SeekFrom::Start(0))?;
        let mut entries = Vec::new();
        if log_len < SECTOR {
            return Ok(DiskLog { file, entries });
        }
        file.read_exact(&mut head)?;
        let (mut sure, mut unit) = (0, SECTOR);
        if u64_at(&head, 0) == MAGIC {
            sure = u64_at(&head, 16);
            unit = u64::from(u32::from_le_bytes(head[24..28].try_into().unwrap()));
        } else if head != [0; 64] {
            return Err(bad("the disk log has no superblock".into()));
        }
        if !unit.is_power_of_two() || unit < SECTOR {
            return Err(bad(format!("the disk log has sectors of {unit} bytes")));
        }
        let mut at = unit;
        while at + 32 <= log_len {
            let mut head = [0u8; 32];
            file.read_exact_at(&mut head, at)?;
            let (sector, count, flags) = (u64_at(&head, 0), u64_at(&head, 8), u64_at(&head, 16));
            let in_disk = sector
                .checked_add(count)
                .and_then(|end| end.checked_mul(unit))
                .is_some_and(|end| end <= disk_len);
            let empty = count == 0 && flags == 0;
            if flags & !FLAGS_KNOWN != 0 || !in_disk || empty {
                break;
            }
            let discard = flags & FLAG_DISCARD != 0;
            let data_at = at + unit;
            let len = count * unit;
            at = data_at + if discard { 0 } else { len };
            if at > log_len && !discard {
                break;
            }
            entries.push(Entry {
                offset: sector * unit,
                len,
                data_at,
                flush: flags & FLAG_FLUSH != 0,
                fua: flags & FLAG_FUA != 0,
                discard,
            });
        }
        if (entries.len() as u64) < sure {
            return Err(bad(format!(
                "the disk log is damaged at entry {} of {sure}",
                entries.len()
            )));
        }
        Ok(DiskLog { file, entries })
    }

    /// How many flush or FUA markers there are: a disk that shows none has
    /// flushed nothing, and a test on it would prove nothing.
    #[must_use]
    pub fn flushes(&self) -> usize {
        self.entries.iter().filter(|e| e.flush || e.fua).count()
    }

    #[must_use]
    pub fn writes(&self) -> usize {
        self.entries.iter().filter(|e| e.len > 0).count()
    }

    /// Number of entries that the last flush among the first `cut` entries made
    /// stable.
    #[must_use]
    pub fn stable(&self, cut: usize) -> usize {
        self.entries[..cut]
            .iter()
            .rposition(|e| e.flush)
            .unwrap_or(0)
    }

    /// Where entry number `index` ends in the log.
    #[must_use]
    pub fn end_of(&self, index: usize) -> u64 {
        let e = &self.entries[index];
        e.data_at + if e.discard { 0 } else { e.len }
    }

    /// The moments just before a flush that had writes to make stable: as
    /// numbers of entries. A power cut there is the hardest one.
    #[must_use]
    pub fn before_flushes(&self) -> Vec<usize> {
        (1..self.entries.len())
            .filter(|&i| self.entries[i].flush && self.entries[i - 1].len > 0)
            .collect()
    }

    fn data(&self, entry: &Entry, from: u64, len: u64) -> io::Result<Vec<u8>> {
        let mut data = vec![0; usize::try_from(len).unwrap()];
        if !entry.discard {
            self.file.read_exact_at(&mut data, entry.data_at + from)?;
        }
        Ok(data)
    }

    /// Applies the bytes `from..from+len` of one write at `base` in `image`.
    fn apply(&self, image: &File, base: u64, e: &Entry, from: u64, len: u64) -> io::Result<()> {
        if len == 0 || e.discard {
            // What a discarded range reads as is undefined; here, the old bytes.
            return Ok(());
        }
        image.write_all_at(&self.data(e, from, len)?, base + e.offset + from)
    }

    /// Writes into `image` at `base` one state that the disk may be in after
    /// the power cut. `choice` is the number of the image: 0 is the one in
    /// which nothing unflushed arrived, 1 the one in which everything did, and
    /// the others are random. The cut comes after the first `cut` entries. The
    /// image must hold the disk's state from before the log.
    pub fn rebuild(
        &self,
        image: &mut File,
        base: u64,
        cut: usize,
        choice: u64,
        rng: &mut Rng,
    ) -> io::Result<Rebuilt> {
        let stable = self.stable(cut);
        let mut seen = Rebuilt {
            stable,
            ..Rebuilt::default()
        };
        for e in &self.entries[..stable] {
            self.apply(image, base, e, 0, e.len)?;
        }
        let keep_percent = [10, 50, 90, 97][usize::try_from(rng.below(4)).unwrap()];
        for e in &self.entries[stable..cut] {
            if e.len == 0 {
                continue;
            }
            seen.unflushed += 1;
            if e.fua || choice == 1 || (choice > 1 && rng.chance(keep_percent)) {
                if choice > 1 && !e.fua && e.len > SECTOR && rng.chance(60) {
                    seen.torn += 1;
                    let sectors = e.len / SECTOR;
                    if rng.chance(50) {
                        self.apply(image, base, e, 0, rng.below(sectors) * SECTOR)?;
                    } else {
                        for s in 0..sectors {
                            if rng.chance(50) {
                                self.apply(image, base, e, s * SECTOR, SECTOR)?;
                            }
                        }
                    }
                } else {
                    self.apply(image, base, e, 0, e.len)?;
                    seen.kept += 1;
                }
            }
        }
        image.flush()?;
        Ok(seen)
    }
}

/// What went into an image.
#[derive(Debug, Default, Clone, Copy)]
pub struct Rebuilt {
    /// Entries before the last flush, all of them applied.
    pub stable: usize,
    /// Writes after the last flush.
    pub unflushed: usize,
    /// Those of them that arrived whole.
    pub kept: usize,
    /// Those that arrived in part.
    pub torn: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;

    fn temp(name: &str) -> File {
        let path = std::env::temp_dir().join(format!("disklog-{}-{name}", std::process::id()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(path).unwrap();
        file
    }

    /// Builds a log: (sector, sectors, flags, byte to fill the data with).
    fn log(name: &str, count: u64, entries: &[(u64, u64, u64, u8)]) -> File {
        let file = temp(name);
        let mut head = [0u8; 512];
        head[..8].copy_from_slice(&MAGIC.to_le_bytes());
        head[8..16].copy_from_slice(&1u64.to_le_bytes());
        head[16..24].copy_from_slice(&count.to_le_bytes());
        head[24..28].copy_from_slice(&512u32.to_le_bytes());
        file.write_all_at(&head, 0).unwrap();
        let mut at = 512;
        for &(sector, sectors, flags, fill) in entries {
            let mut head = [0u8; 512];
            head[..8].copy_from_slice(&sector.to_le_bytes());
            head[8..16].copy_from_slice(&sectors.to_le_bytes());
            head[16..24].copy_from_slice(&flags.to_le_bytes());
            file.write_all_at(&head, at).unwrap();
            at += 512;
            let data = vec![fill; (sectors * 512) as usize];
            file.write_all_at(&data, at).unwrap();
            at += sectors * 512;
        }
        file
    }

    fn image_of(log: &DiskLog, choice: u64, seed: u64) -> Vec<u8> {
        let mut image = temp("image");
        image.set_len(8 * 512).unwrap();
        log.rebuild(
            &mut image,
            0,
            log.entries.len(),
            choice,
            &mut Rng::new(seed),
        )
        .unwrap();
        let mut bytes = vec![0; 8 * 512];
        image.read_exact_at(&mut bytes, 0).unwrap();
        bytes.chunks(512).map(|s| s[0]).collect()
    }

    #[test]
    fn flushed_writes_are_in_every_image_and_unflushed_ones_in_some() {
        let file = log(
            "a",
            3,
            &[
                (0, 2, 0, 1),
                (1, 1, 0, 2),
                (0, 0, 1, 0),
                (4, 3, 0, 3),
                (1, 1, 0, 4),
            ],
        );
        let log = DiskLog::open(file, 8 * 512).unwrap();
        assert_eq!((log.entries.len(), log.flushes(), log.writes()), (5, 1, 4));
        assert_eq!((log.stable(5), log.stable(2)), (2, 0));
        assert_eq!(log.before_flushes(), [2]);
        assert_eq!(log.end_of(0), 512 + 512 + 1024);
        assert_eq!(image_of(&log, 0, 1), [1, 2, 0, 0, 0, 0, 0, 0]);
        assert_eq!(image_of(&log, 1, 1), [1, 4, 0, 0, 3, 3, 3, 0]);
        let mut states = std::collections::BTreeSet::new();
        for seed in 0..2_000 {
            let image = image_of(&log, 2, seed);
            assert_eq!(image[0], 1);
            assert!(image[1] == 2 || image[1] == 4);
            states.insert(image);
        }
        // Eight states of the torn write, each with and without the other one.
        assert_eq!(states.len(), 16);
    }

    #[test]
    fn a_log_without_a_flush_makes_nothing_stable() {
        let file = log("b", 0, &[(0, 2, 0, 1), (4, 1, 0, 3)]);
        let log = DiskLog::open(file, 8 * 512).unwrap();
        assert_eq!((log.entries.len(), log.flushes(), log.stable(2)), (2, 0, 0));
        assert_eq!(image_of(&log, 0, 1), [0; 8]);
    }

    #[test]
    fn an_entry_whose_data_is_cut_off_is_dropped_and_damage_before_the_count_is_an_error() {
        let file = log("c", 1, &[(0, 2, 0, 1), (4, 3, 0, 3)]);
        let len = file.metadata().unwrap().len();
        file.set_len(len - 512).unwrap();
        assert_eq!(DiskLog::open(file, 8 * 512).unwrap().entries.len(), 1);
        let file = log("d", 3, &[(0, 2, 0, 1), (4, 3, 0, 3)]);
        DiskLog::open(file, 8 * 512).unwrap_err();
        let file = log("e", 1, &[(7, 2, 0, 1)]);
        DiskLog::open(file, 8 * 512).unwrap_err();
    }
}
