// SPDX-License-Identifier: GPL-2.0

//! What fails in the middle of something: memory, the device, and the end of the store itself.

mod common;

use common::{all, open, options, put, put_with, try_all, try_open, Model};
use hpkv_engine::engine::{Database, Durability, Error, Stats, Store, UpdateAt, WriteOptions};
use hpkv_engine::sys::{fail_allocation_after, MemoryDisk};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{mpsc, Arc};
use std::time::Duration;

fn synced() -> WriteOptions {
    WriteOptions {
        durability: Durability::Sync,
        ..Default::default()
    }
}

/// Runs `body` and fails if it takes longer than anything here may: something waits for ever.
fn in_time<R: Send + 'static>(what: String, body: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, wait) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let result = body();
        let _ = done.send(());
        result
    });
    if let Err(mpsc::RecvTimeoutError::Timeout) = wait.recv_timeout(Duration::from_secs(20)) {
        panic!("{what}: hangs");
    }
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Does `step` with its first, second, … allocation failing until it succeeds. `check` is called
/// after each failure.
fn until_memory<R>(
    what: &str,
    mut step: impl FnMut() -> Result<R, Error>,
    mut check: impl FnMut(),
) -> R {
    for nth in 0..10_000 {
        fail_allocation_after(Some(nth));
        let result = step();
        fail_allocation_after(None);
        match result {
            Ok(done) => return done,
            Err(error) => assert_eq!(error, Error::NoMemory, "{what}, allocation {nth}"),
        }
        check();
    }
    panic!("{what} allocates without end");
}

#[test]
fn a_request_without_memory_changes_nothing() {
    for disk in [None, Some(MemoryDisk::new(2 << 20))] {
        let db = match &disk {
            Some(disk) => open(disk),
            None => Database::new(Store::memory(&options()).unwrap()).unwrap(),
        };
        let mut model = Model::new();
        let key = |n: u64| format!("key {n}").into_bytes();
        let unconditional = WriteOptions::default();
        for n in 0..1200 {
            let before = db.stats();
            let unchanged = || {
                let after = db.stats();
                let seen = |stats: &Stats| (stats.version, stats.records, stats.value_bytes);
                assert_eq!(seen(&after), seen(&before));
            };
            match n % 4 {
                0..2 => {
                    let value = vec![n as u8; 50];
                    until_memory("put", || put(&db, &key(n), &value), unchanged);
                    model.insert(key(n), value);
                }
                2 => {
                    let at = UpdateAt::Append;
                    let update = || db.update(&key(n / 2), b"more", at, &unconditional);
                    until_memory("update", update, unchanged);
                    model.entry(key(n / 2)).or_default().extend(b"more");
                }
                _ => {
                    let delete = || db.delete(&key(n - 3), &unconditional);
                    until_memory("delete", delete, unchanged);
                    model.remove(&key(n - 3));
                }
            }
        }
        assert_eq!(until_memory("scan", || try_all(&db), || {}), model);
        db.sync().unwrap();
        assert_eq!(db.stats().pending_bytes, 0, "bytes that wait for nothing");
        assert_eq!(db.close(), 0);
        if let Some(disk) = &disk {
            assert_eq!(all(&open(disk)), model);
        }
    }
}

/// A store whose threads ran already was once given up without telling them to end.
#[test]
fn an_opening_without_memory_gives_everything_back() {
    in_time("opening without memory".into(), || {
        let disk = MemoryDisk::new(1 << 20);
        drop(until_memory("format", || try_open(&disk), || {}));
        let db = open(&disk);
        for n in 0..50u64 {
            put(&db, &n.to_be_bytes(), b"v").unwrap();
        }
        for n in 0..20u64 {
            db.delete(&n.to_be_bytes(), &WriteOptions::default())
                .unwrap();
        }
        let model = all(&db);
        db.sync().unwrap();
        // As after a power cut, so that the log has to be cut.
        let image = disk.crash(|_, _| false);
        let disk = MemoryDisk::from_image(image);
        let db = until_memory("recovery", || try_open(&disk), || {});
        assert_eq!(all(&db), model);
        assert_eq!(db.close(), 0);
    });
}

/// After a purge that failed half-way the store was once without threads and took changes all the
/// same, which nobody wrote.
#[test]
fn a_purge_without_memory_leaves_a_store_that_keeps_its_word() {
    in_time("purging without memory".into(), || {
        for nth in 0.. {
            let disk = MemoryDisk::new(1 << 20);
            let db = open(&disk);
            put_with(&db, b"before", b"1", &synced()).unwrap();
            fail_allocation_after(Some(nth));
            let purged = db.purge();
            let spared = fail_allocation_after(None);
            let after = put_with(&db, b"after", b"2", &synced());
            match purged {
                Ok(()) => assert_eq!(all(&db).len(), 1),
                // Nothing has been done to the device yet, so nothing may be different.
                Err(error) => {
                    assert_eq!(error, Error::NoMemory, "allocation {nth}");
                    assert_eq!(all(&db).len(), 2, "allocation {nth}");
                }
            }
            assert!(after.is_ok(), "allocation {nth}: {after:?}");
            let model = all(&db);
            assert_eq!(db.close(), 0, "allocation {nth}");
            assert_eq!(all(&open(&disk)), model, "allocation {nth}");
            if spared {
                return;
            }
        }
    });
}

/// A reader that found a record just as it was replaced, and its last reference dropped, was once
/// told that there is no such key.
#[test]
fn a_key_that_is_overwritten_all_the_time_is_always_there() {
    let db = Arc::new(Database::<MemoryDisk>::new(Store::memory(&options()).unwrap()).unwrap());
    put(&db, b"k", b"v").unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (db, stop) = (db.clone(), stop.clone());
        move || {
            while !stop.load(Ordering::Relaxed) {
                put(&db, b"k", b"v").unwrap();
            }
        }
    });
    let missed = (0..1_000_000)
        .filter(|_| db.get_shared(b"k").is_err())
        .count();
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    assert_eq!(missed, 0, "times that the key was not found");
}

/// Fills and overwrites a small device, synchronising now and then, until the device fails with
/// its request number `nth`.
fn fail_at(nth: i64) -> bool {
    let disk = MemoryDisk::new(1 << 20);
    let db = open(&disk);
    disk.fail_after(nth);
    let (mut current, mut durable) = (Model::new(), Model::new());
    // Every state since the last one that was acknowledged as durable.
    let mut since: Vec<Model> = vec![Model::new()];
    let mut failed = false;
    for n in 0..260u64 {
        let key = (n.wrapping_mul(7) % 90).to_be_bytes();
        let result = if n % 9 == 8 {
            let result = db.delete(&key, &WriteOptions::default());
            if result.is_ok() {
                current.remove(&key[..]);
            }
            result
        } else {
            let value = vec![n as u8; 5000];
            let result = put(&db, &key, &value);
            if result.is_ok() {
                current.insert(key.to_vec(), value);
            }
            result
        };
        match result {
            Ok(_) => since.push(current.clone()),
            Err(Error::NotFound | Error::NoSpace) => {}
            Err(Error::ReadOnly) => failed = true,
            Err(error) => panic!("request {nth}: {error:?}"),
        }
        if n % 16 == 15 {
            match db.sync() {
                Ok(_) => {
                    durable = current.clone();
                    since = vec![durable.clone()];
                }
                Err(Error::Io) => failed = true,
                Err(error) => panic!("request {nth}: {error:?}"),
            }
        }
        if failed {
            break;
        }
    }
    if failed {
        assert!(db.stats().read_only, "request {nth}");
        assert_eq!(
            put(&db, b"more", b"v"),
            Err(Error::ReadOnly),
            "request {nth}"
        );
        assert_eq!(all(&db), current, "request {nth}: reads go on");
    }
    let lost = db.close();
    if !failed && lost == 0 {
        durable = current.clone();
        since = vec![durable.clone()];
    }
    let image = disk.crash(|write, _| write % 3 == 0);
    let found = all(&open(&MemoryDisk::from_image(image)));
    assert!(
        since.contains(&found),
        "request {nth}: {} keys durable, {} found",
        durable.len(),
        found.len()
    );
    failed
}

#[test]
fn whichever_request_the_device_fails_nothing_hangs_and_nothing_durable_is_lost() {
    let mut nth = 0;
    while in_time(format!("failing request {nth}"), move || fail_at(nth)) {
        // Every one of the first, for these are the rarest, then some.
        nth += 1 + nth / 40;
    }
    assert!(nth > 100, "the workload makes {nth} requests only");
}
