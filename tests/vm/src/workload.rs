// SPDX-License-Identifier: GPL-2.0
//! Changes that a seed determines, and what a store must hold after them.
//!
//! Each writer thread has keys of its own and makes its changes one after the
//! other, so what the store holds of a thread is told by one number: how many
//! of its changes took place.

use crate::rng::{Rng, bytes_of, seed_of};
use std::collections::HashSet;

pub const KEY_LEN_MAX: usize = 1024;
pub const VALUE_LEN_MAX: usize = 1 << 20;

/// What determines a run.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub threads: u64,
    pub keys_per_thread: usize,
    /// Values are cut to this length.
    pub value_len_max: usize,
    /// Each n-th change of a thread is synchronous; 1 = all, 0 = none.
    pub sync_every: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Put { len: usize },
    Append { len: usize },
    Overwrite { offset: usize, len: usize },
    Delete,
}

/// One change of one thread.
#[derive(Debug, Clone, Copy)]
pub struct Op {
    /// Index of the key in the thread's pool.
    pub key: usize,
    pub change: Change,
    /// Seed of the bytes that the change brings.
    pub content: u64,
    pub sync: bool,
}

impl Op {
    #[must_use]
    pub fn data(&self) -> Vec<u8> {
        match self.change {
            Change::Put { len } | Change::Append { len } | Change::Overwrite { len, .. } => {
                bytes_of(self.content, len)
            }
            Change::Delete => Vec::new(),
        }
    }
}

/// How a change must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    NotFound,
    TooBig,
}

/// A length from 0 to 1 MiB, most of them small, the limits among them.
fn value_len(rng: &mut Rng, max: usize) -> usize {
    let len = match rng.below(10_000) {
        0..500 => 0,
        500..6_500 => rng.between(1, 256),
        6_500..9_300 => rng.between(257, 2_048),
        9_300..9_900 => rng.between(2_049, 16_384),
        9_900..9_993 => rng.between(16_385, 65_536),
        9_993..9_997 => rng.between(65_537, VALUE_LEN_MAX as u64),
        _ => VALUE_LEN_MAX as u64,
    };
    (len as usize).min(max)
}

fn key_len(rng: &mut Rng) -> usize {
    match rng.below(100) {
        0..10 => rng.between(1, 8) as usize,
        10..75 => rng.between(9, 64) as usize,
        75..98 => rng.between(65, 1_023) as usize,
        _ => KEY_LEN_MAX,
    }
}

impl Plan {
    /// The keys of every thread: 1 to 1024 random bytes, no two equal.
    #[must_use]
    pub fn keys(&self) -> Vec<Vec<Vec<u8>>> {
        let mut rng = Rng::new(seed_of(&[self.seed, 1]));
        let mut seen = HashSet::new();
        let mut fresh = || loop {
            let mut key = vec![0; key_len(&mut rng)];
            rng.fill(&mut key);
            if seen.insert(key.clone()) {
                break key;
            }
        };
        (0..self.threads)
            .map(|_| (0..self.keys_per_thread).map(|_| fresh()).collect())
            .collect()
    }

    /// Change number `k` of a thread.
    #[must_use]
    pub fn op(&self, thread: u64, k: u64) -> Op {
        let content = seed_of(&[self.seed, 2, thread, k]);
        let mut rng = Rng::new(content);
        // The first pass over the pool makes the keys, then it is random.
        let key = if k < self.keys_per_thread as u64 {
            k as usize
        } else {
            rng.below(self.keys_per_thread as u64) as usize
        };
        let len = value_len(&mut rng, self.value_len_max);
        let change = match rng.below(100) {
            0..60 => Change::Put { len },
            60..75 => Change::Append {
                len: len.clamp(1, 4_096),
            },
            75..85 => Change::Overwrite {
                offset: rng.below(3_000) as usize,
                len: len.clamp(1, 4_096),
            },
            _ => Change::Delete,
        };
        let sync = self.sync_every != 0 && (k + 1) % self.sync_every == 0;
        Op {
            key,
            change,
            content,
            sync,
        }
    }
}

/// A value as the pieces it was written in; later ones lie over earlier ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Value {
    pub len: usize,
    pieces: Vec<(usize, u64, usize)>,
}

impl Value {
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = vec![0; self.len];
        for &(at, seed, len) in &self.pieces {
            Rng::new(seed).fill(&mut out[at..at + len]);
        }
        out
    }
}

/// What the store holds of one thread after a number of changes.
#[derive(Debug, Clone)]
pub struct Model {
    pub values: Vec<Option<Value>>,
    /// Number of changes behind this state.
    pub done: u64,
}

impl Model {
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        Model {
            values: vec![None; plan.keys_per_thread],
            done: 0,
        }
    }

    /// Makes one change and says how the store must answer it.
    pub fn apply(&mut self, op: &Op) -> Outcome {
        self.done += 1;
        let slot = &mut self.values[op.key];
        match op.change {
            Change::Put { len } => {
                *slot = Some(Value {
                    len,
                    pieces: vec![(0, op.content, len)],
                });
            }
            Change::Delete => {
                if slot.take().is_none() {
                    return Outcome::NotFound;
                }
            }
            Change::Append { len } | Change::Overwrite { len, .. } => {
                let old = slot.as_ref().map_or(0, |v| v.len);
                let at = match op.change {
                    Change::Overwrite { offset, .. } => offset,
                    _ => old,
                };
                let end = old.max(at + len);
                if end > VALUE_LEN_MAX {
                    return Outcome::TooBig;
                }
                let value = slot.get_or_insert_default();
                value.len = end;
                value.pieces.push((at, op.content, len));
            }
        }
        Outcome::Done
    }

    /// The state of `thread` after its first `done` changes.
    #[must_use]
    pub fn after(plan: &Plan, thread: u64, done: u64) -> Self {
        let mut model = Model::new(plan);
        for k in 0..done {
            model.apply(&plan.op(thread, k));
        }
        model
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            seed: 5,
            threads: 2,
            keys_per_thread: 300,
            value_len_max: VALUE_LEN_MAX,
            sync_every: 4,
        }
    }

    #[test]
    fn keys_are_distinct_and_cover_both_limits() {
        let plan = Plan {
            keys_per_thread: 2_000,
            ..plan()
        };
        let keys: Vec<_> = plan.keys().concat();
        assert_eq!(keys.iter().collect::<HashSet<_>>().len(), 4_000);
        assert_eq!(keys.iter().map(Vec::len).min(), Some(1));
        assert_eq!(keys.iter().map(Vec::len).max(), Some(KEY_LEN_MAX));
    }

    #[test]
    fn values_cover_both_limits_and_every_kind_of_change_occurs() {
        let plan = plan();
        let ops: Vec<Op> = (0..20_000).map(|k| plan.op(0, k)).collect();
        let lens: Vec<usize> = ops
            .iter()
            .filter_map(|op| match op.change {
                Change::Put { len } => Some(len),
                _ => None,
            })
            .collect();
        assert_eq!(
            (lens.iter().min(), lens.iter().max()),
            (Some(&0), Some(&VALUE_LEN_MAX))
        );
        assert!(
            ops.iter()
                .any(|op| matches!(op.change, Change::Append { .. }))
        );
        assert!(
            ops.iter()
                .any(|op| matches!(op.change, Change::Overwrite { .. }))
        );
        assert!(ops.iter().any(|op| op.change == Change::Delete));
    }

    #[test]
    fn the_model_appends_overwrites_and_fills_gaps_with_zeros() {
        let plan = Plan {
            keys_per_thread: 1,
            ..plan()
        };
        let mut model = Model::new(&plan);
        let op = |change, content| Op {
            key: 0,
            change,
            content,
            sync: false,
        };
        assert_eq!(model.apply(&op(Change::Delete, 0)), Outcome::NotFound);
        assert_eq!(model.apply(&op(Change::Put { len: 10 }, 1)), Outcome::Done);
        assert_eq!(
            model.apply(&op(Change::Append { len: 5 }, 2)),
            Outcome::Done
        );
        assert_eq!(
            model.apply(&op(Change::Overwrite { offset: 20, len: 2 }, 3)),
            Outcome::Done
        );
        let mut want = bytes_of(1, 10);
        want.extend(bytes_of(2, 5));
        want.extend([0; 5]);
        want.extend(bytes_of(3, 2));
        assert_eq!(model.values[0].as_ref().unwrap().bytes(), want);
        assert_eq!(
            model.apply(&op(
                Change::Overwrite {
                    offset: VALUE_LEN_MAX,
                    len: 1
                },
                4
            )),
            Outcome::TooBig
        );
        assert_eq!(model.done, 5);
    }
}
