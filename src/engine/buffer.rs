// SPDX-License-Identifier: GPL-2.0

//! The write buffer: what was committed and is not yet on the device, and who waits for it.
//!
//! The records themselves wait in their shards, in commit order, so that writers of different
//! shards share nothing. This file holds what they share: the count of waiting bytes, which
//! bounds the buffer, and the state that the log writer, the waiters for durability and
//! compaction agree on.
//!
//! # Locks
//!
//! The buffer's lock is taken alone. No other lock is taken under it.

use super::error::{Error, Result};
use super::limits::{WRITE_BUFFER_BYTES_EAGER, WRITE_BUFFER_BYTES_MAX};
use super::log::Entry;
use crate::sys::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sys::{now_ms, Condvar, Mutex, Vec};

/// What the log writer is to do next.
pub(crate) enum Job {
    /// Write what waits; with `flush`, make it durable.
    Round { flush: bool },
    /// Everything is written and the store is being closed.
    Stop,
}

struct State {
    /// Every commit up to this sequence survives a power cut.
    durable: u64,
    /// Somebody waits for this sequence to be durable.
    wanted: u64,
    /// When the oldest commit that is not durable was made, by the monotonic clock.
    dirty_since_ms: Option<u64>,
    /// Records that compaction wants written again.
    moves: Vec<Entry>,
    moves_asked: u64,
    moves_done: u64,
    /// The log has no segment for commits; the log writer waits for compaction.
    stuck: bool,
    stopping: bool,
    /// The log writer is gone: what waits now would wait for ever.
    ended: bool,
    failed: bool,
}

impl State {
    fn is_moving(&self) -> bool {
        self.moves_asked > self.moves_done
    }
}

/// The meeting point of writers, the log writer, and compaction.
pub(crate) struct WriteBuffer {
    state: Mutex<State>,
    /// The log writer waits here.
    work: Condvar,
    /// Those who wait for the log writer wait here.
    done: Condvar,
    bytes: AtomicU64,
    /// There is something that is not durable; set by the first writer after a flush.
    dirty: AtomicBool,
}

impl WriteBuffer {
    pub(crate) fn new(durable: u64) -> Result<Self> {
        Ok(WriteBuffer {
            state: Mutex::new(State {
                durable,
                wanted: durable,
                dirty_since_ms: None,
                moves: Vec::new(),
                moves_asked: 0,
                moves_done: 0,
                stuck: false,
                stopping: false,
                ended: false,
                failed: false,
            })?,
            work: Condvar::new()?,
            done: Condvar::new()?,
            bytes: AtomicU64::new(0),
            dirty: AtomicBool::new(false),
        })
    }

    /// Bytes that wait to be written.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Every commit up to this sequence survives a power cut.
    pub(crate) fn durable(&self) -> u64 {
        self.state.lock().durable
    }

    /// Recovery found every commit up to `durable`.
    pub(crate) fn set_recovered(&self, durable: u64) {
        let mut state = self.state.lock();
        state.durable = durable;
        state.wanted = durable;
    }

    /// Waits until the buffer has room: the back-pressure on writers.
    ///
    /// [`Error::Interrupted`] if a signal comes, [`Error::ReadOnly`] if the device fails,
    /// [`Error::Sealed`] if the store is closed meanwhile.
    pub(crate) fn wait_for_room(&self) -> Result {
        if self.bytes() < WRITE_BUFFER_BYTES_MAX {
            return Ok(());
        }
        let mut state = self.state.lock();
        while self.bytes() >= WRITE_BUFFER_BYTES_MAX {
            if state.failed {
                return Err(Error::ReadOnly);
            }
            if state.ended {
                return Err(Error::Sealed);
            }
            self.work.notify_all();
            if self.done.wait_interruptible(&mut state) {
                return Err(Error::Interrupted);
            }
        }
        Ok(())
    }

    /// Counts `len` bytes of a record that is about to be committed.
    pub(crate) fn add(&self, len: u64) {
        self.bytes.fetch_add(len, Ordering::Relaxed);
    }

    /// Wakes the log writer if the commit that was just made is one it should know of.
    pub(crate) fn announce(&self, len: u64) {
        let bytes = self.bytes();
        let eager = bytes >= WRITE_BUFFER_BYTES_EAGER
            && bytes.saturating_sub(len) < WRITE_BUFFER_BYTES_EAGER;
        let first = !self.dirty.swap(true, Ordering::AcqRel);
        if eager || first {
            let mut state = self.state.lock();
            state.dirty_since_ms.get_or_insert_with(now_ms);
            self.work.notify_all();
        }
    }

    /// Waits until every commit up to `sequence` is durable, and returns the durable sequence.
    ///
    /// [`Error::Io`] if the device failed before.
    pub(crate) fn wait_durable(&self, sequence: u64) -> Result<u64> {
        let mut state = self.state.lock();
        loop {
            if state.durable >= sequence {
                return Ok(state.durable);
            }
            if state.failed || state.ended {
                return Err(Error::Io);
            }
            state.wanted = state.wanted.max(sequence);
            self.work.notify_all();
            self.done.wait(&mut state);
        }
    }

    /// Waits until `reached` holds; it is looked at whenever compaction or a round ends.
    ///
    /// [`Error::Interrupted`] if a signal comes, [`Error::ReadOnly`] if the device fails,
    /// [`Error::Sealed`] if the store is closed meanwhile.
    pub(crate) fn wait_until(&self, reached: impl Fn() -> bool) -> Result {
        let mut state = self.state.lock();
        while !reached() {
            if state.failed {
                return Err(Error::ReadOnly);
            }
            if state.ended {
                return Err(Error::Sealed);
            }
            if self.done.wait_interruptible(&mut state) {
                return Err(Error::Interrupted);
            }
        }
        Ok(())
    }

    /// Waits for the next thing to do. Only the log writer calls this.
    pub(crate) fn next_job(&self, flush_interval_ms: impl Fn() -> u32) -> Job {
        let mut state = self.state.lock();
        loop {
            let idle = !self.dirty.load(Ordering::Acquire) && !state.is_moving();
            if state.stopping && (idle || state.failed) {
                state.ended = true;
                self.done.notify_all();
                return Job::Stop;
            }
            if state.failed {
                self.work.wait(&mut state);
                continue;
            }
            let wanted = state.wanted > state.durable || state.stopping;
            if state.is_moving() || wanted && !state.stuck {
                return Job::Round { flush: true };
            }
            if state.stuck || idle && !wanted {
                self.work.wait(&mut state);
                continue;
            }
            let since = *state.dirty_since_ms.get_or_insert_with(now_ms);
            let age = now_ms().saturating_sub(since);
            let interval = u64::from(flush_interval_ms());
            if age >= interval {
                return Job::Round { flush: true };
            }
            if self.bytes() >= WRITE_BUFFER_BYTES_EAGER {
                return Job::Round { flush: false };
            }
            self.work
                .wait_timeout_ms(&mut state, (interval - age) as u32);
        }
    }

    /// Begins a round: from here on a commit is dirty anew. Takes what compaction wants written.
    pub(crate) fn begin_round(&self, flush: bool, moves: &mut Vec<Entry>) -> u64 {
        let mut state = self.state.lock();
        if flush {
            self.dirty.store(false, Ordering::Release);
            state.dirty_since_ms = None;
        }
        core::mem::swap(&mut state.moves, moves);
        state.moves_asked
    }

    /// Gives `len` bytes of room back.
    pub(crate) fn written(&self, len: u64) {
        self.bytes.fetch_sub(len, Ordering::Relaxed);
    }

    /// Ends a round in which everything up to `durable` became durable (if a flush was asked),
    /// and the moves up to number `moves_done` with it.
    pub(crate) fn end_round(&self, durable: Option<u64>, moves_done: u64, stuck: bool) {
        let mut state = self.state.lock();
        if let Some(durable) = durable {
            state.durable = state.durable.max(durable);
            state.moves_done = moves_done;
        }
        state.stuck = stuck;
        if stuck {
            // What could not be written is late already: no waiting for the interval again.
            self.dirty.store(true, Ordering::Release);
            state.dirty_since_ms = Some(0);
        }
        self.done.notify_all();
    }

    /// Hands records to the log writer and waits until their new copies are durable, and with
    /// them everything that was written before. Only compaction calls this, one call at a time.
    pub(crate) fn write_moves(&self, entries: &mut Vec<Entry>) -> Result {
        let mut state = self.state.lock();
        core::mem::swap(&mut state.moves, entries);
        state.moves_asked += 1;
        let ticket = state.moves_asked;
        self.work.notify_all();
        while state.moves_done < ticket {
            if state.failed || state.ended {
                return Err(Error::Io);
            }
            self.done.wait(&mut state);
        }
        Ok(())
    }

    /// A segment was freed: a log writer that had none goes on.
    pub(crate) fn space_freed(&self) {
        let mut state = self.state.lock();
        if state.stuck {
            state.stuck = false;
            self.work.notify_all();
        }
        // A writer that was refused for want of space may wait for this, too.
        self.done.notify_all();
    }

    /// Whether the log writer waits for a free segment.
    pub(crate) fn is_stuck(&self) -> bool {
        self.state.lock().stuck
    }

    /// The device failed: nobody waits any more.
    pub(crate) fn fail(&self) {
        self.state.lock().failed = true;
        self.work.notify_all();
        self.done.notify_all();
    }

    /// Tells the log writer to write everything and to end. No commit is made any more, but one
    /// that was may not be announced yet: hence a last round in any case.
    pub(crate) fn stop(&self) {
        let mut state = self.state.lock();
        state.stopping = true;
        self.dirty.store(true, Ordering::Release);
        self.work.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A change that was let in and not announced yet was once left behind by a closing store.
    #[test]
    fn a_last_round_comes_between_the_wish_to_stop_and_the_end() {
        let buffer = WriteBuffer::new(0).unwrap();
        buffer.add(40);
        buffer.stop();
        assert!(matches!(buffer.next_job(|| 5), Job::Round { flush: true }));
        buffer.begin_round(true, &mut Vec::new());
        buffer.end_round(Some(1), 0, false);
        assert!(matches!(buffer.next_job(|| 5), Job::Stop));
    }
}
