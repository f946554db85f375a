// SPDX-License-Identifier: GPL-2.0

//! `/proc/hpkv_stats`: figures of the active database for people and scripts.
//!
//! One figure per line, `name: value`. The first three lines have units and do not change their
//! place; what follows are plain numbers, and more may be added.

use super::Service;
use crate::sys::procfs::{File, Output, Show};
use crate::sys::Arc;

/// The file; it exists until this is dropped.
pub(crate) struct StatsFile {
    _file: File<Service>,
}

impl StatsFile {
    /// Makes the file appear.
    pub(crate) fn new(service: Arc<Service>) -> Result<Self, i32> {
        Ok(Self {
            _file: File::new(c"hpkv_stats", 0o444, service)?,
        })
    }
}

impl Show for Service {
    fn show(&self, out: &Output<'_>) {
        let stats = self.db.stats();

        out.print(format_args!("Total records: {}\n", stats.records));
        out.print(format_args!(
            "Total disk usage: {} bytes\n",
            stats.used_bytes
        ));
        out.print(format_args!("Device size: {} bytes\n", stats.device_bytes));

        self.mount
            .with_device(|path| out.print(format_args!("device: {}\n", path.escape_ascii())));
        let state = if stats.failed {
            "failed"
        } else if stats.read_only {
            "read-only"
        } else {
            "ok"
        };
        out.print(format_args!("state: {state}\n"));

        for (name, value) in [
            ("key_bytes", stats.key_bytes),
            ("value_bytes", stats.value_bytes),
            ("capacity_bytes", stats.capacity_bytes),
            ("live_sectors", stats.live_sectors),
            ("free_sectors", stats.free_sectors),
            ("total_segments", stats.total_segments),
            ("free_segments", stats.free_segments),
            ("version", stats.version),
            ("durable_version", stats.durable_version),
            ("gets", stats.gets),
            ("hits", stats.hits),
            ("misses", stats.gets.saturating_sub(stats.hits)),
            ("puts", stats.puts),
            ("deletes", stats.deletes),
            ("scans", stats.scans),
            ("flushes", stats.flushes),
            ("frames", stats.frames),
            ("written_bytes", stats.written_bytes),
            ("payload_bytes", stats.payload_bytes),
            ("relocated_bytes", stats.relocated_bytes),
            ("compactions", stats.compactions),
            ("pending_bytes", stats.pending_bytes),
            ("errors", stats.errors),
            ("clients", u64::from(self.clients())),
        ] {
            out.print(format_args!("{name}: {value}\n"));
        }
    }
}
