// SPDX-License-Identifier: GPL-2.0

//! Scans: the shards' trees merged into one ascending sequence of keys.
//!
//! A shard's lock is held only to take references to the next few of its records. A record that
//! is in the store for as long as the scan takes is seen exactly once; one that comes or goes
//! meanwhile is seen or not, and one that is replaced is seen in one of its versions.

use super::error::{Error, Result};
use super::limits::SCAN_BATCH;
use super::record::{key_of, Record, RecordView};
use super::shard::Shard;
use super::stats::Event;
use super::store::Store;
use crate::sys::{wall_ms, Disk, Vec};

/// What to scan.
#[derive(Clone, Copy)]
pub struct ScanRequest<'a> {
    /// The first key; empty = the first one of the store.
    pub start: &'a [u8],
    /// Begin behind `start`, not at it.
    pub after: bool,
    /// The key to stop before; empty = none.
    pub end: &'a [u8],
    /// 0, or what the previous part of the scan returned.
    pub cursor: u64,
}

/// How a part of a scan ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanEnd {
    /// To be given to the next part.
    pub cursor: u64,
    /// The visitor ended the scan, so there may be more.
    pub more: bool,
}

/// The next records of one shard, the nearest last.
struct Source<'a> {
    shard: &'a Shard,
    ahead: Vec<Record>,
    /// There may be more behind what is in `ahead`.
    more: bool,
}

impl Source<'_> {
    fn refill(&mut self, start: &[u8], after: bool, end: &[u8]) -> Result {
        self.ahead.clear();
        self.ahead.reserve(SCAN_BATCH)?;
        let state = self.shard.state.lock();
        self.more = false;
        for record in state.order.range(start, after) {
            if !end.is_empty() && key_of(record) >= end {
                break;
            }
            if self.ahead.len() == SCAN_BATCH {
                self.more = true;
                break;
            }
            self.ahead.push(record.clone())?;
        }
        drop(state);
        self.ahead.reverse();
        Ok(())
    }
}

impl<D: Disk> Store<D> {
    /// Calls `visit` with records in ascending order of keys until it says `false`, with no lock
    /// held. [`Error::Stale`] if the cursor is another store's.
    pub(crate) fn scan(
        &self,
        request: &ScanRequest<'_>,
        mut visit: impl FnMut(RecordView<'_>) -> Result<bool>,
    ) -> Result<ScanEnd> {
        let cursor = self.instance();
        if request.cursor != 0 && request.cursor != cursor {
            return Err(Error::Stale);
        }
        self.core.count(Event::Scans, 1);
        let mut sources = Vec::with_capacity(self.core.shards.len())?;
        for shard in self.core.shards.iter() {
            let mut source = Source {
                shard,
                ahead: Vec::new(),
                more: false,
            };
            source.refill(request.start, request.after, request.end)?;
            sources.push(source)?;
        }
        loop {
            let nearest = sources
                .iter_mut()
                .filter(|source| !source.ahead.is_empty())
                .min_by(|a, b| key_of_last(&a.ahead).cmp(key_of_last(&b.ahead)));
            let Some(source) = nearest else {
                return Ok(ScanEnd {
                    cursor,
                    more: false,
                });
            };
            let Some(record) = source.ahead.pop() else {
                continue;
            };
            if source.ahead.is_empty() && source.more {
                source.refill(key_of(&record), true, request.end)?;
            }
            if record.header().is_visible(wall_ms) && !visit(RecordView(&record))? {
                return Ok(ScanEnd { cursor, more: true });
            }
        }
    }
}

fn key_of_last(records: &[Record]) -> &[u8] {
    records.last().map_or(&[], |record| key_of(record))
}
