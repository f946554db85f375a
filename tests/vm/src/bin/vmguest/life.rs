// SPDX-License-Identifier: GPL-2.0
//! Loading and unloading.

use crate::dev::*;
use crate::kit::*;
use crate::sys;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(crate) fn rmmod_is_refused_while_the_device_is_open() {
    let module = Module::load("");
    let dev = Dev::open();
    fails_with(
        "rmmod",
        sys::module_unload("hpkv"),
        &[libc::EAGAIN, libc::EBUSY],
    );
    let (ok, text) = shell("/usr/sbin/rmmod hpkv");
    assert!(!ok && text.contains("in use"), "rmmod printed {text:?}");
    dev.put(b"k", b"still works").unwrap();
    assert_eq!(dev.get(b"k").unwrap(), b"still works");
    drop(dev);
    let stats = fs::File::open("/proc/hpkv_stats").unwrap();
    drop(stats);
    module.unload();
    assert!(!is_loaded());
    assert!(fs::metadata("/dev/hpkv").is_err() && fs::metadata("/proc/hpkv_stats").is_err());
}

pub(crate) fn rmmod_closes_its_clients_and_keeps_what_it_acknowledged() {
    let disk = Loop::new(40, 32 << 20);
    let parameters = format!("mount_path={} n=0", disk.path());
    for round in 0..5 {
        let module = Module::load(&parameters);
        let mut idle: Vec<Text> = (0..20).map(|_| Text::connect()).collect();
        let stop = AtomicBool::new(false);
        let acknowledged: Vec<u64> = std::thread::scope(|s| {
            let busy: Vec<_> = (0..4)
                .map(|t| {
                    s.spawn(move || {
                        let mut c = Text::connect();
                        let mut count = 0u64;
                        while let Ok(reply) =
                            c.try_ask(&format!("put r{round}-{t}-{count} v{count}"))
                        {
                            // The door may be closed politely before the end.
                            if reply != "ok" {
                                break;
                            }
                            count += 1;
                        }
                        count
                    })
                })
                .collect();
            let dev = Dev::open();
            wait_until("some writes", || dev.stat().puts > 200);
            drop(dev);
            module.unload();
            stop.store(true, Ordering::Relaxed);
            busy.into_iter().map(|b| b.join().unwrap()).collect()
        });
        for client in &mut idle {
            client
                .stream()
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            match client.line() {
                Ok(None) => {}
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {}
                other => panic!("an idle client after rmmod: {other:?}"),
            }
        }
        Text::try_connect(PORT).expect_err("nobody listens any more");
        let module = Module::load(&parameters);
        let dev = Dev::open();
        for (t, &count) in acknowledged.iter().enumerate() {
            for i in 0..count {
                let got = dev.get(format!("r{round}-{t}-{i}").as_bytes());
                assert_eq!(
                    got,
                    Ok(format!("v{i}").into_bytes()),
                    "acknowledged before rmmod"
                );
            }
        }
        drop(dev);
        module.unload();
    }
}

/// Pages that the allocator keeps at hand for each processor, in KiB: they are
/// free, but /proc/meminfo does not count them, and they are many megabytes
/// after a burst.
fn kept_per_processor() -> u64 {
    let text = fs::read_to_string("/proc/zoneinfo").unwrap();
    let counts = text.lines().filter_map(|l| l.trim().strip_prefix("count:"));
    counts.map(|n| n.trim().parse::<u64>().unwrap() * 4).sum()
}

/// What memory there is for programs, this one's own included, and how much
/// slab is in use for good, in KiB.
fn memory() -> (u64, u64) {
    // What is only cached is dropped, so that it does not look like a leak.
    let _ = fs::write("/proc/sys/vm/drop_caches", "3");
    (
        meminfo("MemAvailable") + meminfo("AnonPages") + kept_per_processor(),
        meminfo("SUnreclaim"),
    )
}

pub(crate) fn load_and_unload_under_load_leak_nothing() {
    let cycles: usize = dose(30, 200);
    let warm = cycles / 2;
    let disk = Loop::new(40, 32 << 20);
    // The file lies in memory: written in full now, it cannot grow later.
    shell_ok(&format!(
        "dd if=/dev/zero of={} bs=1M count=32 conv=notrunc",
        disk.backing_file()
    ));
    let parameters = format!("mount_path={} n=0", disk.path());
    let mut samples = Vec::new();
    for cycle in 0..cycles {
        let module = Module::load(&parameters);
        std::thread::scope(|s| {
            for t in 0..3 {
                s.spawn(move || {
                    let Ok(mut c) = Text::try_connect(PORT) else {
                        return;
                    };
                    let mut i = 0;
                    while c
                        .try_ask(&format!("put t{t}-{} some value {cycle}", i % 100))
                        .is_ok()
                        && c.try_ask(&format!("get t{t}-{}", i % 100)).is_ok()
                    {
                        i += 1;
                    }
                });
            }
            s.spawn(move || {
                let dev = Dev::open();
                for i in 0..200u32 {
                    dev.put(
                        &(i % 150).to_be_bytes(),
                        &vec![cycle as u8; i as usize * 20],
                    )
                    .unwrap();
                    if i % 50 == 49 {
                        dev.delete(&(i % 150).to_be_bytes()).unwrap();
                        dev.scan_all(b"", b"", 0).unwrap();
                    }
                }
            });
            let dev = Dev::open();
            wait_until("load from both interfaces", || {
                let stat = dev.stat();
                stat.clients == 3 && stat.puts > 250
            });
            drop(dev);
            module.unload();
        });
        // Memory goes back after grace periods and through per-processor
        // lists, so it is compared over many cycles, not between two.
        if cycle >= warm {
            samples.push(memory());
        }
    }
    let half = samples.len() / 2;
    let mean = |part: &[(u64, u64)], f: fn(&(u64, u64)) -> u64| {
        part.iter().map(f).sum::<u64>() as f64 / part.len() as f64
    };
    let (first, second) = samples.split_at(half);
    let lost = mean(first, |m| m.0) - mean(second, |m| m.0);
    let grown = mean(second, |m| m.1) - mean(first, |m| m.1);
    let step = half as f64;
    println!(
        "{cycles} cycles; over the last {}: MemAvailable {} -> {} KiB, SUnreclaim {} -> {} KiB; per cycle {:.1} KiB less available, {:.1} KiB more slab",
        samples.len(),
        samples[0].0,
        samples[samples.len() - 1].0,
        samples[0].1,
        samples[samples.len() - 1].1,
        lost / step,
        grown / step
    );
    // A leak of one record or one thread per cycle would be more than this.
    let noise = 400.0_f64;
    assert!(lost < noise.max(4.0 * step), "memory is lost: {samples:?}");
    assert!(
        grown < (2.0 * noise).max(2.0 * step),
        "slab grows: {samples:?}"
    );
}
