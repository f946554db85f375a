// SPDX-License-Identifier: GPL-2.0
//! The guest's half of the power cuts: a load that tells what was acknowledged
//! until it is killed, and the comparison of an image with what was told.

use crate::dev::*;
use crate::kit::*;
use crate::sys;
use hpkv_vmtests::journal::Journal;
use hpkv_vmtests::rng::{seed_of, text_of};
use hpkv_vmtests::verify::{Expectation, Found};
use hpkv_vmtests::workload::{Change, Model, Op, Outcome, Plan, VALUE_LEN_MAX};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::Mutex;

/// What the runner tells by `name=value` words.
#[derive(Debug)]
pub(crate) struct Settings(HashMap<String, String>);

impl Settings {
    pub(crate) fn parse(words: impl Iterator<Item = String>) -> Self {
        Settings(
            words
                .map(|w| {
                    let (name, value) = w.split_once('=').expect("name=value");
                    (name.to_string(), value.to_string())
                })
                .collect(),
        )
    }

    fn text(&self, name: &str) -> &str {
        self.0
            .get(name)
            .unwrap_or_else(|| panic!("{name}= is missing"))
    }

    fn number(&self, name: &str) -> u64 {
        self.text(name)
            .parse()
            .unwrap_or_else(|_| panic!("{name}= is no number"))
    }

    fn plan(&self) -> Plan {
        Plan {
            seed: self.number("seed"),
            threads: self.number("threads"),
            keys_per_thread: self.number("keys") as usize,
            value_len_max: self.number("value_len_max") as usize,
            sync_every: self.number("sync_every"),
        }
    }

    fn starts(&self) -> Vec<u64> {
        self.text("starts")
            .split(',')
            .map(|n| n.parse().unwrap())
            .collect()
    }
}

/// The serial port on which acknowledgements leave.
struct Port(Mutex<File>);

impl Port {
    fn open(path: &str) -> Self {
        let file = OpenOptions::new().write(true).open(path).expect(path);
        sys::raw_terminal(file.as_raw_fd());
        Port(Mutex::new(file))
    }

    /// Writes a line; with `out`, returns when it has left the machine.
    fn tell(&self, line: &str, out: bool) {
        let mut file = self.0.lock().unwrap();
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
        if out {
            sys::drain(file.as_raw_fd());
        }
    }
}

fn make(dev: &Dev, key: &[u8], op: &Op) -> Result<u64, sys::Errno> {
    let data = op.data();
    let sync = if op.sync { SYNC } else { 0 };
    match op.change {
        Change::Put { .. } => dev.put_with(
            key,
            &data,
            Put {
                flags: sync,
                ..Put::default()
            },
        ),
        Change::Delete => dev.delete_with(key, sync, 0),
        Change::Append { .. } => dev
            .update_with(
                key,
                &data,
                Update {
                    flags: APPEND | sync,
                    ..Update::default()
                },
            )
            .map(|r| r.0),
        Change::Overwrite { offset, .. } => {
            let with = Update {
                flags: sync,
                offset: offset as u64,
                ..Update::default()
            };
            dev.update_with(key, &data, with).map(|r| r.0)
        }
    }
}

/// The value of write `i` of a text client, and its key.
fn text_write(seed: u64, client: u64, i: u64) -> (String, String) {
    let content = seed_of(&[seed, 3, client, i]);
    (
        format!("nc{client}-{}", i % 200),
        text_of(content, 1 + (content % 2_000) as usize),
    )
}

pub(crate) fn load(settings: &Settings) {
    let plan = settings.plan();
    let keys = plan.keys();
    let starts = settings.starts();
    let limit = settings.number("limit");
    let device = settings.text("device");
    let clients = settings.number("clients");
    let client_writes = settings.number("client_writes");
    wait_until(device, || fs::metadata(device).is_ok());
    let name = device.trim_start_matches("/dev/");
    let cache = format!("/sys/block/{name}/queue/write_cache");
    if settings.number("flush") == 0 {
        // The kernel then takes the disk for one without a cache and drops
        // every flush, as if the module did not ask for any.
        fs::write(&cache, "write through").unwrap();
    }
    println!(
        "write cache of {device}: {}",
        fs::read_to_string(&cache).unwrap().trim()
    );
    let parameters = format!(
        "mount_path={device} n=0 {}",
        settings.text("parameters").replace('+', " ")
    );
    let module = Module::load(&parameters);
    let port = Port::open(settings.text("journal"));
    std::thread::scope(|s| {
        for t in 0..plan.threads {
            let (plan, port, pool) = (&plan, &port, &keys[t as usize]);
            let start = starts[t as usize];
            s.spawn(move || {
                let dev = Dev::open();
                let mut model = Model::after(plan, t, start);
                for k in start..limit {
                    let op = plan.op(t, k);
                    let expected = model.apply(&op);
                    let version = match (make(&dev, &pool[op.key], &op), expected) {
                        (Ok(version), Outcome::Done) => version,
                        (Err(libc::ENOENT), Outcome::NotFound)
                        | (Err(libc::EFBIG), Outcome::TooBig) => 0,
                        (result, _) => {
                            port.tell(
                                &format!(
                                    "X thread {t} change {k}: {result:?}, expected {expected:?}"
                                ),
                                true,
                            );
                            panic!("thread {t} change {k}: {result:?}, expected {expected:?}");
                        }
                    };
                    if plan.sync_every != 0 {
                        port.tell(&format!("A {t} {k} {version}"), op.sync);
                    }
                }
            });
        }
        for c in 0..clients {
            let (port, seed) = (&port, plan.seed);
            s.spawn(move || {
                let mut client = Text::connect();
                for i in 0..client_writes {
                    let (key, value) = text_write(seed, c, i);
                    let put = client.ask(&format!("put {key} {value}"));
                    let got = client.ask(&format!("get {key}"));
                    if put != "ok" || got != value {
                        port.tell(
                            &format!("X client {c} write {i}: {put:.60} {got:.60}"),
                            true,
                        );
                        panic!("client {c} write {i}: {put:.60} {got:.60}");
                    }
                }
            });
        }
    });
    let dev = Dev::open();
    let version = dev.sync().unwrap();
    port.tell(&format!("S {version}"), true);
    println!("all written and synced, {:?}", dev.stat());
    std::mem::forget(module);
    loop {
        std::thread::park();
    }
}

fn check_image(
    settings: &Settings,
    plan: &Plan,
    keys: &[Vec<Vec<u8>>],
    image: u64,
) -> Result<Vec<u64>, String> {
    let stride = settings.number("stride");
    let journal_text = fs::read_to_string(settings.text("journal")).unwrap();
    let journal = Journal::parse(&journal_text);
    let told: usize = settings
        .text("told")
        .split(',')
        .nth(image as usize)
        .unwrap()
        .parse()
        .unwrap();
    let told = Journal::parse(&journal_text[..told.min(journal_text.len())]);
    let starts = settings.starts();
    let complete = settings.number("complete");
    let mut others = HashMap::new();
    for c in 0..settings.number("clients") {
        for i in 0..settings.number("client_writes") {
            let (key, value) = text_write(plan.seed, c, i);
            others.insert(key.into_bytes(), value.into_bytes());
        }
    }
    let disk = Loop::over(50, settings.text("device"), image * stride, stride, false);
    let mut log = LogMark::new();
    // Loaded twice: recovery must leave behind what it can recover from.
    let mut held = Vec::new();
    for pass in 0..2 {
        let module = Module::try_load(&format!("mount_path={} PORT=0", disk.path()))
            .map_err(|e| format!("load {pass}: {}, dmesg: {:?}", name_of(e), log.ours()))?;
        let dev = Dev::open();
        let entries = dev
            .scan_all(b"", b"", 0)
            .map_err(|e| format!("scan: {}", name_of(e)))?;
        // Point lookups must say the same as the scan.
        for entry in entries.iter().step_by(7) {
            if dev.get(&entry.key).as_ref() != Ok(&entry.value) {
                return Err(format!("GET and SCAN do not agree on {:02x?}", entry.key));
            }
        }
        let records = dev.stat().records;
        if records != entries.len() as u64 {
            return Err(format!(
                "STAT counts {records} records, SCAN returns {}",
                entries.len()
            ));
        }
        let found: Found = entries
            .into_iter()
            .map(|e| (e.key, (e.value, e.version)))
            .collect();
        let expectation = Expectation {
            plan,
            keys,
            starts: &starts,
            journal: &journal,
            told: &told,
            complete: (complete > 0).then_some(complete),
            others: &others,
        };
        let now = expectation
            .check(found)
            .map_err(|e| format!("load {pass}: {e}; dmesg {:?}", log.ours()))?;
        drop(dev);
        module.unload();
        if pass == 1 && now != held {
            return Err(format!(
                "the second load holds {now:?} changes, the first one held {held:?}"
            ));
        }
        held = now;
    }
    Ok(held)
}

/// Compares images that lie one after the other on a disk, and tells of each
/// in one line.
pub(crate) fn verify(settings: &Settings) -> bool {
    let plan = settings.plan();
    assert!(plan.value_len_max <= VALUE_LEN_MAX);
    let keys = plan.keys();
    let device = settings.text("device").to_string();
    wait_until(&device, || fs::metadata(&device).is_ok());
    let mut good = true;
    for image in settings.number("first")..settings.number("images") {
        let result = std::panic::catch_unwind(|| check_image(settings, &plan, &keys, image))
            .unwrap_or_else(|_| Err("the check panicked".to_string()));
        match result {
            Ok(held) => {
                let held: Vec<String> = held.iter().map(u64::to_string).collect();
                println!("IMAGE {image} GOOD {}", held.join(","));
            }
            Err(why) => {
                good = false;
                println!("IMAGE {image} BAD {}", why.replace('\n', " "));
                if is_loaded() {
                    sys::module_unload("hpkv").expect("rmmod after a bad image");
                }
            }
        }
        detach(50);
    }
    good
}
