// SPDX-License-Identifier: GPL-2.0
//! What a store may hold after a power cut, and what it may not.
//!
//! For each writer thread there must be a number of changes after which the
//! model equals the store, byte for byte. That number is at least that of the
//! changes acknowledged as durable and at most that of the changes issued.
//! Beyond that the whole store is a prefix of the order of commits: when the
//! newest version found is P, no change acknowledged with a version up to P
//! may be missing, whoever made it and whether it was synchronous or not.

use crate::journal::Journal;
use crate::workload::{Model, Outcome, Plan};
use std::collections::HashMap;

/// What was read back: key to value and version.
pub type Found = HashMap<Vec<u8>, (Vec<u8>, u64)>;

/// What is known of a run.
#[derive(Debug)]
pub struct Expectation<'a> {
    pub plan: &'a Plan,
    pub keys: &'a [Vec<Vec<u8>>],
    /// How many changes of each thread the device held before the run.
    pub starts: &'a [u64],
    /// Everything that was told until the machine was killed.
    pub journal: &'a Journal,
    /// What was told before the power cut, which comes earlier if the disk's
    /// log was cut too.
    pub told: &'a Journal,
    /// Set when all threads ended and a SYNC call returned: all of so many
    /// changes of each thread are there.
    pub complete: Option<u64>,
    /// Records written by others, complete and durable.
    pub others: &'a HashMap<Vec<u8>, Vec<u8>>,
}

impl Expectation<'_> {
    /// The bounds for the number of changes of a thread.
    fn bounds(&self, thread: u64) -> (u64, u64) {
        if let Some(all) = self.complete {
            return (all, all);
        }
        let start = self.starts[thread as usize];
        let reported = self.journal.done(thread, start);
        // A change that was refused makes nothing durable.
        let acks = self.told.acknowledged.get(&thread);
        let committed = |k: u64| acks.and_then(|a| a.get(&k)).is_some_and(|&v| v != 0);
        let told = self.told.done(thread, start);
        let durable = (start..told)
            .rev()
            .find(|&k| self.plan.op(thread, k).sync && committed(k));
        // A thread does not go past a synchronous change before its line is
        // out, so that is how far it may have come unheard.
        let mut issued = reported + 1;
        while self.plan.sync_every != 0 && !self.plan.op(thread, issued - 1).sync {
            issued += 1;
        }
        (durable.map_or(start, |k| k + 1), issued)
    }

    /// Compares a store with what is known. Returns how many changes of each
    /// thread it holds.
    pub fn check(&self, mut found: Found) -> Result<Vec<u64>, String> {
        for (key, value) in self.others {
            match found.remove(key) {
                Some((got, _)) if got == *value => {}
                Some((got, _)) => {
                    return Err(format!(
                        "{} has another value of {} bytes instead of {}",
                        String::from_utf8_lossy(key),
                        got.len(),
                        value.len()
                    ));
                }
                None => return Err(format!("{} is missing", String::from_utf8_lossy(key))),
            }
        }
        let newest = found.values().map(|v| v.1).max().unwrap_or(0);
        let mut held = Vec::new();
        let mut known = 0;
        for (thread, keys) in self.keys.iter().enumerate() {
            let stored: Vec<_> = keys.iter().map(|k| found.get(k)).collect();
            known += stored.iter().flatten().count();
            held.push(self.check_thread(thread as u64, &stored, newest)?);
        }
        if known != found.len() {
            let pools: std::collections::HashSet<&Vec<u8>> = self.keys.iter().flatten().collect();
            let stranger = found.keys().find(|k| !pools.contains(k));
            return Err(format!(
                "{} keys that nobody wrote, one of them {:02x?}",
                found.len() - known,
                stranger.map(|k| &k[..k.len().min(24)])
            ));
        }
        Ok(held)
    }

    fn check_thread(
        &self,
        thread: u64,
        stored: &[Option<&(Vec<u8>, u64)>],
        newest: u64,
    ) -> Result<u64, String> {
        let (low, high) = self.bounds(thread);
        let acks = self.journal.acknowledged.get(&thread);
        let version_of = |k: u64| acks.and_then(|a| a.get(&k)).copied().filter(|&v| v != 0);
        // The number of changes that the prefix property demands.
        let due = acks
            .and_then(|a| a.iter().rev().find(|&(_, &v)| v != 0 && v <= newest))
            .map_or(0, |(&k, _)| k + 1);
        let mut model = Model::new(self.plan);
        let mut last_change: Vec<Option<u64>> = vec![None; stored.len()];
        let step = |model: &mut Model, last: &mut Vec<Option<u64>>, k: u64| {
            let op = self.plan.op(thread, k);
            if model.apply(&op) == Outcome::Done {
                last[op.key] = Some(k);
            }
            op.key
        };
        for k in 0..low {
            step(&mut model, &mut last_change, k);
        }
        let equal = |model: &Model, key: usize| match (&model.values[key], stored[key]) {
            (None, None) => true,
            (Some(want), Some((got, _))) => want.len == got.len() && want.bytes() == *got,
            _ => false,
        };
        let mut same: Vec<bool> = (0..stored.len()).map(|key| equal(&model, key)).collect();
        let mut wrong = same.iter().filter(|s| !**s).count();
        let first_wrong = wrong;
        let sample = same.iter().position(|s| !s);
        let mut done = low;
        let mut best = None;
        loop {
            if wrong == 0 {
                best = Some((done, last_change.clone()));
                if done >= due {
                    break;
                }
            }
            if done == high {
                break;
            }
            let key = step(&mut model, &mut last_change, done);
            done += 1;
            let now = equal(&model, key);
            wrong = wrong + usize::from(same[key]) - usize::from(now);
            same[key] = now;
        }
        let Some((done, last_change)) = best else {
            return Err(format!(
                "thread {thread}: the store matches no number of changes from {low} (durable) to {high} (issued); \
                 {first_wrong} of {} keys differ from the durable state, {}",
                stored.len(),
                sample.map_or(String::new(), |key| {
                    let model = Model::after(self.plan, thread, low);
                    format!(
                        "key {key} holds {:?} bytes instead of {:?}",
                        stored[key].map(|s| s.0.len()),
                        model.values[key].as_ref().map(|v| v.len)
                    )
                })
            ));
        };
        if done < due {
            return Err(format!(
                "thread {thread}: holds {done} changes, but version {newest} is there and change {} \
                 was acknowledged with version {:?}: not a prefix of the commits",
                due - 1,
                version_of(due - 1)
            ));
        }
        for (key, stored) in stored.iter().enumerate() {
            if let (Some((_, version)), Some(k)) = (stored, last_change[key])
                && let Some(told) = version_of(k)
                && told != *version
            {
                return Err(format!(
                    "thread {thread}: key {key} has version {version}, change {k} was acknowledged with {told}"
                ));
            }
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            seed: 3,
            threads: 2,
            keys_per_thread: 8,
            value_len_max: 4_000,
            sync_every: 4,
        }
    }

    /// A store that holds the first `counts` changes of each thread; change k
    /// of thread t has version 1 + 2 k + t.
    fn store(plan: &Plan, keys: &[Vec<Vec<u8>>], counts: [u64; 2]) -> Found {
        let mut found = Found::new();
        for t in 0..2 {
            let mut model = Model::new(plan);
            let mut versions = [0; 8];
            for k in 0..counts[t as usize] {
                let op = plan.op(t, k);
                if model.apply(&op) == Outcome::Done {
                    versions[op.key] = 1 + 2 * k + t;
                }
            }
            for (i, value) in model.values.iter().enumerate() {
                if let Some(value) = value {
                    found.insert(keys[t as usize][i].clone(), (value.bytes(), versions[i]));
                }
            }
        }
        found
    }

    fn journal(plan: &Plan, counts: [u64; 2]) -> Journal {
        let mut journal = Journal::default();
        for t in 0..2 {
            let mut model = Model::new(plan);
            for k in 0..counts[t as usize] {
                let done = model.apply(&plan.op(t, k)) == Outcome::Done;
                let version = if done { 1 + 2 * k + t } else { 0 };
                journal
                    .acknowledged
                    .entry(t)
                    .or_default()
                    .insert(k, version);
            }
        }
        journal
    }

    #[test]
    fn what_was_acknowledged_as_durable_must_be_there_and_nothing_that_was_not_issued() {
        let plan = plan();
        let keys = plan.keys();
        let journal = journal(&plan, [22, 22]);
        let others = HashMap::new();
        let expectation = Expectation {
            plan: &plan,
            keys: &keys,
            starts: &[0, 0],
            journal: &journal,
            told: &journal,
            complete: None,
            others: &others,
        };
        // Changes 0..20 are durable (number 19 was synchronous), 24 may have
        // been issued.
        for count in [20, 21, 22, 23, 24] {
            expectation
                .check(store(&plan, &keys, [count, count]))
                .unwrap();
        }
        for count in [0, 10, 18, 30] {
            expectation
                .check(store(&plan, &keys, [count, count]))
                .unwrap_err();
        }
        let mut damaged = store(&plan, &keys, [20, 20]);
        damaged.values_mut().find(|v| !v.0.is_empty()).unwrap().0[0] ^= 1;
        expectation.check(damaged).unwrap_err();
        let mut stranger = store(&plan, &keys, [20, 20]);
        stranger.insert(b"stranger".to_vec(), (vec![], 1));
        assert!(
            expectation
                .check(stranger)
                .unwrap_err()
                .contains("nobody wrote")
        );
    }

    #[test]
    fn a_refused_synchronous_change_makes_nothing_durable() {
        let plan = plan();
        let keys = plan.keys();
        let mut told = journal(&plan, [22, 22]);
        *told.acknowledged.get_mut(&0).unwrap().get_mut(&19).unwrap() = 0;
        let others = HashMap::new();
        let expectation = Expectation {
            plan: &plan,
            keys: &keys,
            starts: &[0, 0],
            journal: &told,
            told: &told,
            complete: None,
            others: &others,
        };
        assert_eq!(
            (expectation.bounds(0), expectation.bounds(1)),
            ((16, 24), (20, 24))
        );
    }

    #[test]
    fn a_store_that_is_no_prefix_of_the_commits_is_refused() {
        let plan = Plan {
            sync_every: 1_000,
            ..plan()
        };
        let keys = plan.keys();
        let journal = journal(&plan, [40, 40]);
        let others = HashMap::new();
        let expectation = Expectation {
            plan: &plan,
            keys: &keys,
            starts: &[0, 0],
            journal: &journal,
            told: &journal,
            complete: None,
            others: &others,
        };
        expectation.check(store(&plan, &keys, [30, 30])).unwrap();
        let error = expectation
            .check(store(&plan, &keys, [10, 38]))
            .unwrap_err();
        assert!(error.contains("prefix"), "{error}");
    }
}
