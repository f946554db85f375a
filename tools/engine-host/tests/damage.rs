// SPDX-License-Identifier: GPL-2.0

//! Damaged devices: whatever byte of what was durable is another, opening gives exactly what was
//! stored or refuses; it never serves something else, and never panics.

mod common;

use common::{all, put, try_open as open, Model};
use hpkv_engine::engine::{Error, WriteOptions};
use hpkv_engine::sys::{crc32c, MemoryDisk};

const UNIT: usize = 4096;

/// A device with several segments, overwritten and removed keys, and what it holds; everything is
/// durable. With `closed` it was closed cleanly, else cut off.
fn image(closed: bool) -> (Vec<u8>, Model) {
    let disk = MemoryDisk::new(1 << 20);
    let db = open(&disk).unwrap();
    for n in 0..120u64 {
        put(&db, &(n % 70).to_be_bytes(), &vec![n as u8; 3000]).unwrap();
        if n % 10 == 9 {
            let key = (n % 70 - 5).to_be_bytes();
            db.delete(&key, &WriteOptions::default()).unwrap();
            db.sync().unwrap();
        }
    }
    let model = all(&db);
    let image = if closed {
        assert_eq!(db.close(), 0);
        disk.image()
    } else {
        db.sync().unwrap();
        let image = disk.crash(|_, _| false);
        db.close();
        image
    };
    (image, model)
}

/// Opens what is left and compares; says whether it was opened at all.
fn opens(image: Vec<u8>, model: &Model, what: &str) -> bool {
    match open(&MemoryDisk::from_image(image)) {
        Ok(db) => {
            let found = all(&db);
            db.close();
            assert!(found == *model, "{what}: something else is served");
            true
        }
        Err(error) => {
            assert_eq!(error, Error::Corrupt, "{what}");
            false
        }
    }
}

#[test]
fn a_flipped_byte_is_harmless_or_refused() {
    let (image, model) = image(true);
    // Every structure begins at a unit: its header densely, the rest here and there.
    let headers = (0..image.len() / UNIT)
        .flat_map(|unit| [0, 9, 13, 40, 45, 61, 96, 110].map(|at| unit * UNIT + at));
    let rest = (0..image.len()).step_by(1031);
    let superblocks = (0..2 * UNIT).step_by(7).filter(|at| at % UNIT < 130);
    let mut refused = 0;
    for at in headers.chain(rest).chain(superblocks) {
        let mut damaged = image.clone();
        damaged[at] ^= 0x55;
        refused += u32::from(!opens(damaged, &model, &format!("byte {at}")));
    }
    assert!(refused > 100, "{refused} refused");
}

/// One of the superblocks may be lost at any time. The older one may not know the newest segments.
#[test]
fn one_superblock_is_enough_after_a_power_cut() {
    let (image, model) = image(false);
    assert!(opens(image.clone(), &model, "undamaged"));
    for unit in 0..2 {
        let mut damaged = image.clone();
        damaged[unit * UNIT + 100] ^= 1;
        assert!(opens(damaged, &model, &format!("superblock {unit}")));
    }
}

/// Numbers at the end of their range, under a correct checksum, must not overflow.
#[test]
fn numbers_beyond_reason_are_damage() {
    let (image, _) = image(true);
    let seal = |image: &mut [u8], at: usize| {
        image[at + 12..][..4].fill(0);
        let crc = crc32c(0, &image[at..][..512]);
        image[at + 12..][..4].copy_from_slice(&crc.to_le_bytes());
    };
    for field in [24, 88, 96, 104] {
        let mut hostile = image.clone();
        for unit in 0..2 {
            let value = (u64::MAX - 1) & !1 | unit as u64;
            hostile[unit * UNIT + field..][..8].copy_from_slice(&value.to_le_bytes());
            seal(&mut hostile, unit * UNIT);
        }
        let result = open(&MemoryDisk::from_image(hostile)).map(|db| {
            for n in 0..20u64 {
                let _ = put(&db, &n.to_be_bytes(), &[1; 9000]);
                let _ = db.sync();
            }
            db.close()
        });
        assert_eq!(result, Err(Error::Corrupt), "superblock, field {field}");
    }
    for field in [48, 56, 64, 72] {
        let mut hostile = image.clone();
        let at = 16 * UNIT;
        hostile[at + field..][..8].copy_from_slice(&(u64::MAX - 1).to_le_bytes());
        seal(&mut hostile, at);
        let result = open(&MemoryDisk::from_image(hostile)).map(|db| {
            let _ = put(&db, b"k", b"v");
            let _ = db.sync();
            db.close()
        });
        assert_eq!(result, Err(Error::Corrupt), "segment header, field {field}");
    }
}
