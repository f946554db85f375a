// SPDX-License-Identifier: GPL-2.0

//! A shard: the part of the store that one lock guards.
//!
//! Readers of single keys use [`Shard::index`] without the lock. Everything that changes a key
//! holds the lock from looking at the current record to publishing the next one, and takes the
//! commit's sequence under it. So sequences grow within a shard, and whoever takes the lock after
//! reading the sequence counter finds every earlier commit of the shard in `pending`.

use super::error::Result;
use super::index::{Index, Writer};
use super::log::Entry;
use super::order::Order;
use super::record::{key_of, Record};
use crate::sys::{Mutex, Vec};

/// What the lock guards.
pub(crate) struct ShardState {
    pub(crate) writer: Writer,
    pub(crate) order: Order,
    /// Commits that the log writer has not taken yet, in their order.
    pub(crate) pending: Vec<Entry>,
    /// The store takes no more changes; see `database.rs`.
    pub(crate) sealed: bool,
    pub(crate) key_bytes: u64,
    pub(crate) value_bytes: u64,
}

/// One part of the store.
pub(crate) struct Shard {
    pub(crate) index: Index,
    pub(crate) state: Mutex<ShardState>,
}

impl Shard {
    pub(crate) fn new() -> Result<Self> {
        let (index, writer) = Index::new()?;
        let state = ShardState {
            writer,
            order: Order::new(),
            pending: Vec::new(),
            sealed: false,
            key_bytes: 0,
            value_bytes: 0,
        };
        Ok(Shard {
            index,
            state: Mutex::new(state)?,
        })
    }

    /// Allocates what [`Shard::publish`] needs, so that it cannot fail half-way.
    pub(crate) fn prepare(&self, state: &mut ShardState, current: Option<&Record>) -> Result {
        if current.is_none() {
            self.index.prepare_insert(&mut state.writer)?;
        }
        if current.is_none_or(|record| record.header().is_tombstone()) {
            state.order.prepare_insert()?;
        }
        Ok(())
    }

    /// Makes `record` the current one of its key in place of `current`.
    ///
    /// The caller prepared for it and holds the lock.
    pub(crate) fn publish(
        &self,
        state: &mut ShardState,
        record: &Record,
        current: Option<&Record>,
    ) -> Result {
        match current {
            None => self.index.insert(&mut state.writer, record.clone())?,
            Some(_) => drop(self.index.replace(&mut state.writer, record.clone())),
        }
        let live_before = current.filter(|current| !current.header().is_tombstone());
        let header = record.header();
        match (live_before, header.is_tombstone()) {
            (None, false) => state.order.insert(record.clone())?,
            (Some(current), false) => drop(state.order.replace(current, record.clone())),
            (Some(current), true) => drop(state.order.remove(current)),
            (None, true) => {}
        }
        if let Some(current) = live_before {
            state.uncount(current);
        }
        if !header.is_tombstone() {
            state.key_bytes += u64::from(header.key_len);
            state.value_bytes += u64::from(header.value_len);
        }
        Ok(())
    }

    /// Takes the current record of a key out of the shard without a trace.
    pub(crate) fn forget(&self, state: &mut ShardState, current: &Record) {
        let header = current.header();
        drop(
            self.index
                .remove(&mut state.writer, header.hash, key_of(current)),
        );
        if !header.is_tombstone() {
            drop(state.order.remove(current));
            state.uncount(current);
        }
    }
}

impl ShardState {
    fn uncount(&mut self, record: &Record) {
        let header = record.header();
        self.key_bytes = self.key_bytes.saturating_sub(u64::from(header.key_len));
        self.value_bytes = self.value_bytes.saturating_sub(u64::from(header.value_len));
    }
}
