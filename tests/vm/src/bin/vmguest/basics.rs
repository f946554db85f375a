// SPDX-License-Identifier: GPL-2.0
//! The interfaces as their documents promise them, on a store without a device
//! unless a test needs one.

use crate::dev::*;
use crate::kit::*;
use crate::sys::{self, Mapping};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::process::{Command, Stdio};

/// The session of the README: what a person types and what nc prints.
const SESSION: &[(&str, &str)] = &[
    ("put name alice", "ok"),
    ("get name", "alice"),
    ("put age 25", "ok"),
    ("get age", "25"),
];

pub(crate) fn readme_session_over_nc_is_byte_for_byte() {
    let _module = Module::load("");
    let mut nc = Command::new("nc")
        .args(["127.0.0.1", "12345"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("nc");
    let mut typed = nc.stdin.take().unwrap();
    let mut printed = BufReader::new(nc.stdout.take().unwrap());
    for (request, reply) in SESSION {
        typed.write_all(format!("{request}\n").as_bytes()).unwrap();
        let mut line = String::new();
        printed.read_line(&mut line).unwrap();
        assert_eq!(line, format!("{reply}\n"), "the reply to {request:?}");
    }
    // The fifth request is the last one with the default n=5.
    typed.write_all(b"get name\n").unwrap();
    let mut line = String::new();
    printed.read_line(&mut line).unwrap();
    assert_eq!(line, "alice\n", "the fifth reply");
    // Some versions of nc stay until their input ends.
    drop(typed);
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut printed, &mut rest).unwrap();
    assert_eq!(rest, b"", "nothing after the fifth reply");
    nc.wait().unwrap();
    // The same without nc: the reply, then the end of the connection.
    let mut client = Text::connect();
    for (request, reply) in SESSION {
        assert_eq!(client.ask(request), *reply);
    }
    client.send(b"get name\n");
    assert_eq!(client.rest().unwrap(), b"alice\n");
}

pub(crate) fn values_are_never_glued_to_ok_and_a_missing_key_never_hangs() {
    let _module = Module::load("n=0");
    let mut c = Text::connect();
    assert_eq!(c.ask("put k v"), "ok");
    assert_eq!(c.ask("get k"), "v");
    assert_eq!(c.ask("put k two words  and  spaces "), "ok");
    assert_eq!(c.ask("get k"), "two words  and  spaces ");
    assert_eq!(c.ask("put k crlf\r"), "ok");
    assert_eq!(c.ask("get k\r"), "crlf");
    assert_eq!(c.ask("get missing"), "not found");
    assert_eq!(c.ask("del k"), "ok");
    assert_eq!(c.ask("get k"), "not found");
    assert_eq!(c.ask("del k"), "not found");
    assert_eq!(c.ask("PING").trim_end(), "+PONG");
    for bad in [
        "", "nonsense", "PUT k v", "Get k", "get", "put", "put k", "del",
    ] {
        let reply = c.ask(bad);
        // A put without a value may be an empty value or a mistake, but the
        // connection goes on and the answer is a line.
        if bad != "put k" {
            assert!(
                reply.starts_with("error: "),
                "{bad:?} was answered with {reply:?}"
            );
        }
    }
    assert_eq!(c.ask("put k2 still here"), "ok");
    assert_eq!(c.ask("get k2"), "still here");
}

pub(crate) fn split_and_pipelined_lines_are_put_together() {
    let _module = Module::load("n=0");
    let mut c = Text::connect();
    for byte in b"put slow one byte at a time\n" {
        c.send(&[*byte]);
    }
    assert_eq!(c.line().unwrap().as_deref(), Some("ok"));
    let mut all = String::new();
    for i in 0..500 {
        all.push_str(&format!("put key{i} value {i}\nget key{i}\n"));
    }
    c.send(all.as_bytes());
    for i in 0..500 {
        assert_eq!(c.line().unwrap().as_deref(), Some("ok"));
        assert_eq!(c.line().unwrap(), Some(format!("value {i}")));
    }
    let big = "x".repeat(1 << 20);
    assert_eq!(c.ask(&format!("put big {big}")), "ok");
    assert_eq!(c.ask("get big"), big);
    assert_eq!(Dev::open().get(b"big").unwrap(), big.as_bytes());
}

pub(crate) fn after_n_requests_the_close_loses_no_reply() {
    let _module = Module::load("n=3");
    for _ in 0..50 {
        let mut c = Text::connect();
        // Two requests more than are allowed: data that the server never
        // reads must not turn the close into a reset.
        c.send(b"put a 1\nget a\nget a\nget a\nput b 2\n");
        assert_eq!(
            String::from_utf8_lossy(&c.rest().expect("no reset")),
            "ok\n1\n1\n"
        );
    }
    fails_with("get b", Dev::open().get(b"b"), &[libc::ENOENT]);
}

pub(crate) fn ioctls_store_and_return_any_bytes() {
    let module = Module::load("");
    let dev = Dev::open();
    let v = dev.version().unwrap();
    assert_eq!(
        (v.abi_version, v.key_len_max, v.value_len_max),
        (1, 1024, 1 << 20)
    );
    let keys: Vec<Vec<u8>> = vec![vec![0], vec![0, 0], vec![255; 1024], b"a\nb c".to_vec()];
    let mut last = 0;
    for (i, key) in keys.iter().enumerate() {
        let value: Vec<u8> = (0..i * 300_000).map(|b| (b * 7) as u8).collect();
        let version = dev.put(key, &value).unwrap();
        assert!(version > last, "versions only grow");
        last = version;
        let got = dev.get_full(key).unwrap();
        assert_eq!(
            (got.value, got.version, got.user_flags, got.expires_ms),
            (value, version, 0, 0)
        );
    }
    assert_eq!(dev.put(b"", b"").unwrap_err(), libc::EINVAL);
    dev.put(b"max", &vec![9; 1 << 20]).unwrap();
    assert_eq!(dev.get(b"max").unwrap(), vec![9; 1 << 20]);
    assert_eq!(dev.append(b"grow", b"abc").unwrap().1, 3);
    assert_eq!(dev.append(b"grow", b"def").unwrap().1, 6);
    assert_eq!(dev.overwrite(b"grow", 1, b"XY").unwrap().1, 6);
    assert_eq!(dev.overwrite(b"grow", 8, b"Z").unwrap().1, 9);
    assert_eq!(dev.get(b"grow").unwrap(), b"aXYdef\0\0Z");
    let deleted = dev.delete(b"grow").unwrap();
    assert!(deleted > last);
    fails_with("get after delete", dev.get(b"grow"), &[libc::ENOENT]);
    assert!(dev.sync().unwrap() >= deleted);
    drop(dev);
    module.unload();
}

pub(crate) fn flags_and_expiry_are_kept_beside_the_value() {
    let _module = Module::load("");
    let dev = Dev::open();
    let far = 4_000_000_000_000;
    dev.put_with(
        b"k",
        b"v",
        Put {
            user_flags: 0xdead_beef,
            expires_ms: far,
            ..Put::default()
        },
    )
    .unwrap();
    let got = dev.get_full(b"k").unwrap();
    assert_eq!((got.user_flags, got.expires_ms), (0xdead_beef, far));
    dev.append(b"k", b"w").unwrap();
    let got = dev.get_full(b"k").unwrap();
    assert_eq!(
        (got.user_flags, got.expires_ms, &got.value[..]),
        (0xdead_beef, far, &b"vw"[..])
    );
    let entry = &dev.scan_all(b"", b"", 0).unwrap()[0];
    assert_eq!(entry.user_flags, 0xdead_beef);
}

pub(crate) fn an_expired_value_is_gone() {
    let _module = Module::load("");
    let dev = Dev::open();
    dev.put_with(
        b"past",
        b"v",
        Put {
            expires_ms: 1,
            ..Put::default()
        },
    )
    .unwrap();
    fails_with("get of an expired value", dev.get(b"past"), &[libc::ENOENT]);
    assert_eq!(dev.scan_all(b"", b"", 0).unwrap(), []);
    // Gone also for conditions.
    dev.put_with(
        b"past",
        b"new",
        Put {
            flags: CREATE,
            ..Put::default()
        },
    )
    .unwrap();
    assert_eq!(dev.get(b"past").unwrap(), b"new");
}

pub(crate) fn conditions_hold_or_change_nothing() {
    let _module = Module::load("");
    let dev = Dev::open();
    let with = |flags, expected_version| Put {
        flags,
        expected_version,
        ..Put::default()
    };
    fails_with(
        "replace",
        dev.put_with(b"k", b"0", with(REPLACE, 0)),
        &[libc::ENOENT],
    );
    fails_with(
        "if version",
        dev.put_with(b"k", b"0", with(IF_VERSION, 5)),
        &[libc::ENOENT],
    );
    fails_with("get", dev.get(b"k"), &[libc::ENOENT]);
    let v1 = dev.put_with(b"k", b"1", with(CREATE, 0)).unwrap();
    fails_with(
        "create",
        dev.put_with(b"k", b"2", with(CREATE, 0)),
        &[libc::EEXIST],
    );
    let v2 = dev.put_with(b"k", b"2", with(REPLACE, 0)).unwrap();
    fails_with(
        "if version",
        dev.put_with(b"k", b"3", with(IF_VERSION, v1)),
        &[libc::ECANCELED],
    );
    fails_with(
        "delete",
        dev.delete_with(b"k", IF_VERSION, v1),
        &[libc::ECANCELED],
    );
    let update = |flags, expected_version| Update {
        flags,
        expected_version,
        ..Update::default()
    };
    let stale = dev.update_with(b"k", b"x", update(APPEND | IF_VERSION, v1));
    fails_with("update", stale, &[libc::ECANCELED]);
    assert_eq!(
        dev.get_full(b"k").map(|g| (g.value, g.version)),
        Ok((b"2".to_vec(), v2))
    );
    let (v3, len) = dev
        .update_with(b"k", b"x", update(APPEND | IF_VERSION, v2))
        .unwrap();
    assert_eq!(len, 2);
    dev.delete_with(b"k", IF_VERSION, v3).unwrap();
    fails_with("delete", dev.delete(b"k"), &[libc::ENOENT]);
    fails_with(
        "update",
        dev.update_with(b"k", b"x", update(APPEND | REPLACE, 0)),
        &[libc::ENOENT],
    );
    fails_with(
        "update",
        dev.update_with(b"k", b"x", update(IF_VERSION, 9)),
        &[libc::ENOENT],
    );
}

pub(crate) fn every_bad_ioctl_has_the_errno_of_the_header() {
    let _module = Module::load("");
    let dev = Dev::open();
    dev.put(b"k", b"value").unwrap();
    let before = dev.stat();
    let key = b"k";
    let key_at = key.as_ptr() as u64;
    let long = [b'x'; 1025];
    let big = vec![0u8; (1 << 20) + 1];
    let get = |key, key_len, flags, reserved| {
        let mut arg = Get {
            key,
            key_len,
            flags,
            reserved,
            ..Get::default()
        };
        dev.call(NR_GET, &mut arg)
    };
    fails_with("key of 0 bytes", get(key_at, 0, 0, 0), &[libc::EINVAL]);
    fails_with(
        "key of 1025 bytes",
        get(long.as_ptr() as u64, 1025, 0, 0),
        &[libc::EINVAL],
    );
    fails_with("key of 4 GiB", get(key_at, u32::MAX, 0, 0), &[libc::EINVAL]);
    fails_with("GET with flags", get(key_at, 1, 1, 0), &[libc::EINVAL]);
    fails_with("GET with reserved", get(key_at, 1, 0, 1), &[libc::EINVAL]);
    fails_with("PUT of 0 bytes of key", dev.put(b"", b"v"), &[libc::EINVAL]);
    fails_with(
        "PUT of 1025 bytes of key",
        dev.put(&long, b"v"),
        &[libc::EINVAL],
    );
    fails_with(
        "PUT of more than 1 MiB",
        dev.put(b"new", &big),
        &[libc::EFBIG],
    );
    let flags = |flags| Put {
        flags,
        ..Put::default()
    };
    fails_with(
        "PUT with unknown flags",
        dev.put_with(b"new", b"v", flags(1 << 31)),
        &[libc::EINVAL],
    );
    fails_with(
        "PUT with APPEND",
        dev.put_with(b"new", b"v", flags(APPEND)),
        &[libc::EINVAL],
    );
    let both = dev.put_with(b"new", b"v", flags(CREATE | REPLACE));
    fails_with("PUT with CREATE and REPLACE", both, &[libc::EINVAL]);
    let both = dev.put_with(b"new", b"v", flags(CREATE | IF_VERSION));
    fails_with("PUT with CREATE and IF_VERSION", both, &[libc::EINVAL]);
    for bad in [CREATE, REPLACE, APPEND, 1 << 20] {
        fails_with(
            "DELETE with flags",
            dev.delete_with(key, bad, 0),
            &[libc::EINVAL],
        );
    }
    let update = |with| dev.update_with(key, b"xyz", with);
    let blank = Update::default();
    fails_with(
        "UPDATE with CREATE",
        update(Update {
            flags: CREATE,
            ..blank
        }),
        &[libc::EINVAL],
    );
    let placed = Update {
        flags: APPEND,
        offset: 1,
        ..blank
    };
    fails_with(
        "UPDATE with APPEND and an offset",
        update(placed),
        &[libc::EINVAL],
    );
    fails_with(
        "UPDATE with reserved",
        update(Update {
            reserved: 1,
            ..blank
        }),
        &[libc::EINVAL],
    );
    fails_with(
        "UPDATE with reserved2",
        update(Update {
            reserved2: 1,
            ..blank
        }),
        &[libc::EINVAL],
    );
    for offset in [(1 << 20) - 2, 1 << 32, u64::MAX, u64::MAX - 2] {
        fails_with(
            "UPDATE past 1 MiB",
            update(Update { offset, ..blank }),
            &[libc::EFBIG],
        );
    }
    let scan = |flags, room| {
        dev.scan(
            b"",
            b"",
            room,
            Scan {
                flags,
                ..Scan::default()
            },
        )
    };
    fails_with(
        "SCAN with unknown flags",
        scan(1 << 9, 4096),
        &[libc::EINVAL],
    );
    fails_with("SCAN without room", scan(0, 32), &[libc::ERANGE]);
    let mut arg = Scan {
        start: long.as_ptr() as u64,
        start_len: 1025,
        ..Scan::default()
    };
    fails_with(
        "SCAN from a key too long",
        dev.call(NR_SCAN, &mut arg),
        &[libc::EINVAL],
    );
    let stat = dev.call(
        NR_STAT,
        &mut Stat {
            flags: 1,
            ..Stat::default()
        },
    );
    fails_with("STAT with flags", stat, &[libc::EINVAL]);
    let sync = dev.call(
        NR_SYNC,
        &mut Sync {
            flags: 1,
            ..Sync::default()
        },
    );
    fails_with("SYNC with flags", sync, &[libc::EINVAL]);
    let sync = dev.call(
        NR_SYNC,
        &mut Sync {
            reserved: 1,
            ..Sync::default()
        },
    );
    fails_with("SYNC with reserved", sync, &[libc::EINVAL]);
    let purge = dev.call(
        NR_PURGE,
        &mut Purge {
            flags: 1,
            reserved: 0,
        },
    );
    fails_with("PURGE with flags", purge, &[libc::EINVAL]);
    let version = dev.call(
        NR_VERSION,
        &mut Version {
            reserved: 1,
            ..Version::default()
        },
    );
    fails_with("VERSION with reserved", version, &[libc::EINVAL]);
    for nr in [9, 0x7f, 0xff] {
        let mut arg = [0u64; 8];
        fails_with(
            "an unknown command",
            dev.call(nr, &mut arg),
            &[libc::ENOTTY],
        );
    }
    // The magic of another driver, and the raw numbers 0 to 5.
    for command in [0x5401, 0, 1, 3, 4, 5, 0x4004_6b01] {
        fails_with(
            "a foreign command",
            sys::ioctl_raw(dev.fd(), command, 0),
            &[libc::ENOTTY],
        );
    }
    let after = dev.stat();
    assert_eq!(
        (after.records, after.version),
        (before.records, before.version),
        "nothing changed"
    );
    assert_eq!(dev.get(key).unwrap(), b"value");
}

pub(crate) fn a_small_buffer_is_told_the_size_and_left_alone() {
    let _module = Module::load("");
    let dev = Dev::open();
    for len in [5usize, 4096, 200_000] {
        dev.put(b"k", &vec![7; len]).unwrap();
        let mut room = vec![0x55u8; len - 1];
        let mut arg = Get {
            key: b"k".as_ptr() as u64,
            key_len: 1,
            value: room.as_mut_ptr() as u64,
            value_cap: room.len() as u32,
            ..Get::default()
        };
        fails_with("GET", dev.call(NR_GET, &mut arg), &[libc::ERANGE]);
        assert_eq!(arg.value_len as usize, len);
        assert!(room.iter().all(|&b| b == 0x55), "the buffer was touched");
        let mut arg = Get {
            key: b"k".as_ptr() as u64,
            key_len: 1,
            ..Get::default()
        };
        fails_with(
            "GET without a buffer",
            dev.call(NR_GET, &mut arg),
            &[libc::ERANGE],
        );
        assert_eq!(arg.value_len as usize, len);
    }
    dev.put(b"k", b"").unwrap();
    let mut arg = Get {
        key: b"k".as_ptr() as u64,
        key_len: 1,
        ..Get::default()
    };
    assert_eq!(dev.call(NR_GET, &mut arg), Ok(()));
    assert_eq!(arg.value_len, 0);
}

pub(crate) fn bad_pointers_are_efault_and_change_nothing() {
    let _module = Module::load("");
    let dev = Dev::open();
    dev.put(b"k", &[1; 6000]).unwrap();
    let version = dev.stat().version;
    let hole = Mapping::before_a_hole();
    let read_only = Mapping::read_only(8192);
    let kernel = 0xffff_8880_0000_0000;
    let bad = [
        1,
        hole.address() + 4096,
        hole.address() + 4090,
        kernel,
        u64::MAX - 4,
        0x8000_0000_0000,
    ];
    let k = b"k".as_ptr() as u64;
    for at in bad {
        let mut get = Get {
            key: at,
            key_len: 16,
            ..Get::default()
        };
        fails_with("GET, key", dev.call(NR_GET, &mut get), &[libc::EFAULT]);
        let mut get = Get {
            key: k,
            key_len: 1,
            value: at,
            value_cap: 6000,
            ..Get::default()
        };
        fails_with("GET, value", dev.call(NR_GET, &mut get), &[libc::EFAULT]);
        let mut put = Put {
            key: at,
            key_len: 16,
            ..Put::default()
        };
        fails_with("PUT, key", dev.call(NR_PUT, &mut put), &[libc::EFAULT]);
        let mut put = Put {
            key: k,
            key_len: 1,
            value: at,
            value_len: 6000,
            ..Put::default()
        };
        fails_with("PUT, value", dev.call(NR_PUT, &mut put), &[libc::EFAULT]);
        let mut del = Delete {
            key: at,
            key_len: 16,
            ..Delete::default()
        };
        fails_with(
            "DELETE, key",
            dev.call(NR_DELETE, &mut del),
            &[libc::EFAULT],
        );
        let mut up = Update {
            key: k,
            key_len: 1,
            data: at,
            data_len: 6000,
            ..Update::default()
        };
        fails_with(
            "UPDATE, data",
            dev.call(NR_UPDATE, &mut up),
            &[libc::EFAULT],
        );
        let mut scan = Scan {
            start: at,
            start_len: 16,
            ..Scan::default()
        };
        fails_with("SCAN, start", dev.call(NR_SCAN, &mut scan), &[libc::EFAULT]);
        let mut scan = Scan {
            buffer: at,
            buffer_len: 8192,
            ..Scan::default()
        };
        fails_with(
            "SCAN, buffer",
            dev.call(NR_SCAN, &mut scan),
            &[libc::EFAULT],
        );
        for nr in [
            NR_VERSION, NR_GET, NR_PUT, NR_DELETE, NR_UPDATE, NR_SCAN, NR_STAT, NR_SYNC, NR_PURGE,
        ] {
            let result = sys::ioctl_raw(dev.fd(), command(nr, 64), at);
            fails_with("a bad structure", result, &[libc::EFAULT]);
        }
    }
    // Results that cannot be written back.
    let mut get = Get {
        key: k,
        key_len: 1,
        value: read_only.address(),
        value_cap: 8192,
        ..Get::default()
    };
    fails_with(
        "GET into read-only memory",
        dev.call(NR_GET, &mut get),
        &[libc::EFAULT],
    );
    let stat = sys::ioctl_raw(dev.fd(), command(NR_STAT, 200), read_only.address());
    fails_with("STAT into read-only memory", stat, &[libc::EFAULT]);
    assert_eq!(dev.stat().version, version, "nothing changed");
    assert_eq!(dev.get(b"k").unwrap(), [1; 6000]);
}

pub(crate) fn older_and_newer_structures_are_served() {
    let _module = Module::load("");
    let dev = Dev::open();
    // An older caller: PUT up to the length of the value.
    let mut map = Mapping::low(4096);
    let put = Put {
        key: b"old".as_ptr() as u64,
        key_len: 3,
        value: b"value".as_ptr() as u64,
        value_len: 5,
        // Behind the end of the short structure: must not be looked at.
        user_flags: 77,
        expires_ms: 1,
        ..Put::default()
    };
    map.write(0, &sys::bytes_of(&put));
    sys::ioctl_raw(dev.fd(), command(NR_PUT, 28), map.address()).expect("a shorter structure");
    let got = dev.get_full(b"old").unwrap();
    assert_eq!(
        (&got.value[..], got.user_flags, got.expires_ms),
        (&b"value"[..], 0, 0)
    );
    // The short caller's memory behind its structure must not be written.
    assert_eq!(map.read(28, 28), sys::bytes_of(&put)[28..]);
    let mut map = Mapping::low(4096);
    let get = Get {
        key: b"old".as_ptr() as u64,
        key_len: 3,
        ..Get::default()
    };
    map.write(0, &sys::bytes_of(&get));
    map.write(56, &[0x55; 8]);
    let short = sys::ioctl_raw(dev.fd(), command(NR_GET, 32), map.address());
    fails_with("a short GET without room", short, &[libc::ERANGE]);
    assert_eq!(
        map.read(28, 4),
        5u32.to_ne_bytes(),
        "value_len is inside the short structure"
    );
    assert_eq!(map.read(32, 8), [0; 8], "the version lies behind it");
    // A newer caller.
    let mut map = Mapping::low(16384);
    let version = dev.stat().version;
    for size in [64, 72, 4096, 16_383] {
        map.write(
            0,
            &sys::bytes_of(&Put {
                user_flags: 0,
                expires_ms: 0,
                ..put
            }),
        );
        sys::ioctl_raw(dev.fd(), command(NR_PUT, size), map.address())
            .unwrap_or_else(|e| panic!("a longer structure of {size} bytes: {}", name_of(e)));
        map.write(size - 1, &[1]);
        let tail = sys::ioctl_raw(dev.fd(), command(NR_PUT, size), map.address());
        fails_with("a non-zero unknown tail", tail, &[libc::E2BIG]);
        map.write(size - 1, &[0]);
    }
    assert_eq!(
        dev.stat().version,
        version + 4,
        "only the accepted ones changed anything"
    );
    // The direction bits of the command word do not matter, the number does.
    let mut arg = Version::default();
    let at = std::ptr::from_mut(&mut arg) as u64;
    sys::ioctl_raw(dev.fd(), (16 << 16) | (0xb9 << 8), at).expect("a command without direction");
    // A structure of no bytes holds no key.
    let none = sys::ioctl_raw(dev.fd(), command(NR_GET, 0), 0);
    fails_with("a GET of no bytes", none, &[libc::EINVAL, libc::EFAULT]);
}

pub(crate) fn a_32_bit_caller_is_served() {
    let _module = Module::load("");
    let dev = Dev::open();
    let mut map = Mapping::low(8192);
    let base = map.address();
    assert!(base < 1 << 32);
    let call = |nr, size, at: u64| sys::ioctl_32bit(dev.fd(), command(nr, size) as u32, at as u32);
    call(NR_VERSION, 16, base).expect("VERSION");
    assert_eq!(sys::from_bytes::<Version>(&map.read(0, 16)).abi_version, 1);
    map.write(4096, b"thirty-two bits");
    let put = Put {
        key: base + 4096,
        key_len: 6,
        value: base + 4103,
        value_len: 8,
        ..Put::default()
    };
    map.write(0, &sys::bytes_of(&put));
    call(NR_PUT, 56, base).expect("PUT");
    assert_eq!(dev.get(b"thirty").unwrap(), b"two bits");
    let get = Get {
        key: base + 4096,
        key_len: 6,
        value: base + 5000,
        value_cap: 100,
        ..Get::default()
    };
    map.write(0, &sys::bytes_of(&get));
    call(NR_GET, 56, base).expect("GET");
    assert_eq!(map.read(5000, 8), b"two bits");
    assert_eq!(sys::from_bytes::<Get>(&map.read(0, 56)).value_len, 8);
    let scan = Scan {
        buffer: base + 5000,
        buffer_len: 1000,
        ..Scan::default()
    };
    map.write(0, &sys::bytes_of(&scan));
    call(NR_SCAN, 64, base).expect("SCAN");
    assert_eq!(sys::from_bytes::<Scan>(&map.read(0, 64)).count, 1);
    map.write(0, &[0; 200]);
    call(NR_STAT, 200, base).expect("STAT");
    assert_eq!(sys::from_bytes::<Stat>(&map.read(0, 200)).records, 1);
    fails_with("an unknown command", call(0x40, 16, base), &[libc::ENOTTY]);
}

pub(crate) fn changes_need_a_file_open_for_writing() {
    let _module = Module::load("");
    let dev = Dev::open();
    dev.put(b"k", b"v").unwrap();
    let reader = Dev::open_for(true, false).unwrap();
    assert_eq!(reader.get(b"k").unwrap(), b"v");
    assert_eq!(reader.scan_all(b"", b"", 0).unwrap().len(), 1);
    reader.version().unwrap();
    assert_eq!(reader.stat().records, 1);
    fails_with("PUT", reader.put(b"k", b"w"), &[libc::EBADF]);
    fails_with("DELETE", reader.delete(b"k"), &[libc::EBADF]);
    fails_with("UPDATE", reader.append(b"k", b"w"), &[libc::EBADF]);
    fails_with("PURGE", reader.purge(), &[libc::EBADF]);
    let writer = Dev::open_for(false, true).unwrap();
    fails_with("GET", writer.get(b"k"), &[libc::EBADF]);
    fails_with("SCAN", writer.scan_all(b"", b"", 0), &[libc::EBADF]);
    writer.put(b"k", b"w").unwrap();
    assert_eq!(dev.get(b"k").unwrap(), b"w");
}

pub(crate) fn purge_is_for_administrators_only() {
    let _module = Module::load("");
    let dev = Dev::open();
    dev.put(b"k", b"v").unwrap();
    std::thread::scope(|s| {
        let tried = s.spawn(|| {
            sys::drop_cap_sys_admin();
            dev.purge()
        });
        fails_with(
            "PURGE without CAP_SYS_ADMIN",
            tried.join().unwrap(),
            &[libc::EPERM],
        );
    });
    assert_eq!(dev.get(b"k").unwrap(), b"v");
    let page = dev.scan(b"", b"", 4096, Scan::default()).unwrap();
    dev.purge().unwrap();
    assert_eq!(dev.stat().records, 0);
    fails_with("get", dev.get(b"k"), &[libc::ENOENT]);
    let old = Scan {
        cursor: page.cursor,
        flags: SCAN_AFTER,
        ..Scan::default()
    };
    fails_with(
        "a cursor from before",
        dev.scan(b"a", b"", 4096, old),
        &[libc::ESTALE],
    );
    dev.put(b"k", b"again").unwrap();
}

pub(crate) fn scans_are_ordered_bounded_and_resumable() {
    let _module = Module::load("");
    let dev = Dev::open();
    let mut want = BTreeMap::new();
    for i in 0..3_000u32 {
        let key =
            hpkv_vmtests::rng::mix(u64::from(i)).to_be_bytes()[..1 + (i % 8) as usize].to_vec();
        dev.put(&key, &i.to_le_bytes()).unwrap();
        want.insert(key, i.to_le_bytes().to_vec());
    }
    let pairs = |entries: Vec<Entry>| -> Vec<(Vec<u8>, Vec<u8>)> {
        entries.into_iter().map(|e| (e.key, e.value)).collect()
    };
    let all: Vec<_> = want.clone().into_iter().collect();
    assert_eq!(pairs(dev.scan_all(b"", b"", 0).unwrap()), all);
    let some: Vec<_> = want
        .range(vec![0x40]..vec![0x80, 3])
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    assert_eq!(pairs(dev.scan_all(&[0x40], &[0x80, 3], 0).unwrap()), some);
    // In steps of seven.
    let mut got = Vec::new();
    let mut cursor = 0;
    loop {
        let last: Vec<u8> = got
            .last()
            .map(|e: &Entry| e.key.clone())
            .unwrap_or_default();
        let flags = if got.is_empty() { 0 } else { SCAN_AFTER };
        let page = dev
            .scan(
                &last,
                b"",
                4096,
                Scan {
                    flags,
                    limit: 7,
                    cursor,
                    ..Scan::default()
                },
            )
            .unwrap();
        assert!(page.entries.len() <= 7);
        cursor = page.cursor;
        got.extend(page.entries);
        if !page.more {
            break;
        }
    }
    assert_eq!(pairs(got), all);
    let keys = dev.scan_all(b"", b"", SCAN_KEYS_ONLY).unwrap();
    assert!(keys.iter().all(|e| e.value.is_empty() && e.value_len == 4));
    assert_eq!(keys.len(), all.len());
    // The bound comes before the start: nothing, not an error.
    assert_eq!(dev.scan_all(&[9], &[3], 0).unwrap(), []);
    // ERANGE tells how much the next entry takes.
    dev.put(&[0], &vec![1; 100_000]).unwrap();
    let mut buffer = vec![0u64; 16];
    let mut arg = Scan {
        buffer: buffer.as_mut_ptr() as u64,
        buffer_len: 128,
        ..Scan::default()
    };
    fails_with("SCAN", dev.call(NR_SCAN, &mut arg), &[libc::ERANGE]);
    assert!(arg.used_len > 100_000 && arg.used_len < 101_000);
    let page = dev
        .scan(b"", b"", arg.used_len as usize, Scan::default())
        .unwrap();
    assert_eq!(page.entries[0].value.len(), 100_000);
}

pub(crate) fn the_device_is_for_root_and_its_group() {
    let _module = Module::load("");
    let meta = fs::metadata("/dev/hpkv").unwrap();
    assert!(meta.file_type().is_char_device());
    assert_eq!(meta.mode() & 0o777, 0o660);
    assert_eq!((meta.uid(), meta.gid()), (0, 0));
}

pub(crate) fn echo_stores_and_cat_dumps_in_order() {
    let _module = Module::load("");
    shell_ok("echo fruit:apple > /dev/hpkv");
    shell_ok("echo colour:red > /dev/hpkv");
    shell_ok("echo 'fruit:+ pie' > /dev/hpkv");
    shell_ok("echo new:+tail > /dev/hpkv");
    shell_ok("echo a:b:c > /dev/hpkv");
    assert_eq!(
        shell_ok("cat /dev/hpkv"),
        "a:b:c\ncolour:red\nfruit:apple pie\nnew:tail\n"
    );
    assert_eq!(
        Dev::open().get(b"fruit").unwrap(),
        b"apple pie",
        "without the line feed of echo"
    );
    let mut dev = Dev::open_for(false, true).unwrap().0;
    for bad in [&b"no colon"[..], b":no key\n", &[b'k'; 2000]] {
        let error = dev
            .write(bad)
            .expect_err("a write that is no key and value");
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{error}");
    }
    let mut long = vec![b'k'; 1025];
    long.extend(b":v");
    assert_eq!(
        dev.write(&long).unwrap_err().raw_os_error(),
        Some(libc::EINVAL)
    );
    let mut long = b"key:".to_vec();
    long.extend(vec![b'v'; (1 << 20) + 1]);
    assert_eq!(
        dev.write(&long).unwrap_err().raw_os_error(),
        Some(libc::EFBIG)
    );
    assert_eq!(Dev::open().stat().records, 4);
}

pub(crate) fn a_dump_in_small_reads_is_whole_while_others_write() {
    let _module = Module::load("");
    let dev = Dev::open();
    let mut want = String::new();
    for i in 0..2_000 {
        let value = hpkv_vmtests::rng::text_of(i, (i % 300) as usize);
        dev.put(format!("key{i:05}").as_bytes(), value.as_bytes())
            .unwrap();
        want.push_str(&format!("key{i:05}:{value}\n"));
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            // Outside the range that is compared.
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                dev.put(b"zzz", b"busy").unwrap();
            }
        });
        let mut file = Dev::open_for(true, false).unwrap().0;
        let mut got = Vec::new();
        let mut piece = [0; 173];
        loop {
            match std::io::Read::read(&mut file, &mut piece).unwrap() {
                0 => break,
                n => got.extend(&piece[..n]),
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let got = String::from_utf8(got).unwrap();
        let got = got.strip_suffix("zzz:busy\n").unwrap_or(&got);
        assert!(got == want, "the dump differs");
    });
}

pub(crate) fn proc_stats_begin_with_the_three_promised_lines() {
    let disk = Loop::new(40, 32 << 20);
    let _module = Module::load(&format!("mount_path={}", disk.path()));
    let dev = Dev::open();
    for i in 0..100u32 {
        dev.put(&i.to_be_bytes(), &[1; 1000]).unwrap();
    }
    dev.get(&1u32.to_be_bytes()).unwrap();
    fails_with("miss", dev.get(b"none"), &[libc::ENOENT]);
    dev.sync().unwrap();
    let text = shell_ok("cat /proc/hpkv_stats");
    let lines: Vec<&str> = text.lines().collect();
    let stat = dev.stat();
    assert_eq!(lines[0], "Total records: 100");
    let usage = lines[1]
        .strip_prefix("Total disk usage: ")
        .and_then(|l| l.strip_suffix(" bytes"));
    assert!(usage.expect(lines[1]).parse::<u64>().unwrap() >= 100_000);
    assert_eq!(lines[2], format!("Device size: {} bytes", 32 << 20));
    assert!(lines.len() > 8, "there are more counters: {text}");
    assert_eq!(
        (stat.records, stat.key_bytes, stat.value_bytes),
        (100, 400, 100_000)
    );
    assert_eq!(
        (stat.gets, stat.hits, stat.puts, stat.deletes),
        (2, 1, 100, 0)
    );
    assert_eq!(stat.device_bytes, 32 << 20);
    assert_eq!(
        stat.state & (STATE_PERSISTENT | STATE_READ_ONLY),
        STATE_PERSISTENT
    );
    assert_eq!(stat.durable_version, stat.version);
    assert!(stat.flushes > 0 && stat.frames > 0 && stat.written_bytes >= 100_000);
    assert!(stat.payload_bytes >= 100_000 && stat.live_sectors > 0 && stat.free_sectors > 0);
    assert_eq!((stat.pending_bytes, stat.errors), (0, 0));
}

const PARAMETERS: &[(&str, &str, u32)] = &[
    ("mount_path", "", 0o444),
    ("loop", "-1", 0o644),
    ("PORT", "12345", 0o444),
    ("bind", "127.0.0.1", 0o444),
    ("n", "5", 0o444),
    ("max_clients", "1024", 0o444),
    ("initialize_if_empty", "Y", 0o444),
    ("force_initialize", "N", 0o444),
    ("log_level", "4", 0o644),
    ("flush_interval_ms", "1000", 0o644),
    ("durability", "buffered", 0o644),
];

pub(crate) fn every_parameter_is_described_and_has_its_default() {
    let text = shell_ok(&format!("/usr/sbin/modinfo {PLACE}/hpkv.ko"));
    let described: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|l| l.strip_prefix("parm:")?.trim().split_once(':'))
        .collect();
    for (name, _, _) in PARAMETERS {
        let words = described
            .get(name)
            .unwrap_or_else(|| panic!("modinfo says nothing of {name}:\n{text}"));
        assert!(words.len() > 10, "modinfo says little of {name}: {words}");
    }
    assert_eq!(
        described.len(),
        PARAMETERS.len(),
        "parameters without a test: {described:?}"
    );
    for field in ["license:", "description:", "author:", "vermagic:"] {
        assert!(text.contains(field), "modinfo has no {field}\n{text}");
    }
    let _module = Module::load("");
    for (name, default, mode) in PARAMETERS {
        let value = parameter(name);
        let same = value == *default
            || matches!(
                (value.as_str(), *default),
                ("1", "Y") | ("0", "N") | ("(null)", "")
            );
        assert!(same, "{name} is {value:?}");
        let meta = fs::metadata(format!("/sys/module/hpkv/parameters/{name}")).unwrap();
        let allowed = if *mode == 0o644 {
            &[0o644, 0o600][..]
        } else {
            &[0o444, 0o644, 0o400]
        };
        assert!(
            allowed.contains(&(meta.mode() & 0o777)),
            "{name} has mode {:o}",
            meta.mode()
        );
    }
}

pub(crate) fn a_bad_parameter_fails_insmod_with_one_clear_line() {
    for bad in [
        "PORT=70000",
        "PORT=-1",
        "PORT=http",
        "bind=localhost",
        "bind=1.2.3",
        "bind=1.2.3.256",
        "n=-1",
        "n=x",
        "max_clients=0",
        "max_clients=x",
        "log_level=8",
        "log_level=-1",
        "flush_interval_ms=0",
        "flush_interval_ms=60001",
        "durability=none",
        "durability=",
        "loop=-2",
        "loop=x",
        "initialize_if_empty=2",
        "force_initialize=perhaps",
        "mount_path=/dev/loop1 loop=1",
    ] {
        let mut log = LogMark::new();
        fails_with(bad, Module::try_load(bad), &[libc::EINVAL]);
        assert!(!is_loaded());
        let name = bad.split('=').next().unwrap();
        let lines = log.lines();
        // The kernel adds a line of its own to some of them.
        let about: Vec<&String> = lines
            .iter()
            .filter(|l| l.starts_with("hpkv:") && l.contains(name))
            .filter(|l| !l.contains("invalid for parameter"))
            .collect();
        assert_eq!(about.len(), 1, "dmesg after insmod with {bad}: {lines:#?}");
    }
    // The same at run time, and the old value stays.
    let _module = Module::load("");
    for (name, bad) in [
        ("log_level", "8"),
        ("flush_interval_ms", "0"),
        ("durability", "maybe"),
        ("loop", "x"),
        ("loop", "-3"),
    ] {
        let before = parameter(name);
        fails_with(name, set_parameter(name, bad), &[libc::EINVAL]);
        assert_eq!(parameter(name), before);
    }
    for (name, good) in [
        ("log_level", "7"),
        ("flush_interval_ms", "50"),
        ("durability", "sync"),
    ] {
        set_parameter(name, good).unwrap();
        assert_eq!(parameter(name), good);
    }
    // And by insmod, as a person types it.
    drop(_module);
    let (ok, text) = shell(&format!("/usr/sbin/insmod {PLACE}/hpkv.ko PORT=99999"));
    assert!(!ok && text.contains("Invalid"), "insmod printed {text:?}");
}

pub(crate) fn log_level_decides_what_is_printed() {
    let mut count = BTreeMap::new();
    for level in [0, 4, 7] {
        let mut log = LogMark::new();
        let disk = Loop::new(40, 32 << 20);
        let module = Module::load(&format!("log_level={level} mount_path={}", disk.path()));
        Dev::open().put(b"a", b"b").unwrap();
        module.unload();
        count.insert(level, log.ours());
    }
    assert!(
        count[&0].len() <= count[&4].len(),
        "log_level=0 says less: {count:#?}"
    );
    assert!(
        count[&7].len() > count[&4].len(),
        "log_level=7 says more: {count:#?}"
    );
    assert!(
        count[&7]
            .iter()
            .any(|l| l.chars().any(|c| c.is_ascii_digit()) && l.contains("::")),
        "log_level=7 adds function and line: {:#?}",
        count[&7]
    );
}

pub(crate) fn without_a_device_nothing_is_kept_and_nothing_pretends() {
    let module = Module::load("");
    let dev = Dev::open();
    dev.put(b"k", b"v").unwrap();
    dev.sync().unwrap();
    let stat = dev.stat();
    assert_eq!(stat.state & STATE_PERSISTENT, 0);
    assert_eq!(
        (
            stat.device_bytes,
            stat.capacity_bytes,
            stat.written_bytes,
            stat.flushes
        ),
        (0, 0, 0, 0)
    );
    assert_eq!(parameter("loop"), "-1");
    drop(dev);
    module.unload();
    let _module = Module::load("");
    fails_with("get", Dev::open().get(b"k"), &[libc::ENOENT]);
}

pub(crate) fn port_0_means_no_listener_and_bind_is_obeyed() {
    let module = Module::load("PORT=0");
    Text::try_connect(PORT).expect_err("nobody listens with PORT=0");
    module.unload();
    let module = Module::load("PORT=4711 bind=127.0.0.1");
    assert_eq!(Text::try_connect(4711).unwrap().ask("get x"), "not found");
    Text::try_connect(PORT).expect_err("only the port that was asked for");
    module.unload();
    let _module = Module::load("bind=127.0.0.2");
    Text::try_connect(PORT).expect_err("127.0.0.1 is not the address");
    std::net::TcpStream::connect("127.0.0.2:12345").expect("127.0.0.2 is");
}

pub(crate) fn eight_clients_and_four_ioctl_threads_agree() {
    let _module = Module::load("n=0");
    std::thread::scope(|s| {
        for t in 0..4u64 {
            s.spawn(move || {
                let dev = Dev::open();
                for i in 0..3_000u64 {
                    let key = format!("d{t}-{}", i % 100);
                    let value = hpkv_vmtests::rng::text_of(t * 10_000 + i, (i % 700) as usize);
                    dev.put(key.as_bytes(), value.as_bytes()).unwrap();
                    assert_eq!(dev.get(key.as_bytes()).unwrap(), value.as_bytes());
                }
            });
        }
        for t in 0..8u64 {
            s.spawn(move || {
                let mut c = Text::connect();
                let dev = Dev::open();
                for i in 0..500u64 {
                    let value = hpkv_vmtests::rng::text_of(t * 10_000 + i, 1 + (i % 700) as usize);
                    assert_eq!(c.ask(&format!("put c{t}-{} {value}", i % 50)), "ok");
                    assert_eq!(c.ask(&format!("get c{t}-{}", i % 50)), value);
                    // What one interface acknowledged the other one sees.
                    let key = format!("c{t}-{}", i % 50);
                    assert_eq!(dev.get(key.as_bytes()).unwrap(), value.as_bytes());
                }
            });
        }
    });
    assert_eq!(Dev::open().stat().records, 4 * 100 + 8 * 50);
}

pub(crate) fn the_clients_counter_follows_the_clients() {
    let _module = Module::load("");
    let dev = Dev::open();
    let clients: Vec<Text> = (0..20).map(|_| Text::connect()).collect();
    wait_until("20 clients in the figures", || dev.stat().clients == 20);
    drop(clients);
    wait_until("0 clients in the figures", || dev.stat().clients == 0);
}
