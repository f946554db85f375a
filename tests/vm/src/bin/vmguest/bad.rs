// SPDX-License-Identifier: GPL-2.0
//! Bad input: each with a clear error and nothing changed.

use crate::dev::*;
use crate::kit::*;
use crate::sys;
use hpkv_vmtests::rng::{Rng, bytes_of};
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::Duration;

/// insmod must fail with one of the errnos and say something that holds
/// `word`; nothing of the module stays behind.
#[track_caller]
fn refused(parameters: &str, errnos: &[i32], word: &str) {
    let mut log = LogMark::new();
    fails_with(
        &format!("insmod {parameters}"),
        Module::try_load(parameters),
        errnos,
    );
    let lines = log.lines();
    let clear = lines
        .iter()
        .any(|l| l.starts_with("hpkv:") && l.contains(word));
    assert!(clear, "no line of dmesg tells of {word}: {lines:#?}");
    println!("{parameters}: {}", lines.join(" | "));
    assert!(!is_loaded() && fs::metadata("/dev/hpkv").is_err());
    Text::try_connect(PORT).expect_err("no listener stays behind");
}

pub(crate) fn a_missing_device_is_refused() {
    refused(
        "mount_path=/dev/nonexistent",
        &[libc::ENOENT, libc::ENODEV],
        "/dev/nonexistent",
    );
    refused(
        "loop=777",
        &[libc::ENOENT, libc::ENODEV, libc::ENXIO],
        "777",
    );
    // A loop device with nothing behind it.
    let empty = Loop::new(44, 1 << 20);
    detach(44);
    refused(
        &format!("mount_path={}", empty.path()),
        &[
            libc::ENXIO,
            libc::ENODEV,
            libc::ENOSPC,
            libc::EFBIG,
            libc::EINVAL,
        ],
        "loop44",
    );
}

pub(crate) fn a_regular_file_is_refused_untouched() {
    fs::write("/tmp/file", bytes_of(1, 3 << 20)).unwrap();
    refused("mount_path=/tmp/file", &[libc::ENOTBLK], "/tmp/file");
    assert!(fs::read("/tmp/file").unwrap() == bytes_of(1, 3 << 20));
    fs::remove_file("/tmp/file").unwrap();
    refused("mount_path=/tmp", &[libc::ENOTBLK, libc::EISDIR], "/tmp");
    refused("mount_path=/dev/null", &[libc::ENOTBLK], "/dev/null");
}

pub(crate) fn a_device_of_ext4_is_refused_untouched() {
    let disk = Loop::over(44, &format!("{PLACE}/ext4.img"), 0, 0, false);
    let before = disk.checksum();
    let parameters = format!("mount_path={}", disk.path());
    refused(&parameters, &[libc::EMEDIUMTYPE], "loop44");
    refused(
        &format!("{parameters} initialize_if_empty=1"),
        &[libc::EMEDIUMTYPE],
        "loop44",
    );
    assert_eq!(disk.checksum(), before);
    drop(disk);
    // Something at the very end only, as some RAID formats have it.
    let disk = Loop::new(44, 32 << 20);
    let file = OpenOptions::new()
        .write(true)
        .open(disk.backing_file())
        .unwrap();
    file.write_all_at(b"x", (32 << 20) - 1).unwrap();
    let before = disk.checksum();
    refused(&parameters, &[libc::EMEDIUMTYPE], "loop44");
    assert_eq!(disk.checksum(), before);
    // Only force_initialize takes it.
    let module = Module::load(&format!("{parameters} force_initialize=1"));
    Dev::open().put(b"k", b"v").unwrap();
    module.unload();
    let module = Module::load(&parameters);
    assert_eq!(Dev::open().get(b"k").unwrap(), b"v");
    module.unload();
}

pub(crate) fn an_empty_device_is_refused_if_asked() {
    let disk = Loop::new(44, 32 << 20);
    let before = disk.checksum();
    let parameters = format!("mount_path={}", disk.path());
    refused(
        &format!("{parameters} initialize_if_empty=0"),
        &[libc::ENOMEDIUM],
        "loop44",
    );
    assert_eq!(disk.checksum(), before);
    Module::load(&parameters).unload();
    Module::load(&format!("{parameters} initialize_if_empty=0")).unload();
}

pub(crate) fn a_truncated_device_is_refused_untouched() {
    let disk = Loop::new(44, 32 << 20);
    let parameters = format!("mount_path={}", disk.path());
    let module = Module::load(&parameters);
    let dev = Dev::open();
    for i in 0..5_000u32 {
        dev.put(&i.to_be_bytes(), &[1; 4_000]).unwrap();
    }
    drop(dev);
    module.unload();
    let path = disk.backing_file().to_string();
    let too_small = [
        libc::EUCLEAN,
        libc::ENXIO,
        libc::ENOSPC,
        libc::EFBIG,
        libc::EINVAL,
        libc::EIO,
    ];
    for len in [16 << 20, 3 << 20, 64 << 10, 4096] {
        let part = Loop::over(45, &path, 0, len, false);
        let before = part.checksum();
        refused(&format!("mount_path={}", part.path()), &too_small, "loop45");
        assert_eq!(part.checksum(), before);
    }
    // An empty one that is too small for anything.
    let tiny = Loop::new(46, 16 << 10);
    refused(&format!("mount_path={}", tiny.path()), &too_small, "loop46");
    // The whole one is as good as ever.
    let module = Module::load(&parameters);
    assert_eq!(Dev::open().stat().records, 5_000);
    module.unload();
}

pub(crate) fn damage_is_told_and_never_served() {
    let disk = Loop::new(44, 16 << 20);
    let parameters = format!("mount_path={}", disk.path());
    let module = Module::load(&parameters);
    let dev = Dev::open();
    for i in 0..2_000u32 {
        dev.put(&i.to_be_bytes(), &bytes_of(u64::from(i), 3_000))
            .unwrap();
    }
    dev.sync().unwrap();
    drop(dev);
    module.unload();
    let original = fs::read(disk.backing_file()).unwrap();
    let file = OpenOptions::new()
        .write(true)
        .open(disk.backing_file())
        .unwrap();
    let mut rng = Rng::new(8);
    let (mut refusals, mut whole) = (0, 0);
    for round in 0..12 {
        // Bits of several places, always in what was written and flushed.
        file.write_all_at(&original, 0).unwrap();
        let places = 1 + round % 3;
        for _ in 0..places {
            let at = rng.below(original.len() as u64) as usize;
            file.write_all_at(&[original[at] ^ (1 << rng.below(8))], at as u64)
                .unwrap();
        }
        // The page cache of the loop device may hold old blocks.
        drop(fs::File::open(disk.path()).unwrap());
        let _ = fs::write("/proc/sys/vm/drop_caches", "3");
        match Module::try_load(&parameters) {
            Ok(module) => {
                let dev = Dev::open();
                for i in 0..2_000u32 {
                    let got = dev.get(&i.to_be_bytes());
                    assert!(
                        got == Ok(bytes_of(u64::from(i), 3_000)),
                        "round {round}: key {i} is damaged or gone ({:?}), and nobody said so",
                        got.map(|v| v.len())
                    );
                }
                whole += 1;
                drop(dev);
                module.unload();
            }
            Err(errno) => {
                assert!(
                    [libc::EUCLEAN, libc::EIO].contains(&errno),
                    "{}",
                    name_of(errno)
                );
                refusals += 1;
            }
        }
    }
    println!("{refusals} refused, {whole} unharmed");
    assert!(refusals > 0, "no damage was noticed");
}

pub(crate) fn a_read_only_device_changes_nothing() {
    let disk = Loop::new(44, 32 << 20);
    let module = Module::load(&format!("mount_path={}", disk.path()));
    Dev::open().put(b"k", b"v").unwrap();
    module.unload();
    let read_only = Loop::over(45, disk.backing_file(), 0, 0, true);
    let before = read_only.checksum();
    let mut log = LogMark::new();
    match Module::try_load(&format!("mount_path={}", read_only.path())) {
        Ok(module) => {
            let dev = Dev::open();
            assert_eq!(dev.get(b"k").unwrap(), b"v");
            fails_with("PUT", dev.put(b"k", b"w"), &[libc::EROFS]);
            fails_with("DELETE", dev.delete(b"k"), &[libc::EROFS]);
            fails_with("PURGE", dev.purge(), &[libc::EROFS]);
            assert_eq!(dev.stat().state & STATE_READ_ONLY, STATE_READ_ONLY);
            drop(dev);
            module.unload();
        }
        Err(errno) => assert!(
            [libc::EROFS, libc::EACCES].contains(&errno),
            "{}",
            name_of(errno)
        ),
    }
    let lines = log.ours();
    assert!(lines.iter().any(|l| l.contains("read-only")), "{lines:#?}");
    assert_eq!(read_only.checksum(), before);
    // An empty one cannot be formatted.
    let empty = Loop::new(46, 32 << 20);
    let read_only = Loop::over(47, empty.backing_file(), 0, 0, true);
    refused(
        &format!("mount_path={}", read_only.path()),
        &[libc::EROFS, libc::EACCES],
        "loop47",
    );
}

pub(crate) fn a_port_in_use_is_refused() {
    let disk = Loop::new(44, 32 << 20);
    let parameters = format!("mount_path={}", disk.path());
    Module::load(&parameters).unload();
    let before = disk.checksum();
    let taken = std::net::TcpListener::bind(("127.0.0.1", PORT)).unwrap();
    let mut log = LogMark::new();
    fails_with("insmod", Module::try_load(&parameters), &[libc::EADDRINUSE]);
    let lines = log.ours();
    assert!(lines.iter().any(|l| l.contains("12345")), "{lines:#?}");
    assert!(!is_loaded());
    drop(taken);
    // Nothing changed but, perhaps, the count of loads.
    let module = Module::load(&parameters);
    assert_eq!(Dev::open().stat().records, 0);
    module.unload();
    let _ = before;
}

pub(crate) fn mount_path_and_loop_exclude_each_other() {
    let disk = Loop::new(44, 32 << 20);
    let before = disk.checksum();
    refused(
        &format!("mount_path={} loop=44", disk.path()),
        &[libc::EINVAL],
        "loop",
    );
    assert_eq!(disk.checksum(), before);
}

pub(crate) fn the_device_is_ours_alone_while_it_is_in_use() {
    let disk = Loop::new(44, 32 << 20);
    let _module = Module::load(&format!("mount_path={}", disk.path()));
    // Whether plain writers are kept out is up to the kernel's configuration
    // (CONFIG_BLK_DEV_WRITE_MOUNTED); who asks for the device alone never
    // gets it.
    let mut exclusive = OpenOptions::new();
    let opened = exclusive
        .read(true)
        .custom_flags(libc::O_EXCL)
        .open(disk.path());
    assert_eq!(
        errno_of(&opened.expect_err("an exclusive open")),
        libc::EBUSY
    );
    let (ok, text) = shell(&format!("/usr/sbin/mke2fs -q {}", disk.path()));
    assert!(!ok, "mke2fs on the store's device: {text}");
}

pub(crate) fn lengths_out_of_range_are_refused_by_every_interface() {
    let _module = Module::load("n=0");
    let dev = Dev::open();
    let long = "k".repeat(1025);
    let big = "v".repeat((1 << 20) + 1);
    let mut c = Text::connect();
    assert!(c.ask(&format!("put {long} v")).starts_with("error: "));
    assert!(c.ask(&format!("get {long}")).starts_with("error: "));
    assert!(c.ask(&format!("del {long}")).starts_with("error: "));
    assert!(
        Text::connect()
            .ask(&format!("put k {big}"))
            .starts_with("error: ")
    );
    assert_eq!(c.ask(&format!("put {} v", "k".repeat(1024))), "ok");
    assert_eq!(c.ask(&format!("put k {}", "v".repeat(1 << 20))), "ok");
    assert_eq!(dev.stat().records, 2);
}

pub(crate) fn a_line_of_10_mib_is_answered_with_an_error_and_closed() {
    let _module = Module::load("n=0");
    let dev = Dev::open();
    for chunk in [1usize << 20, 4_096, 65_537] {
        let mut c = Text::connect();
        let line = vec![b'x'; 10 << 20];
        // The server may close before it has taken everything.
        for piece in line.chunks(chunk) {
            if c.try_send(piece).is_err() {
                break;
            }
        }
        let _ = c.try_send(b"\n");
        let reply = c.line();
        if let Ok(Some(reply)) = &reply {
            assert!(reply.starts_with("error: "), "{reply}");
            assert!(
                matches!(c.line(), Ok(None) | Err(_)),
                "the connection is closed"
            );
        } else {
            panic!("a line of 10 MiB was answered with {reply:?}");
        }
    }
    assert_eq!(dev.stat().records, 0);
    wait_until("the clients to be gone", || dev.stat().clients == 0);
    assert_eq!(Text::connect().ask("put k v"), "ok");
}

pub(crate) fn noise_on_the_port_harms_nobody() {
    let _module = Module::load("n=0");
    let dev = Dev::open();
    let mut good = Text::connect();
    for seed in 0..200u64 {
        let mut rng = Rng::new(seed);
        let mut noise = bytes_of(seed, 1 + rng.below(20_000) as usize);
        if seed % 3 == 0 {
            // Noise that begins like a request.
            let words: [&[u8]; 4] = [b"put ", b"get ", b"del ", b"put \0"];
            for _ in 0..50 {
                let at = rng.below(noise.len() as u64) as usize;
                let word = words[rng.below(4) as usize];
                let end = (at + word.len()).min(noise.len());
                noise[at..end].copy_from_slice(&word[..end - at]);
            }
        }
        let mut c = Text::connect();
        let _ = c.try_send(&noise);
        if seed % 2 == 0 {
            let _ = c.stream().shutdown(std::net::Shutdown::Write);
            c.stream()
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            let _ = c.rest();
        }
        // The others go away without a word.
        if seed % 20 == 0 {
            assert_eq!(good.ask(&format!("put good{seed} value")), "ok");
            assert_eq!(good.ask(&format!("get good{seed}")), "value");
        }
    }
    wait_until("the noise to be gone", || dev.stat().clients == 1);
    for seed in (0..200).step_by(20) {
        assert_eq!(dev.get(format!("good{seed}").as_bytes()).unwrap(), b"value");
    }
}

pub(crate) fn two_thousand_connections_are_bounded_and_let_go() {
    sys::allow_many_files(4096);
    let _module = Module::load("n=0 max_clients=1024");
    let dev = Dev::open();
    let mut first = Text::connect();
    assert_eq!(first.ask("put k v"), "ok");
    let mut clients = Vec::new();
    for _ in 0..2_000 {
        match TcpStream::connect_timeout(&([127, 0, 0, 1], PORT).into(), Duration::from_secs(10)) {
            Ok(stream) => clients.push(stream),
            Err(e) => println!("connection {}: {e}", clients.len()),
        }
    }
    wait_until("the bound of max_clients", || dev.stat().clients == 1024);
    let (mut served, mut turned_away) = (0, 0);
    for stream in &mut clients {
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut reply = [0; 2];
        let alive = stream.write_all(b"get k\n").is_ok()
            && stream.read_exact(&mut reply).is_ok()
            && &reply == b"v\n";
        if alive {
            served += 1;
        } else {
            turned_away += 1;
        }
    }
    println!(
        "{} connected, {served} served, {turned_away} turned away",
        clients.len()
    );
    assert_eq!(served, 1023, "all that fit beside the first one are served");
    assert_eq!(first.ask("get k"), "v", "who is in stays in");
    drop(clients);
    wait_until("them to be gone", || dev.stat().clients == 1);
    assert_eq!(Text::connect().ask("get k"), "v");
}
