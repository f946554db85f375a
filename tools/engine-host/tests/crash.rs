// SPDX-License-Identifier: GPL-2.0

//! Power cuts on the host: whatever the device keeps of what was not flushed, the store that comes
//! back is a prefix of the commits and holds everything that was acknowledged as durable.
//!
//! The fault model is that of [`MemoryDisk`]: writes behind the last flush survive in any
//! combination, sector by sector.

mod common;

use common::{all, put, try_open as open, Model};
use hpkv_engine::engine::{Database, Error, UpdateAt, WriteOptions};
use hpkv_engine::sys::MemoryDisk;
use std::collections::BTreeMap;

/// xorshift64*: a seed names a run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 33) % bound
    }
}

/// The store as it was after each commit since the last durable one, and what the next one is.
struct History {
    /// The state at the last point that was acknowledged as durable.
    base: Model,
    /// Changes since: the key and its new value.
    since: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl History {
    fn current(&self) -> Model {
        self.states().last().unwrap()
    }

    fn states(&self) -> impl Iterator<Item = Model> + '_ {
        let mut model = self.base.clone();
        std::iter::once(self.base.clone()).chain(self.since.iter().map(move |(key, value)| {
            match value {
                Some(value) => model.insert(key.clone(), value.clone()),
                None => model.remove(key),
            };
            model.clone()
        }))
    }
}

/// What is written: so many keys, values up to so many bytes, and now and then much longer ones.
#[derive(Clone, Copy)]
struct Load {
    keys: u64,
    value: u64,
    long_value: u64,
    steps: u64,
}

/// The device always has room.
const LIGHT: Load = Load {
    keys: 60,
    value: 600,
    long_value: 60_000,
    steps: 400,
};

/// The device is full most of the time.
const FULL: Load = Load {
    keys: 400,
    value: 6000,
    long_value: 30_000,
    steps: 900,
};

fn step(
    db: &Database<MemoryDisk>,
    load: Load,
    random: &mut Random,
    history: &mut History,
    current: &mut Model,
) {
    let key = format!("k{}", random.below(load.keys)).into_bytes();
    let len = if random.below(10) == 0 {
        random.below(load.long_value)
    } else {
        random.below(load.value)
    } as usize;
    let value = vec![random.next() as u8; len];
    let change = match random.below(10) {
        0..6 => match put(db, &key, &value) {
            Ok(_) => (key, Some(value)),
            Err(Error::NoSpace) => return,
            Err(error) => panic!("{error:?}"),
        },
        6 => {
            let mut longer = current.get(&key).cloned().unwrap_or_default();
            longer.extend_from_slice(&value[..len.min(100)]);
            let tail = &value[..len.min(100)];
            match db.update(&key, tail, UpdateAt::Append, &WriteOptions::default()) {
                Ok(_) => (key, Some(longer)),
                Err(Error::NoSpace) => return,
                Err(error) => panic!("{error:?}"),
            }
        }
        _ => match db.delete(&key, &WriteOptions::default()) {
            Ok(_) => (key, None),
            Err(Error::NotFound) => return,
            Err(error) => panic!("{error:?}"),
        },
    };
    match &change.1 {
        Some(value) => current.insert(change.0.clone(), value.clone()),
        None => current.remove(&change.0),
    };
    history.since.push(change);
}

/// How `found` differs from the state that it differs from least.
fn nearest(states: &[Model], found: &Model) -> String {
    let differences = |state: &Model| -> Vec<String> {
        let keys: std::collections::BTreeSet<_> = state.keys().chain(found.keys()).collect();
        let len = |value: Option<&Vec<u8>>| value.map(Vec::len);
        keys.into_iter()
            .filter(|key| state.get(*key) != found.get(*key))
            .map(|key| {
                let (expected, got) = (len(state.get(key)), len(found.get(key)));
                format!(
                    "{}: {expected:?} bytes expected, {got:?} found",
                    key.escape_ascii()
                )
            })
            .collect()
    };
    let (at, least) = states
        .iter()
        .map(differences)
        .enumerate()
        .min_by_key(|(_, differences)| differences.len())
        .unwrap();
    format!("nearest is state {at} of {}: {least:?}", states.len())
}

/// Runs one history with several power cuts, each recovered from several images.
fn run(seed: u64, load: Load, lying: bool) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut disk = MemoryDisk::new(1 << 20);
    let mut history = History {
        base: Model::new(),
        since: Vec::new(),
    };
    for _ in 0..4 {
        if lying {
            disk = disk.with_lying_flushes();
        }
        let db = open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
        let mut current = history.current();
        assert!(
            all(&db) == current,
            "seed {seed}: the reopened store is another"
        );
        for _ in 0..random.below(load.steps) {
            step(&db, load, &mut random, &mut history, &mut current);
            if random.below(25) == 0 {
                db.sync().unwrap();
                history = History {
                    base: current.clone(),
                    since: Vec::new(),
                };
            }
        }
        let states: Vec<Model> = history.states().collect();
        let mut survivor = None;
        for _ in 0..4 {
            let odds = [0, 1, 4, 7, 8][random.below(5) as usize];
            let torn = random.below(3) == 0;
            let mut kept = BTreeMap::new();
            let image = disk.crash(|write, sector| {
                let part = if torn { sector } else { 0 };
                *kept
                    .entry((write, part))
                    .or_insert_with(|| random.below(8) < odds)
            });
            let after = MemoryDisk::from_image(image.clone());
            let found = open(&after).map(|db| {
                let found = all(&db);
                // Recovery must be repeatable, and what it cut off must not come back.
                assert_eq!(db.close(), 0);
                let again = open(&MemoryDisk::from_image(after.image())).unwrap();
                assert!(
                    all(&again) == found,
                    "seed {seed}: a second recovery differs"
                );
                // It must also have the room to go on, however full it is.
                for (key, value) in found.iter().take(100) {
                    if let Err(error) = put(&again, key, value) {
                        panic!("seed {seed}: an overwrite after recovery: {error:?}");
                    }
                }
                let synced = again.sync();
                assert!(synced.is_ok(), "seed {seed}: after recovery: {synced:?}");
                assert_eq!(again.close(), 0);
                found
            });
            let found = found.unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
            assert!(
                states.contains(&found),
                "seed {seed}: not a prefix that holds what is durable: {}",
                nearest(&states, &found)
            );
            survivor = Some((image, found));
        }
        let (image, found) = survivor.unwrap();
        disk = MemoryDisk::from_image(image);
        history = History {
            base: found,
            since: Vec::new(),
        };
    }
}

/// `LOG_LEVEL=7` shows what recovery saw.
fn set_log_level() {
    if let Some(level) = std::env::var("LOG_LEVEL")
        .ok()
        .and_then(|text| text.parse().ok())
    {
        hpkv_engine::sys::set_log_level(level);
    }
}

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str, default| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    let start = number("SEED_START", 1);
    start..start + number("SEEDS", 60)
}

#[test]
fn a_power_cut_leaves_a_prefix_with_everything_durable() {
    set_log_level();
    for seed in seeds() {
        run(seed, LIGHT, false);
    }
}

/// As above, and what comes back must still have the room to go on: a device that was cut off in
/// the middle of compaction may not have a single free segment.
#[test]
fn a_power_cut_on_a_full_device_leaves_one_that_can_be_written_to() {
    set_log_level();
    for seed in seeds() {
        run(seed, FULL, false);
    }
}

/// The tests above must be able to fail: on a disk whose flushes do nothing they do.
#[test]
fn a_missing_flush_is_noticed() {
    let caught = seeds()
        .take(20)
        .filter(|seed| {
            let seed = *seed;
            std::panic::catch_unwind(move || run(seed, LIGHT, true)).is_err()
        })
        .count();
    assert!(caught > 0, "no run noticed that nothing was flushed");
}
