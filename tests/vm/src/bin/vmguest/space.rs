// SPDX-License-Identifier: GPL-2.0
//! Small devices, full devices, slow devices.

use crate::dev::*;
use crate::kit::*;
use crate::sys;
use hpkv_vmtests::rng::{Rng, bytes_of};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

pub(crate) fn a_small_device_is_overwritten_for_ever() {
    const KEYS: u64 = 2_048;
    // With its key, each record is a little less than 4 KiB: 8 MiB are live.
    const LEN: usize = 4_056;
    let total: u64 = dose(128 * MIB, 1024 * MIB);
    let disk = Loop::new(40, 16 * MIB);
    let parameters = format!("mount_path={}", disk.path());
    let module = Module::load(&parameters);
    let dev = Dev::open();
    let mut newest = vec![0u64; KEYS as usize];
    let mut rng = Rng::new(5);
    let writes = total / (LEN as u64 + 8);
    let start = Instant::now();
    for i in 0..KEYS + writes {
        let key = if i < KEYS { i } else { rng.below(KEYS) };
        newest[key as usize] = i;
        let value = bytes_of(i, LEN);
        dev.put(&key.to_be_bytes(), &value).unwrap_or_else(|e| {
            panic!(
                "write {i} of {}: {}, {:#?}",
                KEYS + writes,
                name_of(e),
                dev.stat()
            )
        });
    }
    dev.sync().unwrap();
    let stat = dev.stat();
    println!(
        "{} MiB written over 8 MiB live on 16 MiB in {:.1} s: write amplification {:.2} ({} of payload, {} relocated, {} compactions)",
        total / MIB,
        start.elapsed().as_secs_f64(),
        stat.written_bytes as f64 / stat.payload_bytes as f64,
        stat.payload_bytes,
        stat.relocated_bytes,
        stat.compactions
    );
    assert!(
        stat.compactions > 0,
        "this cannot have gone without compaction"
    );
    assert!(stat.payload_bytes >= total / 2);
    assert_eq!(stat.records, KEYS);
    let check = |dev: &Dev| {
        for (key, &i) in newest.iter().enumerate() {
            assert!(
                dev.get(&(key as u64).to_be_bytes()) == Ok(bytes_of(i, LEN)),
                "key {key}"
            );
        }
    };
    check(&dev);
    drop(dev);
    module.unload();
    let module = Module::load(&parameters);
    let dev = Dev::open();
    check(&dev);
    assert_eq!(dev.stat().records, KEYS);
    drop(dev);
    module.unload();
}

pub(crate) fn a_full_device_reads_deletes_and_recovers_its_space() {
    let disk = Loop::new(40, 16 * MIB);
    let parameters = format!("mount_path={} n=0", disk.path());
    let module = Module::load(&parameters);
    let dev = Dev::open();
    let len = |i: u64| 500 + (i % 5) as usize * 1_700;
    let mut count = 0u64;
    for round in 0..3 {
        let full = loop {
            match dev.put(&count.to_be_bytes(), &bytes_of(count, len(count))) {
                Ok(_) => count += 1,
                Err(e) => break e,
            }
            assert!(count < 20_000, "16 MiB hold less than this");
        };
        assert_eq!(full, libc::ENOSPC, "{}", name_of(full));
        let live: u64 = (0..count).map(|i| len(i) as u64 + 8).sum();
        println!("round {round}: full with {count} records of {live} bytes in all");
        assert!(live > 9 * MIB, "a 16 MiB device is full with {live} bytes");
        assert!(
            Text::connect()
                .ask(&format!("put big {}", "x".repeat(500_000)))
                .starts_with("error: ")
        );
        fails_with("get", dev.get(b"big"), &[libc::ENOENT]);
        // A full store is read, scanned and synced as before.
        for i in 0..count {
            assert!(
                dev.get(&i.to_be_bytes()) == Ok(bytes_of(i, len(i))),
                "key {i}"
            );
        }
        assert_eq!(
            dev.scan_all(b"", b"", SCAN_KEYS_ONLY).unwrap().len() as u64,
            count
        );
        dev.sync().unwrap();
        // It can be emptied, and takes new data again.
        let keep = count / 2;
        for i in keep..count {
            dev.delete(&i.to_be_bytes()).unwrap_or_else(|e| {
                panic!(
                    "delete {i} of {count} on a full device: {}, {:#?}",
                    name_of(e),
                    dev.stat()
                )
            });
        }
        count = keep;
        wait_until("room for new data", || {
            match dev.put(b"room", &[1; 200_000]) {
                Ok(_) => true,
                Err(libc::ENOSPC) => false,
                Err(e) => panic!("{}", name_of(e)),
            }
        });
        dev.delete(b"room").unwrap();
        let stat = dev.stat();
        assert_eq!(stat.state & STATE_READ_ONLY, 0, "{stat:#?}");
        assert_eq!((stat.records, stat.errors), (count, 0));
    }
    // Everything goes, to the last key, and all of the room comes back.
    while count > 0 {
        count -= 1;
        dev.delete(&count.to_be_bytes()).unwrap();
    }
    dev.sync().unwrap();
    wait_until("8 MiB of room", || {
        for i in 0..8 {
            match dev.put(&[b'r', i], &vec![1; 1 << 20]) {
                Ok(_) => {}
                Err(libc::ENOSPC) => return false,
                Err(e) => panic!("{}", name_of(e)),
            }
        }
        true
    });
    drop(dev);
    module.unload();
    let module = Module::load(&parameters);
    assert_eq!(Dev::open().stat().records, 8);
    module.unload();
}

/// Sets the table of the slow device: `delay_ms` for reads, writes and flushes.
fn set_delay(disk: &Loop, bytes: u64, delay_ms: u32, create: bool) {
    let delay = format!("delay {} 0 {delay_ms}", disk.path());
    set_table(bytes, &delay, create);
}

/// Makes the device-mapper device of a test, or puts another target below it.
fn set_table(bytes: u64, target: &str, create: bool) {
    let table = format!("0 {} {target}", bytes / 512);
    if create {
        shell_ok(&format!(
            "echo '{table}' | dmsetup create --noudevsync slow"
        ));
        wait_until("the slow device", || {
            shell("dmsetup mknodes slow 2>/dev/null");
            std::fs::metadata("/dev/mapper/slow").is_ok()
        });
    } else {
        shell_ok(&format!("echo '{table}' | dmsetup load slow"));
        shell_ok("dmsetup suspend --noflush --nolockfs slow && dmsetup resume --noudevsync slow");
    }
}

/// Removes the slow device and the node that nobody else removes here.
pub(crate) fn remove_slow() {
    shell("dmsetup remove --force --noudevsync slow");
    let _ = std::fs::remove_file("/dev/mapper/slow");
}

pub(crate) fn no_get_waits_for_a_slow_disk() {
    const DELAY_MS: u32 = 200;
    const OLD_KEYS: u64 = 1_000;
    let bytes = 16 * MIB;
    let seconds = dose(8, 60);
    let disk = Loop::new(40, bytes);
    shell("modprobe dm-delay");
    set_delay(&disk, bytes, 0, true);
    let module = Module::load("mount_path=/dev/mapper/slow flush_interval_ms=100");
    let dev = Dev::open();
    let value = |i: u64| bytes_of(i, 4_000);
    for i in 0..OLD_KEYS {
        dev.put(&i.to_be_bytes(), &value(i)).unwrap();
    }
    // Overwritten until compaction has something to do.
    let mut filled = 0u64;
    while dev.stat().compactions == 0 && filled < 40_000 {
        dev.put(&((1u64 << 40) | (filled % 300)).to_be_bytes(), &[2; 4_000])
            .unwrap();
        filled += 1;
    }
    dev.sync().unwrap();
    set_delay(&disk, bytes, DELAY_MS, false);
    let before = dev.stat();
    let stop = AtomicBool::new(false);
    let stop = &stop;
    let (gets, long, longest_us, sleeps) = (
        AtomicU64::new(0),
        AtomicU64::new(0),
        AtomicU64::new(0),
        AtomicU64::new(0),
    );
    let slow_sync = std::thread::scope(|s| {
        s.spawn(|| {
            let dev = Dev::open();
            let mut room = vec![0u8; 8192];
            let thread = sys::thread_id();
            let mut rng = Rng::new(6);
            let slept = sleeps_of(thread);
            while !stop.load(Ordering::Relaxed) {
                let i = rng.below(OLD_KEYS);
                let key = i.to_be_bytes();
                let mut arg = Get {
                    key: key.as_ptr() as u64,
                    key_len: 8,
                    value: room.as_mut_ptr() as u64,
                    value_cap: 8192,
                    ..Get::default()
                };
                let start = Instant::now();
                dev.call(NR_GET, &mut arg).unwrap();
                let took = start.elapsed().as_micros() as u64;
                longest_us.fetch_max(took, Ordering::Relaxed);
                if took > 150_000 {
                    long.fetch_add(1, Ordering::Relaxed);
                }
                if gets.fetch_add(1, Ordering::Relaxed) % 64 == 0 {
                    assert!(room[..4_000] == value(i), "a wrong value");
                }
            }
            sleeps.store(sleeps_of(thread) - slept, Ordering::Relaxed);
        });
        // The table grows, in memory as in the log.
        s.spawn(|| {
            let dev = Dev::open();
            let mut i = 0u64;
            while !stop.load(Ordering::Relaxed) {
                match dev.put(&(1u64 << 50 | i).to_be_bytes(), &[3; 40]) {
                    Ok(_) => i += 1,
                    Err(e) => panic!("PUT on a slow disk: {}", name_of(e)),
                }
                if i % 50 == 0 {
                    // Slow enough to leave the processor to others.
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        });
        // And compaction has to run.
        s.spawn(|| {
            let dev = Dev::open();
            let mut i = 0u64;
            while !stop.load(Ordering::Relaxed) {
                match dev.put(&((1u64 << 40) | (i % 300)).to_be_bytes(), &[4; 4_000]) {
                    Ok(_) => i += 1,
                    Err(libc::ENOSPC) => std::thread::sleep(Duration::from_millis(10)),
                    Err(e) => panic!("PUT on a slow disk: {}", name_of(e)),
                }
            }
        });
        let start = Instant::now();
        let mut slow_sync = Duration::ZERO;
        while start.elapsed() < Duration::from_secs(seconds)
            || dev.stat().compactions == before.compactions
        {
            assert!(
                start.elapsed() < Duration::from_secs(100),
                "no compaction on a slow disk"
            );
            let start = Instant::now();
            dev.sync().unwrap();
            slow_sync = slow_sync.max(start.elapsed());
            std::thread::sleep(Duration::from_millis(100));
        }
        stop.store(true, Ordering::Relaxed);
        slow_sync
    });
    let after = dev.stat();
    let gets = gets.into_inner();
    println!(
        "{gets} GETs, the longest {} us, {} over 150 ms, the reader slept {} times; meanwhile {} new records, {} flushes, {} compactions, the longest SYNC {slow_sync:?}",
        longest_us.load(Ordering::Relaxed),
        long.load(Ordering::Relaxed),
        sleeps.load(Ordering::Relaxed),
        after.records - before.records,
        after.flushes - before.flushes,
        after.compactions - before.compactions
    );
    assert!(
        slow_sync >= Duration::from_millis(u64::from(DELAY_MS)),
        "the disk is not slow"
    );
    assert!(after.flushes > before.flushes && after.compactions > before.compactions);
    assert!(
        after.records > before.records + 500,
        "the table did not grow"
    );
    assert!(gets > 1_000);
    // Sleeping is what waiting for a disk is; reading /proc may cost one.
    assert!(sleeps.load(Ordering::Relaxed) <= 2, "GETs went to sleep");
    assert_eq!(
        long.load(Ordering::Relaxed),
        0,
        "GETs took longer than 150 ms"
    );
    set_delay(&disk, bytes, 0, false);
    drop(dev);
    module.unload();
    remove_slow();
}

pub(crate) fn a_writer_that_waits_for_room_can_be_interrupted() {
    let bytes = 64 * MIB;
    let disk = Loop::new(40, bytes);
    shell("modprobe dm-delay");
    set_delay(&disk, bytes, 0, true);
    let module = Module::load("mount_path=/dev/mapper/slow");
    let dev = Dev::open();
    dev.put(b"k", b"v").unwrap();
    set_delay(&disk, bytes, 1_500, false);
    // A process of its own writes until the buffer is full; SIGKILL must end
    // it before the disk has taken everything.
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .arg("fill")
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_until("a full write buffer", || {
        let a = dev.stat().version;
        std::thread::sleep(Duration::from_millis(100));
        dev.stat().pending_bytes > MIB && dev.stat().version == a
    });
    let start = Instant::now();
    child.kill().unwrap();
    child.wait().unwrap();
    println!("a blocked writer died after {:?}", start.elapsed());
    set_delay(&disk, bytes, 0, false);
    dev.sync().unwrap();
    drop(dev);
    module.unload();
    remove_slow();
}

pub(crate) fn a_failed_device_turns_the_store_read_only_and_loses_nothing_durable() {
    let bytes = 32 * MIB;
    let disk = Loop::new(40, bytes);
    let healthy = format!("linear {} 0", disk.path());
    set_table(bytes, &healthy, true);
    let parameters = "mount_path=/dev/mapper/slow n=0 flush_interval_ms=60000";
    let module = Module::load(parameters);
    let dev = Dev::open();
    for i in 0..200u32 {
        dev.put(&i.to_be_bytes(), &bytes_of(u64::from(i), 1_000))
            .unwrap();
    }
    dev.sync().unwrap();
    dev.put(b"buffered", b"not on the device yet").unwrap();
    let mut log = LogMark::new();
    set_table(bytes, "error", false);
    let sync = Put {
        flags: SYNC,
        ..Put::default()
    };
    fails_with(
        "PUT with SYNC",
        dev.put_with(b"k", b"v", sync),
        &[libc::EIO],
    );
    wait_until("the store to give up", || {
        dev.stat().state & STATE_READ_ONLY != 0
    });
    let stat = dev.stat();
    assert!(
        stat.state & STATE_FAILED != 0 && stat.errors > 0,
        "{stat:#?}"
    );
    fails_with("PUT", dev.put(b"k2", b"v"), &[libc::EROFS]);
    fails_with("DELETE", dev.delete(&1u32.to_be_bytes()), &[libc::EROFS]);
    fails_with("SYNC", dev.sync(), &[libc::EIO, libc::EROFS]);
    assert!(Text::connect().ask("put k3 v").starts_with("error: "));
    // Reads go on, with what was acknowledged.
    for i in 0..200u32 {
        assert!(dev.get(&i.to_be_bytes()) == Ok(bytes_of(u64::from(i), 1_000)));
    }
    assert_eq!(dev.get(b"buffered").unwrap(), b"not on the device yet");
    drop(dev);
    module.unload();
    let lines = log.ours();
    assert!(lines.iter().any(|l| l.contains("read-only")), "{lines:#?}");
    assert!(
        lines.iter().any(|l| l.contains("lost")),
        "rmmod says what is lost: {lines:#?}"
    );
    println!("{}", lines.join(" | "));
    // The device comes back with what was durable.
    set_table(bytes, &healthy, false);
    let module = Module::load(parameters);
    let dev = Dev::open();
    for i in 0..200u32 {
        assert!(dev.get(&i.to_be_bytes()) == Ok(bytes_of(u64::from(i), 1_000)));
    }
    dev.put(b"k", b"v").unwrap();
    drop(dev);
    module.unload();
    remove_slow();
}

/// The writer of `a_writer_that_waits_for_room_can_be_interrupted`.
pub(crate) fn fill() {
    let dev = Dev::open();
    let mut i = 0u64;
    while dev.put(&i.to_be_bytes(), &[1; 60_000]).is_ok() {
        i = (i + 1) % 200;
    }
}
