// SPDX-License-Identifier: GPL-2.0
//! What a device keeps, and the switch between devices at run time.

use crate::dev::*;
use crate::kit::*;
use hpkv_vmtests::rng::{Rng, bytes_of, mix};
use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

const MIB: u64 = 1 << 20;

pub(crate) fn unload_and_load_keep_everything() {
    let disk = Loop::new(40, 64 * MIB);
    let parameters = format!("mount_path={} n=0", disk.path());
    let mut model: BTreeMap<Vec<u8>, (Vec<u8>, u64)> = BTreeMap::new();
    let mut rng = Rng::new(40);
    for round in 0..4u64 {
        let mut log = LogMark::new();
        let module = Module::load(&parameters);
        assert!(
            !log.ours().is_empty(),
            "loading a device is worth a line in dmesg"
        );
        let dev = Dev::open();
        let found: BTreeMap<Vec<u8>, (Vec<u8>, u64)> = dev
            .scan_all(b"", b"", 0)
            .unwrap()
            .into_iter()
            .map(|e| (e.key, (e.value, e.version)))
            .collect();
        assert!(
            found == model,
            "round {round}: {} records, expected {}",
            found.len(),
            model.len()
        );
        assert_eq!(dev.stat().records, model.len() as u64);
        let newest = model.values().map(|v| v.1).max().unwrap_or(0);
        assert!(dev.stat().version >= newest, "versions go on growing");
        for i in 0..1_500u64 {
            let key = mix(rng.below(700)).to_le_bytes()[..1 + (i % 8) as usize].to_vec();
            match rng.below(10) {
                0..2 => {
                    let expected = if model.remove(&key).is_some() {
                        Ok(())
                    } else {
                        Err(libc::ENOENT)
                    };
                    assert_eq!(dev.delete(&key).map(|_| ()), expected);
                }
                2..4 => {
                    let more = bytes_of(round * 10_000 + i, rng.below(3_000) as usize + 1);
                    let (version, len) = dev.append(&key, &more).unwrap();
                    let value = model.entry(key).or_default();
                    value.0.extend(&more);
                    value.1 = version;
                    assert_eq!(len as usize, value.0.len());
                }
                _ => {
                    let value = bytes_of(round * 10_000 + i, rng.below(6_000) as usize);
                    let version = dev.put(&key, &value).unwrap();
                    model.insert(key, (value, version));
                }
            }
        }
        // Text and shell are kept as well, without any sync.
        if round == 0 {
            assert_eq!(Text::connect().ask("put from-text kept too"), "ok");
            shell_ok("echo from-shell:kept > /dev/hpkv");
            for (key, value) in [
                (&b"from-text"[..], &b"kept too"[..]),
                (b"from-shell", b"kept"),
            ] {
                let got = dev.get_full(key).unwrap();
                assert_eq!(got.value, value);
                model.insert(key.to_vec(), (got.value, got.version));
            }
        }
        drop(dev);
        module.unload();
    }
}

pub(crate) fn a_purge_is_for_good() {
    let disk = Loop::new(40, 32 * MIB);
    let parameters = format!("mount_path={}", disk.path());
    let module = Module::load(&parameters);
    let dev = Dev::open();
    for i in 0..500u32 {
        dev.put(&i.to_be_bytes(), &[1; 2000]).unwrap();
    }
    dev.sync().unwrap();
    let before = dev.stat().version;
    dev.purge().unwrap();
    assert_eq!(dev.stat().records, 0);
    assert!(
        dev.put(b"after", b"1").unwrap() > before,
        "versions grow across a purge"
    );
    drop(dev);
    module.unload();
    let module = Module::load(&parameters);
    let dev = Dev::open();
    let keys: Vec<_> = dev
        .scan_all(b"", b"", 0)
        .unwrap()
        .into_iter()
        .map(|e| e.key)
        .collect();
    assert_eq!(
        keys,
        [b"after".to_vec()],
        "nothing from before the purge comes back"
    );
    drop(dev);
    module.unload();
}

pub(crate) fn buffered_writes_reach_the_device_within_the_flush_interval() {
    let disk = Loop::new(40, 32 * MIB);
    let _module = Module::load(&format!("mount_path={} flush_interval_ms=100", disk.path()));
    let dev = Dev::open();
    // The longest ones fill the write buffer all alone.
    for (i, len) in [1, 1, 5_000, 0, 1 << 20, 1 << 20, 1]
        .into_iter()
        .enumerate()
    {
        let version = dev.put(&i.to_be_bytes(), &vec![7; len]).unwrap();
        let start = Instant::now();
        wait_until("the flush", || dev.stat().durable_version >= version);
        let took = start.elapsed().as_millis();
        assert!(
            took < 3_000,
            "durable after {took} ms with flush_interval_ms=100"
        );
    }
}

pub(crate) fn durability_sync_holds_for_every_interface() {
    let disk = Loop::new(40, 32 * MIB);
    let parameters = format!(
        "mount_path={} durability=sync flush_interval_ms=60000 n=0",
        disk.path()
    );
    let _module = Module::load(&parameters);
    let dev = Dev::open();
    let durable = |what: &str| {
        let stat = dev.stat();
        assert_eq!(stat.durable_version, stat.version, "after {what}");
    };
    dev.put(b"a", b"1").unwrap();
    durable("PUT");
    dev.append(b"a", b"2").unwrap();
    durable("UPDATE");
    dev.delete(b"a").unwrap();
    durable("DELETE");
    assert_eq!(Text::connect().ask("put b 1"), "ok");
    durable("put over TCP");
    shell_ok("echo c:1 > /dev/hpkv");
    durable("echo");
    set_parameter("durability", "buffered").unwrap();
    let version = dev.put(b"d", b"1").unwrap();
    assert!(
        dev.stat().durable_version < version,
        "buffered does not wait"
    );
    dev.put_with(
        b"e",
        b"1",
        Put {
            flags: SYNC,
            ..Put::default()
        },
    )
    .unwrap();
    durable("PUT with the flag");
}

pub(crate) fn loop_switches_at_run_time_and_keeps_the_old_one_on_errors() {
    let a = Loop::new(41, 32 * MIB);
    let b = Loop::new(42, 32 * MIB);
    let module = Module::load("loop=41 n=0");
    assert_eq!(parameter("loop"), "41");
    let dev = Dev::open();
    let mut client = Text::connect();
    assert_eq!(client.ask("put where a"), "ok");
    let page = dev.scan(b"", b"", 4096, Scan::default()).unwrap();
    shell_ok("echo 42 > /sys/module/hpkv/parameters/loop");
    assert_eq!(parameter("loop"), "42");
    assert_eq!(client.ask("get where"), "not found");
    let old = Scan {
        cursor: page.cursor,
        flags: SCAN_AFTER,
        ..Scan::default()
    };
    fails_with(
        "a cursor of the old one",
        dev.scan(b"a", b"", 4096, old),
        &[libc::ESTALE],
    );
    assert_eq!(client.ask("put where b"), "ok");
    // Errors of a switch: no such device, nothing behind it, not a number.
    fails_with(
        "loop=200",
        set_parameter("loop", "200"),
        &[libc::ENOENT, libc::ENODEV, libc::ENXIO],
    );
    fails_with("loop=junk", set_parameter("loop", "junk"), &[libc::EINVAL]);
    let held = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags_excl()
        .open(a.path())
        .expect("the old device is free again");
    fails_with(
        "a device in use",
        set_parameter("loop", "41"),
        &[libc::EBUSY],
    );
    drop(held);
    let ext4 = Loop::over(43, &format!("{PLACE}/ext4.img"), 0, 0, false);
    let before = ext4.checksum();
    fails_with(
        "a device of ext4",
        set_parameter("loop", "43"),
        &[libc::EMEDIUMTYPE],
    );
    assert_eq!(ext4.checksum(), before);
    assert_eq!(parameter("loop"), "42");
    assert_eq!(
        client.ask("get where"),
        "b",
        "the old database goes on after failed switches"
    );
    set_parameter("loop", "41").unwrap();
    assert_eq!(client.ask("get where"), "a");
    set_parameter("loop", "41").expect("a switch to the active one changes nothing");
    assert_eq!(client.ask("get where"), "a");
    drop((dev, client));
    module.unload();
    let module = Module::load(&format!("mount_path={}", b.path()));
    assert_eq!(Dev::open().get(b"where").unwrap(), b"b");
    assert_eq!(
        parameter("loop"),
        "42",
        "the active loop device, however it was named"
    );
    module.unload();
}

trait ExclusiveOpen {
    fn custom_flags_excl(&mut self) -> &mut Self;
}

impl ExclusiveOpen for std::fs::OpenOptions {
    fn custom_flags_excl(&mut self) -> &mut Self {
        std::os::unix::fs::OpenOptionsExt::custom_flags(self, libc::O_EXCL)
    }
}

/// An acknowledged write: when it began and ended, in switches.
struct Acknowledged {
    value: Vec<u8>,
    /// Databases that were active at some moment of the request.
    databases: Vec<usize>,
}

pub(crate) fn switches_under_load_lose_and_double_nothing() {
    const DATABASES: usize = 4;
    let switches: usize = dose(80, 200);
    let loops: Vec<Loop> = (0..DATABASES)
        .map(|i| Loop::new(41 + i as u32, 64 * MIB))
        .collect();
    let module = Module::load("loop=41 n=0");
    // The number of switches begun and ended. Switch i goes to database
    // (i + 1) % DATABASES; before the first one, database 0 is active.
    let begun = AtomicU64::new(0);
    let ended = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let acknowledged: Mutex<HashMap<Vec<u8>, Acknowledged>> = Mutex::new(HashMap::new());
    let stale = AtomicU64::new(0);
    let start = Instant::now();
    // A request that began after `low` switches had ended and ended before
    // more than `high` had begun ran on one of these.
    let possible = |low: u64, high: u64| -> Vec<usize> {
        (low..=high)
            .map(|i| (i % DATABASES as u64) as usize)
            .collect()
    };
    std::thread::scope(|s| {
        for t in 0..3u64 {
            let (begun, ended, stop, acknowledged, stale) =
                (&begun, &ended, &stop, &acknowledged, &stale);
            s.spawn(move || {
                let dev = Dev::open();
                let mut i = 0;
                while !stop.load(Ordering::Relaxed) {
                    if i >= 6 * (begun.load(Ordering::SeqCst) + ended.load(Ordering::SeqCst) + 1) {
                        // Enough for this database: else loading it would be all there is.
                        std::thread::sleep(std::time::Duration::from_micros(200));
                        continue;
                    }
                    let key = format!("ioctl-{t}-{i}").into_bytes();
                    let value = bytes_of(t << 32 | i, (i % 900) as usize);
                    let low = ended.load(Ordering::SeqCst);
                    let flags = if i % 16 == 0 { SYNC } else { 0 };
                    dev.put_with(
                        &key,
                        &value,
                        Put {
                            flags,
                            ..Put::default()
                        },
                    )
                    .unwrap_or_else(|e| panic!("PUT during a switch: {}", name_of(e)));
                    let high = begun.load(Ordering::SeqCst);
                    match dev.get(&key) {
                        Ok(got) => assert!(got == value, "GET returns another value"),
                        // The database may have been changed since.
                        Err(libc::ENOENT) if begun.load(Ordering::SeqCst) > low => {}
                        Err(e) => panic!("GET during a switch: {}", name_of(e)),
                    }
                    let databases = possible(low, high);
                    acknowledged
                        .lock()
                        .unwrap()
                        .insert(key, Acknowledged { value, databases });
                    i += 1;
                    if i % 64 == 0 {
                        match dev.scan_all(b"ioctl-0", b"ioctl-0-5", SCAN_KEYS_ONLY) {
                            Ok(_) => {}
                            Err(libc::ESTALE) => {
                                stale.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(e) => panic!("SCAN during a switch: {}", name_of(e)),
                        }
                    }
                }
            });
        }
        for t in 0..4u64 {
            let (begun, ended, stop, acknowledged) = (&begun, &ended, &stop, &acknowledged);
            s.spawn(move || {
                let mut client = Text::connect();
                let mut i = 0;
                while !stop.load(Ordering::Relaxed) {
                    if i >= 3 * (begun.load(Ordering::SeqCst) + ended.load(Ordering::SeqCst) + 1) {
                        std::thread::sleep(std::time::Duration::from_micros(200));
                        continue;
                    }
                    let key = format!("text-{t}-{i}");
                    let value = format!("value-{t}-{i}");
                    let low = ended.load(Ordering::SeqCst);
                    assert_eq!(client.ask(&format!("put {key} {value}")), "ok");
                    let high = begun.load(Ordering::SeqCst);
                    let got = client.ask(&format!("get {key}"));
                    assert!(got == value || got == "not found", "{got}");
                    let databases = possible(low, high);
                    let written = Acknowledged {
                        value: value.into_bytes(),
                        databases,
                    };
                    acknowledged
                        .lock()
                        .unwrap()
                        .insert(key.into_bytes(), written);
                    i += 1;
                }
            });
        }
        for i in 0..switches {
            let number = 41 + (i + 1) % DATABASES;
            begun.fetch_add(1, Ordering::SeqCst);
            let result = set_parameter("loop", &number.to_string());
            if let Err(e) = result {
                stop.store(true, Ordering::Relaxed);
                panic!("switch {i} to /dev/loop{number}: {}", name_of(e));
            }
            ended.fetch_add(1, Ordering::SeqCst);
            // Each database gets something to hold.
            let before = acknowledged.lock().unwrap().len();
            wait_until("writes between two switches", || {
                acknowledged.lock().unwrap().len() > before
            });
        }
        stop.store(true, Ordering::Relaxed);
    });
    module.unload();
    let acknowledged = acknowledged.into_inner().unwrap();
    let mut found: HashMap<Vec<u8>, Vec<(usize, Vec<u8>)>> = HashMap::new();
    for (i, disk) in loops.iter().enumerate() {
        let module = Module::load(&format!("mount_path={}", disk.path()));
        for entry in Dev::open().scan_all(b"", b"", 0).unwrap() {
            found.entry(entry.key).or_default().push((i, entry.value));
        }
        module.unload();
    }
    let sure = acknowledged
        .values()
        .filter(|a| a.databases.len() == 1)
        .count();
    println!(
        "{switches} switches in {:.1} s, {} acknowledged writes, {sure} of them not across a switch, {} stale scans",
        start.elapsed().as_secs_f64(),
        acknowledged.len(),
        stale.load(Ordering::Relaxed)
    );
    assert!(sure > switches, "hardly a write went by without a switch");
    for (key, written) in &acknowledged {
        let name = String::from_utf8_lossy(key);
        let places = found.remove(key).unwrap_or_default();
        assert_eq!(places.len(), 1, "{name} is in {} databases", places.len());
        let (database, value) = &places[0];
        assert!(*value == written.value, "{name} has another value");
        assert!(
            written.databases.contains(database),
            "{name} is in database {database}, active were {:?}",
            written.databases
        );
    }
    assert!(
        found.is_empty(),
        "{} records that nobody wrote",
        found.len()
    );
}
