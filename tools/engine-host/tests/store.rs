// SPDX-License-Identifier: GPL-2.0

//! The engine through its door, on the host: requests against a model, restarts, a full device.

mod common;

use common::{all, open, options, put, put_with, Db, Model};
use hpkv_engine::engine::{
    Database, Durability, Error, Options, ScanRequest, Staged, Stats, Store, UpdateAt, WriteOptions,
};
use hpkv_engine::sys::MemoryDisk;
use proptest::prelude::*;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Arc;

fn memory() -> Db {
    Database::new(Store::memory(&options()).unwrap()).unwrap()
}

fn delete(db: &Db, key: &[u8]) -> Result<u64, Error> {
    db.delete(key, &WriteOptions::default())
}

fn get(db: &Db, key: &[u8]) -> Result<Vec<u8>, Error> {
    db.get(key, |view| view.value().to_vec())
}

/// Counts must be those of the model, and the live bytes of the device at least those of its records:
/// removals that have to be kept are live, too.
fn check_space(stats: &Stats, model: &Model) {
    let expected: u64 = model
        .iter()
        .map(|(k, v)| (32 + k.len() + v.len()).next_multiple_of(8) as u64)
        .sum();
    assert!(
        stats.used_bytes >= expected,
        "{stats:?} has less than {expected} live bytes"
    );
    assert_eq!(stats.records, model.len() as u64);
    assert_eq!(
        stats.key_bytes,
        model.keys().map(|k| k.len() as u64).sum::<u64>()
    );
    assert_eq!(
        stats.value_bytes,
        model.values().map(|v| v.len() as u64).sum::<u64>()
    );
}

#[derive(Clone, Debug)]
enum Op {
    Put(u16, usize),
    Delete(u16),
    Append(u16, usize),
    Patch(u16, u64, usize),
    Sync,
    Reopen,
    Purge,
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0u16..40;
    prop_oneof![
        8 => (key.clone(), prop_oneof![0usize..200, 0usize..5000]).prop_map(|(k, n)| Op::Put(k, n)),
        4 => key.clone().prop_map(Op::Delete),
        3 => (key.clone(), 0usize..300).prop_map(|(k, n)| Op::Append(k, n)),
        2 => (key, 0u64..400, 0usize..100).prop_map(|(k, o, n)| Op::Patch(k, o, n)),
        1 => Just(Op::Sync),
        1 => Just(Op::Reopen),
        1 => prop::bool::weighted(0.1).prop_map(|p| if p { Op::Purge } else { Op::Sync }),
    ]
}

fn key(n: u16) -> Vec<u8> {
    // Keys of many lengths, so that records have many sizes.
    let mut key = format!("key{n}").into_bytes();
    key.resize(key.len() + usize::from(n) * 7 % 90, b'.');
    key
}

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (seed.wrapping_mul(31).wrapping_add(at as u64) >> 2) as u8)
        .collect()
}

fn run(ops: Vec<Op>, disk: Option<MemoryDisk>) {
    let mut db = disk.as_ref().map_or_else(memory, open);
    let mut model = Model::new();
    let mut last_version = 0;
    let mut check_version = |version: u64| {
        assert!(version > last_version, "versions grow");
        last_version = version;
    };
    for (step, op) in ops.into_iter().enumerate() {
        match op {
            Op::Put(k, len) => {
                let value = bytes(step as u64, len);
                check_version(put(&db, &key(k), &value).unwrap());
                model.insert(key(k), value);
            }
            Op::Delete(k) => match (delete(&db, &key(k)), model.remove(&key(k))) {
                (Ok(version), Some(_)) => check_version(version),
                (Err(Error::NotFound), None) => {}
                (result, before) => panic!("{result:?} where {before:?} was"),
            },
            Op::Append(k, len) => {
                let tail = bytes(step as u64, len);
                let value = model.entry(key(k)).or_default();
                value.extend_from_slice(&tail);
                let updated = db
                    .update(&key(k), &tail, UpdateAt::Append, &WriteOptions::default())
                    .unwrap();
                check_version(updated.version);
                assert_eq!(updated.value_len as usize, value.len());
            }
            Op::Patch(k, offset, len) => {
                let data = bytes(step as u64, len);
                let value = model.entry(key(k)).or_default();
                let end = offset as usize + len;
                if value.len() < end {
                    value.resize(end, 0);
                }
                value[offset as usize..end].copy_from_slice(&data);
                db.update(
                    &key(k),
                    &data,
                    UpdateAt::Offset(offset),
                    &WriteOptions::default(),
                )
                .map(|updated| check_version(updated.version))
                .unwrap();
            }
            Op::Sync => {
                db.sync().unwrap();
            }
            Op::Purge => {
                db.purge().unwrap();
                model.clear();
            }
            Op::Reopen => {
                if let Some(disk) = &disk {
                    assert_eq!(db.close(), 0);
                    db = open(disk);
                }
            }
        }
    }
    assert_eq!(all(&db), model);
    for n in 0..40 {
        let expected = model.get(&key(n)).cloned().ok_or(Error::NotFound);
        assert_eq!(get(&db, &key(n)), expected);
    }
    if disk.is_some() {
        db.sync().unwrap();
        check_space(&db.stats(), &model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn memory_store_behaves_like_a_map(ops in prop::collection::vec(op(), 1..300)) {
        run(ops, None);
    }

    #[test]
    fn store_on_a_device_behaves_like_a_map_across_restarts(
        ops in prop::collection::vec(op(), 1..600),
    ) {
        run(ops, Some(MemoryDisk::new(1 << 20)));
    }
}

#[test]
fn conditions_hold_or_refuse() {
    let db = memory();
    let create = WriteOptions {
        create: true,
        ..Default::default()
    };
    let replace = WriteOptions {
        replace: true,
        ..Default::default()
    };
    let version = |v| WriteOptions {
        expected_version: Some(v),
        ..Default::default()
    };
    assert_eq!(put_with(&db, b"k", b"1", &replace), Err(Error::NotFound));
    assert_eq!(put_with(&db, b"k", b"1", &version(1)), Err(Error::NotFound));
    let first = put_with(&db, b"k", b"1", &create).unwrap();
    assert_eq!(put_with(&db, b"k", b"2", &create), Err(Error::Exists));
    let second = put_with(&db, b"k", b"2", &version(first)).unwrap();
    assert_eq!(
        put_with(&db, b"k", b"3", &version(first)),
        Err(Error::VersionMismatch)
    );
    assert_eq!(
        db.delete(b"k", &version(first)),
        Err(Error::VersionMismatch)
    );
    assert_eq!(get(&db, b"k").unwrap(), b"2");
    db.delete(b"k", &version(second)).unwrap();
    assert_eq!(get(&db, b"k"), Err(Error::NotFound));
    let both = WriteOptions {
        create: true,
        replace: true,
        ..Default::default()
    };
    assert_eq!(put_with(&db, b"k", b"1", &both), Err(Error::Invalid));
}

#[test]
fn bounds_of_keys_and_values() {
    let db = memory();
    assert!(matches!(Staged::new(0, 0), Err(Error::KeyLength)));
    assert!(matches!(Staged::new(1025, 0), Err(Error::KeyLength)));
    assert!(matches!(
        Staged::new(1, (1 << 20) + 1),
        Err(Error::ValueTooLong)
    ));
    assert_eq!(get(&db, &[7; 1025]), Err(Error::KeyLength));
    let (key, value) = (vec![1; 1024], vec![2; 1 << 20]);
    put(&db, &key, &value).unwrap();
    assert_eq!(get(&db, &key).unwrap(), value);
    let at = UpdateAt::Append;
    let options = WriteOptions::default();
    assert_eq!(
        db.update(&key, b"x", at, &options),
        Err(Error::ValueTooLong)
    );
    let far = UpdateAt::Offset(u64::MAX);
    assert_eq!(
        db.update(b"k", b"x", far, &options),
        Err(Error::ValueTooLong)
    );
}

#[test]
fn an_expired_record_is_gone_on_time() {
    let db = memory();
    let now = hpkv_engine::sys::wall_ms();
    let past = WriteOptions {
        expires_ms: now - 1,
        ..Default::default()
    };
    let future = WriteOptions {
        expires_ms: now + 600_000,
        ..Default::default()
    };
    put_with(&db, b"past", b"1", &past).unwrap();
    put_with(&db, b"future", b"1", &future).unwrap();
    assert_eq!(get(&db, b"past"), Err(Error::NotFound));
    assert_eq!(delete(&db, b"past"), Err(Error::NotFound));
    assert_eq!(all(&db).len(), 1);
    assert_eq!(
        db.get(b"future", |view| view.expires_ms()),
        Ok(now + 600_000)
    );
    let create = WriteOptions {
        create: true,
        ..Default::default()
    };
    put_with(&db, b"past", b"2", &create).unwrap();
    assert_eq!(get(&db, b"past").unwrap(), b"2");
}

#[test]
fn a_scan_resumes_where_it_stopped_and_ends_with_the_database() {
    let db = memory();
    let mut model = Model::new();
    for n in 0..1000u32 {
        let key = (n.wrapping_mul(2_654_435_761)).to_be_bytes();
        put(&db, &key, b"v").unwrap();
        model.insert(key.to_vec(), b"v".to_vec());
    }
    let (low, high) = (vec![40u8], vec![200u8]);
    let mut found = Vec::new();
    let (mut start, mut after, mut cursor) = (low.clone(), false, 0);
    loop {
        let mut left = 7;
        let request = ScanRequest {
            start: &start,
            after,
            end: &high,
            cursor,
        };
        let end = db
            .scan(&request, |view| {
                found.push(view.key().to_vec());
                left -= 1;
                Ok(left > 0)
            })
            .unwrap();
        if !end.more {
            break;
        }
        (start, after, cursor) = (found.last().unwrap().clone(), true, end.cursor);
    }
    let range = (Bound::Included(low), Bound::Excluded(high.clone()));
    assert_eq!(
        found,
        model
            .range(range)
            .map(|(k, _)| k.clone())
            .collect::<Vec<_>>()
    );
    db.purge().unwrap();
    let request = ScanRequest {
        start: &start,
        after,
        end: &high,
        cursor,
    };
    assert_eq!(db.scan(&request, |_| Ok(true)), Err(Error::Stale));
}

#[test]
fn a_small_device_is_overwritten_for_ever() {
    let disk = MemoryDisk::new(4 << 20);
    let db = open(&disk);
    let mut model = Model::new();
    // Half the device live, overwritten thirty times.
    for round in 0..60_000u64 {
        let n = (round.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) % 1000;
        let value = bytes(round, 1900);
        put(&db, &n.to_be_bytes(), &value).unwrap();
        model.insert(n.to_be_bytes().to_vec(), value);
    }
    assert_eq!(all(&db), model);
    db.sync().unwrap();
    let stats = db.stats();
    check_space(&stats, &model);
    let written = stats.written_bytes as f64 / stats.payload_bytes as f64;
    println!(
        "write amplification {written:.2} at {} of {}",
        stats.used_bytes,
        4 << 20
    );
    assert!(stats.compactions > 10);
    assert_eq!(db.close(), 0);
    assert_eq!(all(&open(&disk)), model);
}

#[test]
fn a_full_device_refuses_new_data_and_takes_it_after_removals() {
    let disk = MemoryDisk::new(2 << 20);
    let db = open(&disk);
    let mut model = Model::new();
    for cycle in 0..3u64 {
        let mut n = 0u64;
        let refused = loop {
            let key = (cycle << 32 | n).to_be_bytes();
            let value = bytes(n, 700);
            match put(&db, &key, &value) {
                Ok(_) => model.insert(key.to_vec(), value),
                Err(error) => break error,
            };
            n += 1;
        };
        assert_eq!(refused, Error::NoSpace);
        assert_eq!(all(&db), model);
        // An overwrite of the same size needs nothing new.
        let (key, value) = model.pop_first().unwrap();
        put(&db, &key, &value).unwrap();
        model.insert(key, value);
        for key in model.keys().cloned().collect::<Vec<_>>() {
            delete(&db, &key).unwrap();
            model.remove(&key);
        }
        assert_eq!(all(&db), model);
    }
    assert_eq!(db.close(), 0);
    assert_eq!(all(&open(&disk)), model);
}

#[test]
fn removals_do_not_fill_the_device() {
    let disk = MemoryDisk::new(1 << 20);
    let db = open(&disk);
    put(&db, b"old and cold", b"v").unwrap();
    for n in 0..100_000u64 {
        put(&db, &n.to_be_bytes(), b"").unwrap();
        delete(&db, &n.to_be_bytes()).unwrap();
    }
    assert_eq!(all(&db).len(), 1);
    assert_eq!(db.close(), 0);
    assert_eq!(all(&open(&disk)).len(), 1);
}

#[test]
fn large_records_fill_and_turn_over_a_device() {
    let disk = MemoryDisk::new(16 << 20);
    let db = open(&disk);
    let mut model = Model::new();
    for round in 0..200u64 {
        let key = (round % 7).to_be_bytes();
        let value = bytes(round, (1 << 20) - (round as usize % 5) * 100_000);
        put(&db, &key, &value).unwrap();
        model.insert(key.to_vec(), value);
    }
    assert_eq!(all(&db), model);
    assert_eq!(db.close(), 0);
    assert_eq!(all(&open(&disk)), model);
}

#[test]
fn a_failing_device_makes_the_store_read_only_and_says_what_is_lost() {
    let disk = MemoryDisk::new(4 << 20);
    let db = open(&disk);
    put(&db, b"before", b"1").unwrap();
    db.sync().unwrap();
    disk.fail_after(0);
    let sync = WriteOptions {
        durability: Durability::Sync,
        ..Default::default()
    };
    assert_eq!(put_with(&db, b"after", b"2", &sync), Err(Error::Io));
    assert_eq!(put(&db, b"later", b"3"), Err(Error::ReadOnly));
    assert_eq!(delete(&db, b"before"), Err(Error::ReadOnly));
    assert_eq!(get(&db, b"before").unwrap(), b"1");
    let stats = db.stats();
    assert!(stats.failed && stats.read_only && stats.errors > 0);
    assert_eq!(db.close(), 1);
}

/// One record large enough to wake the log writer by itself was once left in the buffer for ever,
/// because waking it and noting that there is something to write were one condition.
#[test]
fn a_large_first_record_reaches_the_device_without_being_asked_to() {
    let disk = MemoryDisk::new(16 << 20);
    let db = open(&disk);
    put(&db, b"large", &vec![1; 1 << 20]).unwrap();
    let started = std::time::Instant::now();
    while db.stats().durable_version == 0 {
        assert!(
            started.elapsed().as_secs() < 20,
            "still not durable: {:?}",
            db.stats()
        );
        std::thread::yield_now();
    }
    put(&db, b"larger", &vec![1; 1 << 20]).unwrap();
    assert_eq!(db.close(), 0);
    assert_eq!(all(&open(&disk)).len(), 2);
}

#[test]
fn devices_that_are_not_ours_are_left_alone() {
    let open = |image: Vec<u8>, options: &Options| {
        let disk = MemoryDisk::from_image(image.clone());
        let result = Store::open(disk.clone(), options).map(|_| ());
        if result.is_err() {
            assert!(disk.image() == image, "a refused device was written to");
        }
        result
    };
    let mut foreign = vec![0; 4 << 20];
    foreign[(4 << 20) - 1] = 1;
    assert_eq!(open(foreign.clone(), &options()), Err(Error::NotOurs));
    let refuse = Options {
        initialize_if_empty: false,
        ..options()
    };
    assert_eq!(open(vec![0; 4 << 20], &refuse), Err(Error::Empty));
    assert_eq!(open(vec![0; 1 << 19], &options()), Err(Error::TooSmall));
    let force = Options {
        force_initialize: true,
        ..options()
    };
    assert_eq!(open(foreign, &force), Ok(()));

    let disk = MemoryDisk::new(4 << 20);
    let db = self::open(&disk);
    put(&db, b"k", b"v").unwrap();
    db.close();
    let image = disk.image();
    assert_eq!(
        open(image[..3 << 20].to_vec(), &options()),
        Err(Error::TooSmall)
    );
    let mut newer = image.clone();
    for unit in 0..2 {
        newer[unit * 4096 + 8] = 9;
        newer[unit * 4096 + 12..][..4].fill(0);
        let crc = hpkv_engine::sys::crc32c(0, &newer[unit * 4096..][..512]);
        newer[unit * 4096 + 12..][..4].copy_from_slice(&crc.to_le_bytes());
    }
    assert_eq!(open(newer, &options()), Err(Error::NewerFormat));
    let mut damaged = image.clone();
    damaged[100] ^= 1;
    damaged[4196] ^= 1;
    assert_eq!(open(damaged, &options()), Err(Error::Corrupt));
    // One superblock of two is enough.
    let mut half = image;
    half[100] ^= 1;
    assert_eq!(open(half, &options()), Ok(()));
}

#[test]
fn readers_and_writers_at_once_see_whole_values() {
    let disk = MemoryDisk::new(8 << 20);
    let db = Arc::new(open(&disk));
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (db, stop) = (db.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut found = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    for n in 0..500u64 {
                        let whole = db.get(&n.to_be_bytes(), |view| {
                            view.value().iter().all(|byte| *byte == view.value()[0])
                        });
                        match whole {
                            Ok(whole) => assert!(whole),
                            Err(error) => assert_eq!(error, Error::NotFound),
                        }
                        found += u64::from(whole.is_ok());
                    }
                }
                found
            })
        })
        .collect();
    let writers: Vec<_> = (0..3u64)
        .map(|writer| {
            let db = db.clone();
            std::thread::spawn(move || {
                for round in 0..20_000u64 {
                    let n = (round * 7 + writer * 131) % 500;
                    match round % 5 {
                        0 => drop(delete(&db, &n.to_be_bytes())),
                        _ => drop(put(&db, &n.to_be_bytes(), &[round as u8; 300]).unwrap()),
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    assert!(
        readers
            .into_iter()
            .map(|reader| reader.join().unwrap())
            .sum::<u64>()
            > 0
    );
    let before = all(&db);
    assert_eq!(db.close(), 0);
    assert_eq!(all(&open(&disk)), before);
}

#[test]
fn a_switch_under_load_puts_each_acknowledged_change_into_one_database() {
    let disks = [MemoryDisk::new(8 << 20), MemoryDisk::new(8 << 20)];
    let db = Arc::new(open(&disks[0]));
    let stop = Arc::new(AtomicBool::new(false));
    // Writers may be this far: the devices are small.
    let allowed = Arc::new(AtomicU32::new(0));
    let writers: Vec<_> = (0..3u64)
        .map(|writer| {
            let (db, stop, allowed) = (db.clone(), stop.clone(), allowed.clone());
            std::thread::spawn(move || {
                let mut n = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    if n >= u64::from(allowed.load(Ordering::Relaxed)) {
                        std::thread::yield_now();
                        continue;
                    }
                    put(&db, format!("{writer}-{n}").as_bytes(), b"v").unwrap();
                    n += 1;
                }
                n
            })
        })
        .collect();
    for turn in 1..100 {
        allowed.fetch_add(300, Ordering::Relaxed);
        db.switch(|| Store::open(disks[turn % 2].clone(), &options()))
            .unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let acknowledged: Vec<u64> = writers
        .into_iter()
        .map(|writer| writer.join().unwrap())
        .collect();
    db.close();
    let found: Vec<Model> = disks.iter().map(|disk| all(&open(disk))).collect();
    for (writer, count) in acknowledged.iter().enumerate() {
        for n in 0..*count {
            let key = format!("{writer}-{n}").into_bytes();
            let places = found
                .iter()
                .filter(|model| model.contains_key(&key))
                .count();
            assert_eq!(places, 1, "{writer}-{n}");
        }
    }
    let total: usize = found.iter().map(|model| model.len()).sum();
    assert_eq!(total as u64, acknowledged.iter().sum::<u64>());
}
